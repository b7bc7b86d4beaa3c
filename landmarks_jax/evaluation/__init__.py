"""Floor 5: one file per protocol; each knows a Describer, never a method."""

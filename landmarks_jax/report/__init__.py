"""Floor 5: pictures and pages made from arrays."""

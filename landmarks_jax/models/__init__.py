"""Floor 2: Flax networks and the pure functions that read them."""

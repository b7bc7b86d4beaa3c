"""Floor 4: optimiser, sharding, checkpoints, logs; one concern each."""

"""How tests have XLA compile: most of their time goes into that, not into running."""

QUICKLY = '--xla_backend_optimization_level=0'

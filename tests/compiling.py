"""How tests have XLA compile: most of their time goes into that, not into running."""

import importlib.metadata

QUICKLY = '--xla_backend_optimization_level=0'
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  # The older of two emitters of loops then takes half as long. Later versions have one only, and
  # XLA ends a process that names a flag it does not know.
  QUICKLY += ' --xla_cpu_use_fusion_emitters=false'

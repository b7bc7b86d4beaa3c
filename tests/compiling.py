"""How tests have XLA compile: most of their time goes into that, not into running."""

import importlib.metadata

QUICKLY = '--xla_backend_optimization_level=0'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # others end at a flag of old times
  QUICKLY += ' --xla_cpu_use_fusion_emitters=false'  # a fifth less time than the new emitters

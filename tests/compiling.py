"""How tests have XLA compile: most of their time goes into that, not into running."""

# Nothing is optimised; and then the older of XLA's emitters of loops takes half as long.
QUICKLY = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'

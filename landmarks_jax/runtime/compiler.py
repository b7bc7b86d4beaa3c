"""What XLA's compiler is asked for beyond its defaults, on CPUs.

Only how fast a program is or is compiled depends on it; docs/performance.md has the figures.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

Options = Mapping[str, str | int]

# Convolutions by Eigen: YNNPACK's, the default of jaxlib 0.10, take up to three times as long
# forward, twelve times for the gradient of a kernel. It keeps products; and sums, for which
# XLA's own loops took a quarter of a step. `lax.optimization_barrier` holds on CPUs, too: XLA
# would remove it and compute what stands before it once for every use.
NETWORKS: Options = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  ),
  'xla_disable_hlo_passes': 'cse_barrier_expander',
}
# For what runs once: the draw of a network's weights is compiled for longer than it runs.
ONCE: Options = {'xla_backend_optimization_level': 1}


def options(wanted: Options, platform: str) -> dict[str, str | int]:
  """Of `jax.jit(compiler_options=...)`: `wanted` on the platform 'cpu', nothing elsewhere.

  An option that this jaxlib does not know is left out: they come and go with its versions.
  """
  if platform != 'cpu':
    return {}
  return {name: value for name, value in wanted.items() if _known(name, value)}


def jit(function: Callable, **options_of_jit: Any) -> Callable:
  """`jax.jit` of what runs a network on the default device; outermost, for XLA asks that."""
  chosen = options(NETWORKS, jax.default_backend())
  return jax.jit(function, compiler_options=chosen, **options_of_jit)


@functools.cache
def _known(name: str, value: str | int) -> bool:
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True

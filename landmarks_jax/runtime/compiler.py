"""Options of XLA's compiler that differ from its defaults.

On CPUs they affect only how fast a program runs or compiles; docs/performance.md has the figures.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

Options = Mapping[str, str | int]

# Convolutions use Eigen: YNNPACK's, the default of jaxlib 0.10, take up to three times as long
# forward, and twelve times for the gradient of a kernel. YNNPACK keeps products, and sums, for
# which XLA's own loops took a quarter of a step. The disabled pass would remove
# `lax.optimization_barrier` on CPUs, and what precedes it would be computed once for every use.
NETWORKS: Options = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'
  ),
  'xla_disable_hlo_passes': 'cse_barrier_expander',
}
# For what runs once: drawing a network's weights takes longer to compile than to run.
ONCE: Options = {'xla_backend_optimization_level': 1}
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'


def deterministic() -> bool:
  """Makes all that this process computes repeatable bit for bit, as it is on CPUs.

  Returns False if it is too late for a GPU: XLA reads XLA_FLAGS once, when JAX opens its devices.
  """
  from jax._src import xla_bridge  # nothing public says whether they are open

  flags = os.environ.get('XLA_FLAGS', '')
  if DETERMINISTIC in flags.split():
    return True
  if xla_bridge.backends_are_initialized():
    return jax.default_backend() != 'gpu'
  os.environ['XLA_FLAGS'] = f'{flags} {DETERMINISTIC}'.strip()
  return True


def options(wanted: Options, platform: str) -> dict[str, str | int]:
  """For `jax.jit(compiler_options=...)`: `wanted` on the platform 'cpu', nothing elsewhere.

  Options that this jaxlib does not know are left out: they come and go between versions. So are
  those that XLA_FLAGS states, whose values hold.
  """
  if platform != 'cpu':
    return {}
  stated = {flag.partition('=')[0] for flag in os.environ.get('XLA_FLAGS', '').split()}
  return {
    name: value
    for name, value in wanted.items()
    if f'--{name}' not in stated and _known(name, value)
  }


def jit(function: Callable, **options_of_jit: Any) -> Callable:
  """`jax.jit` for what runs a network on the default device; must be the outermost jit, for XLA."""
  chosen = options(NETWORKS, jax.default_backend())
  return jax.jit(function, compiler_options=chosen, **options_of_jit)


@functools.cache
def _known(name: str, value: str | int) -> bool:
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True

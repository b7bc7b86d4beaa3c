"""The heads that a landmark model can have: how each reads a pyramid, and how it is stored.

Heads come from elsewhere: 'ridge' from `models.ridge.fit_ridge`, 'probe' from
`evaluation.probing.fit` or from published weights.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from landmarks_jax import training
from landmarks_jax.contracts import Array, Pyramid, PyTree
from landmarks_jax.methods import probe
from landmarks_jax.models import ridge

RIDGE, PROBE = 'ridge', 'probe'
PROBE_OPTIONS = {'size': 48, 'sharpness': 100.0}


class Head(NamedTuple):
  """Reads landmarks from a pyramid; can be stored as named arrays.

  variables: `ridge.RidgeVariables` for 'ridge'; for 'probe' as `probe.random_params` describes
  them: inner, a kernel [C_l, K * P] for each level, and outer [K, 2P, 2]. options: none for
  'ridge'; PROBE_OPTIONS for 'probe'.
  """

  kind: str
  variables: PyTree
  options: Mapping[str, Any] = {}  # a dict, which has no leaves in a pytree

  @property
  def kernels(self) -> tuple[Array, ...]:
    """The kernels, one for each level of the pyramid."""
    return self.variables.kernels if self.kind == RIDGE else self.variables['inner']

  @property
  def landmarks(self) -> int:
    """The number of landmarks K."""
    return len(self.variables.mean_shape if self.kind == RIDGE else self.variables['outer'])

  @property
  def evidence(self) -> int:
    """The number E of kinds of evidence that `look` gives."""
    return 3 if self.kind == RIDGE else 2

  @property
  def size(self) -> int | None:
    """The size that it asks a describer for, see `Describer`: the probe's own, else None."""
    return None if self.kind == RIDGE else (PROBE_OPTIONS | dict(self.options))['size']

  @property
  def look(self) -> Callable[[PyTree, Pyramid], tuple[Array, Array]]:
    """(variables, pyramid) -> points [B, K, 2], normalised, and evidence [B, K, E] of doubt."""
    if self.kind == RIDGE:
      return ridge.look_ridge
    return _probe(**(PROBE_OPTIONS | dict(self.options)))

  def look_at(
    self, pyramid: Pyramid, *, step: int = 32
  ) -> tuple[Float[np.ndarray, 'N K 2'], Float[np.ndarray, 'N K E']]:
    """What `look` finds in a whole set, `step` pictures at a time."""
    look, parts = jax.jit(self.look), []
    for start in range(0, len(pyramid[0]), step):
      some = tuple(np.asarray(level[start : start + step]) for level in pyramid)
      parts.append(jax.device_get(look(self.variables, some)))
    points, evidence = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return points, evidence

  def arrays(self) -> dict[str, np.ndarray]:
    """Its variables by their names in a file, float32 whatever JAX computes in."""
    tree = self.variables._asdict() if self.kind == RIDGE else self.variables
    return {name: np.asarray(x, np.float32) for name, x in training.leaves(tree).items()}


def from_arrays(kind: str, arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Head:
  """The inverse of `Head.arrays`. Raises ValueError if the arrays do not form such a head.

  float64, which earlier versions wrote under jax_enable_x64, becomes float32.
  """
  kernels = {RIDGE: 'kernels', PROBE: 'inner'}.get(kind)
  if kernels is None:
    raise ValueError(f'the head is {kind!r}; expected {RIDGE} or {PROBE}')
  levels = sum(name.startswith(f'{kernels}/') for name in arrays)
  names = [f'{kernels}/{i}' for i in range(levels)]
  others = RIDGE_SHAPES if kind == RIDGE else PROBE_SHAPES
  if not levels or set(arrays) != {*names, *others}:
    expected = ', '.join([f'{kernels}/0', '...', *others])
    raise ValueError(f'the arrays are {sorted(arrays)}; expected {expected}')
  arrays = {k: a.astype(np.float32) if a.dtype == np.float64 else a for k, a in arrays.items()}
  rest = {name: arrays[name] for name in others}
  _check_shapes(kind, [arrays[name] for name in names], rest, others)
  variables = rest | {kernels: tuple(arrays[name] for name in names)}
  head = ridge.RidgeVariables(**variables) if kind == RIDGE else variables
  wrong = [name for name in options if name not in PROBE_OPTIONS or kind == RIDGE]
  if wrong:
    raise ValueError(f'a head of the kind {kind} has no option {wrong[0]!r}')
  return Head(kind, head, dict(options))


@functools.cache
def _probe(**options: Any) -> Callable[[PyTree, Pyramid], tuple[Array, Array]]:
  """`look_probe` with these options: the same function each time, so that it is compiled once."""
  return functools.partial(look_probe, **options)


def look_probe(
  variables: PyTree, pyramid: Pyramid, *, size: int, sharpness: float
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K E']]:
  """Landmarks of the published head, and evidence of doubt: spread and peaks of its own points."""
  points, peak = probe.intermediate_points(variables, pyramid, size=size, sharpness=sharpness)
  spread = jnp.sqrt(points.var(2).sum(-1) + ridge.LEAST_SPREAD**2)
  return probe.read_out(variables, points), jnp.stack(
    [jnp.log(spread), -jnp.log(jnp.maximum(peak.mean(-1), ridge.LEAST_SPREAD))], axis=-1
  )


RIDGE_SHAPES = {
  'mean_shape': ('K', 2),
  'log_prior': ('h', 'w', 'K'),
  'positions': ('h', 'w', 2),
  'sharpness': (),
  'correction': ('2K', '2K'),
}
PROBE_SHAPES = {'outer': ('K', '2P', 2)}


def _check_shapes(
  kind: str,
  kernels: list[np.ndarray],
  rest: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[Any, ...]],
) -> None:
  """Raises ValueError for the first array whose shape or type does not agree with the others."""
  count = (*rest['mean_shape' if kind == RIDGE else 'outer'].shape, 0)[0]
  sizes: dict[Any, int] = {'K': count, '2K': 2 * count, 2: 2}
  for name, shape in shapes.items():
    array = rest[name]
    fits = array.ndim == len(shape) and array.dtype == np.float32 and np.isfinite(array).all()
    for letter, side in zip(shape, array.shape, strict=False):
      fits = fits and sizes.setdefault(letter, side) == side
    if not fits:
      raise ValueError(
        f'{name} is {array.dtype} {list(array.shape)}; expected finite float32 {shape}'
      )
  maps = count if kind == RIDGE else count * sizes['2P'] // 2
  for level, kernel in enumerate(kernels):
    fits = kernel.ndim == 2 and kernel.shape[1] == maps and kernel.dtype == np.float32
    if not fits or not np.isfinite(kernel).all():
      raise ValueError(
        f'kernel {level} is {kernel.dtype} {list(kernel.shape)}; expected finite float32 '
        f'[C, {maps}]'
      )

"""Hypercolumns: the feature maps of several layers, seen as one descriptor per position.

They stay pyramids wherever a linear map follows, because a pointwise linear map commutes with
bilinear resizing: project(resize(concat(maps))) = sum_l resize(project_l(maps_l)).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from landmarks_jax import shapes
from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.dtypes import at_least_float32
from landmarks_jax.geometry import coords, sampling

# A sum of squares below this share of its summands is rounding: in float32 it would be accurate to
# 1 % only.
CANCELLED = 1e-5


def resize(
  maps: Float[Array, 'B _ _ C'], size: int | tuple[int, int]
) -> Float[Array, 'B height width C']:
  """Bilinear, half-pixel centres, edges clamped, no antialiasing (torch's `interpolate`).

  Args: maps: [B, h, w, C]. size: the side, or (height, width), of the result.
  """
  height, width = (size, size) if np.ndim(size) == 0 else size
  shape = (maps.shape[0], height, width, maps.shape[3])
  return jax.image.resize(maps, shape, 'bilinear', antialias=False)


def sample(
  level: Float[Array, 'B h w C'], points: Float[Array, 'B *grid 2'], *, side: int
) -> Float[Array, 'B *grid C']:
  """`resize` at arbitrary positions: bilinear, half-pixel centres, edges clamped.

  Args: points: [B, ..., 2], normalised in the frame of `side` pixels that the level covers.
  """
  cells = np.array([level.shape[2], level.shape[1]])
  place = (coords.corners_to_edges(points, side=side) + 1) / 2 * cells - 0.5
  last = cells - 1
  return sampling.bilinear(level, 2 * jnp.clip(place, 0, last) / np.maximum(last, 1) - 1)


def project(
  pyramid: Pyramid, kernels: Sequence[Float[Array, '_ D']], size: int | tuple[int, int]
) -> Float[Array, 'B height width D']:
  """A linear map of the hypercolumn (ICCV 2021, section 3) without building it.

  Args:
    pyramid: levels [B, h_l, w_l, C_l].
    kernels: one [C_l, D] per level; together they are the rows of one [sum C_l, D] matrix.
    size: the side, or (height, width), of the result.

  Each level is mapped at its own resolution, then resized; sums in at least float32. Raises
  ValueError where levels and kernels differ in number or channels. Specification section 3.
  """
  if len(pyramid) != len(kernels):
    raise ValueError(f'kernels: {len(kernels)} given, but the pyramid has {len(pyramid)} levels')
  for i, (level, kernel) in enumerate(zip(pyramid, kernels, strict=True)):
    shapes.check(**{f'pyramid[{i}]': (level, 'B h w C'), f'kernels[{i}]': (kernel, 'C D')})
  height, width = (size, size) if np.ndim(size) == 0 else size
  dtype = jnp.result_type(jnp.float32, *pyramid, *kernels)
  levels = zip(pyramid, kernels, strict=True)
  mapped = [jnp.matmul(f, k, preferred_element_type=dtype) for f, k in levels]
  # Widths are resized first, level by level. The rows of all levels are then stacked, so that one
  # product resizes all heights and adds up the levels: one array of the result's size is written,
  # not one for each level. Heights are resized last, with the weights as einsum's second operand,
  # which it makes the left one of the product: [y, picture, x, channel] comes out, and only the
  # first two axes remain to be swapped.
  wide = [
    jnp.einsum('bhwd,xw->bhxd', m, _weights(m.shape[2], width, dtype), precision='float32')
    for m in mapped
  ]
  rows = jnp.concatenate([_weights(m.shape[1], height, dtype) for m in mapped], axis=1)
  return jnp.einsum('bhxd,yh->byxd', jnp.concatenate(wide, axis=1), rows, precision='float32')


def stack(pyramid: Pyramid, size: int | tuple[int, int]) -> Float[Array, 'B height width C']:
  """The hypercolumn itself: every level resized and concatenated over channels, in pyramid order.

  Args: pyramid: levels [B, h_l, w_l, C_l]. size: the side, or (height, width), of the result.

  For uses that need all channels of a position at once. Where a linear map follows, `project` gives
  the same at a fraction of the memory, and so do `squared_norm` for norms and `descriptors` for a
  few positions. Specification section 3.
  """
  return jnp.concatenate([resize(level, size) for level in pyramid], axis=-1)


def split_rows(
  matrix: Float[Array, 'C D'], channels: Sequence[int]
) -> tuple[Float[Array, '_ D'], ...]:
  """A map of the stacked column -> one kernel per level, as `project` takes them.

  Args: matrix: [sum C_l, D]. channels: C_l of every level, in pyramid order. Raises ValueError
  where they do not add up.
  """
  if sum(channels) != matrix.shape[0]:
    raise ValueError(f'channels {tuple(channels)} sum to {sum(channels)}, not {matrix.shape[0]}')
  stops = [sum(channels[:i]) for i in range(1, len(channels))]
  return tuple(jnp.split(matrix, stops, axis=0))


def descriptors(
  level: Float[Array, 'B h w C'], pixels: Int[Array, 'B K 2'], size: int
) -> Float[Array, 'B K C']:
  """`resize(level, size)` at a few pixels alone, in at least float32.

  Args: level: [B, h, w, C]. pixels: [B, K, 2] as (x, y), 0 to size - 1. size: the side.
  """
  batch, height, width, channels = level.shape
  level = at_least_float32(level).reshape(batch, height * width, channels)
  columns = _weights(width, size, level.dtype)[pixels[..., 0]]
  rows = _weights(height, size, level.dtype)[pixels[..., 1]]
  weights = (rows[..., :, None] * columns[..., None, :]).reshape(batch, -1, height * width)
  return jnp.matmul(weights, level, precision='float32')


def unit(rows: Float[np.ndarray, '*shape C']) -> Float[np.ndarray, '*shape C']:
  """Descriptors scaled to length 1, in NumPy and so also in float64; those of zeros stay zero.

  In a loss `losses.unit` does that, with a gradient.
  """
  length = np.linalg.norm(rows, axis=-1, keepdims=True)
  return rows / np.where(length > 0, length, 1)


def squared_norm(level: Float[Array, 'B h w C'], size: int) -> Float[Array, 'B {size} {size}']:
  """|descriptor|^2 at every position of `resize(level, size)`, without resizing channels.

  Args: level: [B, h, w, C]. size: the side.

  A resized descriptor combines four neighbouring cells, so its square combines the inner products
  of neighbours: of a cell with itself, with the next in its row, in its column and on the two
  diagonals. In at least float32. The result is 0 for a descriptor of zeros, and where opposite
  neighbours cancel so far that only rounding remains.
  """
  level = at_least_float32(level)
  own = (level**2).sum(-1)
  if own.shape[1:] == (size, size):
    return own
  rows, columns = (_weights(side, size, level.dtype) for side in level.shape[1:3])
  two_rows, two_columns = (w[:, :-1] * w[:, 1:] for w in (rows, columns))
  left, right, upper, lower = level[:, :, :-1], level[:, :, 1:], level[:, :-1], level[:, 1:]
  diagonal = (left[:, :-1] * right[:, 1:] + right[:, :-1] * left[:, 1:]).sum(-1)

  def combine(
    products: Float[Array, 'B _ _'], rows: Float[Array, '_ _'], columns: Float[Array, '_ _']
  ) -> Float[Array, 'B _ _']:
    return jnp.einsum('bhw,yh,xw->byx', products, rows, columns, precision='float32')

  norm = combine(own, rows**2, columns**2) + 2 * (
    combine((left * right).sum(-1), rows**2, two_columns)
    + combine((upper * lower).sum(-1), two_rows, columns**2)
    + combine(diagonal, two_rows, two_columns)
  )
  return jnp.where(norm > CANCELLED * combine(own, rows, columns), norm, 0)


def _weights(side: int, size: int, dtype: DTypeLike) -> Float[Array, '{size} {side}']:
  """The matrix with which `resize` combines `side` cells of a line into `size`."""
  return resize(jnp.eye(side, dtype=dtype)[None, :, :, None], (size, side))[0, ..., 0]

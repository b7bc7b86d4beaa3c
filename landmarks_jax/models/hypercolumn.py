"""Hypercolumns: the feature maps of several layers, seen as one descriptor per position.

They stay pyramids wherever a linear map follows, because a pointwise linear map commutes with
bilinear resizing: project(resize(concat(maps))) = sum_l resize(project_l(maps_l)).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from landmarks_jax import shapes
from landmarks_jax.contracts import Array, Pyramid


def resize(
  maps: Float[Array, 'B _ _ C'], size: int | tuple[int, int]
) -> Float[Array, 'B height width C']:
  """Bilinear, half-pixel centres, edges clamped, no antialiasing (torch's `interpolate`).

  Args: maps: [B, h, w, C]. size: the side, or (height, width), of the result.
  """
  height, width = (size, size) if isinstance(size, int) else size
  shape = (maps.shape[0], height, width, maps.shape[3])
  return jax.image.resize(maps, shape, 'bilinear', antialias=False)


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
  dtype = jnp.result_type(jnp.float32, *pyramid, *kernels)
  mapped = (
    jnp.einsum('bhwc,cd->bhwd', level, kernel, preferred_element_type=dtype)
    for level, kernel in zip(pyramid, kernels, strict=True)
  )
  return sum(resize(level, size) for level in mapped)


def stack(pyramid: Pyramid, size: int | tuple[int, int]) -> Float[Array, 'B height width C']:
  """The hypercolumn itself: every level resized and concatenated over channels, in pyramid order.

  Args: pyramid: levels [B, h_l, w_l, C_l]. size: the side, or (height, width), of the result.

  For uses that need all channels of a position at once, such as normalisation; where a linear map
  follows, `project` gives the same at a fraction of the memory. Specification section 3.
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

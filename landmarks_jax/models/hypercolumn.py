"""Hypercolumns: the feature maps of several layers, seen as one descriptor per position.

They stay pyramids wherever a linear map follows, because a pointwise linear map commutes with
bilinear resizing: project(resize(concat(maps))) = sum_l resize(project_l(maps_l)).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from landmarks_jax.contracts import Array, Pyramid


def resize(
  maps: Float[Array, 'B _ _ C'], size: int | tuple[int, int]
) -> Float[Array, 'B height width C']:
  """Bilinear, half-pixel centres, edges clamped, no antialiasing (torch's `interpolate`)."""
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

  Each level is mapped at its own resolution, then resized; sums in at least float32.
  """
  if len(pyramid) != len(kernels):
    raise ValueError(f'kernels: {len(kernels)} given, but the pyramid has {len(pyramid)} levels')
  dtype = jnp.promote_types(kernels[0].dtype, jnp.float32)
  mapped = (
    jnp.einsum('bhwc,cd->bhwd', level, kernel, preferred_element_type=dtype)
    for level, kernel in zip(pyramid, kernels, strict=True)
  )
  return sum(resize(level, size) for level in mapped)


def stack(pyramid: Pyramid, size: int | tuple[int, int]) -> Float[Array, 'B height width C']:
  """The hypercolumn itself: every level resized and concatenated over channels, in pyramid order.

  For uses that need all channels of a position at once, such as normalisation; where a linear map
  follows, `project` gives the same at a fraction of the memory.
  """
  return jnp.concatenate([resize(level, size) for level in pyramid], axis=-1)


def split_rows(
  matrix: Float[Array, 'C D'], channels: Sequence[int]
) -> tuple[Float[Array, '_ D'], ...]:
  """A map of the stacked column -> one kernel per level, as `project` takes them."""
  if sum(channels) != matrix.shape[0]:
    raise ValueError(f'channels {tuple(channels)} sum to {sum(channels)}, not {matrix.shape[0]}')
  stops = [sum(channels[:i]) for i in range(1, len(channels))]
  return tuple(jnp.split(matrix, stops, axis=0))

"""Resampling: gathers at arbitrary positions, and axis-aligned crops as two matrix products."""

import math

import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from landmarks_jax import shapes
from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import floating
from landmarks_jax.geometry import coords


def bilinear(
  image: Float[Array, 'B H W C'], points: Float[Array, 'B *grid 2']
) -> Float[Array, 'B *grid C']:
  """Values at corner-aligned positions; zero outside (torch's grid_sample with align_corners=True).

  Args: image: [B, H, W, C]. points: [B, ..., 2], normalised (x, y). Returns: [B, ..., C].
  On a whole pixel the gradient of `points` is the slope towards the next pixel, as in torch.
  Raises ValueError that names the argument whose shape differs. Fixture grid_sample.
  """
  shapes.check(image=(image, 'B H W C'), points=(points, 'B *grid 2'))
  batch, height, width, channels = image.shape
  # Told how many: of an empty batch, reshape cannot know it.
  flat_points = points.reshape(batch, math.prod(points.shape[1:-1]), 2)
  position = coords.to_pixels(flat_points, width=width, height=height)
  corner = jnp.floor(position)
  fraction = position - corner
  flat = image.reshape(batch, height * width, channels)

  def corner_value(dx: int, dy: int) -> Float[Array, 'B P C']:
    x, y = corner[..., 0].astype(int) + dx, corner[..., 1].astype(int) + dy
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
    # Not |1 - dx - fraction|, whose gradient is zero on whole pixels.
    x_weight = fraction[..., 0] if dx else 1 - fraction[..., 0]
    y_weight = fraction[..., 1] if dy else 1 - fraction[..., 1]
    weight = x_weight * y_weight * inside
    return jnp.take_along_axis(flat, place[..., None], axis=1) * weight[..., None]

  value = corner_value(0, 0) + corner_value(1, 0) + corner_value(0, 1) + corner_value(1, 1)
  return value.reshape(*points.shape[:-1], channels)


def interval_matrix(
  start: Num[Array, ' B'],
  extent: Num[Array, ' B'],
  *,
  side: int,
  size: int,
  samples: Int[Array, ' B'] | None = None,
) -> Float[Array, 'B {size} {side}']:
  """Matrices that cut [start, start + extent) pixels of a line and stretch it to `size` samples.

  Args:
    start, extent: [B], whole pixels inside the line.
    side: of the line. size: of the result.
    samples: [B], from 1, how many of `size` the interval is stretched to; later ones repeat the
      last of them. None is all.

  Resizes as Pillow does a cropped picture: a triangle filter on half-pixel centres, as wide as the
  samples where they are larger than pixels (antialiasing), normalised over the interval's pixels.
  """
  dtype = jnp.result_type(start, extent, float)  # sums of unsigned numbers would wrap around
  start, extent = (x.astype(dtype)[:, None, None] for x in (start, extent))
  samples = size if samples is None else samples[:, None, None]
  scale = extent / samples
  sample = jnp.minimum(jnp.arange(size)[:, None], samples - 1)
  centre = start + (sample + 0.5) * scale - 0.5
  pixel = jnp.arange(side)
  weight = jnp.maximum(0, 1 - jnp.abs(centre - pixel) / jnp.maximum(scale, 1))
  weight = weight * ((pixel >= start) & (pixel < start + extent))
  return weight / weight.sum(-1, keepdims=True)


def crop_resize(
  image: Num[Array, 'B H W C'], boxes: Num[Array, 'B 4'], *, size: int
) -> Float[Array, 'B {size} {size} C']:
  """Cuts one box from each picture and stretches it to a square of `size` pixels.

  Args:
    image: [B, H, W, C]; whole numbers, such as bytes, become float32.
    boxes: [B, 4] as (x, y, width, height) in whole pixels, inside the picture, sides at least 1.
    size: side of the result in pixels.

  Raises ValueError unless there is one box per picture.
  """
  shapes.check(image=(image, 'B H W C'), boxes=(boxes, 'B 4'))
  image = floating(image)
  x, y, width, height = (boxes[:, i] for i in range(4))
  rows = interval_matrix(y, height, side=image.shape[1], size=size).astype(image.dtype)
  columns = interval_matrix(x, width, side=image.shape[2], size=size).astype(image.dtype)
  return jnp.einsum('bxw,bywc->byxc', columns, jnp.einsum('byh,bhwc->bywc', rows, image))

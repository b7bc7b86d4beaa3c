"""Random resized crops: draw integer boxes, cut and stretch them with two matrix products."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num, PRNGKeyArray

from landmarks_jax.contracts import Array
from landmarks_jax.geometry import sampling


def random_boxes(
  rng: PRNGKeyArray,
  count: int,
  *,
  side: int,
  area: tuple[float, float] = (0.2, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  tries: int = 10,
) -> Int[Array, '{count} 4']:
  """Boxes (x, y, width, height) of uniform relative area and log-uniform aspect, in whole pixels.

  Args:
    count: number of boxes. side: of the square frame in pixels. area: bounds of the box's share of
    the frame. aspect: bounds of width / height. tries: draws per box.

  The first of `tries` draws that fits into the frame is taken, or else the whole frame (ICCV 2021,
  specification section 2, step 2). Raises ValueError for an area or an aspect that no box can have;
  traced numbers are not checked.
  """
  if _plain(area) and not 0 < area[0] <= area[1] <= 1:
    raise ValueError(f'area={area}: expected (least, most) share of the frame, within 0 to 1')
  if _plain(aspect) and not 0 < aspect[0] <= aspect[1] < math.inf:
    raise ValueError(f'aspect={aspect}: expected (least, most) width / height, above 0')
  rng_area, rng_aspect, rng_x, rng_y = jax.random.split(rng, 4)
  drawn_area = (
    jax.random.uniform(rng_area, (count, tries), minval=area[0], maxval=area[1]) * side**2
  )
  low, high = jnp.log(jnp.array(aspect))
  drawn_aspect = jnp.exp(jax.random.uniform(rng_aspect, (count, tries), minval=low, maxval=high))
  width = jnp.round(jnp.sqrt(drawn_area * drawn_aspect)).astype(int)
  height = jnp.round(jnp.sqrt(drawn_area / drawn_aspect)).astype(int)
  fits = (width >= 1) & (width <= side) & (height >= 1) & (height <= side)
  first = jnp.argmax(fits, axis=1)[:, None]
  found = fits.any(axis=1)

  def chosen(sizes: Int[Array, 'B tries']) -> Int[Array, ' B']:
    return jnp.where(found, jnp.take_along_axis(sizes, first, axis=1)[:, 0], side)

  width, height = chosen(width), chosen(height)
  x = jax.random.randint(rng_x, (count,), 0, side - width + 1)
  y = jax.random.randint(rng_y, (count,), 0, side - height + 1)
  return jnp.stack([x, y, width, height], axis=1)


def _plain(numbers: tuple[Any, ...]) -> bool:
  """Whether these are Python's numbers, not arrays, which may be traced."""
  return all(isinstance(number, int | float) for number in numbers)


def random_resized_crop(
  rng: PRNGKeyArray,
  image: Num[Array, 'B S S C'],
  *,
  area: tuple[float, float] = (0.2, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  size: int | None = None,
) -> tuple[Float[Array, 'B s s C'], Int[Array, 'B 4']]:
  """A random box of every picture, stretched to a square; and the boxes.

  Args: image: [B, S, S, C]; whole numbers become float32. area, aspect: see `random_boxes`. size:
  side of the result; None is the frame's. Specification section 2, step 2.
  """
  side = image.shape[1]
  boxes = random_boxes(rng, image.shape[0], side=side, area=area, aspect=aspect)
  return sampling.crop_resize(image, boxes, size=size or side), boxes


def whole(image: Num[Array, 'B S S C'], *, size: int | None) -> Num[Array, 'B s s C']:
  """Every frame resized to `size` pixels, uncropped; None leaves it unchanged."""
  if size is None:
    return image
  count, side = image.shape[:2]
  boxes = jnp.tile(jnp.array([[0, 0, side, side]]), (count, 1))
  return sampling.crop_resize(image, boxes, size=size)

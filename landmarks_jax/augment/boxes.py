"""Random boxes that show the same content in two views of a picture (SCRL, specification scrl).

Shapes are static: every picture gets all its boxes, and a flag says whether its views overlap
enough for the boxes to be meaningful.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from landmarks_jax.augment import chance
from landmarks_jax.contracts import Array
from landmarks_jax.geometry import regions
from landmarks_jax.geometry.regions import Crop


def shared_boxes(
  rng: PRNGKeyArray,
  first: Crop,
  second: Crop,
  *,
  side: int,
  count: int = 10,
  smallest: int = 32,
  overlap: float = 0.5,
  jitter: float = 0.0,
  tries: int = 50,
) -> tuple[Float[Array, 'B 2 {count} 4'], Bool[Array, ' B']]:
  """Boxes (left, top, right, bottom) of the same content in both views; which pictures have them.

  Args:
    first, second: the crops that the two square views of every picture show.
    side: of the views in pixels.
    count: boxes per picture. smallest: their minimum side, in pixels of the less zoomed view.
    overlap: any two boxes of a picture have a smaller intersection over union, unless none of
      `tries` draws does.
    jitter: moves the boxes of the second view by up to this share of their sides, and resizes them.

  Drawn on a canvas: what both views show, in whole pixels of the less zoomed view. A picture whose
  canvas is not larger than `smallest` has no boxes, and its rows are meaningless. Raises ValueError
  for a jitter that is not 0 to 1. Specification scrl, section 3.
  """
  chance.check_strength(jitter, what='the jitter of boxes')
  rng_x, rng_y, rng_jitter = jax.random.split(rng, 3)
  low = jnp.maximum(first.box[:, :2], second.box[:, :2])
  high = jnp.minimum(*(crop.box[:, :2] + crop.box[:, 2:] for crop in (first, second)))
  scale = jnp.minimum(*(side / crop.box[:, 2:] for crop in (first, second)))
  extent = jnp.round((high - low) * scale)
  draw = functools.partial(_random_intervals, shape=(len(extent), count, tries), smallest=smallest)
  left, right = draw(rng_x, extent[:, 0])
  top, bottom = draw(rng_y, extent[:, 1])
  candidates = jnp.stack([left, top, right, bottom], axis=-1)
  boxes = first_apart(candidates, overlap=overlap)
  low, scale = (jnp.tile(x, 2)[:, None] for x in (low, scale))  # for both corners
  in_frame = low + boxes / scale
  views = [regions.into_view(in_frame, crop, side=side) for crop in (first, second)]
  if jitter:
    views[1] = _jittered(rng_jitter, views[1], jitter)
  return jnp.clip(jnp.stack(views, axis=1), 0, side), (extent > smallest).all(1)


def first_apart(candidates: Float[Array, 'B K T 4'], *, overlap: float) -> Float[Array, 'B K 4']:
  """For each of K boxes in order, the first of T candidates that is apart from the earlier boxes.

  Apart means an intersection over union below `overlap`; if no candidate is, the last is taken.
  """

  def choose(chosen: Float[Array, 'B K 4'], slot: Array) -> tuple[Float[Array, 'B K 4'], None]:
    given = jnp.asarray(candidates)[:, slot]
    # Boxes not chosen yet are empty and overlap with nothing.
    worst = regions.intersection_over_union(given[:, :, None], chosen[:, None]).max(-1)
    apart = worst < overlap
    pick = jnp.where(apart.any(1), apart.argmax(1), given.shape[1] - 1)
    box = jnp.take_along_axis(given, pick[:, None, None], axis=1)[:, 0]
    return chosen.at[:, slot].set(box), None

  empty = jnp.zeros_like(candidates[:, :, 0])
  return jax.lax.scan(choose, empty, jnp.arange(candidates.shape[1]))[0]


def _random_intervals(
  rng: PRNGKeyArray, extent: Float[Array, ' B'], *, shape: tuple[int, int, int], smallest: int
) -> tuple[Float[Array, 'B K T'], Float[Array, 'B K T']]:
  """Both ends of intervals of whole pixels in [0, extent], at least `smallest` long.

  The line is cut into a random number of cells, and the interval lies in one of them, which makes
  small intervals as frequent as large ones. `shape` is (B, K, T).
  """
  rng_cells, rng_cell, rng_length, rng_start = jax.random.split(rng, 4)
  extent = jnp.maximum(extent, smallest)[:, None, None]  # smaller extents are not valid
  most = jnp.floor(extent / smallest).astype(int)
  cells = jax.random.randint(rng_cells, shape, 1, most + 1)
  cell = jax.random.randint(rng_cell, shape, 0, cells)
  room = extent / cells
  longest = jnp.floor(room).astype(int)
  length = jax.random.randint(rng_length, shape, smallest, longest + 1)
  start = jnp.floor(cell * room) + jax.random.randint(rng_start, shape, 0, longest - length + 1)
  return start, start + length


def _jittered(
  rng: PRNGKeyArray, boxes: Float[Array, 'B K 4'], strength: float
) -> Float[Array, 'B K 4']:
  """Corners moved and sides multiplied by up to `strength` of the sides."""
  shape = (2, *boxes.shape[:-1], 2)
  move, grow = jax.random.uniform(rng, shape, boxes.dtype, minval=-strength, maxval=strength)
  low, sides = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
  low = low + sides * move
  return jnp.concatenate([low, low + sides * (1 + grow)], axis=-1)

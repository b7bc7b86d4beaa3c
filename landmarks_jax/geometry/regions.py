"""Regions of a frame: its centre, the crop that a view shows, boxes, and features in boxes.

Points are centres of pixels, boxes are areas: their edges are in pixels from the left and top edge
of a picture of side S, 0 to S, wherever a docstring says (left, top, right, bottom).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Num, Shaped

from landmarks_jax import shapes
from landmarks_jax.contracts import Array, Batch
from landmarks_jax.dtypes import at_least_float32


class Crop(NamedTuple):
  """The part of each frame that a view shows: a box, stretched to a square, possibly mirrored."""

  box: Num[Array, 'B 4']  # (x, y, width, height) in pixels of the frame, x and y of its edges
  flipped: Bool[Array, ' B']  # left and right exchanged


def cut_centre(image: Shaped[Array, 'B S _ C'], margin: int) -> Shaped[Array, 'B s _ C']:
  """Drops `margin` pixels on every side of pictures [B, S, S, C].

  Raises ValueError where fewer than 2 pixels would be left: one has no normalised coordinates.
  """
  most = (min(image.shape[1:3]) - 2) // 2
  if not 0 <= margin <= most:
    raise ValueError(
      f'margin={margin}: a frame of {image.shape[1:3]} pixels can lose 0 to {most} on every side'
    )
  return image[:, margin : image.shape[1] - margin, margin : image.shape[2] - margin]


def centre_crop(batch: Batch, margin: int) -> Batch:
  """The central square of every frame, with points, scale and flow re-expressed in it.

  This is the only place that changes frames. `margin` is in pixels per side: 20 turns 136 into 96.
  Points and scale grow by (S-1)/(s-1), because the corner-aligned frame shrinks about the same
  centre; flow is in pixels and keeps its values. Points that fall outside stay visible, and flow
  that leads outside stays valid: the caller decides. Absent fields stay absent. Raises ValueError
  where nothing would be left, or without pictures.
  """
  if margin == 0:
    return batch
  if batch.image is None:
    raise ValueError('centre_crop needs pictures; this batch holds a cached pyramid')
  changed = {'image': cut_centre(batch.image, margin)}
  side = batch.image.shape[1]
  zoom = (side - 1) / (side - 2 * margin - 1)
  for name in ('points', 'scale'):
    if (value := getattr(batch, name)) is not None:
      changed[name] = value * zoom
  for name in ('next', 'flow'):
    if (value := getattr(batch, name)) is not None:
      changed[name] = cut_centre(value, margin)
  if batch.flow_valid is not None:
    changed['flow_valid'] = cut_centre(batch.flow_valid[..., None], margin)[..., 0]
  return batch._replace(**changed)


def into_view(boxes: Float[Array, 'B K 4'], crop: Crop, *, side: int) -> Float[Array, 'B K 4']:
  """Boxes (left, top, right, bottom) of the frame -> of the view, whose side is `side` pixels.

  Boxes are not clipped: what lies outside the view gets edges outside it.
  """
  corner, extent = (jnp.tile(part, 2)[:, None] for part in (crop.box[:, :2], crop.box[:, 2:]))
  boxes = (boxes - corner) * (side / extent)
  mirrored = jnp.stack(
    [side - boxes[..., 2], boxes[..., 1], side - boxes[..., 0], boxes[..., 3]], -1
  )
  return jnp.where(crop.flipped[:, None, None], mirrored, boxes)


def intersection_over_union(
  one: Num[Array, '*shape 4'], other: Num[Array, '*others 4']
) -> Float[Array, '*result']:
  """How much boxes (left, top, right, bottom) overlap, 0 to 1; leading axes broadcast.

  An empty box overlaps with nothing.
  """
  one, other = at_least_float32(one), at_least_float32(other)  # unsigned differences wrap around
  sides = jnp.minimum(one[..., 2:], other[..., 2:]) - jnp.maximum(one[..., :2], other[..., :2])
  shared = jnp.maximum(sides, 0).prod(-1)
  area, other_area = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (one, other))
  union = area + other_area - shared
  return shared / jnp.where(union > 0, union, 1)


def roi_align(
  maps: Float[Array, 'B h w C'],
  boxes: Float[Array, 'B K 4'],
  *,
  stride: float | int,
) -> Float[Array, 'B K C']:
  """The mean feature of maps in every box (RoIAlign with one bin, He et al. 2017).

  Args:
    maps: [B, h, w, C].
    boxes: (left, top, right, bottom) in pixels of the picture that was mapped, with sides no longer
      than its own. They may leave it: samples a cell or more outside are 0. Clip larger boxes
      first: they would lose samples, since their number is fixed for those that can be inside.
    stride: pixels from one cell of the maps to the next.

  torchvision's roi_align with an adaptive number of samples and aligned=False: the edge at `stride`
  pixels is the cell of index 1, and a box is at least one cell large. The mean of bilinear samples
  on a grid is separable: one row of weights per axis of each box. Computed in at least float32.
  Raises ValueError that names the argument whose shape differs. Specification scrl, section 4.
  """
  shapes.check(maps=(maps, 'B h w C'), boxes=(boxes, 'B K 4'))
  boxes = at_least_float32(boxes)
  rows, columns = (
    _interval_weights(boxes[..., axis] / stride, boxes[..., axis + 2] / stride, cells)
    for axis, cells in ((1, maps.shape[1]), (0, maps.shape[2]))
  )
  weights = jnp.einsum('bkh,bkw->bkhw', rows, columns)
  return jnp.einsum('bkhw,bhwc->bkc', weights, maps)


def _interval_weights(
  low: Float[Array, 'B K'], high: Float[Array, 'B K'], cells: int
) -> Float[Array, 'B K {cells}']:
  """The weight of each of `cells` cells of a line in the mean over an interval."""
  low = low[..., None]
  width = jnp.maximum(high[..., None] - low, 1)
  count = jnp.ceil(width)  # of samples: at least one for each cell that the interval covers
  sample = jnp.arange(cells + 1)  # no box as large as the picture has more
  place = low + (sample + 0.5) / count * width
  taken = (sample < count) & (place >= -1) & (place <= cells)
  place = jnp.clip(place, 0, cells - 1)[..., None]
  weight = jnp.maximum(0, 1 - jnp.abs(place - jnp.arange(cells)))
  return (weight * taken[..., None]).sum(-2) / count

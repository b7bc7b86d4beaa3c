"""Visualises label maps: as colours, and as pictures unfolded on the sphere of labels.

Arrays in, arrays out. Thewlis et al. 2017, figures 3, 4, 6 and 7; specification equivariant,
section 4.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from landmarks_jax.contracts import Array
from landmarks_jax.models import hypercolumn
from landmarks_jax.report import components, draw

GRID = 225  # grey of the lines of latitude and longitude
BLUR = 0.6  # pixels of the canvas: the sd of what one pixel of a picture covers
FAINTEST = 0.02  # of a pixel's own weight, below which the canvas stays empty


def colours(
  labels: Float[Array, 'B h w L'], *, share: float = 0.02
) -> Float[np.ndarray, 'B h w 3']:
  """A colour in 0..1 for every label: its direction as hue, its length as brightness.

  Args: labels: [B, h, w, L]. share: of the labels, the longest, all shown at full brightness.

  Two dimensions: the angle is the hue. Three: the unit vector is (red, green, blue). More: its
  first three principal components over all pictures. Raises ValueError for one dimension.
  """
  labels = np.asarray(labels, np.float32)
  length = np.linalg.norm(labels, axis=-1, keepdims=True)
  brightness = length / max(np.quantile(length, 1 - share), np.finfo(np.float32).tiny)
  return _hues(hypercolumn.unit(labels)) * np.minimum(brightness, 1)


def unfold(
  images: Shaped[Array, 'B S S 3'],
  labels: Float[Array, 'B h w L'],
  *,
  mask: Bool[np.ndarray, 'B S S'] | None = None,
  height: int = 96,
) -> UInt8[np.ndarray, 'B {height} width 3']:
  """Moves pixels to the places of their labels on the sphere, unfolded like a map of the world.

  Args:
    images: 0..255 of any type. labels: of three dimensions; their length does not matter.
    mask: the pixels to move; None: all. height: of the result, which is twice as wide.

  Longitude, the angle from the first axis to the second, runs from -180 degrees at the left to 180;
  latitude from 90 at the top, the third axis, to -90. Pixels that coincide are averaged; places
  without any are white, with lines every 45 degrees. Raises ValueError unless labels have three
  dimensions.
  """
  if labels.shape[-1] != 3:
    raise ValueError(f'labels of {labels.shape[-1]} dimensions: a sphere to unfold has 3')
  direction = np.asarray(hypercolumn.resize(labels, images.shape[1]), np.float64)
  direction = hypercolumn.unit(direction)
  longitude = np.arctan2(direction[..., 1], direction[..., 0]) / (2 * np.pi) + 0.5
  latitude = 0.5 - np.arcsin(np.clip(direction[..., 2], -1, 1)) / np.pi
  row = np.minimum(latitude * height, height - 1).astype(int)
  column = (longitude * 2 * height).astype(int) % (2 * height)
  place = row * 2 * height + column
  known = np.ones(place.shape, bool) if mask is None else mask
  given = zip(draw.to_bytes(images), place, known, strict=True)
  return np.stack([_splat(*picture, height=height) for picture in given])


def sheet(
  images: Shaped[Array, 'B S S 3'],
  labels: Float[Array, 'B h w L'],
  *,
  mask: Bool[np.ndarray, 'B S S'] | None = None,
  columns: int = 6,
  side: int = 144,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Pictures, below them their labels as colours and, if L is 3, the unfolded pictures.

  Args:
    images: 0..255 of any type. labels: [B, h, w, L], see `colours`.
    mask: the pixels that have a label; the others are white and not unfolded. None: all.
    columns: pictures side by side. side: of each, in pixels.
  """
  known = np.ones(images.shape[:3], bool) if mask is None else mask
  shown = np.ones(images.shape, np.float32)
  labelled = np.asarray(hypercolumn.resize(labels, images.shape[1]))[known]
  shown[known] = colours(labelled[None, None])[0, 0]  # unlabelled pixels do not affect them
  enlarged = [np.asarray(images, np.float32), 255 * shown]
  strips = [draw.to_bytes(hypercolumn.resize(x, side)) for x in enlarged]
  if labels.shape[-1] == 3:
    strips.append(unfold(images, labels, mask=mask, height=side // 2))
  rows = []
  for start in range(0, len(images), columns):
    rows += [draw.montage(strip[start : start + columns], columns=columns) for strip in strips]
  gap = np.full((2, rows[0].shape[1], 3), 255, np.uint8)
  return np.concatenate([part for row in rows for part in (gap, row)][1:])


def _hues(direction: Float[np.ndarray, 'B h w L']) -> Float[np.ndarray, 'B h w 3']:
  """Unit vectors as colours of full brightness."""
  dimensions = direction.shape[-1]
  if dimensions < 2:
    raise ValueError('labels of 1 dimension have no direction to colour: expected 2 or more')
  if dimensions == 2:
    turn = np.arctan2(direction[..., 1], direction[..., 0]) / (2 * np.pi)
    sixth = 6 * turn[..., None] + np.array([0, 4, 2])
    return np.clip(np.abs(sixth % 6 - 3) - 1, 0, 1)
  if dimensions == 3:
    return (direction + 1) / 2
  return components.to_unit(components.principal_components(direction, count=3))


def _splat(
  image: UInt8[np.ndarray, 'S S 3'],
  place: Shaped[np.ndarray, 'S S'],
  known: Bool[np.ndarray, 'S S'],
  *,
  height: int,
) -> UInt8[np.ndarray, '{height} width 3']:
  """Colours of the known pixels at their places on the canvas, on white."""
  from scipy import ndimage  # imported late: heavy

  channels = np.concatenate([np.ones_like(image[known][:, :1]), image[known]], axis=-1)
  sums = [
    np.bincount(place[known], channel, 2 * height**2).reshape(height, 2 * height)
    for channel in channels.T
  ]
  weight, *colour = (ndimage.gaussian_filter(x, BLUR, mode=('nearest', 'wrap')) for x in sums)
  found = np.stack(colour, -1) / np.maximum(weight, FAINTEST)[..., None]
  return draw.to_bytes(np.where(weight[..., None] > FAINTEST, found, _graticule(height)))


def _graticule(height: int) -> Float[np.ndarray, '{height} width 3']:
  """White, with thin lines every 45 degrees."""
  canvas = np.full((height, 2 * height, 3), 255.0)
  step = max(1, height // 4)
  canvas[::step] = canvas[:, ::step] = GRID
  canvas[-1] = canvas[:, -1] = GRID
  return canvas

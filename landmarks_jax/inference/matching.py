"""Points of one picture found in another by features alone, checked by matching back."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from landmarks_jax.contracts import Pyramid
from landmarks_jax.evaluation import features
from landmarks_jax.evaluation import matching as protocol
from landmarks_jax.geometry import coords, regions
from landmarks_jax.inference.model import Model
from landmarks_jax.inference.pictures import Pictures

AT_ONCE = 256  # points whose similarities are held in memory at once
CANDIDATES = 16  # a side, of the grid from which `consistent_points` chooses


class Matches(NamedTuple):
  """Where K points of picture A are in picture B."""

  points: Float[np.ndarray, 'K 2']  # in pixels of B
  similarity: Float[np.ndarray, ' K']  # mean cosine over levels, -1 to 1
  cycle: Float[np.ndarray, ' K']  # pixels of A between a point and its match's match in A


def match(
  model: Model,
  image_a: Any,
  image_b: Any,
  points: Any,
  *,
  boxes: Any = None,
  crop: str = 'centre',
  size: int = 96,
) -> Matches:
  """Finds points of one picture in another, where the features are most alike.

  Args:
    image_a, image_b: each a uint8 array [H, W, 3], a path or a Pillow image.
    points: [K, 2], (x, y) in pixels of A.
    boxes, crop: the square of each picture to look at, as in `Model.describe`; two boxes.
    size: positions a side that are compared; points are rounded to them.

  `cycle` is 0 where the match's best match is the point itself; the larger, the more doubtful.
  Raises ValueError for a point outside what the network sees of A.
  """
  points = np.asarray(points)
  if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
    raise ValueError(
      f'points is {points.dtype} {list(points.shape)}; expected finite numbers [K, 2]'
    )
  pair = _Pair(model, image_a, image_b, boxes=boxes, crop=crop, size=size)
  return pair.match(pair.seen_points(points))


def seen(
  model: Model, image: Any, points: Any, *, boxes: Any = None, crop: str = 'centre'
) -> Bool[np.ndarray, ' K']:
  """Which points of a picture the network sees; arguments as in `match`, one box."""
  pictures = model.pictures([image], boxes=boxes, crop=crop)
  pictures[0]  # places the square
  return _inside(model, pictures.from_pixels(0, np.asarray(points)) / np.float32(model.zoom))


def consistent_points(
  model: Model,
  image_a: Any,
  image_b: Any,
  *,
  count: int,
  boxes: Any = None,
  crop: str = 'centre',
  size: int = 96,
) -> tuple[Float[np.ndarray, 'K 2'], Matches, Matches]:
  """At most `count` points of A, well apart, that match back to themselves best.

  Returns these points, their matches, and those of all candidates, to judge the pictures by. Points
  of a CANDIDATES x CANDIDATES grid are taken in order of smallest `cycle`, then largest similarity,
  skipping those within two grid steps of one already taken.
  """
  pair = _Pair(model, image_a, image_b, boxes=boxes, crop=crop, size=size)
  line = (np.arange(CANDIDATES) + 0.5) / CANDIDATES * 2 - 1
  grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)
  found, chosen = pair.match(grid), []
  for i in np.lexsort((-found.similarity, found.cycle)).tolist():
    apart = np.linalg.norm(grid[chosen] - grid[i], axis=-1)
    if len(chosen) < count and (apart > 4 / CANDIDATES).all():
      chosen.append(i)
  return pair.pixels(0, grid[chosen]), Matches(*(array[chosen] for array in found)), found


class _Pair:
  """Two pictures, described."""

  def __init__(
    self, model: Model, image_a: Any, image_b: Any, *, boxes: Any, crop: str, size: int
  ) -> None:
    if size < 2:
      raise ValueError(f'size={size}: expected a grid of at least 2 positions a side')
    self._size, self._model = size, model
    self._pictures: Pictures = model.pictures([image_a, image_b], boxes=boxes, crop=crop)
    self._zoom = np.float32(model.zoom)
    frames = np.stack([self._pictures[i]['image'] for i in (0, 1)])
    describe = features.compiled(model.describer.apply, None, size=size)
    pyramid = describe(model.describer.variables, regions.cut_centre(frames, model.margin))
    self._described = [tuple(level[i : i + 1] for level in pyramid) for i in (0, 1)]

  def seen_points(self, pixels: Float[np.ndarray, 'K 2']) -> Float[np.ndarray, 'K 2']:
    """Pixels of A, normalised in what the network sees; ValueError for a point outside."""
    points = self._pictures.from_pixels(0, pixels) / self._zoom
    edge = _edge(self._model)
    for k in np.flatnonzero(~_inside(self._model, points)):
      low, high = self.pixels(0, np.array([[-edge, -edge], [edge, edge]], np.float32)).tolist()
      raise ValueError(
        f'points[{k}] = {np.asarray(pixels[k]).tolist()} lies outside what the network sees of the '
        f'first picture, x {low[0]:.0f} to {high[0]:.0f} and y {low[1]:.0f} to {high[1]:.0f}; give '
        "boxes, crop='pad', or load(..., margin=0)"
      )
    return points

  def pixels(self, which: int, points: Float[np.ndarray, 'K 2']) -> Float[np.ndarray, 'K 2']:
    """Normalised points in pixels of picture 0 (A) or 1 (B)."""
    return self._pictures.to_pixels(which, points * self._zoom)

  def match(self, points: Float[np.ndarray, 'K 2']) -> Matches:
    """The matches of normalised points of A."""
    a, b = self._described
    points = self._on_grid(points)
    found, similarity = self._search(a, b, points)
    back, _ = self._search(b, a, found)
    cycle = np.linalg.norm(self.pixels(0, back) - self.pixels(0, points), axis=-1)
    return Matches(self.pixels(1, found), similarity / len(a), cycle)

  def _on_grid(self, points: Float[np.ndarray, 'K 2']) -> Float[np.ndarray, 'K 2']:
    grid = {'width': self._size, 'height': self._size}
    cells = np.clip(np.rint(coords.to_pixels(points, **grid)), 0, self._size - 1)
    return coords.to_normalised(cells, **grid).astype(np.float32)

  def _search(
    self, source: Pyramid, target: Pyramid, points: Float[np.ndarray, 'K 2']
  ) -> tuple[Float[np.ndarray, 'K 2'], Float[np.ndarray, ' K']]:
    """`matching.match` on chunks of points, padded to few sizes to compile rarely."""
    width = min(AT_ONCE, 1 << (len(points) - 1).bit_length())
    parts = []
    for start in range(0, len(points), width):
      some = points[start : start + width]
      padded = np.concatenate([some, np.repeat(some[:1], width - len(some), axis=0)])
      found = protocol.match(source, target, jnp.asarray(padded)[None], size=self._size)
      parts.append([np.asarray(array)[0, : len(some)] for array in found])
    points, similarity = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return points.astype(np.float32), similarity.astype(np.float32)


def _edge(model: Model) -> float:
  """How far normalised points may be from the middle: a pixel reaches beyond its centre."""
  return model.side / (model.side - 1) + 1e-6


def _inside(model: Model, points: Float[np.ndarray, 'K 2']) -> Bool[np.ndarray, ' K']:
  return (np.abs(points) <= _edge(model)).all(-1)

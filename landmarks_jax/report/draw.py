"""Draws pictures: montages, and landmarks on photographs. Arrays in, arrays out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageColor, ImageDraw

from landmarks_jax.contracts import Array
from landmarks_jax.geometry import coords

# Green is the lighter by far, for eyes that do not tell it from red.
TRUTH, PREDICTION = (120, 245, 140), (225, 40, 30)


def to_bytes(image: Shaped[Array, '... 3']) -> UInt8[np.ndarray, '... 3']:
  """Pictures in 0..255 of any type -> uint8, clipped and rounded."""
  return np.clip(np.rint(np.asarray(image, np.float32)), 0, 255).astype(np.uint8)


def montage(
  images: UInt8[np.ndarray, 'N H W 3'], *, columns: int, gap: int = 2
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Pictures in rows of `columns`, with white gaps and a white rest of the last row.

  Args: images: uint8 [N, H, W, 3]. columns: pictures in a row. gap: pixels between pictures.
  """
  count, height, width, _ = images.shape
  rows = -(-count // columns)
  sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
  for i, image in enumerate(images):
    y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
    sheet[y : y + height, x : x + width] = image
  return sheet


def landmarks(
  image: UInt8[np.ndarray, 'S S 3'],
  points: Float[np.ndarray, 'K 2'],
  *,
  target: Float[np.ndarray, 'K 2'] | None = None,
  visible: Bool[np.ndarray, ' K'] | None = None,
  skeleton: Sequence[Sequence[int]] = (),
  side: int = 192,
) -> UInt8[np.ndarray, '{side} {side} 3']:
  """A picture, enlarged to `side`, with predicted landmarks as red dots and true ones as green
  rings, joined.

  Args:
    image: uint8 [S, S, 3], not modified. points, target: [K, 2], normalised.
    visible: [K], of the true landmarks; an invisible one is left out, but its prediction is drawn.
    skeleton: pairs of predicted landmarks to join. side: of the result in pixels.
  """
  canvas = _Canvas(image, side)
  for one, other in skeleton:
    canvas.line(points[one], points[other], PREDICTION)
  for k, point in enumerate(points):
    if target is not None and (visible is None or visible[k]):
      canvas.line(target[k], point)
      canvas.ring(target[k], TRUTH)
    canvas.dot(point, PREDICTION)
  return np.asarray(canvas.picture)


def landmark_sheet(
  images: Sequence[UInt8[np.ndarray, 'S S 3']],
  points: Float[np.ndarray, 'N K 2'],
  target: Float[np.ndarray, 'N K 2'],
  visible: Bool[np.ndarray, 'N K'],
  *,
  skeleton: Sequence[Sequence[int]] = (),
  columns: int = 6,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Many pictures with their predicted and true landmarks on one sheet.

  Args: images: N of uint8 [S, S, 3]. points, target: [N, K, 2], normalised. visible: [N, K].
  skeleton: pairs to join. See `landmarks` and `montage`.
  """
  drawn = [
    landmarks(image, predicted, target=true, visible=seen, skeleton=skeleton)
    for image, predicted, true, seen in zip(images, points, target, visible, strict=True)
  ]
  return montage(np.stack(drawn), columns=columns)


def matches(
  source: UInt8[np.ndarray, 'S S 3'],
  target: UInt8[np.ndarray, 'S S 3'],
  query: Float[np.ndarray, 'K 2'],
  matched: Float[np.ndarray, 'K 2'],
  truth: Float[np.ndarray, 'K 2'],
  visible: Bool[np.ndarray, ' K'],
  *,
  side: int = 240,
) -> UInt8[np.ndarray, '{side} width 3']:
  """Two pictures side by side: landmarks of the first, and where they were found in the second.

  Args: query: [K, 2], normalised, in `source`. matched, truth: in `target`. visible: [K]; invisible
  landmarks are left out. side: of each picture in pixels.

  Every landmark has its own colour and number. In the second picture the dot is the match, the ring
  at the other end of its line the truth.
  """
  left, right = _Canvas(source, side), _Canvas(target, side)
  shown = np.flatnonzero(visible)
  for k in shown:
    right.line(truth[k], matched[k])
  for k in shown:
    colour = _hue(int(k), len(query))
    right.ring(truth[k], colour)
    for canvas, point in ((left, query[k]), (right, matched[k])):
      canvas.dot(point, colour)
      canvas.label(point, str(k))
  return montage(np.stack([left.picture, right.picture]), columns=2, gap=0)


def discovered(
  image: UInt8[np.ndarray, 'S S 3'],
  points: Float[np.ndarray, 'K 2'],
  *,
  side: int = 112,
  numbers: bool = False,
) -> UInt8[np.ndarray, '{side} {side} 3']:
  """A picture, enlarged to `side`, with unnamed landmarks, each in its own colour.

  Args: image: uint8 [S, S, 3], not modified. points: [K, 2], normalised. numbers: whether to draw
  them beside the points.
  """
  canvas = _Canvas(image, side)
  for k, point in enumerate(points):
    canvas.dot(point, _hue(k, len(points)))
    if numbers:
      canvas.label(point, str(k))
  return np.asarray(canvas.picture)


def discovered_sheet(
  images: UInt8[np.ndarray, 'N S S 3'],
  points: Float[np.ndarray, 'N K 2'],
  *,
  columns: int = 8,
  side: int = 112,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Many pictures with their discovered landmarks on one sheet; see `discovered`."""
  drawn = [discovered(*pair, side=side) for pair in zip(images, points, strict=True)]
  return montage(np.stack(drawn), columns=columns)


def enlarged_sheet(
  images: UInt8[np.ndarray, 'N H W 3'], *, columns: int = 8, side: int = 112
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Many pictures on one sheet, each enlarged to `side`."""
  return montage(np.stack([_enlarged(image, side) for image in images]), columns=columns)


def match_sheet(
  sources: Shaped[Array, 'N S S 3'],
  targets: Shaped[Array, 'N S S 3'],
  query: Float[np.ndarray, 'N K 2'],
  matched: Float[np.ndarray, 'N K 2'],
  target: Float[np.ndarray, 'N K 2'],
  visible: Bool[np.ndarray, 'N K'],
  *,
  columns: int = 2,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Many pairs of pictures with their matches on one sheet, `columns` pairs in a row.

  Args: sources, targets: 0..255 of any type. For the others and the marks see `matches`, and
  `evaluation.matching.pictures`, which makes them.
  """
  pairs = zip(to_bytes(sources), to_bytes(targets), query, matched, target, visible, strict=True)
  return montage(np.stack([matches(*pair) for pair in pairs]), columns=columns, gap=6)


def heat_map(values: Float[np.ndarray, '*shape']) -> UInt8[np.ndarray, '*shape 3']:
  """Numbers in 0..1 as colours, dark to bright and perceptually uniform (viridis)."""
  import matplotlib  # imported late: heavy

  return matplotlib.colormaps['viridis'](values, bytes=True)[..., :3]


def component_sheet(
  images: Shaped[Array, 'N S S 3'],
  components: Float[np.ndarray, 'N h w C'],
  *,
  columns: int = 13,
  side: int = 48,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Every component of every picture as a heat map: a row per picture, with it at the left.

  Args: images: N pictures, 0..255. components: in 0..1, see `components.of_pyramid`. columns:
  components in a row; further ones follow below, with the pictures again. side: of each.
  """
  pictures = [_enlarged(image, side) for image in to_bytes(images)]
  tiles, blank = [], np.full((side, side, 3), 255, np.uint8)
  for start in range(0, components.shape[-1], columns):
    part = heat_map(components[..., start : start + columns])
    for picture, maps in zip(pictures, part, strict=True):
      maps = [_enlarged(maps[:, :, c], side) for c in range(maps.shape[2])]
      tiles += [picture, *maps, *[blank] * (columns - len(maps))]
  return montage(np.stack(tiles), columns=columns + 1)


def rgb_sheet(
  images: Shaped[Array, 'N S S 3'],
  components: Float[np.ndarray, 'N h w C'],
  *,
  columns: int = 4,
  side: int = 112,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """The first three components of every picture as red, green and blue, to its right.

  Args: see `component_sheet`. columns: pictures in a row. Raises ValueError for fewer than three
  components.
  """
  if components.shape[-1] < 3:
    raise ValueError(f'{components.shape[-1]} components given: three make a colour')
  pairs = zip(to_bytes(images), to_bytes(255 * components[..., :3]), strict=True)
  tiles = [_enlarged(picture, side) for pair in pairs for picture in pair]
  return montage(np.stack(tiles), columns=2 * columns)


def _hue(number: int, count: int) -> tuple[int, ...]:
  """The colour of landmark `number` of `count`."""
  return ImageColor.getrgb(f'hsv({360 * number / count:.0f}, 90%, 100%)')


def _enlarged(image: UInt8[np.ndarray, 'H W 3'], side: int) -> UInt8[np.ndarray, '{side} {side} 3']:
  return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


class _Canvas:
  """A picture enlarged to `side`, on which normalised points are marked."""

  def __init__(self, image: UInt8[np.ndarray, 'S S 3'], side: int) -> None:
    self.picture = Image.fromarray(_enlarged(image, side))
    self._pen = ImageDraw.Draw(self.picture)
    self._height, self._width = image.shape[:2]
    self._zoom, self._radius = side / self._height, max(2, side // 64)

  def dot(self, point: Float[np.ndarray, ' 2'], colour: tuple[int, ...]) -> None:
    self._pen.ellipse(self._around(point, self._radius), fill=colour, outline=(0, 0, 0))

  def ring(self, point: Float[np.ndarray, ' 2'], colour: tuple[int, ...]) -> None:
    self._pen.ellipse(self._around(point, self._radius + 3), outline=(0, 0, 0), width=4)
    self._pen.ellipse(self._around(point, self._radius + 2), outline=colour, width=2)

  def line(
    self,
    start: Float[np.ndarray, ' 2'],
    end: Float[np.ndarray, ' 2'],
    colour: tuple[int, ...] = (255, 255, 255),
  ) -> None:
    self._pen.line([self._place(start), self._place(end)], fill=colour)

  def label(self, point: Float[np.ndarray, ' 2'], text: str) -> None:
    x, y = self._place(point)
    place = x + self._radius + 2, y
    self._pen.text(place, text, anchor='lm', stroke_width=1, stroke_fill=(0, 0, 0))

  def _around(self, point: Float[np.ndarray, ' 2'], radius: int) -> tuple[int, int, int, int]:
    x, y = self._place(point)
    return x - radius, y - radius, x + radius, y + radius

  def _place(self, point: Float[np.ndarray, ' 2']) -> tuple[int, int]:
    # Pixel p of the picture is drawn at (p + .5) * zoom - .5 of the enlarged one.
    pixel = coords.to_pixels(point, width=self._width, height=self._height)
    x, y = (pixel + 0.5) * self._zoom - 0.5
    return round(float(x)), round(float(y))  # Pillow would truncate

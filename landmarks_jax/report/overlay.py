"""Landmarks and matches drawn on whole pictures of any size, with names and confidence."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

LEAST, MOST = 480, 1600  # the longer side of a drawing in pixels
WIDEST = 4 * MOST  # a picture beside another
FAR = 10**6  # pixels from the corner, beyond which nothing is seen and Pillow would overflow
NAMED = 12  # more landmarks than this are drawn without names
UNKNOWN = 90, 170, 255  # colour of points without a confidence


def landmarks(
  image: UInt8[np.ndarray, 'H W 3'],
  points: Float[np.ndarray, 'K 2'],
  *,
  names: Sequence[str],
  confidence: Float[np.ndarray, ' K'] | None = None,
  target: Float[np.ndarray, 'K 2'] | None = None,
) -> UInt8[np.ndarray, 'height width 3']:
  """A picture with predicted landmarks as dots, from red for confidence 0 to green for 1.

  Args: points, target: in pixels of the picture, nan where there is none. Up to NAMED landmarks are
  labelled with name and confidence. The true place is a white ring, joined to its dot.
  """
  sheet = _Sheet(image)
  found = np.isfinite(points).all(-1)
  for k, point in enumerate(points):
    if target is not None and np.isfinite(target[k]).all():
      if found[k]:
        sheet.line(target[k], point)
      sheet.ring(target[k])
  for k in np.flatnonzero(found):
    point = points[k]
    known = confidence is not None and np.isfinite(confidence[k])
    sheet.dot(point, _colour(float(confidence[k])) if known else UNKNOWN)
    if len(names) <= NAMED:
      sheet.label(point, names[k] + (f' {confidence[k]:.2f}' if known else ''))
  return np.asarray(sheet.picture)


def matches(
  first: UInt8[np.ndarray, 'H W 3'],
  second: UInt8[np.ndarray, 'H2 W2 3'],
  points: Float[np.ndarray, 'K 2'],
  matched: Float[np.ndarray, 'K 2'],
  *,
  names: Sequence[str],
  doubtful: Sequence[bool],
) -> UInt8[np.ndarray, 'height width 3']:
  """Two pictures side by side at the same height; a point has the same colour and name in both.

  A picture that would be wider than WIDEST is made less high, with white below it.

  Args: points: in pixels of the first, nan where there is none. matched: of the second. doubtful:
  points to draw as rings.
  """
  height = int(np.clip(max(first.shape[0], second.shape[0]), LEAST, MOST))
  sheets = [_Sheet(image, height=height) for image in (first, second)]
  for k, name in enumerate(names):
    colour = ImageColor.getrgb(f'hsv({360 * k / len(names):.0f}, 90%, 100%)')
    for sheet, point in zip(sheets, (points[k], matched[k]), strict=True):
      if not np.isfinite(point).all():
        continue
      (sheet.ring if doubtful[k] else sheet.dot)(point, colour)
      sheet.label(point, name)
  left, right = (sheet.picture for sheet in sheets)
  both = left.width + right.width, max(left.height, right.height)
  drawn = Image.new('RGB', both, 'white')
  drawn.paste(left, (0, 0))
  drawn.paste(right, (left.width, 0))
  return np.asarray(drawn)


def _colour(confidence: float) -> tuple[int, ...]:
  return ImageColor.getrgb(f'hsv({120 * np.clip(confidence, 0, 1):.0f}, 90%, 100%)')


class _Sheet:
  """A picture, enlarged or reduced, on which points in its own pixels are marked."""

  def __init__(self, image: UInt8[np.ndarray, 'H W 3'], *, height: int | None = None) -> None:
    longer = max(image.shape[:2])
    if height is None:
      self._zoom = np.clip(longer, LEAST, MOST) / longer
    else:
      self._zoom = min(height / image.shape[0], WIDEST / image.shape[1])
    size = [max(1, round(side * self._zoom)) for side in image.shape[1::-1]]
    self.picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    self._pen = ImageDraw.Draw(self.picture)
    self._radius = max(2, max(size) // 160)
    self._font = ImageFont.load_default(size=max(11, max(size) // 48))

  def dot(self, point: Float[np.ndarray, ' 2'], colour: tuple[int, ...]) -> None:
    self._pen.ellipse(self._around(point), fill=colour, outline=(0, 0, 0))

  def ring(self, point: Float[np.ndarray, ' 2'], colour: tuple[int, ...] = (255, 255, 255)) -> None:
    self._pen.ellipse(self._around(point), outline=colour, width=2)

  def line(self, start: Float[np.ndarray, ' 2'], end: Float[np.ndarray, ' 2']) -> None:
    self._pen.line([self._place(start), self._place(end)], fill=(255, 255, 255))

  def label(self, point: Float[np.ndarray, ' 2'], text: str) -> None:
    """Writes text beside the point, or to its left near the right edge."""
    text = ' '.join(text.encode('utf-8', 'replace').decode().split())
    x, y = self._place(point)
    away, width = self._radius + 3, self._pen.textlength(text, font=self._font)
    right = x + away + width < self.picture.width or x - away - width < 0
    place = (x + away, y) if right else (x - away, y)
    anchor = 'lm' if right else 'rm'
    outline = {'stroke_width': 2, 'stroke_fill': (0, 0, 0)}
    self._pen.text(place, text, font=self._font, anchor=anchor, fill=(255, 255, 255), **outline)

  def _around(self, point: Float[np.ndarray, ' 2']) -> tuple[int, int, int, int]:
    x, y = self._place(point)
    return x - self._radius, y - self._radius, x + self._radius, y + self._radius

  def _place(self, point: Float[np.ndarray, ' 2']) -> tuple[int, int]:
    # Pixel p of the picture is drawn at (p + .5) * zoom - .5 of the enlarged one.
    x, y = np.clip((np.asarray(point, float) + 0.5) * self._zoom - 0.5, -FAR, FAR)
    return round(float(x)), round(float(y))  # Pillow would truncate

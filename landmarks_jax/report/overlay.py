"""Landmarks and matches drawn on whole pictures of any size, with names and confidence."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

LEAST, MOST = 480, 1600  # the longer side of a drawing in pixels
WIDEST = 4 * MOST  # a picture beside another
FAR = 10**6  # pixels from the corner, beyond which nothing is seen and Pillow would overflow
NAMED = 12  # more landmarks than this are drawn without names
UNKNOWN = 90, 170, 255  # colour of points without a confidence
# Colours of confidence 0, .5 and 1. Each is lighter than the one before, for eyes that do not tell
# red from green.
SURE = (170, 10, 30), (240, 140, 20), (190, 255, 150)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
DOUBTFUL = 'A ring is a doubtful match: it does not lead back to where it started.'
SIDES = (  # of a point, for its text: the text's anchor, and where that is from the point
  *(('lm', 1, 0), ('rm', -1, 0), ('mb', 0, -1), ('mt', 0, 1)),
  *(('lb', 1, 0), ('lt', 1, 0), ('rb', -1, 0), ('rt', -1, 0)),
)

Box = tuple[int | float, int | float, int | float, int | float]  # left, top, right, bottom


def landmarks(
  image: UInt8[np.ndarray, 'H W 3'],
  points: Float[np.ndarray, 'K 2'],
  *,
  names: Sequence[str],
  confidence: Float[np.ndarray, ' K'] | None = None,
  target: Float[np.ndarray, 'K 2'] | None = None,
  skeleton: Sequence[Sequence[int]] = (),
) -> UInt8[np.ndarray, 'height width 3']:
  """A picture with predicted landmarks as dots, from dark red for confidence 0 to pale green for 1.

  Args: points, target: in pixels of the picture, nan where there is none. Up to NAMED landmarks are
  labelled with name, or number (see `key`), and confidence. The true place is a white ring, joined
  to its dot. skeleton: pairs of landmarks to join, in the colour of the less certain of the two.
  """
  sheet, labels = _Sheet(image), _labels(names)
  found = np.isfinite(points).all(-1)
  sure = np.full(len(points), np.nan) if confidence is None else confidence
  for pair in skeleton:
    if found[list(pair)].all():
      sheet.line(*points[list(pair)], _colour(float(sure[list(pair)].min())))
  for k, point in enumerate(points):
    if target is not None and np.isfinite(target[k]).all():
      if found[k]:
        sheet.line(target[k], point)
      sheet.mark(target[k], WHITE, ring=True)
  for k in np.flatnonzero(found):
    sheet.mark(points[k], _colour(float(sure[k])))
    if labels:
      sheet.label(points[k], labels[k] + (f' {sure[k]:.2f}' if np.isfinite(sure[k]) else ''))
  return np.asarray(sheet.drawn())


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

  A picture that would be wider than WIDEST is made less high, with white below it. Names as in
  `landmarks`.

  Args: points: in pixels of the first, nan where there is none. matched: of the second. doubtful:
  points to draw as rings, which a line below the pictures explains.
  """
  height = int(np.clip(max(first.shape[0], second.shape[0]), LEAST, MOST))
  sheets, labels = [_Sheet(image, height=height) for image in (first, second)], _labels(names)
  for k in range(len(names)):
    colour = ImageColor.getrgb(f'hsv({360 * k / len(names):.0f}, 90%, 100%)')
    for sheet, point in zip(sheets, (points[k], matched[k]), strict=True):
      if np.isfinite(point).all():
        sheet.mark(point, colour, ring=bool(doubtful[k]))
        if labels:
          sheet.label(point, labels[k])
  left, right = (sheet.drawn() for sheet in sheets)
  both = left.width + right.width, max(left.height, right.height)
  drawn = Image.new('RGB', both, 'white')
  drawn.paste(left, (0, 0))
  drawn.paste(right, (left.width, 0))
  return np.asarray(_with_line(drawn, DOUBTFUL) if any(doubtful) else drawn)


def key(names: Sequence[str]) -> str:
  """What the numbers mean that stand for names with letters that the font lacks; '' without any.

  >>> key(['nose', '鼻'])
  '2 = 鼻'
  """
  pairs = zip(_labels(names), names, strict=False)
  return ', '.join(f'{label} = {name}' for label, name in pairs if label != _plain(name))


def _labels(names: Sequence[str]) -> list[str]:
  """What is written beside each landmark: its name, else its number; nothing for too many."""
  if len(names) > NAMED:
    return []
  plain = [_plain(name) for name in names]
  return [name if _has(name) else str(k) for k, name in enumerate(plain, start=1)]


def _plain(name: str) -> str:
  """A name in one line."""
  return ' '.join(name.encode('utf-8', 'replace').decode().split())


def _has(text: str) -> bool:
  """Whether the font has every character of a text; it draws one box for all that it lacks."""
  font = _font(20)
  drawn = [font.getmask(character) for character in ('\U0010ffff', *text)]
  absent, *given = [(mask.size, bytes(mask)) for mask in drawn]
  return absent not in given


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
  """DejaVu Sans, which comes with Matplotlib: Pillow's own font lacks even umlauts."""
  import matplotlib  # imported late: heavy

  return ImageFont.truetype(f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf', size)


def _colour(confidence: float) -> tuple[int, ...]:
  if not np.isfinite(confidence):
    return UNKNOWN
  channels = np.transpose(SURE)
  return tuple(round(np.interp(confidence, (0, 0.5, 1), channel)) for channel in channels)


def _with_line(picture: Image.Image, text: str) -> Image.Image:
  """A picture above a line of text on white, as wide as the wider of the two."""
  font = _font(max(12, picture.height // 40))
  left, top, right, bottom = font.getbbox(text)
  room = round(bottom - top)
  size = max(picture.width, round(right - left) + 2 * room), picture.height + 2 * room
  drawn = Image.new('RGB', size, 'white')
  drawn.paste(picture, (0, 0))
  middle = room, picture.height + room
  ImageDraw.Draw(drawn).text(middle, text, font=font, anchor='lm', fill=BLACK)
  return drawn


def _meet(one: Box, other: Box) -> bool:
  return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class _Sheet:
  """A picture, enlarged or reduced, on which points in its own pixels are marked.

  All texts are drawn before the marks, so that none hides a point.
  """

  def __init__(self, image: UInt8[np.ndarray, 'H W 3'], *, height: int | None = None) -> None:
    longer = max(image.shape[:2])
    if height is None:
      self._zoom = np.clip(longer, LEAST, MOST) / longer
    else:
      self._zoom = min(height / image.shape[0], WIDEST / image.shape[1])
    size = [max(1, round(side * self._zoom)) for side in image.shape[1::-1]]
    self._picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    self._pen = ImageDraw.Draw(self._picture)
    self._radius = max(4, max(size) // 160)
    self._line = self._radius // 4  # the width of an outline
    self._ring = self._radius + 3 * self._line
    self._font = _font(max(11, max(size) // 48))
    self._marks: list[tuple[Box, tuple[int, ...], bool]] = []
    self._texts: list[tuple[int, int, str]] = []

  def mark(
    self, point: Float[np.ndarray, ' 2'], colour: tuple[int, ...], *, ring: bool = False
  ) -> None:
    (x, y), radius = self._place(point), self._ring if ring else self._radius
    self._marks.append(((x - radius, y - radius, x + radius, y + radius), colour, ring))

  def line(
    self,
    start: Float[np.ndarray, ' 2'],
    end: Float[np.ndarray, ' 2'],
    colour: tuple[int, ...] = WHITE,
  ) -> None:
    self._pen.line([self._place(start), self._place(end)], fill=colour)

  def label(self, point: Float[np.ndarray, ' 2'], text: str) -> None:
    self._texts.append((*self._place(point), text))

  def drawn(self) -> Image.Image:
    """The picture with all texts and marks."""
    taken = [box for box, _, _ in self._marks]
    for text in self._texts:
      taken.append(self._write(*text, taken))
    for box, colour, ring in self._marks:
      if ring:
        self._pen.ellipse(box, outline=BLACK, width=4 * self._line)
        inner = *(edge + self._line for edge in box[:2]), *(edge - self._line for edge in box[2:])
        self._pen.ellipse(inner, outline=colour, width=2 * self._line)
      else:
        self._pen.ellipse(box, fill=colour, outline=BLACK, width=self._line)
    return self._picture

  def _write(self, x: int, y: int, text: str, taken: Sequence[Box]) -> Box:
    """Writes a text beside a point where it meets least of what is there; gives its box.

    It stays in the picture if it can. Where sides are equal, the order is that of SIDES.
    """
    away, (width, height) = self._ring + 3, self._picture.size
    style = {'font': self._font, 'stroke_width': 2}
    choices = []
    for order, (anchor, right, down) in enumerate(SIDES):
      place = x + away * right, y + away * down
      box = left, top, *end = self._pen.textbbox(place, text, anchor=anchor, **style)
      cut = sum(max(0, out) for out in (-left, -top, end[0] - width, end[1] - height))
      met = sum(_meet(box, other) for other in taken)
      choices.append((cut, met, order, place, anchor, box))
    *_, place, anchor, box = min(choices)
    self._pen.text(place, text, anchor=anchor, fill=WHITE, stroke_fill=BLACK, **style)
    return box

  def _place(self, point: Float[np.ndarray, ' 2']) -> tuple[int, int]:
    # Pixel p of the picture is drawn at (p + .5) * zoom - .5 of the enlarged one.
    x, y = np.clip((np.asarray(point, float) + 0.5) * self._zoom - 0.5, -FAR, FAR)
    return round(float(x)), round(float(y))  # Pillow would truncate

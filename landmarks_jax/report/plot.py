"""Curves, error maps and pictures with landmarks as inline SVG: sharp at any size, light or dark.

Colours come from the page's style sheet by class, so one drawing serves both modes. Uses no device
and no disk.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8
from PIL import Image

from landmarks_jax.geometry import coords
from landmarks_jax.report.markup import Markup, element

WIDTH, HEIGHT = 400, 236
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 26, 38
THIN_ABOVE = 2000  # a line of more values than this is thinned to the extremes of its stretches
MANY = 20  # more landmarks than this are drawn smaller


class Line(NamedTuple):
  """A curve: x, y [n], in any order of values; non-finite y are gaps. `kind` is a CSS class.

  spread: [n, 2], the lower and upper end of a whisker at each value; NaN where there is none.
  """

  label: str
  x: np.ndarray
  y: np.ndarray
  kind: str
  spread: np.ndarray | None = None


def chart(
  lines: Sequence[Line],
  *,
  x_label: str,
  y_label: str,
  x_range: tuple[float, float] | None = None,
  y_range: tuple[float, float] | None = None,
  x_ticks: Mapping[float, str] | None = None,
) -> Markup:
  """Lines over two axes. Ranges default to those of the finite data, with y widened to ticks.

  Args: x_ticks: place -> label, for an uneven axis; round numbers if absent. Raises ValueError if a
  range is not given and no value is finite.
  """
  finite = [np.isfinite(n.x) & np.isfinite(n.y) for n in lines]
  if x_range is None:
    x_range = _range([n.x[keep] for n, keep in zip(lines, finite, strict=True)])
  if y_range is None:
    known = [n.y[keep] for n, keep in zip(lines, finite, strict=True)]
    known += [n.spread[np.isfinite(n.spread)] for n in lines if n.spread is not None]
    y_range = _to_ticks(*_range(known))
  x_place = _scale(x_range, (LEFT, WIDTH - RIGHT))
  y_place = _scale(y_range, (HEIGHT - BOTTOM, TOP))
  drawn = [
    element(
      'path', element('title', n.label), class_=f'line {n.kind}', d=_path(n, x_place, y_place)
    )
    for n in lines
  ]
  return element(
    'svg',
    *_axes(x_range, y_range, x_place, y_place, x_ticks),
    element('text', y_label, x=0, y=12, class_='axis-label'),
    element('text', x_label, x=WIDTH - RIGHT, y=HEIGHT - 4, text_anchor='end', class_='axis-label'),
    *(_whiskers(line, x_place, y_place) for line in lines if line.spread is not None),
    *drawn,
    viewBox=f'0 0 {WIDTH} {HEIGHT}',
    class_='chart',
    role='img',
    aria_label=f'{y_label} against {x_label}: ' + ', '.join(line.label for line in lines),
  )


def legend(lines: Sequence[tuple[str, str]]) -> Markup:
  """A legend for lines, given (label, CSS class) of each."""
  entries = [
    element(
      'span',
      element('svg', element('path', class_=f'line {kind}', d='M2 4H28'), viewBox='0 0 30 8'),
      label,
    )
    for label, kind in lines
  ]
  return element('div', entries, class_='legend')


def cumulative_share(
  values: Float[np.ndarray, ' n'], thresholds: Float[np.ndarray, ' t']
) -> Float[np.ndarray, ' t']:
  """The percentage of values that are at most each threshold; NaN values are left out.

  >>> cumulative_share(np.array([1.0, 4.0, np.nan]), np.array([0.5, 1.0, 9.0]))
  array([  0.,  50., 100.])
  """
  known = np.sort(values[~np.isnan(values)])
  return 100 * np.searchsorted(known, thresholds, side='right') / len(known)


def error_map(
  points: Float[np.ndarray, 'K 2'],
  radius: Float[np.ndarray, ' K'],
  *,
  box: tuple[float, float, float, float],
  names: Sequence[str],
  kind: str,
) -> Markup:
  """A circle around each landmark whose radius is its error, in the unit of the points.

  Args: box: left, top, width, height of the view. names: [K], shown as tooltips. Landmarks with a
  NaN are left out.
  """
  circles = [
    element('circle', element('title', name), cx=_short(x), cy=_short(y), r=_short(r))
    for name, (x, y), r in zip(names, points, radius, strict=True)
    if np.isfinite([x, y, r]).all()
  ]
  dots = _dots(points[np.isfinite(points).all(-1)])
  return element(
    'svg',
    *circles,
    element('path', class_='centre', d=dots),
    viewBox=' '.join(map(_short, box)),
    class_=f'map {kind} many' if len(points) > MANY else f'map {kind}',
    role='img',
    aria_label='mean error of each landmark, as circles',
  )


def photograph(
  image: UInt8[np.ndarray, 'S S 3'],
  points: Float[np.ndarray, 'K 2'],
  *,
  target: Float[np.ndarray, 'K 2'],
  visible: Bool[np.ndarray, ' K'],
  label: str,
) -> Markup:
  """A picture with predicted and true landmarks, joined; the drawing is 100 units wide.

  An invisible true landmark is left out, but its prediction is drawn. See `draw.landmarks`.
  """
  predicted, true = (_in_drawing(given, image.shape[0]) for given in (points, target))
  joins = ''.join(
    f'M{_pair(a)}L{_pair(b)}' for a, b in zip(true[visible], predicted[visible], strict=True)
  )
  marks = [('join', joins), ('truth', _dots(true[visible])), ('prediction', _dots(predicted))]
  paths = [
    element('path', class_=f'{name} {part}', d=d)
    for name, d in marks
    for part in ('edge', 'fill')
    if d
  ]
  return element(
    'svg',
    _image(image),
    *paths,
    viewBox='0 0 100 100',
    class_='photograph many' if len(points) > MANY else 'photograph',
    role='img',
    aria_label=label,
  )


def match(
  source: UInt8[np.ndarray, 'S S 3'],
  target: UInt8[np.ndarray, 'S S 3'],
  query: Float[np.ndarray, 'K 2'],
  matched: Float[np.ndarray, 'K 2'],
  truth: Float[np.ndarray, 'K 2'],
  visible: Bool[np.ndarray, ' K'],
  *,
  label: str,
) -> Markup:
  """Two pictures side by side, 100 units wide each; landmarks of the first found in the second.

  Every landmark has its own colour: dots at `query` in `source` and `matched` in `target`, and a
  ring at `truth`, joined to the match. Invisible ones are left out. See `draw.matches`.
  """
  shown = np.flatnonzero(visible)
  start, found, true = (_in_drawing(given, source.shape[0]) for given in (query, matched, truth))
  found, true = (place + np.array([100.0, 0.0]) for place in (found, true))
  joins = ''.join(f'M{_pair(true[k])}L{_pair(found[k])}' for k in shown)
  below = [
    ('join edge', joins),
    ('join fill', joins),
    ('edge', _dots([*start[shown], *found[shown]])),
  ]
  marks = [
    element(
      'g',
      element('title', k),
      element('circle', cx=_short(true[k][0]), cy=_short(true[k][1]), r=2.4),
      element('path', d=_dots([start[k], found[k]])),
      stroke=f'hsl({360 * k / len(query):.0f} 95% 60%)',
    )
    for k in shown
  ]
  return element(
    'svg',
    _image(source),
    _image(target, x=100),
    *(element('path', class_=name, d=d) for name, d in below if d),
    *marks,
    viewBox='0 0 200 100',
    class_='match many' if len(query) > MANY else 'match',
    role='img',
    aria_label=label,
  )


def _image(image: UInt8[np.ndarray, 'S S 3'], *, x: int = 0) -> Markup:
  data = data_url(jpeg(image), 'image/jpeg')
  return element('image', href=data, x=x or None, width=100, height=100, preserveAspectRatio='none')


def _in_drawing(points: Float[np.ndarray, 'K 2'], side: int) -> Float[np.ndarray, 'K 2']:
  """Normalised points of a picture of `side` pixels in a drawing 100 units wide."""
  pixels = np.asarray(coords.to_pixels(points, width=side, height=side), np.float64)
  return (pixels + 0.5) * 100 / side


def jpeg(image: UInt8[np.ndarray, 'H W 3']) -> bytes:
  """A picture as a high-quality JPEG file without chroma subsampling."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=95, subsampling=0)
  return file.getvalue()


def data_url(data: bytes, kind: str) -> str:
  """A file as a data URL. kind: its MIME type, such as 'image/png'."""
  return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def tick_step(low: float, high: float, *, most: int = 6) -> float:
  """The smallest step of 1, 2 or 5 times a power of ten with at most `most` steps in the range.

  >>> tick_step(0.0, 10.0), tick_step(2.0, 2.7)
  (2.0, 0.2)
  """
  rough = (high - low) / most
  power = 10.0 ** math.floor(math.log10(rough))
  return next(step for m in (1, 2, 5, 10) if (step := m * power) >= rough * (1 - 1e-9))


def number(value: SupportsFloat) -> str:
  """A number for an axis or a sentence: short, thousands as k, millions as M.

  >>> number(0.05), number(2500), number(150000), number(2e6)
  ('0.05', '2500', '150k', '2M')
  """
  value = float(value)
  for least, unit, letter in ((1e6, 1e6, 'M'), (1e4, 1e3, 'k')):
    if least <= abs(value) < 1e9:
      return f'{value / unit:.4g}{letter}'
  return f'{value:.4g}'


def thinned(y: Num[np.ndarray, ' n'], *, stretches: int = THIN_ABOVE // 4) -> Int[np.ndarray, ' m']:
  """Indices of a long line's values to draw: each stretch's ends, extremes and a gap if any."""
  if len(y) <= 4 * stretches:
    return np.arange(len(y))
  chosen = set()
  for part in np.array_split(np.arange(len(y)), stretches):
    finite = part[np.isfinite(y[part])]
    chosen |= {part[0], part[-1], *part[~np.isfinite(y[part])][:1]}
    if len(finite):
      chosen |= {finite[y[finite].argmin()], finite[y[finite].argmax()]}
  return np.array(sorted(chosen))


def _axes(
  x_range: tuple,
  y_range: tuple,
  x_place: tuple,
  y_place: tuple,
  x_ticks: Mapping[float, str] | None,
) -> list[Markup]:
  parts = []
  for value in _ticks(*y_range):
    y = _short(_at(y_place, value))
    parts.append(element('path', class_='grid', d=f'M{LEFT} {y}H{WIDTH - RIGHT}'))
    parts.append(
      element('text', number(value), x=LEFT - 7, y=y, dy='.35em', text_anchor='end', class_='tick')
    )
  if x_ticks is None:
    x_ticks = {value: number(value) for value in _ticks(*x_range)}
  for value, label in x_ticks.items():
    x = _short(_at(x_place, value))
    parts.append(element('text', label, x=x, y=HEIGHT - 22, text_anchor='middle', class_='tick'))
  return parts


def _ticks(low: float, high: float) -> list[float]:
  step = tick_step(low, high)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def _to_ticks(low: float, high: float) -> tuple[float, float]:
  """The range widened to ticks; done twice, as a wider range may have wider steps."""
  for _ in range(2):
    step = tick_step(low, high)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
  return low, high


def _range(values: Sequence[np.ndarray]) -> tuple[float, float]:
  """The least and greatest value, widened if they are equal."""
  known = np.concatenate(values)
  if not len(known):
    raise ValueError('nothing to draw: no value is finite')
  low, high = float(known.min()), float(known.max())
  room = 0.5 * abs(low) or 0.5
  return (low, high) if high - low > 1e-9 * abs(high) else (low - room, high + room)


def _scale(source: tuple, target: tuple) -> tuple[float, float]:
  slope = (target[1] - target[0]) / (source[1] - source[0])
  return slope, target[0] - slope * source[0]


def _at(place: tuple[float, float], value: Any) -> Any:
  return place[0] * value + place[1]


def _path(line: Line, x_place: tuple, y_place: tuple) -> str:
  keep = thinned(line.y)
  points = np.stack([_at(x_place, line.x[keep]), _at(y_place, line.y[keep])], axis=-1)
  path, pen = [], 'M'
  for i, point in enumerate(points):
    if not np.isfinite(point).all():
      pen = 'M'
      continue
    alone = pen == 'M' and (i + 1 == len(points) or not np.isfinite(points[i + 1]).all())
    path.append(f'{pen}{_pair(point)}' + ('h.001' if alone else ''))
    pen = 'L'
  return ''.join(path)


def _whiskers(line: Line, x_place: tuple, y_place: tuple) -> Markup:
  """Vertical lines from the lower to the upper end, where both are known."""
  keep = np.isfinite(line.spread).all(1)
  places, ends = _at(x_place, line.x[keep]), _at(y_place, line.spread[keep])
  pieces = (
    f'M{_short(x)} {_short(low)}V{_short(high)}'
    for x, (low, high) in zip(places, ends, strict=True)
  )
  return element('path', class_=f'whisker {line.kind}', d=''.join(pieces))


def _dots(points: Iterable[np.ndarray]) -> str:
  """Points as very short lines, which round caps turn into dots of the stroke's width."""
  return ''.join(f'M{_pair(point)}h.001' for point in points)


def _pair(point: np.ndarray) -> str:
  return f'{_short(point[0])} {_short(point[1])}'


def _short(value: SupportsFloat) -> str:
  return f'{float(value):.3f}'.rstrip('0').rstrip('.')

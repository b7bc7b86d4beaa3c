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
LETTER = 7  # the width of a letter of the ticks, at most
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

  An axis of a single value has one tick, at it. Where all x are whole numbers, so are their ticks.
  A value between gaps is a dot.

  Args: x_ticks: place -> label, for an uneven axis; round numbers if absent. Raises ValueError if a
  range is not given and no value is finite.
  """
  finite = [np.isfinite(n.x) & np.isfinite(n.y) for n in lines]
  x_known = [n.x[keep] for n, keep in zip(lines, finite, strict=True)]
  y_known = [n.y[keep] for n, keep in zip(lines, finite, strict=True)]
  y_known += [n.spread[np.isfinite(n.spread)] for n in lines if n.spread is not None]
  whole = all((x == np.round(x)).all() for x in x_known)
  x_range, x_found = _span(x_known, x_range, least=1.0 if whole else 0.0)
  y_range, y_found = _span(y_known, y_range, to_ticks=True)
  y_ticks = dict(zip(y_found, axis_labels(y_found), strict=True))
  left = max(LEFT, LETTER * max(map(len, y_ticks.values())) + 9)
  if x_ticks is None:
    x_ticks = _fitting(x_found, WIDTH - RIGHT - left)
  x_place = _scale(x_range, (left, WIDTH - RIGHT))
  y_place = _scale(y_range, (HEIGHT - BOTTOM, TOP))
  drawn = [
    element(
      'path', element('title', n.label), class_=f'line {n.kind}', d=_path(n, x_place, y_place)
    )
    for n in lines
  ]
  drawn += [
    element('path', class_=f'alone line {n.kind}', d=d)
    for n in lines
    if (d := _alone(n, x_place, y_place))
  ]
  return element(
    'svg',
    *_axes(x_place, y_place, x_ticks, y_ticks, left=left),
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
  """A picture with predicted landmarks as dots and true ones as rings, joined; 100 units wide.

  An invisible true landmark is left out, but its prediction is drawn. See `draw.landmarks`.
  """
  predicted, true = (_in_drawing(given, image.shape[0]) for given in (points, target))
  joins = ''.join(
    f'M{_pair(a)}L{_pair(b)}' for a, b in zip(true[visible], predicted[visible], strict=True)
  )
  rings = _rings(true[visible], 1.9 if len(points) > MANY else 2.9)
  marks = [('join', joins), ('truth', rings), ('prediction', _dots(predicted))]
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


def axis_labels(ticks: Sequence[float]) -> list[str]:
  """Even ticks as text: in one unit, with the decimals that their step needs.

  >>> axis_labels([9000.0, 10000.0, 11000.0]), axis_labels([0.0, 0.00002, 0.00004])
  (['9k', '10k', '11k'], ['0', '2e-5', '4e-5'])
  """
  most = max(map(abs, ticks))
  power = math.floor(math.log10(most)) if most else 0
  if not -3 <= power < 9:
    letter = f'e{power}'
  else:
    power, letter = (6, 'M') if power >= 6 else (3, 'k') if power >= 4 else (0, '')
  form = '.7g'
  if len(ticks) > 1:
    form = f'.{max(0, power - math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))}f'
  return [f'{value / 10.0**power:{form}}{letter}' if value else '0' for value in ticks]


def _fitting(ticks: Sequence[float], room: int) -> dict[float, str]:
  """Ticks side by side and their labels, or every second, and so on, where all have no room."""
  labels = axis_labels(ticks)
  every = math.ceil((len(ticks) - 1) * LETTER * max(map(len, labels)) / room) or 1
  return dict(zip(ticks[::every], axis_labels(ticks[::every]), strict=True))


def _axes(
  x_place: tuple,
  y_place: tuple,
  x_ticks: Mapping[float, str],
  y_ticks: Mapping[float, str],
  *,
  left: int,
) -> list[Markup]:
  parts = []
  for value, label in y_ticks.items():
    y = _short(_at(y_place, value))
    parts.append(element('path', class_='grid', d=f'M{left} {y}H{WIDTH - RIGHT}'))
    parts.append(
      element('text', label, x=left - 7, y=y, dy='.35em', text_anchor='end', class_='tick')
    )
  for value, label in x_ticks.items():
    x = _short(_at(x_place, value))
    parts.append(element('text', label, x=x, y=HEIGHT - 22, text_anchor='middle', class_='tick'))
  return parts


def _span(
  values: Sequence[np.ndarray],
  given: tuple[float, float] | None,
  *,
  least: float = 0.0,
  to_ticks: bool = False,
) -> tuple[tuple[float, float], list[float]]:
  """The range of an axis, `given` or that of the values, and its ticks, `least` apart or more."""
  if given is None:
    low, high = _range(values)
    if high - low <= 1e-9 * abs(high):
      room = 0.5 * abs(low) or 0.5
      return (low - room, high + room), [low]
    given = _to_ticks(low, high) if to_ticks else (low, high)
  low, high = given
  step = max(least, tick_step(low, high))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return given, [i * step for i in range(first, last + 1)]


def _to_ticks(low: float, high: float) -> tuple[float, float]:
  """The range widened to ticks; done twice, as a wider range may have wider steps."""
  for _ in range(2):
    step = tick_step(low, high)
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
  return low, high


def _range(values: Sequence[np.ndarray]) -> tuple[float, float]:
  """The least and greatest value."""
  known = np.concatenate(values)
  if not len(known):
    raise ValueError('nothing to draw: no value is finite')
  return float(known.min()), float(known.max())


def _scale(source: tuple, target: tuple) -> tuple[float, float]:
  slope = (target[1] - target[0]) / (source[1] - source[0])
  return slope, target[0] - slope * source[0]


def _at(place: tuple[float, float], value: Any) -> Any:
  return place[0] * value + place[1]


def _path(line: Line, x_place: tuple, y_place: tuple) -> str:
  path, pen = [], 'M'
  for point, alone in zip(*_points(line, x_place, y_place), strict=True):
    if np.isfinite(point).all():
      path.append(f'{pen}{_pair(point)}' + ('h.001' if alone else ''))
      pen = 'L'
    else:
      pen = 'M'
  return ''.join(path)


def _alone(line: Line, x_place: tuple, y_place: tuple) -> str:
  """The dots of values between gaps."""
  points, alone = _points(line, x_place, y_place)
  return _dots(points[alone])


def _points(line: Line, x_place: tuple, y_place: tuple) -> tuple[np.ndarray, np.ndarray]:
  """The places of a line's values that are drawn, and which of them stand between gaps."""
  keep = thinned(line.y)
  points = np.stack([_at(x_place, line.x[keep]), _at(y_place, line.y[keep])], axis=-1)
  finite = np.pad(np.isfinite(points).all(-1), 1)
  return points, finite[1:-1] & ~finite[:-2] & ~finite[2:]


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


def _rings(points: Iterable[np.ndarray], radius: float) -> str:
  """Points as circles: arcs from the top nearly all the way round, closed."""
  arc = f'a{_short(radius)} {_short(radius)} 0 1 1-.01 0z'
  return ''.join(f'M{_pair(point - [0, radius])}{arc}' for point in points)


def _pair(point: np.ndarray) -> str:
  return f'{_short(point[0])} {_short(point[1])}'


def _short(value: SupportsFloat) -> str:
  return f'{float(value):.3f}'.rstrip('0').rstrip('.')

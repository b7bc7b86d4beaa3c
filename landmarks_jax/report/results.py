"""What the report says of one evaluation: error curves, landmark by landmark, pictures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from landmarks_jax import metrics
from landmarks_jax.contracts import Predictions
from landmarks_jax.report import plot
from landmarks_jax.report.markup import Markup, breakable, element

ROWS = {'mean_shape': 'Mean shape', 'random_init': 'Random init', 'trained': 'Trained'}
OTHER_COLOURS = 4
LIST_AT_MOST = 20  # so many landmarks are listed unfolded
THRESHOLDS = 161


class Row(NamedTuple):
  """One row of an evaluation, its draws pooled."""

  label: str
  kind: str  # CSS class
  distances: np.ndarray  # [draws * N, K] in percent of the scale, NaN where not visible
  images: np.ndarray  # [draws * N or fewer], the mean of each image that has a visible landmark
  landmarks: np.ndarray  # [K], the mean of each landmark, NaN for one that is never visible


def section(
  name: str,
  options: Mapping[str, Any],
  *,
  predictions: Mapping[str, Predictions],
  names: Sequence[str] | None,
  examples: Mapping[str, Any] | None,
  pictures: Mapping[str, bytes],
  log: Sequence[Mapping[str, Any]],
  scored: bool,
) -> list[Markup | None]:
  """All that is known of an evaluation; see `page.render`. scored: it has scores."""
  rows = pooled(predictions)
  parts = [_about(options, predictions)]
  if rows:
    parts += [_legend([(row.label, row.kind) for row in rows]), *_curves(rows), _numbers(rows)]
    parts += _landmarks(rows, next(iter(predictions.values())), names)
  else:
    parts.append(element('p', WITHOUT_PREDICTIONS if scored else NOT_SCORED, class_='soft'))
  parts += _over_time(name, options, log)
  if examples is not None or pictures:
    parts.append(element('h3', 'Test pictures'))
  if examples is not None:
    parts += _photographs(**examples)
  return [*parts, *sheets(pictures)]


NOT_SCORED = 'No scores yet.'
WITHOUT_PREDICTIONS = (
  'Scored before the run was resumed: the numbers were kept, the predictions behind them were not, '
  'so there are no curves here. The command "evaluate" makes them again.'
)


def pooled(predictions: Mapping[str, Predictions]) -> list[Row]:
  """The rows of an evaluation, baselines first; 'row/0', 'row/1', ... are draws of one row."""
  draws: dict[str, list[np.ndarray]] = {}
  for key, given in predictions.items():
    row = re.sub(r'/\d+$', '', key)
    draws.setdefault(row, []).append(100 * metrics.normalised_distances(given))
  order = [*(row for row in ROWS if row in draws), *(row for row in draws if row not in ROWS)]
  others = [row for row in order if row not in ROWS]
  found = []
  for row in order:
    distances = np.concatenate(draws[row])
    kind = row.replace('_', '-') if row in ROWS else f'other-{others.index(row) % OTHER_COLOURS}'
    images = _mean(distances, axis=1)
    images = images[~np.isnan(images)]
    found.append(Row(ROWS.get(row, row), kind, distances, images, _mean(distances, axis=0)))
  return found


def labels(options: Mapping[str, Any]) -> str | None:
  """How many labels an evaluation uses, in words; None where its protocol has no such option.

  >>> labels({'labels': 50, 'draws': 3}), labels({'labels': None})
  ('50 labels, 3 draws', 'all labels')
  """
  if 'labels' not in options:
    return None
  if not options['labels']:
    return 'all labels'
  draws = options.get('draws', 1)
  return f'{options["labels"]} labels' + (f', {draws} draws' if draws > 1 else '')


def pictures_of(name: str, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
  """Those called 'landmarks/<name>' or 'landmarks/<name>_<step>'."""
  pattern = re.compile(rf'landmarks/{re.escape(name)}(_\d{{8,}})?(\.png)?')
  return {key: data for key, data in pictures.items() if pattern.fullmatch(key)}


def sheets(pictures: Mapping[str, bytes]) -> list[Markup]:
  """PNG files at full width; wide ones scroll sideways on a phone."""
  parts = []
  for name, data in pictures.items():
    image = element(
      'img', src=plot.data_url(data, 'image/png'), alt=name, loading='lazy', decoding='async'
    )
    what = 'Each row is one random view of the same pictures. ' if name.startswith('views') else ''
    caption = element('figcaption', what, element('span', name, class_='mono'))
    parts.append(element('figure', element('div', image, class_='sheet'), caption))
  return parts


def history(
  log: Sequence[Mapping[str, Any]], keys: Mapping[str, tuple[str, str]], *, what: str
) -> tuple[Markup | None, Markup | None]:
  """Numbers of the log over the steps: their chart, and a note if some are not finite.

  Args: keys: of the log -> (label, CSS class). what: is measured, for the axis.
  """
  lines, notes = [], []
  for key, (label, kind) in keys.items():
    steps = np.array([line['step'] for line in log if key in line], np.float64)
    values = np.array([float(line[key]) for line in log if key in line], np.float64)
    finite = np.isfinite(values)
    if finite.any():
      lines.append(plot.Line(label, steps, values, kind))
    if not finite.all():
      first = f'{steps[~finite][0]:,.0f}'
      notes.append(f'{label}: {(~finite).sum()} of {len(values)} values are not finite, ')
      notes.append(f'the first at step {first}. ')
  note = element('p', notes, class_='soft') if notes else None
  if not lines:
    return None, note
  return element('figure', plot.chart(lines, x_label='step', y_label=what)), note


def _about(options: Mapping[str, Any], predictions: Mapping[str, Predictions]) -> Markup | None:
  data = options.get('data') or {}
  said = [options.get('protocol'), data.get('name'), labels(options)]
  for given in list(predictions.values())[:1]:
    count, landmarks = given.visible.shape
    said.append(f'{count:,} examples of {landmarks} landmarks')
    if not given.visible.all():
      said.append(f'{100 * given.visible.mean():.1f} % of them visible')
  return element('p', ' · '.join(filter(None, said)), class_='soft') if any(said) else None


def _legend(lines: Sequence[tuple[str, str]]) -> Markup:
  """How lines look: (label, CSS class) of each."""
  entries = [
    element(
      'span',
      element('svg', element('path', class_=f'line {kind}', d='M2 4H28'), viewBox='0 0 30 8'),
      label,
    )
    for label, kind in lines
  ]
  return element('div', entries, class_='legend')


def _curves(rows: Sequence[Row]) -> list[Markup]:
  """The share of landmarks, and of images, below each error; what lies beyond the plot is said."""
  # Nearly all of the best row and at least half of the worst: where the rows differ.
  best, half = (
    choose(np.nanquantile(row.distances, share) for row in rows)
    for choose, share in ((min, 0.98), (max, 0.5))
  )
  most = float(max(best, half))
  step = plot.tick_step(0.0, most or 1.0)
  limit = step * max(1, math.ceil(most / step - 1e-9))
  thresholds = np.linspace(0, limit, THRESHOLDS)
  figures, beyond = [], []
  for what, values in (
    ('landmarks', [row.distances.ravel() for row in rows]),
    ('images', [row.images for row in rows]),
  ):
    lines = [
      plot.Line(row.label, thresholds, plot.cumulative_share(v, thresholds), row.kind)
      for row, v in zip(rows, values, strict=True)
    ]
    of = 'landmarks' if what == 'landmarks' else 'images, by their mean error'
    chart = plot.chart(
      lines,
      x_label='error at most, % of the scale',
      y_label=f'% of {of}',
      x_range=(0.0, limit),
      y_range=(0.0, 100.0),
    )
    figures.append(element('figure', chart))
    shares = [f'{row.label} {100 - n.y[-1]:.1f}\u00a0%' for row, n in zip(rows, lines, strict=True)]
    beyond.append(f'of {what} {", ".join(shares)}')
  note = f'Beyond the right edge, above {plot.number(limit)}\u00a0%: {"; ".join(beyond)}.'
  return [element('div', figures, class_='charts'), element('p', note, class_='soft')]


def _numbers(rows: Sequence[Row]) -> Markup:
  heads = ['Error, %', 'mean', 'median', '90 % are below', 'largest']
  lines = []
  for row in rows:
    known = row.distances[~np.isnan(row.distances)]
    numbers = known.mean(), np.median(known), np.quantile(known, 0.9), known.max()
    lines.append([row.label, *(f'{value:.2f}' for value in numbers)])
  summary = element('summary', 'The curves in numbers')
  return element('details', summary, table(heads, lines, class_='numbers'))


def _landmarks(
  rows: Sequence[Row], given: Predictions, names: Sequence[str] | None
) -> list[Markup]:
  """Where on the object the errors are, and the error of each landmark by name."""
  count = given.visible.shape[1]
  names = [str(k) for k in range(count)] if names is None else list(names)
  if len(names) != count:
    raise ValueError(f'{len(names)} names of landmarks, but predictions of {count}')
  table = _landmark_table(rows, names)
  if count > LIST_AT_MOST:
    table = element('details', element('summary', f'All {count} landmarks by name'), table)
  return [
    element('h3', 'Each landmark'),
    element('p', MAP_CAPTION, class_='soft'),
    _maps(rows, given, names),
    table,
  ]


MAP_CAPTION = (
  'Each true landmark at its mean place, in a circle whose radius is its mean error, to scale.'
)


def _maps(rows: Sequence[Row], given: Predictions, names: Sequence[str]) -> Markup:
  seen = given.visible[..., None]
  place = _mean(np.where(seen, given.target, np.nan), axis=0)
  scale = given.scale[given.visible.any(1)].mean()
  known = ~np.isnan(place).any(-1)
  radii = [row.landmarks / 100 * scale for row in rows]
  room = max(np.nanmax(radius) for radius in radii) * 1.05 + 0.02
  low, high = place[known].min(0) - room, place[known].max(0) + room
  box = (*map(float, low), *map(float, high - low))
  figures = []
  for row, radius in zip(rows, radii, strict=True):
    titles = [f'{n}: {e:.2f} %' for n, e in zip(names, row.landmarks, strict=True)]
    picture = plot.error_map(place, radius, box=box, names=titles, kind=row.kind)
    figures.append(element('figure', picture, element('figcaption', row.label)))
  return element('div', figures, class_='maps')


def _landmark_table(rows: Sequence[Row], names: Sequence[str]) -> Markup:
  most = max(np.nanmax(row.landmarks) for row in rows)
  lines = []
  for k, name in enumerate(names):
    errors = [row.landmarks[k] for row in rows]
    dots = [
      element('i', class_=row.kind, style=f'--at:{100 * error / (most or 1):.1f}%')
      for row, error in zip(rows, errors, strict=True)
      if np.isfinite(error)
    ]
    shown = [f'{error:.2f}' if np.isfinite(error) else '–' for error in errors]
    lines.append([breakable(name), element('div', dots), *shown])
  heads = ['', f'0–{most:.1f}\u00a0%', *(row.label for row in rows)]
  return table(heads, lines, class_='landmarks', track=1)


def table(
  heads: Sequence[str],
  lines: Sequence[Sequence[Any]],
  *,
  class_: str = '',
  track: int | None = None,
) -> Markup:
  """A table; `track` is the column of the dots."""
  kinds = ['track' if i == track else None for i in range(len(heads))]
  head = [element('th', h, scope='col', class_=kind) for h, kind in zip(heads, kinds, strict=True)]
  body = [
    element('tr', [element('td', c, class_=kind) for c, kind in zip(line, kinds, strict=True)])
    for line in lines
  ]
  return element(
    'table',
    element('thead', element('tr', head)),
    element('tbody', body),
    class_=class_,
  )


def _over_time(
  name: str, options: Mapping[str, Any], log: Sequence[Mapping[str, Any]]
) -> list[Markup | None]:
  """The scores over the steps, where they were taken more than once."""
  prefix = f'{name}/{options.get("protocol")}/'
  keys = dict.fromkeys(key for line in log for key in line if key.startswith(prefix))
  steps = {key: {line['step'] for line in log if key in line} for key in keys}
  keys = [key for key in keys if not key.endswith('_std') and len(steps[key]) > 1]
  main = {f'{prefix}inter_ocular' + ('' if row == 'trained' else f'_{row}'): row for row in ROWS}
  rows = {key: (ROWS[row], row.replace('_', '-')) for key, row in main.items() if key in keys}
  drawn = [history(log, rows, what='inter-ocular error, %')] if rows else []
  for key in keys:
    if key not in rows:
      name = key.removeprefix(prefix)
      drawn.append(history(log, {key: (name, 'trained')}, what=name))
  if not drawn:
    return []
  return [
    element('h3', 'During training'),
    _legend(list(rows.values())) if rows else None,
    element('div', [chart for chart, _ in drawn], class_='charts'),
    *(note for _, note in drawn),
  ]


def _photographs(
  *,
  images: Sequence[np.ndarray],
  points: Float[np.ndarray, 'N K 2'],
  target: Float[np.ndarray, 'N K 2'],
  visible: np.ndarray,
) -> list[Markup]:
  drawn = [
    plot.photograph(
      image, points[i], target=target[i], visible=visible[i], label=f'test picture {i + 1}'
    )
    for i, image in enumerate(images)
  ]

  def mark(kind: str) -> Markup:
    path = element('path', class_=kind, d='M15 4h.01')
    return element('svg', path, viewBox='0 0 30 8', class_='mark')

  key = [
    element('span', mark('truth'), 'true'),
    element('span', mark('prediction'), 'predicted'),
  ]
  return [
    element('div', key, class_='legend'),
    element('div', drawn, class_='photographs'),
  ]


def _mean(values: np.ndarray, *, axis: int) -> np.ndarray:
  """The mean of what is not NaN; NaN where nothing is, without a warning."""
  known = ~np.isnan(values)
  count = known.sum(axis)
  total = np.where(known, values, 0).sum(axis)
  return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)

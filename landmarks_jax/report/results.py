"""The report's section on one evaluation: error curves, errors by landmark, pictures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

import numpy as np

from landmarks_jax import metrics
from landmarks_jax.contracts import Predictions
from landmarks_jax.evaluation import scoring
from landmarks_jax.evaluation.scoring import PERCENT, Unit
from landmarks_jax.report import gallery, plot, trends
from landmarks_jax.report.markup import Markup, breakable, element

OTHER_COLOURS = 4
LIST_AT_MOST = 20  # a list of more landmarks than this is folded
THRESHOLDS = 161


class Row(NamedTuple):
  """One row of an evaluation, with its draws pooled."""

  label: str
  kind: str  # CSS class
  distances: np.ndarray  # [draws * N, K] in the given unit, NaN where not visible
  images: np.ndarray  # [draws * N or fewer], the mean of each image with a visible landmark
  landmarks: np.ndarray  # [K], the mean of each landmark, NaN for one that is never visible


def section(
  name: str,
  options: Mapping[str, Any],
  *,
  predictions: Mapping[str, Predictions],
  names: Sequence[str] | None,
  errors: Mapping[str, str],
  examples: Mapping[str, Any] | None,
  matches: Mapping[str, Any] | None,
  pictures: Mapping[str, bytes],
  log: Sequence[Mapping[str, Any]],
  scores: Mapping[str, SupportsFloat],
) -> list[Markup | None]:
  """Everything known about an evaluation; see `page.render`. scores: of all evaluations."""
  scored = any(key.startswith(f'{name}/') for key in scores)
  lines = scoring.lines({name: options}, scores, errors)
  parts = [_about(options, predictions), *trends.of_scores(lines)]
  if predictions:
    parts += _details(options, predictions, names)
  else:
    parts.append(element('p', WITHOUT_PREDICTIONS if scored else NOT_SCORED, class_='soft'))
  parts += trends.over_time(name, options, log, error=errors.get(name))
  if examples is not None or matches is not None or pictures:
    parts.append(element('h3', 'Test pictures'))
  if examples is not None:
    parts += gallery.photographs(**examples)
  if matches is not None:
    parts += gallery.matches(**matches)
  return [*parts, *gallery.sheets(pictures)]


NOT_SCORED = 'No scores yet.'
WITHOUT_PREDICTIONS = (
  'Only the numbers of this evaluation are here, so there are no curves: it predicts no landmarks, '
  'or it was scored before the run was resumed, and then the command "evaluate" makes its '
  'predictions again.'
)


def _details(
  options: Mapping[str, Any],
  predictions: Mapping[str, Predictions],
  names: Sequence[str] | None,
) -> list[Markup | None]:
  """Curves and landmarks of some groups of predictions, and the other groups in numbers."""
  unit = scoring.unit(options)
  groups: dict[str, dict[str, list[Predictions]]] = {}
  for key, draws in scoring.draws_by_row(predictions).items():
    row, group = scoring.by_level(*key)
    groups.setdefault(group, {})[row] = draws
  what = {metric.name: metric.what for metric in scoring.metrics_of(options)}
  parts, others = [], {}
  for group, draws in groups.items():
    rows, heading = pooled(draws, unit=unit), what.get(group, scoring.setting(options, group))
    if group not in detailed(list(groups)):
      others[heading] = rows
      continue
    if len(groups) > 1 and heading:
      parts.append(element('h3', heading[:1].upper() + heading[1:]))
    parts += [plot.legend([(row.label, row.kind) for row in rows]), *_curves(rows, unit)]
    parts.append(_numbers({'': rows}, unit, 'The curves in numbers'))
    parts += _landmarks(rows, next(iter(draws.values()))[0], names, unit)
  return [*parts, _numbers(others, unit, 'Other parts in numbers') if others else None]


def detailed(groups: Sequence[str]) -> list[str]:
  """The groups shown with curves: all labels, else the most; no single layers, no `_paper`.

  >>> detailed(['n5', 'n100', 'n20']), detailed(['', 'n5']), detailed(['different', 'same_paper'])
  (['n100'], [''], ['different'])
  """
  whole = [group for group in groups if not scoring.LEVEL.fullmatch(group.split('/')[-1])]
  numbered = [group for group in whole if re.fullmatch(r'n\d+', group)]
  if numbered and '' in whole:
    return ['']
  if numbered:
    return [max(numbered, key=lambda group: int(group[1:]))]
  return [group for group in whole if not group.endswith('_paper')]


def pooled(draws: Mapping[str, Sequence[Predictions]], *, unit: Unit = PERCENT) -> list[Row]:
  """Pools the draws of each row, baselines first."""
  known = [row for row in trends.ROWS if row in draws]
  others = [row for row in draws if row not in trends.ROWS]
  found = []
  for row in known + others:
    distances = [unit.factor * metrics.normalised_distances(given) for given in draws[row]]
    distances = np.concatenate(distances)
    kind = trends.kind(row) if row in known else f'other-{others.index(row) % OTHER_COLOURS}'
    images, landmarks = (metrics.mean_of_known(distances, axis=axis) for axis in (1, 0))
    images = images[~np.isnan(images)]
    found.append(Row(trends.ROWS.get(row, row), kind, distances, images, landmarks))
  return found


def _about(options: Mapping[str, Any], predictions: Mapping[str, Predictions]) -> Markup | None:
  data = options.get('data') or {}
  said = [options.get('protocol'), data.get('name'), scoring.setting(options)]
  for given in list(predictions.values())[:1]:
    count, landmarks = given.visible.shape
    said.append(f'{count:,} examples of {landmarks} landmarks')
    if not given.visible.all():
      said.append(f'{100 * given.visible.mean():.1f} % of them visible')
  return element('p', ' · '.join(filter(None, said)), class_='soft') if any(said) else None


def _curves(rows: Sequence[Row], unit: Unit) -> list[Markup]:
  """The share of landmarks, and of images, below each error, with a note on those off the plot."""
  # Show nearly all of the best row and at least half of the worst: there the rows differ.
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
      x_label=f'error at most, {unit.what}',
      y_label=f'% of {of}',
      x_range=(0.0, limit),
      y_range=(0.0, 100.0),
    )
    figures.append(element('figure', chart))
    shares = [f'{row.label} {100 - n.y[-1]:.1f}\u00a0%' for row, n in zip(rows, lines, strict=True)]
    beyond.append(f'of {what} {", ".join(shares)}')
  note = f'Beyond the right edge, above {plot.number(limit)}\u00a0{unit.sign}: {"; ".join(beyond)}.'
  return [element('div', figures, class_='charts'), element('p', note, class_='soft')]


def _numbers(groups: Mapping[str, Sequence[Row]], unit: Unit, what: str) -> Markup:
  heads = [f'Error, {unit.sign}', 'mean', 'median', '90 % are below', 'largest']
  lines = []
  for group, rows in groups.items():
    for row in rows:
      known = row.distances[~np.isnan(row.distances)]
      numbers = known.mean(), np.median(known), np.quantile(known, 0.9), known.max()
      label = f'{group}: {row.label}' if group else row.label
      lines.append([label, *(f'{value:.2f}' for value in numbers)])
  numbers = element('div', table(heads, lines, class_='numbers'), class_='wide')
  return element('details', element('summary', what), numbers)


def _landmarks(
  rows: Sequence[Row], given: Predictions, names: Sequence[str] | None, unit: Unit
) -> list[Markup]:
  """Where on the object the errors are, and the error of each landmark by name."""
  count = given.visible.shape[1]
  names = [str(k) for k in range(count)] if names is None else list(names)
  if len(names) != count:
    raise ValueError(f'{len(names)} names of landmarks, but predictions of {count}')
  numbers = element('div', _landmark_table(rows, names, unit), class_='wide')
  if count > LIST_AT_MOST:
    numbers = element('details', element('summary', f'All {count} landmarks by name'), numbers)
  return [
    element('h3', 'Each landmark'),
    element('p', MAP_CAPTION, class_='soft'),
    _maps(rows, given, names, unit),
    numbers,
  ]


MAP_CAPTION = (
  'Each true landmark at its mean place, in a circle whose radius is its mean error, to scale.'
)


def _maps(rows: Sequence[Row], given: Predictions, names: Sequence[str], unit: Unit) -> Markup:
  seen = given.visible[..., None]
  place = metrics.mean_of_known(np.where(seen, given.target, np.nan), axis=0)
  scale = given.scale[given.visible.any(1)].mean()
  known = ~np.isnan(place).any(-1)
  radii = [row.landmarks / unit.factor * scale for row in rows]
  room = max(np.nanmax(radius) for radius in radii) * 1.05 + 0.02
  low, high = place[known].min(0) - room, place[known].max(0) + room
  box = (*map(float, low), *map(float, high - low))
  figures = []
  for row, radius in zip(rows, radii, strict=True):
    titles = [f'{n}: {e:.2f} {unit.sign}' for n, e in zip(names, row.landmarks, strict=True)]
    picture = plot.error_map(place, radius, box=box, names=titles, kind=row.kind)
    figures.append(element('figure', picture, element('figcaption', row.label)))
  return element('div', figures, class_='maps')


def _landmark_table(rows: Sequence[Row], names: Sequence[str], unit: Unit) -> Markup:
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
  heads = ['', f'0–{most:.1f}\u00a0{unit.sign}', *(row.label for row in rows)]
  return table(heads, lines, class_='landmarks', track=1)


def table(
  heads: Sequence[str],
  lines: Sequence[Sequence[Any]],
  *,
  class_: str = '',
  track: int | None = None,
) -> Markup:
  """A table. track: the number of the column with dots."""
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

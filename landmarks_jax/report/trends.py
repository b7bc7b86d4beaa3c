"""Scores over training steps, the number of labels, or the layers of the network."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from landmarks_jax.evaluation import scoring
from landmarks_jax.report import plot
from landmarks_jax.report.markup import Markup, element

ROWS = {row: row.replace('_', ' ').capitalize() for row in scoring.ROWS}
# (part of a study of layers, row) -> its label and CSS class.
LAYERS = {
  ('level', scoring.RANDOM_INIT): ('Random init, the level alone', 'other-1'),
  ('column', scoring.RANDOM_INIT): ('Random init, all levels so far', 'random-init'),
  ('level', scoring.TRAINED): ('Trained, the level alone', 'other-0'),
  ('column', scoring.TRAINED): ('Trained, all levels so far', 'trained'),
}

Curves = dict[tuple[str, str], dict[int, scoring.Score]]  # by (label, CSS class), then by place


def kind(row: str) -> str:
  """The CSS class of one of ROWS."""
  return row.replace('_', '-')


def of_scores(lines: Sequence[scoring.Line]) -> list[Markup]:
  """Charts of an evaluation's scores by number of labels and by layer, if there are several."""
  by_labels = _charts(_by_labels(lines), x_label='labels', place=math.log10)
  by_level = _charts(_by_level(lines), x_label='level, the coarsest first', place=float)
  parts = [element('h3', 'Against the number of labels'), *by_labels] if by_labels else []
  return parts + ([element('h3', 'Layer by layer'), *by_level] if by_level else [])


def _by_labels(lines: Sequence[scoring.Line]) -> dict[str, Curves]:
  found: dict[str, Curves] = {}
  for line in lines:
    if count := re.fullmatch(r'n(\d+)', line.group):
      curves = found.setdefault(line.metric.what, {})
      for row, score in line.scores.items():
        curves.setdefault((ROWS[row], kind(row)), {})[int(count[1])] = score
  return found


def _by_level(lines: Sequence[scoring.Line]) -> dict[str, Curves]:
  """Every level alone, and the columns; the first column is a level and the last is the whole."""
  scores = {(line.metric, line.group): line.scores for line in lines}
  levels: dict[tuple[scoring.Metric, str], set[int]] = {}
  for metric, group in scores:
    *others, last = group.split('/')
    if level := scoring.LEVEL.fullmatch(last):
      levels.setdefault((metric, '/'.join(others)), set()).add(int(level[3]))
  found = {}
  for (metric, group), numbers in levels.items():
    whole, last = (f'{group}/' if group else ''), max(numbers)
    for (part, row), look in LAYERS.items():
      names = {number: f'{whole}{part}_{number}' for number in sorted(numbers)}
      if part == 'column':
        names |= {1: f'{whole}level_1', last: group}
      curve = {n: scores.get((metric, name), {}).get(row) for n, name in names.items()}
      what = ', '.join(filter(None, [metric.what, scoring.setting({}, group)]))
      found.setdefault(what, {})[look] = {n: score for n, score in curve.items() if score}
  return found


def _charts(
  found: Mapping[str, Curves], *, x_label: str, place: Callable[[int], float]
) -> list[Markup]:
  """A chart for each entry with a curve of two or more places, and one legend."""
  figures, looks = [], {}
  for what, curves in found.items():
    lines, ticks = [], {}
    for (label, look), curve in curves.items():
      known = {x: s for x, s in sorted(curve.items()) if math.isfinite(s.value)}
      if len(known) > 1:
        values = np.array([_with_spread(score) for score in known.values()])
        x = np.array([place(x) for x in known])
        lines.append(plot.Line(label, x, values[:, 0], look, values[:, 1:]))
        ticks |= {place(x): str(x) for x in known}
        looks[label] = look
    if lines:
      chart = plot.chart(lines, x_label=x_label, y_label=what, x_ticks=ticks)
      figures.append(element('figure', chart))
  if not figures:
    return []
  return [plot.legend(list(looks.items())), element('div', figures, class_='charts')]


def _with_spread(score: scoring.Score) -> tuple[float, float, float]:
  """(value, low, high): one standard deviation, no lower than 0, else the interval, else NaN."""
  if score.std is not None:
    return score.value, max(0.0, score.value - score.std), score.value + score.std
  low, high = (np.nan if end is None else end for end in (score.low, score.high))
  return score.value, low, high


def over_time(
  name: str,
  options: Mapping[str, Any],
  log: Sequence[Mapping[str, Any]],
  *,
  error: str | None = None,
) -> list[Markup | None]:
  """The scores over the steps, if they were taken more than once. error: its title, if known."""
  protocol = options.get('protocol')
  prefix, known = f'{name}/{protocol}/', scoring.metrics_of(options, error)
  keys = dict.fromkeys(key for line in log for key in line if key.startswith(prefix))
  charts: dict[str, dict[str, str]] = {}  # what is measured -> row -> key of the log
  for key in keys:
    taken = {line['step'] for line in log if key in line}
    if len(taken) > 1 and not key.endswith(scoring.SPREADS):
      score = key.removeprefix(prefix)
      unknown = scoring.Metric(score, score), scoring.TRAINED, ''
      metric, row, group = scoring.parse(score, known) or unknown
      what = ', '.join(filter(None, [metric.what, scoring.setting({}, group)]))
      charts.setdefault(what, {})[row] = key
  drawn = [
    history(log, {rows[r]: (ROWS[r], kind(r)) for r in ROWS if r in rows}, what=what)
    for what, rows in charts.items()
  ]
  if not drawn:
    return []
  used = {row for rows in charts.values() for row in rows}
  return [
    element('h3', 'During training'),
    plot.legend([(label, kind(row)) for row, label in ROWS.items() if row in used]),
    element('div', [chart for chart, _ in drawn], class_='charts'),
    *(note for _, note in drawn),
  ]


def history(
  log: Sequence[Mapping[str, Any]], keys: Mapping[str, tuple[str, str]], *, what: str
) -> tuple[Markup | None, Markup | None]:
  """Numbers from the log over the steps: their chart, and a note if some are not finite.

  Args: keys: key of the log -> (label, CSS class). what: what is measured, for the axis.
  """
  lines, notes = [], []
  for key, (label, class_) in keys.items():
    steps = np.array([line['step'] for line in log if key in line], np.float64)
    values = np.array([float(line[key]) for line in log if key in line], np.float64)
    finite = np.isfinite(values)
    if finite.any():
      lines.append(plot.Line(label, steps, values, class_))
    if not finite.all():
      first = f'{steps[~finite][0]:,.0f}'
      notes.append(f'{label}: {(~finite).sum()} of {len(values)} values are not finite, ')
      notes.append(f'the first at step {first}. ')
  note = element('p', notes, class_='soft') if notes else None
  if not lines:
    return None, note
  return element('figure', plot.chart(lines, x_label='step', y_label=what)), note

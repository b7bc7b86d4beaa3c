"""The layers study as charts: the error and measures of each level, trained and random."""

from collections.abc import Mapping
from typing import SupportsFloat

import numpy as np

from landmarks_jax.evaluation import invariance, layers, rows
from landmarks_jax.report import plot
from landmarks_jax.report.markup import Markup, element

LABELS = {'trained': 'Trained', 'random-init': 'Random init'}  # by CSS class
CAPTION = (
  'Level 1 is the coarsest map, of the deepest layer. Solid: trained. Dashed: the same network at '
  'random initialisation.'
)


def figure(scores: Mapping[str, SupportsFloat], count: int, *, metric: rows.Metric) -> Markup:
  """Charts over levels: the metric of each level alone and of the column down to it, and measures.

  Args: scores: from `layers.score` and `layers.measure`. count: of levels. metric: of the protocol.
  A missing score is a gap; a chart without any score is left out.
  """
  levels = range(1, count + 1)
  alone = [layers.level_rows(level) for level in levels]
  columns = [layers.column_rows(level, count) for level in levels]
  charts = [
    _chart(scores, metric.name, alone, f'{metric.what}: level alone'),
    _chart(scores, metric.name, columns, f'{metric.what}: column down to the level'),
    *(
      _chart(scores, measure.name, alone, measure.what, y_range=(0.0, 1.0))
      for measure in invariance.METRICS
    ),
  ]
  caption = element('figcaption', CAPTION)
  return element('figure', element('div', list(filter(None, charts)), class_='charts'), caption)


def _chart(
  scores: Mapping[str, SupportsFloat],
  metric: str,
  names: list[tuple[str, str]],
  what: str,
  *,
  y_range: tuple[float, float] | None = None,
) -> Markup | None:
  """A chart of one number for every level. names: its rows, trained and random."""
  levels, lines = np.arange(1.0, len(names) + 1), []
  for (kind, label), of_kind in zip(LABELS.items(), zip(*names, strict=True), strict=True):
    found = [scores.get(rows.score_name(metric, row), np.nan) for row in of_kind]
    lines.append(plot.Line(label, levels, np.array(found, np.float64), kind))
  if not np.isfinite([line.y for line in lines]).any():
    return None
  axes = {'x_label': 'level, from the deepest', 'y_label': what, 'y_range': y_range}
  return element('figure', plot.chart(lines, **axes))

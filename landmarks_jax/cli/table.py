"""Scores as a table for people."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any


def of_scores(
  evals: Mapping[str, Mapping[str, Any]],
  scores: Mapping[str, float],
  errors: Mapping[str, str] = MappingProxyType({}),
) -> str:
  """A block per metric of each protocol: a line per evaluation and number of labels.

  Columns are the rows that were scored, cells 'mean +- sd over draws' or 'value [95 % interval]'.
  errors: what to call an error, by evaluation; see `scoring.error_title`.
  """
  from landmarks_jax.evaluation import scoring  # late: heavy

  blocks = []
  for table in scoring.tables(evals, scores, errors):
    lines = [['', *(row.replace('_', ' ') for row in table.rows)]]
    for line in table.lines:
      setting = scoring.setting(evals[line.evaluation], line.group)
      what = f'{line.evaluation} ({setting})' if setting else line.evaluation
      cells = (_cell(*line.scores[row]) if row in line.scores else '-' for row in table.rows)
      lines.append([what, *cells])
    blocks.append(f'{table.metric.what}\n{_aligned(lines)}')
  return '\n\n'.join(blocks)


def _cell(value: float, std: float | None, low: float | None, high: float | None) -> str:
  if std is not None:
    return f'{value:.2f} +- {std:.2f}'
  return f'{value:.2f}' if low is None else f'{value:.2f} [{low:.2f}, {high:.2f}]'


def _aligned(lines: Sequence[Sequence[str]]) -> str:
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(
      [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
    )
    for line in lines
  )

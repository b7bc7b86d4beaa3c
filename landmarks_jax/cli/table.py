"""Scores as a table for people."""

from collections.abc import Mapping
from typing import Any

ROWS = {'_mean_shape': 'mean shape', '_random_init': 'random init', '': 'trained'}


def of_scores(evals: Mapping[str, Mapping[str, Any]], scores: Mapping[str, float]) -> str:
  """One line per evaluation: its baselines and its trained row, percent, with sd over draws."""
  lines = [['inter-ocular error, %', *ROWS.values()]]
  for name, options in evals.items():
    prefix = f'{name}/{options["protocol"]}/inter_ocular'
    labels, draws = options.get('labels'), options.get('draws', 1)
    what = f'{labels} labels x {draws}' if labels else 'all labels'
    cells = [_cell(scores, prefix + row) for row in ROWS]
    lines.append([f'{name} ({what})', *cells])
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  return '\n'.join(
    '  '.join(
      [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
    )
    for line in lines
  )


def _cell(scores: Mapping[str, float], name: str) -> str:
  if name not in scores:
    return '-'
  spread = f' +- {scores[name + "_std"]:.2f}' if f'{name}_std' in scores else ''
  return f'{scores[name]:.2f}{spread}'

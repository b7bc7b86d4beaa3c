"""What the protocols' results have in common: rows to compare, and the names of scores.

A protocol names its Predictions 'row/part': a part is a draw of labels ('0'), a number of labels
and a draw ('n10/0'), or a task ('same'). A score is called `metric[_n10][_row][_std|_low|_high]`;
the trained row has no name in it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from landmarks_jax import metrics
from landmarks_jax.contracts import Predictions

MEAN_SHAPE, RANDOM_INIT, BASE, TRAINED = 'mean_shape', 'random_init', 'base', 'trained'


class Metric(NamedTuple):
  """A score that tables and reports show: its name, and what it is, with the unit."""

  name: str
  what: str
  higher_is_better: bool = False


def draws_by_row(
  predictions: Mapping[str, Predictions],
) -> dict[tuple[str, str], list[Predictions]]:
  """The draws of every (row, group), in order: 'base/n10/0' is draw 0 of ('base', 'n10').

  >>> [key for key in draws_by_row({'trained/n1/0': None, 'trained/n1/1': None, 'base/same': None})]
  [('trained', 'n1'), ('base', 'same')]
  """
  found: dict[tuple[str, str], list[Predictions]] = {}
  for name, given in predictions.items():
    row, *parts = name.split('/')
    group = '/'.join(part for part in parts if not part.isdigit())
    found.setdefault((row, group), []).append(given)
  return found


def score_name(metric: str, row: str, group: str = '') -> str:
  """What the score of a row is called.

  >>> score_name('inter_ocular', 'base', 'n10'), score_name('pck', 'trained')
  ('inter_ocular_n10_base', 'pck')
  """
  return '_'.join(filter(None, [metric, group, '' if row == TRAINED else row]))


def summarise(
  predictions: Mapping[str, Predictions],
  metric: str,
  measure: Callable[[Predictions], float],
  *,
  interval: Callable[[Predictions], tuple[float, float]] | None = None,
) -> dict[str, float]:
  """Scores of every row by name: the mean over draws with `_std`; of one draw `_low` and `_high`.

  Args: measure: of one draw. interval: its 95 % interval over pictures, where there is one.
  """
  scores = {}
  for (row, group), draws in draws_by_row(predictions).items():
    name, values = score_name(metric, row, group), [measure(draw) for draw in draws]
    scores[name] = float(np.mean(values))
    if len(values) > 1:
      scores[f'{name}_std'] = float(np.std(values, ddof=1))
    elif interval is not None:
      scores[f'{name}_low'], scores[f'{name}_high'] = map(float, interval(draws[0]))
  return scores


def confusion(
  predictions: Mapping[str, Predictions], flip_pairs: Iterable[Sequence[int]]
) -> dict[str, float]:
  """`left_right_confusion` of every row, in percent; nothing where no pairs are known."""
  pairs = tuple(tuple(pair) for pair in flip_pairs)
  if not pairs:
    return {}
  return summarise(
    predictions,
    'left_right_confusion',
    lambda draw: metrics.left_right_confusion(draw, pairs),
  )


def better(
  variants: Sequence[Mapping[str, Predictions]],
  measure: Callable[[Predictions], float],
) -> Mapping[str, Predictions]:
  """The variant of a row with the smaller mean over all its draws."""
  return min(variants, key=lambda draws: np.mean([measure(draw) for draw in draws.values()]))

"""What the protocols' results have in common: rows to compare, and the names of scores.

A protocol names its Predictions 'row/part': a part is a draw of labels ('0'), a number of labels
and a draw ('n10/0'), or a task ('same'). A score is called `metric[_n10][_row][_std|_low|_high]`;
the trained row is not named.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, SupportsFloat, TypeVar

import numpy as np

from landmarks_jax import metrics
from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data.source import Info
from landmarks_jax.runtime import by_name

MEAN_SHAPE, RANDOM_INIT, BASE, TRAINED = 'mean_shape', 'random_init', 'base', 'trained'
SAME_POSITION, MAJORITY = 'same_position', 'majority'
ROWS = (MEAN_SHAPE, SAME_POSITION, MAJORITY, RANDOM_INIT, BASE, TRAINED)  # in the order of tables
SPREADS = '_std', '_low', '_high'
NONE = MappingProxyType({})
INTER_OCULAR = 'inter-ocular error'  # what an error is called unless `error_title` knows better
LEVEL = re.compile(r'(random_)?((?:level|column)_(\d+))')  # a row of the study `layers`
ROW_END = re.compile(rf'_({"|".join(ROWS)}|{LEVEL.pattern})$')  # of the name of a score
Described, Measured = TypeVar('Described'), TypeVar('Measured')


class Metric(NamedTuple):
  """A score that tables and reports show: its name, and what it is, with the unit."""

  name: str
  what: str
  higher_is_better: bool = False


CONFUSION = Metric('left_right_confusion', 'landmarks nearer to their mirrored partner, %')


class Unit(NamedTuple):
  """The unit in which reports give distances from `metrics.normalised_distances`."""

  factor: float
  sign: str
  what: str


PERCENT = Unit(100.0, '%', '% of the scale')  # unless a protocol states its UNIT


class Score(NamedTuple):
  """A number of a table: a mean over draws with its `std`, or a value with its interval."""

  value: float
  std: float | None = None
  low: float | None = None
  high: float | None = None


class Line(NamedTuple):
  """A line of a table: the scores of an evaluation by one metric, for one group of predictions."""

  evaluation: str
  metric: Metric
  group: str  # such as 'n10', 'paper' or 'level_2', or ''
  scores: dict[str, Score]  # by row, in the order of ROWS
  names: frozenset[str]  # the full names of the numbers in it


class Table(NamedTuple):
  """Lines of one metric of one protocol, and which rows they have."""

  metric: Metric
  rows: tuple[str, ...]  # of ROWS
  lines: list[Line]


def draws_by_row(predictions: Mapping[str, Any]) -> dict[tuple[str, str], list[Any]]:
  """The draws of every (row, group), in order: 'base/n10/0' is draw 0 of ('base', 'n10').

  >>> [key for key in draws_by_row({'trained/n1/0': None, 'trained/n1/1': None, 'base/same': None})]
  [('trained', 'n1'), ('base', 'same')]
  """
  found: dict[tuple[str, str], list[Any]] = {}
  for name, given in predictions.items():
    row, *parts = name.split('/')
    group = '/'.join(part for part in parts if not part.isdigit())
    found.setdefault((row, group), []).append(given)
  return found


def score_name(metric: str, row: str, group: str = '') -> str:
  """What the score of a row is called.

  >>> score_name('inter_ocular', 'base', 'n10'), score_name('pck', 'trained')
  ('inter_ocular_n10_base', 'pck')

  Raises ValueError for a row that is none of ROWS: it would be read as a group of the trained row;
  and as `check_group` does.
  """
  check_group(group)
  if row not in ROWS and not LEVEL.fullmatch(row):
    raise ValueError(f'row {row!r} of a protocol: expected one of {", ".join(ROWS)}')
  return '_'.join(filter(None, [metric, group, '' if row == TRAINED else row]))


def check_group(group: str, *, what: str = 'group') -> None:
  """Raises ValueError for a group of a protocol whose scores `parse` would read as those of a row.

  what: the word for it in the message.
  """
  row = ROW_END.search(f'_{group}')
  ends = [end for end in SPREADS if f'_{group}'.endswith(end)] + ([row[0]] if row else [])
  if ends:
    reserved = ', '.join((*ROWS, *(end[1:] for end in SPREADS), 'level_N', 'column_N'))
    raise ValueError(
      f'{what} {group!r}: the name of its score would end in {ends[0]!r} and be read as that of '
      f'another one; rename it or leave it out. No name can be one of these, or end in _ and one: '
      f'{reserved}'
    )


def by_level(row: str, group: str) -> tuple[str, str]:
  """Rows of a study of layers as groups of the trained and the random row; others unchanged.

  >>> by_level('random_level_2', 'n10'), by_level('base', 'n10')
  (('random_init', 'n10/level_2'), ('base', 'n10'))
  """
  found = LEVEL.fullmatch(row)
  if found is None:
    return row, group
  return RANDOM_INIT if found[1] else TRAINED, '/'.join(filter(None, [group, found[2]]))


def parse(name: str, known: Iterable[Metric]) -> tuple[Metric, str, str] | None:
  """(metric, row, group) of a name from `score_name`, see `by_level`; None for an unknown metric.

  >>> parse('pck_n10_base', [Metric('pck', 'parts, %')])
  (Metric(name='pck', what='parts, %', higher_is_better=False), 'base', 'n10')
  """
  fitting = [metric for metric in known if f'{name}_'.startswith(f'{metric.name}_')]
  if not fitting:
    return None
  metric = max(fitting, key=lambda metric: len(metric.name))  # 'pck_paper' is not 'pck' of 'paper'
  rest = name.removeprefix(metric.name)
  named = ROW_END.search(rest)
  row = named[1] if named else TRAINED
  return metric, *by_level(row, rest.removesuffix(f'_{row}').removeprefix('_'))


def error_title(info: Info) -> str:
  """What tables call an error on this dataset: they say what it is divided by.

  Two eyes are those that are each other's mirror image, not the corners of one.
  """
  if isinstance(info.scale, str):
    return f'error / {info.scale}'
  first, second = (info.names[i] for i in info.scale)
  mirrored = set(info.scale) in map(set, info.flip_pairs)
  if mirrored and all('eye' in name.lower().replace('eyebrow', '') for name in (first, second)):
    return INTER_OCULAR
  return f'error / distance of {first} and {second}'


def metrics_of(options: Mapping[str, Any], error: str | None = None) -> tuple[Metric, ...]:
  """`stated_metrics` of an evaluation, and CONFUSION; nothing where its protocol has none.

  error: what to call an error, from `error_title`.
  """
  known = stated_metrics(options)
  if error is not None:
    known = tuple(m._replace(what=m.what.replace(INTER_OCULAR, error)) for m in known)
  return (*known, CONFUSION) if known else ()


def stated_metrics(options: Mapping[str, Any]) -> tuple[Metric, ...]:
  """METRICS of the protocol that an evaluation studies (`of`), if any, then of its own."""
  return tuple(m for module in _modules(options) for m in getattr(module, 'METRICS', ()))


def unit(options: Mapping[str, Any]) -> Unit:
  """UNIT of the protocol that made an evaluation's predictions, else PERCENT."""
  protocol = next(iter(_modules(options)), None)
  return getattr(protocol, 'UNIT', PERCENT)


def _modules(options: Mapping[str, Any]) -> list[ModuleType]:
  """The protocol that an evaluation studies, if any, and its own; without those that are none."""
  found = []
  for name in (options.get('of'), options.get('protocol')):
    with contextlib.suppress(ValueError):
      found.append(by_name.module('evaluation', 'run', str(name), fault=''))
  return found


def lines(
  evals: Mapping[str, Mapping[str, Any]],
  scores: Mapping[str, SupportsFloat],
  errors: Mapping[str, str] = NONE,
) -> list[Line]:
  """The scores as tables show them: by evaluation, then by metric, then in the order given.

  Args: evals: options by name, of which only `protocol` is used. scores: by full name,
  '<eval>/<protocol>/<score_name>' and one of SPREADS. Scores of no evaluation here, or of none of
  its METRICS, are left out. errors: `error_title` of each evaluation's pictures, where known.
  """
  found = []
  for evaluation, options in evals.items():
    protocol = options.get('protocol')
    prefix, known = f'{evaluation}/{protocol}/', metrics_of(options, errors.get(evaluation))
    names: dict[tuple[Metric, str], dict[str, str]] = {}
    for full in scores:
      score = parse(full.removeprefix(prefix), known) if full.startswith(prefix) else None
      if score is not None and not full.endswith(SPREADS):
        metric, row, group = score
        names.setdefault((metric, group), {})[row] = full
    for metric, group in sorted(names, key=lambda key: known.index(key[0])):
      by_row = {row: names[metric, group][row] for row in ROWS if row in names[metric, group]}
      used = (name + end for name in by_row.values() for end in ('', *SPREADS))
      cells = {row: _score(scores, name) for row, name in by_row.items()}
      given = frozenset(name for name in used if name in scores)
      found.append(Line(evaluation, metric, group, cells, given))
  return found


def _score(scores: Mapping[str, SupportsFloat], name: str) -> Score:
  full = (name + end for end in ('', *SPREADS))
  return Score(*(float(scores[key]) if key in scores else None for key in full))


def tables(
  evals: Mapping[str, Mapping[str, Any]],
  scores: Mapping[str, SupportsFloat],
  errors: Mapping[str, str] = NONE,
) -> list[Table]:
  """`lines`, in one table per metric and protocol."""
  found: dict[tuple[str, Metric], list[Line]] = {}
  for line in lines(evals, scores, errors):
    found.setdefault((evals[line.evaluation]['protocol'], line.metric), []).append(line)
  return [
    Table(metric, tuple(row for row in ROWS if any(row in line.scores for line in part)), part)
    for (_, metric), part in found.items()
  ]


def setting(options: Mapping[str, Any], group: str = '') -> str:
  """What a line shows of an evaluation, in words: its part, and the number of labels x draws.

  >>> setting({'labels': (1, 10), 'draws': 3}, 'n10'), setting({'labels': None}, 'paper')
  ('10 labels x 3', 'paper, all labels')
  """
  parts = [part for part in group.split('/') if part]
  count = next((part[1:] for part in parts if re.fullmatch(r'n\d+', part)), None)
  said = [part.replace('_', ' ') for part in parts if part != f'n{count}']
  labels = count or options.get('labels')
  if labels:
    several = isinstance(labels, (list, tuple))
    numbers = ', '.join(map(str, labels)) if several else str(labels)
    draws = options.get('draws', 1)
    words = '1 label' if numbers == '1' else f'{numbers} labels'
    said.append(words if draws == 1 else f'{words} x {draws}')
  elif 'labels' in options:
    said.append('all labels')
  return ', '.join(said)


def summarise(
  predictions: Mapping[str, Predictions],
  metric: str,
  measure: Callable[[Predictions], float],
  *,
  interval: Callable[[Predictions], tuple[float, float]] | None = None,
) -> dict[str, float]:
  """Scores of every row by name: the mean over draws with `_std`; for one draw `_low` and `_high`.

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


def error_interval(predictions: Predictions) -> tuple[float, float]:
  """The 95 % interval over pictures of `metrics.inter_ocular_error`, in percent."""
  low, high = metrics.bootstrap_interval(metrics.normalised_distances(predictions))
  return 100 * low, 100 * high


def confusion(
  predictions: Mapping[str, Predictions], flip_pairs: Iterable[Sequence[int]]
) -> dict[str, float]:
  """`left_right_confusion` of every row, in percent, over the pairs that its pictures show."""

  def shown(draws: Iterable[Predictions]) -> list[tuple[int, ...]]:
    seen = np.concatenate([draw.visible for draw in draws])
    return [tuple(pair) for pair in flip_pairs if seen[:, list(pair)].all(1).any()]

  flip_pairs, found = list(flip_pairs), {}
  for key, draws in draws_by_row(predictions).items():
    if pairs := shown(draws):
      part = {'/'.join(filter(None, [*key, str(i)])): draw for i, draw in enumerate(draws)}
      found |= summarise(
        part, 'left_right_confusion', lambda d, pairs=pairs: metrics.left_right_confusion(d, pairs)
      )
  return found


def compare(
  describe: Callable[[Describer], Described],
  predict: Callable[[Described], Mapping[str, Predictions]],
  describer: Describer,
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None,
  baselines: Mapping[str, Predictions] | None,
  measure: Callable[[Predictions], float],
  mean_shape: Callable[[Described], Mapping[str, Predictions]] | None = None,
) -> dict[str, Predictions]:
  """The predictions of a protocol for every row, by 'row/part'.

  Args:
    describe: what the protocol keeps of a describer, as in `measured`. predict: the predictions
      from that, by part.
    random_init, base, baselines: as in `regression.run`; with baselines only `describer` is new.
    measure: smaller for the better variant of the untrained network, in the mean over its parts.
    mean_shape: the row of that name, where the protocol has one, from the labels among what the
      trained row keeps.
  """
  new = baselines is None
  found = measured(
    describe,
    predict,
    describer,
    random_init=random_init if new else {},
    base=base if new else None,
    quality=lambda parts: -np.mean([measure(draw) for draw in parts.values()]),
    blind={MEAN_SHAPE: mean_shape} if new and mean_shape is not None else {},
  )
  kept = {k: v for k, v in (baselines or {}).items() if not k.startswith(TRAINED)}
  return {f'{row}/{part}': p for row, parts in found.items() for part, p in parts.items()} | kept


def measured(
  describe: Callable[[Describer], Described],
  measure: Callable[[Described], Measured],
  describer: Describer,
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  quality: Callable[[Measured], SupportsFloat],
  blind: Mapping[str, Callable[[Described], Measured]] = NONE,
) -> dict[str, Measured]:
  """What is measured of every row, by row: of the untrained variants, the one of best quality.

  Args:
    describe: what a protocol keeps of a describer, such as the features of its pictures. It is
      dropped before the next one is described, so that memory holds the features of one row.
    measure: of what was kept. random_init, base: as in `regression.run`.
    quality: of what was measured, larger for the better variant.
    blind: rows that see no picture, from the labels among what the trained row keeps.
  """
  described = describe(describer)
  found = {TRAINED: measure(described)}
  found |= {row: of_labels(described) for row, of_labels in blind.items()}
  del described
  if random_init:
    variants = (measure(describe(variant)) for variant in random_init.values())
    found[RANDOM_INIT] = max(variants, key=quality)
  if base is not None:
    found[BASE] = measure(describe(base))
  return found

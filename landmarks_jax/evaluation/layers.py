"""What each layer knows: a protocol on every level, and how invariant and equivariant each is.

Levels are counted from the top, as the paper's hypercolumn grows (specification section 3): level_1
is the coarsest map, of the deepest layer, column_2 the two coarsest together, and the column of all
levels is the describer itself, the row 'trained'. The claim to measure: invariance emerges layer by
layer, and what it costs in equivariance is recovered by the finer levels of the column.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, invariance, scoring
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.runtime import by_name

METRICS = invariance.METRICS  # besides those of the protocol
RANDOM = 'random_'  # before the level or column of an untrained network


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  of: str = 'regression',
  random: bool = False,
  measured: int = 200,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  test: str = 'test',
  **others: Any,
) -> dict[str, Predictions]:
  """Predictions 'level_1/0', ..., 'column_2/0', ... beside those of the protocol, 'trained/0', ...

  Args:
    of: a protocol whose scores are all of the points that it predicts: regression, matching, pck,
      nearest, or one of your own.
    random: also levels and columns of the untrained network, 'random_level_1/0', ..., each of its
      better variant.
    measured: how many pictures `measure` uses, which takes the same options.
    random_init, base, baselines, margin, test, others: of the protocol.
  """
  protocol, options = _protocol(of), {'margin': margin, 'test': test} | others
  whole = {'random_init': random_init, 'base': base, 'baselines': baselines}
  found = dict(protocol.run(describer, open_split, **whole, **options))
  side = features.seen_side(open_split(test), margin)
  variants = random_init if random and baselines is None else {}
  prefixes = {scoring.TRAINED: '', scoring.RANDOM_INIT: RANDOM}
  for name, (start, stop) in _parts(len(level_sizes(describer, side))).items():
    part = functools.partial(sliced, start=start, stop=stop)
    untrained = {variant: part(given) for variant, given in variants.items()}
    done = protocol.run(part(describer), open_split, random_init=untrained, **options)
    for key, predictions in done.items():
      row, task = key.split('/', 1)
      if row in prefixes:
        found[f'{prefixes[row]}{name}/{task}'] = predictions
  return found


def check(
  open_split: Callable[[str], Source],
  *,
  of: str = 'regression',
  random: bool = False,
  measured: int = 200,
  **others: Any,
) -> None:
  """Raises ValueError for what `run` and `measure` cannot do, from the sizes of the sets alone."""
  if measured < 2:
    raise ValueError(f'measured={measured}: expected at least 2 pictures, to tell apart')
  _protocol(of).check(open_split, **others)


def extends(of: str) -> Callable:
  """The function whose options the study of a protocol accepts besides its own."""
  protocol = _protocol(of)
  return getattr(protocol, 'EXTENDS', protocol.run)


def score(
  predictions: Mapping[str, Predictions],
  *,
  of: str,
  flip_pairs: Sequence[Sequence[int]] = (),
) -> dict[str, float]:
  """The protocol's scores of every row: inter_ocular_level_1, inter_ocular_column_2, ...

  of: the protocol, as in `run`.
  """
  return _protocol(of).score(predictions, flip_pairs=flip_pairs)


def measure(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  measured: int = 200,
  margin: int = 0,
  seed: int = 0,
  test: str = 'test',
  batch_size: int = 64,
  spread: Spread = ALONE,
  **others: Any,
) -> dict[str, float]:
  """The measures of evaluation/invariance.py of each level: 'equivariance_level_1', '..._low', ...

  Args:
    random_init: variants of the untrained network; the last, which has calibrated statistics if
      any has, gives 'equivariance_random_level_1', ...
    measured: at most this many test pictures, evenly spread over the set.
    margin, seed, batch_size, spread: see `invariance.distances`.
    others: options of `run` that are not used here.

  `_low` and `_high` are the 95 % interval over pairs of pictures.
  """
  pairs = invariance.opposite_pairs(open_split(test), measured)
  options = {'margin': margin, 'seed': seed, 'batch_size': batch_size, 'spread': spread}
  networks, found = [('', describer)], {}
  networks += [(RANDOM, given) for given in list(random_init.values())[-1:]]
  for prefix, network in networks:
    distances = invariance.distances(network, pairs, **options)
    for level, i in np.ndindex(distances.shape[1:3]):
      near, far = distances[:, level, i].T
      name = scoring.score_name(invariance.METRICS[i].name, f'{prefix}level_{level + 1}')
      found[name] = float(invariance.share(near.mean(), far.mean()))
      found[f'{name}_low'], found[f'{name}_high'] = invariance.interval(near, far)
  return found


def level_sizes(describer: Describer, side: int) -> tuple[tuple[int, int], ...]:
  """(side, channels) of every level for pictures of `side` pixels; nothing is computed."""
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
  pyramid = jax.eval_shape(lambda v, x: describer.apply(v, x, None), describer.variables, image)
  return tuple((level.shape[1], level.shape[3]) for level in pyramid)


def sliced(describer: Describer, *, start: int, stop: int) -> Describer:
  """Some levels of a describer."""
  return Describer(describer.variables, features.Levels(describer.apply, start, stop))


def _protocol(of: str) -> ModuleType:
  also = 'check', 'score', 'METRICS'
  found = by_name.module('evaluation', 'run', of, fault=f'of={of!r} is not known', also=also)
  if hasattr(found, 'measure') or getattr(found, 'DISCOVERS', False):
    raise ValueError(
      f'of={of!r}: expected a protocol whose scores are all of points that it predicts from '
      'features, such as regression, matching or pck'
    )
  return found


def _parts(count: int) -> dict[str, tuple[int, int]]:
  """First and end level of every row, for `count` levels; the whole column is not a part."""
  levels = {f'level_{i + 1}': (i, i + 1) for i in range(count)}
  return levels | {f'column_{i}': (0, i) for i in range(2, count)}

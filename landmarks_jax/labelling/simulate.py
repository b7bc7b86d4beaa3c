"""How much choosing pictures helps: an oracle gives true labels to chosen and random pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from landmarks_jax import metrics
from landmarks_jax.contracts import Batch, Predictions
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, few_shot
from landmarks_jax.evaluation.regression import WARP
from landmarks_jax.evaluation.spread import ALONE
from landmarks_jax.inference import fitting
from landmarks_jax.inference.head import Head
from landmarks_jax.inference.model import Model
from landmarks_jax.labelling import learner, order

CHOSEN, RANDOM = 'chosen', 'random'
MORE = 1.5  # times as many random labels: matching them means that two thirds suffice


class Curve(NamedTuple):
  """Errors of one way of picking pictures, in percent of the normaliser."""

  counts: tuple[int, ...]
  errors: Float[np.ndarray, 'draws counts']

  def at(self, count: int) -> Float[np.ndarray, ' draws']:
    """The errors of every draw with this many labels."""
    return self.errors[:, self.counts.index(count)]

  def needed(self, error: float) -> float:
    """The number of labels at which the mean curve falls to an error; nan outside its range.

    Linear in the logarithm of the number, on the running minimum: more labels cannot hurt.
    """
    mean = np.minimum.accumulate(self.errors.mean(0))
    if not mean[-1] <= error <= mean[0]:
      return float('nan')
    return float(np.exp(np.interp(-error, -mean, np.log(self.counts))))


def simulate(
  model: Model,
  train: Source,
  test: Source,
  *,
  counts: Sequence[int] = (5, 10, 20, 50),
  draws: int = 5,
  copies: int = learner.COPIES,
  report: Callable[[str], None] = print,
) -> dict[str, Curve]:
  """Errors on `test` by number of labelled pictures of `train`, CHOSEN and RANDOM.

  Each draw takes a random half of `train`, from which both ways pick. Random picks are also tried
  with MORE times as many labels. The fit is that of `FrozenLearner`, with `copies` warped copies of
  each picture. Raises ValueError for more labels than pictures.
  """
  half = len(train) // 2
  more = sorted({*counts, *(round(MORE * count) for count in counts)})
  if not 0 < max(more) <= half or draws < 1:
    raise ValueError(f'counts={tuple(counts)}, {draws=}: half of the pictures are {half}')
  sets = {}
  for name, source in (('train', train), ('test', test)):
    batches = ALONE.batches(source, batch_size=learner.BATCH)
    sets[name] = features.gather(model.describer, batches, margin=model.margin)
    report(f'{name}: {len(sets[name].index):,} pictures described')
  oracle = _Oracle(model, train, sets['train'], copies)
  looks = order.poses(learner.semantic(sets['train'].pyramid))
  errors: dict[str, list[list[float]]] = {CHOSEN: [], RANDOM: []}
  for draw in range(draws):
    pool = few_shot.draw_labels(len(looks), len(looks) // 2, draw)
    for way, numbers in ((CHOSEN, tuple(counts)), (RANDOM, more)):
      picked = _picked(way, looks[pool], max(numbers), draw)
      heads = [oracle.head(pool[picked(number)]) for number in numbers]
      errors[way].append([_error(head, sets['test']) for head in heads])
      listed = ', '.join(f'{n}: {e:.2f}' for n, e in zip(numbers, errors[way][-1], strict=True))
      report(f'draw {draw}, {way}: {listed}')
  return {
    CHOSEN: Curve(tuple(counts), np.array(errors[CHOSEN])),
    RANDOM: Curve(tuple(more), np.array(errors[RANDOM])),
  }


def table(curves: Mapping[str, Curve]) -> str:
  """The curves as a text table."""
  chosen, random = curves[CHOSEN], curves[RANDOM]
  lines = [f'{"labels":>6}  {"chosen":>14}  {"random":>14}  {"random x 1.5":>14}  needed of random']
  for count in chosen.counts:
    more = round(MORE * count)
    values = (chosen.at(count), random.at(count), random.at(more))
    cells = [f'{value.mean():6.2f} ± {value.std():4.2f}' for value in values]
    needed = random.needed(float(values[0].mean()))
    share = f'{count / needed:.2f}' if np.isfinite(needed) else 'outside'
    lines.append('  '.join([f'{count:>6}', *(f'{cell:>14}' for cell in cells), f'{share:>8}']))
  return '\n'.join(lines)


class _Oracle:
  """Heads fitted to true labels of some pictures; warped copies are described once and cached."""

  def __init__(self, model: Model, source: Source, described: Batch, copies: int) -> None:
    self._model, self._source, self._described, self._number = model, source, described, copies
    self._copies: dict[int, Batch] = {}

  def head(self, rows: Int[np.ndarray, ' n']) -> Head:
    """The head fitted to these rows of the described pictures."""
    own = jax.tree.map(lambda x: x[rows], self._described)
    parts = [self._warped(int(index)) for index in own.index] if self._number else []
    labelled = jax.tree.map(lambda *arrays: np.concatenate(arrays), own, *parts)
    flip_pairs = self._source.info.flip_pairs if parts else ()
    options = {'side': self._model.side, 'flip_pairs': flip_pairs, 'size': learner.SIZE}
    return fitting.fit_ridge(labelled, **options)[0]

  def _warped(self, index: int) -> Batch:
    if index not in self._copies:
      self._copies[index] = features.gather_warped(
        self._model.describer,
        self._source,
        np.array([index]),
        copies=self._number,
        warp=WARP,
        flip_pairs=self._source.info.flip_pairs,
        margin=self._model.margin,
        batch_size=self._number,
      )
    return self._copies[index]


def _picked(
  way: str, looks: Float[np.ndarray, 'N D'], most: int, draw: int
) -> Callable[[int], Int[np.ndarray, ' n']]:
  """A function from a number of labels to rows; smaller picks are subsets of larger ones."""
  if way == RANDOM:
    return lambda number: few_shot.draw_labels(len(looks), number, draw, seed=1)
  chosen = order.suggest(looks, [], np.ones(len(looks), bool), count=most)
  return lambda number: np.array(chosen[:number])


def _error(head: Head, test: Batch) -> float:
  points, _ = head.look_at(test.pyramid, step=learner.LOOK)
  found = Predictions(points, test.points, test.visible, test.scale, test.index)
  return metrics.inter_ocular_error(found)

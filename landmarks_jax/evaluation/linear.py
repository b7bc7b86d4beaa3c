"""How well a linear map of the frozen features predicts classes: top-1 accuracy.

The features of a picture are the mean of the describer's coarsest map, as usual. The classifier is
logistic regression at its minimum (`models.classifier`), on unaugmented pictures: the published one
takes gradient steps on random crops of them (specification scrl, section 5).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from landmarks_jax import metrics
from landmarks_jax.contracts import Array, Describer, Predictions, Pyramid
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, scoring
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.models import classifier

METRICS = (scoring.Metric('top1', 'pictures classified correctly, %', True),)


class Pooled(NamedTuple):
  """The features of every picture of a split, and its class."""

  features: Float[np.ndarray, 'N C']
  label: Int[np.ndarray, ' N']


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, Predictions]:
  """Predicts nothing: classes are not points; scores are in `measure`, with the same options."""
  return {}


def check(
  open_split: Callable[[str], Source],
  *,
  train: str = 'train',
  test: str = 'test',
  **others: Any,
) -> None:
  """Raises ValueError for what `measure` cannot do."""
  for split in (train, test):
    if 'label' not in features.first_readable(open_split(split)):
      raise ValueError(
        f'linear needs the class of every picture; the split {split!r} has none. '
        'A folder has them with data.classes=True'
      )


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """Nothing, see `run`."""
  return {}


def measure(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  margin: int = 0,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, float]:
  """top1 in percent by row, with `_low` and `_high`, the 95 % interval over test pictures.

  Args:
    random_init: variants of the untrained network; the better one is the row.
    base: the frozen network that the describer is built on; its own row.
    margin: pixels cut from each side of the frame.
    train, test: names of the splits.

  The row majority predicts for every picture the class that most training pictures have.
  """
  sources = open_split(train), open_split(test)
  options = {'margin': margin, 'batch_size': batch_size, 'spread': spread}

  def describe(describer: Describer) -> list[Pooled]:
    return [pooled(describer, source, **options) for source in sources]

  def told_right(given: list[Pooled]) -> Float[np.ndarray, 'N 1']:
    (known, label), (asked, truth) = given
    head = classifier.fit(known, label, classes=int(label.max()) + 1)
    return _percent(classifier.predict(head, asked) == truth)

  def majority(given: list[Pooled]) -> Float[np.ndarray, 'N 1']:
    labels, truth = (split.label for split in given)
    return _percent(np.bincount(labels).argmax() == truth)

  right = scoring.measured(
    describe,
    told_right,
    describer,
    random_init=random_init,
    base=base,
    quality=np.mean,
    blind={scoring.MAJORITY: majority},
  )
  found = {}
  for row, values in right.items():
    name = scoring.score_name('top1', row)
    found[name] = float(values.mean())
    found[f'{name}_low'], found[f'{name}_high'] = metrics.bootstrap_interval(values)
  return found


def pooled(describer: Describer, source: Source, **options: Any) -> Pooled:
  """The mean of the coarsest map of every readable picture, and its class."""
  spread, batch_size = options['spread'], options.pop('batch_size')
  means = Describer(describer.variables, _mean_of_top(describer.apply))
  batches = spread.batches(source, batch_size=batch_size)
  described = features.gather(means, batches, dtype=jnp.float32, **options)
  return Pooled(described.pyramid[0][:, 0, 0], described.label)


@functools.lru_cache(maxsize=16)  # one function for all weights, so that it compiles once
def _mean_of_top(apply: Callable) -> Callable[..., Pyramid]:
  def describe(variables: Any, image: Array, size: int | None) -> Pyramid:
    top = apply(variables, image, size)[0]
    return (top.astype(jnp.float32).mean((1, 2), keepdims=True),)

  return describe


def _percent(right: np.ndarray) -> Float[np.ndarray, 'N 1']:
  return 100.0 * np.asarray(right, float)[:, None]

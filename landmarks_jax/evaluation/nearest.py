"""Landmarks found by their nearest label: only one vector for each is learnt from annotations.

The vector is fitted on the training split and found again in the test split as the position with
the largest product (`models.prototypes`; Thewlis et al. 2017, tables 1 to 3). Rows are those of
`regression`, but without copies of labelled pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from landmarks_jax import metrics
from landmarks_jax.contracts import Batch, Describer, Predictions
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import BadImage, Source, evenly_apart
from landmarks_jax.evaluation import features, few_shot, probing, regression, scoring
from landmarks_jax.evaluation.scoring import Metric
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.models import prototypes

METRICS = (Metric('error', 'distance to the landmark, % of the scale'),)
MOST = 2000  # pictures to learn from where no number is given


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  labels: int | None = None,
  draws: int = 1,
  seed: int = 0,
  size: int | None = None,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, Predictions]:
  """Predictions of every row and draw: 'trained/0', 'random_init/0', 'mean_shape/0', ...

  Args:
    random_init: variants of the untrained network; the better one is the row.
    base: the frozen network that the describer is built on; its own row.
    baselines: rows of an earlier run with the same options, reused instead of computed.
    margin: pixels cut from each side of the frame.
    labels: learn from this many pictures, drawn `draws` times (`few_shot.draw_labels`, with
      `seed`); None takes all, or MOST of them, evenly spaced. Unreadable ones are left out.
    size: side of the grid of positions; None is the pictures' own.
    train, test: names of the splits.

  The label maps of both splits are kept in float32 (`gather`), those of one row at a time.
  """
  check(open_split, labels=labels, draws=draws, seed=seed, size=size, train=train, test=test)
  count = len(open_split(train))
  parts = {'0': evenly_apart(count, min(count, MOST))}
  if labels is not None:
    parts = few_shot.label_lists(count, labels, draws, seed=seed)
  learnt = Subset(open_split(train), np.unique(np.concatenate(list(parts.values()))))
  sources = learnt, open_split(test)
  side = features.seen_side(learnt, margin)

  def describe(describer: Describer) -> list[Batch]:
    options = {'margin': margin, 'batch_size': batch_size, 'spread': spread}
    return [gather(describer, source, **options) for source in sources]

  def predict(described: list[Batch]) -> dict[str, Predictions]:
    labelled, target = described
    return {
      part: nearest(_of_pictures(labelled, indices), target, side=side, size=size)
      for part, indices in parts.items()
    }

  def mean_shape(described: list[Batch]) -> dict[str, Predictions]:
    labelled, target = described
    rows = {part: np.flatnonzero(np.isin(labelled.index, some)) for part, some in parts.items()}
    return {part: regression.mean_shape(labelled, target, some) for part, some in rows.items()}

  return scoring.compare(
    describe,
    predict,
    describer,
    random_init=random_init,
    base=base,
    baselines=baselines,
    measure=metrics.inter_ocular_error,
    mean_shape=mean_shape,
  )


def check(
  open_split: Callable[[str], Source],
  *,
  labels: int | None = None,
  draws: int = 1,
  seed: int = 0,
  size: int | None = None,
  train: str = 'train',
  test: str = 'test',
  **others: Any,
) -> None:
  """Raises ValueError for what `run` cannot do, from the sizes of the sets alone."""
  if size is not None and size < 2:
    raise ValueError(f'size={size}: expected a grid of at least 2 positions a side')
  features.check_landmarks(open_split, train, test, protocol='nearest')
  few_shot.check(len(open_split(train)), labels, draws, seed=seed)


def nearest(labelled: Batch, target: Batch, *, side: int, size: int | None) -> Predictions:
  """Fits a vector to every landmark of labelled maps and finds it in those of `target`."""
  head = prototypes.fit(labelled.pyramid, labelled.points, labelled.visible, side=side, size=size)
  return probing.predict(head, target)


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """error and left_right_confusion, both in percent, by row; see `scoring`."""
  errors = scoring.summarise(
    predictions, 'error', metrics.inter_ocular_error, interval=scoring.error_interval
  )
  return errors | scoring.confusion(predictions, flip_pairs)


def gather(
  describer: Describer,
  source: Source,
  *,
  batch_size: int,
  spread: Spread = ALONE,
  **options: Any,
) -> Batch:
  """The readable examples, described in float32: neighbours are closer than bfloat16 can tell."""
  batches = spread.batches(source, batch_size=batch_size)
  return features.gather(describer, batches, dtype=jnp.float32, spread=spread, **options)


class Subset(pipeline.Reporting):
  """Some examples of a source; unreadable ones are reported to the source."""

  def __init__(self, source: Source, rows: Int[np.ndarray, ' n']) -> None:
    super().__init__(source, _BadOfSubset(source, rows))
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return super().__getitem__(int(self._rows[index]))


class _BadOfSubset(pipeline.BadImages):
  """Bad pictures by index among those chosen, passed on to the count of the whole source."""

  def __init__(self, source: Source, rows: Int[np.ndarray, ' n']) -> None:
    super().__init__(len(rows), 'skip', lambda line: None)
    reports = isinstance(source, pipeline.Reporting)
    self._whole = source.bad if reports else pipeline.BadImages(len(source), 'skip', None)
    self._rows = rows

  def add(self, index: int, error: BadImage) -> None:
    self._whole.add(int(self._rows[index]), error)
    super().add(index, error)


def _of_pictures(labelled: Batch, indices: Int[np.ndarray, ' n']) -> Batch:
  """The labelled pictures with these numbers in their split; an unreadable one has no row."""
  return jax.tree.map(lambda x: x[np.isin(labelled.index, indices)], labelled)

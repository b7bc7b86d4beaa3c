"""Landmarks found without labels, judged by how well labelled ones are linear in them.

For methods that find landmarks by themselves. A linear map without a constant, from all discovered
coordinates to all labelled ones, both relative to the centre of the picture, is fitted on the
training split and scored on the test split (lmdis, CVPR 2018; specification lmdis, section 8). The
reverse map (`measure`; Sanchez and Tzimiropoulos 2019) tells whether the discovered landmarks are
as steady as labelled ones.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from landmarks_jax import metrics
from landmarks_jax.contracts import Batch, Describer, Predictions
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, few_shot, regression, scoring
from landmarks_jax.evaluation.scoring import Metric
from landmarks_jax.evaluation.spread import ALONE, Spread

DISCOVERS = True  # it judges landmarks that a method finds by itself
METRICS = (
  Metric('inter_ocular', 'labelled landmarks from discovered ones, error, % of the scale'),
  Metric('backward', 'discovered landmarks from labelled ones, error, % of the scale'),
)


class _Found(NamedTuple):
  """The pictures of a split without their features, and the landmarks discovered in them."""

  labels: Batch
  points: Float[np.ndarray, 'N D 2']


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  few: Sequence[int] = (),
  draws: int = 1,
  seed: int = 0,
  ridge: float = 0.0,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, Predictions]:
  """Predictions of every row and draw: 'trained/0', 'mean_shape/0', ..., and 'trained/n10/0', ...

  Args:
    random_init: variants of the untrained network; the better one is the row. base: unused, as a
      base network finds no landmarks.
    baselines: rows of an earlier run with the same options, reused instead of computed.
    margin: pixels cut from each side of the frame.
    few: besides all labels, also use this many pictures, drawn `draws` times
      (`few_shot.draw_labels`, with `seed`).
    ridge: strength in units of the labelled pictures' mean squared coordinate; 0 as published. With
      fewer pictures than discovered coordinates the smallest of all maps that fit is taken.
    train, test: names of the splits.
  """
  check(open_split, few=few, draws=draws, seed=seed, ridge=ridge, train=train, test=test)
  sources = open_split(train), open_split(test)
  options = {'margin': margin, 'batch_size': batch_size, 'spread': spread}
  describe = functools.partial(_discovered, sources=sources, **options)

  def parts_of(labelled: Batch) -> dict[str, Int[np.ndarray, ' n']]:
    count = len(labelled.valid)
    return {'0': np.arange(count)} | few_shot.label_lists(count, few, draws, seed=seed)

  def predict(given: list[_Found]) -> dict[str, Predictions]:
    (labelled, discovered), (target, placed) = given
    return {
      part: forward(_take(labelled, rows), discovered[rows], target, placed, ridge=ridge)
      for part, rows in parts_of(labelled).items()
    }

  def mean_shape(given: list[_Found]) -> dict[str, Predictions]:
    labelled, target = (split.labels for split in given)
    return {
      part: regression.mean_shape(labelled, target, rows)
      for part, rows in parts_of(labelled).items()
    }

  return scoring.compare(
    describe,
    predict,
    describer,
    random_init=random_init,
    base=None,
    baselines=baselines,
    measure=metrics.inter_ocular_error,
    mean_shape=mean_shape,
  )


def check(
  open_split: Callable[[str], Source],
  *,
  few: Sequence[int] = (),
  draws: int = 1,
  seed: int = 0,
  ridge: float = 0.0,
  train: str = 'train',
  test: str = 'test',
  **others: Any,
) -> None:
  """Raises ValueError for what `run` cannot do, from the sizes of the sets alone."""
  if ridge < 0:
    raise ValueError(f'ridge={ridge}: expected 0 or more')
  for split in (train, test):
    if not open_split(split).info.names:
      raise ValueError(f'discovery is judged by landmarks; the split {split!r} has none')
  few_shot.check(len(open_split(train)), few, draws, seed=seed, name='few')


def forward(
  labelled: Batch,
  discovered: Float[np.ndarray, 'M D 2'],
  target: Batch,
  placed: Float[np.ndarray, 'N D 2'],
  *,
  ridge: float = 0.0,
) -> Predictions:
  """The labelled landmarks of `target`, from those discovered in it.

  Args: discovered, placed: landmarks found in the pictures of `labelled`, and of `target`.
  Invisible labels are ignored.
  """
  points = fit(discovered, labelled.points, labelled.visible, ridge=ridge)(placed)
  return Predictions(points, target.points, target.visible, target.scale, target.index)


def backward(
  labelled: Batch,
  discovered: Float[np.ndarray, 'M D 2'],
  target: Batch,
  placed: Float[np.ndarray, 'N D 2'],
  *,
  ridge: float = 0.0,
) -> Predictions:
  """The landmarks discovered in `target`, from its labelled ones.

  Only pictures whose labels are all visible are fitted and scored. Raises ValueError without any.
  """
  whole = labelled.visible.all(1), target.visible.all(1)
  if not all(rows.any() for rows in whole):
    raise ValueError('no picture shows all labelled landmarks: nothing can be measured on them')
  seen = np.ones((whole[0].sum(), discovered.shape[1]), bool)
  predict = fit(labelled.points[whole[0]], discovered[whole[0]], seen, ridge=ridge)
  points, target = predict(target.points[whole[1]]), _take(target, np.flatnonzero(whole[1]))
  seen = np.ones(points.shape[:2], bool)
  return Predictions(points, placed[whole[1]], seen, target.scale, target.index)


def fit(
  given: Float[np.ndarray, 'M D 2'],
  wanted: Float[np.ndarray, 'M K 2'],
  visible: Bool[np.ndarray, 'M K'],
  *,
  ridge: float = 0.0,
) -> Callable[[Float[np.ndarray, 'N D 2']], Float[np.ndarray, 'N K 2']]:
  """The linear map without a constant from all `given` coordinates to all wanted ones.

  Least squares over the pictures that show a landmark; of equally good maps, the smallest.
  """
  visible = np.asarray(visible, bool)  # as an index, COCO's 0, 1 and 2 would be rows
  x = np.asarray(given, np.float64).reshape(len(given), -1)
  strength = ridge * len(x) * (x**2).mean() if x.size else 0.0
  rows = np.concatenate([x, np.sqrt(strength) * np.eye(x.shape[1])]) if ridge else x
  maps = []
  for k in range(wanted.shape[1]):
    seen = visible[:, k]
    y = np.where(seen[:, None], wanted[:, k], 0).astype(np.float64)
    kept = np.concatenate([seen, np.ones(len(rows) - len(x), bool)])
    y = np.concatenate([y, np.zeros((len(rows) - len(x), 2))])
    maps.append(np.linalg.lstsq(rows[kept], y[kept], rcond=None)[0])
  kernel = np.stack(maps, axis=1)  # [2D, K, 2]

  def predict(given: Float[np.ndarray, 'N D 2']) -> Float[np.ndarray, 'N K 2']:
    flat = np.asarray(given, np.float64).reshape(len(given), -1)
    return np.einsum('nd,dkc->nkc', flat, kernel).astype(np.float32)

  return predict


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """inter_ocular and left_right_confusion, both in percent, by row; see `scoring`."""
  return regression.score(predictions, flip_pairs=flip_pairs)


def measure(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  margin: int = 0,
  ridge: float = 0.0,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
  **others: Any,
) -> dict[str, float]:
  """backward, in percent, by row; of the untrained variants, the better one.

  Landmarks that never move are predicted exactly: read it together with the error of `run`.
  Args: see `run`.
  """
  sources = open_split(train), open_split(test)
  options = {'margin': margin, 'batch_size': batch_size, 'spread': spread}
  describe = functools.partial(_discovered, sources=sources, **options)

  def error_of(given: list[_Found]) -> float:
    labelled, target = given
    return metrics.inter_ocular_error(backward(*labelled, *target, ridge=ridge))

  found = scoring.measured(
    describe, error_of, describer, random_init=random_init, quality=lambda error: -error
  )
  return {scoring.score_name('backward', row): value for row, value in found.items()}


def _discovered(
  describer: Describer,
  sources: Sequence[Source],
  *,
  batch_size: int,
  spread: Spread,
  margin: int,
) -> list[_Found]:
  """What is found in each of some splits."""
  found = []
  for source in sources:
    batches = spread.batches(source, batch_size=batch_size)
    labels, points, _ = features.discover(describer, batches, margin=margin, spread=spread)
    found.append(_Found(labels, points))
  return found


def _take(labels: Batch, rows: Int[np.ndarray, ' n']) -> Batch:
  return jax.tree.map(lambda x: x[rows], labels)

"""Landmark regression from frozen features, and the two baselines it must beat.

Three rows, always: the mean shape of the same labels, the same network at random initialisation,
and the trained network; each fitted and scored alike.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from landmarks_jax import metrics
from landmarks_jax.contracts import Batch, Describer, Predictions
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, few_shot, probing
from landmarks_jax.models import heads

MEAN_SHAPE, RANDOM_INIT, TRAINED = 'mean_shape', 'random_init', 'trained'
RIDGE, PROBE = 'ridge', 'probe'


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  labels: int | None = None,
  draws: int = 1,
  seed: int = 0,
  head: str = RIDGE,
  size: int = 16,
  probe_size: int = 48,
  probe_epochs: int = 200,
  probe_stop_epoch: int | None = None,
  probe_epoch_size: int = 0,
  probe_learning_rate: float = 1e-3,
  probe_weight_decay: float = 5e-4,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  place: Callable[[Any], Any] = lambda x: x,
) -> dict[str, Predictions]:
  """Predictions of every row and draw, named 'trained/0', 'random_init/0', 'mean_shape/0', ...

  Args:
    random_init: the untrained network in its variants, such as raw and with calibrated running
      statistics; the better one on the test set is the row, so that the bar is not lowered.
    baselines: rows of an earlier run with the same options, reused instead of computed.
    margin: pixels cut from each side of the frame.
    labels: use so many labelled pictures, drawn `draws` times (`few_shot.draw_labels`, with
      `seed`); None uses all.
    head: 'ridge', in closed form, or 'probe', the published head, trained by gradient descent.
    size: side of the ridge's heat maps.
    probe_*: options of the probe, see `probing.fit`; unused by the ridge. On a CPU, take fewer
      epochs, and the ridge for many landmarks.
    train, test: names of the splits.
  """
  check(open_split, labels=labels, draws=draws, head=head, train=train, test=test)
  sources = {split: open_split(split) for split in (train, test)}
  side = features.first_readable(sources[train])['image'].shape[0] - 2 * margin

  fit = functools.partial(ridge, side=side, size=size)
  if head == PROBE:
    fit = functools.partial(
      probe,
      size=probe_size,
      epochs=probe_epochs,
      stop_epoch=probe_stop_epoch,
      epoch_size=probe_epoch_size,
      learning_rate=probe_learning_rate,
      weight_decay=probe_weight_decay,
      seed=seed,
    )

  def described(describer: Describer) -> tuple[Batch, Batch]:
    return tuple(
      features.gather(
        describer,
        pipeline.evaluation_batches(sources[split], batch_size=batch_size),
        margin=margin,
        place=place,
      )
      for split in (train, test)
    )

  def regress(describer: Describer) -> list[Predictions]:
    labelled, target = described(describer)
    return [fit(labelled, target, rows) for rows in chosen]

  trained = described(describer)
  # Drawn among what could be read.
  count = len(trained[0].valid)
  chosen = [np.arange(count)]
  if labels is not None:
    chosen = [few_shot.draw_labels(count, labels, draw, seed=seed) for draw in range(draws)]
  rows = {TRAINED: [fit(*trained, rows) for rows in chosen]}
  if baselines is None:
    rows[MEAN_SHAPE] = [mean_shape(*trained, rows) for rows in chosen]
    variants = [regress(variant) for variant in random_init.values()]
    if variants:
      rows[RANDOM_INIT] = min(variants, key=lambda draws: np.mean(_errors(draws)))
  found = {f'{row}/{i}': p for row, draws in rows.items() for i, p in enumerate(draws)}
  kept = {k: v for k, v in (baselines or {}).items() if not k.startswith(TRAINED)}
  return found | kept


def check(
  open_split: Callable[[str], Source],
  *,
  labels: int | None = None,
  draws: int = 1,
  head: str = RIDGE,
  train: str = 'train',
  test: str = 'test',
  **others: Any,
) -> None:
  """Raises ValueError for what `run` cannot do, from the sizes of the sets alone."""
  if head not in (RIDGE, PROBE):
    raise ValueError(f'head={head!r}: choose from {RIDGE}, {PROBE}')
  if draws < 1 or (labels is None and draws != 1):
    raise ValueError(f'draws={draws}: expected 1 or more, and 1 without labels=N')
  for split in (train, test):
    if not open_split(split).info.names:
      raise ValueError(f'regression needs landmarks; the split {split!r} has none')
  count = len(open_split(train))
  if labels is not None and not 1 <= labels <= count:
    raise ValueError(f'labels={labels}: expected 1 to {count}, the number of labelled pictures')


def ridge(
  labelled: Batch, target: Batch, rows: Int[np.ndarray, ' n'], *, side: int, size: int
) -> Predictions:
  """Fits the closed-form head on some labelled rows and predicts the landmarks of `target`."""
  part = jax.tree.map(lambda x: x[rows], labelled)
  head = heads.fit_ridge(part.pyramid, part.points, part.visible, part.valid, side=side, size=size)
  return _predict(head, target, step=256)


def probe(
  labelled: Batch, target: Batch, rows: Int[np.ndarray, ' n'], **options: Any
) -> Predictions:
  """Trains the published head on some labelled rows and predicts the landmarks of `target`.

  options: of `probing.fit`.
  """
  return _predict(probing.fit(labelled, rows, **options), target, step=32)


def mean_shape(labelled: Batch, target: Batch, rows: Int[np.ndarray, ' n']) -> Predictions:
  """The mean of the visible labels, for every picture: what position alone can do."""
  seen = labelled.visible[rows][..., None]
  count = np.maximum(seen.sum(0), 1)
  mean = np.where(seen, labelled.points[rows], 0).sum(0) / count
  return _predictions(np.broadcast_to(mean, target.points.shape), target)


def score(predictions: Mapping[str, Predictions]) -> dict[str, float]:
  """inter_ocular, inter_ocular_mean_shape, inter_ocular_random_init: percent, means over draws.

  With several draws also the standard deviation over them, as `<name>_std`.
  """
  names = {
    TRAINED: 'inter_ocular',
    MEAN_SHAPE: f'inter_ocular_{MEAN_SHAPE}',
    RANDOM_INIT: f'inter_ocular_{RANDOM_INIT}',
  }
  scores = {}
  for row, name in names.items():
    errors = _errors([p for key, p in predictions.items() if key.split('/')[0] == row])
    if errors:
      scores[name] = float(np.mean(errors))
    if len(errors) > 1:
      scores[f'{name}_std'] = float(np.std(errors, ddof=1))
  return scores


def _predict(head: heads.LandmarkHead, target: Batch, *, step: int) -> Predictions:
  """The head's landmarks of all of `target`, `step` pictures at a time."""
  predict, count = jax.jit(head.predict), len(target.valid)
  points = [
    np.asarray(predict(head.variables, tuple(level[i : i + step] for level in target.pyramid)))
    for i in range(0, count, step)
  ]
  return _predictions(np.concatenate(points), target)


def _errors(draws: list[Predictions]) -> list[float]:
  return [metrics.inter_ocular_error(draw) for draw in draws]


def _predictions(points: np.ndarray, target: Batch) -> Predictions:
  return Predictions(
    np.asarray(points, np.float32), target.points, target.visible, target.scale, target.index
  )

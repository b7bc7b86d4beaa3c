"""Landmark regression from frozen features, and the baselines it must beat.

The rows, all fitted and scored alike: the mean shape of the same labels, the same network at random
initialisation, the frozen network below the method if there is one, and the trained network.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from landmarks_jax import metrics
from landmarks_jax.contracts import Batch, Describer, Predictions
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, few_shot, probing, scoring
from landmarks_jax.evaluation.scoring import Metric
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.models.ridge import check_maps, fit_ridge
from landmarks_jax.runtime import logs

RIDGE, PROBE = 'ridge', 'probe'
METRICS = (Metric('inter_ocular', f'{scoring.INTER_OCULAR}, %'),)
# For the copies of labelled pictures; specification section 5, Few-shot.
WARP = {'warp': 5e-4, 'translation': 0.02, 'scale': 0.02, 'rotation': 2.0}


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  labels: int | Sequence[int] | None = None,
  draws: int = 1,
  copies: int = 20,
  mirror: bool = True,
  seed: int = 0,
  head: str = RIDGE,
  size: int = 16,
  probe_size: int = 48,
  probe_epochs: int = 200,
  probe_stop_epoch: int | None = None,
  probe_epoch_size: int = 0,
  probe_learning_rate: float = 1e-3,
  probe_weight_decay: float = 5e-4,
  probe_validate_every: int = 10,
  train: str = 'train',
  test: str = 'test',
  validation: str | None = None,
  validation_score: Callable[[Predictions], float] = metrics.inter_ocular_error,
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, Predictions]:
  """Predictions of every row and draw: 'trained/0', 'random_init/0', ..., or 'trained/n10/0', ...

  Prints every few seconds how many of the labels of all rows and draws are fitted.

  Args:
    random_init: variants of the untrained network, such as raw and with calibrated running
      statistics; the better one on the test set is the row, so that the bar is not lowered.
    base: the frozen network that the describer is built on; its own row.
    baselines: rows of an earlier run with the same options, reused instead of computed.
    margin: pixels cut from each side of the frame.
    labels: use this many labelled pictures, drawn `draws` times (`few_shot.draw_labels`, with
      `seed`); several numbers make a few-shot curve; None uses all.
    copies: with `labels`, this many random warps of every labelled picture are added as labels.
    mirror: with `labels`, every second copy is of the mirrored picture, and the ridge's prior has
      no preferred side, if the set says which landmarks are each other's mirror image. Not part of
      the published protocol.
    head: 'ridge', in closed form, or 'probe', the published head, trained by gradient descent.
    size: side of the ridge's heat maps.
    probe_*: options of the probe, see `probing.fit`; unused by the ridge. Its size is also the
      grid on which a method describes whose values depend on it, such as the projection. On a CPU,
      take fewer epochs, and the ridge for many landmarks.
    train, test: names of the splits. validation: one on which the probe's best epoch is chosen, by
      `validation_score` (smaller is better; it also decides which random variant is better), every
      `probe_validate_every` epochs.
  """
  splits = {'train': train, 'test': test, 'validation': validation}
  drawing = {'labels': labels, 'draws': draws, 'copies': copies, 'seed': seed}
  check(
    open_split,
    **splits,
    **drawing,
    head=head,
    size=size,
    probe_size=probe_size,
    probe_epochs=probe_epochs,
    probe_epoch_size=probe_epoch_size,
    probe_stop_epoch=probe_stop_epoch,
    probe_validate_every=probe_validate_every,
  )
  sources = {split: open_split(split) for split in splits.values() if split is not None}
  flip_pairs = sources[train].info.flip_pairs if mirror and labels is not None else ()
  describing = {'margin': margin, 'batch_size': batch_size, 'spread': spread}
  side = features.seen_side(sources[train], margin)
  if head == RIDGE:
    fit = functools.partial(ridge, side=side, size=size, flip_pairs=flip_pairs)
  else:
    describing['size'] = probe_size
    fit = functools.partial(
      probe,
      size=probe_size,
      epochs=probe_epochs,
      stop_epoch=probe_stop_epoch,
      epoch_size=probe_epoch_size,
      learning_rate=probe_learning_rate,
      weight_decay=probe_weight_decay,
      score=validation_score,
      validate_every=probe_validate_every,
      seed=seed,
    )
  gather = functools.partial(_gather, sources=sources, flip_pairs=flip_pairs, **splits, **drawing)
  rows = 1 + len(random_init) + (base is not None) if baselines is None else 1
  return scoring.compare(
    functools.partial(gather, **describing),
    functools.partial(_predict, fit=fit, progress=_Progress(rows)),
    describer,
    random_init=random_init,
    base=base,
    baselines=baselines,
    measure=validation_score,
    mean_shape=_mean_shapes,
  )


def check(
  open_split: Callable[[str], Source],
  *,
  labels: int | Sequence[int] | None = None,
  draws: int = 1,
  copies: int = 20,
  seed: int = 0,
  head: str = RIDGE,
  size: int = 16,
  probe_size: int = 48,
  probe_epochs: int = 200,
  probe_epoch_size: int = 0,
  probe_stop_epoch: int | None = None,
  probe_validate_every: int = 10,
  train: str = 'train',
  test: str = 'test',
  validation: str | None = None,
  **others: Any,
) -> None:
  """Raises ValueError for what `run` cannot do, from the sizes of the sets alone."""
  if head not in (RIDGE, PROBE):
    raise ValueError(f'head={head!r}: choose from {RIDGE}, {PROBE}')
  if validation is not None and head != PROBE:
    raise ValueError(f'validation={validation!r} chooses an epoch of head={PROBE}; use that head')
  if copies < 0:
    raise ValueError(f'copies={copies}: expected 0 or more warped copies of every labelled picture')
  check_maps(size=size)
  probing.check(
    size=probe_size,
    epochs=probe_epochs,
    epoch_size=probe_epoch_size,
    stop_epoch=probe_stop_epoch,
    validate_every=probe_validate_every,
    prefix='probe_',
  )
  splits = filter(None, (train, test, validation))
  features.check_landmarks(open_split, *splits, protocol='regression')
  few_shot.check(len(open_split(train)), labels, draws, seed=seed)


def ridge(
  labelled: Batch,
  target: Batch,
  *,
  side: int,
  size: int,
  flip_pairs: Sequence[tuple[int, int]] = (),
) -> Predictions:
  """Fits the closed-form head on labelled rows and predicts the landmarks of `target`."""
  fitted = fit_ridge(
    labelled.pyramid,
    labelled.points,
    labelled.visible,
    labelled.valid,
    group=labelled.index,
    flip_pairs=flip_pairs,
    side=side,
    size=size,
  )
  return probing.predict(fitted.head, target, step=256)


def probe(
  labelled: Batch,
  target: Batch,
  **options: Any,
) -> Predictions:
  """Trains the published head on labelled rows and predicts the landmarks of `target`.

  options: of `probing.fit`.
  """
  head = probing.fit(labelled, np.arange(len(labelled.valid)), **options)
  return probing.predict(head, target)


def mean_shape(labelled: Batch, target: Batch, rows: Int[np.ndarray, ' n']) -> Predictions:
  """The mean of the visible labels, for every picture: what position alone can do."""
  seen = np.asarray(labelled.visible, bool)[rows][..., None]  # COCO's 2 would count twice
  count = np.maximum(seen.sum(0), 1)
  mean = np.where(seen, labelled.points[rows], 0).sum(0) / count
  points = np.broadcast_to(mean, target.points.shape).astype(np.float32)
  return Predictions(points, target.points, target.visible, target.scale, target.index)


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """inter_ocular and left_right_confusion, both in percent, by row; see `scoring`."""
  errors = scoring.summarise(
    predictions, 'inter_ocular', metrics.inter_ocular_error, interval=scoring.error_interval
  )
  return errors | scoring.confusion(predictions, flip_pairs)


class _Described(NamedTuple):
  """What fits need of one row: the network's features of the pictures, with their labels."""

  labelled: Batch
  target: Batch
  validation: Batch | None
  warped: Batch | None  # copies of the labelled pictures that parts learn from
  parts: dict[str, Int[np.ndarray, ' _']]  # rows of `labelled` to learn from, by part


def _gather(
  describer: Describer,
  *,
  sources: Mapping[str, Source],
  train: str,
  test: str,
  validation: str | None,
  labels: int | Sequence[int] | None,
  draws: int,
  copies: int,
  seed: int,
  flip_pairs: Sequence[tuple[int, int]],
  batch_size: int,
  spread: Spread,
  **options: Any,
) -> _Described:
  """Describes all splits, and copies of those pictures whose labels are drawn.

  options: margin and size, as in `features.gather`. The others: see `run`.
  """
  sets = {}
  for split, source in sources.items():
    batches = spread.batches(source, batch_size=batch_size)
    sets[split] = features.gather(describer, batches, spread=spread, **options)
  labelled, warped = sets[train], None
  parts = few_shot.label_lists(len(labelled.valid), labels, draws, seed=seed)  # of the readable
  if labels is not None and copies:
    used = np.unique(np.concatenate(list(parts.values())))
    warped = features.gather_warped(
      describer,
      sources[train],
      labelled.index[used],
      copies=copies,
      warp=WARP,
      flip_pairs=flip_pairs,
      seed=seed,
      batch_size=batch_size,
      spread=spread,
      **options,
    )
  chosen_on = None if validation is None else sets[validation]
  return _Described(labelled, sets[test], chosen_on, warped, parts)


class _Progress:
  """Tells how many of the labels of all rows and draws are fitted; its time is that of the fits."""

  def __init__(self, rows: int) -> None:
    self._rows, self._fitted, self._tally = rows, 0, None

  def through(
    self, parts: Mapping[str, Int[np.ndarray, ' _']]
  ) -> Iterator[tuple[str, Int[np.ndarray, ' _']]]:
    """The parts of one row, each counted as fitted when the next is asked for."""
    if self._tally is None:
      self._tally = logs.Tally(self._rows * sum(map(len, parts.values())), what='labels fitted')
    for part, chosen in parts.items():
      yield part, chosen
      self._fitted += len(chosen)
      self._tally(self._fitted)


def _predict(
  given: _Described, *, fit: Callable[..., Predictions], progress: _Progress
) -> dict[str, Predictions]:
  """The predictions of one row, by part. fit: `ridge` or `probe` with its options."""
  options = {} if given.validation is None else {'validation': given.validation}
  return {
    part: fit(_take(given.labelled, given.warped, chosen), given.target, **options)
    for part, chosen in progress.through(given.parts)
  }


def _mean_shapes(given: _Described) -> dict[str, Predictions]:
  return {
    part: mean_shape(given.labelled, given.target, rows) for part, rows in given.parts.items()
  }


def _take(labelled: Batch, warped: Batch | None, rows: Int[np.ndarray, ' n']) -> Batch:
  """Some rows of a labelled set, then their warped copies, if any."""
  part = jax.tree.map(lambda x: x[rows], labelled)
  if warped is None:
    return part
  copies = jax.tree.map(lambda x: x[np.isin(warped.index, part.index)], warped)
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), part, copies)

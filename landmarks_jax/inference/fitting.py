"""From a few labelled pictures to a landmark model: the few-shot protocol on any pictures."""

import inspect
import numbers
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from landmarks_jax.contracts import Batch
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import check_facts
from landmarks_jax.evaluation import features, few_shot, probing
from landmarks_jax.evaluation.regression import WARP
from landmarks_jax.inference import confidence
from landmarks_jax.inference.head import PROBE, PROBE_OPTIONS, RIDGE, Head
from landmarks_jax.inference.landmark_model import LandmarkModel
from landmarks_jax.inference.model import Model
from landmarks_jax.inference.pictures import (
  Pictures,
  PointLabels,
  Scale,
  batches,
  distances,
)
from landmarks_jax.models import ridge
from landmarks_jax.runtime import logs

OWN = 'labelled', 'rows', 'seed', 'report'  # arguments of `probing.fit` that are said here
OPTIONS = {
  RIDGE: ('size', 'spread'),
  PROBE: tuple(name for name in inspect.signature(probing.fit).parameters if name not in OWN),
}
FIT_PROBE = {'size': 48, 'epochs': 200, 'learning_rate': 1e-3, 'weight_decay': 5e-4}
AT_ONCE = 512  # copies described between two lines of progress
HELD_OUT, FOLDS = 10, 5  # from this many labels on, a second probe leaves out every fifth


def fit_landmarks(
  model: Model,
  images: Any,
  points: Any,
  visible: Any = None,
  *,
  names: Sequence[str] | None = None,
  flip_pairs: Sequence[Sequence[int]] = (),
  skeleton: Sequence[Sequence[int]] = (),
  boxes: Any = None,
  crop: str = 'centre',
  scale: Scale = 'frame',
  tolerance: float = 0.1,
  head: str = RIDGE,
  options: Mapping[str, Any] | None = None,
  copies: int = 20,
  seed: int = 0,
  batch_size: int = 64,
  progress: bool | None = None,
) -> LandmarkModel:
  """A model that finds landmarks, learned from labelled pictures on frozen features.

  Args:
    model: from `load`, or a `Model` of any network. images: as in `Model.describe`.
    points: [N, K, 2], (x, y) in pixels of the given pictures, (0, 0) the centre of the first; nan
      for a landmark that is not visible. visible: bool [N, K]; None: where no point is nan. A point
      farther off than 8 times its picture's larger side raises BadImage.
    names: of the landmarks. flip_pairs: index pairs of mirror-image landmarks; if given, every
      second copy is of the mirrored picture. skeleton: pairs joined by lines in drawings.
    boxes, crop: the square of every picture, as in `Model.describe`.
    scale: what errors are divided by: a pair of landmarks, such as the eyes, or the 'frame'.
    tolerance: confidence is the probability of an error below `tolerance` times the scale.
    head: 'ridge', in closed form, or 'probe', the published one, trained by gradient descent, and
      trained twice if its confidence is measured. options: of `ridge.fit_ridge` (size, spread) or
      of `probing.fit` (size, epochs, ...), whose defaults are the published ones.
    copies: random warps of every picture to learn from as well. seed: of the warps.

  The confidence is measured on pictures held out of a fit: for the ridge, those its hyperparameters
  are chosen on; for the probe, every fifth if there are 10 or more. With fewer than 8 held out it
  is the same for all landmarks, with fewer than two it is nan.
  """
  options = dict(options or {})
  _check_head(head, options)
  _check_numbers(copies=(copies, 0), batch_size=(batch_size, 1))
  few_shot.check_seed(seed)
  confidence.check_tolerance(tolerance)
  progress = logs.watched() if progress is None else progress
  labels = PointLabels.of(points, visible, names=names, flip_pairs=flip_pairs, scale=scale)
  check_facts(labels.info.names, flip_pairs, skeleton, labels.info.scale, labels.points.shape[1])
  _warn_without_scale(labels)
  given = model.pictures(images, boxes=boxes, crop=crop, labels=labels)
  pictures = pipeline.Remembering(given, pipeline.BadImages(len(given), 'error', None))
  seen = {'margin': model.margin}
  seen |= {'size': None if head == RIDGE else (FIT_PROBE | options)['size']}
  found = batches(pictures, batch_size=batch_size, progress=progress)
  labelled = features.gather(model.describer, found, **seen)
  _check_places(labelled, model, labels, given)
  # Rebound at once: only the joined features stay in memory during the fit.
  described = seen | {'batch_size': batch_size, 'seed': seed, 'progress': progress}
  labelled = _joined([labelled, *_copies(model, pictures, copies, **described)])
  if head == RIDGE:
    pairs = labels.info.flip_pairs if copies else ()
    fitted, judged = fit_ridge(labelled, side=model.side, flip_pairs=pairs, **options)
  else:
    fitted, judged = _fit_probe(labelled, seed=seed, progress=progress, **(FIT_PROBE | options))
  measured = None if judged is None else confidence.fit(*judged, tolerance=tolerance)
  return LandmarkModel(
    model,
    fitted,
    names=labels.info.names,
    flip_pairs=flip_pairs,
    skeleton=skeleton,
    scale=scale,
    crop=crop,
    boxes=boxes is not None,
    confidence=measured,
    learned_from=[given.checksums[i] for i in range(len(given))],
  )


def _check_head(head: str, options: Mapping[str, Any]) -> None:
  if head not in (RIDGE, PROBE):
    raise ValueError(f'head={head!r}: choose from {RIDGE}, {PROBE}')
  unknown = sorted(set(options) - set(OPTIONS[head]))
  if unknown:
    known = ', '.join(OPTIONS[head])
    raise ValueError(f'options: those of a {head} are {known}, not {", ".join(unknown)}')
  if head == RIDGE:
    ridge.check_maps(**options)
  else:
    probing.check(**FIT_PROBE | options)


def _check_numbers(**given: tuple[Any, int]) -> None:
  """given: name=(value, least)."""
  for name, (value, least) in given.items():
    if not isinstance(value, numbers.Integral) or value < least:
      raise ValueError(f'{name}={value}: expected a whole number, {least} or more')


Judged = tuple[Float[np.ndarray, 'M K E'], Float[np.ndarray, 'M K']]  # evidence, error


def _copies(
  model: Model,
  pictures: pipeline.Remembering,
  copies: int,
  *,
  seed: int,
  progress: bool,
  **described: Any,
) -> list[Batch]:
  """The warped copies of all pictures, described."""
  rows, parts = np.arange(len(pictures)) if copies else np.arange(0), []
  at_once, began = max(1, AT_ONCE // max(copies, 1)), time.monotonic()
  for start in range(0, len(rows), at_once):
    part = features.gather_warped(
      model.describer,
      pictures,
      rows[start : start + at_once],
      copies=copies,
      warp=WARP,
      flip_pairs=pictures.info.flip_pairs,
      seed=seed,
      **described,
    )
    parts.append(part)
    done = min(start + at_once, len(rows)) * copies
    if progress:
      line = logs.pictures_done(done, len(rows) * copies, done, time.monotonic() - began)
      print(f'warped copies: {line}', file=sys.stderr, flush=True)
  return parts


def _joined(parts: Sequence[Batch]) -> Batch:
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def fit_ridge(labelled: Batch, **options: Any) -> tuple[Head, Judged | None]:
  """The head, and the evidence and error of the pictures that it held out.

  labelled: the pictures, then their warped copies, which have the same `index`. options: of
  `ridge.fit_ridge`.
  """
  head, held_out = ridge.fit_ridge(
    labelled.pyramid,
    labelled.points,
    labelled.visible,
    labelled.valid,
    group=labelled.index,
    **options,
  )
  fitted = Head(RIDGE, head.variables)
  if held_out is None:
    return fitted, None
  truth = _rows(labelled._replace(pyramid=None), held_out.rows)
  return fitted, (held_out.evidence, distances(held_out.points, truth))


def _fit_probe(
  labelled: Batch, *, progress: bool, size: int, **options: Any
) -> tuple[Head, Judged | None]:
  """The head; evidence and error of every fifth picture, under a head fitted to the others.

  labelled: as for `fit_ridge`. size, options: of `probing.fit`.
  """
  report = _tell if progress else lambda line: None

  def fit(rows: Int[np.ndarray, ' n']) -> Head:
    trained = probing.fit(labelled, rows, size=size, report=report, **options)
    return Head(PROBE, trained.variables, PROBE_OPTIONS | {'size': size})

  pictures = np.unique(labelled.index, return_index=True)[1]  # the row of each that is no copy
  judged, held_out = None, pictures[FOLDS - 1 :: FOLDS]
  if len(pictures) >= HELD_OUT:
    others = np.flatnonzero(~np.isin(labelled.index, labelled.index[held_out]))
    truth, other = _rows(labelled, held_out), fit(others)
    points, evidence = other.look_at(truth.pyramid)
    judged = evidence, distances(points, truth)
  return fit(np.arange(len(labelled.index))), judged


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _rows(batch: Batch, rows: Int[np.ndarray, ' n']) -> Batch:
  return jax.tree.map(lambda x: x[rows], batch)


def _warn_without_scale(labels: PointLabels) -> None:
  """Says that no error can be measured, so that there is no confidence."""
  if isinstance(labels.info.scale, str):
    return
  a, b = labels.info.scale
  apart = (labels.points[:, a] != labels.points[:, b]).any(-1)
  if not (labels.visible[:, a] & labels.visible[:, b] & apart).any():
    warnings.warn(
      f'no picture shows both landmarks of the scale, {labels.info.names[a]} and '
      f'{labels.info.names[b]}, apart, so no error can be measured and there is no confidence; '
      "give another pair, or scale='frame'",
      stacklevel=3,
    )


def _check_places(labelled: Batch, model: Model, labels: PointLabels, pictures: Pictures) -> None:
  """Warns about labels in another unit, outside their picture, or outside what the network sees.

  Raises ValueError if more than half of them lie outside their picture.
  """
  size = np.array([pictures.sizes[i] for i in range(len(pictures))])[:, None]
  seen, names = labels.points[labels.visible], labels.info.names
  if (size > 2).all() and len(seen) and (np.abs(seen) <= 1).all():
    warnings.warn(
      f'all {len(seen)} points lie within {seen.min():g} and {seen.max():g}; are these in pixels '
      'of the pictures?',
      stacklevel=3,
    )
    return
  with np.errstate(invalid='ignore'):  # where not visible, anything may be given
    beyond = ((labels.points < -0.5) | (labels.points > size - 0.5)).any(-1) & labels.visible
  if beyond.any():
    i, k = np.argwhere(beyond)[0].tolist()
    (x, y), (width, height) = labels.points[i, k], size[i, 0]
    message = (
      f'{beyond.sum()} of {labels.visible.sum()} labels lie outside their picture; the first is '
      f'{names[k]} of {pictures.name(i)}, at ({x:g}, {y:g}) of {width}x{height} pixels. '
    )
    if beyond.sum() > labels.visible.sum() / 2:
      raise ValueError(message + 'Were they made on pictures of another size?')
    message += 'Correct them; a landmark that is not visible is nan, in a CSV file two empty cells'
    warnings.warn(message, stacklevel=3)
  edge = model.side / (model.side - 1)
  outside = labelled.visible & (np.abs(labelled.points) > edge).any(-1) & ~beyond
  if outside.any():
    i, k = np.argwhere(outside)[0].tolist()
    warnings.warn(
      f'{outside.sum()} of {labelled.visible.sum()} labels lie outside what the network sees, the '
      f'central {model.side} of {model.frame} pixels of the square; the first is '
      f'{names[k]} of {pictures.name(i)}. Give larger boxes, crop=pad or, in Python, '
      'load(..., margin=0)',
      stacklevel=3,
    )

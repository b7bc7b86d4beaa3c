"""Scores of gathered Predictions, in NumPy. Nothing to score is an error, never a perfect score."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Inexact, Int

from landmarks_jax.contracts import Predictions
from landmarks_jax.geometry import coords

PCK_BOX = 48  # the side of the published head's maps, in whose pixels its PCK measures


def normalised_distances(predictions: Predictions) -> Float[np.ndarray, 'N K']:
  """|prediction - target| / scale of every landmark; NaN where it is not visible.

  The unit cancels: points and scale are both in the normalised frame. For faces `scale` is the
  distance between the eyes. The values of invisible landmarks are ignored. Raises ValueError where
  nothing is visible, and for a visible landmark whose point, target or scale is not finite or whose
  scale is not positive: leaving it out would improve the score.
  """
  distances = _distances(predictions)
  if np.isnan(distances).all():
    raise ValueError(f'no visible landmark among {distances.size}: there is nothing to score')
  return distances


def _distances(predictions: Predictions) -> Float[np.ndarray, 'N K']:
  """Like `normalised_distances`, but without an error where nothing is visible."""
  points, target, visible, scale = (np.asarray(x) for x in predictions[:4])
  given = [x.shape for x in (points, target, visible, scale)]
  if given != [(*points.shape[:2], 2), points.shape, points.shape[:2], points.shape[:1]]:
    raise ValueError(
      f'points, target, visible, scale have shapes {given}; expected [N, K, 2] twice, [N, K], [N]'
    )
  visible = visible.astype(bool)  # of COCO's 0, 1, 2, `& ~` would take 2 as not visible
  bad = visible.any(1) & ~((scale > 0) & np.isfinite(scale))
  if bad.any():
    first = int(np.flatnonzero(bad)[0])
    raise ValueError(
      f'{bad.sum()} examples have no usable scale; the first is example '
      f'{int(predictions.index[first])} with scale {scale[first]}'
    )
  for name, value in (('prediction', points), ('target', target)):
    broken = visible & ~np.isfinite(value).all(-1)
    if broken.any():
      example, landmark = np.argwhere(broken)[0]
      raise ValueError(
        f'the {name} of {broken.sum()} visible landmarks is not finite; the first is landmark '
        f'{landmark} of example {int(predictions.index[example])}: {value[example, landmark]}'
      )
  distance = np.linalg.norm(points.astype(np.float64) - target.astype(np.float64), axis=-1)
  return np.where(visible, distance / np.where(scale > 0, scale, 1)[:, None], np.nan)


def mean_of_known(
  values: Inexact[np.ndarray, '*shape'], *, axis: int, keepdims: bool = False
) -> Inexact[np.ndarray, '*reduced']:
  """Mean over an axis of the values that are not NaN; NaN, without a warning, where there are none.

  Over axis 0 of `normalised_distances` or `pck_hits` it is the mean of each landmark, over axis 1
  that of each picture. Values may be complex.
  """
  known = ~np.isnan(values)
  count = known.sum(axis, keepdims=keepdims)
  total = np.where(known, values, 0).sum(axis, keepdims=keepdims)
  with np.errstate(invalid='ignore'):  # 0 / 0 is NaN
    return total / count


def mean_distance(predictions: Predictions) -> float:
  """Mean of |prediction - target| / scale over all visible landmarks of all pictures.

  The unit is that of `scale`: 2 / 69 gives pixels of a 70-pixel frame, as matching reports them.
  Raises ValueError as `normalised_distances` does.
  """
  return float(np.nanmean(normalised_distances(predictions)))


def inter_ocular_error(predictions: Predictions) -> float:
  """Mean |prediction - target| / scale over the visible landmarks of all pictures, in percent.

  With the distance between the eyes as `scale` it is the inter-ocular error; any other scale, such
  as the frame's side, divides it likewise. With every landmark visible this is the published mean
  over pictures and landmarks (specification section 5; fixture inter_ocular). Raises ValueError as
  `normalised_distances` does.
  """
  return 100 * mean_distance(predictions)


def pck_hits(
  predictions: Predictions, *, threshold: float = 0.05, box: int = PCK_BOX
) -> Float[np.ndarray, 'N K']:
  """1 where a landmark is nearer than `threshold` of the frame's side, else 0; NaN where invisible.

  As published, the frame is seen as `box` pixels wide, whatever the pictures' own side: the first
  and last pixel centres (-1 and 1) are box - 1 apart and the limit is threshold * box, 2.4 of 47
  pixels. That is 5.11 % of their distance; 5 % of the side of a 96-pixel picture would be 5.05 %,
  and `pck` and `pck_paper` would then have two limits. `scale` is ignored. Raises ValueError as
  `normalised_distances` does.
  """
  distances = normalised_distances(_in_pixels(predictions, box))
  return np.where(np.isnan(distances), np.nan, distances < threshold * box)


def pck_per_landmark(
  predictions: Predictions, *, threshold: float = 0.05, box: int = PCK_BOX
) -> Float[np.ndarray, ' K']:
  """Percentage of correct keypoints of each landmark; NaN for one that is never visible.

  Options and errors: `pck_hits`.
  """
  return 100 * mean_of_known(pck_hits(predictions, threshold=threshold, box=box), axis=0)


def pck(predictions: Predictions, *, threshold: float = 0.05, box: int = PCK_BOX) -> float:
  """Percentage of correct keypoints: per landmark, then averaged over landmarks.

  A landmark is scored on the pictures that show it, and left out if none does; distances are exact
  (`pck_paper` has the published truncation). Options and errors: `pck_hits`. Specification
  section 5.
  """
  return float(np.nanmean(pck_per_landmark(predictions, threshold=threshold, box=box)))


def pck_paper_distances(predictions: Predictions, *, box: int = PCK_BOX) -> Int[np.ndarray, 'N K']:
  """Distances as in the published PCK: whole pixels of the box, truncated; -1 is not counted.

  A true point at x <= 0 or y <= 0 pixels is not counted, like an invisible one. Raises ValueError
  for broken numbers as `normalised_distances` does. Fixture pck.
  """
  distances = _distances(_in_pixels(predictions, box))
  target = coords.to_pixels(np.asarray(predictions.target), width=box, height=box)
  counted = np.asarray(predictions.visible, bool) & (target > 0).all(-1)
  return np.where(counted, distances, -1).astype(int)


def pck_paper(
  predictions: Predictions, *, threshold: float = 0.05, box: int = PCK_BOX, batch_size: int = 32
) -> float:
  """PCK as published, in percent: truncated distances (`pck_paper_distances`), means over batches.

  So at 48 pixels a distance counts if it is below 3, not below 2.4. Each batch of `batch_size`
  pictures, in order, has its own mean over the landmarks that it shows (0 if it shows none), and a
  smaller last batch weighs as much as the others. Raises ValueError without pictures and as
  `pck_paper_distances`. Specification section 5; fixture pck.
  """
  distances = pck_paper_distances(predictions, box=box)
  if not len(distances):
    raise ValueError('no pictures: there is nothing to score')
  found = []
  for i in range(0, len(distances), batch_size):
    batch = distances[i : i + batch_size]
    hits = np.where(batch >= 0, batch < threshold * box, np.nan)
    found.append(np.nanmean(mean_of_known(hits, axis=0)) if (batch >= 0).any() else 0)
  return 100 * float(np.mean(found))


def left_right_swaps(
  predictions: Predictions, flip_pairs: Sequence[tuple[int, int]]
) -> Float[np.ndarray, 'N P']:
  """1 where a landmark was placed nearer to its mirrored partner's true place than to its own.

  Columns: left and right of the first pair, of the second, ... NaN where the two are not both
  visible. Raises ValueError as `normalised_distances` does, and for pairs that do not exist.
  """
  distances = normalised_distances(predictions)
  pairs = np.asarray(flip_pairs, int).reshape(-1, 2)
  if (pairs < 0).any() or (pairs >= distances.shape[1]).any():
    raise ValueError(f'{flip_pairs=}: there are {distances.shape[1]} landmarks, counted from 0')
  own, partner = pairs.ravel(), pairs[:, ::-1].ravel()
  visible = np.asarray(predictions.visible, bool)
  both: Bool[np.ndarray, 'N P'] = visible[:, own] & visible[:, partner]
  placed, target = np.asarray(predictions.points)[:, own], np.asarray(predictions.target)
  to_own, to_partner = (
    _distances(predictions._replace(points=placed, target=target[:, k], visible=both))
    for k in (own, partner)
  )
  return np.where(both, to_partner < to_own, np.nan)


def left_right_confusion(predictions: Predictions, flip_pairs: Sequence[tuple[int, int]]) -> float:
  """Percent of the landmarks of visible pairs that are nearer to the partner's true place.

  Raises ValueError as `left_right_swaps` does, and where no pair is visible in any picture.
  """
  swaps = left_right_swaps(predictions, flip_pairs)
  if np.isnan(swaps).all():
    raise ValueError(f'no picture shows both landmarks of any of {flip_pairs=}')
  return 100 * float(np.nanmean(swaps))


class Bin(NamedTuple):
  """Landmarks of similar confidence: what was claimed, and what was observed."""

  low: float
  high: float
  count: int
  confidence: float  # mean
  observed: float  # share whose error is below the tolerance


def reliability(
  predictions: Predictions, *, tolerance: float, bins: int = 5
) -> tuple[list[Bin], float]:
  """How well confidence agrees with the observed probability of a small error.

  Args:
    predictions: with a confidence in 0..1 that an error is below `tolerance` times the scale.
    bins: of equal width; empty ones are left out. The last one includes 1.

  Returns: the bins, and the expected calibration error: the mean over landmarks of the gap between
  claimed and observed, 0 if every bin is right. Landmarks that are not visible, or whose confidence
  is nan, are left out. Raises ValueError where nothing has a confidence, for one outside 0..1, and
  as `normalised_distances`.
  """
  distances = normalised_distances(predictions)
  if bins < 1:
    raise ValueError(f'bins={bins}: expected 1 or more')
  if predictions.confidence is None:
    raise ValueError('these predictions have no confidence')
  known = ~np.isnan(distances) & ~np.isnan(predictions.confidence)
  if not known.any():
    raise ValueError('no visible landmark has a confidence: there is nothing to compare')
  claimed, right = predictions.confidence[known].astype(np.float64), distances[known] < tolerance
  if (claimed < 0).any() or (claimed > 1).any():
    raise ValueError(f'confidence is {claimed.min():g} to {claimed.max():g}; expected 0 to 1')
  place = np.minimum((claimed * bins).astype(int), bins - 1)
  found = [
    Bin(
      b / bins, (b + 1) / bins, int(own.sum()), float(claimed[own].mean()), float(right[own].mean())
    )
    for b in range(bins)
    if (own := place == b).any()
  ]
  gap = sum(one.count * abs(one.confidence - one.observed) for one in found)
  return found, gap / len(claimed)


def bootstrap_interval(
  values: Float[np.ndarray, 'N K'],
  *,
  group: Int[np.ndarray, ' N'] | None = None,
  by_landmark: bool = False,
  seed: int = 0,
  resamples: int = 1000,
) -> tuple[float, float]:
  """Bootstrap 95 % interval of a mean over resampled pictures: (low, high), in the values' unit.

  Args:
    values: NaN where not known, such as `normalised_distances` or `pck_hits`.
    group: a number for each picture, such as that of its person: all pictures of one group are
      drawn together. Pictures of one person err alike, and drawn one by one they give an interval
      that is too narrow for other people. None: every picture by itself.
    by_landmark: take the mean over landmarks of each one's own mean, as PCK does, instead of the
      mean of all known values.
    seed, resamples: `resamples` times, N of the N pictures (or groups) that have a value are drawn
      with replacement; the draws are the same in every version of NumPy.

  Raises ValueError where nothing is known, and unless `group` has one number for each picture. One
  picture, or group, has no spread: low is high.
  """
  known = ~np.isnan(values)
  some = known.any(1)
  if not some.any():
    raise ValueError(f'no known value among {values.size}: there is no interval')
  known, filled = known[some].astype(float), np.where(known, values, 0)[some]
  if group is not None:
    if np.shape(group) != some.shape:
      raise ValueError(f'group has shape {np.shape(group)}; expected {some.shape}, one per picture')
    place = np.unique(np.asarray(group)[some], return_inverse=True)[1]
    known, filled = (_sums(x, place) for x in (known, filled))
  bits, count = np.random.PCG64(seed), len(filled)  # bits, as in evaluation/few_shot.py
  means = []
  for _ in range(resamples):
    drawn = (bits.random_raw(count) % count).astype(int)
    times = np.bincount(drawn, minlength=count).astype(float)
    total, number = times @ filled, times @ known
    seen = number > 0
    means.append((total[seen] / number[seen]).mean() if by_landmark else total.sum() / number.sum())
  low, high = np.quantile(means, (0.025, 0.975))
  return float(low), float(high)


def _sums(
  values: Float[np.ndarray, 'N K'], group: Int[np.ndarray, ' N']
) -> Float[np.ndarray, 'G K']:
  """The sum over the rows of each group, 0 to G - 1."""
  total = np.zeros((group.max() + 1, values.shape[1]))
  np.add.at(total, group, values)
  return total


def _in_pixels(predictions: Predictions, side: int) -> Predictions:
  """Sets the scale so that distances are in pixels of a frame `side` wide."""
  return predictions._replace(scale=np.full(len(predictions.points), 2 / (side - 1)))

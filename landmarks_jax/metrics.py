"""Scores of gathered Predictions, in NumPy. Nothing to score is an error, never a perfect score."""

import numpy as np
from jaxtyping import Float

from landmarks_jax.contracts import Predictions


def normalised_distances(predictions: Predictions) -> Float[np.ndarray, 'N K']:
  """|prediction - target| / scale of every landmark; NaN where it is not visible.

  The unit cancels: points and scale are both in the normalised frame. For faces `scale` is the
  distance between the eyes. What stands in an invisible landmark does not matter. Raises ValueError
  where nothing is visible, and for a visible landmark whose point, target or scale is not finite or
  whose scale is not positive: left out, it would make the score better.
  """
  points, target, visible, scale = (np.asarray(x) for x in predictions[:4])
  given = [x.shape for x in (points, target, visible, scale)]
  if given != [(*points.shape[:2], 2), points.shape, points.shape[:2], points.shape[:1]]:
    raise ValueError(
      f'points, target, visible, scale have shapes {given}; expected [N, K, 2] twice, [N, K], [N]'
    )
  if not visible.any():
    raise ValueError(f'no visible landmark among {visible.size}: there is nothing to score')
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


def inter_ocular_error(predictions: Predictions) -> float:
  """Mean of |prediction - target| / |eye - eye| over all visible landmarks of all images, in
  percent.

  With every landmark visible this is the published mean over images and landmarks (specification
  section 5; fixture inter_ocular). Raises ValueError as `normalised_distances` does.
  """
  return 100 * float(np.nanmean(normalised_distances(predictions)))


def inter_ocular_error_per_landmark(predictions: Predictions) -> Float[np.ndarray, ' K']:
  """The inter-ocular error of each landmark, in percent; NaN for one that is never visible.

  Raises ValueError as `normalised_distances` does.
  """
  distances = normalised_distances(predictions)
  seen = ~np.isnan(distances)
  total = np.where(seen, distances, 0).sum(0)
  return 100 * np.divide(total, seen.sum(0), out=np.full(len(total), np.nan), where=seen.any(0))

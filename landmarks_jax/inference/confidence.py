"""How likely a predicted landmark is to be near the true one, from pictures held out of the fit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

FEWEST = 8  # held-out pictures needed to tell landmarks apart; with fewer, all share one confidence
CAUTION = 1.0  # prior weight, in pictures, that all landmarks and all evidence are alike
QUANTILES = 101
BLOCK = 64  # pictures whose normal equations are in memory at once
LEAST = 1e-4  # errors are clipped from below to this, in normalisers


class Confidence(NamedTuple):
  """The probability that a landmark's error is below `tolerance` times the normaliser.

  The logarithm of the error is modelled as `offset` plus `weights` times the evidence of doubt plus
  a residual drawn from `residuals`, measured on held-out pictures. The confidence is the share of
  residuals that keep the error below the tolerance. pictures: the number held out.
  """

  tolerance: float
  pictures: int
  offset: Float[np.ndarray, ' K']
  weights: Float[np.ndarray, ' E']
  residuals: Float[np.ndarray, ' Q']  # evenly spaced quantiles, increasing

  def __call__(self, evidence: Float[np.ndarray, 'B K E']) -> Float[np.ndarray, 'B K']:
    """Confidence in 0..1."""
    left = np.log(self.tolerance) - (self.offset + evidence @ self.weights)
    levels = (np.arange(len(self.residuals)) + 0.5) / len(self.residuals)
    return np.interp(left, self.residuals, levels).astype(np.float32)

  def facts(self) -> dict[str, Any]:
    """The scalar fields."""
    return {'tolerance': self.tolerance, 'pictures': self.pictures}

  def arrays(self) -> dict[str, np.ndarray]:
    """The array fields, which complement `facts`."""
    return {name: getattr(self, name) for name in ('offset', 'weights', 'residuals')}

  @classmethod
  def from_arrays(
    cls,
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    landmarks: int,
    evidence: int,
  ) -> 'Confidence':
    """The inverse of `facts` and `arrays`, for K landmarks and E kinds of evidence.

    Raises ValueError if they do not form a confidence.
    """
    kinds = {'tolerance': float, 'pictures': int}
    if {name: type(value) for name, value in facts.items()} != kinds:
      raise ValueError(f'the confidence is {dict(facts)!r:.100}; expected tolerance and pictures')
    check_tolerance(facts['tolerance'])
    names = 'offset', 'weights', 'residuals'
    valid = set(arrays) == set(names) and all(
      a.ndim == 1 and a.dtype == np.float64 and a.size and np.isfinite(a).all()
      for a in arrays.values()
    )
    valid = valid and (len(arrays['offset']), len(arrays['weights'])) == (landmarks, evidence)
    if not valid or (np.diff(arrays['residuals']) < 0).any() or (arrays['weights'] < 0).any():
      raise ValueError('the arrays of the confidence are not those of one')
    return cls(**facts, **arrays)


def fit(
  evidence: Float[np.ndarray, 'M K E'],
  error: Float[np.ndarray, 'M K'],
  *,
  tolerance: float,
) -> Confidence | None:
  """Fits a confidence to the errors of held-out pictures.

  Args:
    evidence: of doubt. error: distances divided by the normaliser, nan where unknown.
    tolerance: in normalisers, positive.

  Ridge regression of log errors on the evidence and on the landmark, every picture weighted
  equally. Residuals are leave-one-picture-out, so that they are not underestimated. With fewer than
  FEWEST pictures only the share of small errors is learnt: confidence is the same everywhere.
  Returns None with fewer than two.
  """
  check_tolerance(tolerance)
  rows = np.flatnonzero(np.isfinite(error).any(1))
  if len(rows) < 2:
    return None
  evidence, error = evidence[rows].astype(np.float64), error[rows].astype(np.float64)
  known = np.isfinite(error)
  logs = np.log(np.maximum(error, LEAST), where=known, out=np.zeros(error.shape))
  weight = known / known.sum(1, keepdims=True)  # of a picture's landmarks
  middle = (weight * logs).sum() / len(rows)
  use = [] if len(rows) < FEWEST else list(range(evidence.shape[2]))
  while True:
    given = evidence[..., use], logs - middle, weight
    (offset, slope), residuals = _regress(*given, own=len(rows) >= FEWEST)
    if (slope >= 0).all():  # more doubt never means more confidence
      break
    use.pop(int(slope.argmin()))
  weights = np.zeros(evidence.shape[2])
  weights[use] = slope
  levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
  return Confidence(
    float(tolerance), len(rows), middle + offset, weights, _quantiles(residuals, weight, levels)
  )


def check_tolerance(tolerance: float) -> None:
  """Raises ValueError where nothing, or everything, would be below it."""
  if not 0 < tolerance < np.inf:
    raise ValueError(f'tolerance={tolerance}: expected a positive share of the normaliser')


def _regress(
  evidence: Float[np.ndarray, 'M K E'],
  logs: Float[np.ndarray, 'M K'],
  weight: Float[np.ndarray, 'M K'],
  *,
  own: bool,
) -> tuple[tuple[Float[np.ndarray, ' K'], Float[np.ndarray, ' E']], Float[np.ndarray, 'M K']]:
  """(offsets, slopes), and each picture's residuals under a regression on all the others."""
  count, landmarks, _ = evidence.shape
  mean = np.einsum('mk,mke->e', weight, evidence) / count
  deviation = np.sqrt(np.einsum('mk,mke->e', weight, (evidence - mean) ** 2) / count) + 1e-9
  penalty = np.full(1 + landmarks + len(mean), CAUTION)
  penalty[0] = 1e-9
  # A landmark's own offset draws on only one of each picture's K landmarks.
  penalty[1 : 1 + landmarks] = CAUTION / landmarks if own else 1e9
  # In blocks, and once for the sum and once for the residuals: all at once take M K^2 numbers.
  blocks = [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]
  given = [((evidence[b] - mean) / deviation, logs[b], weight[b]) for b in blocks]
  total, right = np.diag(penalty), np.zeros(len(penalty))
  for one in given:
    _, gram, moment = _equations(*one)
    total, right = total + gram.sum(0), right + moment.sum(0)
  residuals = np.empty(logs.shape)
  for block, one in zip(blocks, given, strict=True):
    x, gram, moment = _equations(*one)
    without = np.linalg.solve(total - gram, (right - moment)[..., None])
    residuals[block] = logs[block] - (x @ without)[..., 0]
  solution = np.linalg.solve(total, right)
  slope = solution[1 + landmarks :] / deviation
  return (solution[0] + solution[1 : 1 + landmarks] - mean @ slope, slope), residuals


def _equations(
  evidence: Float[np.ndarray, 'M K E'],
  logs: Float[np.ndarray, 'M K'],
  weight: Float[np.ndarray, 'M K'],
) -> tuple[Float[np.ndarray, 'M K D'], Float[np.ndarray, 'M D D'], Float[np.ndarray, 'M D']]:
  """The predictors, D = 1 + K + E, and the two sides of each picture's normal equations."""
  count, landmarks, _ = evidence.shape
  each = np.broadcast_to(np.eye(landmarks), (count, landmarks, landmarks))
  x = np.concatenate([np.ones((count, landmarks, 1)), each, evidence], axis=-1)
  weighted = (weight[..., None] * x).swapaxes(1, 2)
  return x, weighted @ x, (weighted @ logs[..., None])[..., 0]


def _quantiles(
  values: Float[np.ndarray, 'M K'], weight: Float[np.ndarray, 'M K'], levels: np.ndarray
) -> Float[np.ndarray, ' Q']:
  order = np.argsort(values.ravel())
  values, share = values.ravel()[order], weight.ravel()[order]
  return np.interp(levels, (np.cumsum(share) - share / 2) / share.sum(), values)

"""How likely a predicted landmark is near the true one, from pictures held out of the fit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Confidence(NamedTuple):
  """The probability that a landmark's error is below `tolerance` times the normaliser.

  The logarithm of the error is `offset` plus `weights` times the evidence of doubt, give or take
  one of `residuals`, those of held-out pictures: the confidence is the share of them that would
  leave the error below the tolerance. pictures: so many were held out.
  """

  tolerance: float
  pictures: int
  offset: Float[np.ndarray, ' K']
  weights: Float[np.ndarray, ' E']
  residuals: Float[np.ndarray, ' Q']  # quantiles, evenly apart, increasing

  def __call__(self, evidence: Float[np.ndarray, 'B K E']) -> Float[np.ndarray, 'B K']:
    """Confidence in 0..1."""
    left = np.log(self.tolerance) - (self.offset + evidence @ self.weights)
    levels = (np.arange(len(self.residuals)) + 0.5) / len(self.residuals)
    return np.interp(left, self.residuals, levels).astype(np.float32)

  def facts(self) -> dict[str, Any]:
    """What is said of it in words and numbers."""
    return {'tolerance': self.tolerance, 'pictures': self.pictures}

  def arrays(self) -> dict[str, np.ndarray]:
    """What is kept of it beside `facts`."""
    return {name: getattr(self, name) for name in ('offset', 'weights', 'residuals')}

  @classmethod
  def from_arrays(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> 'Confidence':
    """The inverse of `facts` and `arrays`. Raises ValueError for what is no confidence."""
    kinds = {'tolerance': float, 'pictures': int}
    if {name: type(value) for name, value in facts.items()} != kinds:
      raise ValueError(f'the confidence is {dict(facts)!r:.100}; expected tolerance and pictures')
    names = 'offset', 'weights', 'residuals'
    fit = set(arrays) == set(names) and all(
      a.ndim == 1 and a.dtype == np.float64 and a.size and np.isfinite(a).all()
      for a in arrays.values()
    )
    if not fit or (np.diff(arrays['residuals']) < 0).any():
      raise ValueError('the arrays of the confidence are not those of one')
    return cls(**facts, **arrays)

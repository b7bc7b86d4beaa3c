"""The public API: trained weights and pictures in, features, matches and landmarks out.

NumPy and pixels everywhere; (0, 0) is the centre of a picture's first pixel. docs/using.md shows
how.
"""

from landmarks_jax.inference.fitting import fit_landmarks
from landmarks_jax.inference.landmark_model import LandmarkModel, Landmarks, load_landmarks
from landmarks_jax.inference.matching import Matches, match
from landmarks_jax.inference.model import Model, load

__all__ = [
  'LandmarkModel',
  'Landmarks',
  'Matches',
  'Model',
  'fit_landmarks',
  'load',
  'load_landmarks',
  'match',
]

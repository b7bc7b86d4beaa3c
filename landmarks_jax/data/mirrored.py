"""Which landmarks are each other's mirror image: a guess from names, checked against labels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from landmarks_jax.data.audit_labels import median_shape, misfit

FAR, WORSE = 0.5, 2  # of the shape's radius; times the best pairs
MOST = 1000  # labelled pictures that are looked at

Pairs = tuple[tuple[int, int], ...]


def contradicted(pairs: Pairs, points: Float[np.ndarray, 'N K 2']) -> bool:
  """Whether the usual shape, mirrored with these pairs, is far from itself, and others do better.

  Others are the best one-to-one assignment of the mirrored landmarks. A landmark that is in no pair
  is its own mirror image. points: of the labelled pictures, nan = not visible.
  """
  from scipy.optimize import linear_sum_assignment  # late: heavy

  shapes = points[..., 0] + 1j * points[..., 1]
  shapes = shapes[np.isfinite(shapes).sum(axis=-1) >= 3]
  if not pairs or not len(shapes):
    return False
  order = np.arange(shapes.shape[1])
  for one, other in pairs:
    order[[one, other]] = other, one
  middle = median_shape(shapes[:: -(-len(shapes) // MOST)])
  known = np.flatnonzero(np.isfinite(middle) & np.isfinite(middle[order]))
  place = np.full(len(order), -1)
  place[known] = np.arange(len(known))
  shape, guess = middle[known] - middle[known].mean(), place[order[known]]
  flipped = -shape.conj()
  best = linear_sum_assignment(np.abs(shape[:, None] - flipped) ** 2)[1]
  off, least = misfit(flipped[np.stack([guess, best])], shape)
  return bool(off > FAR and off > WORSE * least)


def warning(pairs: Pairs, names: Sequence[str]) -> str:
  """What to say of pairs that are contradicted."""
  return (
    f'the labels contradict the mirror pairs that the names suggest ({listed(pairs, names)}), so '
    'nothing is mirrored; name mirror images alike except for left and right, or state them as '
    'flip_pairs'
  )


def listed(pairs: Sequence[Sequence[int]], names: Sequence[str], most: int = 3) -> str:
  """The first pairs by name, and how many more there are."""
  shown = ', '.join('/'.join(names[i] for i in pair) for pair in pairs[:most])
  return shown + (f' and {len(pairs) - most} more' if len(pairs) > most else '') or 'none'

"""Which pictures to label next: those that many others resemble and no labelled one does."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from landmarks_jax.data.source import evenly_apart

COMPONENTS = 32  # of what pictures look like
MOST = 2000  # pictures that are compared with each other; of more, so many evenly apart


def suggest(
  looks: Float[np.ndarray, 'N D'],
  labelled: Sequence[int],
  candidates: Bool[np.ndarray, ' N'],
  *,
  count: int,
) -> list[int]:
  """The next `count` pictures, in order: each lowers the mean distance to the nearest label most.

  A greedy k-median. Unlike the farthest point it prefers pictures that many others resemble, which
  is what few labels need.

  Args: looks: see `embed`. labelled: pictures with labels. candidates: those that may get some.
  """
  free, everyone = np.flatnonzero(candidates), looks[_evenly(len(looks))]
  judged = free[_evenly(len(free))]
  between = distances(looks[judged], everyone)
  nearest = (
    2 * distances(everyone, looks.mean(0, keepdims=True))[:, 0].max() * np.ones(len(everyone))
  )
  if len(labelled):
    nearest = np.minimum(nearest, distances(everyone, looks[np.asarray(labelled)]).min(1))
  gain, chosen = np.full(len(judged), np.inf), []
  while len(chosen) < min(count, len(judged)):
    best = int(np.argmax(gain))
    now = np.maximum(nearest - between[best], 0).sum()
    if now < gain[best]:  # gains only fall: whoever is still the best is the best of all
      gain[best] = now
      continue
    chosen.append(int(judged[best]))
    gain[best] = -1
    nearest = np.minimum(nearest, between[best])
  return chosen


def embed(pooled: Float[np.ndarray, 'N D']) -> Float[np.ndarray, 'N C']:
  """Pooled features, every channel in its own deviations, as at most COMPONENTS coordinates."""
  some = pooled[_evenly(len(pooled))]
  mean, deviation = some.mean(0), some.std(0)
  scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
  _, _, axes = np.linalg.svd((some - mean) * scale, full_matrices=False)
  return ((pooled - mean) * scale) @ axes[:COMPONENTS].T


def distances(a: Float[np.ndarray, 'A C'], b: Float[np.ndarray, 'B C']) -> Float[np.ndarray, 'A B']:
  """|a - b| of all pairs."""
  squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
  return np.sqrt(np.maximum(squares, 0))


def _evenly(total: int) -> Int[np.ndarray, ' n']:
  return evenly_apart(total, MOST) if total else np.zeros(0, int)

"""Which pictures to label next: those that resemble many others but no labelled one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from landmarks_jax.data.source import evenly_apart

PARTS, SHARPNESS = 48, 20.0  # of `poses`
ITERATIONS, SAMPLES = 10, 20_000  # of its k-means; descriptors that it clusters
MOST = 2000  # pictures compared with each other; of more, this many, evenly spaced
BLOCK = 128  # pictures whose maps are processed at once


def suggest(
  looks: Float[np.ndarray, 'N D'],
  labelled: Sequence[int],
  candidates: Bool[np.ndarray, ' N'],
  *,
  count: int,
) -> list[int]:
  """The next `count` pictures: each most reduces the mean squared distance to the nearest label.

  Greedy k-means whose centres are pictures. Unlike farthest-point sampling it prefers pictures that
  resemble many others, which is what matters with few labels.

  Args: looks: see `poses`. labelled: pictures with labels. candidates: those that may be chosen.
  """
  free, everyone = np.flatnonzero(candidates), looks[_evenly(len(looks))]
  judged = free[_evenly(len(free))]
  between = distances(looks[judged], everyone) ** 2
  far = (2 * distances(everyone, looks.mean(0, keepdims=True)).max()) ** 2
  nearest = np.full(len(everyone), far)
  if len(labelled):
    nearest = np.minimum(nearest, distances(everyone, looks[np.asarray(labelled)]).min(1) ** 2)
  gain, chosen = np.full(len(judged), np.inf), []
  while len(chosen) < min(count, len(judged)):
    best = int(np.argmax(gain))
    now = np.maximum(nearest - between[best], 0).sum()
    if now < gain[best]:  # gains only fall: a candidate whose gain is unchanged is the best of all
      gain[best] = now
      continue
    chosen.append(int(judged[best]))
    gain[best] = -1
    nearest = np.minimum(nearest, between[best])
  return chosen


def poses(
  maps: Shaped[np.ndarray, 'N h w C'], *, parts: int = PARTS, seed: int = 0
) -> Float[np.ndarray, 'N D']:
  """A descriptor of every picture: where the parts of the object are, found without labels.

  Parts are clusters of descriptors, unit vectors of standardised channels, by k-means from `parts`
  random ones. A part's place (x, y), in -1..1, is the mean position under a softmax of similarity.
  Pictures are thus alike if they have the same things in the same places, whatever their colours.
  """
  rng, count = np.random.default_rng(seed), maps.shape[1] * maps.shape[2]
  some = _evenly(len(maps))
  positions = rng.integers(0, count, (len(some), -(-SAMPLES // len(some))))
  sample = np.asarray(maps[some], np.float32).reshape(len(some), count, -1)
  drawn = np.take_along_axis(sample, positions[..., None], axis=1).reshape(-1, maps.shape[3])
  mean, deviation = drawn.mean(0), drawn.std(0) + 1e-6
  centres = _clusters(rng, _units((drawn - mean) / deviation), parts)
  y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in maps.shape[1:3]), indexing='ij')
  grid, found = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32), []
  for start in range(0, len(maps), BLOCK):
    block = np.asarray(maps[start : start + BLOCK], np.float32).reshape(-1, count, maps.shape[3])
    likeness = SHARPNESS * (_units((block - mean) / deviation) @ centres.T)
    weight = np.exp(likeness - likeness.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    found.append((weight.swapaxes(1, 2) @ grid).reshape(len(block), -1))
  return np.concatenate(found)


def _clusters(
  rng: np.random.Generator, units: Float[np.ndarray, 'n C'], parts: int
) -> Float[np.ndarray, '{parts} C']:
  """Spherical k-means."""
  centres = units[rng.integers(0, len(units), parts)]
  for _ in range(ITERATIONS):
    nearest = (units @ centres.T).argmax(1)
    for k in np.unique(nearest):
      centres[k] = units[nearest == k].mean(0)
    centres = _units(centres)
  return centres


def _units(rows: Float[np.ndarray, '*shape C']) -> Float[np.ndarray, '*shape C']:
  return rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + 1e-6)


def distances(a: Float[np.ndarray, 'A C'], b: Float[np.ndarray, 'B C']) -> Float[np.ndarray, 'A B']:
  """|a - b| for all pairs."""
  squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
  return np.sqrt(np.maximum(squares, 0))


def _evenly(total: int) -> Int[np.ndarray, ' n']:
  return evenly_apart(total, MOST) if total else np.zeros(0, int)

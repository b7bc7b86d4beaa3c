"""How invariant and equivariant each level of a pyramid is, under known changes of pictures.

A measure compares two mean distances, share = 1 - near / far, and is 0 where that is negative or
where nothing is far. Distances d are 1 - cosine of features minus the level's mean feature over the
set, so that what all features share does not count as agreement. x is a picture, y one from the
other half of the set; c and w change its colours and warp it (JITTER, PCA, WARP); f is a level, p
its cells, and position p of w(x) shows what x has at w(p):

  invariance_colour  near = d(f(x)[p], f(c(x))[p])       far = d(f(x)[p], f(c(y))[p])
  invariance_warp    near = d(mean f(x), mean f(w(x)))   far = d(mean f(x), mean f(w(y)))
  equivariance       near = d(f(w(x))[p], f(x)[w(p)])    far = d(f(w(x))[p], f(x)[p])

Invariance is 1 if the change does nothing. It is 0 if a changed picture is as far from the original
as from another picture, as for features that carry no information or only their position. Warps
also move features, so for them it is measured on the mean over the map.

Equivariance is the share of what a warp changes at a position that is explained by where the
position went. It is 1 if all of it is, and 0 for random features, for constant ones and for a code
of positions, which stays where it is. `far` is the same picture unmoved, not another position:
neighbours are alike in smooth maps, and maps that ignore a warp would pass for equivariant. Between
cells f is bilinear, as in `hypercolumn.resize`; positions that leave the frame are left out.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from landmarks_jax.augment import colour
from landmarks_jax.contracts import Array, Describer, Pyramid
from landmarks_jax.data.source import BadImage, Source, evenly_apart
from landmarks_jax.evaluation import scoring
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.geometry import coords, regions, splines
from landmarks_jax.models import hypercolumn
from landmarks_jax.runtime import compiler

METRICS = (
  scoring.Metric('invariance_colour', 'invariance of positions to colour, 0 to 1', True),
  scoring.Metric('invariance_warp', 'invariance of whole pictures to warps, 0 to 1', True),
  scoring.Metric('equivariance', 'equivariance of positions to warps, 0 to 1', True),
)
JITTER, PCA = 0.4, 0.1  # the colours of the paper's training, and the warps of its matching
WARP = {'warp': 5e-4, 'subset': 5e-3, 'translation': 0.05, 'scale': 0.05, 'rotation': 2.5}
NOTHING = 1e-6  # a distance below it is rounding
ROUNDING = 1e-5  # so is a feature this near to the mean, relative to the mean's length
RESAMPLES = 1000


class Pairs(NamedTuple):
  """Pairs of pictures from opposite halves of a set: each is the other one's stranger."""

  image: Array  # uint8 [P, 2, S, S, 3], full frames
  index: Array  # int32 [P, 2]


def opposite_pairs(source: Source, count: int) -> Pairs:
  """At most `count` readable pictures, evenly spread over a set, whose neighbours are often alike.

  Raises ValueError where fewer than two can be read.
  """
  examples = []
  for i in evenly_apart(len(source), count).tolist():
    with contextlib.suppress(BadImage):
      examples.append(source[i])
  half = len(examples) // 2
  if not half:
    raise ValueError(f'{len(examples)} readable pictures of {count}: expected 2 to tell apart')
  fields = (np.stack([e[name] for e in examples[: 2 * half]]) for name in Pairs._fields)
  return Pairs(*(np.stack([x[:half], x[half:]], axis=1) for x in fields))


def distances(
  describer: Describer,
  pairs: Pairs,
  *,
  margin: int = 0,
  seed: int = 0,
  batch_size: int = 64,
  spread: Spread = ALONE,
) -> Float[np.ndarray, 'P L 3 2']:
  """Near and far of the three measures of every level, by pair.

  Args:
    margin: pixels cut from each side of the frame, after the change.
    seed: the change of a picture depends on it and the picture's index alone.
    batch_size: in pairs.
  """
  mean_features, compare = _compiled(describer.apply, margin)
  total, rng = len(pairs.image), jax.random.key(seed)

  def by_batch(function: Callable, *arguments: Any) -> Any:
    parts = []
    for start in range(0, total, batch_size):
      number = spread.own(np.arange(start, start + batch_size))
      own = np.minimum(number, total - 1)  # padded with the last
      batch = jax.tree.map(lambda x, own=own: x[own], pairs)
      batch, keep = spread.place((batch, number < total))
      part, kept = spread.fetch((function(describer.variables, *arguments, batch), keep))
      parts.append(jax.tree.map(lambda x, kept=kept: x[kept], part))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

  means = by_batch(mean_features)
  means = tuple(mean.astype(np.float64).mean((0, 1)).astype(np.float32) for mean in means)
  return by_batch(compare, means, rng)


def share(near: Any, far: Any) -> Any:
  """1 - near / far of distances; 0 where that is negative, and where nothing is far."""
  return np.where(far > NOTHING, np.maximum(0, 1 - near / np.maximum(far, NOTHING)), 0)


def interval(near: Float[np.ndarray, ' P'], far: Float[np.ndarray, ' P']) -> tuple[float, float]:
  """Bootstrap 95 % interval, over pairs, of the share of mean distances."""
  count = len(near)
  # Bits, as in few_shot.py.
  drawn = (np.random.PCG64(0).random_raw((RESAMPLES, count)) % count).astype(int)
  low, high = np.quantile(share(near[drawn].mean(1), far[drawn].mean(1)), (0.025, 0.975))
  return float(low), float(high)


@functools.lru_cache(maxsize=16)
def _compiled(apply: Callable, margin: int) -> tuple[Callable, Callable]:
  """Compiled: each picture's mean features; near and far of every level and measure by pair."""

  def described(variables: Any, image: Float[Array, 'B S S 3']) -> Pyramid:
    pyramid = apply(variables, regions.cut_centre(image, margin), None)
    return tuple(level.astype(jnp.float32) for level in pyramid)

  def mean_features(variables: Any, pairs: Pairs) -> tuple[Float[Array, 'P 2 _'], ...]:
    pyramid = described(variables, _flat(pairs.image).astype(float))
    return tuple(_paired(level.mean((1, 2))) for level in pyramid)

  def compare(
    variables: Any, means: tuple[Float[Array, ' _'], ...], rng: PRNGKeyArray, pairs: Pairs
  ) -> Float[Array, 'P L 3 2']:
    image, side = _flat(pairs.image).astype(float), pairs.image.shape[2] - 2 * margin
    coloured, warps = _changes(rng, image, _flat(pairs.index))
    changed = image, coloured, splines.warp_image(image, warps)
    pyramids = [described(variables, view) for view in changed]
    looks = functools.partial(_looks, warps, side=side, margin=margin)
    of_level = functools.partial(_of_level, looks=looks, side=side)
    found = [of_level(*level) for level in zip(*pyramids, means, strict=True)]
    return _paired(jnp.stack(found, axis=1)).mean(1)

  return compiler.jit(mean_features), compiler.jit(compare)


def _changes(
  rng: PRNGKeyArray, image: Float[Array, 'B S S 3'], index: Int[Array, ' B']
) -> tuple[Float[Array, 'B S S 3'], Float[Array, 'B rows 2']]:
  """Every picture in other colours, and the coefficients of its warp; from `rng` and its index."""

  def change(image: Array, index: Array) -> tuple[Array, Array]:
    rng_jitter, rng_pca, rng_warp = jax.random.split(jax.random.fold_in(rng, index), 3)
    view = colour.random_jitter(rng_jitter, image[None], strength=JITTER)
    view = colour.random_pca_noise(rng_pca, view, deviation=PCA)
    return view[0], splines.random_coefficients(rng_warp, 1, **WARP)[0]

  return jax.vmap(change)(image, index)


def _looks(
  warps: Float[Array, 'B rows 2'], points: Float[Array, 'h w 2'], *, side: int, margin: int
) -> Float[Array, 'B h w 2']:
  """Where positions of the cropped warped picture look in the cropped picture."""
  zoom = (side + 2 * margin - 1) / (side - 1)
  points = jnp.broadcast_to(points / zoom, (len(warps), *points.shape))
  return splines.apply(warps, points) * zoom


def _of_level(
  plain: Float[Array, 'B h w C'],
  coloured: Float[Array, 'B h w C'],
  warped: Float[Array, 'B h w C'],
  mean: Float[Array, ' C'],
  *,
  looks: Callable[[Array], Array],
  side: int,
) -> Float[Array, 'B 3 2']:
  """Near and far of each measure of one level."""
  between = functools.partial(_distance, mean)
  pooled, pooled_warped = plain.mean((1, 2)), warped.mean((1, 2))
  cells = coords.cell_centres(*plain.shape[1:3])
  positions = looks(coords.edges_to_corners(cells, side=side))
  inside = (jnp.abs(positions) <= 1).all(-1)
  found = [
    between(plain, coloured).mean((1, 2)),
    between(plain, _stranger(coloured)).mean((1, 2)),
    between(pooled, pooled_warped),
    between(pooled, _stranger(pooled_warped)),
    _mean_where(inside, between(warped, hypercolumn.sample(plain, positions, side=side))),
    _mean_where(inside, between(warped, plain)),
  ]
  return jnp.stack(found, axis=-1).reshape(-1, 3, 2)


def _distance(
  mean: Float[Array, ' C'], a: Float[Array, '*shape C'], b: Float[Array, '*shape C']
) -> Float[Array, '*shape']:
  """1 - cosine of features minus the mean, as half the squared distance of unit vectors."""
  least = ROUNDING * jnp.linalg.norm(mean) + jnp.finfo(jnp.float32).tiny

  def unit(x: Float[Array, '*shape C']) -> Float[Array, '*shape C']:
    x = x - mean
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), least)

  return ((unit(a) - unit(b)) ** 2).sum(-1) / 2


def _mean_where(inside: Bool[Array, 'B h w'], values: Float[Array, 'B h w']) -> Float[Array, ' B']:
  return jnp.where(inside, values, 0).sum((1, 2)) / jnp.maximum(inside.sum((1, 2)), 1)


def _flat(x: Array) -> Array:
  """[P, 2, ...] -> [2P, ...]."""
  return x.reshape(-1, *x.shape[2:])


def _paired(x: Array) -> Array:
  """[2P, ...] -> [P, 2, ...]."""
  return x.reshape(-1, 2, *x.shape[1:])


def _stranger(x: Array) -> Array:
  """[2P, ...] with the two of each pair exchanged."""
  return _flat(_paired(x)[:, ::-1])

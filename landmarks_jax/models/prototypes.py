"""Landmarks as vectors of the label space: each lies where a picture's labels best match its own.

The vector z_k of a landmark makes its position likely, p(v | z_k) = softmax_v <z_k, f_v> over the
positions v of a label map f (Thewlis et al. 2017, section 4.1; specification equivariant,
section 4). The labels themselves are not changed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.geometry import coords
from landmarks_jax.models import heads, hypercolumn

RIDGE = 1e-6  # on |z|^2 / 2, with labels of variance 1: keeps z finite for a landmark without doubt
ITERATIONS = 100
CONVERGED = 1e-6  # when Newton steps promise no greater fall of a cost, in nats
ROUNDING = 1e-5  # of a cost in float32
SUFFICIENT = 1e-4  # the share of the promised fall that a step must achieve
PICTURES = 64  # at a time


class _Costs(NamedTuple):
  """The cost of each landmark by itself, with gradient and Hessian."""

  value: Array  # [K]
  gradient: Array  # [K, L]
  hessian: Array  # [K, L, L]


def fit(
  pyramid: Pyramid,
  points: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  *,
  side: int,
  size: int | None = None,
) -> heads.LandmarkHead:
  """The vectors under which the landmarks' true positions are the most likely.

  Args:
    pyramid: labels [B, h, w, L] of pictures of `side` pixels; several levels are stacked
      (`column`).
    points, visible: [B, K, 2], normalised, and [B, K]. A landmark that is invisible or outside its
      frame does not count.
    side: of the pictures. size: see `predict`; None is `side`.

  Minimises, for each landmark, the mean of -log p(v | z_k) at its point, the log-probability being
  bilinear between positions, with a ridge of RIDGE in the unit of the labels' variance. That is
  convex, and Newton's method finds the one minimum. The variables are z_k by level, [C_l, K].

  Puts the labels on the first device in float32: 49 MB for 2,000 maps of 45x45x3, 1.2 GB for
  48x48x64. Each of some ten iterations takes 2 K L^2 operations per position, so this is for label
  maps, not for hypercolumns of thousands of channels. Raises ValueError for labels that are not
  finite and for a landmark that no picture shows.
  """
  levels = tuple(jnp.asarray(level, jnp.float32) for level in pyramid)
  seen = np.asarray(visible, bool) & (np.abs(points) <= 1).all(-1)
  _check(levels, seen)
  mean, scale = _mean_and_scale(levels)
  given = (*levels, jnp.where(seen[..., None], points, 0), jnp.asarray(seen, jnp.float32))

  def costs(vectors: Float[np.ndarray, 'K L']) -> _Costs:
    total = _Costs(0.0, 0.0, 0.0)
    for start in range(0, len(seen), PICTURES):
      *maps, point, counted = (x[start : start + PICTURES] for x in given)
      part = _sums(vectors, tuple(maps), point, counted, mean=mean, scale=scale, side=side)
      total = jax.tree.map(lambda a, b: a + np.asarray(b, np.float64), total, part)
    return _regularised(total, vectors, seen.sum(0))

  vectors = minimise(costs, np.zeros((seen.shape[1], len(mean)))) / float(scale)
  channels = [level.shape[-1] for level in levels]
  kernels = hypercolumn.split_rows(jnp.asarray(vectors.T, jnp.float32), channels)
  return heads.LandmarkHead(kernels, finder(side=side, size=side if size is None else size))


@functools.cache
def finder(*, side: int, size: int) -> Callable[..., Float[Array, 'B K 2']]:
  """`predict` on pictures of one size; the same function each time, so that it compiles once."""
  return functools.partial(predict, side=side, size=size)


def predict(
  kernels: Sequence[Float[Array, '_ K']], pyramid: Pyramid, *, side: int, size: int
) -> Float[Array, 'B K 2']:
  """The position where a picture's labels have the largest product with each vector; normalised.

  Args:
    kernels: the vectors by level, [C_l, K]. pyramid: labels of pictures of `side` pixels.
    size: side of the grid of positions, to which the products are resized; the first of equals
      wins.
  """
  levels = zip(pyramid, kernels, strict=True)
  # Neighbouring labels differ by less than the rounding of a fast product.
  products = (jnp.einsum('bhwc,ck->bhwk', *level, precision='float32') for level in levels)
  heat = sum(hypercolumn.resize(product, size) for product in products)
  best = heat.reshape(len(heat), size * size, -1).argmax(1)
  positions = coords.edges_to_corners(coords.cell_centres(size, size), side=side)
  return positions.reshape(-1, 2)[best]


def column(pyramid: Pyramid) -> Float[Array, 'B h w C']:
  """One map of labels: a pyramid's only level, or its levels stacked at the size of the finest."""
  finest = max(pyramid, key=lambda level: level.shape[1])
  return hypercolumn.stack(pyramid, finest.shape[1:3])


def minimise(
  costs: Callable[[Float[np.ndarray, 'K L']], _Costs], start: Float[np.ndarray, 'K L']
) -> Float[np.ndarray, 'K L']:
  """The minima of K convex functions, by Newton's method with backtracking.

  A step that achieves too little is halved, for each function separately. Ends when no Newton step
  promises more than CONVERGED, or after ITERATIONS.
  """
  place, here, length = start, costs(start), np.ones(len(start))
  for _ in range(ITERATIONS):
    step = -np.linalg.solve(here.hessian, here.gradient[..., None])[..., 0]
    slope = (here.gradient * step).sum(-1)
    if (slope > -2 * CONVERGED).all():
      break
    trial = place + length[:, None] * step
    there = costs(trial)
    enough = here.value + SUFFICIENT * length * slope + ROUNDING
    taken = there.value <= enough
    place = np.where(taken[:, None], trial, place)
    here = jax.tree.map(lambda a, b, t=taken: np.where(_like(t, a), b, a), here, there)
    length = np.where(taken, 1, length / 2)
  return place


@jax.jit
def _mean_and_scale(levels: Pyramid) -> tuple[Float[Array, ' L'], Float[Array, '']]:
  """The labels' mean, and the root of their mean variance: where there is none, any unit will do.

  Accurate wherever float32 is: squares of small labels would vanish, sums of great ones overflow.
  """
  top = jnp.stack([jnp.abs(level).max() for level in levels]).max()
  top = jnp.where(top > 0, top, 1)
  mean = jnp.concatenate([(level / top).mean((0, 1, 2)) for level in levels])
  variance = jnp.concatenate([(level / top).var((0, 1, 2)) for level in levels]).mean()
  return top * mean, top * jnp.sqrt(jnp.where(variance > 0, variance, 1))


@functools.partial(jax.jit, static_argnames='side')
def _sums(
  vectors: Float[Array, 'K L'],
  pyramid: Pyramid,
  points: Float[Array, 'B K 2'],
  counted: Float[Array, 'B K'],
  *,
  mean: Float[Array, ' L'],
  scale: Float[Array, ''],
  side: int,
) -> _Costs:
  """The costs of some pictures, summed over those that count; labels are (f - mean) / scale."""
  labels = (column(pyramid) - mean) / scale
  at_points = hypercolumn.sample(labels, points, side=side)
  labels = labels.reshape(len(labels), -1, labels.shape[-1])
  product = functools.partial(jnp.einsum, precision='float32')

  def of_landmark(given: tuple[Array, Array, Array]) -> _Costs:
    vector, target, counted = given  # [L], [B, L], [B]
    away = labels - target[:, None]  # small where it matters, so that nothing cancels
    logits = product('bpl,l->bp', away, vector)
    weighted = jax.nn.softmax(logits, axis=1)[..., None] * away * counted[:, None, None]
    expected = weighted.sum(1)
    square = product('bpl,bpm->lm', weighted, away) - product('bl,bm->lm', expected, expected)
    return _Costs(counted @ jax.nn.logsumexp(logits, axis=1), expected.sum(0), square)

  return jax.lax.map(of_landmark, (vectors, at_points.swapaxes(0, 1), counted.T))


def _regularised(total: _Costs, vectors: Float[np.ndarray, 'K L'], count: Array) -> _Costs:
  """Means of sums over `count` pictures, with the ridge."""
  value, gradient, hessian = (x / _like(count, x) for x in total)
  return _Costs(
    value + RIDGE / 2 * (vectors**2).sum(-1),
    gradient + RIDGE * vectors,
    hessian + RIDGE * np.eye(vectors.shape[1]),
  )


def _like(by_landmark: Array, x: Array) -> Array:
  """[K] reshaped to broadcast against x."""
  return by_landmark.reshape(-1, *[1] * (x.ndim - 1))


def _check(levels: Pyramid, seen: Bool[np.ndarray, 'B K']) -> None:
  if not all(bool(jnp.isfinite(level).all()) for level in levels):
    raise ValueError('the labels of some pictures are not finite: did the training diverge?')
  if not seen.any(0).all():
    never = np.flatnonzero(~seen.any(0)).tolist()
    raise ValueError(f'landmarks {never} are not inside any of the {len(seen)} labelled pictures')

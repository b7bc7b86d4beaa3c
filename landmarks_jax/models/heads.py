"""Heads on frozen or trained features: embeddings, BYOL's MLP, and landmarks in closed form."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.dtypes import at_least_float32
from landmarks_jax.geometry import coords
from landmarks_jax.models import hypercolumn
from landmarks_jax.models.norm import GroupedBatchNorm


class EmbeddingHead(nn.Module):
  """Average pool, one linear layer (or an MLP of `layers`), unit length: MoCo v1 and v2.

  Weights and biases start uniform in +-1/sqrt(fan_in), as torch's linear layers do. float32 at
  least.
  """

  dim: int
  layers: int = 1

  @nn.compact
  def __call__(self, maps: Float[Array, 'B h w C']) -> Float[Array, 'B {self.dim}']:
    """Maps [B, h, w, C] -> unit rows [B, dim]."""
    x = at_least_float32(maps).mean(axis=(1, 2))
    fan_in = x.shape[-1]
    for layer in range(self.layers):
      x = nn.relu(x) if layer else x
      width = self.dim if layer == self.layers - 1 else fan_in
      x = _linear(width, fan_in, name=f'fc{layer}')(x)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


class NormedMLP(nn.Module):
  """Linear, BatchNorm, ReLU, linear without a bias: the projector and the predictor of BYOL.

  Weights start as in EmbeddingHead. Statistics are those of `GroupedBatchNorm` over valid rows.
  """

  hidden: int
  dim: int
  norm_groups: int = 1

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B C'], train: bool, valid: Bool[Array, ' B'] | None = None
  ) -> Float[Array, 'B {self.dim}']:
    """Rows [B, C] -> [B, dim]; the output for rows that are not valid is meaningless."""
    x = at_least_float32(x)
    x = _linear(self.hidden, x.shape[-1], name='fc0')(x)
    x = nn.relu(GroupedBatchNorm(self.norm_groups, name='norm')(x, train, valid))
    return _linear(self.dim, self.hidden, use_bias=False, name='fc1')(x)


def _linear(width: int, fan_in: int, *, name: str, use_bias: bool = True) -> nn.Dense:
  """A linear layer with torch's initialisation: all uniform in +-1/sqrt(fan_in)."""

  def bias(rng: Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> Array:
    return jax.random.uniform(rng, shape, dtype, -1, 1) * fan_in**-0.5

  kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
  return nn.Dense(width, use_bias=use_bias, kernel_init=kernel, bias_init=bias, name=name)


class LandmarkHead(NamedTuple):
  """Landmarks from a pyramid: `predict(variables, pyramid) -> points [B, K, 2]`, normalised."""

  variables: Any
  predict: Callable


class HeldOut(NamedTuple):
  """How a head does on labelled pictures that were held out of its fit."""

  rows: np.ndarray  # int [M], of the arrays given to the fit
  points: np.ndarray  # [M, K, 2]
  evidence: np.ndarray  # [M, K, E], see `doubt`


class RidgeVariables(NamedTuple):
  """Linear heat maps and how they are read; see `predict_ridge`."""

  kernels: tuple[Array, ...]  # per level [C_l, K]; a constant per landmark would change nothing
  log_prior: Array  # [h, w, K], of the labels' own positions
  positions: Array  # [h, w, 2], corner-aligned
  mean_shape: Array  # [K, 2]
  sharpness: Array  # []
  correction: (
    Array  # [2K, 2K], of all landmarks' offsets from the mean shape; 0 predicts that shape
  )


# Candidates for the choice on held-out labels. Strengths of the ridge are in units of the Gram
# matrix's mean eigenvalue, sharpness in units of the heat's deviation, strengths of the correction
# in units of the labels' own scatter. Few labels choose among few candidates, none sharper than
# their number: the best of many candidates is the luckiest, and projections of few channels leave
# much to luck.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
SHARPNESSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
CORRECTIONS = (np.inf, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
FEW_STRENGTHS = (1e-1, 1.0)
ONE_STRENGTH, ONE_SHARPNESS = 10.0, 0.5  # one label leaves nothing to choose by
SAFE_STRENGTH, SAFE_SHARPNESS = 1.0, 0.7  # two leave little: others must be better than these
FREE_GAIN = 0.25  # of the initial correction, for offsets that no similarity of the shape explains
FEWEST = 8  # labelled pictures needed to choose among all strengths of the ridge
STIFFNESS = 10.0  # minimum of a correction's strength times the number of labels it is fitted to
CAUTION = 0.5  # standard errors by which a choice must be better than the safe one
FOLDS = 10
BLOCK = 64  # pictures whose columns are in memory at once
LEAST_SPREAD = 1e-3  # smaller distances are no evidence of anything; normalised


def predict_ridge(variables: RidgeVariables, pyramid: Pyramid) -> Float[Array, 'B K 2']:
  """Landmarks from linear heat maps under the labels' own position prior.

  mean + correction(E[u] - mean), with p(u) ~ prior(u) * exp(sharpness * heat(u)) over positions u.
  The correction is linear in all landmarks at once, so that clear ones help to place doubtful ones.
  """
  return look_ridge(variables, pyramid)[0]


def look_ridge(
  variables: RidgeVariables, pyramid: Pyramid
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K 3']]:
  """`predict_ridge`, and the evidence of doubt about every landmark: `doubt`."""
  height, width = variables.log_prior.shape[:2]
  heat = hypercolumn.project(pyramid, variables.kernels, (height, width))
  logits = variables.sharpness * heat + variables.log_prior
  logits = logits.reshape(len(heat), height * width, -1)
  grid = variables.positions.reshape(-1, 2)
  expected, spread = _moments(logits, grid)
  offset = (expected - variables.mean_shape).reshape(len(expected), -1)
  # In full precision, which accelerators do not give by default: these are positions.
  moved = jnp.matmul(offset, variables.correction, precision='float32')
  points = variables.mean_shape + moved.reshape(expected.shape)
  return points, doubt(points, expected, spread)


def doubt(
  points: Float[Array, 'B K 2'], expected: Float[Array, 'B K 2'], spread: Float[Array, 'B K']
) -> Float[Array, 'B K 3']:
  """Evidence that landmarks are wrong, as logarithms of distances.

  How wide a landmark's own heat map is, how far the others moved it from there, and how far they
  moved the picture's landmarks on average.
  """
  moved = jnp.linalg.norm(points - expected, axis=-1)
  together = jnp.broadcast_to(moved.mean(-1, keepdims=True), moved.shape)
  return jnp.log(jnp.stack([spread, moved, together], axis=-1) + LEAST_SPREAD)


def fit_ridge(
  pyramid: Pyramid,
  points: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  valid: Bool[Array, ' B'],
  *,
  side: int,
  group: Int[Array, ' B'] | None = None,
  flip_pairs: Sequence[tuple[int, int]] = (),
  size: int = 16,
  spread: float = 0.07,
  held_out: int = 256,
) -> LandmarkHead:
  """Landmarks from frozen features in closed form: ridge regression of Gaussian heat maps.

  Args:
    pyramid: levels [B, h_l, w_l, C_l] of all labelled pictures, described at `side` pixels.
    points, visible: labels, normalised. An invisible landmark's heat map is zero everywhere.
    valid: False for padding.
    group: equal numbers for the copies of one picture, which are held out together; None: all are
      different pictures. The first of each group is the picture itself.
    flip_pairs: landmarks that are each other's mirror image, if a mirrored picture is as likely as
      the original: the prior is then that of the labels and their mirror images. Heat maps are
      learnt from mirrored copies only if the caller includes them among the pictures.
    size: side of the heat maps. spread: sd of the Gaussians, normalised.
    held_out: at most this many pictures are predicted by fits without them, to choose the strength
      of the ridge and the sharpness of the softmax, and to fit the linear map by which the
      landmarks correct each other.

  Everything is chosen on the labels, except that one label leaves nothing to choose by. Raises
  ValueError for a landmark that no picture shows.
  """
  return fit_ridge_held_out(
    pyramid,
    points,
    visible,
    valid,
    side=side,
    group=group,
    flip_pairs=flip_pairs,
    size=size,
    spread=spread,
    held_out=held_out,
  )[0]


def fit_ridge_held_out(
  pyramid: Pyramid,
  points: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  valid: Bool[Array, ' B'],
  *,
  side: int,
  group: Int[Array, ' B'] | None = None,
  flip_pairs: Sequence[tuple[int, int]] = (),
  size: int = 16,
  spread: float = 0.07,
  held_out: int = 256,
) -> tuple[LandmarkHead, HeldOut | None]:
  """`fit_ridge`, and its landmarks for the pictures that it held out, fitted without them.

  That is free: they are what it chose by, so they are as good as it could choose, not better. None
  where nothing was held out, as with one label.
  """
  keep = np.flatnonzero(np.asarray(valid))
  visible = np.asarray(visible)[keep]
  points = np.where(visible[..., None], np.asarray(points)[keep], 0).astype(np.float64)
  group = np.arange(len(keep)) if group is None else np.asarray(group)[keep]
  first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
  if not visible.any(0).all():
    never = np.flatnonzero(~visible.any(0)).tolist()
    raise ValueError(
      f'landmarks {never} are not visible in any of the {len(first)} labelled pictures'
    )
  pyramid = tuple(np.asarray(level) for level in pyramid)
  if len(keep) < len(pyramid[0]):
    pyramid = tuple(level[keep] for level in pyramid)  # a copy: only where something is left out
  positions = coords.edges_to_corners(coords.cell_centres(size, size), side=side)
  grid = np.asarray(positions, np.float64).reshape(-1, 2)
  columns = _Columns(pyramid, size)
  targets = np.exp(-((grid[:, None] - points[:, None]) ** 2).sum(-1) / (2 * spread**2))
  targets = (targets * visible[:, None]).astype(np.float32)

  fold = group % FOLDS
  problems = [_Problem(columns, targets, np.flatnonzero(fold == f)) for f in range(fold.max() + 1)]
  whole = _total(problems)
  shapes = _with_mirrored(points[first], visible[first], flip_pairs)
  log_prior, mean_shape = _position_prior(*shapes, grid)
  found = None
  if len(first) > 1:
    chosen = np.linspace(0, len(first) - 1, min(held_out, len(first))).astype(int)
    strengths = STRENGTHS if len(first) >= FEWEST else FEW_STRENGTHS
    heat = _held_out_heat(columns, problems, fold[first], first, chosen, strengths)
    found = _choose(heat, strengths, *shapes, chosen, grid)
  if found is None:
    strength, sharpness, correction, judged = ONE_STRENGTH, ONE_SHARPNESS, _start(mean_shape), None
  else:
    strength, sharpness, correction, *predicted = found
    judged = HeldOut(keep[first[chosen]], *predicted)
  weights = whole.solve(strength)
  variables = RidgeVariables(
    kernels=columns.kernels(weights),
    log_prior=jnp.asarray(log_prior.reshape(size, size, -1), float),
    positions=positions,
    mean_shape=jnp.asarray(mean_shape, float),
    sharpness=jnp.asarray(sharpness / whole.deviation(weights), float),
    correction=jnp.asarray(correction, float),
  )
  return LandmarkHead(variables, predict_ridge), judged


class _Columns:
  """Standardised hypercolumns of a few pictures at a time, with a constant as the last channel."""

  def __init__(self, pyramid: tuple[np.ndarray, ...], size: int) -> None:
    self.pyramid, self.size = pyramid, size
    self.mean, deviation = zip(*map(_mean_and_deviation, pyramid), strict=True)
    self.inverse = [1 / (each + 1e-6) for each in deviation]

  def __len__(self) -> int:
    return len(self.pyramid[0])

  @property
  def channels(self) -> int:
    """Channels of a column, including its constant."""
    return sum(level.shape[-1] for level in self.pyramid) + 1

  def __getitem__(self, chosen: slice | Int[np.ndarray, ' n']) -> Float[np.ndarray, 'n P C']:
    levels = [
      (level[chosen].astype(np.float32) - mean) * inverse
      for level, mean, inverse in zip(self.pyramid, self.mean, self.inverse, strict=True)
    ]
    stacked = np.asarray(_stack(tuple(levels), self.size))
    flat = stacked.reshape(len(stacked), self.size**2, -1)
    return np.concatenate([flat, np.ones_like(flat[..., :1])], -1)

  def kernels(self, weights: Float[np.ndarray, 'C K']) -> tuple[Array, ...]:
    """Weights of the standardised columns -> kernels for the raw levels, without the constant."""
    raw = weights[:-1] * np.concatenate(self.inverse)[:, None]
    return hypercolumn.split_rows(jnp.asarray(raw, float), [len(m) for m in self.mean])


_stack = jax.jit(hypercolumn.stack, static_argnums=1)


def _mean_and_deviation(
  level: Float[np.ndarray, 'B h w C'],
) -> tuple[Float[np.ndarray, ' C'], Float[np.ndarray, ' C']]:
  """Per channel, in blocks: a float64 copy of a whole level would be the largest array here."""
  total, squares = 0.0, 0.0
  for start in range(0, len(level), BLOCK):
    wide = level[start : start + BLOCK].astype(np.float64)
    total, squares = total + wide.sum((0, 1, 2)), squares + (wide * wide).sum((0, 1, 2))
  count = level.size / level.shape[-1]
  mean = total / count
  deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
  return mean.astype(np.float32), deviation.astype(np.float32)


class _Choice(NamedTuple):
  """What was chosen on the held-out pictures, and the predictions for them."""

  strength: float
  sharpness: float
  correction: Float[np.ndarray, '2*K 2*K']
  points: Float[np.ndarray, 'M K 2']
  evidence: Float[np.ndarray, 'M K E']


class _Correction(NamedTuple):
  """A linear map from offsets to targets."""

  share: Float[np.ndarray, ' M']  # of each picture in the mean left-out distance
  fitted: Callable[[], Float[np.ndarray, '2*K 2*K']]
  left_out: Float[np.ndarray, 'M K 2']  # each picture's targets, predicted by the map of the others


class _Problem:
  """Normal equations of a ridge regression from columns X of some pictures to their targets Y."""

  def __init__(
    self, columns: _Columns, targets: Float[np.ndarray, 'n P K'], rows: Int[np.ndarray, ' m']
  ) -> None:
    self.gram, self.moments, self.count = 0.0, 0.0, 0
    for start in range(0, len(rows), BLOCK):
      some = rows[start : start + BLOCK]
      x = columns[some].reshape(-1, columns.channels)
      y = targets[some].reshape(len(x), -1)
      # Blocks in float32, their sum in float64: the small eigenvalues matter.
      self.gram = self.gram + (x.T @ x).astype(np.float64)
      self.moments = self.moments + (x.T @ y).astype(np.float64)
      self.count += len(x)

  def solve(self, strength: float) -> Float[np.ndarray, 'C K']:
    """The weights; strength is in units of the mean eigenvalue."""
    import scipy.linalg  # late: heavy

    penalty = strength * np.trace(self.gram) / len(self.gram)
    damped = self.gram + penalty * np.eye(len(self.gram))
    return scipy.linalg.solve(damped, self.moments, assume_a='pos')

  def deviation(self, weights: Float[np.ndarray, 'C K']) -> float:
    """The standard deviation of X @ weights over rows, as a root mean square over landmarks."""
    mean = self.gram[-1] @ weights / self.count  # the last channel is the constant
    square = ((self.gram @ weights) * weights).sum(0) / self.count
    return float(np.sqrt(np.maximum(square - mean**2, 1e-12).mean()))


def _total(problems: Sequence[_Problem], without: int | None = None) -> _Problem:
  """The problem of all pictures, or of all but those of one fold."""
  total = copy.copy(problems[0])
  kept = [p for f, p in enumerate(problems) if f != without]
  for name in ('gram', 'moments', 'count'):
    setattr(total, name, sum(getattr(p, name) for p in kept))
  return total


def _held_out_heat(
  columns: _Columns,
  problems: Sequence[_Problem],
  fold: Int[np.ndarray, ' n'],
  first: Int[np.ndarray, ' n'],
  chosen: Int[np.ndarray, ' M'],
  strengths: Sequence[float],
) -> Float[np.ndarray, 'S M P K']:
  """Heat maps of the chosen pictures for each strength, fitted without their folds, in deviations.

  Args: fold: of every picture. first: its row in the columns. chosen: numbers of pictures.
  """
  shape = len(strengths), len(chosen), columns.size**2, problems[0].moments.shape[1]
  heat = np.empty(shape, np.float32)
  for f in np.unique(fold[chosen]).tolist():
    rest, mine = _total(problems, without=f), np.flatnonzero(fold[chosen] == f)
    x = columns[first[chosen[mine]]]
    for s, strength in enumerate(strengths):
      weights = rest.solve(strength)
      heat[s, mine] = x @ (weights / rest.deviation(weights)).astype(np.float32)
  return heat


def _with_mirrored(
  points: Float[np.ndarray, 'n K 2'],
  visible: Bool[np.ndarray, 'n K'],
  flip_pairs: Sequence[tuple[int, int]],
) -> tuple[Float[np.ndarray, 'V n K 2'], Bool[np.ndarray, 'V n K']]:
  """The labels alone (V = 1), or also their mirror images if there are flip pairs (V = 2)."""
  versions = [(points, visible)]
  if flip_pairs:
    versions.append(coords.mirrored(points, visible, flip_pairs))
  points, visible = zip(*versions, strict=True)
  return np.stack(points), np.stack(visible)


def _position_prior(
  points: Float[np.ndarray, 'V n K 2'],
  visible: Bool[np.ndarray, 'V n K'],
  grid: Float[np.ndarray, 'P 2'],
  *,
  without: int | None = None,
) -> tuple[Float[np.ndarray, 'P K'], Float[np.ndarray, 'K 2']]:
  """Log density of a Gaussian per landmark at every position, and the mean shape.

  Covariances are shrunk towards the one pooled over landmarks with the weight of four labels, and
  that one towards a sd of .2 with the weight of one, so that a handful of labels gives a broad
  prior, not a wrong one. The V versions of a label share its weight.
  """
  weight = visible / len(visible)
  if without is not None:
    weight[:, without] = 0
  total = weight.sum((0, 1))
  mean = np.einsum('vnk,vnkc->kc', weight, points) / np.where(total, total, 1)[:, None]
  count = np.maximum(total, 1)
  off = points - mean
  scatter = np.einsum('vnk,vnki,vnkj->kij', weight, off, off)
  eye = np.eye(2)
  pooled = (scatter.sum(0) + 0.04 * eye) / ((count - 1).sum() + 1)
  covariance = (scatter + 4 * pooled) / (count + 3)[:, None, None] * (1 + 1 / count)[:, None, None]
  away = grid[:, None] - mean
  precision = np.linalg.inv(covariance + 0.03**2 * eye)
  return -0.5 * np.einsum('pki,kij,pkj->pk', away, precision, away), mean


def _choose(
  heat: Float[np.ndarray, 'S M P K'],
  strengths: Sequence[float],
  points: Float[np.ndarray, 'V n K 2'],
  visible: Bool[np.ndarray, 'V n K'],
  chosen: Int[np.ndarray, ' M'],
  grid: Float[np.ndarray, 'P 2'],
) -> _Choice | None:
  """The strength, sharpness and correction that do best on the held-out pictures.

  Best is the smallest upper bound of the mean distance: its gap to that of the safe choice, plus
  CAUTION standard errors. None if there is nothing to judge by.
  """
  priors = [_position_prior(points, visible, grid, without=i) for i in chosen.tolist()]
  log_prior = np.stack([p for p, _ in priors])
  mean = np.stack([m for _, m in priors])
  points, visible = points[0], visible[0]  # judged on the pictures as they are, not mirrored
  # A landmark that only the held-out picture shows has no mean shape to be judged by.
  judged = visible[chosen] & (visible.sum(0) > 1)
  if not judged.any():
    return None
  start, target = _start(mean.mean(0)), points[chosen] - mean
  maps = dict(zip(strengths, heat, strict=True))
  sharpnesses = (s for s in SHARPNESSES if s <= len(points))
  best, safe = (np.inf,), None
  for strength, sharpness in ((SAFE_STRENGTH, SAFE_SHARPNESS), *product(strengths, sharpnesses)):
    expected = np.asarray(_expectation(maps[strength], log_prior, grid, sharpness), np.float64)
    for correction in _corrections(expected - mean, target, judged, start):
      safe = correction.share if safe is None else safe
      gap = correction.share - safe
      bound = gap.mean() + CAUTION * gap.std() / max(len(gap) - 1, 1) ** 0.5
      if bound < best[0]:
        best = bound, strength, sharpness, correction
  _, strength, sharpness, correction = best
  logits = sharpness * maps[strength] + log_prior
  points = mean + correction.left_out
  found = _moments(jnp.asarray(logits, float), jnp.asarray(grid, float))
  evidence = doubt(jnp.asarray(points, float), *found)
  return _Choice(strength, sharpness, correction.fitted(), points, np.asarray(evidence))


def _start(shape: Float[np.ndarray, 'K 2']) -> Float[np.ndarray, '2*K 2*K']:
  """The correction before anything is fitted: trusts offsets that move, turn or scale the shape.

  Heat maps are less likely to agree by chance on those than on others.
  """
  x, y = (shape - shape.mean(0)).T
  one, none = np.ones_like(x), np.zeros_like(x)
  moves = np.stack([[one, none], [none, one], [x, y], [-y, x]]).transpose(2, 1, 0)
  basis, size, _ = np.linalg.svd(moves.reshape(2 * len(shape), 4), full_matrices=False)
  basis = basis[:, size > 1e-6 * size[0]]
  rigid = basis @ basis.T
  return rigid + FREE_GAIN * (np.eye(len(rigid)) - rigid)


def _corrections(
  offset: Float[np.ndarray, 'M K 2'],
  target: Float[np.ndarray, 'M K 2'],
  judged: Bool[np.ndarray, 'M K'],
  start: Float[np.ndarray, '2*K 2*K'],
) -> Iterator[_Correction]:
  """Linear maps from offsets to targets, and how they do on left-out pictures.

  Ridge regressions towards `start`, towards unchanged offsets, and towards the mean shape; the
  first is `start` itself. Leave-one-out is in closed form; a map is computed only on demand.
  """
  x, y = offset.reshape(len(offset), -1), target.reshape(len(offset), -1)
  seen = np.repeat(judged, 2, axis=1)
  scatter = max((y * y * seen).sum() / y.shape[1], 1e-12)
  values, vectors = np.linalg.eigh(x @ x.T)
  values, identity = np.maximum(values, 0), np.eye(len(start))

  def fitted(
    towards: Float[np.ndarray, 'D D'], rest: Float[np.ndarray, 'M D'], strength: float
  ) -> Float[np.ndarray, 'D D']:
    coefficients = (vectors / (values + strength * scatter)) @ (vectors.T @ rest)
    return towards + x.T @ coefficients

  for towards in (start, identity, 0 * identity):
    before = x @ towards
    rest = (y - before) * seen
    for strength in (s for s in CORRECTIONS if s * len(x) >= STIFFNESS):
      hat = (vectors * (values / (values + strength * scatter))) @ vectors.T
      left_out = (rest - hat @ rest) / (1 - hat.diagonal())[:, None]
      distance = np.linalg.norm(left_out.reshape(offset.shape), axis=-1)
      share = (distance * judged).sum(1) * len(x) / judged.sum()
      predicted = (before + rest - left_out).reshape(offset.shape)
      yield _Correction(share, functools.partial(fitted, towards, rest, strength), predicted)


@jax.jit
def _expectation(
  maps: Float[Array, 'M P K'],
  log_prior: Float[Array, 'M P K'],
  grid: Float[Array, 'P 2'],
  sharpness: Float[Array, ''],
) -> Float[Array, 'M K 2']:
  return _moments(sharpness * maps + log_prior, grid)[0]


def _moments(
  logits: Float[Array, 'B P K'], grid: Float[Array, 'P 2']
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """Mean and standard deviation of the positions under a softmax over them."""
  probability = jax.nn.softmax(logits, axis=1)
  # Sums, not matrix products, in which accelerators would round the positions; and squares of
  # centred values, as a difference of two numbers near 1 is mostly rounding for a sharp landmark.
  mean = (probability[..., None] * grid[:, None]).sum(1)
  square = ((grid[:, None] - mean[:, None]) ** 2).sum(-1)
  return mean, jnp.sqrt((probability * square).sum(1))

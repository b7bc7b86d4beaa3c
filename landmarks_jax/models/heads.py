"""Heads on frozen or trained features: the contrastive embedding, and landmarks in closed form."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.geometry import coords
from landmarks_jax.models import hypercolumn


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
    x = maps.astype(jnp.promote_types(maps.dtype, jnp.float32)).mean(axis=(1, 2))
    bound = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    fan_in = x.shape[-1]
    for layer in range(self.layers):
      x = nn.relu(x) if layer else x
      width = self.dim if layer == self.layers - 1 else fan_in

      def bias(rng: Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -1, 1) * fan_in**-0.5

      x = nn.Dense(width, kernel_init=bound, bias_init=bias, name=f'fc{layer}')(x)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


class LandmarkHead(NamedTuple):
  """Landmarks from a pyramid: `predict(variables, pyramid) -> points [B, K, 2]`, normalised."""

  variables: Any
  predict: Callable


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


# Candidates of the leave-one-out choice. Strengths are in units of the Gram matrix's mean
# eigenvalue, those of the correction in the labels' own scatter.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
SHARPNESSES = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
GAINS = tuple(np.linspace(0, 1.5, 16))
CORRECTIONS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, np.inf)
UNCHOSEN = (1e-1, 30.0, 0.5)  # strength, sharpness, gain
FEWEST_TO_CORRECT = 8  # pictures; fewer only choose a gain


def predict_ridge(variables: RidgeVariables, pyramid: Pyramid) -> Float[Array, 'B K 2']:
  """Landmarks from linear heat maps under the labels' own position prior.

  mean + correction(E[u] - mean), with p(u) ~ prior(u) * exp(sharpness * heat(u)) over positions u.
  The correction is linear in all landmarks at once, so that the clear ones place the doubtful ones.
  """
  height, width = variables.log_prior.shape[:2]
  heat = hypercolumn.project(pyramid, variables.kernels, (height, width))
  probability = jax.nn.softmax(variables.sharpness * heat + variables.log_prior, axis=(1, 2))
  expected = jnp.einsum('bhwk,hwc->bkc', probability, variables.positions)
  offset = (expected - variables.mean_shape).reshape(len(expected), -1)
  return variables.mean_shape + (offset @ variables.correction).reshape(expected.shape)


def fit_ridge(
  pyramid: Pyramid,
  points: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  valid: Bool[Array, ' B'],
  *,
  side: int,
  size: int = 16,
  spread: float = 0.07,
  held_out: int = 128,
) -> LandmarkHead:
  """Landmarks from frozen features in closed form: ridge regression of Gaussian heat maps.

  Args:
    pyramid: levels [B, h_l, w_l, C_l] of all labelled pictures, described at `side` pixels.
    points, visible: labels, normalised. An invisible landmark's heat map is zero everywhere.
    valid: False for padding. size: side of the heat maps. spread: sd of the Gaussians, normalised.
    held_out: at most so many pictures are predicted, each without itself, to choose the strength of
      the ridge and the sharpness of the softmax, and to fit the linear map by which the landmarks
      correct each other.

  Everything is chosen on the labels. One or two labels leave nothing to choose by: middle values.
  Raises ValueError for a landmark that no picture shows.
  """
  keep = np.flatnonzero(np.asarray(valid))
  visible = np.asarray(visible)[keep]
  points = np.where(visible[..., None], np.asarray(points)[keep], 0)
  if not visible.any(0).all():
    never = np.flatnonzero(~visible.any(0)).tolist()
    raise ValueError(
      f'landmarks {never} are not visible in any of the {len(keep)} labelled pictures'
    )
  pyramid = tuple(np.asarray(level)[keep] for level in pyramid)
  positions = coords.edges_to_corners(coords.cell_centres(size, size), side=side)
  grid = np.asarray(positions, np.float64).reshape(-1, 2)
  columns = _Columns(pyramid, size)
  targets = np.exp(-((grid[:, None] - points[:, None]) ** 2).sum(-1) / (2 * spread**2))
  targets *= visible[:, None]

  values, vectors, moments = _ridge_problem(columns, targets)
  chosen = np.linspace(0, len(keep) - 1, min(held_out, len(keep))).astype(int).tolist()
  strength, sharpness, gain = UNCHOSEN
  correction = gain * np.eye(2 * points.shape[1])
  if len(keep) > 2:
    held_heat = _leave_one_out_heat(columns, targets, chosen, values, vectors, moments)
    priors = [_position_prior(points, visible, grid, without=i) for i in chosen]
    found = _choose(held_heat, priors, points, visible, chosen, grid)
    strength, sharpness, correction = found or (strength, sharpness, correction)
  log_prior, mean_shape = _position_prior(points, visible, grid)
  weights = vectors @ (moments / (values + strength * values.mean())[:, None])
  variables = RidgeVariables(
    kernels=columns.kernels(weights),
    log_prior=jnp.asarray(log_prior.reshape(size, size, -1), float),
    positions=positions,
    mean_shape=jnp.asarray(mean_shape, float),
    sharpness=jnp.asarray(sharpness, float),
    correction=jnp.asarray(correction, float),
  )
  return LandmarkHead(variables, predict_ridge)


class _Columns:
  """Standardised hypercolumns of a few pictures at a time, with a constant as the last channel."""

  def __init__(self, pyramid: tuple[np.ndarray, ...], size: int) -> None:
    self.pyramid, self.size = pyramid, size
    wide = [level.astype(np.float32) for level in pyramid]
    self.mean = [level.mean((0, 1, 2)) for level in wide]
    self.inverse = [1 / (level.std((0, 1, 2)) + 1e-6) for level in wide]

  def __len__(self) -> int:
    return len(self.pyramid[0])

  def __getitem__(self, chosen: slice) -> Float[np.ndarray, 'n P C']:
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


def _ridge_problem(
  columns: _Columns, targets: Float[np.ndarray, 'n P K']
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Eigenvalues [C] and vectors [C, C] of X'X, and X'Y [C, K] in that basis; X is all positions."""
  gram, moments = 0.0, 0.0
  for start in range(0, len(columns), 64):
    x = columns[start : start + 64]
    x = x.reshape(-1, x.shape[-1])
    y = targets[start : start + 64].reshape(len(x), -1).astype(np.float32)
    # Blocks in float32, their sum in float64: the small eigenvalues matter.
    gram, moments = gram + (x.T @ x).astype(np.float64), moments + (x.T @ y).astype(np.float64)
  values, vectors = np.linalg.eigh(gram)
  return np.maximum(values, 0), vectors, vectors.T @ moments


def _leave_one_out_heat(
  columns: _Columns,
  targets: Float[np.ndarray, 'n P K'],
  chosen: Sequence[int],
  values: Float[np.ndarray, ' C'],
  vectors: Float[np.ndarray, 'C C'],
  moments: Float[np.ndarray, 'C K'],
) -> Float[np.ndarray, 'S M P K']:
  """Heat maps of the chosen pictures for each strength, each fitted without the picture itself.

  With H the picture's block of the hat matrix, its residual without itself is (I - H)^-1 its
  residual.
  """
  strengths = values.mean() * np.array(STRENGTHS)
  heat = np.empty((len(strengths), len(chosen), *targets.shape[1:]), np.float32)
  for m, i in enumerate(chosen):
    x, y = columns[i : i + 1][0] @ vectors, targets[i]
    for s, strength in enumerate(strengths):
      weighted = x / (values + strength)
      residual = y - weighted @ moments
      heat[s, m] = y - np.linalg.solve(np.eye(len(x)) - weighted @ x.T, residual)
  return heat


def _position_prior(
  points: Float[np.ndarray, 'n K 2'],
  visible: Bool[np.ndarray, 'n K'],
  grid: Float[np.ndarray, 'P 2'],
  *,
  without: int | None = None,
) -> tuple[Float[np.ndarray, 'P K'], Float[np.ndarray, 'K 2']]:
  """Log density of a Gaussian per landmark at every position, and the mean shape.

  Covariances lean on the one pooled over landmarks by the weight of four labels, and that leans on
  a sd of .2 by the weight of one, so that a handful of labels gives a broad prior, not a wrong
  one.
  """
  weight = visible.astype(np.float64)
  if without is not None:
    weight[without] = 0
  count = np.maximum(weight.sum(0), 1)
  mean = np.einsum('nk,nkc->kc', weight, points) / count[:, None]
  off = points - mean
  scatter = np.einsum('nk,nki,nkj->kij', weight, off, off)
  eye = np.eye(2)
  pooled = (scatter.sum(0) + 0.04 * eye) / ((count - 1).sum() + 1)
  covariance = (scatter + 4 * pooled) / (count + 3)[:, None, None] * (1 + 1 / count)[:, None, None]
  away = grid[:, None] - mean
  precision = np.linalg.inv(covariance + 0.03**2 * eye)
  return -0.5 * np.einsum('pki,kij,pkj->pk', away, precision, away), mean


def _choose(
  heat: Float[np.ndarray, 'S M P K'],
  priors: Sequence[tuple[np.ndarray, np.ndarray]],
  points: Float[np.ndarray, 'n K 2'],
  visible: Bool[np.ndarray, 'n K'],
  chosen: Sequence[int],
  grid: Float[np.ndarray, 'P 2'],
) -> tuple[float, float, Float[np.ndarray, '2*K 2*K']] | None:
  """The (strength, sharpness, correction) of the smallest mean distance on the held-out pictures.

  None if there is nothing to judge by.
  """
  log_prior = np.stack([p for p, _ in priors])
  mean = np.stack([m for _, m in priors])
  # A landmark that only the held-out picture shows has no mean shape to be judged by.
  judged = visible[chosen] & (visible.sum(0) > 1)
  if not judged.any():
    return None
  found = []
  for maps, strength in zip(heat, STRENGTHS, strict=True):
    for sharpness in SHARPNESSES:
      expected = np.asarray(_expectation(maps, log_prior, grid, sharpness), np.float64)
      error, correction = _fit_correction(expected - mean, points[chosen] - mean, judged)
      found.append((error, strength, sharpness, correction))
  return min(found, key=lambda one: one[0])[1:]


def _fit_correction(
  offset: Float[np.ndarray, 'M K 2'],
  target: Float[np.ndarray, 'M K 2'],
  judged: Bool[np.ndarray, 'M K'],
) -> tuple[float, Float[np.ndarray, '2*K 2*K']]:
  """The mean distance on left-out pictures, and the linear map from offsets to targets of least.

  A ridge towards gain * identity: few pictures leave a common gain, more let every landmark draw on
  all. Both strengths are chosen by the leave-one-out distance, in closed form.
  """
  count = len(offset)
  x, y = offset.reshape(count, -1), target.reshape(count, -1)
  seen = np.repeat(judged, 2, axis=1)
  scatter = max((y * y * seen).sum() / y.shape[1], 1e-12)
  values, vectors = np.linalg.eigh(x @ x.T)
  values = np.maximum(values, 0)
  best = np.inf, 0.0, 0.0
  for strength in CORRECTIONS if count >= FEWEST_TO_CORRECT else (np.inf,):
    hat = (vectors * (values / (values + strength * scatter))) @ vectors.T
    for gain in GAINS:
      rest = (y - gain * x) * seen
      left_out = (rest - hat @ rest) / (1 - hat.diagonal())[:, None]
      distance = np.linalg.norm(left_out.reshape(offset.shape), axis=-1)[judged].mean()
      best = min(best, (float(distance), strength, gain))
  distance, strength, gain = best
  rest = (y - gain * x) * seen
  coefficients = (vectors / (values + strength * scatter)) @ (vectors.T @ rest)
  return distance, gain * np.eye(x.shape[1]) + x.T @ coefficients


@jax.jit
def _expectation(
  maps: Float[Array, 'M P K'],
  log_prior: Float[Array, 'M P K'],
  grid: Float[Array, 'P 2'],
  sharpness: Float[Array, ''],
) -> Float[Array, 'M K 2']:
  return jnp.einsum('mpk,pc->mkc', jax.nn.softmax(sharpness * maps + log_prior, axis=1), grid)

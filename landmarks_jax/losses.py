"""Pure losses: arrays in, one number per example out; the caller takes the mean."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from landmarks_jax import correlation, shapes
from landmarks_jax.contracts import Array


def info_nce(
  query: Float[Array, 'B C'],
  key: Float[Array, 'B C'],
  negatives: Float[Array, 'N C'],
  *,
  temperature: float,
) -> Float[Array, ' B']:
  """InfoNCE with explicit negatives (van den Oord et al. 2018, eq. 4; MoCo, He et al. 2020, eq. 1).

  Args: query, key: [B, C], unit rows. negatives: [N, C], such as MoCo's queue.
  No gradient is stopped here: pass `jax.lax.stop_gradient(key)` where the key is a target.
  Computed in at least float32. Raises ValueError that names the argument whose shape differs.
  Fixture moco_memory.

  >>> import numpy as np
  >>> one_hot = np.eye(2, dtype=np.float32)
  >>> print(np.round(np.asarray(info_nce(one_hot, one_hot, -one_hot, temperature=1.0)), 3))
  [0.408 0.408]
  """
  shapes.check(query=(query, 'B C'), key=(key, 'B C'), negatives=(negatives, 'N C'))
  query, key, negatives = (_at_least_float32(x) for x in (query, key, negatives))
  positive = jnp.einsum('bc,bc->b', query, key)[:, None]
  logits = jnp.concatenate([positive, jnp.einsum('bc,nc->bn', query, negatives)], axis=1)
  return -jax.nn.log_softmax(logits / temperature)[:, 0]


def in_batch_nce(
  query: Float[Array, 'B C'], key: Float[Array, 'B C'], *, temperature: float
) -> Float[Array, ' B']:
  """InfoNCE whose negatives are the keys of the other examples (Chen et al. 2021, MoCo v3, alg. 1).

  Args: query, key: [B, C], unit rows; row i of one belongs to row i of the other. Without the
  algorithm's factor of 2 * temperature.
  Computed in at least float32. Raises ValueError that names the argument whose shape differs.
  """
  shapes.check(query=(query, 'B C'), key=(key, 'B C'))
  query, key = _at_least_float32(query), _at_least_float32(key)
  logits = jnp.einsum('bc,nc->bn', query, key) / temperature
  return -jnp.diagonal(jax.nn.log_softmax(logits))


def smooth_l1_landmarks(
  points: Float[Array, 'B K 2'],
  target: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  *,
  magnification: float = 10.0,
) -> Float[Array, ' B']:
  """Smooth-L1 (beta 1) of magnified normalised coordinates, the paper's landmark loss (section 5).

  Args: points, target: [B, K, 2], normalised. visible: [B, K].
  Invisible landmarks cost nothing and get no gradient. The mean is over all 2K coordinates,
  invisible ones included, as published: an example with few visible landmarks weighs less.
  Computed in at least float32. Raises ValueError that names the argument whose shape differs.
  Fixture regression_losses.
  """
  shapes.check(points=(points, 'B K 2'), target=(target, 'B K 2'), visible=(visible, 'B K'))
  # Masked before the square, so that a NaN in an invisible target reaches neither loss nor
  # gradient.
  points, target = _at_least_float32(points), _at_least_float32(target)
  difference = magnification * jnp.where(visible[..., None], points - target, 0)
  size = jnp.abs(difference)
  cost = jnp.where(size < 1, 0.5 * difference**2, size - 0.5)
  return cost.mean(axis=(1, 2))


def spatial_contrast(
  features: Float[Array, 'B h w C'],
  *,
  temperature: float,
  stride: float,
  power: float = 0.5,
  normalise: bool = True,
  groups: Sequence[int] | None = None,
) -> Float[Array, ' B']:
  """How far from itself a position is matched within its own picture (ICCV 2021, section 3).

  mean_u sum_v p(v|u) |u - v|^power with p(v|u) = softmax_v(temperature * <f_u, f_v>): low where
  descriptors differ between positions, and alike only where they are near.

  Args:
    features: [B, h, w, C]. temperature: multiplies the products of descriptors.
    stride: pixels of the input from one position to the next, the unit of distances.
    power: of the distance, above 0.
    normalise: descriptors to unit length first; a descriptor of zeros stays zero.
    groups: numbers of channels, in order, whose slices are normalised apart, so that their products
      add up; None is one slice.

  Blockwise (`correlation`), in at least float32. Raises ValueError for another rank, and where
  groups do not add up to C. Specification section 4; fixture dense_corr_loss.
  """
  channels = shapes.check(features=(features, 'B h w C'))['C']
  features = _at_least_float32(features)
  groups = [channels] if groups is None else list(groups)
  if sum(groups) != channels:
    raise ValueError(f'groups {tuple(groups)} sum to {sum(groups)}, but features has C={channels}')
  if normalise:
    slices = jnp.split(features, np.cumsum(groups)[:-1], axis=-1)
    features = jnp.concatenate([_unit(part) for part in slices], axis=-1)
  batch, height, width, _ = features.shape
  positions = jnp.asarray(stride * np.indices((height, width))[::-1], features.dtype)
  positions = positions.reshape(2, -1).T  # (x, y), in the order of the rows below

  def of_picture(rows: Float[Array, 'P C']) -> Float[Array, '']:
    return correlation.expected_distance(
      rows, rows, positions, positions, temperature=temperature, power=power
    ).mean()

  return jax.vmap(of_picture)(features.reshape(batch, height * width, channels))


def _unit(rows: Float[Array, '*shape C']) -> Float[Array, '*shape C']:
  """Rows of length 1, or 0."""
  # Scaled first: squares of small numbers vanish. The direction does not depend on the scale.
  top = jax.lax.stop_gradient(jnp.abs(rows).max(-1, keepdims=True))
  rows = rows / jnp.where(top == 0, 1, top)
  # The sum is 0 or at least 1: the bound keeps the gradient at 0 finite and touches no other.
  return rows * jax.lax.rsqrt(jnp.maximum((rows * rows).sum(-1, keepdims=True), 0.5))


def _at_least_float32(x: Array) -> jax.Array:
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))

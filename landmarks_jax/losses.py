"""Pure losses: arrays in, one number per example out; the caller takes the mean."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from landmarks_jax import shapes
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


def _at_least_float32(x: Array) -> jax.Array:
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))

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

  >>> import numpy as np
  >>> one_hot = np.eye(2, dtype=np.float32)
  >>> info_nce(one_hot, one_hot, -one_hot, temperature=1.0).round(3)
  Array([0.408, 0.408], dtype=float32)
  """
  shapes.check(query=(query, 'B C'), key=(key, 'B C'), negatives=(negatives, 'N C'))
  positive = jnp.einsum('bc,bc->b', query, key)[:, None]
  logits = jnp.concatenate([positive, jnp.einsum('bc,nc->bn', query, negatives)], axis=1)
  return -jax.nn.log_softmax(_at_least_float32(logits) / temperature)[:, 0]


def in_batch_nce(
  query: Float[Array, 'B C'], key: Float[Array, 'B C'], *, temperature: float
) -> Float[Array, ' B']:
  """InfoNCE whose negatives are the keys of the other examples (Chen et al. 2021, MoCo v3, alg. 1).

  Args: query, key: [B, C], unit rows; row i of one belongs to row i of the other.
  """
  shapes.check(query=(query, 'B C'), key=(key, 'B C'))
  logits = _at_least_float32(jnp.einsum('bc,nc->bn', query, key)) / temperature
  return -jnp.diagonal(jax.nn.log_softmax(logits))


def smooth_l1_landmarks(
  points: Float[Array, 'B K 2'],
  target: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  *,
  magnification: float = 10.0,
) -> Float[Array, ' B']:
  """Smooth-L1 (beta 1) of magnified normalised coordinates, the paper's landmark loss (section 5).

  Invisible landmarks cost nothing and get no gradient. The mean is over all 2K coordinates,
  invisible ones included, as published: an example with few visible landmarks weighs less.
  """
  shapes.check(points=(points, 'B K 2'), target=(target, 'B K 2'), visible=(visible, 'B K'))
  # Masked before the square, so that a NaN in an invisible target reaches neither loss nor
  # gradient.
  difference = magnification * jnp.where(visible[..., None], points - target, 0)
  size = jnp.abs(difference)
  cost = jnp.where(size < 1, 0.5 * difference**2, size - 0.5)
  return _at_least_float32(cost).mean(axis=(1, 2))


def _at_least_float32(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))

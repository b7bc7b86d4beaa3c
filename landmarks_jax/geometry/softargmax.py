"""From maps to points: the expected position under a softmax over positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from landmarks_jax.contracts import Array


def soft_argmax(
  maps: Float[Array, 'B H W K'], *, sharpness: float
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """E[(x, y)] of p(u) ~ exp(sharpness * map(u)), and p at its peak; specs/contrast.md, 5.

  Args: maps: [B, H, W, K]. Positions are corner-aligned on both axes (`linspace(-1, 1)`).
  Returns: points [B, K, 2], normalised; peak [B, K], 1 where all the weight is on one position and
  1 / (H * W) on a flat map. Computed in at least float32. Fixture kp_regressor.
  """
  maps = jnp.asarray(maps)
  scores = sharpness * maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
  top = jax.lax.stop_gradient(scores.max(axis=(1, 2), keepdims=True))
  weight = jnp.exp(scores - top)
  # Sums, not products of matrices: accelerators would round the positions.
  columns, rows = weight.sum(1), weight.sum(2)
  total = columns.sum(1)

  def mean(weight: Float[Array, 'B n K']) -> Float[Array, 'B K']:
    return (weight * jnp.linspace(-1, 1, weight.shape[1])[:, None]).sum(1) / total

  return jnp.stack([mean(columns), mean(rows)], axis=-1), 1 / total

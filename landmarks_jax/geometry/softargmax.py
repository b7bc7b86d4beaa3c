"""From maps to points: the expected position of a softmax over positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import at_least_float32


def soft_argmax(
  maps: Float[Array, 'B H W K'], *, sharpness: float
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """The mean position (x, y) of p(u) ~ exp(sharpness * map(u)), and p at its peak.

  Args: maps: [B, H, W, K]; positions are corner-aligned on both axes. sharpness: above 0.
  Returns: points [B, K, 2], normalised; peak [B, K], 1 where all the weight is on one position and
  1 / (H * W) on a flat map. Computed in at least float32. Specification section 5;
  fixture kp_regressor.
  """
  maps = at_least_float32(maps)
  top = maps.max(axis=(1, 2))
  still = jax.lax.stop_gradient(top)  # the points do not depend on it
  # The difference first: fused with the product it could round to above zero.
  weight = jnp.exp(sharpness * (maps - still[:, None, None]))
  # Sums, not products of matrices: accelerators would round the positions.
  columns, rows = weight.sum(1), weight.sum(2)
  total = columns.sum(1)

  def mean(weight: Float[Array, 'B n K']) -> Float[Array, 'B K']:
    place = jnp.linspace(-1, 1, weight.shape[1], dtype=weight.dtype)[:, None]
    return (weight * place).sum(1) / total

  return jnp.stack([mean(columns), mean(rows)], axis=-1), jnp.exp(sharpness * (top - still)) / total

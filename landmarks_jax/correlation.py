"""Dense correlation: every position of one map against every position of another, by blocks.

The matrix of all pairs, 340 MB for one picture at 96x96, never exists: blocks of its rows are made
where they are reduced, and made again for the gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from landmarks_jax import shapes
from landmarks_jax.contracts import Array


def expected_distance(
  query: Float[Array, 'P C'],
  key: Float[Array, 'Q C'],
  target: Float[Array, 'P 2'],
  positions: Float[Array, 'Q 2'],
  *,
  temperature: float,
  power: float,
  block: int = 256,
) -> Float[Array, ' P']:
  """How far from its target each query is matched: sum_v p(v|u) |positions_v - target_u|^power.

  p(v|u) = softmax_v(temperature * <query_u, key_v>) (Thewlis et al. 2017, eq. 5).

  Args:
    query, key: descriptors [P, C] and [Q, C]. target: [P, 2], the true match of each query.
    positions: [Q, 2], of the keys, in the unit of `target`; distances are in that unit too.
    temperature: multiplies the products. power: of the distance, above 0.
    block: queries at a time; memory grows with block * Q.

  No gradient reaches target and positions. Raises ValueError that names the argument whose shape
  differs. Specification contrast, section 4; equivariant, section 1.
  """
  shapes.check(
    query=(query, 'P C'), key=(key, 'Q C'), target=(target, 'P 2'), positions=(positions, 'Q 2')
  )
  target, positions = jax.lax.stop_gradient((target, positions))

  @jax.checkpoint
  def of_query(row: tuple[Float[Array, ' C'], Float[Array, ' 2']]) -> Float[Array, '']:
    query, target = row
    # The softmax multiplies what a product rounds by its temperature.
    product = jnp.einsum('c,qc->q', query, key, precision='float32')
    squared = ((positions - target) ** 2).sum(-1)
    return (jax.nn.softmax(temperature * product) * squared ** (power / 2)).sum()

  return jax.lax.map(of_query, (query, target), batch_size=block)

"""Dense correlation: every position of one map against every position of another, in blocks.

The matrix of all pairs, 340 MB for one picture at 96x96, is never built: blocks of its rows are
computed where they are reduced, and again for the gradient. This is no slower than the plain form,
whose matrix has to go through memory (benchmarks/correlation.py).

Everywhere p(v|u) = softmax_v(sharpness * <query_u, key_v>) (Thewlis et al. 2017, eq. 3): papers
call the sharpness a temperature, though it multiplies. A traced one is 0 or more. Everything is in
at least float32.
Specification equivariant, section 1.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import ad_checkpoint
from jaxtyping import Float

from landmarks_jax import shapes
from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import at_least_float32


def log_normaliser(
  query: Float[Array, 'P C'], key: Float[Array, 'Q C'], *, sharpness: float, block: int = 256
) -> Float[Array, ' P']:
  """The log-normaliser of each query's scores: log sum_v exp(sharpness * <query_u, key_v>).

  Args: query, key: descriptors. block: queries at a time; memory grows with block * Q.
  Raises ValueError that names the argument whose shape differs.
  """
  shapes.check(query=(query, 'P C'), key=(key, 'Q C'))
  query, key = map(at_least_float32, (query, key))

  def of_block(query: Float[Array, 'b C']) -> Float[Array, ' b']:
    _, top, total = _weights(query, key, sharpness)
    return top + jnp.log(total)

  return _by_blocks(of_block, block, query)


def expected_distance(
  query: Float[Array, 'P C'],
  key: Float[Array, 'Q C'],
  target: Float[Array, 'P 2'],
  positions: Float[Array, 'Q 2'],
  *,
  sharpness: float,
  power: float | Sequence[float],
  block: int = 256,
) -> Float[Array, ' P'] | Float[Array, 'P n']:
  """Expected distance of each match from its target: sum_v p(v|u) |positions_v - target_u|^power.

  Args:
    query, key: descriptors. target: the true match of each query.
    positions: of the keys, in the unit of `target`; distances are in that unit too.
    power: of the distance, above 0; n of them give [P, n], in one pass over the pairs.
    block: queries at a time; memory grows with block * Q.

  No gradient reaches target and positions. Raises ValueError that names the argument whose shape
  differs. Thewlis et al. 2017, eq. 5; specification section 4.
  """
  shapes.check(
    query=(query, 'P C'), key=(key, 'Q C'), target=(target, 'P 2'), positions=(positions, 'Q 2')
  )
  query, key, target, positions = map(at_least_float32, (query, key, target, positions))
  target, positions = jax.lax.stop_gradient((target, positions))

  def of_block(
    query: Float[Array, 'b C'], target: Float[Array, 'b 2']
  ) -> Float[Array, ' b'] | Float[Array, 'b n']:
    squared = sum((target[:, None, axis] - positions[:, axis]) ** 2 for axis in range(2))
    distance = jnp.sqrt(squared)
    weight, _, total = _weights(query, key, sharpness)

    def expected(power: float | Float[Array, '']) -> Float[Array, ' b']:
      return _kept((weight * _raised(distance, power)).sum(1)) / total

    if isinstance(power, Sequence):
      return jnp.stack([expected(one) for one in power], axis=1)
    return expected(power)

  return _by_blocks(of_block, block, query, target)


def expected_key(
  query: Float[Array, 'P C'], key: Float[Array, 'Q C'], *, sharpness: float, block: int = 256
) -> Float[Array, 'P C']:
  """The mean of the keys under each query's match: sum_v p(v|u) key_v.

  Args: query, key: descriptors. block: queries at a time; memory grows with block * Q.
  Raises ValueError that names the argument whose shape differs.
  """
  shapes.check(query=(query, 'P C'), key=(key, 'Q C'))
  query, key = map(at_least_float32, (query, key))

  def of_block(query: Float[Array, 'b C']) -> Float[Array, 'b C']:
    weight, _, total = _weights(query, key, sharpness)
    summed = jnp.einsum('pq,qc->pc', weight, key, precision='float32')
    return _kept(summed) / total[:, None]

  return _by_blocks(of_block, block, query)


def _weights(
  query: Float[Array, 'P C'], key: Float[Array, 'Q C'], sharpness: float
) -> tuple[Float[Array, 'P Q'], Float[Array, ' P'], Float[Array, ' P']]:
  """Unnormalised probabilities exp(score - top), the greatest score `top`, and their sum."""
  if isinstance(sharpness, int | float) and sharpness < 0:  # the least product is the likeliest
    query, sharpness = -query, -sharpness
  # The softmax multiplies the rounding errors of a product by its sharpness.
  products = jnp.einsum('pc,qc->pq', query, key, precision='float32')
  top = _kept(jax.lax.stop_gradient(products.max(1)))
  # Products are subtracted, not scores: a compiler may fuse the scores' multiplication into the
  # subtraction, so that they are rounded otherwise where the gradient computes them again, and
  # probabilities would not sum to 1.
  weight = jnp.exp(sharpness * (products - top[:, None]))
  return weight, sharpness * top, _kept(weight.sum(1))


def _raised(distance: Float[Array, 'P Q'], power: float | Float[Array, '']) -> Float[Array, 'P Q']:
  """distance^power."""
  # XLA turns no power into a root, and the power of every pair would take a third of the time.
  if isinstance(power, int | float) and power == 0.5:
    return jnp.sqrt(distance)
  return distance**power


def _kept(rows: Array) -> Array:
  """Keeps these few numbers per query for the gradient; those of pairs are recomputed."""
  return ad_checkpoint.checkpoint_name(rows, 'kept')


def _by_blocks(function: Callable[..., Array], block: int, *rows: Float[Array, 'P _']) -> Array:
  """Maps rows to rows, up to `block` at a time."""
  count = len(rows[0])
  blocks = max(1, -(-count // block))  # one, of no rows, where there are none
  height = -(-count // blocks)  # equal for all, so that hardly any row is padding

  def cut(rows: Float[Array, 'P D']) -> Float[Array, 'n b D']:
    padded = jnp.pad(rows, [(0, blocks * height - count), (0, 0)])
    return padded.reshape(blocks, height, rows.shape[1])

  policy = jax.checkpoint_policies.save_only_these_names('kept')
  remade = jax.checkpoint(function, policy=policy)
  made = jax.lax.map(lambda rows: remade(*rows), tuple(map(cut, rows)))
  return made.reshape(blocks * height, *made.shape[2:])[:count]

"""The rules for dtypes: what networks compute in, and that sums are never below float32."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Shaped

from landmarks_jax.contracts import Array

# Of a network's computation; parameters and statistics are float32.
PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


def dtype_of(precision: str) -> DTypeLike | None:
  """What a network of this precision computes in; None is the dtype of what it is given.

  Raises ValueError for a precision that PRECISIONS does not have.

  >>> dtype_of('bfloat16').dtype
  dtype(bfloat16)
  """
  if precision not in PRECISIONS:
    raise ValueError(f'precision={precision!r}: choose from {", ".join(PRECISIONS)}')
  return PRECISIONS[precision]


def at_least_float32(x: Shaped[Array, '*shape']) -> Shaped[jax.Array, '*shape']:
  """`x` in float32, or in its own dtype if wider: the precision of all sums and softmaxes.

  >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
  dtype('float32')
  """
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def floating(x: Shaped[Array, '*shape']) -> Shaped[jax.Array, '*shape']:
  """`x`, whole numbers as float32: a weight below 1 would be 0 in the dtype of bytes.

  >>> floating(jnp.ones(2, jnp.uint8)).dtype, floating(jnp.ones(2, jnp.bfloat16)).dtype
  (dtype('float32'), dtype(bfloat16))
  """
  x = jnp.asarray(x)
  return x if jnp.issubdtype(x.dtype, jnp.floating) else at_least_float32(x)

"""The one rule of number formats: casts promote, to float32 at least, and never lower."""

import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from landmarks_jax.contracts import Array


def at_least_float32(x: Shaped[Array, '*shape']) -> Shaped[jax.Array, '*shape']:
  """`x` in float32, or as it is in a wider format: what sums and softmaxes are computed in.

  >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
  dtype('float32')
  """
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))

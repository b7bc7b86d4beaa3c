"""The one rule for dtypes: casts promote to at least float32, and never lower the precision."""

import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from landmarks_jax.contracts import Array


def at_least_float32(x: Shaped[Array, '*shape']) -> Shaped[jax.Array, '*shape']:
  """`x` in float32, or in its own dtype if wider: the precision of all sums and softmaxes.

  >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
  dtype('float32')
  """
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))

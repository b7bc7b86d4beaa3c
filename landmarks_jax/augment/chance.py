"""Which pictures of a batch an augmentation changes, and how strong it may be."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from landmarks_jax.contracts import Array


def some(
  rng: PRNGKeyArray, count: int, *, probability: int | float | Float[Array, ''], what: str
) -> Bool[Array, ' {count}']:
  """True for each of `count` pictures with the same probability, independently.

  what: how these pictures are called in the ValueError for a number that is no probability, such as
  'grey'. Arrays are not checked, as they may be traced.
  """
  if isinstance(probability, int | float) and not 0 <= probability <= 1:
    raise ValueError(f'{probability=} of {what} pictures: expected 0 to 1')
  return jax.random.bernoulli(rng, jnp.asarray(probability, float), (count,))


def check_strength(strength: int | float | Float[Array, ''], *, what: str) -> None:
  """Raises ValueError unless factors 1 - strength to 1 + strength are in order and not negative.

  what: has this strength, such as 'the colour jitter'. Arrays are not checked, as they may be
  traced.
  """
  if isinstance(strength, int | float) and not 0 <= strength <= 1:
    raise ValueError(f'{strength=} of {what}: expected 0 to 1')

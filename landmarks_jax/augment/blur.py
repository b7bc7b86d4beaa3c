"""Blur by resizing down and up: two matrix products per picture (SCRL, specification scrl)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, PRNGKeyArray

from landmarks_jax.augment import chance
from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import floating

FACTORS = (1.1, 1.2, 1.5)  # as published: not a Gaussian


def bicubic_matrix(side: int, size: int) -> Float[np.ndarray, '{size} {side}']:
  """Pillow's bicubic resize of a line of `side` pixels to `size`, without its rounding.

  Half-pixel centres; Keys' cubic with a = -1/2, as wide as the samples where they are larger than
  pixels, normalised over the pixels that exist.
  """
  scale = side / size
  centre = (np.arange(size)[:, None] + 0.5) * scale - 0.5
  distance = np.abs(centre - np.arange(side)) / max(scale, 1)
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
  return weight / weight.sum(-1, keepdims=True)


def random_blur(
  rng: PRNGKeyArray, image: Num[Array, 'B S S 3'], *, probability: float
) -> Float[Array, 'B S S 3']:
  """Shrinks some of the pictures by one of FACTORS and enlarges them again, bicubic.

  Args: image: [B, S, S, 3], 0..255; whole numbers become float32. The result is clipped to 0..255.
  Specification scrl, section 2.
  """
  rng_factor, rng_which = jax.random.split(rng)
  image = floating(image)
  count, side = image.shape[:2]
  smaller = [int(side / factor) for factor in FACTORS]
  ways = [bicubic_matrix(size, side) @ bicubic_matrix(side, size) for size in smaller]
  way = jax.random.randint(rng_factor, (count,), 0, len(ways))
  which = chance.some(rng_which, count, probability=probability, what='blurred')
  way = jnp.where(which, way, len(ways))
  matrix = jnp.asarray(np.stack([*ways, np.eye(side)]), image.dtype)[way]
  blurred = jnp.einsum('byh,bhwc->bywc', matrix, image)
  return jnp.clip(jnp.einsum('bxw,bywc->byxc', matrix, blurred), 0, 255)

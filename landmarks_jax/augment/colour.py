"""Random colour: brightness, contrast and saturation in random order, and PCA lighting noise."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from landmarks_jax.contracts import Array

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow turns RGB into grey
BRIGHTNESS, CONTRAST, SATURATION = range(3)
ORDERS = np.array(list(itertools.permutations(range(3))))

# Principal components of ImageNet's RGB values (Krizhevsky et al. 2012, section 4.1).
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(
  [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def adjust(
  image: Float[Array, 'B H W 3'], factors: Float[Array, 'B 3'], order: Int[Array, 'B 3']
) -> Float[Array, 'B H W 3']:
  """Brightness, contrast, saturation: blends with black, the mean grey, the grey; 0..255.

  Args:
    image: [B, H, W, 3], 0..255.
    factors: [B, 3], of (brightness, contrast, saturation); 1 changes nothing.
    order: [B, 3], which of the three comes first, second, third.

  The blends of Pillow's ImageEnhance without its rounding to whole values, clipped to 0..255 after
  each. Each is a * x + b * grey(x) + c with its own (a, b, c), so a step costs one pass whichever
  of the three it is.
  """
  zero = jnp.zeros_like(factors[:, 0])
  for position in range(3):
    kind = order[:, position]
    factor = jnp.take_along_axis(factors, kind[:, None], axis=1)[:, 0]
    grey = (image * LUMA.astype(image.dtype)).sum(-1, keepdims=True)
    on_grey = jnp.where(kind == SATURATION, 1 - factor, zero)
    on_mean = jnp.where(kind == CONTRAST, 1 - factor, zero)
    constant = on_mean[:, None, None, None] * grey.mean((1, 2, 3), keepdims=True)
    image = factor[:, None, None, None] * image + on_grey[:, None, None, None] * grey + constant
    image = jnp.clip(image, 0, 255)
  return image


def random_jitter(
  rng: PRNGKeyArray, image: Float[Array, 'B H W 3'], *, strength: float = 0.4
) -> Float[Array, 'B H W 3']:
  """Brightness, contrast and saturation by factors U(1 - strength, 1 + strength), in random order.

  Pictures are [B, H, W, 3], 0..255. Specification section 2, step 3: no hue, no grey.
  """
  rng_factors, rng_order = jax.random.split(rng)
  count = image.shape[0]
  factors = jax.random.uniform(rng_factors, (count, 3), minval=1 - strength, maxval=1 + strength)
  order = jnp.asarray(ORDERS)[jax.random.randint(rng_order, (count,), 0, len(ORDERS))]
  return adjust(image, factors.astype(image.dtype), order)


def add_pca_noise(
  image: Float[Array, 'B H W 3'], normals: Float[Array, 'B 3'], *, deviation: float = 0.1
) -> Float[Array, 'B H W 3']:
  """Adds sum_j vector_j * (deviation * normals_j) * value_j to every pixel; pictures are 0..255.

  Args: image: [B, H, W, 3]. normals: [B, 3], standard normal draws, one per picture and component.
  Not clipped, as published (specification section 2, step 4; fixture pca_aug).
  """
  shift = jnp.einsum('cj,bj->bc', EIGENVECTORS * EIGENVALUES, deviation * normals)
  return image + 255 * shift[:, None, None, :].astype(image.dtype)


def random_pca_noise(
  rng: PRNGKeyArray, image: Float[Array, 'B H W 3'], *, deviation: float = 0.1
) -> Float[Array, 'B H W 3']:
  """PCA lighting noise with one normal draw per picture and component; pictures are 0..255."""
  return add_pca_noise(image, jax.random.normal(rng, (image.shape[0], 3)), deviation=deviation)


def standardise(
  image: Float[Array, 'B H W 3'], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, 'B H W 3']:
  """0..255 pictures [B, H, W, 3] -> network input: (image / 255 - mean) / std per channel.

  Args: mean, std: of the three channels, in [0, 1] (specification section 1).
  """
  scale = 1 / (255 * np.array(std))
  return image * scale.astype(image.dtype) - (np.array(mean) / std).astype(image.dtype)

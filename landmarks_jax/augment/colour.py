"""Random colour: jitter in random order, exposure, grey, solarisation, and PCA lighting noise.

Pictures of floats keep their dtype; bytes and other whole numbers become float32.
"""

import itertools
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num, PRNGKeyArray

from landmarks_jax.augment import chance
from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import floating

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow converts RGB to grey
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
MOST, LEAST_STD = 1e6, 1e-6  # beyond them, float32 does not hold what is standardised
ORDERS = np.array(list(itertools.permutations(range(3))))
ORDERS_WITH_HUE = np.array(list(itertools.permutations(range(4))))

# Principal components of ImageNet's RGB values (Krizhevsky et al. 2012, section 4.1).
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(
  [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def adjust(
  image: Num[Array, 'B H W 3'], factors: Float[Array, 'B F'], order: Int[Array, 'B F']
) -> Float[Array, 'B H W 3']:
  """Adjusts brightness, contrast, saturation (blends with black, mean grey and grey), and hue.

  Args:
    image: [B, H, W, 3], 0..255.
    factors: [B, 3], of (brightness, contrast, saturation); 1 changes nothing. Or [B, 4], with the
      shift of the hue in turns; 0 changes nothing.
    order: [B, 3] or [B, 4], which of them comes first, second, third.

  These are the blends of Pillow's ImageEnhance without its rounding to whole values, clipped to
  0..255 after each. Each is a * x + b * grey(x) + c with its own (a, b, c), so a step costs one
  pass whichever of the three it is.
  """
  image = floating(image)
  factors = factors.astype(image.dtype)
  zero = jnp.zeros_like(factors[:, 0])
  for position in range(order.shape[1]):
    kind = order[:, position]
    factor = jnp.take_along_axis(factors, kind[:, None], axis=1)[:, 0]
    if order.shape[1] > HUE:
      image = shift_hue(image, jnp.where(kind == HUE, factor, 0))
      factor = jnp.where(kind == HUE, 1, factor)
    grey = grey_of(image)
    on_grey = jnp.where(kind == SATURATION, 1 - factor, zero)
    on_mean = jnp.where(kind == CONTRAST, 1 - factor, zero)
    constant = on_mean[:, None, None, None] * grey.mean((1, 2, 3), keepdims=True)
    image = factor[:, None, None, None] * image + on_grey[:, None, None, None] * grey + constant
    image = jnp.clip(image, 0, 255)
  return image


def grey_of(image: Num[Array, 'B H W 3']) -> Float[Array, 'B H W 1']:
  """Luma [B, H, W, 1] of [B, H, W, 3]; as three terms, which fuse into their use, unlike a sum."""
  image = floating(image)
  red, green, blue = (image[..., i, None] for i in range(3))
  weights = LUMA.astype(image.dtype)
  return weights[0] * red + weights[1] * green + weights[2] * blue


def random_jitter(
  rng: PRNGKeyArray, image: Num[Array, 'B H W 3'], *, strength: float = 0.4
) -> Float[Array, 'B H W 3']:
  """Brightness, contrast and saturation by factors U(1 - strength, 1 + strength), in random order.

  Pictures are [B, H, W, 3], 0..255. Specification section 2, step 3: no hue, no grey. Raises
  ValueError for a strength that is not 0 to 1; a traced one is not checked.
  """
  chance.check_strength(strength, what='the colour jitter')
  rng_factors, rng_order = jax.random.split(rng)
  count = image.shape[0]
  factors = jax.random.uniform(rng_factors, (count, 3), minval=1 - strength, maxval=1 + strength)
  order = jnp.asarray(ORDERS)[jax.random.randint(rng_order, (count,), 0, len(ORDERS))]
  return adjust(image, factors, order)


def random_colour(
  rng: PRNGKeyArray,
  image: Num[Array, 'B H W 3'],
  *,
  strengths: tuple[float, ...] = (0.4, 0.4, 0.2, 0.1),
  probability: float = 0.8,
) -> Float[Array, 'B H W 3']:
  """torchvision's ColorJitter on some of the pictures (specification scrl, section 2).

  Args:
    image: [B, H, W, 3], 0..255.
    strengths: of brightness, contrast, saturation: factors U(1 - s, 1 + s); of the hue: a shift of
      U(-s, s) turns. Applied in random order.
    probability: that a picture is changed at all.

  Raises ValueError unless there are four strengths of 0 to 1.
  """
  if len(strengths) != 4:
    raise ValueError(f'{strengths=}: expected four, of brightness, contrast, saturation and hue')
  for strength in strengths:
    chance.check_strength(strength, what='the colour jitter')
  rng_factors, rng_order, rng_which = jax.random.split(rng, 3)
  count = image.shape[0]
  shifts = np.array(strengths) * jax.random.uniform(rng_factors, (count, 4), minval=-1, maxval=1)
  which = chance.some(rng_which, count, probability=probability, what='coloured')
  shifts = shifts * which[:, None]
  factors = shifts + np.array([1, 1, 1, 0])
  order = jax.random.randint(rng_order, (count,), 0, len(ORDERS_WITH_HUE))
  return adjust(image, factors, jnp.asarray(ORDERS_WITH_HUE)[order])


def shift_hue(image: Num[Array, 'B H W 3'], turns: Float[Array, ' B']) -> Float[Array, 'B H W 3']:
  """Turns the hue of every pixel in HSV; value and saturation stay.

  Args: image: [B, H, W, 3]. turns: [B], of the whole circle. Grey stays grey.
  """
  image = floating(image)
  red, green, blue = jnp.moveaxis(image, -1, 0)
  most, least = image.max(-1), image.min(-1)
  chroma = most - least
  unit = jnp.where(chroma > 0, chroma, 1)
  # Never `most == red`: a compiler may compute red twice with different rounding, and then no
  # channel equals the maximum. Where two channels do, both formulas give the same result.
  sixth = jnp.where(
    (red >= green) & (red >= blue),
    (green - blue) / unit,
    jnp.where(green >= blue, 2 + (blue - red) / unit, 4 + (red - green) / unit),
  )
  sixth = sixth + 6 * turns[:, None, None]
  place = (np.array([5, 3, 1], image.dtype) + sixth[..., None]) % 6
  share = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
  return most[..., None] - chroma[..., None] * share


def random_grey(
  rng: PRNGKeyArray, image: Num[Array, 'B H W 3'], *, probability: float
) -> Float[Array, 'B H W 3']:
  """Turns some of the pictures grey; [B, H, W, 3]."""
  which = chance.some(rng, image.shape[0], probability=probability, what='grey')
  image = floating(image)
  return jnp.where(which[:, None, None, None], grey_of(image), image)


def random_solarisation(
  rng: PRNGKeyArray, image: Num[Array, 'B H W 3'], *, probability: float, threshold: float = 128.0
) -> Float[Array, 'B H W 3']:
  """Inverts values of at least `threshold`, of 255, in some of the pictures; [B, H, W, 3]."""
  which = chance.some(rng, image.shape[0], probability=probability, what='solarised')
  image = floating(image)
  return jnp.where(which[:, None, None, None] & (image >= threshold), 255 - image, image)


def add_pca_noise(
  image: Num[Array, 'B H W 3'], normals: Float[Array, 'B 3'], *, deviation: float = 0.1
) -> Float[Array, 'B H W 3']:
  """Adds sum_j vector_j * (deviation * normals_j) * value_j to every pixel; pictures are 0..255.

  Args: image: [B, H, W, 3]. normals: [B, 3], standard normal draws, one per picture and component.
  Not clipped, as published (specification section 2, step 4; fixture pca_aug).
  """
  image = floating(image)
  shift = jnp.einsum('cj,bj->bc', EIGENVECTORS * EIGENVALUES, deviation * normals)
  return image + 255 * shift[:, None, None, :].astype(image.dtype)


def random_pca_noise(
  rng: PRNGKeyArray, image: Num[Array, 'B H W 3'], *, deviation: float = 0.1
) -> Float[Array, 'B H W 3']:
  """PCA lighting noise with one normal draw per picture and component; pictures are 0..255."""
  return add_pca_noise(image, jax.random.normal(rng, (image.shape[0], 3)), deviation=deviation)


def expose(
  image: Num[Array, 'B H W C'], offsets: Float[Array, ' B'], factors: Float[Array, ' B']
) -> Float[Array, 'B H W C']:
  """Adds an offset, then scales each channel's difference from its mean in the picture.

  Args: image: [B, H, W, C], 0..255. offsets: in units of 0..255. factors: 1 changes nothing.
  Clipped once, at the end (specification lmdis, section 1).
  """
  image = floating(image)
  image = image + offsets[:, None, None, None].astype(image.dtype)
  mean = image.mean((1, 2), keepdims=True)
  factors = factors[:, None, None, None].astype(image.dtype)
  return jnp.clip(mean + factors * (image - mean), 0, 255)


def random_exposure(
  rng: PRNGKeyArray,
  image: Num[Array, 'B H W C'],
  *,
  brightness: float = 32 / 255,
  contrast: float = 0.5,
  shared: bool = False,
) -> Float[Array, 'B H W C']:
  """Offsets U(-255 brightness, 255 brightness) and factors U(1 - contrast, 1 + contrast).

  Pictures are [B, H, W, C], 0..255; each has its own draws, unless they are shared by the batch.
  Raises ValueError for a contrast that is not 0 to 1; a traced one is not checked.
  """
  chance.check_strength(contrast, what='the contrast')
  drawn = jax.random.uniform(rng, (1 if shared else image.shape[0], 2), minval=-1, maxval=1)
  drawn = jnp.broadcast_to(drawn, (image.shape[0], 2))
  return expose(image, 255 * brightness * drawn[:, 0], 1 + contrast * drawn[:, 1])


def check_statistics(*, where: str = '', **given: Any) -> None:
  """Raises ValueError unless `standardise` can use these. given: mean, std; where: begins names."""
  for name, values in given.items():
    least = LEAST_STD if name == 'std' else -MOST
    three = len(values) == 3 if isinstance(values, Sequence) else np.shape(values) == (3,)
    if not three or not all(isinstance(v, Real) and least <= v <= MOST for v in values):
      above = ', above 0' if name == 'std' else ''
      raise ValueError(
        f'{where}{name}={values!r:.60}: expected three numbers, R, G and B, of pictures in 0..1'
        f'{above}'
      )


def standardise(
  image: Num[Array, 'B H W 3'], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, 'B H W 3']:
  """0..255 pictures [B, H, W, 3] -> network input: (image / 255 - mean) / std per channel.

  Args: mean, std: of the three channels, in [0, 1] (specification section 1).
  """
  image = floating(image)
  scale = 1 / (255 * np.array(std))
  return image * scale.astype(image.dtype) - (np.array(mean) / std).astype(image.dtype)

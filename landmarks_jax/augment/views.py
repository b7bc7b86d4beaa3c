"""A random view of every picture of a batch: the order of the published augmentation."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, UInt8

from landmarks_jax.augment import colour, crop
from landmarks_jax.augment import jpeg as codec
from landmarks_jax.contracts import Array
from landmarks_jax.geometry import regions


def random_view(
  rng: PRNGKeyArray,
  image: UInt8[Array, 'B S S 3'],
  *,
  margin: int,
  area: tuple[float, float] = (0.2, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  jitter: float = 0.4,
  pca: float = 0.1,
  jpeg: bool = False,
) -> Float[Array, 'B s s 3']:
  """JPEG noise, crop, colour jitter, PCA noise on the full frame; then its centre.

  Args:
    image: uint8 frames. margin: pixels cut from each side at the end, so that about half of what is
    sampled never reaches the network, as published for faces.
    area, aspect: of the random resized crop. jitter, pca: strengths; 0 leaves the step out. jpeg:
    whether pictures are first compressed at a random size and quality, as published.

  Returns float pictures of side S - 2 * margin, 0..255 before the unclipped PCA noise. Raises
  ValueError where the margin leaves nothing. Specification section 2.
  """
  rng_crop, rng_jitter, rng_pca, rng_jpeg = jax.random.split(rng, 4)
  view = jnp.asarray(image, float)
  if jpeg:
    view = codec.random_noise(rng_jpeg, view)
  view = crop.random_resized_crop(rng_crop, view, area=area, aspect=aspect)
  if jitter:
    view = colour.random_jitter(rng_jitter, view, strength=jitter)
  # The noise adds one colour to the whole picture, so it may come after the cut.
  view = regions.cut_centre(view, margin)
  return colour.random_pca_noise(rng_pca, view, deviation=pca) if pca else view

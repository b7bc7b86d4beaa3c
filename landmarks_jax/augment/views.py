"""Random views of every picture of a batch: the published augmentation, and pairs of warps."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num, PRNGKeyArray, UInt8

from landmarks_jax.augment import blur, colour, crop
from landmarks_jax.augment import jpeg as codec
from landmarks_jax.contracts import Array, Pair
from landmarks_jax.geometry import coords, regions, sampling, splines
from landmarks_jax.geometry.regions import Crop


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
  view, _ = crop.random_resized_crop(rng_crop, view, area=area, aspect=aspect)
  if jitter:
    view = colour.random_jitter(rng_jitter, view, strength=jitter)
  # The noise adds one colour to the whole picture, so it may come after the cut.
  view = regions.cut_centre(view, margin)
  return colour.random_pca_noise(rng_pca, view, deviation=pca) if pca else view


def random_located_view(
  rng: PRNGKeyArray,
  image: UInt8[Array, 'B S S 3'],
  *,
  margin: int = 0,
  size: int | None = None,
  area: tuple[float, float] = (0.2, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  jitter: tuple[float, ...] = (0.4, 0.4, 0.2, 0.1),
  grey: float = 0.2,
  blurred: float = 1.0,
  solarised: float = 0.0,
) -> tuple[Float[Array, 'B s s 3'], Crop]:
  """BYOL's views and the crops they show: crop, flip, colour, grey, blur, solarisation.

  Args:
    image: uint8 frames. size: of the crop in pixels; None is the frame's. margin: pixels then cut
      from each side.
    area, aspect: of the random resized crop; half of the views are mirrored.
    jitter: strengths, see `colour.random_colour`; applied to 4 of 5 views.
    grey, blurred, solarised: probability of each.

  Returns float pictures of side size - 2 * margin, 0..255, and their crops, in pixels of the frame.
  Specification scrl, section 2.
  """
  rngs = jax.random.split(rng, 6)
  view, boxes = crop.random_resized_crop(
    rngs[0], jnp.asarray(image, float), area=area, aspect=aspect, size=size
  )
  side = view.shape[1]
  view = regions.cut_centre(view, margin)
  boxes = jnp.asarray(boxes, float)
  corner, extent = boxes[:, :2] + boxes[:, 2:] * (margin / side), boxes[:, 2:]
  boxes = jnp.concatenate([corner, extent * (view.shape[1] / side)], axis=1)
  flipped = jax.random.bernoulli(rngs[1], 0.5, (len(view),))
  view = jnp.where(flipped[:, None, None, None], view[:, :, ::-1], view)
  view = colour.random_colour(rngs[2], view, strengths=jitter)
  view = colour.random_grey(rngs[3], view, probability=grey)
  view = blur.random_blur(rngs[4], view, probability=blurred)
  return colour.random_solarisation(rngs[5], view, probability=solarised), Crop(boxes, flipped)


def warp_twice(
  image: Num[Array, 'B H W C'],
  first: Float[Array, 'B rows 2'],
  second: Float[Array, 'B rows 2'],
) -> Pair:
  """A pair made by two warps: `next` is the picture warped once, `image` is `next` warped again.

  Args: image: [B, H, W, C], bytes or floats. first, second: coefficients of geometry/splines.py.

  So the flow is exactly the second warp, valid (`flow_valid`) where it stays inside the frame. Both
  may still show the black around the picture there, as published. Pictures are float, not rounded.
  Fixtures tps_warper, tps_variants.
  """
  height, width = image.shape[1:3]
  once = splines.warp_image(image, first)
  positions = splines.pixel_positions(second, height=height, width=width)
  pixels = coords.to_pixels(positions, width=width, height=height)
  here = coords.to_pixels(coords.pixel_grid(height, width), width=width, height=height)
  return Pair(
    image=sampling.bilinear(once, positions),
    next=once,
    flow=pixels - here.astype(pixels.dtype),
    flow_valid=(jnp.abs(positions) <= 1).all(-1),
  )


def warp_pair(
  rng: PRNGKeyArray,
  image: Num[Array, 'B H W C'],
  *,
  warp: float = 1e-3,
  subset: float = 1e-2,
  translation: float = 0.1,
  scale: float = 0.1,
  rotation: float = 5.0,
  first_bending: float = 0.5,
  first_affine: float = 1.0,
) -> Pair:
  """Two random warps of every picture and the exact flow between them: see `warp_twice`.

  Args:
    image: [B, H, W, C], bytes or floats.
    warp, subset, translation, scale, rotation: of the second warp: see
      `splines.random_coefficients`. The defaults are DVE's.
    first_bending: strength of the first warp's weights (warp, subset) relative to the second's.
    first_affine: of its translation, scale and rotation. The paper's matching has 1 and 1.

  Specification equivariant, section 1.
  """
  rng_first, rng_second = jax.random.split(rng)
  bending = {'warp': warp, 'subset': subset}
  affine = {'translation': translation, 'scale': scale, 'rotation': rotation}
  weaker = {name: first_bending * value for name, value in bending.items()}
  weaker |= {name: first_affine * value for name, value in affine.items()}
  first = splines.random_coefficients(rng_first, len(image), **weaker)
  second = splines.random_coefficients(rng_second, len(image), **bending, **affine)
  return warp_twice(image, first, second)

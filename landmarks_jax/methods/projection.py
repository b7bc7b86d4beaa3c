"""The equivariant projection of the ICCV 2021 system: stage 2, on a frozen network.

A linear map takes the hypercolumn to a few channels, and a softmax over positions gives each of
them a place; the contrast between positions of one picture (`losses.spatial_contrast`) separates
the descriptors of distant positions. A few numbers then suffice to match points between pictures
(specification section 4).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from landmarks_jax import losses, options
from landmarks_jax.augment import views
from landmarks_jax.contracts import Array, Batch, Describer, Method, Pyramid, PyTree
from landmarks_jax.geometry import regions
from landmarks_jax.models import hypercolumn

# Each with the options that not all of them have.
MODES = dict.fromkeys(('softmax', 'softplus', 'linear'), ())
AUGMENT = {False: (), True: ('area', 'aspect', 'jitter', 'pca', 'jpeg')}


def random_params(
  rng: PRNGKeyArray, channels: tuple[int, ...], *, dim: int, kernel: int, mode: str
) -> dict[str, Any]:
  """The projection before training: all uniform in +-1/sqrt(fan_in), torch's default.

  Args: channels: of every level, in pyramid order.
  Returns: kernels: [C_l, kernel * kernel * dim] for each level; column (i * kernel + j) * dim + d
  is row i, column j of the convolution to channel d. bias: [dim]; the softmax mode has none, since
  it would add the same to every position of a channel, which the softmax cancels.
  """
  rng_kernels, rng_bias = jax.random.split(rng)
  inputs, outputs = sum(channels), kernel * kernel * dim
  bound = (inputs * kernel * kernel) ** -0.5
  kernels = jax.random.uniform(rng_kernels, (inputs, outputs), minval=-bound, maxval=bound)
  params = {'kernels': hypercolumn.split_rows(kernels, channels)}
  if mode != 'softmax':
    params['bias'] = jax.random.uniform(rng_bias, (dim,), minval=-bound, maxval=bound)
  return params


def project(
  params: PyTree, pyramid: Pyramid, *, size: int, kernel: int, mode: str, map_sharpness: float
) -> Float[Array, 'B {size} {size} D']:
  """A convolution of the hypercolumn on a grid of size x size, then `mode`. Fixture feat_distiller.

  Args:
    params: as `random_params` makes them; a bias in softmax mode is ignored.
    kernel: side of the convolution, odd; zeros outside the grid.
    mode: 'softmax' over the positions of each channel, 'softplus' or 'linear'.
    map_sharpness: multiplies the maps in their softmax.

  The hypercolumn is never built: levels are mapped at their own resolution (section 3), once for
  each tap of the kernel, and the maps of the taps are shifted and summed.
  """
  # The softmax multiplies the rounding errors of a product by its sharpness.
  with jax.default_matmul_precision('float32'):
    taps = hypercolumn.project(pyramid, params['kernels'], size)
  taps = taps.reshape(taps.shape[0], size, size, kernel, kernel, -1)
  reach = kernel // 2
  taps = jnp.pad(taps, [(0, 0), (reach, reach), (reach, reach), (0, 0), (0, 0), (0, 0)])
  maps = sum(
    taps[:, i : i + size, j : j + size, i, j] for i in range(kernel) for j in range(kernel)
  )
  if mode == 'softmax':
    return jax.nn.softmax(map_sharpness * maps, axis=(1, 2))
  maps = maps + params['bias']
  return jax.nn.softplus(maps) if mode == 'softplus' else maps


def build(
  *,
  base: Describer | None = None,
  dim: int = 128,
  mode: str = 'softmax',
  map_sharpness: float = 7.0,
  sharpness: float = 7.0,
  power: float = 0.5,
  size: int = 24,
  kernel: int = 1,
  side: int | None = None,
  margin: int = 20,
  augment: bool = False,
  area: tuple[float, float] = (0.2, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  jitter: float = 0.4,
  pca: float = 0.1,
  jpeg: bool = False,
  constrain: Callable[[Any], Any] = lambda x: x,
) -> Method:
  """The published projection; the defaults are the ICCV 2021 hyper-parameters for faces.

  Args:
    base: the frozen network, for pictures; without it batches must have a `pyramid`.
    dim: channels of the result.
    mode: 'softmax' over positions (the paper), 'softplus' or 'linear'.
    map_sharpness: multiplies the maps in their softmax. sharpness, power: of
      `losses.spatial_contrast`. The paper calls map_sharpness a scale and sharpness a temperature;
      they are 7 and 7 for 128 and 256 channels, 6.5 and 8 for 64.
    size: side of the grid in training, and by default in `describe`.
    kernel: side of the convolution, odd; 1 is the paper's pointwise map.
    side: of the pictures that cached pyramids were made from, in pixels, the unit of the loss.
    margin: pixels cut from each side of a batch's pictures.
    augment: train on one random view of each picture (the released code), not on its centre (the
      paper). area, aspect, jitter, pca, jpeg: of `views.random_view`, only then.
    constrain: keeps a batch spread over the devices; the identity on one.

  `describe` gives one level [B, size, size, dim]. In softmax mode its values depend on the size,
  as the same weight is spread over more positions. aux: `base`, a copy of the base's variables. The
  metric `mean_distance` is that from a position to its match in its own picture, in pixels.
  """
  options.check(build, locals(), mode=MODES, augment=AUGMENT)
  if kernel < 1 or kernel % 2 == 0:
    raise ValueError(f'kernel={kernel}: expected an odd number, such as 1 or 3')
  if not sharpness > 0:
    raise ValueError(f'sharpness={sharpness}: expected a number above 0')
  trained_size = size
  to_maps = functools.partial(project, kernel=kernel, mode=mode, map_sharpness=map_sharpness)

  def look(aux: PyTree, image: Array, size: int | None) -> Pyramid:
    if base is None:
      raise ValueError('this projection has no network to describe pictures with: give it a base')
    return base.apply(aux['base'], image, size)

  def view(batch: Batch, rng: PRNGKeyArray) -> Array:
    if not augment:
      return regions.cut_centre(batch.image, margin)
    return views.random_view(
      rng, batch.image, margin=margin, area=area, aspect=aspect, jitter=jitter, pca=pca, jpeg=jpeg
    )

  def features(aux: PyTree, batch: Batch, rng: PRNGKeyArray) -> tuple[Pyramid, int]:
    """The frozen pyramid of a batch, and the side of the pictures it was made from."""
    if batch.pyramid is None:
      image = view(batch, rng)
      return look(aux, image, size), image.shape[1]
    if side is None:
      raise ValueError('cached pyramids do not know the side of their pictures: pass it as side')
    if augment:
      raise ValueError('augment=True needs pictures; this batch holds a cached pyramid')
    return batch.pyramid, side

  def init(rng: PRNGKeyArray, batch: Batch) -> tuple[PyTree, PyTree]:
    # Copies: the step donates its state, and the describer stays in use.
    aux = {} if base is None else {'base': jax.tree.map(jnp.copy, base.variables)}
    example = jax.tree.map(lambda x: x[:1], Batch(image=batch.image, pyramid=batch.pyramid))
    pyramid = jax.eval_shape(lambda aux: features(aux, example, rng)[0], aux)
    channels = tuple(level.shape[-1] for level in pyramid)
    return random_params(rng, channels, dim=dim, kernel=kernel, mode=mode), aux

  def loss(
    params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, step: Array
  ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    pyramid, pixels = features(aux, batch, rng)
    maps = to_maps(params, constrain(pyramid), size=size)
    # The loss and the metric differ in the power alone, and share one pass over pairs of positions.
    cost = losses.spatial_contrast(
      maps, sharpness=sharpness, stride=pixels / size, power=(power, 1.0)
    )
    contrast, distance = losses.mean_of_valid(cost, batch.valid)
    return contrast, (aux, {'mean_distance': distance})

  def describe(params: PyTree, aux: PyTree, image: Array, size: int | None = None) -> Pyramid:
    size = trained_size if size is None else size
    return (to_maps(params, look(aux, image, size), size=size),)

  def one_view(batch: Batch, rng: PRNGKeyArray) -> Float[Array, '1 B s s 3']:
    return jnp.asarray(view(batch, rng), float)[None]

  return Method(init, loss, describe, views=one_view)

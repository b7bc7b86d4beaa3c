"""Dense equivariant labelling (Thewlis et al. 2017) and descriptor exchange (DVE, ICCV 2019).

Every pixel of an object gets a label that follows it when the picture deforms: the label of a
position must be matched where the deformation took it. With few dimensions the labels become
coordinates on the object; with many, descriptors, which the exchange with another picture makes
common to the category (specification equivariant).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from landmarks_jax import losses, options
from landmarks_jax.augment import colour, views
from landmarks_jax.augment import jpeg as codec
from landmarks_jax.contracts import Array, Batch, Method, Pair, Pyramid, PyTree
from landmarks_jax.dtypes import dtype_of
from landmarks_jax.geometry import regions
from landmarks_jax.models import hourglass, smallnet
from landmarks_jax.models.backbone import Backbone

# Each with the options that not all of them have.
NETWORKS = dict.fromkeys(smallnet.LAYERS, ('leak',))
NETWORKS |= {'hourglass': ('stacks', 'blocks', 'features', 'scaled', 'norm')}
LOSSES = {'distance': ('power',), 'nll': ()}


@jax.custom_vjp
def neighbours(maps: Float[Array, 'B h w L']) -> Float[Array, 'B h w L']:
  """For each picture, the maps of the next one in the batch; the first follows the last."""
  return jnp.roll(maps, -1, axis=0)


# The gradient that JAX derives, of a slice and a concatenation, sends a device's maps several
# times; this one sends a single map, like the roll itself.
neighbours.defvjp(
  lambda maps: (neighbours(maps), None), lambda _, gradient: (jnp.roll(gradient, 1, axis=0),)
)


def build(
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  network: str = 'dilations',
  dim: int = 3,
  width: float = 1.0,
  leak: float = 0.0,
  stacks: int = 1,
  blocks: int = 4,
  features: tuple[int, int, int] = hourglass.WIDTHS,
  scaled: bool = False,
  norm: str = 'batch',
  norm_groups: int = 1,
  loss: str = 'distance',
  power: float = 0.5,
  exchange: bool = False,
  normalise: bool = False,
  sharpness: float = 1.0,
  margin: int = 15,
  warp: float = 1e-3,
  subset: float = 1e-2,
  translation: float = 0.1,
  scale: float = 0.1,
  rotation: float = 5.0,
  jitter: float = 0.4,
  pca: float = 0.1,
  jpeg: bool = True,
  precision: str = 'bfloat16',
  constrain: Callable[[Any], Any] = lambda x: x,
) -> Method:
  """Labels that follow the pixels; the defaults are the 2017 form on faces, with DVE's warps.

  Args:
    mean, std: of the pictures' channels in [0, 1]; saved with the weights.
    network: 'simple', 'dilations' or 'hourglass'; its map has half the side of the picture.
    dim: of the labels: 3 in 2017, up to 64 in DVE.
    width: multiplies the channels of the network.
    leak: of the small networks' activation, .2 in DVE.
    stacks, blocks, features, norm: of the hourglass. scaled: its labels all have the same, learned
      length; not together with `normalise`.
    norm_groups: BatchNorm groups; a picture and its next share one.
    loss: 'distance' (2017, eq. 5, and DVE) or 'nll' (eq. 4).
    power: of the distance, above 0; the paper's gamma.
    exchange: labels are first re-expressed in those of the batch's next picture (DVE).
    normalise: the loss scales labels to unit length first; DVE's does so with the hourglass, and
      with both networks when it is fine-tuned on AFLW, at sharpness 400. `describe` leaves them
      as they are, as DVE's evaluations do.
    sharpness: of the matching, multiplies products of labels; the papers' temperature.
    margin: pixels cut from each side, after the warps.
    warp, subset, translation, scale, rotation: of `views.warp_pair`, for batches without `next`.
    jitter, pca, jpeg: strength of colour jitter and PCA noise, and whether there is JPEG noise,
      drawn separately for the two pictures; 0 and False leave them out.
    precision: 'bfloat16' or 'float32' of the network; losses and statistics are float32 at least.
    constrain: keeps a batch spread over the devices; the identity on one.

  A batch with `next`, `flow` and `flow_valid` (video) is its own pair. `describe` gives one level
  [B, s/2, s/2, dim]. aux: `stats`, running statistics. The metric `matched` is the share of
  positions whose match is known.
  """
  options.check(build, locals(), network=NETWORKS, loss=LOSSES)
  if not sharpness > 0:
    raise ValueError(f'sharpness={sharpness}: expected a number above 0')
  common = {'channels': dim, 'norm_groups': norm_groups, 'dtype': dtype_of(precision)}
  if network == 'hourglass':
    widths = tuple(int(width * count) for count in features)
    if not all(widths):
      raise ValueError(f'{width=} leaves no channels of {features=}; expected at least 1/64')
    if scaled and normalise:
      raise ValueError('normalise=True undoes scaled=True; choose one')
    common |= {'stacks': stacks, 'blocks': blocks, 'norm': norm, 'scaled_output': scaled}
    module = hourglass.Hourglass(widths=widths, **common)
  else:
    module = smallnet.SmallNet(layers=network, width=width, leak=leak, **common)
  backbone = Backbone(module, mean, std)
  compare = {
    'distance': functools.partial(losses.equivariance_distance, power=power),
    'nll': losses.equivariance_nll,
  }[loss]

  def noisy(rng: PRNGKeyArray, image: Array) -> Float[Array, 'B S S 3']:
    rng_jpeg, rng_jitter, rng_pca = jax.random.split(rng, 3)
    image = jnp.asarray(image, float)
    if jpeg:
      image = codec.random_noise(rng_jpeg, image)
    if jitter:
      image = colour.random_jitter(rng_jitter, image, strength=jitter)
    return colour.random_pca_noise(rng_pca, image, deviation=pca) if pca else image

  def pair_of(batch: Batch, rng: PRNGKeyArray) -> Pair:
    """Pictures as the network sees them, with the flow between them."""
    rng_warp, rng_image, rng_next = jax.random.split(rng, 3)
    if batch.next is None:
      pair = views.warp_pair(
        rng_warp,
        jnp.asarray(batch.image, float),
        warp=warp,
        subset=subset,
        translation=translation,
        scale=scale,
        rotation=rotation,
      )
    else:
      pair = Pair(batch.image, batch.next, jnp.asarray(batch.flow), jnp.asarray(batch.flow_valid))
    # Noise on the whole frame: what JPEG does near a border depends on what is beyond it.
    pair = pair._replace(image=noisy(rng_image, pair.image), next=noisy(rng_next, pair.next))
    cut = regions.centre_crop(Batch(**pair._asdict()), margin)
    return Pair(*(getattr(cut, name) for name in Pair._fields))

  def init(rng: PRNGKeyArray, batch: Batch) -> tuple[PyTree, PyTree]:
    image = regions.cut_centre(jnp.asarray(batch.image[:1], float), margin)
    variables = module.init(rng, image, train=False)
    return variables['params'], {'stats': variables.get('batch_stats', {})}

  def training_loss(
    params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, step: Array
  ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    pair = pair_of(batch, rng)
    # A picture and its next are adjacent, so that they share a norm group and a device.
    both = jnp.stack([pair.image, pair.next], axis=1)
    both = constrain(both.reshape(-1, *both.shape[2:]))
    (maps,), stats = backbone.train(params, aux['stats'], backbone.standardised(both))
    maps = losses.unit(maps) if normalise else maps
    query, key = maps.reshape(-1, 2, *maps.shape[1:]).swapaxes(0, 1)
    if exchange:
      auxiliary = constrain(neighbours(query))
      query = losses.descriptor_exchange(query, auxiliary, sharpness=sharpness)
    cost = compare(query, key, pair.flow, pair.flow_valid, sharpness=sharpness)
    value = losses.mean_of_valid(cost, batch.valid)
    metrics = {'matched': pair.flow_valid.mean()}
    return value, (aux | {'stats': stats}, metrics)

  def describe(params: PyTree, aux: PyTree, image: Array, size: int | None = None) -> Pyramid:
    return backbone.describe(params, aux['stats'], image)

  def calibrate(params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, n: Array) -> PyTree:
    """Exact means over the frames of n + 1 batches, as `describe` sees them."""
    image = regions.cut_centre(batch.image, margin)
    return aux | {'stats': backbone.calibrated(params, aux['stats'], image, n)}

  def pictures(batch: Batch, rng: PRNGKeyArray) -> Float[Array, '2 B s s 3']:
    pair = pair_of(batch, rng)
    return jnp.stack([pair.image, pair.next])

  return Method(init, training_loss, describe, calibrate=calibrate, views=pictures)

"""SCRL: BYOL on boxes that show the same content in two views (Roh et al. 2021).

Two random views of every picture go through an online network and its moving average, the target.
A predictor must predict the target's vector of one view from the online vector of the other. BYOL
(Grill et al. 2020) does so with one vector per view, and learns to ignore where things are; SCRL
does so with one vector per box, and learns to keep it. Nothing is pushed apart: the predictor and
the slow target prevent all vectors from becoming the same. Specification scrl; differences:
docs/scrl.md.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from landmarks_jax import shapes
from landmarks_jax.augment import crop, views
from landmarks_jax.augment.boxes import shared_boxes
from landmarks_jax.contracts import Array, Batch, Method, Pyramid, PyTree
from landmarks_jax.dtypes import at_least_float32, dtype_of
from landmarks_jax.geometry.regions import cut_centre, roi_align
from landmarks_jax.losses import mean_of_valid, unit
from landmarks_jax.models import heads, resnet
from landmarks_jax.models.backbone import Backbone


def prediction_error(
  prediction: Float[Array, 'B 2 K C'], target: Float[Array, 'B 2 K C']
) -> Float[Array, 'B K']:
  """How far each view's predictions are from the other view's targets: 2 - 2 cos, both ways summed.

  Args: prediction, target: [B, 2, K, C], of K boxes of two views of each picture. No gradient is
  stopped here. 0 where all agree, 8 at most. Raises ValueError that names the argument whose shape
  differs.
  """
  shapes.check(prediction=(prediction, 'B 2 K C'), target=(target, 'B 2 K C'))
  return (2 - 2 * (unit(prediction) * unit(target[:, ::-1])).sum(-1)).sum(1)


def target_momentum(
  step: Int[Array, ''] | int, *, start: float, steps: int | None
) -> Float[Array, '']:
  """The share of itself that the target keeps in update number `step`, counted from 0.

  From `start` along a cosine to 1 after `steps` updates; always `start` if steps is None.
  """
  done = 0.0 if steps is None else jnp.minimum(step / max(steps, 1), 1)
  return 1 - (1 - start) * (jnp.cos(jnp.pi * done) + 1) / 2


def build(
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  depth: int = 50,
  width: float = 1.0,
  output_stride: int = 32,
  regions: bool = True,
  boxes: int = 10,
  smallest: int = 32,
  overlap: float = 0.5,
  box_jitter: float = 0.0,
  hidden: int = 4096,
  dim: int = 256,
  momentum: float = 0.97,
  steps: int | None = None,
  independent_target: bool = True,
  norm_groups: int = 1,
  classes: int = 0,
  size: int | None = None,
  margin: int = 0,
  area: tuple[float, float] = (0.2, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  jitter: tuple[float, ...] = (0.4, 0.4, 0.2, 0.1),
  grey: float = 0.2,
  blurred: tuple[float, float] = (1.0, 0.1),
  solarised: tuple[float, float] = (0.0, 0.2),
  levels: int = 4,
  precision: str = 'bfloat16',
  constrain: Callable[[Any], Any] = lambda x: x,
) -> Method:
  """SCRL on a ResNet; the defaults are the published hyper-parameters of 200 epochs of ImageNet.

  Args:
    mean, std: of the pictures' channels in [0, 1]; saved with the weights.
    depth, width, output_stride: of the ResNet.
    regions: False is BYOL: one vector for each whole view.
    boxes, smallest, overlap, box_jitter: see `boxes.shared_boxes`; `smallest` in pixels.
    hidden, dim: hidden and output channels of projector and predictor.
    momentum: of the target at the first step; it rises to 1 over `steps` updates, those of the run
      where a config leaves them out.
    independent_target: the target starts from other random weights, as published, not from a copy.
    norm_groups: BatchNorm groups; both views of a picture share one.
    classes: of `label`, if any: a linear classifier is trained alongside, without a gradient to the
      rest; its accuracy is the metric `online_top1`. Padding counts in it (training has none).
    size: crops are stretched to this many pixels; None is the frame's side. margin: pixels then cut
      from each side.
    area, aspect, jitter, grey: of `views.random_located_view`. blurred, solarised: probabilities
      for the first and the second view.
    levels: how many maps `describe` gives, coarse to fine: the four stages, or 5 with the stem.
    precision: 'bfloat16' or 'float32' of the backbone; all else is float32 at least.
    constrain: keeps a batch spread over the devices; the identity on one.

  aux: `stats` (running statistics) and `target` (weights). Metrics: `with_boxes`, the share of
  pictures that have any; `spread`, 0 where all unit vectors of the target are the same (collapse),
  1 where they are spread evenly.
  """
  if not 1 <= levels <= 5:
    raise ValueError(f'levels={levels}: expected 1 to 5, the stages from the last and the stem')
  module = resnet.ResNet(
    depth=depth,
    width=width,
    norm_groups=norm_groups,
    output_stride=output_stride,
    dtype=dtype_of(precision),
  )
  backbone = Backbone(module, mean, std)
  projector = predictor = heads.NormedMLP(hidden=hidden, dim=dim, norm_groups=norm_groups)
  evaluator = nn.Dense(classes)
  each = boxes if regions else 1  # vectors per view

  def pair(rng: PRNGKeyArray, image: Array) -> list[tuple[Array, Any]]:
    rngs = jax.random.split(rng)
    common = {'margin': margin, 'size': size, 'area': area, 'aspect': aspect}
    common |= {'jitter': jitter, 'grey': grey}
    return [
      views.random_located_view(rng, image, blurred=blur, solarised=solarise, **common)
      for rng, blur, solarise in zip(rngs, blurred, solarised, strict=True)
    ]

  def top_map(params: PyTree, stats: PyTree, both: Array) -> tuple[Float[Array, 'n h w C'], PyTree]:
    """In training mode, and the running statistics after this batch."""
    pyramid, stats = backbone.train(params, stats, both)
    return at_least_float32(pyramid[0]), stats

  def boxes_of(
    rng: PRNGKeyArray, crops: tuple[Any, Any], side: int
  ) -> tuple[Float[Array, 'n K 4'], Bool[Array, ' B']]:
    """Boxes of each view, views as in the batch of both, and which pictures have any."""
    drawn, found = shared_boxes(
      rng,
      *crops,
      side=side,
      count=boxes,
      smallest=smallest,
      overlap=overlap,
      jitter=box_jitter,
    )
    return constrain(drawn.reshape(-1, boxes, 4)), found

  def vectors(maps: Array, drawn: Array | None, side: int) -> Float[Array, 'rows C']:
    """One for each box of each view, or without boxes for each view."""
    if drawn is None:
      return maps.mean((1, 2))
    rows = roi_align(maps, drawn, stride=side / maps.shape[1])
    return rows.reshape(-1, rows.shape[-1])

  def embed(mlp: heads.NormedMLP, params: PyTree, rows: Array, valid: Array) -> Array:
    # Running statistics are dropped: these networks are used in training only.
    found, _ = mlp.apply({'params': params}, rows, True, valid, mutable=['batch_stats'])
    return found

  def predicted_and_wanted(
    params: PyTree, target: PyTree, rows: Array, aims: Array, usable: Array
  ) -> tuple[Float[Array, 'B 2 each C'], Float[Array, 'B 2 each C']]:
    """Predictions from vectors of the online network, and from the target's what they should be."""
    valid = jnp.repeat(usable, 2 * each)  # rows: picture, view, box
    prediction = embed(projector, params['projector'], rows, valid)
    prediction = embed(predictor, params['predictor'], prediction, valid)
    wanted = jax.lax.stop_gradient(embed(projector, target['projector'], aims, valid))
    shape = len(usable), 2, each, dim
    return prediction.reshape(shape), wanted.reshape(shape)

  def init(rng: PRNGKeyArray, batch: Batch) -> tuple[PyTree, PyTree]:
    image = cut_centre(jnp.asarray(batch.image[:1], float), margin)

    def network(rng: PRNGKeyArray) -> tuple[PyTree, PyTree]:
      """The weights that online and target network both have, and the running statistics."""
      rng_backbone, rng_projector = jax.random.split(rng)
      pyramid, variables = module.init_with_output(rng_backbone, image, train=False)
      rows = jnp.zeros((1, pyramid[0].shape[-1]), float)
      projection = projector.init(rng_projector, rows, train=False)['params']
      return {'backbone': variables['params'], 'projector': projection}, variables['batch_stats']

    rng_online, rng_target, rng_predictor, rng_evaluator = jax.random.split(rng, 4)
    params, stats = network(rng_online)
    # Copies: the step donates its state, and a donated buffer may occur in it only once.
    target = network(rng_target)[0] if independent_target else jax.tree.map(jnp.copy, params)
    zeros = jnp.zeros((1, dim), float)
    params['predictor'] = predictor.init(rng_predictor, zeros, train=False)['params']
    if classes:
      channels = params['projector']['fc0']['kernel'].shape[0]
      params['evaluator'] = evaluator.init(rng_evaluator, jnp.zeros((1, channels)))['params']
    return params, {'stats': stats, 'target': target}

  def loss(
    params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, step: Array
  ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    if classes and batch.label is None:  # not in `init`, which describing pictures needs too
      raise ValueError(f'{classes=}, but the data has no labels; take labelled data, or classes=0')
    rng_views, rng_boxes = jax.random.split(rng)
    (first, first_crop), (second, second_crop) = pair(rng_views, batch.image)
    count, side = first.shape[:2]
    # The views of a picture are adjacent, so that they share a norm group and a device.
    both = jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])
    both = constrain(backbone.standardised(both))
    online, stats = top_map(params['backbone'], aux['stats'], both)
    target, _ = top_map(aux['target']['backbone'], aux['stats'], both)
    usable = jnp.ones(count, bool) if batch.valid is None else jnp.asarray(batch.valid)
    drawn = None
    if regions:
      drawn, found = boxes_of(rng_boxes, (first_crop, second_crop), side)
      usable = usable & found
    rows, aims = (vectors(maps, drawn, side) for maps in (online, target))
    prediction, wanted = predicted_and_wanted(params, aux['target'], rows, aims, usable)
    usable_count = usable.sum()  # once: devices would exchange it for each of the means
    cost = prediction_error(prediction, wanted).mean(1)
    value = mean_of_valid(cost, usable, count=usable_count)
    middle = mean_of_valid(unit(wanted).mean((1, 2)), usable, count=usable_count)
    metrics = {
      'with_boxes': usable_count / count,
      'spread': jnp.sqrt(jnp.maximum(1 - (middle**2).sum(), 0)),
    }
    if classes:
      pooled = online.mean((1, 2))
      cost, metrics['online_top1'] = classify(params['evaluator'], pooled, batch.label)
      value = value + cost
    return value, (aux | {'stats': stats}, metrics)

  def classify(params: PyTree, rows: Array, label: Array) -> tuple[Array, Array]:
    """Cross-entropy and accuracy of the linear classifier; both views of every picture count."""
    label = jnp.repeat(jnp.asarray(label), 2)
    scores = evaluator.apply({'params': params}, jax.lax.stop_gradient(rows))
    cost = optax.softmax_cross_entropy_with_integer_labels(scores, label)
    return cost.mean(), (scores.argmax(-1) == label).mean()

  def after_update(params: PyTree, aux: PyTree, step: Array) -> PyTree:
    kept = target_momentum(step, start=momentum, steps=steps)
    online = {name: params[name] for name in aux['target']}
    target = jax.tree.map(
      lambda t, o: (kept * t + (1 - kept) * o).astype(t.dtype), aux['target'], online
    )
    return aux | {'target': target}

  def describe(params: PyTree, aux: PyTree, image: Array, size: int | None = None) -> Pyramid:
    return backbone.describe(params['backbone'], aux['stats'], image)[:levels]

  def calibrate(params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, n: Array) -> PyTree:
    """Exact means over the frames of n + 1 batches, as `describe` sees them."""
    image = cut_centre(crop.whole(jnp.asarray(batch.image, float), size=size), margin)
    return aux | {'stats': backbone.calibrated(params['backbone'], aux['stats'], image, n)}

  def two_views(batch: Batch, rng: PRNGKeyArray) -> Float[Array, '2 B s s 3']:
    return jnp.stack([view for view, _ in pair(rng, batch.image)])

  return Method(init, loss, describe, after_update, calibrate=calibrate, views=two_views)

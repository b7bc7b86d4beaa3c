"""MoCo: instance contrast against a queue of keys from a momentum encoder (He et al. 2020).

Stage 1 of the ICCV 2021 landmark system. Two random views of every picture go through a query
encoder and its moving average, the key encoder; a query must find its own key among the keys of
other pictures. What is learned is invariant at the top and, layer by layer, predictive of
landmarks below: `describe` gives the backbone's maps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num, PRNGKeyArray

from landmarks_jax import losses, options, shapes
from landmarks_jax.augment import views
from landmarks_jax.contracts import Array, Batch, Method, Pyramid, PyTree
from landmarks_jax.dtypes import dtype_of
from landmarks_jax.geometry import regions
from landmarks_jax.models import heads as embedding_heads
from landmarks_jax.models import resnet, vit
from landmarks_jax.models.backbone import Backbone

NETWORKS = {'resnet': (), 'vit': ('patch', 'heads', 'registers', 'grid')}  # and options of one


def random_queue(rng: PRNGKeyArray, size: int, dim: int) -> Float[Array, '{size} {dim}']:
  """Rows uniform in +-sqrt(3 / dim): of unit length on average, as published."""
  bound = (3 / dim) ** 0.5
  return jax.random.uniform(rng, (size, dim), minval=-bound, maxval=bound)


def enqueue(
  queue: Float[Array, 'N C'], pointer: Int[Array, ''], keys: Float[Array, 'B C']
) -> tuple[Float[Array, 'N C'], Int[Array, '']]:
  """Overwrites the oldest rows of a ring with the batch's keys.

  Args: queue: [N, C]. pointer: the oldest row. keys: [B, C]. Returns the queue and its new pointer.
  Raises ValueError where the batch does not fit into the queue, in number or channels. Fixture
  moco_memory.
  """
  shapes.check(queue=(queue, 'N C'), keys=(keys, 'B C'))
  size, count = queue.shape[0], keys.shape[0]
  if count > size:
    raise ValueError(f'queue={size} is smaller than the batch of {count}: make it at least {count}')
  rows = (pointer + jnp.arange(count)) % size
  queue = jnp.asarray(queue).at[rows].set(keys.astype(queue.dtype))
  return queue, jnp.asarray((pointer + count) % size)


def deal(rows: Num[Array, 'B *shape'], groups: int) -> Num[Array, 'B *shape']:
  """Deals runs of B / groups rows out like cards: each new run has as many rows of every old one.

  The order is fixed, as batches are drawn at random already: devices exchange only rows dealt to
  them, where a random order would bring the whole batch to each. `deal(_, B // groups)` undoes it.
  Raises ValueError if the groups do not divide B.
  """
  if len(rows) % groups:
    raise ValueError(f'{len(rows)} rows cannot be dealt into {groups} groups of one size')
  return rows.reshape(groups, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def build(
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  network: str = 'resnet',
  depth: int = 18,
  width: float = 1.0,
  patch: int = 16,
  heads: int = 6,
  registers: int = 0,
  grid: int = 14,
  dim: int = 128,
  head_layers: int = 1,
  temperature: float = 0.07,
  queue: int = 4096,
  momentum: float = 0.999,
  norm_groups: int = 4,
  margin: int = 20,
  area: tuple[float, float] = (0.2, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  jitter: float = 0.4,
  pca: float = 0.1,
  jpeg: bool = False,
  levels: int = 4,
  precision: str = 'bfloat16',
  constrain: Callable[[Any], Any] = lambda x: x,
) -> Method:
  """MoCo on a ResNet or a ViT; the defaults are the ICCV 2021 hyper-parameters for faces.

  Args:
    mean, std: of the pictures' channels in [0, 1]; saved with the weights.
    network: 'resnet' or 'vit'.
    depth: 18 to 152 of a ResNet, or the blocks of a ViT. width: multiplies its channels.
    patch, heads, registers, grid: of a ViT alone; it has 64 channels per head.
    dim: of the embedding.
    head_layers: 1 is linear (the paper), 2 an MLP.
    temperature: of the softmax over one positive and the negatives, divides the products.
    queue: number of negatives; 0 takes the batch's other keys instead.
    momentum: of the key encoder, per step.
    norm_groups: BatchNorm groups, 4 in the paper (4 GPUs). A ViT has no BatchNorm: one group.
    margin: pixels cut from each side of the frame.
    area, aspect, jitter, pca, jpeg: of `views.random_view`.
    levels: how many maps `describe` gives at most, coarse to fine: the four stages, or 5 with the
      stem; a ViT has one.
    precision: 'bfloat16' or 'float32' of the networks; losses and statistics are float32 at least.
    constrain: keeps a batch spread over the devices; the identity on one.

  The loss takes full batches, as training's always are: `Batch.valid` is ignored, so that padding
  would count, as a negative too.

  aux: `stats` (running statistics; a ViT has none), `key` and `key_stats` (momentum encoder),
  `queue`, `pointer`.
  """
  options.check(build, locals(), network=NETWORKS)
  if not 1 <= levels <= 5:
    raise ValueError(f'levels={levels}: expected 1 to 5, the stages from the last and the stem')
  for option, value in {'dim': dim, 'head_layers': head_layers}.items():
    if value < 1:
      raise ValueError(f'{option}={value}: expected 1 or more')
  if not temperature > 0:
    raise ValueError(f'temperature={temperature}: expected a number above 0')
  if not 0 <= momentum <= 1:
    raise ValueError(f'momentum={momentum}: expected 0 to 1')
  common = {'depth': depth, 'width': width, 'dtype': dtype_of(precision)}
  if network == 'vit':
    module = vit.ViT(patch=patch, heads=heads, registers=registers, grid=grid, **common)
    norm_groups = 1  # nothing to deal out, so that a batch may have any size
  else:
    module = resnet.ResNet(norm_groups=norm_groups, **common)
  backbone = Backbone(module, mean, std)
  head = embedding_heads.EmbeddingHead(dim=dim, layers=head_layers)
  random_view = functools.partial(
    views.random_view,
    margin=margin,
    area=area,
    aspect=aspect,
    jitter=jitter,
    pca=pca,
    jpeg=jpeg,
  )

  def embed(params: PyTree, stats: PyTree, image: Array) -> tuple[Float[Array, 'B C'], PyTree]:
    """Unit embeddings in training mode, and the running statistics after this batch."""
    pyramid, stats = backbone.train(params['backbone'], stats, backbone.standardised(image))
    return head.apply({'params': params['head']}, pyramid[0]), stats

  def init(rng: PRNGKeyArray, batch: Batch) -> tuple[PyTree, PyTree]:
    rng_backbone, rng_head, rng_queue = jax.random.split(rng, 3)
    image = regions.cut_centre(jnp.asarray(batch.image[:1], float), margin)
    pyramid, variables = module.init_with_output(rng_backbone, image, train=False)
    top = jnp.zeros(pyramid[0].shape, float)
    params = {
      'backbone': variables['params'],
      'head': head.init(rng_head, top)['params'],
    }
    stats = variables.get('batch_stats', {})
    # Copies: the step donates its state, and a donated buffer may occur in it only once.
    aux = {'stats': stats, 'key': jax.tree.map(jnp.copy, params)}
    aux['key_stats'] = jax.tree.map(jnp.copy, stats)
    if queue:
      aux['queue'] = random_queue(rng_queue, queue, dim)
      aux['pointer'] = jnp.zeros((), 'int32')
    return params, aux

  def loss(
    params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, step: Array
  ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    rng_query, rng_key = jax.random.split(rng)
    query, stats = embed(params, aux['stats'], random_view(rng_query, batch.image))
    # The key encoder sees the batch in another order, so that a query and its key are in BatchNorm
    # groups with other pictures and cannot recognise each other by shared statistics. Frames are
    # shuffled, not views, because they are bytes.
    shuffled = constrain(deal(jnp.asarray(batch.image), norm_groups))
    key, key_stats = embed(aux['key'], aux['key_stats'], random_view(rng_key, shuffled))
    key = constrain(jax.lax.stop_gradient(key))  # otherwise rows wider than keys would be sent
    key = constrain(deal(key, len(key) // norm_groups))
    aux = aux | {'stats': stats, 'key_stats': key_stats}
    if queue:
      value = losses.info_nce(query, key, aux['queue'], temperature=temperature)
      aux['queue'], aux['pointer'] = enqueue(aux['queue'], aux['pointer'], key)
    else:
      value = losses.in_batch_nce(query, key, temperature=temperature)
    similarity = (query * key).sum(-1).mean()
    return value.mean(), (aux, {'positive_similarity': similarity})

  def after_update(params: PyTree, aux: PyTree, step: Array) -> PyTree:
    key = jax.tree.map(lambda k, q: momentum * k + (1 - momentum) * q, aux['key'], params)
    return aux | {'key': key}

  def describe(params: PyTree, aux: PyTree, image: Array, size: int | None = None) -> Pyramid:
    return backbone.describe(params['backbone'], aux['stats'], image)[:levels]

  def calibrate(params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, n: Array) -> PyTree:
    """Exact means over the frames of n + 1 batches, as `describe` sees them."""
    image = regions.cut_centre(batch.image, margin)
    return aux | {'stats': backbone.calibrated(params['backbone'], aux['stats'], image, n)}

  def two_views(batch: Batch, rng: PRNGKeyArray) -> Float[Array, '2 B s s 3']:
    return jnp.stack([random_view(one, batch.image) for one in jax.random.split(rng)])

  return Method(init, loss, describe, after_update, calibrate=calibrate, views=two_views)

"""The landmark head of the ICCV 2021 system, trained on frozen features.

Each of K landmarks has some intermediate maps, linear in the hypercolumn; a sharp softmax turns
each map into a point; the landmark is linear in its own points (specification section 5). The head
learns from labels with the common train step, on cached pyramids (evaluation/probing.py) or on
pictures through a frozen network. The closed-form alternative is `ridge.fit_ridge`, which also
handles many landmarks on a CPU: here 68 landmarks are 3,400 maps, 31 MB per picture at 48x48.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from landmarks_jax import losses
from landmarks_jax.contracts import Array, Batch, Describer, Method, Pyramid, PyTree
from landmarks_jax.geometry import regions, softargmax
from landmarks_jax.models import hypercolumn
from landmarks_jax.models.varying import alike


def random_params(
  rng: PRNGKeyArray, channels: tuple[int, ...], *, landmarks: int, points_per_landmark: int
) -> dict[str, Any]:
  """The head before training.

  Args: channels: of every level, in pyramid order.
  Returns: inner: a kernel [C_l, K*P] for each level, N(0, 1); map k * P + p is point p of landmark
  k. outer: [K, 2P, 2], uniform in +-1/sqrt(2P), from x0, y0, x1, y1, ... to (x, y).
  """
  rng_inner, rng_outer = jax.random.split(rng)
  maps, inputs = landmarks * points_per_landmark, 2 * points_per_landmark
  inner = jax.random.normal(rng_inner, (sum(channels), maps))
  bound = inputs**-0.5
  outer = jax.random.uniform(rng_outer, (landmarks, inputs, 2), minval=-bound, maxval=bound)
  return {'inner': hypercolumn.split_rows(inner, channels), 'outer': outer}


def intermediate_points(
  params: PyTree, pyramid: Pyramid, *, size: int, sharpness: float
) -> tuple[Float[Array, 'B K P 2'], Float[Array, 'B K P']]:
  """Each map's expected position under a softmax over size x size positions, and its peak.

  The hypercolumn is never built: levels are mapped at their own resolution (section 3).
  """
  # Features are bfloat16 already; the softmax multiplies a product's rounding by its sharpness.
  with jax.default_matmul_precision('float32'):
    maps = hypercolumn.project(pyramid, params['inner'], size)
  points, peak = softargmax.soft_argmax(maps, sharpness=sharpness)
  batch, landmarks = len(points), params['outer'].shape[0]
  return points.reshape(batch, landmarks, -1, 2), peak.reshape(batch, landmarks, -1)


def read_out(params: PyTree, points: Float[Array, 'B K P 2']) -> Float[Array, 'B K 2']:
  """Landmarks from their own intermediate points: linear, without a constant."""
  flat = points.reshape(*points.shape[:2], -1)
  return jnp.einsum('bki,kic->bkc', flat, params['outer'], precision='float32')


Cost = Callable[[PyTree, PyTree], Array]


def summed(cost: Cost, params: PyTree, pictures: PyTree) -> Float[Array, '']:
  """The sum of cost(params, picture) over the leading axis of `pictures`, which get no gradient.

  On a CPU the gradient is taken picture by picture: the maps of one stay in cache, whereas those of
  a batch pass through memory again and again (docs/performance.md).
  """
  return _summed(cost, *alike((params, pictures)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(cost: Cost, params: PyTree, pictures: PyTree) -> Float[Array, '']:
  return _at_once(cost, params, pictures)


def _at_once(cost: Cost, params: PyTree, pictures: PyTree) -> Array:
  return jax.vmap(cost, (None, 0))(params, pictures).sum()


def _sum_and_gradient(cost: Cost, params: PyTree, pictures: PyTree) -> tuple[Array, PyTree]:
  at_once = jax.value_and_grad(functools.partial(_at_once, cost))

  def one_by_one(params: PyTree, pictures: PyTree) -> tuple[Array, PyTree]:
    of_one = jax.value_and_grad(cost)
    shapes = jax.eval_shape(of_one, params, jax.tree.map(lambda x: x[0], pictures))

    def add(sums: PyTree, picture: PyTree) -> tuple[PyTree, None]:
      return jax.tree.map(jnp.add, sums, of_one(params, picture)), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, shapes), pictures)[0]

  return jax.lax.platform_dependent(params, pictures, cpu=one_by_one, default=at_once)


def _gradient(cost: Cost, gradient: PyTree, slope: Array) -> tuple[PyTree, None]:
  return jax.tree.map(lambda x: slope * x, gradient), None


_summed.defvjp(_sum_and_gradient, _gradient)


def build(
  *,
  landmarks: int,
  points_per_landmark: int = 50,
  size: int = 48,
  sharpness: float = 100.0,
  magnification: float = 10.0,
  margin: int = 0,
  base: Describer | None = None,
  constrain: Callable[[Any], Any] = lambda x: x,
) -> Method:
  """The published landmark head; the defaults are the ICCV 2021 hyper-parameters.

  Args:
    landmarks: K. points_per_landmark: intermediate points of each. size: side of their maps.
    sharpness: of the softmax over positions. magnification: of coordinates in the loss.
    margin: pixels that the loss cuts from each side of a batch's pictures.
    base: the frozen network, for batches of pictures; without it batches must have a `pyramid`,
      with points in the frame that was described.
    constrain: keeps a batch spread over the devices; the identity on one.

  `describe` gives the base's own pyramid, so that a probed network still matches and is evaluated;
  the head adds `landmarks`, for pictures at network size or for pyramids. Its confidence is the
  mean peak probability of a landmark's maps: how sharply they are located, near 1 at sharpness 100,
  not how accurate the landmark is (on real faces, rank correlation with its error: 0). aux: `base`,
  a copy of the base's variables.
  """

  def look(aux: PyTree, image: Array, size: int | None) -> Pyramid:
    if base is None:
      raise ValueError('this probe has no network to describe pictures with: give it a base')
    return base.apply(aux['base'], image, size)

  def features(aux: PyTree, batch: Batch) -> Pyramid:
    return look(aux, batch.image, size) if batch.pyramid is None else batch.pyramid

  def describe(params: PyTree, aux: PyTree, image: Array, size: int | None = None) -> Pyramid:
    return look(aux, image, size)

  def init(rng: PRNGKeyArray, batch: Batch) -> tuple[PyTree, PyTree]:
    if batch.points is not None and batch.points.shape[1] != landmarks:
      raise ValueError(f'landmarks={landmarks}, but the labels have {batch.points.shape[1]}')
    # Copies: the step donates its state, and the describer stays in use.
    aux = {} if base is None else {'base': jax.tree.map(jnp.copy, base.variables)}
    if batch.image is not None:
      batch = regions.centre_crop(Batch(image=batch.image[:1]), margin)
    pyramid = jax.eval_shape(lambda aux: features(aux, batch), aux)
    channels = tuple(level.shape[-1] for level in pyramid)
    return random_params(
      rng, channels, landmarks=landmarks, points_per_landmark=points_per_landmark
    ), aux

  def find(params: PyTree, aux: PyTree, batch: Batch) -> tuple[Array, Array]:
    points, peak = intermediate_points(params, features(aux, batch), size=size, sharpness=sharpness)
    return read_out(params, points), peak.mean(-1)

  def cost(params: PyTree, picture: tuple[Pyramid, Array, Array]) -> Array:
    pyramid, labels, visible = jax.tree.map(lambda x: x[None], picture)
    points, _ = find(params, {}, Batch(pyramid=pyramid))
    return losses.smooth_l1_landmarks(points, labels, visible, magnification=magnification)[0]

  def loss(
    params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, step: Array
  ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    if batch.image is not None:
      batch = regions.centre_crop(batch, margin)
    pyramid, labels = constrain(features(aux, batch)), batch.points
    visible = jnp.ones(labels.shape[:2], bool) if batch.visible is None else batch.visible
    valid = jnp.ones(len(labels), bool) if batch.valid is None else batch.valid.astype(bool)
    # Padding costs nothing. Cast for COCO's 0, 1, 2 and the like: 2 & True is 0.
    visible = visible.astype(bool) & valid[:, None]
    total = summed(cost, params, (pyramid, labels, visible))
    return total / jnp.maximum(valid.sum(), 1), (aux, {})

  return Method(init, loss, describe, landmarks=find)

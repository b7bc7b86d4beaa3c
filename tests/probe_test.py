"""The trained landmark head against the published one, a slow form of itself, and its promises."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from landmarks_jax import losses, training
from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.geometry import regions
from landmarks_jax.methods import probe
from landmarks_jax.models import hypercolumn
from landmarks_jax.runtime import optim

CHANNELS = (6, 5, 3)
RNG = jax.random.key(0)


def random_batch(count=4, *, landmarks=3, sides=(2, 3, 6), dtype=np.float32, seed=0):
  r = np.random.default_rng(seed)
  pyramid = tuple(
    r.normal(scale=0.1, size=(count, h, h, c)).astype(dtype)
    for h, c in zip(sides, CHANNELS, strict=True)
  )
  points = r.uniform(-0.8, 0.8, (count, landmarks, 2)).astype(np.float32)
  visible = np.ones((count, landmarks), bool)
  return Batch(pyramid=pyramid, points=points, visible=visible, valid=np.ones(count, bool))


def small(**options):
  return probe.build(**{'landmarks': 3, 'points_per_landmark': 4, 'size': 8} | options)


def loss_and_grads(method, params, aux, batch):
  loss = jax.value_and_grad(lambda p: method.loss(p, aux, batch, RNG, jnp.int32(0))[0])
  return jax.jit(loss)(params)


# The published head (fixture kp_regressor).


@pytest.fixture
def published(golden):
  """The fixture, the method it describes, its parameters in our layout, its batch."""
  g = golden('kp_regressor')
  landmarks, points, sharpness = (int(x) for x in g['nA_nI_mul'])
  method = probe.build(
    landmarks=landmarks, points_per_landmark=points, sharpness=float(sharpness), size=48
  )
  batch = Batch(pyramid=(g['feat'].transpose(0, 2, 3, 1),), points=g['kp'])
  return g, method, ours(g['inner_weight'], g['reg_weight']), batch


def ours(inner, outer):
  """Weights [K*P, C, 1, 1] and [2K, 2P, 1, 1] of two convolutions -> our parameters."""
  outer = outer.reshape(-1, 2, outer.shape[1]).transpose(0, 2, 1)
  return {'inner': (jnp.asarray(inner[:, :, 0, 0].T),), 'outer': jnp.asarray(outer)}


def test_predictions_are_the_published_ones(published):
  g, method, params, batch = published
  for suffix, pyramid, atol in (
    ('', batch.pyramid, 1e-5),
    ('_peaky', (64 * batch.pyramid[0],), 1e-4),
  ):
    between, _ = probe.intermediate_points(params, pyramid, size=48, sharpness=100.0)
    np.testing.assert_allclose(between, g[f'intermediate{suffix}'], atol=atol)
    points, confidence = method.landmarks(params, {}, Batch(pyramid=pyramid))
    np.testing.assert_allclose(points, g[f'pred{suffix}'], atol=atol)
    assert confidence.shape == (2, 5)


def test_loss_and_gradients_are_the_published_ones(published):
  g, method, params, batch = published
  value, grads = loss_and_grads(method, params, {}, batch)
  np.testing.assert_allclose(value, g['loss'], rtol=1e-5)
  expected = ours(g['grad_inner_weight'], g['grad_reg_weight'])
  for grad, right in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(grad, right, atol=1e-5 * np.abs(right).max())


def test_five_steps_of_adam_are_the_published_ones(published):
  g, method, params, batch = published
  rate, beta1, beta2, decay, eps = (float(x) for x in g['adam'])
  tx = optim.adam(rate, betas=(beta1, beta2), eps=eps, weight_decay=decay)
  state = training.init_state(method, tx, RNG, batch)._replace(params=params)
  step, losses = jax.jit(training.make_train_step(method, tx)), []
  for _ in range(5):
    state, metrics = step(state, batch, RNG)
    losses.append(float(metrics['loss']))
  np.testing.assert_allclose(losses, g['adam_losses'], rtol=2e-5)
  expected = ours(g['final_inner_weight'], g['final_reg_weight'])
  for found, right in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(found, right, atol=0.01 * rate)
  points, _ = method.landmarks(state.params, state.aux, batch)
  np.testing.assert_allclose(points, g['final_pred'], atol=2e-5)


# What the method promises.


def test_it_equals_the_stacked_hypercolumn_in_a_slow_loop():
  """Built column, one map after the other, landmark k from its own points x0, y0, x1, y1, ..."""
  batch, method = random_batch(), small()
  params, aux = method.init(RNG, batch)
  found, confidence = method.landmarks(params, aux, batch)
  column = np.asarray(hypercolumn.stack(batch.pyramid, 8), np.float64)
  kernel, outer = np.concatenate(params['inner']), np.asarray(params['outer'])
  grid = np.linspace(-1, 1, 8)
  for n in range(4):
    for k in range(3):
      inputs, peaks = [], []
      for p in range(4):
        score = 100 * column[n] @ kernel[:, 4 * k + p]
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        inputs += [(weight.sum(0) * grid).sum(), (weight.sum(1) * grid).sum()]
        peaks.append(weight.max())
      np.testing.assert_allclose(found[n, k], inputs @ outer[k], atol=1e-4)
      np.testing.assert_allclose(confidence[n, k], np.mean(peaks), atol=1e-3)


def test_the_gradient_is_that_of_all_pictures_at_once():
  method, batch = small(), random_batch(5)
  params, aux = method.init(RNG, batch)

  def at_once(params):
    points, _ = method.landmarks(params, aux, batch)
    return losses.smooth_l1_landmarks(points, batch.points, batch.visible).mean()

  expected = jax.jit(jax.value_and_grad(at_once))(params)
  found = loss_and_grads(method, params, aux, batch)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_gradient_inside_shard_map_is_that_over_all_devices():
  method, batch = small(), random_batch(8)
  params, aux = method.init(RNG, batch)
  gradient = jax.grad(lambda params, batch: method.loss(params, aux, batch, RNG, jnp.int32(0))[0])
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  specs = {'in_specs': (PartitionSpec(), PartitionSpec('data')), 'out_specs': PartitionSpec()}
  summed = jax.jit(jax.shard_map(gradient, mesh=mesh, **specs))(params, batch)
  for one, other in zip(
    jax.tree.leaves(summed), jax.tree.leaves(gradient(params, batch)), strict=True
  ):  # a loss is a mean over the pictures of one device
    np.testing.assert_allclose(one / 4, other, rtol=1e-4, atol=1e-6)


def test_a_cpu_holds_the_maps_of_one_picture_and_an_accelerator_takes_all_at_once():
  method, batch = small(), random_batch(16)
  params, aux = method.init(RNG, batch)
  loss = jax.grad(lambda params: method.loss(params, aux, batch, RNG, jnp.int32(0))[0])
  traced = jax.jit(loss).trace(params)
  written = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ('cpu', 'tpu')}
  maps = {name: re.findall(r'tensor<([\dx]*)8x8x12xf32>', text) for name, text in written.items()}
  assert set(maps['cpu']) == {'1x'}
  assert any('16x' in shape for shape in maps['tpu'])
  assert 'while' not in written['tpu']


def test_the_first_layer_starts_normal_and_the_second_uniform():
  params, _ = small(points_per_landmark=50).init(RNG, random_batch())
  inner, outer = np.concatenate(params['inner']), np.asarray(params['outer'])
  assert [len(level) for level in params['inner']] == list(CHANNELS)
  assert inner.shape == (14, 150)
  assert outer.shape == (3, 100, 2)
  np.testing.assert_allclose([inner.mean(), inner.std()], [0, 1], atol=0.05)
  assert 0.098 < np.abs(outer).max() <= 0.1
  np.testing.assert_allclose(outer.std(), 0.1 / 3**0.5, rtol=0.05)


def test_invisible_landmarks_get_no_gradient_whatever_their_label():
  batch, method = random_batch(), small()
  params, aux = method.init(RNG, batch)
  visible = batch.visible.copy()
  visible[:, 1] = visible[2] = False
  hidden = batch._replace(
    visible=visible, points=np.where(visible[..., None], batch.points, np.float32(np.nan))
  )
  _, grads = loss_and_grads(method, params, aux, hidden)
  outer = np.asarray(grads['outer'])
  inner = np.concatenate(grads['inner']).reshape(14, 3, 4)
  for of_landmark in (outer.transpose(1, 2, 0), inner.transpose(0, 2, 1)):
    assert np.isfinite(of_landmark).all()
    assert not of_landmark[..., 1].any()
    assert of_landmark[..., [0, 2]].any()
  changed = tuple(level.copy() for level in batch.pyramid)
  for level in changed:
    level[2] += 1  # shows nothing, so nothing of it matters
  again = loss_and_grads(method, params, aux, hidden._replace(pyramid=changed))[1]
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_visibility_as_numbers_counts_as_true_and_false():
  method, batch = small(), random_batch()
  visible = batch.visible.copy()
  visible[0, 1] = False
  params, aux = method.init(RNG, batch)
  found = [
    loss_and_grads(method, params, aux, batch._replace(visible=given))
    for given in (visible, np.where(visible, 2, 0))  # COCO's: 2 is visible
  ]
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_padding_counts_for_nothing():
  batch, method = random_batch(5), small()
  params, aux = method.init(RNG, batch)
  three = jax.tree.map(lambda x: x[:3], batch)
  broken = jax.tree.map(lambda x: x.copy(), batch)
  broken.points[3:] = np.nan
  broken.valid[3:] = False
  value, grads = loss_and_grads(method, params, aux, three)
  numbers = broken._replace(valid=np.where(broken.valid, np.uint8(255), np.uint8(0)))
  for padding in (broken, numbers):
    padded, padded_grads = loss_and_grads(method, params, aux, padding)
    np.testing.assert_allclose(padded, value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(padded_grads), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_features_kept_in_bfloat16_give_nearly_the_points_of_float32():
  wide, method = random_batch(16, sides=(2, 4, 8)), small(points_per_landmark=50)
  params, aux = method.init(RNG, wide)
  half = wide._replace(pyramid=tuple(level.astype(jnp.bfloat16) for level in wide.pyramid))
  points, confidence = method.landmarks(params, aux, half)
  expected, _ = method.landmarks(params, aux, wide)
  assert points.dtype == confidence.dtype == jnp.float32
  distance = np.linalg.norm(points - expected, axis=-1)
  assert 0 < distance.mean() < 0.01
  grads = loss_and_grads(method, params, aux, half)[1]
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


# Pictures through a frozen network.


def blocks():
  """A network whose levels are means of blocks, times a weight."""

  def apply(variables, image, size):
    image = jnp.asarray(image, float) / 255
    n, side = image.shape[:2]
    means = (image.reshape(n, h, side // h, h, side // h, 3).mean((2, 4)) for h in (2, 4, 8))
    return tuple(variables['scale'] * level for level in means)

  return Describer({'scale': jnp.float32(0.3)}, apply)


def picture_batch(side=24):
  image = np.random.default_rng(3).integers(0, 255, (4, side, side, 3), np.uint8)
  return random_batch()._replace(image=image, pyramid=None)


def test_pictures_through_the_base_train_as_their_cached_features():
  base, batch = blocks(), picture_batch()
  method = small(base=base, margin=4)
  params, aux = method.init(RNG, batch)
  cut = regions.centre_crop(batch, 4)
  pyramid = base.apply(base.variables, cut.image, None)
  value, grads = loss_and_grads(method, params, aux, batch)
  cached = loss_and_grads(small(), params, {}, cut._replace(image=None, pyramid=pyramid))
  np.testing.assert_allclose(value, cached[0], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(cached[1]), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
  for of_picture, of_features in zip(
    method.landmarks(params, aux, Batch(image=cut.image)),
    small().landmarks(params, {}, Batch(pyramid=pyramid)),
    strict=True,
  ):
    np.testing.assert_allclose(of_picture, of_features, atol=1e-4)


def test_it_describes_as_its_base_and_leaves_it_frozen():
  base, batch = blocks(), picture_batch(16)
  method = small(base=base)
  tx = optim.adam(1e-2, weight_decay=0.1)
  state = training.init_state(method, tx, RNG, batch)
  state, _ = jax.jit(training.make_train_step(method, tx), donate_argnums=0)(state, batch, RNG)
  assert float(state.aux['base']['scale']) == float(base.variables['scale'])  # neither donated
  found = method.describe(state.params, state.aux, batch.image, None)
  expected = base.apply(base.variables, batch.image, None)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_pictures_without_a_base_are_an_error():
  with pytest.raises(ValueError, match='no network to describe pictures with: give it a base'):
    small().init(RNG, picture_batch())


def test_labels_of_another_number_of_landmarks_are_an_error():
  with pytest.raises(ValueError, match='landmarks=5, but the labels have 3'):
    small(landmarks=5).init(RNG, random_batch())

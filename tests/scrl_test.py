"""SCRL and BYOL: the loss against a slow loop, pictures without boxes, the target, the schedule."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.augment import boxes as shared
from landmarks_jax.augment import colour, crop
from landmarks_jax.contracts import Batch
from landmarks_jax.methods import scrl
from landmarks_jax.models import resnet

COUNT, FRAME, MARGIN = 6, 36, 2
COLOURS = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.2, 0.3)}
OPTIONS = {'depth': 10, 'width': 1 / 16, 'hidden': 24, 'dim': 5, 'boxes': 3, 'smallest': 8}
OPTIONS |= {'output_stride': 8, 'margin': MARGIN, 'precision': 'float32', 'momentum': 0.9}


@pytest.fixture(autouse=True)
def short_network(monkeypatch):
  """A ResNet-10, compiled as it is: what runs is tiny."""
  monkeypatch.setitem(resnet.DEPTHS, 10, (resnet.basic_block, (1,) * 4))
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


def batch(*, valid=(True,) * COUNT, **given):
  r = np.random.default_rng(0)
  given['valid'] = np.array(valid)
  return Batch(image=r.integers(0, 256, (COUNT, FRAME, FRAME, 3), np.uint8), **given)


def built(**options):
  return scrl.build(**COLOURS, **OPTIONS | options)


@functools.cache
def initial(**options):
  method = built(**options)
  return jax.device_get(jax.jit(method.init)(jax.random.key(0), batch()))


@functools.cache
def compiled(method):
  def loss(params, aux, given):
    value, (_, metrics) = method.loss(params, aux, given, jax.random.key(3), jnp.int32(0))
    return value, metrics

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def gradient(method, params, aux, given):
  (value, metrics), grads = jax.device_get(compiled(method)(params, aux, given))
  return float(value), metrics, grads


def normed(x):
  return x / max(np.linalg.norm(x), 1e-12)


def test_the_error_is_the_papers_sum_of_both_directions():
  r = np.random.default_rng(1)
  prediction, target = (r.normal(size=(4, 2, 3, 5)) * r.uniform(0.1, 9, (4, 2, 3, 1)) for _ in '12')
  expected = [
    [
      (2 - 2 * normed(q[0, k]) @ normed(z[1, k])) + (2 - 2 * normed(q[1, k]) @ normed(z[0, k]))
      for k in range(3)
    ]
    for q, z in zip(prediction, target, strict=True)
  ]
  found = scrl.prediction_error(np.float32(prediction), np.float32(target))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  same = scrl.prediction_error(np.float32(prediction), np.float32(prediction[:, ::-1]))
  np.testing.assert_allclose(same, 0, atol=1e-5)


@pytest.mark.parametrize(('shape', 'told'), [
  ((3, 1, 4, 5), 'target: expected [B 2 K C], got shape (3, 1, 4, 5)'),
  ((1, 2, 4, 5), 'target: B=1 in shape (1, 2, 4, 5), but prediction has B=3'),
])  # fmt: skip
def test_targets_of_another_shape_than_the_predictions_are_an_error(shape, told):
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  with pytest.raises(ValueError, match=f'^{re.escape(told)}$'):
    scrl.prediction_error.__wrapped__(jnp.ones((3, 2, 4, 5)), jnp.ones(shape))


def test_the_target_slows_down_along_the_published_cosine():
  total, start = 40, 0.97
  expected = [1 - (1 - start) * (np.cos(np.pi * t / total) + 1) / 2 for t in range(total)]
  found = [float(scrl.target_momentum(t, start=start, steps=total)) for t in range(total)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert float(scrl.target_momentum(total + 5, start=start, steps=total)) == 1
  assert float(scrl.target_momentum(7, start=start, steps=None)) == pytest.approx(start)


def test_the_target_follows_backbone_and_projector_and_nothing_else():
  method, (params, aux) = built(steps=40), initial()
  after = method.after_update(params, aux, jnp.int32(10))
  kept = float(scrl.target_momentum(10, start=0.9, steps=40))
  assert after['stats'] is aux['stats']
  assert after['target'].keys() == {'backbone', 'projector'}
  for name in after['target']:
    jax.tree.map(
      lambda t, was, o: np.testing.assert_allclose(t, kept * was + (1 - kept) * o, atol=1e-6),
      after['target'][name],
      aux['target'][name],
      params[name],
    )


def test_the_target_starts_from_other_weights_unless_it_is_told_not_to():
  params, aux = initial()
  kernels = [tree['backbone']['conv1']['kernel'] for tree in (params, aux['target'])]
  assert np.abs(kernels[0] - kernels[1]).min() < np.abs(kernels[0] - kernels[1]).max()
  params, aux = initial(independent_target=False)
  for name in aux['target']:
    jax.tree.map(np.testing.assert_array_equal, aux['target'][name], params[name])


@pytest.mark.parametrize('regions', [True, False])
def test_the_loss_is_the_slow_loop_over_boxes(regions, monkeypatch):
  """With boxes, RoIs, BatchNorm and networks as they are: how they are put together."""
  method, (params, aux) = built(regions=regions), initial()
  seen, options = {}, {}

  def spy(name):
    real = getattr(scrl, name)

    def call(*args, **given):
      found = real(*args, **given)
      seen.setdefault(name, []).append((args, found))
      options.setdefault(name, []).append(given)
      return found

    monkeypatch.setattr(scrl, name, call)

  for name in ('roi_align', 'prediction_error', 'shared_boxes'):
    spy(name)

  @jax.jit
  def looked_at():
    value, (_, metrics) = method.loss(params, aux, batch(), jax.random.key(3), jnp.int32(0))
    return value, metrics, seen

  value, metrics, seen = jax.device_get(looked_at())
  each, known = 1, np.ones(COUNT, bool)
  if regions:
    each, (_, (boxes, known)) = 3, seen['shared_boxes'][0]
    assert options['shared_boxes'][0]['side'] == FRAME - 2 * MARGIN
    assert options['roi_align'] == [{'stride': 8}] * 2
    for (maps, given), _ in seen['roi_align']:
      assert maps.shape == (2 * COUNT, 4, 4, 32)
      np.testing.assert_array_equal(given.reshape(boxes.shape), boxes)
  (prediction, target), _ = seen['prediction_error'][0]
  assert prediction.shape == target.shape == (COUNT, 2, each, 5)
  costs = [
    sum(2 - 2 * normed(prediction[i, v, k]) @ normed(target[i, 1 - v, k]) for v in (0, 1))
    for i in np.flatnonzero(known)
    for k in range(each)
  ]
  np.testing.assert_allclose(value, np.mean(costs), rtol=1e-4)
  unit = [
    normed(target[i, v, k]) for i in np.flatnonzero(known) for v in (0, 1) for k in range(each)
  ]
  # The deviation of unit vectors, summed over channels.
  np.testing.assert_allclose(metrics['spread'], np.sqrt(np.var(unit, 0).sum()), rtol=1e-3)
  assert metrics['with_boxes'] == known.mean()


def test_without_any_box_the_loss_and_its_gradient_are_zero():
  method, (params, aux) = built(area=(0.02, 0.03)), initial()
  value, metrics, grads = gradient(method, params, aux, batch())
  assert metrics['with_boxes'] == 0
  assert value == 0
  assert all((grad == 0).all() for grad in jax.tree.leaves(grads))


def test_a_picture_without_boxes_only_speaks_through_the_backbones_norms(monkeypatch):
  """With evaluation-like statistics it would not speak at all: norms of one group a picture."""
  method, (params, aux) = built(norm_groups=COUNT), initial()
  known = np.arange(COUNT) != 2

  def all_but_one(*args, **options):
    found, _ = shared.shared_boxes(*args, **options)
    return found, jnp.asarray(known)

  monkeypatch.setattr(scrl, 'shared_boxes', all_but_one)
  given = batch()
  one = gradient(method, params, aux, given)
  image = given.image.copy()
  image[2] = 255 - image[2]
  other = gradient(method, params, aux, given._replace(image=image))
  assert np.isfinite(one[0])
  np.testing.assert_allclose(other[0], one[0], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other[2], one[2])
  # A picture that counts does change it; padding does not.
  image = given.image.copy()
  image[3] = 255 - image[3]
  assert abs(gradient(method, params, aux, given._replace(image=image))[0] - one[0]) > 1e-4
  padded = gradient(method, params, aux, given._replace(image=image, valid=np.arange(COUNT) != 3))
  again = gradient(method, params, aux, given._replace(valid=np.arange(COUNT) != 3))
  np.testing.assert_allclose(padded[0], again[0], rtol=1e-5)
  assert padded[1]['with_boxes'] == pytest.approx(4 / 6)


def test_classes_of_data_without_labels_are_an_error():
  method, (params, aux) = built(classes=4), initial(classes=4)
  with pytest.raises(ValueError, match='classes=4, but the data has no labels'):
    method.loss(params, aux, batch(), jax.random.key(3), jnp.int32(0))


def test_a_classifier_learns_beside_and_moves_nothing_else():
  plain = built()
  method, label = built(classes=4), np.arange(COUNT, dtype=np.int32) % 4
  params, aux = initial(classes=4)
  value, metrics, grads = gradient(method, params, aux, batch(label=label))
  without = {name: tree for name, tree in params.items() if name != 'evaluator'}
  alone, _, expected = gradient(plain, without, aux, batch())
  assert value - alone == pytest.approx(np.log(4), abs=1.0)
  assert 0 <= metrics['online_top1'] <= 1
  assert np.abs(grads.pop('evaluator')['kernel']).max() > 0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-4), grads, expected)


def test_the_state_of_the_backbone_is_laid_out_as_mocos():
  from landmarks_jax.methods import moco

  method = moco.build(**COLOURS, depth=10, width=1 / 16, margin=MARGIN, queue=0)
  other, aux = jax.eval_shape(method.init, jax.random.key(0), batch())
  params, own = initial()
  shapes = functools.partial(jax.tree.map, lambda x: x.shape)
  assert shapes(params['backbone']) == shapes(other['backbone'])
  assert shapes(own['stats']) == shapes(aux['stats'])


def test_frames_are_larger_than_views_where_a_size_is_given():
  method = built(size=24, margin=4)
  views = method.views(batch(), jax.random.key(0))
  assert views.shape == (2, COUNT, 16, 16, 3)
  params, aux = initial()
  calibrated = method.calibrate(params, aux, batch(), jax.random.key(0), jnp.int32(0))
  assert jax.tree.structure(calibrated) == jax.tree.structure(aux)
  frames = crop.whole(jnp.asarray(batch().image, jnp.float32), size=24)[:, 4:-4, 4:-4]
  frames = colour.standardise(frames, **COLOURS)
  kernel = params['backbone']['conv1']['kernel']
  maps = jax.lax.conv_general_dilated(
    frames, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  np.testing.assert_allclose(calibrated['stats']['bn1']['mean'], maps.mean((0, 1, 2)), atol=1e-4)


@pytest.mark.parametrize(('options', 'message'), [
  ({'precision': 'half'}, "precision='half': choose from"),
  ({'levels': 6}, 'levels=6: expected 1 to 5'),
])  # fmt: skip
def test_options_that_do_not_exist_are_errors_that_say_what_does(options, message):
  with pytest.raises(ValueError, match=message):
    built(**options)

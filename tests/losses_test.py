"""Losses against loops and the published numbers, with their gradients."""

import doctest
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import losses
from landmarks_jax.methods import moco

info_nce = jax.jit(losses.info_nce, static_argnames='temperature')
in_batch_nce = jax.jit(losses.in_batch_nce, static_argnames='temperature')
smooth_l1 = jax.jit(losses.smooth_l1_landmarks, static_argnames='magnification')
spatial_contrast = jax.jit(
  losses.spatial_contrast,
  static_argnames=('sharpness', 'stride', 'power', 'normalise', 'groups'),
)
equivariance_nll = jax.jit(losses.equivariance_nll, static_argnames='sharpness')
equivariance_distance = jax.jit(
  losses.equivariance_distance, static_argnames=('power', 'sharpness')
)
descriptor_exchange = jax.jit(losses.descriptor_exchange, static_argnames='sharpness')


def unit_rows(*shape, seed=0):
  rows = np.random.default_rng(seed).normal(size=shape)
  return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def contrast(batch=6, dim=9, negatives=14):
  """Query, key, negatives."""
  return unit_rows(batch, dim), unit_rows(batch, dim, seed=1), unit_rows(negatives, dim, seed=2)


def nce_oracle(query, positive, negatives, temperature):
  """-log of the positive's share, for one query, in Python floats."""
  scores = [sum(float(a) * float(b) for a, b in zip(query, k, strict=True)) / temperature
            for k in (positive, *negatives)]  # fmt: skip
  top = max(scores)
  return math.log(sum(math.exp(s - top) for s in scores)) + top - scores[0]


def landmark_example():
  r = np.random.default_rng(0)
  points, target = (r.normal(scale=0.2, size=(4, 7, 2)).astype(np.float32) for _ in range(2))
  visible = r.uniform(size=(4, 7)) < 0.6
  visible[1] = False
  return points, target, visible


def smooth_l1_oracle(points, target, visible, magnification):
  out = []
  for p, t, v in zip(points, target, visible, strict=True):
    total = 0.0
    for k in range(len(p)):
      for axis in range(2):
        d = magnification * abs(float(p[k, axis]) - float(t[k, axis])) if v[k] else 0.0
        total += d * d / 2 if d < 1 else d - 0.5
    out.append(total / (2 * len(p)))
  return np.array(out)


# InfoNCE.


@pytest.mark.parametrize('call', ['', '2'])
def test_matches_the_published_contrast(golden, call):
  g = golden('moco_memory')
  query, key, temperature = g[f'q{call}'], g[f'k{call}'], float(g['T'])
  queue = g['queue_after'] if call else g['queue']
  value = info_nce(query, key, queue, temperature=temperature)
  logits = g[f'logits{call}'].astype(np.float64)
  expected = np.log(np.exp(logits).sum(1)) - logits[:, 0]
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
  if not call:
    np.testing.assert_allclose(value.mean(), g['loss'], rtol=1e-5, atol=1e-6)


def test_matches_the_published_gradient(golden):
  g = golden('moco_memory')
  loss = lambda q: info_nce(  # noqa: E731
    q, g['k'], g['queue'], temperature=float(g['T'])
  ).mean()
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(jnp.asarray(g['q'])), g['grad_q'], rtol=1e-5, atol=1e-6
  )


def test_the_queue_moves_as_published_through_both_calls(golden):
  g = golden('moco_memory')
  queue, pointer = jnp.asarray(g['queue']), jnp.asarray(g['index'], jnp.int32)
  enqueue = jax.jit(moco.enqueue)
  for call in ('', '2'):
    queue, pointer = enqueue(queue, pointer, g[f'k{call}'])
    np.testing.assert_array_equal(queue, g[f'queue_after{call}'])
    assert int(pointer) == int(g[f'index_after{call}'])


def test_the_positive_competes_with_every_negative():
  query, key, negatives = contrast()
  value = info_nce(query, key, negatives, temperature=0.2)
  assert value.shape == (6,)
  for q, k, one in zip(query, key, value, strict=True):
    np.testing.assert_allclose(one, nce_oracle(q, k, negatives, 0.2), rtol=1e-5)


def test_other_keys_are_the_negatives_of_a_batch():
  query, key, _ = contrast()
  value = in_batch_nce(query, key, temperature=0.2)
  assert value.shape == (6,)
  for i in range(6):
    others = np.delete(key, i, axis=0)
    one = info_nce(query[i : i + 1], key[i : i + 1], others, temperature=0.2)
    np.testing.assert_allclose(value[i], one[0], rtol=1e-5)
    np.testing.assert_allclose(value[i], nce_oracle(query[i], key[i], others, 0.2), rtol=1e-5)


def test_no_gradient_is_stopped():
  query, key, negatives = (jnp.asarray(x) for x in contrast())
  loss = lambda *x: info_nce(*x, temperature=0.2).mean()  # noqa: E731
  for grad in jax.grad(loss, argnums=(0, 1, 2))(query, key, negatives):
    assert np.abs(grad).max() > 1e-3


def test_a_batch_equals_its_examples():
  query, key, negatives = contrast()
  value = info_nce(query, key, negatives, temperature=0.2)
  singles = [
    info_nce(query[i : i + 1], key[i : i + 1], negatives, temperature=0.2)[0]
    for i in range(len(query))
  ]
  np.testing.assert_allclose(value, singles, rtol=1e-6)
  points, target, visible = landmark_example()
  value = smooth_l1(points, target, visible)
  singles = [
    smooth_l1(points[i : i + 1], target[i : i + 1], visible[i : i + 1])[0]
    for i in range(len(points))
  ]
  np.testing.assert_allclose(value, singles, rtol=1e-6)


@pytest.mark.parametrize('size', [1e-30, 1, 100])  # logits up to a million
def test_contrast_is_finite_at_extreme_inputs(size):
  query, key, negatives = (jnp.asarray(x * np.float32(size)) for x in contrast())
  for loss in (
    lambda q, k, n: info_nce(q, k, n, temperature=0.01).mean(),
    lambda q, k, n: in_batch_nce(q, k, temperature=0.01).mean(),
  ):
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(query, key, negatives)
    assert all(np.isfinite(x).all() for x in (value, *grads))
  # Quickly compiled code (conftest.py) divides by the temperature in two ways within one loss.
  alike = functools.partial(losses.info_nce, temperature=0.01)
  alike = jax.jit(alike, compiler_options={'xla_backend_optimization_level': 3})
  assert alike(query, query, -query).min() >= -1e-6


@pytest.mark.parametrize('loss', [info_nce, in_batch_nce])
def test_contrast_of_bfloat16_is_computed_in_float32(loss):
  arrays = [jnp.asarray(x, jnp.bfloat16) for x in contrast()]
  arrays = arrays if loss is info_nce else arrays[:2]
  value = loss(*arrays, temperature=0.07)
  assert value.dtype == jnp.float32
  exact = loss(*(np.asarray(x, np.float32) for x in arrays), temperature=0.07)
  np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_a_wrong_shape_names_the_argument():
  # The shape hook speaks first in tests; the unhooked functions are what a user calls.
  query, key, negatives = contrast()
  bare_nce, bare_l1 = losses.info_nce.__wrapped__, losses.smooth_l1_landmarks.__wrapped__
  with pytest.raises(
    ValueError, match=re.escape('negatives: C=8 in shape (14, 8), but query has C=9')
  ):
    bare_nce(query, key, negatives[:, :8], temperature=1.0)
  with pytest.raises(ValueError, match=re.escape('key: B=1 in shape (1, 9), but query has B=6')):
    bare_nce(query, key[:1], negatives, temperature=1.0)
  with pytest.raises(ValueError, match=re.escape('key: B=1 in shape (1, 9), but query has B=6')):
    losses.in_batch_nce.__wrapped__(query, key[:1], temperature=1.0)
  points, target, visible = landmark_example()
  with pytest.raises(
    ValueError, match=re.escape('target: K=1 in shape (4, 1, 2), but points has K=7')
  ):
    bare_l1(points, target[:, :1], visible)
  with pytest.raises(ValueError, match=re.escape('visible: expected [B K], got shape (4, 7, 1)')):
    bare_l1(points, target, visible[..., None])


# Smooth-L1.


def grad_of_mean(points, target, visible, **options):
  loss = lambda p: smooth_l1(p, target, visible, **options).mean()  # noqa: E731
  return np.asarray(jax.jit(jax.grad(loss))(points))


def test_matches_the_published_landmark_loss(golden):
  g = golden('regression_losses')
  everything = np.ones(g['visible'].shape, bool)
  value = smooth_l1(g['pred'], g['target'], everything, magnification=10.0)
  np.testing.assert_allclose(value.mean(), g['plain_loss'], rtol=1e-6)
  np.testing.assert_allclose(
    smooth_l1(g['pred'], g['target'], everything).mean(),
    g['plain_loss_default_alpha'],
    rtol=1e-6,
  )
  grad = grad_of_mean(g['pred'], g['target'], everything)
  # The reference subtracts after magnifying: one more rounding, of the size of the coordinates.
  np.testing.assert_allclose(grad, g['plain_grad'], rtol=1e-6, atol=1e-6 * np.abs(grad).max())


def test_matches_the_published_loss_of_visible_landmarks(golden):
  g = golden('regression_losses')
  value = smooth_l1(g['pred'], g['target'], g['visible'])
  np.testing.assert_allclose(value.mean(), g['selected_loss'], rtol=1e-6)
  grad = grad_of_mean(g['pred'], g['target'], g['visible'])
  # The reference subtracts after magnifying: one more rounding, of the size of the coordinates.
  np.testing.assert_allclose(grad, g['selected_grad'], rtol=1e-6, atol=1e-6 * np.abs(grad).max())
  np.testing.assert_array_equal(grad[~g['visible']], 0)
  assert (grad[g['visible']] != 0).all()


@pytest.mark.parametrize('magnification', [1.0, 3.5, 10.0])
def test_the_landmark_loss_is_the_slow_loop(magnification):
  points, target, visible = landmark_example()
  value = smooth_l1(points, target, visible, magnification=magnification)
  expected = smooth_l1_oracle(points, target, visible, magnification)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert value[1] == 0  # nothing visible


def test_what_is_invisible_may_hold_anything():
  points, target, visible = landmark_example()
  value = smooth_l1(points, target, visible)
  grad = grad_of_mean(points, target, visible)
  target[~visible] = np.nan
  np.testing.assert_array_equal(smooth_l1(points, target, visible), value)
  np.testing.assert_array_equal(grad_of_mean(points, target, visible), grad)
  np.testing.assert_array_equal(grad[~visible], 0)


def test_a_masked_landmark_equals_its_removal_but_for_the_number_of_coordinates():
  points, target, visible = landmark_example()
  visible[:] = True
  visible[:, 3] = False
  masked = smooth_l1(points, target, visible)
  without = smooth_l1(*(np.delete(x, 3, axis=1) for x in (points, target, visible)))
  np.testing.assert_allclose(masked * 7, without * 6, rtol=1e-6)


def test_the_landmark_gradient_is_bounded_at_extreme_inputs():
  points = np.float32([[[1e30, -1e30], [1e15, 1e-30], [0, 0]]])
  value = smooth_l1(points, np.zeros_like(points), np.ones((1, 3), bool))
  assert np.isfinite(value).all()
  grad = grad_of_mean(points, np.zeros_like(points), np.ones((1, 3), bool))
  np.testing.assert_allclose(grad[0] * 6 / 10, [[1, -1], [1, 0], [0, 0]], atol=1e-6)


def test_landmarks_in_bfloat16_are_compared_in_float32():
  points, target, visible = landmark_example()
  points, target = jnp.asarray(points, jnp.bfloat16), jnp.asarray(target, jnp.bfloat16)
  value = smooth_l1(points, target, visible)
  assert value.dtype == jnp.float32
  exact = smooth_l1(np.asarray(points, np.float32), np.asarray(target, np.float32), visible)
  np.testing.assert_allclose(value, exact, rtol=1e-6)


# Spatial contrast.


def maps(dtype=np.float32):
  """Features [B, h, w, C] of pictures that are wider than high."""
  return np.random.default_rng(4).normal(size=(3, 4, 6, 5)).astype(dtype)


def spatial_oracle(features, sharpness, power, stride, groups=(5,), normalise=True):
  """Position after position, in float64."""
  out = []
  for picture in np.asarray(features, float):
    column = np.split(picture, np.cumsum(groups)[:-1], axis=-1)
    if normalise:
      column = [part / np.sqrt((part**2).sum(-1, keepdims=True)) for part in column]
    column, total = np.concatenate(column, -1), 0.0
    height, width = column.shape[:2]
    for i, j in np.ndindex(height, width):
      weight = np.exp(sharpness * column @ column[i, j])
      for y, x in np.ndindex(height, width):
        share = weight[y, x] / weight.sum()
        total += share * (stride * np.hypot(y - i, x - j)) ** power
    out.append(total / (height * width))
  return np.array(out)


@pytest.mark.parametrize(
  ('variant', 'options'),
  [
    ('one', {}),
    ('two', {'groups': (11, 5)}),
    ('pow1', {'power': 1.0}),
    ('nonorm', {'normalise': False}),
  ],
)
def test_matches_the_published_spatial_contrast(golden, variant, options):
  g = golden('dense_corr_loss')
  assert tuple(g['spectral_two']) == (11, 5)
  features = g['feat'].transpose(0, 2, 3, 1)
  features = features * g['nonorm_scale'] if variant == 'nonorm' else features
  options = options | {'sharpness': float(g['temperature'])}
  options['stride'] = float(g['input_size'][-1]) / features.shape[1]
  loss = lambda x: spatial_contrast(x, **options).mean()  # noqa: E731
  value, grad = jax.jit(jax.value_and_grad(loss))(features)
  np.testing.assert_allclose(value, g[f'loss_{variant}'], rtol=1e-5)
  np.testing.assert_allclose(value, g[f'loss_{variant}_f64'], rtol=1e-5)
  expected = g[f'grad_{variant}'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize('groups', [None, (2, 3)])
@pytest.mark.parametrize('normalise', [True, False])
def test_the_spatial_contrast_is_the_slow_loop(groups, normalise):
  options = {'sharpness': 2.0, 'power': 0.7, 'stride': 3.0, 'normalise': normalise}
  value = spatial_contrast(maps(), groups=groups, **options)
  expected = spatial_oracle(maps(), groups=groups or (5,), **options)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  both = spatial_contrast(maps(), groups=groups, **options | {'power': (1.0, 0.7)})
  assert both.shape == (3, 2)
  np.testing.assert_allclose(both[:, 1], value, rtol=1e-6)


def test_a_picture_is_contrasted_with_itself_alone():
  value = spatial_contrast(maps(), sharpness=2.0, stride=3.0)
  assert value.shape == (3,)
  for i in range(3):
    one = spatial_contrast(maps()[i : i + 1], sharpness=2.0, stride=3.0)
    np.testing.assert_allclose(value[i], one[0], rtol=1e-6)


def test_distinct_descriptors_cost_nothing_and_equal_ones_the_mean_distance():
  distinct = np.eye(24, dtype=np.float32).reshape(1, 4, 6, 24)
  assert spatial_contrast(distinct, sharpness=100.0, stride=3.0, power=1.0)[0] < 1e-6
  positions = np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1).reshape(-1, 2) * 3.0
  mean = np.linalg.norm(positions[:, None] - positions, axis=-1).mean()
  equal = spatial_contrast(np.ones_like(distinct), sharpness=100.0, stride=3.0, power=1.0)
  np.testing.assert_allclose(equal[0], mean, rtol=1e-5)


@pytest.mark.parametrize('size', [1e-30, 1, 1e30])  # squares leave the range of float32
def test_the_length_of_a_descriptor_changes_nothing(size):
  options = {'sharpness': 7.0, 'stride': 4.0}
  loss = lambda x: spatial_contrast(x, **options).mean()  # noqa: E731
  value, grad = jax.jit(jax.value_and_grad(loss))(maps() * np.float32(size))
  expected, right = jax.jit(jax.value_and_grad(loss))(maps())
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(grad * size, right, atol=1e-5 * np.abs(right).max())


def test_a_descriptor_of_zeros_matches_everything_and_breaks_nothing():
  features = maps()
  features[1, 2, 3] = 0
  loss = lambda x: spatial_contrast(x, sharpness=7.0, stride=4.0).mean()  # noqa: E731
  value, grad = jax.jit(jax.value_and_grad(loss))(features)
  assert np.isfinite(value)
  assert np.isfinite(grad).all()
  features[1] = 0
  value = spatial_contrast(features, sharpness=7.0, stride=4.0)
  equal = spatial_contrast(np.ones_like(features), sharpness=7.0, stride=4.0)
  np.testing.assert_allclose(value[1], equal[1], rtol=1e-6)


@pytest.mark.parametrize('normalise', [True, False])
def test_spatial_contrast_of_bfloat16_is_computed_in_float32(normalise):
  features = jnp.asarray(maps(), jnp.bfloat16)
  options = {'sharpness': 2.0, 'normalise': normalise}
  options['stride'] = 4.3  # whose multiples bfloat16 does not hold
  value = spatial_contrast(features, **options)
  assert value.dtype == jnp.float32
  exact = spatial_contrast(np.asarray(features, np.float32), **options)
  np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_groups_that_do_not_add_up_are_an_error():
  message = re.escape('groups (2, 4) sum to 6, but features has C=5')
  with pytest.raises(ValueError, match=message):
    spatial_contrast(maps(), sharpness=7.0, stride=4.0, groups=(2, 4))
  with pytest.raises(ValueError, match=re.escape('features: expected [B h w C], got shape (4, 6,')):
    losses.spatial_contrast.__wrapped__(maps()[0], sharpness=7.0, stride=4.0)


# Equivariance.

STRIDE = 3
EQUIVARIANCE = pytest.mark.parametrize('loss', [equivariance_nll, equivariance_distance])


def pairs(dtype=np.float32):
  """Query and key [B, h, w, C], flow [B, H, W, 2] that may leave the frame, its mask."""
  r = np.random.default_rng(5)
  query, key = r.normal(size=(2, 3, 4, 5, 6)).astype(dtype)
  flow = r.normal(scale=4, size=(3, 4 * STRIDE, 5 * STRIDE, 2)).astype(dtype)
  return query, key, flow, r.uniform(size=flow.shape[:3]) < 0.7


def equivariance_oracle(query, key, flow, valid, *, sharpness, power=None):
  """Position after position, in float64; the log-likelihood where there is no power."""
  query, key, flow = (np.asarray(x, float) for x in (query, key, flow))
  height, width = key.shape[1:3]
  out = []
  for b in range(len(query)):
    costs = []
    for i, j in np.ndindex(height, width):
      at = b, STRIDE * i, STRIDE * j
      x, y = STRIDE * j + flow[at][0], STRIDE * i + flow[at][1]
      inside = 0 <= x <= STRIDE * (width - 1) and 0 <= y <= STRIDE * (height - 1)
      if not valid[at] or (power is None and not inside):
        continue
      score = sharpness * key[b] @ query[b, i, j]
      log_probability = score - np.log(np.exp(score).sum())
      cost = 0.0
      for row, column in np.ndindex(height, width):
        if power is None:
          share = max(0, 1 - abs(x / STRIDE - column)) * max(0, 1 - abs(y / STRIDE - row))
          cost -= share * log_probability[row, column]
        else:
          away = np.hypot(STRIDE * column - x, STRIDE * row - y) ** power
          cost += away * np.exp(log_probability[row, column])
      costs.append(cost)
    out.append(np.mean(costs) if costs else 0)
  return np.array(out)


def exchange_oracle(query, auxiliary, sharpness):
  out = np.zeros(query.shape)
  for b, i, j in np.ndindex(query.shape[:3]):
    weight = np.exp(sharpness * auxiliary[b].astype(float) @ query[b, i, j])
    for row, column in np.ndindex(weight.shape):
      out[b, i, j] += weight[row, column] / weight.sum() * auxiliary[b, row, column]
  return out


@pytest.mark.parametrize('power', [0.5, 1.0])
@pytest.mark.parametrize('normalise', [0, 1])
@pytest.mark.parametrize('exchange', [False, True])
def test_matches_the_published_equivariance(golden, exchange, normalise, power):
  g = golden('dve_losses')
  pixels = (g['grid'] + 1) / 2 * (g['grid'].shape[1] - 1)
  flow = pixels - np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1)
  flow = flow.astype(np.float32)
  everywhere = np.ones(flow.shape[:3], bool)
  # A quarter of the matches leaves the picture: the published loss keeps them.
  assert ((pixels < 0) | (pixels > 19)).any(-1).mean() > 0.25
  sharpness = 20.0**2 if normalise else 1.0

  def loss(features):
    maps = features.transpose(0, 2, 3, 1)
    maps = losses.unit(maps) if normalise else maps
    first, second = maps[0::2], maps[1::2]
    if exchange:
      auxiliary = jnp.roll(first, -1, axis=0)
      first = losses.descriptor_exchange(first, auxiliary, sharpness=sharpness)
    return losses.equivariance_distance(
      first, second, flow, everywhere, power=power, sharpness=sharpness
    ).mean()

  name = f'dcl{"_dve" if exchange else ""}_norm{normalise}_pow{power}'
  value, grad = jax.jit(jax.value_and_grad(loss))(g['feats'])
  np.testing.assert_allclose(value, g[f'loss_{name}'], rtol=1e-5)
  np.testing.assert_allclose(value, g[f'loss_{name}_f64'], rtol=1e-5)
  tolerance = 2e-3 if exchange and normalise else 1e-4
  expected = g[f'grad_{name}']
  # The published gradient is in float32, which takes up to four fifths of the tolerance. In float32
  # ours is on either side of it, as the machine rounds; so that is held against its own.
  with jax.enable_x64(True):
    exact = jax.jit(jax.grad(loss))(g['feats'].astype(np.float64))
  np.testing.assert_allclose(exact, expected, atol=tolerance * np.abs(expected).max())
  np.testing.assert_allclose(grad, exact, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('sharpness', [0.5, 2.0])
def test_equivariance_is_the_slow_loop(sharpness):
  options = {'sharpness': sharpness}
  found = equivariance_nll(*pairs(), **options)
  np.testing.assert_allclose(found, equivariance_oracle(*pairs(), **options), rtol=1e-5)
  for power in (0.5, 1.0):
    found = equivariance_distance(*pairs(), power=power, **options)
    expected = equivariance_oracle(*pairs(), power=power, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_log_likelihood_is_info_nce_with_positions_as_classes():
  """The unified view: of a query, its match is the key and all other positions the negatives."""
  query, key, flow, _ = pairs()
  flow = (STRIDE * np.round(flow / STRIDE)).astype(np.float32)  # from cell to cell
  compared = 0
  for i, j in np.ndindex(4, 5):
    alone = np.zeros(flow.shape[:3], bool)
    alone[:, STRIDE * i, STRIDE * j] = True
    likelihood = equivariance_nll(query, key, flow, alone, sharpness=3.0)
    for b in range(len(query)):
      column, row = (j, i) + flow[b, STRIDE * i, STRIDE * j].astype(int) // STRIDE
      if not (0 <= row < 4 and 0 <= column < 5):
        assert likelihood[b] == 0
        continue
      match = 5 * row + column
      keys = key[b].reshape(20, -1)
      contrast = info_nce(
        query[b, i, j][None], keys[match][None], np.delete(keys, match, 0), temperature=1 / 3
      )
      # Differences of scores up to 20, which float32 holds to 2e-6.
      np.testing.assert_allclose(likelihood[b], contrast[0], rtol=1e-5, atol=5e-6)
      compared += 1
  assert compared > 20


def unified(score, cost, beta):
  """The one loss of docs/unified.md for one query, in float64; lambda is 1."""
  score, cost = np.asarray(score, float), np.asarray(cost, float)
  pulled = np.exp(score - beta * cost).sum()
  return (np.log(np.exp(score).sum()) - np.log(pulled)) / beta


def test_contrast_likelihood_and_distance_are_one_formula():
  query, key, flow, valid = pairs()
  valid[:] = False
  valid[:, 2 * STRIDE, STRIDE] = True
  flow[:] = 2 * STRIDE, -STRIDE  # from cell (2, 1) to (1, 3)
  at = STRIDE * np.indices((4, 5)).reshape(2, -1).T
  away = np.linalg.norm(at - STRIDE * np.array([1, 3]), axis=1)
  elsewhere = np.where(away == 0, 0, np.inf)
  arrays, options = (query, key, flow, valid), {'sharpness': 0.5}
  for b in range(len(query)):
    keys = key[b].reshape(20, -1)
    score = 0.5 * keys @ query[b, 2, 1]
    likelihood = equivariance_nll(*arrays, **options)[b]
    np.testing.assert_allclose(likelihood, unified(score, elsewhere, beta=1), rtol=1e-5)
    distance = equivariance_distance(*arrays, power=0.7, **options)[b]
    np.testing.assert_allclose(distance, unified(score, away**0.7, beta=1e-6), rtol=1e-5)
    positive, negatives = keys[[8]], np.delete(keys, 8, axis=0)
    contrast = info_nce(query[b, 2, 1][None], positive, negatives, temperature=2.0)[0]
    np.testing.assert_allclose(contrast, unified(score, elsewhere, beta=1), rtol=1e-5)


@EQUIVARIANCE
def test_what_is_not_valid_may_hold_anything_and_gets_no_gradient(loss):
  query, key, flow, valid = pairs()
  grad = jax.jit(jax.grad(lambda q, k, f: loss(q, k, f, valid).sum(), argnums=(0, 1, 2)))
  value, right = loss(query, key, flow, valid), grad(query, key, flow)
  cells = valid[:, ::STRIDE, ::STRIDE]
  assert not cells.all()
  np.testing.assert_array_equal(right[0][~cells], 0)
  np.testing.assert_array_equal(right[2], 0)  # the flow is given, not learned
  query[~cells], flow[~valid] = np.nan, np.nan
  np.testing.assert_array_equal(loss(query, key, flow, valid), value)
  for one, other in zip(grad(query, key, flow), right, strict=True):
    np.testing.assert_array_equal(one, other)
  assert all(np.abs(g).max() > 0.01 for g in right[:2])


@pytest.mark.parametrize('name', ['equivariance_nll', 'equivariance_distance'])
@pytest.mark.parametrize('one', [np.uint8(255), np.int32(3), np.float32(0.5)])
def test_any_mask_that_is_not_zero_is_valid(monkeypatch, name, one):
  # The shape hook wants bool in tests; the unhooked functions are what a user calls.
  for inner in ('_matches', 'mean_of_valid'):
    monkeypatch.setattr(losses, inner, getattr(losses, inner).__wrapped__)
  loss = getattr(losses, name).__wrapped__
  query, key, flow, valid = pairs()
  found = loss(query, key, flow, valid * one)
  np.testing.assert_array_equal(found, loss(query, key, flow, valid))


@EQUIVARIANCE
def test_a_pair_without_a_valid_position_costs_nothing(loss):
  query, key, flow, valid = pairs()
  before = loss(query, key, flow, valid)
  valid[1] = False
  after = loss(query, key, flow, valid)
  assert after[1] == 0
  np.testing.assert_array_equal(after[::2], before[::2])
  grad = jax.grad(lambda k: loss(query, k, flow, valid).sum())(key)
  np.testing.assert_array_equal(grad[1], 0)
  assert np.isfinite(grad).all()


EMPTY = {
  'spatial_contrast': lambda query, *_: spatial_contrast(query, sharpness=1.0, stride=3.0),
  'nll': equivariance_nll,
  'distance': equivariance_distance,
  'exchange': lambda query, key, *_: descriptor_exchange(query, key),
}


@pytest.mark.parametrize('name', EMPTY)
def test_an_empty_batch_has_no_losses_and_their_mean_is_0(name):
  arrays = [x[:0] for x in pairs()]
  found = EMPTY[name](*arrays)
  assert found.shape == (arrays[0].shape if name == 'exchange' else (0,))
  for valid in (None, np.ones(0, bool)):
    mean = losses.mean_of_valid(found, valid)
    np.testing.assert_array_equal(mean, np.zeros(found.shape[1:]))


def test_a_mask_of_another_batch_is_an_error():
  values = np.ones((6, 3), np.float32)
  with pytest.raises(ValueError, match=re.escape('valid: B=1 in shape (1,), but values has B=6')):
    losses.mean_of_valid.__wrapped__(values, np.ones(1, bool))
  for valid in (np.ones((6, 1), bool), np.bool_(True)):
    message = re.escape(f'valid: expected [B], got shape {valid.shape}')
    with pytest.raises(ValueError, match=message):
      losses.mean_of_valid.__wrapped__(values, valid)


def test_a_match_beyond_the_last_cell_has_no_likelihood_but_a_distance():
  query, key, flow, valid = pairs()
  flow[:], valid[:] = 0, False
  valid[:, 9, 12] = True  # the last cell
  likelihood, near = (f(query, key, flow, valid) for f in (equivariance_nll, equivariance_distance))
  assert (likelihood > 0).all()
  flow[..., 0] = 1  # inside the picture, beyond the centre of the last cell
  assert (equivariance_nll(query, key, flow, valid) == 0).all()
  flow[..., 0] = 100
  assert (equivariance_distance(query, key, flow, valid) > near + 3).all()


@EQUIVARIANCE
def test_the_sharpness_multiplies_the_products(loss):
  query, key, flow, valid = pairs()
  found = loss(query, key, flow, valid, sharpness=6.0)
  expected = loss(2 * query, 3 * key, flow, valid)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_descriptors_are_told_in_those_of_the_other_picture():
  query = pairs()[0]
  auxiliary = np.random.default_rng(6).normal(size=(3, 2, 7, 6)).astype(np.float32)
  found = descriptor_exchange(query, auxiliary, sharpness=0.7)
  np.testing.assert_allclose(found, exchange_oracle(query, auxiliary, 0.7), rtol=1e-4, atol=1e-5)


def test_descriptors_that_the_other_picture_has_too_stay_as_they_are():
  query = np.asarray(losses.unit(pairs()[0]))
  moved = np.roll(query, (1, 2), axis=(1, 2))
  found = descriptor_exchange(query, moved, sharpness=400.0)
  np.testing.assert_allclose(found, query, atol=1e-4)


@pytest.mark.parametrize('cut', [np.s_[:, :1], np.s_[:, :, :1], np.s_[:, :1, :1]])
def test_a_map_one_cell_high_or_wide_has_a_likelihood(cut):
  query, key = (x[cut] for x in pairs()[:2])
  flow = np.zeros((3, query.shape[1] * STRIDE, query.shape[2] * STRIDE, 2), np.float32)
  valid = np.ones(flow.shape[:3], bool)
  rows, others = (x.reshape(3, -1, 6) for x in (query, key))
  score = np.einsum('bpc,bqc->bpq', rows, others)
  expected = np.log(np.exp(score).sum(-1)) - np.einsum('bpp->bp', score)
  found = equivariance_nll(query, key, flow, valid)
  np.testing.assert_allclose(found, expected.mean(1), rtol=1e-5, atol=1e-6)
  grad = jax.grad(lambda k: equivariance_nll(query, k, flow, valid).sum())(key)
  assert np.isfinite(grad).all()


def test_equivariance_of_bfloat16_is_computed_in_float32():
  query, key, flow, valid = pairs()
  half = [jnp.asarray(x, jnp.bfloat16) for x in (query, key)]
  exact = [np.asarray(x, np.float32) for x in half]
  for loss in (equivariance_nll, equivariance_distance):
    value = loss(*half, flow, valid)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(*exact, flow, valid), rtol=1e-6)
  exchanged = descriptor_exchange(*half)
  assert exchanged.dtype == jnp.float32
  np.testing.assert_allclose(exchanged, descriptor_exchange(*exact), rtol=1e-6)


def test_maps_and_flow_that_do_not_fit_are_an_error_that_names_them(monkeypatch):
  # The shape hook speaks first in tests; the unhooked functions are what a user calls.
  monkeypatch.setattr(losses, '_matches', losses._matches.__wrapped__)
  query, key, flow, valid = pairs()
  for loss in (losses.equivariance_nll, losses.equivariance_distance):
    message = 'flow: 12x14 pixels are not a whole multiple of the 4x5 cells of query'
    with pytest.raises(ValueError, match=message):
      loss.__wrapped__(query, key, flow[:, :, :14], valid[:, :, :14])
    with pytest.raises(ValueError, match=re.escape('key: h=3 in shape (3, 3, 5, 6), but query')):
      loss.__wrapped__(query, key[:, :3], flow, valid)
  with pytest.raises(ValueError, match='auxiliary: C=4 in shape'):
    losses.descriptor_exchange.__wrapped__(query, key[..., :4])


def test_a_unit_descriptor_keeps_its_direction_and_zeros_stay_zeros():
  rows = pairs()[0] * np.float32([[[[1e-30], [1], [1e30], [7], [0]]]])
  found = np.asarray(losses.unit(rows))
  np.testing.assert_allclose((found**2).sum(-1), np.broadcast_to([1, 1, 1, 1, 0], (3, 4, 5)), 1e-5)
  assert ((found * rows).sum(-1)[..., :4] > 0).all()
  assert np.isfinite(jax.grad(lambda x: losses.unit(x).sum())(rows)[..., 4, :]).all()


def test_products_of_the_contrast_are_not_rounded_as_accelerators_do_by_default():
  query, key, negatives = contrast()
  with jax.default_matmul_precision('default'):
    found = [
      jax.make_jaxpr(functools.partial(losses.info_nce, temperature=0.1))(query, key, negatives),
      jax.make_jaxpr(functools.partial(losses.in_batch_nce, temperature=0.1))(query, key),
    ]
  for program, products in zip(found, (2, 1), strict=True):
    precisions = re.findall(r'precision=(\S+)', str(program))
    assert len(precisions) == products
    assert all('HIGHEST' in precision for precision in precisions)


def test_unit_descriptors_of_bfloat16_have_length_1_in_float32():
  half = jnp.asarray(pairs()[0], jnp.bfloat16)
  found = losses.unit(half)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, losses.unit(np.asarray(half, np.float32)))
  # At DVE's sharpness a length of 1.004 would be worth e^1.6 times as much as one of 1.
  moved = np.roll(np.asarray(found), (1, 2), axis=(1, 2))
  told = descriptor_exchange(found, moved, sharpness=400.0)
  exact = np.asarray(half, np.float64)
  exact /= np.linalg.norm(exact, axis=-1, keepdims=True)
  moved = np.roll(exact, (1, 2), axis=(1, 2))
  np.testing.assert_allclose(told, exchange_oracle(exact, moved, 400.0), atol=1e-4)


@pytest.mark.parametrize('shape', [(), (3, 2)])
def test_the_mean_of_valid_examples_is_that_without_the_others(shape):
  values = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
  valid = np.array([True, False, True, True, False, True])
  found = losses.mean_of_valid(jnp.asarray(values), valid)
  assert found.shape == shape
  np.testing.assert_allclose(found, values[valid].mean(0), rtol=1e-5)
  counted = losses.mean_of_valid(jnp.asarray(values), valid, count=jnp.sum(valid))
  np.testing.assert_array_equal(counted, found)
  found = losses.mean_of_valid(jnp.asarray(values), None)
  np.testing.assert_allclose(found, values.mean(0), rtol=1e-5)
  large = losses.mean_of_valid(jnp.full((100, *shape), 1000, 'float16'), None)
  np.testing.assert_array_equal(large, np.full(shape, 1000))  # the sum is none of its dtype


@pytest.mark.parametrize('one', [np.uint8(255), np.int32(2), np.float32(0.5)])
def test_validity_as_numbers_is_no_weight_in_the_mean(one):
  values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  valid = np.array([True, False, True, True, False, True])
  found = losses.mean_of_valid.__wrapped__(jnp.asarray(values), valid * one)
  np.testing.assert_array_equal(found, losses.mean_of_valid(jnp.asarray(values), valid))


def test_an_example_that_is_not_valid_may_hold_anything_and_has_no_say_in_the_mean():
  # Not one number per example: of its product with a mask XLA makes a choice, which hides a NaN.
  values = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)
  valid = np.array([True, False, True, True, False, True])
  mean = jax.jit(losses.mean_of_valid)
  grad = jax.jit(jax.grad(lambda values, valid: mean(values, valid).sum()))
  expected = mean(values, valid)
  values[1], values[4] = np.nan, np.inf
  np.testing.assert_array_equal(mean(values, valid), expected)
  found = grad(values, valid)
  np.testing.assert_allclose(found[valid], 0.25)
  np.testing.assert_array_equal(found[~valid], 0)
  nobody = np.zeros(6, bool)
  np.testing.assert_array_equal(mean(values, nobody), np.zeros((3, 2)))
  np.testing.assert_array_equal(grad(values, nobody), 0)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    query, key, negatives = (x.astype(np.float64) for x in contrast())
    value = info_nce(query, key, negatives, temperature=0.2)
    others = in_batch_nce(query, key, temperature=0.2)
    points, target, visible = landmark_example()
    cost = smooth_l1(points.astype(float), target.astype(float), visible)
    assert value.dtype == others.dtype == cost.dtype == np.float64
    expected = [nce_oracle(q, k, negatives, 0.2) for q, k in zip(query, key, strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    expected = [
      nce_oracle(query[i], key[i], np.delete(key, i, axis=0), 0.2) for i in range(len(query))
    ]
    np.testing.assert_allclose(others, expected, rtol=1e-12)
    np.testing.assert_allclose(cost, smooth_l1_oracle(points, target, visible, 10), rtol=1e-12)
    value = spatial_contrast(maps(np.float64), sharpness=2.0, stride=3.0)
    assert value.dtype == np.float64
    expected = spatial_oracle(maps(np.float64), sharpness=2.0, power=0.5, stride=3.0)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    arrays = pairs(np.float64)
    for loss, options in (equivariance_nll, {}), (equivariance_distance, {'power': 0.5}):
      value = loss(*arrays, sharpness=2.0, **options)
      expected = equivariance_oracle(*arrays, sharpness=2.0, **options)
      np.testing.assert_allclose(value, expected, rtol=1e-12)
    value = descriptor_exchange(*arrays[:2], sharpness=2.0)
    np.testing.assert_allclose(value, exchange_oracle(*arrays[:2], 2.0), rtol=1e-12, atol=1e-12)


def test_the_examples_in_the_docstrings_hold():
  assert doctest.testmod(losses).attempted
  assert not doctest.testmod(losses).failed

"""SIMPLE and DILATIONS: what a label sees, stride, precisions (numbers: interop_dve_test.py)."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models.smallnet import SmallNet

SIMPLE = SmallNet('simple', channels=3)
DILATIONS = SmallNet('dilations', channels=3, leak=0.2)


@functools.partial(jax.jit, static_argnums=0)
def init(model, image):
  return model.init(jax.random.key(0), image, train=False)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, variables, image):
  (labels,) = model.apply(variables, image, train=False)
  return labels


@functools.partial(jax.jit, static_argnums=0)
def train(model, variables, image):
  (labels,), changed = model.apply(variables, image, train=True, mutable=['batch_stats'])
  return labels, changed


def pictures(batch=4, height=24, width=18):
  """Every picture has its own mean and spread, so that a wrong batch shows."""
  r = np.random.default_rng(1)
  spread, mean = r.uniform(0.5, 2, (batch, 1, 1, 3)), r.normal(size=(batch, 1, 1, 3))
  return (r.normal(size=(batch, height, width, 3)) * spread + mean).astype(np.float32)


@pytest.mark.parametrize(
  ('model', 'field'),
  [(SIMPLE, 26), (DILATIONS, 54), (DILATIONS.clone(pool=False), 5 + 4 + 8 + 8 + 4)],
)
def test_a_label_sees_a_square_of_its_receptive_field(model, field):
  image = np.full((1, 70, 76, 3), 0.5, np.float32)
  variables = jax.tree.map(np.abs, init(model, image))  # nothing is cut off or cancels
  stride = 2 if model.pool else 1
  row, column = 36, 38
  seen = jax.grad(lambda x: evaluate(model, variables, x)[0, row // stride, column // stride].sum())
  # Ties in the pooling give one pixel of four the gradient, so the picture grows in both ways.
  ramp = np.linspace(0, 0.01, 70)[:, None, None] + np.linspace(0, 0.03, 76)[:, None]
  touched = (
    np.abs(seen(image + ramp.astype(np.float32))) + np.abs(seen(image - ramp.astype(np.float32)))
  )[0].sum(-1)
  before = (field - stride) // 2
  rows, columns = (np.flatnonzero(touched.sum(axis)) for axis in (1, 0))
  assert (rows[0], rows[-1]) == (row - before, row - before + field - 1)
  assert (columns[0], columns[-1]) == (column - before, column - before + field - 1)


@pytest.mark.parametrize('model', [SIMPLE, DILATIONS])
def test_a_picture_moved_by_two_pixels_moves_its_labels_by_one(model):
  image = pictures(1, 76, 70)
  variables = init(model, image)
  whole, moved = (evaluate(model, variables, x) for x in (image, np.roll(image, (2, -4), (1, 2))))
  assert whole.shape == (1, 38, 35, 3)
  border = 16  # where the padding is seen
  expected = np.roll(whole, (1, -2), (1, 2))
  inner = np.s_[:, border:-border, border:-border]
  np.testing.assert_allclose(moved[inner], expected[inner], atol=1e-5)
  assert np.abs(moved[inner] - whole[inner]).max() > 0.1


def test_an_odd_side_is_rounded_down():
  image = jax.ShapeDtypeStruct((2, 71, 33, 3), jnp.float32)
  variables = jax.eval_shape(functools.partial(init, SIMPLE), image)
  labels = jax.eval_shape(functools.partial(evaluate, SIMPLE), variables, image)
  assert labels.shape == (2, 35, 16, 3)


@pytest.mark.parametrize(
  ('layers', 'kernels'),
  [
    ('simple', [(5, 3, 20), (5, 20, 48), (3, 48, 64), (3, 64, 80), (3, 80, 256), (1, 256, 7)]),
    ('dilations', [(5, 3, 20), (5, 20, 48), (5, 48, 64), (3, 64, 80), (3, 80, 256), (1, 256, 7)]),
  ],
)
def test_the_layers_are_those_of_the_paper(layers, kernels):
  image = jax.ShapeDtypeStruct((1, 20, 20, 3), jnp.float32)
  params = jax.eval_shape(functools.partial(init, SmallNet(layers, channels=7)), image)['params']
  names = [f'conv{i}' for i in range(1, 6)] + ['labels']
  assert [params[name]['kernel'].shape[1:] for name in names] == kernels
  assert [params[name]['bias'].shape for name in names] == [(c,) for _, _, c in kernels]
  assert params.keys() == {*names, *(f'bn{i}' for i in range(1, 6))}


def test_width_multiplies_the_features_but_not_the_labels():
  image = jax.ShapeDtypeStruct((1, 20, 20, 3), jnp.float32)
  params = jax.eval_shape(functools.partial(init, DILATIONS.clone(width=0.25)), image)['params']
  features = [params[name]['kernel'].shape[-1] for name in sorted(params) if 'bn' not in name]
  assert features == [5, 12, 16, 20, 64, 3]


def test_weights_start_xavier_normal_with_zero_biases():
  params = init(SIMPLE.clone(channels=64), pictures())['params']
  for name, (side, before, after) in {'conv2': (5, 20, 48), 'labels': (1, 256, 64)}.items():
    kernel = np.asarray(params[name]['kernel'])
    sd = (2 / (side * side * (before + after))) ** 0.5
    np.testing.assert_allclose(kernel.std(), sd, rtol=0.03)
    assert np.abs(kernel).max() > 3 * sd  # not truncated at two
    assert not params[name]['bias'].any()


def test_the_leak_is_the_slope_below_zero():
  image = pictures(1)
  variables = init(SIMPLE, image)
  params = variables['params']
  params['bn5'] = {'scale': np.zeros(256, np.float32), 'bias': np.linspace(-2, -1, 256)}
  below = params['bn5']['bias'] @ params['labels']['kernel'][0, 0]
  for leak in (0.0, 0.2, 1.0):
    labels = evaluate(SIMPLE.clone(leak=leak), variables, image)
    np.testing.assert_allclose(labels, np.broadcast_to(leak * below, labels.shape), atol=1e-5)
  assert np.abs(below).max() > 0.1


def test_a_picture_s_labels_ignore_the_others_in_evaluation_and_not_in_training():
  image = pictures()
  variables, others = init(DILATIONS, image), image.copy()
  others[2:] *= 3
  a, b = (evaluate(DILATIONS, variables, x) for x in (image, others))
  np.testing.assert_allclose(a[:2], b[:2], atol=1e-5)
  assert np.abs(a[2:] - b[2:]).max() > 0.1
  a, b = (train(DILATIONS, variables, x)[0] for x in (image, others))
  assert np.abs(a[:2] - b[:2]).max() > 0.1


def test_two_groups_are_two_batches_whose_running_statistics_are_averaged():
  image = pictures()
  variables = init(DILATIONS, image)
  labels, changed = train(DILATIONS.clone(norm_groups=2), variables, image)
  halves, stats = zip(*(train(DILATIONS, variables, x) for x in np.split(image, 2)), strict=True)
  np.testing.assert_allclose(labels, np.concatenate(halves), atol=1e-4)
  jax.tree.map(
    lambda whole, *parts: np.testing.assert_allclose(whole, np.mean(parts, 0), atol=1e-4),
    changed,
    *stats,
  )
  assert np.abs(labels - train(DILATIONS, variables, image)[0]).max() > 0.1


def test_norm_momentum_slows_every_running_statistic():
  image = pictures()
  variables = init(SIMPLE, image)
  slow, fast = (train(SIMPLE.clone(norm_momentum=m), variables, image)[1] for m in (0.9, 0.5))
  assert len(jax.tree.leaves(fast)) == 10
  for a, b, old in zip(*map(jax.tree.leaves, (slow, fast, variables['batch_stats'])), strict=True):
    np.testing.assert_allclose(5 * (a - old), b - old, rtol=1e-4, atol=1e-4)
    assert np.abs(b - old).max() > 0.01


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_statistics():
  model, image = SIMPLE.clone(dtype=jnp.bfloat16), pictures()
  variables = init(model, image)
  labels, changed = train(model, variables, image)
  assert labels.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, changed))} == {jnp.dtype(jnp.float32)}
  program = str(jax.make_jaxpr(functools.partial(evaluate, model))(variables, image))
  assert re.findall(r'(\w+)\[[\d,]*\] = conv_general_dilated', program) == ['bf16'] * 6
  exact, _ = train(SIMPLE, variables, image)
  assert 0 < np.abs(np.asarray(labels, np.float32) - exact).mean() < 0.02 * np.abs(exact).max()


def test_float64_stays_float64():
  with jax.enable_x64(True):
    image = pictures().astype(np.float64)
    variables = jax.tree.map(lambda a: np.asarray(a, np.float64), init(SIMPLE, image))
    labels, changed = train(SIMPLE, variables, image)
    assert {leaf.dtype for leaf in jax.tree.leaves((labels, changed))} == {np.dtype(np.float64)}
    moved, _ = train(SIMPLE, variables, image * (1 + 1e-10))
    assert 0 < np.abs(moved - labels).max() < 1e-7


def test_unknown_layers_are_an_error_that_lists_the_known_ones():
  with pytest.raises(ValueError, match=r"layers='dilated'; choose from simple, dilations"):
    init(SmallNet('dilated', channels=3), pictures())

"""The hourglass: what a label sees, both norms, precisions (numbers: interop_dve_test.py)."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models.hourglass import Hourglass

TINY = Hourglass(channels=5, blocks=1, depth=1, widths=(4, 6, 8))
GROUPS = Hourglass(channels=5, blocks=1, depth=1, widths=(32, 16, 16), norm='group')


def shapes(model, *, height=96, width=96):
  """The shapes of (variables, labels), without computing either."""
  image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
  init = functools.partial(model.init, jax.random.key(0), train=False)
  variables = jax.eval_shape(init, image)
  return variables, jax.eval_shape(functools.partial(evaluate, model), variables, image)


@functools.cache
def weights(model):
  """Random variables of a model, also where it starts with zeros and ones."""
  r = np.random.default_rng(2)

  def draw(path, leaf):
    if path[-1].key == 'kernel':
      return r.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
    low, high = (0.5, 1.5) if path[-1].key in ('scale', 'var') else (-0.5, 0.5)
    return r.uniform(low, high, leaf.shape)

  draw_float32 = lambda path, leaf: np.asarray(draw(path, leaf), np.float32)  # noqa: E731
  return jax.tree_util.tree_map_with_path(draw_float32, shapes(model)[0])


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, variables, image):
  (labels,) = model.apply(variables, image, train=False)
  return labels


@functools.partial(jax.jit, static_argnums=0)
def train(model, variables, image):
  (labels,), changed = model.apply(variables, image, train=True, mutable=['batch_stats'])
  return labels, changed


def pictures(batch=4, height=16, width=12):
  """Every picture has its own mean and spread, so that a wrong batch shows."""
  r = np.random.default_rng(1)
  spread, mean = r.uniform(0.5, 2, (batch, 1, 1, 3)), r.normal(size=(batch, 1, 1, 3))
  return (r.normal(size=(batch, height, width, 3)) * spread + mean).astype(np.float32)


def test_the_default_is_the_network_of_the_specification():
  variables, labels = shapes(Hourglass(channels=64))
  params = variables['params']
  assert labels.shape == (2, 48, 48, 64)
  assert params['conv1']['kernel'].shape == (7, 7, 3, 64)
  ends = [params[f'layer{i}']['conv3']['kernel'].shape[2:] for i in (1, 2, 3)]
  assert ends == [(64, 128), (128, 256), (128, 256)]
  assert ['downsample' in params[f'layer{i}'] for i in (1, 2, 3)] == [True, True, False]
  blocks = [name for name in params if name.startswith('stack0_')]
  assert len(blocks) == 4 * (3 * 4 + 1)  # skip, down, up at four levels, and the middle
  assert {params[b]['conv2']['kernel'].shape for b in blocks} == {(3, 3, 128, 128)}
  assert [f'head{i}' in params for i in range(5)] == [True] * 4 + [False]
  assert params['labels']['kernel'].shape == (1, 1, 256, 64)


def test_a_second_stack_is_a_second_hourglass_before_the_one_head():
  one, two = (shapes(TINY.clone(stacks=stacks))[0]['params'] for stacks in (1, 2))
  extra = two.keys() - one.keys()
  assert extra == {name.replace('stack0', 'stack1') for name in one if name.startswith('stack0')}
  assert len(extra) == 4


def test_the_label_map_has_half_the_sides_of_the_picture():
  assert shapes(TINY, height=40, width=24)[1].shape == (2, 20, 12, 5)
  assert shapes(TINY.clone(depth=4), height=32, width=64)[1].shape == (2, 16, 32, 5)


@pytest.mark.parametrize(('depth', 'whole'), [(1, False), (4, True)])
def test_depth_is_what_lets_every_label_see_a_pixel(depth, whole):
  model, image = TINY.clone(depth=depth), pictures(1, 96, 64).repeat(2, 0)
  image[1, 46, 30] += 10
  one, other = evaluate(model, weights(model), image)
  changed = np.abs(one - other).max(-1) > 0
  assert changed[23 - 4 : 23 + 5, 15 - 4 : 15 + 5].mean() > 0.9
  assert bool(changed[0].any() and changed[-1].any() and changed[:, 0].any()) == whole


def test_a_side_that_does_not_halve_is_an_error_that_says_what_does():
  message = (
    r'a picture of 90 x 96 \(width x height\); depth=4 halves it 5 times, .* multiples of 32'
  )
  with pytest.raises(ValueError, match=message):
    shapes(Hourglass(channels=3), height=96, width=90)
  assert shapes(Hourglass(channels=3), height=96, width=32)[1].shape == (2, 48, 16, 3)


def test_an_unknown_norm_and_widths_that_16_does_not_divide_are_errors():
  with pytest.raises(ValueError, match=r"norm='layer'; choose from batch, group"):
    shapes(TINY.clone(norm='layer'))
  with pytest.raises(ValueError, match=r'widths=\(4, 6, 8\) .*expected multiples of 16'):
    shapes(TINY.clone(norm='group'))


def test_a_picture_s_labels_ignore_the_others_in_evaluation_and_not_in_training():
  image = pictures()
  variables, others = weights(TINY), image.copy()
  others[2:] *= 3
  a, b = (evaluate(TINY, variables, x) for x in (image, others))
  np.testing.assert_allclose(a[:2], b[:2], atol=1e-5)
  assert np.abs(a[2:] - b[2:]).max() > 0.01
  a, b = (train(TINY, variables, x)[0] for x in (image, others))
  assert np.abs(a[:2] - b[:2]).max() > 0.01


def test_with_group_norm_no_picture_depends_on_the_batch_even_in_training():
  image = pictures()
  variables, others = weights(GROUPS), image.copy()
  others[2:] = others[2:, ::-1]  # a multiple would be the same picture
  assert variables.keys() == {'params'}
  (a, changed), (b, _) = (train(GROUPS, variables, x) for x in (image, others))
  np.testing.assert_allclose(a[:2], b[:2], atol=1e-4)
  np.testing.assert_allclose(a[:1], train(GROUPS, variables, image[:1])[0], atol=1e-4)
  np.testing.assert_array_equal(a, evaluate(GROUPS, variables, image))
  assert np.abs(a[2:] - b[2:]).max() > 0.01
  assert not changed


def test_group_norm_normalises_runs_of_channels_of_one_picture():
  """The first norm of the network against a loop over pictures and groups."""
  image, params = pictures(), weights(GROUPS)['params']
  conv1 = params['conv1'] | {'bias': params['conv1']['bias'] + 1000}  # must not cancel the variance
  variables = {'params': params | {'conv1': conv1}}
  _, caught = GROUPS.apply(
    variables, image, train=True, capture_intermediates=True, mutable=['intermediates']
  )
  stem, norm = (caught['intermediates'][name]['__call__'][0] for name in ('conv1', 'bn1'))
  assert stem.shape == (4, 8, 6, 32)
  expected = np.empty(stem.shape)
  for b in range(4):
    for channels in np.split(np.arange(32), 16):
      values = np.asarray(stem[b][..., channels], np.float64)
      expected[b][..., channels] = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
  affine = params['bn1']
  np.testing.assert_allclose(norm, expected * affine['scale'] + affine['bias'], atol=1e-3)


def test_scaled_labels_have_one_length_that_is_learned():
  model, image = TINY.clone(scaled_output=True), pictures()
  params, stats = weights(model)['params'], weights(model)['batch_stats']
  plain = evaluate(TINY, {'params': params, 'batch_stats': stats}, image)
  unit = plain / np.linalg.norm(plain, axis=-1, keepdims=True)
  for scale in (20, 3):
    variables = {'params': params | {'scale': np.float32(scale)}, 'batch_stats': stats}
    np.testing.assert_allclose(evaluate(model, variables, image), scale * unit, atol=1e-4)
    half = evaluate(model.clone(dtype=jnp.bfloat16), variables, image)
    np.testing.assert_allclose(np.linalg.norm(half, axis=-1), scale, rtol=1e-5)


def test_kernels_start_uniform_in_the_bounds_of_pytorch_with_zero_biases():
  model = TINY.clone(scaled_output=True, widths=(16, 16, 16))
  params = jax.jit(model.init, static_argnums=2)(jax.random.key(0), pictures(), False)['params']
  for name, inputs in (('conv2', 9 * 16), ('conv1', 32)):
    layer = params['stack0_level1_up0'][name]
    bound = inputs**-0.5
    assert 0.97 * bound < np.abs(layer['kernel']).max() <= bound
    np.testing.assert_allclose(np.asarray(layer['kernel']).std(), bound / 3**0.5, rtol=0.06)
    assert not layer['bias'].any()
  assert params['scale'] == 20


def test_two_groups_are_two_batches_whose_running_statistics_are_averaged():
  image = pictures()
  variables = weights(TINY)
  labels, changed = train(TINY.clone(norm_groups=2), variables, image)
  halves, stats = zip(*(train(TINY, variables, x) for x in np.split(image, 2)), strict=True)
  np.testing.assert_allclose(labels, np.concatenate(halves), atol=1e-4)
  jax.tree.map(
    lambda whole, *parts: np.testing.assert_allclose(whole, np.mean(parts, 0), atol=1e-4),
    changed,
    *stats,
  )
  assert np.abs(labels - train(TINY, variables, image)[0]).max() > 0.01


def test_norm_momentum_slows_every_running_statistic():
  image = pictures()
  variables = weights(TINY)
  slow, fast = (train(TINY.clone(norm_momentum=m), variables, image)[1] for m in (0.9, 0.5))
  assert len(jax.tree.leaves(fast)) == 2 * (3 * (3 + 4 + 1) + 2)
  for a, b, old in zip(*map(jax.tree.leaves, (slow, fast, variables['batch_stats'])), strict=True):
    np.testing.assert_allclose(5 * (a - old), b - old, rtol=1e-4, atol=1e-4)
    assert np.abs(b - old).max() > 1e-3


@pytest.mark.parametrize('model', [TINY.clone(scaled_output=True), GROUPS])
def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_statistics(model):
  image = pictures()
  half = model.clone(dtype=jnp.bfloat16)
  variables = weights(half)
  labels, changed = train(half, variables, image)
  # Labels of one length keep it: rounded ones would differ by more than their directions do.
  assert labels.dtype == (jnp.float32 if model.scaled_output else jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, changed))} == {jnp.dtype(jnp.float32)}
  program = str(jax.make_jaxpr(functools.partial(evaluate, half))(variables, image))
  convolutions = re.findall(r'(\w+)\[[\d,]*\] = conv_general_dilated', program)
  kernels = [leaf for leaf in jax.tree.leaves(variables) if leaf.ndim == 4]
  assert convolutions == ['bf16'] * len(kernels)
  exact, _ = train(model, variables, image)
  assert 0 < np.abs(np.asarray(labels, np.float32) - exact).mean() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize('model', [TINY.clone(scaled_output=True), GROUPS])
def test_float64_stays_float64(model):
  with jax.enable_x64(True):
    image = pictures().astype(np.float64)
    variables = jax.tree.map(lambda a: np.asarray(a, np.float64), weights(model))
    labels, changed = train(model, variables, image)
    assert {leaf.dtype for leaf in jax.tree.leaves((labels, changed))} == {np.dtype(np.float64)}
    moved, _ = train(model, variables, image * (1 + 1e-10))
    assert 0 < np.abs(moved - labels).max() < 1e-6

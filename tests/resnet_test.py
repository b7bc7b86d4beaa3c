"""The ResNet's shapes, sizes, initialisation and precisions (numbers: interop_resnet_test.py)."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.interop import resnet as interop
from landmarks_jax.models.resnet import ResNet, StemConv, basic_block, bottleneck_block

TINY = ResNet(block=basic_block, stage_sizes=(1, 1, 1, 1), width=1 / 16)


@functools.partial(jax.jit, static_argnums=0)
def init(model, image):
  return model.init(jax.random.key(0), image, train=False)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, variables, image):
  return model.apply(variables, image, train=False)


@functools.partial(jax.jit, static_argnums=0)
def train(model, variables, image):
  return model.apply(variables, image, train=True, mutable=['batch_stats'])


def shapes(model, *, side=96, batch=2):
  """The shapes of (variables, pyramid), without computing either."""
  image = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
  variables = jax.eval_shape(functools.partial(init, model), image)
  pyramid = jax.eval_shape(functools.partial(evaluate, model), variables, image)
  return variables, pyramid


@pytest.mark.parametrize(
  ('depth', 'numbers'),
  [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160), (152, 58_143_808)],
)
def test_parameters_are_as_many_as_torchvision_s_without_fc(depth, numbers):
  variables, _ = shapes(ResNet(depth=depth))
  assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == numbers


@pytest.mark.parametrize(
  ('model', 'channels'),
  [
    (ResNet(depth=18), (512, 256, 128, 64, 64)),
    (ResNet(depth=50), (2048, 1024, 512, 256, 64)),
    (ResNet(depth=50, width=0.5), (1024, 512, 256, 128, 64)),
    (ResNet(depth=18, width=0.3), (153, 76, 38, 19, 64)),
    (ResNet(block=bottleneck_block, stage_sizes=(1, 2, 1, 1)), (2048, 1024, 512, 256, 64)),
  ],
)
def test_the_pyramid_goes_from_coarse_to_fine_and_the_stem_has_64_channels(model, channels):
  _, pyramid = shapes(model)
  assert [level.shape for level in pyramid] == [
    (2, side, side, c) for side, c in zip((3, 6, 12, 24, 24), channels, strict=True)
  ]


@pytest.mark.parametrize(('stride', 'sides'), [(32, [3, 6, 12]), (16, [6, 6, 12]), (8, [12] * 3)])
@pytest.mark.parametrize('depth', [18, 50])
def test_a_smaller_output_stride_has_finer_maps_and_the_same_weights(depth, stride, sides):
  plain, _ = shapes(ResNet(depth=depth))
  variables, pyramid = shapes(ResNet(depth=depth, output_stride=stride))
  assert [level.shape[1] for level in pyramid] == [*sides, 24, 24]
  assert variables == plain


@pytest.mark.parametrize('block', [basic_block, bottleneck_block])
def test_a_dilated_network_is_the_plain_one_without_skipping_cells(block):
  """What the plain network has at every other cell, the dilated one has there and between."""
  options = {'block': block, 'stage_sizes': (1, 1, 2, 3), 'width': 1 / 16}
  image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
  variables = init(ResNet(**options), image)
  plain = evaluate(ResNet(**options), variables, image)
  fine = evaluate(ResNet(**options, output_stride=16), variables, image)
  finest = evaluate(ResNet(**options, output_stride=8), variables, image)
  np.testing.assert_allclose(fine[0][:, ::2, ::2], plain[0], atol=1e-4)
  np.testing.assert_allclose(finest[0][:, ::4, ::4], plain[0], atol=1e-4)
  np.testing.assert_allclose(finest[1][:, ::2, ::2], plain[1], atol=1e-4)
  assert np.abs(fine[0][:, 1::2, ::2] - plain[0]).max() > 1e-2


def test_an_unknown_output_stride_is_an_error_that_lists_the_known_ones():
  with pytest.raises(ValueError, match='output_stride=4; expected one of 8, 16, 32'):
    shapes(ResNet(depth=18, output_stride=4))


def test_a_side_that_32_does_not_divide_is_rounded_up():
  _, pyramid = shapes(TINY, side=70)
  assert [level.shape[1] for level in pyramid] == [3, 5, 9, 18, 18]


def test_convolutions_start_normal_with_the_variance_of_their_fan_out():
  params = init(TINY.clone(width=0.25), jnp.zeros((1, 32, 32, 3)))['params']
  for layer, name, (side, out) in (
    ('layer4_0', 'conv2', (3, 128)),
    ('layer4_0', 'downsample_conv', (1, 128)),
    ('layer3_0', 'conv1', (3, 64)),
  ):
    kernel = np.asarray(params[layer][name]['kernel'])
    sd = (2 / (side * side * out)) ** 0.5
    np.testing.assert_allclose(kernel.std(), sd, rtol=0.03)
    assert np.abs(kernel).max() > 3 * sd  # not truncated at two


def test_a_picture_s_maps_ignore_the_others_in_evaluation_and_not_in_training():
  x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
  variables, others = init(TINY, x[:1]), x.at[2:].multiply(3)
  for a, b in zip(*(evaluate(TINY, variables, image) for image in (x, others)), strict=True):
    np.testing.assert_allclose(a[:2], b[:2], rtol=1e-5, atol=1e-5)
    assert np.abs(a[2:] - b[2:]).max() > 0.1
  a, b = (train(TINY, variables, image)[0][0] for image in (x, others))
  assert np.abs(a[:2] - b[:2]).max() > 0.1


def test_two_groups_are_two_batches_whose_running_statistics_are_averaged():
  x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
  x = x.at[2:].multiply(3)
  variables = init(TINY, x[:1])
  maps, changed = train(TINY.clone(norm_groups=2), variables, x)
  halves, stats = zip(*(train(TINY, variables, half) for half in (x[:2], x[2:])), strict=True)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  jax.tree.map(lambda whole, *parts: close(whole, np.concatenate(parts)), maps, *halves)
  jax.tree.map(lambda whole, *parts: close(whole, np.mean(parts, 0)), changed, *stats)


def test_norm_momentum_slows_every_running_statistic():
  x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
  variables = init(TINY, x[:1])
  slow, fast = (train(TINY.clone(norm_momentum=m), variables, x)[1] for m in (0.9, 0.5))
  jax.tree.map(
    lambda old, a, b: np.testing.assert_allclose(5 * (a - old), b - old, rtol=1e-4, atol=1e-4),
    {'batch_stats': variables['batch_stats']},
    slow,
    fast,
  )
  assert all(np.abs(leaf - 1).max() > 0.01 for leaf in jax.tree.leaves(fast))


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_statistics():
  model = TINY.clone(dtype=jnp.bfloat16)
  x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
  variables = init(TINY, x[:1])
  maps, changed = train(model, variables, x)
  assert {level.dtype for level in maps} == {jnp.dtype(jnp.bfloat16)}
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, changed))} == {jnp.dtype(jnp.float32)}
  program = str(jax.make_jaxpr(functools.partial(evaluate, model))(variables, x))
  convolutions = re.findall(r'(\w+)\[[\d,]*\] = conv_general_dilated', program)
  assert convolutions == ['bf16'] * 13
  exact, _ = train(TINY, variables, x)
  for level, reference in zip(maps, exact, strict=True):
    difference = np.asarray(level, np.float32) - reference
    assert 0 < np.abs(difference).mean() < 0.02 * np.abs(reference).max()


def test_float64_parameters_and_pictures_run_in_float64():
  with jax.enable_x64(True):
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    variables = init(TINY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    maps, changed = train(TINY, variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves((maps, changed))} == {np.dtype(np.float64)}
    same, moved = (train(TINY, variables, y)[0][4] for y in (x, x * (1 + 1e-10)))
    assert 0 < np.abs(moved - same).max() < 1e-7  # nothing on the way rounds to float32


def test_explicit_stages_are_the_published_ones(golden):
  fixture = golden('moco_train')
  state = {k.removeprefix('q_init/'): v for k, v in fixture.items() if k.startswith('q_init/')}
  tree = interop.from_torch(state, prefix='')
  head = tree.pop('head')
  image = fixture['x'][0, :, :3].transpose(0, 2, 3, 1)
  pyramid, _ = train(TINY, tree, image)
  query = pyramid[0].mean((1, 2)) @ head['kernel'] + head['bias']
  query /= np.linalg.norm(query, axis=1, keepdims=True)
  logits = query @ fixture['queue0'].T / fixture['hyper'][4]
  np.testing.assert_allclose(logits, fixture['logits'][0, :, 1:], atol=1e-4)


@pytest.mark.parametrize(
  'model',
  [
    ResNet(depth=20),
    ResNet(),
    ResNet(block=basic_block),
    ResNet(stage_sizes=(1, 1, 1, 1)),
    ResNet(depth=18, block=basic_block, stage_sizes=(1, 1, 1, 1)),
  ],
)
def test_an_unknown_depth_is_an_error_that_lists_the_known_ones(model):
  message = r'depth=.*expected a depth of 18, 34, 50, 101, 152, or both block and stage_sizes'
  with pytest.raises(ValueError, match=message):
    init(model, jnp.zeros((1, 32, 32, 3)))


def test_a_width_without_channels_is_refused():
  image = np.zeros((1, 64, 64, 3), np.float32)
  with pytest.raises(ValueError, match=r'width=0\.0 leaves no channels'):
    jax.eval_shape(
      lambda rng: ResNet(depth=18, width=0.0).init(rng, image, False), jax.random.key(0)
    )


@pytest.mark.parametrize('shape', [(2, 16, 16, 3), (1, 15, 12, 3), (1, 9, 11, 2)])
def test_the_stem_is_a_7x7_convolution_of_stride_2(shape):
  rng = np.random.default_rng(0)
  image = rng.normal(size=shape).astype(np.float32)
  plain = nn.Conv(64, (7, 7), (2, 2), padding=3, use_bias=False)
  variables = plain.init(jax.random.key(0), image)
  found, pull = jax.vjp(lambda v, x: StemConv().apply(v, x), variables, image)
  expected, expected_pull = jax.vjp(plain.apply, variables, image)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  slope = rng.normal(size=found.shape).astype(np.float32)
  for one, other in zip(*map(jax.tree.leaves, (pull(slope), expected_pull(slope))), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)

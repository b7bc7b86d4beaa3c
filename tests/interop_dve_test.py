"""DVE's weights give DVE's numbers (tests/golden: outputs of the PyTorch code)."""

import functools
import re

import jax
import numpy as np
import pytest
from flax import traverse_util

from landmarks_jax.interop import hourglass as hourglass_names
from landmarks_jax.interop import smallnet as smallnet_names
from landmarks_jax.models.hourglass import Hourglass
from landmarks_jax.models.smallnet import SmallNet

SMALLNET = SmallNet('dilations', channels=16, leak=0.2)
ONE_STACK = Hourglass(channels=6, blocks=1, widths=(8, 8, 8))
TWO_STACKS = Hourglass(channels=5, stacks=2, blocks=1, widths=(4, 6, 6), scaled_output=True)


def state(fixture):
  """The torch state dict in a fixture."""
  return {name[2:]: array for name, array in fixture.items() if name.startswith('w/')}


def nhwc(x):
  return x.transpose(0, 2, 3, 1)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, variables, image):
  (labels,) = model.apply(variables, image, train=False)
  return labels


def close(ours, reference, noise):
  """Within the tolerance of tests/golden; `noise` is the reference's own float32 error there."""
  assert ours.shape == reference.shape
  atol = max(1e-5 * np.abs(reference).max(), 2 * noise)
  np.testing.assert_allclose(ours, reference, rtol=0, atol=atol)


def test_the_small_network_is_the_published_one(golden):
  fixture = golden('smallnet')
  variables = smallnet_names.from_torch(state(fixture))
  close(evaluate(SMALLNET, variables, nhwc(fixture['x'])), nhwc(fixture['out']), 4.1e-6)
  full, image = SMALLNET.clone(pool=False), nhwc(fixture['x'][:1, :, :20, :20])
  close(evaluate(full, variables, image), nhwc(fixture['out_nomaxpool']), 4.1e-6)


@pytest.mark.parametrize(
  ('name', 'model', 'noise'),
  [('hourglass_tiny', ONE_STACK, 2.5e-5), ('hourglass_tiny_2stack', TWO_STACKS, 2.2e-5)],
)
def test_the_hourglass_is_the_published_one(golden, name, model, noise):
  fixture = golden(name)
  variables = hourglass_names.from_torch(state(fixture))
  close(evaluate(model, variables, nhwc(fixture['x'])), nhwc(fixture['out']), noise)


def shapes(model):
  """{path: shape} of the model's variables."""
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  init = functools.partial(model.init, train=False)
  return shapes_of(jax.eval_shape(init, jax.random.key(0), image))


def shapes_of(tree):
  return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree).items()}


@pytest.mark.parametrize(
  ('name', 'reader', 'model'),
  [
    ('smallnet', smallnet_names, SMALLNET),
    ('hourglass_tiny', hourglass_names, ONE_STACK),
    ('hourglass_tiny_2stack', hourglass_names, TWO_STACKS),
  ],
)
def test_what_is_read_is_all_that_the_model_has(golden, name, reader, model):
  assert shapes_of(reader.from_torch(state(golden(name)))) == shapes(model)


def test_blocks_depth_and_group_norm_are_read_from_the_names(golden):
  first = r'(hg\.0\.layer\d_\d|output_layers\.0\.0)\.0\.'
  weights = {
    name: array
    for name, array in state(golden('hourglass_tiny')).items()
    if '.running_' not in name and '.layer4_' not in name
  }
  weights |= {re.sub(first, r'\1.1.', name): array + 1 for name, array in weights.items()}
  variables = hourglass_names.from_torch(weights)
  model = Hourglass(channels=6, blocks=2, depth=3, widths=(16, 16, 16), norm='group')
  assert shapes_of(variables).keys() == shapes(model).keys()
  found, torch = variables['params']['stack0_level2_up1']['conv2'], 'hg.0.layer2_3.1.conv2'
  np.testing.assert_array_equal(found['bias'], weights[f'{torch}.bias'])
  assert found['kernel'][2, 0, 1, 5] == weights[f'{torch}.weight'][5, 1, 2, 0]


@pytest.mark.parametrize(
  ('name', 'reader'), [('smallnet', smallnet_names), ('hourglass_tiny', hourglass_names)]
)
def test_counters_and_other_prefixes_are_ignored_and_a_wrong_prefix_names_the_right_one(
  golden, name, reader
):
  weights = state(golden(name))
  published = {f'module.{k}': v for k, v in weights.items()}
  published |= {'module.bn1.num_batches_tracked': np.int64(7), 'optimizer.step': np.ones(3)}
  found, expected = reader.from_torch(published, prefix='module.'), reader.from_torch(weights)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  with pytest.raises(ValueError, match=r"prefix='net\.' \(prefixes of \w+s in it: 'module\.'\)"):
    reader.from_torch(published, prefix='net.')


def test_the_heads_of_earlier_stacks_are_ignored(golden):
  weights = state(golden('hourglass_tiny_2stack'))
  fewer = {k: v for k, v in weights.items() if not k.startswith('output_layers.0.')}
  assert len(fewer) < len(weights)
  trees = (hourglass_names.from_torch(w) for w in (weights, fewer))
  jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.parametrize(
  ('name', 'reader', 'gone', 'misshapen'),
  [
    ('smallnet', smallnet_names, 'conv3.1.running_var', 'conv2.0.weight'),
    ('hourglass_tiny', hourglass_names, 'hg.0.layer2_3.0.bn2.running_mean', 'layer1.0.bn1.weight'),
    ('hourglass_tiny', hourglass_names, 'layer1.0.downsample.weight', 'output_layers.0.1.weight'),
    ('hourglass_tiny', hourglass_names, 'hg.0.layer1_1.0.conv1.bias', 'conv1.weight'),
  ],
)
def test_missing_unexpected_and_misshapen_weights_are_named(golden, name, reader, gone, misshapen):
  weights = state(golden(name)) | {misshapen: np.zeros((4, 6)), 'layer9.weight': np.zeros(3)}
  del weights[gone]
  with pytest.raises(ValueError) as error:
    reader.from_torch(weights)
  for part in (
    f'1 missing: {gone}',
    '1 unexpected: layer9.weight',
    f'1 misshapen: {misshapen} (4, 6)',
  ):
    assert part in str(error.value)


def test_the_weights_of_another_network_are_refused(golden):
  with pytest.raises(ValueError, match=r'not the weights of a SmallNet: 3\d missing: '):
    smallnet_names.from_torch(state(golden('hourglass_tiny')))
  with pytest.raises(ValueError, match=r'not the weights of an Hourglass: \d\d+ missing: '):
    hourglass_names.from_torch(state(golden('smallnet')))

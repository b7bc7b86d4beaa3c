"""Published files in their layouts are recognised; what does not belong in them is named."""

import functools
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import torch_files
import vit_test
from safetensors import numpy as safetensors

from landmarks_jax.interop import published, torch_checkpoint
from landmarks_jax.interop.published import Options

GOLDEN = pathlib.Path(__file__).parent / 'golden'
ENCODER = 'encoder.module.'


@functools.cache
def golden(name):
  return dict(np.load(GOLDEN / f'{name}.npz'))


def part(name, prefix='w/'):
  """The state dict in a fixture."""
  return {k.removeprefix(prefix): v for k, v in golden(name).items() if k.startswith(prefix)}


@functools.cache
def stage_one(depth=18):
  """A golden checkpoint."""
  tree = torch_checkpoint.read(GOLDEN / f'resnet{depth}_w0.0625_moco.pth')
  return tree | {'opt': torch_files.NAMESPACE}


def backbone(prefix='', *, tree='model'):
  """Its ResNet-18, without a head."""
  state = {k.removeprefix(ENCODER): v for k, v in stage_one()[tree].items()}
  return {f'{prefix}{k}': v for k, v in state.items() if not k.startswith('fc.')}


def moco_official(*, version):
  """Both encoders with a head of one layer or two, queue and pointer."""
  rng = np.random.default_rng(version)
  state = {'module.queue': rng.normal(size=(16, 40)).astype('f')}
  state['module.queue_ptr'] = np.array([8])
  layers = {'fc': (16, 32)} if version == 1 else {'fc.0': (32, 32), 'fc.2': (16, 32)}
  for encoder, tree in (('module.encoder_q.', 'model'), ('module.encoder_k.', 'model_ema')):
    state |= backbone(encoder, tree=tree)
    for layer, shape in layers.items():
      state[f'{encoder}{layer}.weight'] = rng.normal(size=shape).astype('f')
      state[f'{encoder}{layer}.bias'] = rng.normal(size=shape[:1]).astype('f')
  return {'epoch': 800, 'arch': 'resnet18', 'state_dict': state, 'optimizer': {'state': {}}}


def dve(state, prefix='module.'):
  rest = {'arch': 'Net', 'epoch': 99, 'optimizer': {}, 'monitor_best': 0.5}
  config = torch_files.NAMESPACE  # a class of its own; torch_checkpoint_test reads that name, too
  return rest | {'state_dict': {f'{prefix}{k}': v for k, v in state.items()}, 'config': config}


def projector(name='projector_train', weight='w_final', bias='b_final'):
  state = {
    'module.reg_conv.weight': golden(name)[weight],
    'module.reg_conv.bias': golden(name)[bias],
  }
  rest = {'opt': torch_files.NAMESPACE, 'epoch': 10, 'val_error': 1.5, 'test_error': [1.0, 2.0]}
  return rest | {'feat_disiller': state}


def regressor():
  fixture, rng = golden('kp_regressor'), np.random.default_rng(0)
  state = {
    'descriptors': rng.normal(size=(5, 64)).astype('f'),
    'linear.weight': rng.normal(size=(10, 100)).astype('f'),
    'linear.bias': rng.normal(size=10).astype('f'),
    'inner_conv.weight': fixture['inner_weight'],
    'reg_conv.weight': fixture['reg_weight'],
  }
  rest = {'opt': torch_files.NAMESPACE, 'epoch': 120, 'best_error': 2.5, 'optimizer': {}}
  return rest | {'regressor': state}


def torchvision(prefix=''):
  rng = np.random.default_rng(3)
  classifier = {'fc.weight': rng.normal(size=(1000, 32)), 'fc.bias': rng.normal(size=1000)}
  return backbone(prefix) | {f'{prefix}{k}': v.astype('f') for k, v in classifier.items()}


def vit():
  return vit_test.published(registers=2, scaled=True) | {'head.weight': np.ones((1000, 24), 'f')}


BASE = Options(channels=(16, 8))
FILES = {  # the file, what must be known beside it, and what is recognised
  'stage 1': (stage_one, Options(), 'ResNet-18 of width 0.0625'),
  'moco 1': (functools.partial(moco_official, version=1), Options(), 'ResNet-18 of width 0.0625'),
  'moco 2': (functools.partial(moco_official, version=2), Options(), 'ResNet-18 of width 0.0625'),
  'torchvision': (torchvision, Options(), 'ResNet-18 of width 0.0625'),
  'small network': (lambda: dve(part('smallnet')), Options(), 'small network, dilations'),
  'hourglass': (
    lambda: dve(part('hourglass_tiny'), ''),
    Options(),
    'hourglass, 1 stacked, features [8, 8, 8], 6 dimensions',
  ),
  'hourglasses': (
    lambda: dve(part('hourglass_tiny_2stack')),
    Options(),
    'hourglass, 2 stacked, features [4, 6, 6], 5 dimensions',
  ),
  'projector': (projector, BASE, 'projection to 16 channels, kernel 1'),
  'regressor': (regressor, Options(channels=(32, 20, 12)), '5 landmarks of 50 points'),
  'vit': (vit, Options(heads=3), 'ViT of 2 blocks, 24 channels, 3 heads, patches of 4 pixels'),
}


@pytest.mark.parametrize('kind', FILES)
def test_both_serialisations_are_recognised_alike(tmp_path, kind):
  tree, options, network = FILES[kind]
  found = [
    published.read(torch_files.write(tmp_path / form, tree(), form), options)
    for form in torch_files.FORMS
  ]
  assert found[0].network.startswith(network)
  assert found[0]._replace(params=0, aux=0) == found[1]._replace(params=0, aux=0)
  one, other = ((x.params, x.aux) for x in found)
  jax.tree.map(np.testing.assert_array_equal, one, other)
  json.dumps(found[0].method)


def recognised(tree, options=None):
  return published.recognise(tree, options or Options())


def test_stage_one_brings_its_momentum_encoder_and_its_queue():
  found, tree = recognised(stage_one()), stage_one()
  assert found.method.items() >= {'dim': 128, 'head_layers': 1, 'queue': 64, 'margin': 20}.items()
  assert found.method['mean'] == [0.5084, 0.4224, 0.3769]
  np.testing.assert_array_equal(found.aux['queue'], tree['contrast']['memory'])
  for place, name in ((found.params, 'model'), (found.aux['key'], 'model_ema')):
    weights = tree[name]
    kernel = place['backbone']['conv1']['kernel']
    np.testing.assert_array_equal(kernel, weights[f'{ENCODER}conv1.weight'].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(place['head']['fc0']['kernel'], weights[f'{ENCODER}fc.weight'].T)
  for place, name in ((found.aux['stats'], 'model'), (found.aux['key_stats'], 'model_ema')):
    np.testing.assert_array_equal(
      place['layer2_0']['bn1']['var'], tree[name][f'{ENCODER}layer2.0.bn1.running_var']
    )
  assert found.dropped == ('opt', 'optimizer', 'epoch')


@pytest.mark.parametrize('version', [1, 2])
def test_both_versions_of_the_official_moco_bring_all_of_it(version):
  tree = moco_official(version=version)
  found, state = recognised(tree), tree['state_dict']
  expected = {'head_layers': version, 'dim': 16, 'queue': 40}
  assert found.method.items() >= expected.items()
  assert found.method.get('temperature', 0.07) == (0.07, 0.2)[version - 1]
  np.testing.assert_array_equal(found.aux['queue'], state['module.queue'].T)
  last = 'fc' if version == 1 else 'fc.2'
  for place, encoder in ((found.params, 'q'), (found.aux['key'], 'k')):
    kernel = place['head'][f'fc{version - 1}']['kernel']
    np.testing.assert_array_equal(kernel, state[f'module.encoder_{encoder}.{last}.weight'].T)


def test_what_a_file_lacks_starts_as_a_copy_or_untrained():
  found = recognised(torchvision('module.'))
  assert 'head' not in found.params
  assert found.dropped == ('module.fc.bias', 'module.fc.weight')
  jax.tree.map(np.testing.assert_array_equal, found.aux['key'], found.params)
  assert 'queue' not in found.aux
  bare = recognised({'model': stage_one()['model']})
  jax.tree.map(np.testing.assert_array_equal, bare.aux['key_stats'], bare.aux['stats'])
  assert found.method['mean'] == [0.485, 0.456, 0.406]
  assert (found.frame, bare.frame) == (224, 136)


def test_a_state_dict_alone_is_recognised_as_the_whole_file_is():
  for whole, key in ((stage_one(), 'model'), (dve(part('smallnet')), 'state_dict')):
    alone = recognised(whole[key])
    assert alone.kind == recognised(whole).kind
    assert alone.dropped == ()


def test_heads_of_a_vit_are_64_channels_wide_unless_told():
  wide = {'cls_token': (1, 1, 128), 'pos_embed': (1, 50, 128), 'patch_embed.proj.bias': (128,)}
  wide |= {'patch_embed.proj.weight': (128, 3, 16, 16), 'norm.weight': (128,), 'norm.bias': (128,)}
  for layer, shape in (('attn.qkv', (384, 128)), ('attn.proj', (128, 128))):
    wide |= {f'blocks.0.{layer}.weight': shape, f'blocks.0.{layer}.bias': shape[:1]}
  for layer, shape in (('mlp.fc1', (512, 128)), ('mlp.fc2', (128, 512))):
    wide |= {f'blocks.0.{layer}.weight': shape, f'blocks.0.{layer}.bias': shape[:1]}
  wide |= {f'blocks.0.norm{i}.{leaf}': (128,) for i in (1, 2) for leaf in ('weight', 'bias')}
  state = {name: np.zeros(shape, 'f') for name, shape in wide.items()}
  found = recognised(state)
  expected = {'heads': 2, 'width': 1.0, 'patch': 16, 'depth': 1, 'grid': 7, 'registers': 0}
  assert found.method.items() >= expected.items()
  assert found.frame == 112
  told = recognised(state, Options(heads=8))
  assert (told.method['heads'], told.method['width']) == (8, 0.25)
  with pytest.raises(ValueError, match=r'5 heads of 128 channels.* and heads=N that divides'):
    recognised(state, Options(heads=5))


def test_a_projector_of_any_kernel_is_laid_out_by_level_and_tap():
  tree = projector('feat_distiller', 'w_k3', 'b_k3')
  found = recognised(tree, BASE)
  weight = golden('feat_distiller')['w_k3']
  kernel = np.concatenate(found.params['kernels'])
  assert [len(level) for level in found.params['kernels']] == [16, 8]
  assert kernel[5, (2 * 3 + 1) * 16 + 9] == weight[9, 5, 2, 1]
  assert found.spare == ('params/bias',)
  assert found.method == {'name': 'projection', 'dim': 16, 'kernel': 3}


def test_dve_s_labels_are_read_as_it_trained_them():
  small, one, two = (
    recognised(dve(part(name))).method
    for name in ('smallnet', 'hourglass_tiny', 'hourglass_tiny_2stack')
  )
  assert (small['network'], small['leak'], small.get('normalise')) == ('dilations', 0.2, None)
  assert (one['normalise'], one['sharpness'], one['scaled']) == (True, 400.0, False)
  assert (two.get('normalise'), two['scaled'], two['stacks']) == (None, True, 2)


def test_safetensors_are_read(tmp_path):
  safetensors.save_file(torchvision(), tmp_path / 'x')
  found = published.read(tmp_path / 'x')
  assert found.kind == 'ResNet (torchvision)'
  jax.tree.map(np.testing.assert_array_equal, found.params, recognised(torchvision()).params)
  content = (tmp_path / 'x').read_bytes()
  (tmp_path / 'x').write_bytes(content[:-1])
  with pytest.raises(
    ValueError, match=rf'^{tmp_path}/x: damaged \(SafetensorError: .*\); expected'
  ):
    published.read(tmp_path / 'x')


def test_half_precision_becomes_float32():
  state = {k: v.astype('f2') if v.dtype == 'f' else v for k, v in torchvision().items()}
  found = recognised(state)
  assert {x.dtype.name for x in jax.tree.leaves((found.params, found.aux))} == {'float32'}
  assert (
    found.params['backbone']['conv1']['kernel'][3, 2, 1, 9] == state['conv1.weight'][9, 1, 3, 2]
  )


def changed(tree, key, change):
  """A tree with other contents at a key; names that become None are left out."""
  inner = tree[key] | change if key else tree | change
  inner = {name: value for name, value in inner.items() if value is not None}
  return tree | {key: inner} if key else inner


ONE, NAN = np.ones(3, 'f'), np.full(64, np.nan, 'f')
WRONG = {  # the file, where in it, what is changed, and what is said
  'a missing weight': (stage_one, 'model', {f'{ENCODER}bn1.bias': None}, '1 missing: bn1.bias'),
  'a missing weight of the average': (
    stage_one,
    'model_ema',
    {f'{ENCODER}bn1.bias': None},
    r'model_ema: .*1 missing: bn1\.bias',
  ),
  'a weight too many': (stage_one, 'model', {f'{ENCODER}more': ONE}, '1 unexpected: more'),
  'a weight from elsewhere': (stage_one, 'model', {'more': ONE}, '1 unexpected: more'),
  'a key too many': (stage_one, None, {'scaler': {}}, r'stage 1 .*: 1 unexpected: scaler'),
  'a queue of something else': (stage_one, 'contrast', {'more': ONE}, 'contrast: 1 unexpected'),
  'a rank': (stage_one, 'model', {f'{ENCODER}conv1.weight': ONE}, r'misshapen: conv1\.weight \(3,'),
  'no number': (stage_one, 'model', {f'{ENCODER}bn1.bias': 'a'}, 'model: 1 no arrays of numbers'),
  'an array of text': (
    stage_one,
    'model',
    {f'{ENCODER}bn1.bias': np.array(['a', 'b'])},
    'no arrays of numbers: encoder.module.bn1.bias',
  ),
  'a not finite number': (
    stage_one,
    'model',
    {f'{ENCODER}bn1.bias': NAN},
    'model: 1 not finite: en',
  ),
  'a number too large': (
    stage_one,
    'model',
    {f'{ENCODER}bn1.bias': np.full(64, 1e300)},
    'model: 1 not finite: encoder.module.bn1.bias',
  ),
  'no stage 4': (
    stage_one,
    'model',
    {k: None for k in stage_one()['model'] if 'layer4' in k},
    r'missing: layer4\.0\.bn1\.bias',
  ),
  'an unknown depth': (
    torchvision,
    None,
    {k: None for k in torchvision() if 'layer4.1' in k},
    r'a ResNet of \(2, 2, 2, 1\) basic blocks',
  ),
  'no query': (
    functools.partial(moco_official, version=1),
    'state_dict',
    {'module.encoder_q.conv1.weight': None},
    r'MoCo, official: .*missing: conv1\.weight',
  ),
  'something beside the encoders': (
    functools.partial(moco_official, version=2),
    'state_dict',
    {'module.more': ONE},
    r'1 unexpected: module\.more',
  ),
  'half a head': (
    functools.partial(moco_official, version=2),
    'state_dict',
    {'module.encoder_q.fc.2.bias': None},
    r'1 missing: fc\.2\.bias',
  ),
  'no biases': (
    projector,
    'feat_disiller',
    {'module.reg_conv.bias': None},
    r'missing: reg_conv\.b',
  ),
  'a landmark too many': (
    regressor,
    'regressor',
    {'reg_conv.weight': np.ones((12, 100, 1, 1), 'f')},
    r'inner_conv\.weight \(250, 64, 1, 1\), reg_conv\.weight \(12, 100, 1, 1\); expected',
  ),
  'a kernel of another side': (
    lambda: dve(part('smallnet')),
    'state_dict',
    {'module.conv4.0.weight': np.ones((80, 64, 5, 5), 'f')},
    r'kernels of \[5, 5, 5, 5, 3\] pixels; known are simple, dilations',
  ),
  'a shallow hourglass': (
    lambda: dve(part('hourglass_tiny')),
    'state_dict',
    {f'module.{k}': None for k in part('hourglass_tiny') if '.layer4_' in k},
    'hourglasses of depth 3',
  ),
  'patches that are not square': (
    vit,
    None,
    {'patch_embed.proj.weight': np.ones((24, 3, 4, 5), 'f')},
    'patches of 4 x 5; expected square',
  ),
  'nothing': (dict, None, {}, 'no known kind; it has nothing. Known are: landmark regressor'),
  'another network': (
    dict,
    None,
    {'features.0.weight': ONE},
    r'it has features\.0\.weight\. Known',
  ),
  'another network in a container': (
    dict,
    None,
    {'state_dict': {'features.0.weight': ONE}},
    r'it has features\.0\.weight\. Known',
  ),
  'weights that are a list': (dict, None, {'state_dict': [ONE]}, 'it has list. Known are'),
  'a model that is a list': (dict, None, {'model': [ONE]}, 'model is a list; expected names and'),
}


@pytest.mark.parametrize('what', WRONG)
def test_what_does_not_belong_is_named(what):
  tree, key, change, message = WRONG[what]
  options = Options(channels=(24,) if tree is projector else (64,), heads=3)
  with pytest.raises(ValueError, match=message):
    recognised(changed(tree(), key, change), options)


@pytest.mark.parametrize('tree', [[1], 3, None, {1: ONE}, {('a',): ONE}])
def test_what_is_no_set_of_names_is_refused(tree):
  with pytest.raises(ValueError, match='expected names and weights'):
    recognised(tree)


@pytest.mark.parametrize(('tree', 'count'), [(projector, 24), (regressor, 64)])
def test_a_head_needs_the_network_below_it(tree, count):
  with pytest.raises(ValueError, match='builds on a frozen network; name its run: --base=RUN'):
    recognised(tree())
  message = rf'of {count} channels, but those of the network below have 10 \(6 \+ 4\)'
  with pytest.raises(ValueError, match=message):
    recognised(tree(), Options(channels=(6, 4)))


def test_many_blocks_are_refused_before_anybody_compiles_them():
  state = vit_test.published(depth=1)
  for i in range(1, 150):
    state |= {re.sub(r'blocks\.0', f'blocks.{i}', k): v for k, v in state.items() if 's.0.' in k}
  with pytest.raises(ValueError, match=r'a ViT of 150 blocks .* at most 100 blocks'):
    recognised(state, Options(heads=3))


def test_names_in_a_file_cannot_write_to_the_terminal(tmp_path):
  state = torchvision() | {'\x1b[2J\nerror: none\r' + 'x' * 5000: ONE}
  path = torch_files.write(tmp_path / 'x.pth', state, 'zip')
  with pytest.raises(ValueError) as error:
    published.read(path)
  text = str(error.value)
  assert r'1 unexpected: \x1b[2J\nerror: none\rxxx' in text
  assert text.isprintable()
  assert len(text) < 1100

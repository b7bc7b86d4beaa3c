"""The command `export`: what is written is read again by other libraries, and is the same."""

import builtins
import json
import shutil
import sys

import convert_test
import jax
import numpy as np
import pytest
import torch_files
from convert_test import small_state
from published_test import torchvision, vit
from safetensors import numpy as safetensors

import landmarks_jax
from landmarks_jax import training
from landmarks_jax.cli import base as bases
from landmarks_jax.cli import exporting
from landmarks_jax.cli.main import main
from landmarks_jax.contracts import Describer
from landmarks_jax.inference.model import Model
from landmarks_jax.interop import published, tensors


def export(run, format, output, *options):
  given = f'--model={run}', f'--format={format}', f'--output={output}'
  return main(['x', 'export', *given, *options])


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Three converted runs by name."""
  folder = tmp_path_factory.mktemp('runs')
  trees = {'resnet': (torchvision(), ['--config.method.levels=5']), 'small': (small_state(), [])}
  trees['vit'] = vit(), ['--heads=3']
  for name, (tree, options) in trees.items():
    path = torch_files.write(folder / f'{name}.pth', tree, 'zip')
    assert convert_test.convert(path, folder / name, *options) == 0
  return {name: folder / name for name in trees}


def test_a_missing_file_is_not_called_damaged(tmp_path):
  with pytest.raises(FileNotFoundError):
    tensors.read(tmp_path / 'nowhere')
  (tmp_path / 'x').write_bytes(b'no header')
  with pytest.raises(ValueError, match=r'damaged \(.*; expected safetensors'):
    tensors.read(tmp_path / 'x')


def test_safetensors_hold_every_array_and_the_config(runs, tmp_path, capsys):
  file = tmp_path / 'x.safetensors'
  assert export(runs['small'], 'safetensors', file) == 0
  assert f'{file}: 32 arrays by our names, as safetensors, 0.1 MB\n' in capsys.readouterr().out
  with safetensors.safe_open(file, 'np') as opened:
    metadata = opened.metadata()
  assert json.loads(metadata['config'])['method']['network'] == 'dilations'
  assert json.loads(metadata['mean']) == [0.5084, 0.4224, 0.3769]
  found, stored = safetensors.load_file(file), training.leaves(bases.read(runs['small']))
  assert found.keys() == stored.keys()
  for name, array in stored.items():
    np.testing.assert_array_equal(found[name], array)


def test_torchvision_s_names_come_back_to_the_same_network(runs, tmp_path):
  assert export(runs['resnet'], 'torchvision', tmp_path / 'x') == 0
  state = safetensors.load_file(tmp_path / 'x')
  counters = {name for name in torchvision() if 'num_batches' in name}
  assert state.keys() == torchvision().keys() - counters - {'fc.weight', 'fc.bias'}
  for name, array in state.items():
    np.testing.assert_array_equal(array, torchvision()[name])
  found = published.read(tmp_path / 'x')
  jax.tree.map(
    np.testing.assert_array_equal,
    found.params['backbone'],
    bases.read(runs['resnet'])['params']['backbone'],
  )


def test_the_backbone_of_scrl_has_torchvision_s_names_too(tmp_path):
  page = f'--config={convert_test.ROOT}/configs/scrl_synthetic_faces.py:smoke'
  changes = '--config.steps=1', '--config.evals={}', f'--workdir={tmp_path}/run'
  assert main(['x', 'train', page, *changes]) == 0
  assert export(tmp_path / 'run', 'torchvision', tmp_path / 'x') == 0
  state = safetensors.load_file(tmp_path / 'x')
  assert state['layer4.1.conv2.weight'].shape == (32, 32, 3, 3)
  stored = bases.read(tmp_path / 'run')['params']['backbone']['conv1']['kernel']
  np.testing.assert_array_equal(state['conv1.weight'], np.transpose(stored, (3, 2, 0, 1)))


def test_a_resnet_in_a_method_of_one_s_own_has_torchvision_s_names(runs, tmp_path, monkeypatch):
  (tmp_path / 'copylab').mkdir()
  (tmp_path / 'copylab/moco.py').write_text('from landmarks_jax.methods.moco import build\n')
  monkeypatch.syspath_prepend(tmp_path)
  run = shutil.copytree(runs['resnet'], tmp_path / 'run')
  text = (run / 'config.json').read_text()
  (run / 'config.json').write_text(text.replace('"moco"', '"copylab.moco"'))
  for name, file in (('x', runs['resnet']), ('own', run)):
    assert export(file, 'torchvision', tmp_path / name) == 0
  known, own = (safetensors.load_file(tmp_path / name) for name in ('x', 'own'))
  assert known.keys() == own.keys()
  for name, array in known.items():
    np.testing.assert_array_equal(array, own[name])


@pytest.mark.parametrize(
  'variables',
  [(([np.zeros(3)],), {}), ({'backbone': {}}, None), ({'backbone': np.zeros(3)}, {'stats': {}})],
)
def test_weights_of_another_shape_than_a_resnet_s_are_refused(variables, tmp_path):
  network = Describer(variables, None)
  model = Model(network, {'method': {'name': 'mylab.pixcl'}}, frame=8, margin=0)
  with pytest.raises(ValueError, match=r'this is mylab\.pixcl \(no network of its own\)$'):
    exporting._write_resnet(model, tmp_path / 'x')
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(('name', 'count'), [('resnet', 3), ('small', 2), ('vit', 1)])
def test_the_compiled_description_is_that_of_the_run(runs, tmp_path, name, count):
  side = {'resnet': 64, 'small': 70, 'vit': 12}[name]
  options = [] if name == 'small' else [f'--side={side}']
  assert export(runs[name], 'jax', tmp_path / 'x', *options) == 0
  network = jax.export.deserialize((tmp_path / 'x').read_bytes())
  assert network.platforms == ('cpu', 'cuda', 'tpu')
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 255, (count, side, side, 3), np.uint8)
  found = jax.jit(network.call)(pictures)
  model = landmarks_jax.load(runs[name], frame=side, margin=0)
  for level, expected in zip(found, model.describe(list(pictures)), strict=True):
    assert level.shape[0] == count
    np.testing.assert_allclose(level, expected, atol=1e-4 * np.abs(expected).max())


def test_a_projection_is_compiled_with_the_network_below_it(runs, tmp_path):
  rng = np.random.default_rng(0)
  state = {'reg_conv.weight': rng.normal(size=(6, 4, 3, 3)).astype('f')}
  state['reg_conv.bias'] = np.zeros(6, 'f')
  path = torch_files.write(tmp_path / 'head', state, 'zip')
  run = tmp_path / 'run'
  assert convert_test.convert(path, run, f'--base={runs["small"]}') == 0
  assert export(run, 'jax', tmp_path / 'x') == 0
  network = jax.export.deserialize((tmp_path / 'x').read_bytes())
  pictures = rng.integers(0, 255, (2, 70, 70, 3), np.uint8)
  (maps,) = network.call(pictures)
  (expected,) = landmarks_jax.load(run, frame=70, margin=0).describe(list(pictures))
  assert maps.shape == (2, 24, 24, 6)
  np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_what_is_wrong_is_one_line_and_nothing_is_written(runs, tmp_path, capsys, monkeypatch):
  (tmp_path / 'there').touch()
  for arguments, message in (
    (
      (runs['small'], 'torchvision', tmp_path / 'x'),
      'scrl have it; this is equivariant (dilations)',
    ),
    ((runs['vit'], 'torchvision', tmp_path / 'x'), 'this is moco (vit)'),
    ((runs['small'], 'jax', tmp_path / 'there'), 'there exists already and is not overwritten'),
    ((tmp_path, 'jax', tmp_path / 'x'), f'{tmp_path} holds no run: it has no config.json'),
    ((runs['small'], 'onnx', tmp_path / 'x'), 'should be one of <safetensors|torchvision|jax>'),
    ((runs['small'], 'jax', tmp_path / 'x', '--step=7'), 'no step 7 in '),
    ((runs['small'], 'safetensors', tmp_path / 'x', '--side=70'), '--side belongs to --format=jax'),
    ((runs['vit'], 'jax', tmp_path / 'x', '--side=13'), 'both sides must be multiples of patch=4'),
    (('', 'jax', tmp_path / 'x'), '--model=: expected a path'),
  ):
    assert export(*arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[0]
  real = builtins.__import__

  def without(name, *rest):
    if name.split('.')[0] in ('safetensors', 'flatbuffers'):
      raise ImportError(name)
    return real(name, *rest)

  monkeypatch.setattr(builtins, '__import__', without)
  monkeypatch.delitem(sys.modules, 'jax._src.export.serialization', raising=False)
  for format, package in (('safetensors', 'safetensors'), ('jax', 'flatbuffers')):
    assert export(runs['small'], format, tmp_path / 'x') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"needs the package {package}: pip install -e '.[export]'" in line
  assert [path.name for path in tmp_path.iterdir()] == ['there']

"""The command `convert`: published files become runs that give the published numbers."""

import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import published_test
import pytest
import torch_files
from interop_resnet_test import close, nhwc
from published_test import FILES, dve, golden, part, projector, regressor

import landmarks_jax
from landmarks_jax.cli import base as bases
from landmarks_jax.cli import completion, experiment, transfer
from landmarks_jax.cli import config as configs
from landmarks_jax.cli.main import main
from landmarks_jax.inference import model
from landmarks_jax.interop import resnet as resnet_names
from landmarks_jax.methods import projection
from landmarks_jax.models import resnet as resnets
from landmarks_jax.runtime import checkpoint

PLAIN = '--mean=0,0,0', '--std=1,1,1'
ROOT = pathlib.Path(__file__).parents[1]


def convert(path, output, *options):
  return main(['x', 'convert', f'--input={path}', f'--output={output}', *map(str, options)])


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """runs(name, *options) -> the run of one of FILES, or of a golden checkpoint; made once."""
  folder = tmp_path_factory.mktemp('runs')

  @functools.cache
  def run(name, *options, form='zip'):
    output = folder / f'{name}{len(list(folder.iterdir()))}'
    path = published_test.GOLDEN / f'{name}_w0.0625_moco.pth'
    if name in FILES:
      path = torch_files.write(folder / f'{output.name}.pth', FILES[name][0](), form)
    assert convert(path, output, *options) == 0
    return output

  return run


def describe(run, x):
  """The features of a run, of pictures that are standardised already."""
  found = model.load(run)
  apply = jax.jit(found.describer.apply, static_argnums=2)
  return apply(found.describer.variables, 255 * x, None)


@pytest.mark.parametrize('depth', [18, 50])
def test_golden_checkpoints_give_the_published_features(runs, depth):
  run, fixture = runs(f'resnet{depth}', *PLAIN), golden(f'resnet{depth}_w0.0625')
  pyramid = describe(run, nhwc(fixture['x']))
  noise = {18: 2.7e-5, 50: 2.9e-4}[depth]
  for level, name in zip(pyramid, ('layer5', 'layer4', 'layer3', 'layer2'), strict=True):
    close(level, nhwc(fixture[name]), noise)
  aux = bases.read(run)['aux']
  key = resnet_names.to_torch(
    {'params': aux['key']['backbone'], 'batch_stats': aux['key_stats'], 'head': None}
  )
  tree = published_test.stage_one(depth)
  for name, array in key.items():
    np.testing.assert_array_equal(array, tree['model_ema'][name])
  np.testing.assert_array_equal(aux['queue'], tree['contrast']['memory'])
  assert aux['pointer'] == 0


@pytest.mark.parametrize(
  ('name', 'fixture', 'noise', 'form'),
  [
    ('small network', 'smallnet', 4.1e-6, 'zip'),
    ('hourglass', 'hourglass_tiny', 2.5e-5, 'stream'),
    ('hourglasses', 'hourglass_tiny_2stack', 2.2e-5, 'zip'),
  ],
)
def test_dve_s_networks_give_the_published_labels(runs, name, fixture, noise, form):
  arrays = golden(fixture)
  (labels,) = describe(runs(name, *PLAIN, form=form), nhwc(arrays['x']))
  close(labels, nhwc(arrays['out']), noise)


def test_a_vit_gives_the_papers_features(runs):
  run = runs('vit', '--heads=3', *PLAIN)
  x = np.random.default_rng(5).normal(size=(1, 12, 16, 3)).astype('f')
  (maps,) = describe(run, x)
  state = published_test.vit()
  np.testing.assert_allclose(maps[0], published_test.vit_test.oracle(state, x[0]), atol=2e-4)


def test_torchvision_s_network_is_that_of_the_golden_checkpoint(runs, capsys):
  one, two = runs('torchvision', '--mean=.5,.5,.5'), runs('resnet18', *PLAIN)
  trees = (bases.read(run)['params']['backbone'] for run in (one, two))
  jax.tree.map(np.testing.assert_array_equal, *trees)
  config = json.loads((one / 'config.json').read_text())
  assert config['method']['mean'] == [0.5, 0.5, 0.5]
  assert config['method']['std'] == [0.229, 0.224, 0.225]


@pytest.fixture(scope='module')
def narrow(tmp_path_factory):
  """narrow(channels, *options) -> an untrained run; its pyramid is one level of those channels."""
  folder = tmp_path_factory.mktemp('narrow')

  @functools.cache
  def run(channels, *options):
    network = resnets.ResNet(depth=18, width=channels / 512)
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3), 'f'))
    rng = np.random.default_rng(channels)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 0.3, x.shape).astype('f'), shapes)
    state = resnet_names.to_torch(variables, prefix='')
    path = torch_files.write(folder / f'{channels}.pth', state, 'stream')
    output = folder / f'{channels}{"".join(options)}'
    assert convert(path, output, '--config.method.levels=1', *options) == 0
    return output

  return run


@pytest.mark.parametrize(
  ('kernel', 'fixture'), [(1, 'projector_train'), (1, 'feat_distiller'), (3, 'feat_distiller')]
)
def test_a_projector_gives_the_published_maps(narrow, tmp_path, kernel, fixture, capsys):
  arrays, trained = golden('feat_distiller'), fixture == 'projector_train'
  names = ('w_final', 'b_final') if trained else (f'w_k{kernel}', f'b_k{kernel}')
  path = torch_files.write(tmp_path / 'x.pth', projector(fixture, *names), 'stream')
  assert convert(path, tmp_path / 'run', f'--base={narrow(24)}') == 0
  assert 'dropped: opt, epoch, val_error, test_error, params/bias\n' in capsys.readouterr().out
  params = bases.read(tmp_path / 'run')['params']
  method = json.loads((tmp_path / 'run/config.json').read_text())['method']
  options = {key: method[key] for key in ('kernel', 'mode', 'map_sharpness')}
  maps = projection.project(params, (nhwc(arrays['x']),), size=12, **options)
  if not trained:
    np.testing.assert_allclose(maps, nhwc(arrays[f'out_k{kernel}_softmax']), rtol=1e-5, atol=1e-6)
  else:  # trained three steps further than the other fixture has an output for
    x, weight = nhwc(arrays['x']), golden(fixture)['w_final'][:, :, 0, 0]
    logits = 7 * (x @ weight.T).reshape(2, 144, 16)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(maps.reshape(2, 144, 16), expected, rtol=1e-4, atol=1e-7)
  base, run = bases.read(narrow(24)), bases.read(tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, run['aux']['base'], [base['params'], base['aux']])
  assert landmarks_jax.load(tmp_path / 'run').channels() == (16,)


def test_a_projector_of_another_mode_keeps_its_bias(narrow, tmp_path):
  arrays = golden('feat_distiller')
  path = torch_files.write(tmp_path / 'x', projector('feat_distiller', 'w_k1', 'b_k1'), 'zip')
  mode = '--config.method.mode=softplus'
  assert convert(path, tmp_path / 'run', f'--base={narrow(24)}', mode) == 0
  params = bases.read(tmp_path / 'run')['params']
  options = {'kernel': 1, 'mode': 'softplus', 'map_sharpness': 7.0}
  maps = projection.project(params, (nhwc(arrays['x']),), size=12, **options)
  np.testing.assert_allclose(maps, nhwc(arrays['out_k1_softplus']), rtol=1e-5, atol=1e-6)


def test_a_regressor_gives_the_published_landmarks(narrow, tmp_path, capsys):
  arrays = golden('kp_regressor')
  path, base = torch_files.write(tmp_path / 'x.pth', regressor(), 'zip'), narrow(64)
  capsys.readouterr()
  assert convert(path, tmp_path / 'model', f'--base={base}') == 0
  out = capsys.readouterr().out
  assert out.startswith('landmark regressor (ICCV 2021): 5 landmarks of 50 points, 17,000 weights')
  assert 'dropped: descriptors, linear.weight, linear.bias, opt, epoch, best_error' in out
  found = landmarks_jax.load_landmarks(tmp_path / 'model')
  assert found.names == ('left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth')
  points, _ = jax.jit(found.head.look)(found.head.variables, (nhwc(arrays['feat']),))
  np.testing.assert_allclose(points, arrays['pred'], atol=1e-5)
  peaky, _ = jax.jit(found.head.look)(found.head.variables, (64 * nhwc(arrays['feat']),))
  np.testing.assert_allclose(peaky, arrays['pred_peaky'], atol=1e-4)
  pictures = np.random.default_rng(0).integers(0, 255, (2, 50, 40, 3), np.uint8)
  assert found.predict(list(pictures)).points.shape == (2, 5, 2)
  assert found.model.config['method']['width'] == 0.125
  line = json.loads((tmp_path / 'model/provenance.jsonl').read_text())
  assert line['source']['kind'] == 'landmark regressor (ICCV 2021)'


def test_a_run_says_where_its_weights_are_from(runs, tmp_path):
  path = torch_files.write(tmp_path / 'x.pth', dve(part('smallnet')), 'zip')
  assert convert(path, tmp_path / 'run') == 0
  source = {
    'kind': 'DVE, small network',
    'file': 'x.pth',
    'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
  }
  with checkpoint.Checkpoints(tmp_path / 'run/checkpoints', read_only=True) as opened:
    metadata = opened.metadata()
  config = json.loads((tmp_path / 'run/config.json').read_text())
  assert metadata['source'] == source
  assert metadata['config'] == config
  (line,) = (tmp_path / 'run/provenance.jsonl').read_text().splitlines()
  assert json.loads(line)['source'] == source
  assert completion.complete(config) == config
  assert sorted(path.name for path in tmp_path.iterdir()) == ['run', 'x.pth']


def test_it_tells_what_was_taken_and_what_was_not(runs, tmp_path, capsys):
  path = torch_files.write(tmp_path / 'x.pth', published_test.torchvision(), 'stream')
  assert convert(path, tmp_path / 'a/b/run') == 0
  assert capsys.readouterr().out.splitlines() == [
    'ResNet (torchvision): ResNet-18 of width 0.0625, 56,136 weights',
    'taken: params/backbone (63), aux/key (63), aux/key_stats (42), aux/stats (42)',
    'untrained, for the file has none: params/head (2), aux/key (2), aux/queue (1)',
    'dropped: fc.bias, fc.weight',
    'pictures are standardised by mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]',
    'frames have 224 pixels a side; the network sees them without 0 on each',
    f'written to {tmp_path}/a/b/run',
  ]
  params, aux = (bases.read(tmp_path / 'a/b/run')[name] for name in ('params', 'aux'))
  jax.tree.map(np.testing.assert_array_equal, aux['key'], params)  # the untrained head, too


def small_state(dim=4):
  """DVE's small network at a quarter of its width, untrained, in torch's names."""
  rng, inputs, state = np.random.default_rng(0), 3, {}
  for i, (side, outputs) in enumerate(((5, 5), (5, 12), (5, 16), (3, 20), (3, 64), (1, dim)), 1):
    conv = f'conv{i}.0' if i < 6 else 'conv6'
    state[f'{conv}.weight'] = rng.normal(0, 0.1, (outputs, inputs, side, side)).astype('f')
    state[f'{conv}.bias'] = rng.normal(0, 0.1, outputs).astype('f')
    inputs = outputs
    if i < 6:
      for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
        state[f'conv{i}.1.{leaf}'] = rng.uniform(0.5, 1, outputs).astype('f')
  return state


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('small')
  assert convert(torch_files.write(folder / 'x', dve(small_state()), 'zip'), folder / 'run') == 0
  return folder / 'run'


PAGE = """
from ml_collections import ConfigDict
FACES = dict(name='synthetic/faces', frame=100, count=6)
def get_config():
  return ConfigDict(dict(
    data=FACES, method=dict(name='moco'), optimizer=dict(name='sgd', learning_rate=.1), steps=0,
    evals=dict(faces=dict(protocol='regression', data=FACES, margin=15, size=4)),
  ))
"""


def test_a_converted_run_is_evaluated_as_any_other(small, tmp_path, capsys):
  (tmp_path / 'page.py').write_text(PAGE)
  arguments = f'--workdir={small}', f'--config={tmp_path}/page.py'
  assert main(['x', 'evaluate', *arguments]) == 0
  assert 'evaluating faces at step 0' in capsys.readouterr().out
  scores = json.loads((small / 'evaluations/0.json').read_text())['scores']
  assert np.isfinite(scores['faces/regression/inter_ocular'])


def test_a_run_starts_from_a_converted_one(small, tmp_path):
  config = json.loads((small / 'config.json').read_text())
  config |= {'init_from': str(small), 'steps': 1, 'seed': 3}
  parts = experiment.Experiment(completion.complete(config))
  weights = transfer.of(parts, tmp_path)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), parts.shapes(1)[0])
  params, aux, told = transfer.start(weights, state.params, state.aux)
  assert f'initial weights from {small}: params/bn1 (2), ' in told
  assert 'not ' not in told
  stored = bases.read(small)
  jax.tree.map(np.testing.assert_array_equal, (params, aux), (stored['params'], stored['aux']))


def test_a_converted_run_is_the_base_of_another(small):
  config = configs.changed(
    configs.plain(configs.load(f'{ROOT}/configs/projection_synthetic_faces_64.py:smoke')),
    [f'base.checkpoint={small}', 'base.method=None', 'method.margin=15', 'data.frame=100'],
  )
  parts = experiment.Experiment(completion.complete(config))
  parts.resolve()
  stored, base = bases.read(small), parts._base[1].variables
  jax.tree.map(np.testing.assert_array_equal, base, (stored['params'], stored['aux']))
  assert parts.config['base']['step'] == 0


def test_a_converted_run_describes_any_pictures(small):
  found = landmarks_jax.load(small)
  picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
  (maps,) = found.describe([picture, picture[:50]], crop='squash')
  assert maps.shape == (2, 35, 35, 4)
  assert (found.frame, found.margin) == (100, 15)


def test_the_frames_are_of_the_side_that_is_given(narrow, tmp_path, capsys):
  birds = narrow(64, '--frame=96', '--config.method.margin=0')
  assert 'frames have 96 pixels a side; the network sees them without 0' in capsys.readouterr().out
  assert (landmarks_jax.load(birds).frame, landmarks_jax.load(birds).margin) == (96, 0)
  head = torch_files.write(tmp_path / 'head.pth', regressor(), 'zip')
  assert convert(head, tmp_path / 'model', f'--base={birds}') == 0
  assert landmarks_jax.load_landmarks(tmp_path / 'model').model.side == 96


def told(capsys):
  """The one line on standard error."""
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  return line


def test_what_is_wrong_is_one_line_and_nothing_is_written(narrow, small, tmp_path, capsys):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/notes').touch()
  (tmp_path / 'file').touch()
  good = torch_files.write(tmp_path / 'x.pth', small_state(), 'zip')
  head = torch_files.write(tmp_path / 'head.pth', projector(), 'zip')
  before = sorted(tmp_path.rglob('*'))
  new = tmp_path / 'new/run'
  for path, output, options, message in (
    (tmp_path / 'no.pth', new, (), f'--input={tmp_path}/no.pth: there is no such file'),
    (tmp_path, new, (), 'there is no such file'),
    (good, tmp_path / 'full', (), f'--output={tmp_path}/full exists already and is not overwr'),
    (good, tmp_path / 'file', (), f'--output={tmp_path}/file exists already and is not overwr'),
    (good, tmp_path / 'file/below', (), f'--output={tmp_path}/file/below: nothing can be made in'),
    (tmp_path / 'file', new, (), f'{tmp_path}/file: the file is empty'),
    (good, new, [f'--base={small}'], 'x.pth: DVE, small network, small network, dilations, of'),
    (good, new, ['--frame=30'], 'no network has these sizes'),
    (head, new, [f'--base={narrow(24)}', '--frame=96'], 'has the frames of --base='),
    (good, new, ['--heads=3'], 'it is no ViT, and has no heads; leave out --heads=3'),
    (head, new, (), 'head.pth: feature projector (ICCV 2021): it builds on a frozen network; name'),
    (head, new, [f'--base={tmp_path}/no'], f'{tmp_path}/no holds no run: it has no config.json'),
    (head, new, [f'--base={small}'], 'of 24 channels, but those of the network below have 4 (4)'),
    (good, new, ['--mean=1,2'], '--mean=1,2: expected three numbers, R,G,B in 0..1'),
    (good, new, ['--std=1,2,b'], '--std=1,2,b: expected three numbers, R,G,B in 0..1'),
    (good, new, ['--std=0,1,1'], 'config.method.std=[0.0, 1.0, 1.0]: expected three numbers'),
    (good, new, ['--config.method.size=3'], "config.method has no 'size'"),
    (good, new, ['--config.steps=3'], 'convert changes config.method.*, not config.steps'),
    (good, new, ['--config.method.dim=5'], '2 arrays are not those of that network (in brackets)'),
    (good, new, ['--config.method.width=0'], 'no network has these sizes'),
  ):
    assert convert(path, output, *options) == 2
    assert message in told(capsys)
    assert sorted(tmp_path.rglob('*')) == before


def test_what_must_be_given_is_said(capsys):
  assert main(['x', 'convert', '--input=x']) == 2
  assert capsys.readouterr().err.startswith('error: convert needs --output=DIR: ')


def test_a_write_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
  def full(*_, **__):
    raise OSError(28, os.strerror(28))

  path = torch_files.write(tmp_path / 'x.pth', small_state(), 'stream')
  monkeypatch.setattr(checkpoint.Checkpoints, '_write_checksums', full)
  assert convert(path, tmp_path / 'a/b') == 2
  advice = 'No space left on device; make room and run the command again'
  assert told(capsys) == f'error: {tmp_path}/a/b: {advice}'
  assert [entry.name for entry in tmp_path.iterdir()] == ['x.pth']


def test_an_empty_folder_is_used(tmp_path):
  path = torch_files.write(tmp_path / 'x.pth', small_state(), 'stream')
  (tmp_path / 'run').mkdir()
  assert convert(path, tmp_path / 'run') == 0
  assert (tmp_path / 'run/config.json').exists()


def test_it_runs_where_torch_is_not(tmp_path):
  path = torch_files.write(tmp_path / 'x.pth', small_state(), 'zip')
  done = subprocess.run(
    [sys.executable, '-m', 'landmarks_jax', 'convert', f'--input={path}', '--output=run'],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith('DVE, small network: small network, dilations, of width 0.25, 4 di')

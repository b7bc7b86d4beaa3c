"""Configs: read, changed, completed, compared; every page of configs/ is complete."""

import errno
import inspect
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from landmarks_jax.cli import completion, train
from landmarks_jax.cli import config as configs
from landmarks_jax.cli import workdir as workdirs
from landmarks_jax.contracts import Batch
from landmarks_jax.evaluation import regression
from landmarks_jax.methods import equivariant
from landmarks_jax.runtime import by_name, optim, run_folder

root = pathlib.Path(__file__).parents[1]
pages = sorted((root / 'configs').glob('*.py'))


def smoke():
  return configs.plain(configs.load(f'{root}/configs/demo.py:smoke'))


def paper(name):
  """A page of configs/, completed."""
  page = configs.plain(configs.load(f'{root}/configs/{name}.py'))
  return completion.complete(page)


def completed(*changes):
  return completion.complete(configs.changed(smoke(), changes))


def taker(
  *,
  steps: int,
  speed: float = 0.5,
  name: str | None = None,
  area: tuple[float, float] = (0.2, 1.0),
  mean: tuple[float, ...] = (1.0,),
  stones: Sequence[int] = (1, 2),
  mode: Literal['skip', 'error'] = 'skip',
  scale: tuple[str, str] | str = 'frame',
  points: int | str = 5,
  cache: bool = True,
  table: Mapping[str, Any] = {},
  workdir: str = 'injected',
  **others: int,
) -> None:
  """Takes what a config may hold."""


@pytest.mark.parametrize('page', pages, ids=lambda page: page.stem)
@pytest.mark.parametrize('variant', ['', ':smoke'])
def test_every_page_is_complete_and_survives_json(page, variant):
  config = completion.complete(configs.plain(configs.load(f'{page}{variant}')))
  assert json.loads(json.dumps(config)) == config
  assert completion.complete(config) == config
  if config['base'] is None:  # else the network below it knows its colours
    assert config['method'].keys() >= {'name', 'mean', 'std'}
  if variant:
    assert config['steps'] <= 3
    sets = [config['data'], *(options['data'] for options in config['evals'].values())]
    assert all(data['name'].startswith('synthetic/') for data in sets)
    most = 480 if page.stem.startswith('roboarm') else 32  # whose smoke page can show a result
    assert all(data['count'] <= most for data in sets)


@pytest.mark.parametrize('page', pages, ids=lambda page: page.stem)
@pytest.mark.parametrize('variant', ['', ':smoke'])
def test_every_page_makes_a_method_of_options_that_it_has(page, variant):
  config = completion.complete(configs.plain(configs.load(f'{page}{variant}')))
  options = by_name.tuples(config['method'])
  build = completion.find('methods', options.pop('name')).build
  known = inspect.signature(build).parameters
  colours = {'mean': (0.5,) * 3, 'std': (0.2,) * 3}  # None in a page that leaves them to the data
  assert build(**options | {key: colours[key] for key in colours if key in known}).init


SIZE = {'method.dim'}
NEIGHBOURS = {
  'roboarm_nll': ('roboarm_dist05', {'method.loss', 'method.power'}),
  'roboarm_dist1': ('roboarm_dist05', {'method.power'}),
  'roboarm_dim2': ('roboarm_dist05', SIZE),
  'roboarm_dim3': ('roboarm_dist05', set()),
  'roboarm_dim5': ('roboarm_dist05', SIZE),
  'roboarm_dim20': ('roboarm_dist05', SIZE),
  'dense_celeba_dilations': ('dense_celeba_simple', {'method.network'}),
  'byol_imagefolder': ('scrl_imagefolder', {'method.regions'}),
  'byol_synthetic_faces': ('scrl_synthetic_faces', {'method.regions'}),
  'dense_synthetic_faces': ('dve_synthetic_faces', {'method.exchange'}),
  'dense_youtube_faces_cpu': ('dve_youtube_faces_cpu', {'method.exchange'}),
}
for data in ('celeba', 'youtube_faces', 'synthetic_faces'):
  NEIGHBOURS |= {
    f'projection_{data}_64': (
      f'projection_{data}_128',
      SIZE | {'method.map_sharpness', 'method.sharpness'},
    ),
    f'projection_{data}_256': (f'projection_{data}_128', SIZE),
  }


@pytest.mark.parametrize(('steps', 'shortened'), [(None, 3), (0, 0), (2, 2), (900, 3)])
def test_the_smoke_of_a_page_takes_few_steps_or_fewer(tmp_path, steps, shortened):
  text = 'import ml_collections\ndef get_config(): return ml_collections.ConfigDict({{{}}})'
  data = "'data': {'name': 'folder'}"
  (tmp_path / 'page.py').write_text(text.format(f"'steps': {steps}, {data}"))
  assert configs.load(f'{tmp_path}/page.py:smoke').steps == shortened


@pytest.mark.parametrize('variant', ['', ':smoke'])
def test_pages_that_are_compared_differ_only_in_what_is_compared(variant):
  for name, (other, expected) in NEIGHBOURS.items():
    one, two = (
      configs.flat(configs.plain(configs.load(f'{root}/configs/{page}.py{variant}')))
      for page in (name, other)
    )
    different = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
    assert different == expected, name


def test_the_networks_of_dve_are_trained_as_published():
  for name, frame, margin, rest in (
    ('dve_celeba_smallnet', 100, 15, {'leak': 0.2, 'normalise': False, 'sharpness': 1.0}),
    ('dve_celeba_hourglass', 136, 20, {'normalise': True, 'sharpness': 400.0}),
  ):
    page = paper(name)
    method = page['method']
    assert (page['data']['frame'], method['margin']) == (frame, margin)
    assert rest.items() <= method.items()
    assert (method['dim'], method['exchange'], method['power']) == (64, True, 0.5)
    warp = {key: method[key] for key in ('warp', 'subset', 'translation', 'scale', 'rotation')}
    assert list(warp.values()) == [0.001, 0.01, 0.1, 0.1, 5.0]
    adam = page['optimizer']
    assert (adam['name'], adam['amsgrad'], adam['learning_rate']) == ('adam', True, 1e-3)
    small = name.endswith('smallnet')
    assert adam['bias_factor'] == (0.01 if small else 1.0)
    assert (adam['milestones'], adam['epochs']) == ([70, 90] if small else [50], 100)
    assert page['batch_size'] == (32 if small else 16)


@pytest.mark.parametrize(('name', 'batch'), [('smallnet', 32), ('hourglass', 16)])
def test_the_networks_of_dve_are_fine_tuned_as_published(name, batch):
  page, before = paper(f'dve_aflw_{name}'), paper(f'dve_celeba_{name}')
  assert page['method'] == before['method'] | {'normalise': True, 'sharpness': 400.0}
  assert page['data']['frame'] == before['data']['frame']
  adam = page['optimizer']
  assert adam == before['optimizer'] | {key: adam[key] for key in ('biases', 'bias_factor')} | {
    'milestones': [30, 40], 'epochs': 50
  }  # fmt: skip
  assert (adam['bias_factor'], page['batch_size'], page['steps']) == (1, batch, None)


@pytest.mark.parametrize(
  'name', ['dve_celeba_smallnet', 'dense_celeba_simple', 'dense_celeba_dilations', 'dense_cats']
)
def test_only_convolutions_of_the_small_networks_have_slow_biases(name):
  page = configs.plain(configs.load(f'{root}/configs/{name}.py'))
  options = {key: value for key, value in page['method'].items() if key != 'name'}
  method = equivariant.build(mean=(0.5,) * 3, std=(0.2,) * 3, **options)
  image = np.zeros((1, page['data']['frame'], page['data']['frame'], 3), np.uint8)
  params, _ = jax.eval_shape(method.init, jax.random.key(0), Batch(image=image))
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
  slow = optim.named(page['optimizer']['biases'])(params)
  names = [f'conv{i}' for i in range(1, 6)] + [f'bn{i}' for i in range(1, 6)] + ['labels']
  assert {layer for layer in names if slow[layer]['bias']} == {*names[:5], 'labels'}
  assert sum(jax.tree.leaves(slow)) == 6


@pytest.mark.parametrize('network', ['simple', 'dilations'])
def test_dense_labels_are_trained_on_all_but_the_test_pictures_of_mafl(network):
  assert paper(f'dense_celeba_{network}')['data']['split'] == 'train_except_mafl_test'


# docs/specification.md section 2; a page and the defaults that it leaves alone must agree with it.
PAPER = {'depth': 50, 'width': 1, 'dim': 128, 'head_layers': 1, 'temperature': 0.07, 'queue': 4096}
PAPER |= {'momentum': 0.999, 'norm_groups': 4, 'area': [0.2, 1], 'aspect': [3 / 4, 4 / 3]}
PAPER |= {'jitter': 0.4, 'pca': 0.1, 'jpeg': True, 'levels': 4}
PAPER_SGD = {'name': 'sgd', 'learning_rate': 0.03, 'momentum': 0.9, 'weight_decay': 1e-4}
PAPER_SGD |= {'schedule': 'cosine', 'epochs': 800, 'warmup_epochs': 0, 'final': 0}


# docs/scrl.md; as PAPER above.
SCRL = {'depth': 50, 'width': 1, 'output_stride': 32, 'size': 224, 'margin': 0, 'boxes': 10}
SCRL |= {'smallest': 32, 'overlap': 0.5, 'box_jitter': 0, 'hidden': 4096, 'dim': 256}
SCRL |= {'momentum': 0.97, 'independent_target': True, 'area': [0.2, 1], 'aspect': [3 / 4, 4 / 3]}
SCRL |= {'jitter': [0.4, 0.4, 0.2, 0.1], 'grey': 0.2, 'blurred': [1, 0.1], 'solarised': [0, 0.2]}
LARS = {'name': 'lars', 'learning_rate': 0.45 * 8192 / 256, 'momentum': 0.9, 'weight_decay': 1e-6}
LARS |= {'trust': 1e-3, 'eps': 1e-8, 'double_rate': False, 'schedule': 'cosine_by_step'}
LARS |= {'epochs': 200, 'warmup_epochs': 10, 'final': 0}


@pytest.mark.parametrize('name', ['scrl', 'byol'])
def test_the_page_of_scrl_holds_its_numbers(name):
  config = paper(f'{name}_imagefolder')
  assert config['method'] == config['method'] | SCRL | {'regions': name == 'scrl'}
  assert config['optimizer'] == config['optimizer'] | LARS
  assert (config['batch_size'], config['steps']) == (8192, None)
  exclude = config['optimizer']['exclude']
  for path, excluded in (
    ('backbone/conv1/kernel', False),
    ('backbone/bn1/scale', False),  # the published names are positions: the stem's is no `bn`
    ('backbone/bn1/bias', True),
    ('backbone/layer3_5/bn3/scale', True),
    ('backbone/layer3_0/downsample_bn/scale', False),
    ('backbone/layer3_0/downsample_bn/bias', True),
    ('predictor/norm/scale', False),
    ('projector/fc0/bias', True),
  ):
    assert bool(re.search(exclude, path)) == excluded, path


@pytest.mark.parametrize(
  ('page', 'frame', 'margin'), [('moco_celeba_resnet50', 136, 20), ('moco_inat_resnet50', 96, 0)]
)
def test_a_page_of_the_paper_holds_its_numbers(page, frame, margin):
  config = paper(page)
  assert config['method'] == config['method'] | PAPER | {'margin': margin}
  assert config['optimizer'] == config['optimizer'] | PAPER_SGD
  assert (config['batch_size'], config['steps']) == (256, None)  # the pictures say how many
  for options in (config, *config['evals'].values()):
    assert options['data']['frame'] == frame
  for options in config['evals'].values():
    assert (options['margin'], options['head'], options['probe_size']) == (margin, 'probe', 48)


def test_the_heads_on_birds_have_the_published_numbers():
  evals = paper('moco_inat_resnet50')['evals'].values()
  assert {options['train']: options['probe_weight_decay'] for options in evals} == {
    'train_10': 0.05,
    'train_50': 0.05,
    'train_100': 0.05,
    'train_250': 0.005,
    'train_500': 0.005,
    'train': 0.005,
  }
  shared = {'protocol': 'pck', 'labels': None, 'validation': 'validation', 'test': 'test'}
  shared |= {'probe_epochs': 2000, 'probe_stop_epoch': None, 'probe_learning_rate': 0.01}
  shared |= {'probe_validate_every': 1}
  for options in evals:
    assert options == options | shared


def test_the_second_stage_has_the_published_numbers():
  config = paper('projection_celeba_128')
  method, optimizer = config['method'], config['optimizer']
  assert (method['dim'], method['size']) == (128, 24)
  assert (method['map_sharpness'], method['sharpness']) == (7, 7)
  assert (method['mode'], method['power'], method['augment']) == ('softmax', 0.5, False)
  assert (optimizer['name'], optimizer['learning_rate'], optimizer['epochs']) == ('adam', 1e-3, 10)
  assert (optimizer['betas'], optimizer['weight_decay']) == ([0.5, 0.999], 5e-4)
  assert optimizer['final'] == pytest.approx(8e-7)
  assert config['batch_size'] == 32
  matching = config['evals']['choose']
  assert config['select'] == 'choose/matching/different'
  assert (matching['test'], matching['count'], matching['size']) == ('mafl_train', 2000, 96)
  warp = [matching[name] for name in ('warp', 'subset', 'translation', 'scale', 'rotation')]
  assert warp == [5e-4, 5e-3, 0.05, 0.05, 2.5]


def test_the_head_is_read_at_the_published_epochs():
  for name, epoch in (('mafl', 120), ('aflw_m', 45), ('aflw_r', 45), ('w300', 80)):
    (head,) = paper(f'probe_{name}')['evals'].values()
    assert (head['probe_epochs'], head['probe_stop_epoch']) == (200, epoch)
    data, mafl = head['data'], name == 'mafl'
    assert (data['frame'], head['margin']) == (136, 20)
    assert data['name'] == ('celeba' if mafl else name)  # frames of CelebA serve MAFL, too
    assert (head['train'], head['test']) == (
      ('mafl_train', 'mafl_test') if mafl else ('train', 'test')
    )
    assert (head['head'], head['probe_size'], head['probe_learning_rate']) == ('probe', 48, 1e-3)
  assert paper('probe_cub')['evals'] == paper('moco_inat_resnet50')['evals']


LMDIS = {  # docs/lmdis.md section 7: landmarks, batch, separate, bandwidth, follow, weights, rate
  'celeba_10': (10, 16, 20, 0.08, 1e4, [0.1, 1, 10], 1e-3),
  'celeba_30': (30, 8, 10, 0.04, 1e4, [0.1, 10, 100], 1e-2),
  'aflw_10': (10, 16, 16, 0.06, 1e4, [0.1], 1e-3),
  'aflw_30': (30, 8, 10, 0.04, 1e4, [0.001], 1e-2),
  'cats_10': (10, 16, 20, 0.08, 5e3, [1e-4, 1e-3, 1e-2], 1e-3),
  'cats_20': (20, 16, 10, 0.05, 5e3, [1e-4, 1e-3, 1e-2], 1e-3),
}


@pytest.mark.parametrize('name', LMDIS)
def test_discovered_landmarks_have_the_published_numbers(name):
  page = paper(f'lmdis_{name}')
  method, adam = page['method'], page['optimizer']
  names = 'landmarks', 'separate', 'bandwidth', 'follow', 'reconstruct'
  landmarks, *rest = (method[key] for key in names)
  assert (landmarks, page['batch_size'], *rest, adam['learning_rate']) == LMDIS[name]
  assert page['data']['frame'] - 2 * method['margin'] == 80
  assert (method['pad'], method['concentrate'], method['weight_decay']) == (8, 100, 1e-6)
  assert (method['mean'], method['std'], method['network']) == ([0] * 3, [1] * 3, 'paper')
  warp = [method[key] for key in ('displacement', 'bending', 'rotation', 'scale', 'translation')]
  assert warp == [0.1, 0.5, 10, 1.25, 0.3]
  assert (method['brightness'], method['contrast']) == (32 / 255, 0.5)
  assert (adam['name'], adam['betas'], adam['eps']) == ('adam', [0.9, 0.999], 1e-8)
  still = name.startswith('aflw')
  assert method['milestones'] == ([] if still else [100_000, 200_000])
  assert adam['schedule'] == ('constant' if still else 'step')
  assert still or (adam['milestones'], adam['factor']) == (method['milestones'], 0.1)
  assert page['calibrate'] == 500


def test_the_second_stage_of_64_channels_is_sharper():
  method = paper('projection_celeba_64')['method']
  assert (method['dim'], method['map_sharpness'], method['sharpness']) == (64, 6.5, 8)


def test_few_labels_have_the_published_schedule():
  few = paper('fewshot_aflw_m')['evals']['aflw']
  assert few['labels'] == [1, 5, 10, 20, 50, 100]
  assert (few['probe_epochs'], few['probe_epoch_size'], few['probe_size']) == (1000, 1000, 48)
  assert (few['probe_learning_rate'], few['probe_weight_decay'], few['copies']) == (0.01, 0.05, 20)
  assert regression.WARP == {'warp': 5e-4, 'translation': 0.02, 'scale': 0.02, 'rotation': 2}


def test_defaults_live_in_the_functions_that_take_them():
  config = completed()
  assert config['optimizer']['momentum'] == 0.9
  assert config['method']['jitter'] == 0.4
  assert config['evals']['faces']['every'] == 0
  assert config['on_bad_image'] == 'skip'
  assert 'workdir' not in config
  assert 'split' not in config['data']


@pytest.mark.parametrize(
  ('key', 'text', 'value'),
  [
    ('steps', '300', 300),
    ('steps', '3_000', 3000),
    ('speed', '1e-3', 0.001),
    ('speed', '2', 2),
    ('name', '2020', '2020'),
    ('name', '/a,b=c', '/a,b=c'),
    ('name', 'None', None),
    ('area', '0.1,0.3', [0.1, 0.3]),
    ('area', '(0.1, 0.3)', [0.1, 0.3]),
    ('area', '[0.1,1]', [0.1, 1]),
    ('mean', '.1,.2,.3', [0.1, 0.2, 0.3]),
    ('stones', '7', [7]),
    ('mode', 'error', 'error'),
    ('scale', 'left,right', ['left', 'right']),
    ('scale', 'box', 'box'),
    ('points', '68', 68),
    ('points', 'all', 'all'),
    ('cache', 'false', False),
    ('cache', 'True', True),
    ('table', "{'a': (1, None)}", {'a': [1, None]}),
  ],
)
def test_text_becomes_what_its_argument_is(key, text, value):
  given = configs.changed({'steps': 1}, [f'{key}={text}'])
  found = configs.complete('config', given, taker)[key]
  assert found == value
  assert type(found) is type(value)


@pytest.mark.parametrize(
  ('key', 'value', 'expected'),
  [
    ('steps', '3.0', 'a whole number'),
    ('steps', 'True', 'a whole number'),
    ('speed', 'fast', 'a number'),
    ('area', '1,2,3', r'2 values \(a number, a number\)'),
    ('area', 'a,b', r'2 values \(a number, a number\)'),
    ('mean', 'a', 'a list, each a number'),
    ('stones', '1.5', 'a list, each a whole number'),
    ('mode', 'stop', "'skip' or 'error'"),
    ('cache', '1', 'True or False'),
    ('table', 'x', 'a section, with KEY=VALUE in it'),
  ],
)
def test_text_of_another_type_is_refused(key, value, expected):
  given = configs.changed({'steps': 1}, [f'{key}={value}'])
  with pytest.raises(ValueError, match=f"^page.{key}='{value}': expected {expected}$"):
    configs.complete('page', given, taker)


def test_a_page_with_a_wrong_type_is_refused_too():
  with pytest.raises(ValueError, match=r"^config.steps='3': expected a whole number$"):
    configs.complete('config', {'steps': '3'}, taker)
  with pytest.raises(ValueError, match=r'^config.name=5: expected a text or None$'):
    configs.complete('config', {'steps': 3, 'name': 5}, taker)


def test_unknown_and_missing_keys_are_named():
  with pytest.raises(ValueError, match=r"^c has no 'stpes' \(did you mean 'steps'\?\); it has: a"):
    configs.complete('c', {'stpes': 3}, taker)
  for hidden in ('workdir', 'others'):  # not for configs
    with pytest.raises(ValueError, match=f"^c has no '{hidden}'; it has: area, cache, mean, "):
      configs.complete('c', {'steps': 3, hidden: 'x'}, taker, passed=('workdir',))
  with pytest.raises(ValueError, match=r'^c.steps is missing; give it as c.steps=VALUE$'):
    configs.complete('c', {}, taker)


def test_keys_whose_default_is_none_can_be_changed():
  config = completed(
    'evals.faces.labels=10', 'method.mean=.1,.2,.3', 'data.count=None', 'optimizer.epochs=7'
  )
  assert config['evals']['faces']['labels'] == 10
  assert config['method']['mean'] == [0.1, 0.2, 0.3]
  assert config['method']['std'] is None
  assert config['data']['count'] is None
  assert config['optimizer']['epochs'] == 7


def test_another_method_or_optimizer_comes_with_its_own_keys():
  config = completed('optimizer.name=adam', 'optimizer.eps=1e-6')
  assert config['optimizer']['betas'] == [0.9, 0.999]
  assert config['optimizer']['eps'] == 1e-6
  assert 'momentum' not in config['optimizer']


def test_an_evaluation_can_be_added_and_all_removed():
  more = ('evals.few.protocol=regression', 'evals.few.data.name=synthetic/faces')
  config = completed(*more, 'evals.few.labels=5')
  assert sorted(config['evals']) == ['faces', 'few']
  assert config['evals']['few']['labels'] == 5
  assert completed('evals={}')['evals'] == {}


def test_where_the_pictures_are_is_said_once(tmp_path):
  page = smoke() | {'data': {'name': 'youtube_faces_68', 'path': 'here'}}
  page['evals'] = {
    'mine': {'protocol': 'regression', 'data': {'name': 'youtube_faces_68'}},
    'other': {'protocol': 'regression', 'data': {'name': 'youtube_faces_68', 'path': 'there'}},
    'faces': {'protocol': 'regression', 'data': {'name': 'synthetic/faces'}},
  }
  config = completion.complete(configs.changed(page, ['data.path=elsewhere']))
  paths = {name: options['data']['path'] for name, options in config['evals'].items()}
  assert config['data']['path'] == 'elsewhere'
  assert paths == {'mine': 'elsewhere', 'other': 'there', 'faces': None}


def test_changes_leave_the_page_alone_and_the_last_one_holds():
  page = ConfigDict({'a': {'b': 1}, 'c': (1, 2)})
  assert configs.changed(page, ['a.b=2', 'a.b=3', 'a.d.e=4']) == {
    'a': {'b': '3', 'd': {'e': '4'}},
    'c': [1, 2],
  }
  assert page.to_dict() == {'a': {'b': 1}, 'c': (1, 2)}


def flagged(*argv):
  values = flags.FlagValues()
  rest = values(['train', *configs.define_flags(list(argv), values)])
  return values.config, values['config.KEY'].value, rest[1:]


def test_the_command_line_is_split_into_file_changes_and_the_rest():
  assert flagged('--config', 'a.py:smoke', '--config.b.c', '3', 'x', '-config.d=e=f g') == (
    'a.py:smoke',
    ['b.c=3', 'd=e=f g'],
    ['x'],
  )
  assert flagged('--config.b=', '--config=a.py') == ('a.py', ['b='], [])
  for argv in (['--config.b'], ['--config.b', '--config.c=3']):
    with pytest.raises(ValueError, match=r'^--config.b needs a value: --config.b=VALUE$'):
      flagged(*argv)


def test_where_the_configs_are_is_said_outside_of_the_checkout(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  expected = r'no config file configs/demo.py; the configs of landmarks_jax are in its checkout'
  with pytest.raises(FileNotFoundError, match=expected):
    configs.load('configs/demo.py')


def test_a_file_that_is_no_config_is_named_with_its_line(tmp_path):
  texts = {
    'syntax': ('x = 1\ny = (', r"syntax.py, line 2 is not a config: SyntaxError: '\(' was never"),
    'missing': ('\n\nimport nope', "missing.py, line 3 is not a config: .* named 'nope'"),
    'empty': ('x = 1', r'empty.py, line 1 is not a config: .*it defines no get_config\(\)'),
    'late': ('def get_config():\n  return 1 / 0', 'late.py, line 2 is not a config: ZeroDivision'),
  }
  for name, (text, expected) in texts.items():
    (tmp_path / f'{name}.py').write_text(text)
    with pytest.raises(ValueError, match=expected):
      configs.load(f'{tmp_path}/{name}.py')
  with pytest.raises(FileNotFoundError, match=r"mising.py \(did you mean 'missing.py'\?\); in"):
    configs.load(f'{tmp_path}/mising.py')
  with pytest.raises(FileNotFoundError, match=r'there are: empty.py, late.py, missing.py, syntax'):
    configs.load(str(tmp_path))
  with pytest.raises(ValueError, match=r"no variant 'smok' of .*demo.py; there is: smoke"):
    configs.load(f'{root}/configs/demo.py:smok')
  (tmp_path / 'notes.txt').write_text('x')
  with pytest.raises(ValueError, match=r'notes.txt is not a Python file'):
    configs.load(f'{tmp_path}/notes.txt')


def test_only_what_json_has_is_a_config():
  with pytest.raises(ValueError, match=r'a config holds numbers, texts, lists and sections; not <'):
    configs.plain({'a': [len]})


def test_differences_name_every_leaf_with_both_values():
  old = {'a': {'b': 1, 'c': [1, 2], 'gone': None}, 'same': {'x': 1}}
  new = {'a': {'b': 2, 'c': [1, 3], 'new': 'y'}, 'same': {'x': 1}}
  assert configs.differences(old, new) == [
    'a.b: 1 -> 2',
    'a.c: [1, 2] -> [1, 3]',
    "a.gone: None -> '(absent)'",
    "a.new: '(absent)' -> 'y'",
  ]
  assert configs.differences(old, json.loads(json.dumps(old))) == []


def test_a_workdir_belongs_to_its_config(tmp_path):
  workdir, config = tmp_path / 'deep/run', {'steps': 3, 'method': {'width': 0.5}}
  workdirs.claim(workdir, config)
  text = (workdir / 'config.json').read_text()
  workdirs.claim(workdir, config)
  with pytest.raises(ValueError, match=r'(?s)deep/run was made by another.*width: 0.5 -> 1'):
    workdirs.claim(workdir, {'steps': 3, 'method': {'width': 1}})
  assert (workdir / 'config.json').read_text() == text
  assert [p.name for p in workdir.iterdir()] == ['config.json']


def test_files_may_move_and_a_run_be_handled_otherwise(tmp_path):
  there = {'steps': 3, 'keep': 2, 'data': {'path': 'a'}, 'evals': {'few': {'data': {'path': 'a'}}}}
  here = {'steps': 3, 'keep': 5, 'data': {'path': 'b'}, 'evals': {'few': {'data': {'path': 'c'}}}}
  workdirs.claim(tmp_path, there)
  changed = ['data.path=b (was a)', 'evals.few.data.path=c (was a)', 'keep=5 (was 2)']
  assert workdirs.check(tmp_path, here) == changed
  workdirs.claim(tmp_path, here)
  assert json.loads((tmp_path / 'config.json').read_text()) == there
  with pytest.raises(ValueError, match=r'\(there -> here\):\n  steps: 3 -> 4\nUse another'):
    workdirs.check(tmp_path, here | {'steps': 4})


def test_every_key_that_may_differ_is_an_argument_of_train():
  assert set(inspect.signature(train.train).parameters) >= workdirs.HANDLING


def test_a_workdir_that_was_killed_while_claimed_is_still_new(tmp_path):
  (tmp_path / 'config.json.7.part').write_text('{"st')
  workdirs.claim(tmp_path, {'steps': 3})
  assert json.loads((tmp_path / 'config.json').read_text()) == {'steps': 3}


@pytest.mark.parametrize('links', [True, False])
def test_of_two_processes_that_claim_a_workdir_together_one_has_it(tmp_path, monkeypatch, links):
  def no_links(*args):
    raise OSError(errno.EPERM, 'Operation not permitted')

  def after_the_other(descriptor):
    monkeypatch.setattr(os, 'fsync', real)
    workdirs.claim(tmp_path / 'run', {'steps': 5})
    locks.append(run_folder.lock(tmp_path / 'run'))
    real(descriptor)

  real, locks = os.fsync, []
  if not links:
    monkeypatch.setattr(os, 'link', no_links)
  monkeypatch.setattr(os, 'fsync', after_the_other)
  with pytest.raises(ValueError, match=r'was made by another config.*\n  steps: 5 -> 3'):
    workdirs.claim(tmp_path / 'run', {'steps': 3})
  workdirs.claim(tmp_path / 'run', {'steps': 5})  # the same config
  with pytest.raises(ValueError, match='another process trains'):
    run_folder.lock(tmp_path / 'run')
  assert os.listdir(tmp_path / 'run') == ['config.json']
  locks[0].close()


def test_a_damaged_config_is_named(tmp_path):
  for text in ('{"a', '[]'):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=r'config.json is damaged'):
      workdirs.claim(tmp_path, {'steps': 3})
    assert (tmp_path / 'config.json').read_text() == text


def test_names_that_are_reserved_in_one_section_are_keys_of_another(monkeypatch):
  def build(*, rate: float = 0.5, spread: int = 1, split: str = 'a', others: int = 2) -> None:
    """A user's method."""

  def source(path: str, *, split: str = 'train', base: float = 1.5, rate: int = 3) -> None:
    """A user's dataset."""

  monkeypatch.setattr(completion, 'find', lambda *_, **__: SimpleNamespace(build=build))
  monkeypatch.setattr(completion, 'source_function', lambda name: source)
  found = completion.method('config.method', {'name': 'mine', 'rate': 0.25})
  assert found == {'name': 'mine', 'rate': 0.25, 'spread': 1, 'split': 'a', 'others': 2}
  found = completion._data('config.data', {'name': 'mine', 'path': 'there'})
  assert found == {'name': 'mine', 'path': 'there', 'base': 1.5, 'rate': 3}


def test_what_the_data_says_is_left_open_only_where_it_is_taken():
  assert configs.complete('c', {'steps': 3}, taker, later=('mean', 'std'))['mean'] is None
  assert 'std' not in configs.complete('c', {'steps': 3}, taker, later=('mean', 'std'))


def test_the_guide_to_the_published_numbers_names_pages_that_exist():
  guide = (root / 'docs/reproduce.md').read_text()
  named = set(re.findall(r'(\w+)\.py', guide))
  assert named <= {page.stem for page in pages}
  published = ('projection_celeba_', 'probe_mafl', 'probe_aflw', 'probe_w300', 'probe_cub')
  published += ('match_mafl', 'fewshot_aflw_m', 'roboarm_', 'dense_celeba_', 'dve_celeba_')
  published += ('dve_aflw_',)
  published += ('lmdis_celeba_', 'lmdis_aflw_', 'lmdis_cats_')
  published += ('scrl_imagefolder', 'byol_imagefolder', 'scrl_celeba', 'scrl_inat')
  expected = {page.stem for page in pages if page.stem.startswith(published)}
  assert expected - named == {'roboarm_dim3', 'roboarm_dim5', 'roboarm_dim20'}  # named in short


FACES = {'name': 'synthetic/faces', 'frame': 68, 'count': 32}
SEEN = {'data': FACES, 'method': {'name': 'moco', 'margin': 10}, 'steps': 1}
SEEN |= {'optimizer': {'name': 'sgd', 'learning_rate': 0.1}}


def evaluated(**options):
  """The frame and margin of an evaluation."""
  options = {'protocol': 'regression', 'data': {'name': 'synthetic/faces'}} | options
  config = SEEN | {'evals': {'few': options}}
  (found,) = completion.complete(config)['evals'].values()
  return found['data']['frame'], found['margin']


def test_an_evaluation_of_the_training_set_reads_the_same_files_unless_it_says_so():
  def read(**data):
    evals = {'faces': {'protocol': 'matching', 'data': {'name': 'celeba'} | data}}
    given = {'name': 'celeba', 'path': 'here', 'images': 'Img/hq', 'crop': 'squash'}
    found = completion.complete(SEEN | {'data': given, 'evals': evals})['evals']['faces']['data']
    return [found[key] for key in ('path', 'images', 'crop')]

  assert read() == ['here', 'Img/hq', 'squash']
  assert read(path='there', crop='squash') == ['there', 'Img/hq', 'squash']
  assert read(crop='wild') == ['here', None, 'wild']  # its pictures are others
  assert read(name='mafl', path='there') == ['there', None, 'aligned']


def test_a_star_changes_every_section():
  page = {'evals': {'one': {'data': {'n': 1}}, 'two': {'data': {'n': 2}}}, 'steps': 3}
  found = configs.changed(page, ['evals.*.data.n=4', 'evals.two.data.n=5', 'evals.*.x.y=6'])
  assert found['evals'] == {
    'one': {'data': {'n': '4'}, 'x': {'y': '6'}},
    'two': {'data': {'n': '5'}, 'x': {'y': '6'}},
  }
  for key, message in (
    ('steps.*.n', 'steps is not a section'),
    ('evals.one.data.*.n', 'evals.one.data has no section'),
    ('evals.*', r'\* stands for sections; name a key of theirs'),
  ):
    with pytest.raises(ValueError, match=message):
      configs.changed(page, [f'{key}=4'])


def test_an_evaluation_of_the_training_set_sees_what_training_sees_unless_it_says_so():
  default = evaluated(data={'name': 'synthetic/faces', 'frame': 136})[0]
  assert evaluated() == evaluated(labels=3) == (68, 10)
  assert evaluated(data={'name': 'synthetic/faces', 'frame': 80}) == (80, 0)
  assert evaluated(margin=4) == (default, 4)


@pytest.mark.parametrize(
  ('select', 'options', 'known'),
  [
    ('inter_ocular_n20', {'labels': (1, 9), 'draws': 2}, 'inter_ocular_n1, few/regression/inter_o'),
    ('inter_ocular', {'labels': [1, 9], 'draws': 2}, 'inter_ocular_n1, few/regression/inter_ocu'),
    ('inter_ocular_n9', {'labels': 9, 'draws': 2}, 'inter_ocular, also with _std'),
    ('inter_ocular_low', {'labels': 9, 'draws': 2}, 'inter_ocular, also with _std'),
    ('inter_ocular_base_std', {'labels': None, 'draws': 1}, 'inter_ocular, also with _low or _h'),
  ],
)
def test_weights_are_selected_only_by_labels_that_are_drawn(select, options, known):
  evals = {'few': {'protocol': 'regression', 'every': 2} | options}
  with pytest.raises(ValueError, match=f'the scores are few/regression/{known}'):
    completion.check_select(f'few/regression/{select}', evals)


@pytest.mark.parametrize(
  ('select', 'options'),
  [
    ('inter_ocular_n9', {'labels': (1, 9), 'draws': 2}),
    ('inter_ocular_n1_base_std', {'labels': (1, 9), 'draws': 2}),
    ('inter_ocular_high', {'labels': None, 'draws': 1}),
    ('inter_ocular_level_2', {'labels': (1, 9), 'of': 'regression'}),
  ],
)
def test_weights_are_selected_by_any_score_of_the_labels_drawn(select, options):
  protocol = 'layers' if 'of' in options else 'regression'
  evals = {'few': {'protocol': protocol, 'every': 2} | options}
  assert completion.check_select(f'few/{protocol}/{select}', evals) is False


def test_a_score_whose_name_begins_with_another_s_is_selected():
  evals = {'birds': {'protocol': 'pck', 'every': 2, 'labels': (1, 9), 'draws': 2}}
  assert completion.check_select('birds/pck/pck_paper_n9', evals) is True
  with pytest.raises(ValueError, match='pck_paper_n1, birds/pck/pck_paper_n9'):
    completion.check_select('birds/pck/pck_paper_n5', evals)


def test_the_steps_between_evaluations_are_checked_and_let_them_select():
  def completed_with(**options):
    evals = {'few': {'protocol': 'regression', 'data': {'name': 'synthetic/faces'}} | options}
    select = 'few/regression/inter_ocular'
    return completion.complete(SEEN | {'evals': evals, 'select': select})['evals']['few']

  assert completed_with(every='epoch')['every'] == 'epoch'
  assert completed_with(every=configs.Text('3'))['every'] == 3
  for every, message in (
    (-1, "every=-1: expected 0 or more steps, or 'epoch'"),
    (0.5, "every=0.5: expected a whole number, or 'epoch'"),
    ('epochs', "every='epochs': expected a whole number, or 'epoch'"),
    (0, 'needs config.evals.few.every, in steps'),
  ):
    with pytest.raises(ValueError, match=message):
      completed_with(every=every)


def test_files_may_move_when_a_run_continues_but_not_take_the_place_of_none(tmp_path):
  def check(before, now):
    (tmp_path / 'config.json').write_text(json.dumps({'data': {'lists': before}}))
    return workdirs.check(tmp_path, {'data': {'lists': now}})

  assert check('here', 'there') == ['data.lists=there (was here)']
  for before, now in ((None, 'there'), ('here', None)):
    with pytest.raises(ValueError, match=f'data.lists: {before!r} -> {now!r}'):
      check(before, now)

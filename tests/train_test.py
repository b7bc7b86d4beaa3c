"""Runs from the command line: what they leave behind, how they resume, what stops them.

Most use a tiny method that is planted here; the pages of configs/ run with their own.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import gc
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import types
from unittest import mock

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from landmarks_jax import training
from landmarks_jax.cli import completion, experiment, inputs, pictures, processes, running, train
from landmarks_jax.cli import config as configs
from landmarks_jax.cli.main import main
from landmarks_jax.contracts import Batch, Method, Predictions
from landmarks_jax.data import pipeline
from landmarks_jax.data.synthetic import faces
from landmarks_jax.runtime import checkpoint, guards, logs, run_folder, sharding

root, mesh = pathlib.Path(__file__).parents[1], sharding.mesh
page = """
from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=16, count=20)
REGRESSION = dict(protocol='regression', data=FACES, size=4)

def get_config():
  return ConfigDict(dict(
    data=FACES,
    method=dict(name='tiny'),
    optimizer=dict(name='sgd', learning_rate=.3),
    steps=6,
    batch_size=8,
    log_every=2,
    checkpoint_every=2,
    keep=9,
    evals=dict(
      few=dict(**REGRESSION, labels=9, draws=2, every=3, batch_size=12),
      all=REGRESSION,
    ),
  ))
"""


def build(*, mean, std, width: int = 3, margin: int = 0, bad: tuple[int, ...] = ()):
  """Colours mapped linearly and chased by noise: every part of a method, in milliseconds.

  bad: steps, from 1, whose loss is no number. It takes no `constrain`: that is optional.
  """

  def init(rng, batch):
    return {'w': jax.random.normal(rng, (3, width))}, {'seen': jnp.zeros(())}

  def maps(params, image):
    x = (jnp.asarray(image, float) / 255 - jnp.asarray(mean)) / jnp.asarray(std)
    return x.reshape(len(x), 4, x.shape[1] // 4, 4, -1, 3).mean((2, 4)) @ params['w']

  def loss(params, aux, batch, rng, step):
    y = maps(params, batch.image)
    value = ((y - jax.random.normal(rng, y.shape)) ** 2).mean()
    value = jnp.where(jnp.isin(step + 1, jnp.asarray(bad, int)), jnp.nan, value)
    return value, ({'seen': aux['seen'] + y.mean()}, {'size': jnp.abs(y).mean()})

  return Method(
    init,
    loss,
    lambda params, aux, image, size: (maps(params, image) + aux['seen'],),
    calibrate=lambda params, aux, batch, rng, n: {'seen': aux['seen'] - 1.0},
    views=lambda batch, rng: jnp.stack([jnp.asarray(batch.image, float)] * 2),
  )


@functools.cache
def face(split, frame, index):
  """A picture is rendered once for all tests: that is what takes time."""
  return render(faces.source(split=split, frame=frame), index)


render = faces.Faces.__getitem__


def plant(monkeypatch):
  """Makes `method=dict(name='tiny')` known."""
  real = completion.find

  def find(folder, name, *, section='name'):
    if (folder, name) == ('methods', 'tiny'):
      return types.SimpleNamespace(build=build)
    return real(folder, name, section=section)

  monkeypatch.setattr(completion, 'find', find)
  remembered = lambda self, index: dict(face(self.split, self.frame, int(index)))  # noqa: E731
  monkeypatch.setattr(faces.Faces, '__getitem__', remembered)


def on_devices(monkeypatch, count):
  """Runs from here on use so many devices."""
  monkeypatch.setattr(sharding, 'mesh', functools.partial(mesh, jax.devices()[:count]))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
  """tiny('name', '--config.KEY=VALUE') trains in tmp_path/name, on one device: its exit code."""
  plant(monkeypatch)
  on_devices(monkeypatch, 1)
  (tmp_path / 'page.py').write_text(page)
  return lambda name, *changes: command('train', tmp_path, name, *changes)


@functools.cache
def whole():
  """One undisturbed run, shared: its folder (in the folder of its page) and what it printed."""
  folder = pathlib.Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  (folder / 'page.py').write_text(page)
  out, err = io.StringIO(), io.StringIO()
  with pytest.MonkeyPatch.context() as patch:
    plant(patch)
    on_devices(patch, 1)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      assert command('train', folder, 'run') == 0, err.getvalue()
  assert err.getvalue() == ''
  return folder / 'run', out.getvalue()


def copied(tmp_path):
  """A copy of it, as tmp_path/run."""
  return shutil.copytree(whole()[0], tmp_path / 'run')


def command(name, folder, workdir, *changes):
  config = [f'--config={folder}/page.py'] if name == 'train' else []
  return main(['x', name, *config, f'--workdir={folder}/{workdir}', *changes])


def rows(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def arrays(workdir, step=None):
  tree = checkpoint.read_variables(workdir / 'checkpoints', ('params', 'aux', 'opt'), step=step)
  return jax.tree.leaves(tree)


def assert_same_run(one, other):
  assert (one / 'metrics.jsonl').read_text() == (other / 'metrics.jsonl').read_text()
  for a, b in zip(arrays(one), arrays(other), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_run_leaves_numbers_pictures_config_and_checkpoints():
  run, out = whole()
  names = {str(path.relative_to(run)) for path in run.rglob('*')}
  assert names >= {
    'config.json',
    'metrics.jsonl',
    'pictures/views_00000000.png',
    'pictures/landmarks/few_00000003.png',
    'pictures/landmarks/few_00000006.png',
    'pictures/landmarks/all_00000006.png',
    *(f'checkpoints/{step}' for step in (2, 4, 6)),
  }
  assert any(name.startswith('tensorboard/') for name in names)
  config = json.loads((run / 'config.json').read_text())
  assert config['method']['mean'] == [0.435, 0.382, 0.351]  # the data's, saved with the weights
  assert config['seed'] == 0
  views = np.asarray(Image.open(run / 'pictures/views_00000000.png'))
  assert views.shape == (2 * 16 + 2, 8 * (16 + 2) - 2, 3)
  told = r'step 4/6  loss [\d.]+  [\d.]+ pictures/s  ETA \d+ s  memory [\d.]+ [GM]B'
  assert sum(re.fullmatch(told, line) is not None for line in out.splitlines()) == 1


def test_the_views_of_a_large_batch_stay_where_they_are(monkeypatch):
  devices, image = mesh(), np.arange(32 * 4 * 4 * 3, dtype=np.uint8).reshape(32, 4, 4, 3)
  method = types.SimpleNamespace(views=lambda batch, rng: jnp.stack([batch.image] * 2))
  parts, drawings = mock.Mock(method=method, rng_train=jax.random.key(0)), mock.Mock()
  fetched, fetch = [], sharding.to_host
  monkeypatch.setattr(sharding, 'to_host', lambda x: fetched.append(x) or fetch(x))
  run = types.SimpleNamespace(experiment=parts, mesh=devices, logs=drawings)
  running.Run._draw_views(run, sharding.to_global(Batch(image=image), devices))
  assert [x.shape for x in fetched] == [(2, 8, 4, 4, 3)]
  (_, _, sheet), _ = drawings.write_picture.call_args
  np.testing.assert_array_equal(sheet[:4, :4], image[0])
  np.testing.assert_array_equal(sheet[-4:, -4:], image[7])


def test_losses_and_three_rows_are_logged_and_printed():
  run, out = whole()
  found = rows(run)
  losses = {row['step']: row['train/loss'] for row in found if 'train/loss' in row}
  assert sorted(losses) == [2, 4, 6]
  assert np.isfinite(list(losses.values())).all()
  evals = [(row['step'], min(row).split('/')[0]) for row in found if 'train/loss' not in row]
  assert evals == [(3, 'few'), (6, 'all'), (6, 'few')]
  names = ['', '_mean_shape', '_random_init']
  few = {f'few/regression/{m}{n}' for m in ('inter_ocular', 'left_right_confusion') for n in names}
  assert found[-1].keys() == {'step', *few, *(f'{name}_std' for name in few)}
  bounds = {f'all/regression/inter_ocular{n}_{end}' for n in names for end in ('low', 'high')}
  assert found[-2].keys() == {'step', *bounds, *(name.replace('few', 'all') for name in few)}
  scores = found[-2]
  cells = [
    '{:.2f} [{:.2f}, {:.2f}]'.format(
      *(scores[f'all/regression/inter_ocular{name}{end}'] for end in ('', '_low', '_high'))
    )
    for name in ('_mean_shape', '_random_init', '')
  ]
  lines = [re.split('  +', line.strip()) for line in out.splitlines()]
  head = lines.index(['inter-ocular error, %']) + 1
  assert lines[head] == ['mean shape', 'random init', 'trained']
  assert ['all (all labels)', *cells] in lines[head:]


def test_a_score_to_select_that_is_not_found_is_said_with_those_that_are(tiny, capsys):
  assert tiny('run', '--config.select=few/regression/inter_ocular_first') == 2
  message = capsys.readouterr().err
  assert message.startswith("error: config.select='few/regression/inter_ocular_first' is none of")
  assert 'few: few/regression/inter_ocular, few/regression/inter_ocular_mean_shape, ' in message


def test_the_last_step_is_logged_however_short_the_run(tiny, tmp_path):
  assert tiny('run', '--config.steps=1', '--config.log_every=50', '--config.evals={}') == 0
  (row,) = rows(tmp_path / 'run')
  assert row.keys() >= {'step', 'train/loss', 'train/learning_rate', 'train/size'}
  assert row['step'] == 1


def test_the_same_command_again_prints_the_table_and_trains_nothing(
  tiny, tmp_path, capsys, monkeypatch
):
  def never(*_, **__):
    raise AssertionError('pictures were read')

  run = copied(tmp_path)
  monkeypatch.setattr(pipeline, 'training_batches', never)
  monkeypatch.setattr(pipeline, 'cached', never)
  assert tiny('run') == 0
  first, *table = capsys.readouterr().out.splitlines()
  assert first == f'resuming {run} from step 6'
  assert table == whole()[1].splitlines()[-len(table) :]
  assert len(table) > 6
  assert_same_run(whole()[0], run)


def test_another_config_is_refused_with_both_values(tiny, tmp_path, capsys):
  run = copied(tmp_path)
  assert tiny('run', '--config.method.width=5', '--config.optimizer.learning_rate=.1') == 2
  assert capsys.readouterr().err == (
    f'error: {run} was made by another config (there -> here):\n'
    '  method.width: 3 -> 5\n'
    '  optimizer.learning_rate: 0.3 -> 0.1\n'
    'Use another --workdir, or the same config to continue.\n'
  )
  files = [path.relative_to(run) for path in run.rglob('*') if path.is_file()]
  assert files
  assert all((run / f).read_bytes() == (whole()[0] / f).read_bytes() for f in files)


def test_an_error_of_one_process_is_raised_on_all(monkeypatch):
  said = [None, 'h1 has no folder', None]
  monkeypatch.setattr(sharding, 'of_all', lambda own: said if own is None else [own])
  with pytest.raises(ValueError, match=r'^process 1: h1 has no folder$'):
    processes.together(lambda: None)
  with pytest.raises(FileNotFoundError, match=r'^here$'):
    processes.together(mock.Mock(side_effect=FileNotFoundError('here')))
  said = [None]
  processes.together(lambda: None)


@pytest.mark.parametrize('errors', [1, 2])  # of what the data complete, or of the checks
def test_a_run_ends_with_the_error_of_another_process(tiny, tmp_path, capsys, monkeypatch, errors):
  found = [[None]] * (errors - 1) + [[None, 'no such file']]
  monkeypatch.setattr(sharding, 'of_all', lambda own: found.pop(0) if own is None else [own])
  assert tiny('run') == 2
  assert capsys.readouterr().err == 'error: process 1: no such file\n'
  assert not (tmp_path / 'run').exists()


def test_what_does_not_change_the_numbers_may_change_when_a_run_continues(tiny, tmp_path, capsys):
  run = copied(tmp_path)
  config = (run / 'config.json').read_bytes()
  for step in (4, 6):
    shutil.rmtree(run / f'checkpoints/{step}')
  handling = {'cache': 'stream', 'workers': 1, 'keep': 7, 'stuck_after': 99}
  changes = [f'--config.{key}={value}' for key, value in handling.items()]
  assert tiny('run', *changes, '--config.method.width=5') == 2
  refused = capsys.readouterr().err
  assert 'method.width: 3 -> 5' in refused
  assert 'keep' not in refused
  assert tiny('run', *changes) == 0
  told = capsys.readouterr().out
  assert told.count(f'{run} continues with cache=stream (was auto), keep=7 (was') == 1
  assert 'workers=1 (was 0)' in told
  assert 'resuming' in told
  assert (run / 'config.json').read_bytes() == config
  assert_same_run(whole()[0], run)


def test_what_follows_from_the_number_of_steps_is_not_named_beside_it(tiny, tmp_path, capsys):
  run = copied(tmp_path)
  assert tiny('run', '--config.steps=9') == 2
  assert f'{run} was made by another config (there -> here):\n  steps: 6 -> 9\nUse' in (
    capsys.readouterr().err
  )


def test_two_processes_do_not_train_in_one_folder(tiny, tmp_path, capsys):
  run = copied(tmp_path)
  held = run_folder.lock(run)
  assert tiny('run') == 2
  told = capsys.readouterr().err
  assert told.startswith(f'error: another process trains in {run}; wait for its end, or stop it')
  held.close()
  assert tiny('run') == 0
  assert_same_run(whole()[0], run)
  run_folder.lock(run).close()  # a run that has ended holds nothing


def test_a_run_of_a_version_with_fewer_options_resumes(tiny, tmp_path, capsys):
  run = copied(tmp_path)
  config = json.loads((run / 'config.json').read_text())
  del config['init_from'], config['select'], config['method']['width']
  (run / 'config.json').write_text(json.dumps(config))
  assert tiny('run') == 0
  assert 'from step 6' in capsys.readouterr().out
  del config['steps'], config['method']
  (run / 'config.json').write_text(json.dumps(config))
  assert tiny('run') == 2
  assert "\n  method: '(absent)' -> {" in capsys.readouterr().err


def test_a_run_that_stops_anywhere_resumes_as_if_it_had_not(tiny, tmp_path, capsys, monkeypatch):
  calls, stops = itertools.count(), set()

  def stopping(function):
    def wrapped(*args, **kwargs):
      if (call := next(calls)) in stops:
        stops.remove(call)
        raise KeyboardInterrupt
      return function(*args, **kwargs)

    return wrapped

  monkeypatch.setattr(logs.Logs, 'write', stopping(logs.Logs.write))
  monkeypatch.setattr(checkpoint.Checkpoints, 'save', stopping(checkpoint.Checkpoints.save))
  # Counted over all tries: before step 2's line; before its checkpoint; in step 3's evaluation;
  # before step 4's checkpoint; between the last one and its evaluations; between those two.
  stops |= {0, 2, 5, 8, 14, 16}
  codes = []
  while not codes or codes[-1] == 130:
    codes.append(tiny('stopped'))
  assert codes == [130] * 6 + [0]
  assert stops == set()
  assert capsys.readouterr().err.count('the same command continues') == 6
  assert_same_run(whole()[0], tmp_path / 'stopped')


def test_a_signal_saves_the_step_under_way_and_the_run_resumes_bit_for_bit(
  tiny, tmp_path, capsys, monkeypatch
):
  def sending(number, function, *, at):
    calls = itertools.count(1)

    def wrapped(*args, **kwargs):
      if next(calls) == at:
        os.kill(os.getpid(), number)
      return function(*args, **kwargs)

    return wrapped

  def run(number, owner, name, *, at):
    with monkeypatch.context() as patch:
      patch.setattr(owner, name, sending(number, getattr(owner, name), at=at))
      return tiny('stopped')

  saved = tmp_path / 'stopped/checkpoints'
  assert run(signal.SIGINT, guards.DelayedChecks, 'add', at=1) == 130
  assert (saved / '1').is_dir()
  assert run(signal.SIGTERM, pictures, 'sheet', at=1) == 75  # in the evaluation after step 3
  assert (saved / '3').is_dir()
  assert run(signal.SIGTERM, pipeline, 'training_batches', at=1) == 75  # before any step
  assert run(signal.SIGTERM, guards.DelayedChecks, 'add', at=2) == 75
  assert sorted(path.name for path in saved.iterdir()) == ['1', '2', '3', '4', '5']
  assert capsys.readouterr().err.count('the same command continues') == 4
  assert tiny('stopped') == 0
  assert_same_run(whole()[0], tmp_path / 'stopped')


def test_a_resumed_run_decides_where_its_pictures_are_before_it_evaluates(tiny, monkeypatch):
  order = []

  def spied(owner, name):
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
      order.append(name)
      if order == ['choose_cache', 'evaluate']:
        raise KeyboardInterrupt
      return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)

  spied(inputs.Inputs, 'choose_cache')
  spied(experiment.Experiment, 'evaluate')
  assert tiny('run') == 130
  order.append('resumed')
  assert tiny('run') == 0
  assert order[:5] == ['choose_cache', 'evaluate', 'resumed', 'choose_cache', 'evaluate']


@pytest.mark.parametrize(
  ('name', 'listed'),
  [
    ('my_high_baseline/regression/inter_ocular', True),
    ('faces/regression/inter_ocular_n10', True),
    ('faces/regression/inter_ocular_n10_std', False),
    ('faces/regression/inter_ocular_random_init', False),
    ('faces/matching/same_paper', False),
  ],
)
def test_a_line_lists_the_trained_row_whatever_the_evaluation_is_called(name, listed):
  assert running.headline({name: 1.5}) == (f'{name} 1.5' if listed else '')


def test_one_device_and_eight_give_one_result(tiny, tmp_path, monkeypatch):
  on_devices(monkeypatch, 8)
  assert tiny('eight', '--config.keep=1') == 0
  for a, b in zip(rows(tmp_path / 'eight'), rows(whole()[0]), strict=True):
    assert a.keys() == b.keys()
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-3)
  assert [p.name for p in (tmp_path / 'eight/checkpoints').iterdir()] == ['6']


@pytest.mark.parametrize('cache', ['device', 'host', 'stream'])
def test_pictures_from_any_memory_or_from_disk_give_one_result(tiny, tmp_path, cache):
  assert tiny(cache, f'--config.cache={cache}') == 0
  assert_same_run(whole()[0], tmp_path / cache)
  for name in ('few_00000003', 'all_00000006'):
    sheets = [run / f'pictures/landmarks/{name}.png' for run in (whole()[0], tmp_path / cache)]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


@pytest.mark.parametrize('cache', ['device', 'stream'])
def test_pictures_stand_with_their_own_points(tiny, tmp_path, cache):
  config = configs.changed(configs.load(f'{tmp_path}/page.py'), [f'cache={cache}'])
  config['evals']['all']['margin'] = 2
  parts = experiment.Experiment(completion.complete(config))
  points = np.random.default_rng(0).normal(size=(2, 5, 2))
  index = np.array([4, 19])
  given = Predictions(points, points + 1, np.ones((2, 5), bool), np.ones(2), index)
  predictions = {'mean_shape/0': given._replace(points=0 * points), 'trained/0': given}
  kind, found = pictures.shown(parts, 'all', predictions)
  assert kind == 'landmarks'
  test = faces.source(split='test', frame=16, count=20)
  for image, i in zip(found['images'], index, strict=True):
    np.testing.assert_array_equal(image, test[i]['image'][2:14, 2:14])
  np.testing.assert_array_equal(found['points'], points)
  np.testing.assert_array_equal(found['target'], points + 1)


def test_a_run_traces_its_step_and_its_first_weights_once(tiny, monkeypatch):
  traced, real = [], build

  @functools.wraps(real)  # its options are read
  def watched(**options):
    made = real(**options)
    return made._replace(
      init=lambda *given: traced.append('init') or made.init(*given),
      loss=lambda *given: traced.append('loss') or made.loss(*given),
    )

  monkeypatch.setattr(sys.modules[__name__], 'build', watched)
  assert tiny('run', '--config.steps=1', '--config.evals={}') == 0
  assert sorted(traced) == ['init', 'loss']


def loses(change, more=lambda rng: {}):
  """Parts of the method with another outcome of `loss`, change(value, aux, metrics).

  more: further entries of aux.
  """
  found = build(mean=(0.5,) * 3, std=(0.2,) * 3)

  def loss(params, aux, *given):
    value, (after, metrics) = found.loss(params, {'seen': aux['seen']}, *given)
    value, after, metrics = change(value, {**aux, **after}, metrics)
    return value, (after, metrics)

  def first(rng, batch):
    params, aux = found.init(rng, batch)
    return params, aux | more(rng)

  return {'init': first, 'loss': loss}


BROKEN = [
  (
    loses(lambda *found: found, lambda rng: {'rng': rng}),
    'aux/rng of the state is a typed key.*keep jax.random.key_data',
  ),
  (
    loses(lambda value, aux, metrics: (value, aux | {'more': value}, metrics)),
    r'aux/more of the state is absent before a step and float32\[\] after it',
  ),
  (
    loses(
      lambda value, aux, metrics: (value, aux | {'n': value}, metrics),
      lambda rng: {'n': jnp.zeros(2)},
    ),
    r'aux/n of the state is float32\[2\] before a step and float32\[\] after it',
  ),
  (
    loses(lambda value, aux, metrics: (value, aux | {'n': {}}, metrics), lambda rng: {'n': ()}),
    'a step changes the structure of the state from .* to ',
  ),
  (
    loses(lambda value, aux, metrics: (value, aux, {'all': jnp.zeros(3) + value})),
    r'the metric all is float32\[3\]; expected one number',
  ),
  (
    loses(lambda value, aux, metrics: (value, aux, {'all': {'a': value}})),
    r"the metric all is {'a': 'float32\[\]'}; expected one number",
  ),
  (
    loses(lambda value, aux, metrics: (value, aux, {'loss': value})),
    "the method's loss returns a metric 'loss'; the names loss, grad_norm, .* are taken",
  ),
  (
    {'describe': lambda params, aux, image, size: image / 1.0},
    r'describe gave \[\d+, 16, 16, 3\]; expected a tuple of maps \[B, h, w, C\]',
  ),
  (
    {'describe': lambda params, aux, image, size: (image.mean((1, 2)),)},
    r'describe gave a tuple of \[\d+, 3\]; expected a tuple of maps',
  ),
]


@pytest.mark.parametrize('evaluated', [True, False])
@pytest.mark.parametrize(('parts', 'told'), BROKEN)
def test_a_method_that_breaks_its_contract_is_told_before_it_trains(
  tiny, tmp_path, capsys, monkeypatch, parts, told, evaluated
):
  broken = lambda **options: real(**options)._replace(**parts)  # noqa: E731
  real = build
  monkeypatch.setattr(sys.modules[__name__], 'build', functools.wraps(build)(broken))
  evals = () if evaluated else ['--config.evals={}']
  assert tiny('run', *evals) == 2
  assert re.search(told, capsys.readouterr().err)
  assert not (tmp_path / 'run').exists()


def test_a_dataset_that_breaks_its_contract_is_told_before_it_trains(
  tiny, tmp_path, capsys, monkeypatch
):
  real = faces.Faces.__getitem__
  numbered = lambda self, index: real(self, index) | {'index': np.int32(0)}  # noqa: E731
  monkeypatch.setattr(faces.Faces, '__getitem__', numbered)
  assert tiny('run') == 2
  assert 'error: synthetic/faces, example 19: index is 0; expected' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_a_loss_that_is_no_number_stops_the_run(tiny, tmp_path, capsys):
  wild = '--config.optimizer.learning_rate=1e30', '--config.optimizer.schedule=constant'
  assert tiny('run', *wild, '--config.checkpoint_every=1') == 2
  assert capsys.readouterr().err == (
    'error: loss is inf at step 2, learning rate 1e+30; the last checkpoint is of step 1. '
    'Try a smaller optimizer.learning_rate, or skip_nonfinite=N to leave out up to N such steps.\n'
  )
  assert all(np.isfinite(x).all() for x in arrays(tmp_path / 'run'))


def test_a_gpu_in_use_cannot_become_deterministic(tiny, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert tiny('run', '--config.deterministic=True') == 2
  assert capsys.readouterr().err.startswith(
    'error: config.deterministic=True: JAX uses the GPU already, and XLA reads its flags only once'
  )
  assert not (tmp_path / 'run').exists()


def test_the_first_step_that_is_not_finite_is_named_however_rarely_it_logs(tiny, tmp_path, capsys):
  rarely = '--config.log_every=50', '--config.checkpoint_every=2'
  assert tiny('run', *rarely, '--config.method.bad=(3, 5)', '--config.evals={}') == 2
  assert capsys.readouterr().err.startswith(
    'error: loss is nan at step 3, learning rate 0.15; the last checkpoint is of step 2. '
  )


def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path, capsys):
  """Their loss was finite: it is that of the weights before the step."""
  wild = '--config.optimizer.learning_rate=1e39', '--config.optimizer.schedule=constant'
  assert tiny('run', *wild, '--config.checkpoint_every=1') == 2
  said = capsys.readouterr().err
  assert said.startswith('error: the weights are not finite after step 1, ')
  assert 'there is no checkpoint' in said
  assert not list((tmp_path / 'run/checkpoints').glob('[0-9]*'))


def test_steps_that_are_not_finite_are_skipped_and_counted_also_by_a_resumed_run(
  tiny, tmp_path, capsys, monkeypatch
):
  options = '--config.method.bad=(2, 5)', '--config.log_every=1', '--config.evals={}'
  assert tiny('one', *options, '--config.skip_nonfinite=1') == 2
  assert 'error: loss is nan at step 5, the 2. of such steps' in capsys.readouterr().err
  assert tiny('one', *options, '--config.skip_nonfinite=1') == 2  # from step 4
  assert 'at step 5, the 2. of such steps' in capsys.readouterr().err
  assert tiny('two', *options, '--config.skip_nonfinite=2') == 0
  assert [row['train/skipped'] for row in rows(tmp_path / 'two')] == [0, 1, 1, 1, 2, 2]
  updates = np.array([0, 1, 1, 2, 3, 3])  # before each step: the schedule waits
  rates = [row['train/learning_rate'] for row in rows(tmp_path / 'two')]
  np.testing.assert_allclose(rates, 0.15 * (1 + np.cos(np.pi * (updates + 1) / 6)), atol=1e-6)
  assert 'skipped 2' in capsys.readouterr().out
  assert all(np.isfinite(x).all() for x in arrays(tmp_path / 'two'))
  assert tiny('one', *options, '--config.skip_nonfinite=2') == 0  # as the error advises
  assert_same_run(tmp_path / 'two', tmp_path / 'one')


def test_input_that_hangs_is_reported_with_its_shard(tiny, tmp_path, capsys, monkeypatch):
  told, real = threading.Event(), running.Run._tell_stuck

  def tell(self, seconds):
    real(self, seconds)
    told.set()

  def hanging(*args, **kwargs):
    for step, batch in enumerate(batches(*args, **kwargs)):
      assert step != 1 or told.wait(60)
      yield batch

  batches = pipeline.training_batches
  monkeypatch.setattr(pipeline, 'training_batches', hanging)
  monkeypatch.setattr(running.Run, '_tell_stuck', tell)
  assert tiny('run', '--config.stuck_after=1', '--config.evals={}', '--config.steps=2') == 0
  assert re.search(
    r'warning: no batch for \d+ s at step 2, shard 0 of 1, cache=host, workers=0; .* --config',
    capsys.readouterr().err,
  )


def test_a_run_fits_into_the_terabytes_of_a_host(tiny, capsys, monkeypatch):
  monkeypatch.setattr(pipeline, 'free_memory', lambda: 3 << 40)
  assert tiny('run', '--config.steps=1', '--config.evals={}') == 0
  assert '3298.53 GB is free in the memory of this host' in capsys.readouterr().out


def test_a_run_that_cannot_fit_names_the_batch_that_does_and_leaves_no_trace(
  tiny, tmp_path, capsys, monkeypatch
):
  free = {'bytes': 0}
  monkeypatch.setattr(pipeline, 'free_memory', lambda: free['bytes'])
  cached = 20 * (16 * 16 * 3 + 52)  # pictures and their labels
  free['bytes'] = cached + 12 * 2200  # a picture of the batch takes about as much

  def run(name, count):
    code = tiny(name, f'--config.batch_size={count}', '--config.steps=1', '--config.evals={}')
    return code, capsys.readouterr()

  code, said = run('large', 20)
  assert code == 2
  assert not (tmp_path / 'large').exists()
  begins = 'error: config.batch_size=20 does not fit into the 0'
  assert said.err.startswith(begins), said.err
  found = re.search(
    r'in the memory of this host: it needs .* MB \(.*\). config.batch_size=(\d+) would fit$',
    said.err,
  )
  assert found, said.err
  fits = int(found[1])
  assert run('small', fits)[0] == 0
  assert run('next', fits + 1)[0] == 2
  free['bytes'] = 1000
  assert 'No batch would fit' in run('none', 20)[1].err


def test_processes_on_one_host_have_their_part_of_its_memory(tiny, capsys, monkeypatch):
  monkeypatch.setattr(sharding, 'on_this_host', lambda: 4)
  monkeypatch.setattr(pipeline, 'free_memory', lambda: 8 * 10**9)
  assert tiny('run', '--config.steps=1', '--config.evals={}') == 0
  told = '2.00 GB is free in the memory of this host for each of 4 processes\n'
  assert told in capsys.readouterr().out


def test_step_and_weights_are_compiled_once_and_tell_their_memory(tiny, monkeypatch, capsys):
  compiled, collected, real = [], set(), jax.stages.Lowered.compile

  def compile_known(lowered):
    compiled.append(re.search(r'module @(\w+)', lowered.as_text())[1])
    collected.add(gc.isenabled())
    return real(lowered)

  monkeypatch.setattr(jax.stages.Lowered, 'compile', compile_known)
  traced = mock.Mock(wraps=training.make_train_step)
  monkeypatch.setattr(training, 'make_train_step', traced)
  assert tiny('run', '--config.steps=3', '--config.evals={}') == 0
  asked = 'jit__lambda'  # once a process: whether the compiler knows an option
  ours = sorted(name for name in compiled if name != asked)
  assert ours == ['jit_draw_state', 'jit_train_step']
  assert traced.call_count == 1
  assert (collected, gc.isenabled()) == ({False}, True)
  assert re.search(
    r'memory needed: .* MB \(.*\); .* GB is free in the memory', capsys.readouterr().out
  )


def test_without_steps_only_the_evaluations_run(tiny, tmp_path, capsys):
  assert tiny('run', '--config.steps=0', '--config.batch_size=8') == 0
  found = rows(tmp_path / 'run')
  assert [row['step'] for row in found] == [0, 0]
  assert 'compiling' not in capsys.readouterr().out


def test_the_function_takes_what_the_command_takes(monkeypatch, tmp_path):
  plant(monkeypatch)
  data = {'name': 'synthetic/faces', 'frame': 16, 'count': 20}
  scores = train.train(
    tmp_path / 'run',
    data=data,
    method={'name': 'tiny', 'width': 2},
    optimizer={'name': 'adam', 'learning_rate': 0.01},
    steps=1,
    batch_size=8,
    evals={'mine': {'protocol': 'regression', 'data': data, 'size': 4}},
  )
  assert scores == {k: v for k, v in rows(tmp_path / 'run')[-1].items() if k != 'step'}
  assert 'mine/regression/inter_ocular' in scores


def test_epochs_say_how_many_steps_where_the_config_does_not(tiny, tmp_path, capsys):
  epochs = '--config.steps=None', '--config.optimizer.epochs=2'
  assert tiny('run', *epochs, '--config.log_every=1', '--config.evals={}') == 0
  config = json.loads((tmp_path / 'run/config.json').read_text())
  assert config['optimizer']['steps_per_epoch'] == 2  # 20 pictures, 8 a batch
  assert config['steps'] == 4
  rates = [row['train/learning_rate'] for row in rows(tmp_path / 'run')]
  assert rates == [pytest.approx(0.15)] * 2 + [0, 0]
  capsys.readouterr()
  assert tiny('run', *epochs, '--config.log_every=1', '--config.evals={}') == 0
  assert 'from step 4' in capsys.readouterr().out


def test_an_evaluation_may_run_after_every_epoch(tiny, tmp_path):
  evals = 'few/regression/inter_ocular'
  changes = '--config.steps=5', '--config.log_every=1', '--config.evals.few.every=epoch'
  assert tiny('run', *changes) == 0
  config = json.loads((tmp_path / 'run/config.json').read_text())
  assert config['evals']['few']['every'] == 2  # 20 pictures, 8 a batch
  assert [row['step'] for row in rows(tmp_path / 'run') if evals in row] == [2, 4, 5]
  page = configs.changed(configs.load(f'{tmp_path}/page.py'), ['evals.few.every=epoch'])
  parts = experiment.Experiment(completion.complete(page))
  parts.resolve({'evals': {'few': {'every': 7}}})  # as a run began whose folder has grown
  assert parts.config['evals']['few']['every'] == 7


def test_a_run_keeps_the_steps_of_its_epochs_when_its_folder_has_grown(tiny, tmp_path, capsys):
  def add(*numbers):
    for i in numbers:
      noise = np.random.default_rng(i).integers(256, size=(16, 16, 3), dtype=np.uint8)
      Image.fromarray(noise).save(tmp_path / f'pictures/{i:02}.png')

  (tmp_path / 'pictures').mkdir()
  folder = f"dict(name='folder', path='{tmp_path}/pictures', frame=16)"
  (tmp_path / 'page.py').write_text(page.replace('    data=FACES', f'    data={folder}'))
  changes = '--config.steps=None', '--config.optimizer.epochs=3', '--config.evals={}'
  add(*range(16))
  assert tiny('run', *changes) == 0
  config = (tmp_path / 'run/config.json').read_bytes()
  shutil.rmtree(tmp_path / 'run/checkpoints/6')
  add(*range(16, 24))
  capsys.readouterr()
  with pytest.warns(UserWarning, match=r'step 4 \(examples: 16 -> 24') as told:
    assert tiny('run', *changes) == 0
  assert len(told) == 1
  out = capsys.readouterr().out
  assert out.count('note: config.optimizer.steps_per_epoch stays 2, as when the run began') == 1
  assert 'step 6/6' in out
  assert (tmp_path / 'run/config.json').read_bytes() == config
  assert tiny('run', *changes, '--config.optimizer.epochs=4') == 2
  refused = capsys.readouterr().err
  assert '(there -> here):\n  optimizer.epochs: 3 -> 4\n  steps: 6 -> 8\nUse' in refused


# One compiled step serves the killed run and the pages that train alike.
changed = {'frame': 32, 'margin': 0, 'size': 8, 'epochs': 12, 'steps_per_epoch': 1}


def start(page, workdir, *changes):
  """Trains `:smoke` of a page in a process of its own, on one device."""
  config = completion.complete(configs.plain(configs.load(f'{page}:smoke')))
  keys = [key for key in configs.flat(config) if key.split('.')[-1] in changed]
  changes = *(f'--config.{key}={changed[key.split(".")[-1]]}' for key in keys), *changes
  command = 'train', f'--config={page}:smoke', f'--workdir={workdir}', *changes
  return subprocess.Popen(
    [sys.executable, '-u', '-m', 'landmarks_jax', *command],
    cwd=root,
    env=os.environ
    | {'XLA_FLAGS': compiling.QUICKLY, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  """What a process printed, which ended well and without noise."""
  out, err = process.communicate(timeout=900)  # one took 330 s beside three other processes
  assert (process.returncode, err) == (0, '')
  return out


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
  more = '--config.steps=10', '--config.checkpoint_every=2', '--config.evals.faces.every=6'
  demo = root / 'configs/demo.py'
  killed = start(demo, tmp_path / 'killed', *more)
  next(line for line in killed.stdout if line.startswith('step 5/10'))
  killed.kill()
  killed.communicate(timeout=60)
  assert killed.returncode == -signal.SIGKILL
  resumed = start(demo, tmp_path / 'killed', *more)
  whole = start(demo, tmp_path / 'whole', *more)
  assert re.search(r'resuming .*killed from step [24]\n', finish(resumed))
  finish(whole)
  assert_same_run(tmp_path / 'whole', tmp_path / 'killed')
  losses = [row['step'] for row in rows(tmp_path / 'killed') if 'train/loss' in row]
  assert losses == [*range(1, 11)]


def programs(config):
  """What a completed config compiles: its method's and evaluations' switches, not their numbers."""
  numbers = 'data', 'mean', 'std'  # the last two may be None, until the data say them

  def switches(value):
    if isinstance(value, dict):
      return tuple((key, switches(value[key])) for key in sorted(value) if key not in numbers)
    return value if isinstance(value, str | bool) else type(value).__name__

  training = switches({key: config[key] for key in ('base', 'method', 'optimizer')})
  training = config['data']['name'], training  # some data bring pairs of frames
  evals = {name: switches(options) for name, options in config['evals'].items()}
  return training, evals


def chosen_pages():
  """Pages that hold every program between them, and whether for their evaluations, too."""
  held, trainings, chosen = {}, set(), {}
  for page in sorted((root / 'configs').glob('*.py')):
    config = completion.complete(configs.plain(configs.load(f'{page}:smoke')))
    training, evals = programs(config)
    trainings.add(training)
    held[page] = {training, *evals.values()}
  missing = set().union(*held.values())
  while missing:
    page = max(held, key=lambda page: len(missing & held[page]))
    chosen[page] = not missing & held[page] <= trainings
    missing -= held[page]
  return chosen


pages = chosen_pages()


@pytest.fixture(scope='module')
def smoke_runs(request, tmp_path_factory):
  """Folders of the pages that were asked for, as they are ready; two are run at a time."""
  folder = tmp_path_factory.mktemp('smoke')
  asked = [getattr(item, 'callspec', None) for item in request.session.items]
  asked = [spec.params['page'] for spec in asked if spec and 'page' in spec.params]
  alone = threading.Lock()  # Python 3.11 loses count when two threads parse code: SystemError

  def run(page):
    covered = () if pages[page] else ('--config.evals={}', '--config.select=None')
    with alone:
      process = start(page, folder / page.stem, *covered)
    finish(process)
    return folder / page.stem

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    yield {page: pool.submit(run, page) for page in pages if page in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize('page', pages, ids=lambda p: p.stem)
def test_every_page_runs_as_smoke(smoke_runs, page):
  run = smoke_runs[page].result()
  found = rows(run)
  config = json.loads((run / 'config.json').read_text())
  assert found[-1]['step'] == config['steps'] <= 3
  names = {key.split('/')[0] for row in found for key in row} - {'step', 'train'}
  assert names == config['evals'].keys()

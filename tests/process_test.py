"""Two processes of four devices compute, write and keep what one device does."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import methods_test
import numpy as np
import pytest
from PIL import Image
from train_test import arrays, command, on_devices, page, plant, rows

from landmarks_jax.runtime import sharding

TESTS = pathlib.Path(__file__).parent
# Sets of 20 and 9: neither divides over 8 devices. One evaluation of every kind.
PAGE = page.replace(
  'all=REGRESSION',
  """all=REGRESSION,
      pairs=dict(protocol='matching', data=FACES, size=8, count=18, batch_size=3),
      near=dict(protocol='nearest', data=FACES, batch_size=8),
      levels=dict(protocol='layers', data=FACES, size=4, measured=9, batch_size=5)""",
)


def free_port():
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def start(folder, port, process):
  """One of the two processes of pair.py, and files for what it says."""
  files = [(folder / f'{name}_{process}').open('w+') for name in ('out', 'err')]
  given = [sys.executable, '-u', str(TESTS / 'pair.py'), str(folder), str(port), str(process)]
  paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get('PYTHONPATH', '')])
  env = os.environ | {'PYTHONPATH': paths}
  return subprocess.Popen(given, env=env, stdout=files[0], stderr=files[1])


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """The folder in which both have done their work, and how each ended."""
  folder, port = tmp_path_factory.mktemp('pair'), free_port()
  (folder / 'page.py').write_text(PAGE)
  processes = [start(folder, port, process) for process in (0, 1)]
  try:
    codes = [process.wait(timeout=900) for process in processes]
  finally:
    for process in processes:
      process.kill()
  said = [(folder / f'err_{process}').read_text() for process in (0, 1)]
  assert 'done' in (folder / 'out_0').read_text(), said
  return folder, codes


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """The same run on one device of this process."""
  folder = tmp_path_factory.mktemp('one')
  (folder / 'page.py').write_text(PAGE)
  with pytest.MonkeyPatch.context() as patch:
    plant(patch)
    on_devices(patch, 1)
    assert command('train', folder, 'run') == 0
  return folder / 'run'


def assert_near(found, expected):
  for a, b in zip(found, expected, strict=True):
    assert a.keys() == b.keys()
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-3, atol=1e-4)


def test_two_processes_write_the_run_of_one_device(pair, one):
  folder, _ = pair
  assert_near(rows(folder / 'run'), rows(one))
  files = [
    {str(p.relative_to(run)) for p in run.rglob('*') if p.suffix in ('.png', '.json', '.html')}
    for run in (folder / 'run', one)
  ]
  assert {name for name in files[0] if not name.startswith('evaluations/')} == files[1]
  for a, b in zip(arrays(folder / 'run'), arrays(one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_evaluating_on_two_processes_gives_the_scores_of_the_run(pair):
  folder, _ = pair
  found = json.loads((folder / 'run/evaluations/6.json').read_text())['scores']
  last = {k: v for row in rows(folder / 'run') if row['step'] == 6 for k, v in row.items()}
  assert len(found) > 30
  assert found == {name: last[name] for name in found}


def test_only_the_first_process_prints(pair):
  folder, _ = pair
  first, other = ((folder / f'out_{process}').read_text() for process in (0, 1))
  assert len(re.findall(r'^step \d/6  loss', first, re.M)) == 5  # 3 of a run, 2 of a killed one
  # Gloo's lines come in pieces: their ends may stand alone.
  ours = [line for line in other.splitlines() if line and 'peer ranks' not in line]
  assert ours == ['done']


@pytest.mark.parametrize('name', methods_test.METHODS)
def test_every_method_takes_the_same_steps_in_two_processes(pair, name):
  found = dict(np.load(pair[0] / f'{name}.npz'))
  expected = methods_test.twenty_float64_steps(name, 1)
  methods_test.assert_same_steps(expected, (found.pop('losses'), found))


def test_three_float32_steps_are_the_same_in_two_processes(pair):
  found = np.load(pair[0] / 'moco_float32.npy')
  methods_test.assert_rounded_alike(methods_test.Run('moco').steps(3), found)


def test_the_queue_of_two_processes_holds_the_keys_of_the_whole_batches_in_order(pair):
  found = np.load(pair[0] / 'moco.npz')
  _, state = methods_test.twenty_float64_steps('moco', 1)
  (name,) = (path for path in state if 'queue' in path and state[path].ndim == 2)
  batch, queue = methods_test.BATCH, state[name]
  assert len(np.unique(queue.round(6), axis=0)) == len(queue) == 3 * batch
  np.testing.assert_allclose(found[name], queue, atol=1e-8, rtol=0)


def test_when_one_process_is_killed_the_other_ends(pair):
  _, codes = pair
  assert codes[0] == -signal.SIGKILL
  assert codes[1] != 0


@pytest.mark.parametrize('devices', [1, 8])
def test_a_killed_run_of_two_processes_resumes_in_one(pair, one, tmp_path, monkeypatch, devices):
  folder, _ = pair
  plant(monkeypatch)
  on_devices(monkeypatch, devices)
  run = shutil.copytree(folder / 'killed', tmp_path / 'run')
  (tmp_path / 'page.py').write_text(PAGE)
  assert not (run / 'checkpoints/6').exists()
  assert command('train', tmp_path, 'run') == 0
  assert_near(rows(run), rows(one))
  for a, b in zip(arrays(run), arrays(one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ('--coordinator=here:80', 'and --process=I belong together'),
    ('--processes=2 --process=1', 'and --process=I belong together'),
    ('--coordinator=here --processes=2 --process=1', 'here: expected HOST:PORT of process 0'),
    ('--coordinator=here:70000 --processes=2 --process=1', 'expected HOST:PORT'),
    ('--coordinator=here:80 --processes=0 --process=0', '--processes=0: expected 1 or more'),
    ('--coordinator=here:80 --processes=2 --process=2', '--process=2: expected 0 to 1 of 2'),
    ('--distributed', 'no cluster was found'),
  ],
)
def test_options_that_start_no_process_are_one_line(tmp_path, capsys, monkeypatch, given, said):
  def initialize(*_, **__):
    raise ValueError('coordinator_address should be defined.')  # what JAX says

  monkeypatch.setattr(sharding.jax.distributed, 'initialize', initialize)
  (tmp_path / 'page.py').write_text(PAGE)
  for name in ('train', 'evaluate'):
    (tmp_path / 'run').mkdir(exist_ok=True)
    (tmp_path / 'run/config.json').write_text('{"evals": {}}')
    assert command(name, tmp_path, 'run', *given.split()) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert re.fullmatch(f'error: .*{re.escape(said)}.*\n', err)


MEET = """
import sys
from landmarks_jax.cli.main import main

page, workdir, taken, free = sys.argv[1:]
given = ['x', 'train', f'--config={page}', f'--workdir={workdir}', '--processes=2']
for port, process in ((taken, 0), (free, 1)):
  where = [f'--coordinator=127.0.0.1:{port}', f'--process={process}', '--start_timeout=2']
  print(main(given + where), flush=True)
"""


def test_a_process_that_cannot_meet_the_others_says_so_and_ends(tmp_path):
  (tmp_path / 'page.py').write_text(PAGE)
  with socket.socket(socket.AF_INET6) as taken:
    taken.bind(('::', 0))
    taken.listen()
    port, other = taken.getsockname()[1], free_port()
    given = [str(tmp_path / 'page.py'), str(tmp_path / 'run'), str(port), str(other)]
    done = subprocess.run(
      [sys.executable, '-c', MEET, *given], cwd=TESTS.parent, capture_output=True, timeout=120
    )
  said = [line for line in done.stderr.decode().splitlines() if line.startswith('error: ')]
  assert (done.returncode, done.stdout.split()) == (2, [b'2'])  # the second ends the process
  assert f'process 0 cannot start at 127.0.0.1:{port}: ' in said[0]
  assert 'whose port is free' in said[0]
  assert f'process 0 did not answer at 127.0.0.1:{other} in 2 s' in said[1]
  assert not (tmp_path / 'run').exists()


APART = """
import pathlib
import sys

from landmarks_jax.cli import train
from landmarks_jax.runtime import sharding

folder, port, process = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sharding.start(f'127.0.0.1:{port}', 2, process)
own = {'name': 'folder', 'path': str(folder / f'data_{process}')}
NEAR = {'protocol': 'nearest', 'data': own, 'train': 'all', 'test': 'all'}
faces = {'name': 'synthetic/faces', 'frame': 16, 'count': 20}
config = {'data': own, 'method': {'name': 'moco'}, 'optimizer': {'name': 'sgd', 'learning_rate': 1}}
config |= {'steps': 3, 'batch_size': 8}
for data, evals in ((own, {}), (faces, {'near': NEAR})):
  try:
    train.run_config(config | {'data': data, 'evals': evals}, folder / 'run')
  except ValueError as error:
    print('refused', error, flush=True)
sharding.of_main(None)  # JAX ends all once process 0 has ended
"""


def test_processes_with_other_pictures_are_refused_by_both_before_anything_is_written(tmp_path):
  for process, count in enumerate((10, 9)):  # a copy that was cut short
    (tmp_path / f'data_{process}').mkdir()
    for i in range(count):
      Image.new('RGB', (40, 40), (i, 0, 0)).save(tmp_path / f'data_{process}/{i}.png')
  given = [sys.executable, '-c', APART, str(tmp_path), str(free_port())]
  options = {'cwd': TESTS.parent, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
  both = [subprocess.Popen([*given, str(i)], text=True, **options) for i in (0, 1)]
  try:
    said = [process.communicate(timeout=120)[0] for process in both]
  finally:
    for process in both:
      process.kill()
  for text in said:
    for name in ('training', 'evals.near.test'):
      assert f'pictures.{name}.examples: 10 -> 9' in text
    assert text.count('refused process 1 has another config or other pictures') == 2
    assert 'data.path' not in text
  assert not (tmp_path / 'run').exists()

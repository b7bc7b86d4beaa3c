"""SIGTERM at one of two processes, while they train and while one waits for the other."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

TESTS = pathlib.Path(__file__).parent


def test_sigterm_at_one_process_stops_both_after_one_step_and_they_resume(tmp_path):
  import train_test  # late: it computes, which must wait for the processes to be joined

  (tmp_path / 'page.py').write_text(train_test.page.replace('steps=6', 'steps=12'))
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    port = str(found.getsockname()[1])
  paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get('PYTHONPATH', '')])
  pair = [
    subprocess.Popen(
      [sys.executable, __file__, tmp_path, port, str(process)],
      env=os.environ | {'PYTHONPATH': paths, 'XLA_FLAGS': ''},
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in (0, 1)
  ]
  try:
    said = [process.communicate(timeout=300)[1] for process in pair]
  finally:
    for process in pair:
      process.kill()
  assert [process.returncode for process in pair] == [0, 0], said
  assert all(text.count('stopped by SIGTERM; the same command continues') == 1 for text in said)
  stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
  assert train_test.rows(stopped) == train_test.rows(whole)
  for a, b in zip(train_test.arrays(stopped), train_test.arrays(whole), strict=True):
    np.testing.assert_array_equal(a, b)


def test_sigterm_while_a_process_waits_for_the_others_asks_for_another_start(tmp_path):
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    where = found.getsockname()
  config = TESTS.parent / 'configs/demo.py'
  train = f'-m landmarks_jax train --config={config}:smoke --workdir={tmp_path}/run'
  join = f'--coordinator={where[0]}:{where[1]} --processes=2 --process=0 --start_timeout=120'
  with subprocess.Popen(
    [sys.executable, *train.split(), *join.split()],
    env=os.environ | {'PYTHONPATH': str(TESTS.parent)},
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      until_it_listens(where, process)
      process.send_signal(signal.SIGTERM)
      _, said = process.communicate(timeout=60)
    finally:
      process.kill()
  assert process.returncode == 75, said
  assert 'stopped by SIGTERM with nothing to save; the same command continues' in said
  assert not (tmp_path / 'run').exists()


def until_it_listens(where, process):
  for _ in range(600):
    if process.poll() is not None:
      return
    with socket.socket() as probe:
      if probe.connect_ex(where) == 0:
        return
    time.sleep(0.1)


def be_one_of_two(folder, port, process):
  """Trains undisturbed, then until SIGTERM, and goes on."""
  import pytest
  import train_test

  from landmarks_jax.cli.main import main
  from landmarks_jax.runtime import guards

  def train(name, *options):
    page, workdir = f'--config={folder}/page.py', f'--workdir={folder}/{name}'
    return main(['x', 'train', page, workdir, '--config.evals={}', *options])

  def add(self, step, metrics):
    if step == 3 and process == '1':
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(2)  # JAX looks for it every second
    return real(self, step, metrics)

  patch, real = pytest.MonkeyPatch(), guards.DelayedChecks.add
  train_test.plant(patch)
  join = f'--coordinator=127.0.0.1:{port}', '--processes=2', f'--process={process}'
  assert train('whole', *join) == 0  # first: JAX keeps the step that they agree on
  with patch.context() as until:
    until.setattr(guards.DelayedChecks, 'add', add)
    assert train('stopped') == 75
  (step,) = {path.name for path in (pathlib.Path(folder) / 'stopped/checkpoints').iterdir()} - {'2'}
  assert 3 <= int(step) < 12
  assert train('stopped') == 0


if __name__ == '__main__':
  be_one_of_two(*sys.argv[1:])

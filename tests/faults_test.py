"""What happens to disks and processes does not change what a run ends with."""

import errno
import os
import pathlib
import re
import subprocess
import sys

import pytest
from train_test import assert_same_run, copied, tiny, whole  # noqa: F401

from landmarks_jax.runtime import checkpoint

ROOT = pathlib.Path(__file__).parents[1]


def largest(step):
  return max((p for p in step.rglob('*') if p.is_file()), key=lambda path: path.stat().st_size)


def cut(path):
  os.truncate(path, path.stat().st_size // 2)


def flip(path):
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize('damage', [cut, flip])
def test_a_run_resumes_from_before_its_damaged_checkpoint_to_the_same_end(
  tiny,  # noqa: F811
  tmp_path,
  capsys,
  damage,
):
  run = copied(tmp_path)
  for step in ('4', '6'):
    damage(largest(run / 'checkpoints' / step))
  with pytest.warns(UserWarning, match='is damaged') as told:
    assert tiny('run') == 0
  assert [
    re.search(r'step (\d) .* kept as (.*); .* step (\d),', str(w.message)).groups() for w in told
  ] == [
    ('6', '6.damaged', '2'),
    ('4', '4.damaged', '2'),
  ]
  assert f'resuming {run} from step 2' in capsys.readouterr().out
  assert_same_run(whole()[0], run)
  assert {path.name for path in (run / 'checkpoints').iterdir()} == {
    *('2', '4', '6', '4.damaged', '6.damaged')
  }


def test_a_run_without_a_whole_checkpoint_does_not_resume_and_changes_nothing(
  tiny,  # noqa: F811
  tmp_path,
  capsys,
):
  run = copied(tmp_path)
  for step in ('2', '4', '6'):
    cut(largest(run / 'checkpoints' / step))
  before = sorted(str(path) for path in run.rglob('*'))
  assert tiny('run') == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert 'no step in' in line
  assert '[2, 4, 6] are damaged; put back a copy of one' in line
  after = {str(path) for path in run.rglob('*')} - set(before)
  assert not [path for path in after if 'tensorboard' not in path]


def test_a_run_whose_disk_is_full_says_so_and_resumes_to_the_same_end(
  tiny,  # noqa: F811
  tmp_path,
  capsys,
  monkeypatch,
):
  real = checkpoint.Checkpoints._write_checksums

  def full(self):
    if self._saving == 4:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'somewhere')
    real(self)

  monkeypatch.setattr(checkpoint.Checkpoints, '_write_checksums', full)
  assert tiny('run') == 2
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error == (
    f'error: step 4 could not be written to {tmp_path}/run/checkpoints (No space left on device); '
    'make it possible to write there, then continue; complete steps there: [2]'
  )
  monkeypatch.setattr(checkpoint.Checkpoints, '_write_checksums', real)
  assert tiny('run') == 0
  assert f'resuming {tmp_path}/run from step 2' in capsys.readouterr().out
  assert_same_run(whole()[0], tmp_path / 'run')


def test_killed_runs_of_the_benchmark_resume_to_the_same_end():
  options = '--kills=2', '--steps=4', '--only', 'kill'
  done = subprocess.run(
    [sys.executable, 'benchmarks/faults.py', *options],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  codes = '(-9 x 2|0 x 1, -9 x 1)'  # one may have ended before it was killed
  assert re.search(rf'^\| SIGKILL \| 2 \| {codes} \| 0 \| yes \|', done.stdout, re.M)

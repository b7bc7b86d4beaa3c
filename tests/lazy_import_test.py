"""`import landmarks_jax` is instant; what it offers is imported when it is asked for."""

import subprocess
import sys

import pytest

import landmarks_jax
from landmarks_jax import api

HEAVY = 'tensorflow', 'torch', 'matplotlib', 'sklearn'


def fresh(code):
  """The last line that a new process prints."""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  return done.stdout.splitlines()[-1]


def test_the_import_takes_less_than_two_seconds():
  code = 'import landmarks_jax, time; print(time.process_time())'  # of the whole process, so far
  assert min(float(fresh(code)) for _ in range(3)) < 2


def test_the_import_brings_nothing_heavy():
  code = (
    f'import sys, landmarks_jax; print([m for m in {HEAVY} + ("jax", "orbax") if m in sys.modules])'
  )
  assert fresh(code) == '[]'


def test_what_is_offered_brings_no_other_framework():
  code = (
    f'import sys; from landmarks_jax import load; print([m for m in {HEAVY} if m in sys.modules])'
  )
  assert fresh(code) == '[]'


def test_all_of_the_api_is_offered_and_the_modules_for_code_of_one_s_own():
  modules = {'contracts', 'losses', 'metrics'}
  assert set(landmarks_jax.__all__) == modules | set(api.__all__)
  for name in api.__all__:
    assert getattr(landmarks_jax, name) is getattr(api, name)


@pytest.mark.parametrize('use', ['contracts.Batch', 'losses.info_nce', 'metrics.mean_distance'])
def test_a_module_is_imported_on_first_use(use):
  assert fresh(f'import landmarks_jax; print(callable(landmarks_jax.{use}))') == 'True'


def test_what_is_offered_is_there():
  for name in landmarks_jax.__all__:
    assert hasattr(landmarks_jax, name)
    assert name in dir(landmarks_jax)
  with pytest.raises(AttributeError, match="no attribute 'laod'"):
    _ = landmarks_jax.laod

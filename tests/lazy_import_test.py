"""`import landmarks_jax` is instant; what it offers is imported when it is asked for."""

import subprocess
import sys

import pytest

import landmarks_jax

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


def test_what_is_offered_is_there():
  for name in landmarks_jax.__all__:
    assert callable(getattr(landmarks_jax, name))
    assert name in dir(landmarks_jax)
  with pytest.raises(AttributeError, match="no attribute 'laod'"):
    _ = landmarks_jax.laod

"""A file that is replaced is the earlier one or the new one, and an error leaves no trace."""

import os
import subprocess
import sys

import pytest

from landmarks_jax.runtime import atomic

KILLED = """
import os, pathlib, signal
from landmarks_jax.runtime import atomic
with atomic.replaced(pathlib.Path({!r})) as part:
  part.write_text('new')
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_is_new_at_the_end_of_the_block(tmp_path):
  file = tmp_path / 'a.txt'
  file.write_text('old')
  with atomic.replaced(file) as part:
    part.write_text('new')
    assert file.read_text() == 'old'
  assert file.read_text() == 'new'
  assert os.listdir(tmp_path) == ['a.txt']
  atomic.write_text(file, 'été')
  assert file.read_bytes() == 'été'.encode()


def test_a_new_file_replaces_none(tmp_path):
  file = tmp_path / 'a.txt'
  atomic.create_text(file, 'été')
  with pytest.raises(FileExistsError):
    atomic.create_text(file, 'later')
  assert file.read_bytes() == 'été'.encode()
  assert os.listdir(tmp_path) == ['a.txt']


def test_an_error_leaves_the_earlier_file_and_no_trace(tmp_path):
  file = tmp_path / 'a.txt'
  file.write_text('old')

  def full():
    with atomic.replaced(file) as part:
      part.write_text('ne')
      raise OSError('disk full')

  with pytest.raises(OSError, match='disk full'):
    full()
  assert file.read_text() == 'old'
  assert os.listdir(tmp_path) == ['a.txt']


def test_a_kill_leaves_the_earlier_file(tmp_path):
  file = tmp_path / 'a.txt'
  file.write_text('old')
  assert subprocess.run([sys.executable, '-c', KILLED.format(str(file))], check=False).returncode
  assert file.read_text() == 'old'

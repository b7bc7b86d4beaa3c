"""Output of commands gets its name once complete; an error before that leaves no trace."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

FULL = errno.ENOSPC, errno.EDQUOT  # no room, or none left for this user


def check_new(output: pathlib.Path) -> None:
  """Raises ValueError if `output` exists, unless as an empty folder: nothing is overwritten.

  Raises OSError if it cannot be made, which is tried, so that no work is done in vain.
  """
  if output.resolve() == pathlib.Path.cwd():  # renaming over it would leave a deleted folder
    raise ValueError(f'--output={output} is the folder you are in; give the name of one in it')
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise ValueError(f'--output={output} exists already and is not overwritten; give another')
  above = output.absolute()
  there = next(folder for folder in (above, *above.parents) if folder.exists())
  try:
    tempfile.TemporaryDirectory(prefix='.', suffix='.draft', dir=there).cleanup()
  except OSError as error:
    reason = f'nothing can be made in {there} ({error.strerror}); give another'
    raise OSError(error.errno, reason, f'--output={output}') from error


def check_outside(output: pathlib.Path, option: str, folder: pathlib.Path) -> None:
  """Raises ValueError if `output` is in a folder of pictures, whose next readers would find it."""
  if output.resolve().is_relative_to(folder.resolve()):
    raise ValueError(f'--output={output} is inside --{option}={folder}; put it elsewhere')


@contextlib.contextmanager
def full_disk_told(output: pathlib.Path) -> Iterator[None]:
  """The error of a full disk in this block names `output`, and says what to do."""
  try:
    yield
  except OSError as error:
    if error.errno not in FULL:
      raise
    advice = 'make room and run the command again'
    if output.is_dir() and any(output.iterdir()):
      advice = 'what is in it is complete; make room and give another --output for the rest'
    raise OSError(error.errno, f'{os.strerror(error.errno)}; {advice}', str(output)) from error


@contextlib.contextmanager
def draft(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `output`, for a file or a folder, renamed to it at the end of the block.

  Missing parent folders are made; an error removes them again.
  """
  made = [folder for folder in output.absolute().parents if not folder.exists()]
  path = output.with_name(f'.{output.name}.{os.getpid()}.draft')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_told(output):
      yield path
      path.replace(output)
  except BaseException:
    for _ in range(3 if path.is_dir() else 0):
      shutil.rmtree(path, ignore_errors=True)
      time.sleep(0.1)  # threads of a failed save may still write there, and make it anew
    with contextlib.suppress(OSError):  # folders that were not made, or are in use
      path.unlink(missing_ok=True)
      for folder in made:
        folder.rmdir()
    raise

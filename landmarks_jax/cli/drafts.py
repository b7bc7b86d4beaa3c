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


def check_new(output: pathlib.Path, *, inside: bool = False) -> None:
  """Raises ValueError if `output` exists, unless as an empty folder: nothing is overwritten.

  Raises OSError if it cannot be made, which is tried, so that no work is done in vain. inside: the
  command writes into the folder `output`; otherwise it makes a `draft`, which lies beside it.
  """
  place = output.resolve()
  if place == pathlib.Path.cwd():  # renaming over it would leave a deleted folder
    raise ValueError(f'--output={output} is the folder you are in; give the name of one in it')
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise ValueError(f'--output={output} exists already and is not overwritten; give another')
  if not inside and os.path.ismount(place):  # nothing can be renamed over it
    raise ValueError(
      f'--output={output} is the root of a file system; give the name of a folder in it'
    )
  folders = (place, *place.parents) if inside else place.parents
  there = next(folder for folder in folders if folder.exists())
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
      advice = 'what is in it is complete; make room and give another --output'
    raise OSError(error.errno, f'{os.strerror(error.errno)}; {advice}', str(output)) from error


@contextlib.contextmanager
def draft(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `output`, for a file or a folder, renamed to it at the end of the block.

  If `output` is a link, it is beside what the link leads to. Missing parent folders are made; an
  error removes them again.
  """
  place = output.resolve()
  made = [folder for folder in place.parents if not folder.exists()]
  path = place.with_name(f'.{place.name}.{os.getpid()}.draft')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_told(output):
      yield path
      path.replace(place)
  except BaseException as error:
    shutil.rmtree(path, ignore_errors=True)
    if isinstance(error, OSError) and error.errno in FULL:
      for _ in range(2):  # threads of a failed save may still write there, and make it anew
        time.sleep(0.1)
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # folders that were not made, or are in use
      path.unlink(missing_ok=True)
      for folder in made:
        folder.rmdir()
    raise

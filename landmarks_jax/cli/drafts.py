"""Output of commands gets its name once complete; an error before that leaves no trace."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


def check_new(output: pathlib.Path) -> None:
  """Raises ValueError if `output` exists, unless as an empty folder: nothing is overwritten."""
  if output.resolve() == pathlib.Path.cwd():  # renaming over it would leave a deleted folder
    raise ValueError(f'--output={output} is the folder you are in; give the name of one in it')
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise ValueError(f'--output={output} exists already and is not overwritten; give another')


def check_outside(output: pathlib.Path, option: str, folder: pathlib.Path) -> None:
  """Raises ValueError if `output` is in a folder of pictures, whose next readers would find it."""
  if output.resolve().is_relative_to(folder.resolve()):
    raise ValueError(f'--output={output} is inside --{option}={folder}; put it elsewhere')


@contextlib.contextmanager
def draft(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `output`, for a file or a folder, renamed to it at the end of the block.

  Missing parent folders are made; an error removes them again.
  """
  made = [folder for folder in output.absolute().parents if not folder.exists()]
  path = output.with_name(f'.{output.name}.{os.getpid()}.draft')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    path.replace(output)
  except BaseException:
    if path.is_dir():
      shutil.rmtree(path)
    with contextlib.suppress(OSError):  # folders that were not made, or are in use
      path.unlink(missing_ok=True)
      for folder in made:
        folder.rmdir()
    raise

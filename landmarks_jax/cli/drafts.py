"""What a command makes gets its name when it is whole; an error before that leaves no trace."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


def check_new(output: pathlib.Path) -> None:
  """Raises ValueError if there is something that would be overwritten; an empty folder is none."""
  if output.resolve() == pathlib.Path.cwd():  # whoever stands in it would lose it by the new name
    raise ValueError(f'--output={output} is the folder you are in; give the name of one in it')
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise ValueError(f'--output={output} exists already and is not overwritten; give another')


@contextlib.contextmanager
def draft(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `output`, for a file or a folder, that gets that name at the end of the block.

  Folders above are made. An error leaves none of them.
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
    with contextlib.suppress(OSError):  # those that it did not come to, or that are in use
      path.unlink(missing_ok=True)
      for folder in made:
        folder.rmdir()
    raise

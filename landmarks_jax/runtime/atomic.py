"""Files that are complete under their name, whatever happens while they are written."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

PART = '.part'  # the end of the name of a file that is being written


@contextlib.contextmanager
def replaced(file: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `file`, which replaces it at the end of the block, once it is on disk.

  A kill at any time leaves the earlier file or the new one. An error leaves no trace.
  """
  part = file.with_name(f'{file.name}.{os.getpid()}{PART}')
  try:
    yield part
    with part.open('rb') as written:
      os.fsync(written.fileno())
    part.replace(file)
  finally:
    part.unlink(missing_ok=True)


def write_text(file: pathlib.Path, text: str) -> None:
  """Writes or replaces a text file, in UTF-8."""
  with replaced(file) as part:
    part.write_text(text, encoding='utf-8')

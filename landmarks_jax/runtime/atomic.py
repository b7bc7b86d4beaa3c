"""Files that are complete under their name, whatever happens while they are written."""

import contextlib
import os
import pathlib
import secrets
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


def create_text(file: pathlib.Path, text: str) -> None:
  """Writes a new text file, in UTF-8.

  Raises FileExistsError if there is one, also if another process made it a moment ago: of several
  that create it together, one succeeds.
  """
  part = file.with_name(f'{file.name}.{secrets.token_hex(8)}{PART}')  # hosts may share a number
  try:
    with part.open('w', encoding='utf-8') as written:
      written.write(text)
      written.flush()
      os.fsync(written.fileno())
    try:
      os.link(part, file)
    except FileExistsError:
      raise
    except OSError:  # a file system without hard links
      with file.open('x', encoding='utf-8') as written:
        written.write(text)
  finally:
    part.unlink(missing_ok=True)

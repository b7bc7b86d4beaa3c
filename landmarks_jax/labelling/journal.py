"""What was confirmed, on disk before anybody is told so: a file to which lines are only added.

Each line is one JSON object. `Journal.append` returns after the line has reached the disk; what a
kill or a full disk leaves of a line that was never acknowledged is cut off again.
"""

import fcntl
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

FILE, LOCK = 'journal.jsonl', 'lock'
CLOSED = 'it was closed'
HEADER = {'journal': 'landmarks_jax labels', 'format': 1}

Entry = dict[str, Any]


class NotSaved(OSError):
  """A line did not reach the disk; the message says why. Nothing of it counts."""


class Journal:
  """The lines of a folder, and the only writer of it.

  The folder is made if absent. Raises BlockingIOError where another server has it, and ValueError
  for a file with a damaged line, other than the last one, which is cut off: `torn` then holds it.
  """

  def __init__(self, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    self.path, self._broken = folder / FILE, ''
    self._lock = _lock(folder / LOCK)
    try:
      self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        self.entries, self.torn = self._replay()
      except BaseException:
        os.close(self._file)
        raise
    except BaseException:
      os.close(self._lock)
      raise

  def append(self, entry: Mapping[str, Any]) -> None:
    """Adds a line; when this returns it is on disk. Raises NotSaved, and then it is not there."""
    if self._broken:
      raise NotSaved(f'{self.path} cannot be written any more ({self._broken}); start again')
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    try:
      data = text.encode()
    except UnicodeEncodeError:  # names of files that are no UTF-8
      data = json.dumps(entry, allow_nan=False).encode()
    try:
      _write(self._file, data + b'\n', at=self._end)
      os.fsync(self._file)
    except OSError as error:
      self._cut_back(error)
      raise NotSaved(f'{self.path}: {error.strerror}; this was not saved') from error
    self._end += len(data) + 1
    self.entries.append(dict(entry))

  def say(self, where: str) -> None:
    """Tells the address of this server to whoever finds the folder locked."""
    os.ftruncate(self._lock, 0)
    os.pwrite(self._lock, f'process {os.getpid()}, {where}'.encode(), 0)

  def close(self) -> None:
    """Lets another server have the folder; nothing can be added any more."""
    if self._broken != CLOSED:
      self._broken = CLOSED
      os.close(self._file)
      os.close(self._lock)

  def _replay(self) -> tuple[list[Entry], bytes]:
    data = _read(self._file)
    if not data:
      self._end, self.entries = 0, []
      self.append(HEADER)
      _sync_folder(self.path.parent)
      return [], b''
    lines = data.split(b'\n')
    last = lines.pop()  # empty after a whole line
    if not json.dumps(HEADER).encode().startswith((lines or [last])[0]):
      raise ValueError(f'{self.path} is no journal of labels: it begins with {data!r:.60}')
    entries = [_parsed(self.path, n, line) for n, line in enumerate(lines, start=1)]
    self._end = len(data) - len(last)
    if last:
      os.ftruncate(self._file, self._end)
      os.fsync(self._file)
    return (entries[1:], last) if entries else self._replay()

  def _cut_back(self, error: OSError) -> None:
    """Removes what a failed write left, so that the next line does not follow half a line."""
    try:
      os.ftruncate(self._file, self._end)
      os.fsync(self._file)
    except OSError:
      self._broken = str(error.strerror)


def _parsed(path: pathlib.Path, number: int, line: bytes) -> Entry:
  try:
    entry = json.loads(line)
  except ValueError as error:
    raise ValueError(
      f'{path}, line {number} is damaged ({error}); mend or delete that line, the others count'
    ) from error
  if not isinstance(entry, dict):
    raise ValueError(f'{path}, line {number} holds {entry!r:.60}; expected an object')
  return entry


def _lock(path: pathlib.Path) -> int:
  """The lock of a folder, which ends with the process, however that ends; some disks know none."""
  file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = _read(file).decode('utf-8', 'replace') or 'an unknown process'
    os.close(file)
    raise BlockingIOError(
      f'{path.parent} is open in another server ({holder}); use that page, or stop it first'
    ) from error
  except OSError:  # such as ENOLCK, ENOTSUP
    pass
  return file


def _read(file: int) -> bytes:
  parts, at = [], 0
  while part := os.pread(file, 1 << 20, at):
    parts.append(part)
    at += len(part)
  return b''.join(parts)


def _write(file: int, data: bytes, *, at: int) -> None:
  """All of it, or OSError: a full disk may take a part first."""
  view = memoryview(data)
  while view:
    written = os.pwrite(file, view, at)
    view, at = view[written:], at + written


def _sync_folder(folder: pathlib.Path) -> None:
  """A new file is there after a power failure only when its folder has been written."""
  file = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(file)
  finally:
    os.close(file)

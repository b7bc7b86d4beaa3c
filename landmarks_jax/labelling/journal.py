"""An append-only journal of confirmed labels: on disk before they are acknowledged.

Each line is one JSON object. `Journal.append` returns once the line has reached the disk; a partial
line left by a kill or a full disk was never acknowledged and is cut off. A last line that lacks
only its newline counts.
"""

import codecs
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from landmarks_jax.runtime import locks, reading

FILE, LOCK = 'journal.jsonl', 'lock'
CLOSED = 'it was closed'
HEADER = {'journal': 'landmarks_jax labels', 'format': 1}

Entry = dict[str, Any]


class NotSaved(OSError):
  """A line did not reach the disk and does not count; the message says why."""


class Journal:
  """The journal of a folder, and its only writer.

  The folder is created if absent. Raises BlockingIOError if another server has it open, and
  ValueError for a damaged line, except an incomplete last one, which is cut off and kept in `torn`.
  A journal that an editor saved counts, with its own ends of lines.
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
    """Adds a line, which is on disk when this returns. Raises NotSaved if it could not be added."""
    if self._broken:
      raise NotSaved(f'{self.path} cannot be written any more ({self._broken}); start again')
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    try:
      data = text.encode()
    except UnicodeEncodeError:  # names of files that are not UTF-8
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
    """Records the address of this server for anyone who finds the folder locked."""
    os.ftruncate(self._lock, 0)
    os.pwrite(self._lock, f'process {os.getpid()}, {where}'.encode(), 0)

  def close(self) -> None:
    """Releases the folder to other servers; nothing can be added any more."""
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
    first = (lines or [last])[0].removeprefix(codecs.BOM_UTF8).rstrip(b'\r')  # of an editor
    if not json.dumps(HEADER).encode().startswith(first):
      raise ValueError(f'{self.path} is not a journal of labels: it begins with {data!r:.60}')
    entries = [_parsed(self.path, n, line) for n, line in enumerate(lines, start=1)]
    try:
      entries += [_parsed(self.path, len(lines) + 1, last)] if last else []
    except ValueError:
      self._end = len(data) - len(last)
      os.ftruncate(self._file, self._end)
      os.fsync(self._file)
      return (entries[1:], last) if entries else self._replay()
    self._end = len(data)
    if last:  # whole, but an editor left out its end
      _write(self._file, b'\n', at=self._end)
      os.fsync(self._file)
      self._end += 1
    return entries[1:], b''

  def _cut_back(self, error: OSError) -> None:
    """Removes what a failed write left, so that the next line starts cleanly."""
    try:
      os.ftruncate(self._file, self._end)
      os.fsync(self._file)
    except OSError:
      self._broken = str(error.strerror)


def _parsed(path: pathlib.Path, number: int, line: bytes) -> Entry:
  where = f'{path}, line {number}'
  try:
    entry = reading.parse_json(line, where)
    reading.check_kinds(entry, {}, where)
  except ValueError as error:
    raise ValueError(f'{error}; fix or delete that line, the others count') from error
  return entry


def _lock(path: pathlib.Path) -> int:
  """The lock of a folder, released when the process ends; some file systems know no locks."""
  file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    locks.take(file)
  except BlockingIOError as error:
    holder = _read(file).decode('utf-8', 'replace') or 'an unknown process'
    os.close(file)
    raise BlockingIOError(
      f'{path.parent} is open in another server ({holder}); use that page, or stop it first'
    ) from error
  return file


def _read(file: int) -> bytes:
  parts, at = [], 0
  while part := os.pread(file, 1 << 20, at):
    parts.append(part)
    at += len(part)
  return b''.join(parts)


def _write(file: int, data: bytes, *, at: int) -> None:
  """Writes all of the data or raises OSError: a full disk may accept a part first."""
  view = memoryview(data)
  while view:
    written = os.pwrite(file, view, at)
    view, at = view[written:], at + written


def _sync_folder(folder: pathlib.Path) -> None:
  """Syncs a folder, without which a new file may not survive a power failure."""
  file = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(file)
  finally:
    os.close(file)

"""What was acknowledged is there after anything; what was not never half is."""

import codecs
import errno
import fcntl
import json
import os
import resource
import subprocess
import sys

import pytest

from landmarks_jax.labelling.journal import FILE, HEADER, Journal, NotSaved

ENTRIES = [{'picture': 'a/ä "b".jpg', 'n': 1}, {'picture': '<b>', 'n': [1.5, None]}, {'n': '顔'}]


def reopened(folder):
  journal = Journal(folder)
  journal.close()
  return journal


@pytest.fixture
def folder(tmp_path):
  journal = Journal(tmp_path / 'labels')
  for entry in ENTRIES:
    journal.append(entry)
  journal.close()
  return tmp_path / 'labels'


def test_entries_are_replayed_in_order(folder):
  assert reopened(folder).entries == ENTRIES
  assert reopened(folder).torn == b''
  lines = (folder / FILE).read_text(encoding='utf-8').splitlines()
  assert [json.loads(line) for line in lines] == [HEADER, *ENTRIES]


def test_a_kill_at_any_byte_loses_only_what_was_not_acknowledged(folder):
  data = (folder / FILE).read_bytes()
  ends = [i + 1 for i, byte in enumerate(data) if byte == ord('\n')]
  for cut in range(1, len(data) + 1):
    (folder / FILE).write_bytes(data[:cut])
    journal = Journal(folder)
    whole = sum(end - 1 <= cut for end in ends)  # all but the end of the line
    assert journal.entries == ENTRIES[: max(0, whole - 1)]
    journal.append({'next': cut})
    journal.close()
    assert reopened(folder).entries == [*ENTRIES[: max(0, whole - 1)], {'next': cut}]


def test_a_last_line_whose_end_an_editor_left_out_counts(folder):
  data = (folder / FILE).read_bytes()
  (folder / FILE).write_bytes(data.removesuffix(b'\n'))
  journal = reopened(folder)
  assert (journal.entries, journal.torn) == (ENTRIES, b'')
  assert (folder / FILE).read_bytes() == data


def test_a_journal_that_an_editor_of_windows_saved_is_read_and_continued(folder):
  data = (folder / FILE).read_bytes()
  (folder / FILE).write_bytes(codecs.BOM_UTF8 + data.replace(b'\n', b'\r\n'))
  journal = Journal(folder)
  journal.append({'n': 5})
  journal.close()
  assert reopened(folder).entries == [*ENTRIES, {'n': 5}]


def test_a_torn_line_is_told_and_cut_off(folder):
  with (folder / FILE).open('ab') as file:
    file.write(b'{"half": ')
  assert reopened(folder).torn == b'{"half": '
  assert reopened(folder).torn == b''


@pytest.mark.parametrize(
  'line', [b'{"a": \n', b'[1]\n', b'\n', b'\xff\xfe\n', b'[' * 100_000 + b'\n']
)
def test_a_damaged_line_before_the_end_is_named(folder, line):
  data = (folder / FILE).read_bytes().splitlines(keepends=True)
  (folder / FILE).write_bytes(b''.join([*data[:2], line, *data[2:]]))
  with pytest.raises(ValueError, match=r'journal\.jsonl, line 3'):
    Journal(folder)
  assert (folder / FILE).read_bytes().splitlines(keepends=True)[3] == data[2]


@pytest.mark.parametrize('text', ['a', 'name,x,y\n', '{"journal": "other"}\n'])
def test_a_foreign_file_is_left_as_it_is(tmp_path, text):
  (tmp_path / FILE).write_text(text)
  with pytest.raises(ValueError, match='not a journal of labels'):
    Journal(tmp_path)
  assert (tmp_path / FILE).read_text() == text


def test_a_second_server_is_told_who_has_the_folder(folder):
  first = Journal(folder)
  first.say('http://localhost:8377')
  code = 'import pathlib, sys\nfrom landmarks_jax.labelling.journal import Journal\n'
  code += 'Journal(pathlib.Path(sys.argv[1]))'
  done = subprocess.run(
    [sys.executable, '-c', code, folder], capture_output=True, text=True, check=False
  )
  assert f'open in another server (process {os.getpid()}, http://localhost:8377)' in done.stderr
  first.close()
  assert reopened(folder).entries == ENTRIES


@pytest.fixture
def little_room():
  """little_room(path, bytes): the file cannot grow further, as on a full disk; None: it can."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)

  def limit(path, room):
    size = before[0] if room is None else path.stat().st_size + room
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

  yield limit
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize('room', [0, 5, 21])
def test_without_room_nothing_is_said_to_be_saved_and_no_half_line_stays(folder, little_room, room):
  before, journal = (folder / FILE).read_bytes(), Journal(folder)
  little_room(folder / FILE, room)
  with pytest.raises(NotSaved, match='File too large; this was not saved'):
    journal.append({'a': 'long enough for it'})
  little_room(folder / FILE, None)
  assert (folder / FILE).read_bytes() == before
  assert journal.entries == ENTRIES
  journal.append({'n': 4})  # there is room again
  journal.close()
  assert reopened(folder).entries == [*ENTRIES, {'n': 4}]


def test_a_line_that_did_not_reach_the_disk_does_not_count(folder, monkeypatch):
  journal, sync = Journal(folder), os.fsync

  def fail(file):
    monkeypatch.setattr(os, 'fsync', sync)
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(os, 'fsync', fail)
  with pytest.raises(NotSaved, match='Input/output error'):
    journal.append({'n': 4})
  journal.append({'n': 5})
  journal.close()
  assert reopened(folder).entries == [*ENTRIES, {'n': 5}]


def test_a_file_that_cannot_be_cut_back_is_not_written_any_more(folder, monkeypatch):
  journal = Journal(folder)

  def fail(*_):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(os, 'fsync', fail)
  monkeypatch.setattr(os, 'ftruncate', fail)
  with pytest.raises(NotSaved):
    journal.append({'n': 4})
  monkeypatch.undo()
  with pytest.raises(NotSaved, match='start again'):
    journal.append({'n': 5})
  journal.close()


def test_an_acknowledged_line_is_on_disk_before_append_returns(folder, monkeypatch):
  journal, sync, seen = Journal(folder), os.fsync, []

  def look(file):
    sync(file)
    seen.append((folder / FILE).read_bytes().endswith(b'{"n": 4}\n'))

  monkeypatch.setattr(os, 'fsync', look)
  journal.append({'n': 4})
  journal.close()
  assert seen == [True]


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
def test_a_disk_that_knows_no_locks_is_no_other_server(folder, monkeypatch, number):
  def refuse(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  assert reopened(folder).entries == ENTRIES

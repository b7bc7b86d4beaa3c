import collections
import concurrent.futures
import errno
import fcntl
import hashlib
import json
import os
import pickle
import resource
import shutil
import time

import numpy as np
import pytest

from landmarks_jax.data import prepared, preparing
from landmarks_jax.data.catalogue import Chosen, Entry
from landmarks_jax.data.source import BadImage, Info

names, colours = ('left_eye', 'right_eye', 'beak'), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
info = Info(names, ((0, 1),), (0, 2), *colours, ('wet', 'big'))


class Birds:
  """23 pictures of 12x12 made from their number; `bad` ones cannot be read, `reads` are counted."""

  def __init__(self, bad=(), count=23, frame=12, info=info, classes=('finch', 'owl', 'wren')):
    self.info, self.frame, self.classes, self.bad = info, frame, classes, bad
    self.reads, self.fails_at = collections.Counter(), None
    self.entries = [self.entry(row) for row in range(count)]

  def entry(self, row):
    splits = [(), ('train',), ('train', 'mafl test'), ('test/old',)][row % 4]
    if not self.classes:
      return Entry(f'{row}.jpg', splits)
    return Entry(f'ö{row % 3}/{row}.jpg', splits, row % 3, (row % 2 == 0, row % 5 == 0))

  def example(self, row):
    self.reads[row] += 1
    if row == self.fails_at:
      raise KeyboardInterrupt
    if row in self.bad:
      raise BadImage(f'/somewhere/{row}.jpg', 'is torn')
    rng = np.random.default_rng(row if row != 17 else 4)  # 17 shows what 4 shows
    example = {'image': rng.integers(0, 256, (self.frame, self.frame, 3), np.uint8)}
    if not self.info.names:
      return example
    points = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
    scale = np.float32(np.hypot(*(points[0] - points[2])))
    return example | {'points': points, 'visible': rng.random(3) < 0.7, 'scale': scale}


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
  monkeypatch.setattr(preparing, 'LEAST', 7)


def store(birds, path, **options):
  options = {'name': 'birds', 'options': {'crop': 'pad'}, 'workers': 1} | options
  return preparing.prepare(birds, path, **options)


def shards(path):
  return sorted(path.glob('birds-*'))


def content(path):
  return {file.name: file.read_bytes() for file in path.iterdir()}


def same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])
    assert np.asarray(a[key]).dtype == np.asarray(b[key]).dtype


@pytest.mark.parametrize(
  'birds', [Birds(), Birds(info=info._replace(names=(), scale='frame', attributes=()), classes=())]
)
def test_what_is_stored_is_what_was_there(tmp_path, birds):
  store(birds, tmp_path / 'out')
  assert len(shards(tmp_path / 'out')) == 4
  stored = prepared.open_catalogue(str(tmp_path / 'out'), 'birds', pytest.fail, frame=12)
  assert (stored.info, stored.classes, stored.frame) == (birds.info, birds.classes, 12)
  assert list(stored.entries) == birds.entries
  assert stored.options == {'crop': 'pad'}
  rows = [21, 3, 0, 22, 7, 6, 14]
  for row in rows:
    same(stored.example(row), birds.example(row))
  for ours, theirs in zip(Chosen(stored, rows), Chosen(birds, rows), strict=False):
    same(ours, theirs)
  stored.example(3)['image'][:] = 0  # a picture is the reader's own
  for row in (-1, 23):
    with pytest.raises(IndexError, match=f'row {row} of 23'):
      stored.example(row)


def test_tfds_opens_it(tmp_path):
  import tensorflow_datasets as tfds

  birds = Birds(bad=range(7, 14))  # a shard without pictures
  store(birds, tmp_path)
  (source,) = tfds.builder_from_directory(tmp_path).as_data_source().values()
  rows = [row for row in range(23) if row not in birds.bad]
  assert len(source) == len(rows) == 16
  for row, theirs in zip(rows, source, strict=True):
    entry, ours = birds.entries[row], birds.example(row)
    assert theirs.pop('scale') == ours.pop('scale')
    same({key: theirs[key] for key in ours}, ours)
    assert theirs['file'] == entry.file.encode()
    assert list(theirs['splits']) == [split.encode() for split in entry.splits]
    assert (theirs['label'], tuple(theirs['attributes'])) == (entry.label, entry.attributes)
  assert source.dataset_info.features['label'].names == ['finch', 'owl', 'wren']


def test_bad_pictures_are_left_out_counted_and_listed(tmp_path):
  birds = Birds(bad=(2, 9, 22))
  manifest = store(birds, tmp_path)
  stored = prepared.Prepared(tmp_path)
  rows = [row for row in range(23) if row not in birds.bad]
  assert list(stored.entries) == [birds.entries[row] for row in rows]
  for place, row in enumerate(rows):
    same(stored.example(place), birds.example(row))
  assert manifest['skipped'] == {birds.entries[row].file: 'is torn' for row in birds.bad}
  assert (manifest['pictures'], manifest['kept']) == (23, 20)
  assert manifest['splits'] == {
    'mafl test': {'kept': 4, 'skipped': 2},
    'test/old': {'kept': 5, 'skipped': 0},
    'train': {'kept': 9, 'skipped': 3},
  }
  assert manifest == json.loads((tmp_path / 'manifest.json').read_text()) | {
    'info': birds.info._asdict(),
    'classes': birds.classes,
  }


def test_duplicates_are_listed(tmp_path):
  birds = Birds()
  plain = birds.example

  def example(row):  # 9 is 3, but for one dark pixel
    one = plain(3 if row == 9 else row)
    one['image'][5, 5] = one['image'][5, 5] // 2 if row == 9 else one['image'][5, 5]
    return one

  birds.example = example
  found = store(birds, tmp_path)['duplicates']
  assert found == {'exact': [['ö1/4.jpg', 'ö2/17.jpg']], 'near': [['ö0/3.jpg', 'ö0/9.jpg']]}


def test_the_bytes_do_not_depend_on_threads_or_the_clock(tmp_path, monkeypatch):
  store(Birds(bad=[5]), tmp_path / 'a', workers=1)
  monkeypatch.setattr(time, 'time', lambda: 2e9)
  store(Birds(bad=[5]), tmp_path / 'b', workers=3)
  assert content(tmp_path / 'a') == content(tmp_path / 'b')


@pytest.mark.parametrize('row', [0, 3, 7, 16, 22])
def test_a_failure_costs_only_the_unfinished_shards(tmp_path, row):
  store(Birds(bad=[5]), tmp_path / 'whole')
  birds = Birds(bad=[5])
  birds.fails_at = row
  with pytest.raises(KeyboardInterrupt):
    store(birds, tmp_path / 'out')
  assert not (tmp_path / 'out/manifest.json').exists()
  with pytest.raises(ValueError, match='out is not finished; run the command'):
    prepared.open_catalogue(str(tmp_path / 'out'), 'birds', Birds, frame=12)
  birds.fails_at = None
  there = {int(file.name.split('-of-')[0][-5:]) for file in (tmp_path / 'out').glob('index-*')}
  assert {*range(row // 7)} <= there <= {*range(4)} - {row // 7}  # a later one may have been begun
  birds.reads.clear()
  seen = []
  store(birds, tmp_path / 'out', progress=lambda *counts: seen.append(counts))
  redone = [row for row in range(23) if row // 7 not in there]
  assert birds.reads == collections.Counter(redone)
  assert seen[-1] == (23, len(redone))
  assert content(tmp_path / 'whole') == content(tmp_path / 'out')


def test_an_interruption_stops_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(preparing, 'INTERVAL', 0.01)
  birds = Birds()
  plain = birds.example
  birds.example = lambda row: time.sleep(0.02) or plain(row)

  def interrupt(done, made):
    assert done == made < 23
    if made >= 8:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    store(birds, tmp_path, progress=interrupt)
  assert len(birds.reads) <= 12
  assert len(list(tmp_path.glob('index-*'))) == 1


def test_an_interruption_before_the_manifest_redoes_no_picture(tmp_path, monkeypatch):
  birds = Birds()
  with monkeypatch.context() as patch:
    patch.setattr(preparing, '_write_dataset_info', lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
      store(birds, tmp_path)
  assert preparing.finished(tmp_path, name='birds', frame=12, options={'crop': 'pad'}) is None
  birds.reads.clear()
  store(birds, tmp_path)
  assert not birds.reads
  assert len(prepared.Prepared(tmp_path).entries) == 23


def harm(path, kind):
  data = path.read_bytes()
  if kind == 'missing':
    path.unlink()
  elif kind == 'truncated':
    path.write_bytes(data[:-100])
  else:
    middle = data.index(Birds().example(8)['image'].tobytes()[:50]) if kind == 'pixel' else 99
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


@pytest.mark.parametrize(
  ('file', 'kind', 'told'),
  [
    ('birds-pictures.array_record-00001-of-00004', 'missing', '00001-of-00004 is missing'),
    ('birds-pictures.array_record-00001-of-00004', 'truncated', r'00001-of-00004 has \d+.* bytes'),
    ('birds-pictures.array_record-00001-of-00004', 'pixel', '00001-of-00004 is damaged .*hash'),
    ('index-birds-pictures.array_record-00001-of-00004.npz', 'flipped', 'another checksum'),
    ('index-birds-pictures.array_record-00001-of-00004.npz', 'missing', '.npz is missing'),
    ('manifest.json', 'truncated', 'manifest.json is damaged'),
  ],
)
def test_damage_is_named_and_the_same_command_repairs_it(tmp_path, file, kind, told):
  birds = Birds(bad=[5])
  store(birds, tmp_path)
  before = content(tmp_path)
  harm(tmp_path / file, kind)
  with pytest.raises(ValueError, match=f'{told}.*the command that prepared the folder repairs'):
    prepared.open_catalogue(str(tmp_path), 'birds', Birds, frame=12).example(7)
  assert preparing.finished(tmp_path, name='birds', frame=12, options={'crop': 'pad'}) is None
  birds.reads.clear()
  store(birds, tmp_path)
  assert birds.reads == collections.Counter(range(7, 14) if 'array_record' in file else ())
  assert content(tmp_path) == before


def test_what_is_being_repaired_is_not_finished(tmp_path):
  store(Birds(), tmp_path)
  harm(shards(tmp_path)[1], 'truncated')
  birds, seen = Birds(), []
  store(birds, tmp_path, progress=lambda *_: seen.append((tmp_path / 'manifest.json').exists()))
  assert (seen, len(birds.reads)) == ([False], 7)


def test_a_manifest_that_disagrees_with_the_shards_is_told(tmp_path):
  store(Birds(), tmp_path)
  path = tmp_path / 'manifest.json'
  manifest = json.loads(path.read_text())
  asked = {'name': 'birds', 'frame': 12, 'options': {'crop': 'pad'}}
  assert preparing.finished(tmp_path, **asked) == manifest
  for key, value in (('bytes', 12345), ('index_sha256', 'f' * 64), ('kept', 3)):
    shard = manifest['shards'][2] | {key: value}
    changed = manifest | {'shards': [*manifest['shards'][:2], shard, manifest['shards'][3]]}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r'00002-of-00004.*manifest\.json says'):
      prepared.Prepared(tmp_path)
  shard = manifest['shards'][2] | {'sha256': 'f' * 64}
  path.write_text(json.dumps(manifest | {'shards': [shard]}))
  assert preparing.finished(tmp_path, **asked) is None
  path.write_text(json.dumps(manifest | {'format': 99}))
  with pytest.raises(ValueError, match='in format 99, this landmarks_jax reads format 1'):
    prepared.Prepared(tmp_path)


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'format': None}, 'format is None'),
    ({'name': 5}, 'name is 5'),
    ({'options': []}, r'options is \[\]'),
    ({'classes': None}, 'classes is None'),
    ({'info': {}}, 'info of .* has no names'),
    ({'shards': {}}, r'shards is \{\}'),
    ({'shards': [5]}, 'a shard of .* it is 5'),
    ({'shards': [{}]}, 'a shard of .* has no file'),
  ],
)
def test_a_manifest_of_other_kinds_is_damaged(tmp_path, changes, told):
  store(Birds(), tmp_path)
  path = tmp_path / 'manifest.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(ValueError, match=f'{told}.*the command that prepared the folder repairs it'):
    prepared.Prepared(tmp_path)


def test_a_plan_of_another_kind_is_damaged(tmp_path):
  (tmp_path / 'plan.json').write_text('[]')
  with pytest.raises(ValueError, match=r'plan\.json is damaged.*delete'):
    store(Birds(), tmp_path)


def test_only_what_is_asked_for_is_opened(tmp_path):
  store(Birds(), tmp_path)
  with pytest.raises(ValueError, match='prepared from birds, but cats is asked for'):
    prepared.open_catalogue(str(tmp_path), 'cats', Birds, frame=12)
  with pytest.raises(ValueError, match='with frame=12, but frame=96 is asked for; use frame=12'):
    prepared.open_catalogue(str(tmp_path), 'birds', Birds, frame=96)
  other = {'crop': 'box', 'images': None}
  told = r"frame=12, crop='pad', but frame=9, crop='box' is asked .* --frame=9 --crop=box$"
  with pytest.raises(ValueError, match=told):
    prepared.open_catalogue(str(tmp_path), 'birds', Birds, frame=9, options=other)
  same = {'frame': 12, 'options': {'crop': 'pad', 'images': None}}
  assert len(prepared.open_catalogue(str(tmp_path), 'birds', Birds, **same).entries) == 23
  (tmp_path / 'raw').mkdir()
  raw = Birds()
  assert prepared.open_catalogue(str(tmp_path / 'raw'), 'birds', lambda: raw, frame=96) is raw


@pytest.mark.parametrize(
  ('birds', 'options', 'told'),
  [
    (Birds(), {'name': 'cats'}, 'name=birds, not name=cats'),
    (Birds(frame=13), {}, 'frame=12, not frame=13'),
    (Birds(), {'options': {'crop': 'centre'}}, 'crop=pad, not crop=centre'),
    (Birds(count=24), {}, 'pictures=23, not pictures=24'),
    (Birds(classes=()), {}, 'other files, splits or labels than there are now'),
  ],
)
def test_a_folder_is_not_continued_with_something_else(tmp_path, birds, options, told):
  store(Birds(), tmp_path)
  before = content(tmp_path)
  with pytest.raises(ValueError, match=f'was begun with {told}; give another folder'):
    store(birds, tmp_path, **options)
  assert content(tmp_path) == before


def test_other_peoples_files_are_left_alone(tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  for path in (tmp_path, tmp_path / 'thesis.txt'):
    with pytest.raises(ValueError, match='is not empty and `prepare` did not make it'):
      store(Birds(), path)
  assert content(tmp_path) == {'thesis.txt': b'mine'}


def test_where_no_picture_can_be_read_nothing_is_finished_and_all_are_tried_again(tmp_path):
  with pytest.raises(ValueError, match=r'none of the 23 pictures .* the first, ö0/0.jpg: is torn'):
    store(Birds(bad=range(23)), tmp_path)
  assert not (tmp_path / 'manifest.json').exists()
  assert store(Birds(), tmp_path)['kept'] == 23
  with pytest.raises(ValueError, match='none of the 0 pictures can be read'):
    store(Birds(count=0), tmp_path / 'empty')


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded(tmp_path, monkeypatch):
  birds, free = Birds(), 23 * 3 * 12**2 - 1
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**9, 10**9, free))
    with pytest.raises(
      OSError, match=r'23 pictures need 0\.00994 MB .* make room, or choose a small'
    ):
      store(birds, tmp_path)
  assert not birds.reads
  assert store(birds, tmp_path)['kept'] == 23


def test_a_disk_that_is_full_leaves_what_the_same_command_continues(tmp_path):
  birds = Birds(frame=120)  # three shards of 300 kB, one of 90
  store(Birds(frame=120), tmp_path / 'whole')
  unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, unlimited[1]))
  try:
    with pytest.raises(OSError, match=r'cannot be written.* is kept, and the same command cont'):
      store(birds, tmp_path / 'out')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
  assert not (tmp_path / 'out/manifest.json').exists()
  assert not list((tmp_path / 'out').glob('*.part'))
  store(birds, tmp_path / 'out')
  assert content(tmp_path / 'whole') == content(tmp_path / 'out')


@pytest.mark.parametrize('file', ['index-birds', 'manifest', 'plan'])
def test_a_disk_that_fills_up_in_a_small_file_is_told(tmp_path, monkeypatch, file):
  write = preparing._write

  def full(path, data):
    if path.name.startswith(file):
      raise OSError(errno.ENOSPC, 'No space left on device', str(path))
    write(path, data)

  with monkeypatch.context() as patch:
    patch.setattr(preparing, '_write', full)
    with pytest.raises(OSError, match=r'No space left on device.* the same command continues'):
      store(Birds(), tmp_path)
  assert not (tmp_path / 'manifest.json').exists()
  assert store(Birds(), tmp_path)['kept'] == 23


def test_a_disk_that_knows_no_locks_is_written_to(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  assert store(Birds(), tmp_path)['kept'] == 23


def test_two_commands_do_not_write_to_one_folder(tmp_path):
  birds = Birds()
  plain = birds.example

  def example(row):
    if row == 10:
      with pytest.raises(ValueError, match='another process is preparing'):
        store(Birds(), tmp_path)
    return plain(row)

  birds.example = example
  assert store(birds, tmp_path)['kept'] == 23


def test_it_travels_as_its_path_and_is_read_by_many_threads(tmp_path):
  birds = Birds()
  store(birds, tmp_path)
  stored = prepared.Prepared(tmp_path)
  stored.example(3)
  sent = pickle.dumps(stored)
  assert len(sent) < 500
  copy = pickle.loads(sent)
  assert list(copy.entries) == birds.entries
  rows = np.random.default_rng(0).integers(0, 23, 400)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(copy.example, map(int, rows)))
  for row, example in zip(rows, found, strict=True):
    same(example, birds.example(row))


def test_entries_of_many_pictures_are_known_without_reading_any(tmp_path):
  """There is no picture in these shards, so none can have been read."""
  splits, flags = ((), ('train',), ('train', 'mafl_train')), np.eye(40, dtype=bool).tolist()
  entries = [Entry(f'{i:06}.jpg', splits[i % 3], None, tuple(flags[i % 40])) for i in range(20480)]
  rest = {'digests': np.zeros((2048, 16), np.uint8), 'prints': np.zeros(2048, np.uint64)}
  listed = []
  for i in range(0, len(entries), 2048):
    columns = preparing._columns(entries[i : i + 2048], [])
    path = tmp_path / f'x-{i}'
    path.write_bytes(b'12')
    data = preparing._npz(prepared.Index(np.str_(''), np.int64(2), **columns, **rest))
    prepared.index_path(path).write_bytes(data)
    sums = {'bytes': 2, 'sha256': '', 'index_sha256': hashlib.sha256(data).hexdigest()}
    listed.append({'file': path.name, 'kept': 2048} | sums)
  facts = {'format': 1, 'name': 'x', 'frame': 9, 'options': {}, 'classes': [], 'shards': listed}
  facts['info'] = info._replace(attributes=tuple('a' * 40))._asdict()
  (tmp_path / 'manifest.json').write_text(json.dumps(facts))
  assert list(prepared.Prepared(tmp_path).entries) == entries


def test_a_field_without_a_place_is_refused_rather_than_lost():
  example = {'image': np.zeros((4, 4, 3), np.uint8), 'flow': np.zeros((4, 4, 2), np.float32)}
  with pytest.raises(TypeError, match=r'a\.png: flow cannot be stored'):
    prepared.encode(Entry('a.png'), example)

"""Decoded pictures on the device, in host memory or read as needed: the same batches."""

import itertools
import pathlib
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.cli import inputs
from landmarks_jax.data import pipeline
from landmarks_jax.runtime import logs, sharding

mesh, caches = sharding.mesh, ('device', 'host', 'stream')
sides = [f'{name}_{axis}' for name in ('nose', 'tail') for axis in 'xy']


@pytest.fixture
def folder(tmp_path):
  """Nineteen labelled pictures, two of which in the middle and the last of which are torn."""
  lines, random = [','.join(['file', *sides])], np.random.default_rng(0)
  for i in range(19):
    name = f'{i:02}.png'
    Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).save(tmp_path / name)
    lines.append(f'{name},{i / 5},{3 - i / 7},{i / 4},5')
  for i in (7, 8, 18):
    (tmp_path / f'{i:02}.png').write_bytes(b'torn')
  (tmp_path / 'points.csv').write_text('\n'.join(lines))
  return tmp_path


def opened(folder, cache, told=None, **more):
  """Those pictures as a run has them."""
  data = {'name': 'folder', 'path': str(folder), 'frame': 6, 'labels': 'points.csv'}
  config = {'data': data, 'cache': cache, 'seed': 3, 'batch_size': 8, 'workers': 0}
  config |= {'on_bad_image': 'skip'} | more
  return inputs.Inputs(config, sharding.mesh(), report=(told if told is not None else []).append)


def taken(parts, start, steps, **options):
  batches = parts.batches(start, **options)
  found = list(itertools.islice(batches, steps))
  batches.close()
  return found


def assert_same(one, other):
  assert one._fields == other._fields
  jax.tree.map(np.testing.assert_array_equal, one, other)
  assert jax.tree.map(lambda x: x.dtype, one) == jax.tree.map(lambda x: x.dtype, other)


def test_all_caches_give_the_same_batches_cut_over_the_devices(folder):
  for start in (0, 1, 3):
    streams = [taken(opened(folder, cache), start, 4) for cache in caches]
    for batches in zip(*streams, strict=True):
      for batch in batches:
        assert_same(batch, batches[-1])
        assert batch.points.shape == (8, 2, 2)
        assert batch.valid.all()
        for leaf in jax.tree.leaves(batch):
          assert leaf.sharding.is_equivalent_to(sharding.sharded(mesh()), leaf.ndim)
          assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {1}
  shown = {int(i) for batch in taken(opened(folder, 'device'), 0, 8) for i in batch.index}
  assert shown <= set(range(19)) - {7, 8, 18}


@pytest.mark.parametrize('start', [0, 3])
def test_every_shard_of_a_cache_has_the_rows_of_the_stream(folder, monkeypatch, start):
  monkeypatch.setattr(sharding, 'mesh', lambda: mesh(jax.devices()[:1]))
  whole = taken(opened(folder, 'stream'), start, 4)
  monkeypatch.setattr(sharding, 'shards', lambda: 2)
  for shard, cache in itertools.product(range(2), caches):
    monkeypatch.setattr(sharding, 'shard', lambda shard=shard: shard)
    rows = slice(4 * shard, 4 * shard + 4)
    for batch, expected in zip(taken(opened(folder, cache), start, 4), whole, strict=True):
      assert_same(batch, jax.tree.map(lambda x, rows=rows: x[rows], expected))


@pytest.mark.parametrize('cache', ['device', 'host'])
def test_a_cache_in_memory_is_read_once_and_by_no_workers(folder, cache, monkeypatch):
  told, spy = [], mock.Mock(wraps=pipeline.training_batches)
  monkeypatch.setattr(pipeline, 'training_batches', spy)
  parts = opened(folder, cache, told, workers=2)
  first = taken(parts, 0, 3)
  for file in folder.glob('*.png'):
    file.unlink()
  for batch, again in zip(first, taken(parts, 0, 3), strict=True):
    assert_same(batch, again)
  assert sum('skipped' in line for line in told) == 3
  assert [call.kwargs['workers'] for call in spy.call_args_list] == [0, 0]


@pytest.mark.parametrize('cache', ['device', 'host'])
def test_few_batches_are_the_same_and_fill_no_cache(folder, cache, monkeypatch):
  whole, told, spy = taken(opened(folder, cache), 0, 1), [], mock.Mock(wraps=pipeline.cached)
  monkeypatch.setattr(pipeline, 'cached', spy)
  parts = opened(folder, cache, told)
  for _ in range(2):
    (batch,) = taken(parts, 0, 1, count=1)
    assert_same(batch, whole[0])
  skipped = [line for line in told if 'skipped' in line]
  assert told == sorted(set(skipped), key=told.index)  # each once, and nothing of a cache
  assert not spy.called
  assert_same(taken(parts, 0, 1, count=2)[0], whole[0])  # 16 of 19 pictures
  assert spy.called
  for file in folder.glob('*.png'):
    file.unlink()
  assert_same(taken(parts, 0, 1, count=1)[0], whole[0])


@pytest.mark.parametrize('cache', caches)
def test_an_evaluation_tells_each_bad_picture_once_and_marks_it(folder, cache):
  told = []
  parts = opened(folder, cache, told)
  source = parts.open(**parts.config['data'], split='all')
  for _ in range(2):  # as for the trained and the untrained network
    batches = list(pipeline.evaluation_batches(source, batch_size=8))
    index, valid = (np.concatenate([getattr(b, f) for b in batches]) for f in ('index', 'valid'))
    assert index.tolist() == [*range(19), *[-1] * 5]
    assert np.flatnonzero(~valid[:19]).tolist() == [7, 8, 18]
  assert sorted(pathlib.Path(line.split(': ')[1]).name for line in told if 'skipped' in line) == [
    '07.png', '08.png', '18.png'
  ]  # fmt: skip


@pytest.mark.parametrize('cache', caches)
def test_a_bad_picture_stops_any_cache_when_asked(folder, cache):
  with pytest.raises(ValueError, match=r'(07|08|18)\.png'):
    taken(opened(folder, cache, on_bad_image='error'), 0, 8)


EACH = 6 * 6 * 3 + 4 + 2 * 2 * 4 + 2 + 4  # image, index, points, visible, scale
NEED = 19 * EACH


@pytest.mark.parametrize(
  ('device', 'host', 'chosen'),
  [
    (2 * NEED, 2 * NEED, 'device'),
    (2 * NEED - 1, 2 * NEED, 'host'),  # at most half of the device
    (None, 2 * NEED, 'host'),  # a CPU
    (None, None, 'host'),
    (2 * NEED, None, 'device'),
    (9 * NEED, NEED, 'stream'),  # it passes through host memory
    (None, NEED, 'stream'),
  ],
)
def test_auto_takes_the_fastest_memory_that_holds_the_pictures(
  folder, monkeypatch, device, host, chosen
):
  monkeypatch.setattr(sharding, 'free_memory', lambda mesh: device)
  monkeypatch.setattr(pipeline, 'free_memory', lambda: host)
  told = []
  parts = opened(folder, 'auto', told)
  (batch,) = taken(parts, 2, 1)
  assert f'19 decoded pictures of folder need {logs.amount(NEED)}' in told[0]
  assert f'chosen: cache={chosen} (otherwise: cache=' in told[0]
  assert ('of device memory' in told[0]) == (device is not None)
  assert ('of host memory' in told[0]) == (host is not None)
  assert sum('chosen' in line for line in told) == 1
  source = parts._training[0]
  kinds = {'device': {'index'}, 'host': {'index', 'image', 'points', 'visible', 'scale'}}
  assert set(getattr(source, 'arrays', ())) == kinds.get(chosen, set())
  (expected,) = taken(opened(folder, 'stream'), 2, 1)
  assert_same(batch, expected)


def test_processes_on_one_host_share_what_is_free(folder, monkeypatch):
  hosts = ['here', 'there', 'here']
  monkeypatch.setattr(sharding.socket, 'gethostname', lambda: 'here')
  monkeypatch.setattr(sharding, 'of_all', lambda value: hosts)
  for free, chosen in ((4 * NEED, 'host'), (2 * NEED, 'stream')):
    monkeypatch.setattr(pipeline, 'free_memory', lambda free=free: free)
    told = []
    assert opened(folder, 'auto', told).cache == chosen
    assert 'is free for each of 2 processes' in told[0]


@pytest.mark.parametrize('cache', ['host', 'device'])
def test_a_cache_that_was_asked_for_fits_into_the_part_of_a_process(folder, monkeypatch, cache):
  monkeypatch.setattr(sharding, 'on_this_host', lambda: 2)
  monkeypatch.setattr(pipeline, 'free_memory', lambda: 2 * NEED)
  assert opened(folder, cache).cache == cache
  monkeypatch.setattr(pipeline, 'free_memory', lambda: 2 * NEED - 1)
  with pytest.raises(ValueError, match=r'19 pictures need .* is free for each of 2 processes; do'):
    _ = opened(folder, cache).cache


def test_an_evaluation_that_does_not_fit_is_read_as_needed(folder, monkeypatch):
  parts = opened(folder, 'host')
  data = parts.config['data'] | {'split': 'all'}
  monkeypatch.setattr(pipeline, 'free_memory', lambda: NEED)
  assert type(parts.open(**data)) is pipeline.Reporting
  monkeypatch.setattr(pipeline, 'free_memory', lambda: 2 * NEED)
  assert type(opened(folder, 'host').open(**data)) is pipeline.Remembering


def test_the_memory_of_a_data_set_is_told_once_with_its_name(folder):
  told = []
  parts = opened(folder, 'auto', told)
  assert parts.cache == 'host'
  for options in ({'split': 'all'}, {'split': 'all', 'mean': (0.4,) * 3}, {}):
    parts.open(**parts.config['data'] | options)
  lines = [line for line in told if 'decoded pictures' in line]
  assert [line.partition(' need ')[0] for line in lines] == [
    '19 decoded pictures of folder',
    '19 decoded pictures of folder (all)',
  ]


def test_the_memory_is_told_again_where_the_choice_is_another(folder, monkeypatch):
  told = []
  parts = opened(folder, 'auto', told)
  for free, cache in ((3 * NEED, 'host'), (NEED, 'stream'), (NEED, 'stream')):
    monkeypatch.setattr(pipeline, 'free_memory', lambda free=free: free)
    assert parts._fitting(parts.training, parts.example, parts.config['data']) == cache
  assert [line.partition('chosen: cache=')[2].split()[0] for line in told] == ['host', 'stream']


def test_evaluations_are_not_promised_the_same_memory(folder, monkeypatch):
  def kept(*, read_first):
    parts, told = opened(folder, 'host'), []
    for crop in ('squash', 'pad', 'centre'):
      source = parts.open(**parts.config['data'] | {'crop': crop}, split='all')
      told.append(type(source) is pipeline.Remembering)
      if len(told) == 1 and read_first:
        for i in set(range(19)) - {7, 8, 18}:
          source[i]
    return told

  monkeypatch.setattr(pipeline, 'free_memory', lambda: 3 * NEED)
  assert kept(read_first=False) == [True, True, False]
  assert kept(read_first=True) == [True, True, True]  # what is in memory is not free any more


def test_an_evaluation_in_host_memory_reads_what_is_asked_for_and_once(folder, monkeypatch):
  parts = opened(folder, 'host')
  source = parts.open(**parts.config['data'], split='all')
  kind, read = type(parts.on_disk(**parts.config['data'], split='all')), []
  real = kind.__getitem__
  monkeypatch.setattr(kind, '__getitem__', lambda self, i: read.append(i) or real(self, i))
  for i in (3, 5, 3):
    assert source[i]['index'] == i
  assert read == [3, 5]


def test_a_cache_that_was_asked_for_and_does_not_fit_is_refused(folder, monkeypatch):
  monkeypatch.setattr(sharding, 'free_memory', lambda mesh: NEED - 1)
  with pytest.raises(ValueError, match=r'cache=device: 19 pictures need .* choose cache=host'):
    taken(opened(folder, 'device'), 0, 1)
  monkeypatch.setattr(pipeline, 'free_memory', lambda: NEED - 1)
  with pytest.raises(ValueError, match=r'19 pictures need .* \(cache=stream reads'):
    taken(opened(folder, 'host'), 0, 1)


def reporting(*found):
  """A mesh whose devices report these statistics."""
  devices = [mock.Mock(**{'memory_stats.return_value': stats}) for stats in found]
  return mock.Mock(spec=mesh(), local_devices=devices)


def test_peak_memory_is_that_of_the_fullest_device():
  peaks = [{'peak_bytes_in_use': n, 'bytes_in_use': 1} for n in (3000, 9000, 5000)]
  assert sharding.peak_memory(reporting(*peaks)) == 9000
  assert sharding.peak_memory(reporting(None, {})) is None
  assert sharding.peak_memory(mesh()) is None  # CPUs


def test_free_memory_is_that_of_the_fullest_device():
  def free(*found):
    return sharding.free_memory(reporting(*found))

  room = {'bytes_limit': 100, 'bytes_in_use': 7, 'other': 1}
  assert free(room, room | {'bytes_in_use': 30}) == 70
  assert free(room, {'bytes_in_use': 30}) is None
  assert free(room, None) is None
  assert sharding.free_memory(mesh()) is None  # CPUs

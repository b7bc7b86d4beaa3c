import itertools
import os
import pathlib
import subprocess
import sys
import threading
import time
from unittest import mock

import numpy as np
import psutil
import pytest
from PIL import Image

from landmarks_jax.data import pipeline
from landmarks_jax.data.source import BadImage, Info, Source, open_source
from landmarks_jax.runtime import cgroups

info = Info(('nose', 'tail'), (), (0, 1), (0.5,) * 3, (0.2,) * 3)


class Numbers:
  """Example i is made of i; some cannot be read, and every reading is counted."""

  info = info

  def __init__(self, length, bad=()):
    self.length, self.bad, self.reads, self.lock = length, set(bad), [], threading.Lock()

  def __len__(self):
    return self.length

  def __getitem__(self, i):
    with self.lock:
      self.reads.append(int(i))
    if i in self.bad:
      raise BadImage(f'{i}.jpg', 'is torn')
    return {
      'image': np.full((2, 2, 3), i % 256, np.uint8),
      'index': np.int32(i),
      'points': np.full((2, 2), i / 8, np.float32),
      'visible': np.array([True, i % 2 == 0]),
      'scale': np.float32(i + 1),
    }


def training(source, steps, **options):
  batches = pipeline.training_batches(source, **{'seed': 3, 'batch_size': 4} | options)
  taken = list(itertools.islice(batches, steps))
  batches.close()
  return taken


def numbers(batches):
  return [batch.index.tolist() for batch in batches]


def test_the_fake_keeps_the_contract():
  assert isinstance(Numbers(3), Source)


def test_a_batch_holds_the_fields_of_its_examples():
  for batch in training(Numbers(300), 3):
    assert batch.image.shape == (4, 2, 2, 3)
    assert (batch.image.dtype, batch.index.dtype) == ('uint8', 'int32')
    assert batch.valid.tolist() == [True] * 4
    np.testing.assert_array_equal(batch.image[:, 1, 0, 2], batch.index % 256)
    np.testing.assert_array_equal(batch.points[:, 0, 1], batch.index / 8)
    np.testing.assert_array_equal(batch.visible[:, 1], batch.index % 2 == 0)
    np.testing.assert_array_equal(batch.scale, batch.index + 1)
    assert batch.label is None


def test_an_epoch_shows_no_example_twice_and_the_next_has_another_order():
  stream = numbers(training(Numbers(18), 12))  # epochs of four steps, two examples left out
  epochs = [list(itertools.chain(*stream[i : i + 4])) for i in (0, 4, 8)]
  for epoch in epochs:
    assert len(set(epoch)) == 16
    assert epoch != sorted(epoch)
  assert epochs[0] != epochs[1] != epochs[2]
  left_out = [set(range(18)) - set(epoch) for epoch in epochs]
  assert left_out[0] != left_out[1]
  assert numbers(training(Numbers(18), 4, seed=4)) != stream[:4]


@pytest.mark.parametrize('shards', [2, 4])
def test_shards_are_the_blocks_of_rows_of_the_whole_batch(shards):
  whole = numbers(training(Numbers(21), 11, batch_size=8))
  parts = [
    numbers(training(Numbers(21), 11, batch_size=8, shard=s, shards=shards)) for s in range(shards)
  ]
  assert [list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)] == whole


def test_a_run_resumed_at_any_step_equals_the_undisturbed_one():
  for shard in (0, 1):
    whole = numbers(training(Numbers(10), 9, shard=shard, shards=2))
    for start in range(9):
      rest = training(Numbers(10), 9 - start, shard=shard, shards=2, start_step=start)
      assert numbers(rest) == whole[start:]


def test_resuming_does_not_read_the_past():
  source = Numbers(1000)
  training(source, 1, start_step=200)
  assert len(source.reads) < 100


def run_script(script, folder):
  """What came of a program that is told the folder in which it is and finds its pictures."""
  (folder / 'run.py').write_text(script)  # a file: spawned workers import it again
  return subprocess.run(
    [sys.executable, str(folder / 'run.py'), str(folder)],
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1])},
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )


def test_workers_do_not_change_the_stream(tmp_path):
  for i in range(11):
    colour = np.full((3, 3, 3), 20 * i, np.uint8)
    Image.fromarray(colour).save(tmp_path / f'{i:02}.png')
  (tmp_path / '04.png').write_bytes(b'torn')
  script = """
import itertools, sys
from landmarks_jax.data import pipeline, source
if __name__ == '__main__':
  opened = source.open_source('folder', path=sys.argv[1], frame=3)
  options = dict(seed=5, batch_size=4, start_step=3, shard=1, shards=2)
  kept = pipeline.Reporting(opened, pipeline.BadImages(len(opened), 'skip', None))  # as commands do
  batches = pipeline.training_batches(kept, workers=2, **options)
  held = list(itertools.islice(batches, 5))
  batches.close()
  for batch in held:  # their memory is their own
    print(*batch.index, *batch.image[:, 0, 0, 0])
"""
  done = run_script(script, tmp_path)
  assert done.returncode == 0, done.stderr
  assert 'Traceback' not in done.stderr
  assert 'leaked' not in done.stderr
  opened = open_source('folder', path=str(tmp_path), frame=3)
  here = training(opened, 5, seed=5, start_step=3, shard=1, shards=2)
  expected = [' '.join(map(str, [*b.index, *b.image[:, 0, 0, 0]])) for b in here]
  assert done.stdout.splitlines() == expected


def test_a_worker_that_dies_is_an_error_that_says_so(tmp_path):
  for i in range(4):
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / f'{i}.png')
  script = """
import multiprocessing, sys, threading, time
from multiprocessing import synchronize
from landmarks_jax.data import pipeline, source
if __name__ == '__mp_main__':  # a worker: nearly always inside a lock, if it takes any
  def make_methods(lock):
    def acquire(*options):
      taken = lock._semlock.acquire(*options)
      counts = isinstance(lock, synchronize.Semaphore)  # what it has taken, nobody waits for
      if not counts and threading.current_thread() is threading.main_thread():
        time.sleep(0.3)
      return taken
    lock.acquire, lock.release = acquire, lock._semlock.release
  synchronize.SemLock._make_methods = make_methods
  synchronize.SemLock.__enter__ = lambda lock: lock.acquire()
if __name__ == '__main__':
  opened = source.open_source('folder', path=sys.argv[1], frame=3)
  batches = pipeline.training_batches(opened, seed=0, batch_size=2, workers=1)
  next(batches)
  for child in multiprocessing.active_children():
    child.kill()
  try:
    for batch in batches:
      pass
  except OSError as error:
    print(error)
"""
  done = run_script(script, tmp_path)
  assert done.stdout.startswith('a process that reads pictures has died'), done.stderr
  assert 'exit code -9' in done.stdout


def test_a_source_that_processes_cannot_get_is_told():
  source = pipeline.Reporting(Numbers(9), pipeline.BadImages(9, 'skip', None))  # it has a lock
  with pytest.raises(ValueError, match=r'^workers=1: the source Numbers cannot be .* __getitem__'):
    training(source, 1, workers=1)


def test_signals_to_a_whole_job_leave_its_workers_to_the_run(tmp_path):
  script = """
import multiprocessing, os, signal
from landmarks_jax.data import pipeline, source
if __name__ == '__main__':
  opened = source.open_source('synthetic/faces', frame=16, count=64)
  batches = pipeline.training_batches(opened, seed=0, batch_size=8, workers=2)
  next(batches), next(batches)  # of each worker, so both have begun
  workers = multiprocessing.active_children()
  for number in (signal.SIGINT, signal.SIGTERM):
    for worker in workers:
      os.kill(worker.pid, number)
  for _ in range(30):  # more than had been read
    next(batches)
  print(len(workers), [worker.is_alive() for worker in workers])
  batches.close()
  print([worker.is_alive() for worker in workers])
"""
  done = run_script(script, tmp_path)
  assert done.stdout.splitlines() == ['2 [True, True]', '[False, False]'], done.stderr


def test_workers_end_when_the_run_is_killed(tmp_path):
  script = """
import multiprocessing, os, signal
from landmarks_jax.data import pipeline, source
if __name__ == '__main__':
  opened = source.open_source('synthetic/faces', frame=16, count=64)
  batches = pipeline.training_batches(opened, seed=0, batch_size=8, workers=2)
  next(batches), next(batches)
  print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
"""
  workers = [int(number) for number in run_script(script, tmp_path).stdout.split()]
  assert len(workers) == 2
  until = time.monotonic() + 30
  while any(map(is_running, workers)) and time.monotonic() < until:
    time.sleep(0.1)
  assert not any(map(is_running, workers))


def is_running(number):
  """Whether a process does anything; what has ended may still be listed."""
  try:
    return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:
    return False


def test_a_closed_iterator_leaves_no_threads_behind():
  before = set(threading.enumerate())
  batches = pipeline.training_batches(Numbers(100), seed=0, batch_size=4)
  next(batches)
  started = set(threading.enumerate()) - before
  assert started
  batches.close()
  for thread in started:
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_a_bad_picture_is_replaced_by_the_next_good_one_and_told_once():
  told = []
  good = numbers(training(Numbers(9), 8))
  bad = numbers(training(Numbers(9, bad=[3, 4, 8]), 8, report=told.append))
  replaced = {3: 5, 4: 5, 8: 0}
  assert bad == [[replaced.get(i, i) for i in batch] for batch in good]
  assert len(told) == 3
  assert sorted(line.split('skipped: ')[1] for line in told) == [
    '3.jpg: is torn', '4.jpg: is torn', '8.jpg: is torn'
  ]  # fmt: skip


def test_a_bad_picture_stops_the_run_when_asked():
  with pytest.raises(BadImage, match=r'3\.jpg: is torn'):
    training(Numbers(9, bad=[3]), 4, on_bad_image='error')
  with pytest.raises(BadImage, match=r'3\.jpg: is torn'):
    list(pipeline.evaluation_batches(Numbers(9, bad=[3]), batch_size=4, on_bad_image='error'))
  with pytest.raises(BadImage, match=r'3\.jpg: is torn'):
    pipeline.cached(Numbers(9, bad=[3]), on_bad_image='error')


@pytest.mark.parametrize('bad', [range(9), range(5)])
def test_more_than_half_bad_is_an_error(bad):
  text = '[5-9] of 9 pictures cannot be read, more than half'
  with pytest.raises(ValueError, match=text):
    training(Numbers(9, bad), 8, report=print)
  with pytest.raises(ValueError, match=text):
    list(pipeline.evaluation_batches(Numbers(9, bad), batch_size=4, report=print))
  with pytest.raises(ValueError, match=text):
    pipeline.cached(Numbers(9, bad), report=print)
  assert pipeline.cached(Numbers(10, range(5)), report=print).bad.found.keys() == set(range(5))


@pytest.mark.parametrize('shards', [1, 2])
def test_evaluation_shows_every_example_once_in_order_and_pads_the_end(shards):
  options = {'batch_size': 4, 'shards': shards}
  parts = [
    list(pipeline.evaluation_batches(Numbers(10), shard=s, **options)) for s in range(shards)
  ]
  assert {len(part) for part in parts} == {3}
  assert {batch.index.size for part in parts for batch in part} == {4 // shards}
  rows = [batch for step in zip(*parts, strict=True) for batch in step]
  index, valid, scale, points, image = (
    np.concatenate([getattr(batch, name) for batch in rows])
    for name in ('index', 'valid', 'scale', 'points', 'image')
  )
  assert index.tolist() == [*range(10), -1, -1]
  assert valid.tolist() == [True] * 10 + [False] * 2
  assert scale.tolist() == [*range(1, 11), 1, 1]
  assert points[:, 1, 0].tolist() == [*(np.arange(10) / 8), 0, 0]
  assert image[:, 0, 1, 2].tolist() == [*range(10), 0, 0]


def test_a_bad_picture_is_not_valid_in_evaluation():
  told = []
  batches = list(
    pipeline.evaluation_batches(Numbers(6, bad=[0, 4]), batch_size=3, report=told.append)
  )
  assert numbers(batches) == [[0, 1, 2], [3, 4, 5]]
  assert [b.valid.tolist() for b in batches] == [[False, True, True], [True, False, True]]
  assert [b.visible.any(axis=1).tolist() for b in batches] == [b.valid.tolist() for b in batches]
  assert len(told) == 2


def test_a_set_smaller_than_a_batch_is_evaluated_but_not_trained_on():
  (batch,) = pipeline.evaluation_batches(Numbers(3), batch_size=8)
  assert batch.valid.sum() == 3
  with pytest.raises(ValueError, match='batch_size=8, but the dataset has 3 examples'):
    training(Numbers(3), 1, batch_size=8)


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({'batch_size': 6, 'shards': 4}, 'batch_size=6 .* multiple of the 4 processes'),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'shard': 2, 'shards': 2}, 'shard=2; expected 0 to 1'),
    ({'on_bad_image': 'ignore'}, "on_bad_image='ignore'; expected 'skip' or 'error'"),
  ],
)
def test_sizes_that_do_not_fit_are_told_before_the_first_batch(options, text):
  with pytest.raises(ValueError, match=text):
    pipeline.training_batches(Numbers(9), **{'seed': 0, 'batch_size': 4} | options)
  with pytest.raises(ValueError, match=text):
    pipeline.evaluation_batches(Numbers(9), **{'batch_size': 4} | options)


def test_an_empty_set_is_told():
  with pytest.raises(ValueError, match='the dataset is empty'):
    pipeline.evaluation_batches(Numbers(0), batch_size=4)
  with pytest.raises(ValueError, match='the dataset is empty'):
    pipeline.cached(Numbers(0))


def test_a_cache_reads_once_and_gives_the_same_examples():
  source, told = Numbers(30, bad=[7, 29]), []
  memory = pipeline.cached(source, report=told.append, threads=3)
  assert isinstance(memory, Source)
  assert memory.info is info
  assert len(memory) == 30
  for i in (7, 29):
    with pytest.raises(BadImage, match=rf'{i}\.jpg: is torn'):
      memory[i]
  assert memory.arrays['index'].tolist() == [*range(7), 8, *range(8, 29), 0]
  oracle = Numbers(30)
  for i in (0, 6, 8, 28):
    for name, value in oracle[i].items():
      np.testing.assert_array_equal(memory[i][name], value)
      assert memory[i][name].dtype == value.dtype
  assert sorted(set(source.reads)) == list(range(30))
  assert len(source.reads) == 31  # the first also gives the shapes
  training(memory, 9)
  assert len(source.reads) == 31
  assert '30 of 30 pictures read, 2 of them bad' in told[-1]
  assert sum('is torn' in line for line in told) == 2


def test_batches_of_a_cache_are_those_of_its_source_and_taken_whole(monkeypatch):
  source = Numbers(30, bad=[7, 29])
  memory = pipeline.cached(source, report=str)
  alone = mock.Mock(side_effect=AssertionError('taken alone'))
  monkeypatch.setattr(pipeline.Cached, '__getitem__', alone)
  options = {'shard': 1, 'shards': 2, 'start_step': 5}
  kept, read = (training(s, 9, report=str, **options) for s in (memory, source))
  for one, other in zip(kept, read, strict=True):
    for name, value in one._asdict().items():
      np.testing.assert_array_equal(value, getattr(other, name))
      assert value is None or value.dtype == getattr(other, name).dtype
    one.image[:] = 0  # a copy: what is kept stays
  assert memory.arrays['image'].max() == 28


def test_a_cache_computes_its_memory_first_and_refuses_what_does_not_fit(monkeypatch):
  assert pipeline.free_memory() > 1 << 20
  source = Numbers(1000)
  bytes_each = 12 + 4 + 16 + 2 + 4
  assert pipeline.cache_bytes(source, source[0]) == 1000 * bytes_each
  monkeypatch.setattr(pipeline, 'free_memory', lambda: 37_000)
  with pytest.raises(
    ValueError, match=r'1,000 pictures need 0\.038 MB .* 0\.037 MB is free; do not'
  ):
    pipeline.cached(source)
  assert len(source.reads) == 2
  monkeypatch.setattr(pipeline, 'free_memory', lambda: None)
  assert len(pipeline.cached(source)) == 1000


def test_files_that_were_read_take_no_memory_of_a_container(monkeypatch, tmp_path):
  given = {'max': '100000\n', 'current': '70000\n'}
  given['stat'] = 'anon 5000\ninactive_file 60000\nactive_file 3000\nslab_reclaimable 500\n'
  monkeypatch.setattr(cgroups, 'ROOT', tmp_path)
  monkeypatch.setattr(cgroups, 'MEMBERS', tmp_path / 'absent')
  whole = pipeline.free_memory()
  for name, text in given.items():
    (tmp_path / f'memory.{name}').write_text(text)
  assert pipeline.free_memory() == 30_000 + 60_000 + 500
  (tmp_path / 'memory.max').write_text('max\n')
  assert pipeline.free_memory() == pytest.approx(whole, rel=0.5)


def test_all_memory_counts_as_free_where_the_system_does_not_say(monkeypatch, tmp_path):
  monkeypatch.setattr(cgroups, 'ROOT', tmp_path)
  monkeypatch.setattr(cgroups, 'MEMBERS', tmp_path / 'absent')
  monkeypatch.setattr(pipeline, 'MEMORY', tmp_path / 'absent')
  sizes = {'SC_PHYS_PAGES': 9, 'SC_PAGE_SIZE': 4096}
  monkeypatch.setattr(os, 'sysconf', sizes.__getitem__)
  assert pipeline.free_memory() == 9 * 4096
  source = Numbers(1000)
  told = []
  assert pipeline.choose_cache(source, source[0], report=told.append) == 'stream'
  assert '0.0369 MB of host memory is free, if none is in use; chosen: cache=stream' in told[0]
  with pytest.raises(ValueError, match=r'is free for each of 2 processes, if none is in use; do'):
    pipeline.check_memory(1000, 20_000, sharing=2)
  sizes['SC_PHYS_PAGES'] = -1
  assert pipeline.free_memory() is None
  monkeypatch.delattr(os, 'sysconf')
  assert pipeline.free_memory() is None
  assert pipeline.choose_cache(source, source[0], report=told.append) == 'host'
  assert 'an unknown amount is free; chosen: cache=host' in told[1]


VERSIONS = {
  '0::/jobs/one\n': ('', 'max', 'current', 'inactive_file', 'max'),
  '3:cpu:/\n4:memory:/jobs/one\n0::/\n': (
    'memory', 'limit_in_bytes', 'usage_in_bytes', 'total_inactive_file', str(2**63 - 4096)
  ),
}  # fmt: skip


@pytest.mark.parametrize('groups', VERSIONS)
def test_the_limit_of_a_job_counts_wherever_it_is_above_the_process(monkeypatch, tmp_path, groups):
  controller, limit, used, files, unlimited = VERSIONS[groups]
  (tmp_path / 'groups').write_text(groups)
  monkeypatch.setattr(cgroups, 'ROOT', tmp_path)
  monkeypatch.setattr(cgroups, 'MEMBERS', tmp_path / 'groups')
  root = tmp_path / controller
  for folder, most in (('', unlimited), ('jobs', '9000'), ('jobs/one', '7000'), ('jobs/two', '1')):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / f'memory.{limit}').write_text(f'{most}\n')
    (root / folder / f'memory.{used}').write_text('6000\n')
    (root / folder / 'memory.stat').write_text(f'{files} 500\n')
  assert pipeline.free_memory() == 1500
  (root / 'jobs/one' / f'memory.{limit}').write_text(f'{unlimited}\n')
  assert pipeline.free_memory() == 3500


def test_a_cache_names_an_example_that_is_unlike_the_first():
  class Odd(Numbers):
    def __getitem__(self, i):
      example = super().__getitem__(i)
      return example | ({'image': np.zeros((3, 2, 3), np.uint8)} if i == 5 else {})

  with pytest.raises(
    ValueError, match=r'example 5 has .*\(3, 2, 3\).* the first has .*\(2, 2, 3\)'
  ):
    pipeline.cached(Odd(9))

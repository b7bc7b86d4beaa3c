"""From a source to batches, with Grain; seed, step and shard alone decide which example is where.

So a run can resume from its step with another number of workers or processes: batch t of shard s is
rows [s * b, (s + 1) * b) of global batch t, b = batch_size / shards, wherever the run started.
"""

import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import pathlib
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import sharedctypes, synchronize
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import Int

from landmarks_jax.contracts import Batch
from landmarks_jax.data.source import BadImage, Info, Named, Source, stacked
from landmarks_jax.runtime import cgroups, logs

Report = Callable[[str], None]
Rows = Callable[[Int[np.ndarray, ' B']], dict[str, np.ndarray]]  # examples by index, stacked
CACHES = 'device', 'host', 'stream'  # where decoded pictures may be kept, the least demanding last
MEMORY = pathlib.Path('/proc/meminfo')  # of Linux alone
SHARE = {'device': 0.5, 'host': 0.8}  # of free memory that a cache may take; the run needs the rest


def training_batches(
  source: Source,
  *,
  seed: int,
  batch_size: int,
  shard: int = 0,
  shards: int = 1,
  start_step: int = 0,
  workers: int = 0,
  on_bad_image: str = 'skip',
  report: Report | None = None,
) -> Iterator[Batch]:
  """Endless shuffled batches, reshuffled each epoch of len(source) // batch_size steps.

  batch_size is global; each of the `shards` processes gets its own rows. The remainder of an epoch,
  less than a batch, is dropped. workers: reading processes; 0 reads in threads, which is enough for
  sources in memory and for reduced JPEGs. An unreadable picture is replaced by the next readable
  one (on_bad_image='skip', reported once) or stops the run ('error'); so does more than half of all
  pictures being unreadable. `Reporting` and `Cached` sources keep the choice they were made with.
  Close the iterator, or keep it until the process ends. Raises ValueError for inconsistent sizes.
  """
  rows = _rows(batch_size, shard, shards)
  if len(source) < batch_size:
    raise ValueError(
      f'batch_size={batch_size}, but the dataset has {len(source)} examples; choose a smaller batch'
    )
  if isinstance(source, Cached):
    take = source.rows
  else:
    take = _Replacing(source, _bad_images(source, on_bad_image, report)).rows
  place = slice(shard * rows, (shard + 1) * rows)
  drawn = _Drawn(take, len(source), seed, batch_size, place, start_step)
  return _iterate(grain.MapDataset.source(drawn), workers, source)


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  shard: int = 0,
  shards: int = 1,
  workers: int = 0,
  on_bad_image: str = 'skip',
  report: Report | None = None,
) -> Iterator[Batch]:
  """Every example once, in order; the last global batch is padded, so all shards get equally many.

  batch_size is global, rows as in `training_batches`. valid is False for padding (index -1) and for
  a picture that cannot be read (its own index); both are zeros, with scale 1.
  """
  rows = _rows(batch_size, shard, shards)
  bad = _bad_images(source, on_bad_image, report)
  data = grain.MapDataset.source(_Padded(source, batch_size, bad)).batch(rows)
  # Batch first, then slice: local batch t of a shard is block t * shards + shard of the rows.
  return _iterate(data.slice(slice(shard, None, shards)), workers, source)


class BadImages:
  """The pictures of one source that could not be read, by index: `found`.

  Each is reported once. on_bad_image='error' raises the first; 'skip' goes on until more than the
  share `most` of all are bad, which means that something else is wrong.
  """

  def __init__(
    self, total: int, on_bad_image: str, report: Report | None, *, most: float = 0.5
  ) -> None:
    if on_bad_image not in ('skip', 'error'):
      raise ValueError(f"on_bad_image={on_bad_image!r}; expected 'skip' or 'error'")
    if total == 0:
      raise ValueError('the dataset is empty')
    self.found: dict[int, BadImage] = {}
    self._total, self._stop, self._report = total, on_bad_image == 'error', report
    self._most = most

  def add(self, index: int, error: BadImage) -> None:
    """Records one, or raises."""
    if self._stop:
      raise error
    if self.found.setdefault(index, error) is not error:  # atomic: called from many threads
      return
    count = len(self.found)
    (self._report or logging.warning)(f'bad picture {count} of {self._total}, skipped: {error}')
    if count > self._most * self._total:
      raise ValueError(
        f'{count} of {self._total} pictures cannot be read, more than half; the last: {error}'
      ) from error


class Reporting:
  """A source that keeps its bad pictures in `bad`; each is reported once, however often read."""

  def __init__(self, source: Source, bad: BadImages) -> None:
    self.info, self.bad, self._source = source.info, bad, source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._source[index]


class Remembering(Reporting):
  """Reads each picture at most once, on first access, and keeps it in memory.

  So a process that needs part of a dataset reads only that. Do not modify the examples in place.
  """

  def __init__(self, source: Source, bad: BadImages) -> None:
    super().__init__(source, bad)
    self._read: dict[int, dict[str, Any]] = {}

  @property
  def unread(self) -> int:
    """The number of pictures not yet in memory."""
    return len(self) - len(self._read)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if index not in self._read:
      self._read[index] = super().__getitem__(index)
    return self._read[index]


class Cached:
  """A source in memory; reading a bad picture raises BadImage, as it did in the original source.

  `arrays` holds every field as [N, ...], as training sees it: a bad picture is replaced by the next
  good one. `bad` holds the bad ones that were found.
  """

  def __init__(
    self, info: Info, arrays: dict[str, np.ndarray], bad: BadImages | None = None
  ) -> None:
    self.info, self.arrays = info, arrays
    self.bad = bad or BadImages(len(self), 'skip', None)

  def __len__(self) -> int:
    return len(self.arrays['index'])

  def __getitem__(self, index: int) -> dict[str, Any]:
    if error := self.bad.found.get(index):
      raise BadImage(error.path, error.reason)
    return {name: array[index] for name, array in self.arrays.items()}

  def rows(self, index: Int[np.ndarray, ' B']) -> dict[str, np.ndarray]:
    """Examples from `arrays`, every field [B, ...], with one copy per field."""
    return {name: array[index] for name, array in self.arrays.items()}


def cached(
  source: Source,
  *,
  on_bad_image: str = 'skip',
  report: Report | None = None,
  threads: int | None = None,
) -> Cached:
  """Reads all of a source into memory, once, in threads, and reports the progress.

  The memory needed is computed first, from one example. Raises ValueError if that exceeds the free
  memory.
  """
  tell, total = report or logging.info, len(source)
  bad = BadImages(total, on_bad_image, report)
  template = _first(source, bad)
  check_memory(total, cache_bytes(source, template))
  arrays = {name: np.empty((total, *v.shape), v.dtype) for name, v in template.items()}

  def fill(i: int) -> bool:
    try:
      example = _like(template, source[i], i)
    except BadImage as error:
      bad.add(i, error)
      return False
    for name, value in example.items():
      arrays[name][i] = value
    return True

  good = 0
  chunk = max(1000, -(-total // 10))
  with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
    for start in range(0, total, chunk):
      good += sum(pool.map(fill, range(start, min(start + chunk, total))))
      tell(f'{good + len(bad.found):,} of {total:,} pictures read, {len(bad.found)} of them bad')
  kept = Cached(source.info, arrays, bad)
  for i in bad.found:
    for name, value in _Replacing(kept, bad)[i].items():
      arrays[name][i] = value
  return kept


def choose_cache(
  source: Source,
  example: dict[str, Any],
  *,
  device: int | None = None,
  reserved: int = 0,
  sharing: int = 1,
  of: str = '',
  report: Report | None = None,
) -> str:
  """Where the decoded pictures of a source fit: one of CACHES, reported in a line with the sizes.

  device: bytes of free device memory; None, which rules it out, if unknown or if the device has
  none of its own. Pictures reach it through host memory, so they must fit in both. reserved: bytes
  of free host memory that will be needed for something else. sharing: the processes on this host
  that keep pictures of their own; each may fill its part of what is free. of: the name of the
  source, to report.
  """
  need, host = cache_bytes(source, example), free_memory()
  host = None if host is None else max(0, host // sharing - reserved)
  chosen = 'stream'
  if host is None or need <= SHARE['host'] * host:
    chosen = 'host' if device is None or need > SHARE['device'] * device else 'device'
  free = {'device': device, 'host': host}
  sizes = [f'{logs.amount(v)} of {k} memory' for k, v in free.items() if v is not None]
  room = f'{" and ".join(sizes) or "an unknown amount"} is free{of_free_memory(sharing)}'
  (report or logging.info)(
    f'{len(source):,} decoded pictures{of and f" of {of}"} need {logs.amount(need)}; {room}; '
    f'chosen: cache={chosen} (otherwise: cache={" or ".join(c for c in CACHES if c != chosen)})'
  )
  return chosen


def check_memory(total: int, need: int, *, sharing: int = 1) -> None:
  """Raises ValueError if `total` pictures of `need` bytes do not fit into the free host memory.

  sharing: as in `choose_cache`.
  """
  free = free_memory()
  if free is not None and need > free // sharing:
    room = f'{logs.amount(free // sharing)} is free{of_free_memory(sharing)}'
    raise ValueError(
      f'{total:,} pictures need {logs.amount(need)} of memory, but {room}; '
      'do not cache them (cache=stream reads them as needed), or choose a smaller frame'
    )


def of_free_memory(sharing: int) -> str:
  """What follows an amount of free host memory in a message.

  How many processes share it, and that it is all of the host's where the system does not say how
  much is in use.
  """
  each = '' if sharing == 1 else f' for each of {sharing} processes'
  guessed = not _free_amounts() and _all_memory() is not None
  return each + (', if none is in use' if guessed else '')


def cache_bytes(source: Source, example: dict[str, Any]) -> int:
  """The memory that all of a source needs when decoded, computed from one example."""
  return len(source) * sum(np.asarray(value).nbytes for value in example.values())


def free_memory() -> int | None:
  """Bytes of host memory that are free to use, within the limits of a container or of a job.

  All of the host's memory where the system does not say what is free, as macOS; None if unknown.
  """
  return min(_free_amounts(), default=_all_memory())


def _free_amounts() -> list[int]:
  found = cgroups.free_memory()
  try:
    lines = MEMORY.read_text(encoding='utf-8').splitlines()
    found += [1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')]
  except (OSError, ValueError):
    pass
  return found


def _all_memory() -> int | None:
  try:
    pages, size = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):
    return None
  return pages * size if min(pages, size) > 0 else None  # -1: not known


class _Replacing:
  """A source whose bad pictures are replaced by the next good ones, the same on every machine."""

  def __init__(self, source: Source, bad: BadImages) -> None:
    self._source, self._bad = source, bad

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    for i in itertools.chain(range(index, len(self)), range(index)):
      try:
        if i not in self._bad.found:
          return self._source[i]
      except BadImage as error:
        self._bad.add(i, error)
    raise ValueError('no picture of the dataset can be read')

  def rows(self, index: Int[np.ndarray, ' B']) -> dict[str, np.ndarray]:
    """Examples, read one after the other, every field [B, ...]."""
    return stacked([self[int(i)] for i in index])


class _Drawn:
  """Endless training batches for Grain, from step `start` on: the rows `place` of each.

  Batches are drawn whole: Grain would shuffle and stack row by row in Python, slower than a GPU.
  """

  def __init__(
    self, take: Rows, total: int, seed: int, batch_size: int, place: slice, start: int
  ) -> None:
    self._take, self._total, self._seed = take, total, seed
    self._size, self._place, self._start = batch_size, place, start

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, number: int) -> dict[str, np.ndarray]:
    epoch, step = divmod(self._start + number, self._total // self._size)
    batches = _epoch_rows(self._seed, epoch, self._total, self._size)
    return self._take(batches[step, self._place])


@functools.lru_cache(maxsize=2)  # threads read ahead into the next epoch
def _epoch_rows(
  seed: int, epoch: int, total: int, batch_size: int
) -> Int[np.ndarray, 'steps {batch_size}']:
  """The rows of every batch of an epoch."""
  order = np.random.default_rng((seed, epoch)).permutation(total)
  return order[: total // batch_size * batch_size].reshape(-1, batch_size)


class _Padded:
  """A source with `valid`, padded to a multiple of `size`; unreadable pictures are zeros."""

  def __init__(self, source: Source, size: int, bad: BadImages) -> None:
    self._source, self._bad, self._length = source, bad, -(-len(source) // size) * size
    blank = {name: np.zeros_like(value) for name, value in _first(source, bad).items()}
    if 'scale' in blank:
      blank['scale'] = np.ones_like(blank['scale'])  # a divisor
    self._blank = blank | {'index': np.int32(-1), 'valid': np.False_}

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> dict[str, Any]:
    if index >= len(self._source):
      return self._blank
    if index not in self._bad.found:
      try:
        return self._source[index] | {'valid': np.True_}
      except BadImage as error:
        self._bad.add(index, error)
    return self._blank | {'index': np.int32(index)}


def _iterate(data: grain.MapDataset, workers: int, source: Source) -> Iterator[Batch]:
  data = data.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=4))  # batches
  if workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain's workers require it; in a notebook nothing has parsed
    options = grain.MultiprocessingOptions(num_workers=workers)
    data = data.mp_prefetch(options, worker_init_fn=_begin_worker)
  return _batches(data, source, workers=workers)


def _begin_worker(worker: int, workers: int) -> None:
  _leave_signals()
  _look_without_locks()


def _leave_signals() -> None:
  """Leaves it to the run when a worker ends: schedulers signal every process of a job at once.

  The run may need batches until all its processes can stop after the same step. Grain ends its
  workers without signals that they could ignore; if the run is killed, they end by themselves.
  """
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_run, daemon=True).start()


def _end_with_run() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def _look_without_locks() -> None:
  """Lets a worker look at what the run asks of it without a lock, which it could die holding.

  Grain's workers look for every batch at an Event and a Value, whether to stop or start elsewhere.
  Their locks Grain takes, too, before it reports that a worker died, and waits without a limit.
  """
  synchronize.Event.is_set = lambda event: not event._flag._semlock._is_zero()
  change = sharedctypes.Synchronized.value.fset
  sharedctypes.Synchronized.value = property(lambda number: number.get_obj().value, change)


def _batches(data: grain.IterDataset, source: Source, *, workers: int) -> Iterator[Batch]:
  examples = iter(data)
  try:
    for fields in examples:
      if workers:  # they hand over shared memory, which must not outlive them
        fields = {name: np.array(value) for name, value in fields.items()}
      yield Batch(**({'valid': np.ones(len(fields['index']), bool)} | fields))
  except (TypeError, pickle.PicklingError) as error:
    if not workers or 'pickle' not in str(error):
      raise
    while isinstance(source, Reporting | Named):  # they only wrap one
      source = source._source
    raise ValueError(
      f'{workers=}: the source {type(source).__qualname__} cannot be pickled for processes that '
      f'read ({error}); open files inside __getitem__, or use workers=0'
    ) from error
  except RuntimeError as error:  # how Grain reports it
    if 'Worker process was terminated' not in str(error):
      raise
    raise ChildProcessError(
      f'a process that reads pictures has died: {error} Often the memory of the host is full: '
      'use fewer workers, or workers=0'
    ) from error
  finally:
    examples.close()


def _rows(batch_size: int, shard: int, shards: int) -> int:
  if batch_size < 1 or shards < 1 or batch_size % shards:
    raise ValueError(
      f'batch_size={batch_size} is the global batch; expected a positive multiple of the '
      f'{shards} processes that share it'
    )
  if not 0 <= shard < shards:
    raise ValueError(f'shard={shard}; expected 0 to {shards - 1} of {shards} shards')
  return batch_size // shards


def _bad_images(source: Source, on_bad_image: str, report: Report | None) -> BadImages:
  if isinstance(source, Reporting | Cached):
    return source.bad
  return BadImages(len(source), on_bad_image, report)


def _first(source: Source, bad: BadImages) -> dict[str, np.ndarray]:
  return {name: np.asarray(value) for name, value in _Replacing(source, bad)[0].items()}


def _like(template: dict[str, np.ndarray], example: dict[str, Any], i: int) -> dict[str, Any]:
  expected, given = (
    {name: (np.shape(v), np.asarray(v).dtype.name) for name, v in fields.items()}
    for fields in (template, example)
  )
  if expected != given:
    raise ValueError(f'example {i} has {given}, but the first has {expected}')
  return example

"""The pictures of a run: opened once, kept where memory allows, and put on the devices."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from landmarks_jax.cli import processes
from landmarks_jax.contracts import Batch
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import Named, Source, check, fingerprint, open_source
from landmarks_jax.evaluation import features
from landmarks_jax.runtime import by_name, logs, sharding


class Inputs:
  """The training pictures of a completed config, and those of its evaluations.

  Nothing is read before its first use. `choose_cache` decides where the training pictures are kept.
  """

  def __init__(
    self, config: Mapping[str, Any], mesh: sharding.Mesh, *, report: Callable[[str], None] = print
  ) -> None:
    self.config, self.mesh, self.report = config, mesh, report
    # Processes on this host, each with its part of what is free; at once, since all must ask.
    self.sharing = sharding.on_this_host()
    self._chosen: str | None = None
    self._sources: dict[str, Source] = {}
    self._kept: dict[str, Source] = {}
    self._told: set[tuple[str, int, str]] = set()  # data sets, their bytes and where they are kept
    self._filling: list[tuple[pipeline.Remembering, int]] = []  # and the bytes of a picture

  @property
  def training(self) -> Source:
    """The training pictures as they are on disk."""
    return self.on_disk(**self.config['data'])

  @functools.cached_property
  def example(self) -> dict[str, Any]:
    """The first training picture that can be read."""
    return features.first_readable(self.training)

  @property
  def share_host_memory(self) -> bool:
    """Whether the devices of this process compute in the memory of the host, as CPUs do."""
    return sharding.free_memory(self.mesh) is None

  def fingerprint(self, **options: Any) -> dict[str, Any]:
    """The fingerprint of the pictures with these options; without any, of the training pictures."""
    return fingerprint(self.on_disk(**options or self.config['data']))

  def choose_cache(self, *, reserved: int) -> None:
    """Decides where the training pictures are kept, leaving `reserved` bytes to the step.

    Raises ValueError if it was decided already, as the first call of `batches` does, or if they do
    not fit where the config wants them.
    """
    if self._chosen is not None:
      raise ValueError('where the training pictures are kept is decided already')
    cache = self.config['cache']
    if cache in ('device', 'host'):  # together: before another process fills its part
      processes.together(self._check_host_memory)
    if cache == 'auto':
      free = sharding.free_memory(self.mesh)
      beside = {'reserved': reserved} if free is None else {'device': free - reserved}
      cache = self._fitting(self.training, self.example, self.config['data'], **beside)
      cache = pipeline.CACHES[sharding.largest(pipeline.CACHES.index(cache))]
    self._chosen = cache

  def _fitting(
    self, source: Source, example: dict[str, Any], options: Mapping[str, Any], **beside: Any
  ) -> str:
    """Where the pictures fit: `pipeline.choose_cache`, reported once for each set and choice."""
    split = options.get('split')
    of = options['name'] + (f' ({split})' if split else '')
    lines: list[str] = []
    beside |= {'sharing': self.sharing, 'of': of, 'report': lines.append}
    cache = pipeline.choose_cache(source, example, **beside)
    told = of, pipeline.cache_bytes(source, example), cache
    if told not in self._told:
      self._told.add(told)
      self.report(*lines)
    return cache

  def _check_host_memory(self) -> None:
    need = pipeline.cache_bytes(self.training, self.example)
    pipeline.check_memory(len(self.training), need, sharing=self.sharing)

  @property
  def cache(self) -> str:
    """Where the training pictures are kept: one of pipeline.CACHES."""
    if self._chosen is None:
      self.choose_cache(reserved=0)
    return self._chosen

  def cache_bytes(self) -> int:
    """Bytes that the training pictures take of the memory that the step works in."""
    if self.cache == 'stream' or (self.cache == 'host' and not self.share_host_memory):
      return 0
    return pipeline.cache_bytes(self.training, self.example)

  def batches(self, start_step: int, *, count: int | None = None) -> Iterator[Batch]:
    """Training batches from a step on, sharded over devices; fills caches first. Close it.

    count: how many will be taken, if that is known. Few are read alone, without filling a cache.
    """
    source, place = self._streamed if self._few(count) else self._training
    batches = pipeline.training_batches(
      source,
      seed=self.config['seed'],
      batch_size=self.config['batch_size'],
      shard=sharding.shard(),
      shards=sharding.shards(),
      start_step=start_step,
      workers=0 if isinstance(source, pipeline.Cached) else self.config['workers'],
    )
    return _placed(batches, place)

  def _few(self, count: int | None) -> bool:
    """Whether so many batches have at most half of the pictures, and no cache is filled yet."""
    if count is None or '_training' in vars(self):
      return False
    return 2 * count * self.config['batch_size'] <= len(self.training)

  @functools.cached_property
  def _streamed(self) -> tuple[Source, Callable[[Batch], Batch]]:
    """The training pictures, read as needed, and what puts a batch on the devices."""
    return self._keep(self.training, 'stream'), self._placing

  def _placing(self, batch: Batch) -> Batch:
    return sharding.to_global(batch, self.mesh)

  @functools.cached_property
  def _training(self) -> tuple[Source, Callable[[Batch], Batch]]:
    """The training pictures, kept where `cache` says, and what puts a batch on the devices."""
    source = self.training
    if self.cache != 'device':
      return self._keep(source, self.cache), self._placing
    need, free = pipeline.cache_bytes(source, self.example), sharding.free_memory(self.mesh)
    if free is not None and need > free:
      raise ValueError(
        f'config.cache=device: {len(source):,} pictures need {logs.amount(need)} on each '
        f'device, but {logs.amount(free)} is free; choose cache=host'
      )
    arrays = self._keep(source, 'host').arrays
    valid, rows = np.ones(len(source), bool), np.arange(len(source), dtype=np.int32)
    gather = sharding.make_gather(arrays | {'valid': valid}, self.mesh)
    return pipeline.Cached(source.info, {'index': rows}), lambda batch: Batch(**gather(batch.index))

  def open(self, **options: Any) -> Source:
    """The pictures of an evaluation, kept in host memory once read if all of them fit."""
    key = repr(sorted(options.items()))
    if key not in self._kept:
      source = self.on_disk(**options)
      self._kept[key] = self._remembered(source, options) or self._keep(source, 'stream')
    return self._kept[key]

  def on_disk(self, **options: Any) -> Source:
    """Pictures that are read anew each time."""
    key = repr(sorted(options.items()))
    if key not in self._sources:
      source = Named(open_source(**by_name.tuples(options)), options['name'])
      check(source, name=source.name)
      self._sources[key] = source
    return self._sources[key]

  def _keep(self, source: Source, cache: str) -> Source:
    """A source in host memory or read as needed; each of its bad pictures is reported once."""
    if cache == 'stream':
      return pipeline.Reporting(source, self._bad_images(source))
    return pipeline.cached(source, on_bad_image=self.config['on_bad_image'], report=self.report)

  def _bad_images(self, source: Source) -> pipeline.BadImages:
    return pipeline.BadImages(len(source), self.config['on_bad_image'], self.report)

  def _remembered(self, source: Source, options: Mapping[str, Any]) -> Source | None:
    """A source kept in host memory as it is read; None if memory is too small for it.

    Memory that other sources may still fill does not count as free.
    """
    if self.config['cache'] == 'stream':
      return None
    example = features.first_readable(source)
    promised = sum(kept.unread * size for kept, size in self._filling)
    if self._fitting(source, example, options, reserved=promised) == 'stream':
      return None
    kept = pipeline.Remembering(source, self._bad_images(source))
    self._filling.append((kept, pipeline.cache_bytes(source, example) // len(source)))
    return kept


def _placed(batches: Iterator[Batch], place: Callable[[Batch], Batch]) -> Iterator[Batch]:
  with contextlib.closing(batches):
    yield from map(place, batches)

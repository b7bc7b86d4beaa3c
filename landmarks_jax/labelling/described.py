"""The features of all pictures, computed once and kept on disk for the next start."""

import errno
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from landmarks_jax.contracts import Pyramid
from landmarks_jax.runtime import reading

FACTS = 'features.json'
PART = 1 << 20  # bytes that are written at once
RESERVE = 1 << 28  # bytes left on the disk for labels: about 100,000 changes of 68 landmarks
Shape = tuple[int, ...]


class Described:
  """Pyramids of `count` pictures and their sizes; existing files with the same key are reused.

  Args:
    folder: for the files, created if absent; None keeps everything in memory, as does a disk
      without room for them and RESERVE, which `warning` then reports.
    key: identifies the network, the pictures and everything else the features depend on; files
      with another key are replaced.
    shapes: [h, w, C] of every level.
  """

  def __init__(
    self, folder: pathlib.Path | None, *, key: str, count: int, shapes: Sequence[Shape]
  ) -> None:
    kinds = {f'level_{i}': ((count, *shape), np.uint16) for i, shape in enumerate(shapes)}
    kinds |= {'sizes': ((count, 2), np.int32), 'done': ((count,), bool)}
    self.warning = ''
    try:
      self._arrays = _memory(kinds) if folder is None else _files(folder, key, kinds)
    except OSError as error:
      self._arrays = _memory(kinds)
      self.warning = f'features are not kept for the next start: {folder}: {error.strerror}'
    self.sizes, kept = self._arrays['sizes'], self._arrays['done']
    self.done = (kept.view(np.uint8) == 1) & (self.sizes > 0).all(1)
    self.pyramid: Pyramid = tuple(
      self._arrays[f'level_{i}'].view(jnp.bfloat16) for i in range(len(shapes))
    )

  def put(
    self, rows: Int[np.ndarray, ' B'], pyramid: Pyramid, sizes: Int[np.ndarray, 'B 2']
  ) -> None:
    """Stores the features of some pictures; for the next start only by `keep`."""
    for level, values in zip(self.pyramid, pyramid, strict=True):
      level[rows] = np.asarray(values)
    self.sizes[rows] = sizes
    self.done[rows] = True

  def keep(self) -> None:
    """Notes for the next start what is done, once the features themselves are on disk."""
    done = self._arrays['done']
    for array in self._arrays.values():
      if array is not done and isinstance(array, np.memmap):
        array.flush()
    done[:] = self.done


def _memory(kinds: Mapping[str, tuple[Shape, Any]]) -> dict[str, np.ndarray]:
  return {name: np.zeros(shape, dtype) for name, (shape, dtype) in kinds.items()}


def _files(
  folder: pathlib.Path, key: str, kinds: Mapping[str, tuple[Shape, Any]]
) -> dict[str, np.ndarray]:
  """Arrays in files, allocated in full now: writing to a mapped file on a full disk is fatal."""
  folder.mkdir(parents=True, exist_ok=True)
  facts, paths = folder / FACTS, {name: folder / name for name in kinds}
  sizes = {n: math.prod(shape) * np.dtype(dtype).itemsize for n, (shape, dtype) in kinds.items()}
  try:
    stated = reading.parse_json(facts.read_bytes(), facts)
    kept = stated == {'key': key}
    kept = kept and all(paths[name].stat().st_size == size for name, size in sizes.items())
  except (OSError, ValueError):
    kept = False
  facts.unlink(missing_ok=True)  # until everything is consistent
  try:
    if not kept:
      _remove(paths.values())
      _check_room(folder, sum(sizes.values()))
    for name, path in paths.items():
      with path.open('r+b' if kept else 'w+b') as file:
        _take_room(file, sizes[name])
    arrays = {
      n: np.memmap(paths[n], dtype, 'r+', shape=shape) for n, (shape, dtype) in kinds.items()
    }
    if not kept:
      arrays['done'][:] = False
    facts.write_text(json.dumps({'key': key}), encoding='utf-8')
  except OSError:
    _remove([facts, *paths.values()])  # what was allocated would leave no room for labels
    raise
  return arrays


def _remove(paths: Iterable[pathlib.Path]) -> None:
  for path in paths:
    path.unlink(missing_ok=True)


def _check_room(folder: pathlib.Path, size: int) -> None:
  """Raises OSError unless files of this size leave RESERVE bytes of the disk."""
  free = shutil.disk_usage(folder).free
  if size > free - RESERVE:
    needed, free, reserve = (round(n / 1e6) for n in (size, free, RESERVE))
    message = f'they take {needed:,} MB of {free:,} MB free, of which {reserve:,} are for labels'
    raise OSError(errno.ENOSPC, message)


def _take_room(file: BinaryIO, size: int) -> None:
  """Extends a file to this size, taking up the disk space now."""
  if hasattr(os, 'posix_fallocate'):
    os.posix_fallocate(file.fileno(), 0, size)
    return
  for start in range(file.seek(0, os.SEEK_END), size, PART):  # such as macOS
    file.write(bytes(min(PART, size - start)))

"""Rendered videos as a source of pairs: example i is a frame, the next one, and the exact flow.

A folder, if given, keeps what was rendered: one file per video, written when one of its examples is
first requested, completely or not at all. Later runs memory-map it.
"""

import functools
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from landmarks_jax.data.source import Info
from landmarks_jax.runtime import atomic

_one_writer = threading.Lock()


class Videos:
  """`source[i]`: pair i % length of video i // length. Subclasses define `name` and `example`.

  Args: counts: examples of each split; count: how many instead, always the first ones. length:
  pairs per video. frame: side in pixels. path: the folder or None. Raises ValueError for a split or
  a number out of range.
  """

  name: str  # of what is kept, with a version to raise whenever an example changes

  def __init__(
    self,
    info: Info,
    counts: Mapping[str, int],
    length: int,
    *,
    path: str | None,
    split: str,
    frame: int,
    count: int | None,
    seed: int,
  ) -> None:
    if split not in counts:
      raise ValueError(f'split={split!r}; there are: {", ".join(counts)}')
    count = counts[split] if count is None else count
    for option, value, low, high in (
      ('frame', frame, 16, 1024),
      ('count', count, 1, counts[split]),
      ('seed', seed, 0, 2**32 - 1),
    ):
      if not low <= value <= high:
        raise ValueError(f'{option}={value}; expected a whole number from {low} to {high}')
    self.info, self.length, self.split, self.frame = info, length, split, frame
    self.count, self.entropy = count, (seed, list(counts).index(split))
    self.folder = None
    if path is not None:
      kept = f'{self.name}-{split}-seed{seed}-frame{frame}'
      self.folder = pathlib.Path(path).expanduser() / kept

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: Any) -> dict[str, Any]:
    if not 0 <= index < self.count:
      raise IndexError(f'index {index}; {self.split} has the examples 0 to {self.count - 1}')
    video, place = divmod(int(index), self.length)
    if self.folder is None:
      example = self.example(video, place)
    else:
      record = self._kept(video)[place]
      example = {field: np.array(record[field]) for field in record.dtype.names}
    return example | {'index': np.int32(index)}

  def example(self, video: int, place: int) -> dict[str, Any]:
    """A pair of frames and all that is known of it, except its index."""
    raise NotImplementedError

  def _kept(self, video: int) -> np.memmap:
    path = self.folder / f'{video:04d}.npy'
    with _one_writer:  # a second thread waits, and finds the file
      try:
        return _open(path)
      except (FileNotFoundError, EOFError, ValueError):  # or truncated when copied
        self._keep(video, path)
      return _open(path)

  def _keep(self, video: int, path: pathlib.Path) -> None:
    """Writes a video."""
    examples = [self.example(video, place) for place in range(self.length)]
    fields = [(name, value.dtype, value.shape) for name, value in examples[0].items()]
    records = np.empty(self.length, fields)
    for record, example in zip(records, examples, strict=True):
      for name, value in example.items():
        record[name] = value
    self.folder.mkdir(parents=True, exist_ok=True)
    with atomic.replaced(path) as part, part.open('wb') as file:
      np.save(file, records)


@functools.lru_cache(maxsize=128)
def _open(path: pathlib.Path) -> np.memmap:
  return np.load(path, mmap_mode='r')

"""The pictures of a folder by number: their sizes, and scaled copies for a page to show."""

import functools
import hashlib
import io
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image

from landmarks_jax.data import folder, images
from landmarks_jax.data.source import BadImage
from landmarks_jax.interop.landmark_csv import name_fault

SIDES = (192, 1024, 2048, 4096)  # larger sides, in pixels, that a page may ask for
THUMBNAILS = 4096  # the number kept in memory


class PictureFiles:
  """All pictures below a folder, sorted by path; clients only ever refer to them by number.

  Raises FileNotFoundError if there are none.
  """

  def __init__(self, root: pathlib.Path) -> None:
    self.root, self.names = root, folder.find(root)
    self.numbers = {name: i for i, name in enumerate(self.names)}
    self._decoding = threading.Semaphore(2)  # a picture of 40 megapixels takes 120 MB
    self._thumbnail = functools.lru_cache(THUMBNAILS)(self._scaled)

  def __len__(self) -> int:
    return len(self.names)

  @functools.cached_property
  def key(self) -> str:
    """Identifies this set of files, without which their numbers, and copies, mean nothing."""
    files = [f'{name!a} {self.stamp(i)}' for i, name in enumerate(self.names)]
    return hashlib.sha256('\n'.join(files).encode()).hexdigest()[:12]

  def path(self, number: int) -> pathlib.Path:
    """The path of a picture."""
    return self.root / self.names[number]

  def size(self, number: int) -> tuple[int, int]:
    """(width, height), upright. Raises BadImage."""
    fault = name_fault(self.names[number])
    if fault:
      raise BadImage(ascii(str(self.path(number))), fault)
    return images.size(self.path(number), rotate=True)

  def identity(self, number: int) -> list[Any]:
    """[bytes, checksum, time] of a file, by the first two of which a renamed one is recognised."""
    _, changed = self.stamp(number)
    data = self.path(number).read_bytes()
    return [len(data), hashlib.sha256(data).hexdigest(), changed]

  def is_still(self, number: int, identity: Sequence[Any]) -> bool:
    """Whether a picture is the file of an earlier `identity`, as far as that can be told."""
    length, changed = self.stamp(number)
    if length not in (-1, identity[0]):
      return False
    try:
      return list(identity[2:]) == [changed] or self.identity(number)[:2] == list(identity[:2])
    except OSError:
      return True

  def stamp(self, number: int) -> tuple[int, int]:
    """(bytes, time of the last change, of the name too) of a file; (-1, 0) where there is none."""
    try:
      stat = self.path(number).stat()
    except OSError:
      return -1, 0
    return stat.st_size, stat.st_ctime_ns

  def jpeg(self, number: int, side: int) -> bytes:
    """A picture, upright, with its larger side at most `side`, one of SIDES. Raises BadImage."""
    if side not in SIDES:
      raise ValueError(f'side={side}; expected one of {SIDES}')
    return (self._thumbnail if side == SIDES[0] else self._scaled)(number, side)

  def _scaled(self, number: int, side: int) -> bytes:
    width, height = self.size(number)
    scale = min(1, side / max(width, height))
    with self._decoding:
      least = max(1, round(scale * min(width, height)))
      picture = Image.fromarray(images.read(self.path(number), rotate=True, min_side=least))
      if scale < 1:
        size = max(1, round(scale * width)), max(1, round(scale * height))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    file, small = io.BytesIO(), side == SIDES[0]
    picture.save(file, 'JPEG', quality=80 if small else 95, subsampling=2 if small else 0)
    return file.getvalue()

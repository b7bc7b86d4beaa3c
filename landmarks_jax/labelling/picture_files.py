"""The pictures of a folder by their number: their sizes, and scaled copies for a page to show."""

import functools
import hashlib
import io
import pathlib
import threading
from typing import Any

from PIL import Image

from landmarks_jax.data import folder, images
from landmarks_jax.data.source import BadImage
from landmarks_jax.interop.landmark_csv import picture_path

SIDES = (192, 1024, 2048, 4096)  # larger sides in pixels, of which a page may ask for any
THUMBNAILS = 4096  # so many are kept in memory


class PictureFiles:
  """All pictures below a folder, sorted by path; only numbers are ever asked for from outside.

  Raises FileNotFoundError for a folder without any.
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
    """Of the set: numbers of pictures mean something only together with it."""
    return hashlib.sha256('\0'.join(map(ascii, self.names)).encode()).hexdigest()[:12]

  def path(self, number: int) -> pathlib.Path:
    """Where a picture is."""
    return self.root / self.names[number]

  def size(self, number: int) -> tuple[int, int]:
    """(width, height), upright. Raises BadImage."""
    fault = name_fault(self.names[number])
    if fault:
      raise BadImage(ascii(str(self.path(number))), fault)
    return images.size(self.path(number), rotate=True)

  def identity(self, number: int) -> list[Any]:
    """[bytes, checksum] of a file, by which it is known again under another name."""
    data = self.path(number).read_bytes()
    return [len(data), hashlib.sha256(data).hexdigest()]

  def length(self, number: int) -> int:
    """The length of a file, -1 where there is none."""
    try:
      return self.path(number).stat().st_size
    except OSError:
      return -1

  def jpeg(self, number: int, side: int) -> bytes:
    """A picture, upright, its larger side at most `side`, one of SIDES. Raises BadImage."""
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


def name_fault(name: str) -> str | None:
  """Why labels of a picture with this name could not be read back from a file."""
  try:
    name.encode()
  except UnicodeEncodeError:
    return 'its name is no UTF-8 text; rename it'
  if picture_path(name) != name or any(c in name for c in '\r\n'):
    return 'its name has a backslash, a line break, or a space at an end; rename it'
  return None

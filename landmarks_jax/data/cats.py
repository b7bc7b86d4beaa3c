"""Cat heads (Zhang, Sun and Tang 2008): about 10,000 photographs with nine points.

The folder holds CAT_00 to CAT_06 with NAME.jpg and NAME.jpg.cat: the number 9, then x and y in
pixels of the eyes, the mouth and three points of each ear. Left and right are those of the picture.
Each ear goes from its left base over its tip to its right base, so the mirror image of the left
ear's first point is the right ear's third. The archive has 00000003_015.jpg.cat apart from the
rest; it belongs in CAT_00.
"""

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from landmarks_jax.data import images, prepared
from landmarks_jax.data.catalogue import SIXTHS, Chosen, Entry, label_files
from landmarks_jax.data.folder import IMAGENET
from landmarks_jax.data.source import BadImage, Info, labelled

_names = ('left_eye', 'right_eye', 'mouth', 'left_ear_1', 'left_ear_2', 'left_ear_3')
_names += ('right_ear_1', 'right_ear_2', 'right_ear_3')
_seven = (0, 1, 2, 3, 5, 6, 8)  # without the tips of the ears

INFOS = {
  7: Info(tuple(_names[i] for i in _seven), ((0, 1), (3, 6), (4, 5)), (0, 1), *IMAGENET),
  9: Info(_names, ((0, 1), (3, 8), (4, 7), (5, 6)), (0, 1), *IMAGENET),
}


class Catalogue:
  """Every picture of the tree, sorted by path."""

  classes = ()

  def __init__(self, folder: pathlib.Path, entries: Sequence[Entry], *, frame: int) -> None:
    self.folder, self.entries, self.info, self.frame = folder, entries, INFOS[9], frame

  def example(self, row: int) -> dict[str, Any]:
    """The square around the nine points, side 1.6 x their box's larger side, at frame x frame."""
    path = self.folder / self.entries[row].file
    image = images.read(path)
    pixels = _read_points(path.with_name(f'{path.name}.cat'), *image.shape[1::-1])
    box = images.box_around(pixels, 1.6)
    points = images.frame_points(pixels, box, self.frame)
    return labelled(images.square_frame(image, box, self.frame), points, self.info)

  def label_bytes(self) -> Iterator[bytes]:
    """The content of the .cat files of all pictures."""
    return label_files(self.folder / f'{entry.file}.cat' for entry in self.entries)


def catalogue(path: str, *, frame: int = 136) -> Catalogue:
  """All pictures of the original tree, or of those of its folders that exist."""
  folder = pathlib.Path(path).expanduser()
  files = sorted(
    file.relative_to(folder).as_posix()
    for file in folder.glob('CAT_*/*.jpg')
    if not file.name.startswith('.')  # what macOS puts beside files
  )
  if not files:
    raise FileNotFoundError(
      f'{folder} has no pictures CAT_00/NAME.jpg to CAT_06/NAME.jpg; docs/data.md says what it '
      'should hold'
    )
  return Catalogue(folder, [Entry(file) for file in files], frame=frame)


def source(path: str, *, split: str = 'train', points: int = 9, frame: int = 136) -> Chosen:
  """Cats from the original tree, or from a copy that `prepare` made.

  split: 'train', 'validation', 'test' or 'all'. The authors split at random and published no list;
  here pictures whose names agree up to the last underscore are a series and stay together, and in
  each folder every sixth of the sorted series is test, the next one validation, the rest train.
  points: 9, or the 7 that lmdis scores, without the tips of the ears; the frame is the same. frame:
  side in pixels. Raises FileNotFoundError and ValueError that say what was found and what to do.
  """
  if split not in SIXTHS:
    raise ValueError(f'split={split!r}; expected one of {", ".join(SIXTHS)}')
  if points not in INFOS:
    raise ValueError(f'points={points}; expected 7 or 9')
  tree = prepared.open_catalogue(path, 'cats', lambda: catalogue(path, frame=frame), frame=frame)
  series = [_series(entry.file) for entry in tree.entries]
  place = {}
  for _, group in itertools.groupby(sorted(set(series)), key=lambda s: s.split('/')[0]):
    place |= {name: i for i, name in enumerate(group)}
  rows = [row for row, name in enumerate(series) if SIXTHS[split](place[name])]
  return Chosen(tree if points == 9 else _Seven(tree), rows)


class _Seven:
  """A catalogue of nine points, reduced to seven."""

  def __init__(self, nine: Any) -> None:
    self.nine, self.info, self.frame = nine, INFOS[7], nine.frame
    self.entries, self.classes = nine.entries, nine.classes

  def example(self, row: int) -> dict[str, Any]:
    example = self.nine.example(row)
    return example | {name: example[name][list(_seven)] for name in ('points', 'visible')}


def _series(file: str) -> str:
  return file.rpartition('_')[0]


def _read_points(path: pathlib.Path, width: int, height: int) -> Float[np.ndarray, '9 2']:
  """The points of a picture of this size, in pixels; all must lie inside, with the eyes apart."""
  try:
    cells = path.read_text(encoding='ascii').split()
    count, *numbers = [float(cell) for cell in cells]
  except OSError as error:
    raise BadImage(path, f'cannot be opened ({error.strerror})') from error
  except ValueError as error:
    raise BadImage(path, f'expected 9 and then 18 numbers ({error})') from error
  if count != 9 or len(numbers) != 18:
    raise BadImage(path, f'expected 9 and then 18 numbers, found {len(cells)}: {cells[:3]}...')
  points = np.array(numbers).reshape(9, 2)
  inside = ((points >= 0) & (points <= (width, height))).all(axis=-1)  # False for nan
  for k in np.flatnonzero(~inside):
    x, y = points[k]
    raise BadImage(path, f'{_names[k]} at ({x:g}, {y:g}) is outside the {width}x{height} pixels')
  if (points[0] == points[1]).all():
    raise BadImage(path, 'both eyes are at the same place')
  return points

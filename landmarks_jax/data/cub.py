"""Caltech-UCSD Birds-200-2011: 11,788 photographs of 200 species with 15 parts.

The folder is the archive's CUB_200_2011: images.txt, images/, train_test_split.txt and
parts/part_locs.txt. The frame is the whole picture, squashed; a part at pixel p of W lies at the
fraction p / W of the frame's side, as in the published system (docs/specification.md section 1).
"""

import hashlib
import itertools
import pathlib
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from landmarks_jax.data import images, prepared
from landmarks_jax.data.catalogue import Chosen, Entry, present, read_lines
from landmarks_jax.data.folder import IMAGENET
from landmarks_jax.data.source import BadImage, Info, normaliser
from landmarks_jax.geometry import coords

NAMES = ('back', 'beak', 'belly', 'breast', 'crown', 'forehead', 'left eye', 'left leg')
NAMES += ('left wing', 'nape', 'right eye', 'right leg', 'right wing', 'tail', 'throat')
INFO = Info(NAMES, ((6, 10), (7, 11), (8, 12)), 'frame', *IMAGENET)

PUBLISHED = {'official_train': 5994, 'official_test': 5794}  # `prepare` compares with these
_official = {'1': 'official_train', '0': 'official_test'}

# The numbers of the paper's 35 species (songbirds from 014.Indigo_Bunting to 170.Mourning_Warbler).
SPECIES = (14, 15, 16, 17, 20, 21, 34, 35, 47, 48, 54, 55, 56, 57, 76, 99, 109, 113, 114, 115, 116)
SPECIES += (117, 139, 158, 159, 160, 161, 162, 163, 164, 165, 166, 167, 168, 170)
COUNTS = {'train': 1241, 'validation': 382, 'test': 383}  # of the paper's lists


class Catalogue:
  """Every picture of the tree, in the order of images.txt; names and lists are SPECIES/NAME.jpg.

  A label is the species' number minus 1. `parts` [N, 15, 3] holds x and y in pixels and whether the
  part is visible.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    entries: Sequence[Entry],
    classes: tuple[str, ...],
    parts: Float[np.ndarray, 'N 15 3'],
    *,
    frame: int,
  ) -> None:
    self.folder, self.entries, self.classes, self.parts = folder, entries, classes, parts
    self.info, self.frame = INFO, frame

  def example(self, row: int) -> dict[str, Any]:
    """The whole picture, squashed to frame x frame, with its parts; invisible ones are at 0."""
    path = self.folder / self.entries[row].file
    image = images.read(path)
    height, width = image.shape[:2]
    pixels, visible = self.parts[row, :, :2], self.parts[row, :, 2] == 1
    share = pixels / (width, height)
    for k in np.flatnonzero(visible & ((share < 0) | (share > 1)).any(axis=-1)):
      x, y = pixels[k]
      raise BadImage(
        path, f'{NAMES[k]} at ({x:g}, {y:g}) is outside its {width}x{height} pixels (part_locs.txt)'
      )
    points = coords.to_normalised(share * self.frame, width=self.frame, height=self.frame)
    points = np.where(visible[:, None], points, 0).astype(np.float32)
    return {
      'image': images.square_frame(image, (0, 0, width, height), self.frame),
      'points': points,
      'visible': visible,
      'scale': normaliser(points, INFO.scale),
    }

  def label_bytes(self) -> Iterator[bytes]:
    """The parts of all pictures."""
    yield self.parts.tobytes()


def catalogue(path: str, *, frame: int = 96) -> Catalogue:
  """All pictures of images.txt that exist; a warning says how many are missing.

  Raises FileNotFoundError, and ValueError that names the line.
  """
  folder = pathlib.Path(path).expanduser()
  files = _read_numbered(folder / 'images.txt')
  official = _read_numbered(folder / 'train_test_split.txt')
  parts = _read_parts(folder / 'parts/part_locs.txt', list(files))
  classes = tuple(sorted(set(map(_species, files.values()))))
  labels = {name: label for label, name in enumerate(classes)}
  entries = []
  for number, file in files.items():
    if official.get(number) not in _official:
      raise ValueError(f'{folder / "train_test_split.txt"} has no 0 or 1 for picture {number}')
    entries.append(Entry(file, (_official[official[number]],), labels[_species(file)]))
  rows = present(folder / 'images', list(files.values()))
  entries = [entries[row] for row in rows]
  return Catalogue(folder / 'images', entries, classes, parts[rows], frame=frame)


def source(
  path: str, *, split: str = 'train', lists: str | None = None, seed: int = 0, frame: int = 96
) -> Chosen:
  """Birds from the original tree, or from a copy that `prepare` made.

  split: 'train', 'validation' or 'test' of the paper's 35 species, or 'train_10' for 10 pictures of
  train (any number); of all 200 species 'official_train', 'official_test' or 'all'. lists: a folder
  with the paper's lists train.txt, val.txt, test.txt, train_10.txt, ..., each line
  SPECIES/NAME.jpg; their order is kept. Without lists the three parts are drawn in the order of a
  hash of `seed` and name; they are as large as the paper's (1,241, 382 and 383) if no picture is
  missing, and train_10 is a subset of train_50. frame: side in pixels.
  Raises FileNotFoundError and ValueError that say what was found and what to do.
  """
  if not re.fullmatch(r'all|official_train|official_test|train(_[1-9]\d*)?|validation|test', split):
    raise ValueError(
      f'split={split!r}; expected train, train_N with a number N, validation, test, '
      'official_train, official_test or all'
    )
  tree = prepared.open_catalogue(path, 'cub', lambda: catalogue(path, frame=frame), frame=frame)
  known = {entry.file: row for row, entry in enumerate(tree.entries)}
  if split == 'all' or split.startswith('official'):
    return Chosen(tree, [r for r, e in enumerate(tree.entries) if split in ('all', *e.splits)])
  files = _draw(known, split, seed) if lists is None else _read_list(lists, split, known)
  return Chosen(tree, [known[file] for file in files])


def _species(file: str) -> str:
  return file.split('/')[0]


def _draw(files: Iterable[str], split: str, seed: int) -> list[str]:
  """Pictures of the 35 species sorted by a digest of seed and name, cut at the paper's sizes."""
  numbers = {f'{number:03d}' for number in SPECIES}
  ours = [file for file in files if _species(file).split('.')[0] in numbers]
  ours.sort(key=lambda file: hashlib.sha256(f'{seed} {file}'.encode()).digest())
  share = min(1, len(ours) / sum(COUNTS.values()))  # less than 1 where pictures are missing
  ends = [0, *(round(share * end) for end in itertools.accumulate(COUNTS.values()))]
  part, _, count = split.partition('_')
  place = list(COUNTS).index(part)
  drawn = ours[ends[place] : ends[place + 1]]
  if len(drawn) < int(count or 1):
    raise ValueError(f'split={split!r}, but {part} has {len(drawn)} pictures of the 35 species')
  return drawn[: int(count)] if count else drawn


def _read_list(lists: str, split: str, known: Container[str]) -> list[str]:
  path = pathlib.Path(lists).expanduser() / ('val.txt' if split == 'validation' else f'{split}.txt')
  files = [line.strip() for line in _lines(path)]
  absent = [line for line, file in enumerate(files, start=1) if file not in known]
  if absent:
    raise FileNotFoundError(
      f'{path}, line {absent[0]}: there is no picture {files[absent[0] - 1]!r} '
      f'({len(absent)} of {len(files)} lines name none)'
    )
  return files


def _lines(path: pathlib.Path) -> list[str]:
  lines = read_lines(path)
  if not lines:
    raise ValueError(f'{path} is empty')
  return lines


def _read_numbered(path: pathlib.Path) -> dict[int, str]:
  """Reads lines of two columns, a picture's number and its value."""
  table = {}
  for line, text in enumerate(_lines(path), start=1):
    number, *rest = text.split() or ['']
    if not number.isdecimal() or len(rest) != 1:
      raise ValueError(
        f'{path}, line {line}: expected 2 columns, the first a number; found {text!r}'
      )
    table[int(number)] = rest[0]
  return table


def _read_parts(path: pathlib.Path, numbers: Sequence[int]) -> Float[np.ndarray, 'N 15 3']:
  """[picture, part] -> x, y, visible; every pair must have a line."""
  lines = _lines(path)
  table = _parse(lines)
  places = {number: row for row, number in enumerate(numbers)}
  rows = np.array([places.get(number, -1) for number in table[:, 0].tolist()])
  wrong = (rows < 0) | ~np.isin(table[:, 1], np.arange(1, 16)) | ~np.isin(table[:, 4], (0, 1))
  for i in np.flatnonzero(wrong | ~np.isfinite(table).all(axis=-1)):
    raise ValueError(
      f'{path}, line {i + 1}: expected 5 columns, a number of images.txt, a part of 1 to 15, x, y, '
      f'and 1 or 0 for visible or not; found {lines[i]!r}'
    )
  parts = np.full((len(numbers), 15, 3), np.nan)
  parts[rows, table[:, 1].astype(int) - 1] = table[:, 2:]
  for picture, part in np.argwhere(np.isnan(parts[..., 0])):
    raise ValueError(f'{path} has no line for part {part + 1} of picture {numbers[picture]}')
  return parts


def _parse(lines: list[str]) -> Float[np.ndarray, 'n 5']:
  """Parses lines of five numbers; any other line becomes nan."""
  try:
    table = np.loadtxt(lines, comments=None, ndmin=2)  # ten times as fast as what follows
    if table.shape == (len(lines), 5):
      return table
  except ValueError:
    pass
  return np.array([_numbers(line) for line in lines])


def _numbers(line: str) -> list[float]:
  try:
    numbers = [float(cell) for cell in line.split()]
  except ValueError:
    numbers = []
  return numbers if len(numbers) == 5 else [np.nan] * 5

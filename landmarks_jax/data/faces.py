"""What the published sets of faces share: landmarks, colours, lists of files, and their frame."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num, UInt8

from landmarks_jax.data import face_landmarks, images
from landmarks_jax.data.catalogue import HINT, Catalogue, Chosen, check_file, read_lines
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.geometry import coords

Splits = Mapping[str, Sequence[set[str]]]  # name -> sets; a member belongs to all of any one set

_colours = (0.5084, 0.4224, 0.3769), (0.2599, 0.2371, 0.2323)  # specification section 1

INFOS = {
  5: Info(*face_landmarks.FIVE, *_colours),
  68: Info(*face_landmarks.SIXTY_EIGHT, *_colours),
}


class List(NamedTuple):
  """A text file with one picture per line: `values` [N, columns] float32, `header` verbatim."""

  path: pathlib.Path
  header: tuple[str, ...]
  files: list[str]
  values: np.ndarray


def read_list(path: pathlib.Path, columns: int, *, header: bool = False) -> List:
  """Reads lines of a file name and `columns` finite numbers, 200,000 lines in half a second.

  header: two lines come first, the number of pictures and the names of the columns. Raises
  FileNotFoundError, and ValueError that names the line.
  """
  lines, first = read_lines(path), 2 if header else 0
  body = lines[first:]
  rows = _parse(body, columns) if any(map(str.strip, body)) else None
  if rows is None:
    raise _first_error(path, lines, first, columns)
  if header and lines[0].strip() != str(len(rows)):
    raise ValueError(f'{path}: line 1 says {lines[0][:20]!r} pictures, but {len(rows)} follow')
  files = [file.replace('\\', '/') for file in rows['file'].tolist()]  # MTFL comes from Windows
  return List(path, tuple(lines[:first]), files, rows['values'])


def read_names(path: pathlib.Path) -> list[str]:
  """The file names of a list with one name per line. Raises FileNotFoundError, ValueError."""
  names = [line.strip() for line in read_lines(path) if line.strip()]
  if not names:
    raise ValueError(f'{path} is empty; expected a file name a line')
  return names


def read_mat(path: pathlib.Path, *names: str, structs: bool = False) -> list[np.ndarray]:
  """Variables of a MATLAB file. Raises FileNotFoundError, and ValueError for other content.

  structs: returns structs as dicts, and drops axes of length 1 everywhere.
  """
  import scipy.io  # late: heavy

  check_file(path)
  try:
    found = scipy.io.loadmat(path, simplify_cells=structs)
  except Exception as error:  # scipy raises nearly anything on a broken file
    raise ValueError(f'{path} cannot be read as a MATLAB file ({error})') from error
  missing = [name for name in names if name not in found]
  if missing:
    known = ', '.join(name for name in found if not name.startswith('__'))
    raise ValueError(f'{path} has no variable {", ".join(missing)}; it has: {known}')
  return [np.atleast_1d(found[name]) for name in names]


def check_root(root: pathlib.Path) -> None:
  """Raises FileNotFoundError if there is no such folder."""
  if not root.is_dir():
    raise FileNotFoundError(f'{root} is not a folder; {HINT}')


def choose(catalogue: Catalogue, split: str, splits: Splits) -> Chosen:
  """The pictures of one split, in order. Raises ValueError for an unknown or an empty one."""
  if split not in splits:
    raise ValueError(f'split={split!r}; expected one of {", ".join(splits)}')
  kinds = {entry.splits for entry in catalogue.entries}
  wanted = {kind for kind in kinds if any(all_of <= set(kind) for all_of in splits[split])}
  rows = [row for row, entry in enumerate(catalogue.entries) if entry.splits in wanted]
  if not rows:
    known = ', '.join(sorted(set().union(*kinds))) or 'nothing'
    raise ValueError(f'split={split!r} has no pictures here; those there are belong to: {known}')
  return Chosen(catalogue, rows)


def read(path: pathlib.Path, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, 'H W 3']:
  """Reads a picture; `size` is the (width, height) that its labels are for. Raises BadImage."""
  image = images.read(path)
  if size is not None and image.shape[1::-1] != tuple(size):
    given, expected = ('x'.join(map(str, s)) for s in (image.shape[1::-1], size))
    raise BadImage(path, f'has {given} pixels, but its landmarks are given for {expected}')
  return image


def published_frame(
  image: UInt8[np.ndarray, 'H W 3'], pixels: Num[np.ndarray, 'K 2'], frame: int
) -> tuple[UInt8[np.ndarray, '{frame} {frame} 3'], Float[np.ndarray, 'K 2']]:
  """A whole picture squashed to frame x frame, and its points normalised, as published.

  The published systems put pixel p at p * frame / side, without the half-pixel shift of resizing
  (`images.frame_points`); at 178 -> 136 that is .12 pixels. Fixtures celeba_geometry,
  aflw_geometry, aflw_mtfl_geometry, w300_geometry.
  """
  height, width = image.shape[:2]
  square = images.square_frame(image, (0, 0, width, height), frame)
  points = pixels * (frame / np.array([width, height]))
  return square, coords.to_normalised(points, width=frame, height=frame).astype(np.float32)


def exact_frame(
  image: UInt8[np.ndarray, 'H W 3'], pixels: Num[np.ndarray, 'K 2'], box: images.Box, frame: int
) -> tuple[UInt8[np.ndarray, '{frame} {frame} 3'], Float[np.ndarray, 'K 2']]:
  """A box of a picture in the frame, and its points normalised, with the half-pixel shift."""
  return images.square_frame(image, box, frame), images.frame_points(pixels, box, frame)


def _parse(lines: list[str], columns: int) -> np.ndarray | None:
  try:
    fields = [('file', object), ('values', np.float32, (columns,))]
    rows = np.loadtxt(lines, dtype=fields, comments=None, ndmin=1)
  except ValueError:
    return None
  return rows if np.isfinite(rows['values']).all() else None


def _first_error(path: pathlib.Path, lines: list[str], first: int, columns: int) -> ValueError:
  expected = f'expected a file name and {columns} numbers'
  for number, line in enumerate(lines[first:], start=first + 1):
    if line.strip() and _parse([line], columns) is None:
      return ValueError(f'{path}, line {number}: {expected}, found {line[:80]!r}')
  return ValueError(f'{path} has no pictures; {expected} a line')

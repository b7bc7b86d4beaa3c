"""Your own pictures: any folder of images, with or without a CSV file of landmarks."""

import csv
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.data import images
from landmarks_jax.data.source import BadImage, Info, normaliser

extensions = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')
extensions += ('.ppm', '.pgm')
crops = ('centre', 'pad', 'squash')
imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Labels(NamedTuple):
  """A CSV file of landmarks: per picture its pixels [K, 2] (nan = not visible), split and line."""

  path: pathlib.Path
  names: tuple[str, ...]
  points: dict[str, np.ndarray]
  splits: dict[str, str] | None
  lines: dict[str, int]


class Pictures:
  """The pictures of a folder; `files` are their paths below it, in order."""

  def __init__(
    self,
    folder: pathlib.Path,
    files: tuple[str, ...],
    info: Info,
    *,
    points: Mapping[str, np.ndarray] | None,
    frame: int,
    crop: str,
    rotate: bool,
  ) -> None:
    self.folder, self.files, self.info, self.points = folder, files, info, points
    self.frame, self.crop, self.rotate = frame, crop, rotate

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Picture `index` in the frame, with its points where the folder has labels."""
    file = self.files[index]
    fast = None if self.points else self.frame  # labels are in pixels of the full size
    image = images.read(self.folder / file, rotate=self.rotate, min_side=fast)
    box = _box(self.crop, *image.shape[1::-1])
    example = {'image': images.square_frame(image, box, self.frame), 'index': np.int32(index)}
    return example if self.points is None else example | self._labels(self.points[file], box)

  def _labels(self, pixels: np.ndarray, box: images.Box) -> dict[str, Any]:
    visible = np.isfinite(pixels).all(axis=-1)
    points = images.frame_points(pixels, box, self.frame)
    scale = normaliser(points, self.info.scale)
    points = np.where(visible[:, None], points, np.float32(0))
    return {'points': points, 'visible': visible, 'scale': scale}


def source(
  path: str,
  *,
  labels: str | None = None,
  split: str = 'all',
  frame: int = 136,
  crop: str = 'centre',
  scale: tuple[str, str] | str = 'frame',
  rotate: bool = True,
  unlabelled: str = 'error',
  mean: tuple[float, float, float] = imagenet[0],
  std: tuple[float, float, float] = imagenet[1],
) -> Pictures:
  """All pictures below a folder, sorted by path; hidden files and folders are left out.

  labels: a CSV file (below `path`, else as given) with the header file,NAME_x,NAME_y,... and, if
    wanted, split: one row a picture, files relative to `path`, pixels with (0, 0) the centre of the
    first; both cells of a landmark empty = not visible. Names that differ by left and right are
    flip pairs.
  split: 'all', or a value of the CSV's column `split`; without that column, the name of a folder
    directly below `path` (train, test, ...).
  frame: side of the result in pixels. crop: 'centre' cuts the largest centred square, 'pad' repeats
    the edge until the picture is square, 'squash' ignores the aspect.
  scale: what errors are divided by, a pair of landmark names or 'frame'.
  rotate: pictures upright by their EXIF orientation, as they are displayed and labelled; False
    leaves them as stored.
  unlabelled: 'error' if a picture has no row, 'skip' to leave such pictures out.
  mean, std: of pictures in [0, 1] (default: ImageNet's).
  Raises FileNotFoundError and ValueError that say what was found and what to do.
  """
  _one_of('crop', crop, crops)
  _one_of('unlabelled', unlabelled, ('error', 'skip'))
  if frame < 2:
    raise ValueError(f'frame={frame}; expected a side of at least 2 pixels')
  folder = pathlib.Path(path).expanduser()
  files = _find(folder)
  table = None if labels is None else read_labels(_labels_path(folder, labels))
  if table is not None:
    files = _with_rows(files, table, folder, unlabelled)
  files = _of_split(files, split, table, folder)
  names = table.names if table else ()
  info = Info(names, _flip_pairs(names), _pair(scale, names), tuple(mean), tuple(std))
  if table is not None:
    _check_points(files, table, info, folder, crop, rotate)
  points = table and {file: table.points[file] for file in files}
  return Pictures(folder, files, info, points=points, frame=frame, crop=crop, rotate=rotate)


def read_labels(path: str | os.PathLike) -> Labels:
  """Reads a CSV file of landmarks, as `source` describes it. Errors name the line and the value."""
  path = pathlib.Path(path)
  rows = _rows(path)
  header, names = rows[0][1], _names(path, rows[0][1])
  table = Labels(path, names, {}, {} if 'split' in header else None, {})
  for line, row in rows[1:]:
    if len(row) != len(header):
      raise ValueError(f'{path}, line {line}: {len(row)} cells, but the header has {len(header)}')
    cells = dict(zip(header, row, strict=True))
    file = cells['file'].strip().replace('\\', '/').removeprefix('./')
    if file in table.lines:
      raise ValueError(f'{path}, line {line}: {file} has a row in line {table.lines[file]} already')
    table.lines[file] = line
    table.points[file] = np.array([_point(path, line, file, n, cells) for n in names])
    if table.splits is not None:
      table.splits[file] = cells['split'].strip()
  return table


def _labels_path(folder: pathlib.Path, labels: str) -> pathlib.Path:
  given = pathlib.Path(labels).expanduser()
  for path in (folder / given, given):
    if path.is_file():
      return path
  raise FileNotFoundError(f'labels={labels!r}: there is no file {folder / given} and no {given}')


def _rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:  # Excel writes a byte order mark
      lines = csv.reader(file)
      rows = [(lines.line_num, row) for row in lines if any(row)]
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8 text ({error}); save it as CSV UTF-8') from error
  if not rows:
    raise ValueError(f'{path} is empty; expected the header file,NAME_x,NAME_y,...')
  return rows


def _names(path: pathlib.Path, header: list[str]) -> tuple[str, ...]:
  names = [c.removesuffix('_x') for c in header if c.endswith('_x')]
  expected = {'file', *(n + end for n in names for end in ('_x', '_y'))}
  missing = sorted(expected - set(header))
  extra = sorted(set(header) - expected - {'split'})
  doubled = sorted({c for c in header if header.count(c) > 1})
  told = f'{path}: expected comma-separated columns file,NAME_x,NAME_y,... and perhaps split; '
  for problem, columns in (('missing', missing), ('unknown', extra), ('twice', doubled)):
    if columns:
      raise ValueError(f'{told}{problem}: {", ".join(map(repr, columns))}')
  if not names:
    raise ValueError(f'{told}there is no landmark')
  return tuple(names)


def _point(
  path: pathlib.Path, line: int, file: str, name: str, cells: Mapping[str, str]
) -> tuple[float, float]:
  x, y = (cells[f'{name}_{axis}'].strip() for axis in 'xy')
  where = f'{path}, line {line} ({file}): {name} is ({x}, {y})'
  if not x and not y:
    return np.nan, np.nan
  try:
    point = float(x), float(y)
  except ValueError:
    raise ValueError(f'{where}; expected two numbers, or both cells empty') from None
  if not np.isfinite(point).all():
    raise ValueError(f'{where}; leave both cells empty for a landmark that is not visible')
  return point


def _find(folder: pathlib.Path) -> tuple[str, ...]:
  if not folder.is_dir():
    raise FileNotFoundError(f'{folder} is not a folder')
  files = tuple(sorted(file.relative_to(folder).as_posix() for file in _walk(folder)))
  if not files:
    known = ' '.join(extensions)
    raise FileNotFoundError(f'{folder} has no pictures in it or below it (looked for {known})')
  return files


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  seen = set()
  for root, below, files in os.walk(folder, followlinks=True):
    real = os.path.realpath(root)
    below[:] = [] if real in seen else [b for b in below if not b.startswith('.')]
    if real in seen:  # a link to where we have been
      continue
    seen.add(real)
    for name in files:
      if not name.startswith('.') and os.path.splitext(name)[1].lower() in extensions:
        yield pathlib.Path(root, name)


def _with_rows(
  files: tuple[str, ...], table: Labels, folder: pathlib.Path, unlabelled: str
) -> tuple[str, ...]:
  present = set(files)
  absent = [file for file in table.lines if file not in present]
  if absent:
    line = table.lines[absent[0]]
    raise FileNotFoundError(
      f'{table.path}, line {line}: there is no picture {absent[0]!r} in {folder}'
      + (f' ({len(absent)} rows name missing pictures)' if len(absent) > 1 else '')
    )
  without = [file for file in files if file not in table.lines]
  if without and unlabelled == 'error':
    raise ValueError(
      f'{table.path} has no row for {len(without)} of {len(files)} pictures, first {without[0]}; '
      "add rows, or leave these pictures out with unlabelled='skip'"
    )
  return tuple(file for file in files if file in table.lines)


def _of_split(
  files: tuple[str, ...], split: str, table: Labels | None, folder: pathlib.Path
) -> tuple[str, ...]:
  if split == 'all':
    return files
  if table is not None and table.splits is not None:
    splits, kind = table.splits, f'column split of {table.path}'
  else:
    splits = {file: file.split('/')[0] for file in files if '/' in file}
    kind = f'folders in {folder}'
  chosen = tuple(file for file in files if splits.get(file) == split)
  if not chosen:
    found = ', '.join(sorted(set(splits.values()))) or 'none'
    raise ValueError(f"split={split!r}: expected 'all' or one of the {kind}: {found}")
  return chosen


def _pair(scale: tuple[str, str] | str, names: tuple[str, ...]) -> tuple[int, int] | str:
  if scale == 'frame':
    return scale
  if isinstance(scale, str) or len(scale) != 2 or not set(scale) <= set(names):
    known = ', '.join(names) or 'none, without labels'
    raise ValueError(f"scale={scale!r}: expected 'frame' or two of the landmarks ({known})")
  return names.index(scale[0]), names.index(scale[1])


def _flip_pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
  partner = {n: n.replace('left', 'right') for n in names if 'left' in n}
  return tuple((names.index(n), names.index(p)) for n, p in partner.items() if p in names)


def _check_points(
  files: tuple[str, ...], table: Labels, info: Info, folder: pathlib.Path, crop: str, rotate: bool
) -> None:
  for file in files:
    try:
      width, height = images.size(folder / file, rotate=rotate)
    except BadImage:
      continue  # whoever reads it decides what to do
    pixels = table.points[file]
    where = f'{table.path}, line {table.lines[file]} ({file})'
    for name, (x, y) in _outside((0, 0, width, height), pixels, info.names):
      raise ValueError(f'{where}: {name} at ({x:g}, {y:g}) is outside its {width}x{height} pixels')
    for name, (x, y) in _outside(_box(crop, width, height), pixels, info.names):
      raise ValueError(
        f'{where}: {name} at ({x:g}, {y:g}) is outside the centre square of {width}x{height} '
        "pixels; use crop='pad' or crop='squash', or leave its cells empty"
      )
    if not isinstance(info.scale, str) and not normaliser(pixels, info.scale) > 0:
      first, second = (info.names[i] for i in info.scale)
      raise ValueError(
        f'{where}: scale is the distance from {first} to {second}, but they are not both visible '
        "and apart; label both, or use scale='frame'"
      )


def _outside(
  box: images.Box, pixels: np.ndarray, names: tuple[str, ...]
) -> list[tuple[str, np.ndarray]]:
  share = (pixels + 0.5 - box[:2]) / (box[2], box[-1])  # nan, not visible, is not outside
  return [(names[i], pixels[i]) for i in np.flatnonzero(((share < 0) | (share > 1)).any(axis=-1))]


def _box(crop: str, width: int, height: int) -> images.Box:
  if crop == 'centre':
    return images.centre_box(width, height)
  if crop == 'squash':
    return 0, 0, width, height
  side = max(width, height)
  return (width - side) / 2, (height - side) / 2, side


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise ValueError(f'{name}={value!r}; expected one of {", ".join(known)}')

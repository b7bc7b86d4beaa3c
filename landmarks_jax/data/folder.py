"""Your own pictures: any folder of images, with landmarks from a CSV file or COCO keypoints."""

import collections
import functools
import inspect
import itertools
import os
import pathlib
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from landmarks_jax.data import images, mirrored, prepared
from landmarks_jax.data.catalogue import Chosen, Entry
from landmarks_jax.data.source import BadImage, Info, normaliser
from landmarks_jax.interop import coco, landmark_csv
from landmarks_jax.interop.landmark_csv import LabelTable
from landmarks_jax.runtime import run_folder

EXTENSIONS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')
EXTENSIONS += ('.ppm', '.pgm')
VIDEOS = '.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv'
TABLES = '.csv', '.json', '.txt'  # of labels, mostly
CROPS = ('centre', 'pad', 'squash')
# What commands made: a run, and what match writes. Pictures in there are drawings.
MADE = ({run_folder.CONFIG, run_folder.ALL}, {'matches.json', 'matches.png'})
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures:
  """The pictures of a folder as a catalogue."""

  def __init__(
    self,
    folder: pathlib.Path,
    entries: Sequence[Entry],
    info: Info,
    *,
    classes: tuple[str, ...],
    labels: LabelTable | None,
    frame: int,
    crop: str,
    rotate: bool,
    exact: bool,
  ) -> None:
    self.folder, self.entries, self.info, self.classes = folder, entries, info, classes
    self.labels, self.frame, self.crop, self.rotate = labels, frame, crop, rotate
    self.exact = exact

  def example(self, row: int) -> dict[str, Any]:
    """The picture in the frame, with its points where the folder has labels."""
    file = self.entries[row].file
    reduced = not self.exact and self.labels is None  # labels are in pixels of the full size
    image = images.read(
      self.folder / file, rotate=self.rotate, min_side=self.frame if reduced else None
    )
    width, height = image.shape[1::-1]
    box = crop_box(self.crop, width, height)
    example = {'image': images.square_frame(image, box, self.frame)}
    if self.labels is None:
      return example
    fault = self._misplaced(file, width, height) or self._without_scale(file)
    if fault:
      raise BadImage(self.folder / file, fault)
    return example | self._points(self.labels.points[file], box)

  def label_bytes(self) -> Iterator[bytes]:
    """The names of the landmarks, then the points of every picture."""
    if self.labels is not None:
      yield '\n'.join(self.info.names).encode()
      yield from (self.labels.points[entry.file].tobytes() for entry in self.entries)

  def check(self, rows: Int[np.ndarray, ' N']) -> None:
    """Raises ValueError for the first landmark outside its picture, or if no picture has a scale.

    A picture without a scale among others is bad when it is read, so that only it is left out.
    """
    files = [self.entries[row].file for row in rows if self.labels]
    for file in files:
      try:
        size = images.size(self.folder / file, rotate=self.rotate)
      except BadImage:
        continue  # whoever reads it decides what to do
      fault = self._misplaced(file, *size)
      if fault:
        raise ValueError(fault)
    faults = [self._without_scale(file) for file in files]
    if faults and all(faults):
      raise ValueError(faults[0])

  def _points(self, pixels: np.ndarray, box: images.Box) -> dict[str, Any]:
    visible = np.isfinite(pixels).all(axis=-1)
    points = images.frame_points(pixels, box, self.frame)
    scale = normaliser(points, self.info.scale)
    points = np.where(visible[:, None], points, np.float32(0))
    return {'points': points, 'visible': visible, 'scale': scale}

  def _misplaced(self, file: str, width: int, height: int) -> str | None:
    """Which landmark does not fit a picture of this size."""
    pixels, where = self.labels.points[file], self._where(file)
    for name, (x, y) in _outside((0, 0, width, height), pixels, self.info.names):
      return f'{where}: {name} at ({x:g}, {y:g}) is outside its {width}x{height} pixels'
    for name, (x, y) in _outside(crop_box(self.crop, width, height), pixels, self.info.names):
      return (
        f'{where}: {name} at ({x:g}, {y:g}) is outside the centre square of {width}x{height} '
        "pixels; use crop='pad' or crop='squash', or label it as not visible"
      )
    return None

  def _without_scale(self, file: str) -> str | None:
    """Why the errors of a picture can be divided by nothing."""
    scale = self.info.scale
    if isinstance(scale, str) or normaliser(self.labels.points[file], scale) > 0:
      return None
    first, second = (self.info.names[i] for i in scale)
    return (
      f'{self._where(file)}: scale is the distance from {first} to {second}, but they are not both '
      "visible and apart; label both, or use scale='frame'"
    )

  def _where(self, file: str) -> str:
    return f'{self.labels.path}, {self.labels.places[file]} ({file})'


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
  classes: bool = False,
  exact: bool = False,
  mean: tuple[float, float, float] = IMAGENET[0],
  std: tuple[float, float, float] = IMAGENET[1],
) -> Chosen:
  """All pictures below a folder, sorted by path; hidden files and folders, and runs, are left out.

  labels: a CSV or JSON file (below `path`, else as given); its paths are relative to `path`, its
    pixels have (0, 0) at the centre of the first. CSV: the header file,NAME_x,NAME_y,... and, if
    wanted, split; one row per picture; a landmark whose two cells are empty is not visible. JSON:
    COCO keypoints (interop/coco.py), the largest object of each picture. Names that differ only in
    left and right are flip pairs, unless the labels contradict them (data/mirrored.py).
  split: 'all', or a value of the CSV's column `split`; without that column, the name of a folder
    directly below `path` (train, test, ...).
  frame: side of the result in pixels.
  crop: 'centre' cuts the largest centred square, 'pad' repeats the edge until the picture is
    square, 'squash' ignores the aspect.
  scale: what errors are divided by, a pair of landmark names or 'frame'. A picture that does not
    show both is left out as a bad one.
  rotate: turns pictures upright by their EXIF orientation, as they are displayed and labelled;
    False leaves them as stored.
  unlabelled: 'error' if the labels leave out a picture, 'skip' to leave it out too.
  classes: labels each picture with the folder that holds it: cat/1.jpg and train/cat/2.jpg are both
    of class cat. Classes are numbered in order of name, over all splits.
  exact: decodes at full size even without labels, as `prepare` does; otherwise the decoder may
    reduce a large JPEG, which is faster and slightly different.
  mean, std: of pictures in [0, 1] (default: ImageNet's).
  A folder made by `prepare` keeps the options it was stored with; only `split` can be chosen.
  Raises FileNotFoundError and ValueError that say what was found and what to do.
  """
  options = {'labels': labels, 'crop': crop, 'scale': scale, 'rotate': rotate, 'classes': classes}
  options |= {'unlabelled': unlabelled, 'mean': mean, 'std': std}
  raw = functools.partial(catalogue, path, frame=frame, exact=exact, **options)
  found = prepared.open_catalogue(path, 'folder', raw, frame=frame)
  rows = _of_split(split, found.entries, path)
  if isinstance(found, Pictures):
    found.check(rows)
  else:
    _refuse_changes(path, options)
  return Chosen(found, rows)


def catalogue(
  path: str,
  *,
  labels: str | None = None,
  frame: int = 136,
  crop: str = 'centre',
  scale: tuple[str, str] | str = 'frame',
  rotate: bool = True,
  unlabelled: str = 'error',
  classes: bool = False,
  exact: bool = True,
  mean: tuple[float, float, float] = IMAGENET[0],
  std: tuple[float, float, float] = IMAGENET[1],
) -> Pictures:
  """Every picture below a folder, whatever its split; options as in `source`."""
  _one_of('crop', crop, CROPS)
  _one_of('unlabelled', unlabelled, ('error', 'skip'))
  if frame < 2:
    raise ValueError(f'frame={frame}; expected a side of at least 2 pixels')
  folder = pathlib.Path(path).expanduser()
  files = find(folder)
  table = None if labels is None else read_labels(folder, labels)
  if table is not None:
    files = _with_labels(files, table, folder, unlabelled)
  holders = _holders(files, folder) if classes else {}
  kinds = tuple(sorted(set(holders.values())))
  number = {name: i for i, name in enumerate(kinds)}
  splits = _splits(files, table)
  entries = [Entry(file, splits[file], number.get(holders.get(file))) for file in files]
  names, skeleton = (table.names, table.skeleton) if table else ((), ())
  pairs = () if table is None else label_pairs(table)
  info = Info(names, pairs, _pair(scale, names), tuple(mean), tuple(std))
  info = info._replace(skeleton=skeleton)
  how = {'frame': frame, 'crop': crop, 'rotate': rotate, 'exact': exact}
  return Pictures(folder, entries, info, classes=kinds, labels=table, **how)


def find(folder: pathlib.Path) -> tuple[str, ...]:
  """The paths of all pictures below a folder, sorted. Raises FileNotFoundError if there is none."""
  return find_kinds(folder)[0]


def find_kinds(folder: pathlib.Path) -> tuple[tuple[str, ...], dict[str, list[str]]]:
  """The pictures below a folder as `find` has them; what is no picture or table, by extension."""
  if not folder.is_dir():
    raise FileNotFoundError(f'{folder} is not a folder')
  files = sorted(file.relative_to(folder).as_posix() for file in _walk(folder))
  found = tuple(file for file in files if _extension(file) in EXTENSIONS)
  if not found:
    known = ' '.join(EXTENSIONS)
    kinds = collections.Counter(_extension(file) or 'without extension' for file in files)
    most = ', '.join(f'{count} {kind}' for kind, count in kinds.most_common(5))
    videos = [file for file in files if _extension(file) in VIDEOS]
    raise FileNotFoundError(
      f'{folder} has no pictures in it or below it (looked for {known}, not in runs'
      + (f'; found {most})' if most else ')')
      + (f'; save frames: ffmpeg -i {videos[0]} -vf fps=1 FOLDER/%06d.png' if videos else '')
    )
  others = collections.defaultdict(list)
  for file in files:
    if _extension(file) not in (*EXTENSIONS, *TABLES):
      others[_extension(file)].append(file)
  return found, dict(sorted(others.items()))


def why_absent(file: str, folder: pathlib.Path) -> str:
  """Why `find` does not have a file that labels name."""
  if not (folder / file).is_file():
    return f'there is no picture {file!r} in {folder}'
  if _extension(file) not in EXTENSIONS:
    kind = _extension(file) or 'a file without extension'
    return f'{file!r} is there, but {kind} is not read; save it as JPEG or PNG'
  return (
    f'{file!r} is there, but not among the pictures found in {folder}: it is hidden, '
    'in a run, or found under another path'
  )


def read_labels(folder: pathlib.Path, labels: str) -> LabelTable:
  """The CSV or JSON file `labels`, as `source` describes it. Errors name place and value."""
  given = pathlib.Path(labels).expanduser()
  for path in (folder / given, given):
    if path.is_file():
      table = (coco if path.suffix.lower() == '.json' else landmark_csv).read(path)
      return _renamed(table, spelt_as_on_disk(table.places, folder))
  raise FileNotFoundError(f'labels={labels!r}: there is no file {folder / given} and no {given}')


def spelt_as_on_disk(files: Collection[str], folder: pathlib.Path) -> dict[str, str]:
  """What each of the files is called on the disk, which may write é as e and an accent.

  Archives made on a Mac do so, while tables are mostly written with é in one piece. A file that is
  not there keeps its name, and so do all if the table has one in both forms.
  """
  same = {file: file for file in files}
  if all(file.isascii() for file in files):
    return same
  there = {file.relative_to(folder).as_posix() for file in _walk(folder)}
  whole = {unicodedata.normalize('NFC', file): file for file in there}
  spelt = {
    file: file if file in there else whole.get(unicodedata.normalize('NFC', file), file)
    for file in files
  }
  return same if len(set(spelt.values())) < len(spelt) else spelt


def _renamed(table: LabelTable, names: Mapping[str, str]) -> LabelTable:
  columns = {'points': table.points, 'places': table.places, 'splits': table.splits}
  renamed = {
    name: values and {names[file]: value for file, value in values.items()}
    for name, values in columns.items()
  }
  return table._replace(**renamed)


def flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
  """The pairs of landmarks whose names differ only in left and right, in upper or lower case."""
  names = [re.sub('left|right', lambda side: side[0].lower(), n, flags=re.I) for n in names]
  partner = {n: n.replace('left', 'right') for n in names if 'left' in n}
  return tuple((names.index(n), names.index(p)) for n, p in partner.items() if p in names)


def label_pairs(table: LabelTable) -> tuple[tuple[int, int], ...]:
  """The flip pairs of the names; none, with a warning, if the labels contradict them."""
  pairs = flip_pairs(table.names)
  points = np.array(list(table.points.values())).reshape(-1, len(table.names), 2)
  if not mirrored.contradicted(pairs, points):
    return pairs
  warnings.warn(mirrored.warning(pairs, table.names), stacklevel=2)
  return ()


def crop_box(crop: str, width: int, height: int) -> images.Box:
  """The part of a picture that the frame shows; `crop` is one of `CROPS`."""
  if crop == 'centre':
    return images.centre_box(width, height)
  if crop == 'squash':
    return 0, 0, width, height
  side = max(width, height)
  return (width - side) / 2, (height - side) / 2, side


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Every visible file once, under its real folder if that is inside; links come last."""
  seen, tops = set(), [str(folder)]
  while tops:
    links = []
    for root, below, files in itertools.chain.from_iterable(map(_below, sorted(tops))):
      real = os.path.realpath(root)
      below[:] = [] if real in seen else [b for b in below if not b.startswith('.')]
      if real in seen:  # a link to a folder already visited
        continue
      if any(marks <= {*below, *files} for marks in MADE):
        below[:] = []
        continue
      seen.add(real)
      links += [link for b in below if os.path.islink(link := os.path.join(root, b))]
      for name in files:
        if not name.startswith('.'):
          yield pathlib.Path(root, name)
    tops = links


def _extension(file: str) -> str:
  return os.path.splitext(file)[1].lower()


def _below(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
  """Like os.walk, following no links; warns of folders that cannot be read."""

  def tell(error: OSError) -> None:
    message = f'{error.filename}: {error.strerror}; what is in there is left out'
    warnings.warn(message, stacklevel=2)

  return os.walk(folder, onerror=tell)


def _with_labels(
  files: tuple[str, ...], table: LabelTable, folder: pathlib.Path, unlabelled: str
) -> tuple[str, ...]:
  present = set(files)
  absent = [file for file in table.places if file not in present]
  if absent:
    raise FileNotFoundError(
      f'{table.path}, {table.places[absent[0]]}: {why_absent(absent[0], folder)}'
      + (f' ({len(absent)} {table.unit}s name missing pictures)' if len(absent) > 1 else '')
    )
  without = [file for file in files if file not in table.places]
  if len(without) == len(files):
    raise ValueError(f'{table.path} has no {table.unit} for any of the {len(files)} pictures')
  if without and unlabelled == 'error':
    raise ValueError(
      f'{table.path} has no {table.unit} for {len(without)} of {len(files)} pictures, first '
      f"{without[0]}; add {table.unit}s, or leave these pictures out with unlabelled='skip'"
    )
  return tuple(file for file in files if file in table.places)


def _holders(files: Sequence[str], folder: pathlib.Path) -> dict[str, str]:
  """The name of the folder that holds each picture."""
  holders = {file: pathlib.PurePosixPath(file).parent.name for file in files}
  for file in (file for file, holder in holders.items() if not holder):
    raise ValueError(
      f'classes=True: the class of a picture is the folder that holds it, but {file} lies directly '
      f'in {folder}'
    )
  return holders


def _splits(files: Sequence[str], table: LabelTable | None) -> dict[str, tuple[str, ...]]:
  if table is not None and table.splits is not None:
    return {file: tuple(filter(None, [table.splits[file]])) for file in files}
  return {file: tuple(file.split('/')[:-1][:1]) for file in files}


def _of_split(split: str, entries: Sequence[Entry], path: str) -> Int[np.ndarray, ' N']:
  chosen = [row for row, entry in enumerate(entries) if split in ('all', *entry.splits)]
  if not chosen:
    found = ', '.join(sorted({name for entry in entries for name in entry.splits})) or 'none'
    raise ValueError(
      f"split={split!r}: expected 'all' or a part of {path}, by the column split of its labels, "
      f'else by its folders: {found}'
    )
  return np.array(chosen)


def _refuse_changes(path: str, options: Mapping[str, Any]) -> None:
  """Raises ValueError for given options that differ from those that `prepare` has fixed."""
  stored = prepared.read_manifest(pathlib.Path(path).expanduser())['options']
  for name, given in options.items():
    usual = inspect.signature(catalogue).parameters[name].default
    kept = stored.get(name, _plain(usual))
    if _plain(given) not in (_plain(usual), kept):
      raise ValueError(
        f'{name}={given!r}, but {path} was prepared with {name}={kept!r}; leave it out, or prepare '
        'the original pictures again'
      )


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def _pair(scale: tuple[str, str] | str, names: tuple[str, ...]) -> tuple[int, int] | str:
  if scale == 'frame':
    return scale
  if isinstance(scale, str) or len(scale) != 2 or not set(scale) <= set(names):
    known = ', '.join(names) or 'none, without labels'
    raise ValueError(f"scale={scale!r}: expected 'frame' or two of the landmarks ({known})")
  return names.index(scale[0]), names.index(scale[1])


def _outside(
  box: images.Box, pixels: np.ndarray, names: tuple[str, ...]
) -> list[tuple[str, np.ndarray]]:
  share = (pixels + 0.5 - box[:2]) / (box[2], box[-1])  # nan (not visible) is never outside
  return [(names[i], pixels[i]) for i in np.flatnonzero(((share < 0) | (share > 1)).any(axis=-1))]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise ValueError(f'{name}={value!r}; expected one of {", ".join(known)}')

"""CelebA: 202,599 photographs of faces with 5 landmarks and 40 attributes (Liu et al. 2015).

The folder holds Img/img_align_celeba/ (or img_align_celeba_hq/) of 178x218 pixels, or the uncropped
Img_in_the_wild/; Anno/list_landmarks_align_celeba.txt (uncropped: list_landmarks_celeba.txt) and
Eval/list_eval_partition.txt; and optionally Anno/list_attr_celeba.txt, Anno/list_bbox_celeba.txt,
MAFL/training.txt and MAFL/testing.txt. Left and right are those of the picture. Some of the
pictures may be missing.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from landmarks_jax.data import faces, prepared
from landmarks_jax.data.catalogue import HINT, Catalogue, Chosen, Entry, present
from landmarks_jax.data.source import BadImage, Info, labelled

SPLITS: faces.Splits = {  # without MAFL's lists no picture counts as 'outside_mafl'
  'train': [{'train', 'outside_mafl'}],
  'train_except_mafl_test': [{'train', 'outside_mafl'}, {'train', 'mafl_train'}],
  'validation': [{'validation'}],
  'test': [{'test'}],
  'mafl_train': [{'mafl_train'}],
  'mafl_test': [{'mafl_test'}],
}
CROPS = ('aligned', 'squash', 'wild', 'wild_box')
PUBLISHED = {'train': 162770, 'validation': 19867, 'test': 19962}  # `prepare` compares with these
MAFL_LISTS = {'mafl_train': 'MAFL/training.txt', 'mafl_test': 'MAFL/testing.txt'}
_width, _height, _top = 178, 218, 30  # of an aligned picture; its square is rows 30..207
_context = 136 / 96  # a network that sees 96 of 136 pixels sees the whole box
_parts = ('train', 'validation', 'test')


class Pictures:
  """The listed pictures that exist, in order; `file` is NNNNNN.jpg, as in the lists."""

  classes = ()

  def __init__(
    self,
    folder: pathlib.Path,
    entries: Sequence[Entry],
    pixels: Float[np.ndarray, 'N 5 2'],
    boxes: Float[np.ndarray, 'N 4'] | None,
    info: Info,
    *,
    frame: int,
    crop: str,
  ) -> None:
    self.folder, self.entries, self.pixels, self.boxes = folder, entries, pixels, boxes
    self.info, self.frame, self.crop = info, frame, crop

  def subset(self, rows: Sequence[int]) -> 'Pictures':
    """Some of the pictures."""
    entries = [self.entries[row] for row in rows]
    boxes = None if self.boxes is None else self.boxes[rows]
    kept = self.folder, entries, self.pixels[rows], boxes, self.info
    return Pictures(*kept, frame=self.frame, crop=self.crop)

  def example(self, row: int) -> dict[str, Any]:
    """One picture in the frame. Raises BadImage, also for a wrong size or an empty box."""
    path, pixels = self.folder / self.entries[row].file, self.pixels[row]
    image = faces.read(path, None if self.crop.startswith('wild') else (_width, _height))
    if self.crop == 'wild':
      square, points = faces.published_frame(image, pixels, self.frame)
    elif self.crop == 'aligned':
      image, pixels = image[_top : _top + _width], pixels - np.array([0, _top], np.float32)
      square, points = faces.published_frame(image, pixels, self.frame)
    else:
      box = (0, 0, _width, _height) if self.crop == 'squash' else self._context_box(row)
      square, points = faces.exact_frame(image, pixels, box, self.frame)
    return labelled(square, points, self.info)

  def label_bytes(self) -> Iterator[bytes]:
    """The points and, if the crop needs them, the boxes of all pictures."""
    yield self.pixels.tobytes()
    if self.boxes is not None:
      yield self.boxes.tobytes()

  def _context_box(self, row: int) -> tuple[float, float, float]:
    x, y, width, height = self.boxes[row].tolist()
    if min(width, height) <= 0:
      file = self.entries[row].file
      raise BadImage(self.folder / file, f'has a box of {width:g}x{height:g} pixels in its list')
    side = _context * max(width, height)
    return x + (width - side) / 2, y + (height - side) / 2, side


def catalogue(
  path: str, *, frame: int = 136, crop: str = 'aligned', images: str | None = None
) -> Pictures:
  """All pictures of the original folder; options and errors as in `source`."""
  if crop not in CROPS:
    raise ValueError(f'crop={crop!r}; expected one of {", ".join(CROPS)}')
  root, wild = pathlib.Path(path).expanduser(), crop.startswith('wild')
  folder = _picture_folder(root, images, wild)
  landmarks = root / f'Anno/list_landmarks_{"" if wild else "align_"}celeba.txt'
  _, _, files, pixels = faces.read_list(landmarks, 10, header=True)
  names, attributes = _attributes(root / 'Anno/list_attr_celeba.txt', files)
  boxes = root / 'Anno/list_bbox_celeba.txt'
  boxes = _in_order(faces.read_list(boxes, 4, header=True), files) if crop == 'wild_box' else None
  known = zip(files, _memberships(root, files), attributes, strict=True)
  entries = [Entry(file, parts, attributes=values) for file, parts, values in known]
  info = faces.INFOS[5]._replace(attributes=names)
  options = {'frame': frame, 'crop': crop}
  whole = Pictures(folder, entries, pixels.reshape(-1, 5, 2), boxes, info, **options)
  return whole.subset(present(folder, files))


def source(
  path: str,
  *,
  split: str = 'train',
  frame: int = 136,
  crop: str = 'aligned',
  images: str | None = None,
) -> Chosen:
  """The pictures of one split, from the original folder or from what `prepare` made of it.

  split: 'train', the official part without any MAFL picture, for stage 1 (145,679 pictures by the
    invented lists of fixture celeba_geometry); 'train_except_mafl_test', with MAFL's training
    pictures (lmdis); 'validation' and 'test', the official parts; 'mafl_train' and 'mafl_test'.
  frame: side in pixels.
  crop: 'aligned', rows 30..207 of the aligned picture, the published frame of stage 1 and MAFL
    (`faces.published_frame`); 'squash', all of it, aspect ignored (lmdis, frame 100); 'wild', all
    of the uncropped picture, aspect ignored, as published; 'wild_box', not published: the square
    around the face's box in list_bbox_celeba.txt, 136 / 96 times the box's larger side.
  images: the folder of pictures below `path`; None: the first of the names above that exists.
  Listed pictures that are missing are left out. Raises FileNotFoundError and ValueError that say
  what is missing, or which line is wrong.
  """
  found = opened(path, 'celeba', catalogue, frame=frame, crop=crop, images=images)
  known = {part for entry in found.entries for part in entry.splits}
  if set().union(*SPLITS.get(split, ())) - set(_parts) and known <= set(_parts):
    lists = ' and '.join(MAFL_LISTS.values())
    raise FileNotFoundError(f'split={split!r} needs {lists}, which are not in {path}; {HINT}')
  return faces.choose(found, split, SPLITS)


def opened(
  path: str,
  name: str,
  raw: Callable[..., Pictures],
  *,
  frame: int,
  crop: str,
  images: str | None,
) -> Catalogue:
  """What `prepare` stored with these options (ValueError for others), or `raw`'s pictures."""
  options = {'crop': crop, 'images': images}
  read = functools.partial(raw, path, frame=frame, **options)
  return prepared.open_catalogue(path, name, read, frame=frame, options=options)


def _picture_folder(root: pathlib.Path, images: str | None, wild: bool) -> pathlib.Path:
  aligned = ('Img/img_align_celeba', 'Img/img_align_celeba_hq')
  faces.check_root(root)
  names = (images,) if images else ('Img_in_the_wild',) if wild else aligned
  for name in names:
    if (root / name).is_dir():
      return root / name
  raise FileNotFoundError(f'{root} has no folder {" or ".join(names)}; {HINT}')


def _attributes(
  path: pathlib.Path, files: list[str]
) -> tuple[tuple[str, ...], Sequence[tuple[bool, ...]]]:
  if not path.is_file():
    return (), [()] * len(files)
  table = faces.read_list(path, 40, header=True)
  names, values = tuple(table.header[1].split()), _in_order(table, files)
  if len(set(names)) != 40 or not np.isin(values, (-1, 1)).all():
    raise ValueError(f'{path}: expected 40 names in line 2, and -1 or 1 for each in every line')
  return names, [tuple(row) for row in (values > 0).tolist()]


def _memberships(root: pathlib.Path, files: list[str]) -> list[tuple[str, ...]]:
  path = root / 'Eval/list_eval_partition.txt'
  part = _in_order(faces.read_list(path, 1), files)[:, 0]
  if not np.isin(part, (0, 1, 2)).all():
    raise ValueError(f'{path}: expected 0, 1 or 2 in every line, found {set(part.tolist())}')
  official = [_parts[int(p)] for p in part]
  if not all((root / name).is_file() for name in MAFL_LISTS.values()):
    return [(p,) for p in official]
  mafl = {
    file: name for name, where in MAFL_LISTS.items() for file in faces.read_names(root / where)
  }
  unknown = sorted(set(mafl) - set(files))
  if unknown:
    raise ValueError(
      f'{root}/{MAFL_LISTS[mafl[unknown[0]]]} names {unknown[0]!r}, which CelebA has not '
      f'({len(unknown)} such lines)'
    )
  return [(p, mafl.get(file, 'outside_mafl')) for p, file in zip(official, files, strict=True)]


def _in_order(table: faces.List, files: list[str]) -> Float[np.ndarray, 'N columns']:
  """A list's values in the order of another list's files."""
  if table.files == files:
    return table.values
  row = {file: i for i, file in enumerate(table.files)}
  missing = [file for file in files if file not in row]
  if missing:
    raise ValueError(
      f'{table.path} has no line for {len(missing)} of {len(files)} pictures, first {missing[0]}'
    )
  return table.values[[row[file] for file in files]]

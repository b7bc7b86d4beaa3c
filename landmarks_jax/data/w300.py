"""300W: 3,837 photographs of faces in the wild with 68 landmarks (Sagonas et al. 2013).

The folder holds afw/, helen/{trainset,testset}/, lfpw/{trainset,testset}/ and ibug/ with pictures
and their .pts files, and 'Bounding Boxes/bounding_boxes_*.mat'. Training: AFW and both trainsets,
3,148; test: both testsets ('common') and the pictures of IBUG named image* ('challenging'), 689.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from landmarks_jax.data import faces, images, prepared
from landmarks_jax.data.catalogue import Chosen, Entry, label_files, present
from landmarks_jax.data.source import BadImage, labelled

PUBLISHED = {'train': 3148, 'test': 689}  # `prepare` compares with these
SPLITS: faces.Splits = {part: [{part}] for part in ('train', 'test', 'common', 'challenging')}
_parts = {  # folder -> what its pictures belong to
  'afw': ('train',),
  'helen/trainset': ('train',),
  'lfpw/trainset': ('train',),
  'helen/testset': ('test', 'common'),
  'lfpw/testset': ('test', 'common'),
  'ibug': ('test', 'challenging'),
}
_box_width, _side, _up = 52, 100, 2  # pixels: the face's box, the cut around it, its shift


class Pictures:
  """The pictures of the box lists that exist, folder by folder."""

  classes = ()
  info = faces.INFOS[68]

  def __init__(
    self,
    root: pathlib.Path,
    entries: Sequence[Entry],
    boxes: Float[np.ndarray, 'N 4'],
    *,
    frame: int,
  ) -> None:
    rows = present(root, [entry.file for entry in entries])
    self.root, self.frame = root, frame
    self.entries, self.boxes = [entries[row] for row in rows], boxes[rows]

  def example(self, row: int) -> dict[str, Any]:
    """One face in the frame. Raises BadImage, also for a .pts file that cannot be read."""
    path = self.root / self.entries[row].file
    cut, pixels = cut_face(
      images.read(path), read_points(path.with_suffix('.pts')), self.boxes[row]
    )
    return labelled(*faces.published_frame(cut, pixels, self.frame), self.info)

  def label_bytes(self) -> Iterator[bytes]:
    """The boxes of all pictures, then the content of their .pts files."""
    yield self.boxes.tobytes()
    paths = (self.root / entry.file for entry in self.entries)
    yield from label_files(path.with_suffix('.pts') for path in paths)


def catalogue(path: str, *, frame: int = 136) -> Pictures:
  """All pictures of the original folder; errors as in `source`."""
  root = pathlib.Path(path).expanduser()
  faces.check_root(root)
  entries, boxes = [], []
  for folder, parts in _parts.items():
    for name, box in _read_boxes(root, folder):
      if folder != 'ibug' or name.startswith('image'):
        entries.append(Entry(f'{folder}/{name}', parts))
        boxes.append(box)
  return Pictures(root, entries, np.reshape(boxes, (-1, 4)), frame=frame)


def source(path: str, *, split: str = 'train', frame: int = 136) -> Chosen:
  """'train', 'test', or the test set's 'common' or 'challenging' part.

  From the original folder or from what `prepare w300` made of it. frame: side in pixels. Listed
  pictures that are missing are left out. Raises FileNotFoundError and ValueError that say what is
  missing or wrong.
  """
  found = prepared.open_catalogue(path, 'w300', lambda: catalogue(path, frame=frame), frame=frame)
  return faces.choose(found, split, SPLITS)


def cut_face(
  image: UInt8[np.ndarray, 'H W 3'],
  pixels: Float[np.ndarray, '68 2'],
  box: Float[np.ndarray, ' 4'],
) -> tuple[UInt8[np.ndarray, '100 100 3'], Float[np.ndarray, '68 2']]:
  """The face at the published scale: its box 52 pixels wide in 100x100, and its points there.

  Args: box = (xmin, ymin, xmax, ymax) and pixels count from 1. The picture is resized first
  (bicubic), then cut around the box's centre, 2 pixels up, with black beyond its edge. Rounding is
  as published: sides truncated, the corner rounded, 1 subtracted after scaling. Fixture
  w300_geometry.
  """
  low, high = box[:2], box[2:]
  scale = _box_width / (high[0] - low[0] + 1)
  width, height = (max(1, int(side * scale)) for side in image.shape[1::-1])
  small = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
  x, y = np.rint((low + high) / 2 * scale - _side / 2 - [0, _up]).astype(int).tolist()
  cut = small.crop((x, y, x + _side, y + _side))  # Pillow fills with zeros
  return np.array(cut), pixels * scale - 1 - [x, y]


def read_points(path: pathlib.Path) -> Float[np.ndarray, '68 2']:
  """The 68 points of a .pts file, in pixels that count from 1. Raises BadImage."""
  try:
    inside = path.read_text(encoding='utf-8').partition('{')[2].partition('}')[0]
    points = np.array(inside.split(), np.float64).reshape(68, 2)
  except (OSError, ValueError) as error:
    raise BadImage(path, f'its 68 points cannot be read ({error})') from error
  if not np.isfinite(points).all():
    raise BadImage(path, 'has a point that is not finite')
  return points


def _read_boxes(root: pathlib.Path, folder: str) -> list[tuple[str, np.ndarray]]:
  """The file names and ground-truth boxes of one folder's list."""
  path = root / f'Bounding Boxes/bounding_boxes_{folder.replace("/", "_")}.mat'
  (records,) = faces.read_mat(path, 'bounding_boxes', structs=True)
  boxes = []
  for number, record in enumerate(records, start=1):
    try:
      name, box = str(record['imgName']), np.array(record['bb_ground_truth'], np.float64)
    except (KeyError, IndexError, TypeError, ValueError) as error:
      raise ValueError(
        f'{path}, entry {number}: expected imgName and bb_ground_truth ({error})'
      ) from error
    if box.shape != (4,) or not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
      raise ValueError(
        f'{path}, entry {number} ({name}): expected a box xmin ymin xmax ymax, found {box.tolist()}'
      )
    boxes.append((name, box))
  return boxes

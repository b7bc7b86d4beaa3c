"""3,732 photographs of 307 people with 68 landmarks, as in the *Facial Keypoints* teaching set.

The folder holds training/ and test/ with training_frames_keypoints.csv and
test_frames_keypoints.csv: file name, then x0, y0, ..., x67, y67 in pixels (part of YouTube Faces,
Wolf et al. 2011). Both original parts show the same people and share file names, so the split here
is by person and a picture's key is part/name. Left and right are those of the picture.
"""

import csv
import itertools
import pathlib
from typing import Any

import numpy as np

from landmarks_jax.data import face_landmarks, images
from landmarks_jax.data.catalogue import SIXTHS, check_file
from landmarks_jax.data.source import Info, labelled

_colours = (0.4555, 0.3543, 0.3011), (0.2622, 0.2184, 0.2151)  # of the training split, frame 136

INFOS = {
  5: Info(*face_landmarks.FIVE, *_colours),
  68: Info(*face_landmarks.SIXTY_EIGHT, *_colours),
}


class Faces:
  """The pictures of one split; `files` holds their keys and `people` their persons, in order.

  Every person's n-th picture precedes anybody's (n+1)-th, so neighbours show different people.
  """

  def __init__(
    self, folder: pathlib.Path, labels: dict[str, np.ndarray], info: Info, frame: int
  ) -> None:
    self.folder, self.labels, self.info, self.frame = folder, labels, info, frame
    self.files = tuple(labels)
    self.people = tuple(map(_person, self.files))

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The square around the 68 points, side 1.6 x their box's larger side, at frame x frame."""
    file = self.files[index]
    pixels = self.labels[file]
    box = images.box_around(pixels, 1.6)
    image = images.square_frame(images.read(self.folder / file), box, self.frame)
    points = images.frame_points(_chosen(pixels, len(self.info.names)), box, self.frame)
    return labelled(image, points, self.info) | {'index': np.int32(index)}


def source(path: str, *, split: str = 'train', points: int = 68, frame: int = 136) -> Faces:
  """The photographs of one split of the people.

  split: every sixth of the people's sorted names is test, the next one validation, the rest train;
  or 'all'. points: 68, or 5 derived from them (eye centres, nose tip, mouth corners). frame: side
  in pixels. Raises FileNotFoundError for missing files, ValueError for a broken list.
  """
  if split not in SIXTHS:
    raise ValueError(f'split={split!r}; expected one of {", ".join(SIXTHS)}')
  if points not in INFOS:
    raise ValueError(f'points={points}; expected 5 or 68')
  folder = pathlib.Path(path).expanduser()
  labels = _read_labels(folder, 'training') | _read_labels(folder, 'test')
  people = sorted({_person(file) for file in labels})
  chosen = {p for i, p in enumerate(people) if SIXTHS[split](i)}
  files = _alternate([file for file in sorted(labels) if _person(file) in chosen])
  return Faces(folder, {file: labels[file] for file in files}, INFOS[points], frame)


def is_layout(root: pathlib.Path) -> bool:
  """Whether a folder is laid out like this set, so that its labels need not be named."""
  return _list_file(root, 'training').is_file()


def _person(file: str) -> str:
  return file.split('/')[1].rpartition('_')[0]


def _alternate(files: list[str]) -> list[str]:
  groups = itertools.groupby(sorted(files, key=_person), key=_person)
  ranked = [(rank, person, f) for person, group in groups for rank, f in enumerate(group)]
  return [file for _, _, file in sorted(ranked)]


def _chosen(pixels: np.ndarray, points: int) -> np.ndarray:
  if points == 68:
    return pixels
  eyes = pixels[36:42].mean(axis=0), pixels[42:48].mean(axis=0)
  return np.stack([*eyes, pixels[30], pixels[48], pixels[54]])


def _list_file(folder: pathlib.Path, part: str) -> pathlib.Path:
  return folder / f'{part}_frames_keypoints.csv'


def _read_labels(folder: pathlib.Path, part: str) -> dict[str, np.ndarray]:
  path = _list_file(folder, part)
  check_file(path)
  labels, (one, other) = {}, INFOS[68].scale
  with path.open(newline='', encoding='utf-8-sig') as file:
    lines = csv.reader(file)
    next(lines, None)  # the header
    for name, *cells in filter(None, lines):
      where = f'{path}, line {lines.line_num} ({name})'
      try:
        points = np.array(cells, np.float64).reshape(68, 2)
      except ValueError as error:
        raise ValueError(f'{where}: expected 136 numbers ({error})') from error
      if not np.isfinite(points).all() or (points[one] == points[other]).all():
        raise ValueError(f'{where}: expected 136 finite numbers, with the eyes apart')
      labels[f'{part}/{name}'] = points
  present = {file.name for file in (folder / part).glob('*')}
  missing = [file for file in labels if file.split('/')[1] not in present]
  if missing:
    raise FileNotFoundError(f'{path} names {len(missing)} missing pictures, first {missing[0]}')
  return labels

"""AFLW_M: 10,122 training faces of AFLW and MTFL's 2,995 test faces, 5 landmarks.

Crops of 150 pixels. The folder holds aflw_cropped/facedata_cropped.csv (set 1 is train) and
MTFL/testing.txt, each with its pictures. Both count pixels from 1; the CSV alternates x and y,
MTFL lists all x first.
"""

import csv
import pathlib

import numpy as np
from jaxtyping import Float

from landmarks_jax.data import aflw, faces, prepared
from landmarks_jax.data.catalogue import Chosen, Entry, check_file

PUBLISHED = {'train': 10122, 'test': 2995}  # `prepare` compares with these
_side = 150


def catalogue(path: str, *, frame: int = 136) -> aflw.Pictures:
  """All pictures of the original folder; errors as in `source`."""
  root = pathlib.Path(path).expanduser()
  faces.check_root(root)
  train, pixels = _read_csv(root / 'aflw_cropped/facedata_cropped.csv')
  mtfl = faces.read_list(root / 'MTFL/testing.txt', 14)
  planar = mtfl.values[:, :10].reshape(-1, 2, 5)
  entries = [Entry(f'aflw_cropped/{file}', ('train',)) for file in train]
  entries += [Entry(f'MTFL/{file}', ('test',)) for file in mtfl.files]
  pixels = np.concatenate([pixels, planar.transpose(0, 2, 1)]) - 1
  return aflw.Pictures(root, entries, pixels, np.full((len(entries), 2), _side), frame=frame)


def source(path: str, *, split: str = 'train', frame: int = 136) -> Chosen:
  """'train' or 'test', from the original folder or from what `prepare aflw_m` made of it.

  frame: side in pixels; specification section 1 (published: 136), fixture aflw_mtfl_geometry.
  Listed pictures that are missing are left out. Raises FileNotFoundError and ValueError that say
  what is missing, or which line is wrong.
  """
  found = prepared.open_catalogue(path, 'aflw_m', lambda: catalogue(path, frame=frame), frame=frame)
  return faces.choose(found, split, aflw.SPLITS)


def _read_csv(path: pathlib.Path) -> tuple[list[str], Float[np.ndarray, 'N 5 2']]:
  """Files and points of the training rows; the coordinates are cells 5 to 14."""
  check_file(path)
  files, pixels = [], []
  with path.open(newline='', encoding='utf-8-sig', errors='replace') as file:
    lines = csv.reader(file)
    header = next(lines, [])
    if not {'crop_file', 'set'} <= set(header):
      raise ValueError(f'{path}, line 1: expected columns crop_file and set, found {header}')
    name, part = header.index('crop_file'), header.index('set')
    for row in filter(None, lines):
      try:
        if float(row[part]) == 1:
          files.append(row[name].strip().replace('\\', '/'))
          pixels.append(_points(row[4:14]))
      except (IndexError, ValueError) as error:
        raise ValueError(f'{path}, line {lines.line_num}: {error}; the line is {row}') from error
  if not files:
    raise ValueError(f'{path} has no training pictures (set 1)')
  return files, np.stack(pixels)


def _points(cells: list[str]) -> Float[np.ndarray, '5 2']:
  points = np.array(cells, np.float32)
  if points.shape != (10,) or not np.isfinite(points).all():
    raise ValueError('expected 10 finite coordinates in cells 5 to 14')
  return points.reshape(5, 2)

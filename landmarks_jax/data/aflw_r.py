"""AFLW_R: the recropped release of AFLW, 10,122 training and 2,991 test faces, 5 landmarks.

The folder holds aflw_{train,test}_images.txt, one name per line; aflw_{train,test}_keypoints.mat
with gt [N, 5, 2] in (row, column) and hw [N, 2], the pictures' sizes; and output/ with the
pictures. 132 of the test faces are duplicates; they are kept, as in the published figures.
"""

import pathlib

import numpy as np
from jaxtyping import Float, Int

from landmarks_jax.data import aflw, faces, prepared
from landmarks_jax.data.catalogue import Chosen, Entry

PUBLISHED = {'train': 10122, 'test': 2991}  # `prepare` compares with these


def catalogue(path: str, *, frame: int = 136) -> aflw.Pictures:
  """All pictures of the original folder; errors as in `source`."""
  root = pathlib.Path(path).expanduser()
  faces.check_root(root)
  entries, pixels, sizes = [], [], []
  for part in aflw.SPLITS:
    files = faces.read_names(root / f'aflw_{part}_images.txt')
    points, shapes = _read_labels(root / f'aflw_{part}_keypoints.mat', len(files))
    entries += [Entry(f'output/{file}', (part,)) for file in files]
    pixels.append(points[..., ::-1])
    sizes.append(shapes[:, ::-1])
  return aflw.Pictures(root, entries, np.concatenate(pixels), np.concatenate(sizes), frame=frame)


def source(path: str, *, split: str = 'train', frame: int = 136) -> Chosen:
  """'train' or 'test', from the original folder or from what `prepare aflw_r` made of it.

  frame: side in pixels; specification section 1 (published: 136), fixture aflw_geometry. Listed
  pictures that are missing are left out. Raises FileNotFoundError and ValueError that say what is
  missing or wrong.
  """
  found = prepared.open_catalogue(path, 'aflw_r', lambda: catalogue(path, frame=frame), frame=frame)
  return faces.choose(found, split, aflw.SPLITS)


def _read_labels(
  path: pathlib.Path, count: int
) -> tuple[Float[np.ndarray, 'N 5 2'], Int[np.ndarray, 'N 2']]:
  points, shapes = faces.read_mat(path, 'gt', 'hw')
  if points.shape != (count, 5, 2) or shapes.shape != (count, 2):
    raise ValueError(
      f'{path}: gt is {points.shape} and hw {shapes.shape}; expected ({count}, 5, 2) and '
      f'({count}, 2), as its list has {count} names'
    )
  if not np.isfinite(points).all():
    row = int(np.argwhere(~np.isfinite(points))[0, 0])
    raise ValueError(f'{path}: gt of picture {row + 1} is not finite: {points[row].tolist()}')
  return points.astype(np.float32), shapes.astype(np.int64)

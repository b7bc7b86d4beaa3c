"""What `fit` and `predict` share: options and readers for pictures with labels or boxes."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float

from landmarks_jax.cli import paths

CROPS = 'centre', 'pad', 'squash'  # as in data/folder.py, which is heavy to import


def define_flags(values: flags.FlagValues, *, crop: str) -> None:
  """Declares the options of both commands. crop: what it is by default, for its help."""
  paths.define('images', 'Folder of pictures.', values)
  paths.define('output', 'Folder that is made.', values)
  what = 'CSV file with the header file,x0,y0,x1,y1: where the object is, in pixels.'
  paths.define('boxes', what, values)
  what = f'Square of a picture without boxes: centre, pad (all of it) or squash; {crop} if absent.'
  flags.DEFINE_enum('crop', None, CROPS, what, flag_values=values)


def read_labels(root: pathlib.Path, labels: str) -> Any:
  """`interop.landmark_csv.LabelTable` from a CSV or COCO file, below `root` or as given."""
  from landmarks_jax.data import folder  # late: heavy

  table = folder.read_labels(root, labels)
  if not table.points:
    raise ValueError(f'{table.path} labels no picture')
  return table


def read_boxes(root: pathlib.Path, boxes: pathlib.Path | None) -> dict[str, Any] | None:
  """Boxes by picture, from a CSV file below `root` or as given; None if `boxes` is None."""
  from landmarks_jax.data import folder  # late: heavy
  from landmarks_jax.interop import box_csv

  if boxes is None:
    return None
  for path in (root / boxes, boxes):
    if path.is_file():
      found = box_csv.read(path)
      names = folder.spelt_as_on_disk(found, root)
      return {names[file]: box for file, box in found.items()}
  raise FileNotFoundError(f'--boxes={boxes}: there is no file {root / boxes} and no {boxes}')


def rows_of(
  files: Sequence[str], boxes: dict[str, Any] | None, what: pathlib.Path | None
) -> Float[np.ndarray, 'N 4'] | None:
  """The boxes of some pictures, in their order. Raises ValueError if one has none."""
  if boxes is None:
    return None
  without = [file for file in files if file not in boxes]
  if without:
    raise ValueError(f'{what} has no box for {len(without)} of {len(files)} pictures: {without[0]}')
  return np.array([boxes[file] for file in files], np.float64)


def pair(text: str, names: Sequence[str]) -> tuple[int, int] | str:
  """'frame', or the indices of the two landmarks named in 'A,B'."""
  if text == 'frame':
    return text
  for i, first in enumerate(names):
    for k, second in enumerate(names):
      if i != k and text == f'{first},{second}':
        return i, k
  raise ValueError(f'--scale={text}: expected frame, or two of: {", ".join(names)}; as in A,B')

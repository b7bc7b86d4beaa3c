"""MAFL: 20,000 pictures of CelebA with their 5 landmarks, the faces that methods are scored on.

19,000 to train the landmark head on and 1,000 to test (Zhang et al. 2014), by MAFL/training.txt and
MAFL/testing.txt in CelebA's folder (data/celeba.py).
"""

import pathlib

from landmarks_jax.data import celeba, faces
from landmarks_jax.data.catalogue import Chosen, check_file

PUBLISHED = {'mafl_train': 19000, 'mafl_test': 1000}  # `prepare` compares with these
SPLITS: faces.Splits = {'train': [{'mafl_train'}], 'test': [{'mafl_test'}]}


def catalogue(
  path: str, *, frame: int = 136, crop: str = 'aligned', images: str | None = None
) -> celeba.Pictures:
  """The MAFL pictures of CelebA's folder; options and errors as in `celeba.source`."""
  for name in celeba.MAFL_LISTS.values():
    check_file(pathlib.Path(path).expanduser() / name)
  whole = celeba.catalogue(path, frame=frame, crop=crop, images=images)
  return whole.subset(
    [row for row, e in enumerate(whole.entries) if 'outside_mafl' not in e.splits]
  )


def source(
  path: str,
  *,
  split: str = 'train',
  frame: int = 136,
  crop: str = 'aligned',
  images: str | None = None,
) -> Chosen:
  """'train' or 'test', from CelebA's folder or from what `prepare mafl` made of it.

  The other options and the errors are those of `celeba.source`.
  """
  found = celeba.opened(path, 'mafl', catalogue, frame=frame, crop=crop, images=images)
  return faces.choose(found, split, SPLITS)

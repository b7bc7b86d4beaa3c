"""iNaturalist 2017, class Aves: photographs of birds by species, without landmarks.

The folder is that of the competition: train_val_images/Aves/SPECIES/HASH.jpg, and beside it
train2017.json and val2017.json if splits are wanted. Other classes (Mammalia, ...) may be there
and are left out. The frame is the whole picture, squashed (docs/specification.md section 1).
"""

import collections
import os
import pathlib
from typing import Any

from landmarks_jax.data import images, prepared
from landmarks_jax.data.catalogue import Chosen, Entry
from landmarks_jax.data.folder import IMAGENET
from landmarks_jax.data.source import Info
from landmarks_jax.runtime import reading

INFO = Info((), (), 'frame', *IMAGENET)
SPLITS = {'train': 'train2017.json', 'validation': 'val2017.json'}

_birds = 'train_val_images/Aves'


class Catalogue:
  """Every bird of the tree, sorted by species and name; a species' number is its label."""

  def __init__(
    self,
    folder: pathlib.Path,
    entries: list[Entry],
    classes: tuple[str, ...],
    *,
    frame: int,
    exact: bool,
  ) -> None:
    self.folder, self.entries, self.classes = folder, entries, classes
    self.info, self.frame, self.exact = INFO, frame, exact

  def example(self, row: int) -> dict[str, Any]:
    """The whole picture, squashed to frame x frame."""
    path = self.folder / self.entries[row].file
    image = images.read(path, min_side=None if self.exact else self.frame)
    height, width = image.shape[:2]
    return {'image': images.square_frame(image, (0, 0, width, height), self.frame)}


def catalogue(
  path: str, *, frame: int = 96, exact: bool = True, missing: str = 'error'
) -> Catalogue:
  """The birds of the original tree; options as in `source`."""
  folder = pathlib.Path(path).expanduser()
  files = _find(folder)
  classes = tuple(sorted({_species(file) for file in files}))
  labels = {species: label for label, species in enumerate(classes)}
  member = collections.defaultdict(tuple)
  for split, name in SPLITS.items():
    if (folder / name).is_file():
      for file in _read_birds(folder / name):
        member[file] += (split,)
  present = set(files)
  absent = [file for file in member if file not in present]
  _check_absent(absent, missing, ' and '.join(SPLITS.values()), str(folder))
  entries = [Entry(file, member.get(file, ()), labels[_species(file)]) for file in files]
  return Catalogue(folder, entries, classes, frame=frame, exact=exact)


def source(
  path: str,
  *,
  split: str = 'all',
  listed: str | None = None,
  missing: str = 'error',
  frame: int = 96,
  exact: bool = True,
) -> Chosen:
  """Birds from the original tree, or from a copy that `prepare` made.

  split: 'all', or 'train' or 'validation' by the competition's JSON files. listed: a text file with
  one path per line, such as the paper's 100,000; whatever precedes SPECIES/HASH.jpg is ignored, and
  the list's order is kept. missing: 'error' if the list or a JSON file names pictures that do not
  exist, 'skip' to leave them out. frame: side in pixels. exact: decodes the original tree at full
  size, so that pixels equal the published system's and those that `prepare` stores; False lets the
  JPEG decoder reduce them, several times faster and slightly different.
  Raises FileNotFoundError and ValueError that say what was found and what to do.
  """
  if split != 'all' and split not in SPLITS:
    raise ValueError(f'split={split!r}; expected all, {", ".join(SPLITS)}')
  tree = prepared.open_catalogue(
    path, 'inat', lambda: catalogue(path, frame=frame, exact=exact, missing=missing), frame=frame
  )
  rows = [row for row, e in enumerate(tree.entries) if split == 'all' or split in e.splits]
  if not rows:
    raise ValueError(f'{path} has no pictures of split={split!r}; that needs {SPLITS[split]}')
  if listed is not None:
    known = {_key(tree.entries[row].file): row for row in rows}
    rows = _rows(pathlib.Path(listed).expanduser(), known, missing, f'split={split!r} of {path}')
  return Chosen(tree, rows)


def _find(folder: pathlib.Path) -> list[str]:
  """All JPEG files two levels below Aves, by one listing per species: stat on each file is slow.

  Hidden ones, such as macOS puts beside files, are left out.
  """
  birds = folder / _birds
  if not birds.is_dir():
    raise FileNotFoundError(f'{birds} is not a folder; docs/data.md says what {folder} should hold')
  with os.scandir(birds) as found:
    species = sorted(entry.name for entry in found if entry.is_dir())
  files = [
    f'{_birds}/{name}/{file}'
    for name in species
    for file in sorted(os.listdir(birds / name))
    if file.lower().endswith(('.jpg', '.jpeg')) and not file.startswith('.')
  ]
  if not files:
    raise FileNotFoundError(f'{birds} has no pictures; expected SPECIES/HASH.jpg in it')
  return files


def _read_birds(path: pathlib.Path) -> list[str]:
  try:
    content = reading.parse_json(path.read_bytes(), path)
    kinds = {c['id'] for c in content['categories'] if c['supercategory'] == 'Aves'}
    birds = {a['image_id'] for a in content['annotations'] if a['category_id'] in kinds}
    return [image['file_name'] for image in content['images'] if image['id'] in birds]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path}: expected JSON with images, annotations and categories with a supercategory, as the '
      f'competition has it ({error!r})'
    ) from error


def _rows(path: pathlib.Path, known: dict[str, int], missing: str, where: str) -> list[int]:
  if not path.is_file():
    raise FileNotFoundError(
      f'listed: there is no file {path}; give the list of the pictures to take, or '
      '--config.data.listed=None for all birds'
    )
  lines = path.read_text(encoding='utf-8-sig', errors='replace').splitlines()
  names = [line.strip() for line in lines if line.strip()]
  found = [known[key] for key in map(_key, names) if key in known]
  if not found:
    first = f' (the first is {names[0]!r})' if names else ''
    raise ValueError(f'none of the {len(names)} lines of {path}{first} is a picture of {where}')
  absent = [name for name in names if _key(name) not in known]
  _check_absent(absent, missing, str(path), where)
  return found


def _check_absent(absent: list[str], missing: str, who: str, where: str) -> None:
  if missing not in ('error', 'skip'):
    raise ValueError(f"missing={missing!r}; expected 'error' or 'skip'")
  if absent and missing == 'error':
    raise FileNotFoundError(
      f'{len(absent):,} pictures that {who} names are not in {where}, first {absent[0]!r}; '
      "complete it, or go without them by missing='skip'"
    )


def _key(file: str) -> str:
  return '/'.join(file.split('/')[-2:])


def _species(file: str) -> str:
  return file.split('/')[-2]

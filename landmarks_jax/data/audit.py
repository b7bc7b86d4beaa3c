"""Finds what may be wrong with pictures: facts about each file in, findings out."""

import hashlib
import io
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from landmarks_jax.data import duplicates, images
from landmarks_jax.data.catalogue import natural
from landmarks_jax.data.source import BadImage

TINY, LONG = 64, 3  # shorter side in pixels; ratio of longer to shorter side
STEP, RUN = 8, 3  # most bits between neighbours in a burst; fewest pictures in one
SIDE = 72  # pixels of the reduced picture that a fingerprint is made from
ADVICE = {
  'unreadable': 'Training skips and counts them; fix or delete them.',
  'other files': (
    'Their extensions are not those of pictures that are read, so nothing uses them. Save pictures '
    'among them, such as .heic or .avif, as JPEG or PNG.'
  ),
  'equal files': (
    'The same file under several names. Keep one: in training and test they make scores too good, '
    'and instance contrast pushes a picture away from itself.'
  ),
  'near duplicates': (
    'The same picture recompressed, resized or hardly changed (4 of 64 bits of a fingerprint). '
    'As equal files: keep one, and never one in training and one in test.'
  ),
  'bursts': (
    f'Runs of {RUN} or more pictures of one folder, each nearly equal to the one before, as frames '
    'of a video are. Instance contrast (the method moco) treats every picture as a class of its '
    'own: near-equal ones become negatives of each other and teach the wrong thing. Keep every '
    'n-th, and split by run, never inside one.'
  ),
  'several pages': (
    'Several pictures in one file (TIFF, GIF, WebP, PNG), of which only the first is read. Save '
    'each that matters as a file of its own.'
  ),
  'tiny': f'The shorter side is below {TINY} pixels: the frame shows them enlarged and blurred.',
  'long': f'More than {LONG} times as long as wide: the centre crop shows less than a third.',
  'grey': 'Without colour, whatever the file says. Harmless, unless other pictures have colours.',
  'CMYK': 'Colours for printing; they are converted without their profile and may look wrong.',
  '16 bits': 'Reduced to 8 bits by division; dark ones may turn black.',
}


class Look(NamedTuple):
  """What is known of a picture file; a `reason` means that it cannot be read."""

  file: str
  size: tuple[int, int] = (0, 0)  # width, height, upright
  kind: str = ''  # colour, grey, CMYK, 16 bits
  digest: bytes = b''  # of the file
  fingerprint: int = 0
  reason: str = ''
  pages: int = 1  # pictures in the file, of which the first is read


class Item(NamedTuple):
  """A picture in a finding, and a note about it."""

  file: str
  note: str = ''


class Finding(NamedTuple):
  """Something to look at: its name, what it means, and groups of pictures, worst first."""

  name: str
  advice: str
  groups: Sequence[Sequence[Item]]
  landmarks: bool = False  # whether it is about landmarks

  @property
  def count(self) -> int:
    """The number of pictures in all groups."""
    return sum(map(len, self.groups))


def look(folder: pathlib.Path, file: str) -> Look:
  """Reads a picture, upright as it is displayed, at reduced size if that is faster."""
  path = folder / file
  try:
    images.check_file(path)
    data = path.read_bytes()
    image = images.decode(data, path=path, rotate=True, min_side=SIDE)
    size = images.size(path, rotate=True)
  except OSError as error:
    return Look(file, reason=f'cannot be opened ({error.strerror})')
  except BadImage as error:
    return Look(file, reason=error.reason)
  opened = Image.open(io.BytesIO(data))
  kind, digest = _kind(opened.mode, image), hashlib.sha256(data).digest()
  return Look(file, size, kind, digest, int(duplicates.fingerprint(image)), pages=_pages(opened))


def _pages(opened: Image.Image) -> int:
  """The number of pictures in a file; previews inside a JPEG (MPO) do not count."""
  try:
    return 1 if opened.format == 'MPO' else getattr(opened, 'n_frames', 1)
  except Exception:  # Pillow's decoders raise nearly anything on what follows a sound first picture
    return 1


def _kind(mode: str, image: np.ndarray) -> str:
  if mode == 'CMYK' or mode.startswith('I'):
    return 'CMYK' if mode == 'CMYK' else '16 bits'
  apart = np.abs(np.diff(image.astype(np.int16), axis=-1)).max()
  return 'grey' if apart <= 2 else 'colour'  # 2: rounding


def sizes(looks: Sequence[Look]) -> dict[str, list[float]]:
  """Minimum, 5 %, median, 95 % and maximum of width, height and aspect (width / height)."""
  size = np.array([one.size for one in looks if not one.reason], float).reshape(-1, 2)
  values = {'width': size[:, 0], 'height': size[:, 1], 'aspect': size[:, 0] / size[:, 1]}
  shares = (0, 0.05, 0.5, 0.95, 1)
  return {name: np.quantile(v, shares).tolist() for name, v in values.items() if len(v)}


def of_pictures(looks: Sequence[Look]) -> list[Finding]:
  """What is wrong with the files: unreadable, duplicated, or of an odd size or kind.

  looks: of all pictures in a folder; neighbours are in order of file name, 2 before 10.
  """
  good = sorted((one for one in looks if not one.reason), key=_place)
  bad = [Item(one.file, one.reason) for one in looks if one.reason]
  equal = duplicates.exact([one.digest for one in good])
  bursts = list(_bursts(good))
  tiny = sorted((one for one in good if min(one.size) < TINY), key=lambda one: min(one.size))
  long = [one for one in good if max(one.size) > LONG * min(one.size)]
  found = {
    'unreadable': [[item] for item in bad],
    'equal files': _groups(good, equal),
    'near duplicates': _groups(good, _near(good, equal, bursts)),
    'bursts': _groups(good, bursts),
    'several pages': [[Item(one.file, f'{one.pages} pages')] for one in good if one.pages > 1],
    'tiny': [[_sized(one)] for one in tiny],
    'long': [[_sized(one)] for one in long],
  }
  for kind in ('grey', 'CMYK', '16 bits'):
    found[kind] = [[Item(one.file)] for one in good if one.kind == kind]
  return [Finding(name, ADVICE[name], groups) for name, groups in found.items()]


def of_others(kinds: Mapping[str, Sequence[str]]) -> Finding:
  """The files that are not read as pictures, by extension."""
  notes = {kind: kind or 'without extension' for kind in kinds}
  groups = [[Item(file, notes[kind]) for file in files] for kind, files in kinds.items()]
  return Finding('other files', ADVICE['other files'], sorted(groups, key=len, reverse=True))


def _groups(looks: Sequence[Look], groups: Sequence[Sequence[int]]) -> list[list[Item]]:
  """The groups as items, largest first."""
  return [[Item(looks[i].file) for i in group] for group in sorted(groups, key=len, reverse=True)]


def _sized(one: Look) -> Item:
  width, height = one.size
  return Item(one.file, f'{width}x{height}')


def _place(one: Look) -> tuple[str, list[str | int]]:
  """A sort key that keeps the pictures of a folder together, in natural order."""
  folder, _, name = one.file.rpartition('/')
  return folder, natural(name)


def _bursts(looks: Sequence[Look]) -> Iterator[list[int]]:
  """Runs of pictures, each near to the one before it and in the same folder."""
  run = [0]
  for i, (one, other) in enumerate(itertools.pairwise(looks), start=1):
    together = one.file.rpartition('/')[0] == other.file.rpartition('/')[0]
    if not together or (one.fingerprint ^ other.fingerprint).bit_count() > STEP:
      yield from [run] if len(run) >= RUN else []
      run = []
    run.append(i)
  yield from [run] if len(run) >= RUN else []


def _near(
  looks: Sequence[Look], equal: Sequence[Sequence[int]], bursts: Sequence[Sequence[int]]
) -> list[list[int]]:
  """Groups of near duplicates, without copies of a file and without groups inside a burst."""
  copies = {i for group in equal for i in group[1:]}
  kept = [i for i in range(len(looks)) if i not in copies]
  prints = np.array([looks[i].fingerprint for i in kept], np.uint64)
  groups = [[kept[i] for i in group] for group in duplicates.near(prints)]
  runs = [set(run) for run in bursts]
  return [group for group in groups if not any(run.issuperset(group) for run in runs)]

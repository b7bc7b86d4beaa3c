"""All pictures of a dataset's tree, known by name, before lists and splits choose among them.

A dataset file reads its tree into a `Catalogue`; `prepare` stores any catalogue (prepared.py), and
what it stored is a catalogue again. So lists, splits and species are applied in one place, the
dataset's `source`, whether the user has the original tree or a prepared one.
"""

import os
import pathlib
import posixpath
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from landmarks_jax.data.source import Info

HINT = 'docs/data.md says what the folder should hold'

# Splits for datasets that come without any: membership by position in a sorted list.
SIXTHS: Mapping[str, Callable[[int], bool]] = {
  'train': lambda i: i % 6 > 1,
  'validation': lambda i: i % 6 == 1,
  'test': lambda i: i % 6 == 0,
  'all': lambda i: True,
}


def check_file(path: pathlib.Path) -> None:
  """Raises FileNotFoundError if there is no such file."""
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing; {HINT}')


def read_lines(path: pathlib.Path) -> list[str]:
  """The lines of a text file, without empty ones at its end. Raises FileNotFoundError."""
  check_file(path)
  return path.read_text(encoding='utf-8-sig', errors='replace').rstrip().splitlines()


def present(root: pathlib.Path, files: Sequence[str]) -> list[int]:
  """The indices in `files` of those that exist below `root`; warns how many do not.

  Lists each folder once. Raises FileNotFoundError if none exists.
  """
  found = set()
  for folder in {posixpath.dirname(file) for file in files}:
    if (root / folder).is_dir():
      found.update(posixpath.join(folder, name) for name in os.listdir(root / folder))
  rows = [row for row, file in enumerate(files) if file in found]
  absent = next((file for file in files if file not in found), None)
  if not rows:
    raise FileNotFoundError(
      f'{root} holds none of the {len(files)} pictures of its lists, such as {absent}; {HINT}'
    )
  if absent is not None:
    missing = f'{len(files) - len(rows):,} of {len(files):,} pictures are missing'
    warnings.warn(f'{root}: {missing}, first {absent}; they are left out', stacklevel=2)
  return rows


def natural(name: str) -> list[str | int]:
  """A sort key by which a2 comes before a10."""
  parts = re.split('([0-9]+)', name)
  return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def label_files(paths: Iterable[pathlib.Path]) -> Iterator[bytes]:
  """The content of files that label one picture each, after its length; of a missing one b'?'."""
  for path in paths:
    try:
      content = path.read_bytes()
    except OSError:  # opening its picture tells
      yield b'?'
    else:
      yield b'%d ' % len(content) + content


class Entry(NamedTuple):
  """What is known of a picture without opening it."""

  file: str  # path below the root with forward slashes: the name that lists use
  splits: tuple[str, ...] = ()  # every split it belongs to, as published: ('train', 'mafl_test')
  label: int | None = None  # its class, counted from 0
  attributes: tuple[bool, ...] = ()


@runtime_checkable
class Catalogue(Protocol):
  """Every picture that a tree holds; opening one is left to `example`.

  One of pictures with landmarks also has `label_bytes() -> Iterator[bytes]`, which differ if any
  landmark does; by them `prepare` notices labels that were corrected.
  """

  info: Info
  frame: int
  entries: Sequence[Entry]
  classes: tuple[str, ...]  # names by label; empty without classes

  def example(self, row: int) -> dict[str, Any]:
    """The picture of `entries[row]` as `Source` gives it, without index, label and attributes.

    image, and in datasets with landmarks also points, visible and scale. Raises BadImage.
    """
    ...


class Chosen:
  """Some rows of a catalogue as a `Source`; `files` are their names, in order."""

  def __init__(self, catalogue: Catalogue, rows: Int[np.ndarray, ' n'] | Sequence[int]) -> None:
    self.catalogue, self.rows = catalogue, np.asarray(rows, np.int64)
    self.info, self.frame = catalogue.info, catalogue.frame

  @property
  def files(self) -> tuple[str, ...]:
    """The pictures' paths below the root."""
    return tuple(self.catalogue.entries[row].file for row in self.rows)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: Any) -> dict[str, Any]:
    entry = self.catalogue.entries[self.rows[index]]
    example = self.catalogue.example(int(self.rows[index])) | {'index': np.int32(index)}
    if entry.label is not None:
      example['label'] = np.int32(entry.label)
    if entry.attributes:
      example['attributes'] = np.array(entry.attributes, bool)
    return example

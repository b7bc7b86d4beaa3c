"""All pictures of a dataset's tree, known by name, before lists and splits choose among them.

A dataset file reads its tree into a `Catalogue`; `prepare` stores any catalogue (prepared.py), and
what it stored is a catalogue again. So lists, splits and species are applied in one place, the
dataset's `source`, whether the user has the original tree or a prepared one.
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from landmarks_jax.data.source import Info

hint = 'docs/data.md says what the folder should hold'

# Splits for datasets that come without any: membership by position in a sorted list.
sixths: Mapping[str, Callable[[int], bool]] = {
  'train': lambda i: i % 6 > 1,
  'validation': lambda i: i % 6 == 1,
  'test': lambda i: i % 6 == 0,
  'all': lambda i: True,
}


def check_file(path: pathlib.Path) -> None:
  """Raises FileNotFoundError if there is no such file."""
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing; {hint}')


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

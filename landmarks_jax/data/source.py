"""What a dataset is, and how one is found: data/<name>.py has a function `source(**options)`."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Num, UInt8

from landmarks_jax.contracts import Array
from landmarks_jax.runtime import by_name


class Info(NamedTuple):
  """A dataset's facts, stated once; nothing downstream knows its name.

  `scale` is the pair of landmarks whose distance divides errors, or 'frame' (`normaliser`).
  `mean` and `std` are per channel for pictures in [0, 1]. Datasets without landmarks have no names.
  `skeleton` holds the pairs of landmarks that drawings connect.
  """

  names: tuple[str, ...]
  flip_pairs: tuple[tuple[int, int], ...]
  scale: tuple[int, int] | str
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  attributes: tuple[str, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()


@runtime_checkable
class Source(Protocol):
  """A dataset: `source[i]` is one example; its keys are fields of `Batch` without the batch axis.

  Always image uint8 [S, S, 3] and index int32 []; with landmarks also points float32 [K, 2]
  (normalised, corner-aligned in the frame), visible bool [K], scale float32 []. Every i has the
  same keys and shapes. A picture that cannot be read raises `BadImage`.
  """

  info: Info

  def __len__(self) -> int:
    """The number of examples."""
    ...

  def __getitem__(self, index: Any) -> dict[str, Any]:
    """Example `index`, 0 <= index < len."""
    ...


def stacked(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Stacks examples of one dataset: every field becomes [B, ...]."""
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class BadImage(ValueError):
  """A picture that cannot be read; the message is the path and the reason."""

  def __init__(self, path: Any, reason: str) -> None:
    super().__init__(path, reason)  # both, so that it survives pickling between processes
    self.path, self.reason = str(path), reason

  def __str__(self) -> str:
    return f'{self.path}: {self.reason}'


def available(function: str = 'source') -> tuple[str, ...]:
  """The names that `open_source` knows: the files below this folder that define `source`.

  function: another function to look for, such as `catalogue`, which `prepare` needs.
  """
  return by_name.files_that_define(function, by_name.PACKAGE / 'data')


def source_function(name: str) -> Callable[..., Source]:
  """The `source` of data/<name>.py. Raises ValueError for a name that does not exist."""
  return by_name.module('data', 'source', name, fault=f'no dataset named {name!r}').source


def open_source(name: str, **options: Any) -> Source:
  """The dataset `name` ('folder', 'synthetic/faces', ...), opened with its own options.

  Raises ValueError for a name or an option that does not exist, listing those that do.
  """
  function = source_function(name)
  parameters = inspect.signature(function).parameters.values()
  accepted = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
  unknown = [o for o in options if o not in accepted]
  if unknown and len(accepted) == len(parameters):
    raise ValueError(
      f'{name}: no option {", ".join(map(repr, unknown))}; it accepts: {", ".join(accepted)}'
    )
  needed = [p.name for p in parameters if p.default is p.empty and p.name in accepted]
  missing = [o for o in needed if o not in options]
  if missing:
    raise ValueError(f'{name}: option {", ".join(map(repr, missing))} is needed')
  return function(**options)


def evenly_apart(total: int, count: int) -> Int[np.ndarray, ' n']:
  """At most `count` of `total` row numbers, evenly spaced from the first to the last."""
  return np.unique(np.linspace(0, total - 1, count).astype(int))


def fingerprint(source: Source, *, examples: int = 8) -> dict[str, Any]:
  """What tells one dataset from another: its length, and checksums of its facts and some examples.

  Cheap: every byte counts, but only of `examples` examples, evenly spread from the first to the
  last. So a picture that was added or removed is always noticed, one that was replaced only if it
  is among them. Folders may move: paths do not count.
  """
  rows = evenly_apart(len(source), examples)
  digest = hashlib.sha256()
  for row in rows:
    try:
      example = source[int(row)]
    except BadImage:
      example = {'unreadable': np.True_}
    for name, value in sorted(example.items()):
      value = np.asarray(value)
      digest.update(f'{row} {name} {value.dtype} {value.shape}'.encode())
      digest.update(np.ascontiguousarray(value).tobytes())
  facts = hashlib.sha256(json.dumps(source.info, default=float).encode())
  return {
    'examples': len(source),
    'facts': facts.hexdigest()[:16],
    'pictures': digest.hexdigest()[:16],
  }


def labelled(
  image: UInt8[np.ndarray, 'S S 3'], points: Float[np.ndarray, 'K 2'], info: Info
) -> dict[str, Any]:
  """An example, without its index, from a dataset in which every landmark is given."""
  scale = normaliser(points, info.scale)
  return {'image': image, 'points': points, 'visible': np.ones(len(points), bool), 'scale': scale}


def normaliser(
  points: Num[Array, '*batch K 2'], scale: tuple[int, int] | str
) -> Num[Array, '*batch']:
  """What errors are divided by, in the unit of `points`: the one definition for all datasets.

  Args: points normalised; scale = a pair of landmarks: their distance; 'frame': 2, from the centre
  of the first pixel to that of the last. Raises ValueError for any other scale, or a landmark that
  does not exist.
  """
  points = np.asarray(points, np.float32)
  if scale == 'frame':
    return np.full(points.shape[:-2], 2, np.float32)
  if isinstance(scale, str):
    raise ValueError(f"scale={scale!r}; expected a pair of landmark numbers, or 'frame'")
  first, second = scale
  if not all(0 <= i < points.shape[-2] for i in scale):
    raise ValueError(f'scale={scale}: there are {points.shape[-2]} landmarks, counted from 0')
  return np.asarray(np.linalg.norm(points[..., first, :] - points[..., second, :], axis=-1))

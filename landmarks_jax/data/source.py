"""What a dataset is, and how one is found: data/<name>.py has a function `source(**options)`."""

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Num, UInt8

from landmarks_jax.contracts import Array, Batch
from landmarks_jax.runtime import by_name


class Info(NamedTuple):
  """A dataset's facts, stated once; nothing downstream knows its name.

  `scale` is the pair of landmarks whose distance divides errors, or 'frame' (`normaliser`).
  `mean` and `std` are per channel for pictures in [0, 1]. Datasets without landmarks have no names.
  `skeleton` holds the pairs of landmarks that drawings join.
  """

  names: tuple[str, ...]
  flip_pairs: tuple[tuple[int, int], ...]
  scale: tuple[int, int] | str
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  attributes: tuple[str, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()


EXPECTED = {  # of an example
  'image': 'uint8 [S, S, 3]',
  'index': 'the number of the example, np.int32 []',
  'points': 'float32 [K, 2], as for every example of a dataset whose Info names landmarks',
  'visible': 'bool [K], as beside all points',
  'scale': 'float32 [], as beside all points',
}


@runtime_checkable
class Source(Protocol):
  """A dataset: `source[i]` is one example; its keys are fields of `Batch` without the batch axis.

  Always image uint8 [S, S, 3] and index int32 []; with landmarks also points float32 [K, 2]
  (normalised, corner-aligned in the frame), visible bool [K], scale float32 []. Every i has the
  same keys and shapes. A picture that cannot be read raises `BadImage`. `check` looks whether a
  source is as said here.

  Several threads call `source[i]` at once; with `workers`, processes to which the source is pickled
  do so, too. Open files inside `__getitem__`, or once for every thread.
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


class Named:
  """A source whose errors say of which dataset and example they are; a `BadImage` has its path."""

  def __init__(self, source: Any, name: str) -> None:
    self.info = getattr(source, 'info', None)  # `check` says if there is none
    self.name, self._source = name, source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: Any) -> dict[str, Any]:
    try:
      return self._source[index]
    except BadImage:
      raise
    except ValueError as error:
      raise ValueError(f'{self.name}, example {index}: {error}') from error
    except Exception as error:
      error.add_note(f'{self.name}, example {index}')
      raise


def check(source: Source, *, examples: int = 2, name: str = 'the dataset') -> None:
  """Raises ValueError for a source that is not as `Source` and `Info` say; cheap.

  Only `examples` examples are read, evenly spread from the first to the last; bad pictures are left
  out. Warns if at least half of their visible points are far outside the frame.

  name: with which errors begin.
  """
  if not isinstance(source.info, Info):
    raise ValueError(f'{name}: info is {source.info!r:.60}; expected an Info of data/source.py')
  points, visible = [np.zeros((0, 2))], [np.zeros(0, bool)]
  for row in evenly_apart(len(source), examples).tolist() if len(source) else ():
    try:
      example = source[row]
    except BadImage:
      continue
    check_example(example, landmarks=bool(source.info.names), name=f'{name}, example {row}')
    if example['index'] != row:
      given = f'{name}, example {row}: index is {example["index"]}'
      raise ValueError(f'{given}; expected {EXPECTED["index"]}')
    if 'points' in example:
      facts = source.info.names, source.info.flip_pairs, source.info.skeleton, source.info.scale
      try:
        check_facts(*facts, len(example['points']))
      except ValueError as error:
        raise ValueError(f'{name}: {error}') from error
      points.append(example['points'])
      visible.append(example['visible'])
  far = (np.abs(np.concatenate(points)) > 2).any(-1)[np.concatenate(visible)]
  if 0 < len(far) <= 2 * far.sum():
    warnings.warn(
      f'{name}: {far.sum()} of {len(far)} visible points lie outside -2..2, but the frame is '
      '-1..1: are they in pixels? images.frame_points normalises them',
      stacklevel=2,
    )


def check_example(example: Any, *, landmarks: bool, name: str) -> None:
  """Raises ValueError for an example whose fields are not as `Source` says.

  landmarks: whether it must have some. name: of the example, with which errors begin.
  """
  if fault := _fault(example, landmarks=landmarks):
    raise ValueError(f'{name}: {fault}')


def _fault(example: Any, *, landmarks: bool) -> str:
  """What is wrong with an example; '' if nothing is."""
  if not isinstance(example, Mapping):
    return f'it is a {type(example).__name__}; expected a dict of fields of Batch'
  if unknown := [field for field in example if field not in Batch._fields]:
    return f'the field {unknown[0]!r} is none of Batch: {", ".join(Batch._fields)}'
  side, count = (np.shape(example.get(field))[:1] for field in ('image', 'points'))
  expected = {'image': (np.uint8, (*side, *side, 3)), 'index': (np.integer, ())}
  if landmarks or 'points' in example:
    expected |= {
      'points': (np.floating, (*count, 2)),
      'visible': (np.bool_, count),
      'scale': (np.floating, ()),
    }
  for field, (kind, shape) in expected.items():
    value = np.asarray(example.get(field))
    if value.shape != shape or not np.issubdtype(value.dtype, kind):
      given = f'{value.dtype} {list(value.shape)}' if field in example else 'absent'
      return f'{field} is {given}; expected {EXPECTED[field]}'
  return ''


def check_facts(
  names: Sequence[str],
  flip_pairs: Sequence[Sequence[int]],
  skeleton: Sequence[Sequence[int]],
  scale: Any,
  count: int,
) -> None:
  """Raises ValueError for names or pairs that do not fit `count` landmarks.

  scale: 'frame', or two numbers in anything that holds numbers.
  """
  texts = all(isinstance(name, str) and name for name in names)
  if not texts or len(set(names)) != len(names) or len(names) != count:
    raise ValueError(f'names={list(names)!r:.200}: expected {count} different ones')
  pairs = {'flip_pairs': flip_pairs, 'skeleton': skeleton}
  pairs |= {} if isinstance(scale, str) and scale == 'frame' else {'scale': [scale]}
  for what, given in pairs.items():
    for pair in given:
      numbers = not isinstance(pair, str) and all(i in range(count) for i in pair)
      if not numbers or len(pair) != 2 or len(set(pair)) != 2:
        raise ValueError(
          f'{what}: {pair!r}; expected two numbers of landmarks, counted from 0, of {count}'
        )
  mirrored = [i for pair in flip_pairs for i in pair]
  for i in mirrored:
    if mirrored.count(i) > 1:
      raise ValueError(f'flip_pairs: {i} is in several; a landmark has one mirror image')


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

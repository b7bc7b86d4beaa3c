"""Reads back what `prepare` stored, as the catalogue that it was.

A folder holds shards, ArrayRecord files of tf.train.Example with the frame as plain bytes, which
TFDS opens too (`tfds.builder_from_directory`); beside each shard an index of what is known of its
pictures without opening them; plan.json, what was requested; and manifest.json, which is written
last: without it the folder is unfinished. preparing.py writes them.
"""

import bisect
import hashlib
import itertools
import os
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.data.catalogue import Catalogue, Entry
from landmarks_jax.data.source import Info
from landmarks_jax.runtime import reading

MANIFEST, PLAN = 'manifest.json', 'plan.json'
FORMAT = 1  # of all files; no other is read
KINDS = {'name': str, 'frame': int, 'options': dict, 'info': dict, 'classes': list, 'shards': list}
SHARD_KINDS = {'file': str, 'kept': int, 'bytes': int, 'sha256': str, 'index_sha256': str}
INFO_KINDS = {'names': list, 'flip_pairs': list, 'scale': list | str, 'mean': list, 'std': list}
INFO_KINDS |= {'attributes': list, 'skeleton': list}
WRITER = 'group_size:1,uncompressed'  # each record is read alone, without decompression
_reader = 'readahead_buffer_size:0,max_parallelism:0'  # for random access

_repair = 'the command that prepared the folder repairs it when it is run again'


def open_catalogue(
  path: str,
  name: str,
  raw: Callable[[], Catalogue],
  *,
  frame: int,
  options: Mapping[str, str | None] = types.MappingProxyType({}),
) -> Catalogue:
  """The catalogue of `name` that `prepare` stored in `path`, or `raw()` of the original files.

  options: further ones that a stored frame must have been made with; None stands for any value.
  Raises ValueError if what is stored is another dataset, other frames, unfinished or damaged.
  """
  folder = pathlib.Path(path).expanduser()
  asked = {key: value for key, value in {'frame': frame, **options}.items() if value is not None}
  given = ' '.join(f'--{key}={value}' for key, value in asked.items())
  again = f'python -m landmarks_jax prepare {name} --source=DIR --output=DIR {given}'
  if not (folder / MANIFEST).is_file():
    if (folder / PLAN).is_file():
      raise ValueError(f'{folder} is not finished; run the command that prepares it once more')
    return raw()
  stored = Prepared(folder)
  if stored.name != name:
    raise ValueError(
      f'{folder} was prepared from {stored.name}, but {name} is asked for; open it as '
      f'{stored.name}, or store the other: {again}'
    )
  known = {'frame': stored.frame, **stored.options}
  kept = {key: known.get(key) for key in asked}
  if kept != asked:
    there, here = (
      ', '.join(f'{key}={found[key]!r}' for key in asked if kept[key] != asked[key])
      for found in (kept, asked)
    )
    raise ValueError(
      f'{folder} was prepared with {there}, but {here} is asked for; use {there}, or store the '
      f'other in a second folder: {again}'
    )
  return stored


class Prepared:
  """A stored catalogue; `options` are those of the dataset's `catalogue` that it was made with.

  It is pickled as its path, and shards are opened when they are first read.
  """

  def __init__(self, path: str | os.PathLike) -> None:
    self.path = pathlib.Path(path).expanduser()
    manifest = read_manifest(self.path)
    self.name, self.frame = manifest['name'], manifest['frame']
    self.options: dict[str, Any] = _tuples(manifest['options'])
    self.info, self.classes = Info(**_tuples(manifest['info'])), tuple(manifest['classes'])
    self._shards = manifest['shards']
    self.entries = [entry for shard in self._shards for entry in _entries(self.path, shard)]
    kept = (shard['kept'] for shard in self._shards)
    self._starts = list(itertools.accumulate(kept, initial=0))
    self._readers: dict[int, Any] = {}

  def __reduce__(self) -> tuple[Any, ...]:
    return Prepared, (self.path,)

  def example(self, row: int) -> dict[str, Any]:
    """The picture of `entries[row]` and its landmarks; ValueError names a damaged shard."""
    if not 0 <= row < len(self.entries):
      raise IndexError(f'row {row} of {len(self.entries)} pictures')
    number = bisect.bisect_right(self._starts, row) - 1
    try:
      record = self._reader(number).read([row - self._starts[number]])[0]
    except RuntimeError as error:
      shard = self.path / self._shards[number]['file']
      raise ValueError(f'{shard} is damaged ({error}); {_repair}') from error
    return decode(record, self.frame)

  def _reader(self, number: int) -> Any:
    from array_record.python import array_record_module  # late: few runs need it

    if number not in self._readers:
      file = str(self.path / self._shards[number]['file'])
      self._readers[number] = array_record_module.ArrayRecordReader(file, _reader)
    return self._readers[number]


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  """The manifest of a finished folder. Raises ValueError that says what to do."""
  path = folder / MANIFEST
  try:
    manifest = reading.parse_json(path.read_bytes(), path)
    reading.check_kinds(manifest, {'format': int}, path)
    if manifest['format'] == FORMAT:
      reading.check_kinds(manifest, KINDS, path)
      reading.check_kinds(manifest['info'], INFO_KINDS, f'info of {path}')
      for shard in manifest['shards']:
        reading.check_kinds(shard, SHARD_KINDS, f'a shard of {path}')
  except ValueError as error:
    raise ValueError(f'{error}; {_repair}') from error
  if manifest['format'] != FORMAT:
    raise ValueError(
      f'{folder} was prepared in format {manifest["format"]}, this landmarks_jax reads format '
      f'{FORMAT}; prepare the pictures again into another folder'
    )
  return manifest


class Index(NamedTuple):
  """A shard's pictures in order, as columns, and the checksum of the shard: one npz file."""

  sha256: np.ndarray  # str []
  bytes: np.ndarray  # int [], the size of the shard
  files: np.ndarray  # str [N]
  splits: np.ndarray  # str [N], one split per line
  labels: np.ndarray  # int [N], -1 for none
  attributes: np.ndarray  # bool [N, A]
  digests: np.ndarray  # uint8 [N, 16], of the frames
  prints: np.ndarray  # uint64 [N], `duplicates.fingerprint`
  skipped: np.ndarray  # str [M, 3]: file, splits, reason

  @classmethod
  def parse(cls, data: bytes) -> 'Index':
    """Reads the bytes of a file. Raises ValueError if it is damaged."""
    columns = reading.parse_arrays(data, 'the index of a shard')
    if set(columns) != set(cls._fields):
      raise ValueError(f'no index of a shard: its columns are {sorted(columns)}')
    return cls(**columns)

  def entries(self) -> Iterator[Entry]:
    """The entries of the pictures in the shard."""
    splits = self.splits.tolist()
    known = {one: split_names(one) for one in set(splits)}
    labels = [None if label < 0 else label for label in self.labels.tolist()]
    attributes = map(tuple, self.attributes.tolist())
    return map(Entry, self.files.tolist(), map(known.get, splits), labels, attributes)


def index_path(shard: pathlib.Path) -> pathlib.Path:
  """The path of a shard's index."""
  return shard.with_name(f'index-{shard.name}.npz')


def split_names(joined: str) -> tuple[str, ...]:
  """The splits that an index stores as one string."""
  return tuple(joined.split('\n')) if joined else ()


def encode(entry: Entry, example: dict[str, Any]) -> bytes:
  """A picture as the bytes of a tf.train.Example, the same at every call.

  Raises TypeError for a field that it cannot hold, so that nothing is lost unnoticed.
  """
  from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2  # late: heavy

  if unknown := example.keys() - {'image', 'points', 'visible', 'scale'}:
    raise TypeError(f'{entry.file}: {", ".join(sorted(unknown))} cannot be stored')
  texts = {'image': [example['image'].tobytes()], 'file': [os.fsencode(entry.file)]}
  texts['splits'] = [split.encode() for split in entry.splits]
  numbers = {'attributes': entry.attributes, 'visible': example.get('visible', ())}
  if entry.label is not None:
    numbers['label'] = [entry.label]
  reals = {name: np.ravel(example[name]) for name in ('points', 'scale') if name in example}
  features = {
    name: tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=value))
    for name, value in texts.items()
  }
  for name, value in numbers.items():
    whole = tf_feature_pb2.Int64List(value=list(map(int, value)))
    features |= {name: tf_feature_pb2.Feature(int64_list=whole)} if len(value) else {}
  for name, value in reals.items():
    features[name] = tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=value))
  record = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
  return record.SerializeToString(deterministic=True)


def decode(record: bytes, frame: int) -> dict[str, Any]:
  """What `Catalogue.example` gave; TFDS's own decoding takes about ten times as long."""
  from tensorflow_datasets.proto import tf_example_pb2  # late: heavy

  features = tf_example_pb2.Example.FromString(record).features.feature
  image = np.frombuffer(bytearray(features['image'].bytes_list.value[0]), np.uint8)
  example = {'image': image.reshape(frame, frame, 3)}
  if 'points' in features:
    points = np.array(features['points'].float_list.value, np.float32)
    example['points'] = points.reshape(-1, 2)
    example['visible'] = np.array(features['visible'].int64_list.value, bool)
    example['scale'] = np.float32(features['scale'].float_list.value[0])
  return example


def _entries(folder: pathlib.Path, shard: dict[str, Any]) -> Iterator[Entry]:
  """The entries of a shard, after checking its size and its index's checksum by the manifest."""
  path = folder / shard['file']
  index = index_path(path)
  for file in (path, index):
    if not file.is_file():
      raise ValueError(f'{file} is missing; {_repair}')
  found, data = path.stat().st_size, index.read_bytes()
  if found != shard['bytes']:
    raise ValueError(f'{path} has {found:,} bytes, {MANIFEST} says {shard["bytes"]:,}; {_repair}')
  if hashlib.sha256(data).hexdigest() != shard['index_sha256']:
    raise ValueError(f'{index} has another checksum than {MANIFEST} says; {_repair}')
  entries = Index.parse(data)
  if len(entries.files) != shard['kept']:
    raise ValueError(
      f'{index} has {len(entries.files):,} pictures, {MANIFEST} says {shard["kept"]:,}; {_repair}'
    )
  return entries.entries()


def _tuples(value: Any) -> Any:
  """Turns lists back into the tuples that JSON was given."""
  if isinstance(value, dict):
    return {name: _tuples(one) for name, one in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value

"""Stores a catalogue as prepared.py reads it: decoded once, resumable, the same bytes every time.

Each thread makes one shard after another: it decodes the shard's pictures in order, writes them
under a temporary name, and renames the file. A shard is finished once its index, which holds its
checksum, exists; the folder is finished once manifest.json does.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from landmarks_jax import __version__
from landmarks_jax.data import duplicates, prepared
from landmarks_jax.data.catalogue import Catalogue, Entry
from landmarks_jax.data.prepared import FORMAT, MANIFEST, PLAN, Index
from landmarks_jax.data.source import BadImage
from landmarks_jax.runtime import locks, logs

LEAST, MOST = 256, 2048  # pictures per shard
INTERVAL = 5.0  # seconds between two reports of progress
LABELS = 'landmarks'  # of a plan: their checksum
SPLIT = 'pictures'  # the only split TFDS sees: a picture may belong to several of the dataset's

Progress = Callable[[int, int], None]  # (pictures done, of which since this start)


def finished(
  output: pathlib.Path, *, name: str, frame: int, options: Mapping[str, Any]
) -> dict[str, Any] | None:
  """The manifest of a folder that is finished and whose checksums all match; else None.

  Raises ValueError if the folder holds anything but what is requested.
  """
  if not _holds(output, {'format': FORMAT, 'name': name, 'frame': frame, 'options': options}):
    return None
  try:
    manifest = prepared.read_manifest(output)
  except (OSError, ValueError):
    return None
  shards = [(output / shard['file'], shard) for shard in manifest['shards']]
  sums = [(path, shard['sha256']) for path, shard in shards]
  sums += [(prepared.index_path(path), shard['index_sha256']) for path, shard in shards]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    intact = all(pool.map(lambda pair: pair[0].is_file() and _sha256(pair[0]) == pair[1], sums))
  return manifest if intact else None


def check_begun(
  catalogue: Catalogue, output: pathlib.Path, *, name: str, options: Mapping[str, Any]
) -> None:
  """Raises ValueError if a folder was begun with other files, splits or labels than these.

  What an earlier version stored says nothing of its landmarks; then they are not compared.
  """
  _holds(output, _plan(catalogue, name, options))


def prepare(
  catalogue: Catalogue,
  output: pathlib.Path,
  *,
  name: str,
  options: Mapping[str, Any],
  workers: int | None = None,
  progress: Progress = lambda done, made: None,
) -> dict[str, Any]:
  """Stores every picture of a catalogue that can be read; returns the manifest.

  Continues after an interruption, and repairs what is damaged. name, options: of the dataset,
  stored for its readers. workers: threads; None means one per core. Raises ValueError if `output`
  holds something else or no picture can be read, OSError if it cannot be written.
  """
  plan = _plan(catalogue, name, options)
  _holds(output, plan)
  files = name.replace('.', '_')  # a dot ends the name in what TFDS reads
  writing = _Writing(catalogue, output, files)
  output.mkdir(parents=True, exist_ok=True)
  try:
    with _lock(output):
      _write(output / PLAN, _json(plan))
      (output / MANIFEST).unlink(missing_ok=True)
      indices = writing.run(workers or os.cpu_count() or 1, progress)
      manifest = plan | writing.summary(indices)
      _write_dataset_info(catalogue, output, files, indices)
      _write(output / MANIFEST, _json(manifest))
  except OSError as error:
    kept = 'what is finished is kept, and the same command continues'
    raise OSError(f'{error}; {kept}') from error
  return manifest


class _Writing:
  """Writes the shards of a catalogue that are missing; `rows` says which pictures each holds."""

  def __init__(self, catalogue: Catalogue, output: pathlib.Path, name: str) -> None:
    self.catalogue, self.output = catalogue, output
    total = len(catalogue.entries)
    size = min(MOST, max(LEAST, math.ceil(total / 16)))  # some for every thread, yet few files
    self.rows = [range(i, min(i + size, total)) for i in range(0, total, size)]
    count = len(self.rows)
    names = (f'{name}-{SPLIT}.array_record-{i:05d}-of-{count:05d}' for i in range(count))
    self.paths = [output / file for file in names]  # as TFDS names them
    self.done, self.made = [0] * count, [0] * count
    self.stop = threading.Event()

  def run(self, workers: int, progress: Progress) -> list[Index]:
    """Makes the missing shards; returns the indices of all."""
    self._check_space()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
      shards = [pool.submit(self._shard, number) for number in range(len(self.rows))]
      try:
        pending = set(shards)
        while pending:
          ended, pending = concurrent.futures.wait(
            pending, INTERVAL, concurrent.futures.FIRST_EXCEPTION
          )
          for shard in ended:
            shard.result()
          progress(sum(self.done), sum(self.made))
      except BaseException:  # also an interruption
        self.stop.set()
        pool.shutdown(cancel_futures=True)
        raise
    return [shard.result() for shard in shards]

  def _check_space(self) -> None:
    there = zip(self.paths, self.rows, strict=True)
    missing = sum(len(rows) for path, rows in there if not path.exists())
    need, free = missing * 3 * self.catalogue.frame**2, shutil.disk_usage(self.output).free
    if need > free:
      raise OSError(
        f'{missing:,} pictures need {logs.amount(need)} in {self.output}, but '
        f'{logs.amount(free)} are free; make room, or choose a smaller frame'
      )

  def _shard(self, number: int) -> Index:
    path = self.paths[number]
    index = _intact(path)
    if index is None:
      part = _part(path)
      try:
        columns = self._write_shard(part, number)
        index = Index(np.str_(_sha256(part)), np.int64(part.stat().st_size), **columns)
        _publish(part, path)
      finally:
        part.unlink(missing_ok=True)
      _write(prepared.index_path(path), _npz(index))
    self.done[number] = len(self.rows[number])
    return index

  def _write_shard(self, path: pathlib.Path, number: int) -> dict[str, np.ndarray]:
    """Writes the pictures that can be read; returns the columns of the index."""
    from array_record.python import array_record_module  # late: heavy

    entries, digests, prints, skipped = [], [], [], []
    writer = _told(path, array_record_module.ArrayRecordWriter, str(path), prepared.WRITER)
    for row in self.rows[number]:
      if self.stop.is_set():
        raise concurrent.futures.CancelledError
      entry = self.catalogue.entries[row]
      try:
        example = self.catalogue.example(row)
      except BadImage as error:
        skipped.append((entry.file, '\n'.join(entry.splits), error.reason))
      else:
        _told(path, writer.write, prepared.encode(entry, example))
        entries.append(entry)
        digests.append(hashlib.blake2b(example['image'].tobytes(), digest_size=16).digest())
        prints.append(duplicates.fingerprint(example['image']))
      self.made[number] += 1
      self.done[number] += 1
    _told(path, writer.close)
    digests = np.frombuffer(b''.join(digests), np.uint8).reshape(-1, 16)
    return {'digests': digests, 'prints': np.array(prints, np.uint64), **_columns(entries, skipped)}

  def summary(self, indices: Sequence[Index]) -> dict[str, Any]:
    """What the manifest says of the shards. Raises ValueError if they have no pictures."""
    skipped = [row for index in indices for row in index.skipped.tolist()]
    files = [file for index in indices for file in index.files.tolist()]
    if not files:
      first = f'; the first, {skipped[0][0]}: {skipped[0][2]}' if skipped else ''
      raise ValueError(f'none of the {len(skipped):,} pictures can be read{first}')
    kept_splits = _count(split for index in indices for split in index.splits.tolist())
    skipped_splits = _count(splits for _, splits, _ in skipped)
    return {
      'version': __version__,
      'info': self.catalogue.info._asdict(),
      'classes': self.catalogue.classes,
      'kept': len(files),
      'skipped': {file: reason for file, _, reason in skipped},
      'splits': {
        split: {'kept': kept_splits[split], 'skipped': skipped_splits[split]}
        for split in sorted(kept_splits | skipped_splits)
      },
      'duplicates': _duplicates(files, indices),
      'shards': [
        {
          'file': path.name,
          'kept': len(index.files),
          'bytes': int(index.bytes),
          'sha256': str(index.sha256),
          'index_sha256': _sha256(prepared.index_path(path)),
        }
        for path, index in zip(self.paths, indices, strict=True)
      ],
    }


def _plan(catalogue: Catalogue, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """What is requested, with all that the stored pictures follow from but their own files."""
  plan = {'format': FORMAT, 'name': name, 'frame': catalogue.frame, 'options': options}
  plan |= {'pictures': len(catalogue.entries), 'entries': _digest(catalogue.entries)}
  return plan | {LABELS: _label_digest(catalogue)}


def _holds(output: pathlib.Path, plan: Mapping[str, Any]) -> bool:
  """Whether the folder was begun with a plan that has these fields; False if empty.

  Raises ValueError if it was begun with another plan, or not by `prepare`.
  """
  try:
    begun = json.loads((output / PLAN).read_bytes())
  except (FileNotFoundError, NotADirectoryError):
    if output.exists() and not (output.is_dir() and all(map(_is_part, output.iterdir()))):
      raise ValueError(
        f'{output} is not empty and `prepare` did not make it; give an empty or a new folder'
      ) from None
    return False
  except ValueError as error:
    raise ValueError(f'{output / PLAN} is damaged ({error}); delete {output}') from error
  asked = json.loads(_json(plan))
  was, now = (fields | fields['options'] | {'options': None} for fields in (begun, asked))
  for key in (key for key in now if key != LABELS or key in begun):
    if was.get(key) != now[key]:
      difference = f'{key}={was.get(key)}, not {key}={now[key]}'
      if key in ('entries', LABELS):
        difference = 'other files, splits or labels than there are now'
      raise ValueError(f'{output} was begun with {difference}; give another folder')
  return True


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
  """Keeps a second process out; the system releases the lock. Some file systems know no locks."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    try:
      locks.take(handle)
    except BlockingIOError:
      raise ValueError(f'another process is preparing {folder}') from None
    yield
  finally:
    os.close(handle)


def _intact(path: pathlib.Path) -> Index | None:
  """The index of a finished shard; None also if it is empty: its pictures may be readable now."""
  try:
    index = Index.parse(prepared.index_path(path).read_bytes())
    return index if len(index.files) and _sha256(path) == str(index.sha256) else None
  except (OSError, ValueError):
    return None


def _told(path: pathlib.Path, function: Callable, *args: Any) -> Any:
  """Calls ArrayRecord; turns its write errors into OSError."""
  try:
    return function(*args)
  except RuntimeError as error:
    raise OSError(f'{path} cannot be written: {error}') from error


def _columns(
  entries: Sequence[Entry], skipped: Sequence[tuple[str, str, str]]
) -> dict[str, np.ndarray]:
  labels = [-1 if entry.label is None else entry.label for entry in entries]
  attributes = [entry.attributes for entry in entries] or np.empty((0, 0))
  return {
    'files': np.array([entry.file for entry in entries], np.str_),
    'splits': np.array(['\n'.join(entry.splits) for entry in entries], np.str_),
    'labels': np.array(labels, np.int64),
    'attributes': np.array(attributes, bool),
    'skipped': np.array(skipped, np.str_).reshape(-1, 3),
  }


def _count(splits: Iterator[str]) -> collections.Counter[str]:
  return collections.Counter(one for joined in splits for one in prepared.split_names(joined))


def _duplicates(files: Sequence[str], indices: Sequence[Index]) -> dict[str, list[list[str]]]:
  """Groups of pictures with identical frames, and further groups with nearly identical ones."""
  digests = [digest.tobytes() for index in indices for digest in index.digests]
  exact = duplicates.exact(digests)
  near = duplicates.near(np.concatenate([index.prints for index in indices]))
  groups = {'exact': exact, 'near': [group for group in near if group not in exact]}
  return {kind: [[files[i] for i in group] for group in found] for kind, found in groups.items()}


def _write_dataset_info(
  catalogue: Catalogue, output: pathlib.Path, name: str, indices: Sequence[Index]
) -> None:
  """Writes what `tfds.builder_from_directory` reads."""
  import tensorflow_datasets as tfds  # late: heavy

  template = tfds.core.ShardedFileTemplate(
    data_dir=output, dataset_name=name, split=SPLIT, filetype_suffix='array_record'
  )
  split = tfds.core.SplitInfo(
    name=SPLIT,
    shard_lengths=[len(index.files) for index in indices],
    num_bytes=sum(int(index.bytes) for index in indices),
    filename_template=template,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=output, features=_features(catalogue), split_infos=[split], check_data=False
  )


def _features(catalogue: Catalogue) -> Any:
  from tensorflow_datasets import features as tfds  # late: heavy

  count, flags = len(catalogue.info.names), len(catalogue.info.attributes)
  image = tfds.Tensor(shape=(catalogue.frame,) * 2 + (3,), dtype=np.uint8, encoding='bytes')
  found = {'image': image, 'file': tfds.Text(), 'splits': tfds.Sequence(tfds.Text())}
  if count:
    found['points'] = tfds.Tensor(shape=(count, 2), dtype=np.float32)
    found['visible'] = tfds.Tensor(shape=(count,), dtype=np.bool_)
    found['scale'] = tfds.Scalar(dtype=np.float32)
  if catalogue.classes:
    found['label'] = tfds.ClassLabel(names=list(catalogue.classes))
  if flags:
    found['attributes'] = tfds.Tensor(shape=(flags,), dtype=np.bool_)
  return tfds.FeaturesDict(found)


def _digest(entries: Sequence[Entry]) -> str:
  return hashlib.sha256('\n'.join(map(repr, entries)).encode()).hexdigest()


def _label_digest(catalogue: Catalogue) -> str:
  digest = hashlib.sha256()
  for part in getattr(catalogue, 'label_bytes', tuple)():  # without landmarks there is none
    digest.update(part)
  return digest.hexdigest()


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
  return json.dumps(value, indent=1).encode()


def _npz(index: Index) -> bytes:
  file = io.BytesIO()
  np.savez_compressed(file, **index._asdict())
  return file.getvalue()


def _write(path: pathlib.Path, data: bytes) -> None:
  part = _part(path)
  part.write_bytes(data)
  _publish(part, path)


def _part(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'{path.name}.part')


def _is_part(path: pathlib.Path) -> bool:
  return path.suffix == '.part'


def _publish(part: pathlib.Path, path: pathlib.Path) -> None:
  """Renames a file once it is on disk, so that under its final name it is complete or absent."""
  with part.open('rb') as file:
    os.fsync(file.fileno())
  os.replace(part, path)

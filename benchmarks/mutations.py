"""Randomly mutates published weight files and reads each of them as `convert` does.

The files are those of the tests, of every kind and in both serialisations. A mutation flips, cuts,
duplicates, moves or overwrites bytes, anywhere or in the pickle alone; in an archive the record's
checksum is then corrected, as otherwise only checksums would be tested. A file must be read as a
network or refused with one line; anything else, or taking more than --seconds, ends the script with
the number of the file, and --only tries that one again. Files accepted as networks are built as far
as their shapes, once for each set of sizes.

python benchmarks/mutations.py --count 5000
"""

import argparse
import collections
import functools
import io
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests'))  # where the files are written

from landmarks_jax.cli import converting  # noqa: E402
from landmarks_jax.interop import published  # noqa: E402
from landmarks_jax.runtime import logs  # noqa: E402

Change = Callable[[np.random.Generator, bytes], bytes]


def flip(rng: np.random.Generator, content: bytes) -> bytes:
  """Replaces one to three bytes by random values."""
  found = bytearray(content)
  for _ in range(rng.integers(1, 4)):
    found[rng.integers(len(found))] = rng.integers(256)
  return bytes(found)


def extreme(rng: np.random.Generator, content: bytes) -> bytes:
  """Overwrites one to eight bytes in a row with one extreme value."""
  at, length = rng.integers(len(content)), rng.integers(1, 9)
  return content[:at] + bytes([rng.choice([0, 127, 128, 255])]) * length + content[at + length :]


def cut(rng: np.random.Generator, content: bytes) -> bytes:
  """Cuts off the end."""
  return content[: rng.integers(len(content))]


def drop(rng: np.random.Generator, content: bytes) -> bytes:
  """Removes a slice."""
  at = rng.integers(len(content))
  return content[:at] + content[at + rng.integers(1, 200) :]


def double(rng: np.random.Generator, content: bytes) -> bytes:
  """Inserts a copy of a slice anywhere."""
  at, to = rng.integers(len(content), size=2)
  return content[:to] + content[at : at + rng.integers(1, 200)] + content[to:]


def insert(rng: np.random.Generator, content: bytes) -> bytes:
  """Inserts random bytes."""
  at = rng.integers(len(content))
  return content[:at] + rng.bytes(rng.integers(1, 50)) + content[at:]


def swap(rng: np.random.Generator, content: bytes) -> bytes:
  """Swaps two adjacent slices."""
  first, second, third = sorted(rng.integers(len(content), size=3))
  return content[:first] + content[second:third] + content[first:second] + content[third:]


CHANGES: tuple[Change, ...] = (flip, extreme, cut, drop, double, insert, swap)


def in_the_pickle(rng: np.random.Generator, content: bytes, change: Change) -> bytes:
  """Changes only names, shapes and opcodes; the bytes of the weights stay as they are."""
  if not content.startswith(b'PK'):
    end = content.rindex(b'.\x80\x02]') + 1  # before the list of the storages and their bytes
    return change(rng, content[:end]) + content[end:]
  changed = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, 'w') as new:
    for info in old.infolist():
      record = old.read(info)
      pickle = info.filename.endswith('data.pkl')
      new.writestr(info.filename, change(rng, record) if pickle else record)
  return changed.getvalue()


def files() -> dict[str, tuple[bytes, published.Options]]:
  """Valid files by name, each with the options needed to read it."""
  import published_test
  import torch_files

  found = {}
  with tempfile.TemporaryDirectory() as folder:
    for kind, (tree, options, _) in published_test.FILES.items():
      for form in torch_files.FORMS:
        path = torch_files.write(pathlib.Path(folder, 'x'), tree(), form)
        found[f'{kind}, {form}'] = path.read_bytes(), options
  return found


def mutated(number: int, seed: int, contents: Sequence[bytes]) -> tuple[int, bytes]:
  """The mutated file of that number: the index of its original, and its bytes."""
  rng = np.random.default_rng((seed, number))
  which, some = (
    int(rng.integers(len(contents))),
    rng.integers(len(CHANGES), size=rng.integers(1, 4)),
  )

  def change(rng: np.random.Generator, content: bytes) -> bytes:
    for one in some:
      content = CHANGES[one](rng, content) or content[:1]
    return content

  place = in_the_pickle if rng.random() < 0.7 else lambda rng, content, change: change(rng, content)
  return which, place(rng, contents[which], change)


@functools.cache
def built(method: str, frame: int) -> None:
  """Traces a method with these options, given as JSON, without computing anything."""
  experiment = converting.Experiment(converting.config(json.loads(method), frame))
  experiment.resolve()
  converting.shapes(experiment)


def attempt(path: pathlib.Path, options: published.Options) -> str:
  """Reads a file as `convert` does; returns 'read' or 'refused'."""
  try:
    found = published.read(path, options)
    if found.frame is not None:  # a head has no network of its own
      built(json.dumps(found.method, sort_keys=True), found.frame)
  except ValueError as error:
    if not str(error).isprintable() or len(str(error)) > 2000:
      raise RuntimeError(f'no line for people: {error!r}') from error
    return 'refused'
  return 'read'


def main(arguments: Sequence[str] | None = None) -> int:
  """Tries all mutations and prints a table; raises the error of the first one that goes wrong."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--count', type=int, default=5000)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--seconds', type=int, default=60, help='that a file may take')
  parser.add_argument('--only', type=int, help='this number alone')
  options = parser.parse_args(arguments)
  originals = files()
  names = list(originals)
  folder = pathlib.Path(tempfile.mkdtemp())
  for name, (content, known) in originals.items():
    (folder / 'x').write_bytes(content)
    assert attempt(folder / 'x', known) == 'read', name
  before, slowest = logs.peak_memory(), (0.0, 0)
  outcomes: collections.Counter = collections.Counter()
  numbers = range(options.count) if options.only is None else [options.only]
  signal.signal(signal.SIGALRM, _too_slow)
  for number in numbers:
    which, content = mutated(number, options.seed, [c for c, _ in originals.values()])
    (folder / 'x').write_bytes(content)
    began = time.process_time()
    signal.alarm(options.seconds)
    try:
      outcome = attempt(folder / 'x', originals[names[which]][1])
    except BaseException as error:
      print(f'number {number}, of {names[which]}: {type(error).__name__}: {error}', flush=True)
      raise
    finally:
      signal.alarm(0)
    slowest = max(slowest, (time.process_time() - began, number))
    outcomes[names[which], outcome] += 1
  _print(names, outcomes, slowest, before)
  shutil.rmtree(folder)
  return 0


def _too_slow(*_: Any) -> None:
  raise TimeoutError('it takes too long')


def _print(
  names: Sequence[str], outcomes: collections.Counter, slowest: tuple[float, int], before: int
) -> None:
  print('| File | Refused | Read |\n|---|---|---|')
  for name in names:
    print(f'| {name} | {outcomes[name, "refused"]} | {outcomes[name, "read"]} |')
  totals = [sum(outcomes[name, how] for name in names) for how in ('refused', 'read')]
  print(f'| all | {totals[0]} | {totals[1]} |\n')
  print(f'slowest: {slowest[0]:.2f} s of processor time, number {slowest[1]}')
  most = logs.peak_memory() / 2**20
  print(f'memory: {most:.0f} MB at most, {before / 2**20:.0f} MB before the first')


if __name__ == '__main__':
  sys.exit(main())

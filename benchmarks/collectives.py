"""What a compiled program sends between devices: its collectives, parsed from its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = 'all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast'
LINE = re.compile(rf' = (?P<result>.*?) (?P<kind>{KINDS}|ragged-all-to-all)(?:-start)?\(')
ARRAY = re.compile(r'\b(pred|[subf]+\d+\w*)\[([\d,]*)\]')
BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4}
BYTES |= {'f64': 8, 's64': 8, 'u64': 8}


class Part(NamedTuple):
  """An array that a collective gives each device."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def bytes(self) -> int:
    """The size of the whole array."""
    return BYTES[self.dtype] * math.prod(self.shape)

  @property
  def rank(self) -> int:
    """The number of axes longer than 1: 0 for a number, 1 for a vector."""
    return sum(side > 1 for side in self.shape)


class Collective(NamedTuple):
  """One instruction; combined ones have many parts."""

  kind: str
  parts: tuple[Part, ...]
  together: int  # devices that take part in one exchange
  origin: str  # the operations of the program that it belongs to

  @property
  def bytes(self) -> int:
    """The size of its result on one device."""
    return sum(part.bytes for part in self.parts)


def read(hlo: str) -> list[Collective]:
  """All collectives in a compiled program's text, `compiled.as_text()`, in order.

  Expects the synchronous form of CPU programs. Raises ValueError for devices in an unknown form.
  """
  return list(_read(hlo))


def _read(hlo: str) -> Iterator[Collective]:
  for line in hlo.splitlines():
    if not (found := LINE.search(line)):
      continue
    arrays = ARRAY.findall(found['result'])
    parts = (Part(dtype, tuple(map(int, filter(None, s.split(','))))) for dtype, s in arrays)
    origin = re.search(r'op_name="([^"]*)"', line)
    name = origin[1] if origin else ''
    yield Collective(found['kind'], tuple(parts), _together(line), name)


def _together(line: str) -> int:
  """How many devices exchange with each other, in any of the forms that XLA prints."""
  if pairs := re.search(r'source_target_pairs=\{\{(.*?)\}\}', line):
    return len(pairs[1].split('},{'))
  if axes := re.search(r'replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}', line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
    # An axis or a part of it: 'axis', 'axis':(before)size.
    used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2])
    return math.prod(int(cut or sizes[axis]) for axis, cut in used)
  if table := re.search(r'replica_groups=\[\d+,(\d+)\]<=', line):
    return int(table[1])
  if listed := re.search(r'replica_groups=\{\{([\d,]*)\}', line):
    return len(listed[1].split(','))
  raise ValueError(f'devices of a collective in an unknown form: {line.strip()[:300]}')

"""Which pictures occur more than once: the same file, or the same picture saved again."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, UInt8, UInt64
from PIL import Image

_grey = np.array([0.299, 0.587, 0.114])
_least_step = 1.0  # of 255; smaller steps are encoder noise
_least_detail = 8  # at least this many of the 64 differences must be steps


def fingerprint(image: UInt8[np.ndarray, 'H W 3']) -> np.uint64:
  """A difference hash: prints of one picture, recompressed or resized, differ in few bits.

  The picture is reduced to 9x8 cells; a bit says whether a cell is brighter than the one to its
  left. Where hardly any cell differs from its neighbour, such bits would make all pictures of a
  plain background equal; there the print is a digest of the cells' colours in 17 levels, so it is
  near only to that of a picture with the same cells.
  """
  cells = np.asarray(Image.fromarray(image).resize((9, 8), Image.Resampling.BOX))
  steps = np.diff(cells @ _grey, axis=1)
  if np.count_nonzero(np.abs(steps) > _least_step) >= _least_detail:
    return np.packbits(steps > _least_step).view(np.uint64)[0]
  colours = (cells.astype(np.uint16) + 8) // 16
  return np.frombuffer(hashlib.blake2b(colours.tobytes(), digest_size=8).digest(), np.uint64)[0]


def exact(digests: Sequence[bytes]) -> list[list[int]]:
  """Groups of equal files by digest: indices in ascending order, groups ordered by their first."""
  return _groups(np.unique(np.array(digests, object), return_inverse=True)[1])


def near(prints: UInt64[np.ndarray, ' N'], *, distance: int = 4) -> list[list[int]]:
  """Groups of prints linked by chains of steps of at most `distance` bits; ordered as in `exact`.

  Complete: cut into distance + 2 chunks of bits, two prints this near share at least two chunks, so
  comparing only prints that share two chunks finds every pair. 200,000 prints take seconds. Raises
  ValueError for a distance outside 0 to 62.
  """
  if not 0 <= distance <= 62:
    raise ValueError(f'distance={distance}; expected 0 to 62 of 64 bits')
  values, where = np.unique(prints, return_inverse=True)
  group = np.arange(len(values))
  for shared in _chunk_pairs(distance + 2):
    group = _joined(group, values, shared, distance)
  return _groups(group[where])


def _chunk_pairs(chunks: int) -> Iterator[np.uint64]:
  """Masks of every pair of chunks, the 64 bits being cut into `chunks`."""
  ends = [64 * i // chunks for i in range(chunks + 1)]
  masks = [(1 << end) - (1 << start) for start, end in itertools.pairwise(ends)]
  return (np.uint64(a | b) for a, b in itertools.combinations(masks, 2))


def _joined(
  group: Int[np.ndarray, ' N'], values: UInt64[np.ndarray, ' N'], shared: np.uint64, distance: int
) -> Int[np.ndarray, ' N']:
  """Joins groups through the pairs of near values that are equal in the bits `shared`."""
  from scipy.sparse import coo_array, csgraph  # late: heavy

  order = np.argsort(values & shared)
  key, start, edges = (values & shared)[order], np.arange(len(values)), [np.empty((2, 0), int)]
  for offset in itertools.count(1):
    start = start[start + offset < len(key)]
    start = start[key[start] == key[start + offset]]
    if not len(start):
      break
    pair = order[[start, start + offset]]
    close = np.bitwise_count(np.bitwise_xor(*values[pair])) <= distance
    edges.append(np.unique(group[pair[:, close]], axis=1))
  rows, columns = np.concatenate(edges, axis=1)
  graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(values),) * 2)
  return csgraph.connected_components(graph, directed=False)[1][group]


def _groups(label: Int[np.ndarray, ' N']) -> list[list[int]]:
  """Indices that share a label, where there is more than one."""
  members: dict[int, list[int]] = {}
  for number, one in enumerate(label.tolist()):
    members.setdefault(one, []).append(number)
  return [group for group in members.values() if len(group) > 1]

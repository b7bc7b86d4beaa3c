"""Selects, checks and places weights by their torch names, for the modules of all networks.

interop/resnet.py alone has a table of its own: its convolutions have no bias, it reads a head too,
and it also writes torch's names.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from flax import traverse_util

from landmarks_jax.contracts import PyTree

LEAVES = {  # kind of layer: {leaf in torch: (collection, leaf here)}
  'conv': {'weight': ('params', 'kernel'), 'bias': ('params', 'bias')},
  'dense': {'weight': ('params', 'kernel'), 'bias': ('params', 'bias')},
  'group_norm': {'weight': ('params', 'scale'), 'bias': ('params', 'bias')},
  'layer_norm': {'weight': ('params', 'scale'), 'bias': ('params', 'bias')},
  'batch_norm': {
    'weight': ('params', 'scale'),
    'bias': ('params', 'bias'),
    'running_mean': ('batch_stats', 'mean'),
    'running_var': ('batch_stats', 'var'),
  },
}
KERNEL_RANKS = {'conv': 4, 'dense': 2}
Layers = Mapping[str, tuple[str, tuple[str, ...]]]  # torch's name: (kind of layer, path here)


def select(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """The weights under `prefix`, which is removed, without counters (`num_batches_tracked`)."""
  return {
    name.removeprefix(prefix): np.asarray(array)
    for name, array in state.items()
    if name.startswith(prefix) and not name.endswith('.num_batches_tracked')
  }


def describe(state: Mapping[str, np.ndarray], prefix: str, network: str, stem: str) -> str:
  """How `state` was read, for errors. stem: a pattern whose group 1 is a possible prefix."""
  found = ', '.join(repr(m[1]) for m in (re.fullmatch(stem, name) for name in state) if m) or 'none'
  return f'state dict read with prefix={prefix!r} (prefixes of {network}s in it: {found})'


def check(weights: Mapping[str, np.ndarray], ranks: Mapping[str, int], what: str) -> None:
  """Raises ValueError naming the missing, unexpected and misshapen weights."""
  both = sorted(ranks.keys() & weights.keys())
  problems = {
    'missing': sorted(ranks.keys() - weights.keys()),
    'unexpected': sorted(weights.keys() - ranks.keys()),
    'misshapen': [f'{n} {weights[n].shape}' for n in both if weights[n].ndim != ranks[n]],
  }
  lines = [
    f'{len(names)} {problem}: {listed(names)}' for problem, names in problems.items() if names
  ]
  if lines:
    raise ValueError(f'{what}: {"; ".join(lines)}')


def listed(names: Iterable[str]) -> str:
  """At most ten of the names, as text."""
  names = list(names)
  return ', '.join(names[:10] + (['...'] if len(names) > 10 else []))


def place(weights: Mapping[str, np.ndarray], layers: Layers, what: str) -> dict[str, PyTree]:
  """The weights of `layers` -> {'params', 'batch_stats'}, kernels HWIO; all others are errors."""
  paths, ranks = {}, {}
  for name, (kind, path) in layers.items():
    for leaf, (collection, here) in LEAVES[kind].items():
      paths[f'{name}.{leaf}'] = (collection, *path, here)
      ranks[f'{name}.{leaf}'] = KERNEL_RANKS[kind] if here == 'kernel' else 1
  check(weights, ranks, what)
  return traverse_util.unflatten_dict({paths[n]: transpose(a) for n, a in weights.items()})


def transpose(array: np.ndarray) -> np.ndarray:
  """OIHW -> HWIO, (out, in) -> (in, out); vectors are unchanged."""
  return np.ascontiguousarray(array.transpose((2, 3, 1, 0) if array.ndim == 4 else None))


def count(weights: Mapping[str, np.ndarray], pattern: str) -> int:
  """How many different numbers occur in the pattern's group; at least 1."""
  matches = (re.match(pattern, name) for name in weights)
  return max(len({match[1] for match in matches if match}), 1)

"""The weights of DVE's hourglass, from PyTorch's names and layouts to those used here."""

from collections.abc import Iterator, Mapping

import numpy as np

from landmarks_jax.contracts import PyTree
from landmarks_jax.interop import torch_names


def from_torch(state: Mapping[str, np.ndarray], *, prefix: str = '') -> dict[str, PyTree]:
  """A torch state dict -> {'params', 'batch_stats'}: the variables of Hourglass.

  With GroupNorm there are no running statistics and no 'batch_stats'. The heads of all stacks but
  the last do not affect the published output: they are ignored, and Hourglass has none.

  Args:
    state: name -> array. Names without `prefix` belong to something else and are ignored.
    prefix: what precedes `conv1.weight`: '' or 'module.' in files of DVE.

  Raises ValueError naming the missing, unexpected and misshapen weights.
  """
  what = torch_names.describe(state, prefix, 'Hourglass', r'(.*)output_layers\.0\.4\.weight')
  weights = torch_names.select(state, prefix)
  last = torch_names.count(weights, r'hg\.(\d+)\.') - 1
  earlier = tuple(f'output_layers.{stack}.' for stack in range(last))
  weights = {name: array for name, array in weights.items() if not name.startswith(earlier)}
  scale = weights.pop('normscale', None)
  layers = dict(_layers(weights, last))
  tree = torch_names.place(weights, layers, f'{what}: not the weights of an Hourglass')
  if scale is not None:
    tree['params']['scale'] = scale.reshape(())
  return tree


def _layers(
  weights: Mapping[str, np.ndarray], last: int
) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
  """The layers of the Hourglass that these weights must be: (torch's name, (kind, path here))."""
  statistics = any(name.endswith('.running_mean') for name in weights)
  norm = 'batch_norm' if statistics else 'group_norm'
  yield from (('conv1', ('conv', ('conv1',))), ('bn1', (norm, ('bn1',))))
  for block, here in _blocks(weights, last):
    for i in (1, 2, 3):
      yield f'{block}.bn{i}', (norm, (here, f'bn{i}'))
      yield f'{block}.conv{i}', ('conv', (here, f'conv{i}'))
    if _changes_channels(weights, block):
      yield f'{block}.downsample', ('conv', (here, 'downsample'))
  head = f'output_layers.{last}'
  yield f'{head}.1', ('conv', ('head_conv',))
  yield f'{head}.2', (norm, ('head_bn',))
  yield f'{head}.4', ('conv', ('labels',))


def _blocks(weights: Mapping[str, np.ndarray], last: int) -> Iterator[tuple[str, str]]:
  """The residual blocks: (torch's name, name here)."""
  blocks = range(torch_names.count(weights, r'hg\.0\.layer1_1\.(\d+)\.'))
  levels = range(1, 1 + torch_names.count(weights, r'hg\.0\.layer(\d+)_1\.'))
  places = [(level, *role) for level in levels for role in ((1, 'skip'), (2, 'down'), (3, 'up'))]
  places.append((1, 4, 'middle'))
  yield from ((f'layer{i}.0', f'layer{i}') for i in (1, 2, 3))
  for stack in range(last + 1):
    for level, number, role in places:
      for i in blocks:
        yield f'hg.{stack}.layer{level}_{number}.{i}', f'stack{stack}_level{level}_{role}{i}'
  yield from ((f'output_layers.{last}.0.{i}', f'head{i}') for i in blocks)


def _changes_channels(weights: Mapping[str, np.ndarray], block: str) -> bool:
  first, last = (weights.get(f'{block}.conv{i}.weight') for i in (1, 3))
  return first is not None and last is not None and first.shape[1] != last.shape[0]

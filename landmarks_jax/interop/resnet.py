"""The weights of a ResNet, between PyTorch's names and layouts and those of models/resnet.py."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
from flax import traverse_util

from landmarks_jax.contracts import PyTree
from landmarks_jax.interop import torch_names

LEAVES = {  # (kind of layer, leaf in torch): (collection, leaf here)
  ('conv', 'weight'): ('params', 'kernel'),
  ('bn', 'weight'): ('params', 'scale'),
  ('bn', 'bias'): ('params', 'bias'),
  ('bn', 'running_mean'): ('batch_stats', 'mean'),
  ('bn', 'running_var'): ('batch_stats', 'var'),
  ('fc', 'weight'): ('head', 'kernel'),
  ('fc', 'bias'): ('head', 'bias'),
}


def from_torch(
  state: Mapping[str, np.ndarray], *, prefix: str = 'encoder.module.', head: bool = True
) -> dict[str, PyTree]:
  """A torch state dict -> {'params', 'batch_stats', 'head'}: the variables of ResNet, and its head.

  Args:
    state: name -> array, as in a published checkpoint. Names without `prefix` belong to something
      else and are ignored, as is `num_batches_tracked`.
    prefix: what precedes `conv1.weight`.
    head: whether to read `fc`, as {'kernel' [C, D], 'bias' [D]}, or None where the file has none.
      If False, 'head' is None whatever `fc` is (an MLP, ImageNet's classes).

  Raises ValueError naming the missing, unexpected and misshapen weights.
  """
  weights = torch_names.select(state, prefix)
  if not head:
    weights = {name: array for name, array in weights.items() if not name.startswith('fc.')}
  stem = r'((?!.*layer\d).*\.|)conv1\.weight'
  _check(weights, torch_names.describe(state, prefix, 'ResNet', stem))
  flat = {_path(name): torch_names.transpose(array) for name, array in weights.items()}
  return {'head': None} | traverse_util.unflatten_dict(flat)


def to_torch(variables: PyTree, *, prefix: str = 'encoder.module.') -> dict[str, np.ndarray]:
  """The inverse of `from_torch`: {'params', 'batch_stats', 'head' or none} -> a torch state dict.

  It has no `num_batches_tracked`: torch's `load_state_dict` does not require it of a plain dict.
  Raises ValueError naming the missing, unexpected and misshapen weights.
  """
  flat = traverse_util.flatten_dict({k: tree for k, tree in variables.items() if tree is not None})
  weights = {_name(path): _transposed_back(np.asarray(array)) for path, array in flat.items()}
  _check(weights, 'variables')
  return {prefix + name: array for name, array in weights.items()}


def _transposed_back(array: np.ndarray) -> np.ndarray:
  """The inverse of `torch_names.transpose`: HWIO -> OIHW, (in, out) -> (out, in)."""
  return np.ascontiguousarray(array.transpose((3, 2, 0, 1) if array.ndim == 4 else None))


def _kind(module: str) -> str:
  if module == 'fc':
    return 'fc'
  return 'bn' if 'bn' in module or module.endswith('downsample.1') else 'conv'


def _path(name: str) -> tuple[str, ...]:
  """layer1.0.downsample.0.weight -> (params, layer1_0, downsample_conv, kernel)."""
  module, _, leaf = name.rpartition('.')
  collection, leaf = LEAVES[_kind(module), leaf]
  module = module.replace('downsample.0', 'downsample_conv').replace(
    'downsample.1', 'downsample_bn'
  )
  module = re.sub(r'^layer(\d)\.(\d+)', r'layer\1_\2', module)
  return (collection, *(() if module == 'fc' else module.split('.')), leaf)


def _name(path: tuple[str, ...]) -> str:
  """The inverse of `_path`; a path without an inverse is joined by '/'."""
  module = re.sub(r'^layer(\d)_(\d+)', r'layer\1.\2', '.'.join(path[1:-1]) or 'fc')
  module = module.replace('downsample_conv', 'downsample.0').replace(
    'downsample_bn', 'downsample.1'
  )
  names = [f'{module}.{leaf}' for kind, leaf in LEAVES if kind == _kind(module)]
  return next((name for name in names if _path(name) == path), '/'.join(path))


def _modules(weights: Mapping[str, np.ndarray]) -> Iterator[str]:
  """The layers of the ResNet that these weights must be, in torch's names."""
  convs = 3 if any('.conv3.' in name for name in weights) else 2
  yield from ('conv1', 'bn1')
  for stage in range(1, 5):
    blocks = {name.split('.')[1] for name in weights if name.startswith(f'layer{stage}.')}
    for at in (f'layer{stage}.{block}' for block in range(max(len(blocks), 1))):
      yield from (f'{at}.{kind}{i}' for i in range(1, convs + 1) for kind in ('conv', 'bn'))
    # As in the model, a stage projects if it changes the shape; only stage 1 may keep it.
    ends = ('conv1.weight', f'layer1.0.conv{convs}.weight')
    before, after = (weights[name].shape[:1] if name in weights else None for name in ends)
    if stage > 1 or before != after:
      yield from (f'layer{stage}.0.downsample.0', f'layer{stage}.0.downsample.1')
  if any(name.startswith('fc.') for name in weights):
    yield 'fc'


def _rank(name: str) -> int:
  return 4 if _kind(name.rpartition('.')[0]) == 'conv' else 2 if name == 'fc.weight' else 1


def _check(weights: Mapping[str, np.ndarray], what: str) -> None:
  expected = {f'{m}.{leaf}' for m in _modules(weights) for kind, leaf in LEAVES if kind == _kind(m)}
  ranks = {name: _rank(name) for name in expected}
  torch_names.check(weights, ranks, f'{what}: not the weights of a ResNet')

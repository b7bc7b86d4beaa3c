"""The weights of DVE's small network, from PyTorch's names and layouts to those used here."""

from collections.abc import Mapping

import numpy as np

from landmarks_jax.contracts import PyTree
from landmarks_jax.interop import torch_names

LAYERS = {
  **{f'conv{i}.0': ('conv', (f'conv{i}',)) for i in range(1, 6)},
  **{f'conv{i}.1': ('batch_norm', (f'bn{i}',)) for i in range(1, 6)},
  'conv6': ('conv', ('labels',)),
}


def from_torch(state: Mapping[str, np.ndarray], *, prefix: str = '') -> dict[str, PyTree]:
  """A torch state dict -> {'params', 'batch_stats'}: the variables of SmallNet.

  Args:
    state: name -> array. Names without `prefix` belong to something else and are ignored.
    prefix: what precedes `conv1.0.weight`: '' or 'module.' in files of DVE.

  Raises ValueError naming the missing, unexpected and misshapen weights.
  """
  what = torch_names.describe(state, prefix, 'SmallNet', r'(.*)conv6\.weight')
  weights = torch_names.select(state, prefix)
  return torch_names.place(weights, LAYERS, f'{what}: not the weights of a SmallNet')

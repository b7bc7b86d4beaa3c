"""The weights of the ICCV 2021 heads on a frozen network, from PyTorch's names to those used here.

Both read hypercolumns; their kernels are split by channels into one for each pyramid level.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from landmarks_jax.contracts import PyTree
from landmarks_jax.interop import torch_names

UNTRAINED = 'descriptors', 'linear.'  # in a regressor's file: copies that were never trained


def projector(
  state: Mapping[str, np.ndarray], channels: Sequence[int], *, prefix: str = ''
) -> dict[str, PyTree]:
  """A torch state dict -> the params of methods/projection.py: `kernels`, and `bias`.

  channels: of every level of the frozen network, in pyramid order. Raises ValueError naming the
  missing, unexpected and misshapen weights.
  """
  what = 'not the weights of a feature projector'
  weights = torch_names.select(state, prefix)
  torch_names.check(weights, {'reg_conv.weight': 4, 'reg_conv.bias': 1}, what)
  weight, bias = weights['reg_conv.weight'], weights['reg_conv.bias']
  outputs, inputs, rows, columns = weight.shape
  if rows != columns or rows % 2 == 0 or len(bias) != outputs:
    raise ValueError(
      f'{what}: reg_conv.weight {weight.shape}, reg_conv.bias {bias.shape}; expected a kernel of '
      'odd side, and a bias for each of its outputs'
    )
  kernel = weight.transpose(1, 2, 3, 0).reshape(inputs, rows * columns * outputs)
  return {'kernels': _by_level(kernel, channels), 'bias': bias}


def regressor(
  state: Mapping[str, np.ndarray], channels: Sequence[int], *, prefix: str = ''
) -> dict[str, PyTree]:
  """A torch state dict -> the params of methods/probe.py: `inner` and `outer`.

  channels: as in `projector`. Names that begin with one of UNTRAINED are ignored. Raises ValueError
  naming the missing, unexpected and misshapen weights.
  """
  what = 'not the weights of a landmark regressor'
  weights = torch_names.select(state, prefix)
  weights = {name: array for name, array in weights.items() if not name.startswith(UNTRAINED)}
  torch_names.check(weights, {'inner_conv.weight': 4, 'reg_conv.weight': 4}, what)
  inner, outer = (weights[f'{name}_conv.weight'] for name in ('inner', 'reg'))
  landmarks, inputs = len(outer) // 2, outer.shape[1]
  fits = landmarks and len(outer) == 2 * landmarks and 2 * len(inner) == landmarks * inputs
  if not fits or inner.shape[2:] != (1, 1) or outer.shape[2:] != (1, 1):
    raise ValueError(
      f'{what}: inner_conv.weight {inner.shape}, reg_conv.weight {outer.shape}; expected '
      '[K * P, C, 1, 1] and [2K, 2P, 1, 1] for K landmarks of P points'
    )
  return {
    'inner': _by_level(inner[:, :, 0, 0].T, channels),
    'outer': outer.reshape(landmarks, 2, inputs).transpose(0, 2, 1),
  }


def _by_level(kernel: np.ndarray, channels: Sequence[int]) -> tuple[np.ndarray, ...]:
  """Splits the rows of a kernel [C, D] into one kernel for each level."""
  if len(kernel) != sum(channels):
    raise ValueError(
      f'it reads hypercolumns of {len(kernel)} channels, but those of the network below have '
      f'{sum(channels)} ({" + ".join(map(str, channels))})'
    )
  stops = np.cumsum(channels)[:-1]
  return tuple(np.ascontiguousarray(rows) for rows in np.split(kernel, stops))

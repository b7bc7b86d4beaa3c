"""The weights of a ViT, from timm's and DINO's names and layouts to those of models/vit.py."""

import math
from collections.abc import Mapping

import numpy as np

from landmarks_jax.contracts import PyTree
from landmarks_jax.interop import torch_names

BLOCK = {  # torch's name in blocks.I: (kind of layer, name here)
  'norm1': ('layer_norm', 'norm1'),
  'attn.qkv': ('dense', 'qkv'),
  'attn.proj': ('dense', 'out'),
  'norm2': ('layer_norm', 'norm2'),
  'mlp.fc1': ('dense', 'mlp0'),
  'mlp.fc2': ('dense', 'mlp1'),
}
SCALED = {'ls1': 'attn.proj', 'ls2': 'mlp.fc2'}  # LayerScale, and the layer whose output it scales
REGISTERS = 'register_tokens', 'reg_token'  # DINO's name, timm's


def from_torch(state: Mapping[str, np.ndarray], *, prefix: str = '') -> dict[str, PyTree]:
  """A torch state dict -> {'params'}: the variables of ViT, without a classifier.

  The class token's position embedding is added to the token, and LayerScale is folded into the
  layer before it: the features are the same.

  Args:
    state: name -> array. Names without `prefix` belong to something else and are ignored.
    prefix: what precedes `patch_embed.proj.weight`.

  Raises ValueError naming the missing, unexpected and misshapen weights.
  """
  what = torch_names.describe(state, prefix, 'ViT', r'(.*)patch_embed\.proj\.weight')
  what = f'{what}: not the weights of a ViT'
  weights = torch_names.select(state, prefix)
  tokens = {'cls_token': 3, 'pos_embed': 3} | {n: 3 for n in REGISTERS if n in weights}
  layers = {'patch_embed.proj': ('conv', ('embed',)), 'norm': ('layer_norm', ('norm',))}
  for i in range(torch_names.count(weights, r'blocks\.(\d+)\.')):
    at = f'blocks.{i}'
    layers |= {f'{at}.{name}': (kind, (f'block{i}', here)) for name, (kind, here) in BLOCK.items()}
    for scale, layer in SCALED.items():
      gamma = weights.pop(f'{at}.{scale}.gamma', None)
      _scale(weights, f'{at}.{layer}', gamma, f'{what}: {at}.{scale}.gamma')
  found = {name: weights.pop(name) for name in tokens if name in weights}
  torch_names.check(found, tokens, what)
  tree = torch_names.place(weights, layers, what)
  tree['params'] |= _tokens(found, what)
  return tree


def _scale(weights: dict[str, np.ndarray], layer: str, gamma: np.ndarray | None, what: str) -> None:
  """Folds the scale `gamma` of a layer's output into its weights."""
  if gamma is None:
    return
  for name in (f'{layer}.weight', f'{layer}.bias'):
    if name not in weights:
      continue  # reported as missing later
    if gamma.shape != weights[name].shape[:1]:
      raise ValueError(f'{what} {gamma.shape} does not scale {name} {weights[name].shape}')
    weights[name] = weights[name] * gamma.reshape(-1, *[1] * (weights[name].ndim - 1))


def _tokens(found: Mapping[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
  """The class token, registers and position embedding in the layout used here."""
  one, tokens, channels = found['pos_embed'].shape
  grid = math.isqrt(tokens)
  own = grid * grid == tokens - 1  # whether the class token has a position
  square = grid and (own or grid * grid == tokens)
  others = {array.shape[::2] for array in found.values()}
  if one != 1 or not square or others != {(1, channels)} or found['cls_token'].shape[1] != 1:
    shapes = ', '.join(f'{name} {array.shape}' for name, array in found.items())
    raise ValueError(
      f'{what}: {shapes}; expected the positions of a square of patches, and tokens of as many '
      'channels'
    )
  position, start = found['pos_embed'][0], found['cls_token'][0]
  tree = {
    'class_token': start + position[:1] if own else start,
    'position': position[own:].reshape(grid, grid, -1),
  }
  registers = [found[name][0] for name in REGISTERS if name in found]
  return tree | ({'registers': np.concatenate(registers)} if registers else {})

"""The stacked hourglass (Newell et al. 2016) as DVE uses it: one map of labels, at half size.

Order of layers, padding and resizing follow the released PyTorch code (interop/hourglass.py), which
differs from Newell's: a level is pooled after its skip blocks, and a stack's output goes to the
next stack unchanged.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from landmarks_jax import losses
from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.models import pooling
from landmarks_jax.models.norm import GroupedBatchNorm

# Features of the bottlenecks: of the stem and the first block, of the second, of all others.
WIDTHS = (64, 128, 128)
GROUPS = 16  # of GroupNorm
SCALE = 20.0  # initial length of a scaled output


def _conv(features: int, side: int, stride: int = 1, *, dtype: Any, name: str) -> nn.Conv:
  return nn.Conv(
    features,
    (side, side),
    (stride, stride),
    padding=side // 2,  # symmetric; 'SAME' shifts a stride-2 map by a pixel
    dtype=dtype,
    kernel_init=nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform'),  # PyTorch's
    name=name,
  )


def _norm(x: Array, *, kind: str, groups: int, momentum: float, train: bool, name: str) -> Array:
  if kind == 'batch':
    return GroupedBatchNorm(groups, momentum, name=name)(x, train)
  return nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=x.dtype, use_fast_variance=False, name=name)(x)


class Residual(nn.Module):
  """A pre-activation bottleneck (He et al. 2016b) of `features`, with twice as many as output."""

  features: int
  norm: Callable  # (x, name=...) -> x
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w D']:
    """One block; a projection of `x` is added where the channels change."""
    conv = functools.partial(_conv, dtype=self.dtype)
    y = x
    for i, (features, side) in enumerate(((1, 1), (1, 3), (2, 1)), 1):
      y = nn.relu(self.norm(y, name=f'bn{i}'))
      y = conv(features * self.features, side, name=f'conv{i}')(y)
    if x.shape != y.shape:
      x = conv(y.shape[-1], 1, name='downsample')(x)
    return x + y


class Hourglass(nn.Module):
  """The network of DVE (specification equivariant, section 2).

  `channels` is the dimension of the labels, which are those of the last of `stacks` hourglasses.
  Each halves its map `depth` times and has `blocks` residual blocks at every place. `widths` are
  the bottlenecks' features: of the stem and the first block, of the second, of all others.
  `norm`: 'batch', or 'group' (16 groups, no running statistics). `scaled_output` gives all labels
  one learned length, in at least float32. `norm_groups`, `norm_momentum`, `dtype`: as in ResNet.
  """

  channels: int
  stacks: int = 1
  blocks: int = 4
  depth: int = 4
  widths: tuple[int, int, int] = WIDTHS
  norm: str = 'batch'
  scaled_output: bool = False
  norm_groups: int = 1
  norm_momentum: float = 0.9
  dtype: Any = None

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W 3'], train: bool) -> Pyramid:
    """Normalised image -> one level [B, H/2, W/2, channels].

    Raises ValueError where H or W is not a multiple of 2**(depth + 1), or for bad `norm`, `widths`.
    """
    self._check(image.shape[1:3])
    conv = functools.partial(_conv, dtype=self.dtype)
    norm = functools.partial(
      _norm, kind=self.norm, groups=self.norm_groups, momentum=self.norm_momentum, train=train
    )
    x = conv(self.widths[0], 7, 2, name='conv1')(image)
    x = nn.relu(norm(x, name='bn1'))
    for i, width in enumerate(self.widths, 1):
      x = Residual(width, norm, self.dtype, name=f'layer{i}')(x)
    for stack in range(self.stacks):
      x = self._hourglass(x, norm, f'stack{stack}', self.depth)
    x = self._residuals(x, norm, 'head')
    x = conv(x.shape[-1], 1, name='head_conv')(x)
    x = conv(self.channels, 1, name='labels')(nn.relu(norm(x, name='head_bn')))
    return (self._scaled(x) if self.scaled_output else x,)

  def _hourglass(self, x: Array, norm: Callable, stack: str, level: int) -> Array:
    at = f'{stack}_level{level}'
    skip = self._residuals(x, norm, f'{at}_skip')
    x = self._residuals(pooling.max_pool(skip, 2, 2), norm, f'{at}_down')
    if level > 1:
      x = self._hourglass(x, norm, stack, level - 1)
    else:
      x = self._residuals(x, norm, f'{at}_middle')
    x = self._residuals(x, norm, f'{at}_up')
    return skip + x.repeat(2, 1).repeat(2, 2)

  def _residuals(self, x: Array, norm: Callable, at: str) -> Array:
    for i in range(self.blocks):
      x = Residual(self.widths[2], norm, self.dtype, name=f'{at}{i}')(x)
    return x

  def _scaled(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.constant(SCALE), (), jnp.float32)
    return scale * losses.unit(x)

  def _check(self, sides: tuple[int, int]) -> None:
    multiple = 2 ** (self.depth + 1)
    if any(side % multiple for side in sides):
      raise ValueError(
        f'Hourglass: a picture of {sides[1]} x {sides[0]} (width x height); depth={self.depth} '
        f'halves it {self.depth + 1} times, so both sides must be multiples of {multiple}; crop or '
        'resize the pictures (frame, margin), or lower the depth'
      )
    if self.norm not in ('batch', 'group'):
      raise ValueError(f'Hourglass: norm={self.norm!r}; choose from batch, group')
    if self.norm == 'group' and any(width % GROUPS for width in self.widths):
      raise ValueError(
        f"Hourglass: widths={self.widths} with norm='group'; expected multiples of {GROUPS}"
      )

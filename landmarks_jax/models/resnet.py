"""ResNets (He et al. 2016) in which every stage is a level of the pyramid.

Names, padding, strides and initialisation follow PyTorch's, so that published weights give the
published numbers (interop/resnet.py).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.models import pooling
from landmarks_jax.models.norm import GroupedBatchNorm


def basic_block(width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
  """The convolutions of a block of ResNet-18 and 34: (features, side, stride) each."""
  return (width, 3, stride), (width, 3, 1)


def bottleneck_block(width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
  """The convolutions of a block of ResNet-50 and deeper; the stride is on the 3x3."""
  return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)


DEPTHS = {  # depth: (block, blocks in each of the four stages)
  18: (basic_block, (2, 2, 2, 2)),
  34: (basic_block, (3, 4, 6, 3)),
  50: (bottleneck_block, (3, 4, 6, 3)),
  101: (bottleneck_block, (3, 4, 23, 3)),
  152: (bottleneck_block, (3, 8, 36, 3)),
}


OUTPUT_STRIDES = 8, 16, 32
KERNEL = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def _conv(
  features: int, side: int, stride: int, *, dtype: Any, name: str, dilation: int = 1
) -> nn.Conv:
  return nn.Conv(
    features,
    (side, side),
    (stride, stride),
    padding=dilation * (side // 2),  # symmetric; 'SAME' shifts a stride-2 map by a pixel
    kernel_dilation=dilation,
    use_bias=False,
    dtype=dtype,
    kernel_init=KERNEL,
    name=name,
  )


class StemConv(nn.Module):
  """The first convolution, 7x7 of stride 2, as a 4x4 one over blocks of 2x2 pixels.

  The same weights and sums; three channels would leave an accelerator's matrix units idle.
  """

  dtype: Any = None

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W C']) -> Float[Array, 'B h w 64']:
    """Padded by three pixels on each side; h = ceil(H / 2)."""
    channels = image.shape[-1]
    kernel = self.param('kernel', KERNEL, (7, 7, channels, 64), jnp.float32)
    x, kernel = nn.dtypes.promote_dtype(image, kernel, dtype=self.dtype)
    rows, columns = (-(-n // 2) for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    x = x.reshape(-1, rows, 2, columns, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, rows, columns, 4 * channels)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))  # 8x8: pixels -4 to 3
    kernel = kernel.reshape(4, 2, 4, 2, channels, 64).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(4, 4, 4 * channels, 64)
    order = 'NHWC', 'HWIO', 'NHWC'
    return lax.conv_general_dilated(x, kernel, (1, 1), ((2, 1), (2, 1)), dimension_numbers=order)


class Block(nn.Module):
  """A residual block: its convolutions, and a projection where they change the shape."""

  convs: tuple[tuple[int, int, int], ...]  # (features, side, stride)
  norm_groups: int = 1
  norm_momentum: float = 0.9
  dtype: Any = None
  dilations: tuple[int, int] = (1, 1)  # up to and including its first 3x3, and after it

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C'], train: bool) -> Float[Array, 'B i j D']:
    """One block; `train` as in GroupedBatchNorm."""
    conv = functools.partial(_conv, dtype=self.dtype)
    norm = functools.partial(GroupedBatchNorm, self.norm_groups, self.norm_momentum)
    y, (look, later) = x, self.dilations
    for i, (features, side, stride) in enumerate(self.convs, 1):
      y = conv(features, side, stride, dilation=look, name=f'conv{i}')(y)
      y = norm(name=f'bn{i}')(y, train)
      look = later if side > 1 else look
      y = nn.relu(y) if i < len(self.convs) else y
    if x.shape != y.shape:
      stride = math.prod(stride for _, _, stride in self.convs)
      x = conv(y.shape[-1], 1, stride, name='downsample_conv')(x)
      x = norm(name='downsample_bn')(x, train)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """A ResNet without its head (specification section 2).

  `depth` is one of 18, 34, 50, 101, 152; or None, with `block` and `stage_sizes` given, for smaller
  networks than a depth names, such as those of tests. `width` multiplies the stages; the stem has
  64 channels at every width. `norm_groups`, `norm_momentum`: GroupedBatchNorm's. `dtype` is that of
  the computation (bfloat16: with float32 parameters and statistics); None follows the parameters
  and the input. `output_stride` 16 or 8: the last one or two stages keep their resolution and
  dilate instead, with the same weights, as in torchvision's replace_stride_with_dilation.
  """

  depth: int | None = None
  width: float | int = 1
  norm_groups: int = 1
  norm_momentum: float = 0.9
  dtype: Any = None
  block: Callable | None = None
  stage_sizes: tuple[int, ...] | None = None
  output_stride: int = 32

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W 3'], train: bool) -> Pyramid:
    """Normalised image -> (stage 4, 3, 2, 1, stem), at 1/32, 1/16, 1/8, 1/4 and 1/4 of its side.

    No map is coarser than 1 / `output_stride`.
    """
    block, stage_sizes = self._architecture()
    if 64 * self.width < 1:
      raise ValueError(f'ResNet: width={self.width} leaves no channels; expected at least 1/64')
    x = StemConv(dtype=self.dtype, name='conv1')(image)
    x = nn.relu(GroupedBatchNorm(self.norm_groups, self.norm_momentum, name='bn1')(x, train))
    x = pooling.max_pool(x, 3, 2, 1)
    maps, reached, dilation = [x], 4, 1
    norm = self.norm_groups, self.norm_momentum
    for i, blocks in enumerate(stage_sizes):
      stride = 2 if i > 0 and reached < self.output_stride else 1
      before, reached = dilation, reached * stride
      dilation *= 2 if i > 0 and stride == 1 else 1
      for j in range(blocks):
        convs = block(int(64 * self.width * 2**i), 1 if j else stride)
        looks = dilation if j else before, dilation  # the first block reads as the stage before
        x = Block(convs, *norm, self.dtype, looks, name=f'layer{i + 1}_{j}')(x, train)
      maps.append(x)
    return tuple(reversed(maps))

  def _architecture(self) -> tuple[Callable, tuple[int, ...]]:
    if self.output_stride not in OUTPUT_STRIDES:
      known = ', '.join(map(str, OUTPUT_STRIDES))
      raise ValueError(f'ResNet: output_stride={self.output_stride}; expected one of {known}')
    explicit = self.block, self.stage_sizes
    if self.depth is None and None not in explicit:
      return explicit
    if self.depth not in DEPTHS or explicit != (None, None):
      raise ValueError(
        f'ResNet: depth={self.depth}, block={self.block}, stage_sizes={self.stage_sizes}; expected '
        f'a depth of {", ".join(map(str, DEPTHS))}, or both block and stage_sizes and no depth'
      )
    return DEPTHS[self.depth]

"""Hourglasses whose skips are chains of convolutions: detector, features and decoder of lmdis.

On the way down the map is halved at every level; on the way up it is doubled again, and the level's
map from the way down, after further convolutions, is added to it (specification lmdis, section 3).
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Float

from landmarks_jax.contracts import Array
from landmarks_jax.models import pooling
from landmarks_jax.models.norm import GroupedBatchNorm

LEAK, EPSILON = 0.2, 1e-3


class Level(NamedTuple):
  """Channels of the convolutions of one resolution, on the way down and on the way up."""

  down: tuple[int, ...]
  up: tuple[int, ...]


class Layers(NamedTuple):
  """Levels, the finest first, and how many convolutions a skip has.

  `stem`: channels of a bare convolution that comes first, followed by pooling; 0 is none.
  `last_side`: kernel side of the last convolution, in a network that ends with one.
  """

  levels: tuple[Level, ...]
  skips: int
  stem: int = 0
  last_side: int = 3


class Networks(NamedTuple):
  """The layers of the three networks of lmdis."""

  detector: Layers
  features: Layers
  decoder: Layers


_decoder = Layers(
  (
    Level((64, 64), (32,)),
    Level((128,), (64,)),
    Level((256,), (128,)),
    Level((512,), (256,)),
    Level((512, 512), ()),
  ),
  skips=2,
)
_large_levels = (
  Level((64,), (64,)),
  Level((128,), (64,)),
  Level((256,), (128,)),
  Level((512,), (256,)),
  Level((512,), (512,)),
)
NETWORKS = {
  # Of the paper, for 64 and 80 pixels.
  'paper': Networks(
    detector=Layers(
      (
        Level((32, 32), (32,)),
        Level((64, 64), (64, 32)),
        Level((64, 64), (64, 64)),
        Level((64, 64), (64, 64)),
      ),
      skips=3,
    ),
    features=Layers(
      (
        Level((32, 64), (64, 64)),
        Level((128,), (64,)),
        Level((256,), (128,)),
        Level((512,), (256,)),
      ),
      skips=2,
    ),
    decoder=_decoder,
  ),
  # The paper's variant for 128 pixels, whose maps have half the side.
  'large': Networks(
    detector=Layers(_large_levels, skips=2, stem=32, last_side=1),
    features=Layers(_large_levels, skips=2, stem=32),
    decoder=_decoder,
  ),
  # Ours, for 32 to 64 pixels on a CPU: one convolution where the paper has two or three.
  'light': Networks(
    detector=Layers(
      (Level((32,), (32,)), Level((64,), (32,)), Level((64,), (64,)), Level((64,), (64,))),
      skips=1,
    ),
    features=Layers((Level((32,), (64,)), Level((64,), (64,)), Level((128,), (64,))), skips=1),
    decoder=Layers(
      (Level((64,), (32,)), Level((128,), (64,)), Level((256,), (128,)), Level((256,), ())),
      skips=1,
    ),
  ),
}


class SkipHourglass(nn.Module):
  """3x3 convolutions, BatchNorm, leaky ReLU; max pooling; doubling by repetition.

  `width` multiplies the channels of `layers`. `channels`: of a last convolution, with BatchNorm
  and without activation; None leaves it out. `biases`: also before every BatchNorm, which cancels
  them. `norm_groups`, `norm_momentum`, `dtype`: as in ResNet.
  """

  layers: Layers
  channels: int | None = None
  width: float = 1.0
  biases: bool = False
  norm_groups: int = 1
  norm_momentum: float = 0.9
  dtype: Any = None

  @nn.compact
  def __call__(self, maps: Float[Array, 'B H W C'], train: bool) -> Float[Array, 'B h w D']:
    """Maps of the same height and width, or half of it with a stem.

    Raises ValueError where H or W cannot be halved often enough.
    """
    self._check(maps.shape[1:3])
    x, taps = maps, []
    if self.layers.stem:
      x = self._conv(self._scaled(self.layers.stem), 'stem', use_bias=True)(x)
      x = pooling.max_pool(x, 2, 2)
    block = functools.partial(self._block, train=train)
    for i, level in enumerate(self.layers.levels):
      x = pooling.max_pool(x, 2, 2) if i else x
      for j, channels in enumerate(level.down):
        x = block(x, self._scaled(channels), f'down{i}_{j}')
      taps.append(x)
    for i, level in reversed(list(enumerate(self.layers.levels))):
      if x is not taps[i]:
        x = x.repeat(2, 1).repeat(2, 2)
        skip = taps[i]
        for j in range(self.layers.skips):
          skip = block(skip, x.shape[-1], f'skip{i}_{j}')
        x = x + skip
      for j, channels in enumerate(level.up):
        x = block(x, self._scaled(channels), f'up{i}_{j}')
    if self.channels is None:
      return x
    return block(x, self.channels, 'last', side=self.layers.last_side, active=False)

  def _block(
    self, x: Array, channels: int, name: str, *, train: bool, side: int = 3, active: bool = True
  ) -> Array:
    x = self._conv(channels, f'{name}_conv', side=side, use_bias=self.biases)(x)
    norm = GroupedBatchNorm(self.norm_groups, self.norm_momentum, EPSILON, name=f'{name}_bn')
    x = norm(x, train)
    return nn.leaky_relu(x, LEAK) if active else x

  def _conv(self, channels: int, name: str, *, use_bias: bool, side: int = 3) -> nn.Conv:
    return nn.Conv(
      channels,
      (side, side),
      use_bias=use_bias,
      dtype=self.dtype,
      kernel_init=nn.initializers.glorot_uniform(),
      name=name,
    )

  def _scaled(self, channels: int) -> int:
    return max(1, int(self.width * channels))

  def _check(self, sides: tuple[int, int]) -> None:
    multiple = 2 ** (len(self.layers.levels) - (0 if self.layers.stem else 1))
    if any(side % multiple for side in sides):
      raise ValueError(
        f'SkipHourglass: a map of {sides[1]} x {sides[0]} (width x height) cannot be halved to a '
        f'{multiple}th; both sides must be multiples of {multiple}: choose another frame, margin '
        'or padding'
      )

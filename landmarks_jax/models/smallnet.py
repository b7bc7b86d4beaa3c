"""The small networks of dense equivariant labelling (Thewlis et al. 2017): one map, at half size.

Layers, padding and the place of the pooling follow the released PyTorch code (interop/smallnet.py).
"""

import functools
from typing import Any

import flax.linen as nn
from jaxtyping import Float

from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.models import pooling
from landmarks_jax.models.norm import GroupedBatchNorm

LAYERS = {  # (kernel side, features, dilation) of every convolution but the last
  'simple': ((5, 20, 1), (5, 48, 1), (3, 64, 1), (3, 80, 1), (3, 256, 1)),
  'dilations': ((5, 20, 1), (5, 48, 1), (5, 64, 2), (3, 80, 4), (3, 256, 2)),
}


class SmallNet(nn.Module):
  """SIMPLE and DILATIONS (specification equivariant, section 2).

  `layers` names a row of LAYERS; a label sees 26 pixels a side with 'simple', 54 with 'dilations'.
  `channels` is the dimension of the labels. `leak` is the slope of the activation below zero: 0 in
  2017, .2 in DVE. Without `pool` the map is as large as the picture, for labels of all pixels; the
  weights are the same, and no method asks for it. `width` multiplies the features. `norm_groups`,
  `norm_momentum`, `dtype`: as in ResNet.
  """

  layers: str
  channels: int
  width: float = 1.0
  leak: float = 0.0
  pool: bool = True
  norm_groups: int = 1
  norm_momentum: float = 0.9
  dtype: Any = None

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W 3'], train: bool) -> Pyramid:
    """Normalised image -> one level [B, H//2, W//2, channels]; raises ValueError for `layers`."""
    if self.layers not in LAYERS:
      raise ValueError(f'SmallNet: layers={self.layers!r}; choose from {", ".join(LAYERS)}')
    conv = functools.partial(
      nn.Conv,
      dtype=self.dtype,
      kernel_init=nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal'),  # Xavier, untruncated
    )
    x = image
    for i, (side, features, dilation) in enumerate(LAYERS[self.layers], 1):
      x = conv(
        max(1, int(self.width * features)), (side, side), kernel_dilation=dilation, name=f'conv{i}'
      )(x)
      x = GroupedBatchNorm(self.norm_groups, self.norm_momentum, name=f'bn{i}')(x, train)
      x = nn.leaky_relu(x, self.leak)
      if i == 1 and self.pool:
        x = pooling.max_pool(x, 2, 2)
    return (conv(self.channels, (1, 1), name='labels')(x),)

"""Vision transformers (Dosovitskiy et al. 2021): the patch tokens after the last block, as one map.

Arithmetic and initialisation follow timm's and DINO's, so that published weights give the published
features (interop/vit.py).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from landmarks_jax.contracts import Array, Pyramid

HEAD = 64  # channels of an attention head at width 1, in every published size from Ti to L
EPSILON = 1e-6  # of LayerNorm
CUBIC = -0.75  # the free parameter of cubic convolution, as in PyTorch

_start = nn.initializers.truncated_normal(0.02)


class ViT(nn.Module):
  """A pre-norm ViT with a class token, without its classifier.

  `patch`: side of a patch in pixels. `depth`: blocks. `heads`: of attention, each of 64 * `width`
  channels: 6 in ViT-S, 12 in ViT-B. `registers`: further tokens, besides the class token, without a
  position (Darcet et al. 2024). `grid`: side of the stored position embedding in patches; it is
  resized to the picture's. `dtype`: as in ResNet. The class token includes its position embedding.
  """

  patch: int = 16
  depth: int = 12
  heads: int = 6
  width: float | int = 1
  registers: int = 0
  grid: int = 14
  dtype: Any = None

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W 3'], train: bool) -> Pyramid:
    """Normalised image -> one level [B, H/patch, W/patch, heads * 64 * width].

    `train` changes nothing. Raises ValueError where H or W is not a multiple of `patch`.
    """
    self._check(image.shape[1:3])
    channels = self.heads * int(HEAD * self.width)
    side = self.patch, self.patch
    x = nn.Conv(channels, side, side, 'VALID', dtype=self.dtype, kernel_init=_start, name='embed')(
      image
    )
    batch, height, width, _ = x.shape
    position = self.param('position', _start, (self.grid, self.grid, channels), jnp.float32)
    x = x + resize_cubic(position, (height, width)).astype(x.dtype)
    before = [self.param('class_token', _start, (1, channels), jnp.float32)]
    if self.registers:
      before.append(self.param('registers', _start, (self.registers, channels), jnp.float32))
    before = jnp.concatenate(before).astype(x.dtype)
    before = jnp.broadcast_to(before, (batch, *before.shape))
    x = jnp.concatenate([before, x.reshape(batch, height * width, channels)], axis=1)
    for i in range(self.depth):
      x = Block(self.heads, self.dtype, name=f'block{i}')(x)
    x = _norm(self.dtype, 'norm')(x[:, before.shape[1] :])
    return (x.reshape(batch, height, width, channels),)

  def _check(self, sides: tuple[int, int]) -> None:
    if HEAD * self.width < 1:
      raise ValueError(f'ViT: width={self.width} leaves no channels; expected at least 1/{HEAD}')
    if any(side % self.patch for side in sides):
      raise ValueError(
        f'ViT: a picture of {sides[1]} x {sides[0]} (width x height); both sides must be multiples '
        f'of patch={self.patch}; crop or resize the pictures (frame, margin)'
      )


class Block(nn.Module):
  """Attention over all tokens, then an MLP of four times the channels, each added to its input."""

  heads: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Float[Array, 'B N C']) -> Float[Array, 'B N C']:
    """One block."""
    batch, tokens, channels = x.shape
    y = _dense(3 * channels, self.dtype, 'qkv')(_norm(self.dtype, 'norm1')(x))
    query, key, value = jnp.moveaxis(y.reshape(batch, tokens, 3, self.heads, -1), 2, 0)
    y = jax.nn.dot_product_attention(query, key, value)
    x = x + _dense(channels, self.dtype, 'out')(y.reshape(x.shape))
    y = _dense(4 * channels, self.dtype, 'mlp0')(_norm(self.dtype, 'norm2')(x))
    return x + _dense(channels, self.dtype, 'mlp1')(nn.gelu(y, approximate=False))


def resize_cubic(
  maps: Float[Array, 'h w C'], size: tuple[int, int]
) -> Float[Array, 'height width C']:
  """Cubic convolution (Keys 1981), half-pixel centres, edges clamped, no antialiasing.

  With PyTorch's parameter, as DINO resizes position embeddings. size: (height, width).
  """
  if maps.shape[:2] == size:
    return jnp.asarray(maps)
  rows, columns = (
    _cubic_weights(*sides).astype(maps.dtype) for sides in zip(maps.shape, size, strict=False)
  )
  return jnp.einsum('yh,hwc,xw->yxc', rows, maps, columns, precision='float32')


def _cubic_weights(side: int, size: int) -> Float[np.ndarray, '{size} {side}']:
  """The matrix that resamples `side` samples of a line to `size`."""
  place = (np.arange(size) + 0.5) * side / size - 0.5
  weights = np.zeros((size, side))
  for tap in range(-1, 3):
    at = np.floor(place) + tap
    x = np.abs(place - at)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1  # up to one sample away
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    column = np.clip(at, 0, side - 1).astype(int)
    np.add.at(weights, (np.arange(size), column), np.where(x <= 1, near, far))
  return weights


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(EPSILON, dtype=dtype, use_fast_variance=False, name=name)


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
  return nn.Dense(features, dtype=dtype, kernel_init=_start, name=name)

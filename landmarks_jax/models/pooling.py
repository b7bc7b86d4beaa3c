"""Max pooling whose gradient is a few passes over the maps.

XLA's own gradient scatters from window to window, and takes four times as long on a CPU
(docs/performance.md).
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from landmarks_jax.contracts import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(
  x: Float[Array, 'B H W C'], side: int, stride: int, padding: int = 0
) -> Float[Array, 'B h w C']:
  """The greatest value of every window of side x side pixels, as PyTorch's MaxPool2d.

  The gradient goes to the first of equally great pixels, in row order. Reverse mode only: no jvp.
  """
  return nn.max_pool(x, (side, side), (stride, stride), padding=((padding, padding),) * 2)


def _forward(x: Array, side: int, stride: int, padding: int) -> tuple[Array, Array]:
  return max_pool(x, side, stride, padding), x


def _backward(side: int, stride: int, padding: int, x: Array, slope: Array) -> tuple[Array]:
  """Every pixel takes the slopes of the windows that chose it.

  Pixels are laid out in blocks of stride x stride, one for each window and as many more as windows
  reach beyond their own: pixel (i, j) of a window is pixel (i % stride, j % stride) of a block.
  """
  chosen = _chosen(x, side, stride, padding)
  chosen = lax.optimization_barrier(chosen)  # computed once, not per use, if the compiler heeds it
  height, width = slope.shape[1:3]
  more = (side - 1) // stride
  rows = []
  for first in range(stride):
    columns = []
    for second in range(stride):
      found = jnp.zeros((len(x), height + more, width + more, x.shape[-1]), slope.dtype)
      for i, j in itertools.product(range(first, side, stride), range(second, side, stride)):
        shift = [(0, 0), *((n // stride, more - n // stride) for n in (i, j)), (0, 0)]
        found += jnp.pad(jnp.where(chosen == i * side + j, slope, 0), shift)
      columns.append(found)
    rows.append(jnp.stack(columns, 3))
  blocks = jnp.stack(rows, 2)
  pixels = blocks.reshape(len(x), blocks.shape[1] * stride, blocks.shape[3] * stride, x.shape[-1])
  rest = [
    (0, max(0, padding + n - m)) for n, m in zip(x.shape[1:3], pixels.shape[1:3], strict=True)
  ]
  pixels = jnp.pad(pixels, [(0, 0), *rest, (0, 0)])
  return (pixels[:, padding : padding + x.shape[1], padding : padding + x.shape[2]],)


def _chosen(
  x: Float[Array, 'B H W C'], side: int, stride: int, padding: int
) -> Int[Array, 'B h w C']:
  """The number, row by row, of the first pixel in each window that has its greatest value.

  Pixels are compared with each other, never with the pooled result: a compiler may compute x twice
  with different rounding, and a window without an equal pixel would lose its gradient.
  """
  around = (padding, padding, 0)
  padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), around, around, (0, 0, 0)))
  height, width = (n - side + 1 for n in padded.shape[1:3])
  pixels = (
    padded[:, i : i + height : stride, j : j + width : stride]
    for i, j in itertools.product(range(side), range(side))
  )
  greatest = next(pixels)
  dtype = jnp.int8 if side * side - 1 <= jnp.iinfo(jnp.int8).max else jnp.int32
  chosen = jnp.zeros(greatest.shape, dtype)
  for number, pixel in enumerate(pixels, 1):
    chosen = jnp.where(pixel > greatest, dtype(number), chosen)
    greatest = jnp.maximum(pixel, greatest)
  return chosen


max_pool.defvjp(_forward, _backward)

"""Convolution whose kernel gradient a CPU computes as matrix products.

XLA's CPU backend takes the gradient of a kernel as one more convolution, with a window as large as
the map. For kernels of one pixel that is tens of times slower than the matrix product that it is,
for 3x3 kernels of many channels still half as fast as a product for each pixel of the kernel
(docs/performance.md). Everywhere else, and for few channels, nothing is changed.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from landmarks_jax.contracts import Array

MANY = 64  # channels on both sides, from which products are the faster way

Pair = tuple[int, int]
Convolution = tuple[Pair, tuple[Pair, Pair], Pair]  # strides, padding, dilation


def conv_general_dilated(
  image: Float[Array, 'B h w C'],
  kernel: Float[Array, 'kh kw C D'],
  strides: Sequence[int],
  padding: Sequence[Pair],
  *,
  rhs_dilation: Sequence[int],
  precision: Any = None,
  **others: Any,
) -> Float[Array, 'B i j D']:
  """lax.conv_general_dilated as a Flax `Conv` over NHWC maps calls it, of one group.

  Args: strides, padding (below and above), rhs_dilation: by axis, rows first. others: what such a
  layer always gives alike. Not for forward-mode derivatives.
  """
  how = tuple(strides), tuple(map(tuple, padding)), tuple(rhs_dilation)
  del others
  return _convolve(image, kernel, how, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(image: Array, kernel: Array, how: Convolution, precision: Any) -> Array:
  return plain(image, kernel, how, precision)


def plain(
  image: Float[Array, 'B h w C'],
  kernel: Float[Array, 'kh kw C D'],
  how: Convolution,
  precision: Any,
) -> Float[Array, 'B i j D']:
  """The convolution, differentiated as XLA does. how: strides, padding, dilation, by axis."""
  strides, padding, dilation = how
  return lax.conv_general_dilated(
    image,
    kernel,
    strides,
    padding,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=precision,
  )


def _forward(
  image: Array, kernel: Array, how: Convolution, precision: Any
) -> tuple[Array, tuple[Array, Array]]:
  return plain(image, kernel, how, precision), (image, kernel)


def _backward(
  how: Convolution, precision: Any, kept: tuple[Array, Array], slope: Array
) -> tuple[Array, Array]:
  image, kernel = kept
  _, of_image = jax.vjp(lambda image: plain(image, kernel, how, precision), image)
  return *of_image(slope), _kernel_slope(image, kernel, slope, how, precision)


def _kernel_slope(
  image: Array, kernel: Array, slope: Array, how: Convolution, precision: Any
) -> Array:
  def by_convolution(image: Array, slope: Array) -> Array:
    _, of_kernel = jax.vjp(lambda kernel: plain(image, kernel, how, precision), kernel)
    return of_kernel(slope)[0]

  def by_products(image: Array, slope: Array) -> Array:
    found = products(image, slope, kernel.shape[:2], how, precision=precision)
    return found.astype(kernel.dtype)

  *sides, inputs, outputs = kernel.shape
  if max(sides) > 1 and min(inputs, outputs) < MANY:
    return by_convolution(image, slope)
  return lax.platform_dependent(image, slope, cpu=by_products, default=by_convolution)


def products(
  image: Float[Array, 'B h w C'],
  slope: Float[Array, 'B i j D'],
  sides: Pair,
  how: Convolution,
  *,
  precision: Any = None,
) -> Float[Array, 'kh kw C D']:
  """The gradient of a kernel of `sides`, one product of matrices for each of its pixels.

  Args: image: what was convolved. slope: the gradient of the result. how: strides, padding,
  dilation, by axis. In at least float32.
  """
  strides, padding, dilation = how
  padded = jnp.pad(image, ((0, 0), *padding, (0, 0)))
  ends = [(size - 1) * stride + 1 for size, stride in zip(slope.shape[1:3], strides, strict=True)]
  extent, dtype = (len(image), *ends, image.shape[-1]), jnp.promote_types(slope.dtype, jnp.float32)

  def product(pixel: Int[Array, ' 2']) -> Float[Array, 'C D']:
    y, x = pixel[0] * dilation[0], pixel[1] * dilation[1]
    seen = lax.dynamic_slice(padded, (0, y, x, 0), extent)[:, :: strides[0], :: strides[1]]
    return jnp.einsum(
      'bijc,bijd->cd', seen, slope, precision=precision, preferred_element_type=dtype
    )

  pixels = np.indices(sides).reshape(2, -1).T
  # One after the other: side by side, as many copies of the picture would be held.
  found = product(pixels[0])[None] if len(pixels) == 1 else lax.map(product, jnp.asarray(pixels))
  return found.reshape(*sides, image.shape[-1], slope.shape[-1])


_convolve.defvjp(_forward, _backward)

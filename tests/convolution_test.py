"""The kernel's gradient by matrix products: the convolution's own, and used where it pays."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from landmarks_jax.models import convolution
from landmarks_jax.models.resnet import ResNet, bottleneck_block

CASES = [  # sides, strides, padding, dilation
  ((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
  ((1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1)),
  ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
  ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
  ((3, 2), (1, 2), ((2, 0), (0, 1)), (2, 1)),
]


def plain(image, kernel, strides, padding, dilation):
  return lax.conv_general_dilated(
    *(image, kernel, strides, padding),
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@pytest.mark.parametrize(('sides', 'strides', 'padding', 'dilation'), CASES)
def test_products_give_the_kernel_s_gradient(sides, strides, padding, dilation):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(2, 7, 6, 3)).astype(np.float32)
  kernel = rng.normal(size=(*sides, 3, 5)).astype(np.float32)
  convolve = functools.partial(plain, image, strides=strides, padding=padding, dilation=dilation)
  made, gradient = jax.vjp(convolve, kernel)
  slope = rng.normal(size=made.shape).astype(np.float32)
  found = convolution.products(image, slope, sides, (strides, padding, dilation))
  np.testing.assert_allclose(found, gradient(slope)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('side', 'channels', 'convolutions'), [(1, 2, 2), (3, 2, 3), (3, convolution.MANY, 2)]
)
def test_a_cpu_multiplies_where_that_is_faster(side, channels, convolutions):
  """Forward and backward to the picture are convolutions; the third one is the kernel's."""
  layer = functools.partial(nn.Conv, channels, (side, side), padding=side // 2)
  ours = layer(conv_general_dilated=convolution.conv_general_dilated)
  image = np.random.default_rng(0).normal(size=(2, 5, 4, channels)).astype(np.float32)
  variables = layer().init(jax.random.key(1), image)

  def loss(module, variables, image):
    return (module.apply(variables, image) ** 2).sum()

  slope = {
    module: jax.grad(functools.partial(loss, module), argnums=(0, 1)) for module in (layer(), ours)
  }
  expected, found = (of(variables, image) for of in slope.values())
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
  program = jax.jit(slope[ours]).lower(variables, image)
  assert program.as_text().count('stablehlo.convolution') == convolutions


def test_the_gradient_has_the_kernel_s_type_and_other_devices_convolve():
  how = (1, 1), ((1, 1), (1, 1)), (1, 1)
  image, kernel = jnp.ones((1, 4, 4, 64), 'bfloat16'), jnp.ones((3, 3, 64, 64), 'bfloat16')
  slope = jax.grad(lambda kernel: convolution._convolve(image, kernel, how, None).sum())
  assert slope(kernel).dtype == 'bfloat16'
  for platform, count in {'cpu': 0, 'tpu': 1}.items():  # a sum's gradient needs no forward pass
    text = jax.jit(slope).trace(kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count('stablehlo.convolution') == count


def test_a_resnet_s_convolutions_of_one_pixel_are_products_backward():
  network = ResNet(block=bottleneck_block, stage_sizes=(1, 1, 1, 1), width=1 / 16)
  image = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), image)

  def loss(variables):
    return network.apply(variables, image, train=False)[0].sum()

  text = jax.jit(jax.grad(loss)).lower(variables).as_text()
  forward, to_images, of_kernels = 1 + 4 * 4, 4 * 4, 1 + 4  # the stem's, and one of each block
  assert text.count('stablehlo.convolution') == forward + to_images + of_kernels

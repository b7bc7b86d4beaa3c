"""The soft-argmax against a slow loop, at both ends of its sharpness, and its gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.geometry import coords, softargmax

soft_argmax = jax.jit(softargmax.soft_argmax, static_argnames='sharpness')


def random_maps(height=5, width=7, *, batch=2, maps=3, scale=1.0):
  shape = batch, height, width, maps
  return (scale * np.random.default_rng(0).normal(size=shape)).astype(np.float32)


def slow(one, sharpness):
  """(x, y) and the peak of one map, in Python floats."""
  height, width = one.shape
  score = [[sharpness * float(one[i, j]) for j in range(width)] for i in range(height)]
  top = max(max(row) for row in score)
  total = x = y = 0.0
  for i in range(height):
    for j in range(width):
      weight = math.exp(score[i][j] - top)
      total += weight
      x += weight * (2 * j / (width - 1) - 1)
      y += weight * (2 * i / (height - 1) - 1)
  return [x / total, y / total], 1 / total


@pytest.mark.parametrize('sharpness', [0.5, 4.0, 100.0])
def test_it_is_the_slow_loop(sharpness):
  maps = random_maps()
  points, peak = soft_argmax(maps, sharpness=sharpness)
  for b in range(2):
    for k in range(3):
      expected, top = slow(maps[b, :, :, k], sharpness)
      np.testing.assert_allclose(points[b, k], expected, atol=1e-5)
      np.testing.assert_allclose(peak[b, k], top, rtol=1e-5)


def test_one_bright_pixel_is_found_where_the_convention_puts_it():
  maps = np.zeros((1, 6, 9, 1), np.float32)
  maps[0, 4, 2] = 1
  points, peak = soft_argmax(maps, sharpness=200.0)
  np.testing.assert_allclose(points[0, 0], coords.pixel_grid(6, 9)[4, 2], atol=1e-6)
  np.testing.assert_allclose(peak, 1, atol=1e-6)


def test_a_flat_map_gives_the_centre():
  points, peak = soft_argmax(np.full((1, 6, 9, 2), 3, np.float32), sharpness=5.0)
  np.testing.assert_allclose(points, 0, atol=1e-6)
  np.testing.assert_allclose(peak, 1 / 54, rtol=1e-6)


def test_a_constant_added_to_a_map_changes_nothing():
  maps = random_maps()
  moved = maps + np.float32(64) * np.arange(3, dtype=np.float32)
  for a, b in zip(soft_argmax(maps, sharpness=3.0), soft_argmax(moved, sharpness=3.0), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_extreme_maps_give_finite_points_and_gradients():
  for scale in (0.0, 1e-20, 1e4, 1e15):
    maps = jnp.asarray(random_maps(scale=scale))
    value, grad = jax.value_and_grad(lambda m: soft_argmax(m, sharpness=100.0)[0].sum())(maps)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_the_gradient_is_the_slope():
  with jax.enable_x64(True):
    maps = jnp.asarray(random_maps(), 'float64')
    weight = np.random.default_rng(1).normal(size=(2, 3, 3))

    def value(maps):
      points, peak = soft_argmax(maps, sharpness=4.0)
      return (weight[..., :2] * points).sum() + (weight[..., 2] * peak).sum()

    towards = np.random.default_rng(2).normal(size=maps.shape)
    slope = (value(maps + 1e-6 * towards) - value(maps - 1e-6 * towards)) / 2e-6
    assert value(maps).dtype == 'float64'
    np.testing.assert_allclose((jax.grad(value)(maps) * towards).sum(), slope, rtol=1e-6)


def test_float32_maps_give_float32_points_beside_float64():
  with jax.enable_x64(True):
    points, peak = soft_argmax(random_maps(), sharpness=4.0)
    assert points.dtype == peak.dtype == np.float32


def test_half_precision_maps_are_read_in_float32():
  maps = jnp.asarray(random_maps(), jnp.bfloat16)
  points, peak = soft_argmax(maps, sharpness=10.0)
  assert points.dtype == peak.dtype == jnp.float32
  wide, _ = soft_argmax(maps.astype(jnp.float32), sharpness=10.0)
  np.testing.assert_array_equal(points, wide)

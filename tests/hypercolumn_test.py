"""Hypercolumns: resizing against a loop, and the law that lets them stay pyramids."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.geometry import coords
from landmarks_jax.models import hypercolumn

LEVELS = [(2, 3, 6), (4, 5, 5), (9, 7, 4), (14, 18, 3)]  # (h, w, channels), coarse to fine


resize = jax.jit(hypercolumn.resize, static_argnums=1)
stack = jax.jit(hypercolumn.stack, static_argnums=1)
project = jax.jit(hypercolumn.project, static_argnums=2)


def pyramid(dtype=np.float32):
  r = np.random.default_rng(0)
  return tuple(r.normal(size=(2, *level)).astype(dtype) for level in LEVELS)


def kernels(out=11, dtype=np.float32):
  r = np.random.default_rng(1)
  return tuple(r.normal(size=(channels, out)).astype(dtype) for _, _, channels in LEVELS)


def resize_oracle(maps, height, width):
  """Half-pixel centres, edges clamped, no antialiasing: one pixel after the other, float64."""
  _, rows, columns, _ = maps.shape
  out = np.zeros((maps.shape[0], height, width, maps.shape[3]))
  for i in range(height):
    for j in range(width):
      y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
      x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
      for row in range(rows):
        for column in range(columns):
          weight = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
          out[:, i, j] += weight * maps[:, row, column]
  return out


@pytest.mark.parametrize('size', [(10, 12), (3, 17), (5, 4)])
def test_resizing_is_the_slow_loop(size):
  for level in pyramid():  # larger and smaller than the size
    expected = resize_oracle(level, *size)
    np.testing.assert_allclose(resize(level, size), expected, atol=1e-5)


def test_one_number_is_a_square():
  level = pyramid()[1]
  np.testing.assert_array_equal(resize(level, 6), resize(level, (6, 6)))
  assert stack(pyramid(), 6).shape == (2, 6, 6, 18)
  assert project(pyramid(), kernels(), 6).shape == (2, 6, 6, 11)
  assert hypercolumn.resize.__wrapped__(level, np.int64(6)).shape == (2, 6, 6, level.shape[3])


def test_levels_are_stacked_in_the_order_of_the_pyramid():
  column, first = np.asarray(stack(pyramid(), (10, 12))), 0
  for level, (_, _, channels) in zip(pyramid(), LEVELS, strict=True):
    part = column[..., first : first + channels]
    np.testing.assert_allclose(part, resize_oracle(level, 10, 12), atol=1e-5)
    first += channels
  assert column.shape == (2, 10, 12, first)


@pytest.mark.parametrize('size', [(10, 12), (20, 31), (6, 3)])
def test_projecting_then_resizing_equals_stacking_then_projecting(size):
  column = np.asarray(stack(pyramid(), size), np.float64)
  expected = column @ np.concatenate(kernels()).astype(np.float64)
  projected = project(pyramid(), kernels(), size)
  assert projected.shape == (2, *size, 11)
  np.testing.assert_allclose(projected, expected, atol=1e-5)


def test_a_matrix_of_the_column_splits_into_the_kernels():
  channels = [c for _, _, c in LEVELS]
  matrix = np.concatenate(kernels())
  parts = hypercolumn.split_rows(matrix, channels)
  for part, kernel in zip(parts, kernels(), strict=True):
    np.testing.assert_array_equal(part, kernel)
  (whole,) = hypercolumn.split_rows(matrix, [18])
  np.testing.assert_array_equal(whole, matrix)


def test_the_gradient_of_a_kernel_is_that_of_the_column():
  matrix, size = np.concatenate(kernels()), (7, 8)
  weight = np.random.default_rng(2).normal(size=(2, *size, 11)).astype(np.float32)
  channels = [c for _, _, c in LEVELS]

  def fast(m):
    return (project(pyramid(), hypercolumn.split_rows(m, channels), size) * weight).sum()

  def plain(m):
    return (jnp.einsum('bhwc,cd->bhwd', stack(pyramid(), size), m) * weight).sum()

  expected = jax.jit(jax.grad(plain))(matrix)
  np.testing.assert_allclose(jax.jit(jax.grad(fast))(matrix), expected, rtol=1e-4, atol=1e-4)


def test_frozen_features_in_bfloat16_are_summed_in_float32():
  levels = tuple(jnp.asarray(level, jnp.bfloat16) for level in pyramid())
  exact = tuple(np.asarray(level, np.float32) for level in levels)
  for dtype in (jnp.bfloat16, jnp.float32):
    maps = tuple(jnp.asarray(kernel, dtype) for kernel in kernels())
    out = project(levels, maps, (10, 12))
    assert out.dtype == jnp.float32
    expected = project(exact, tuple(np.asarray(m, np.float32) for m in maps), (10, 12))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    levels, size = pyramid(np.float64), (10, 12)
    stacked = stack(levels, size)
    for dtype in (np.float64, np.float32):
      projected = project(levels, kernels(dtype=dtype), size)
      assert stacked.dtype == projected.dtype == np.float64
      expected = np.asarray(stacked) @ np.concatenate(kernels(dtype=dtype)).astype(np.float64)
      np.testing.assert_allclose(projected, expected, atol=1e-12)
    assert project(pyramid(), kernels(dtype=np.float64), size).dtype == np.float64


def test_another_number_of_kernels_is_an_error():
  with pytest.raises(ValueError, match='kernels: 3 given, but the pyramid has 4 levels'):
    project(pyramid(), kernels()[:3], 6)


def test_a_kernel_of_other_channels_is_named():
  wrong = (*kernels()[:2], kernels()[3], kernels()[2])
  message = re.escape('kernels[2]: C=3 in shape (3, 11), but pyramid[2] has C=4')
  with pytest.raises(ValueError, match=message):
    project(pyramid(), wrong, 6)


def test_channels_that_do_not_add_up_are_an_error():
  with pytest.raises(ValueError, match=re.escape('channels (6, 5, 4) sum to 15, not 18')):
    hypercolumn.split_rows(np.concatenate(kernels()), [6, 5, 4])


# Norms and single positions of a column that is not built.

squared_norm = jax.jit(hypercolumn.squared_norm, static_argnums=1)
descriptors = jax.jit(hypercolumn.descriptors, static_argnums=2)
SHAPES = [(1, 1, 4), (1, 6, 3), (5, 1, 3), (2, 3, 4), (14, 18, 3), (9, 9, 4)]


def maps(shape, dtype=np.float32):
  return np.random.default_rng(3).normal(size=(2, *shape)).astype(dtype)


def for_each_shape(function, *arguments):
  """One compilation for all shapes."""
  return jax.jit(lambda: [function(maps(shape), *arguments) for shape in SHAPES])()


@pytest.mark.parametrize('size', [2, 5, 9, 20])
def test_the_norm_of_a_resized_level_follows_from_neighbouring_cells(size):
  for shape, found in zip(SHAPES, for_each_shape(hypercolumn.squared_norm, size), strict=True):
    expected = (resize_oracle(maps(shape), size, size) ** 2).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6, err_msg=str(shape))


@pytest.mark.parametrize('size', [2, 9, 20])
def test_a_few_descriptors_are_those_of_the_resized_level(size):
  pixels = np.random.default_rng(4).integers(0, size, (2, 7, 2))
  pixels[:, 0], pixels[:, 1] = (0, size - 1), (size - 1, 0)
  found = for_each_shape(hypercolumn.descriptors, pixels, size)
  for shape, few in zip(SHAPES, found, strict=True):
    whole = resize_oracle(maps(shape), size, size)
    expected = [level[y, x] for level, (x, y) in zip(whole, pixels.swapaxes(1, 2), strict=True)]
    np.testing.assert_allclose(few, expected, atol=1e-5, err_msg=str(shape))


def test_nothing_and_what_cancels_to_rounding_have_no_norm():
  level = maps((6, 2, 500))
  level[0] = 0
  level[1, :, 1] = -9 * level[1, :, 0]
  # 2 cells become 5: the second position is .9 of the first cell and .1 of the second.
  norm = np.asarray(squared_norm(level, 5))
  assert (norm[0] == 0).all()
  assert (norm[1, :, 1] == 0).all()
  assert (np.delete(norm[1], 1, axis=1) > 50).all()


def test_norms_and_descriptors_of_bfloat16_are_taken_in_float32():
  level = jnp.asarray(maps((4, 5, 40)), jnp.bfloat16)
  exact, pixels = np.asarray(level, np.float32), np.full((2, 1, 2), 3)
  for found, expected in (
    (squared_norm(level, 8), squared_norm(exact, 8)),
    (descriptors(level, pixels, 8), descriptors(exact, pixels, 8)),
  ):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_norms_and_descriptors_of_float64_stay_float64():
  with jax.enable_x64(True):
    level, pixels = maps((4, 5, 6), np.float64), np.full((2, 1, 2), 3)
    whole = resize_oracle(level, 8, 8)
    np.testing.assert_allclose(squared_norm(level, 8), (whole**2).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(descriptors(level, pixels, 8)[:, 0], whole[:, 3, 3], rtol=1e-12)


@pytest.mark.parametrize('shape', [(1, 1), (1, 4), (3, 5), (8, 8)])
def test_samples_are_of_the_resized_level(shape):
  level = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
  grid = np.broadcast_to(coords.pixel_grid(9, 9), (2, 9, 9, 2))
  found = jax.jit(lambda x, u: hypercolumn.sample(x, u, side=9))(level, grid)
  np.testing.assert_allclose(found, hypercolumn.resize(level, 9), atol=1e-5)


def test_descriptors_in_numpy_have_length_1_and_those_of_zeros_stay_zeros():
  rows = np.random.default_rng(0).normal(size=(4, 3, 6))
  rows[1, 2] = 0
  found = hypercolumn.unit(rows)
  expected = np.ones((4, 3))
  expected[1, 2] = 0
  np.testing.assert_allclose((found**2).sum(-1), expected, rtol=1e-12)
  assert ((found * rows).sum(-1)[expected > 0] > 0).all()
  np.testing.assert_array_equal(hypercolumn.unit(rows[2, 1]), found[2, 1])

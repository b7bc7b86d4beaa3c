"""Principal components: those of a slow decomposition, always the same, and none dominated."""

import numpy as np
import pytest

from landmarks_jax.report import components


def maps(seed=0, shape=(3, 5, 4, 6)):
  """Correlated channels of different variance and mean."""
  rng = np.random.default_rng(seed)
  mixed = rng.normal(size=shape) @ rng.normal(size=(shape[-1], shape[-1]))
  return (mixed * np.arange(1, shape[-1] + 1) + 7 * rng.normal(size=shape[-1])).astype(np.float32)


def test_components_are_those_of_a_slow_decomposition():
  given = maps()
  found = components.principal_components(given, count=4)
  assert found.shape == (3, 5, 4, 4)
  assert found.dtype == np.float32
  rows = given.reshape(-1, 6).astype(np.float64)
  rows -= rows.mean(0)
  left, singular, directions = np.linalg.svd(rows, full_matrices=False)
  for c in range(4):
    sign = 1 if max(directions[c], key=abs) > 0 else -1
    expected = (sign * singular[c] * left[:, c]).reshape(3, 5, 4)
    np.testing.assert_allclose(found[..., c], expected, atol=1e-4 * singular[0])


def test_components_are_uncorrelated_and_the_largest_comes_first():
  found = components.principal_components(maps(), count=6).reshape(-1, 6).astype(np.float64)
  covariance = found.T @ found
  variances = np.diag(covariance)
  assert (np.diff(variances) < 0).all()
  assert np.abs(covariance - np.diag(variances)).max() < 1e-4 * variances[0]


def test_the_sign_does_not_depend_on_the_order_of_positions():
  given = maps(seed=5)
  turned = components.principal_components(given[::-1, ::-1], count=6)
  straight = components.principal_components(given, count=6)
  np.testing.assert_allclose(turned[::-1, ::-1], straight, atol=1e-3)


def test_there_are_no_more_components_than_channels():
  assert components.principal_components(maps(), count=25).shape == (3, 5, 4, 6)


def test_numbers_are_spread_over_zero_to_one_and_outliers_clipped():
  values = np.linspace(-3, 5, 1000).reshape(2, 25, 20, 1).astype(np.float32)
  values[1, 3, 4], values[0, 2, 2] = 1e6, -1e6
  scaled = components.to_unit(values, share=0.1)
  assert scaled.dtype == np.float32
  assert (scaled.min(), scaled.max()) == (0, 1)
  assert scaled[1, 3, 4] == 1
  assert scaled[0, 2, 2] == 0
  np.testing.assert_allclose(scaled.ravel()[300], (values.ravel()[300] + 2.2) / 6.4, atol=0.01)


def test_components_are_scaled_each_by_itself_over_all_pictures():
  given = maps(shape=(3, 9, 8, 2))
  scaled = components.to_unit(given, share=0.0)
  for c in range(2):
    low, high = given[..., c].min(), given[..., c].max()
    np.testing.assert_allclose(scaled[..., c], (given[..., c] - low) / (high - low), atol=1e-5)


def test_a_constant_component_is_in_the_middle():
  assert (components.to_unit(np.full((2, 3, 3, 1), -4.0, np.float32)) == 0.5).all()


def test_levels_have_the_same_variance_and_keep_the_proportions_of_their_channels():
  levels = 1000 * maps(seed=1), maps(seed=2, shape=(3, 2, 2, 3)) / 50
  for level, found in zip(levels, components.standardised(levels), strict=True):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.var((0, 1, 2)).sum(), 1, rtol=1e-4)
    proportion = found.std((0, 1, 2)) / level.std((0, 1, 2))
    np.testing.assert_allclose(proportion, proportion[0], rtol=1e-4)


def test_a_level_without_variance_is_zero():
  flat = np.full((2, 3, 3, 4), 5.0, np.float32)
  assert not components.standardised((flat,))[0].any()


@pytest.mark.parametrize('size', [12, 7])
def test_a_pyramid_becomes_its_components_whatever_the_size_of_a_level(size):
  rng = np.random.default_rng(3)
  part = np.zeros((4, 6, 6), np.float32)
  part[:, 1:3, 3:5] = 1  # the same place in all pictures, in the small level only
  fine = rng.normal(size=(4, 12, 12, 8)).astype(np.float32) * 100
  coarse = part[..., None] * np.array([1, -2], np.float32) + 1e-3 * rng.normal(size=(4, 6, 6, 2))
  found = components.of_pyramid((coarse.astype(np.float32), fine), size=size, count=5)
  assert found.shape == (4, size, size, 5)
  assert (found >= 0).all()
  assert (found <= 1).all()
  place = 1.5 * size / 6, 3.5 * size / 6
  inside, outside = found[:, int(place[0]), int(place[1]), 0], found[:, -1, 0, 0]
  assert np.abs(inside - outside).min() > 0.8

"""The one coordinate convention: corner-aligned, (x, y), against pixels counted by hand."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.geometry import coords


def test_matches_the_published_normalisation(golden):
  g = golden('kp_normalize')
  normalised = coords.to_normalised(g['kp'], width=80, height=96)
  for name in ('face_normalized', 'animal_normalized'):
    np.testing.assert_allclose(normalised, g[name], rtol=1e-6, atol=1e-7)
  pixels = coords.to_pixels(g['face_normalized'], width=80, height=96)
  np.testing.assert_allclose(pixels, g['metric_unnormalized'], rtol=1e-6)


def test_a_fraction_of_the_side_may_end_beyond_one_as_published(golden):
  g = golden('kp_normalize')
  pixels = g['unit_kp'] * np.float32([80, 96])
  normalised = coords.to_normalised(pixels, width=80, height=96)
  np.testing.assert_allclose(normalised, g['animal_roundtrip'], rtol=1e-6, atol=1e-7)
  assert normalised.max() > 1


def test_the_corners_are_plus_and_minus_one():
  corners = np.array([[0, 0], [6, 0], [0, 3], [6, 3], [3, 1.5]])
  expected = [[-1, -1], [1, -1], [-1, 1], [1, 1], [0, 0]]
  np.testing.assert_array_equal(coords.to_normalised(corners, width=7, height=4), expected)


@pytest.mark.parametrize('shape', [(2,), (5, 2), (2, 3, 4, 2)])
def test_there_and_back_is_the_identity(shape):
  pixels = np.random.default_rng(0).uniform(-5, 40, shape)
  there = coords.to_normalised(pixels, width=31, height=17)
  assert there.dtype == np.float64
  back = coords.to_pixels(there, width=31, height=17)
  assert isinstance(back, np.ndarray)
  np.testing.assert_allclose(back, pixels, rtol=1e-12)


def test_whole_pixels_may_be_integers():
  exact = coords.to_normalised(np.array([3, 2]), width=7, height=4)
  np.testing.assert_allclose(exact, [0, 1 / 3], rtol=1e-12)
  np.testing.assert_allclose(
    coords.to_normalised(jnp.array([3, 2]), width=7, height=4), [0, 1 / 3], rtol=1e-6
  )


@pytest.mark.parametrize('library', [np, jnp])
def test_pixels_may_be_bytes(library):
  pixels = np.array([[200, 100], [0, 255]])
  found = coords.to_normalised(library.asarray(pixels, np.uint8), width=256, height=256)
  np.testing.assert_allclose(found, 2 * pixels / 255 - 1, rtol=1e-6)


def test_the_grid_holds_every_pixel_as_x_y():
  grid = coords.pixel_grid(4, 7)
  assert grid.shape == (4, 7, 2)
  for row in range(4):
    for column in range(7):
      expected = [2 * column / 6 - 1, 2 * row / 3 - 1]
      np.testing.assert_allclose(grid[row, column], expected, atol=1e-6)
  pixels = coords.to_pixels(grid, width=7, height=4)
  np.testing.assert_allclose(pixels[2, 5], [5, 2], atol=1e-5)


def test_cells_tile_the_frame_from_edge_to_edge():
  centres = np.asarray(coords.cell_centres(3, 5))
  for row in range(3):
    for column in range(5):
      left, right = -1 + 2 * column / 5, -1 + 2 * (column + 1) / 5
      top, bottom = -1 + 2 * row / 3, -1 + 2 * (row + 1) / 3
      expected = [(left + right) / 2, (top + bottom) / 2]
      np.testing.assert_allclose(centres[row, column], expected, atol=1e-6)


def test_a_cell_of_every_pixel_is_the_pixel():
  # A map as large as the frame has its cell centres on the pixel centres.
  cells = coords.edges_to_corners(coords.cell_centres(9, 9), side=9)
  np.testing.assert_allclose(cells, coords.pixel_grid(9, 9), atol=1e-6)


def test_a_cell_of_four_pixels_lies_between_them():
  cells = coords.edges_to_corners(coords.cell_centres(6, 6), side=12)
  pixels = coords.to_pixels(cells, width=12, height=12)
  np.testing.assert_allclose(pixels[1, 4], [8.5, 2.5], atol=1e-5)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    points = jnp.array([[0.1, -0.7]], jnp.float64)
    there = coords.to_pixels(points, width=10, height=8)
    back = coords.to_normalised(there, width=10, height=8)
    edges = coords.edges_to_corners(points, side=8)
    assert there.dtype == back.dtype == edges.dtype == np.float64
    assert coords.pixel_grid(3, 4).dtype == coords.cell_centres(3, 4).dtype == np.float64
    np.testing.assert_allclose(back, points, rtol=1e-14)
    np.testing.assert_allclose(edges, np.array(points) * 8 / 7, rtol=1e-15)


def test_float32_stays_float32_in_numpy():
  points = np.zeros((3, 2), np.float32)
  assert coords.to_pixels(points, width=10, height=8).dtype == np.float32
  assert coords.to_normalised(points, width=10, height=8).dtype == np.float32
  assert coords.edges_to_corners(points, side=8).dtype == np.float32


def test_sizes_are_named():
  # Width before height in one place and after it in another was a fault of others.
  for function in (coords.to_normalised, coords.to_pixels):
    kinds = inspect.signature(function).parameters
    assert kinds['width'].kind == kinds['height'].kind == inspect.Parameter.KEYWORD_ONLY


def test_a_mirrored_picture_has_its_landmarks_where_the_pixels_went():
  image = np.zeros((1, 6, 6, 1), np.float32)
  image[0, 1, 4] = 1.0
  pixels = np.array([[[4.0, 1.0], [0.0, 5.0], [2.0, 3.0]]])  # the last one has no partner
  points = coords.to_normalised(pixels, width=6, height=6)
  visible = np.array([[True, False, True]])
  moved, seen = coords.mirrored(points, visible, [(0, 1)])
  assert image[:, :, ::-1][0, 1, 1] == 1
  there = coords.to_pixels(moved, width=6, height=6)
  np.testing.assert_allclose(there, [[[5, 5], [1, 1], [3, 3]]])
  np.testing.assert_array_equal(seen, [[False, True, True]])
  for a, b in zip(coords.mirrored(moved, seen, [(0, 1)]), (points, visible), strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_examples_in_the_docstrings_hold():
  assert doctest.testmod(coords).attempted
  assert not doctest.testmod(coords).failed


def test_edges_and_corners_are_each_others_inverse():
  points = np.random.default_rng(0).uniform(-1.2, 1.2, (5, 2))
  corners = coords.edges_to_corners(points, side=10)
  np.testing.assert_allclose(coords.corners_to_edges(corners, side=10), points)
  # The centre of the last of ten pixels is .1 short of the edge, a twentieth of the frame.
  np.testing.assert_allclose(coords.corners_to_edges(np.ones(2), side=10), 0.9)

"""Label maps as colours and unfolded: known labels have known colours and known places."""

import numpy as np
import pytest

from landmarks_jax.report import labels


def single(*vectors):
  """One picture with one row of labels."""
  return np.asarray(vectors, np.float32)[None, None]


def towards(longitude, latitude):
  """Degrees -> the unit vector."""
  longitude, latitude = np.radians(longitude), np.radians(latitude)
  across = np.cos(latitude)
  return np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], -1)


# Colours.


def test_the_three_axes_are_red_green_and_blue_and_their_opposites():
  found = labels.colours(single([2, 0, 0], [0, -2, 0], [0, 0, 2]))[0, 0]
  np.testing.assert_allclose(found, [[1, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 1]], atol=1e-6)


def test_the_angle_of_two_dimensions_is_the_hue():
  angles = np.radians([0, 60, 120, 240, -60])
  found = labels.colours(single(*np.stack([np.cos(angles), np.sin(angles)], -1)))[0, 0]
  expected = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('dimensions', [2, 3, 5])
def test_a_shorter_label_has_the_same_colour_but_darker(dimensions):
  given = np.random.default_rng(0).normal(size=(2, 6, 5, dimensions)).astype(np.float32)
  given /= np.linalg.norm(given, axis=-1, keepdims=True)
  length = np.random.default_rng(1).uniform(0.1, 1, (2, 6, 5, 1)).astype(np.float32)
  length[0, 0, 0] = 1
  bright, dark = labels.colours(given, share=0.0), labels.colours(given * length, share=0.0)
  assert bright.std((0, 1, 2)).min() > 0.1
  np.testing.assert_allclose(dark, bright * length, atol=1e-5)


def test_the_longest_labels_are_all_full_bright():
  given = np.zeros((1, 10, 10, 3), np.float32)
  given[..., 0] = np.linspace(0, 1, 100).reshape(10, 10)
  given[0, 9, 9] = 1e6, 0, 0
  red = labels.colours(given, share=0.5)[0, ..., 0].ravel()
  np.testing.assert_allclose(red[[0, 10, 40]], [0, 10 / 49.5, 40 / 49.5], atol=0.01)
  assert (red[51:] == 1).all()


def test_labels_of_zeros_are_black():
  assert not labels.colours(np.zeros((2, 3, 4, 3), np.float32)).any()


def test_many_dimensions_show_the_three_in_which_directions_differ_most():
  rng = np.random.default_rng(3)
  deviations = np.array([0.01, 2, 0.01, 1.4, 0.01, 1], np.float32)
  given = rng.normal(size=(3, 20, 20, 6)).astype(np.float32) * deviations
  given /= np.linalg.norm(given, axis=-1, keepdims=True)
  found = labels.colours(given).reshape(-1, 3)
  for channel, dimension in enumerate([1, 3, 5]):
    agreement = np.corrcoef(found[:, channel], given[..., dimension].ravel())[0, 1]
    assert abs(agreement) > 0.95


def test_one_dimension_has_no_colour():
  with pytest.raises(ValueError, match='1 dimension'):
    labels.colours(np.ones((1, 2, 2, 1), np.float32))


# Unfolding.


@pytest.mark.parametrize(
  ('longitude', 'latitude', 'row', 'column'),
  [(0, 0, 24, 48), (90, 45, 12, 72), (-135, -60, 40, 12), (-179.9, 1, 23, 0), (179.9, 1, 23, 95)],
)
def test_a_pixel_goes_to_the_longitude_and_latitude_of_its_label(longitude, latitude, row, column):
  image = np.full((1, 4, 4, 3), 90, np.uint8)
  image[0, 1, 2] = 250, 10, 10
  mask = np.zeros((1, 4, 4), bool)
  mask[0, 1, 2] = True
  given = np.tile(towards(30, 10), (1, 4, 4, 1)).astype(np.float32)
  given[0, 1, 2] = 7 * towards(longitude, latitude)
  (found,) = labels.unfold(image, given, mask=mask, height=48)
  assert found.shape == (48, 96, 3)
  np.testing.assert_array_equal(found[row, column], [250, 10, 10])
  near = (found == [250, 10, 10]).all(-1)
  assert near.sum() <= 9
  assert (found[~near] >= labels.GRID).all()


def test_a_dot_beyond_the_date_line_is_seen_on_both_sides():
  image = np.full((1, 3, 3, 3), 60, np.uint8)
  given = np.tile(towards(179.9, 2), (1, 3, 3, 1)).astype(np.float32)
  (found,) = labels.unfold(image, given, height=48)
  assert (found[22:24, [0, -1]] == 60).all()


def test_a_map_of_the_world_unfolds_to_itself():
  size = 96
  degrees = (np.arange(size) + 0.5) / size
  given = towards(*np.meshgrid(360 * degrees - 180, 90 - 180 * degrees)).astype(np.float32)
  y, x = np.mgrid[:size, :size]
  image = np.stack([2 * x, 2 * y, 100 + 0 * x], -1).astype(np.uint8)
  (found,) = labels.unfold(image[None], given[None], height=32)
  inside = found[2:-2, 2:-2].astype(float)
  expected = image[1::3].astype(float)[2:-2]
  y, x = np.mgrid[2:30, 2:62]
  np.testing.assert_allclose(inside[..., 0], 3 * x + 1, atol=6)
  np.testing.assert_allclose(inside[..., 1], expected[:, :1, 1] + 0 * x, atol=6)
  assert (inside[..., 2] == 100).all()


def test_where_pixels_meet_their_mean_is_seen():
  image = np.zeros((1, 2, 2, 3), np.uint8)
  image[0, 0] = 200
  given = np.tile(towards(0, 0), (1, 2, 2, 1)).astype(np.float32)
  assert (labels.unfold(image, given, height=20)[0, 10, 20] == 100).all()


def test_only_three_dimensions_unfold():
  with pytest.raises(ValueError, match='labels of 5 dimensions: a sphere'):
    labels.unfold(np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 2, 2, 5), np.float32))


# The sheet.


def scene(count=5, dimensions=3):
  rng = np.random.default_rng(2)
  images = rng.integers(0, 255, (count, 12, 12, 3)).astype(np.uint8)
  return images, rng.normal(size=(count, 6, 6, dimensions)).astype(np.float32)


def test_the_smallest_sheet_has_its_lines():
  images, given = scene(count=1)
  assert labels.sheet(images, given, side=6).shape[2] == 3


@pytest.mark.parametrize(('dimensions', 'heights'), [(3, (24, 24, 12)), (2, (24, 24))])
def test_a_sheet_has_the_pictures_their_colours_and_what_unfolds(dimensions, heights):
  images, given = scene(dimensions=dimensions)
  sheet = labels.sheet(images, given, columns=3, side=24)
  block = sum(heights) + 2 * len(heights)
  assert sheet.shape == (2 * block - 2, 3 * 26 - 2, 3)
  assert (sheet[block:, 52:] == 255).all()  # five pictures: the last place is empty
  second = sheet[block : block + 24, 26:50].reshape(12, 2, 12, 2, 3).mean((1, 3))
  agreement = np.corrcoef(second.ravel(), images[4].ravel())[0, 1]
  assert agreement > 0.95


def test_what_has_no_label_is_white_and_takes_no_part_in_the_colours():
  images, given = scene(count=2)
  mask = np.zeros((2, 12, 12), bool)
  mask[:, 4:8, 4:10] = True
  wild = 1e4 * given
  wild[:, 1:5, 1:6] = given[:, 1:5, 1:6]  # all that the mask's bilinear labels see
  sheets = [labels.sheet(images, x, mask=mask, columns=2, side=12) for x in (given, wild)]
  coloured = [sheet[14:26, :12] for sheet in sheets]
  assert (coloured[0][~mask[0]] == 255).all()
  np.testing.assert_array_equal(coloured[0], coloured[1])
  assert coloured[0][mask[0]].std() > 10

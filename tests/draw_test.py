"""Pictures from arrays: where dots land, how sheets are laid out, and that inputs stay clean."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ImageColor

from landmarks_jax.geometry import coords
from landmarks_jax.report import draw
from landmarks_jax.report.stylesheet import CSS


def normalised(pixels, side):
  return coords.to_normalised(np.asarray(pixels, np.float32), width=side, height=side)


def dot_centre(picture, colour):
  """The middle (x, y) of the pixels that have the colour."""
  rows, columns = np.nonzero((picture == colour).all(-1))
  assert len(rows), f'no pixel of colour {colour}'
  return np.array([columns.mean(), rows.mean()])


def noise(count, side=24):
  # Never red, green or white: no pixel is mistaken for a dot.
  return np.random.default_rng(0).integers(0, 40, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize('pixel', [(3, 17), (20, 5), (11, 12), (8.25, 14.75)])
@pytest.mark.parametrize('side', [24, 96, 192, 250])
def test_a_point_lands_on_its_pixel_of_the_enlarged_picture(pixel, side):
  image = np.zeros((24, 24, 3), np.uint8)
  drawn = draw.landmarks(image, normalised([pixel], 24), side=side)
  assert drawn.shape == (side, side, 3)
  # Pixel p of the picture becomes the pixels from p * zoom up to (p + 1) * zoom.
  expected = (np.array(pixel) + 0.5) * side / 24 - 0.5
  assert np.abs(dot_centre(drawn, draw.PREDICTION) - expected).max() <= 0.51


def test_a_dot_and_its_point_move_together():
  image = np.zeros((24, 24, 3), np.uint8)
  image[17, 3] = 255
  point = normalised([[3, 17]], 24)
  plain = draw.landmarks(image, np.zeros((0, 2), np.float32), side=192).astype(float)
  rows, columns = np.mgrid[:192, :192]
  weight = plain.sum(-1)
  spot = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
  marked = dot_centre(draw.landmarks(image, point, side=192), draw.PREDICTION)
  np.testing.assert_allclose(marked, spot, atol=0.6)


def test_truth_and_prediction_have_their_colours_and_a_line_between():
  prediction, target = normalised([[5, 5]], 24), normalised([[18, 15]], 24)
  drawn = draw.landmarks(noise(1)[0], prediction, target=target, side=240)
  np.testing.assert_allclose(dot_centre(drawn, draw.PREDICTION), [54.5, 54.5], atol=0.6)
  np.testing.assert_allclose(dot_centre(drawn, draw.TRUTH), [184.5, 154.5], atol=0.6)
  middle = drawn[103:107, 118:122].reshape(-1, 3)
  assert (middle == 255).all(1).any()


def lab(colour, matrix=None):
  """CIE L*a*b* of a colour in sRGB, as seen through a matrix on linear light."""
  light = np.array(colour) / 255
  light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
  light = light if matrix is None else np.clip(matrix @ light, 0, 1)
  xyz = np.array([[0.412, 0.358, 0.180], [0.213, 0.715, 0.072], [0.019, 0.119, 0.950]]) @ light
  x, y, z = np.cbrt(xyz / [0.95, 1, 1.089])  # near black it would be a line
  return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# What deuteranopes see: Machado et al. 2009, table 1, severity 1.
DEUTERANOPIA = np.array(
  [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)


def test_truth_and_prediction_differ_in_shape_and_in_lightness():
  target = normalised([[12, 12]], 24)
  drawn = draw.landmarks(noise(1)[0], normalised([[4, 4]], 24), target=target, side=240)
  dot = draw.landmarks(noise(1)[0], target, side=240)
  assert (drawn[123:126, 123:126] != draw.TRUTH).any(-1).all()  # its hole
  assert (dot[123:126, 123:126] == draw.PREDICTION).all()
  seen = [lab(colour, DEUTERANOPIA) for colour in (draw.TRUTH, draw.PREDICTION)]
  assert np.linalg.norm(seen[0] - seen[1]) > 30
  assert lab(draw.TRUTH)[0] - lab(draw.PREDICTION)[0] > 30
  for name, colour in (('truth', draw.TRUTH), ('prediction', draw.PREDICTION)):
    for rule in (f'.photograph .{name}.fill', f'.mark .{name}.fill'):
      (line,) = (one for one in CSS.splitlines() if rule in one and 'stroke: ' in one)
      assert f'stroke: rgb{colour};' in line


def test_an_invisible_truth_is_left_out_and_its_prediction_kept():
  prediction = normalised([[5, 5], [12, 18]], 24)
  target = np.float32([[np.nan, np.nan], normalised([14, 10], 24)])
  drawn = draw.landmarks(
    noise(1)[0], prediction, target=target, visible=np.array([False, True]), side=240
  )
  np.testing.assert_allclose(dot_centre(drawn, draw.TRUTH), [144.5, 104.5], atol=0.6)
  red = (drawn == draw.PREDICTION).all(-1)
  assert red[54, 54]
  assert red[184, 124]


def test_the_picture_under_the_points_is_the_enlarged_one():
  image = noise(1)[0]
  point = normalised([[2, 2]], 24)
  drawn = draw.landmarks(image, point, side=24)
  np.testing.assert_array_equal(drawn[8:], image[8:])


def test_nothing_is_written_into_the_inputs():
  for side in (24, 48):
    images, points = noise(3), normalised(np.full((3, 2, 2), 11), 24)
    visible = np.ones((3, 2), bool)
    draw.landmarks(images[0], points[0], target=-points[0], visible=visible[0], side=side)
    draw.montage(images, columns=2)
    draw.landmark_sheet(list(images), points, -points, visible)
    np.testing.assert_array_equal(images, noise(3))
    np.testing.assert_array_equal(points, normalised(np.full((3, 2, 2), 11), 24))


def test_a_montage_fills_its_rows_from_the_left():
  images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((5, 4, 7, 3), np.uint8)
  sheet = draw.montage(images, columns=3, gap=2)
  assert sheet.shape == (4 + 2 + 4, 7 + 2 + 7 + 2 + 7, 3)
  expected = np.full(sheet.shape, 255, np.uint8)
  for number, (y, x) in enumerate([(0, 0), (0, 9), (0, 18), (6, 0), (6, 9)], start=1):
    expected[y : y + 4, x : x + 7] = number
  np.testing.assert_array_equal(sheet, expected)


def test_a_montage_without_gap_is_a_reshape():
  images = noise(6, side=5)
  sheet = draw.montage(images, columns=2, gap=0)
  expected = images.reshape(3, 2, 5, 5, 3).swapaxes(1, 2).reshape(15, 10, 3)
  np.testing.assert_array_equal(sheet, expected)


def test_a_skeleton_joins_predicted_landmarks_below_them():
  image, points = noise(1)[0], normalised([[4, 6], [20, 6], [12, 18]], 24)
  plain = draw.landmarks(image, points, side=240)
  drawn = draw.landmarks(image, points, skeleton=[(0, 1)], side=240)
  rows, columns = np.nonzero((drawn != plain).any(-1))
  assert set(rows) == {64}  # thin, from dot to dot
  assert (columns.min(), columns.max()) == (49, 200)
  assert (drawn[rows, columns] == draw.PREDICTION).all()
  sheet = draw.landmark_sheet(
    [image], points[None], points[None], np.zeros((1, 3), bool), skeleton=[(0, 1)], columns=1
  )
  expected = draw.landmarks(image, points, skeleton=[(0, 1)])
  np.testing.assert_array_equal(sheet, expected)


def test_a_sheet_holds_every_picture_with_its_own_points():
  images = noise(3)
  points = normalised([[[4, 6]], [[12, 6]], [[20, 16]]], 24)
  target = normalised([[[4, 18]], [[12, 18]], [[9, 4]]], 24)
  visible = np.array([[True], [False], [True]])
  sheet = draw.landmark_sheet(list(images), points, target, visible, columns=2)
  assert sheet.shape == (2 * 192 + 2, 2 * 192 + 2, 3)
  for i, (y, x) in enumerate([(0, 0), (0, 194), (194, 0)]):
    alone = draw.landmarks(images[i], points[i], target=target[i], visible=visible[i])
    np.testing.assert_array_equal(sheet[y : y + 192, x : x + 192], alone)
  assert (sheet[194:, 194:] == 255).all()


def test_a_sheet_of_unequal_lists_is_an_error():
  points = normalised(np.ones((3, 1, 2)), 24)
  with pytest.raises(ValueError, match='zip'):
    draw.landmark_sheet(list(noise(2)), points, points, np.ones((3, 1), bool))


def test_bytes_are_clipped_and_rounded():
  image = np.array([[[-3.2, 0.4, 0.6]], [[254.7, 255.2, 300]]], np.float32)
  expected = np.array([[[0, 0, 1]], [[255, 255, 255]]], np.uint8)
  for given in (image, jnp.asarray(image), image.astype(float)):
    out = draw.to_bytes(given)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, expected)
  image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
  np.testing.assert_array_equal(draw.to_bytes(image), image)


def match_of(count=1, landmarks=3):
  """What `match_sheet` takes: every point on a pixel of its own."""
  r = np.random.default_rng(1)
  pixels = r.permuted(np.tile(np.arange(3, 22, 2), (3, count, landmarks, 2, 1)), axis=-1)[..., 0]
  return noise(count), noise(2 * count)[count:], *normalised(pixels, 24)


def colour_of(k, count):
  return ImageColor.getrgb(f'hsv({360 * k / count:.0f}, 90%, 100%)')


def test_a_landmark_has_its_colour_in_both_pictures_and_a_ring_at_the_truth():
  source, target = noise(2)
  query, matched = normalised([[4, 6], [18, 16]], 24), normalised([[5, 12], [19, 4]], 24)
  truth = normalised([[12, 20], [8, 9]], 24)
  drawn = draw.matches(source, target, query, matched, truth, np.ones(2, bool), side=240)
  assert drawn.shape == (240, 480, 3)
  for k, (start, found, end) in enumerate(
    [((4, 6), (5, 12), (12, 20)), ((18, 16), (19, 4), (8, 9))]
  ):
    left, right = ((drawn[:, i : i + 240] == colour_of(k, 2)).all(-1) for i in (0, 240))
    near = lambda mask, p: mask[10 * p[1] - 2 :, 10 * p[0] - 2 :][:14, :14]  # noqa: E731
    assert near(left, start).sum() == left.sum() > 10
    assert near(right, found).sum() + near(right, end).sum() == right.sum()
    assert near(right, found)[6:8, 6:8].all()  # a dot is filled
    assert not near(right, end)[6:8, 6:8].any()  # a ring is not
    assert near(right, end).sum() > 5
    middle = (10 * (np.array(found) + end) / 2 + 4.5).astype(int)
    line = drawn[middle[1] - 1 : middle[1] + 3, 240 + middle[0] - 1 : 240 + middle[0] + 3]
    assert (line == 255).all(-1).any()


def test_every_landmark_has_its_number_beside_it():
  (source, target), query = noise(2), normalised([[4, 6]] * 3, 24)
  digits = []
  for k in range(3):
    seen = np.arange(3) == k
    drawn = draw.matches(source, target, query, -query, -query, seen, side=240)
    digits.append((drawn[55:75, 50:65] > 200).all(-1))
    assert digits[k].sum() > 5
  assert (digits[0] != digits[1]).any()
  assert (digits[1] != digits[2]).any()


def test_invisible_landmarks_are_left_out_of_both_pictures():
  (source, target), (query, matched, truth) = noise(2), match_of()[2:]
  truth[0, 1] = np.nan
  seen = np.array([True, False, True])
  drawn = draw.matches(source, target, query[0], matched[0], truth[0], seen)
  assert [(drawn == colour_of(k, 3)).all(-1).any() for k in range(3)] == [True, False, True]


def test_a_sheet_of_matches_holds_every_pair():
  given = match_of(count=3)
  visible = np.array([[True] * 3, [True, False, True], [False] * 3])
  before = [array.copy() for array in given]
  sheet = draw.match_sheet(given[0].astype(np.float32) + 0.2, *given[1:], visible, columns=2)
  assert sheet.shape == (2 * 240 + 6, 2 * 480 + 6, 3)
  for i, (y, x) in enumerate([(0, 0), (0, 486), (246, 0)]):
    alone = draw.matches(*(array[i] for array in given), visible[i])
    np.testing.assert_array_equal(sheet[y : y + 240, x : x + 480], alone)
  for array, old in zip(given, before, strict=True):
    np.testing.assert_array_equal(array, old)


def test_a_heat_map_rises_from_dark_to_bright():
  colours = draw.heat_map(np.linspace(0, 1, 64).reshape(8, 8)).astype(float)
  assert colours.shape == (8, 8, 3)
  brightness = (colours @ [0.299, 0.587, 0.114]).ravel()
  assert (np.diff(brightness) > -1).all()
  assert brightness[-1] - brightness[0] > 150


def test_a_sheet_of_components_has_a_row_per_picture_and_the_next_components_below():
  images = np.stack([np.full((6, 6, 3), 40 * (i + 1), np.uint8) for i in range(3)])
  values = np.random.default_rng(2).random((3, 1, 1, 5)).astype(np.float32)
  sheet = draw.component_sheet(images, values, columns=3, side=10)
  assert sheet.shape == (6 * 12 - 2, 4 * 12 - 2, 3)
  for i in range(3):
    for c in range(5):
      band, column = divmod(c, 3)
      y, x = (3 * band + i) * 12, (column + 1) * 12
      expected = draw.heat_map(values[i, 0, 0, c : c + 1])[0]
      assert (sheet[y : y + 10, x : x + 10] == expected).all()
      assert (sheet[y : y + 10, :10] == images[i, 0, 0]).all()
  assert (sheet[36:, 36:] == 255).all()


def test_three_components_are_red_green_and_blue_beside_their_picture():
  images = np.stack([np.full((6, 6, 3), 30 * (i + 1), np.uint8) for i in range(3)])
  values = np.random.default_rng(4).random((3, 2, 2, 7)).astype(np.float32)
  values[:] = values[:, :1, :1]
  sheet = draw.rgb_sheet(images, values, columns=2, side=10)
  assert sheet.shape == (22, 46, 3)
  for i in range(3):
    y, x = 12 * (i // 2), 24 * (i % 2)
    assert (sheet[y : y + 10, x : x + 10] == images[i, 0, 0]).all()
    expected = np.rint(255 * values[i, 0, 0, :3])
    assert (sheet[y : y + 10, x + 12 : x + 22] == expected).all()
  with pytest.raises(ValueError, match='2 components given: three make a colour'):
    draw.rgb_sheet(images, values[..., :2])

"""Random boxes: where they may lie and how they are distributed; the views that they cut."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from landmarks_jax.augment import crop
from landmarks_jax.geometry import sampling

random_boxes = jax.jit(
  crop.random_boxes, static_argnums=1, static_argnames=('side', 'area', 'aspect', 'tries')
)
random_resized_crop = jax.jit(
  lambda rng, image, **options: crop.random_resized_crop(rng, image, **options)[0],
  static_argnames=('area', 'aspect', 'size'),
)
boxes_of = functools.lru_cache(
  lambda count, **options: np.asarray(random_boxes(jax.random.key(0), count, **options))
)


def uniform(values, low, high):
  """The largest gap between the distribution of values and U(low, high), in standard errors."""
  values = np.sort((np.asarray(values) - low) / (high - low))
  expected = (np.arange(len(values)) + 0.5) / len(values)
  return np.abs(values - expected).max() * np.sqrt(len(values))


def oracle(r, side, area, aspect, tries):
  """One box as the specification says it, with NumPy's chance."""
  for _ in range(tries):
    pixels = r.uniform(*area) * side * side
    ratio = np.exp(r.uniform(np.log(aspect[0]), np.log(aspect[1])))
    width, height = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
    if 1 <= width <= side and 1 <= height <= side:
      return r.integers(0, side - width + 1), r.integers(0, side - height + 1), width, height
  return 0, 0, side, side


@pytest.mark.parametrize('side', [1, 2, 5, 96, 136])
def test_boxes_are_whole_pixels_inside_the_frame(side):
  boxes = boxes_of(4000, side=side)
  assert boxes.shape == (4000, 4)
  assert np.issubdtype(boxes.dtype, np.integer)
  x, y, width, height = boxes.T
  assert min(x.min(), y.min()) == 0
  assert min(width.min(), height.min()) >= 1
  assert (x + width).max() == side
  assert (y + height).max() == side
  if side > 5:  # the last place is reached, and not only by boxes that have no other
    assert (x + width)[width < side].max() == (y + height)[height < side].max() == side


@pytest.mark.parametrize(
  ('area', 'aspect'),
  [
    (0.4, 0.7),
    (0.31, 1.3),
    (0.5, 0.9),
    (0.22, 1.1),
    (0.5, 2.0),
    (0.5, 0.5),
  ],  # as long as the frame
)
def test_sides_are_rounded_to_the_nearest_pixel(area, aspect):
  width, height = boxes_of(3, side=61, area=(area, area), aspect=(aspect, aspect))[0, 2:]
  expected = [round((61 * 61 * area * aspect) ** 0.5), round((61 * 61 * area / aspect) ** 0.5)]
  assert [width, height] == expected


def test_the_two_sides_of_a_place_are_drawn_independently():
  # Equal ranges, so that equal draws would give equal numbers.
  x, y, width, height = boxes_of(4000, side=96, area=(0.25, 0.25), aspect=(1.0, 1.0)).T
  assert (width == 48).all()
  assert (height == 48).all()
  assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(4000)


def test_area_and_aspect_are_uniform_and_log_uniform_where_every_box_fits():
  # In a very large frame rounding does not matter, and below half of it every box fits.
  side, area, aspect = 4001, (0.1, 0.45), (0.5, 1.6)
  x, y, width, height = boxes_of(20000, side=side, area=area, aspect=aspect).T.astype(float)
  limit = 1.95  # Kolmogorov's bound for one case in a thousand
  assert uniform(width * height / side**2, *area) < limit
  assert uniform(np.log(width / height), *np.log(aspect)) < limit
  assert uniform((x + 0.5) / (side - width + 1), 0, 1) < limit
  assert uniform((y + 0.5) / (side - height + 1), 0, 1) < limit
  draws = np.stack(
    [width * height, np.log(width / height), x / (side - width), y / (side - height)]
  )
  correlation = np.corrcoef(draws) - np.eye(4)
  assert np.abs(correlation).max() < 4 / np.sqrt(20000)


@pytest.mark.parametrize('options', [
  {'area': (0.2, 1.0), 'aspect': (3 / 4, 4 / 3), 'tries': 10},
  {'area': (0.5, 1.0), 'aspect': (0.4, 1.5), 'tries': 1},
  {'area': (0.7, 1.0), 'aspect': (0.3, 1.2), 'tries': 3},
])  # fmt: skip
def test_boxes_are_distributed_as_in_the_slow_loop(options):
  side, count = 61, 6000
  boxes = boxes_of(count, side=side, **options)
  r = np.random.default_rng(1)
  expected = np.array([oracle(r, side, **options) for _ in range(count)])
  whole = [(b[:, 2:] == side).all(1).mean() for b in (boxes, expected)]
  np.testing.assert_allclose(*whole, atol=4 * np.sqrt(0.5 / count))
  for column in range(4):  # the two-sample test of Kolmogorov and Smirnov, one in a thousand
    steps = np.arange(side + 1)
    shares = [(b[:, column, None] <= steps).mean(0) for b in (boxes, expected)]
    assert np.abs(shares[0] - shares[1]).max() < 1.95 * np.sqrt(2 / count)


@pytest.mark.parametrize(
  'options',
  [{'area': (0.9, 1.0), 'aspect': (2.0, 3.0)}, {'area': (1e-7, 1e-6)}],
)
def test_the_whole_frame_is_the_fallback(options):
  # Too wide, smaller than a pixel.
  np.testing.assert_array_equal(boxes_of(50, side=23, **options), np.tile([0, 0, 23, 23], (50, 1)))


@pytest.mark.parametrize('area', [(2.0, 3.0), (0.5, 1.2), (0.6, 0.4), (0.0, 1.0), (-1.0, 0.5)])
def test_an_area_that_no_box_can_have_is_refused(area):
  message = f'^{re.escape(f"area={area}")}: expected .least, most. share of the frame, within 0 to'
  with pytest.raises(ValueError, match=message):
    crop.random_boxes(jax.random.key(0), 3, side=23, area=area)


@pytest.mark.parametrize(
  'aspect', [(4 / 3, 3 / 4), (-1.0, 1.0), (0.0, 1.0), (1.0, np.inf), (np.nan, 1.0)]
)
def test_an_aspect_that_no_box_can_have_is_refused(aspect):
  message = f'^{re.escape(f"aspect={aspect}")}: expected .least, most. width / height, above 0$'
  with pytest.raises(ValueError, match=message):
    crop.random_boxes(jax.random.key(0), 3, side=23, aspect=aspect)


def test_bounds_of_the_aspect_may_be_traced():
  draw = functools.partial(crop.random_boxes.__wrapped__, jax.random.key(0), 50, side=40)
  traced = jax.jit(lambda least, most: draw(aspect=(least, most)))(3 / 4, 4 / 3)
  np.testing.assert_array_equal(traced, boxes_of(50, side=40))


def test_bounds_of_the_area_may_be_traced():
  draw = functools.partial(crop.random_boxes.__wrapped__, jax.random.key(0), 50, side=40)
  traced = jax.jit(lambda least, most: draw(area=(least, most)))(0.2, 1.0)
  np.testing.assert_array_equal(traced, boxes_of(50, side=40))


def test_a_box_depends_on_the_rng_alone():
  first = boxes_of(50, side=40)
  again = crop.random_boxes(jax.random.key(0), 50, side=40)
  np.testing.assert_array_equal(first, again)
  other = np.asarray(random_boxes(jax.random.key(1), 50, side=40))
  assert (first != other).any(axis=1).mean() > 0.9


def test_every_picture_has_its_own_box():
  assert len(np.unique(boxes_of(50, side=136), axis=0)) == 50


def test_a_view_is_its_box_stretched():
  image = np.random.default_rng(0).uniform(0, 255, (7, 19, 19, 3)).astype(np.float32)
  rng, area, aspect = jax.random.key(5), (0.1, 0.6), (0.4, 1.2)
  view = random_resized_crop(rng, image, area=area, aspect=aspect)
  boxes = random_boxes(rng, 7, side=19, area=area, aspect=aspect)
  assert view.shape == image.shape
  np.testing.assert_allclose(view, sampling.crop_resize(image, boxes, size=19), atol=1e-3)
  assert np.abs(np.asarray(view) - image).max() > 10


def test_a_view_is_what_pillow_cuts_and_enlarges():
  image = np.random.default_rng(1).uniform(0, 255, (40, 31, 31, 1)).astype(np.float32)
  view = random_resized_crop(jax.random.key(6), image)
  boxes = np.asarray(random_boxes(jax.random.key(6), 40, side=31))
  for picture, (x, y, width, height), ours in zip(image, boxes.tolist(), view, strict=True):
    part = Image.fromarray(picture[..., 0]).crop((x, y, x + width, y + height))  # in float
    theirs = part.resize((31, 31), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-3)


@pytest.mark.parametrize('size', [9, 20, 31, 50])
def test_a_view_of_another_size_is_what_pillow_makes_of_its_box(size):
  image = np.random.default_rng(1).uniform(0, 255, (12, 31, 31, 1)).astype(np.float32)
  view, boxes = crop.random_resized_crop(jax.random.key(6), image, size=size)
  assert view.shape == (12, size, size, 1)
  for picture, (x, y, width, height), ours in zip(image, boxes.tolist(), view, strict=True):
    part = Image.fromarray(picture[..., 0]).crop((x, y, x + width, y + height))
    theirs = part.resize((size, size), Image.Resampling.BILINEAR)  # antialiased where it shrinks
    np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-3)


def test_a_whole_frame_is_resized_as_pillow_does_or_left_alone():
  image = np.random.default_rng(1).uniform(0, 255, (3, 31, 31, 1)).astype(np.float32)
  assert crop.whole(image, size=None) is image
  for picture, ours in zip(image, crop.whole(image, size=20), strict=True):
    theirs = Image.fromarray(picture[..., 0]).resize((20, 20), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-3)


def test_a_dot_and_its_point_move_together():
  side, spots = 65, np.array([[27.0, 38.0], [40.0, 29.0], [33.0, 30.0], [30.0, 26.0]])
  rows, columns = np.mgrid[:side, :side]
  image = np.stack([np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 20) for x, y in spots]).astype(
    np.float32
  )[..., None]
  rng = jax.random.key(2)
  view = np.asarray(random_resized_crop(rng, image, area=(0.6, 0.9)))
  x, y, width, height = np.asarray(random_boxes(rng, 4, side=side, area=(0.6, 0.9))).T
  expected = np.stack(
    [(spots[:, 0] - x + 0.5) * side / width - 0.5, (spots[:, 1] - y + 0.5) * side / height - 0.5], 1
  )
  assert ((expected > 14) & (expected < side - 15)).all()  # no dot is cut
  found = np.stack([(view[..., 0] * axis).sum((1, 2)) for axis in (columns, rows)], 1)
  found /= view[..., 0].sum((1, 2))[:, None]
  np.testing.assert_allclose(found, expected, atol=0.02)


def test_the_same_draws_give_the_same_view_on_one_and_on_eight_devices():
  image = np.random.default_rng(0).uniform(0, 255, (16, 13, 13, 3)).astype(np.float32)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  spread = NamedSharding(mesh, PartitionSpec('data'))
  one = random_resized_crop(jax.random.key(3), image)
  eight, _ = jax.jit(crop.random_resized_crop, out_shardings=spread)(
    jax.random.key(3), jax.device_put(image, spread)
  )
  assert len(eight.sharding.device_set) == 8
  np.testing.assert_allclose(eight, one, atol=1e-3)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    view = random_resized_crop(jax.random.key(0), np.ones((2, 6, 6, 3)))
    assert view.dtype == np.float64
    np.testing.assert_allclose(view, 1, rtol=1e-14)

"""The centre of a frame: what is drawn and what is said about it move together."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch
from landmarks_jax.geometry import coords, regions

SIDE, MARGIN = 20, 3
SMALL = SIDE - 2 * MARGIN


def dots(pixels):
  """uint8 frames [B, S, S, 3] with one white pixel each, at (x, y)."""
  image = np.zeros((len(pixels), SIDE, SIDE, 3), np.uint8)
  for picture, (x, y) in zip(image, pixels, strict=True):
    picture[y, x] = 255
  return image


def find(picture):
  row, column = np.unravel_index(np.asarray(picture)[..., 0].argmax(), picture.shape[:2])
  return np.array([column, row])


def normalised(pixels, side):
  return coords.to_normalised(np.asarray(pixels, np.float32), width=side, height=side)


PIXELS = np.array([[3, 16], [11, 4], [16, 9]])
STEPS = np.array([[5, -7], [-8, 2], [-1, 6]])


def example():
  flow = np.zeros((3, SIDE, SIDE, 2), np.float32)
  flow_valid = np.zeros((3, SIDE, SIDE), bool)
  for b, (x, y) in enumerate(PIXELS):
    flow[b, y, x], flow_valid[b, y, x] = STEPS[b], True
  return Batch(
    image=dots(PIXELS),
    valid=np.array([True, True, False]),
    index=np.array([5, 6, 0], np.int32),
    points=normalised(PIXELS, SIDE)[:, None],
    visible=np.array([[True], [False], [True]]),
    scale=np.float32([0.25, 0.5, 1]),
    label=np.array([1, 2, 3], np.int32),
    next=dots(PIXELS + STEPS),
    flow=flow,
    flow_valid=flow_valid,
  )


def test_a_dot_and_its_point_move_together():
  batch = regions.centre_crop(example(), MARGIN)
  assert batch.image.shape == (3, SMALL, SMALL, 3)
  pixels = coords.to_pixels(batch.points, width=SMALL, height=SMALL)
  for b in range(3):
    np.testing.assert_array_equal(find(batch.image[b]), PIXELS[b] - MARGIN)
    np.testing.assert_allclose(pixels[b, 0], find(batch.image[b]), atol=1e-5)


def test_a_dot_moves_as_the_flow_says():
  batch = regions.centre_crop(example(), MARGIN)
  assert batch.flow.shape == (3, SMALL, SMALL, 2)
  for b in range(3):
    here = np.argwhere(batch.flow_valid[b])
    assert len(here) == 1
    (row, column) = here[0]
    np.testing.assert_array_equal(find(batch.image[b]), [column, row])
    np.testing.assert_array_equal(find(batch.next[b]), [column, row] + batch.flow[b, row, column])


def test_distances_over_scale_do_not_change():
  batch = example()._replace(points=np.float32(np.random.default_rng(0).normal(size=(3, 4, 2))))
  cut = regions.centre_crop(batch, MARGIN)
  before, after = (
    np.linalg.norm(b.points[:, 1:] - b.points[:, :1], axis=-1) / b.scale[:, None]
    for b in (batch, cut)
  )
  np.testing.assert_allclose(after, before, rtol=1e-5)
  # A length of so many pixels has a larger share of a smaller frame.
  np.testing.assert_allclose(cut.scale * (SMALL - 1), batch.scale * (SIDE - 1), rtol=1e-6)


def test_every_other_field_is_left_alone():
  batch = example()
  cut = regions.centre_crop(batch, MARGIN)
  for name in ('valid', 'index', 'visible', 'label', 'attributes', 'pyramid'):
    assert getattr(cut, name) is getattr(batch, name)
  assert cut.points.dtype == cut.scale.dtype == cut.flow.dtype == np.float32
  assert cut.image.dtype == np.uint8


def test_nothing_is_written_into_the_batch():
  batch, untouched = example(), example()
  regions.centre_crop(batch, MARGIN)
  jax.tree.map(np.testing.assert_array_equal, batch, untouched)


def test_no_margin_is_the_same_batch():
  batch = example()
  assert regions.centre_crop(batch, 0) is batch


def test_pictures_alone_may_be_cut():
  cut = regions.centre_crop(Batch(image=example().image), MARGIN)
  assert [name for name in Batch._fields if getattr(cut, name) is not None] == ['image']


def test_the_published_frame_of_136_becomes_96():
  eye = np.float32([[[60, 75]]])
  batch = Batch(image=np.zeros((1, 136, 136, 3), np.uint8), points=normalised(eye, 136))
  cut = regions.centre_crop(batch, 20)
  assert cut.image.shape == (1, 96, 96, 3)
  np.testing.assert_allclose(cut.points, normalised(eye - 20, 96), atol=1e-6)


def test_two_cuts_are_one():
  twice = regions.centre_crop(regions.centre_crop(example(), 1), 2)
  once = regions.centre_crop(example(), 3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), twice, once)


def test_it_compiles():
  batch = jax.tree.map(jnp.asarray, example())
  cut = jax.jit(regions.centre_crop, static_argnums=1)(batch, MARGIN)
  expected = regions.centre_crop(example(), MARGIN)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), cut, expected)


def test_float64_points_keep_their_precision():
  points = np.random.default_rng(0).normal(size=(3, 4, 2))
  cut = regions.centre_crop(example()._replace(points=points), MARGIN)
  assert cut.points.dtype == np.float64
  np.testing.assert_allclose(cut.points, points * 19 / 13, rtol=1e-15)


def test_a_batch_without_pictures_is_an_error():
  batch = Batch(pyramid=(np.zeros((1, 3, 3, 2)),), points=np.zeros((1, 1, 2), np.float32))
  with pytest.raises(ValueError, match='needs pictures; this batch holds a cached pyramid'):
    regions.centre_crop(batch, 1)


@pytest.mark.parametrize(('side', 'margin', 'most'), [(20, 10, 9), (20, -1, 9), (5, 2, 1)])
def test_a_margin_that_leaves_nothing_is_an_error(side, margin, most):
  batch = Batch(image=np.zeros((1, side, side, 3), np.uint8))
  message = f'margin={margin}: a frame of ({side}, {side}) pixels can lose 0 to {most} on'
  with pytest.raises(ValueError, match=re.escape(message)):
    regions.centre_crop(batch, margin)
  assert regions.centre_crop(batch, most).image.shape[1] == side - 2 * most


# Boxes


def test_a_box_of_the_frame_lands_where_its_view_shows_it():
  crop = regions.Crop(np.float32([[10, 20, 40, 50], [10, 20, 40, 50]]), np.array([False, True]))
  boxes = np.float32([[[10, 20, 50, 70], [20, 30, 30, 50]]] * 2)
  plain, mirrored = regions.into_view(boxes, crop, side=80)
  np.testing.assert_allclose(plain, [[0, 0, 80, 80], [20, 16, 40, 48]], atol=1e-5)
  np.testing.assert_allclose(mirrored, [[0, 0, 80, 80], [40, 16, 60, 48]], atol=1e-5)


def test_overlaps_are_those_counted_on_a_grid():
  r = np.random.default_rng(0)
  corners = r.integers(0, 8, (40, 2))
  boxes = np.concatenate([corners, corners + r.integers(1, 7, (40, 2))], 1)
  rows, columns = np.mgrid[:16, :16]
  inside = [(columns >= a) & (columns < c) & (rows >= b) & (rows < d) for a, b, c, d in boxes]
  expected = [[(x & y).sum() / (x | y).sum() for y in inside] for x in inside]
  found = regions.intersection_over_union(boxes[:, None], boxes[None])
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert (np.asarray(expected) == 0).any()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32])
def test_boxes_of_whole_numbers_overlap_as_their_floats_do(dtype):
  low = np.random.default_rng(0).integers(0, 100, (6, 2))
  boxes = np.concatenate([low, low + 60], -1)
  found, expected = (
    regions.intersection_over_union(some[:, None], some[None])
    for some in (boxes.astype(dtype), boxes.astype(np.float32))
  )
  np.testing.assert_array_equal(found, expected)


def test_an_empty_box_overlaps_with_nothing():
  empty, box = np.float32([3, 3, 3, 3]), np.float32([0, 0, 9, 9])
  assert regions.intersection_over_union(empty, box) == 0
  assert regions.intersection_over_union(empty, empty) == 0


# RoIAlign


def bilinear_oracle(image, y, x):
  """torchvision's sample: 0 from a cell outside on, else clamped to the first and last cell."""
  height, width, channels = image.shape
  if y < -1 or y > height or x < -1 or x > width:
    return np.zeros(channels)
  y, x = max(y, 0.0), max(x, 0.0)
  top, left = int(y), int(x)
  if top >= height - 1:
    top, y = height - 1, float(height - 1)
  if left >= width - 1:
    left, x = width - 1, float(width - 1)
  bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
  dy, dx = y - top, x - left
  upper = image[top, left] * (1 - dx) + image[top, right] * dx
  lower = image[bottom, left] * (1 - dx) + image[bottom, right] * dx
  return upper * (1 - dy) + lower * dy


def roi_align_oracle(image, box, stride):
  """Sample by sample."""
  left, top, right, bottom = (float(edge) / stride for edge in box)
  width, height = (max(b - a, 1.0) for a, b in ((left, right), (top, bottom)))
  across, down = int(np.ceil(width)), int(np.ceil(height))
  out = np.zeros(image.shape[-1])
  for i in range(down):
    for j in range(across):
      y, x = top + (i + 0.5) * height / down, left + (j + 0.5) * width / across
      out += bilinear_oracle(image, y, x) / (down * across)
  return out


def test_roi_align_is_the_slow_loop():
  r = np.random.default_rng(1)
  maps, stride = r.normal(size=(3, 6, 9, 4)), 16
  low = r.uniform(0, [100, 60], (3, 12, 2))
  high = low + r.uniform(0, 1, (3, 12, 2)) ** 2 * ([144, 96] - low)  # some smaller than a cell
  boxes = np.concatenate([low, high], -1)
  boxes[:, 0], boxes[:, 1] = [0, 0, 144, 96], [140, 90, 144, 96]  # all of it, and the last corner
  roi_align = jax.jit(regions.roi_align, static_argnames='stride')
  found = roi_align(np.float32(maps), np.float32(boxes), stride=stride)
  assert found.shape == (3, 12, 4)
  for image, own, given in zip(maps, boxes, found, strict=True):
    for box, mean in zip(own, given, strict=True):
      np.testing.assert_allclose(mean, roi_align_oracle(image, box, stride), atol=1e-5)


@pytest.mark.parametrize(('left', 'right', 'value'), [(0, 32, 0.5), (32, 96, 2.0), (192, 224, 6.0)])
def test_roi_align_gives_the_values_checked_by_hand(left, right, value):
  maps = np.tile(np.arange(7, dtype=np.float32)[:, None], (1, 7, 1, 1))  # f(y, x) = x
  boxes = np.float32([[[left, 64, right, 160]]])
  assert regions.roi_align(maps, boxes, stride=32)[0, 0, 0] == value
  turned = boxes[..., [1, 0, 3, 2]]
  assert regions.roi_align(maps.transpose(0, 2, 1, 3), turned, stride=32)[0, 0, 0] == value


def test_samples_far_outside_count_as_nothing():
  maps, stride = np.ones((1, 4, 4, 1), np.float32), 8
  boxes = np.float32([[[-80, 0, -16, 16], [-24, 0, 8, 16]]])  # beyond, and half of it beyond
  found = regions.roi_align(maps, boxes, stride=stride)[0, :, 0]
  np.testing.assert_allclose(found, [0, roi_align_oracle(maps[0], boxes[0, 1], 8)[0]])
  assert 0 < found[1] < 1


def test_boxes_no_larger_than_the_picture_may_leave_it():
  r = np.random.default_rng(0)
  maps, stride = r.normal(size=(1, 6, 9, 2)), 16
  low = r.uniform(-90, 140, (20, 2))
  boxes = np.concatenate([low, low + r.uniform(0.2, 1, (20, 2)) * [144, 96]], -1)
  boxes[:2] = [-30, 20, 114, 116], [72, -48, 216, 48]  # as large as the picture
  found = regions.roi_align(np.float32(maps), np.float32(boxes[None]), stride=stride)
  for box, mean in zip(boxes, found[0], strict=True):
    np.testing.assert_allclose(mean, roi_align_oracle(maps[0], box, stride), atol=1e-5)


def test_boxes_of_other_pictures_than_the_maps_are_an_error():
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  bare = regions.roi_align.__wrapped__
  message = 'boxes: B=3 in shape (3, 2, 4), but maps has B=1'
  with pytest.raises(ValueError, match=re.escape(message)):
    bare(np.ones((1, 4, 4, 2), np.float32), np.ones((3, 2, 4), np.float32), stride=1)


def test_half_precision_maps_are_pooled_in_float32():
  maps = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
  found = regions.roi_align(maps, np.float32([[[0, 0, 32, 32]]]), stride=8)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, 1, rtol=1e-6)


def test_roi_align_lowers_the_precision_of_neither_maps_nor_boxes():
  maps = np.random.default_rng(0).normal(size=(2, 5, 5, 3))
  boxes = np.array([[[3, 1, 37, 29]]] * 2, np.float32)
  with jax.enable_x64(True):
    exact, mixed = (regions.roi_align(maps, x, stride=8) for x in (boxes.astype(float), boxes))
    assert exact.dtype == mixed.dtype == np.float64
    np.testing.assert_allclose(mixed, exact, atol=1e-6)
  half = regions.roi_align(maps.astype('f'), jnp.asarray(boxes, jnp.bfloat16), stride=8)
  assert half.dtype == np.float32
  np.testing.assert_allclose(half, exact, atol=1e-6)

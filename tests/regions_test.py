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

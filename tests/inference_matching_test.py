"""Points found in another picture: colours that mark them, the way back, pixels in and out."""

import numpy as np
import pytest
from jax import numpy as jnp

from landmarks_jax.api import match
from landmarks_jax.contracts import Describer
from landmarks_jax.inference.matching import consistent_points
from landmarks_jax.inference.model import Model

FRAME, MARGIN = 40, 4


def planted(variables, image, size):
  """The picture itself, about its middle grey."""
  return (jnp.asarray(image, jnp.float32) / 255 - 0.5,)


@pytest.fixture(scope='module')
def model():
  describer = Describer((), planted)
  return Model(describer, {'method': {'name': 'planted'}}, frame=FRAME, margin=MARGIN)


def painted(width, height, shift):
  """Every place has a direction of colour of its own, moved by `shift` pixels."""
  y, x = np.mgrid[:height, :width].astype(float)
  u, v = (x - shift[0] - 50) / 60, (y - shift[1] - 45) / 60
  return np.rint(127.5 + 120 * np.stack([u, v, np.full_like(u, 0.6)], -1)).astype(np.uint8)


POINTS = np.array([[40.0, 45], [55, 30], [62, 58], [35, 62], [50, 50]])


def test_points_are_found_where_they_went(model):
  shift = np.array([9.0, -6])
  a, b = painted(100, 90, (0, 0)), painted(110, 100, shift)
  found = match(model, a, b, POINTS, size=48)
  pixel = 90 / 40 * 32 / 48  # of a cell of the grid
  np.testing.assert_allclose(found.points, POINTS + shift, atol=3 * pixel)
  assert (found.similarity > 0.98).all()
  assert (found.similarity <= 1.0001).all()
  assert (found.cycle < 3 * pixel).all()
  assert {x.dtype for x in found} == {np.dtype(np.float32)}


def test_the_same_picture_matches_itself(model):
  a = painted(100, 90, (0, 0))
  found = match(model, a, a, POINTS, size=48)
  np.testing.assert_allclose(found.points, POINTS, atol=90 / 40 * 32 / 48)
  np.testing.assert_allclose(found.cycle, 0, atol=1e-4)


def test_boxes_say_where_to_look(model):
  a = painted(100, 90, (0, 0))
  wide = np.zeros((200, 300, 3), np.uint8)
  wide[60:150, 120:220] = a
  square = [5, 0, 95, 90]
  there = [125, 60, 215, 150]
  found = match(model, a, wide, POINTS, boxes=[square, there], size=48)
  np.testing.assert_allclose(found.points - [120, 60], POINTS, atol=2)
  back = match(model, wide, a, POINTS + np.array([120, 60]), boxes=[there, square], size=48)
  np.testing.assert_allclose(back.points, POINTS, atol=2)


def test_a_point_that_is_nowhere_has_a_long_way_back(model):
  a, b = painted(100, 90, (0, 0)), painted(100, 90, (0, 0))
  a[40:50, 35:45] = [255, 0, 255]  # a patch that only A has
  found = match(model, a, b, POINTS, size=48)
  assert found.cycle[0] > 8
  assert found.similarity[0] < found.similarity[1:].min()


def test_how_many_points_are_asked_for_together_does_not_matter(model):
  a, b = painted(100, 90, (0, 0)), painted(110, 100, (9, -6))
  rng = np.random.default_rng(0)
  points = rng.uniform(25, 65, (300, 2))
  whole = match(model, a, b, points, size=24)
  alone = match(model, a, b, points[280:283], size=24)
  for x, y in zip(whole, alone, strict=True):
    np.testing.assert_allclose(x[280:283], y, atol=1e-4)


def test_points_outside_what_is_seen_are_named(model):
  a = painted(100, 90, (0, 0))
  with pytest.raises(ValueError, match=r'points\[1\] = \[3\.0, 40\.0\] lies outside .* x 13 to 86'):
    match(model, a, a, [[50.0, 50], [3, 40]], size=24)
  for wrong in ([], [1.0, 2], [[np.nan, 1]]):
    with pytest.raises(ValueError, match='expected finite numbers'):
      match(model, a, a, wrong, size=24)
  with pytest.raises(ValueError, match='size=1'):
    match(model, a, a, [[50.0, 50]], size=1)


def test_consistent_points_lead_back_and_are_apart(model):
  a, b = painted(100, 90, (0, 0)), painted(110, 100, (9, -6))
  points, found, candidates = consistent_points(model, a, b, count=6, size=48)
  assert points.shape == found.points.shape == (6, 2)
  assert candidates.points.shape == (256, 2)
  assert np.isin(found.cycle, candidates.cycle).all()
  assert found.cycle.mean() < candidates.cycle.mean()
  assert (found.cycle <= np.sqrt(2) * 90 / 40 * 32 / 47 + 1e-3).all()
  away = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(6)
  assert away.min() > 2 * 90 / 40 * 32 / 16 * 0.99
  np.testing.assert_allclose(found.points - points, np.broadcast_to([9, -6], (6, 2)), atol=6)

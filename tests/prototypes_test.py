"""Landmarks as vectors of the label space: the minimum of a slow cost, positions found by it."""

import jax
import numpy as np
import pytest
import scipy.optimize

from landmarks_jax.geometry import coords
from landmarks_jax.models import hypercolumn, prototypes

SIDE = 24
PLACES = np.array([[-0.3, -0.2], [0.35, -0.1], [0.1, 0.4]])  # on the object


def objects(count, *, side=SIDE, cells=12, noise=0.0, seed=0):
  """Label maps of objects that are shifted, turned and scaled, and their landmarks.

  The label of a point is its place on the object, as a point of a sphere of radius 3.
  """
  rng = np.random.default_rng(seed)
  centre, angle = rng.uniform(-0.25, 0.25, (count, 2)), rng.uniform(-0.6, 0.6, count)
  zoom, cos, sin = rng.uniform(0.8, 1.2, count), np.cos(angle), np.sin(angle)
  turn = zoom[:, None, None] * np.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
  points = np.einsum('nij,kj->nki', turn, PLACES) + centre[:, None]
  grid = np.asarray(coords.edges_to_corners(coords.cell_centres(cells, cells), side=side))
  away = grid.reshape(-1, 2) - centre[:, None]
  place = np.einsum('nij,npj->npi', np.linalg.inv(turn), away)
  label = np.concatenate([place, np.ones_like(place[..., :1])], -1)
  label = 3 * label / np.linalg.norm(label, axis=-1, keepdims=True)
  label = label + noise * rng.normal(size=label.shape)
  return label.reshape(count, cells, cells, 3).astype(np.float32), points.astype(np.float32)


def fit(maps, points, visible=None, **options):
  pyramid = maps if isinstance(maps, tuple) else (maps,)
  visible = np.ones(points.shape[:2], bool) if visible is None else visible
  return prototypes.fit(pyramid, points, visible, **{'side': SIDE} | options)


def vectors(head):
  """[K, L]."""
  return np.concatenate([np.asarray(kernel) for kernel in head.variables]).T


def looked_up(label, point, *, side=SIDE):
  """Bilinear between the centres of cells, clamped at the edges: weights of every cell."""
  height, width = label.shape[:2]
  x, y = (np.asarray(point, float) + 1) / 2 * (side - 1)  # pixels
  column = np.clip((x + 0.5) * width / side - 0.5, 0, width - 1)
  row = np.clip((y + 0.5) * height / side - 0.5, 0, height - 1)
  weight = np.zeros((height, width))
  for i, j in np.ndindex(height, width):
    weight[i, j] = max(0, 1 - abs(i - row)) * max(0, 1 - abs(j - column))
  return weight


def slow_cost(vector, maps, points, visible):
  """Of one landmark: mean of -sum_cells weight * log p(cell | z), and the ridge."""
  costs = []
  for label, point, seen in zip(maps, points, visible, strict=True):
    if seen:
      logits = np.asarray(label, float) @ vector
      log_p = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
      costs.append(-(looked_up(label, point) * log_p).sum())
  ridge = prototypes.RIDGE * np.asarray(maps, float).var((0, 1, 2)).mean()
  return np.mean(costs) + ridge / 2 * vector @ vector


# The fit.


@pytest.mark.parametrize('ridge', [prototypes.RIDGE, 0.05])
def test_the_vectors_are_the_minimum_of_the_slow_cost(monkeypatch, ridge):
  monkeypatch.setattr(prototypes, 'RIDGE', ridge)
  maps, points = objects(5, cells=7, noise=0.4)
  maps = maps[:, :6]  # seven columns, six rows
  visible = np.ones((5, 3), bool)
  visible[[0, 3], [1, 2]] = False
  found = vectors(fit(maps, points, visible))
  for k in range(3):
    given = maps, points[:, k], visible[:, k]
    expected = scipy.optimize.minimize(slow_cost, np.zeros(3), given, tol=1e-9).x
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(found[k], expected, atol=2e-3)


def test_landmarks_of_new_objects_are_found_to_less_than_a_position():
  head = fit(*objects(60))
  maps, points = objects(40, seed=1)
  found = np.asarray(jax.jit(head.predict)(head.variables, (maps,)))
  assert np.linalg.norm(found - points, axis=-1).mean() < 0.6 * 2 / (SIDE - 1)
  mean = objects(60)[1].mean(0)
  assert np.linalg.norm(mean - points, axis=-1).mean() > 0.15


def test_newton_needs_few_steps(monkeypatch):
  expected = vectors(fit(*objects(20, noise=0.2)))
  monkeypatch.setattr(prototypes, 'ITERATIONS', 12)
  np.testing.assert_array_equal(vectors(fit(*objects(20, noise=0.2))), expected)


def test_a_step_that_goes_too_far_is_halved():
  # Newton's own step on log(cosh(x)) diverges from 2.
  calls = []

  def costs(x):
    calls.append(float(x[0, 0]))
    slope = np.tanh(x)
    value = np.log(np.cosh(np.clip(x, -300, 300)))[:, 0]
    return prototypes._Costs(value, slope, (1 - slope**2 + 1e-9)[..., None])

  found = prototypes.minimise(costs, np.array([[2.0], [0.3]]))
  np.testing.assert_allclose(found, 0, atol=2e-3)
  assert min(calls) < -5  # it was tried
  assert len(calls) < 20


def test_the_unit_of_labels_and_what_they_share_do_not_matter():
  maps, points = objects(12, noise=0.3)
  expected = fit(maps, points)
  scaled = fit(1000 * maps, points)
  np.testing.assert_allclose(1000 * vectors(scaled), vectors(expected), rtol=1e-3)
  shifted = fit(maps + np.float32([5, -20, 9]), points)
  np.testing.assert_allclose(vectors(shifted), vectors(expected), rtol=1e-2)


@pytest.mark.parametrize('unit', [1e-30, 1e-22, 1e20, 1e30])
def test_squares_of_labels_may_vanish_or_overflow(unit):
  maps, points = objects(12, noise=0.3)
  expected, scaled = fit(maps, points), fit(np.float32(unit) * maps, points)
  np.testing.assert_allclose(unit * vectors(scaled), vectors(expected), rtol=1e-3)


def test_a_landmark_counts_where_it_is_visible_and_inside():
  maps, points = objects(12, noise=0.3)
  kept = [0, 1, 3, 4, 5, 6, 8, 9, 10]
  visible, moved = np.ones((12, 3), bool), points.copy()
  visible[[2, 7], 1], moved[[2, 7], 1] = False, np.nan
  moved[11, 1] = 0.2, -1.3  # beyond the edge, as after a crop
  found = vectors(fit(maps, moved, visible))
  everything, some = vectors(fit(maps, points)), vectors(fit(maps[kept], points[kept]))
  np.testing.assert_allclose(found[[0, 2]], everything[[0, 2]], rtol=1e-4)
  np.testing.assert_allclose(found[1], some[1], rtol=0.05)
  assert np.abs(found[1] - everything[1]).max() > 0.02
  numbers = np.where(visible, 2, 0)  # COCO's: 2 is visible
  again = prototypes.fit.__wrapped__((maps,), moved, numbers, side=SIDE)
  np.testing.assert_array_equal(vectors(again), found)


@pytest.mark.parametrize('channels', [3, 40])
def test_one_label_is_enough_and_the_optimum_stays_finite(channels):
  maps, points = objects(1)
  mix = np.random.default_rng(4).normal(size=(3, channels)).astype(np.float32)
  maps = np.tanh(maps @ mix)
  points = prototypes.predict((np.eye(channels, 3),), (maps,), side=SIDE, size=12)  # on cells
  head = fit(maps, np.asarray(points), size=12)
  assert np.isfinite(vectors(head)).all()
  found = head.predict(head.variables, (maps,))
  if channels == 40:
    np.testing.assert_allclose(found, points, atol=1e-6)


def test_labels_that_say_nothing_are_no_error():
  maps, points = np.full((4, 6, 6, 2), 3.0, np.float32), objects(4)[1]
  head = fit(maps, points)
  assert not vectors(head).any()
  found = np.asarray(head.predict(head.variables, (maps,)))
  np.testing.assert_allclose(found, -1, atol=1e-6)  # the first position


def test_how_many_pictures_are_taken_at_a_time_does_not_matter(monkeypatch):
  expected = vectors(fit(*objects(11, noise=0.2)))
  monkeypatch.setattr(prototypes, 'PICTURES', 4)
  np.testing.assert_allclose(vectors(fit(*objects(11, noise=0.2))), expected, rtol=1e-4)


def test_several_levels_are_one_column():
  maps, points = objects(20, noise=0.01)
  coarse = np.asarray(hypercolumn.resize(maps[..., :1], 5))
  stacked = np.asarray(prototypes.column((coarse, maps[..., 1:])))
  assert stacked.shape == (20, 12, 12, 3)
  by_level, whole = fit((coarse, maps[..., 1:]), points), fit(stacked, points)
  assert [kernel.shape for kernel in by_level.variables] == [(1, 3), (2, 3)]
  np.testing.assert_allclose(vectors(by_level), vectors(whole), rtol=1e-3)
  found = by_level.predict(by_level.variables, (coarse, maps[..., 1:]))
  assert np.linalg.norm(found - points, axis=-1).mean() < 0.1


def test_a_landmark_that_no_picture_shows_is_an_error():
  maps, points = objects(4)
  points[:, 2] = 1.5
  with pytest.raises(ValueError, match=r'landmarks \[2\] are not inside any of the 4 labelled'):
    fit(maps, points)


def test_labels_that_are_not_finite_are_an_error():
  maps, points = objects(4)
  maps[2, 3, 3, 1] = np.inf
  with pytest.raises(ValueError, match='not finite'):
    fit(maps, points)


# Positions.


@pytest.mark.parametrize('size', [SIDE, 10])
def test_the_position_is_the_slow_search_over_the_resized_map(size):
  rng = np.random.default_rng(6)
  maps = rng.normal(size=(2, 7, 5, 4)).astype(np.float32)
  kernel = rng.normal(size=(4, 3)).astype(np.float32)
  found = np.asarray(prototypes.predict((kernel,), (maps,), side=SIDE, size=size))
  for b, k in np.ndindex(2, 3):
    products = maps[b].astype(float) @ kernel[:, k]
    heat = np.zeros((size, size))
    for i, j in np.ndindex(size, size):
      x, y = ((np.array([j, i]) + 0.5) * SIDE / size - 0.5) * 2 / (SIDE - 1) - 1
      heat[i, j] = (looked_up(maps[b], (x, y)) * products).sum()
    pixel = (found[b, k] + 1) / 2 * (SIDE - 1)
    cell = (pixel + 0.5) * size / SIDE - 0.5
    column, row = np.rint(cell).astype(int)
    np.testing.assert_allclose(cell, [column, row], atol=1e-4)
    assert heat[row, column] > heat.max() - 1e-5  # at the edges there are equals

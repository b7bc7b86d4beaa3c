"""The closed-form landmark head against slow refits."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.geometry import coords
from landmarks_jax.models import hypercolumn, ridge


def blobs(count, *, side=32, landmarks=3, noise=0.05, seed=0):
  """Pyramids whose channels are blurred dots at landmarks, mixed, with noise; the points."""
  rng = np.random.default_rng(seed)
  points = rng.uniform(-0.7, 0.7, (count, landmarks, 2)).astype(np.float32)
  mix = np.random.default_rng(99).normal(size=(landmarks, 5))
  pyramid = []
  for h in (4, 8, 16):
    centres = np.asarray(coords.edges_to_corners(coords.cell_centres(h, h), side=side))
    away = ((centres[None, :, :, None] - points[:, None, None]) ** 2).sum(-1)
    maps = np.exp(-away / (2 * (1.5 / h) ** 2)) @ mix
    pyramid.append((maps + noise * rng.normal(size=maps.shape)).astype(np.float32))
  return tuple(pyramid), points


def fit(*given, **options):
  return fit_and_held_out(*given, **options).head


def assert_same(head, other):
  """Bit for bit the same head."""
  leaves = jax.tree.leaves(head.variables), jax.tree.leaves(other.variables)
  for x, y in zip(*leaves, strict=True):
    np.testing.assert_array_equal(x, y)


def fit_and_held_out(pyramid, points, visible=None, valid=None, **options):
  visible = np.ones(points.shape[:2], bool) if visible is None else visible
  valid = np.ones(len(points), bool) if valid is None else valid
  return ridge.fit_ridge(pyramid, points, visible, valid, side=32, **options)


def error(head, pyramid, points):
  found = np.asarray(head.predict(head.variables, pyramid))
  return np.linalg.norm(found - points, axis=-1).mean()


def test_landmarks_are_found_on_new_pictures():
  head = fit(*blobs(40))
  pyramid, points = blobs(30, seed=1)
  mean = np.broadcast_to(blobs(40)[1].mean(0), points.shape)
  assert error(head, pyramid, points) < 0.05
  assert np.linalg.norm(mean - points, axis=-1).mean() > 0.4


def test_features_without_information_give_the_mean_shape():
  pyramid, points = blobs(40, noise=0.0)
  lost = tuple(
    np.random.default_rng(5).normal(size=level.shape).astype(np.float32) for level in pyramid
  )
  head = fit(lost, points)
  new = tuple(np.roll(level, 1, axis=0) for level in lost)
  mean = np.linalg.norm(points.mean(0) - points, axis=-1).mean()
  assert error(head, new, points) < 1.05 * mean


def test_a_few_labels_are_never_much_worse_than_their_mean_shape():
  noisy, points = blobs(60, noise=3.0)
  for count in (2, 3, 5, 10):
    head = fit(tuple(level[:count] for level in noisy), points[:count])
    mean = np.linalg.norm(points[:count].mean(0) - points[20:], axis=-1).mean()
    assert error(head, tuple(level[20:] for level in noisy), points[20:]) < 1.25 * mean


def test_one_label_is_enough_to_fit():
  pyramid, points = blobs(1)
  head = fit(pyramid, points)
  assert np.isfinite(np.asarray(head.predict(head.variables, pyramid))).all()


def test_padding_changes_nothing():
  pyramid, points = blobs(12)
  padded = tuple(np.concatenate([level, 9 + level[:3]]) for level in pyramid)
  valid = np.array([True] * 12 + [False] * 3)
  a = fit(pyramid, points)
  b = fit(padded, np.concatenate([points, np.full((3, 3, 2), 7, np.float32)]), valid=valid)
  assert_same(a, b)


def test_the_position_of_an_invisible_landmark_does_not_matter():
  pyramid, points = blobs(12)
  visible = np.ones((12, 3), bool)
  visible[[2, 5, 7], 1] = False
  moved = np.where(visible[..., None], points, np.float32(np.nan))
  a, b = fit(pyramid, points, visible), fit(pyramid, moved, visible)
  assert_same(a, b)


def test_visibility_as_numbers_counts_as_true_and_false():
  pyramid, points = blobs(12)
  visible = np.ones((12, 3), bool)
  visible[[2, 5, 7], 1] = False
  numbers = np.where(visible, 2, 0)  # COCO's: 2 is visible
  found = ridge.fit_ridge.__wrapped__(pyramid, points, numbers, np.ones(12, bool), side=32)
  expected = fit_and_held_out(pyramid, points, visible)
  for x, y in zip(
    jax.tree.leaves((found.head.variables, found.held_out)),
    jax.tree.leaves((expected.head.variables, expected.held_out)),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)


def test_nothing_may_be_held_out():
  pyramid, points = blobs(40)
  found = fit_and_held_out(pyramid, points, held_out=0)
  assert found.held_out is None
  assert error(found.head, pyramid, points) < 0.5


def test_mirror_pairs_may_be_an_array(monkeypatch):
  monkeypatch.setattr(coords, 'mirrored', coords.mirrored.__wrapped__)
  labels, both = (blobs(4)[1], np.ones((4, 3), bool)), ridge.with_mirrored.__wrapped__
  for pairs in ([(0, 2)], []):
    array = np.array(pairs, int).reshape(-1, 2)
    jax.tree.map(np.testing.assert_array_equal, both(*labels, array), both(*labels, pairs))


def test_heat_maps_to_be_learnt_are_made_some_at_a_time():
  count, landmarks = 1500, 40
  rng = np.random.default_rng(0)
  pyramid = (rng.normal(size=(count, 2, 2, 1)).astype(np.float32),)
  points = rng.uniform(-0.7, 0.7, (count, landmarks, 2)).astype(np.float32)
  tracemalloc.start()
  try:
    fit(pyramid, points, size=8, held_out=0)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < count * 8**2 * landmarks * 4  # all of them, in float32


def test_the_heat_map_to_be_learnt_is_a_gaussian_where_the_landmark_is_visible():
  grid, points = np.array([[0.0, 0.0], [0.3, 0.4]]), np.array([[[0.0, 0.0], [0.3, 0.0]]])
  visible = np.array([[True, True]])
  found = ridge._gaussians(points, visible, grid, 0.5)
  away = np.array([[0, 0.3], [0.5, 0.4]])
  np.testing.assert_allclose(found[0], np.exp(-0.5 * (away / 0.5) ** 2), rtol=1e-6)
  hidden = ridge._gaussians(points, visible & [True, False], grid, 0.5)
  np.testing.assert_array_equal(hidden, found * [1, 0])


def test_heat_maps_that_cannot_be_learnt_are_refused():
  ridge.check_maps(size=2, spread=0.1)
  for options, message in (
    ({'size': 1}, 'size=1: expected heat maps of at least 2 positions a side'),
    ({'spread': 0.0}, r'spread=0\.0: expected a positive standard deviation'),
    ({'spread': np.inf}, 'spread=inf: expected a positive standard deviation'),
  ):
    with pytest.raises(ValueError, match=message):
      ridge.check_maps(**options)
    with pytest.raises(ValueError, match=message):
      fit(*blobs(2), **options)


def test_a_landmark_that_no_picture_shows_is_an_error():
  pyramid, points = blobs(4)
  visible = np.ones((4, 3), bool)
  visible[:, 2] = False
  with pytest.raises(ValueError, match=r'landmarks \[2\] are not visible in any of the 4 labelled'):
    fit(pyramid, points, visible)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_features_that_are_not_finite_are_an_error_that_says_so(value):
  pyramid, points = blobs(12)
  pyramid[1][3, 2, 2, 1] = value
  with pytest.raises(ValueError, match='the features of some pictures are not finite: did'):
    fit(pyramid, points)
  others = np.arange(12) != 3  # what is left out may hold anything
  assert error(fit(pyramid, points, valid=others), *blobs(12)) < 0.2


def built(pyramid, size):
  """Columns [B, size^2, C] as they are described: standardised, resized, joined, and a constant."""
  levels = []
  for level in pyramid:
    level = np.asarray(level, np.float64)
    wide = (level - level.mean((0, 1, 2))) / (level.std((0, 1, 2)) + 1e-6)
    levels.append(jnp.asarray(wide, jnp.float32))
  column = np.asarray(hypercolumn.stack(tuple(levels), size), np.float64)
  flat = column.reshape(len(column), size**2, -1)
  return np.concatenate([flat, np.ones_like(flat[..., :1])], -1)


@pytest.mark.parametrize(
  'sides',
  [
    [(12, 12), (8, 8), (5, 5), (3, 3), (1, 1)],  # larger than the heat map, as large, smaller
    [(6, 6), (11, 11), (2, 2), (9, 9), (6, 6)],
    [(20, 3), (2, 7), (30, 4), (4, 16)],  # 4 x 16 has as many cells as positions
    [(3, 3)],
    [(8, 8)],
    [(13, 13)],
  ],
)
def test_normal_equations_are_those_of_built_columns(monkeypatch, sides):
  monkeypatch.setattr(ridge, 'BLOCK', 4)
  rng = np.random.default_rng(0)
  pyramid = tuple(
    rng.normal(3, rng.uniform(0.5, 2, i + 2), (11, *side, i + 2)).astype(jnp.bfloat16)
    for i, side in enumerate(sides)
  )
  y, rows = rng.random((11, 64, 3)).astype(np.float32), np.array([0, 2, 3, 4, 5, 7, 8, 9, 10])
  columns = ridge.Columns(pyramid, 8)
  found = ridge.normal_equations(columns, lambda some: y[some], rows)
  whole = built(pyramid, 8)
  x, target = whole[rows].reshape(-1, whole.shape[-1]), y[rows].reshape(-1, 3).astype(np.float64)
  for each, expected in ((found.gram, x.T @ x), (found.moments, x.T @ target)):
    assert each.dtype == np.float64
    np.testing.assert_allclose(each, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
  assert found.count == len(x)
  weights = rng.normal(size=(x.shape[1], 3))
  heat = columns.project(columns.coefficients(rows), weights)
  np.testing.assert_allclose(heat, whole[rows] @ weights, atol=1e-4)


def test_columns_are_not_built():
  """Levels of one cell: at 32 x 32 positions their columns take 1,024 times as much memory."""
  pyramid = tuple(np.random.default_rng(0).normal(size=(7, 64, 1, 1, 20)).astype(np.float32))
  columns, y = ridge.Columns(pyramid, 32), np.zeros((64, 1024, 1), np.float32)
  tracemalloc.start()
  try:
    ridge.normal_equations(columns, lambda some: y[some], np.arange(64))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 64 * 1024 * columns.channels * 4 / 10


def test_held_out_heat_equals_a_refit_without_the_fold():
  """Differences of Gram matrices against leaving the pictures' rows out; in units of its spread."""
  pyramid, points = blobs(6, noise=0.3)
  columns = ridge.Columns(pyramid, 8)
  grid = np.asarray(coords.edges_to_corners(coords.cell_centres(8, 8), side=32)).reshape(-1, 2)
  targets = np.exp(-((grid[:, None] - points[:, None]) ** 2).sum(-1) / 0.02).astype(np.float32)
  fold = np.array([0, 0, 1, 1, 2, 2])  # rows 0 and 1 are copies of one picture
  rows = [np.flatnonzero(fold == f) for f in range(3)]
  parts = [ridge.normal_equations(columns, lambda some: targets[some], mine) for mine in rows]
  first, pictures, strengths = np.array([0, 2, 4]), np.array([0, 2]), (0.01, 1.0)
  found = ridge.held_out_heat(columns, parts, np.arange(3), first, pictures, strengths)
  x = built(pyramid, 8)
  for m, picture in enumerate(pictures):
    rest = np.flatnonzero(fold != picture)
    a, y = x[rest].reshape(-1, x.shape[-1]), targets[rest].reshape(-1, 3)
    for s, strength in enumerate(strengths):
      penalty = strength * np.linalg.eigvalsh(a.T @ a).mean() * np.eye(x.shape[-1])
      weights = np.linalg.solve(a.T @ a + penalty, a.T @ y)
      spread = np.sqrt((a @ weights).var(0).mean())
      np.testing.assert_allclose(found[s, m], x[first[picture]] @ weights / spread, atol=2e-3)


def test_copies_of_a_picture_are_held_out_with_it():
  """With copies as pictures of their own, noise looks like knowledge and is believed."""
  _, points = blobs(20)
  rng = np.random.default_rng(5)
  lost = tuple(rng.normal(size=(20, h, h, 40)).astype(np.float32) for h in (8, 16))
  twice = tuple(np.concatenate([level, level]) for level in lost)
  group = np.tile(np.arange(20), 2)
  new = tuple(rng.normal(size=level.shape).astype(np.float32) for level in lost)
  alone, held = (fit(twice, np.tile(points, (2, 1, 1)), group=g) for g in (None, group))
  mean = points.mean(0)
  away = [np.abs(np.asarray(h.predict(h.variables, new)) - mean).max() for h in (alone, held)]
  assert away[1] < 0.3 * away[0]


def test_predictions_follow_from_the_chosen_numbers(monkeypatch):
  """mean + correction of all (E - mean), E under prior * exp(sharpness * heat), in a slow loop."""
  monkeypatch.setattr(ridge, 'CORRECTIONS', (0.3,))
  monkeypatch.setattr(ridge, 'STIFFNESS', 0)
  pyramid, points = blobs(8, noise=0.2)
  head = fit(pyramid, points, size=8)
  v = jax.tree.map(np.asarray, head.variables)
  found = np.asarray(head.predict(head.variables, pyramid))
  column = np.asarray(hypercolumn.stack(pyramid, 8), np.float64)
  kernel = np.concatenate(v.kernels)
  assert np.abs(v.correction - v.correction.T).max() > 0.05
  for n in (0, 3):
    offset = []
    for k in range(3):
      log = v.sharpness * column[n] @ kernel[:, k] + v.log_prior[..., k]
      weight = np.exp(log - log.max())
      offset += ((weight[..., None] * v.positions).sum((0, 1)) / weight.sum() - v.mean_shape[k],)
    moved = np.concatenate(offset) @ v.correction
    np.testing.assert_allclose(found[n], v.mean_shape + moved.reshape(3, 2), atol=1e-4)


def shifted_shapes(count, *, seed=0):
  """Offsets of three landmarks that move together, seen through noise; the third is seen badly."""
  rng = np.random.default_rng(seed)
  target = np.repeat(rng.normal(0, 0.3, (count, 1, 2)), 3, axis=1)
  return target + rng.normal(0, 1, target.shape) * np.array([0.05, 0.05, 0.6])[:, None], target


def best_correction(*arguments):
  """The mean left-out distance, and the map, of the least."""
  best = min(ridge.corrections(*arguments), key=lambda found: found.share.mean())
  return best.share.mean(), best.fitted()


def test_the_error_of_the_correction_is_that_of_refits_without_each_picture(monkeypatch):
  offset, target = shifted_shapes(9)
  judged = np.ones((9, 3), bool)
  judged[4, 1] = False
  monkeypatch.setattr(ridge, 'CORRECTIONS', (0.3,))
  monkeypatch.setattr(ridge, 'STIFFNESS', 0)
  start = 0.75 * np.eye(6)
  distance, correction, left_out = next(ridge.corrections(offset, target, judged, start))
  correction = correction()  # towards the start
  x, y = offset.reshape(9, 6), target.reshape(9, 6)
  seen = np.repeat(judged, 2, axis=1)
  penalty = 0.3 * (y * y * seen).sum() / 6 * np.eye(6)

  def refit(rows):
    rest = ((y - x @ start) * seen)[rows]
    return start + np.linalg.solve(x[rows].T @ x[rows] + penalty, x[rows].T @ rest)

  np.testing.assert_allclose(correction, refit(np.arange(9)), atol=1e-10)
  errors = []
  for i in range(9):
    map_ = refit(np.delete(np.arange(9), i))
    np.testing.assert_allclose(left_out[i], (x[i] @ map_).reshape(3, 2), atol=1e-10)
    away = np.linalg.norm((x[i] @ map_ - y[i]).reshape(3, 2), axis=-1)
    errors += away[judged[i]].tolist()
  np.testing.assert_allclose(distance.mean(), np.mean(errors), atol=1e-10)


def test_clear_landmarks_place_a_doubtful_one():
  start = np.eye(6)
  _, correction = best_correction(*shifted_shapes(40), np.ones((40, 3), bool), start)
  offset, target = shifted_shapes(200, seed=1)
  moved = (offset.reshape(200, 6) @ correction).reshape(offset.shape)
  before, after = (np.linalg.norm(x - target, axis=-1).mean(0) for x in (offset, moved))
  assert after[2] < 0.25 * before[2]
  assert (after[:2] < 1.1 * before[:2]).all()


def test_few_labels_fit_no_loose_correction():
  for count, least in ((5, 3.0), (12, 1.0), (200, 0.1)):
    offset, target = shifted_shapes(count)
    judged, start = np.ones((count, 3), bool), np.eye(6)
    found = [c.fitted() for c in ridge.corrections(offset, target, judged, start)]
    x, y = offset.reshape(count, 6), target.reshape(count, 6)
    penalty = least * (y * y).sum() / 6 * np.eye(6)
    bound = np.linalg.solve(x.T @ x + penalty, x.T @ (y - x))
    moved = max(np.abs(c - start).max() for c in found[: len(found) // 3])
    assert 0 < moved <= np.abs(bound).max() + 1e-12


def test_a_choice_must_be_better_by_more_than_luck(monkeypatch):
  # Heat maps of noise: some choice is better on average, by less than its spread over pictures.
  rng = np.random.default_rng(0)
  points = rng.uniform(-0.3, 0.3, (1, 12, 3, 2))
  grid = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 9)]), -1).reshape(-1, 2)
  heat = rng.normal(size=(2, 12, 81, 3)).astype(np.float32)
  visible, pictures = np.ones((1, 12, 3), bool), np.arange(12)

  def choose(caution):
    monkeypatch.setattr(ridge, 'CAUTION', caution)
    choice = ridge.choose(heat, (ridge.SAFE_STRENGTH, 0.1), points, visible, pictures, grid)
    return choice, np.linalg.norm(choice.points - points[0], axis=-1).mean()

  cautious, error_of_cautious = choose(1e6)
  assert cautious.strength == ridge.SAFE_STRENGTH
  assert cautious.sharpness == ridge.SAFE_SHARPNESS
  start = ridge.first_correction(points[0].mean(0))
  np.testing.assert_allclose(cautious.correction, start, atol=1e-12)
  _, error_of_bold = choose(0.0)
  assert error_of_bold < error_of_cautious


def test_a_choice_is_judged_on_the_pictures_as_they_are():
  points = np.random.default_rng(0).uniform(0, 0.8, (12, 3, 2))  # mirrored ones are at the left
  visible, pictures = np.ones((12, 3), bool), np.arange(12)
  grid = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 21)]), -1).reshape(-1, 2)
  heat = 8 * np.exp(-((grid[:, None] - points[:, None]) ** 2).sum(-1) / 0.1).astype(np.float32)
  labels = ridge.with_mirrored(points, visible, [(0, 1)])
  choice = ridge.choose(heat[None], (ridge.SAFE_STRENGTH,), *labels, pictures, grid)
  assert np.linalg.norm(choice.points - points, axis=-1).mean() < 0.1


def test_nothing_is_chosen_where_nothing_can_be_judged():
  # Each landmark is visible in one picture only, so without that one it has no mean.
  visible = np.eye(2, dtype=bool)[None]
  points, grid = np.zeros((1, 2, 2, 2)), np.zeros((4, 2))
  heat = np.zeros((1, 2, 4, 2), np.float32)
  given = heat, (ridge.SAFE_STRENGTH,), points, visible, np.arange(2), grid
  assert ridge.choose(*given) is None
  pyramid, points = blobs(2, landmarks=2)
  assert fit_and_held_out(pyramid, points, visible[0]).held_out is None


def test_the_start_believes_similarities_of_the_shape_and_little_else():
  shape = np.array([[-0.4, -0.3], [0.5, -0.2], [0.1, 0.6], [0.3, 0.1]])
  start = ridge.first_correction(shape)
  x, y = shape.T
  turned = np.stack([-y, x], -1) + 0.3 * shape + [0.2, -0.1]
  np.testing.assert_allclose(turned.ravel() @ start, turned.ravel(), atol=1e-12)
  noise = np.random.default_rng(0).normal(size=(500, 8))
  kept = np.linalg.norm(noise @ start, axis=1) ** 2 / np.linalg.norm(noise, axis=1) ** 2
  assert kept.mean() == pytest.approx((4 + 4 * ridge.FREE_GAIN**2) / 8, abs=0.05)
  assert ridge.first_correction(shape[:1]).shape == (2, 2)  # one point only moves


def test_offsets_without_information_are_corrected_to_the_mean_shape():
  rng = np.random.default_rng(3)
  target = rng.normal(0, 0.3, (60, 3, 2))
  offset, judged = rng.normal(0, 0.3, target.shape), target[..., 0] < 9
  _, correction = best_correction(offset, target, judged, np.eye(6))
  assert np.abs(correction).max() < 0.2


def test_the_position_prior_is_the_labels_gaussian_for_many_labels():
  points = np.random.default_rng(0).normal(0.1, 0.2, (5000, 2, 2))
  points[:, 1, 0] *= 2
  grid = np.array([[0.0, 0.0], [0.3, -0.2], [0.5, 0.5]])
  log, mean = ridge.position_prior(points[None], np.ones((1, 5000, 2), bool), grid)
  np.testing.assert_allclose(mean, points.mean(0), atol=1e-12)
  for k in range(2):
    covariance = np.cov(points[:, k].T) + 0.03**2 * np.eye(2)
    away = grid - mean[k]
    expected = -0.5 * np.einsum('pi,ij,pj->p', away, np.linalg.inv(covariance), away)
    np.testing.assert_allclose(log[:, k], expected, rtol=0.01)


def test_the_prior_of_few_labels_is_broad():
  """As documented: shrunk by four labels' weight to the pooled one, that by one's to a sd of .2."""
  rng = np.random.default_rng(5)
  points, visible = rng.normal(0, 0.3, (3, 2, 2)), np.array([[1, 1], [1, 0], [1, 0]], bool)
  points[1:, 1] = 7  # not visible
  grid = rng.normal(size=(4, 2))
  log, mean = ridge.position_prior(points[None], visible[None], grid)
  np.testing.assert_allclose(mean, [points[:, 0].mean(0), points[0, 1]], atol=1e-12)
  scatter = 2 * np.cov(points[:, 0].T)  # the second landmark has no scatter
  pooled = (scatter + 0.2**2 * np.eye(2)) / (2 + 0 + 1)
  for k, (count, own) in enumerate(((3, scatter), (1, 0 * scatter))):
    covariance = (own + 4 * pooled) / (count - 1 + 4)
    covariance = covariance * (1 + 1 / count) + 0.03**2 * np.eye(2)  # of another picture
    away = grid - mean[k]
    expected = -0.5 * np.einsum('pi,ij,pj->p', away, np.linalg.inv(covariance), away)
    np.testing.assert_allclose(log[:, k], expected, rtol=1e-9)
  twice = ridge.position_prior(np.stack([points, points]), np.stack([visible, visible]), grid)
  np.testing.assert_allclose(twice[0], log, rtol=1e-9)  # versions of a label share its weight


def test_the_prior_without_a_picture_equals_the_prior_of_the_others():
  points = np.random.default_rng(1).normal(size=(5, 3, 2))
  visible = np.random.default_rng(2).random((5, 3)) < 0.8
  grid = np.random.default_rng(3).normal(size=(4, 2))
  rest = [0, 1, 3, 4]
  found = ridge.position_prior(points[None], visible[None], grid, without=2)
  expected = ridge.position_prior(points[None, rest], visible[None, rest], grid)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_prior_of_mirrored_labels_has_no_side():
  rng = np.random.default_rng(4)
  points, visible = rng.normal(0.2, 0.3, (6, 3, 2)), rng.random((6, 3)) < 0.8
  visible[:, 1] = False  # known from its partner alone
  pairs, grid = [(0, 1)], rng.normal(size=(5, 2))
  both = ridge.with_mirrored(points, visible, pairs)
  log, mean = ridge.position_prior(*both, grid)
  np.testing.assert_allclose(mean, coords.mirrored(mean, visible[0], pairs)[0], atol=1e-12)
  np.testing.assert_allclose(mean[0], points[visible[:, 0], 0].mean(0), atol=1e-12)
  assert mean[2, 0] == pytest.approx(0, abs=1e-12)  # on the axis of symmetry
  other_side = ridge.position_prior(*both, grid * [-1, 1])[0]
  np.testing.assert_allclose(log, other_side[:, [1, 0, 2]], atol=1e-9)
  one_side = ridge.with_mirrored(points[:1], np.array([[True, False, True]]), pairs)
  np.testing.assert_allclose(ridge.position_prior(*one_side, grid)[1][0], points[0, 0])
  alone = ridge.position_prior(*ridge.with_mirrored(points, visible, ()), grid)[1]
  assert np.abs(alone - mean).max() > 0.05


def test_the_mean_shape_of_one_label_and_its_mirror_image_is_between_them():
  pyramid, points = blobs(1)
  mirrored, _ = coords.mirrored(points, np.ones((1, 3), bool), [(0, 1)])
  for pairs, expected in ((), points[0]), ([(0, 1)], (points[0] + mirrored[0]) / 2):
    found = fit(pyramid, points, flip_pairs=pairs).variables.mean_shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('noise', [0.3, 3.0])
def test_held_out_pictures_are_predicted_as_well_as_new_ones(noise):
  pyramid, points = blobs(40, noise=noise)
  head, held_out = fit_and_held_out(pyramid, points)
  np.testing.assert_array_equal(held_out.rows, np.arange(40))
  new, truth = blobs(200, noise=noise, seed=1)
  found, evidence = (np.asarray(x) for x in ridge.look_ridge(head.variables, new))
  expected = np.linalg.norm(found - truth, axis=-1)
  off = np.linalg.norm(held_out.points - points, axis=-1)
  assert off.mean() == pytest.approx(expected.mean(), rel=0.15)
  assert off.mean() > 1.02 * error(head, pyramid, points)  # those that it learned from are easier
  assert held_out.evidence.shape == (40, 3, evidence.shape[-1])
  np.testing.assert_allclose(
    held_out.evidence.mean((0, 1)), evidence.mean((0, 1)), atol=0.2
  )  # logarithms: the same kind of doubt, 20 % off at most


def test_copies_are_not_held_out_and_one_picture_leaves_nothing():
  pyramid, points = blobs(6)
  group = np.array([7, 7, 3, 3, 9, 9])
  fitted = fit_and_held_out(pyramid, points, valid=np.array([True] * 5 + [False]), group=group)
  np.testing.assert_array_equal(fitted.held_out.rows, [2, 0, 4])
  one = tuple(level[:2] for level in pyramid)
  assert fit_and_held_out(one, points[:2], group=group[:2]).held_out is None


def test_doubt_is_in_the_width_and_the_moves_of_a_landmark_and_of_its_picture():
  expected = np.zeros((1, 3, 2), np.float32)
  points = expected + np.float32([[0.3, 0.4], [0, 0.1], [0, 0]])
  found = ridge.doubt(points, expected, np.float32([[0.2, 0.4, 0]]))
  away = np.array([[0.2, 0.5, 0.2], [0.4, 0.1, 0.2], [0, 0, 0.2]])
  np.testing.assert_allclose(found[0], np.log(away + ridge.LEAST_SPREAD), rtol=1e-5)


def test_doubt_grows_where_landmarks_move_each_other():
  """A head that was taught to trust the others says so where they disagree."""
  pyramid, points = blobs(40)
  head = fit(pyramid, points)
  lost = tuple(np.zeros_like(level) for level in pyramid)
  clear = np.asarray(ridge.look_ridge(head.variables, pyramid)[1])
  doubtful = np.asarray(ridge.look_ridge(head.variables, lost)[1])
  assert (doubtful[..., 0] > clear[..., 0]).mean() > 0.95  # wider maps


def test_the_spread_of_a_clear_landmark_is_no_rounding():
  """A millionth of the weight beside a peak in a corner: the square of its spread is as small."""
  grid = np.asarray(coords.cell_centres(16, 16)).reshape(-1, 2).astype(np.float32)
  logits = np.full((2, len(grid), 3), -200, np.float32)
  logits[:, -1], logits[:, -2] = 0, [-14, -9, -4]
  mean, spread = ridge.mean_and_spread(jnp.asarray(logits), jnp.asarray(grid))
  weight = np.exp(logits.astype(np.float64))
  weight /= weight.sum(1, keepdims=True)
  expected = np.einsum('bpk,pc->bkc', weight, grid)
  away = ((grid[:, None] - expected[:, None]) ** 2).sum(-1)
  np.testing.assert_allclose(mean, expected, rtol=1e-6)
  np.testing.assert_allclose(spread, np.sqrt((weight * away).sum(1)), rtol=1e-3)


def test_only_features_are_multiplied_in_less_than_full_precision():
  """Positions would be rounded to 8 bits on a TPU."""
  pyramid, points = blobs(12)
  head = fit(pyramid, points, size=9)
  with jax.default_matmul_precision('default'):
    text = jax.jit(ridge.look_ridge).lower(head.variables, pyramid).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  rounded = [line for line in products if 'precision = [HIGHEST, HIGHEST]' not in line]
  assert len(products) > len(rounded) == len(pyramid)
  assert all('x5xf32>, tensor<5x3xf32>' in line for line in rounded)  # features and kernels

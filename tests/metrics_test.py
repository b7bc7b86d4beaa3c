"""Scores against loops over landmarks; what is not there does not count, broken is an error."""

import math
import re
import time

import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Predictions


def example(examples=4, landmarks=5):
  r = np.random.default_rng(0)
  target = r.uniform(-1, 1, (examples, landmarks, 2)).astype(np.float32)
  noise = r.normal(size=target.shape) * r.uniform(0.01, 0.3, (examples, 1, 1))
  visible = r.uniform(size=(examples, landmarks)) < 0.7
  visible[:, 2] = True
  return Predictions(
    points=(target + noise).astype(np.float32),
    target=target,
    visible=visible,
    scale=r.uniform(0.3, 1.2, examples).astype(np.float32),
    index=np.arange(examples) + 100,
  )


def oracle(p):
  """{(example, landmark): distance over scale} of what is visible."""
  found = {}
  for n in range(len(p.points)):
    for k in range(p.points.shape[1]):
      if p.visible[n, k]:
        (x, y), (u, v) = (np.asarray(a[n, k], float) for a in (p.points, p.target))
        found[n, k] = math.hypot(x - u, y - v) / float(p.scale[n])
  return found


@pytest.mark.parametrize('landmarks', ['5', '68'])
def test_matches_the_published_error(golden, landmarks):
  g = golden('inter_ocular')
  target, (left, right) = g[f'gt{landmarks}'], g[f'eyes{landmarks}']
  p = Predictions(
    points=g[f'pred{landmarks}'],
    target=target,
    visible=np.ones(target.shape[:2], bool),
    scale=np.linalg.norm(target[:, left] - target[:, right], axis=-1),
    index=np.arange(len(target)),
  )
  np.testing.assert_allclose(metrics.inter_ocular_error(p), g[f'ioe{landmarks}'], rtol=1e-6)
  per_landmark = metrics.mean_of_known(metrics.normalised_distances(p), axis=0)
  np.testing.assert_allclose(100 * per_landmark.mean(), g[f'ioe{landmarks}'], rtol=1e-6)


def test_the_error_is_the_mean_over_visible_landmarks():
  p = example()
  expected = 100 * np.mean(list(oracle(p).values()))
  np.testing.assert_allclose(metrics.inter_ocular_error(p), expected, rtol=1e-12)


def test_distances_are_those_of_the_loop_and_nan_elsewhere():
  p = example()
  distances, expected = metrics.normalised_distances(p), oracle(p)
  assert distances.dtype == np.float64
  for n, k in np.ndindex(distances.shape):
    if (n, k) in expected:
      np.testing.assert_allclose(distances[n, k], expected[n, k], rtol=1e-12)
    else:
      assert np.isnan(distances[n, k])


def test_each_landmark_and_each_picture_has_its_own_mean():
  p, distances = example(), metrics.normalised_distances(example())
  for axis, number in ((0, 5), (1, 4)):
    means = metrics.mean_of_known(distances, axis=axis)
    for i in range(number):
      seen = [value for place, value in oracle(p).items() if place[1 - axis] == i]
      np.testing.assert_allclose(means[i], np.mean(seen), rtol=1e-12)


@pytest.mark.filterwarnings('error')
def test_where_nothing_is_known_the_mean_is_nan_without_a_warning():
  p = example()
  p.visible[:, 1] = False
  means = metrics.mean_of_known(metrics.normalised_distances(p), axis=0)
  np.testing.assert_array_equal(np.isnan(means), [False, True, False, False, False])


@pytest.mark.filterwarnings('error')
def test_the_mean_of_known_values_may_be_complex_and_keep_its_axis():
  values = np.array([[1 + 2j, np.nan, 3 - 4j], [np.nan] * 3])
  means = metrics.mean_of_known(values, axis=-1, keepdims=True)
  np.testing.assert_array_equal(means, [[2 - 1j], [np.nan]])


def test_a_masked_landmark_equals_its_removal():
  p = example()
  p.visible[:] = True
  p.visible[:, 3] = False
  without = p._replace(
    points=np.delete(p.points, 3, 1),
    target=np.delete(p.target, 3, 1),
    visible=np.delete(p.visible, 3, 1),
  )
  assert metrics.inter_ocular_error(p) == pytest.approx(metrics.inter_ocular_error(without), 1e-12)


def test_a_masked_example_equals_its_removal():
  p = example()
  p.visible[2] = False
  without = Predictions(*(None if a is None else np.delete(a, 2, 0) for a in p))
  assert metrics.inter_ocular_error(p) == pytest.approx(metrics.inter_ocular_error(without), 1e-12)


def test_what_is_invisible_may_hold_anything():
  p, q = example(), example()
  q.target[~q.visible] = np.nan
  q.points[~q.visible] = np.nan
  assert metrics.inter_ocular_error(q) == metrics.inter_ocular_error(p)
  np.testing.assert_array_equal(*map(metrics.normalised_distances, (q, p)))
  q.visible[1] = False
  p.visible[1] = False
  for useless in (0, -1, np.nan, np.inf):
    q.scale[1] = useless
    assert metrics.inter_ocular_error(q) == metrics.inter_ocular_error(p)


def test_visibility_as_numbers_counts_as_true_and_false():
  """COCO's 1 and 2 are both labelled; `2 & True` is 0."""
  p = example()
  coco = p._replace(visible=p.visible * np.random.default_rng(1).integers(1, 3, p.visible.shape))
  pairs = [(0, 3), (4, 1)]
  for score in (
    metrics.normalised_distances,
    metrics.pck_paper_distances,
    lambda given: metrics.left_right_swaps(given, pairs),
  ):
    np.testing.assert_array_equal(score(coco), score(p))
  p.points[1, 2] = np.nan
  with pytest.raises(ValueError, match='the prediction of 1 visible landmarks is not finite'):
    metrics.normalised_distances(coco._replace(visible=np.where(p.visible, 2, 0)))


def test_lists_score_as_arrays_do():
  p = example()
  lists = p._replace(**{name: getattr(p, name).tolist() for name in p._fields[:4]})
  for score in (
    metrics.mean_distance,
    metrics.pck,
    metrics.pck_paper,
    lambda given: metrics.left_right_swaps(given, [(0, 3), (4, 1)]),
  ):
    np.testing.assert_array_equal(score(lists), score(p))


def test_nothing_visible_is_an_error():
  p = example()
  p.visible[:] = False
  for score in (metrics.inter_ocular_error, metrics.normalised_distances):
    with pytest.raises(ValueError, match='no visible landmark among 20: there is nothing to score'):
      score(p)


def test_no_example_is_an_error():
  empty = Predictions(*(a[:0] for a in example()[:5]))
  with pytest.raises(ValueError, match='no visible landmark among 0'):
    metrics.inter_ocular_error(empty)


@pytest.mark.parametrize('useless', [0, -0.5, np.nan, np.inf])
def test_a_useless_scale_is_an_error_that_names_the_example(useless):
  p = example()
  p.scale[[1, 3]] = useless
  message = f'2 examples have no usable scale; the first is example 101 with scale {useless}'
  with pytest.raises(ValueError, match=re.escape(message)):
    metrics.inter_ocular_error(p)


@pytest.mark.parametrize('broken', [np.nan, np.inf])
@pytest.mark.parametrize(('field', 'name'), [('points', 'prediction'), ('target', 'target')])
def test_a_visible_landmark_that_is_not_finite_is_never_left_out(field, name, broken):
  p = example()
  getattr(p, field)[3, 2, 1] = broken
  message = (
    f'the {name} of 1 visible landmarks is not finite; the first is landmark 2 of example 103'
  )
  for score in (metrics.inter_ocular_error, metrics.normalised_distances):
    with pytest.raises(ValueError, match=message):
      score(p)


def test_a_wrong_shape_shows_all_shapes():
  p = example()
  for wrong in (p._replace(points=p.points[:, :1]), p._replace(scale=p.scale[:, None])):
    with pytest.raises(ValueError, match=re.escape('expected [N, K, 2] twice, [N, K], [N]')):
      metrics.inter_ocular_error(wrong)


def test_the_unit_cancels():
  p = example()
  q = p._replace(points=p.points * 48, target=p.target * 48, scale=p.scale * 48)
  assert metrics.inter_ocular_error(q) == pytest.approx(metrics.inter_ocular_error(p), 1e-5)


def test_nothing_is_written_into_the_predictions():
  p, q = example(), example()
  assert metrics.inter_ocular_error(p) == metrics.inter_ocular_error(p)
  for before, after in zip(q[:5], p[:5], strict=True):
    np.testing.assert_array_equal(before, after)


def test_the_mean_distance_has_the_unit_of_the_scale():
  p = example()
  assert metrics.mean_distance(p) == pytest.approx(np.mean(list(oracle(p).values())), rel=1e-12)
  pixels = p._replace(scale=np.full(4, 2 / 69))  # the pixels of a frame of 70
  moved = p.points.astype(float) - p.target
  expected = np.hypot(*np.moveaxis(moved * 69 / 2, -1, 0))[p.visible].mean()
  assert metrics.mean_distance(pixels) == pytest.approx(expected, rel=1e-12)


# Percentage of correct keypoints.


def published(golden, name):
  g = golden('pck')
  points, target, visible = (g[f'{name}_{field}'] for field in ('pred', 'gt', 'visible'))
  scale = np.full(len(points), np.nan, np.float32)  # has no part in it
  return Predictions(points, target, visible, scale, np.arange(len(points))), g


@pytest.mark.parametrize('name', ['rand', 'trunc', 'none'])
def test_matches_the_published_pck(golden, name):
  p, g = published(golden, name)
  np.testing.assert_array_equal(metrics.pck_paper_distances(p).T, g[f'{name}_dists'])
  assert metrics.pck_paper(p) == pytest.approx(float(g[f'{name}_pck']), rel=1e-6)


def test_the_exact_pck_cuts_at_five_percent_and_truncates_nothing(golden):
  p, g = published(golden, 'trunc')
  expected = (g['trunc_px'] < 2.4).astype(float)
  np.testing.assert_array_equal(metrics.pck_hits(p)[0], expected)
  assert metrics.pck(p) == pytest.approx(100 * expected.mean(), rel=1e-12)
  assert metrics.pck(p) < metrics.pck_paper(p) - 30
  at_a_tenth = (g['trunc_px'] < 4.8).mean()
  assert metrics.pck(p, threshold=0.1) == pytest.approx(100 * at_a_tenth)


def test_pck_is_the_mean_over_landmarks_of_their_share_of_hits():
  p = example(examples=9)
  p.visible[:, 3] = False
  shares = []
  for k in (0, 1, 2, 4):
    near = [
      math.dist(p.points[n, k].tolist(), p.target[n, k].tolist()) * 47 / 2 < 0.15 * 48
      for n in range(9)
      if p.visible[n, k]
    ]
    shares.append(100 * sum(near) / len(near))
  assert len(set(shares)) == 4
  found = metrics.pck_per_landmark(p, threshold=0.15)
  np.testing.assert_allclose(np.delete(found, 3), shares, rtol=1e-12)
  assert np.isnan(found[3])
  assert metrics.pck(p, threshold=0.15) == pytest.approx(np.mean(shares), rel=1e-12)
  pooled = 100 * np.nanmean(metrics.pck_hits(p, threshold=0.15))
  assert abs(pooled - np.mean(shares)) > 1  # landmarks weigh alike, however often they are seen


def test_at_the_limit_itself_a_landmark_is_not_near_enough():
  points = np.array([[[1.5, 0], [1.25, 0]]])  # a pixel of a frame of 3 is 1, and the limit 1.5
  p = Predictions(points, np.zeros((1, 2, 2)), np.ones((1, 2), bool), np.ones(1), np.arange(1))
  np.testing.assert_array_equal(metrics.pck_hits(p, threshold=0.5, box=3), [[0, 1]])
  np.testing.assert_array_equal(metrics.pck_paper_distances(p, box=3), [[1, 1]])
  assert metrics.pck_paper(p, threshold=1 / 3, box=3) == 0
  assert metrics.pck_paper(p, threshold=0.5, box=3) == 100


@pytest.mark.parametrize('score', [metrics.pck, metrics.pck_paper])
def test_what_is_invisible_may_hold_anything_in_pck(score):
  p, q = example(), example()
  q.target[~q.visible] = np.nan
  q.points[~q.visible] = np.nan
  assert score(q) == score(p)
  q.points[:, 2] = q.target[:, 2]
  assert score(q) > score(p)
  q.points[0, 2, 0] = np.nan
  with pytest.raises(
    ValueError, match='1 visible landmarks is not finite; the first is landmark 2'
  ):
    score(q)


def test_the_published_pck_is_a_mean_over_batches(golden):
  p, _ = published(golden, 'rand')
  cut = [Predictions(*(a[i : i + 4] for a in p[:5])) for i in (0, 4)]
  expected = [metrics.pck_paper(part) for part in cut]
  assert metrics.pck_paper(p, batch_size=4) == pytest.approx(np.mean(expected), rel=1e-12)
  assert abs(np.mean(expected) - metrics.pck_paper(p)) > 0.5
  p.visible[4:] = False  # a batch that shows nothing is one that hits nothing
  half = metrics.pck_paper(p, batch_size=4)
  assert half == pytest.approx(expected[0] / 2, rel=1e-12)


def test_no_picture_or_nothing_visible_has_no_pck():
  p = example()
  p.visible[:] = False
  with pytest.raises(ValueError, match='no visible landmark among 20'):
    metrics.pck(p)
  with pytest.raises(ValueError, match='no pictures: there is nothing to score'):
    metrics.pck_paper(Predictions(*(a[:0] for a in p[:5])))


# Left and right.


def test_confusion_is_the_share_nearer_to_the_partners_place():
  p, pairs = example(examples=30), [(0, 3), (4, 1)]
  p.points[::3, [0, 3]] = p.target[::3, [3, 0]] + np.float32(0.01)
  p.points[7, 4] = p.target[7, 1]
  swapped, seen = 0, 0
  for n in range(30):
    for a, b in [(0, 3), (3, 0), (4, 1), (1, 4)]:
      if p.visible[n, a] and p.visible[n, b]:
        own, partner = (np.linalg.norm(p.points[n, a] - p.target[n, k]) for k in (a, b))
        swapped, seen = swapped + bool(partner < own), seen + 1
  assert 5 < swapped < seen / 2 < 40
  expected = 100 * swapped / seen
  assert metrics.left_right_confusion(p, pairs) == pytest.approx(expected, rel=1e-12)
  p.points[~p.visible] = np.nan
  p.target[~p.visible] = np.nan
  p.scale[:] = 1
  assert metrics.left_right_confusion(p, pairs) == pytest.approx(expected, rel=1e-12)


def test_swaps_stand_in_the_column_of_their_landmark():
  p = example()
  p.visible[:] = True
  p.visible[1, 4] = False
  p.points[:] = p.target
  p.points[2, 3] = p.target[2, 0]
  swaps = metrics.left_right_swaps(p, [(4, 1), (0, 3)])
  expected = np.zeros((4, 4))
  expected[1, :2] = np.nan
  expected[2, 3] = 1
  np.testing.assert_array_equal(swaps, expected)


def test_halfway_between_two_places_a_landmark_is_not_swapped():
  p = example()
  p.visible[:] = True
  p.target[:, [0, 3]] = [[-0.5, 0], [0.5, 0]]
  p.points[:, [0, 3]] = 0
  np.testing.assert_array_equal(metrics.left_right_swaps(p, [(0, 3)]), np.zeros((4, 2)))


def test_without_a_pair_there_is_no_confusion():
  p = example()
  p.visible[:, 1] = ~p.visible[:, 0]
  for pairs in ([(0, 1)], []):
    with pytest.raises(ValueError, match='no picture shows both landmarks of any of flip_pairs='):
      metrics.left_right_confusion(p, pairs)
  for pair in ((0, 5), (-1, 0)):
    message = re.escape(f'flip_pairs=[{pair}]: there are 5 landmarks, counted from 0')
    with pytest.raises(ValueError, match=message):
      metrics.left_right_confusion(p, [pair])


# Intervals.


def known(pictures, landmarks=3):
  r = np.random.default_rng(3)
  values = r.gamma(2, size=(pictures, landmarks)) * (1 + np.arange(landmarks))
  values[r.uniform(size=values.shape) < 0.6 / landmarks * np.arange(landmarks)] = np.nan
  return values


@pytest.mark.parametrize('by_landmark', [False, True])
def test_the_interval_is_that_of_means_over_drawn_pictures(by_landmark):
  values = known(40)
  bits, means = np.random.PCG64(5), []
  for _ in range(200):
    drawn = [values[int(number) % 40] for number in bits.random_raw(40)]
    columns = [[v for v in column if not math.isnan(v)] for column in np.transpose(drawn)]
    groups = columns if by_landmark else [np.concatenate(columns)]
    means.append(np.mean([np.mean(group) for group in groups]))
  found = metrics.bootstrap_interval(values, by_landmark=by_landmark, seed=5, resamples=200)
  np.testing.assert_allclose(found, np.percentile(means, [2.5, 97.5]), rtol=1e-12)
  other = metrics.bootstrap_interval(values, by_landmark=by_landmark, seed=6, resamples=200)
  assert found != other


def test_the_interval_is_as_wide_as_the_theory_says():
  """Pictures, not landmarks, are drawn: landmarks that err together tell nothing new."""
  alone = known(2000, landmarks=1)
  together = np.repeat(alone, 10, axis=1)
  low, high = metrics.bootstrap_interval(together)
  np.testing.assert_allclose((high + low) / 2, alone.mean(), rtol=0.005)
  np.testing.assert_allclose(high - low, 2 * 1.96 * alone.std() / 2000**0.5, rtol=0.08)


@pytest.mark.parametrize('by_landmark', [False, True])
def test_pictures_and_landmarks_that_show_nothing_do_not_change_the_interval(by_landmark):
  values = known(12)
  more = np.full((15, 4), np.nan)
  more[3:, :3] = values
  a, b = (metrics.bootstrap_interval(v, by_landmark=by_landmark) for v in (values, more))
  assert a == pytest.approx(b, rel=1e-12)
  assert metrics.bootstrap_interval(values[:1], by_landmark=by_landmark) == pytest.approx(
    (np.nanmean(values[0]),) * 2
  )
  with pytest.raises(ValueError, match='no known value among 36: there is no interval'):
    metrics.bootstrap_interval(np.full((12, 3), np.nan), by_landmark=by_landmark)


@pytest.mark.parametrize('by_landmark', [False, True])
def test_the_pictures_of_a_group_are_drawn_together(by_landmark):
  values, group = known(40), np.random.default_rng(4).choice([9, -2, 5, 3, 40], 40)
  values[group == 5] = np.nan  # a group that shows nothing is not drawn
  people, bits, means = [-2, 3, 9, 40], np.random.PCG64(5), []
  for _ in range(200):
    drawn = [values[group == people[int(number) % 4]] for number in bits.random_raw(4)]
    columns = [[v for v in column if not math.isnan(v)] for column in np.concatenate(drawn).T]
    parts = columns if by_landmark else [np.concatenate(columns)]
    means.append(np.mean([np.mean(part) for part in parts]))
  options = {'by_landmark': by_landmark, 'seed': 5, 'resamples': 200}
  found = metrics.bootstrap_interval(values, group=group, **options)
  np.testing.assert_allclose(found, np.percentile(means, [2.5, 97.5]), rtol=1e-12)
  alone = metrics.bootstrap_interval(values, group=np.arange(40), **options)
  assert alone == metrics.bootstrap_interval(values, **options)


def test_copies_of_a_picture_widen_the_interval_only_by_group():
  values = known(200, landmarks=1)
  copies, group = np.repeat(values, 4, axis=0), np.repeat(np.arange(200), 4)
  alone, together, by_group = (
    np.diff(metrics.bootstrap_interval(given, group=by))[0]
    for given, by in ((values, None), (copies, None), (copies, group))
  )
  np.testing.assert_allclose(by_group, alone, rtol=1e-9)
  np.testing.assert_allclose(together, alone / 2, rtol=0.15)
  with pytest.raises(ValueError, match=re.escape('(200,); expected (800,), one per picture')):
    metrics.bootstrap_interval.__wrapped__(copies, group=group[::4])


def test_a_large_test_set_has_its_interval_in_seconds():
  values, start = known(1000, landmarks=68), time.monotonic()
  metrics.bootstrap_interval(values)
  assert time.monotonic() - start < 5


def claims(confidence, error, **changes):
  error = np.asarray(error, float)
  points = np.stack([error, np.zeros_like(error)], -1)
  count = len(error)
  given = Predictions(
    points,
    np.zeros_like(points),
    np.ones(error.shape, bool),
    np.full(count, 2.0),
    np.arange(count),
    np.asarray(confidence, float),
  )
  return given._replace(**changes)


def test_reliability_counts_what_was_claimed_and_what_was_so():
  given = claims([[0.0, 0.15], [0.19, 0.9], [1.0, 0.85]], [[0.1, 9], [0.3, 0.1], [0.1, 0.41]])
  (low, high), gap = metrics.reliability(given, tolerance=0.2)  # scale 2: errors below .4
  assert (low.low, low.high, low.count) == (0.0, 0.2, 3)
  assert low.confidence == pytest.approx(0.34 / 3)
  assert low.observed == pytest.approx(2 / 3)
  assert (high.low, high.high, high.count) == (0.8, 1.0, 3)
  assert high.confidence == pytest.approx(2.75 / 3)
  assert high.observed == pytest.approx(2 / 3)
  assert gap == pytest.approx((2 / 3 - 0.34 / 3 + 2.75 / 3 - 2 / 3) / 2)


def test_reliability_leaves_out_what_is_not_known():
  full = claims([[0.3, 0.5], [0.5, 0.7]], [[0.1, 9], [9, 0.1]])
  hidden = full._replace(visible=np.array([[True, True], [True, False]]))
  unknown = full._replace(confidence=np.array([[0.3, 0.5], [0.5, np.nan]]))
  found = metrics.reliability(hidden, tolerance=0.2)
  assert found == metrics.reliability(unknown, tolerance=0.2)
  assert sum(one.count for one in found[0]) == 3
  for wrong, message in (
    (full._replace(confidence=None), 'have no confidence'),
    (full._replace(confidence=np.full((2, 2), np.nan)), 'nothing to compare'),
    (
      full._replace(confidence=np.array([[0.3, 0.5], [1.2, 0.7]])),
      'is 0.3 to 1.2; expected 0 to 1',
    ),
    (full._replace(confidence=np.array([[0.3, -1], [0.5, 0.7]])), 'is -1 to 0.7; expected 0 to 1'),
  ):
    with pytest.raises(ValueError, match=message):
      metrics.reliability(wrong, tolerance=0.2)
  with pytest.raises(ValueError, match='bins=0: expected 1 or more'):
    metrics.reliability(full, tolerance=0.2, bins=0)


def test_an_error_as_large_as_the_tolerance_is_not_small():
  ((only,), gap) = metrics.reliability(claims([[0.5, 0.5]], [[0.5, 0.25]]), tolerance=0.25)
  assert (only.count, only.observed, gap) == (2, 0.5, 0)

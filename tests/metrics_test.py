"""Scores against loops over landmarks; what is not there does not count, broken is an error."""

import math
import re

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
  per_landmark = metrics.inter_ocular_error_per_landmark(p)
  np.testing.assert_allclose(per_landmark.mean(), g[f'ioe{landmarks}'], rtol=1e-6)


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


def test_each_landmark_has_its_own_error():
  p, errors = example(), metrics.inter_ocular_error_per_landmark(example())
  for k in range(5):
    seen = [value for (_, landmark), value in oracle(p).items() if landmark == k]
    np.testing.assert_allclose(errors[k], 100 * np.mean(seen), rtol=1e-12)


def test_a_landmark_that_is_never_visible_has_no_error_of_its_own():
  p = example()
  p.visible[:, 1] = False
  errors = metrics.inter_ocular_error_per_landmark(p)
  np.testing.assert_array_equal(np.isnan(errors), [False, True, False, False, False])


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
  np.testing.assert_array_equal(
    metrics.inter_ocular_error_per_landmark(q), metrics.inter_ocular_error_per_landmark(p)
  )
  q.visible[1] = False
  p.visible[1] = False
  for useless in (0, -1, np.nan, np.inf):
    q.scale[1] = useless
    assert metrics.inter_ocular_error(q) == metrics.inter_ocular_error(p)


def test_nothing_visible_is_an_error():
  p = example()
  p.visible[:] = False
  for score in (metrics.inter_ocular_error, metrics.inter_ocular_error_per_landmark):
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
  for score in (metrics.inter_ocular_error, metrics.inter_ocular_error_per_landmark):
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

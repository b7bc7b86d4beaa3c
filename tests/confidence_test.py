"""Confidence: on data of a known law it is the probability that it claims to be."""

import tracemalloc

import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Predictions
from landmarks_jax.inference import confidence


def drawn(pictures, landmarks, seed, slopes=(0.8, 0.0)):
  """Evidence, and errors whose logarithm it shifts; each landmark has a difficulty of its own."""
  rng = np.random.default_rng(seed)
  evidence = rng.normal(size=(pictures, landmarks, len(slopes))) * [1.0, 3.0] + [2.0, -1.0]
  own = np.linspace(-0.5, 0.5, landmarks)
  noise = rng.gumbel(size=(pictures, landmarks)) * 0.4  # skew: no normal law is assumed
  return evidence, np.exp(-2.5 + (evidence - [2.0, -1.0]) @ np.array(slopes) + own - noise)


def predictions_of(claimed, error):
  """Predictions at these distances, scale 1."""
  points = np.stack([error, np.zeros_like(error)], -1)
  seen = np.isfinite(error)
  points = np.where(seen[..., None], points, 0)
  count = len(error)
  return Predictions(points, np.zeros_like(points), seen, np.ones(count), np.arange(count), claimed)


@pytest.mark.parametrize('tolerance', [0.05, 0.1, 0.3])
def test_claims_are_kept_on_other_pictures(tolerance):
  fitted = confidence.fit(*drawn(200, 5, 0), tolerance=tolerance)
  evidence, error = drawn(3000, 5, 1)
  claimed = fitted(evidence)
  bins, gap = metrics.reliability(predictions_of(claimed, error), tolerance=tolerance, bins=10)
  assert gap < 0.02
  assert sum(one.count for one in bins) == error.size
  assert claimed.std() > 0.15  # it tells landmarks apart
  for k in range(5):  # and is right for each of them
    own = predictions_of(claimed[:, [k]], error[:, [k]])
    assert metrics.reliability(own, tolerance=tolerance)[1] < 0.04


def test_more_doubt_is_never_more_confidence():
  evidence, error = drawn(60, 4, 2, slopes=(0.5, -0.3))  # the second misleads
  fitted = confidence.fit(evidence, error, tolerance=0.1)
  assert fitted.weights[0] > 0
  assert fitted.weights[1] == 0
  steps = np.linspace(-9, 9, 40)[:, None, None] * np.ones((1, 4, 2))
  claimed = fitted(steps)
  assert (np.diff(claimed, axis=0) <= 0).all()
  assert (claimed >= 0).all()
  assert (claimed <= 1).all()
  assert claimed[0, 0] > 0.9 > 0.1 > claimed[-1, 0]


@pytest.mark.parametrize('pictures', [2, confidence.FEWEST - 1])
def test_few_pictures_say_how_good_all_are(pictures):
  evidence, error = drawn(pictures, 6, 3)
  fitted = confidence.fit(evidence, error, tolerance=np.median(error))
  claimed = fitted(drawn(50, 6, 4)[0])
  assert np.ptp(claimed) == 0
  assert claimed[0, 0] == pytest.approx(0.5, abs=0.1)
  assert fitted.pictures == pictures


def test_one_picture_says_nothing():
  evidence, error = drawn(1, 6, 3)
  assert confidence.fit(evidence, error, tolerance=0.1) is None
  assert confidence.fit(*drawn(4, 2, 0), tolerance=0.1) is not None
  evidence, error = drawn(4, 2, 0)
  error[1:] = np.nan
  assert confidence.fit(evidence, error, tolerance=0.1) is None


def test_unknown_errors_have_no_part():
  evidence, error = drawn(40, 5, 5)
  more = np.concatenate([evidence, evidence[:3] + 50])
  errors = np.concatenate([error, np.full((3, 5), np.nan)])
  a, b = (confidence.fit(e, x, tolerance=0.1) for e, x in ((evidence, error), (more, errors)))
  for one, other in zip(a, b, strict=True):
    np.testing.assert_array_equal(one, other)
  error[::2, 1] = np.nan
  assert np.isfinite(confidence.fit(evidence, error, tolerance=0.1)(evidence)).all()


@pytest.mark.parametrize('block', [4, 64])
def test_residuals_are_those_of_leaving_out_a_picture(block, monkeypatch):
  monkeypatch.setattr(confidence, 'BLOCK', block)
  evidence, error = drawn(9, 3, 6)
  logs = np.log(error)
  z = (evidence - evidence.mean((0, 1))) / evidence.std((0, 1))
  _, residuals = confidence._regress(evidence, logs, np.full((9, 3), 1 / 3), own=True)
  for left_out in range(9):
    rows, values = [], []  # of least squares: the others' landmarks, then the penalties
    for i in set(range(9)) - {left_out}:
      for k in range(3):
        rows.append([1, *np.eye(3)[k], *z[i, k]])
        values.append(logs[i, k])
    rows, values = np.array(rows) / 3**0.5, np.array(values) / 3**0.5
    penalty = np.diag([0, *[(confidence.CAUTION / 3) ** 0.5] * 3, *[confidence.CAUTION**0.5] * 2])
    stacked = np.concatenate([rows, penalty]), np.concatenate([values, np.zeros(6)])
    found = np.linalg.lstsq(*stacked, rcond=None)[0]
    for k in range(3):
      expected = logs[left_out, k] - found @ [1, *np.eye(3)[k], *z[left_out, k]]
      assert residuals[left_out, k] == pytest.approx(expected, abs=1e-6)


def test_memory_grows_with_the_pictures_as_the_evidence_does():
  def most(pictures):
    given = drawn(pictures, 30, 8)
    tracemalloc.start()
    confidence.fit(*given, tolerance=0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, given[0].nbytes

  most(64)
  (few, less), (many, more) = most(64), most(320)
  assert many - few < 20 * (more - less)  # 58 where all normal equations are in memory at once


def test_errors_of_zero_and_impossible_tolerances():
  evidence, error = drawn(20, 3, 7)
  error[0] = 0
  assert np.isfinite(confidence.fit(evidence, error, tolerance=0.1)(evidence)).all()
  for tolerance in (0.0, -1.0, np.nan, np.inf):
    with pytest.raises(ValueError, match='expected a positive share'):
      confidence.fit(evidence, error, tolerance=tolerance)

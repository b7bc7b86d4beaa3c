"""Logistic regression: its minimum against a slow one, its choice, its units, its errors."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from landmarks_jax.models import classifier


def clouds(count, *, classes=3, channels=4, apart=1.5, seed=0):
  """Classes around centres of their own, in features of very different scales; some overlap."""
  r = np.random.default_rng(seed)
  centres = apart * np.random.default_rng(99).normal(size=(classes, channels))
  label = r.integers(0, classes, count)
  scales = 10.0 ** np.arange(channels) / 10
  return ((centres[label] + r.normal(size=(count, channels))) * scales + 7).astype('f'), label


def test_the_minimum_is_that_of_a_slow_search(monkeypatch):
  monkeypatch.setattr(classifier, 'STRENGTHS', (0.03,))
  features, label = clouds(120)
  scaled = (features - features.mean(0)) / features.std(0)

  def cost(flat):
    kernel, bias = flat[:12].reshape(4, 3), flat[12:]
    scores = scaled @ kernel + bias
    rows = [np.log(np.exp(s).sum()) - s[k] for s, k in zip(scores, label, strict=True)]
    return np.mean(rows) + 0.03 / 2 * (kernel**2).sum()

  slow = scipy.optimize.minimize(cost, np.zeros(15), method='BFGS', options={'gtol': 1e-6})
  found = classifier.fit(features, label, classes=3)
  scores = features @ found.kernel + found.bias
  expected = scaled @ slow.x[:12].reshape(4, 3) + slow.x[12:]
  np.testing.assert_allclose(
    scores - scores.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=2e-2
  )


@pytest.mark.parametrize('dtype', [np.float16, jnp.bfloat16])
def test_halves_are_classified_as_the_numbers_they_are(monkeypatch, dtype):
  monkeypatch.setattr(classifier, 'STRENGTHS', (0.03,))
  features, label = clouds(1200)
  halves = (100 * features).astype(dtype)  # 1,200 of about 700 are too many for float16
  found, expected = (classifier.fit(x, label, classes=3) for x in (halves, halves.astype('f')))
  np.testing.assert_array_equal(found.kernel, expected.kernel)
  told = classifier.predict(found, halves)
  np.testing.assert_array_equal(told, classifier.predict(expected, halves.astype('f')))
  assert (told == label).mean() > 0.6


def test_rows_in_blocks_are_the_whole(monkeypatch):
  monkeypatch.setattr(classifier, 'STRENGTHS', (0.03,))
  features, label = clouds(150)
  whole = classifier.fit(features, label, classes=3)
  monkeypatch.setattr(classifier, 'ROWS', 64)
  parts = classifier.fit(features, label, classes=3)
  np.testing.assert_allclose(parts.kernel, whole.kernel, rtol=2e-2, atol=5e-3)


def test_new_examples_are_told_nearly_as_well_as_by_the_true_centres():
  features, label = clouds(600)
  asked, truth = clouds(600, seed=1)
  scales = 10.0 ** np.arange(4) / 10
  centres = 1.5 * np.random.default_rng(99).normal(size=(3, 4))
  away = (((asked - 7) / scales)[:, None] - centres) ** 2
  best = (away.sum(-1).argmin(1) == truth).mean()
  found = classifier.predict(classifier.fit(features, label, classes=3), asked)
  assert 0.6 < best < 0.99
  assert (found == truth).mean() > best - 0.03


def test_noise_needs_a_strong_ridge_and_clear_classes_a_weak_one(monkeypatch):
  monkeypatch.setattr(classifier, 'STRENGTHS', (1.0, 0.1, 0.01))
  chosen = []
  monkeypatch.setattr(classifier, '_minimise', spy(chosen, classifier._minimise))
  r = np.random.default_rng(0)
  noise = r.normal(size=(60, 50)).astype('f')
  mostly = (np.arange(60) % 10 == 3).astype(int)  # and nothing in the features says which
  classifier.fit(noise, mostly, classes=2)
  assert chosen[-1] == classifier.STRENGTHS[0]
  rare = np.arange(200) % 7 == 0  # a strong ridge would never say it
  clear = np.stack([5 * rare + r.normal(size=200), r.normal(size=200)], 1).astype('f')
  classifier.fit(clear, rare.astype(int), classes=2)
  assert chosen[-1] < classifier.STRENGTHS[0]


def spy(chosen, real):
  def call(*args, strength, start):
    chosen.append(strength)
    return real(*args, strength=strength, start=start)

  return call


def test_a_tenth_of_every_class_is_held_out_when_classes_come_in_turn(monkeypatch):
  label, found = np.arange(200) % 5, []

  def choose(features, label, held, start):
    found.append(held)
    return 0.01, start

  monkeypatch.setattr(classifier, '_choose', choose)
  for _ in range(2):
    classifier.fit(np.random.default_rng(0).normal(size=(200, 3)), label, classes=5)
  assert found[0].sum() == 20
  assert np.bincount(label[found[0]], minlength=5).min() >= 2
  np.testing.assert_array_equal(*found)


def test_mean_and_deviation_are_exact_whatever_the_number_of_rows(monkeypatch):
  seen = []

  def minimise(features, label, *, strength, start):
    seen.append(features)
    return start

  monkeypatch.setattr(classifier, '_minimise', minimise)
  r = np.random.default_rng(0)
  features = r.normal([500, 0.1], [0.5, 0], (200_000, 2)).astype('f')
  classifier.fit(features, np.zeros(len(features), int), classes=1)
  np.testing.assert_allclose(seen[-1].mean(0, dtype=float), 0, atol=1e-3)
  np.testing.assert_allclose(seen[-1].std(0, dtype=float), [1, 0], atol=1e-3)


def test_a_channel_that_never_changes_does_no_harm():
  features, label = clouds(100)
  features[:, 1] = 3
  found = classifier.fit(features, label, classes=3)
  assert np.isfinite(found.kernel).all()


def test_few_examples_are_enough_to_fit():
  found = classifier.fit(np.float32([[0, 1], [1, 0], [0, 2]]), np.array([0, 1, 0]), classes=2)
  told = classifier.predict(found, np.float32([[0, 1.5], [2, 0]]))
  np.testing.assert_array_equal(told, [0, 1])


def test_what_cannot_be_learnt_is_an_error():
  features = np.ones((3, 2), np.float32)
  with pytest.raises(ValueError, match='labels from 0 to 3: expected 0 to 2'):
    classifier.fit(features, np.array([0, 3, 1]), classes=3)
  features[1, 1] = np.nan
  with pytest.raises(ValueError, match='finite'):
    classifier.fit(features, np.array([0, 1, 1]), classes=2)

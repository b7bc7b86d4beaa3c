"""Which pictures come first: those that stand for many, and not for what is labelled already."""

import numpy as np
import pytest

from landmarks_jax.labelling import order


def clusters(rng, sizes, spread=0.1):
  centres = rng.normal(size=(len(sizes), 4)) * 10
  looks = np.concatenate(
    [
      centre + spread * rng.normal(size=(size, 4))
      for centre, size in zip(centres, sizes, strict=True)
    ]
  )
  return looks, np.repeat(np.arange(len(sizes)), sizes)


def suggest(looks, labelled=(), candidates=None, count=5):
  candidates = np.ones(len(looks), bool) if candidates is None else candidates
  return order.suggest(looks, list(labelled), candidates, count=count)


def slow(looks, labelled, candidates, count):
  """The definition: of all candidates the one that leaves the least total distance."""
  far = 2 * np.linalg.norm(looks - looks.mean(0), axis=1).max()
  chosen = []
  for _ in range(count):
    left = [i for i in np.flatnonzero(candidates) if i not in chosen]
    totals = []
    for i in left:
      given = looks[[*labelled, *chosen, i]]
      away = np.linalg.norm(looks[:, None] - given, axis=-1).min(1)
      totals.append(np.minimum(away, far).sum())
    chosen.append(int(left[int(np.argmin(totals))]))
  return chosen


def test_it_is_the_greedy_k_median():
  rng = np.random.default_rng(0)
  looks = rng.normal(size=(40, 3)) * [5, 1, 0.2]
  candidates = rng.random(40) < 0.7
  for labelled in ([], [3], [3, 8, 21]):
    assert suggest(looks, labelled, candidates, 6) == slow(looks, labelled, candidates, 6)


def test_every_cluster_is_met_once_the_largest_first():
  looks, cluster = clusters(np.random.default_rng(1), [30, 60, 10, 45])
  assert cluster[suggest(looks, count=4)].tolist() == [1, 3, 0, 2]
  assert cluster[suggest(looks, [int(np.flatnonzero(cluster == 1)[0])], count=3)].tolist() == [
    3,
    0,
    2,
  ]


def test_an_outlier_does_not_come_first_as_the_farthest_point_would():
  rng = np.random.default_rng(2)
  looks = np.concatenate([rng.normal(size=(199, 3)), [[9.0, 0, 0]]])
  assert 199 not in suggest(looks, count=5)


def test_only_candidates_are_suggested_each_once():
  looks = np.random.default_rng(3).normal(size=(30, 3))
  candidates = np.zeros(30, bool)
  candidates[[2, 5, 7]] = True
  assert sorted(suggest(looks, [5, 1], candidates, count=9)) == [2, 5, 7]
  assert suggest(looks, [], np.zeros(30, bool)) == []


def test_equal_pictures_do_not_break_it():
  assert sorted(suggest(np.zeros((6, 3)), count=6)) == list(range(6))


def test_ten_thousand_pictures_take_seconds():
  looks = np.random.default_rng(4).normal(size=(10_000, 32))
  found = suggest(looks, range(50), count=64)
  assert len(set(found)) == 64
  assert max(found) > 5000


def test_an_embedding_ignores_the_units_of_channels_and_dead_ones():
  rng = np.random.default_rng(5)
  looks, _ = clusters(rng, [9, 14])
  pooled = np.concatenate([looks, np.full((23, 1), 7.0)], 1)
  scaled = pooled * [1, 100, 1e-3, 5, 1] + 3
  near = [order.distances(e, e) for e in map(order.embed, (pooled, scaled))]
  np.testing.assert_allclose(*near, atol=1e-9 + 1e-6 * near[0].max())
  assert np.isfinite(order.embed(np.ones((4, 3)))).all()


def test_distances_are_those_of_pairs():
  a, b = np.random.default_rng(6).normal(size=(5, 3)), np.random.default_rng(7).normal(size=(4, 3))
  expected = np.linalg.norm(a[:, None] - b, axis=-1)
  np.testing.assert_allclose(order.distances(a, b), expected, atol=1e-12)
  assert order.distances(a, a).diagonal() == pytest.approx(0, abs=1e-7)

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
  """The definition: of all candidates the one that leaves the least sum of squares."""
  far = 2 * np.linalg.norm(looks - looks.mean(0), axis=1).max()
  chosen = []
  for _ in range(count):
    left = [i for i in np.flatnonzero(candidates) if i not in chosen]
    totals = []
    for i in left:
      given = looks[[*labelled, *chosen, i]]
      away = np.linalg.norm(looks[:, None] - given, axis=-1).min(1)
      totals.append((np.minimum(away, far) ** 2).sum())
    chosen.append(int(left[int(np.argmin(totals))]))
  return chosen


def test_it_is_greedy_k_means_over_pictures():
  rng = np.random.default_rng(0)
  looks = rng.normal(size=(40, 3)) * [5, 1, 0.2]
  candidates = rng.random(40) < 0.7
  for labelled in ([], [3], [3, 8, 21]):
    assert suggest(looks, labelled, candidates, 6) == slow(looks, labelled, candidates, 6)


def test_every_cluster_is_met_once():
  looks, cluster = clusters(np.random.default_rng(1), [30, 60, 10, 45])
  assert sorted(cluster[suggest(looks, count=4)]) == [0, 1, 2, 3]
  labelled = [int(np.flatnonzero(cluster == 1)[0])]
  assert sorted(cluster[suggest(looks, labelled, count=3)]) == [0, 2, 3]


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


def scene(rng, places, size=12):
  """Maps with two parts at given cells, of random brightness and ground."""
  maps = 0.3 * rng.normal(size=(len(places), size, size, 6)) + [1, 0, 0, 2, 0, 0]
  for one, (first, second) in zip(maps, places, strict=True):
    for (y, x), channel in ((first, 1), (second, 2)):
      one[y - 1 : y + 2, x - 1 : x + 2, channel] += 8
  return (maps * rng.uniform(0.5, 2, size=(len(places), 1, 1, 1))).astype(np.float32)


def test_poses_are_near_where_the_same_parts_are_at_the_same_places():
  rng = np.random.default_rng(5)
  kinds = np.array([[[3, 3], [8, 9]], [[8, 3], [3, 9]], [[6, 8], [6, 2]]])
  kind = rng.integers(0, 3, 60)
  looks = order.poses(scene(rng, kinds[kind]), parts=8)
  away = order.distances(looks, looks) + 1e9 * np.eye(60)
  assert (kind[away.argmin(1)] == kind).mean() == 1
  assert np.abs(looks).max() <= 1
  mean = scene(np.random.default_rng(5), kinds[kind]).mean((1, 2))  # which pooling does not see
  away = order.distances(mean, mean) + 1e9 * np.eye(60)
  assert (kind[away.argmin(1)] == kind).mean() < 0.8


def test_poses_do_not_depend_on_the_units_of_channels():
  maps = scene(np.random.default_rng(6), np.array([[[3, 3], [8, 9]], [[8, 3], [3, 9]]] * 9))
  scaled = maps * np.array([1, 100, 0.1, 5, 1, 3], np.float32) + 3
  one, other = order.poses(maps, parts=8), order.poses(scaled, parts=8)
  np.testing.assert_allclose(one, other, atol=0.04)
  assert np.isfinite(order.poses(np.ones((4, 3, 3, 2), np.float32))).all()


def test_distances_are_those_of_pairs():
  a, b = np.random.default_rng(6).normal(size=(5, 3)), np.random.default_rng(7).normal(size=(4, 3))
  expected = np.linalg.norm(a[:, None] - b, axis=-1)
  np.testing.assert_allclose(order.distances(a, b), expected, atol=1e-12)
  assert order.distances(a, a).diagonal() == pytest.approx(0, abs=1e-7)

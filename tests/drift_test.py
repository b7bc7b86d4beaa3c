"""Drift of labels on a turning sphere: describers whose angles are known, and a slow loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.data.source import Info
from landmarks_jax.evaluation import drift, nearest, scoring
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.geometry import coords
from landmarks_jax.models import prototypes
from landmarks_jax.runtime import sharding

SIDE, FRAMES, RADIUS = 40, 12, 0.9
POINTS = np.array([[0.8, 0.6, 0], [-0.48, -0.6, 0.64], [0, 0.28, -0.96], [0.6, 0, 0.8]])
info = Info(('a', 'b', 'c', 'd'), (), 'frame', (0.5,) * 3, (0.2,) * 3)


class Turning:
  """A sphere that turns about the y axis once; the colour of a point is where it is on the sphere.

  The background is grey.
  """

  def __init__(self, split, *, names=info.names):
    assert split == 'test'
    self.info = info._replace(names=names)

  def __len__(self):
    return FRAMES

  def __getitem__(self, index):
    angle = 2 * np.pi * index / FRAMES + 0.1
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # of the sphere to the camera
    xy = np.asarray(coords.pixel_grid(SIDE, SIDE), float) / RADIUS
    depth = 1 - (xy**2).sum(-1)
    seen = np.concatenate([xy, np.sqrt(np.maximum(depth, 0))[..., None]], -1)
    colour = np.where(depth[..., None] > 0, seen @ turn, 0)
    points = POINTS @ turn.T
    return {
      'image': np.rint(127.5 * (1 + colour)).astype(np.uint8),
      'index': np.int32(index),
      'points': (RADIUS * points[:, :2]).astype(np.float32),
      'visible': points[:, 2] > 0.1,
      'scale': np.float32(2),
    }


def surface(variables, image, size):
  """The point of the sphere, of a length of its own everywhere."""
  label = jnp.asarray(image, jnp.float32) / 127.5 - 1
  return (label * (1 + jnp.abs(label[..., :1])) * variables,)


def screen(variables, image, size):
  """Where a position is in the picture: what does not move with the sphere."""
  place = coords.pixel_grid(SIDE, SIDE) * variables
  label = jnp.concatenate([place, jnp.ones((SIDE, SIDE, 1))], -1)
  return (jnp.broadcast_to(label, (len(image), SIDE, SIDE, 3)),)


def constant(variables, image, size):
  return (jnp.full((len(image), 5, 5, 4), 0.3) * jnp.arange(4) * variables,)


def unused(variables, image, size):
  raise AssertionError('described again')


def given(apply, variables=1):
  return Describer(np.float32(variables), apply)


def measured(describer, *, random_init=None, **options):
  options = {'batch_size': 5} | options
  return drift.measure(describer, Turning, random_init=random_init or {}, **options)


def run(describer, *, random_init=None, **options):
  options = {'batch_size': 5} | options
  return drift.run(describer, Turning, random_init=random_init or {}, **options)


def apart():
  """The mean angle between two of the points."""
  cosines = POINTS @ POINTS.T
  return np.degrees(np.arccos(np.clip(cosines[~np.eye(4, dtype=bool)], -1, 1))).mean()


def test_labels_that_stay_with_the_surface_do_not_drift():
  found = measured(given(surface))
  assert set(found) == {'drift', 'spread', 'drift_ratio'}
  assert found['drift'] < 1  # bilinear on a curved surface, and 8 bits
  assert found['spread'] == pytest.approx(apart(), abs=1)
  assert found['drift_ratio'] == pytest.approx(found['drift'] / found['spread'])


def test_labels_that_stay_on_the_screen_drift_as_the_points_do():
  angles = []
  examples = [Turning('test')[i] for i in range(FRAMES)]
  for k in range(4):
    labels = [np.append(e['points'][k], 1.0) for e in examples if e['visible'][k]]
    unit = [label / np.linalg.norm(label) for label in labels]
    mean = np.sum(unit, axis=0) / np.linalg.norm(np.sum(unit, axis=0))
    angles += [np.degrees(np.arccos(min(1, label @ mean))) for label in unit]
  found = measured(given(screen))
  assert found['drift'] == pytest.approx(np.mean(angles), rel=1e-3)
  assert found['drift'] > 15


@pytest.mark.parametrize('length', [1, 0])
def test_labels_that_are_all_alike_neither_drift_nor_differ(length):
  found = measured(given(constant, length))
  assert found['drift'] == pytest.approx(0, abs=1e-3)
  assert found['spread'] == pytest.approx(0, abs=1e-3)
  assert found['drift_ratio'] == 1


def test_a_label_of_zeros_is_at_right_angles_to_the_others():
  batch = Batch(
    pyramid=(np.repeat(np.float32([[1, 2, 2], [0, 0, 0]]), 3, 0).reshape(6, 1, 1, 3),),
    points=np.zeros((6, 2, 2), np.float32),
    visible=np.ones((6, 2), bool),
  )
  assert drift.angles(batch, side=SIDE)['drift'] == pytest.approx(45)  # half of them


def described(seed=0):
  r = np.random.default_rng(seed)
  return Batch(
    pyramid=(r.normal(size=(7, 5, 6, 3)).astype(np.float32),),
    points=r.uniform(-0.9, 0.9, (7, 4, 2)).astype(np.float32),
    visible=r.uniform(size=(7, 4)) < 0.6,
  )


def test_angles_are_those_of_a_slow_loop():
  batch = described()
  batch.visible[:, 2] = np.arange(7) == 3  # shown once: it cannot drift
  labels, _ = drift.point_labels(batch, side=SIDE)
  means, away = {}, []
  for k in (0, 1, 3):
    mine = [labels[n, k] for n in range(7) if batch.visible[n, k]]
    means[k] = np.mean(mine, axis=0)
    for label in mine:
      away.append(label @ means[k] / np.linalg.norm(label) / np.linalg.norm(means[k]))
  between = [
    a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    for i, a in means.items()
    for j, b in means.items()
    if i != j
  ]
  found = drift.angles(batch, side=SIDE)
  assert found['drift'] == pytest.approx(np.degrees(np.arccos(away)).mean())
  assert found['spread'] == pytest.approx(np.degrees(np.arccos(between)).mean())


@pytest.mark.parametrize('anything', [0.3, np.nan])
def test_the_label_of_a_hidden_point_does_not_matter(anything):
  batch = described()
  points = np.where(batch.visible[..., None], batch.points, np.float32(anything))
  assert (points != batch.points).any()
  assert drift.angles(batch._replace(points=points), side=SIDE) == drift.angles(batch, side=SIDE)


def test_visibility_as_numbers_counts_as_true_and_false():
  batch = described()
  numbers = batch._replace(visible=np.where(batch.visible, 2, 0))  # COCO's: 2 is visible
  assert drift.angles(numbers, side=SIDE) == drift.angles(batch, side=SIDE)
  for found, expected in zip(
    drift.point_labels(numbers, side=SIDE), drift.point_labels(batch, side=SIDE), strict=True
  ):
    np.testing.assert_array_equal(found, expected)


def test_points_must_be_followed():
  batch = described()
  batch.visible[1:, 1:] = False
  with pytest.raises(ValueError, match='1 points are visible in two frames: expected 2'):
    drift.angles(batch, side=SIDE)


def test_points_are_found_again_by_their_mean_label():
  found = run(given(surface))
  scores = drift.score(found)
  assert set(scores) == {'error'}
  assert scores['error'] < 1.5  # a pixel is 2.6
  row = found['trained/0']
  expected = [Turning('test')[i] for i in range(FRAMES)]
  np.testing.assert_array_equal(row.index, np.arange(FRAMES))
  np.testing.assert_array_equal(row.visible, np.stack([e['visible'] for e in expected]))
  np.testing.assert_allclose(row.target, np.stack([e['points'] for e in expected]), atol=1e-6)
  assert drift.score(run(given(screen)))['error'] > 10


def test_the_rows_are_the_better_random_network_and_the_base():
  variants = {'raw': given(screen), 'calibrated': given(surface)}
  options = {'random_init': variants, 'base': given(screen)}
  found, predictions = measured(given(constant), **options), run(given(constant), **options)
  assert set(predictions) == {'trained/0', 'random_init/0', 'base/0'}
  assert found['drift_random_init'] < 1 < 15 < found['drift_base']
  scores = drift.score(predictions)
  assert scores['error_random_init'] < 1.5 < scores['error_base'] < scores['error']
  known = [scoring.parse(name, drift.METRICS) for name in found | scores]
  assert all(metric is not None and not group for metric, _, group in known)
  assert {metric.name for metric, _, _ in known} == {metric.name for metric in drift.METRICS}


@pytest.mark.parametrize('protocol', [drift, nearest])
def test_what_finds_points_is_traced_once_for_all_rows_and_draws(protocol, monkeypatch):
  traced, real = [], prototypes.predict

  def noted(*given, **options):
    traced.append(options)
    return real(*given, **options)

  monkeypatch.setattr(prototypes, 'predict', noted)
  r = np.random.default_rng(0)
  for _ in range(3):
    labels = r.normal(size=(6, 9, 9, 3)).astype(np.float32)
    points = r.uniform(-0.8, 0.8, (6, 4, 2)).astype(np.float32)
    visible, index = np.ones((6, 4), bool), np.arange(6)
    given = Batch(index=index, points=points, visible=visible, scale=np.ones(6), pyramid=(labels,))
    if protocol is drift:
      drift.find_again(given, side=17)  # a side that no other test has
    else:
      nearest.nearest(given, given, side=19, size=9)
  assert len(traced) == 1


def test_baselines_of_an_earlier_run_are_reused():
  before = run(given(constant), random_init={'raw': given(screen)})
  after = run(given(surface), random_init={'raw': given(unused)}, baselines=before)
  assert after['random_init/0'] is before['random_init/0']
  assert drift.score(after)['error'] < 1.5


def test_a_margin_leaves_the_labels_where_they_are():
  expected, found = (measured(given(surface), margin=margin) for margin in (0, 1))
  assert found['drift'] == pytest.approx(expected['drift'], rel=0.05)
  row = run(given(surface), margin=1)['trained/0']
  np.testing.assert_allclose(row.scale, 2 * (SIDE - 1) / (SIDE - 3), rtol=1e-6)
  pixels = (row.points + 1) / 2 * (SIDE - 3)
  np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)


def test_the_same_numbers_come_with_any_batch_and_any_number_of_devices():
  mesh = sharding.mesh(jax.devices())
  found = measured(
    given(surface), batch_size=8, spread=Spread(lambda x: sharding.to_global(x, mesh))
  )
  assert found == pytest.approx(measured(given(surface)), rel=1e-4)


def test_a_set_without_points_is_refused():
  with pytest.raises(
    ValueError, match="drift needs 2 points to tell apart; the split 'test' has 0"
  ):
    drift.check(lambda split: Turning(split, names=()), margin=2)

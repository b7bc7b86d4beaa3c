"""The protocol against landmarks whose answer is known: linear in the labels, or blind."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Describer
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.evaluation import discovery, few_shot
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.runtime import sharding

side, margin = 12, 2
info = Info(('left', 'right', 'nose'), ((0, 1),), (0, 1), (0.5,) * 3, (0.2,) * 3)
counts = {'train': 29, 'test': 11}


class Written:
  """Pictures that have their three landmarks written into their pixels, as bytes."""

  def __init__(self, split, bad=(), hidden=(), **facts):
    self.split, self.bad, self.hidden = split, bad, hidden
    self.info = info._replace(**facts)

  def __len__(self):
    return counts[self.split]

  def __getitem__(self, index):
    if index in self.bad:
      raise BadImage(f'{index}.png', 'is broken')
    rng = np.random.default_rng((len(self.split), int(index)))
    bytes_ = rng.integers(60, 190, (3, 2)).astype(np.uint8)
    image = np.zeros((side, side, 3), np.uint8)
    image[margin, margin : margin + 2] = bytes_.T
    zoom = (side - 1) / (side - 2 * margin - 1)
    points = (bytes_ / np.float32(127.5) - 1) / np.float32(zoom)
    scale = np.linalg.norm(points[0] - points[1]).astype(np.float32)
    points[1] = 9 if index in self.hidden else points[1]  # nobody may look
    return {
      'image': image,
      'index': np.int32(index),
      'points': points,
      'visible': np.array([True, index not in self.hidden, True]),
      'scale': scale,
    }


def never(variables, image, size):
  raise AssertionError('a protocol of landmarks described pictures')


MIX = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)  # 4 landmarks of 3


def reading(mix, image):
  """Landmarks that are a linear mixture of the true ones; how surely: nothing."""
  true = jnp.asarray(image[:, 0, :2], jnp.float32).swapaxes(1, 2) / 127.5 - 1
  points = true.reshape(len(image), 6) @ mix
  return points.reshape(len(image), 4, 2), jnp.ones((len(image), 4))


seeing = Describer(MIX, never, reading)
blind = Describer(0 * MIX, never, reading)


def run(describer=seeing, *, open_split=Written, random_init=None, **options):
  options = {'margin': margin, 'batch_size': 4} | options
  random_init = {'raw': blind} if random_init is None else random_init
  return discovery.run(describer, open_split, random_init=random_init, **options)


def measure(describer=seeing, *, open_split=Written, **options):
  options = {'margin': margin, 'batch_size': 4, 'random_init': {'raw': blind}} | options
  return discovery.measure(describer, open_split, **options)


def test_landmarks_that_are_linear_in_the_labels_score_zero_both_ways():
  scores = discovery.score(run()) | measure()
  assert scores['inter_ocular'] < 1e-2
  assert scores['backward'] < 1e-2
  assert scores['inter_ocular_mean_shape'] > 20
  assert scores['inter_ocular_random_init'] > 20  # all at the centre


def test_landmarks_that_never_move_say_nothing_of_labels_and_are_told_exactly():
  scores = discovery.score(run(blind)) | measure(blind)
  assert scores['backward'] == 0
  found = run(blind)['trained/0']
  np.testing.assert_allclose(found.points, 0, atol=1e-6)  # no constant: the centre


def test_the_fit_is_that_of_the_normal_equations_without_a_constant():
  r = np.random.default_rng(1)
  given, wanted = r.normal(size=(40, 3, 2)) + 0.5, r.normal(size=(40, 2, 2))
  visible = r.random((40, 2)) < 0.7
  there = r.normal(size=(7, 3, 2))
  for ridge in (0.0, 0.3):
    found = discovery.fit(given, wanted, visible, ridge=ridge)(there)
    x = given.reshape(40, 6)
    for k in range(2):
      seen = visible[:, k]
      gram = x[seen].T @ x[seen] + ridge * 40 * (x**2).mean() * np.eye(6)
      kernel = np.linalg.solve(gram, x[seen].T @ wanted[seen, k])
      np.testing.assert_allclose(found[:, k], there.reshape(7, 6) @ kernel, rtol=1e-4, atol=1e-6)


def test_fewer_pictures_than_coordinates_take_the_smallest_map():
  r = np.random.default_rng(1)
  given, wanted = r.normal(size=(3, 4, 2)), r.normal(size=(3, 2, 2))
  predict = discovery.fit(given, wanted, np.ones((3, 2), bool))
  np.testing.assert_allclose(predict(given), wanted, atol=1e-5)
  x = given.reshape(3, 8)
  kernel = x.T @ np.linalg.solve(x @ x.T, wanted.reshape(3, 4))
  there = r.normal(size=(5, 4, 2))
  expected = (there.reshape(5, 8) @ kernel).reshape(5, 2, 2)
  np.testing.assert_allclose(predict(there), expected, rtol=1e-4, atol=1e-6)


def test_visibility_as_numbers_counts_as_true_and_false():
  r = np.random.default_rng(1)
  given, wanted = r.normal(size=(9, 2, 2)), r.normal(size=(9, 3, 2))
  visible = r.random((9, 3)) > 0.3
  found = discovery.fit.__wrapped__(given, wanted, np.where(visible, 2, 0))(given)
  np.testing.assert_array_equal(found, discovery.fit(given, wanted, visible)(given))


def test_few_labels_are_those_drawn_and_all_come_first():
  predictions = run(few=(2, 9), draws=2)
  parts = ['0', 'n2/0', 'n2/1', 'n9/0', 'n9/1']
  assert list(predictions)[:5] == [f'trained/{part}' for part in parts]
  truth = np.stack([Written('train')[i]['points'] for i in range(counts['train'])])
  zoom = (side - 1) / (side - 2 * margin - 1)
  drawn = few_shot.draw_labels(counts['train'], 9, 1)
  mean = truth[drawn].mean(0) * zoom
  for points in predictions['mean_shape/n9/1'].points:
    np.testing.assert_allclose(points, mean, atol=1e-5)
  scores = discovery.score(predictions)
  assert scores['inter_ocular'] <= scores['inter_ocular_n9'] + 1e-2 < scores['inter_ocular_n2']
  assert 'inter_ocular_n9_std' in scores


def test_hidden_landmarks_teach_nothing_forward_and_their_picture_nothing_backward():
  def open_split(split):
    return Written(split, hidden=(1, 2) if split == 'train' else (4,))

  predictions = run(open_split=open_split)
  assert metrics.inter_ocular_error(predictions['trained/0']) < 1e-2
  assert not predictions['trained/0'].visible[4, 1]
  assert measure(open_split=open_split)['backward'] < 1e-2
  with pytest.raises(ValueError, match='no picture shows all labelled landmarks'):
    measure(open_split=lambda split: Written(split, hidden=range(29)))


def test_pictures_that_cannot_be_read_are_left_out():
  predictions = run(open_split=lambda split: Written(split, bad=(3,)))
  kept = [i for i in range(counts['test']) if i != 3]
  np.testing.assert_array_equal(predictions['trained/0'].index, kept)
  assert metrics.inter_ocular_error(predictions['trained/0']) < 1e-2


def test_one_device_and_eight_agree_on_odd_sizes():
  found = []
  for count in (1, 8):
    mesh = sharding.mesh(jax.devices()[:count])
    place = lambda batch, mesh=mesh: sharding.to_global(batch, mesh)  # noqa: E731
    spread = Spread(place, sharding.to_host)
    found.append(run(batch_size=8, few=(9,), spread=spread))
  assert len(found[0]['trained/0'].index) == 11
  for name in found[0]:
    np.testing.assert_allclose(found[0][name].points, found[1][name].points, atol=1e-5)


def test_baselines_are_not_computed_twice():
  def fail(variables, image):
    raise AssertionError('an untrained network was asked')

  first = run(blind)
  again = run(random_init={'raw': Describer(MIX, never, fail)}, baselines=first)
  assert again.keys() == first.keys()
  assert again['random_init/0'] is first['random_init/0']
  assert metrics.inter_ocular_error(again['trained/0']) < 1e-2


def test_the_better_variant_is_the_random_row():
  predictions = run(blind, random_init={'raw': blind, 'calibrated': seeing})
  assert metrics.inter_ocular_error(predictions['random_init/0']) < 1e-2
  assert measure(blind, random_init={'raw': blind, 'other': seeing})['backward_random_init'] == 0


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({'few': (1, 30)}, 'few=30: expected 1 to 29, the number of labelled pictures'),
    ({'few': (0,)}, 'few=0: expected 1 to 29, the number of labelled pictures'),
    ({'draws': 2}, 'draws=2: expected 1 or more, and 1 without few=N'),
    ({'few': (5,), 'seed': -1}, f'seed=-1: expected a whole number, 0 to {2**63 - 1}'),
    ({'ridge': -1.0}, 'ridge=-1.0: expected 0 or more'),
  ],
)
def test_what_cannot_be_run_is_said_before_anything_is_looked_at(options, expected):
  for function in (lambda: run(**options), lambda: discovery.check(Written, **options)):
    with pytest.raises(ValueError, match=f'^{re.escape(expected)}$'):
      function()


def test_features_without_landmarks_are_refused():
  with pytest.raises(ValueError, match='find no landmarks by themselves'):
    run(Describer(MIX, never))
  with pytest.raises(ValueError, match="judged by landmarks; the split 'test' has none"):
    discovery.check(lambda split: Written(split, names=() if split == 'test' else info.names))

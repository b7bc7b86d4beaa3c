"""Landmarks by their nearest label, against describers whose score is known."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.evaluation import few_shot, nearest
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.geometry import coords
from landmarks_jax.runtime import sharding

SIDE, MARGIN = 36, 2
SEEN = SIDE - 2 * MARGIN
COUNTS = {'train': 17, 'test': 11}
PLACES = np.float32([[-0.3, -0.25], [0.35, -0.2], [0.1, 0.3]])
info = Info(('left', 'right', 'mouth'), ((0, 1),), 'frame', (0.5,) * 3, (0.2,) * 3)


class Coloured:
  """Objects at different places and of different size; a colour says where on the object it is."""

  def __init__(self, split, *, bad=(), names=info.names):
    self.split, self.bad, self.info, self.read = split, bad, info._replace(names=names), []

  def __len__(self):
    return COUNTS[self.split]

  def __getitem__(self, index):
    self.read.append(int(index))
    if index in self.bad:
      raise BadImage(f'{index}.png', 'is broken')
    r = np.random.default_rng((len(self.split), int(index)))
    centre, zoom = r.uniform(-0.2, 0.2, 2), r.uniform(0.8, 1.2)
    place = (np.asarray(coords.pixel_grid(SIDE, SIDE)) - centre) / zoom
    image = np.full((SIDE, SIDE, 3), 200.0)
    image[..., :2] = 127.5 * (1 + place / 1.6)
    return {
      'image': np.clip(np.rint(image), 0, 255).astype(np.uint8),
      'index': np.int32(index),
      'points': (centre + zoom * PLACES).astype(np.float32),
      'visible': np.arange(3) != {3: 2, 4: 0}.get(int(index), 9),
      'scale': np.float32(2),
      'next': np.zeros((SIDE, SIDE, 3), np.uint8),
      'flow': np.zeros((SIDE, SIDE, 2), np.float32),
      'flow_valid': np.zeros((SIDE, SIDE), bool),
    }


def seeing(variables, image, size):
  """The place on the object as a point of a sphere, at half the resolution."""
  place = jnp.asarray(image, jnp.float32)[..., :2] / 127.5 - 1
  side = image.shape[1] // 2
  place = place.reshape(-1, side, 2, side, 2, 2).mean((2, 4))
  label = jnp.concatenate([place, jnp.ones_like(place[..., :1])], -1)
  return (label / jnp.linalg.norm(label, axis=-1, keepdims=True) * variables,)


def levels(variables, image, size):
  (label,) = seeing(variables, image, size)
  return label[..., :2], label[..., 2:]


def unused(variables, image, size):
  raise AssertionError('described again')


def given(apply, variables=1):
  return Describer(np.float32(variables), apply)


def run(describer=given(seeing), *, open_split=Coloured, random_init=None, **options):  # noqa: B008
  options = {'margin': MARGIN, 'batch_size': 4} | options
  return nearest.run(describer, open_split, random_init=random_init or {}, **options)


def test_labels_of_the_place_on_the_object_are_found_to_less_than_a_pixel():
  found = run()
  scores = nearest.score(found)
  pixel = 100 / (SIDE - 1)  # in percent of the frame
  assert scores['error'] < 0.6 * pixel
  assert scores['error_low'] < scores['error'] < scores['error_high']
  assert scores['error_mean_shape'] > 2.5 * pixel
  row = found['trained/0']
  np.testing.assert_array_equal(row.index, np.arange(COUNTS['test']))
  truth = [Coloured('test')[i] for i in range(COUNTS['test'])]
  zoom = (SIDE - 1) / (SEEN - 1)
  np.testing.assert_allclose(row.target, zoom * np.stack([e['points'] for e in truth]), rtol=1e-6)
  np.testing.assert_array_equal(row.visible, np.stack([e['visible'] for e in truth]))
  np.testing.assert_allclose(row.scale, 2 * zoom, rtol=1e-6)
  pixels = (row.points + 1) / 2 * (SEEN - 1)  # the grid is that of the pictures as described
  np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)


def test_labels_that_say_nothing_find_the_corner():
  row = run(given(seeing, 0))['trained/0']
  np.testing.assert_allclose(row.points, -1, atol=1e-6)


def test_the_error_is_in_percent_of_the_frame():
  target = np.zeros((2, 1, 2), np.float32)
  points = target + np.float32([[[0.02, 0]], [[0, -0.06]]])
  visible, scale = np.ones((2, 1), bool), np.full(2, 2, np.float32)
  found = Predictions(points, target, visible, scale, np.arange(2))
  assert nearest.score({'trained/0': found})['error'] == pytest.approx(2)


def test_the_mean_shape_is_that_of_the_labels():
  found = run(labels=5, draws=2)
  zoom = (SIDE - 1) / (SEEN - 1)
  for draw in (0, 1):
    rows = few_shot.draw_labels(COUNTS['train'], 5, draw, seed=0)
    examples = [Coloured('train')[i] for i in rows]
    for k in range(3):
      mean = np.mean([e['points'][k] for e in examples if e['visible'][k]], axis=0)
      points = found[f'mean_shape/{draw}'].points[:, k]
      np.testing.assert_allclose(points, np.tile(zoom * mean, (COUNTS['test'], 1)), rtol=1e-4)


def opened(**options):
  """Sources by split that remember what was read of them."""
  sources = {split: Coloured(split, **options) for split in COUNTS}
  return sources, sources.__getitem__


def test_only_labelled_pictures_are_read():
  sources, open_split = opened()
  found = run(open_split=open_split, labels=4, draws=2)
  drawn = [few_shot.draw_labels(COUNTS['train'], 4, draw, seed=0) for draw in (0, 1)]
  assert set(sources['train'].read) == set(np.concatenate(drawn).tolist())
  assert set(found) == {f'{row}/{i}' for row in ('trained', 'mean_shape') for i in (0, 1)}
  scores = nearest.score(found)
  assert scores['error'] < 5 < scores['error_mean_shape']
  assert scores['error_std'] > 0


def test_of_a_large_set_so_many_are_taken_evenly_apart(monkeypatch):
  monkeypatch.setattr(nearest, 'MOST', 5)
  sources, open_split = opened()
  run(open_split=open_split)
  assert set(sources['train'].read) == {0, 4, 8, 12, 16}


def test_a_picture_that_cannot_be_read_is_left_out():
  expected = run(open_split=lambda split: Coloured(split), labels=17)
  found = run(open_split=lambda split: Coloured(split, bad=(6,)))
  kept = np.arange(COUNTS['test']) != 6
  for name, one in found.items():
    np.testing.assert_array_equal(one.index, expected[name].index[kept])
    np.testing.assert_array_equal(one.target, expected[name].target[kept])
  readable = [Coloured('train')[i]['points'][1] for i in range(17) if i != 6]
  mean = np.mean(readable, axis=0) * (SIDE - 1) / (SEEN - 1)
  np.testing.assert_allclose(found['mean_shape/0'].points[0, 1], mean, rtol=1e-4)


@pytest.mark.parametrize(('batch_size', 'devices'), [(3, 1), (8, 8)])
def test_the_same_numbers_come_with_any_batch_and_any_number_of_devices(batch_size, devices):
  mesh = sharding.mesh(jax.devices()[:devices])
  expected = run()['trained/0']
  found = run(batch_size=batch_size, spread=Spread(lambda x: sharding.to_global(x, mesh)))[
    'trained/0'
  ]
  np.testing.assert_array_equal(found.index, expected.index)
  np.testing.assert_allclose(found.points, expected.points, atol=1e-5)


def test_labels_are_kept_in_float32_and_films_are_not_kept():
  found = nearest.gather(given(seeing, 0.1), Coloured('test'), margin=MARGIN, batch_size=4)
  (level,) = found.pyramid
  assert level.dtype == np.float32
  assert level.shape == (COUNTS['test'], SEEN // 2, SEEN // 2, 3)
  np.testing.assert_allclose(np.linalg.norm(level, axis=-1), 0.1, rtol=1e-6)
  assert found.image is found.next is found.flow is found.flow_valid is None


def test_levels_together_find_what_their_column_does():
  np.testing.assert_allclose(
    run(given(levels))['trained/0'].points, run()['trained/0'].points, atol=1e-6
  )


def test_a_finer_grid_is_finer():
  coarse, fine = (nearest.score(run(size=size))['error'] for size in (8, 64))
  assert fine < 1.5 < coarse


def test_the_rows_are_the_better_random_network_the_base_and_the_mean():
  variants = {'blind': given(seeing, 0), 'sees': given(seeing, 2)}
  found = run(given(seeing, 0), random_init=variants, base=given(seeing))
  assert set(found) == {f'{r}/0' for r in ('trained', 'random_init', 'base', 'mean_shape')}
  scores = nearest.score(found)
  assert scores['error_random_init'] == pytest.approx(scores['error_base'], rel=1e-3)
  assert scores['error_base'] < 2 < scores['error_mean_shape'] < scores['error']


def test_baselines_of_an_earlier_run_are_reused():
  before = run(given(seeing, 0), random_init={'raw': given(seeing)})
  after = run(baselines=before, random_init={'raw': given(unused)})
  assert set(after) == set(before)
  assert after['random_init/0'] is before['random_init/0']
  assert nearest.score(after)['error'] < nearest.score(before)['error'] / 10


def test_mirrored_landmarks_that_are_exchanged_are_counted():
  found = run()['trained/0']
  exchanged = found._replace(points=found.points[:, [1, 0, 2]])
  scores = nearest.score({'trained/0': found, 'base/0': exchanged}, flip_pairs=((0, 1),))
  assert scores['left_right_confusion'] == 0
  assert scores['left_right_confusion_base'] == 100


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'labels': 18}, 'labels=18: expected 1 to 17'),
    ({'labels': 0}, 'labels=0: expected 1 to 17'),
    ({'draws': 2}, 'draws=2: expected 1 or more, and 1 without labels=N'),
    ({'labels': 5, 'seed': -1}, f'seed=-1: expected a whole number, 0 to {2**63 - 1}'),
    ({'size': 1}, 'size=1: expected a grid'),
  ],
)
def test_what_cannot_be_done_is_said_before_anything_is_described(options, message):
  sources, open_split = opened()
  with pytest.raises(ValueError, match=re.escape(message)):
    nearest.check(open_split, margin=MARGIN, **options)
  assert not sources['train'].read


def test_sets_without_landmarks_are_refused():
  _, open_split = opened(names=())
  with pytest.raises(ValueError, match="nearest needs landmarks; the split 'train' has none"):
    run(open_split=open_split)


def test_pictures_to_learn_from_that_cannot_be_read_are_told_or_stop_the_run():
  def found(on_bad_image):
    told = []
    bad = pipeline.BadImages(COUNTS['train'], on_bad_image, told.append)
    source = pipeline.Reporting(Coloured('train', bad=(5, 6)), bad)
    run(open_split=lambda split: source if split == 'train' else Coloured(split), labels=12)
    return told, bad.found

  drawn = set(few_shot.draw_labels(COUNTS['train'], 12, 0, seed=0).tolist()) & {5, 6}
  assert drawn
  told, bad = found('skip')
  assert bad.keys() == drawn
  assert len(told) == len(drawn)
  assert told[0].startswith('bad picture 1 of 17, skipped: ')
  with pytest.raises(BadImage):
    found('error')

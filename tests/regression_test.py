"""The protocol against describers whose score is known: one that marks the landmarks, one blind."""

import gc
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.evaluation import features, few_shot, regression
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.geometry import coords
from landmarks_jax.runtime import sharding

side, margin, spread = 36, 2, 4.0
info = Info(('left', 'right', 'nose'), ((0, 1),), (0, 1), (0.5,) * 3, (0.2,) * 3)
counts = {'train': 13, 'test': 11}


class Marked:
  """Pictures with a soft dot at each of three landmarks, each in a colour of its own."""

  def __init__(self, split, bad=(), **facts):
    self.split, self.bad, self.info = split, bad, info._replace(**facts)

  def __len__(self):
    return counts[self.split]

  def __getitem__(self, index):
    if index in self.bad:
      raise BadImage(f'{index}.png', 'is broken')
    rng = np.random.default_rng((len(self.split), int(index)))
    centres = [(-0.4, -0.2), (0.4, -0.3), (0.1, 0.4)]
    points = (rng.uniform(-0.35, 0.35, (3, 2)) + centres).astype(np.float32)
    pixels = coords.to_pixels(points, width=side, height=side)
    away = np.arange(side) - np.asarray(pixels)[..., None]
    dots = np.exp(-(away[:, 1, :, None] ** 2 + away[:, 0, None] ** 2) / (2 * spread**2))
    return {
      'image': np.rint(255 * dots).astype(np.uint8).transpose(1, 2, 0),
      'index': np.int32(index),
      'points': points,
      'visible': np.ones(3, bool),
      'scale': np.linalg.norm(points[0] - points[1]),
    }


def planted(variables, image, size):
  """Features that are the landmarks' own maps."""
  return (jnp.asarray(image, jnp.float32) * variables,)


seeing = Describer(np.float32(1), planted)
blind = Describer(np.float32(0), planted)


def run(describer=seeing, *, open_split=Marked, random_init=None, **options):
  # These pictures have sides: left and right differ in colour.
  options = {'margin': margin, 'size': 8, 'batch_size': 4, 'mirror': False} | options
  random_init = {'raw': blind} if random_init is None else random_init
  return regression.run(describer, open_split, random_init=random_init, **options)


def errors(predictions, row):
  found = [p for name, p in sorted(predictions.items()) if name.split('/')[0] == row]
  return [metrics.inter_ocular_error(p) for p in found]


def test_features_that_mark_the_landmarks_score_near_zero():
  predictions = run(size=12, labels=6)
  (seen,) = errors(predictions, 'trained')
  (mean,) = errors(predictions, 'mean_shape')
  assert seen < 8  # percent; half a cell of the maps is 10
  assert mean > 45
  points = predictions['trained/0']
  np.testing.assert_array_equal(points.index, np.arange(counts['test']))
  zoom = (side - 1) / (side - 2 * margin - 1)
  truth = np.stack([Marked('test')[i]['points'] for i in range(counts['test'])])
  np.testing.assert_allclose(points.target, truth * zoom, rtol=1e-6)


@pytest.mark.parametrize('labels', [None, 5])
def test_features_that_see_nothing_score_the_mean_shape(labels):
  predictions = run(blind, labels=labels)
  np.testing.assert_allclose(
    predictions['trained/0'].points, predictions['mean_shape/0'].points, atol=0.03
  )  # an eighth of a cell: where labels are near the edge, the map ends before its dot does
  (blindly,), (mean,) = (errors(predictions, row) for row in ('trained', 'mean_shape'))
  assert blindly == pytest.approx(mean, rel=0.02)


def test_the_mean_shape_is_that_of_the_labels_drawn():
  labels, draws, seed = 4, 3, 7
  predictions = run(labels=labels, draws=draws, seed=seed)
  zoom = (side - 1) / (side - 2 * margin - 1)
  truth = np.stack([Marked('train')[i]['points'] for i in range(counts['train'])]) * zoom
  chosen = [few_shot.draw_labels(counts['train'], labels, draw, seed=seed) for draw in range(draws)]
  assert len({tuple(rows) for rows in chosen}) == draws
  for draw, drawn in enumerate(chosen):
    expected = truth[drawn].mean(0)
    for points in predictions[f'mean_shape/{draw}'].points:
      np.testing.assert_allclose(points, expected, atol=1e-6)


def test_mirrored_labels_are_labels_too():
  one = {'labels': 1, 'copies': 2}
  plain, mirrored = run(blind, **one), run(blind, mirror=True, **one)
  label = plain['mean_shape/0'].points[0]
  np.testing.assert_array_equal(mirrored['mean_shape/0'].points[0], label)  # the bar is not moved
  for found, symmetric in ((plain, False), (mirrored, True)):
    points = found['trained/0'].points[0]
    other_side, _ = coords.mirrored(points, np.ones(3, bool), info.flip_pairs)
    assert np.allclose(points, other_side, atol=1e-3) == symmetric
  unpaired = run(blind, mirror=True, open_split=lambda split: Marked(split, flip_pairs=()), **one)
  np.testing.assert_array_equal(unpaired['trained/0'].points, plain['trained/0'].points)


@pytest.mark.parametrize(('head', 'size'), [('probe', 48), ('ridge', None)])
def test_features_are_described_on_the_grid_of_the_published_head(head, size):
  asked = []

  def noted(variables, image, size):
    asked.append(size)
    return planted(variables, image, size)

  given = Describer(np.float32(1), noted)
  run(given, random_init={}, head=head, probe_epochs=1, labels=3, copies=1)
  assert asked == [size, size]  # of pictures, and of their copies


def test_all_labels_are_not_mirrored():
  np.testing.assert_array_equal(*(run(mirror=m)['trained/0'].points for m in (False, True)))


def test_labels_that_are_not_visible_have_no_part_in_the_mean_shape():
  labelled, target = (features.gather(seeing, batches(split)) for split in ('train', 'test'))
  labelled.visible[3, 1] = False
  labelled.points[3, 1] = 1e6
  rows = np.array([3, 5, 8])
  found = regression.mean_shape(labelled, target, rows).points[0]
  np.testing.assert_allclose(found[1], labelled.points[[5, 8], 1].mean(0), rtol=1e-6)
  numbers = labelled._replace(visible=np.where(labelled.visible, 2, 0))  # COCO's: 2 is visible
  np.testing.assert_array_equal(regression.mean_shape(numbers, target, rows).points[0], found)
  np.testing.assert_allclose(found[0], labelled.points[rows, 0].mean(0), rtol=1e-6)
  labelled.visible[rows, 2] = False  # in none: the middle of the frame, as any point is a guess
  np.testing.assert_array_equal(regression.mean_shape(labelled, target, rows).points[:, 2], 0)


def batches(split):
  return pipeline.evaluation_batches(Marked(split), batch_size=4)


@pytest.mark.parametrize('order', [('good', 'bad'), ('bad', 'good')])
def test_the_random_row_is_the_better_of_its_variants(order):
  variants = {'good': seeing, 'bad': blind}
  predictions = run(blind, random_init={name: variants[name] for name in order}, labels=6, draws=2)
  assert max(errors(predictions, 'random_init')) < 15
  assert min(errors(predictions, 'trained')) > 45


def test_baselines_are_not_computed_twice():
  def never(variables, image, size):
    raise AssertionError('an untrained network was described')

  first = run(blind, labels=6, draws=2, random_init={'raw': seeing})
  again = run(
    labels=6, draws=2, random_init={'raw': Describer(np.float32(1), never)}, baselines=first
  )
  assert again.keys() == first.keys()
  for name in first:
    same = np.array_equal(first[name].points, again[name].points)
    assert same == (not name.startswith('trained'))
  assert max(errors(again, 'trained')) < 15


def test_memory_holds_the_features_of_one_row_at_a_time(monkeypatch):
  gather, kept = features.gather, []

  def noted(given, *arguments, **options):
    gc.collect()  # what JAX still holds of an earlier call
    others = [row for row, maps in kept if maps() is not None and row is not given]
    assert not others, 'the features of another row are still in memory'
    found = gather(given, *arguments, **options)
    kept.append((given, weakref.ref(found.pyramid[0])))
    return found

  monkeypatch.setattr(features, 'gather', noted)
  rows = [Describer(np.float32(strength), planted) for strength in (1, 0, 2, 3)]
  random_init = {'raw': rows[1], 'calibrated': rows[2]}
  run(rows[0], random_init=random_init, base=rows[3], labels=5, copies=1)
  assert [given for given, _ in kept] == [row for row in rows for _ in ('train', 'test')]


def predictions(error):
  target = np.zeros((2, 1, 2), np.float32)
  points = target + np.float32([error, 0])
  return Predictions(points, target, np.ones((2, 1), bool), np.ones(2), np.arange(2))


def test_scores_are_percent_by_row_with_their_spread():
  one = {'trained/0': predictions(0.1), 'mean_shape/0': predictions(0.3)}
  bounds = {f'inter_ocular_{end}': 10 for end in ('low', 'high')}
  bounds |= {f'inter_ocular_mean_shape_{end}': 30 for end in ('low', 'high')}
  assert regression.score(one) == pytest.approx(
    {'inter_ocular': 10, 'inter_ocular_mean_shape': 30} | bounds, rel=1e-6
  )
  two = one | {'trained/1': predictions(0.2), 'random_init/0': predictions(0.25)}
  two |= {'mean_shape/1': predictions(0.3), 'random_init/1': predictions(0.75)}
  assert regression.score(two) == pytest.approx(
    {
      'inter_ocular': 15,
      'inter_ocular_std': 50**0.5,
      'inter_ocular_mean_shape': 30,
      'inter_ocular_mean_shape_std': 0,
      'inter_ocular_random_init': 50,
      'inter_ocular_random_init_std': 1250**0.5,
    },
    rel=1e-6,
    abs=1e-5,
  )


@pytest.mark.parametrize('labels', [None, 10])
def test_pictures_that_cannot_be_read_are_left_out(labels):
  bad = {'train': (0, 6), 'test': (10,)}
  predictions = run(open_split=lambda split: Marked(split, bad[split]), labels=labels)
  np.testing.assert_array_equal(predictions['trained/0'].index, np.arange(10))
  assert errors(predictions, 'trained')[0] < 15


def test_one_device_and_eight_agree():
  found = []
  for count in (1, 8):
    mesh = sharding.mesh(jax.devices()[:count])
    place = lambda image, mesh=mesh: sharding.to_global(image, mesh)  # noqa: E731
    found.append(run(batch_size=8, labels=6, draws=2, spread=Spread(place)))
  for name in found[0]:
    np.testing.assert_allclose(found[0][name].points, found[1][name].points, atol=1e-4)


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({'labels': 14}, 'labels=14: expected 1 to 13, the number of labelled pictures'),
    ({'labels': 0}, 'labels=0: expected 1 to 13, the number of labelled pictures'),
    ({'labels': 3, 'draws': 0}, 'draws=0: expected 1 or more, and 1 without labels=N'),
    ({'draws': 2}, 'draws=2: expected 1 or more, and 1 without labels=N'),
    ({'labels': 5, 'seed': -1}, f'seed=-1: expected a whole number, 0 to {2**63 - 1}'),
    ({'head': 'ridg'}, "head='ridg': choose from ridge, probe"),
    ({'size': 0}, 'size=0: expected heat maps of at least 2 positions a side'),
    ({'probe_size': 1}, 'probe_size=1: expected 2 or more'),
    ({'probe_epochs': 0}, 'probe_epochs=0: expected 1 or more'),
    ({'probe_epoch_size': -1}, 'probe_epoch_size=-1: expected 0 or more'),
    ({'probe_validate_every': 0}, 'probe_validate_every=0: expected 1 or more'),
    (
      {'probe_epochs': 100, 'probe_stop_epoch': 120},
      'probe_stop_epoch=120: expected 1 to 100, the epochs of the schedule',
    ),
  ],
)
def test_what_cannot_be_run_is_said_before_anything_is_described(options, expected):
  for function in (lambda: run(**options), lambda: regression.check(Marked, **options)):
    with pytest.raises(ValueError, match=f'^{re.escape(expected)}$'):
      function()


def test_a_set_without_landmarks_is_said():
  for split in ('train', 'test'):

    def open_split(name, split=split):
      return Marked(name, names=() if name == split else info.names)

    with pytest.raises(ValueError, match=f"^regression needs landmarks; the split '{split}' has"):
      run(open_split=open_split)


def test_several_numbers_of_labels_make_a_curve():
  predictions = run(labels=(2, 6), draws=2, copies=2, size=8)
  parts = [f'n{labels}/{draw}' for labels in (2, 6) for draw in range(2)]
  assert set(predictions) == {
    f'{row}/{p}' for row in ('trained', 'mean_shape', 'random_init') for p in parts
  }
  alone = run(labels=6, draws=2, copies=2, size=8)
  for draw in range(2):
    np.testing.assert_allclose(
      predictions[f'trained/n6/{draw}'].points, alone[f'trained/{draw}'].points, atol=1e-5
    )
  scores = regression.score(predictions)
  for labels in (2, 6):
    name = f'inter_ocular_n{labels}'
    assert scores[name] < 0.5 * scores[f'{name}_mean_shape']
  assert {'inter_ocular_n2_std', 'inter_ocular_n6_random_init_std'} <= scores.keys()


@pytest.mark.parametrize('head', ['ridge', 'probe'])
def test_it_tells_how_many_labels_are_fitted_over_all_rows(head, capsys, monkeypatch):
  monkeypatch.setattr('landmarks_jax.runtime.logs.INTERVAL', 0)
  options = {'labels': (1, 3), 'draws': 2, 'copies': 1, 'head': head, 'probe_epochs': 1}
  once = run(base=seeing, random_init={'raw': blind, 'calibrated': blind}, **options)
  told = [line.split(' labels fitted')[0] for line in capsys.readouterr().out.splitlines()]
  done = [n + 8 * row for row in range(4) for n in (1, 2, 5, 8)]
  assert told == [f'{n} of 32' for n in done]
  run(base=seeing, baselines=once, **options)
  assert capsys.readouterr().out.splitlines()[-1].startswith('8 of 8 labels fitted, ')


def test_the_base_is_a_row_of_its_own():
  predictions = run(blind, labels=6, base=seeing)
  assert errors(predictions, 'base')[0] < 15 < errors(predictions, 'trained')[0]
  again = run(blind, labels=6, base=Describer(np.float32(0), planted), baselines=predictions)
  assert again['base/0'] is predictions['base/0']


def test_warped_copies_of_the_labels_are_labels():
  """Fits differ with copies, and those of one label alone already see the landmarks move."""
  plain, copied = (run(labels=1, copies=copies, size=8)['trained/0'] for copies in (0, 20))
  assert np.abs(plain.points - copied.points).max() > 0.01
  mean = errors(run(labels=1), 'mean_shape')[0]
  assert metrics.inter_ocular_error(copied) < mean


def test_pairs_that_are_swapped_are_counted():
  target = np.tile(np.array([[-0.5, 0], [0.5, 0], [0, 0.5]], np.float32), (4, 1, 1))
  points = target.copy()
  points[1, :2] = points[1, 1::-1]
  given = Predictions(points, target, np.ones((4, 3), bool), np.ones(4), np.arange(4))
  scores = regression.score({'trained/0': given}, flip_pairs=((0, 1),))
  assert scores['left_right_confusion'] == pytest.approx(25)
  hidden = given._replace(visible=np.tile([True, False, True], (4, 1)))
  assert 'left_right_confusion' not in regression.score({'trained/0': hidden}, flip_pairs=((0, 1),))


def test_a_validation_split_needs_the_head_that_has_epochs():
  with pytest.raises(ValueError, match='validation='):
    regression.check(Marked, validation='train')
  with pytest.raises(ValueError, match=r'labels=14: expected 1 to 13'):
    regression.check(Marked, labels=(1, 14))
  with pytest.raises(ValueError, match='copies=-1'):
    regression.check(Marked, labels=1, copies=-1)

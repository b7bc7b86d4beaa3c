"""The layers study: its rows are those of the protocol on levels that were cut by hand."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Describer
from landmarks_jax.data.source import Info
from landmarks_jax.evaluation import invariance, layers, matching, nearest, regression
from landmarks_jax.geometry import coords

SIDE, MARGIN = 36, 2
LANDMARKS = np.float32([[-0.3, -0.2], [0.35, -0.25], [0.05, 0.35]])
info = Info(('left', 'right', 'mouth'), ((0, 1),), (0, 1), (0.5,) * 3, (0.2,) * 3)
counts = {'train': 24, 'test': 7}
REGRESSION = {'margin': MARGIN, 'labels': (3, 16), 'draws': 2, 'copies': 2, 'size': 6}
REGRESSION |= {'batch_size': 4}
NEAREST = {'margin': MARGIN, 'of': 'nearest', 'labels': 9, 'draws': 2, 'batch_size': 4}
MATCHING = {'margin': MARGIN, 'of': 'matching', 'size': 16, 'batch_size': 2}


class Coloured:
  """Objects at different places; the colour of a point says where on the object it is."""

  info = info

  def __init__(self, split):
    self.split = split

  def __len__(self):
    return counts[self.split]

  def __getitem__(self, index):
    r = np.random.default_rng((len(self.split), index))
    centre = r.uniform(-0.15, 0.15, 2)
    place = np.asarray(coords.pixel_grid(SIDE, SIDE)) - centre
    image = np.concatenate([127.5 * (1 + place / 1.4), np.full((SIDE, SIDE, 1), 90)], -1)
    points = (centre + LANDMARKS).astype(np.float32)
    return {
      'image': np.clip(np.rint(image), 0, 255).astype(np.uint8),
      'index': np.int32(index),
      'points': points,
      'visible': np.ones(3, bool),
      'scale': np.linalg.norm(points[0] - points[1]),
    }


def pooled(image, cell):
  side = image.shape[1] // cell
  return image.reshape(-1, side, cell, side, cell, image.shape[-1]).mean((2, 4))


def three(variables, image, size):
  """Levels of 4, 8 and 16 cells with 3, 2 and 5 channels, each with something of its own."""
  image = jnp.asarray(image, jnp.float32) / 255 * variables
  angle = jnp.pi * pooled(image, 4)[..., :2]
  fine = jnp.concatenate([pooled(image, 2), jnp.sin(9 * pooled(image, 2)[..., :2])], -1)
  return pooled(image, 8), jnp.cos(angle), fine


def given(variables=1):
  return Describer(np.float32(variables), three)


def cut(start, stop):
  def apply(variables, image, size):
    return three(variables, image, size)[start:stop]

  return Describer(np.float32(1), apply)


def run(describer=given(), *, random_init=None, **options):  # noqa: B008
  return layers.run(describer, Coloured, random_init=random_init or {}, **options)


PARTS = {'level_1': (0, 1), 'level_2': (1, 2), 'level_3': (2, 3), 'column_2': (0, 2)}


@pytest.mark.parametrize(
  ('protocol', 'options', 'tasks'),
  [
    (regression, REGRESSION, ['n3/0', 'n3/1', 'n16/0', 'n16/1']),
    (matching, MATCHING, ['different', 'same', 'different_paper', 'same_paper']),
    (nearest, NEAREST, ['0', '1']),
  ],
)
def test_rows_are_the_protocol_on_levels_cut_by_hand(protocol, options, tasks):
  found = run(**options)
  own = {k: v for k, v in options.items() if k != 'of'}
  expected = protocol.run(given(), Coloured, random_init={}, **own)
  for name, part in PARTS.items():
    alone = protocol.run(cut(*part), Coloured, random_init={}, **own)
    expected |= {f'{name}/{task}': alone[f'trained/{task}'] for task in tasks}
  assert found.keys() == expected.keys()
  for name, predictions in found.items():
    for one, other in zip(predictions, expected[name], strict=True):
      np.testing.assert_array_equal(one, other)
  names = (*PARTS, 'trained')
  points = [np.stack([found[f'{name}/{task}'].points for task in tasks]) for name in names]
  assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(points) for b in points[:i])


def test_untrained_levels_are_those_of_the_better_variant():
  dead = Describer(np.float32(0), three)
  found = run(dead, random=True, random_init={'raw': dead, 'calibrated': given()}, **MATCHING)
  seen = run(**MATCHING)
  for name in PARTS:
    for task in ('different', 'same_paper'):
      random, blind = (found[f'{row}/{task}'].points for row in (f'random_{name}', name))
      np.testing.assert_array_equal(random, seen[f'{name}/{task}'].points)
      assert np.abs(random - blind).max() > 0.1
  assert not any('random' in name for name in seen)
  without = run(dead, random_init={'raw': given()}, **MATCHING)
  assert {name.split('/')[0] for name in without} == {
    *PARTS,
    'trained',
    'random_init',
    'same_position',
  }


def test_baselines_are_kept_and_levels_are_of_the_new_weights():
  first = run(given(0), random=True, random_init={'raw': given()}, **MATCHING)
  again = run(given(2), random=True, random_init={'raw': given(3)}, baselines=first, **MATCHING)
  assert again.keys() == first.keys()
  for name in first:
    row = name.split('/')[0]
    same = np.array_equal(first[name].points, again[name].points)
    assert same == (row not in PARTS and row != 'trained'), name


@pytest.mark.parametrize('of', ['regression', 'matching'])
def test_levels_and_columns_run_the_programs_of_the_whole(of):
  traced = []

  def apply(variables, image, size):
    traced.append(image.shape)
    return three(variables, image, size)

  whole = Describer(np.float32(1), apply)
  options = {'random_init': {}, **(MATCHING if of == 'matching' else REGRESSION)}
  alone = {name: value for name, value in options.items() if name != 'of'}
  {'regression': regression, 'matching': matching}[of].run(whole, Coloured, **alone)
  before = len(traced)
  layers.run(whole, Coloured, **options)
  assert before > 0
  assert len(traced) == before + 1  # once for the sizes of its levels


def test_scores_name_the_level():
  scores = layers.score(run(**REGRESSION), of='regression', flip_pairs=((0, 1),))
  names = [
    f'inter_ocular_{n}{row}' for n in ('n3', 'n16') for row in ('', *(f'_{p}' for p in PARTS))
  ]
  assert set(names) < scores.keys()
  assert 'left_right_confusion_n16_column_2' in scores
  scores = layers.score(run(**MATCHING), of='matching')
  assert {'different_level_1', 'same_paper_column_2', 'same_level_3_low'} < scores.keys()


def test_measures_are_of_each_level_and_of_the_last_random_variant():
  options = {'margin': MARGIN, 'measured': 6, 'batch_size': 2}
  found = layers.measure(
    given(), Coloured, random_init={'raw': given(0), 'last': cut(1, 3)}, **options, labels=7
  )
  pairs = invariance.opposite_pairs(Coloured('test'), 6)
  for row, part in (
    *list(PARTS.items())[:3],
    ('random_level_1', (1, 2)),
    ('random_level_2', (2, 3)),
  ):
    distances = invariance.distances(cut(*part), pairs, margin=MARGIN)[:, 0]
    for i, metric in enumerate(invariance.METRICS):
      near, far = distances[:, i].T
      name = f'{metric.name}_{row}'
      assert found[name] == pytest.approx(1 - near.mean() / far.mean(), abs=1e-3)
      assert 0 <= found[f'{name}_low'] <= found[name] <= found[f'{name}_high'] <= 1
  assert len(found) == 5 * 3 * 3
  assert len({round(v, 4) for k, v in found.items() if re.search(r'\d$', k)}) == 3 * 3


def test_options_are_those_of_the_protocol():
  assert layers.extends('matching') is matching.run
  assert layers.extends('regression') is layers.extends('pck') is regression.run
  unknown = r"^of='matchin' is not known \(did you mean 'matching'\?\); there are: .*, pck, "
  measured = r"^of='drift': expected a protocol whose scores are all of points that it predicts"
  for of, expected in {'matchin': unknown, 'drift': measured}.items():
    for function in (
      lambda of=of: layers.extends(of),
      lambda of=of: layers.check(Coloured, of=of),
      lambda of=of: run(of=of),
    ):
      with pytest.raises(ValueError, match=expected):
        function()


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({'measured': 1}, 'measured=1: expected at least 2 pictures, to tell apart'),
    ({'labels': 25}, 'labels=25: expected 1 to 24, the number of labelled pictures'),
    ({'of': 'matching', 'count': 8}, 'count=8: expected an even number of pictures, 2 to 7'),
  ],
)
def test_what_cannot_be_run_is_said(options, expected):
  with pytest.raises(ValueError, match=f'^{re.escape(expected)}$'):
    layers.check(Coloured, **options)


def test_sizes_are_those_of_the_levels():
  assert layers.level_sizes(given(), 32) == ((4, 3), (8, 2), (16, 5))

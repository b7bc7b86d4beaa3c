"""The oracle: curves over labels, on features that are the picture itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Describer
from landmarks_jax.data.source import Info, normaliser
from landmarks_jax.inference.model import Model
from landmarks_jax.labelling import simulate as simulation
from landmarks_jax.labelling.simulate import CHOSEN, RANDOM, Curve

FRAME, MARGIN, LEVEL = 28, 2, 12


class Discs:
  """Two coloured squares at random places; index is the number."""

  info = Info(('left', 'right'), ((0, 1),), 'frame', (0.5,) * 3, (0.2,) * 3)

  def __init__(self, count, seed):
    rng = np.random.default_rng(seed)
    self.places = rng.integers([[5, 5], [15, 10]], [[12, 22], [22, 22]], size=(count, 2, 2))

  def __len__(self):
    return len(self.places)

  def __getitem__(self, index):
    image = np.full((FRAME, FRAME, 3), 90, np.uint8)
    for (x, y), channel in zip(self.places[index], (0, 1), strict=True):
      image[y - 1 : y + 2, x - 1 : x + 2, channel] = 250
    points = (2 * self.places[index] / (FRAME - 1) - 1).astype(np.float32)
    example = {'image': image, 'points': points, 'visible': np.ones(2, bool)}
    return example | {'scale': normaliser(points, 'frame'), 'index': np.int32(index)}


def see(variables, image, size):
  maps = jax.image.resize(jnp.asarray(image, float), (len(image), LEVEL, LEVEL, 3), 'linear')
  return (maps / 255 * variables,)


@pytest.fixture(scope='module')
def model():
  return Model(Describer(jnp.ones(3), see), {'method': {}}, frame=FRAME, margin=MARGIN)


@pytest.fixture(scope='module')
def curves(model):
  told = []
  options = {'counts': (4,), 'draws': 2, 'copies': 2, 'report': told.append}
  found = simulation.simulate(model, Discs(40, 1), Discs(12, 2), **options)
  assert told[0] == 'train: 40 pictures described'
  assert told[-1].startswith('draw 1, random: 4: ')
  return found


def test_both_ways_are_measured_and_better_than_knowing_nothing(curves):
  assert curves[CHOSEN].counts == (4,)
  assert curves[RANDOM].counts == (4, 6)
  assert curves[RANDOM].errors.shape == (2, 2)
  places = 2 * Discs(12, 2).places / (FRAME - 1) - 1
  spread = 100 * np.linalg.norm(places - places.mean(0), axis=-1).mean() / 2
  for curve in curves.values():
    assert (curve.errors[:, -1] < 0.7 * spread).all()


def test_it_is_the_same_every_time(model, curves):
  options = {'counts': (4,), 'draws': 1, 'copies': 2, 'report': lambda line: None}
  again = simulation.simulate(model, Discs(40, 1), Discs(12, 2), **options)
  assert again[CHOSEN].errors[0, 0] == curves[CHOSEN].errors[0, 0]


def test_chosen_pictures_are_those_that_a_session_would_suggest(model):
  from landmarks_jax.labelling import learner, order

  looks = order.poses(learner.semantic((np.random.default_rng(0).normal(size=(20, 6, 6, 4)),)))
  picked = simulation._picked(CHOSEN, looks, 6, 0)
  one_by_one = []
  for _ in range(6):
    free = np.ones(20, bool)
    free[one_by_one] = False
    one_by_one += order.suggest(looks, one_by_one, free, count=1)
  assert picked(6).tolist() == one_by_one
  assert picked(3).tolist() == one_by_one[:3]


def test_random_pictures_of_fewer_labels_are_among_those_of_more():
  picked = simulation._picked(RANDOM, np.zeros((30, 2)), 12, 3)
  assert set(picked(5)) < set(picked(12))
  assert set(picked(5)) != set(simulation._picked(RANDOM, np.zeros((30, 2)), 12, 4)(5))


def test_the_labels_that_random_pictures_need_are_read_from_their_curve():
  curve = Curve((5, 10, 20, 40), np.array([[20.0, 17, 15, 12], [20, 15, 13, 12]]))
  assert curve.needed(20.0) == pytest.approx(5)
  assert curve.needed(14.0) == pytest.approx(20)
  assert curve.needed(15.0) == pytest.approx(10 * 2**0.5)  # half way between logarithms
  assert np.isnan(curve.needed(11.9))
  assert np.isnan(curve.needed(20.1))
  bumpy = Curve((5, 10, 20), np.array([[14.0, 15, 12]]))
  assert bumpy.needed(13.0) == pytest.approx(10 * 2**0.5)


def test_the_table_holds_every_count_and_what_random_needs():
  random = Curve((4, 6, 8, 12), np.array([[20.0, 16, 15, 11], [20, 16, 13, 11]]))
  chosen = Curve((4, 8), np.array([[16.0, 10], [16, 12]]))
  lines = simulation.table({CHOSEN: chosen, RANDOM: random}).splitlines()
  assert ' '.join(lines[1].split()) == '4 16.00 ± 0.00 20.00 ± 0.00 16.00 ± 0.00 0.67'
  assert ' '.join(lines[2].split()) == '8 11.00 ± 1.00 14.00 ± 1.00 11.00 ± 0.00 0.67'


@pytest.mark.parametrize('options', [{'counts': (30,)}, {'counts': (0,)}, {'draws': 0}])
def test_more_labels_than_pictures_are_refused(model, options):
  with pytest.raises(ValueError, match='half of the pictures are 20'):
    simulation.simulate(model, Discs(40, 1), Discs(12, 2), **options)

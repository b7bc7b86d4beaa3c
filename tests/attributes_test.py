"""Attributes from landmarks whose answer is known."""

import builtins
import functools
import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Describer
from landmarks_jax.data.source import Info
from landmarks_jax.evaluation import attributes, scoring

counts = {'train': 61, 'test': 23}
NAMES = 'Right', 'Low', 'Always', 'Known'  # the last one in training only


class Placed:
  """Pictures that have one point written into their pixels, and attributes of its place."""

  def __init__(self, split, names=NAMES):
    self.split = split
    self.info = Info(('p',), (), 'frame', (0.5,) * 3, (0.2,) * 3, attributes=names)

  def __len__(self):
    return counts[self.split]

  def __getitem__(self, index):
    x, y = np.random.default_rng((len(self.split), int(index))).integers(0, 256, 2)
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0, :2] = x, y
    known = np.array([x > 100, y > 200, True, self.split == 'train'])
    return {'image': image, 'index': np.int32(index), 'attributes': known}


def never(variables, image, size):
  raise AssertionError('a protocol of landmarks described pictures')


def reading(strength, image):
  points = strength * (jnp.asarray(image[:, 0, 0, :2], jnp.float32) / 127.5 - 1)[:, None]
  return points, jnp.ones((len(image), 1))


seeing = Describer(jnp.float32(1), never, reading)
blind = Describer(jnp.float32(0), never, reading)


def measure(describer=seeing, *, open_split=Placed, **options):
  options = {'names': NAMES, 'batch_size': 8, 'random_init': {'raw': blind}} | options
  return attributes.measure(describer, open_split, **options)


def test_a_linear_attribute_is_told_and_the_mean_is_over_attributes():
  scores = measure()
  assert scores['accuracy_Right'] > 90
  assert (scores['accuracy_Always'], scores['accuracy_Known']) == (100, 0)
  mean = np.mean([scores[f'accuracy_{name}'] for name in NAMES])
  assert scores['accuracy'] == pytest.approx(mean)
  assert scores['accuracy'] > scores['accuracy_majority'] + 5


def test_the_majority_is_that_of_the_training_pictures():
  scores = measure()
  for a, name in enumerate(NAMES):
    train, test = (
      np.array([Placed(s)[i]['attributes'][a] for i in range(counts[s])]) for s in counts
    )
    usual = train.mean() >= 0.5
    assert scores[f'accuracy_{name}_majority'] == pytest.approx(100 * (test == usual).mean())


def test_landmarks_that_see_nothing_say_the_majority():
  scores = measure(blind)
  assert scores['accuracy'] == pytest.approx(scores['accuracy_majority'])
  assert scores['accuracy_random_init'] == scores['accuracy']
  both = measure(blind, random_init={'raw': blind, 'calibrated': seeing})
  assert both['accuracy_random_init'] > both['accuracy'] + 5


def test_columns_follow_the_names():
  swapped = measure(names=('Low', 'Right'))
  assert swapped['accuracy_Low'] == measure()['accuracy_Low']
  assert swapped['accuracy_Right'] == measure()['accuracy_Right']


def test_scores_stand_in_tables_by_row_and_attribute():
  evals = {'a': {'protocol': 'attributes'}}
  scores = {f'a/attributes/{name}': value for name, value in measure().items()}
  lines = scoring.lines(evals, scores)
  assert [line.group for line in lines] == ['', *NAMES]
  assert set(lines[0].scores) == {'majority', 'random_init', 'trained'}


def test_it_predicts_no_landmarks():
  found = attributes.run(seeing, Placed, random_init={}, names=NAMES)
  assert found == {}
  assert attributes.score(found) == {}


def test_what_is_missing_is_named():
  with pytest.raises(
    ValueError, match=r"'train' has no attribute 'Arched_Eyebrows'; it has: Right"
  ):
    attributes.check(Placed)
  with pytest.raises(ValueError, match='it has: none'):
    attributes.check(lambda split: Placed(split, names=()), names=NAMES)
  with pytest.raises(ValueError, match=r'strength=0\.0: expected more than 0'):
    attributes.check(Placed, names=NAMES, strength=0.0)
  with pytest.raises(ValueError, match='names is empty'):
    attributes.check(Placed, names=())


@pytest.mark.parametrize('name', ['low', 'light_base', 'x_trained'])
def test_an_attribute_whose_score_would_be_read_as_another_is_refused_before_any_work(name):
  names = 'Right', 'Low', name
  end = name.split('_')[-1]
  expected = f"^attribute '{name}': the name of its score would end in '_{end}' and be read as"
  for function in (attributes.check, functools.partial(attributes.run, seeing, random_init={})):
    with pytest.raises(
      ValueError, match=f'{expected}.*: mean_shape, .*, trained, std, low, high, '
    ):
      function(open_split=functools.partial(Placed, names=names), names=names)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
  def absent(name, *args):
    if name.startswith('sklearn'):
      raise ImportError(name)
    return builtins.__import__(name, *args)

  monkeypatch.setattr(importlib, 'import_module', absent)
  with pytest.raises(ValueError, match=r"not installed: pip install -e '.\[eval\]'"):
    attributes.check(Placed, names=NAMES)

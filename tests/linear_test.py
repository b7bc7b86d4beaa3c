"""Top-1 of linear classifiers on planted features, by row; folders and rendered faces as sets."""

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.contracts import Describer
from landmarks_jax.data.source import Info, open_source
from landmarks_jax.data.synthetic import face_model
from landmarks_jax.evaluation import linear, scoring

INFO = Info((), (), 'frame', (0.5,) * 3, (0.2,) * 3)
SHARES = (0.5, 0.3, 0.2)


class Coloured:
  """Pictures whose class is their colour, in a frame whose border shows another class's."""

  info = INFO

  def __init__(self, split, labelled=True):
    self.count, self.labelled = {'train': 60, 'test': 41}[split], labelled
    r = np.random.default_rng(len(split))
    self.label = r.choice(3, self.count, p=SHARES)
    self.noise = r.normal(size=(self.count, 12, 12, 3)) * 5

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    colour = 60 + 40 * np.eye(3)
    image = np.tile(colour[(self.label[index] + index) % 3], (12, 12, 1))
    image[2:-2, 2:-2] = colour[self.label[index]]
    image = np.clip(image + self.noise[index], 0, 255).astype(np.uint8)
    label = {'label': np.int32(self.label[index])} if self.labelled else {}
    return label | {'image': image, 'index': np.int32(index)}


def seeing(variables, image, size):
  """A fine map of nothing below a coarse map of the colour."""
  image = np.float32(1) * image
  return image[:, ::4, ::4] * variables, image[:, ::2, ::2] * 0


def blind(variables, image, size):
  return (image[:, :2, :2] * np.float32(0) + variables,)


SEES, BLIND = Describer(np.float32(1), seeing), Describer(np.float32(1), blind)


def test_rows_are_told_as_well_as_their_features_allow():
  scores = linear.measure(
    SEES, Coloured, random_init={'a': BLIND, 'b': BLIND}, base=SEES, margin=2, batch_size=16
  )
  assert scores['top1'] == scores['top1_base'] == 100
  # Without features: the class that most have, which is the row that needs no picture.
  test, train = Coloured('test'), Coloured('train')
  chance = 100 * (test.label == np.bincount(train.label).argmax()).mean()
  assert scores['top1_majority'] == scores['top1_random_init'] == pytest.approx(chance)
  assert scores['top1_majority_low'] < chance < scores['top1_majority_high']


def test_the_margin_is_cut_before_describing():
  whole = linear.measure(SEES, Coloured, random_init={}, batch_size=16)
  assert whole['top1'] < 100
  assert 'top1_random_init' not in whole


def test_the_better_variant_of_the_untrained_network_is_the_row():
  scores = linear.measure(BLIND, Coloured, random_init={'a': BLIND, 'b': SEES}, margin=2)
  assert scores['top1_random_init'] == 100 > scores['top1']


def test_scores_are_found_by_tables():
  scores = linear.measure(SEES, Coloured, random_init={'a': BLIND}, margin=2)
  evals = {'mine': {'protocol': 'linear'}}
  (line,) = scoring.lines(evals, {f'mine/linear/{name}': value for name, value in scores.items()})
  assert list(line.scores) == [scoring.MAJORITY, scoring.RANDOM_INIT, scoring.TRAINED]
  assert line.scores['majority'].low < line.scores['majority'].value < line.scores['majority'].high


def test_sets_without_classes_are_refused_with_what_to_do():
  with pytest.raises(ValueError, match=r"the split 'train' has none. A folder has them with data"):
    linear.check(lambda split: Coloured(split, labelled=False))
  linear.check(Coloured)


def test_folders_of_classes_are_sets(tmp_path):
  r = np.random.default_rng(0)
  for part, count in (('train', 12), ('val', 5)):
    for kind, colour in (('cat', (200, 20, 20)), ('dog', (20, 20, 200))):
      (tmp_path / part / kind).mkdir(parents=True)
      for i in range(count):
        pixels = np.clip(np.array(colour) + r.normal(size=(9, 9, 3)) * 9, 0, 255)
        Image.fromarray(pixels.astype('u1')).save(tmp_path / part / kind / f'{i}.png')

  def open_split(split):
    return open_source('folder', path=str(tmp_path), classes=True, frame=8, split=split)

  linear.check(open_split, test='val')
  scores = linear.measure(SEES, open_split, random_init={}, test='val')
  assert scores['top1'] == 100
  assert scores['top1_majority'] == 50


def test_rendered_faces_have_the_hair_of_their_person_as_a_class():
  source = open_source('synthetic/faces', classes=True, frame=16, count=20)
  plain = open_source('synthetic/faces', frame=16, count=20)
  styles = [face_model.draw((0, 0, i)).hair_style for i in range(20)]
  assert [face_model.HAIR_STYLES[source[i]['label']] for i in range(20)] == styles
  assert len(set(styles)) == 4
  assert 'label' not in plain[0]
  np.testing.assert_array_equal(source[3]['image'], plain[3]['image'])

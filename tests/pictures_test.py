"""What features look like: which pictures are described, and which are drawn."""

import types

import numpy as np
import pytest

from landmarks_jax.cli import experiment, pictures
from landmarks_jax.contracts import Describer
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.report import components, draw, labels

SIDE, MARGIN = 12, 2


class Pictures:
  """So many pictures of one grey, which is their number; some have a flow, some cannot be read."""

  info = Info((), (), 'frame', (0.5,) * 3, (0.2,) * 3)

  def __init__(self, count, *, video=False, bad=()):
    self.count, self.video, self.bad = count, video, bad

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.bad:
      raise BadImage(f'{index}.png', 'broken')
    given = {'image': np.full((SIDE, SIDE, 3), index, np.uint8), 'index': np.int32(index)}
    known = np.arange(SIDE) < index
    flow = {'flow': np.zeros((SIDE, SIDE, 2)), 'flow_valid': np.broadcast_to(known, (SIDE, SIDE))}
    return given | (flow if self.video else {})


class Parts(experiment.Experiment):
  """What `of_features` needs of an experiment; the features are of `levels` channels."""

  def __init__(self, source=None, levels=()):
    self.config = {'evals': {'some': {}} if levels else {}}
    self.source, self.levels = source, levels
    self.inputs = types.SimpleNamespace(open=self.open)

  def protocol(self, name):
    return types.ModuleType('some'), {}, {'test': 'test', 'margin': MARGIN}

  def open(self, **options):
    assert options == {'split': 'test'}
    return self.source

  def describer(self, params, aux):
    def apply(variables, image, size):
      noise = np.random.default_rng(0).normal(size=(len(image), 4, 4, 8)).astype(np.float32)
      return tuple(noise[..., :channels] + image[:, :1, :1, :1] / 255 for channels in self.levels)

    return Describer((params, aux), apply)


@pytest.fixture
def drawn(monkeypatch):
  """The arguments of what was drawn."""
  found = {}

  def keep(module, name):
    real = getattr(module, name)

    def call(image, *rest, **options):
      found[name] = image, *rest, options
      return real(image, *rest, **options)

    monkeypatch.setattr(module, name, call)

  keep(draw, 'component_sheet')
  keep(draw, 'rgb_sheet')
  keep(labels, 'sheet')
  return found


def numbers(images):
  assert images.shape[1:] == (SIDE - 2 * MARGIN, SIDE - 2 * MARGIN, 3)
  return images[:, 0, 0, 0].tolist()


def test_many_pictures_are_described_and_a_few_of_them_drawn(drawn, monkeypatch):
  counted, real = [], components.of_pyramid

  def of_pyramid(pyramid):
    counted.append(len(pyramid[0]))
    return real(pyramid)

  monkeypatch.setattr(components, 'of_pyramid', of_pyramid)
  sheets = pictures.of_features(Parts(Pictures(200), (3, 5)), {}, {})
  assert sheets.keys() == {'hypercolumn_components', 'hypercolumn_rgb'}
  assert counted == [32]
  shown = numbers(drawn['rgb_sheet'][0])
  assert len(shown) == 8
  assert (shown[0], shown[-1]) == (0, 199)
  assert min(np.diff(shown)) > 20


def test_one_map_is_drawn_as_labels_where_the_flow_is_known(drawn):
  sheets = pictures.of_features(Parts(Pictures(9, video=True), (3,)), {}, {})
  assert sheets.keys() == {'hypercolumn_components', 'hypercolumn_rgb', 'labels'}
  images, described, options = drawn['sheet']
  assert described.shape == (8, 4, 4, 3)
  for number, mask in zip(numbers(images), options['mask'], strict=True):
    expected = np.arange(SIDE)[MARGIN:-MARGIN] < number
    np.testing.assert_array_equal(mask, np.broadcast_to(expected, mask.shape))
  pictures.of_features(Parts(Pictures(9), (3,)), {}, {})
  assert drawn['sheet'][-1]['mask'] is None


def test_one_number_has_no_direction_to_colour(drawn):
  sheets = pictures.of_features(Parts(Pictures(9), (1,)), {}, {})
  assert sheets.keys() == {'hypercolumn_components'}


def test_a_picture_that_cannot_be_read_is_left_out(drawn):
  pictures.of_features(Parts(Pictures(6, bad=(0, 3)), (4, 4)), {}, {})
  assert numbers(drawn['component_sheet'][0]) == [1, 2, 4, 5]


def test_a_run_without_evaluations_has_no_test_pictures():
  assert pictures.of_features(Parts(), {}, {}) == {}

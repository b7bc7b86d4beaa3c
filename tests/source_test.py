import inspect
import pickle
import sys
import types
import warnings

import numpy as np
import pytest

from landmarks_jax.contracts import Batch
from landmarks_jax.data import source
from landmarks_jax.data.source import BadImage, available, normaliser, open_source
from landmarks_jax.runtime import by_name


def test_datasets_are_found_by_their_files_and_helpers_are_not():
  assert {'folder', 'youtube_faces_68'} <= set(available())
  assert not {'source', 'images', 'pipeline', '__init__'} & set(available())
  assert list(available()) == sorted(available())


def test_an_unknown_name_lists_those_that_exist():
  for name in ('foldr', '../folder', 'images', ''):
    with pytest.raises(ValueError, match=r'no dataset named .* there are: .*folder.*youtube'):
      open_source(name)


def published():
  """The datasets that are read from a folder of somebody else's making."""
  options = {
    name: inspect.signature(source.source_function(name)).parameters for name in available()
  }
  needed = (n for n in options if options[n]['path'].default is inspect.Parameter.empty)
  return sorted(set(needed) - {'folder', 'video'})


@pytest.mark.parametrize('name', published())
def test_a_folder_without_its_dataset_is_told_with_where_to_read_of_it(name, tmp_path):
  for folder in (tmp_path / 'none', tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
      open_source(name, path=str(folder))
    assert str(folder) in str(caught.value)
    assert '; docs/data.md says what' in str(caught.value)
    assert '\n' not in str(caught.value)


class Opened(list):
  info = None

  def __init__(self, path, *, frame=3):
    super().__init__([path, frame])


def planted(monkeypatch, tmp_path, opener):
  """A dataset 'made/up' whose file is elsewhere."""
  (tmp_path / 'data/made').mkdir(parents=True)
  (tmp_path / 'data/made/up.py').write_text('def source(\n')
  (tmp_path / 'data/made/helper.py').write_text('def sources(): ...\n')
  monkeypatch.setattr(by_name, 'PACKAGE', tmp_path)
  module = types.ModuleType('landmarks_jax.data.made.up')
  module.source = opener
  for name in ('landmarks_jax.data.made', 'landmarks_jax.data.made.up'):
    monkeypatch.setitem(sys.modules, name, module)


def test_a_name_with_a_slash_is_a_file_below_and_its_options_are_passed(monkeypatch, tmp_path):
  planted(monkeypatch, tmp_path, Opened)
  assert available() == ('made/up',)
  assert open_source('made/up', path='here') == ['here', 3]
  assert open_source('made/up', path='here', frame=5) == ['here', 5]


def test_unknown_and_missing_options_are_named(monkeypatch, tmp_path):
  planted(monkeypatch, tmp_path, Opened)
  with pytest.raises(ValueError, match="made/up: no option 'fram'; it accepts: path, frame"):
    open_source('made/up', path='here', fram=5)
  with pytest.raises(ValueError, match="made/up: option 'path' is needed"):
    open_source('made/up', frame=5)


def test_a_bad_image_survives_the_way_between_processes():
  error = pickle.loads(pickle.dumps(BadImage('a/b.jpg', 'is torn')))
  assert str(error) == 'a/b.jpg: is torn'
  assert (error.path, error.reason) == ('a/b.jpg', 'is torn')
  assert isinstance(error, ValueError)


def test_the_normaliser_of_a_pair_is_its_distance():
  points = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32)
  scale = normaliser(points, (3, 1))
  assert scale.dtype == np.float32
  for index in np.ndindex(2, 3):
    (x0, y0), (x1, y1) = points[index][3], points[index][1]
    assert scale[index] == pytest.approx(((x0 - x1) ** 2 + (y0 - y1) ** 2) ** 0.5)
  assert normaliser(points[0, 0], (3, 1)) == scale[0, 0]


def test_the_normaliser_of_a_frame_is_its_side():
  assert normaliser(np.zeros((2, 5, 2), np.float32), 'frame').tolist() == [2, 2]


@pytest.mark.parametrize(
  ('scale', 'text'),
  [('eyes', "scale='eyes'; expected a pair"), ((0, 5), 'there are 5')],
)
def test_a_normaliser_that_cannot_be_is_told(scale, text):
  with pytest.raises(ValueError, match=text):
    normaliser(np.zeros((5, 2), np.float32), scale)


class Numbers:
  """Ten examples; `changes` replaces bytes of some."""

  info = source.Info(('a', 'b'), (), (0, 1), (0.5,) * 3, (0.5,) * 3)

  def __init__(self, count=10, changes=None):
    self.count, self.changes = count, changes or {}

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if self.changes.get(index) == 'bad':
      raise BadImage(f'/somewhere/{index}.jpg', 'no picture')
    image = np.full((4, 4, 3), index, np.uint8)
    image[0, 0, 0] += self.changes.get(index, 0)
    return {'image': image, 'index': np.int32(index)}


class Labelled(Numbers):
  """Three landmarks; `fields` and `facts` replace what is in an example and in Info."""

  def __init__(self, fields=None, facts=None, **options):
    super().__init__(**options)
    self.fields = fields or {}
    self.info = source.Info(tuple('abc'), ((0, 1),), (0, 2), (0.5,) * 3, (0.5,) * 3)
    self.info = self.info._replace(**facts or {})

  def __getitem__(self, index):
    points = np.array([[-1, 0.5], [1, 0.25], [0, 3]], np.float32)
    given = super().__getitem__(index) | source.labelled(
      np.zeros((4, 4, 3), np.uint8), points, self.info
    )
    return {k: v for k, v in (given | self.fields).items() if v is not None}


def test_a_source_that_keeps_the_contract_is_accepted_whatever_cannot_be_read():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    source.check(Labelled())
    source.check(Labelled(changes={0: 'bad', 9: 'bad'}))
    source.check(Labelled(count=0))
    source.check(Labelled(count=1))
    plain = Numbers()
    plain.info = plain.info._replace(names=(), scale='frame')
    source.check(plain)


@pytest.mark.parametrize(
  ('fields', 'told'),
  [
    ({'index': np.int32(0)}, 'example 9: index is 0; expected the number of the example'),
    ({'index': np.int32(1009)}, 'example 0: index is 1009; expected'),
    ({'index': None}, 'example 0: index is absent; expected the number of the example'),
    ({'box': np.zeros(4)}, "example 0: the field 'box' is none of Batch: image, valid, index"),
    ({'image': np.zeros((4, 4, 3))}, r'image is float64 \[4, 4, 3\]; expected uint8 \[S, S, 3\]'),
    ({'image': np.zeros((4, 5, 3), 'uint8')}, r'image is uint8 \[4, 5, 3\]; expected'),
    ({'image': None}, 'image is absent; expected uint8'),
    ({'points': None}, r'points is absent; expected float32 \[K, 2\], as for every'),
    ({'points': np.zeros((3, 3))}, r'points is float64 \[3, 3\]; expected'),
    ({'points': np.zeros((4, 2)), 'visible': np.ones(4, bool)}, r'names=.*: expected 4 different'),
    ({'visible': None}, r'visible is absent; expected bool \[K\]'),
    ({'visible': np.array([0, 1, 2])}, r'visible is int64 \[3\]; expected bool'),
    ({'scale': None}, r'scale is absent; expected float32'),
  ],
)
def test_an_example_that_breaks_the_contract_is_told(fields, told):
  with pytest.raises(ValueError, match=f'^beetles.*{told}'):
    source.check(Labelled(fields), name='beetles')


@pytest.mark.parametrize('given', [Batch(image=np.zeros((4, 4, 3), 'uint8')), (1, 2), None])
def test_an_example_that_is_no_dict_is_told(given):
  class Other(Numbers):
    def __getitem__(self, index):
      return given

  kind = type(given).__name__
  with pytest.raises(ValueError, match=f'^beetles, example 0: it is a {kind}; expected a dict'):
    source.check(Other(), name='beetles')


def test_a_source_without_its_facts_is_told():
  class Bare:
    def __len__(self):
      return 3

    def __getitem__(self, index):
      return {}

  with pytest.raises(ValueError, match=r'^beetles: info is None; expected an Info'):
    source.check(source.Named(Bare(), 'beetles'), name='beetles')


@pytest.mark.parametrize(
  ('facts', 'told'),
  [
    ({'names': ('a', 'b')}, 'expected 3 different ones'),
    ({'flip_pairs': ((1, 9),)}, r'flip_pairs: \(1, 9\); expected two numbers of landmarks'),
    ({'flip_pairs': ((1, 1),)}, r'flip_pairs: \(1, 1\); expected two numbers of landmarks'),
    ({'skeleton': ((0, 3),)}, r'skeleton: \(0, 3\); expected two'),
  ],
)
def test_facts_that_do_not_fit_the_landmarks_are_told(facts, told):
  with pytest.raises(ValueError, match=f'^beetles: .*{told}'):
    source.check(Labelled(facts=facts), name='beetles')


def test_points_in_pixels_are_warned_of():
  points = np.array([[1, 1], [30, 2], [20, 31]], np.float32)
  with pytest.warns(UserWarning, match=r'4 of 6 visible points lie outside -2\.\.2.* pixels\?'):
    source.check(Labelled({'points': points}))


@pytest.mark.parametrize('kind', [ValueError, KeyError])
def test_an_error_of_an_example_names_it_and_its_dataset(kind):
  class Broken(Numbers):
    def __getitem__(self, index):
      raise kind('12,5')

  with pytest.raises(kind) as caught:
    source.Named(Broken(), 'beetles')[7]
  said = [str(caught.value), *getattr(caught.value, '__notes__', [])]
  assert any(line.startswith('beetles, example 7') for line in said)
  assert any('12,5' in line for line in said)
  with pytest.raises(BadImage, match=r'^/somewhere/3\.jpg: no picture'):
    source.Named(Numbers(changes={3: 'bad'}), 'beetles')[3]


def test_a_fingerprint_tells_length_facts_and_every_byte_of_what_it_reads():
  known = source.fingerprint(Numbers(), examples=4)
  assert known == source.fingerprint(Numbers(), examples=4)
  assert known['examples'] == 10
  for row in (0, 3, 6, 9):  # evenly spread
    for change in (1, 'bad'):
      other = source.fingerprint(Numbers(changes={row: change}), examples=4)
      assert other | {'pictures': known['pictures']} == known
      assert other['pictures'] != known['pictures']
  assert source.fingerprint(Numbers(changes={1: 1}), examples=4) == known  # not read
  grown = source.fingerprint(Numbers(11), examples=4)
  assert grown['examples'] == 11
  other = Numbers()
  other.info = other.info._replace(scale='frame')
  assert source.fingerprint(other, examples=4)['facts'] != known['facts']
  assert source.fingerprint(Numbers(2), examples=4)['examples'] == 2

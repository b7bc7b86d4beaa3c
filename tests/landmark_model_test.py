"""Saved landmark models: what is written is what is read, and damage is named."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.inference.confidence import Confidence
from landmarks_jax.inference.head import Head
from landmarks_jax.inference.landmark_model import LandmarkModel, load_landmarks
from landmarks_jax.inference.model import Model, load
from landmarks_jax.inference.pictures import PointLabels
from landmarks_jax.methods import equivariant, probe
from landmarks_jax.models import ridge
from landmarks_jax.runtime import run_folder

FRAME, MARGIN = 20, 2
METHOD = {'name': 'equivariant', 'network': 'simple', 'dim': 5, 'width': 0.1, 'margin': MARGIN}
METHOD |= {'precision': 'float32', 'mean': (0.5,) * 3, 'std': (0.2,) * 3}
NAMES = ['left eye', 'right "eye"', '<b>鼻</b>']


@pytest.fixture(scope='module')
def model():
  method = equivariant.build(**{k: v for k, v in METHOD.items() if k != 'name'})
  example = Batch(image=np.zeros((1, FRAME, FRAME, 3), np.uint8))
  variables = jax.jit(method.init)(jax.random.key(0), example)
  describer = Describer(variables, lambda v, image, size: method.describe(*v, image, size))
  return Model(describer, {'method': METHOD}, frame=FRAME, margin=MARGIN)


def ridge_head(channels, count):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  kernels = tuple(draw(c, count) for c in channels)
  return Head(
    'ridge',
    ridge.RidgeVariables(
      kernels,
      draw(4, 4, count),
      draw(4, 4, 2),
      draw(count, 2),
      jnp.float32(0.5),
      draw(2 * count, 2 * count),
    ),
  )


def probe_head(channels, count):
  params = probe.random_params(jax.random.key(1), channels, landmarks=count, points_per_landmark=4)
  return Head('probe', params, {'size': 6, 'sharpness': 10.0})


CONFIDENCE = Confidence(0.1, 7, np.array([-1.0, 0, 1]), np.array([0.2, 0.1]), np.linspace(-2, 2, 9))


@pytest.fixture(scope='module', params=['ridge', 'probe'])
def made(request, model):
  head = {'ridge': ridge_head, 'probe': probe_head}[request.param](model.channels(), 3)
  weights = np.array([0.2, 0.1, 0.3])[: 3 if request.param == 'ridge' else 2]
  return LandmarkModel(
    model,
    head,
    names=NAMES,
    flip_pairs=[(0, 1)],
    skeleton=[(0, 2)],
    scale=(0, 1),
    crop='pad',
    confidence=CONFIDENCE._replace(weights=weights),
    learned_from=['abc'],
  )


def pictures():
  rng = np.random.default_rng(3)
  return [rng.integers(0, 256, (30 + 7 * i, 41 - 5 * i, 3), np.uint8) for i in range(3)]


@pytest.fixture(scope='module')
def saved(made, tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved') / 'model'
  made.save(folder)
  return folder


def test_what_is_saved_is_what_is_loaded(made, saved):
  again = load_landmarks(saved)
  facts = 'names', 'flip_pairs', 'skeleton', 'scale', 'crop', 'learned_from'
  assert [getattr(again, f) for f in facts] == [getattr(made, f) for f in facts]
  assert (again.model.frame, again.model.margin) == (FRAME, MARGIN)
  for a, b in zip(made.predict(pictures()), again.predict(pictures()), strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(made.predict(pictures()).points[0], made.predict(pictures()).points[1])


def test_a_head_of_float64_is_saved_as_float32_and_read_as_such(made, saved, tmp_path):
  double = jax.tree.map(lambda x: np.asarray(x, np.float64), made.head.variables)
  wide = copy.copy(made)
  wide.head = made.head._replace(variables=double)
  wide.save(tmp_path / 'model')
  arrays = dict(np.load(tmp_path / 'model/head.npz'))
  own = [name for name in arrays if not name.startswith('confidence/')]
  assert {str(arrays[name].dtype) for name in own} == {'float32'}
  arrays |= {name: arrays[name].astype(np.float64) for name in own}  # of earlier versions
  np.savez(tmp_path / 'model/head.npz', **arrays)
  again = load_landmarks(tmp_path / 'model')
  for a, b in zip(jax.tree.leaves(again.head), jax.tree.leaves(made.head), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('scale', [np.array([0, 1]), (np.int64(0), np.int64(1))])
def test_a_scale_of_numpy_integers_is_that_of_integers(model, tmp_path, scale):
  assert PointLabels.of(np.zeros((1, 3, 2)), scale=scale).info.scale == (0, 1)
  made = LandmarkModel(model, ridge_head(model.channels(), 3), names=NAMES, scale=scale)
  assert made.scale == (0, 1)
  made.save(tmp_path / 'model')
  assert load_landmarks(tmp_path / 'model').scale == (0, 1)


def test_facts_that_no_file_can_hold_leave_nothing_behind(made, tmp_path):
  wrong = copy.copy(made)
  wrong.learned_from = (object(),)
  with pytest.raises(TypeError, match='not JSON serializable'):
    wrong.save(tmp_path / 'model')
  assert not (tmp_path / 'model').exists()


def test_the_network_inside_is_a_run(made, saved):
  for a, b in zip(
    made.model.describe(pictures()), load(saved / 'run').describe(pictures()), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_a_folder_of_the_other_kind_says_what_it_is(saved):
  with pytest.raises(FileNotFoundError, match=f'it is a landmark model, .* {saved}/run$'):
    load(saved)
  with pytest.raises(FileNotFoundError, match='it is a run, and the command fit'):
    load_landmarks(saved / 'run')


def test_nothing_is_overwritten(made, saved, tmp_path):
  before = sorted(str(p) for p in saved.rglob('*'))
  with pytest.raises(ValueError, match='exists already and is not overwritten'):
    made.save(saved)
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(ValueError, match='exists already and is not overwritten'):
    made.save(tmp_path / 'file')
  assert sorted(str(p) for p in saved.rglob('*')) == before
  assert (tmp_path / 'file').read_text() == 'mine'


@pytest.fixture
def damaged(saved):
  """The folder, given back whole."""
  kept = {p: p.read_bytes() for p in saved.glob('*') if p.is_file()}
  yield saved
  for path, data in kept.items():
    path.write_bytes(data)


def facts_of(folder, **changes):
  facts = json.loads((folder / 'landmarks.json').read_text())
  (folder / 'landmarks.json').write_text(json.dumps(facts | changes))


def arrays_of(folder, change):
  arrays = dict(np.load(folder / 'head.npz'))
  change(arrays)
  np.savez(folder / 'head.npz', **arrays)


def drop_last(arrays):
  del arrays[max(arrays)]


def narrower(arrays):
  name = next(n for n in arrays if n.endswith('/0'))
  arrays[name] = arrays[name][:-1]


def infinite(arrays):
  name = 'mean_shape' if 'mean_shape' in arrays else 'outer'
  arrays[name] = arrays[name] * np.inf


def kernel_without_a_number(arrays):
  name = next(n for n in arrays if n.endswith('/0'))
  arrays[name] = np.where(np.arange(arrays[name].size).reshape(arrays[name].shape), 1, np.nan)


def without_axes(arrays):
  arrays['mean_shape' if 'mean_shape' in arrays else 'outer'] = np.float32(1)


def one_for_all(arrays):
  arrays['confidence/offset'] = np.zeros(1)


def another_evidence(arrays):
  arrays['confidence/weights'] = np.zeros(9)


def doubt_that_reassures(arrays):
  arrays['confidence/weights'] = -arrays['confidence/weights']


def compressed_in_no_known_way(folder):
  data = bytearray((folder / 'head.npz').read_bytes())
  directory = data.rindex(b'PK\x01\x02')  # of the last array
  data[directory + 10] = 77  # the number of its compression
  (folder / 'head.npz').write_bytes(data)


def pickled(arrays):
  arrays['outer' if 'outer' in arrays else 'mean_shape'] = np.array([{}], object)


def test_a_model_of_an_earlier_version_that_described_otherwise_is_refused(damaged):
  facts = json.loads((damaged / 'landmarks.json').read_text())
  del facts['boxes']  # as earlier versions wrote them
  (damaged / 'landmarks.json').write_text(json.dumps(facts))
  assert load_landmarks(damaged).boxes is False
  network = damaged / run_folder.NETWORK / run_folder.CONFIG
  whole = network.read_text()
  config = json.loads(whole)
  config['method']['normalise'] = True
  network.write_text(json.dumps(config))
  try:
    with pytest.raises(ValueError, match='by an earlier version, for which equivariant described'):
      load_landmarks(damaged)
  finally:
    network.write_text(whole)


@pytest.mark.parametrize(
  ('fault', 'message'),
  [
    (lambda f: facts_of(f, format=99), 'has the format 99; this version reads 1'),
    (lambda f: facts_of(f, names=['a', 'b']), 'expected 3 different'),
    (lambda f: facts_of(f, names=['a', 'b', 'b']), 'expected 3 different'),
    (lambda f: facts_of(f, names='abc'), "names is 'abc'"),
    (lambda f: facts_of(f, flip_pairs=[[0, 3]]), r'flip_pairs: \[0, 3\]; expected two numbers'),
    (lambda f: facts_of(f, scale=[0, -1]), r'scale: \[0, -1\]; expected two numbers'),
    (lambda f: facts_of(f, head='forest'), "the head is 'forest'; expected ridge or probe"),
    (lambda f: facts_of(f, margin=10), r'margin is 10 in .*landmarks\.json, but 2 in .*config'),
    (lambda f: facts_of(f, frame=24), r'frame is 24 in .*landmarks\.json, but 20 in .*config'),
    (lambda f: facts_of(f, flip_pairs=[1]), r'flip_pairs is \[1\]'),
    (lambda f: facts_of(f, learned_from=[[]]), r'learned_from is \[\[\]\]'),
    (lambda f: facts_of(f, confidence={'tolerance': 'x'}), 'expected tolerance and pictures'),
    (lambda f: (f / 'landmarks.json').write_text('{'), 'is damaged'),
    (lambda f: (f / 'landmarks.json').unlink(), 'holds no landmark model'),
    (lambda f: (f / 'head.npz').unlink(), 'cannot be read'),
    (lambda f: (f / 'head.npz').write_bytes(b'PK\x03\x04'), 'is damaged'),
    (lambda f: arrays_of(f, drop_last), 'the arrays are'),
    (lambda f: arrays_of(f, narrower), 'the head reads levels of'),
    (lambda f: arrays_of(f, infinite), 'expected finite float32'),
    (lambda f: arrays_of(f, kernel_without_a_number), 'expected finite float32'),
    (lambda f: arrays_of(f, without_axes), 'expected finite float32'),
    (lambda f: arrays_of(f, one_for_all), 'the confidence are not those of one'),
    (lambda f: arrays_of(f, another_evidence), 'the confidence are not those of one'),
    (lambda f: arrays_of(f, doubt_that_reassures), 'the confidence are not those of one'),
    (lambda f: facts_of(f, confidence={'tolerance': np.inf, 'pictures': 7}), 'tolerance=inf'),
    (compressed_in_no_known_way, r'head\.npz is damaged'),
    (lambda f: (f / 'landmarks.json').write_text('[' * 100_000), r'landmarks\.json is damaged'),
    (lambda f: arrays_of(f, pickled), 'is damaged'),
  ],
)
def test_damage_is_one_line_that_names_it(damaged, fault, message):
  fault(damaged)
  with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
    load_landmarks(damaged)
  assert '\n' not in str(caught.value)


def test_a_head_of_another_network_is_refused(model):
  head = ridge_head([c + 1 for c in model.channels()], 3)
  with pytest.raises(ValueError, match='the head reads levels of'):
    LandmarkModel(model, head, names=NAMES)


def test_without_a_confidence_nothing_is_claimed(model):
  bare = LandmarkModel(model, ridge_head(model.channels(), 3), names=NAMES)
  assert np.isnan(bare.predict(pictures()).confidence).all()

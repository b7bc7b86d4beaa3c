"""A network is loaded with the frame and margin that are asked for, and keeps them."""

import json
import shutil
import sys
import types

import jax
import numpy as np
import pytest

from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.inference.fitting import fit_landmarks
from landmarks_jax.inference.matching import match
from landmarks_jax.inference.model import Model, load
from landmarks_jax.methods import equivariant, projection
from landmarks_jax.runtime import run_folder

FRAME, MARGIN = 72, 4  # the hourglass sees 64 pixels: it takes multiples of 32 only
COLOURS = {'mean': (0.5,) * 3, 'std': (0.2,) * 3, 'margin': MARGIN}
METHOD = {'name': 'equivariant', 'network': 'hourglass', 'width': 0.02, 'blocks': 1, 'dim': 5}
METHOD |= {'normalise': True, 'precision': 'float32', **COLOURS}
ABOVE = {'name': 'projection', 'dim': 4, 'size': 8, 'margin': MARGIN}


def without_name(section):
  return {key: value for key, value in section.items() if key != 'name'}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Of an hourglass, and of a projection on it."""
  folder = tmp_path_factory.mktemp('runs')
  example = Batch(image=np.zeros((1, FRAME, FRAME, 3), np.uint8))
  data = {'data': {'frame': FRAME}}
  method = equivariant.build(**without_name(METHOD))
  variables = jax.jit(method.init)(jax.random.key(0), example)
  run_folder.write(folder / 'alone', {'method': METHOD, 'base': None, **data}, *variables)
  base = Describer(variables, lambda v, image, size: method.describe(*v, image, size))
  above = projection.build(base=base, **without_name(ABOVE)).init(jax.random.key(1), example)
  config = {'method': ABOVE, 'base': {'checkpoint': 'x', 'method': METHOD}, **data}
  run_folder.write(folder / 'above', config, *above)
  return folder


def pictures():
  return [np.random.default_rng(3).integers(0, 256, (90, 80, 3), np.uint8)]


@pytest.mark.parametrize('name', ['alone', 'above'])
def test_the_margin_that_is_asked_for_is_cut(runs, name):
  """64 pixels without a margin are fine; the margin of the run would leave 56 of them."""
  model = load(runs / name, frame=np.int64(64), margin=0)
  assert (model.frame, model.margin, model.side) == (64, 0, 64)
  middle = [image[10:74, 8:72] for image in pictures()]
  (whole,) = model.describe(middle)
  (seen,) = load(runs / name).describe([np.pad(middle[0], ((4, 4), (4, 4), (0, 0)))])
  np.testing.assert_allclose(whole, seen, atol=1e-5)


@pytest.mark.parametrize('name', ['alone', 'above'])
def test_a_margin_that_was_asked_for_is_kept(runs, tmp_path, name):
  model = load(runs / name, frame=64, margin=0)
  model.save(tmp_path / 'again')
  again = load(tmp_path / 'again')
  assert (again.frame, again.margin) == (64, 0)
  for a, b in zip(again.describe(pictures()), model.describe(pictures()), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_method_without_a_margin_is_shown_the_pictures_without_theirs(
  runs, tmp_path, monkeypatch
):
  whole = shutil.copytree(runs / 'alone', tmp_path / 'whole')
  config = json.loads((whole / 'config.json').read_text())
  del config['method']['margin']
  config['method']['name'] = 'mylab.whole'
  (whole / 'config.json').write_text(json.dumps(config))

  def build(*, mean, std, network, width, blocks, dim, normalise, precision):
    given = locals()
    return equivariant.build(**{name: given[name] for name in METHOD if name in given}, margin=0)

  asked = {'frame': 96, 'margin': 16}
  (expected,) = load(runs / 'alone', **asked).describe(pictures())
  module = types.ModuleType('mylab.whole')
  module.build = build
  monkeypatch.setitem(sys.modules, module.__name__, module)
  model = load(whole, **asked)
  model.save(tmp_path / 'again')
  for found in (model, load(tmp_path / 'again')):
    assert (found.frame, found.margin) == (96, 16)
    np.testing.assert_array_equal(found.describe(pictures())[0], expected)


def test_sides_that_leave_nothing_are_named(runs, tmp_path):
  with pytest.raises(ValueError, match='frame=72 and margin=36: expected at least 2 pixels'):
    load(runs / 'alone', margin=36)
  copied = shutil.copytree(runs / 'alone', tmp_path / 'run')
  config = json.loads((copied / 'config.json').read_text())
  (copied / 'config.json').write_text(json.dumps(config | {'data': {'frame': '72'}}))
  with pytest.raises(ValueError, match="frame='72': expected a whole number of pixels"):
    load(copied)
  for change in ({'data': {'frame': 'x' * 5000}}, {'method': {'name': 'moco', 'x' * 5000: 1}}):
    (copied / 'config.json').write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=r'expected a whole number|cannot be built') as caught:
      load(copied)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'data': 5}, 'data is 5'),
    ({'base': 'x'}, "base is 'x'"),
    ({'base': {'method': 5}}, 'no section method with a name'),
    ({'method': METHOD | {'mean': (0.1, 0.2)}}, r'mean=\(0.1, 0.2\): expected three numbers'),
    ({'method': METHOD | {'std': (0.0, 1.0, 1.0)}}, r'std=\(0.0, 1.0, 1.0\): expected .*, above 0'),
    ({'method': METHOD | {'std': (np.inf, 1.0, 1.0)}}, r'std=\(inf, .*: expected three numbers'),
    ({'method': METHOD | {'width': 1e400}}, 'cannot be built as it says'),
    ({'method': METHOD | {'dim': {}}}, 'cannot be built as it says'),
  ],
)
def test_a_config_of_other_kinds_is_told(runs, tmp_path, changes, told):
  copied = shutil.copytree(runs / 'alone', tmp_path / 'run')
  config = json.loads((copied / 'config.json').read_text())
  (copied / 'config.json').write_text(json.dumps(config | changes))
  with pytest.raises(ValueError, match=rf'config\.json.*{told}'):
    load(copied)


def blocks(variables, image, size):
  """Means of blocks of 8 pixels, once as they are, once weighted."""
  maps = image.reshape(len(image), 4, 8, 4, 8, 3).mean((2, 4))
  return maps, maps * variables


def test_a_network_of_no_run_fits_and_matches_and_is_not_saved(tmp_path):
  model = Model(Describer(np.float32(2), blocks), frame=32)
  images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
  coarse, fine = model.describe(images)
  np.testing.assert_allclose(coarse, images.reshape(9, 4, 8, 4, 8, 3).mean((2, 4)), rtol=1e-6)
  np.testing.assert_allclose(fine, 2 * coarse, rtol=1e-6)
  assert repr(model) == '<Model of no run: sees the central 32 of 32 pixels; 6 channels>'
  points = np.random.default_rng(1).uniform(4, 28, (9, 2, 2))
  finder = fit_landmarks(model, images, points, copies=1)
  assert finder.predict(images[:3]).points.shape == (3, 2, 2)
  found = match(model, images[0], images[0], points[0])
  np.testing.assert_allclose(found.points, points[0], atol=0.5)
  with pytest.raises(ValueError, match='only the network of a run can be saved'):
    finder.save(tmp_path / 'finder')
  assert list(tmp_path.iterdir()) == []


def test_a_network_that_gives_one_array_is_told_to_give_a_tuple():
  model = Model(Describer(None, lambda variables, image, size: image[:, ::8, ::8]), frame=32)
  with pytest.raises(ValueError, match=r'gave \[.*\]; expected a tuple of maps \[B, h, w, C'):
    model.describe(np.zeros((2, 32, 32, 3), np.uint8))

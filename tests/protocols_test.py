"""Every protocol has what landmarks_jax/evaluation/__init__.py says, and can be called so."""

import inspect
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import evaluation
from landmarks_jax.cli import completion, experiment
from landmarks_jax.cli import config as configs
from landmarks_jax.contracts import Describer
from landmarks_jax.data.synthetic.faces import ATTRIBUTES
from landmarks_jax.evaluation import features, invariance
from landmarks_jax.evaluation.scoring import Metric

PACKAGE = pathlib.Path(evaluation.__file__).parents[1]
FILES = (PACKAGE / 'evaluation').glob('*.py')
NAMES = sorted(f.stem for f in FILES if re.search(r'^def run\(', f.read_text(), re.MULTILINE))
NEEDED = 'margin', 'test', 'batch_size'
GIVEN = 'random_init', 'base', 'spread'
MEASURING = [name for name in NAMES if hasattr(completion.find('evaluation', name), 'measure')]


def options_of(protocol):
  """The options that a config may set, with the names that `run` takes besides."""
  functions = *completion._extended(protocol, {}), protocol.run
  found = configs.complete('x', {}, *functions, passed=completion.OF_EVALUATION)
  assert set(NEEDED) <= set(found)
  return found


def binds(function, *arguments, **named):
  """Raises TypeError if the function cannot be called so."""
  inspect.signature(function).bind(*arguments, **named)


@pytest.mark.parametrize('name', NAMES)
def test_it_can_be_called_as_the_contract_says(name):
  protocol = completion.find('evaluation', name)
  options, given = options_of(protocol), dict.fromkeys(GIVEN)
  assert protocol.METRICS
  assert all(isinstance(metric, Metric) for metric in protocol.METRICS)
  binds(protocol.run, 'describer', 'open_split', baselines=None, **given, **options)
  binds(protocol.check, 'open_split', **options)
  of = {'of': options['of']} if 'of' in options else {}
  binds(protocol.score, {}, flip_pairs=(), **of)
  if hasattr(protocol, 'measure'):
    binds(protocol.measure, 'describer', 'open_split', **given, **options)
  if hasattr(protocol, 'pictures'):
    binds(protocol.pictures, 'open_split', 'predictions', (0,), task='different', **options)


def colours(strength, image, size):
  image = jnp.asarray(image, float) / 255
  return image[:, ::8, ::8] ** strength, image[:, ::4, ::4, :2] * strength


def bright(strength, image):
  away = jnp.asarray(image, float).mean((1, 2)) / 255 - 0.5
  return strength * jnp.stack([away, away[:, ::-1] ** 2], -1), away


def measuring(name):
  """An experiment with one evaluation and planted networks: see `evaluated`."""
  data = {'name': 'synthetic/faces', 'frame': 32, 'count': 18, 'classes': True, 'attributes': True}
  config = configs.plain(configs.load(f'{PACKAGE.parent}/configs/demo.py:smoke'))
  config['evals'] = {'some': {'protocol': name, 'data': data}}
  if name == 'attributes':
    config['evals']['some']['names'] = ATTRIBUTES[2:5]
  made = experiment.Experiment(completion.complete(config))
  made.describer = lambda params, aux: Describer(np.float32(params), colours, bright)
  made.random_init = {'raw': made.describer(2, None), 'calibrated': made.describer(3, None)}
  made.base = lambda aux: made.describer(4, None)
  return made


@pytest.mark.parametrize('name', MEASURING)
def test_other_networks_than_the_trained_one_are_measured_once(name, monkeypatch):
  if name == 'attributes':
    pytest.importorskip('sklearn')
  one, other, both = (measuring(name) for _ in range(3))
  protocol, seen = completion.find('evaluation', name), []
  monkeypatch.setattr(protocol, 'run', lambda *given, **options: {})  # it has tests of its own

  def noting(module, function, place):
    real = getattr(module, function)

    def noted(*given, **options):
      seen.append(float(given[place].variables))
      return real(*given, **options)

    monkeypatch.setattr(module, function, noted)

  noting(features, '_collect', 1)
  noting(invariance, 'distances', 0)
  alone = [one.evaluate('some', 1, None)[1], other.evaluate('some', 0, None)[1]]
  seen.clear()
  assert both.evaluate('some', 1, None)[1] == alone[0]
  assert {1, 3} <= set(seen)
  seen.clear()
  assert both.evaluate('some', 0, None)[1] == alone[1]
  assert set(seen) == {0}
  assert alone[0] != alone[1]
  assert any('random' in score for score in alone[1])


def test_the_contract_states_everything_that_is_looked_for_in_a_protocol():
  code = ''.join(file.read_text() for file in PACKAGE.rglob('*.py'))
  asked = set(re.findall(r"(?:getattr|hasattr)\(protocol, '(\w+)'", code))
  assert {'measure', 'pictures', 'DISCOVERS', 'EXTENDS', 'extends'} <= asked
  stated = re.findall(r'^  (\w+)(?::|\()', evaluation.__doc__, re.MULTILINE)
  assert asked | {'METRICS', 'run', 'check', 'score'} == set(stated)

"""Every protocol has what landmarks_jax/evaluation/__init__.py says, and can be called so."""

import inspect
import pathlib
import re

import pytest

from landmarks_jax import evaluation
from landmarks_jax.cli import completion
from landmarks_jax.cli import config as configs
from landmarks_jax.evaluation.scoring import Metric

PACKAGE = pathlib.Path(evaluation.__file__).parents[1]
FILES = (PACKAGE / 'evaluation').glob('*.py')
NAMES = sorted(f.stem for f in FILES if re.search(r'^def run\(', f.read_text(), re.MULTILINE))
NEEDED = 'margin', 'test', 'batch_size'
GIVEN = 'random_init', 'base', 'spread'


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


def test_the_contract_states_everything_that_is_looked_for_in_a_protocol():
  code = ''.join(file.read_text() for file in PACKAGE.rglob('*.py'))
  asked = set(re.findall(r"(?:getattr|hasattr)\(protocol, '(\w+)'", code))
  assert {'measure', 'pictures', 'DISCOVERS', 'EXTENDS', 'extends'} <= asked
  stated = re.findall(r'^  (\w+)(?::|\()', evaluation.__doc__, re.MULTILINE)
  assert asked | {'METRICS', 'run', 'check', 'score'} == set(stated)

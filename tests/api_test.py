"""Conventions of the pure floors, read from the signatures, so that no reviewer has to."""

import importlib
import inspect
import pathlib

import jax
import numpy as np
import pytest
from jaxtyping import PRNGKeyArray

from landmarks_jax.contracts import Array

PACKAGE = pathlib.Path(__file__).parents[1] / 'landmarks_jax'
PURE = ['contracts.py', 'dtypes.py', 'shapes.py', 'metrics.py', 'losses.py', 'correlation.py']
PURE += ['options.py', 'training.py']
PURE += ['geometry', 'augment', 'models', 'methods']


def modules():
  for name in PURE:
    path = PACKAGE / name
    files = sorted(path.glob('*.py')) if path.is_dir() else [path] * path.exists()
    for file in files:
      parts = file.relative_to(PACKAGE.parent).with_suffix('').parts
      yield importlib.import_module('.'.join(part for part in parts if part != '__init__'))


FUNCTIONS = {
  f'{module.__name__.removeprefix("landmarks_jax.")}.{name}': function
  for module in modules()
  for name, function in vars(module).items()
  if inspect.isfunction(function)
  and function.__module__ == module.__name__
  and not name.startswith('_')
}
every_function = pytest.mark.parametrize('name', FUNCTIONS)


def faults(function):
  """What a signature does against the conventions."""
  parameters = list(inspect.signature(function).parameters.values())
  found = []
  for i, p in enumerate(parameters):
    if p.annotation is p.empty:
      found.append(f'{p.name} has no annotation')
    if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY:
      found.append(f'{p.name} is an option and must be keyword-only')
    if p.annotation == PRNGKeyArray and not p.name.startswith('rng'):
      found.append(f'{p.name} is a random key; it is called rng here')
    if p.name == 'rng' and i and function.__name__ != 'init_state':
      found.append('rng comes first')
  if inspect.signature(function).return_annotation is inspect.Signature.empty:
    found.append('no return annotation')
  return found


def test_the_floors_are_not_empty():
  assert len(FUNCTIONS) > 30


@every_function
def test_signatures_follow_the_conventions(name):
  assert not faults(FUNCTIONS[name])


@every_function
def test_public_functions_say_what_they_do(name):
  line = (FUNCTIONS[name].__doc__ or '').splitlines()
  assert line
  assert len(line[0]) > 20


def bare_arrays(function):
  """Parameters and results that are arrays without a shape: plain `Array`, jax.Array or ndarray."""
  signature = inspect.signature(function)
  annotations = {p.name: p.annotation for p in signature.parameters.values()}
  annotations['the result'] = signature.return_annotation
  plain = (Array, jax.Array, np.ndarray)
  return [name for name, annotation in annotations.items() if annotation in plain]


@every_function
def test_arrays_state_their_shapes(name):
  assert not bare_arrays(FUNCTIONS[name])


def test_breaches_are_found():
  def bad(image: jax.Array, key: PRNGKeyArray, size: int = 3, other=None):
    return image

  def late(image: jax.Array, rng: PRNGKeyArray) -> jax.Array:
    return image

  assert len(faults(bad)) == 5
  assert faults(late) == ['rng comes first']
  assert bare_arrays(late) == ['image', 'the result']

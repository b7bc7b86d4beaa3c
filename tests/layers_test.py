"""Imports point down, mathematics is pure, and devices have one address."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / 'landmarks_jax'
FLOORS = {
  'contracts': 0,
  'dtypes': 0,
  'shapes': 0,
  'geometry': 1,
  'metrics': 1,
  'augment': 2,
  'losses': 2,
  'correlation': 2,
  'models': 2,
  'methods': 3,
  'training': 3,
  'data': 4,
  'interop': 4,
  'runtime': 4,
  'evaluation': 5,
  'report': 5,
  'labelling': 5,
  'inference': 5,
  'api': 5,
  'cli': 6,
  '__main__': 6,
}
IMPURE = {'absl', 'datetime', 'io', 'logging', 'ml_collections', 'open', 'os', 'pathlib', 'time'}
FILES = sorted(p for p in PACKAGE.rglob('*.py') if p.parent != PACKAGE or p.stem != '__init__')


def room(module):
  """'landmarks_jax.data.source' -> 'data'; None for other packages and for the package itself."""
  parts = module.split('.')
  return parts[1] if parts[0] == 'landmarks_jax' and len(parts) > 1 else None


def imports(source):
  """Every module that a file imports, at the top or late."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute here'
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return found


def upward(name, source):
  """The imports of a file of room `name` that point to a higher floor."""
  rooms = {r for r in map(room, imports(source)) if r and not r.startswith('_')}
  return sorted(r for r in rooms if FLOORS[r] > FLOORS[name])


def room_of(path):
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
  assert not upward(room_of(path), path.read_text())


def test_an_import_that_points_up_is_found():
  assert upward('losses', 'def f():\n  from landmarks_jax.methods import moco') == ['methods']
  assert upward('data', 'import landmarks_jax.cli.train') == ['cli']
  assert not upward('cli', 'from landmarks_jax import losses')


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_lower_floors_know_no_disk_clock_config_or_log(path):
  if FLOORS[room_of(path)] <= 3:
    assert not IMPURE & {module.split('.')[0] for module in imports(path.read_text())}
    calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not {'open', 'print'} & {f.id for f in calls if isinstance(f, ast.Name)}


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_sharding_and_commands_know_of_devices_and_processes(path):
  if path.relative_to(PACKAGE).as_posix() != 'runtime/sharding.py' and room_of(path) != 'cli':
    words = r'\b(pmap|psum|axis_name|process_index|process_count|device_count|local_devices)\b'
    # Names in code, not words in comments: a docstring may say what is absent.
    names = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert not [name for name in names if re.fullmatch(words, name)]


def test_no_room_is_named_after_nothing():
  assert not [p for p in FILES if p.stem in ('utils', 'util', 'helpers', 'common', 'misc')]

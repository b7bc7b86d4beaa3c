"""Imports point down, mathematics is pure, and devices have one address."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / 'landmarks_jax'
FLOORS = {
  'contracts': 0,
  'dtypes': 0,
  'options': 0,
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
WORDS = {'pmap', 'psum', 'pmean', 'all_gather', 'axis_name', 'axis_index', 'shard_map'}
WORDS |= {'process_index', 'process_count', 'process_allgather', 'multihost_utils'}
WORDS |= {'devices', 'device_count', 'local_devices', 'local_device_count', 'device_put'}
WORDS |= {'default_backend', 'memory_stats'}
MAY_SAY = {
  'runtime/compiler.py': {'default_backend'},  # sharding builds on it
  'runtime/memory.py': {'devices'},  # a number that it is given
}
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


def words_of_devices(source):
  """The WORDS that a file's code uses; a docstring may say what is absent."""
  kinds = {ast.Attribute: 'attr', ast.Name: 'id', ast.keyword: 'arg'}
  kinds |= {ast.alias: 'name', ast.ImportFrom: 'module'}
  nodes = [node for node in ast.walk(ast.parse(source)) if type(node) in kinds]
  names = [getattr(node, kinds[type(node)]) for node in nodes]
  return WORDS & {part for name in names if name for part in name.split('.')}


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_sharding_and_commands_know_of_devices_and_processes(path):
  name = path.relative_to(PACKAGE).as_posix()
  if name != 'runtime/sharding.py' and room_of(path) != 'cli':
    assert words_of_devices(path.read_text()) == MAY_SAY.get(name, set())


@pytest.mark.parametrize(
  ('code', 'word'),
  [
    ('count = jax.local_device_count()', 'local_device_count'),
    ('from jax.lax import psum as add', 'psum'),
    ('from jax import lax\nx = lax.pmean(x, "data")', 'pmean'),
    ('f = jax.vmap(f, axis_name="data")', 'axis_name'),
    ('import jax.experimental.multihost_utils', 'multihost_utils'),
    ('from jax.experimental.multihost_utils import sync_global_devices', 'multihost_utils'),
    ('from jax import devices\nfirst = devices()[0]', 'devices'),
    ('def f(x):\n  return device_put(x)', 'device_put'),
  ],
)
def test_code_that_knows_of_devices_is_found(code, word):
  assert words_of_devices(code) == {word}


def test_words_about_devices_are_not_code():
  assert not words_of_devices('"""No axis_name, no psum."""\n# on all devices\nx = "devices"')


def test_no_room_is_named_after_nothing():
  assert not [p for p in FILES if p.stem in ('utils', 'util', 'helpers', 'common', 'misc')]

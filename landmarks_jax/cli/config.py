"""Configs: a page of keyword arguments, completed with the defaults of the functions it calls.

A config file defines `get_config() -> ConfigDict`, and `SMOKE`, the changes that make its method
tiny. `FILE:smoke` applies them and replaces data and steps, so that it runs anywhere in seconds.
Changes from the command line are parsed by the annotation of the argument that they set.
"""

import ast
import collections.abc
import importlib.util
import inspect
import pathlib
import re
import traceback
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from landmarks_jax.runtime import by_name

PLACES = 'data.path', 'data.labels', 'data.lists', 'data.listed'  # the keys of where files are
ANY_KEY = 'Changes a key, as in --config.steps=100; --config=FILE --help lists the keys.'
SMOKE_STEPS, SMOKE_BATCH, SMOKE_IMAGES = 3, 8, 32
SMOKE_BASE = {'name': 'moco', 'depth': 18, 'width': 0.0625, 'norm_groups': 1}
SMOKE_BASE |= {'precision': 'float32'}


class Text(str):
  """A value from the command line: text until the annotation of its argument says what it is."""


def load(spec: str) -> ml_collections.ConfigDict:
  """Reads `PATH` or `PATH:smoke`. Raises FileNotFoundError or ValueError that say what to do."""
  path, _, variant = spec.partition(':')
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    folder = file if file.is_dir() else file.parent
    near = sorted(p.name for p in folder.glob('*.py'))
    there = f'; in {folder} there are: {", ".join(near)}' if near else ''
    if not near and file.parts[:1] == ('configs',):
      there = '; the configs of landmarks_jax are in its checkout, not in what pip installs'
    raise FileNotFoundError(f'no config file {path}{by_name.hint(file.name, near)}{there}')
  if variant not in ('', 'smoke'):
    raise ValueError(f'no variant {variant!r} of {path}; there is: smoke')
  config, changes = _import(file)
  return _smoke(config, changes) if variant else config


def _import(file: pathlib.Path) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  spec = importlib.util.spec_from_file_location(file.stem, file)
  if spec is None:
    raise ValueError(f'{file} is not a Python file; a config is one that defines get_config()')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
      raise ValueError('it defines no get_config()')
    return module.get_config(), getattr(module, 'SMOKE', {})
  except Exception as error:  # a user's file may raise anything
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.absolute())]
    line = getattr(error, 'lineno', None) or (lines[-1] if lines else 1)
    name = type(error).__name__
    raise ValueError(f'{file}, line {line} is not a config: {name}: {error}') from error


def _smoke(
  config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  with config.unlocked():
    steps = config.get('steps')  # None: as many as the optimiser's epochs take
    config.steps = SMOKE_STEPS if steps is None else min(steps, SMOKE_STEPS)
    config.batch_size = SMOKE_BATCH
    config.log_every = config.checkpoint_every = 1
    config.data = _synthetic(config.data.to_dict())
    for options in config.get('evals', {}).values():
      options.data = _synthetic(options.data.to_dict())
      for split in {'train', 'test', 'validation'} & set(options):  # names of its own data
        del options[split]
      if options.get('labels'):
        one, most = isinstance(options.labels, int), SMOKE_IMAGES // 2
        given = (options.labels,) if one else options.labels
        options.labels = min(*given, most) if one else sorted({min(n, most) for n in given})
      if options.get('count'):
        options.count = min(options.count, SMOKE_IMAGES // 2)
    if config.get('base'):
      config.base = {'method': SMOKE_BASE | {'margin': config.method.get('margin', 0)}}
    config.update_from_flattened_dict(dict(changes))
  return config


def _synthetic(data: Mapping[str, Any]) -> dict[str, Any]:
  """Keeps an embedded dataset, shortened; rendered faces replace all others."""
  if not str(data.get('name')).startswith('synthetic/'):
    kept = {'classes': True} if data.get('classes') else {}
    data = {'name': 'synthetic/faces', 'frame': data.get('frame', 136), **kept}
  return {**data, 'count': min(data.get('count') or SMOKE_IMAGES, SMOKE_IMAGES)}


def defaults(*functions: Callable) -> dict[str, Any]:
  """The keyword arguments of functions with their defaults; those without one are left out."""
  parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
  return {
    p.name: p.default
    for p in parameters
    if p.default is not p.empty and p.kind is not p.VAR_KEYWORD
  }


def complete(
  section: str,
  given: Mapping[str, Any],
  *functions: Callable,
  passed: Collection[str] = (),
  also: tuple[str, ...] = (),
  later: tuple[str, ...] = (),
) -> dict[str, Any]:
  """A section of a config with the defaults of the functions that will take it.

  passed: arguments that the caller passes itself: no keys. also: keys that are no function's
  argument. later: arguments that may stay None until the data determine them. Raises ValueError for
  a key that no function takes, a missing one, and a value that does not fit the annotation.
  """
  parameters = {
    name: p
    for f in functions
    for name, p in inspect.signature(f).parameters.items()
    if name not in passed and p.kind is not p.VAR_KEYWORD
  }
  for key in given:
    if key not in parameters and key not in also:
      known = sorted({*parameters, *also})
      raise ValueError(
        f'{section} has no {key!r}{by_name.hint(key, known)}; it has: {", ".join(known)}'
      )
  values = {name: value for name, value in defaults(*functions).items() if name in parameters}
  values |= {name: None for name in later if name in parameters} | dict(given)
  for name, parameter in parameters.items():
    if name not in values:
      raise ValueError(f'{section}.{name} is missing; give it as {section}.{name}=VALUE')
    kind = parameter.annotation
    values[name] = typed(f'{section}.{name}', values[name], kind | None if name in later else kind)
  return plain(values)


def typed(name: str, value: Any, kind: Any) -> Any:
  """The value if it fits an annotation; Text is parsed to fit. Raises ValueError naming both."""
  tried = _readings(value) if isinstance(value, Text) else [value]
  for one in tried:
    if _fits(one, kind):
      return one
  raise ValueError(f'{name}={value!r}: expected {_spell(kind)}')


def _readings(text: Text) -> list[Any]:
  def literal(part: str) -> Any:
    words = {'true': True, 'false': False, 'none': None}
    try:
      return ast.literal_eval(part.strip())
    except (ValueError, SyntaxError):
      return words.get(part.strip().lower(), part.strip())

  found = [literal(text), [literal(part) for part in text.split(',')], str(text)]
  return sorted(map(plain, found), key=lambda one: isinstance(one, str))  # text fits nearly all


def _fits(value: Any, kind: Any) -> bool:
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin in (types.UnionType, typing.Union):
    return any(_fits(value, one) for one in args)
  if origin is typing.Literal:
    return value in args
  if origin is tuple and args[-1:] != (...,):
    lists = isinstance(value, list | tuple) and len(value) == len(args)
    return lists and all(map(_fits, value, args))
  if origin in (tuple, list, collections.abc.Sequence):
    return isinstance(value, list | tuple) and all(_fits(one, args[0]) for one in value)
  if origin in (dict, collections.abc.Mapping):
    return isinstance(value, Mapping) and all(_fits(one, args[1]) for one in value.values())
  if kind in (int, float):
    numbers = int if kind is int else (int, float)
    return isinstance(value, numbers) and not isinstance(value, bool)
  if kind in (Any, inspect.Parameter.empty) or not (kind is None or isinstance(kind, type)):
    return True
  return value is None if kind is None else isinstance(value, kind)


def _spell(kind: Any) -> str:
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin in (types.UnionType, typing.Union):
    return ' or '.join(dict.fromkeys(map(_spell, args)))
  if origin is typing.Literal:
    return ' or '.join(map(repr, args))
  if origin is tuple and args[-1:] != (...,):
    return f'{len(args)} values ({", ".join(map(_spell, args))})'
  if origin in (tuple, list, collections.abc.Sequence):
    return f'a list, each {_spell(args[0])}'
  if origin in (dict, collections.abc.Mapping):
    return 'a section, with KEY=VALUE in it'
  words = {int: 'a whole number', float: 'a number', str: 'a text', bool: 'True or False'}
  return words.get(kind, 'None' if kind in (None, type(None)) else inspect.formatannotation(kind))


def plain(config: Any) -> Any:
  """A config in JSON types: dicts, lists, numbers, strings, None. Raises ValueError for others."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {str(key): plain(value) for key, value in config.items()}
  if isinstance(config, list | tuple):
    return [plain(value) for value in config]
  if config is None or isinstance(config, bool | int | float | str):
    return config
  raise ValueError(f'a config holds numbers, texts, lists and sections; not {config!r}')


def flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """The leaves of a plain config by their dotted names."""
  leaves = {}
  for key, value in config.items():
    inner = isinstance(value, Mapping) and value
    leaves |= flat(value, f'{prefix}{key}.') if inner else {f'{prefix}{key}': value}
  return leaves


def differences(old: Any, new: Any) -> list[str]:
  """Lines 'key: old -> new' for every leaf at which two plain configs differ."""
  return lines(differing(old, new))


def lines(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
  """Lines 'key: old -> new' for what `differing` found."""
  return [f'{key}: {before!r} -> {here!r}' for key, (before, here) in changed.items()]


def differing(old: Any, new: Any, prefix: str = '') -> dict[str, tuple[Any, Any]]:
  """The old and the new value of every leaf that differs, by dotted key."""
  if isinstance(old, dict) and isinstance(new, dict):
    absent, found = '(absent)', {}
    for key in sorted(old.keys() | new.keys()):
      found |= differing(old.get(key, absent), new.get(key, absent), f'{prefix}{key}.')
    return found
  return {} if old == new else {prefix[:-1]: (old, new)}


def define_flags(
  argv: Sequence[str], values: flags.FlagValues, *, changes: str = ANY_KEY
) -> list[str]:
  """Declares --config and --config.KEY; returns `argv` with every change as absl can read it.

  changes: the help of --config.KEY, for a command that does not change every key.
  """
  what = 'Config file, or FILE:smoke.'
  flags.DEFINE_string('config', None, what, flag_values=values)
  return define_changes(argv, values, what=changes)


def define_changes(argv: Sequence[str], values: flags.FlagValues, *, what: str) -> list[str]:
  """Declares --config.KEY alone, with the help `what`; returns `argv` as `define_flags` does."""
  flags.DEFINE_multi_string('config.KEY', [], what, flag_values=values)
  argv, rest = list(argv), []
  while argv:
    argument = argv.pop(0)
    match = re.match(r'--?config\.([^=]+)(=?)(.*)', argument, re.S)
    if match is None:
      rest.append(argument)
      continue
    key, given, value = match.groups()
    if not given:
      if not argv or argv[0].startswith('--'):
        raise ValueError(f'{argument} needs a value: {argument}=VALUE')
      value = argv.pop(0)
    rest.append(f'--config.KEY={key}={value}')
  return rest


def changed(config: Any, changes: Sequence[str]) -> dict[str, Any]:
  """A plain config with 'KEY=VALUE' changes, the values as Text. Raises ValueError.

  'evals.*.labels=5' changes every section of evals.
  """
  config = plain(config)
  for change in changes:
    key, _, value = change.partition('=')
    *path, last = key.split('.')
    if last == '*':
      raise ValueError(f'--config.{key}: * stands for sections; name a key of theirs')
    for section in _sections(config, path, key):
      section[last] = Text(value)
  return config


def _sections(config: dict[str, Any], path: Sequence[str], key: str) -> list[dict[str, Any]]:
  """The sections at a path, made where absent; '*' in it stands for all sections that are there."""
  found = [config]
  for i, part in enumerate(path):
    if part == '*':
      found = [inner for section in found for inner in section.values() if isinstance(inner, dict)]
    else:
      found = [section.setdefault(part, {}) for section in found]
    if not found:
      raise ValueError(f'--config.{key}: {".".join(path[:i])} has no section')
    if not all(isinstance(section, dict) for section in found):
      raise ValueError(f'--config.{key}: {".".join(path[: i + 1])} is not a section')
  return found

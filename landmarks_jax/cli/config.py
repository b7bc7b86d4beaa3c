"""Configs: a page of keyword arguments, completed with the defaults of the functions it calls.

A config file defines `get_config() -> ConfigDict`, and `SMOKE`, the changes that make its method
tiny. `FILE:smoke` applies them and replaces data and steps, so that it runs anywhere in seconds.
"""

import importlib.util
import inspect
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

# Arguments that commands hand over themselves; they are no part of a config.
INJECTED = frozenset(
  {'workdir', 'constrain', 'base', 'describer', 'open_split', 'random_init', 'baselines'}
  | {'place', 'rate', 'others', 'split'}
)
SMOKE_STEPS, SMOKE_BATCH, SMOKE_IMAGES = 3, 8, 32


def load(spec: str) -> ml_collections.ConfigDict:
  """Reads `PATH` or `PATH:smoke`. Raises FileNotFoundError or ValueError that say what to do."""
  path, _, variant = spec.partition(':')
  file = pathlib.Path(path)
  if not file.is_file():
    near = sorted(p.stem for p in file.parent.glob('*.py')) if file.parent.is_dir() else []
    there = f'; in {file.parent} there are: {", ".join(near)}' if near else ''
    raise FileNotFoundError(f'no config file {path}{there}')
  if variant not in ('', 'smoke'):
    raise ValueError(f'no variant {variant!r} of {path}; there is: smoke')
  module_spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  config = module.get_config()
  return _smoke(config, getattr(module, 'SMOKE', {})) if variant else config


def _smoke(
  config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  with config.unlocked():
    config.steps = min(config.steps, SMOKE_STEPS)
    config.batch_size = SMOKE_BATCH
    config.log_every = config.checkpoint_every = 1
    config.data = _synthetic(config.data.get('frame', 136))
    for options in config.get('evals', {}).values():
      options.data = _synthetic(options.data.get('frame', 136))
      if options.get('labels'):
        options.labels = min(options.labels, SMOKE_IMAGES // 2)
    config.update_from_flattened_dict(dict(changes))
  return config


def _synthetic(frame: int) -> dict[str, Any]:
  return {'name': 'synthetic/faces', 'count': SMOKE_IMAGES, 'frame': frame}


def defaults(*functions: Callable) -> dict[str, Any]:
  """The keyword arguments of functions with their defaults; those without one are left out."""
  parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
  return {
    p.name: p.default
    for p in parameters
    if p.name not in INJECTED and p.default is not p.empty and p.kind is not p.VAR_KEYWORD
  }


def complete(
  section: str, given: Mapping[str, Any], *functions: Callable, also: tuple[str, ...] = ()
) -> dict[str, Any]:
  """A section of a config with the defaults of the functions that will take it.

  Raises ValueError for a key that none of them takes, and for one that is missing.
  """
  parameters = {
    name: p
    for f in functions
    for name, p in inspect.signature(f).parameters.items()
    if name not in INJECTED and p.kind is not p.VAR_KEYWORD
  }
  unknown = [key for key in given if key not in parameters and key not in also]
  if unknown:
    raise ValueError(
      f'{section}: unknown {", ".join(unknown)}; known are {", ".join(sorted(parameters))}'
    )
  missing = [n for n, p in parameters.items() if p.default is p.empty and n not in given]
  if missing:
    raise ValueError(f'{section}: {", ".join(missing)} is missing')
  return {**defaults(*functions), **given}


def plain(config: Any) -> Any:
  """A config as JSON has it: dicts, lists, numbers, strings, None."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  return json.loads(json.dumps(config))


def differences(old: Any, new: Any, prefix: str = '') -> list[str]:
  """Lines 'key: old -> new' for every leaf at which two plain configs differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    keys = sorted(old.keys() | new.keys())
    absent = '(absent)'
    return [
      line
      for key in keys
      for line in differences(old.get(key, absent), new.get(key, absent), f'{prefix}{key}.')
    ]
  return [] if old == new else [f'{prefix[:-1]}: {old!r} -> {new!r}']


def claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Writes config.json into a new workdir; accepts one made by the same config, refuses others.

  Raises ValueError that lists both values of every key that differs.
  """
  file = workdir / 'config.json'
  if file.exists():
    changed = differences(json.loads(file.read_text()), config)
    if changed:
      raise ValueError(
        f'{workdir} was made by another config (there -> here):\n  '
        + '\n  '.join(changed)
        + '\nUse another --workdir, or the same config to continue.'
      )
    return
  workdir.mkdir(parents=True, exist_ok=True)
  if any(p.name != 'config.json.tmp' for p in workdir.iterdir()):
    raise ValueError(f'{workdir} is not empty and has no config.json; use a new --workdir')
  draft = file.with_suffix('.json.tmp')
  draft.write_text(json.dumps(config, indent=2) + '\n')
  draft.replace(file)


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares --config: reads the file that `argv` names, so that its keys can be changed there.

  Returns `argv` without the file; raises what `load` raises.
  """
  argv, spec = list(argv), None
  for i, argument in enumerate(argv):
    if argument in ('--config', '-config') and i + 1 < len(argv):
      spec = argv.pop(i + 1)
      argv.pop(i)
      break
    if argument.startswith(('--config=', '-config=')):
      spec = argv.pop(i).partition('=')[2]
      break
  what = 'Config file, or FILE:smoke; --config.KEY=VALUE changes a key.'
  if spec is None:
    flags.DEFINE_string('config', None, what, flag_values=values)
    return argv
  from landmarks_jax.cli import experiment, train  # late: this reads methods and data

  config = ml_collections.ConfigDict(experiment.complete(load(spec), train.train))
  config_flags.DEFINE_config_dict('config', config, what, flag_values=values, sys_argv=argv)
  return argv

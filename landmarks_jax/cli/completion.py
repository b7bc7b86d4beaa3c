"""Completes a config with the defaults of the functions that it names."""

import inspect
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import train
from landmarks_jax.data.source import source_function
from landmarks_jax.evaluation import few_shot, scoring
from landmarks_jax.runtime import by_name, optim

DEFINED = {'methods': ('build',), 'evaluation': ('run', 'check', 'score', 'METRICS')}  # by folder
EPOCH = 'epoch'  # of `every`: after each pass over the training pictures
# Arguments that are no keys of a section, since whoever calls its function passes them.
OF_TRAIN = ('workdir',)
OF_METHOD = 'constrain', 'base'
OF_DATA = ('split',)
OF_EVALUATION = 'describer', 'open_split', 'random_init', 'base', 'baselines', 'spread'
OF_EVALUATION += ('validation_score',)  # pck chooses it for regression
LEAST = {'steps': 0, 'batch_size': 1, 'log_every': 1, 'checkpoint_every': 1}
LEAST |= {'calibrate': 0, 'keep': 1, 'workers': 0, 'skip_nonfinite': 0, 'stuck_after': 1}


def find(folder: str, name: str, *, section: str = 'name') -> ModuleType:
  """A method or a protocol, see `by_name.module`."""
  function, *also = DEFINED[folder]
  fault = f'{section}={name!r} is not known'
  return by_name.module(folder, function, name, fault=fault, also=also)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
  """A config with every default that it leaves to the functions it calls.

  Raises ValueError that names the key and says what was expected.
  """
  config = configs.plain(config)
  config = configs.complete('config', config, train.train, passed=OF_TRAIN)
  for key, least in LEAST.items():
    if config[key] is not None and config[key] < least:
      raise ValueError(f'config.{key}={config[key]}: expected at least {least}')
  few_shot.check_seed(config['seed'], 'config.seed')
  config['data'] = _data('config.data', config['data'])
  config['method'] = method('config.method', config['method'])
  config['base'] = None if config['base'] is None else _base(config['base'])
  stands = 'base' in inspect.signature(find('methods', config['method']['name']).build).parameters
  if stands and not config['base']:
    raise ValueError(
      f'config.base is missing: {config["method"]["name"]} builds on a frozen network; '
      'give --config.base.checkpoint=DIR, the folder of its run'
    )
  if config['base'] and not stands:
    raise ValueError(f'config.base: {config["method"]["name"]} builds on no other network')
  optimizer = config['optimizer']
  _named('config.optimizer', optimizer, 'name')
  functions = optim.functions(**optimizer)
  later = 'epochs', 'steps_per_epoch'
  config['optimizer'] = configs.complete(
    'config.optimizer', optimizer, *functions, also=('name',), later=later
  )
  if config['steps'] is None and config['optimizer']['epochs'] is None:
    raise ValueError('config.steps is missing; give it, or config.optimizer.epochs')
  config['evals'] = evaluations(config['evals'], config['data'], config['method'])
  check_select(config['select'], config['evals'])
  return config


def method(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """The section of a method with its defaults; mean and std are left to the data."""
  build = find('methods', _named(section, options, 'name'), section=f'{section}.name').build
  later = 'mean', 'std'
  return configs.complete(section, options, build, passed=OF_METHOD, also=('name',), later=later)


def _base(options: Mapping[str, Any]) -> dict[str, Any]:
  """The section of the network that a method stands on. Raises ValueError if it names none."""
  done = configs.complete('config.base', options, _of_base)
  if not done['checkpoint'] and not done['method']:
    raise ValueError('config.base names no network; give --config.base.checkpoint=DIR, a run')
  return done | {'method': done['method'] and method('config.base.method', done['method'])}


def _of_base(
  *, checkpoint: str | None = None, step: int | None = None, method: Mapping[str, Any] | None = None
) -> None:
  """The keys of the section base."""


def evaluations(
  evals: Mapping[str, Mapping[str, Any]], training: Mapping[str, Any], method: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """The section `evals` with its defaults.

  training, method: the completed sections data and method, from which an evaluation of the same
  data set takes what it does not say of path, crop, images, frame and margin; empty where they are
  not known.
  """
  done = {}
  for name, options in evals.items():
    section = f'config.evals.{name}'
    if 'protocol' not in options:
      there = [other for other in evals if 'protocol' in evals[other]]
      near = by_name.hint(name, there)
      raise ValueError(f'{section}.protocol is missing{near}; evaluations: {", ".join(there)}')
    named = _named(section, options, 'protocol')
    protocol = find('evaluation', named, section=f'{section}.protocol')
    own = ('protocol', 'data', 'every')
    functions = [*_extended(protocol, options), protocol.run]  # the defaults of the last win
    options = _as_in_training(options, training, method)
    options = configs.complete(section, options, *functions, passed=OF_EVALUATION, also=own)
    if isinstance(options.get('seed'), int):
      few_shot.check_seed(options['seed'], f'{section}.seed')
    options = {'every': 0} | options
    options['every'] = _every(section, options['every'])
    data = configs.typed(f'{section}.data', options.get('data'), Mapping[str, Any])
    if 'split' in data:
      raise ValueError(
        f'{section}.data.split={data["split"]!r}: protocols choose splits themselves; '
        f'give {section}.test=SPLIT, and {section}.train=SPLIT where it has one'
      )
    done[name] = options | {'data': _data(f'{section}.data', _of_same_files(data, training))}
  return done


def _every(section: str, given: Any) -> int | str:
  """After how many steps an evaluation runs: a number, or EPOCH. Raises ValueError."""
  if given == EPOCH:
    return EPOCH
  try:
    steps = configs.typed(f'{section}.every', given, int)
  except ValueError as error:
    raise ValueError(f'{error}, or {EPOCH!r}') from None
  if steps < 0:
    raise ValueError(f'{section}.every={steps}: expected 0 or more steps, or {EPOCH!r}')
  return steps


def _of_same_files(data: Mapping[str, Any], training: Mapping[str, Any]) -> Mapping[str, Any]:
  """The data of an evaluation; of the training set, it reads the files of training as training."""
  if data.get('name') != training.get('name'):
    return data
  files = {key: training[key] for key in ('path', 'crop', 'images') if key in training}
  if data.get('crop') not in (None, files.get('crop')):
    files.pop('images', None)  # another crop may need other pictures
  return files | dict(data)


def _as_in_training(
  options: Mapping[str, Any], training: Mapping[str, Any], method: Mapping[str, Any]
) -> Mapping[str, Any]:
  """An evaluation of the training set that names neither frame nor margin takes training's."""
  data = options.get('data')
  if not isinstance(data, Mapping) or data.get('name') != training.get('name'):
    return options
  if 'frame' in data or 'margin' in options or 'frame' not in training:
    return options
  data = {**data, 'frame': training['frame']}
  return {**options, 'data': data, 'margin': method.get('margin', 0)}


def check_select(select: str | None, evals: Mapping[str, Mapping[str, Any]]) -> bool:
  """Whether the score that selects weights is better if higher; ValueError if it does not exist."""
  if select is None:
    return False
  scores = {
    f'{name}/{options["protocol"]}/{metric.name}': (metric.higher_is_better, options['every'])
    for name, options in evals.items()
    for metric in scoring.stated_metrics(options)
  }
  named = [name for name in scores if select == name or select.startswith(f'{name}_')]
  if not named:
    near = by_name.hint(select, scores)
    known = ', '.join(scores)
    raise ValueError(f'config.select={select!r} is not a score{near}; there are: {known}')
  score = max(named, key=len)  # pck_paper_n5 is of pck_paper, not of pck
  higher_is_better, every = scores[score]
  if not every:
    name = select.split('/')[0]
    raise ValueError(f'config.select={select!r} needs config.evals.{name}.every, in steps')
  _check_draws(select, score, evals[select.split('/')[0]])
  return higher_is_better


def _check_draws(select: str, score: str, options: Mapping[str, Any]) -> None:
  """Raises ValueError if an evaluation does not draw the labels whose score is selected.

  score: `select` without the number of labels, row and spread. A study has scores without draws.
  """
  if 'labels' not in options or 'of' in options:
    return
  labels, draws = options['labels'], options.get('draws', 1)
  numbers = [f'_n{number}' for number in labels] if isinstance(labels, (list, tuple)) else ['']
  number, rest = re.fullmatch(r'(_n\d+)?(.*)', select.removeprefix(score)).groups('')
  never = ('_std',) if draws == 1 else ('_low', '_high')
  if number not in numbers or rest.endswith(never):
    ends = [end for end in scoring.SPREADS if end not in never]
    raise ValueError(
      f'config.select={select!r}: with labels={labels} and draws={draws} the scores are '
      f'{", ".join(score + number for number in numbers)}, also with {" or ".join(ends)}'
    )


def _extended(protocol: ModuleType, options: Mapping[str, Any]) -> list[Callable]:
  """The protocol whose options this one takes besides its own, if any."""
  extended = getattr(protocol, 'EXTENDS', None)
  if hasattr(protocol, 'extends'):
    own = configs.defaults(protocol.run) | dict(options)
    names = inspect.signature(protocol.extends).parameters
    extended = protocol.extends(**{name: str(own[name]) for name in names})
  return [extended] if extended else []


def _data(section: str, data: Mapping[str, Any]) -> dict[str, Any]:
  source = source_function(_named(section, data, 'name'))
  return configs.complete(section, data, source, passed=OF_DATA, also=('name', 'split'))


def _named(section: str, options: Mapping[str, Any], key: str) -> str:
  if not isinstance(options.get(key), str):
    raise ValueError(f'{section}.{key}={options.get(key)!r}: expected a name')
  return str(options[key])

"""From a config to running parts: sources, method, describers, evaluations."""

import contextlib
import functools
import importlib
import inspect
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray, UInt8

from landmarks_jax import training
from landmarks_jax.cli import base as bases
from landmarks_jax.cli import config as configs
from landmarks_jax.contracts import Batch, Describer, Method, Predictions, PyTree, TrainState
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import Info, Source, open_source, source_function
from landmarks_jax.evaluation import features, rows
from landmarks_jax.geometry import regions
from landmarks_jax.report import components, draw
from landmarks_jax.runtime import optim, sharding

CALIBRATION_BATCHES = 10
FOLDERS = {'methods': 'build', 'evaluation': 'run'}  # what a file of them defines
LEAST = {'steps': 0, 'batch_size': 1, 'seed': 0, 'log_every': 1, 'checkpoint_every': 1}
LEAST |= {'keep': 1, 'workers': 0}


def find(folder: str, name: str, *, section: str = 'name') -> ModuleType:
  """The module `landmarks_jax/<folder>/<name>.py`; ValueError lists those that exist."""
  here, defines = pathlib.Path(__file__).parents[1] / folder, FOLDERS[folder]
  files = (f for f in here.glob('*.py') if re.search(rf'^def {defines}\(', f.read_text(), re.M))
  there = sorted(f.stem for f in files)
  if name not in there:
    near = configs.hint(name, there)
    raise ValueError(f'{section}={name!r} is not known{near}; there are: {", ".join(there)}')
  return importlib.import_module(f'landmarks_jax.{folder}.{name}')


def complete(config: Mapping[str, Any], command: Callable) -> dict[str, Any]:
  """A config with every default that it leaves to the functions it calls.

  Raises ValueError that names the key and says what was expected.
  """
  config = configs.complete('config', configs.plain(config), command, also=('base',))
  for key, least in LEAST.items():
    if config[key] is not None and config[key] < least:
      raise ValueError(f'config.{key}={config[key]}: expected at least {least}')
  config['data'] = _data('config.data', config['data'])
  config['method'] = _method('config.method', config['method'])
  config['base'] = bases.complete(config.get('base'), _method)
  stands = 'base' in inspect.signature(find('methods', config['method']['name']).build).parameters
  if stands and not config['base']:
    raise ValueError(
      f'config.base is missing: {config["method"]["name"]} stands on a frozen network; '
      'give --config.base.checkpoint=DIR, the folder of its run'
    )
  if config['base'] and not stands:
    raise ValueError(f'config.base: {config["method"]["name"]} stands on no other network')
  optimizer = config['optimizer']
  functions = optim.rate, optim.find(_named('config.optimizer', optimizer, 'name'))
  later = 'epochs', 'steps_per_epoch'
  config['optimizer'] = configs.complete(
    'config.optimizer', optimizer, *functions, also=('name',), later=later
  )
  if config['steps'] is None and config['optimizer']['epochs'] is None:
    raise ValueError('config.steps is missing; give it, or config.optimizer.epochs')
  config['evals'] = _evals(config['evals'], config['data'])
  check_select(config['select'], config['evals'])
  return config


def _method(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
  build = find('methods', _named(section, options, 'name'), section=f'{section}.name').build
  later = 'mean', 'std'
  return configs.complete(section, options, build, also=('name',), later=later)


def _evals(
  evals: Mapping[str, Mapping[str, Any]], training: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  done = {}
  for name, options in evals.items():
    section = f'config.evals.{name}'
    if 'protocol' not in options:
      there = [other for other in evals if 'protocol' in evals[other]]
      near = configs.hint(name, there)
      raise ValueError(f'{section}.protocol is missing{near}; evaluations: {", ".join(there)}')
    protocol = find('evaluation', options['protocol'], section=f'{section}.protocol')
    own = ('protocol', 'data', 'every')
    functions = [*_extended(protocol, options), protocol.run]  # the defaults of the last win
    options = {'every': 0} | configs.complete(section, options, *functions, also=own)
    options['every'] = configs.typed(f'{section}.every', options['every'], int)
    if options['every'] < 0:
      raise ValueError(f'{section}.every={options["every"]}: expected 0 or more steps')
    data = configs.typed(f'{section}.data', options.get('data'), Mapping[str, Any])
    if data.get('name') == training['name'] and 'path' in training:  # said once, changed once
      data = {'path': training['path']} | data
    done[name] = options | {'data': _data(f'{section}.data', data)}
  return done


def check_select(select: str | None, evals: Mapping[str, Mapping[str, Any]]) -> bool:
  """Whether more is better of the score that selects weights; ValueError if none has that name."""
  if select is None:
    return False
  scores = {
    f'{name}/{options["protocol"]}/{metric.name}': (metric.higher_is_better, options['every'])
    for name, options in evals.items()
    for metric in find('evaluation', options['protocol']).METRICS
  }
  score = next((name for name in scores if select == name or select.startswith(f'{name}_')), None)
  if score is None:
    near = configs.hint(select, scores)
    raise ValueError(f'config.select={select!r} is no score{near}; there are: {", ".join(scores)}')
  higher_is_better, every = scores[score]
  if not every:
    name = select.split('/')[0]
    raise ValueError(f'config.select={select!r} needs config.evals.{name}.every, in steps')
  return higher_is_better


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
  return configs.complete(section, data, source, also=('name', 'split'))


def _named(section: str, options: Mapping[str, Any], key: str) -> str:
  if not isinstance(options.get(key), str):
    raise ValueError(f'{section}.{key}={options.get(key)!r}: expected a name')
  return str(options[key])


class Experiment:
  """The running parts of a completed config; each is made at its first use."""

  def __init__(self, config: dict[str, Any], *, report: Callable[[str], None] = print) -> None:
    self.config, self.report = config, report
    self.mesh = sharding.mesh()
    self.rng_init, self.rng_train = jax.random.split(jax.random.key(config['seed']))
    self._baselines: dict[str, dict[str, Predictions]] = {}
    self._sources: dict[str, Source] = {}
    self._kept: dict[str, Source] = {}

  @functools.cached_property
  def _training(self) -> tuple[Source, Callable[[Batch], Batch]]:
    """The training pictures where `cache` says, and what brings a batch of them to the devices."""
    source, cache = self._on_disk(**self.config['data']), self.config['cache']
    free = sharding.free_memory(self.mesh)
    if cache == 'auto':
      cache = pipeline.choose_cache(source, self._example, device=free, report=self.report)
      cache = pipeline.CACHES[sharding.largest(pipeline.CACHES.index(cache))]
    if cache != 'device':
      return self._keep(source, cache), lambda batch: sharding.to_global(batch, self.mesh)
    need = pipeline.cache_bytes(source, self._example)
    if free is not None and need > free:
      raise ValueError(
        f'config.cache=device: {len(source):,} pictures need {need / 1e9:.2f} GB on each device, '
        f'but {free / 1e9:.2f} GB is free; choose cache=host'
      )
    arrays = self._keep(source, 'host').arrays
    valid, rows = np.ones(len(source), bool), np.arange(len(source), dtype=np.int32)
    gather = sharding.make_gather(arrays | {'valid': valid}, self.mesh)
    return pipeline.Cached(source.info, {'index': rows}), lambda batch: Batch(**gather(batch.index))

  def _keep(self, source: Source, cache: str) -> Source:
    """A source in host memory or read as needed; each bad picture of it is told once."""
    bad = self.config['on_bad_image']
    if cache == 'stream':
      return pipeline.Reporting(source, pipeline.BadImages(len(source), bad, self.report))
    return pipeline.cached(source, on_bad_image=bad, report=self.report)

  def _open(self, **options: Any) -> Source:
    """The pictures of an evaluation, in host memory where they fit."""
    key = repr(sorted(options.items()))
    if key not in self._kept:
      source, cache = self._on_disk(**options), self.config['cache']
      if cache != 'stream':
        example = features.first_readable(source)
        cache = pipeline.choose_cache(source, example, report=self.report)
      self._kept[key] = self._keep(source, cache)
    return self._kept[key]

  def _on_disk(self, **options: Any) -> Source:
    key = repr(sorted(options.items()))
    if key not in self._sources:
      self._sources[key] = open_source(**_tuples(options))
    return self._sources[key]

  def resolve(self) -> None:
    """Fills what only the data can say: mean and std of the method, the number of steps."""
    base, optimizer = self.config['base'], self.config['optimizer']
    source = self._on_disk(**self.config['data'])
    info, count = source.info, len(source)
    sections = {'config.method': self.config['method']}
    if base is not None:
      bases.resolve(base, _method)
      sections['config.base.method'] = base['method']
    for section, method in sections.items():
      for name in {'mean', 'std'} & set(method):
        if method[name] is None:
          method[name] = list(getattr(info, name))
        if len(method[name]) != 3:
          raise ValueError(f'{section}.{name}={method[name]}: expected three numbers, R, G and B')
    if optimizer['epochs'] is None:  # the rate falls by the step, not by the epoch
      optimizer |= {'epochs': max(1, self.config['steps']), 'steps_per_epoch': 1}
    if optimizer['steps_per_epoch'] is None:
      optimizer['steps_per_epoch'] = max(1, count // self.config['batch_size'])
    if self.config['steps'] is None:
      self.config['steps'] = optimizer['epochs'] * optimizer['steps_per_epoch']

  def check_evals(self) -> None:
    """Raises, before anything is computed, what would stop an evaluation after hours."""
    for name, options in self.config['evals'].items():
      margin, frame = options.get('margin', 0), options['data'].get('frame')
      if frame is not None and not 0 <= 2 * margin <= frame - 2:
        raise ValueError(f'config.evals.{name}.margin={margin} leaves nothing of frame={frame}')
      protocol, data, options = self._protocol(name)
      try:
        protocol.check(lambda split, data=data: self._on_disk(**data, split=split), **options)
      except ValueError as error:
        raise ValueError(f'config.evals.{name}: {error}') from error

  def check_step(self) -> None:
    """Raises, before anything is written, what would stop the first training step."""
    count, examples = self.config['batch_size'], len(self._on_disk(**self.config['data']))
    if count > examples:
      raise ValueError(
        f'config.batch_size={count}, but there are {examples} pictures; choose a smaller batch'
      )
    if count % self.mesh.size:
      raise ValueError(
        f'config.batch_size={count} does not divide over {self.mesh.size} devices; '
        f'use a multiple of {self.mesh.size}'
      )
    example = {'valid': np.True_} | self._example
    arrays = {name: np.asarray(value) for name, value in example.items()}
    shapes = {k: jax.ShapeDtypeStruct((count, *v.shape), v.dtype) for k, v in arrays.items()}
    step = training.make_train_step(self.method, self.optimizer)  # reads a base, before tracing
    state = jax.eval_shape(self._init, self.rng_init)
    jax.eval_shape(step, state, Batch(**shapes), self.rng_train)

  @functools.cached_property
  def _example(self) -> dict[str, Any]:
    return features.first_readable(self._on_disk(**self.config['data']))

  @functools.cached_property
  def method(self) -> Method:
    """The method, with its batches kept spread over the devices."""
    base = {} if self._base is None else {'base': self._base[1]}
    return self._build(self.config['method'], **base)

  def _build(self, options: Mapping[str, Any], **others: Any) -> Method:
    options = _tuples(options)
    build = find('methods', options.pop('name')).build
    return build(**options, **others, constrain=sharding.constrain(self.mesh))

  @functools.cached_property
  def _base(self) -> tuple[Method, Describer] | None:
    """The network below the method, and its features."""
    if self.config['base'] is None:
      return None
    method, example = self._build(self.config['base']['method']), self._example_batch
    variables = bases.variables(self.config['base'], method, self.rng_init, example)
    return method, bases.describer(method, variables)

  def base(self, aux: PyTree) -> Describer | None:
    """The features below a method, with the weights that its state keeps."""
    return None if self._base is None else self._base[1]._replace(variables=aux['base'])

  @functools.cached_property
  def optimizer(self) -> Any:
    """The optax transformation."""
    return optim.build(**_tuples(self.config['optimizer']))

  def learning_rate(self, step: int) -> float:
    """Of the step that follows `step` updates."""
    return float(optim.rate(**_tuples(self.config['optimizer']))(step))

  def batches(self, start_step: int) -> Iterator[Batch]:
    """Training batches from a step on, cut over the devices. Close it."""
    source, place = self._training
    batches = pipeline.training_batches(
      source,
      seed=self.config['seed'],
      batch_size=self.config['batch_size'],
      shard=sharding.shard(),
      shards=sharding.shards(),
      start_step=start_step,
      workers=0 if isinstance(source, pipeline.Cached) else self.config['workers'],
    )
    with contextlib.closing(batches):
      yield from map(place, batches)

  def init_state(self) -> TrainState:
    """The state before the first step, on all devices."""
    # A frozen base would be a constant in compiled code, and large.
    init = jax.jit(self._init) if self._base is None else self._init
    return sharding.replicate(init(self.rng_init), self.mesh)

  def _init(self, rng: PRNGKeyArray) -> TrainState:
    return training.init_state(self.method, self.optimizer, rng, self._example_batch)

  @property
  def _example_batch(self) -> Batch:
    return Batch(image=self._example['image'][None])

  @functools.cached_property
  def _apply(self) -> Callable:
    return lambda variables, image, size: self.method.describe(*variables, image, size)

  def describer(self, params: PyTree, aux: PyTree) -> Describer:
    """The features of these weights."""
    return Describer((params, aux), self._apply)

  @functools.cached_property
  def random_init(self) -> dict[str, Describer]:
    """The untrained network: raw, and with running statistics measured on training pictures.

    With a base all of it is untrained, the base included.
    """
    state = self.init_state()
    if self._base is None:
      variants = self._calibrated(self.method, state.params, state.aux)
      return {name: self.describer(*given) for name, given in variants.items()}
    method = self._base[0]
    variants = self._calibrated(method, *jax.jit(method.init)(self.rng_init, self._example_batch))
    return {
      name: self.describer(state.params, state.aux | {'base': given})
      for name, given in variants.items()
    }

  def _calibrated(
    self, method: Method, params: PyTree, aux: PyTree
  ) -> dict[str, tuple[PyTree, PyTree]]:
    """(params, aux) as they are, and with exact running statistics of some training batches."""
    found = {'raw': (params, aux)}
    if method.calibrate is not None:
      calibrate, batches = jax.jit(method.calibrate), self.batches(0)
      for n, batch in zip(range(CALIBRATION_BATCHES), batches, strict=False):
        aux = calibrate(params, aux, batch, self.rng_init, n)
      batches.close()
      found['calibrated'] = params, aux
    return found

  def evaluate(
    self, name: str, params: PyTree, aux: PyTree
  ) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Runs one of the config's evaluations: its predictions, and its scores by metric."""
    protocol, data, options = self._protocol(name)
    devices = self.mesh.size
    options['batch_size'] = -(-options['batch_size'] // devices) * devices
    describer = self.describer(params, aux)
    given = {
      'open_split': lambda split: self._open(**data, split=split),
      'random_init': self.random_init,
      'place': lambda tree: sharding.to_global(tree, self.mesh),
    }
    predictions = protocol.run(
      describer, **given, base=self.base(aux), baselines=self._baselines.get(name), **options
    )
    self._baselines[name] = predictions
    of = {key: options[key] for key in ('of',) if key in options}  # a study of another protocol
    scores = protocol.score(predictions, flip_pairs=self.info(name).flip_pairs, **of)
    if hasattr(protocol, 'measure'):  # numbers that no predictions hold
      scores |= protocol.measure(describer, **given, **options)
    return predictions, scores

  def _protocol(self, name: str) -> tuple[ModuleType, dict[str, Any], dict[str, Any]]:
    """The module of an evaluation, the options of its data, and its own."""
    options = _tuples(self.config['evals'][name])
    data, _ = options.pop('data'), options.pop('every')
    data = {k: v for k, v in data.items() if k != 'split'}  # the protocol chooses
    section = f'config.evals.{name}.protocol'
    return find('evaluation', options.pop('protocol'), section=section), data, options

  def info(self, name: str) -> Info:
    """Of the dataset of one evaluation."""
    _, data, options = self._protocol(name)
    return self._on_disk(**data, split=options['test']).info

  def examples(self, name: str, predictions: Mapping[str, Predictions]) -> dict[str, Any] | None:
    """Some test pictures, as described, and their points: what `draw.landmark_sheet` takes.

    None where the protocol shows pairs of pictures instead: `matches`.
    """
    shown, protocol, data, options = self._shown(name, predictions)
    if hasattr(protocol, 'pictures'):
      return None
    chosen = _spread(len(shown.index), count=12)
    source = self._open(**data, split=options['test'])
    frames = np.stack([source[int(shown.index[i])]['image'] for i in chosen])
    return {
      'images': list(regions.cut_centre(frames, options['margin'])),
      'points': shown.points[chosen],
      'target': shown.target[chosen],
      'visible': shown.visible[chosen],
    }

  def matches(self, name: str, predictions: Mapping[str, Predictions]) -> dict[str, Any] | None:
    """Some pairs of pictures, as described, and their matches: what `draw.match_sheet` takes."""
    shown, protocol, data, options = self._shown(name, predictions)
    if not hasattr(protocol, 'pictures'):
      return None
    chosen = _spread(len(shown.index), count=6).tolist()

    def open_split(split: str) -> Source:
      return self._open(**data, split=split)

    return protocol.pictures(open_split, shown, chosen, task='different', **options)

  def sheet(self, name: str, predictions: Mapping[str, Predictions]) -> UInt8[np.ndarray, 'H W 3']:
    """Landmarks on test pictures, or matches between them, as one picture."""
    examples = self.examples(name, predictions)
    if examples is not None:
      return draw.landmark_sheet(**examples)
    return draw.match_sheet(**self.matches(name, predictions))

  def hypercolumns(self, params: PyTree, aux: PyTree) -> dict[str, UInt8[np.ndarray, 'H W 3']]:
    """What the features of test pictures look like, by the name of the drawing; none without."""
    if not self.config['evals']:
      return {}
    _, data, options = self._protocol(next(iter(self.config['evals'])))
    source = self._open(**data, split=options['test'])
    batches = pipeline.evaluation_batches(source, batch_size=min(16, len(source)))
    with contextlib.closing(batches):
      batch = regions.centre_crop(next(batches), options['margin'])
    image = batch.image[np.asarray(batch.valid)]
    describer = self.describer(params, aux)
    found = components.of_pyramid(features.compiled(describer.apply)(describer.variables, image))
    sheets = {'hypercolumn_components': draw.component_sheet(image[:8], found[:8])}
    if found.shape[-1] >= 3:
      sheets['hypercolumn_rgb'] = draw.rgb_sheet(image[:8], found[:8])
    return sheets

  def _shown(
    self, name: str, predictions: Mapping[str, Predictions]
  ) -> tuple[Predictions, ModuleType, dict[str, Any], dict[str, Any]]:
    """Which predictions of the trained row to draw, and `_protocol` of what draws them."""
    protocol, data, options = self._protocol(name)
    if 'of' in options:  # a study of another protocol
      protocol = find('evaluation', options['of'])
    draws = rows.draws_by_row(predictions)
    trained = {group: given[0] for (row, group), given in draws.items() if row == rows.TRAINED}
    shown = trained.get('different', list(trained.values())[-1])
    return shown, protocol, data, options


def _spread(total: int, *, count: int) -> Int[np.ndarray, ' n']:
  """Some of `total` numbers, evenly apart."""
  return np.unique(np.linspace(0, total - 1, count).astype(int))


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
  """JSON has lists where functions take tuples."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}

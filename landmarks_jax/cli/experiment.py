"""From a config to running parts: sources, method, describers, evaluations."""

import functools
import importlib
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np

from landmarks_jax import training
from landmarks_jax.cli import config as configs
from landmarks_jax.contracts import Batch, Describer, Method, Predictions, PyTree, TrainState
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import Source, open_source, source_function
from landmarks_jax.runtime import optim, sharding

CALIBRATION_BATCHES = 10


def find(folder: str, name: str) -> ModuleType:
  """The module `landmarks_jax/<folder>/<name>.py`; ValueError lists those that exist."""
  here = pathlib.Path(__file__).parents[1] / folder
  there = sorted(p.stem for p in here.glob('*.py') if p.stem != '__init__')
  if name not in there:
    raise ValueError(f'no {name!r} in {folder}; there are: {", ".join(there)}')
  return importlib.import_module(f'landmarks_jax.{folder}.{name}')


def complete(config: Mapping[str, Any], command: Callable) -> dict[str, Any]:
  """A config with every default that it leaves to the functions it calls; no unknown keys."""
  config = configs.complete('config', configs.plain(config), command)
  config['data'] = _data('data', config['data'])
  method = config['method']
  build = find('methods', method['name']).build
  given = {'mean': None, 'std': None} | method
  config['method'] = configs.complete('method', given, build, also=('name',))
  optimizer = {'epochs': None, 'steps_per_epoch': None} | config['optimizer']
  functions = optim.rate, optim.find(optimizer['name'])
  config['optimizer'] = configs.complete('optimizer', optimizer, *functions, also=('name',))
  config['evals'] = {name: _eval(name, options) for name, options in config['evals'].items()}
  return configs.plain(config)


def _data(section: str, data: Mapping[str, Any]) -> dict[str, Any]:
  return configs.complete(section, data, source_function(data['name']), also=('name', 'split'))


def _eval(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
  protocol = find('evaluation', options['protocol']).run
  own = ('protocol', 'data', 'every')
  options = {'every': 0} | configs.complete(f'evals.{name}', options, protocol, also=own)
  return options | {'data': _data(f'evals.{name}.data', options['data'])}


class Experiment:
  """The running parts of a completed config; each is made at its first use."""

  def __init__(self, config: dict[str, Any], *, report: Callable[[str], None] = print) -> None:
    self.config, self.report = config, report
    self.mesh = sharding.mesh()
    self.rng_init, self.rng_train = jax.random.split(jax.random.key(config['seed']))
    self._baselines: dict[str, dict[str, Predictions]] = {}
    self._sources: dict[str, Source] = {}

  @functools.cached_property
  def source(self) -> Source:
    """The training pictures, in memory where `cache` says so."""
    return self._open(**self.config['data'])

  def _open(self, **options: Any) -> Source:
    key = repr(sorted(options.items()))
    if key not in self._sources:
      options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
      source = open_source(**options)
      if self.config['cache']:
        bad = self.config['on_bad_image']
        source = pipeline.cached(source, on_bad_image=bad, report=self.report)
      self._sources[key] = source
    return self._sources[key]

  def resolve(self) -> None:
    """Fills what only the data can say: mean and std of the method, steps of an epoch."""
    method, optimizer = self.config['method'], self.config['optimizer']
    for name in ('mean', 'std'):
      if method[name] is None:
        method[name] = list(getattr(self.source.info, name))
    if optimizer['epochs'] is None:  # the rate falls by the step, not by the epoch
      optimizer |= {'epochs': self.config['steps'], 'steps_per_epoch': 1}
    if optimizer['steps_per_epoch'] is None:
      optimizer['steps_per_epoch'] = max(1, len(self.source) // self.config['batch_size'])

  @functools.cached_property
  def method(self) -> Method:
    """The method, with its batches kept spread over the devices."""
    options = dict(self.config['method'])
    build = find('methods', options.pop('name')).build
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return build(**options, constrain=sharding.constrain(self.mesh))

  @functools.cached_property
  def optimizer(self) -> Any:
    """The optax transformation."""
    return optim.build(**self.config['optimizer'])

  def learning_rate(self, step: int) -> float:
    """Of the step that follows `step` updates."""
    return float(optim.rate(**self.config['optimizer'])(step))

  def batches(self, start_step: int) -> Any:
    """Training batches from a step on, this process's rows."""
    return pipeline.training_batches(
      self.source,
      seed=self.config['seed'],
      batch_size=self.config['batch_size'],
      shard=sharding.shard(),
      shards=sharding.shards(),
      start_step=start_step,
      workers=self.config['workers'],
      on_bad_image=self.config['on_bad_image'],
      report=self.report,
    )

  def init_state(self) -> TrainState:
    """The state before the first step, on all devices."""
    example = self.source[0]['image'][None]
    state = jax.jit(
      lambda rng: training.init_state(self.method, self.optimizer, rng, Batch(image=example))
    )(self.rng_init)
    return sharding.replicate(state, self.mesh)

  @functools.cached_property
  def _apply(self) -> Callable:
    return lambda variables, image, size: self.method.describe(*variables, image, size)

  def describer(self, params: PyTree, aux: PyTree) -> Describer:
    """The features of these weights."""
    return Describer((params, aux), self._apply)

  @functools.cached_property
  def random_init(self) -> dict[str, Describer]:
    """The untrained network: raw, and with running statistics measured on training pictures."""
    state = self.init_state()
    found = {'raw': self.describer(state.params, state.aux)}
    if self.method.calibrate is not None:
      aux, calibrate = state.aux, jax.jit(self.method.calibrate)
      batches = self.batches(0)
      for n, batch in zip(range(CALIBRATION_BATCHES), batches, strict=False):
        batch = sharding.to_global(batch, self.mesh)
        aux = calibrate(state.params, aux, batch, self.rng_init, n)
      batches.close()
      found['calibrated'] = self.describer(state.params, aux)
    return found

  def evaluate(self, name: str, describer: Describer) -> tuple[dict[str, Predictions], dict]:
    """Runs one of the config's evaluations: its predictions, and its scores by metric."""
    options = dict(self.config['evals'][name])
    protocol = find('evaluation', options.pop('protocol'))
    data, _ = options.pop('data'), options.pop('every')
    data.pop('split', None)
    devices = self.mesh.size
    options['batch_size'] = -(-options['batch_size'] // devices) * devices
    predictions = protocol.run(
      describer,
      lambda split: self._open(**data, split=split),
      random_init=self.random_init,
      baselines=self._baselines.get(name),
      place=lambda image: sharding.to_global(image, self.mesh),
      **options,
    )
    self._baselines[name] = predictions
    return predictions, protocol.score(predictions)

  def pictures(self, name: str, predictions: Predictions, *, count: int = 12) -> dict[str, Any]:
    """Some test pictures, as described, and their points: what `draw.landmark_sheet` takes."""
    options = self.config['evals'][name]
    data = {k: v for k, v in options['data'].items() if k != 'split'}
    source = self._open(**data, split=options['test'])
    chosen = np.unique(np.linspace(0, len(predictions.index) - 1, count).astype(int))
    place = {int(source[i]['index']): i for i in range(len(source))}
    margin = options['margin']
    images = [source[place[int(predictions.index[i])]]['image'] for i in chosen]
    side = images[0].shape[0] - margin
    return {
      'images': [image[margin:side, margin:side] for image in images],
      'points': predictions.points[chosen],
      'target': predictions.target[chosen],
      'visible': predictions.visible[chosen],
    }

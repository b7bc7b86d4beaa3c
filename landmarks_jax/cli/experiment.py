"""From a completed config to running parts: method, step, describers, evaluations."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from landmarks_jax import training
from landmarks_jax.augment import colour
from landmarks_jax.cli import base as bases
from landmarks_jax.cli import completion, processes
from landmarks_jax.cli.inputs import Inputs
from landmarks_jax.contracts import Batch, Describer, Method, Predictions, PyTree, TrainState
from landmarks_jax.data.source import Info, source_function
from landmarks_jax.evaluation import features, scoring
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.runtime import by_name, compiler, optim, sharding

CALIBRATION_BATCHES = 10


class Experiment:
  """The running parts of a completed config; each is made at its first use.

  mesh: the devices; None takes all.
  """

  def __init__(
    self,
    config: dict[str, Any],
    *,
    mesh: sharding.Mesh | None = None,
    report: Callable[[str], None] = print,
  ) -> None:
    self.config, self.report = config, report
    self.restores = False  # whether a checkpoint is going to give all weights, also of the base
    self.mesh = sharding.mesh() if mesh is None else mesh
    self.inputs = Inputs(config, self.mesh, report=report)
    self.rng_init, self.rng_train = jax.random.split(jax.random.key(config['seed']))
    self._baselines: dict[str, dict[str, Predictions]] = {}
    self._measures: dict[str, dict[str, float]] = {}
    self._calibrations: dict[Method, Callable] = {}

  def check_same(self) -> None:
    """Raises ValueError, on every process, unless all have the same config and pictures.

    All of them must call it, before anything else: an error of one leaves the others waiting.
    """
    if sharding.shards() == 1:
      return
    found = {'training': self._told_apart(self.inputs.fingerprint)}
    for name in self.config['evals']:
      _, data, options = self.protocol(name)
      for part in [part for part in ('train', 'test', 'validation') if options.get(part)]:
        of_part = functools.partial(self.inputs.fingerprint, **data, split=options[part])
        found[f'evals.{name}.{part}'] = self._told_apart(of_part)
    processes.check_same(self.config, found)

  @staticmethod
  def _told_apart(fingerprint: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A fingerprint; if there is none, the error, which one process may have and others not."""
    try:
      return fingerprint()
    except (OSError, ValueError) as error:
      return {'error': str(error)}

  def resolve(self, begun: Mapping[str, Any] | None = None) -> None:
    """Fills in what depends on the data: the method's mean and std, and the numbers of steps.

    begun: the config of the run that goes on, if any. It keeps the step of its base and the steps
    of its epochs, even if the base has trained on and there are more pictures.
    """
    base, info = self.config['base'], self.inputs.training.info
    sections = {'config.method': self.config['method']}
    if base is not None:
      before = begun and begun.get('base')
      bases.resolve(base, before, restores=self.restores)
      sections['config.base.method'] = base['method']
    for section, method in sections.items():
      for name in {'mean', 'std'} & set(method):
        if method[name] is None:
          method[name] = list(getattr(info, name))
        colour.check_statistics(where=f'{section}.', **{name: method[name]})
    self._resolve_steps(begun or {})

  def _resolve_steps(self, before: Mapping[str, Any]) -> None:
    """Fills in the numbers of steps. before: the config of the run that goes on, or empty."""
    config, optimizer = self.config, self.config['optimizer']
    begun = before.get('optimizer', {}).get('steps_per_epoch')
    begun = None if begun == 1 else begun  # 1: as a run without epochs has it
    found = max(1, len(self.inputs.training) // config['batch_size'])
    epoch = optimizer['steps_per_epoch'] or begun or found
    if optimizer['epochs'] is None:  # the rate falls by the step, not by the epoch
      optimizer |= {'epochs': max(1, config['steps']), 'steps_per_epoch': 1}
    if optimizer['steps_per_epoch'] is None:
      optimizer['steps_per_epoch'] = epoch
      if begun not in (None, found):
        self.report(
          f'note: config.optimizer.steps_per_epoch stays {begun}, as when the run began; the '
          f'pictures there are now would give {found}'
        )
    if config['steps'] is None:
      config['steps'] = optimizer['epochs'] * optimizer['steps_per_epoch']
    if config['method'].get('steps', 0) is None:  # of a schedule inside the method
      config['method']['steps'] = config['steps']
    for name, options in config['evals'].items():
      if options['every'] == completion.EPOCH:
        options['every'] = before.get('evals', {}).get(name, {}).get('every') or epoch

  def check_evals(self) -> None:
    """Raises, before anything is computed, errors that would stop an evaluation hours later."""
    for name, options in self.config['evals'].items():
      margin, frame = options.get('margin', 0), options['data'].get('frame')
      if frame is not None and not 0 <= 2 * margin <= frame - 2:
        raise ValueError(f'config.evals.{name}.margin={margin} leaves nothing of frame={frame}')
      if options['batch_size'] < 1:
        raise ValueError(
          f'config.evals.{name}.batch_size={options["batch_size"]}: expected at least 1'
        )
      self._compare_sides(name)
      protocol, data, options = self.protocol(name)
      if getattr(protocol, 'DISCOVERS', False) and self.method.landmarks is None:
        raise ValueError(
          f'config.evals.{name}: the method {self.config["method"]["name"]} finds no landmarks by '
          'itself, which this protocol judges; lmdis does'
        )
      try:
        protocol.check(lambda split, data=data: self.inputs.on_disk(**data, split=split), **options)
      except ValueError as error:
        raise ValueError(f'config.evals.{name}: {error}') from error

  def _compare_sides(self, name: str) -> None:
    """Notes if the network sees pictures of another size in an evaluation than in training."""
    evaluation, method = self.config['evals'][name], self.config['method']
    frames = evaluation['data'].get('frame'), self.config['data'].get('frame')
    if None in frames:
      return
    margins = evaluation.get('margin', 0), method.get('margin', 0)
    shown, trained = (frame - 2 * margin for frame, margin in zip(frames, margins, strict=True))
    if shown not in (trained, method.get('size')):  # scrl shows views of that size
      self.report(
        f'note: config.evals.{name} shows {shown} pixels a side (frame={frames[0]}, '
        f'margin={margins[0]}), training {trained} (frame={frames[1]}, margin={margins[1]})'
      )

  def check_step(self) -> None:
    """Raises, before anything is written, errors that would stop the first training step."""
    count, examples = self.config['batch_size'], len(self.inputs.training)
    if count > examples:
      raise ValueError(
        f'config.batch_size={count}, but there are {examples} pictures; choose a smaller batch'
      )
    if count % self.mesh.size:
      raise ValueError(
        f'config.batch_size={count} does not divide over {self.mesh.size} devices; '
        f'use a multiple of {self.mesh.size}'
      )
    if self.config['calibrate'] and self.method.calibrate is None:
      name = self.config['method']['name']
      raise ValueError(f'config.calibrate: {name} has no running statistics to measure; leave it 0')
    state, batch = self.shapes(count)
    training.check(state, *jax.eval_shape(self.step, state, batch, self.rng_train))
    side = len(self.inputs.example['image']) - 2 * self.config['method'].get('margin', 0)
    for _, pyramid in self.described or self._describe(count, side):
      if pyramid != ():  # a method that describes nothing can be trained, too
        features.check_pyramid(pyramid)

  def note_unused_path(self) -> None:
    """Notes if a path is given for training pictures that are rendered."""
    name, path = self.config['data']['name'], self.config['data'].get('path')
    if path is not None and getattr(inspect.getmodule(source_function(name)), 'RENDERS', False):
      self.report(f'note: config.data.path={path} is not used: {name} renders its pictures')

  def shapes(self, batch_size: int) -> tuple[TrainState, Batch]:
    """The shapes of the state, and of a global batch."""
    example = {'valid': np.True_} | self.inputs.example
    arrays = {name: np.asarray(value) for name, value in example.items()}
    batch = {k: jax.ShapeDtypeStruct((batch_size, *v.shape), v.dtype) for k, v in arrays.items()}
    return jax.eval_shape(self._draw, self.rng_init), Batch(**batch)

  @functools.cached_property
  def described(self) -> list[tuple[jax.ShapeDtypeStruct, PyTree]]:
    """Shapes of a batch of pictures and of its description, by evaluation that says its frame."""
    found = []
    for options in self.config['evals'].values():
      frame, batch = options['data'].get('frame'), options.get('batch_size')
      if frame and batch:
        found += self._describe(batch, frame - 2 * options.get('margin', 0))
    return found

  def _describe(self, count: int, side: int) -> list[tuple[jax.ShapeDtypeStruct, PyTree]]:
    state, image = self.shapes(1)[0], jax.ShapeDtypeStruct((count, side, side, 3), 'uint8')
    with contextlib.suppress(TypeError, ValueError):  # the method describes in another way
      describe = lambda *given: self.method.describe(*given, None)  # noqa: E731
      return [(image, jax.eval_shape(describe, state.params, state.aux, image))]
    return []

  @functools.cached_property
  def train_step(self) -> Callable:
    """The pure step on one big batch."""
    skip = self.config['skip_nonfinite'] > 0
    return training.make_train_step(self.method, self.optimizer.tx, skip_nonfinite=skip)

  @functools.cached_property
  def step(self) -> Callable:
    """The step on all devices; traced once for the check before a run and for the compiler."""
    return sharding.compile_step(self.train_step, self.mesh)

  @functools.cached_property
  def method(self) -> Method:
    """The method, with its batches kept sharded over the devices."""
    base = {} if self._base is None else {'base': self._base[1]}
    return self._build(self.config['method'], **base)

  def _build(self, options: Mapping[str, Any], **others: Any) -> Method:
    options = by_name.tuples(options)
    build = completion.find('methods', options.pop('name')).build
    if 'constrain' in inspect.signature(build).parameters:  # the others need none
      others['constrain'] = sharding.constrain(self.mesh)
    return build(**options, **others)

  @functools.cached_property
  def _base(self) -> tuple[Method, Describer] | None:
    """The network below the method, and its features."""
    if self.config['base'] is None:
      return None
    method, example = self._build(self.config['base']['method']), self._example_batch
    if self.restores:
      variables = bases.blank(method, self.rng_init, example)
    else:
      variables = bases.variables(self.config['base'], method, self.rng_init, example)
    return method, features.of_method(method, variables)

  def base(self, aux: PyTree) -> Describer | None:
    """The features below a method, with the weights that its state keeps."""
    return None if self._base is None else self._base[1]._replace(variables=aux['base'])

  @functools.cached_property
  def optimizer(self) -> optim.Optimiser:
    """The optax transformation and its learning rate."""
    return optim.build(**by_name.tuples(self.config['optimizer']))

  def learning_rate(self, step: int) -> float:
    """The learning rate of the step that follows `step` updates."""
    return float(self.optimizer.rate(step))

  def init_state(self) -> TrainState:
    """The state before the first step, on all devices."""
    if self._base is not None:  # it would be a constant in compiled code, and large
      return sharding.replicate(self.draw_state(self.rng_init), self.mesh)
    return self.compiled_draw(self.rng_init)

  @functools.cached_property
  def compiled_draw(self) -> Callable[[PRNGKeyArray], TrainState]:
    """`draw_state` on all devices, for a run without a base."""
    return self._draw.lower(self.rng_init).compile()

  @functools.cached_property
  def _draw(self) -> Callable[[PRNGKeyArray], TrainState]:
    """`draw_state`, traced once for the shapes and for the compiler."""
    whole = sharding.replicated(self.mesh)
    once = compiler.options(compiler.ONCE, sharding.platform(self.mesh))
    return jax.jit(self.draw_state, in_shardings=whole, out_shardings=whole, compiler_options=once)

  @functools.cached_property
  def draw_state(self) -> Callable[[PRNGKeyArray], TrainState]:
    """The state before the first step, as a pure function of a key."""
    # Built here, outside of what traces it: the method may draw the network below it.
    method, tx, example = self.method, self.optimizer.tx, self._example_batch

    def draw_state(rng: PRNGKeyArray) -> TrainState:
      return training.init_state(method, tx, rng, example)

    return draw_state

  @property
  def _example_batch(self) -> Batch:
    return Batch(image=self.inputs.example['image'][None])

  def describer(self, params: PyTree, aux: PyTree) -> Describer:
    """The features of these weights, and the landmarks that the method finds by itself."""
    return features.of_method(self.method, (params, aux))

  @functools.cached_property
  def random_init(self) -> dict[str, Describer]:
    """The untrained network: raw, and with running statistics measured on training pictures.

    With a base, the base is untrained, too.
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
      found['calibrated'] = params, self._measured(method, params, aux, CALIBRATION_BATCHES)
    return found

  def calibrated(self, params: PyTree, aux: PyTree) -> PyTree:
    """aux with exact running statistics of `config.calibrate` training batches; unchanged if 0."""
    count = self.config['calibrate']
    return self._measured(self.method, params, aux, count) if count else aux

  def _measured(self, method: Method, params: PyTree, aux: PyTree, count: int) -> PyTree:
    if method not in self._calibrations:
      whole = sharding.replicated(self.mesh)
      self._calibrations[method] = jax.jit(method.calibrate, out_shardings=whole)
    with contextlib.closing(self.inputs.batches(0, count=count)) as batches:
      for n, batch in zip(range(count), batches, strict=False):
        aux = self._calibrations[method](params, aux, batch, self.rng_init, n)
    return aux

  def evaluate(
    self, name: str, params: PyTree, aux: PyTree
  ) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Runs one of the config's evaluations: its predictions, and its scores by metric."""
    protocol, data, options = self.protocol(name)
    devices = self.mesh.size
    options['batch_size'] = -(-options['batch_size'] // devices) * devices
    describer, base = self.describer(params, aux), self.base(aux)
    given = {
      'open_split': lambda split: self.inputs.open(**data, split=split),
      'random_init': self.random_init,
      'spread': self.spread,
    }
    predictions = protocol.run(
      describer, **given, base=base, baselines=self._baselines.get(name), **options
    )
    self._baselines[name] = predictions
    of = {'of': options['of']} if 'of' in options else {}  # a study of another protocol
    scores = protocol.score(predictions, flip_pairs=self.info(name).flip_pairs, **of)
    if hasattr(protocol, 'measure'):  # scores that need more than predictions
      if name in self._measures:  # only the trained network is new
        given['random_init'], base = {}, None
      found = protocol.measure(describer, **given, base=base, **options)
      self._measures[name] = self._measures.get(name, {}) | found
      scores |= self._measures[name]
    return predictions, sharding.of_main(scores)  # all processes must choose the same weights

  @property
  def spread(self) -> Spread:
    """Spreads evaluations over all devices of all processes."""
    return Spread(
      lambda tree: sharding.to_global(tree, self.mesh),
      sharding.to_host,
      sharding.shard(),
      sharding.shards(),
    )

  def protocol(self, name: str) -> tuple[ModuleType, dict[str, Any], dict[str, Any]]:
    """The module of an evaluation, the options of its data, and its own."""
    options = by_name.tuples(self.config['evals'][name])
    data, _ = options.pop('data'), options.pop('every')
    data = {k: v for k, v in data.items() if k != 'split'}  # the protocol chooses the split
    section = f'config.evals.{name}.protocol'
    return completion.find('evaluation', options.pop('protocol'), section=section), data, options

  def info(self, name: str) -> Info:
    """The facts of one evaluation's dataset."""
    _, data, options = self.protocol(name)
    return self.inputs.on_disk(**data, split=options['test']).info

  def error_titles(self) -> dict[str, str]:
    """What tables call an error, by evaluation."""
    return {name: scoring.error_title(self.info(name)) for name in self.config['evals']}

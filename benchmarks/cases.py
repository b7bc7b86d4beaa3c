"""The cases of `python -m benchmarks`: each is (options, stack) -> suite.Case.

Options are those of the command; resources that a case leaves open, such as a folder or workers,
are registered with `stack`, a contextlib.ExitStack. Ways come from the scripts beside this file.
"""

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import correlation
import evaluation
import input_pipeline
import jax
import measure
import numpy as np
import train_step
from suite import Case, Way, counts, program

import landmarks_jax.correlation
from landmarks_jax.cli import completion
from landmarks_jax.cli import config as configs
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.contracts import Batch
from landmarks_jax.data import folder, pipeline
from landmarks_jax.runtime import checkpoint, sharding

FOLDER = pathlib.Path(__file__).parent
STEPS = {  # a config of every method that needs no download
  'moco': 'demo',
  'projection': 'projection_synthetic_faces_64',
  'equivariant': 'dense_synthetic_faces',
  'dve': 'dve_synthetic_faces',
  'lmdis': 'lmdis_synthetic_faces',
  'scrl': 'scrl_synthetic_faces',
  'byol': 'byol_synthetic_faces',
}
BASE = {'method': {'name': 'moco', 'depth': 18, 'width': 0.25, 'precision': 'float32'}}
EAGER, COMPILED = 'PyTorch, eager', 'PyTorch, torch.compile'
NO_TORCH = 'PyTorch: skipped, torch is not installed'
WORKERS = os.cpu_count() or 2  # processes that open and augment pictures for PyTorch
KIND = 'faces'  # of the pictures to read
DRAINING = 8  # steps that use up all batches prepared while other ways had their turn


def step(config: str, options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """The training step of a config as compiled by `train`, on pictures of noise."""
  experiment = configured(config, smoke=options.smoke)
  shapes = experiment.shapes(experiment.config['batch_size'])[1]
  draw = np.random.default_rng(0).integers
  batch = jax.tree.map(lambda x: draw(0, 2, x.shape).astype(x.dtype), shapes)
  batch = batch._replace(image=draw(0, 256, shapes.image.shape, np.uint8))
  rng = sharding.replicate(experiment.rng_train, experiment.mesh)
  given = experiment.init_state(), sharding.to_global(batch, experiment.mesh), rng
  way = program(experiment.step, *given, items=len(batch.image), runner=Repeated)
  return Case('pictures', {f'configs/{config}.py': way})


def counted(config: str) -> dict[str, float]:
  """Operations and bytes of a config's smoke step, before compiler optimisation."""
  experiment = configured(config, smoke=True)
  given = *experiment.shapes(experiment.config['batch_size']), experiment.rng_train
  cost = experiment.step.lower(*given).cost_analysis()
  return {'flops': cost['flops'], 'bytes': cost['bytes accessed']}


def configured(config: str, *, smoke: bool) -> Experiment:
  """The experiment of one of this repository's configs, with an untrained base."""
  variant = ':smoke' if smoke else ''
  given = configs.load(f'{FOLDER.parent / "configs" / config}.py{variant}').to_dict()
  if given.get('base') and not smoke:
    given['base'] = {'method': BASE['method'] | {'margin': given['method']['margin']}}
  experiment = Experiment(completion.complete(given), report=lambda line: None)
  experiment.resolve()
  return experiment


class Repeated:
  """A compiled step that carries its state from call to call; a call returns the metrics."""

  def __init__(self, step: Callable, state: Any, *given: Any) -> None:
    self.step, self.state, self.given = step, state, given

  def __call__(self) -> Any:
    """Takes a step."""
    self.state, metrics = self.step(self.state, *self.given)
    return metrics


def pytorch(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """MoCo's step on pictures already on the device, against PyTorch's."""
  state, frames = train_step.initial_state(options, options.depth, noise(options)), noise(options)
  theirs = torch_steps(options, frames)
  for one in itertools.islice(theirs.values(), 1):
    state = train_step.with_weights(state, one)
  ours = train_step.Step(train_step.build(options, options.depth, augment=True), state, frames)
  items = options.steps * options.batch_size
  work = {name: options.steps * n for name, n in counts(ours.step).items()}
  work['peak_bytes'] /= options.steps
  counted = options.batch_size * train_step.step_flops(options, options.depth)
  work['flops'] = options.steps * counted  # XLA does not count the work of cuDNN
  alike = {'flops': work['flops']}  # PyTorch does the same work
  ways = {
    name: Way(measure.repeated(one, options.steps), items, alike) for name, one in theirs.items()
  }
  ways['landmarks_jax'] = Way(measure.repeated(ours, options.steps), items, work)
  share = measure.number(ours.flops / counted)
  notes = (f"GFLOP: convolutions and head, counted by hand; XLA's analysis: {share} times these",)
  return Case('pairs', ways, EAGER if theirs else None, notes + torch_note(theirs))


def torch_steps(options: argparse.Namespace, frames: np.ndarray, **view: Any) -> dict[str, Any]:
  """PyTorch's steps by name; none without torch, and no compiled one in smoke mode."""
  kinds = {EAGER: False} if options.smoke else {EAGER: False, COMPILED: True}
  make = functools.partial(train_step.torch_step, options, options.depth, frames)
  steps = {name: make(view.get('augment', True), compiled=kind) for name, kind in kinds.items()}
  return {name: step for name, step in steps.items() if step is not None}


def torch_note(theirs: dict[str, Any]) -> tuple[str, ...]:
  """A note if PyTorch is missing."""
  return () if theirs else (NO_TORCH,)


def noise(options: argparse.Namespace) -> np.ndarray:
  """Random uint8 frames [B, S, S, 3]."""
  shape = options.batch_size, options.frame, options.frame, 3
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def views(kind: str, options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """Random views of frames in memory; a step of MoCo draws two of each."""
  source = input_pipeline.faces.source(frame=options.frame, count=options.batch_size)
  every = input_pipeline.view_ways(input_pipeline.read_all(source), options.margin)
  chosen = {
    name.removesuffix(f': {kind}'): run for name, run in every.items() if name.endswith(f': {kind}')
  }
  ways = {name: Way(run, options.batch_size) for name, run in chosen.items()}
  return Case('views', ways, next(iter(ways)))


def reading(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """From files, or data prepared from them, to frames in one thread, and to batches."""
  path = written(options, stack)
  sources = input_pipeline.readers(KIND, path, options.frame)
  count = options.pictures
  ways = {
    name: Way(functools.partial(input_pipeline.read_all, source), count)
    for name, source in sources.items()
  }
  held, rounds = sources[input_pipeline.HELD], max(count // options.batch_size, 1)
  for cache, batches in drawn(options, path, held, stack).items():
    ways[f'batches, in threads (cache={cache})'] = Way(
      lambda batches=batches: [next(batches) for _ in range(rounds)], rounds * options.batch_size
    )
  return Case('pictures', ways, input_pipeline.BASELINE)


def written(options: argparse.Namespace, stack: contextlib.ExitStack) -> pathlib.Path:
  """A folder of JPEGs of rendered faces."""
  path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
  settings = argparse.Namespace(**{KIND: options.pictures, 'quality': 90})
  input_pipeline.write_pictures(path, KIND, settings)
  return path


def drawn(
  options: argparse.Namespace,
  path: pathlib.Path,
  held: pipeline.Cached,
  stack: contextlib.ExitStack,
) -> dict[str, Iterator[Batch]]:
  """Batches on the host for every `cache`: decoded on demand, from memory, or only row numbers.

  held: the pictures of the folder at `path`, decoded.
  """
  rows = pipeline.Cached(held.info, {'index': np.arange(len(held), dtype=np.int32)})
  read = folder.source(str(path), frame=options.frame)
  settings = {'seed': 0, 'batch_size': options.batch_size, 'report': lambda line: None}
  found = {}
  for cache, source in {'stream': read, 'host': held, 'device': rows}.items():
    found[cache] = pipeline.training_batches(source, **settings)
    stack.callback(found[cache].close)  # its threads outlive the folder
  return found


def files(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """From JPEGs to the next weights: reading, two views, MoCo's step."""
  path = written(options, stack)
  steps = options.steps if options.smoke else max(options.steps, DRAINING)
  items, ways = steps * options.batch_size, {}
  theirs = fed_torch(options, path, stack)
  for name, run in theirs.items():
    ways[f'{name}, {WORKERS} Pillow workers'] = Way(measure.repeated(run, steps), items)
  method = train_step.build(options, options.depth, augment=True)
  state = train_step.initial_state(options, options.depth, noise(options))
  step = train_step.Step(method, state, noise(options))  # compiled once, for all inputs
  for name, batches in inputs(options, path, stack).items():
    run = step if batches is None else Fed(step, batches)
    ways[f'landmarks_jax, {name}'] = Way(measure.repeated(run, steps), items)
  return Case('pairs', ways, next(iter(ways)) if theirs else None, torch_note(theirs))


def inputs(
  options: argparse.Namespace, path: pathlib.Path, stack: contextlib.ExitStack
) -> dict[str, Iterator[Batch] | None]:
  """What brings batches to the device, for every `cache`; None for the step alone."""
  mesh = sharding.mesh(jax.devices()[:1])
  held = pipeline.cached(folder.source(str(path), frame=options.frame), report=lambda line: None)
  gather = sharding.make_gather({'image': held.arrays['image']}, mesh)
  batches = drawn(options, path, held, stack)
  return {
    'decoded every time (cache=stream)': (to_device(batch, mesh) for batch in batches['stream']),
    'decoded once (cache=host)': (to_device(batch, mesh) for batch in batches['host']),
    'decoded once (cache=device)': (Batch(**gather(batch.index)) for batch in batches['device']),
    'the step alone': None,
  }


def to_device(batch: Batch, mesh: jax.sharding.Mesh) -> Batch:
  """Moves only the pictures to the device."""
  return sharding.to_global(Batch(image=batch.image), mesh)


class Fed:
  """A step that takes the next batch of pictures; a call returns its loss."""

  def __init__(self, step: train_step.Step, batches: Iterator[Batch]) -> None:
    self.step, self.batches = step, batches

  def __call__(self) -> Any:
    """Takes a step."""
    self.step.batch = next(self.batches)
    return self.step()


def fed_torch(
  options: argparse.Namespace, path: pathlib.Path, stack: contextlib.ExitStack
) -> dict[str, Callable[[], Any]]:
  """PyTorch's steps on views made by workers with Pillow; none without torch."""
  if importlib.util.find_spec('torch') is None:
    return {}
  import torch_baseline

  data = torch_baseline.TwoViews(
    sorted(path.glob('*.jpg')), frame=options.frame, margin=options.margin
  )
  batches = torch_baseline.batches(data, batch_size=options.batch_size, workers=WORKERS)
  stack.callback(batches.close)
  seen = argparse.Namespace(**vars(options) | {'margin': 0})  # views are cut already
  steps = torch_steps(seen, noise(options), augment=False)
  return {name: lambda one=one: one.take(*next(batches)) for name, one in steps.items()}


def probe(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """Training the published landmark head, against hypercolumns rebuilt in every epoch."""
  sizes = protocol_sizes(options)
  base = evaluation.network(sizes)
  step = evaluation.PublishedStep(sizes, base, evaluation.Faces(sizes, 'train'))
  items = sizes.steps * sizes.batch_size
  epochs = 1 if options.smoke else 5
  ways = evaluation.training_ways(sizes, base, step, epochs=epochs)
  items = {evaluation.STACKED: items, evaluation.CACHED: epochs * items}
  ways = {name: Way(run, items[name]) for name, run in ways.items()}
  levels = jax.eval_shape(
    functools.partial(base.apply, size=None), base.variables, step.given[0].image
  )
  kept = sum(2 * level.size for level in levels) / sizes.batch_size
  column = 2 * sizes.size**2 * sum(level.shape[-1] for level in levels)
  kilobytes = measure.number(kept / 1e3), measure.number(column / 1e3)
  notes = (
    'kept of a picture: {} kB; its column: {} kB, '.format(*kilobytes)
    + f'{measure.number(column / kept)} times as much',
    evaluation.first_losses(sizes, base, step).removeprefix('- '),
  )
  return Case('pictures', ways, evaluation.STACKED, notes)


def protocol_sizes(options: argparse.Namespace) -> argparse.Namespace:
  """Options for evaluation.py: those of the published head, on pictures at network size."""
  side = options.frame - 2 * options.margin
  sizes = {'depth': options.depth, 'width': options.width, 'side': side}
  sizes |= {'size': side // 2, 'grid': side, 'batch_size': min(options.batch_size, 32)}
  sizes |= {'steps': 2, 'labelled': 64, 'test': 32, 'rendered': 16, 'pairs': 4, 'epochs': 1}
  return argparse.Namespace(**sizes)


def matching(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """Points of one picture found in another, both described already, against explicit columns."""
  sizes = protocol_sizes(options)
  base, warped = evaluation.network(sizes), evaluation.warped_views(sizes)
  given = evaluation.describe_views(base, warped, sizes.grid)[:2]
  points = warped.source.points
  ways = {
    name: program(match, *given, points, items=sizes.pairs, size=sizes.grid)
    for name, match in evaluation.MATCHES.items()
  }
  return Case('pairs', ways, evaluation.PLAIN)


def dense(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """Value and gradient of DVE's loss for one pair, in blocks, against the matrix of all pairs."""
  maps = correlation.example(6 if options.smoke else 48, channels=64)
  forms = {'all pairs at once': correlation.Plain, 'by blocks': landmarks_jax.correlation}
  ways = {}
  for name, form in forms.items():
    compiled = correlation.compiled(correlation.exchanged_distance, form, maps, 20.0)
    ways[name] = Way(functools.partial(compiled, *maps), counts=counts(compiled))
  return Case('pairs', ways, 'all pairs at once')


def start(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """Whole processes: the import alone, and up to the first step of a MoCo run."""
  names = 'depth', 'width', 'frame', 'margin', 'batch_size', 'queue', 'precision'
  text = json.dumps({name: getattr(options, name) for name in names})
  kept = stack.enter_context(tempfile.TemporaryDirectory())
  pictures = written(argparse.Namespace(pictures=options.batch_size), stack)
  first = [str(FOLDER / 'first_step.py'), str(pictures), text]

  def cold() -> None:
    with tempfile.TemporaryDirectory() as empty:
      process(first, empty)

  ways = {
    'import landmarks_jax': Way(lambda: process(['-c', 'import landmarks_jax'], kept)),
    'first step, nothing compiled': Way(cold),
    'first step, compiled code on disk': Way(lambda: process(first, kept)),
  }
  return Case('starts', ways, most=1)


def process(command: list[str], cache: str) -> None:
  """Runs Python to completion; compiled code is cached in the folder `cache`."""
  kept = {'JAX_COMPILATION_CACHE_DIR': cache, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  subprocess.run(
    [sys.executable, *command], env=os.environ | kept, check=True, stdout=subprocess.DEVNULL
  )


def checkpoints(options: argparse.Namespace, stack: contextlib.ExitStack) -> Case:
  """A MoCo state to disk and back, beside the training step that it interrupts."""
  frames, path = noise(options), stack.enter_context(tempfile.TemporaryDirectory())
  state = train_step.initial_state(options, options.depth, frames)
  method = train_step.build(options, options.depth, augment=True)
  ours = train_step.Step(method, state, frames)
  kept = stack.enter_context(checkpoint.Checkpoints(path, keep=1))
  number = itertools.count()

  def save() -> None:
    kept.wait()
    kept.save(next(number), state)

  def save_and_wait() -> None:
    save()
    kept.wait()

  def restore() -> Any:
    return kept.restore(state)[0]

  save_and_wait()
  ways = {'a training step': Way(ours, counts=counts(ours.step))}
  ways |= {'save, until it is on disk': Way(save_and_wait), 'restore': Way(restore)}
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  return Case('times', ways, notes=(f'a state of {measure.number(size / 1e6)} MB',))


CASES: dict[str, Callable[[argparse.Namespace, contextlib.ExitStack], Case]] = {
  **{f'step_{name}': functools.partial(step, config) for name, config in STEPS.items()},
  'pytorch': pytorch,
  'files': files,
  'views': functools.partial(views, 'crop, colour'),
  'views_jpeg': functools.partial(views, 'JPEG, crop, colour'),
  'reading': reading,
  'probe': probe,
  'matching': matching,
  'correlation': dense,
  'start': start,
  'checkpoint': checkpoints,
}

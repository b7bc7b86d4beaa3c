"""Landmark regression at the size of MAFL, and matching, against explicit hypercolumns.

The published code describes every picture again in every epoch, builds its hypercolumn at 48x48 and
trains the head on that; for matching it builds those of both pictures at 96x96. Here every picture
is described once, its features stay a pyramid, and the head is trained on pyramids or fitted in
closed form. Peak memory is estimated from sizes, before anything runs, and measured in a separate
process for each way; it is host memory, so on an accelerator the estimate means little.

Networks are random. Pictures are windows of the frames of 500 rendered faces for each split. The
closed form runs once and in full; training runs 20 batches, from which its time is extrapolated.
The defaults take a quarter of an hour on two otherwise idle CPU cores, or five minutes with
--labelled 2000. On an accelerator:

python benchmarks/evaluation.py --steps 20 --pairs 128
"""

import argparse
import concurrent.futures
import functools
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
from jaxtyping import Float

from landmarks_jax import losses, metrics, training
from landmarks_jax.contracts import Array, Batch, Describer, Method, Pyramid, PyTree
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import normaliser
from landmarks_jax.data.synthetic import faces
from landmarks_jax.evaluation import features, matching, probing
from landmarks_jax.evaluation import regression as protocol
from landmarks_jax.geometry import coords, softargmax
from landmarks_jax.methods import moco, probe, projection
from landmarks_jax.models import hypercolumn, ridge
from landmarks_jax.runtime import compiler, logs, optim

COLOURS = {'mean': faces.INFO.mean, 'std': faces.INFO.std}
RATE = {'learning_rate': 1e-3, 'weight_decay': 5e-4}
HEAD = {'sharpness': 100.0, 'magnification': 10.0}
# The warps of matching.run; specification section 5.
WARP = dict(zip(matching.DEVIATIONS, (5e-4, 5e-3, 0.05, 0.05, 2.5), strict=True))
LANDMARKS = len(faces.INFO.names)
SEED = 0  # of networks, heads and warps
SHIFT = 8  # the most pixels that a window moves each way
DESCRIBED = 128  # pictures described at once
MAPS = 16  # side of the closed form's maps
TELL_EVERY = 20  # seconds
TIE = 1e-5  # cosines closer than this count as equal

STACKED, CACHED, CLOSED = (
  'published head, columns stacked in every step',
  'published head, pyramids kept',
  'closed form, pyramids kept',
)
DESCRIBING, FITTING = 'describing all pictures', 'closed form, fitted and predicted'
PLAIN, OURS = 'stacked and normalised', 'landmarks_jax'
MATCHING_HEADER = (
  *('features, way', 'MB a pair', 'pairs/s', 'times the baseline'),
  *('described too, pairs/s', 'times the baseline, described too'),
)


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints tables of memory, of the regression and of matching."""
  parser = measure.parser(__doc__)
  parser.add_argument('--labelled', type=int, default=19_000, help='pictures to learn from')
  parser.add_argument('--test', type=int, default=1_000, help='pictures to predict')
  parser.add_argument('--rendered', type=int, default=500, help='different faces of each split')
  parser.add_argument('--depth', type=int, default=18, help='of the ResNet')
  parser.add_argument('--width', type=float, default=1, help='of the ResNet')
  parser.add_argument('--side', type=int, default=96, help='of the pictures in pixels')
  parser.add_argument('--size', type=int, default=48, help="of the published head's maps")
  parser.add_argument('--epochs', type=int, default=120, help='of the published head')
  parser.add_argument('--batch_size', type=int, default=32, help='of the published head')
  parser.add_argument('--steps', type=int, default=4, help='of it in a row in every repetition')
  parser.add_argument('--pairs', type=int, default=16, help='matched at once')
  parser.add_argument('--grid', type=int, default=96, help='side of the positions matched')
  parser.add_argument('--dim', type=int, default=64, help='of the projection that is matched')
  packages = 'jax', 'jaxlib', 'flax', 'numpy', 'scipy'
  options = measure.parse(__file__, parser, arguments, packages=packages)
  base = network(options)
  closed, step = compare_memory(options, base)
  compare_heads(options, base, step, closed)
  compare_matching(options, base)


def compare_memory(
  options: argparse.Namespace, base: Describer
) -> tuple['ClosedForm', 'PublishedStep']:
  """Estimates peaks, runs the ways and prints the table.

  Called while this process is small, as its size counts towards that of processes it starts.
  """
  terms, estimates, step = estimate_memory(options, base)
  for title, found in ('Peak memory, estimated', estimates), ('Its terms', terms):
    lines = [f'- {name}: {measure.number(value / 1e6)} MB' for name, value in found.items()]
    print(f'\n{title}\n', *lines, sep='\n', flush=True)
  closed = in_fresh_process(fit_closed_form, options)
  peaks = *closed.peaks, in_fresh_process(train_stacked, options)
  measure.print_table(
    'Peak memory',
    f'- {options.labelled:,} + {options.test:,} pictures; estimated before they were described',
    ('way', 'estimated MB', 'measured MB', 'estimated / measured'),
    [
      [name, *map(measure.number, (estimate / 1e6, peak / 1e6, estimate / peak))]
      for (name, estimate), peak in zip(estimates.items(), peaks, strict=True)
    ],
  )
  return closed, step


def estimate_memory(
  options: argparse.Namespace, base: Describer
) -> tuple[dict[str, int], dict[str, int], 'PublishedStep']:
  """The terms and the peak of each way, in bytes, and the compiled step."""
  image = jnp.zeros((DESCRIBED, options.side, options.side, 3), jnp.uint8)
  lowered = features.compiled(base.apply).lower(base.variables, image)
  levels, describe = lowered.out_info, lowered.compile()
  process = logs.peak_memory()
  step = PublishedStep(options, base, Faces(options, 'train'))
  channels = sum(level.shape[-1] for level in levels) + 1
  numbers = sum(level.size for level in levels) // DESCRIBED
  rendered = sum(min(options.rendered, count) for count in (options.labelled, options.test))
  terms = {
    'this process: libraries, network, code to describe': process,
    'pictures': rendered * 3 * (options.side + 2 * SHIFT) ** 2,
    'pyramids of labelled pictures': 2 * numbers * options.labelled,
    'pyramids of test pictures': 2 * numbers * options.test,
    'describing a batch': temporary_bytes(describe),
    'Gram matrices of the folds, and as many copies': 2 * ridge.FOLDS * 8 * channels**2,
    'features of a block, three times': 3 * ridge.BLOCK * 4 * numbers,
    "the stacked step's code and state": logs.peak_memory() - process,
    "the stacked step's temporaries": step.temporary_bytes,
  }
  process, pictures, labelled, test, describing, grams, block, code, stacked = terms.values()
  kept = process + pictures + labelled + test
  # The parts of a set stay in memory until they are joined into one array.
  joining = process + pictures + describing + max(2 * labelled, labelled + 2 * test)
  estimates = {
    DESCRIBING: joining,
    FITTING: max(joining, kept + grams + block),
    STACKED: process + pictures + code + stacked,
  }
  return terms, estimates, step


def temporary_bytes(compiled: Any) -> int:
  """The memory that a compiled function needs besides its arguments."""
  used = compiled.memory_analysis()
  return used.temp_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes


def in_fresh_process(way: Callable[[argparse.Namespace], Any], options: argparse.Namespace) -> Any:
  """The result of `way`, from a process in which nothing else has run."""
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    return pool.submit(way, options).result()


class ClosedForm(NamedTuple):
  """The outcome of a regression in closed form."""

  described: tuple[float, float]  # seconds, for labelled and for test pictures
  fitted: float
  predicted: float
  peaks: tuple[int, int]  # bytes, after describing and at the end
  errors: tuple[float, float]  # percent, of the head and of the mean shape


def fit_closed_form(options: argparse.Namespace) -> ClosedForm:
  """Runs the regression in full: describes, fits and predicts."""
  describer, sources = network(options), [Faces(options, split) for split in ('train', 'test')]
  clock, sets = [time.perf_counter()], []
  for source in sources:
    batches = pipeline.evaluation_batches(source, batch_size=DESCRIBED)
    sets.append(features.gather(describer, reporting(batches, len(source))))
    clock.append(time.perf_counter())
  peaks = [logs.peak_memory()]
  labelled, test = sets
  tell(f'fitting in closed form on {len(labelled.valid):,} pyramids; this takes minutes')
  given = labelled.pyramid, labelled.points, labelled.visible, labelled.valid
  head = ridge.fit_ridge(*given, side=options.side, size=MAPS).head
  clock.append(time.perf_counter())
  found = probing.predict(head, test, step=256)
  clock.append(time.perf_counter())
  peaks.append(logs.peak_memory())
  mean = protocol.mean_shape(labelled, test, np.arange(len(labelled.valid)))
  *described, fitted, predicted = np.diff(clock).tolist()
  errors = tuple(metrics.inter_ocular_error(p) for p in (found, mean))
  return ClosedForm(tuple(described), fitted, predicted, tuple(peaks), errors)


def reporting(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
  """Passes batches on and reports progress."""
  progress = logs.Progress(steps=-(-count // DESCRIBED), images_per_step=DESCRIBED)
  before = time.monotonic()
  for done, batch in enumerate(batches):
    if done and time.monotonic() - before > TELL_EVERY:
      tell(f'describing: {progress.line(done)}')
      before = time.monotonic()
    yield batch


def tell(line: str) -> None:
  """Prints progress to stderr, which is not part of the page."""
  print(line, file=sys.stderr, flush=True)


def train_stacked(options: argparse.Namespace) -> int:
  """The peak memory of two steps."""
  measure.repeated(PublishedStep(options, network(options), Faces(options, 'train')), 2)()
  return logs.peak_memory()


class Faces:
  """`count` pictures of fewer rendered faces, each through its own window of a larger frame."""

  def __init__(self, options: argparse.Namespace, split: str) -> None:
    self.count = {'train': options.labelled, 'test': options.test}[split]
    self.side, self.frame = options.side, options.side + 2 * SHIFT
    rendered = min(options.rendered, self.count)
    source = faces.source(split=split, frame=self.frame, count=rendered)
    self.info, self.rendered = source.info, [source[i] for i in range(rendered)]

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: Any) -> dict[str, Any]:
    example = self.rendered[index % len(self.rendered)]
    x, y = np.random.default_rng(index).integers(0, 2 * SHIFT, 2, endpoint=True)
    pixels = coords.to_pixels(example['points'], width=self.frame, height=self.frame) - (x, y)
    points = coords.to_normalised(pixels, width=self.side, height=self.side).astype(np.float32)
    return example | {
      'image': example['image'][y : y + self.side, x : x + self.side],
      'index': np.int32(index),
      'points': points,
      'scale': normaliser(points, self.info.scale),
    }

  def batch(self, rows: Iterable[int]) -> Batch:
    """A batch of some pictures; their numbers may exceed the last one's."""
    examples = [self[int(i)] for i in rows]
    return Batch(**jax.tree.map(lambda *fields: np.stack(fields), *examples))


def network(options: argparse.Namespace) -> Describer:
  """A random ResNet in float32, whose features are kept in bfloat16."""
  size = {'depth': options.depth, 'width': options.width}
  method = moco.build(**COLOURS, **size, margin=0, queue=0, precision='float32')
  example = Batch(image=np.zeros((1, options.side, options.side, 3), np.uint8))
  variables = jax.jit(method.init)(jax.random.key(SEED), example)
  return features.of_method(method, variables)


class PublishedStep:
  """A training step of the published head as in its authors' code; a call returns its loss.

  It describes the next batch of pictures, builds their hypercolumns and maps those.
  """

  def __init__(self, options: argparse.Namespace, describer: Describer, source: Faces) -> None:
    self.method = stacking(options, describer)
    tx = optim.adam(RATE['learning_rate'], betas=probing.BETAS, weight_decay=RATE['weight_decay'])
    self.rng, rows = jax.random.key(SEED), np.arange(options.steps * options.batch_size)
    self.given = [source.batch(some) for some in rows.reshape(options.steps, -1)]
    self.batches = itertools.cycle(self.given)
    init = jax.jit(functools.partial(training.init_state, self.method, tx))
    self.state = init(self.rng, self.given[0])
    step = compiler.jit(training.make_train_step(self.method, tx), donate_argnums=0)
    self.step = step.lower(self.state, self.given[0], self.rng).compile()
    self.temporary_bytes = temporary_bytes(self.step)

  def __call__(self) -> Array:
    """Takes a step."""
    self.state, values = self.step(self.state, next(self.batches), self.rng)
    return values['loss']


def stacking(options: argparse.Namespace, base: Describer) -> Method:
  """The published head, describing pictures and building their hypercolumns within its loss."""

  def column(variables: PyTree, image: Array, size: int | None) -> Pyramid:
    return (hypercolumn.stack(base.apply(variables, image, None), options.size),)

  describer = Describer(base.variables, column)
  method = probe.build(landmarks=LANDMARKS, size=options.size, base=describer, **HEAD)

  def loss(params: PyTree, aux: PyTree, batch: Batch, rng: Array, step: Array) -> Any:
    (given,) = column(aux['base'], batch.image, None)
    maps = jnp.einsum('bhwc,cd->bhwd', given, params['inner'][0], precision='float32')
    points, _ = softargmax.soft_argmax(maps, sharpness=HEAD['sharpness'])
    found = probe.read_out(params, points.reshape(len(points), LANDMARKS, -1, 2))
    cost = losses.smooth_l1_landmarks(
      found, batch.points, batch.visible, magnification=HEAD['magnification']
    )
    return cost.mean(), (aux, {})

  return method._replace(loss=loss)


def compare_heads(
  options: argparse.Namespace, base: Describer, step: PublishedStep, closed: ClosedForm
) -> None:
  """Times training in turns, and prints the table of the regression."""
  note = first_losses(options, base, step)
  seconds = measure.in_turn(training_ways(options, base, step), options.repetitions)
  epoch_steps = -(-options.labelled // options.batch_size)
  epochs = {name: epoch_steps / options.steps * took for name, took in seconds.items()}
  total = {
    STACKED: options.epochs * epochs[STACKED],
    CACHED: closed.described[0] + options.epochs * epochs[CACHED],
    CLOSED: np.full(options.repetitions, closed.described[0] + closed.fitted),
  }
  described, tested = map(measure.number, closed.described)
  error, mean_error = map(measure.number, closed.errors)
  notes = [
    f'- extrapolated from {options.repetitions * options.steps} batches of {options.batch_size}: '
    f'the published head, {epoch_steps:,} batches an epoch, {options.epochs} epochs',
    f'- run once and in full: describing {described} s (test pictures: {tested} s), closed form '
    f'{measure.number(closed.fitted)} s, predicting {measure.number(closed.predicted)} s',
    f'- inter-ocular error of the closed form {error} %, of the mean shape {mean_error} %',
    note,
  ]
  rows = [
    [
      name,
      measure.figure(1e3 * seconds[name] / options.steps) if name in seconds else '-',
      measure.figure(epochs[name]) if name in seconds else '-',
      measure.figure(took) if name in seconds else measure.number(took[0]),
      measure.speed_up(took, total[STACKED]),
    ]
    for name, took in total.items()
  ]
  measure.print_table(
    f'Regression: {options.labelled:,} labelled pictures, {LANDMARKS} landmarks',
    '\n'.join(notes),
    ('way', 'ms a batch', 's an epoch', 's until fitted', 'times the baseline'),
    rows,
  )


def training_ways(
  options: argparse.Namespace, base: Describer, step: PublishedStep, *, epochs: int = 1
) -> dict[str, Callable[[], Any]]:
  """Both ways of training the published head; a call trains on a few batches.

  epochs: for the kept pyramids, whose training has a start-up cost that columns do not.
  """
  batch = jax.tree.map(lambda *parts: np.concatenate(parts), *step.given)
  pyramid = features.compiled(base.apply)(base.variables, batch.image)
  batch = batch._replace(image=None, pyramid=tuple(np.asarray(level) for level in pyramid))
  rows, settings = np.arange(len(batch.points)), {'epochs': epochs, 'report': tell, **RATE}
  settings |= {'size': options.size, 'batch_size': options.batch_size}
  return {
    STACKED: measure.repeated(step, options.steps),
    CACHED: lambda: probing.fit(batch, rows, **settings).variables,
  }


def first_losses(options: argparse.Namespace, base: Describer, step: PublishedStep) -> str:
  """The loss of one batch before training, from stacked columns and from float32 pyramids."""
  params, batch = step.state.params, step.given[0]
  stacked, _ = jax.jit(step.method.loss)(params, step.state.aux, batch, step.rng, 0)
  pyramid = jax.jit(base.apply, static_argnums=2)(base.variables, batch.image, None)
  channels = [level.shape[-1] for level in pyramid]
  params = params | {'inner': hypercolumn.split_rows(params['inner'][0], channels)}
  batch = batch._replace(image=None, pyramid=pyramid)
  method = probe.build(landmarks=LANDMARKS, size=options.size, **HEAD)
  kept, _ = jax.jit(method.loss)(params, {}, batch, step.rng, 0)
  return (
    f'- the loss of one batch and head: {stacked:.4f} stacked, {kept:.4f} from float32 pyramids'
  )


def compare_matching(options: argparse.Namespace, base: Describer) -> None:
  """Times describing and matching in turns, and prints the table of matching."""
  views = warped_views(options)
  points, size = views.source.points, options.grid
  describers = {
    f'ResNet-{options.depth}': base,
    f'projection to {options.dim}': projected(options, base),
  }
  ways, notes, used = {}, [], {}
  for name, describer in describers.items():
    describe = functools.partial(describe_views, describer, views, size)
    pyramids = describe()
    notes.append(f'- {name}: {agreement(pyramids, points, size)}')
    ways[f'{name}, describing'] = describe
    for how, match in MATCHES.items():
      used[name, how] = temporary_bytes(match.lower(*pyramids[:2], points, size=size).compile())
      both = functools.partial(match_targets, match, pyramids, points, size)
      ways[f'{name}, {how}'] = both
  seconds = measure.in_turn(ways, options.repetitions)
  measure.print_table(
    f'Matching at {size}x{size}: {options.pairs} pairs at once, {points.shape[1]} points',
    '\n'.join(notes) + '\n- a pair is a source in two targets; MB are those of one of them, beside '
    'its features',
    MATCHING_HEADER,
    [matching_row(options, seconds, *key, bytes) for key, bytes in used.items()],
  )


def matching_row(
  options: argparse.Namespace, seconds: dict[str, measure.Seconds], name: str, how: str, used: int
) -> list[str]:
  """A line of the table."""
  alone = {which: seconds[f'{name}, {which}'] for which in MATCHES}
  both = {which: seconds[f'{name}, describing'] + took for which, took in alone.items()}
  row = [f'{name}, {how}', measure.number(used / options.pairs / 1e6)]
  for took in (alone, both):
    row += [measure.figure(options.pairs / took[how]), measure.speed_up(took[how], took[PLAIN])]
  return row


def warped_views(options: argparse.Namespace) -> matching.Views:
  """Pairs of test pictures, warped as in the protocol."""
  given = Faces(options, 'test').batch(range(2 * options.pairs))._replace(scale=None)
  first, second = (jax.tree.map(lambda x, i=i: x[i::2], given) for i in (0, 1))
  warps = matching.random_warps(jax.random.key(SEED), np.arange(options.pairs), **WARP)
  return matching.warped_views(first, second, warps, margin=0)


def projected(options: argparse.Namespace, base: Describer) -> Describer:
  """A random projection of the network's features."""
  method = projection.build(base=base, dim=options.dim, margin=0)
  example = Batch(image=np.zeros((1, options.side, options.side, 3), np.uint8))
  variables = jax.jit(method.init)(jax.random.key(SEED), example)
  return features.of_method(method, variables)


def describe_views(describer: Describer, views: matching.Views, size: int) -> list[Pyramid]:
  """The pyramids of the source and the targets, same and different."""
  describe = features.compiled(describer.apply, None, size=size)
  return [describe(describer.variables, view.image) for view in views]


def match_targets(
  match: Callable[..., Any], pyramids: Sequence[Pyramid], points: Array, size: int
) -> list[Any]:
  """Matches in both targets."""
  source, *targets = pyramids
  return [match(source, target, points, size=size) for target in targets]


@functools.partial(jax.jit, static_argnames='size')
def plain_match(
  source: Pyramid, target: Pyramid, points: Float[Array, 'B K 2'], *, size: int
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """Computes what `matching.match` does, directly from the definition."""
  similarity = cosines(source, target, points, size=size)
  best = similarity.argmax(1)
  found = jnp.stack([best % size, best // size], axis=-1)
  return coords.to_normalised(found, width=size, height=size), similarity.max(1)


@functools.partial(jax.jit, static_argnames='size')
def cosines(
  source: Pyramid, target: Pyramid, points: Float[Array, 'B K 2'], *, size: int
) -> Float[Array, 'B P K']:
  """All inner products of columns, built at every position and normalised level by level."""
  column, sought = (normalised_column(pyramid, size) for pyramid in (source, target))
  pixels = jnp.round(coords.to_pixels(points, width=size, height=size))
  x, y = jnp.moveaxis(jnp.clip(pixels, 0, size - 1).astype(int), -1, 0)
  query = column[jnp.arange(len(x))[:, None], y, x]
  sought = sought.reshape(len(sought), size * size, -1)
  return jnp.einsum('bpc,bkc->bpk', sought, query, precision='float32')


def normalised_column(pyramid: Pyramid, size: int) -> Float[Array, 'B {size} {size} C']:
  """Every level resized and normalised to unit length, concatenated."""
  levels = [hypercolumn.resize(level, size) for level in pyramid]
  norms = [jnp.linalg.norm(level, axis=-1, keepdims=True) for level in levels]
  return jnp.concatenate(
    [level / jnp.maximum(norm, 1e-30) for level, norm in zip(levels, norms, strict=True)], -1
  )


def agreement(pyramids: Sequence[Pyramid], points: Float[Array, 'B K 2'], size: int) -> str:
  """How often both ways agree; raises AssertionError if they differ by more than a tie."""
  source, *targets = pyramids
  same, behind = [], 0.0
  for target in targets:
    found, _ = matching.match(source, target, points, size=size)
    similarity = cosines(source, target, points, size=size)
    x, y = jnp.moveaxis(jnp.round(coords.to_pixels(found, width=size, height=size)), -1, 0)
    position = (y * size + x).astype(int)
    there = jnp.take_along_axis(similarity, position[:, None], axis=1)[:, 0]
    same.append(position == similarity.argmax(1))
    behind = max(behind, float((similarity.max(1) - there).max()))
  assert behind < TIE * len(source), f'a match is {behind} behind the best'
  spread = float(similarity.std(1).mean())
  return (
    f'{np.mean(same):.2%} of the matches are the same, the others at most {behind:.0e} behind '
    f'(similarities of a point vary by {measure.number(spread)})'
  )


MATCHES = {PLAIN: plain_match, OURS: matching.match}


if __name__ == '__main__':
  main()

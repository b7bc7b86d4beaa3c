"""The MoCo step against the same step in PyTorch: pairs and model FLOPs per second.

A step includes everything: two random views of every picture, two encoders, the loss against a
queue, backward, SGD, the moving average. Pictures are on the device already; one device is used.
The defaults take about two minutes on two otherwise idle CPU cores. On an accelerator:

python benchmarks/train_step.py --width 1 --frame 136 --margin 20 --batch_size 256 \\
  --precision bfloat16 --steps 20 --matrix 8192
"""

import argparse
import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # PyTorch needs memory beside JAX

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax

from landmarks_jax import training
from landmarks_jax.augment import views
from landmarks_jax.contracts import Array, Batch, Method, TrainState
from landmarks_jax.data.synthetic import faces
from landmarks_jax.dtypes import PRECISIONS
from landmarks_jax.geometry import regions
from landmarks_jax.interop import resnet as torch_names
from landmarks_jax.methods import moco
from landmarks_jax.models import resnet
from landmarks_jax.runtime import compiler, optim, sharding

# For both sides; with one BatchNorm group, as in PyTorch on one device.
MOCO = {'dim': 128, 'temperature': 0.07, 'momentum': 0.999}
COLOURS = {'mean': faces.INFO.mean, 'std': faces.INFO.std}
SGD = {'learning_rate': 0.03, 'weight_decay': 1e-4}
KINDS = {'full step': True, 'without augmentation': False}
SIDES = 'PyTorch', 'landmarks_jax'
PRODUCT = 'matrix product'
HEADER = 'step', 'pairs/s', 'ms', 'model GFLOP/s', 'share of the product', 'times PyTorch'


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints a table for every depth."""
  parser = measure.parser(__doc__)
  parser.add_argument('--depth', type=int, nargs='+', default=[18, 50], help='of the ResNets')
  parser.add_argument('--width', type=float, default=0.25, help='of the ResNets')
  parser.add_argument('--frame', type=int, default=90, help='side of the pictures in pixels')
  parser.add_argument('--margin', type=int, default=13, help='cut from each side of a view')
  parser.add_argument('--batch_size', type=int, default=32, help='pictures, so pairs, a step')
  parser.add_argument('--queue', type=int, default=4096, help='negatives')
  parser.add_argument('--precision', choices=PRECISIONS, default='float32')
  parser.add_argument('--steps', type=int, default=2, help='in a row in every repetition')
  parser.add_argument('--matrix', type=int, default=2048, help='side of the matrix product')
  packages = 'jax', 'jaxlib', 'flax', 'optax', 'torch'
  options = measure.parse(__file__, parser, arguments, packages=packages)
  for depth in options.depth:
    compare(options, depth)


def compare(options: argparse.Namespace, depth: int) -> None:
  """Measures one depth and prints its table."""
  shape = options.batch_size, options.frame, options.frame, 3
  frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  counted = options.batch_size * step_flops(options, depth)
  ways, notes, state = {PRODUCT: matrix_product(options)}, [], initial_state(options, depth, frames)
  for kind, augment in KINDS.items():
    theirs = torch_step(options, depth, frames, augment)
    state = state if theirs is None else with_weights(state, theirs)
    ours = Step(build(options, depth, augment=augment), state, frames)
    notes.append(f'- XLA counts {measure.number(ours.flops / 1e9)} GFLOP in the {kind}')
    if theirs is not None:
      ways[f'PyTorch, {kind}'] = measure.repeated(theirs, options.steps)
    if theirs is not None and not augment:
      notes.append(same_losses(ours, theirs))
    ways[f'landmarks_jax, {kind}'] = measure.repeated(ours, options.steps)
  seconds = measure.in_turn(ways, options.repetitions)
  product = 2 * options.matrix**3 / seconds[PRODUCT]
  notes += [
    f'- model GFLOP: {measure.number(counted / 1e9)} a step, counted: convolutions and linear '
    'layer of query forward, query backward, key forward, padding included',
    f'- a matrix product of {options.matrix}^3 in {options.precision}, by JAX in the same turns: '
    f'{measure.figure(product / 1e9)} GFLOP/s',
  ]
  side = options.frame - 2 * options.margin
  measure.print_table(
    f'ResNet-{depth}, width {options.width:g}, {side} px, {options.batch_size} pairs a step',
    '\n'.join(notes),
    HEADER,
    [row(options, seconds, kind, who, counted, product) for kind in KINDS for who in SIDES],
  )


def row(
  options: argparse.Namespace,
  seconds: dict[str, measure.Seconds],
  kind: str,
  who: str,
  flops: float,
  product: measure.Seconds,
) -> list[str]:
  """A line of the table; PyTorch has no seconds where it was skipped."""
  way, baseline = f'{who}, {kind}', seconds.get(f'PyTorch, {kind}')
  if way not in seconds:
    return [way, 'skipped: torch is not installed', *['-'] * (len(HEADER) - 2)]
  each = seconds[way] / options.steps
  return [
    way,
    measure.figure(options.batch_size / each),
    measure.figure(1e3 * each),
    measure.figure(flops / each / 1e9),
    measure.figure(flops / each / product, '{:.0%}'.format),
    measure.speed_up(seconds[way], baseline),
  ]


class Step:
  """Our compiled step on one device; a call takes one and returns its loss.

  `flops` is what XLA's cost analysis of the compiled step counts.
  """

  def __init__(self, method: Method, state: TrainState, frames: np.ndarray) -> None:
    mesh = sharding.mesh(jax.devices()[:1])
    self.batch = sharding.to_global(Batch(image=frames), mesh)
    self.rng = sharding.replicate(jax.random.key(0), mesh)
    self.state = sharding.replicate(state, mesh)
    step = sharding.compile_step(training.make_train_step(method, optimizer()), mesh)
    self.step = step.lower(self.state, self.batch, self.rng).compile()
    self.flops = self.step.cost_analysis()['flops']

  def __call__(self) -> Array:
    """Takes a step."""
    self.state, metrics = self.step(self.state, self.batch, self.rng)
    return metrics['loss']


def optimizer() -> optax.GradientTransformation:
  """SGD as in the paper, at a constant rate."""
  return optim.build(name='sgd', schedule='constant', **SGD).tx


def initial_state(options: argparse.Namespace, depth: int, frames: np.ndarray) -> TrainState:
  """The state before the first step, the same with and without augmentation."""
  method = build(options, depth, augment=True)
  once = compiler.options(compiler.ONCE, jax.default_backend())
  init = jax.jit(functools.partial(training.init_state, method, optimizer()), compiler_options=once)
  return init(jax.random.key(0), Batch(image=frames))


def build(options: argparse.Namespace, depth: int, *, augment: bool) -> Method:
  """The method. Without augmentation, not an option of MoCo's, a view is the frame's centre."""
  settings = {'depth': depth, 'width': options.width, 'queue': options.queue, 'norm_groups': 1}
  settings |= {'margin': options.margin, 'precision': options.precision}
  make = functools.partial(moco.build, **MOCO, **COLOURS, **settings)
  if augment:
    return make()
  with mock.patch.object(views, 'random_view', centre):
    return make()


def centre(rng: Array, image: Array, *, margin: int, **_: Any) -> Array:
  """What remains of `views.random_view` without its random steps."""
  return regions.cut_centre(jnp.asarray(image, float), margin)


def torch_step(
  options: argparse.Namespace, depth: int, frames: np.ndarray, augment: bool, **others: Any
) -> Callable[[], Any] | None:
  """PyTorch's step, or None without torch. others: of `torch_baseline.Step`."""
  if importlib.util.find_spec('torch') is None:
    return None
  import torch_baseline

  names = 'width', 'queue', 'margin', 'precision'
  settings = {name: getattr(options, name) for name in names} | MOCO | COLOURS | SGD
  return torch_baseline.Step(frames, depth=depth, augment=augment, **settings, **others)


def with_weights(state: TrainState, theirs: Any) -> TrainState:
  """Our state with PyTorch's weights and queue."""
  weights = {name: value.cpu().numpy() for name, value in theirs.query.state_dict().items()}
  found = torch_names.from_torch(weights, prefix='')
  params = {'backbone': found['params'], 'head': {'fc0': found['head']}}
  aux = {'key': params, 'stats': found['batch_stats'], 'key_stats': found['batch_stats']}
  aux |= {'queue': theirs.queue.cpu().numpy()}
  return state._replace(params=params, aux=state.aux | aux)


def same_losses(ours: Step, theirs: Callable[[], Any]) -> str:
  """The first losses of both, which start from the same weights and see the same pictures."""
  losses = (', '.join(f'{float(step()):.3f}' for _ in range(3)) for step in (ours, theirs))
  return '- the first losses without augmentation: {} here, {} in PyTorch'.format(*losses)


def matrix_product(options: argparse.Namespace) -> Callable[[], Array]:
  """A square matrix times itself on the device, in the networks' precision."""
  shape = options.matrix, options.matrix
  matrix = jax.random.normal(jax.random.key(0), shape, PRECISIONS[options.precision])
  return functools.partial(jax.jit(jnp.matmul), matrix, matrix)


def step_flops(options: argparse.Namespace, depth: int) -> int:
  """Operations of the convolutions and the head for one pair, two for each multiply-add.

  Query forward, key forward, and two products of the same size backward; the stem's input needs no
  gradient.
  """
  stem, rest = forward_flops(depth, options.width, options.frame - 2 * options.margin)
  return 3 * stem + 4 * rest


def forward_flops(depth: int, width: float, side: int) -> tuple[int, int]:
  """Forward operations of the stem and of all that follows, for one picture of side x side."""
  side = -(-side // 2)
  stem, rest, channels = 2 * 7 * 7 * 3 * 64 * side**2, 0, 64
  side = -(-side // 2)
  block, stage_sizes = resnet.DEPTHS[depth]
  for i, blocks in enumerate(stage_sizes):
    for j in range(blocks):
      before, entered = side, channels
      for features, kernel, stride in block(int(64 * width * 2**i), 2 if i and not j else 1):
        side = -(-side // stride)
        rest += 2 * kernel**2 * channels * features * side**2
        channels = features
      if (before, entered) != (side, channels):
        rest += 2 * entered * channels * side**2
  return stem, rest + 2 * channels * MOCO['dim']


if __name__ == '__main__':
  main()

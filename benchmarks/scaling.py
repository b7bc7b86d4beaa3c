"""What a training step sends between devices, read from the compiled program; a model of its time.

Every method's step is compiled for fake CPU devices and its collectives are checked against the
formulas of docs/scaling.md: a difference is an error. Nothing is run, so bytes are exact and no
time is measured. Networks have full width; the defaults take about half an hour on two CPU cores.
The page's tables of modelled times, which need no compilation:

python benchmarks/scaling.py --model
"""

import argparse
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=16')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import collectives
import jax
import jax.numpy as jnp
import measure
import numpy as np
import scaling_model
import train_step

from landmarks_jax import training
from landmarks_jax.contracts import Batch, Describer, Method, PyTree, TrainState
from landmarks_jax.data.synthetic import faces
from landmarks_jax.dtypes import PRECISIONS
from landmarks_jax.methods import equivariant, moco, projection, scrl
from landmarks_jax.runtime import optim, sharding

COLOURS = {'mean': faces.INFO.mean, 'std': faces.INFO.std}
PAPER_GROUPS, MARGIN, LABELS, DIM = 4, 20, 64, 256  # of the papers
CAUSES = 'kernels', 'vectors', 'numbers', 'batch statistics', 'frames', 'keys', 'labels'
EXACT = 'kernels', 'vectors', 'numbers', 'labels'


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints a table for each method, and the step's operations; or the model's tables."""
  parser = measure.parser(__doc__)
  parser.add_argument('--model', action='store_true', help='print the modelled times instead')
  parser.add_argument('--methods', nargs='+', choices=CASES, default=list(CASES), metavar='NAME')
  parser.add_argument('--devices', type=int, nargs='+', default=[2, 4, 8, 16], help='fake ones')
  parser.add_argument('--each', type=int, default=2, help='pictures on each device')
  parser.add_argument('--width', type=float, default=1.0, help='of the networks')
  parser.add_argument('--frame', type=int, default=136, help='side of the pictures in pixels')
  parser.add_argument('--queue', type=int, default=4096, help='negatives of MoCo')
  parser.add_argument('--precision', choices=PRECISIONS, default='float32')
  parser.add_argument('--no_flops', action='store_true', help='leave the operations out')
  if parser.parse_known_args(arguments)[0].model:
    print(scaling_model.page())
    return
  options = measure.parse(__file__, parser, arguments, packages=('jax', 'jaxlib'))
  jax.config.update('jax_disable_most_optimizations', True)  # of machine code: nothing is run
  for name in options.methods:
    compare(name, options)
  if not options.no_flops:
    print_flops(options)


def compare(name: str, options: argparse.Namespace) -> None:
  """Prints a method's bytes by cause; raises AssertionError if they differ from the formulas."""
  rows = {cause: [cause] for cause in (*CAUSES, 'all causes', 'collectives (all-reduces)')}
  for devices in options.devices:
    state, batch, found = compiled(name, devices, options)
    given, due = by_cause(found, devices), formulas(name, state, batch, devices)
    check(f'{name} on {devices} devices', given, due)
    for cause in CAUSES:
      rows[cause].append(f'{given[cause]:,}')
    rows['all causes'].append(f'{sum(given.values()):,}')
    reduces = sum(collective.kind == 'all-reduce' for collective in found)
    rows['collectives (all-reduces)'].append(f'{len(found)} ({reduces})')
  measure.print_table(
    name,
    f'- {options.each} pictures a device; parameters: {size(state.params):,}',
    ['bytes given to a device', *(f'{devices} devices' for devices in options.devices)],
    [row for row in rows.values() if set(row[1:]) != {'0'}],
  )


def compiled(
  name: str, devices: int, options: argparse.Namespace
) -> tuple[TrainState, Batch, list[collectives.Collective]]:
  """Shapes of a method's state and batch, and the collectives of its step on that many devices."""
  mesh = sharding.mesh(jax.devices()[:devices])
  method = CASES[name](options, devices)(constrain=sharding.constrain(mesh))
  shape = options.each * devices, options.frame, options.frame, 3
  batch = Batch(image=jax.ShapeDtypeStruct(shape, np.uint8))
  one = Batch(image=jnp.zeros((1, *shape[1:]), np.uint8))
  tx, _ = optim.build(name='sgd', schedule='constant', learning_rate=0.03, weight_decay=1e-4)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda rng: training.init_state(method, tx, rng, one), rng)
  step = sharding.compile_step(training.make_train_step(method, tx), mesh)
  return state, batch, collectives.read(step.lower(state, batch, rng).compile().as_text())


def by_cause(found: Sequence[collectives.Collective], devices: int) -> dict[str, int]:
  """Bytes that collectives deliver to a device, by cause."""
  given = dict.fromkeys(CAUSES, 0)
  for collective in found:
    for part in collective.parts:
      given[cause(collective, part, devices)] += part.bytes
  return given


def cause(collective: collectives.Collective, part: collectives.Part, devices: int) -> str:
  """Why a part of a collective is sent, inferred from its kind and shape."""
  if collective.kind == 'all-reduce':
    if part.rank == 1 and collective.together < devices:
      return 'batch statistics'  # of a group that spans several devices
    return ('numbers', 'vectors', 'kernels')[min(part.rank, 2)]
  if part.dtype == 'u8':
    return 'frames'
  return 'keys' if part.rank <= 2 else 'labels'


def formulas(name: str, state: TrainState, batch: Batch, devices: int) -> dict[str, int]:
  """What a step has to send to a device, by cause (docs/scaling.md)."""
  leaves, aux = jax.tree.leaves(state.params), state.aux
  kernels = sum(leaf.size for leaf in leaves if leaf.ndim > 1)
  statistics = sum(size(aux[name]) for name in ('stats', 'key_stats') if name in aux)
  stems = sum(math.prod(leaf.shape[2:]) for leaf in leaves if leaf.shape[:2] == (7, 7))
  stems *= 8 * 8 - 7 * 7  # a ResNet's first kernel is sent in the shape `resnet.StemConv` uses
  due = {'kernels': 4 * (kernels + stems), 'vectors': 4 * (size(leaves) - kernels + statistics)}
  due |= {'numbers': 4 * 2, 'frames': 0, 'keys': 0, 'labels': 0}  # the loss and a metric
  if name == 'scrl':
    due['vectors'] += 4 * DIM  # the mean unit vector, a metric
  if 'queue' in aux:
    count, dim = batch.image.shape[0], aux['queue'].shape[1]
    due['frames'] = 2 * math.prod(batch.image.shape) // devices  # all-to-all, then a permutation
    due['keys'] = 4 * count * (dim + 1) + 2 * 4 * dim * count // devices  # with their rows
  if name == 'dve':
    # The maps of one neighbour and their gradient; a map has half the side of a picture.
    due['labels'] = 2 * 4 * LABELS * ((batch.image.shape[1] - 2 * MARGIN) // 2) ** 2
  return due


def check(what: str, given: dict[str, int], due: dict[str, int]) -> None:
  """Raises AssertionError where a step's bytes disagree with its formula or exceed it."""
  for cause, expected in due.items():
    if cause == 'vectors' and given['batch statistics']:
      continue  # their gradients are partly summed together with the statistics
    fine = given[cause] == expected if cause in EXACT else given[cause] <= expected
    assert fine, f'{what}: {cause} take {given[cause]:,} bytes, the formula says {expected:,}'


def size(tree: PyTree) -> int:
  """The number of elements in a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def print_flops(options: argparse.Namespace) -> None:
  """Prints operations per picture of the paper's step: counted, and by XLA's cost analysis."""
  side = options.frame - 2 * MARGIN
  options = argparse.Namespace(**vars(options) | {'batch_size': options.each, 'margin': MARGIN})
  counted, lines = train_step.step_flops(options, 50), []
  for augment in (False, True):
    method = train_step.build(options, 50, augment=augment)
    shape = options.batch_size, options.frame, options.frame, 3
    step = train_step.Step(method, initial(method, shape), np.zeros(shape, np.uint8))
    lines.append(
      [
        'with augmentation' if augment else 'networks alone',
        measure.number(counted / 1e9),
        measure.number(step.flops / options.batch_size / 1e9),
      ]
    )
  measure.print_table(
    f'Operations for a picture: MoCo, ResNet-50, width {options.width:g}, {side} px',
    '- counted: convolutions and linear layer; query and key forward, query backward',
    ['step', 'counted GFLOP', "GFLOP in XLA's analysis"],
    lines,
  )


def initial(method: Method, shape: tuple[int, ...]) -> TrainState:
  """A state to compile with."""
  one = Batch(image=np.zeros((1, *shape[1:]), np.uint8))
  init = functools.partial(training.init_state, method, train_step.optimizer(), batch=one)
  return jax.jit(init)(jax.random.key(0))


def contrast(depth: int, groups: int | None) -> Callable[..., Any]:
  """MoCo. groups: of BatchNorm; None: one for each device."""

  def case(options: argparse.Namespace, devices: int) -> Callable[..., Method]:
    norm_groups = devices if groups is None else groups
    networks = {'depth': depth, 'width': options.width, 'norm_groups': norm_groups}
    networks |= {'queue': options.queue, 'margin': MARGIN, 'precision': options.precision}
    return functools.partial(moco.build, **COLOURS, **networks)

  return case


def projected(options: argparse.Namespace, devices: int) -> Callable[..., Method]:
  """The projection on a frozen ResNet-50."""
  below = moco.build(
    **COLOURS, depth=50, width=options.width, margin=MARGIN, precision=options.precision
  )
  one = Batch(image=jnp.zeros((1, options.frame, options.frame, 3), np.uint8))
  variables = jax.eval_shape(lambda rng: below.init(rng, one), jax.random.key(0))
  # Only shapes matter here, and zeros are the cheapest weights.
  variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)
  base = Describer(
    variables, lambda variables, image, size: below.describe(*variables, image, size)
  )
  return functools.partial(projection.build, base=base, margin=MARGIN)


def dense(exchange: bool) -> Callable[..., Any]:
  """Dense equivariant labelling, or DVE; BatchNorm in a group for each device."""

  def case(options: argparse.Namespace, devices: int) -> Callable[..., Method]:
    kept = {'dim': LABELS if exchange else 3, 'exchange': exchange, 'margin': MARGIN}
    kept |= {'width': options.width, 'norm_groups': devices, 'precision': options.precision}
    return functools.partial(equivariant.build, **COLOURS, **kept, jpeg=False)

  return case


def boxes(options: argparse.Namespace, devices: int) -> Callable[..., Method]:
  """SCRL; BatchNorm in a group for each device, including that over boxes."""
  kept = {'width': options.width, 'norm_groups': devices, 'precision': options.precision}
  kept |= {'hidden': int(4096 * options.width), 'dim': DIM, 'margin': MARGIN}
  return functools.partial(scrl.build, **COLOURS, **kept, depth=50, output_stride=16, smallest=16)


CASES = {
  'moco_resnet18': contrast(18, None),
  'moco_resnet50': contrast(50, None),
  'moco_resnet50_4_groups': contrast(50, PAPER_GROUPS),
  'projection': projected,
  'equivariant': dense(False),
  'dve': dense(True),
  'scrl': boxes,
}


if __name__ == '__main__':
  main()

"""Training the landmark head on pyramids against training it on stacked hypercolumns.

The head maps every position of the hypercolumn linearly. A linear map commutes with resizing, so
each level can be mapped at its own resolution (hypercolumn.project), and frozen features can be
kept as pyramids. A step takes its features from host memory, as in evaluation/probing.py. The
defaults, features of a ResNet-50, take about a minute on two otherwise idle CPU cores. On an
accelerator:

python benchmarks/probe.py --batch_size 32 --steps 20
"""

import argparse
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

from landmarks_jax import training
from landmarks_jax.contracts import Array, Batch, Method, Pyramid, PyTree
from landmarks_jax.methods import probe
from landmarks_jax.models import hypercolumn, resnet
from landmarks_jax.runtime import optim

HEADER = 'features', 'kB a picture', 'peak MB of the step', 'ms a step', 'times the baseline'
BASELINE = 'stacked, kept'


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the table, and how far the two computations differ."""
  parser = measure.parser(__doc__)
  parser.add_argument('--depth', type=int, default=50, help='of the ResNet')
  parser.add_argument('--width', type=float, default=1, help='of the ResNet')
  parser.add_argument('--side', type=int, default=96, help='of the pictures that were described')
  parser.add_argument('--size', type=int, default=48, help='of the maps of the head')
  parser.add_argument('--landmarks', type=int, default=5)
  parser.add_argument('--points', type=int, default=50, help='intermediate points a landmark')
  parser.add_argument('--batch_size', type=int, default=4, help='pictures a step; the paper: 32')
  parser.add_argument('--steps', type=int, default=1, help='in a row in every repetition')
  options = measure.parse(__file__, parser, arguments, packages=('jax', 'jaxlib', 'flax', 'optax'))

  method = probe.build(
    landmarks=options.landmarks, points_per_landmark=options.points, size=options.size
  )
  pyramid = features(options)
  column = np.asarray(stack(pyramid, options.size))
  steps = {
    BASELINE: Step(options, method, (column,)),
    'pyramids, stacked in the step': Step(options, stacking(method, options.size), pyramid),
    'pyramids, projected': Step(options, method, pyramid),
  }
  ways = {name: measure.repeated(step, options.steps) for name, step in steps.items()}
  seconds = measure.in_turn(ways, options.repetitions)
  rows = [
    [
      name,
      measure.number(step.feature_bytes / 1e3),
      measure.number(step.peak_bytes / 1e6),
      measure.figure(1e3 * seconds[name] / options.steps),
      measure.speed_up(seconds[name], seconds[BASELINE]),
    ]
    for name, step in steps.items()
  ]
  channels = sum(level.shape[-1] for level in pyramid)
  measure.print_table(
    f'A step of the head: {channels} channels at {options.size}x{options.size}',
    f'{difference(options, method, pyramid)}\n- peak: arguments, results and temporaries of the '
    'compiled step',
    HEADER,
    rows,
  )


def features(options: argparse.Namespace) -> Pyramid:
  """Random numbers with the shapes of a ResNet's stages, stored as bfloat16 NumPy arrays."""
  network = resnet.ResNet(depth=options.depth, width=options.width)
  image = jnp.zeros((options.batch_size, options.side, options.side, 3))
  init = functools.partial(network.init_with_output, train=False)
  maps, _ = jax.eval_shape(init, jax.random.key(0), image)
  rng = np.random.default_rng(0)
  return tuple(
    np.maximum(rng.normal(0, 0.1, level.shape), 0).astype(jnp.bfloat16) for level in maps[:4]
  )


stack = jax.jit(hypercolumn.stack, static_argnums=1)


def stacking(method: Method, size: int) -> Method:
  """The head with its column built inside the loss."""

  def loss(params: PyTree, aux: PyTree, batch: Batch, rng: Array, step: Array) -> Any:
    column = hypercolumn.stack(batch.pyramid, size)
    params = params | {'inner': (jnp.concatenate(params['inner']),)}
    return method.loss(params, aux, batch._replace(pyramid=(column,)), rng, step)

  return method._replace(loss=loss)


class Step:
  """A compiled training step; a call takes one and returns its loss."""

  def __init__(self, options: argparse.Namespace, method: Method, pyramid: Pyramid) -> None:
    tx = optim.adam(1e-3, betas=(0.5, 0.999), weight_decay=5e-4)
    self.rng = jax.random.key(0)
    shape = options.batch_size, options.landmarks, 2
    points = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    self.batch = Batch(pyramid=pyramid, points=points)
    self.state = jax.jit(functools.partial(training.init_state, method, tx))(self.rng, self.batch)
    step = jax.jit(training.make_train_step(method, tx), donate_argnums=0)
    self.step = step.lower(self.state, self.batch, self.rng).compile()
    self.feature_bytes = sum(level[0].nbytes for level in pyramid)
    used = self.step.memory_analysis()
    self.peak_bytes = used.argument_size_in_bytes + used.temp_size_in_bytes
    self.peak_bytes += used.output_size_in_bytes - used.alias_size_in_bytes

  def __call__(self) -> Array:
    """Takes a step."""
    self.state, metrics = self.step(self.state, self.batch, self.rng)
    return metrics['loss']


def difference(options: argparse.Namespace, method: Method, pyramid: Pyramid) -> str:
  """How far maps and landmarks of one head differ; the column is float32 here."""
  params, aux = method.init(jax.random.key(2), Batch(pyramid=pyramid))
  exact = tuple(level.astype(np.float32) for level in pyramid)
  column = hypercolumn.stack(exact, options.size)
  one = params | {'inner': (jnp.concatenate(params['inner']),)}
  with jax.default_matmul_precision('float32'):
    maps = hypercolumn.project(pyramid, params['inner'], options.size)
    stacked_maps = column @ one['inner'][0]
  points, _ = method.landmarks(params, aux, Batch(pyramid=pyramid))
  stacked_points, _ = method.landmarks(one, aux, Batch(pyramid=(column,)))
  of_maps = np.abs(maps - stacked_maps).max() / np.abs(stacked_maps).max()
  of_points = np.abs(points - stacked_points).max()
  return (
    f'- projected and stacked maps differ by at most {of_maps:.1e} of the greatest value, the '
    f'landmarks by {of_points:.1e} (the frame is 2 wide)'
  )


if __name__ == '__main__':
  main()

"""Convolutions by XLA with its defaults, with the compiler options used here, and by PyTorch.

Layers of ResNets on 96-pixel pictures, forward and backward, then MoCo's whole step with and
without the options of landmarks_jax/runtime/compiler.py. Made for CPUs; the defaults take five
minutes on two otherwise idle cores.

python benchmarks/convolution.py
"""

import argparse
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import measure
import numpy as np
import train_step

from landmarks_jax.runtime import compiler

XLA, OURS, TORCH = 'XLA', 'landmarks_jax', 'PyTorch'
PASSES = {'forward': None, 'to pictures': 0, 'to kernels': 1}  # the argument of the gradient


class Layer(NamedTuple):
  """A convolution of square kernels over square maps."""

  map: int
  inputs: int
  outputs: int
  side: int
  stride: int = 1

  @property
  def name(self) -> str:
    """Such as `3x3, 24x24, 64 to 64`."""
    stride = f', stride {self.stride}' if self.stride > 1 else ''
    sides = f'{self.side}x{self.side}, {self.map}x{self.map}'
    return f'{sides}, {self.inputs} to {self.outputs}{stride}'


LAYERS = (
  Layer(24, 64, 64, 3),
  Layer(24, 64, 128, 3, 2),
  Layer(12, 128, 128, 3),
  Layer(6, 256, 256, 3),
  Layer(3, 512, 512, 3),
  Layer(12, 32, 32, 3),  # of a ResNet of a quarter of the width
  Layer(24, 64, 256, 1),  # of ResNet-50
  Layer(12, 512, 128, 1),
  Layer(24, 64, 16, 1),
)


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints a table of layers and one of the step."""
  parser = measure.parser(__doc__)
  parser.add_argument('--batch_size', type=int, default=64, help='pictures')
  parser.add_argument('--layers', type=int, default=len(LAYERS), help='the first so many')
  parser.add_argument('--depth', type=int, nargs='*', default=[18], help='of the steps')
  parser.add_argument('--width', type=float, default=1.0, help='of the steps')
  parser.add_argument('--frame', type=int, default=136, help='side of the pictures in pixels')
  parser.add_argument('--margin', type=int, default=20, help='cut from each side of a view')
  parser.add_argument('--queue', type=int, default=4096, help='negatives')
  parser.add_argument('--precision', choices=('float32',), default='float32')
  options = measure.parse(__file__, parser, arguments, packages=('jax', 'jaxlib', 'torch'))
  measure.print_table(
    'Layers',
    f'- GFLOP/s, of {options.batch_size} pictures',
    ('layer', XLA, OURS, TORCH, 'times XLA'),
    [row for layer in LAYERS[: options.layers] for row in layer_rows(layer, options)],
  )
  if options.depth:
    measure.print_table(
      "MoCo's step",
      f'- {options.batch_size} pairs, width {options.width:g}',
      ('network', f'ms, {XLA}', f'ms, {OURS}', 'times', f'peak MB, {XLA}', OURS),
      [step_row(depth, options) for depth in options.depth],
    )


def layer_rows(layer: Layer, options: argparse.Namespace) -> list[list[str]]:
  """The rows of a layer, one for each pass."""
  rng, pad = np.random.default_rng(0), layer.side // 2
  image = rng.normal(size=(options.batch_size, layer.map, layer.map, layer.inputs))
  kernel = rng.normal(size=(layer.side, layer.side, layer.inputs, layer.outputs))
  image, kernel = (jnp.asarray(x, jnp.float32) for x in (image, kernel))

  def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    how = 2 * (layer.stride,), 2 * ((pad, pad),)
    return jax.lax.conv_general_dilated(
      *(image, kernel, *how), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  slope = jnp.ones_like(convolve(image, kernel))
  work = 2 * kernel.size * math.prod(slope.shape[:3]) / 1e9
  theirs = torch_passes(layer, *(np.asarray(x) for x in (image, kernel, slope)))
  rows = []
  for name, wanted in PASSES.items():
    ways = {
      XLA: xla_pass(convolve, wanted, (image, kernel, slope), {}),
      OURS: xla_pass(convolve, wanted, (image, kernel, slope), compiler.NETWORKS),
    }
    ways |= {TORCH: theirs[name]} if theirs else {}
    seconds = measure.in_turn(ways, options.repetitions)
    speeds = {way: measure.figure(work / took) for way, took in seconds.items()}
    cells = [speeds.get(way, 'skipped: torch is not installed') for way in (XLA, OURS, TORCH)]
    rows.append([f'{layer.name}, {name}', *cells, measure.speed_up(seconds[OURS], seconds[XLA])])
  return rows


def xla_pass(
  convolve: Callable, wanted: int | None, given: tuple[jax.Array, ...], chosen: compiler.Options
) -> Callable[[], Any]:
  """The convolution of two arguments, or its gradient with respect to argument `wanted`."""

  def run(image: jax.Array, kernel: jax.Array, slope: jax.Array) -> Any:
    if wanted is None:
      return convolve(image, kernel)
    of = {0: lambda x: convolve(x, kernel), 1: lambda x: convolve(image, x)}[wanted]
    return jax.vjp(of, (image, kernel)[wanted])[1](slope)

  made = jax.jit(run, compiler_options=compiler.options(chosen, jax.default_backend()))
  return lambda: made(*given)


def torch_passes(
  layer: Layer, image: np.ndarray, kernel: np.ndarray, slope: np.ndarray
) -> dict[str, Callable[[], Any]]:
  """PyTorch's passes by name, on maps and kernels with channels last; none without torch."""
  if importlib.util.find_spec('torch') is None:
    return {}
  import torch

  def given(array: np.ndarray, *axes: int) -> torch.Tensor:
    return torch.tensor(array.transpose(axes)).contiguous(memory_format=torch.channels_last)

  image, slope = given(image, 0, 3, 1, 2), given(slope, 0, 3, 1, 2)
  kernel = given(kernel, 3, 2, 0, 1)
  how = 2 * [layer.stride], 2 * [layer.side // 2], [1, 1]

  def gradient(*wanted: bool) -> Any:
    others = False, [0, 0], 1, [*wanted, False]
    return torch.ops.aten.convolution_backward(slope, image, kernel, None, *how, *others)

  return {
    'forward': lambda: torch.nn.functional.conv2d(image, kernel, None, *how),
    'to pictures': lambda: gradient(True, False),
    'to kernels': lambda: gradient(False, True),
  }


def step_row(depth: int, options: argparse.Namespace) -> list[str]:
  """The row of a network."""
  shape = options.batch_size, options.frame, options.frame, 3
  frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  state = train_step.initial_state(options, depth, frames)
  method, steps = train_step.build(options, depth, augment=True), {}
  for way, chosen in {XLA: {}, OURS: compiler.NETWORKS}.items():
    with mock.patch.object(compiler, 'NETWORKS', chosen):
      steps[way] = train_step.Step(method, state, frames)
  seconds = measure.in_turn(steps, options.repetitions)
  peaks = [step.step.memory_analysis().temp_size_in_bytes for step in steps.values()]
  return [
    f'ResNet-{depth}',
    *(measure.figure(1e3 * seconds[way]) for way in (XLA, OURS)),
    measure.speed_up(seconds[OURS], seconds[XLA]),
    *(measure.number(peak / 1e6) for peak in peaks),
  ]


if __name__ == '__main__':
  main()

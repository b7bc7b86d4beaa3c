"""The gradient of a convolution's kernel by matrix products against XLA's way and PyTorch's.

Layers of ResNets on 96-pixel pictures, and then MoCo's whole step with and without the products
(landmarks_jax/models/convolution.py, which takes them on CPUs only). Made for a CPU; the defaults
take five minutes on two cores that nothing else uses.

python benchmarks/convolution.py
"""

import argparse
import functools
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

from landmarks_jax.models import convolution

XLA, OURS, TORCH = 'XLA', 'products', 'PyTorch'


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
  Layer(12, 32, 32, 3),  # of a quarter's width
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
    'Gradients of kernels',
    f'- GFLOP/s, of {options.batch_size} pictures',
    ('layer', XLA, OURS, TORCH, 'times XLA'),
    [layer_row(layer, options) for layer in LAYERS[: options.layers]],
  )
  if options.depth:
    measure.print_table(
      "MoCo's step",
      f'- {options.batch_size} pairs, width {options.width:g}',
      ('network', f'ms, {XLA} alone', 'ms, with products', 'times', 'peak MB, alone', 'with'),
      [step_row(depth, options) for depth in options.depth],
    )


def layer_row(layer: Layer, options: argparse.Namespace) -> list[str]:
  """The cells of a layer."""
  rng, pad = np.random.default_rng(0), layer.side // 2
  how = 2 * (layer.stride,), 2 * ((pad, pad),), (1, 1)
  image = rng.normal(size=(options.batch_size, layer.map, layer.map, layer.inputs))
  kernel = rng.normal(size=(layer.side, layer.side, layer.inputs, layer.outputs))
  image, kernel = (jnp.asarray(x, jnp.float32) for x in (image, kernel))

  def by_xla(image: jax.Array, slope: jax.Array) -> Any:
    convolve = functools.partial(convolution.plain, image, how=how, precision=None)
    return jax.vjp(convolve, kernel)[1](slope)

  slope = jnp.ones_like(convolution.plain(image, kernel, how, None))
  xla = jax.jit(by_xla)
  ours = jax.jit(lambda image, slope: convolution.products(image, slope, kernel.shape[:2], how))
  ways = {XLA: functools.partial(xla, image, slope), OURS: functools.partial(ours, image, slope)}
  if importlib.util.find_spec('torch') is not None:
    ways[TORCH] = torch_gradient(layer, *(np.asarray(x) for x in (image, kernel, slope)))
  seconds = measure.in_turn(ways, options.repetitions)
  work = 2 * kernel.size * math.prod(slope.shape[:3]) / 1e9
  speeds = {way: measure.figure(work / took) for way, took in seconds.items()}
  speeds = [speeds.get(way, 'skipped: torch is not installed') for way in (XLA, OURS, TORCH)]
  return [layer.name, *speeds, measure.speed_up(seconds[OURS], seconds[XLA])]


def torch_gradient(
  layer: Layer, image: np.ndarray, kernel: np.ndarray, slope: np.ndarray
) -> Callable[[], Any]:
  """PyTorch's, on maps and kernels with channels last."""
  import torch

  def given(array: np.ndarray, *axes: int) -> torch.Tensor:
    return torch.tensor(array.transpose(axes)).contiguous(memory_format=torch.channels_last)

  image, slope = given(image, 0, 3, 1, 2), given(slope, 0, 3, 1, 2)
  how = None, 2 * [layer.stride], 2 * [layer.side // 2], [1, 1], False, [0, 0], 1
  kernel, wanted = given(kernel, 3, 2, 0, 1), [False, True, False]
  return lambda: torch.ops.aten.convolution_backward(slope, image, kernel, *how, wanted)


def step_row(depth: int, options: argparse.Namespace) -> list[str]:
  """The cells of a network."""
  shape = options.batch_size, options.frame, options.frame, 3
  frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  state = train_step.initial_state(options, depth, frames)
  steps = {}
  for way, found in {XLA: jax.lax.conv_general_dilated, OURS: None}.items():
    found = found or convolution.conv_general_dilated
    with mock.patch.object(convolution, 'conv_general_dilated', found):
      method = train_step.build(options, depth, augment=True)
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

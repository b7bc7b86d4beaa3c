"""Dense losses in blocks (landmarks_jax/correlation.py) against the matrix of all pairs.

Value and gradient of the losses for one pair of label maps, forward and backward, at several map
sizes. The plain form computes the same probabilities and reduces the whole matrix. The defaults
take a few minutes on two CPU cores, and 2.5 GB of memory for the plain form.

python -m benchmarks.correlation --json figures.json

is the same as python benchmarks/correlation.py --json figures.json
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landmarks_jax import correlation

# When run as a module, this folder is not on the path.
sys.path.append(str(pathlib.Path(__file__).parent))
import measure

HEADER = 'maps', 'plain MB', 'blocks MB', 'times less', 'plain ms', 'blocks ms', 'times the time'
HEADER += 'loss apart', 'gradient apart'
STRIDE = 2  # of a label map, in pixels
POWER = 0.5


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints a table for each loss, and writes the figures to --json."""
  parser = measure.parser(__doc__)
  parser.add_argument('--sides', type=int, nargs='+', default=[24, 48, 70, 96], help='of the maps')
  parser.add_argument('--channels', type=int, default=64, help='of a descriptor')
  parser.add_argument('--sharpness', type=float, default=20.0, help='of unit descriptors')
  parser.add_argument('--json', type=pathlib.Path, help='a file for the figures')
  options = measure.parse(__file__, parser, arguments, packages=('jax', 'jaxlib'))
  figures = []
  for name, loss in LOSSES.items():
    figures += [{'loss': name, **compare(loss, side, options)} for side in options.sides]
    measure.print_table(
      f'{name.capitalize()}, value and gradient of one pair',
      '- MB: arguments, results and temporaries of the compiled function\n'
      '- apart: relative to the loss, and to the greatest number in the gradient',
      HEADER,
      [row(figure) for figure in figures if figure['loss'] == name],
    )
  if options.json:
    record = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__, 'figures': figures}
    options.json.write_text(json.dumps(record, indent=2, default=np.ndarray.tolist) + '\n')


class Plain:
  """The functions of `correlation`, with the matrix of all pairs."""

  @staticmethod
  def scores(query: jax.Array, key: jax.Array, sharpness: float) -> jax.Array:
    """The scores of all pairs."""
    return sharpness * jnp.einsum('pc,qc->pq', query, key, precision='float32')

  @staticmethod
  def log_normaliser(query: jax.Array, key: jax.Array, *, sharpness: float) -> jax.Array:
    """As in `correlation`."""
    return jax.nn.logsumexp(Plain.scores(query, key, sharpness), axis=1)

  @staticmethod
  def expected_key(query: jax.Array, key: jax.Array, *, sharpness: float) -> jax.Array:
    """As in `correlation`."""
    probability = jax.nn.softmax(Plain.scores(query, key, sharpness))
    return jnp.einsum('pq,qc->pc', probability, key, precision='float32')

  @staticmethod
  def expected_distance(
    query: jax.Array,
    key: jax.Array,
    target: jax.Array,
    positions: jax.Array,
    *,
    sharpness: float,
    power: float,
  ) -> jax.Array:
    """As in `correlation`."""
    # As in blocks: a sum over an axis of 2, or a power that is no root, makes this form slower.
    squared = sum((target[:, None, axis] - positions[:, axis]) ** 2 for axis in range(2))
    away = jnp.sqrt(jnp.sqrt(squared)) if power == 0.5 else jnp.sqrt(squared) ** power
    probability = jax.nn.softmax(Plain.scores(query, key, sharpness))
    return (probability * away).sum(1)


def log_likelihood(form: Any, maps: tuple[jax.Array, ...], sharpness: float) -> jax.Array:
  """The negative log-likelihood of matching the same place, which needs no interpolation."""
  query, key = maps[:2]
  score = sharpness * jnp.einsum('pc,pc->p', query, key, precision='float32')
  return (form.log_normaliser(query, key, sharpness=sharpness) - score).mean()


def distance(form: Any, maps: tuple[jax.Array, ...], sharpness: float) -> jax.Array:
  """The expected distance from match to target; `form` is `correlation` or `Plain`."""
  query, key, _, target, positions = maps
  options = {'sharpness': sharpness, 'power': POWER}
  return form.expected_distance(query, key, target, positions, **options).mean()


def exchanged_distance(form: Any, maps: tuple[jax.Array, ...], sharpness: float) -> jax.Array:
  """The same after expressing the query in the descriptors of the auxiliary picture (DVE)."""
  query, key, auxiliary, *places = maps
  query = form.expected_key(query, auxiliary, sharpness=sharpness)
  return distance(form, (query, key, auxiliary, *places), sharpness)


LOSSES = {
  'log-likelihood': log_likelihood,
  'distance': distance,
  'distance after the exchange': exchanged_distance,
}


def compare(loss: Callable, side: int, options: argparse.Namespace) -> dict[str, Any]:
  """The figures of one loss at one map size."""
  maps = example(side, options.channels)
  steps = {
    name: compiled(loss, form, maps, options.sharpness)
    for name, form in {'plain': Plain, 'blockwise': correlation}.items()
  }
  ways = {name: lambda step=step: step(*maps) for name, step in steps.items()}
  seconds = measure.in_turn(ways, options.repetitions)
  peaks = {name: megabytes(step) for name, step in steps.items()}
  (plain, right), (blockwise, gradient) = (step(*maps) for step in steps.values())
  apart = [jnp.abs(one - other).max() for one, other in zip(gradient, right, strict=True)]
  return {
    'side': side,
    'plain_mb': peaks['plain'],
    'blockwise_mb': peaks['blockwise'],
    'memory_ratio': peaks['plain'] / peaks['blockwise'],
    'plain_seconds': seconds['plain'],
    'blockwise_seconds': seconds['blockwise'],
    'time_ratio': float(np.median(seconds['blockwise'] / seconds['plain'])),
    'loss_difference': float(abs(blockwise - plain) / abs(plain)),
    'gradient_difference': float(max(apart) / max(jnp.abs(one).max() for one in right)),
  }


def example(side: int, channels: int) -> tuple[jax.Array, ...]:
  """Unit rows for query, key and auxiliary, targets a few pixels away, and positions."""
  r = np.random.default_rng(0)
  maps = r.normal(size=(3, side * side, channels))
  maps /= np.linalg.norm(maps, axis=-1, keepdims=True)
  positions = STRIDE * np.indices((side, side))[::-1].reshape(2, -1).T
  target = positions + r.normal(scale=5, size=positions.shape)
  return tuple(jnp.asarray(x, jnp.float32) for x in (*maps, target, positions))


def compiled(
  loss: Callable, form: Any, maps: tuple[jax.Array, ...], sharpness: float
) -> jax.stages.Compiled:
  """The compiled value and gradient with respect to the three maps."""

  def value(*maps: jax.Array) -> jax.Array:
    return loss(form, maps, sharpness)

  return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2))).lower(*maps).compile()


def megabytes(step: jax.stages.Compiled) -> float:
  """Peak memory, as planned by the compiler."""
  used = step.memory_analysis()
  return (used.argument_size_in_bytes + used.temp_size_in_bytes + used.output_size_in_bytes) / 1e6


def row(figure: dict[str, Any]) -> list[str]:
  """The cells for one map size."""
  plain, blockwise = figure['plain_seconds'], figure['blockwise_seconds']
  return [
    f'{figure["side"]}x{figure["side"]}',
    *(measure.number(figure[name]) for name in ('plain_mb', 'blockwise_mb', 'memory_ratio')),
    *(measure.figure(times) for times in (1e3 * plain, 1e3 * blockwise, blockwise / plain)),
    *(f'{figure[f"{name}_difference"]:.1e}' for name in ('loss', 'gradient')),
  ]


if __name__ == '__main__':
  main()

"""Which labelled examples a few-shot evaluation learns from: the same lists on every machine."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

LARGEST_SEED = 2**63 - 1  # NumPy takes no negative ones, JAX none that 64 bits do not hold


def label_lists(
  count: int, labels: int | Sequence[int] | None, draws: int, *, seed: int = 0
) -> dict[str, Int[np.ndarray, ' n']]:
  """The examples to learn from of `count`, by name of the part: draw '0', or 'n10/0' of several.

  labels: how many, or several such numbers, each drawn `draws` times; None takes all, once. Raises
  ValueError as `draw_labels` does.
  """
  if labels is None:
    return {'0': np.arange(count)}
  one = np.ndim(labels) == 0  # also a NumPy integer
  return {
    f'{draw}' if one else f'n{number}/{draw}': draw_labels(count, number, draw, seed=seed)
    for number in np.atleast_1d(labels).tolist()
    for draw in range(draws)
  }


def check(
  count: int, labels: int | Sequence[int] | None, draws: int, *, seed: int = 0, name: str = 'labels'
) -> None:
  """Raises ValueError for what `label_lists` cannot draw, and for several draws of all.

  name: of the option `labels`.
  """
  numbers = [] if labels is None else np.atleast_1d(labels).tolist()
  if draws < 1 or (not numbers and draws != 1):
    raise ValueError(f'draws={draws}: expected 1 or more, and 1 without {name}=N')
  for number in numbers:
    _check(count, number, seed, name=name)


def draw_labels(
  count: int, labels: int, draw: int, *, seed: int = 0
) -> Int[np.ndarray, '{labels}']:
  """`labels` of `count` examples, sorted: a pure function of its arguments.

  Every example has a random rank that depends on (seed, draw) and its number alone, and the lowest
  are taken, so that within a draw the list of 5 is part of the list of 10. Raises ValueError for
  more labels than examples, or none, and for a seed outside 0..LARGEST_SEED.
  """
  _check(count, labels, seed)
  # Bits, not `Generator.choice`: NumPy keeps the former the same in all releases (NEP 19).
  ranks = np.random.PCG64([seed, draw]).random_raw(count)
  return np.sort(np.argsort(ranks, kind='stable')[:labels])


def _check(count: int, number: int, seed: int, *, name: str = 'labels') -> None:
  if not 1 <= number <= count:
    raise ValueError(f'{name}={number}: expected 1 to {count}, the number of labelled pictures')
  check_seed(seed)


def check_seed(seed: Any, name: str = 'seed') -> None:
  """Raises ValueError for what is no whole number in 0..LARGEST_SEED. name: of the option."""
  if not isinstance(seed, numbers.Integral) or not 0 <= seed <= LARGEST_SEED:
    raise ValueError(f'{name}={seed}: expected a whole number, 0 to {LARGEST_SEED}')

"""Which labelled examples a few-shot evaluation learns from: the same lists on every machine."""

import numpy as np
from jaxtyping import Int


def draw_labels(
  count: int, labels: int, draw: int, *, seed: int = 0
) -> Int[np.ndarray, '{labels}']:
  """`labels` of `count` examples, sorted: a pure function of its arguments.

  Every example has a random rank that depends on (seed, draw) and its number alone, and the lowest
  are taken, so that within a draw the list of 5 is part of the list of 10. Raises ValueError for
  more labels than examples, or none.
  """
  if not 1 <= labels <= count:
    raise ValueError(f'labels={labels}: expected 1 to {count}, the number of labelled pictures')
  # Bits, not `Generator.choice`: NumPy keeps the former the same in all releases (NEP 19).
  ranks = np.random.PCG64([seed, draw]).random_raw(count)
  return np.sort(np.argsort(ranks, kind='stable')[:labels])

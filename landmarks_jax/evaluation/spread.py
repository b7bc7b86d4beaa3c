"""How the examples of an evaluation are spread over processes and devices."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped

from landmarks_jax.contracts import Batch
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import Source


class Spread(NamedTuple):
  """Each of `shards` processes reads its own rows of a batch and gets whole results back, in order.

  So all processes fit, predict and score the same numbers. place: this process's rows of a tree ->
  the whole tree on all devices. fetch: a tree on devices -> all of it as NumPy, on every process.
  All processes must call both in the same way, with rows of the same shapes.
  """

  place: Callable[[Any], Any] = lambda tree: tree
  fetch: Callable[[Any], Any] = jax.device_get
  shard: int = 0
  shards: int = 1

  def batches(self, source: Source, *, batch_size: int) -> Iterator[Batch]:
    """This process's rows of `pipeline.evaluation_batches`; batch_size is that of all."""
    return pipeline.evaluation_batches(
      source, batch_size=batch_size, shard=self.shard, shards=self.shards
    )

  def own(self, rows: Shaped[np.ndarray, ' B']) -> Shaped[np.ndarray, ' b']:
    """This process's part of the row numbers of a whole batch."""
    return np.split(rows, self.shards)[self.shard]


ALONE = Spread()  # one process, one device

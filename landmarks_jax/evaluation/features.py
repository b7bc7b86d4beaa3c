"""Frozen features, computed once: a labelled set becomes one Batch whose pictures are a pyramid."""

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landmarks_jax.contracts import Array, Batch, Describer, Pyramid
from landmarks_jax.data.source import BadImage, Source
from landmarks_jax.geometry import regions


@functools.lru_cache(maxsize=16)
def compiled(apply: Callable) -> Callable[[Any, Array], Pyramid]:
  """A describer's `apply` as compiled `(variables, image) -> pyramid` in bfloat16."""

  def describe(variables: Any, image: Array) -> Pyramid:
    return tuple(level.astype(jnp.bfloat16) for level in apply(variables, image, None))

  return jax.jit(describe)


def first_readable(source: Source) -> dict[str, Any]:
  """The first example that can be read: shapes are those of all. Raises ValueError without one."""
  for i in range(len(source)):
    with contextlib.suppress(BadImage):
      return source[i]
  raise ValueError(f'none of the {len(source)} pictures can be read')


def gather(
  describer: Describer,
  batches: Iterable[Batch],
  *,
  margin: int = 0,
  place: Callable[[Any], Any] = lambda x: x,
) -> Batch:
  """All examples of a set as one Batch of NumPy arrays, with `pyramid` (bfloat16) for `image`.

  Args:
    batches: equal shapes, the last padded (`valid`); padding is dropped.
    margin: pixels cut from each side before describing; points and scale follow.
    place: puts a batch onto the devices.
  """
  describe, parts = compiled(describer.apply), []
  for batch in batches:
    batch = regions.centre_crop(batch, margin)
    valid = np.asarray(batch.valid)
    pyramid = describe(describer.variables, place(batch.image))
    part = batch._replace(image=None, pyramid=tuple(np.asarray(level) for level in pyramid))
    parts.append(jax.tree.map(lambda x, keep=valid: np.asarray(x)[keep], part))
  if not parts or not sum(len(part.valid) for part in parts):
    raise ValueError('there are no readable examples to describe')
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

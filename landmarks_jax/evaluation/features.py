"""Frozen features, computed once: a labelled set becomes one Batch whose pictures are a pyramid."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from landmarks_jax.contracts import Array, Batch, Describer, Method, Pyramid, PyTree
from landmarks_jax.data.source import BadImage, Source, check_example, stacked
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.geometry import coords, regions, splines
from landmarks_jax.runtime import compiler


def of_method(method: Method, variables: PyTree) -> Describer:
  """The Describer of a method with these weights, (params, aux)."""
  return Describer(variables, *_functions(method))


@functools.lru_cache(maxsize=16)
def _functions(method: Method) -> tuple[Callable, Callable | None, Callable | None]:
  """Its `describe`, `landmarks` and `paint` as a Describer's functions: the same ones each time."""

  def apply(variables: PyTree, image: Array, size: int | None) -> Pyramid:
    return method.describe(*variables, image, size)

  def landmarks(variables: PyTree, image: Array) -> tuple[Array, Array]:
    return method.landmarks(*variables, Batch(image=image))

  def paint(variables: PyTree, image: Array, points: Array | None) -> Array:
    return method.paint(*variables, image, points)

  return apply, landmarks if method.landmarks else None, paint if method.paint else None


class Levels(NamedTuple):
  """A describer's `apply` that keeps levels `start` to `stop` - 1 of another one, `whole`.

  The network is compiled whole and its pyramid cut, so that all parts of one share a program: the
  deepest level needs nearly all of it, and compiling a large network takes minutes.
  """

  whole: Callable
  start: int
  stop: int

  def __call__(self, variables: PyTree, image: Array, size: int | None) -> Pyramid:
    """The pyramid of those levels, as that of any `apply`."""
    return self.cut(self.whole(variables, image, size))

  def cut(self, pyramid: Pyramid) -> Pyramid:
    """The levels of a whole pyramid."""
    return pyramid[self.start : self.stop]


def compiled(
  apply: Callable, dtype: Any = jnp.bfloat16, *, size: int | None = None
) -> Callable[[Any, Array], Pyramid]:
  """A describer's `apply` as compiled `(variables, image) -> pyramid`.

  dtype: of the pyramid; None: as it is. size: as in `Describer`.
  """
  if isinstance(apply, Levels):
    whole = compiled(apply.whole, dtype, size=size)
    return lambda variables, image: apply.cut(whole(variables, image))
  return _compiled(apply, dtype, size)


@functools.lru_cache(maxsize=32)
def _compiled(apply: Callable, dtype: Any, size: int | None) -> Callable[[Any, Array], Pyramid]:
  """`compiled` of all levels; apart from it, since a cache tells ways to spell a call apart."""

  def describe(variables: Any, image: Array) -> Pyramid:
    pyramid = apply(variables, image, size)
    check_pyramid(pyramid)
    return pyramid if dtype is None else tuple(level.astype(dtype) for level in pyramid)

  return compiler.jit(describe)


def check_pyramid(pyramid: PyTree) -> None:
  """Raises ValueError for what is no tuple of maps; they may be shapes (`jax.eval_shape`)."""
  listed = isinstance(pyramid, tuple | list)  # of an array, every picture would be a level
  if not listed or not pyramid or any(np.ndim(level) != 4 for level in pyramid):
    shapes = ', '.join(str(list(np.shape(level))) for level in jax.tree.leaves(pyramid))
    raise ValueError(
      f'describe gave {"a tuple of " if listed else ""}{shapes or "nothing"}; expected a tuple of '
      'maps [B, h, w, C], coarse to fine, such as (maps,)'
    )


def first_readable(source: Source) -> dict[str, Any]:
  """The first readable example, whose shapes are those of all.

  Raises ValueError without one, and for one that is not as `Source` says.
  """
  landmarks = bool(source.info.names)
  for i in range(len(source)):
    with contextlib.suppress(BadImage):
      example = source[i]
      check_example(example, landmarks=landmarks, name=f'the dataset, example {i}')
      return example
  raise ValueError(f'none of the {len(source)} pictures can be read')


def seen_side(source: Source, margin: int) -> int:
  """The side, in pixels, of what a describer sees of its pictures."""
  return first_readable(source)['image'].shape[0] - 2 * margin


def check_landmarks(open_split: Callable[[str], Source], *splits: str, protocol: str) -> None:
  """Raises ValueError that names the first of the splits without landmarks."""
  for split in splits:
    if not open_split(split).info.names:
      raise ValueError(f'{protocol} needs landmarks; the split {split!r} has none')


def gather(
  describer: Describer,
  batches: Iterable[Batch],
  *,
  margin: int = 0,
  size: int | None = None,
  dtype: Any = jnp.bfloat16,
  spread: Spread = ALONE,
) -> Batch:
  """All examples of a set as one Batch of NumPy arrays, with `pyramid` for `image`; no video.

  Args:
    batches: from `spread.batches`: equal shapes, the last padded (`valid`); padding is dropped.
    margin: pixels cut from each side before describing; points and scale follow.
    size: as in `Describer`. dtype: of the pyramid.
  """
  describe = compiled(describer.apply, dtype, size=size)
  labels, pyramid = _collect(describe, describer, batches, margin=margin, spread=spread)
  return labels._replace(pyramid=pyramid)


def discover(
  describer: Describer,
  batches: Iterable[Batch],
  *,
  margin: int = 0,
  spread: Spread = ALONE,
) -> tuple[Batch, Float[np.ndarray, 'N K 2'], Float[np.ndarray, 'N K']]:
  """All examples of a set without pictures, the landmarks found in them, and their confidence.

  Args: see `gather`. Raises ValueError for features that find no landmarks.
  """
  if describer.landmarks is None:
    raise ValueError('these features find no landmarks by themselves; those of lmdis do')
  find = jitted(describer.landmarks)
  labels, (points, sure) = _collect(find, describer, batches, margin=margin, spread=spread)
  return labels, points, sure


@functools.lru_cache(maxsize=16)
def jitted(function: Callable) -> Callable:
  """A describer's `landmarks` or `paint`, compiled once for all callers."""
  return compiler.jit(function)


def _collect(
  look: Callable[[Any, Array], Any],
  describer: Describer,
  batches: Iterable[Batch],
  *,
  margin: int,
  spread: Spread,
) -> tuple[Batch, Any]:
  """The readable examples without their pictures, and what `look` returns for the pictures."""
  parts = []
  for batch in batches:
    batch = regions.centre_crop(batch._replace(next=None, flow=None, flow_valid=None), margin)
    if batch.visible is not None:  # COCO's 0, 1, 2 would index and mask as numbers
      batch = batch._replace(visible=batch.visible.astype(bool))
    batch = spread.place(batch)
    seen = look(describer.variables, batch.image)
    part = spread.fetch((batch._replace(image=None), seen))
    parts.append(jax.tree.map(lambda x, keep=part[0].valid: x[keep], part))
  if not parts or not sum(len(labels.valid) for labels, _ in parts):
    raise ValueError('there are no readable examples to describe')
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def gather_warped(
  describer: Describer,
  source: Source,
  rows: Int[np.ndarray, ' n'],
  *,
  copies: int,
  warp: Mapping[str, float],
  flip_pairs: Sequence[tuple[int, int]] = (),
  margin: int = 0,
  size: int | None = None,
  seed: int = 0,
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> Batch:
  """`copies` random warps of each of some labelled examples, described, as one Batch [n * copies].

  Args:
    rows: of the source; copies of the first come first. A copy keeps the `index` of its example.
    warp: of `splines.random_coefficients`. Frames are warped whole, then cut by `margin`.
    flip_pairs: if any, every second copy is of the mirrored picture, with these landmarks swapped.
    size: as in `Describer`.
    seed: warp c of example i depends on (seed, i, c) alone.

  Points follow exactly, and stay visible where they leave the frame; `scale` does not change.
  """
  pairs = tuple(map(tuple, flip_pairs))
  warped = compiled_warp(describer.apply, margin, tuple(sorted(warp.items())), pairs, size)
  rng, parts = jax.random.key(seed), []
  for start in range(0, len(rows) * copies, batch_size):
    number = spread.own(np.arange(start, start + batch_size))
    row, copy = np.divmod(np.minimum(number, len(rows) * copies - 1), copies)
    batch = _examples(source, np.asarray(rows)[row])._replace(valid=number < len(rows) * copies)
    placed = spread.place((batch, copy.astype(np.int32)))
    part = spread.fetch(warped(describer.variables, rng, *placed))
    parts.append(jax.tree.map(lambda x, keep=part.valid: x[keep], part))
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _examples(source: Source, rows: Int[np.ndarray, ' n']) -> Batch:
  """Some examples of a source, which may repeat."""
  read = {int(i): source[int(i)] for i in np.unique(rows)}
  return Batch(**stacked([read[int(i)] for i in rows]))


@functools.lru_cache(maxsize=16)
def compiled_warp(
  apply: Callable,
  margin: int,
  warp: tuple[tuple[str, float], ...],
  flip_pairs: tuple[tuple[int, int], ...],
  size: int | None,
) -> Callable[[Any, PRNGKeyArray, Batch, Array], Batch]:
  """(variables, rng, frames, copy numbers) -> the warped batch, described in bfloat16."""
  if isinstance(apply, Levels):
    whole = compiled_warp(apply.whole, margin, warp, flip_pairs, size)
    return lambda *given: (found := whole(*given))._replace(pyramid=apply.cut(found.pyramid))

  def describe(variables: Any, rng: PRNGKeyArray, batch: Batch, copy: Int[Array, ' B']) -> Batch:
    def coefficients(index: Array, copy: Array) -> Float[Array, 'rows 2']:
      own = jax.random.fold_in(jax.random.fold_in(rng, index), copy)
      return splines.random_coefficients(own, 1, **dict(warp))[0]

    if flip_pairs:
      batch = _mirrored(batch, copy % 2 == 1, flip_pairs)
    warps = jax.vmap(coefficients)(batch.index, copy)
    image = splines.warp_image(jnp.asarray(batch.image, float), warps)
    moved = splines.invert(warps, batch.points)
    found = (jnp.abs(moved) < splines.NOWHERE).all(-1)
    batch = batch._replace(image=image, points=moved, visible=batch.visible.astype(bool) & found)
    batch = regions.centre_crop(batch, margin)
    pyramid = apply(variables, batch.image, size)
    return batch._replace(
      image=None, pyramid=tuple(level.astype(jnp.bfloat16) for level in pyramid)
    )

  return compiler.jit(describe)


def _mirrored(
  batch: Batch, which: Bool[Array, ' B'], flip_pairs: Sequence[tuple[int, int]]
) -> Batch:
  """Mirrors the examples `which` of a batch."""
  points, visible = coords.mirrored(batch.points, batch.visible, flip_pairs)
  return batch._replace(
    image=jnp.where(which[:, None, None, None], batch.image[:, :, ::-1], batch.image),
    points=jnp.where(which[:, None, None], points, batch.points),
    visible=jnp.where(which[:, None], visible, batch.visible),
  )

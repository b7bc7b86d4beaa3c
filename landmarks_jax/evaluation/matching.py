"""Matching landmarks between warped pictures by descriptors alone: nothing is learnt from labels.

The pictures of a split come in fixed pairs (A, B), and every warp is different. A is warped once,
and the result again: the source. Its landmarks are searched for in A warped once (`same`) and in B
warped once (`different`). The exact rows follow each landmark through the warps and count it where
it is inside every picture; the `_paper` rows round it to a pixel at every warp and always count it
(specification section 5, Matching, and What differs from the published code).
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from landmarks_jax import metrics, shapes
from landmarks_jax.contracts import Array, Batch, Describer, Predictions, Pyramid
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, scoring
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.geometry import coords, regions, splines
from landmarks_jax.models import hypercolumn

DIFFERENT, SAME, PAPER = 'different', 'same', '_paper'
PIXEL = 2 / 69  # of the 70-pixel frame in which matching errors are published
DEVIATIONS = 'warp', 'subset', 'translation', 'scale', 'rotation'  # options that draw warps
METRICS = (
  scoring.Metric(DIFFERENT, 'matching error on another picture, pixels of a 70-pixel frame'),
  scoring.Metric(SAME, 'matching error on the same picture, pixels of a 70-pixel frame'),
)
UNIT = scoring.Unit(1.0, 'px', 'pixels of a 70-pixel frame')  # PIXEL is the scale


class Views(NamedTuple):
  """The three pictures of every pair, cropped; points and visible [P, 2K]: exact, then snapped."""

  source: Batch
  same: Batch
  different: Batch


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  count: int | None = None,
  seed: int = 0,
  size: int = 96,
  warp: float = 5e-4,
  subset: float = 5e-3,
  translation: float = 0.05,
  scale: float = 0.05,
  rotation: float = 2.5,
  test: str = 'test',
  batch_size: int = 16,
  spread: Spread = ALONE,
) -> dict[str, Predictions]:
  """Predictions 'trained/different', 'trained/same', 'trained/different_paper', ... of every row.

  Args:
    random_init: variants of the untrained network; the better one by `different` is the row.
    base: the frozen network that the describer is built on; its own row.
    baselines: rows of an earlier run with the same options, reused instead of computed.
    margin: pixels cut from each side of the frame, after the warps.
    count: use only this many pictures, the first, an even number; None uses all.
    seed: the warps of a pair depend on it and the pair's number alone.
    size: side of the grid of positions, and the size requested of describers.
    warp, subset, translation, scale, rotation: see `splines.random_coefficients`.
    batch_size: in pairs; each has three pictures, and its 2K points need the memory of `match`.

  Points are in the cropped frame, in which `scale` is a pixel of 70; index is that of A, confidence
  the winning inner product. The row 'same_position' predicts the source's own position. A pair with
  an unreadable picture is left out.
  """
  check(open_split, count=count, size=size, test=test, batch_size=batch_size)
  source = open_split(test)
  pairs = (len(source) if count is None else count) // 2
  describers, variants = {scoring.TRAINED: describer}, {}
  if baselines is None:
    variants = {f'{scoring.RANDOM_INIT} {name}': given for name, given in random_init.items()}
    describers |= variants | ({} if base is None else {scoring.BASE: base})

  rng, values = jax.random.key(seed), (warp, subset, translation, scale, rotation)
  deviations = dict(zip(DEVIATIONS, values, strict=True))
  parts: dict[str, dict[str, list[Predictions]]] = {}
  for first, second, keep in _pairs(source, pairs, batch_size=batch_size, spread=spread):
    warps = random_warps(rng, first.index // 2, **deviations)
    *frames, keep = spread.place((first, second, warps, keep))
    views = warped_views(*frames, margin=margin)
    found = {row: match_views(given, views, size=size) for row, given in describers.items()}
    if baselines is None:
      found[scoring.SAME_POSITION] = dict.fromkeys((DIFFERENT, SAME), (views.source.points, None))
    for row, tasks in found.items():
      for task, matched in tasks.items():
        part, kept = spread.fetch((_predictions(views, task, *matched), keep))
        part = jax.tree.map(lambda x, kept=kept: x[kept], part)
        parts.setdefault(row, {}).setdefault(task, []).append(part)

  done = {row: _exact_and_paper(tasks) for row, tasks in parts.items()}
  if variants:
    better = min(variants, key=lambda row: metrics.mean_distance(done[row][DIFFERENT]))
    done[scoring.RANDOM_INIT] = done[better]
  kept = {k: v for k, v in (baselines or {}).items() if not k.startswith(scoring.TRAINED)}
  named = {row: tasks for row, tasks in done.items() if row not in variants}
  return {f'{row}/{task}': p for row, tasks in named.items() for task, p in tasks.items()} | kept


def check(
  open_split: Callable[[str], Source],
  *,
  count: int | None = None,
  size: int = 96,
  test: str = 'test',
  batch_size: int = 16,
  **others: Any,
) -> None:
  """Raises ValueError for what `run` cannot do, from the sizes of the sets alone."""
  features.check_landmarks(open_split, test, protocol='matching')
  source = open_split(test)
  if len(source) < 2:
    raise ValueError(f'matching needs pairs; the split {test!r} has {len(source)} pictures')
  if count is not None and not (2 <= count <= len(source) and count % 2 == 0):
    raise ValueError(f'count={count}: expected an even number of pictures, 2 to {len(source)}')
  if size < 2:
    raise ValueError(f'size={size}: expected a grid of at least 2 positions a side')
  if batch_size < 1:
    raise ValueError(f'batch_size={batch_size}: expected at least 1 pair')


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """Mean errors in pixels of a 70-pixel frame, by row; see `scoring`.

  different, same, with `_low` and `_high`; different_paper, same_paper; where landmarks have
  mirrored partners also left_right_confusion and left_right_confusion_same, in percent.
  """

  def interval(one: Predictions) -> tuple[float, float]:
    return metrics.bootstrap_interval(metrics.normalised_distances(one))

  paper = {name: p for name, p in predictions.items() if name.endswith(PAPER)}
  exact = {name: p for name, p in predictions.items() if name not in paper}
  looked = {name: p for name, p in exact.items() if not name.startswith(scoring.SAME_POSITION)}
  different = {n.split('/')[0]: p for n, p in looked.items() if n.endswith(f'/{DIFFERENT}')}
  same = {name: p for name, p in looked.items() if name.endswith(f'/{SAME}')}
  return (
    scoring.summarise(exact, '', metrics.mean_distance, interval=interval)
    | scoring.summarise(paper, '', metrics.mean_distance)
    | scoring.confusion(different, flip_pairs)
    | scoring.confusion(same, flip_pairs)
  )


def pictures(
  open_split: Callable[[str], Source],
  predictions: Predictions,
  chosen: Sequence[int],
  *,
  task: str,
  margin: int,
  seed: int,
  test: str,
  **options: Any,
) -> dict[str, Any]:
  """Some pairs as they were described, and their points: what `draw.match_sheet` takes.

  Args: predictions: of an exact row. chosen: which of its pairs. task: 'different' or 'same'.
  margin, seed, test, options: as given to `run`.
  """
  source, chosen = open_split(test), list(chosen)
  examples = ([source[int(i) + k] for i in predictions.index[chosen]] for k in (0, 1))
  first, second = (_frames(jax.tree.map(lambda *x: np.stack(x), *given)) for given in examples)
  deviations = {name: options[name] for name in DEVIATIONS}
  warps = random_warps(jax.random.key(seed), first.index // 2, **deviations)
  views = warped_views(first, second, warps, margin=margin)
  exact = slice(predictions.points.shape[1])
  return {
    'sources': np.asarray(views.source.image),
    'targets': np.asarray(getattr(views, task).image),
    'query': np.asarray(views.source.points)[:, exact],
    'matched': predictions.points[chosen],
    'target': predictions.target[chosen],
    'visible': predictions.visible[chosen],
  }


def random_warps(
  rng: PRNGKeyArray, pairs: Int[Array, ' P'], **deviations: float
) -> Float[Array, 'P 3 rows 2']:
  """The coefficients of A's first and second warp and of B's, from `rng` and the pair's number.

  deviations: see `splines.random_coefficients`.
  """
  keys = jax.vmap(functools.partial(jax.random.fold_in, rng))(pairs)
  return jax.vmap(lambda key: splines.random_coefficients(key, 3, **deviations))(keys)


@functools.partial(jax.jit, static_argnames='margin')
def warped_views(
  first: Batch, second: Batch, warps: Float[Array, 'P 3 rows 2'], *, margin: int
) -> Views:
  """The pictures of pairs, warped and then cropped by `margin`.

  Args: first, second: frames [P, S, S, 3] with points, visible and index. warps: `random_warps`.
  """
  same = warped(_doubled(first), warps[:, 0])
  views = warped(same, warps[:, 1]), same, warped(_doubled(second), warps[:, 2])
  return Views(*(_hide_outside(regions.centre_crop(view, margin)) for view in views))


def warped(batch: Batch, coefficients: Float[Array, 'B _ 2']) -> Batch:
  """Warps frames; the first half of the points follows exactly, the second is snapped to pixels.

  Exact points that leave the frame become invisible. Fixture tps_warper.
  """
  height, width = batch.image.shape[1:3]
  exact, snapped = jnp.split(batch.points, 2, axis=1)
  exact = splines.invert(coefficients, exact)
  snapped = splines.nearest_pixel(coefficients, snapped, height=height, width=width)
  image = splines.warp_image(batch.image, coefficients)
  points = jnp.concatenate([exact, snapped], axis=1)
  return _hide_outside(batch._replace(image=image, points=points))


def match_views(
  describer: Describer, views: Views, *, size: int
) -> dict[str, tuple[Float[Array, 'P M 2'], Float[Array, 'P M']]]:
  """`match` of the source's M = 2K points, exact and snapped, in each target, by task."""
  describe = features.compiled(describer.apply, None, size=size)
  source = describe(describer.variables, views.source.image)
  return {
    task: match(
      source,
      describe(describer.variables, getattr(views, task).image),
      views.source.points,
      size=size,
    )
    for task in (DIFFERENT, SAME)
  }


@functools.partial(jax.jit, static_argnames='size')
def match(
  source: Pyramid, target: Pyramid, points: Float[Array, 'B K 2'], *, size: int
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """Where the target looks most like the source at some points, and how much.

  Args:
    source, target: pyramids of as many levels [B, h_l, w_l, C_l].
    points: [B, K, 2], normalised; each is rounded to the nearest position, half to even.
    size: side of the grid of positions, corner-aligned.

  Returns: the position of the largest inner product of hypercolumns, the first of several, and that
  product: the sum over levels of cosines, each level being L2-normalised for itself. A level that
  is zero at a position adds nothing. The greatest number of a level is, without its sign, 0 or from
  1e-16 to 1e17: squares of others vanish or overflow, and their sums are wrong.

  The hypercolumns are not built. An inner product with one source descriptor is linear, so it is
  taken at each level's own resolution and then resized, and norms follow from those of the level
  (`hypercolumn.squared_norm`). Besides its arguments a picture needs at most (6 K + 20) size^2
  numbers and 8 copies of its pyramid, on a CPU: 12 MB for 10 points and a ResNet-50 at 96, whose
  two columns are 283 MB. Raises ValueError that names the argument whose shape differs.
  Specification section 5; fixtures matching, matching_validate.
  """
  for i, (one, other) in enumerate(zip(source, target, strict=True)):
    pair = {f'source[{i}]': (one, 'B h w C'), f'target[{i}]': (other, 'B i j C')}
    shapes.check(**pair, points=(points, 'B K 2'))
  pixels = jnp.round(coords.to_pixels(points, width=size, height=size))
  pixels = jnp.clip(pixels, 0, size - 1).astype(int)
  levels = zip(source, target, strict=True)
  similarity = sum(_cosines(*level, pixels, size=size) for level in levels)
  similarity = similarity.reshape(len(similarity), size * size, -1)
  best = similarity.argmax(1)
  found = jnp.stack([best % size, best // size], axis=-1)
  return coords.to_normalised(found, width=size, height=size), similarity.max(1)


def _cosines(
  source: Float[Array, 'B _ _ C'],
  target: Float[Array, 'B _ _ C'],
  pixels: Int[Array, 'B K 2'],
  *,
  size: int,
) -> Float[Array, 'B {size} {size} K']:
  """For one level: each of the source's descriptors at some pixels with all of the target's."""
  query = hypercolumn.descriptors(source, pixels, size)
  query = query * _inverse_root((query**2).sum(-1))[..., None]
  products = jnp.einsum('bhwc,bkc->bhwk', target, query, precision='float32')
  norm = hypercolumn.squared_norm(target, size)
  return hypercolumn.resize(products, size) * _inverse_root(norm)[..., None]


def _inverse_root(squared: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """1 / sqrt(squared), and 0 for 0."""
  return jnp.where(squared > 0, 1 / jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def _pairs(
  source: Source, pairs: int, *, batch_size: int, spread: Spread
) -> Iterator[tuple[Batch, Batch, Bool[np.ndarray, ' P']]]:
  """The first and the second pictures of pairs, and which pairs are readable and among the `pairs`.

  Only this process's rows of each batch.
  """
  batches = spread.batches(source, batch_size=2 * batch_size)
  with contextlib.closing(batches):
    for batch in itertools.islice(batches, -(-pairs // batch_size)):
      first, second = (jax.tree.map(lambda x, i=i: x[i::2], batch) for i in (0, 1))
      keep = first.valid & second.valid & (first.index < 2 * pairs)
      yield _frames(first._asdict()), _frames(second._asdict()), keep


def _frames(fields: Mapping[str, np.ndarray]) -> Batch:
  batch = Batch(**{name: fields[name] for name in ('image', 'index', 'points', 'visible')})
  return batch._replace(visible=batch.visible.astype(bool))


def _doubled(batch: Batch) -> Batch:
  """Every point twice: one to follow exactly, one to snap. A label outside its frame is hidden."""
  points, visible = (jnp.concatenate([x, x], axis=1) for x in (batch.points, batch.visible))
  return _hide_outside(batch._replace(points=points, visible=visible))


def _hide_outside(batch: Batch) -> Batch:
  """Hides points of the first half, which follow exactly, where they are outside the frame."""
  outside = (jnp.abs(batch.points) > 1).any(-1)
  exact = jnp.arange(batch.points.shape[1]) < batch.points.shape[1] // 2
  return batch._replace(visible=batch.visible & ~(outside & exact))


def _predictions(views: Views, task: str, points: Array, confidence: Array | None) -> Predictions:
  """Exact and snapped points together, still on the devices."""
  target = getattr(views, task)
  visible = views.source.visible & target.visible
  scale = jnp.full_like(views.source.index, PIXEL, jnp.float32)
  return Predictions(points, target.points, visible, scale, views.source.index, confidence)


def _exact_and_paper(tasks: Mapping[str, list[Predictions]]) -> dict[str, Predictions]:
  """Joins the batches of every task, and cuts them into the exact and the `_paper` points."""
  found = {}
  for task, batches in tasks.items():
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *batches)
    by_point = {k: v for k, v in whole._asdict().items() if v is not None and v.ndim > 1}
    for name, half in ((task, 0), (task + PAPER, 1)):
      found[name] = whole._replace(**{k: np.split(v, 2, 1)[half] for k, v in by_point.items()})
  return found

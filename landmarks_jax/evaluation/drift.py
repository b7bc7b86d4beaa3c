"""Whether the label of a surface point stays the same while the object moves, without any fit.

The points of the set are points of one surface, followed through a sequence such as a full turn.
The label of a point in a frame is the unit descriptor at its position; its mean is over the frames
that show it. `drift` is the angle between a point's label and its mean, `spread` that between the
means of two points. Labels that are all alike do not drift either, so the ratio is what counts.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from landmarks_jax import losses, metrics
from landmarks_jax.contracts import Array, Batch, Describer, Predictions
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, nearest, probing, scoring
from landmarks_jax.evaluation.spread import ALONE, Spread
from landmarks_jax.models import heads, hypercolumn, prototypes

METRICS = (
  scoring.Metric('drift_ratio', 'drift of a label, as a share of the spread'),
  scoring.Metric('drift', 'angle between the label of a point and its mean, degrees'),
  scoring.Metric('spread', 'angle between the mean labels of two points, degrees', True),
  scoring.Metric('error', 'distance to where the mean label of a point is found, % of the scale'),
)
NOTHING = 1e-3  # degrees: a spread below it is rounding


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, Predictions]:
  """Where the mean label of every point is found in every frame: 'trained/0', 'random_init/0', ...

  Args:
    random_init: variants of the untrained network; the better one is the row.
    base: the frozen network that the describer is built on; its own row.
    baselines: rows of an earlier run with the same options, reused instead of computed.
    margin: pixels cut from each side of the frame. test: the split, one sequence.
  """
  check(open_split, test=test)
  source = open_split(test)
  side = features.seen_side(source, margin)
  options = {'margin': margin, 'batch_size': batch_size, 'spread': spread}
  describe = functools.partial(_described, source=source, **options)

  return scoring.compare(
    describe,
    lambda described: {'0': find_again(described, side=side)},
    describer,
    random_init=random_init,
    base=base,
    baselines=baselines,
    measure=metrics.inter_ocular_error,
  )


def check(open_split: Callable[[str], Source], *, test: str = 'test', **others: Any) -> None:
  """Raises ValueError for what `run` and `measure` cannot do, from the sizes of the sets alone."""
  names = open_split(test).info.names
  if len(names) < 2:
    raise ValueError(f'drift needs 2 points to tell apart; the split {test!r} has {len(names)}')


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """error, in percent, by row; see `scoring`. Neighbouring frames are alike: it has no interval."""
  return scoring.summarise(predictions, 'error', metrics.inter_ocular_error)


def measure(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  margin: int = 0,
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, float]:
  """drift, spread and drift_ratio by row; of the untrained variants, those of the best ratio.

  Args: see `run`.
  """
  source = open_split(test)
  side = features.seen_side(source, margin)
  options = {'margin': margin, 'batch_size': batch_size, 'spread': spread}
  describe = functools.partial(_described, source=source, **options)

  found = scoring.measured(
    describe,
    lambda described: angles(described, side=side),
    describer,
    random_init=random_init,
    base=base,
    quality=lambda angles: -angles['drift_ratio'],
  )
  return {scoring.score_name(name, row): v for row, of in found.items() for name, v in of.items()}


def angles(described: Batch, *, side: int) -> dict[str, float]:
  """drift and spread, in degrees, and drift_ratio of unit labels in frames of `side` pixels.

  A point counts if at least two frames show it. The ratio of labels that are all alike is 1: those
  of one point are as far apart as those of two. Raises ValueError for fewer than two points.
  """
  labels, mean = point_labels(described, side=side)
  visible = np.asarray(described.visible, bool)  # COCO's 2 would be two frames
  followed = visible.sum(0) > 1
  if followed.sum() < 2:
    raise ValueError(f'{followed.sum()} points are visible in two frames: expected 2 or more')
  away = _angle(labels, mean)[visible & followed]
  apart = _angle(mean[followed, None], mean[None, followed])[~np.eye(followed.sum(), dtype=bool)]
  drift, spread = float(away.mean()), float(apart.mean())
  return {
    'drift': drift,
    'spread': spread,
    'drift_ratio': drift / spread if spread > NOTHING else 1.0,
  }


def point_labels(
  described: Batch, *, side: int
) -> tuple[Float[np.ndarray, 'N K L'], Float[np.ndarray, 'K L']]:
  """The unit label of every point in every frame, and the mean direction for every point.

  described: with `pyramid` of one level, `points` and `visible`. Points that are not visible may
  hold anything.
  """
  visible = np.asarray(described.visible, bool)[..., None]
  points = np.where(visible, described.points, 0)  # nan * 0 would be nan
  labels = hypercolumn.sample(*described.pyramid, points, side=side)
  labels = hypercolumn.unit(np.asarray(labels, np.float64))
  return labels, hypercolumn.unit((labels * visible).sum(0))


def find_again(described: Batch, *, side: int) -> Predictions:
  """The place in every frame where the unit label is nearest to the mean label of each point."""
  _, mean = point_labels(described, side=side)
  kernel = jnp.asarray(mean.T, jnp.float32)
  head = heads.LandmarkHead((kernel,), prototypes.finder(side=side, size=side))
  return probing.predict(head, described)


def _described(describer: Describer, source: Source, **options: Any) -> Batch:
  """The readable frames with one level, of unit labels. options: of `nearest.gather`."""
  described = nearest.gather(describer, source, **options)
  return described._replace(pyramid=(np.asarray(_unit_column(described.pyramid)),))


@jax.jit
def _unit_column(pyramid: tuple[Array, ...]) -> Float[Array, 'B h w L']:
  return losses.unit(prototypes.column(pyramid))


def _angle(
  a: Float[np.ndarray, '*shape L'], b: Float[np.ndarray, '*other L']
) -> Float[np.ndarray, '*angles']:
  """Angle between unit vectors in degrees, accurate also if small; 90 if only one is 0."""
  half = np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))
  return np.degrees(2 * half)

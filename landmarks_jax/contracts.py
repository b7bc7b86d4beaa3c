"""The types that the parts of the project exchange. Read this page first.

Shape letters: B examples of a batch, N those of a whole set (in a contrastive loss, its negatives),
S side of a square frame, H W image, h w feature map, C channels, K landmarks, G groups (of a
BatchNorm, of pictures); a trailing 2 is (x, y). Points are normalised and corner-aligned: -1 is the
centre of the first pixel, +1 the centre of the last (docs/conventions.md).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
PyTree = Any  # of arrays
# Maps [B, h_l, w_l, C_l], coarse to fine, each covering the whole frame.
Pyramid = tuple[Array, ...]


class Batch(NamedTuple):
  """Some examples of a dataset; absent fields are None.

  Exactly one of `image` and `pyramid` is given; a method branches on which at trace time. Points,
  scale and flow are in the frame of `image`; `regions.centre_crop` is the only place that changes
  frames.
  """

  image: Array | None = None  # uint8 [B, S, S, 3], the full square frame
  valid: Array | None = None  # bool [B]; False is padding
  index: Array | None = None  # int32 [B], the example's number in its dataset
  points: Array | None = None  # float32 [B, K, 2], normalised
  visible: Array | None = None  # bool [B, K]
  scale: Array | None = None  # float32 [B], the error's normaliser in the unit of points
  label: Array | None = None  # int32 [B]
  attributes: Array | None = None  # bool [B, A]
  next: Array | None = None  # uint8 [B, S, S, 3]
  flow: Array | None = None  # float32 [B, S, S, 2], (dx, dy) pixels: image(u) is next(u + flow(u))
  flow_valid: Array | None = None  # bool [B, S, S]
  pyramid: Pyramid | None = None  # frozen features computed once; bfloat16 unless more is needed


class Pair(NamedTuple):
  """Two pictures of the same points, however obtained: image(u) matches next(u + flow(u))."""

  image: Array  # [B, S, S, 3]
  next: Array  # [B, S, S, 3]
  flow: Array  # float [B, S, S, 2], (dx, dy) pixels
  flow_valid: Array  # bool [B, S, S]


class Predictions(NamedTuple):
  """What a protocol gathers once and `metrics` scores once; NumPy arrays."""

  points: np.ndarray  # [N, K, 2]
  target: np.ndarray  # [N, K, 2]
  visible: np.ndarray  # bool [N, K]
  scale: np.ndarray  # [N], in the unit of points
  index: np.ndarray  # int [N]
  confidence: np.ndarray | None = None  # [N, K]


class Method(NamedTuple):
  """A learner as pure functions. `step` counts from 0, before the increment."""

  # (rng, batch) -> (params, aux): arrays of plain dtypes, no typed keys. `batch` is one frame, and
  # has `image` alone.
  init: Callable
  # (params, aux, batch, rng, step) -> (scalar, (aux, metrics)). A step keeps the structure, shapes
  # and dtypes of params and aux. Metrics are scalars by name; the names loss, grad_norm, skipped
  # and learning_rate are taken.
  loss: Callable
  # (params, aux, image, size) -> Pyramid; image [B, S, S, 3], 0..255 as uint8 or float32, at
  # network size
  describe: Callable
  # (params, aux, step) -> aux; moving averages live here
  after_update: Callable = lambda params, aux, step: aux
  landmarks: Callable | None = None  # (params, aux, batch) -> (points [B, K, 2], confidence [B, K])
  calibrate: Callable | None = None  # (params, aux, batch, rng, n) -> aux; exact running statistics
  views: Callable | None = None  # (batch, rng) -> [V, B, s, s, 3] 0..255; what training sees
  # (params, aux, image, points) -> [B, S, S, 3] 0..255; painted with its landmarks at `points`
  paint: Callable | None = None


class TrainState(NamedTuple):
  """All that training changes: `params` is what the optimiser sees, `aux` is everything else."""

  step: Array  # int32 []
  params: PyTree
  aux: PyTree
  opt: PyTree


class Describer(NamedTuple):
  """All that evaluation knows about a method, or about any backbone.

  `apply(variables, image, size) -> Pyramid`; variables are always an argument of the compiled
  function. A method whose values depend on their grid, such as the projection, describes on `size`
  x `size` positions, or on its own number for None; others ignore it. Where landmarks are found
  without labels, `landmarks(variables, image) -> (points [B, K, 2], confidence [B, K])`; where they
  can be moved, `paint(variables, image, points)` gives the picture with its landmarks at `points`,
  or at its own for None. Points and pictures are at network size.
  """

  variables: PyTree
  apply: Callable
  landmarks: Callable | None = None
  paint: Callable | None = None

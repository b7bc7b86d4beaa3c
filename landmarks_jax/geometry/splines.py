"""Thin-plate splines: random smooth warps, one definition for points and for pictures.

Position u of the OUTPUT looks at `apply(coefficients, u)` of the INPUT. Pictures are sampled there
(`warp_image`), and points of the input appear where `invert` finds them. Normalised positions are

  x' = sum_k weight_k U(|u - control_k|^2) + offset + u . affine,   U(D) = D log(D + 1e-5)

on a grid of control points. `coefficients` [B, side * side + 3, 2] are the weights in the order of
`control_grid`, then the rows that multiply 1, x and y. They are drawn (DVE, ICCV 2019;
specification section 5; fixtures tps_basics, tps_warper, tps_variants), or solved for so that the
control points move to given places (`interpolating`, for lmdis).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num, PRNGKeyArray

from landmarks_jax import shapes
from landmarks_jax.contracts import Array
from landmarks_jax.geometry import coords, sampling

AFFINE_ROWS = 3
EPSILON = 1e-5  # keeps the logarithm finite on a control point

LONGEST_STEP = 0.3  # of Newton's method on each axis: near a fold it would leap far away
TOLERANCE = 1e-5  # of a solution, normalised: 5e-4 pixels of 96
NOWHERE = 10.0


def control_grid(*, side: int = 10) -> Float[Array, '{side*side} 2']:
  """The (x, y) of the control points: a grid from corner to corner, row by row."""
  return coords.pixel_grid(side, side).reshape(-1, 2)


def basis(points: Float[Array, '*shape 2'], *, side: int = 10) -> Float[Array, '*shape rows']:
  """The terms that coefficients weight at each point: U for every control point, then 1, x and y.

  Args: points: [..., 2], normalised. side: of the control grid. Returns [..., side * side + 3].
  """
  points = jnp.asarray(points)
  apart = points[..., None, :] - control_grid(side=side).astype(points.dtype)
  squared = (apart**2).sum(-1)
  bending = squared * jnp.log(squared + EPSILON)
  return jnp.concatenate([bending, jnp.ones_like(points[..., :1]), points], axis=-1)


def similarity(angle: Float[Array, ' B'], size: Float[Array, ' B']) -> Float[Array, 'B 2 2']:
  """Matrices M that scale by `size` and turn by `angle`, in radians, from x towards y: M u.

  Coefficients of a warp multiply from the other side: u . M turns back, from y towards x.
  """
  cosine, sine = size * jnp.cos(angle), size * jnp.sin(angle)
  return jnp.stack([jnp.stack([cosine, -sine], -1), jnp.stack([sine, cosine], -1)], axis=1)


def coefficients_from_draws(
  weights: Float[Array, 'B n 2'],
  chosen: Bool[Array, 'B n 2'],
  affine: Float[Array, 'B 4'],
  *,
  warp: float,
  subset: float,
  translation: float,
  scale: float,
  rotation: float,
) -> Float[Array, 'B rows 2']:
  """Standard normal draws -> coefficients of warps.

  Args:
    weights: [B, n, 2], one draw for each coordinate of a control point.
    chosen: [B, n, 2], which of them have the deviation `subset` instead of `warp`.
    affine: [B, 4], draws for the rotation, the scale, and the translation in x and y.
    warp, subset, translation, scale, rotation: see `random_coefficients`.

  Returns [B, n + 3, 2]. Fixture tps_basics.
  """
  bending = jnp.where(chosen, subset, warp) * weights
  angle = jnp.deg2rad(rotation * affine[:, 0])
  turn = similarity(angle, 1 + scale * affine[:, 1])
  return jnp.concatenate([bending, translation * affine[:, None, 2:], turn], axis=1)


def random_coefficients(
  rng: PRNGKeyArray,
  count: int,
  *,
  side: int = 10,
  warp: float = 5e-4,
  subset: float = 0.0,
  translation: float = 0.0,
  scale: float = 0.0,
  rotation: float = 0.0,
) -> Float[Array, '{count} {side*side+3} 2']:
  """Coefficients of random warps, drawn and not solved for.

  Args:
    count: number of warps. side: of the control grid.
    warp: standard deviation of the weights.
    subset: that of a random half of their coordinates; at 0 this half does not bend at all, as in
      the published warper of single pictures.
    translation, scale: standard deviations of the offset, and of the scale around 1.
    rotation: standard deviation in degrees.

  The paper's matching draws 5e-4, 5e-3, .05, .05, 2.5; its few-shot augmentation 5e-4, 0, .02, .02,
  2; DVE 1e-3, 1e-2, .1, .1, 5.
  """
  rng_weights, rng_chosen, rng_affine = jax.random.split(rng, 3)
  shape = (count, side * side, 2)
  return coefficients_from_draws(
    jax.random.normal(rng_weights, shape),
    jax.random.bernoulli(rng_chosen, shape=shape),
    jax.random.normal(rng_affine, (count, 4)),
    warp=warp,
    subset=subset,
    translation=translation,
    scale=scale,
    rotation=rotation,
  )


def interpolating(displacements: Float[Array, 'B n 2']) -> Float[Array, 'B rows 2']:
  """Coefficients of the smoothest warps that move every control point by its displacement.

  Args: displacements: [B, side * side, 2], normalised, in the order of `control_grid`.
  Returns [B, side * side + 3, 2]; displacements that one affine map explains cause no bending.
  Raises ValueError if their number is not a square.
  """
  points = displacements.shape[1]
  side = math.isqrt(points)
  if side < 2 or side * side != points:
    raise ValueError(
      f'displacements: expected [B, side * side, 2], such as 49 for a control grid of 7; got shape '
      f'{tuple(displacements.shape)}'
    )
  dtype = jnp.result_type(displacements, jnp.float32)
  solution = jnp.asarray(_solution(side), dtype)
  # The grid itself is the identity. Solved for, its large terms would cancel only to rounding.
  change = jnp.einsum('rn,bnc->brc', solution, displacements, precision='highest')
  return change.at[:, -2:].add(jnp.eye(2, dtype=dtype))


@functools.cache
def _solution(side: int) -> Float[np.ndarray, 'rows n']:
  """The matrix from values at the control points to coefficients, the same for all warps."""
  line = np.linspace(-1, 1, side)
  grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
  squared = ((grid[:, None] - grid) ** 2).sum(-1)
  affine = np.concatenate([np.ones((len(grid), 1)), grid], axis=1)
  bending = squared * np.log(squared + EPSILON)
  system = np.block([[bending, affine], [affine.T, np.zeros((AFFINE_ROWS, AFFINE_ROWS))]])
  return np.linalg.inv(system)[:, : len(grid)]


def _control_side(coefficients: Float[Array, 'B rows 2']) -> int:
  """The side of the control grid that this number of rows belongs to."""
  rows = coefficients.shape[1]
  side = math.isqrt(max(rows - AFFINE_ROWS, 0))
  if side < 2 or side * side + AFFINE_ROWS != rows:
    raise ValueError(
      f'coefficients: expected [B, side * side + 3, 2], such as 103 rows for a control grid of 10; '
      f'got shape {tuple(coefficients.shape)}'
    )
  return side


def apply(
  coefficients: Float[Array, 'B rows 2'], points: Float[Array, 'B *grid 2']
) -> Float[Array, 'B *grid 2']:
  """Where positions of the output look in the input.

  Args: coefficients: [B, side * side + 3, 2]. points: [B, ..., 2], normalised (x, y).
  Computed in at least float32. Raises ValueError for a wrong number of rows, and that names the
  argument whose shape differs.
  """
  shapes.check(coefficients=(coefficients, 'B rows 2'), points=(points, 'B *grid 2'))
  flat = points.reshape(points.shape[0], -1, 2)
  dtype = jnp.result_type(coefficients, points, jnp.float32)
  terms = basis(jnp.asarray(flat, dtype), side=_control_side(coefficients))
  # Accelerators would round positions to bfloat16 otherwise.
  out = jnp.einsum('bpk,bkc->bpc', terms, coefficients.astype(dtype), precision='highest')
  return out.reshape(points.shape)


def pixel_positions(
  coefficients: Float[Array, 'B rows 2'], *, height: int, width: int
) -> Float[Array, 'B {height} {width} 2']:
  """Where every pixel of the output looks in the input: `apply` on the pixel grid.

  One matrix product, since the basis is the same for all warps.
  """
  side = _control_side(coefficients)
  dtype = jnp.result_type(coefficients, jnp.float32)
  terms = basis(coords.pixel_grid(height, width).astype(dtype), side=side)
  return jnp.einsum('yxk,bkc->byxc', terms, coefficients.astype(dtype), precision='highest')


def invert(
  coefficients: Float[Array, 'B rows 2'], points: Float[Array, 'B P 2'], *, iterations: int = 8
) -> Float[Array, 'B P 2']:
  """Where points of the input appear in the output: solves apply(coefficients, u) = points.

  Args: points: [B, P, 2], normalised; may be outside the frame. iterations: Newton steps, from the
  control point that looks nearest.

  Exact to rounding wherever the point appears in the output frame; where a warp folds, one of the
  places. A point that appears nowhere, as some near the border do, is returned as NOWHERE on both
  axes: outside every frame, like points that merely leave it.
  """
  dtype = jnp.result_type(coefficients, points, jnp.float32)
  coefficients, points = jnp.asarray(coefficients, dtype), jnp.asarray(points, dtype)
  side = _control_side(coefficients)

  def step(_: Int[Array, ''], u: Float[Array, 'B P 2']) -> Float[Array, 'B P 2']:
    position, slope = jax.linearize(functools.partial(apply, coefficients), u)
    along_x, along_y = (slope(jnp.zeros_like(u).at[..., axis].set(1)) for axis in (0, 1))
    missing = points - position
    newton = jnp.stack([_cross(missing, along_y), _cross(along_x, missing)], axis=-1)
    newton /= _cross(along_x, along_y)[..., None]
    return u + jnp.clip(newton, -LONGEST_STEP, LONGEST_STEP)

  start = nearest_pixel(coefficients, points, height=side, width=side)
  found = jax.lax.fori_loop(0, iterations, step, start)
  error = jnp.abs(apply(coefficients, found) - points).max(-1, keepdims=True)
  return jnp.where(error < TOLERANCE, found, NOWHERE)


def _cross(a: Float[Array, '*shape 2'], b: Float[Array, '*shape 2']) -> Float[Array, '*shape']:
  return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def nearest_pixel(
  coefficients: Float[Array, 'B rows 2'], points: Float[Array, 'B P 2'], *, height: int, width: int
) -> Float[Array, 'B P 2']:
  """The pixel of the output that looks nearest to each point of the input, as a normalised point.

  The published way to move landmarks: it rounds them to whole pixels, and to the border where they
  leave the frame. `invert` is exact. Raises ValueError where the batches differ.
  """
  shapes.check(coefficients=(coefficients, 'B rows 2'), points=(points, 'B P 2'))
  seen = pixel_positions(coefficients, height=height, width=width).reshape(len(points), 1, -1, 2)
  nearest = ((seen - points[:, :, None]) ** 2).sum(-1).argmin(-1)
  return coords.pixel_grid(height, width).reshape(-1, 2).astype(seen.dtype)[nearest]


def warp_image(
  image: Num[Array, 'B H W C'], coefficients: Float[Array, 'B rows 2']
) -> Float[Array, 'B H W C']:
  """Warped pictures: bilinear samples of the input where each output pixel looks; zero outside.

  Args: image: [B, H, W, C], bytes or floats. coefficients: [B, side * side + 3, 2].
  """
  height, width = image.shape[1:3]
  image = jnp.asarray(image, jnp.result_type(image, jnp.float32))
  return sampling.bilinear(image, pixel_positions(coefficients, height=height, width=width))

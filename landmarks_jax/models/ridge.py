"""Landmarks from frozen features in closed form: ridge regression of heat maps, read with priors.

`fit_ridge` learns, `predict_ridge` and `look_ridge` find landmarks. The other functions are its
steps: standardised features, normal equations by fold, heat maps of held-out pictures, the prior of
positions, and the choice among strengths, sharpnesses and corrections on those pictures.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.geometry import coords
from landmarks_jax.models import hypercolumn
from landmarks_jax.models.heads import LandmarkHead


class HeldOut(NamedTuple):
  """How a head does on labelled pictures that were held out of its fit."""

  rows: np.ndarray  # int [M], of the arrays given to the fit
  points: np.ndarray  # [M, K, 2]
  evidence: np.ndarray  # [M, K, E], see `doubt`


class RidgeFit(NamedTuple):
  """A fitted head, and how fits without a picture do on that picture."""

  head: LandmarkHead
  held_out: HeldOut | None  # None where nothing was held out, as with one label


class RidgeVariables(NamedTuple):
  """Linear heat maps and how they are read; see `predict_ridge`."""

  kernels: tuple[Array, ...]  # per level [C_l, K]; a constant per landmark would change nothing
  log_prior: Array  # [h, w, K], of the labels' own positions
  positions: Array  # [h, w, 2], corner-aligned
  mean_shape: Array  # [K, 2]
  sharpness: Array  # []
  # [2K, 2K], of all landmarks' offsets from the mean shape; 0 predicts that shape
  correction: Array


# Candidates for the choice on held-out labels. Strengths of the ridge are in units of the Gram
# matrix's mean eigenvalue, sharpness in units of the heat's deviation, strengths of the correction
# in units of the labels' own scatter. Few labels choose among few candidates, none sharper than
# their number: the best of many candidates is the luckiest, and projections of few channels leave
# much to luck.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
SHARPNESSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
CORRECTIONS = (np.inf, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
FEW_STRENGTHS = (1e-1, 1.0)
ONE_STRENGTH, ONE_SHARPNESS = 10.0, 0.5  # one label leaves nothing to choose by
SAFE_STRENGTH, SAFE_SHARPNESS = 1.0, 0.7  # two leave little: others must be better than these
FREE_GAIN = 0.25  # of the initial correction, for offsets that no similarity of the shape explains
FEWEST = 8  # labelled pictures needed to choose among all strengths of the ridge
STIFFNESS = 10.0  # minimum of a correction's strength times the number of labels it is fitted to
CAUTION = 0.5  # standard errors by which a choice must be better than the safe one
FOLDS = 10
BLOCK = 64  # pictures whose features are in float32 at once
LEAST_SPREAD = 1e-3  # smaller distances are no evidence of anything; normalised


def predict_ridge(variables: RidgeVariables, pyramid: Pyramid) -> Float[Array, 'B K 2']:
  """Landmarks from linear heat maps under the labels' own position prior.

  mean + correction(E[u] - mean), with p(u) ~ prior(u) * exp(sharpness * heat(u)) over positions u.
  The correction is linear in all landmarks at once, so that clear ones help to place doubtful ones.
  """
  return look_ridge(variables, pyramid)[0]


def look_ridge(
  variables: RidgeVariables, pyramid: Pyramid
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K 3']]:
  """`predict_ridge`, and the evidence of doubt about every landmark: `doubt`."""
  height, width = variables.log_prior.shape[:2]
  heat = hypercolumn.project(pyramid, variables.kernels, (height, width))
  logits = variables.sharpness * heat + variables.log_prior
  logits = logits.reshape(len(heat), height * width, -1)
  grid = variables.positions.reshape(-1, 2)
  expected, spread = mean_and_spread(logits, grid)
  offset = (expected - variables.mean_shape).reshape(len(expected), -1)
  # In full precision, which accelerators do not give by default: these are positions.
  moved = jnp.matmul(offset, variables.correction, precision='float32')
  points = variables.mean_shape + moved.reshape(expected.shape)
  return points, doubt(points, expected, spread)


def doubt(
  points: Float[Array, 'B K 2'], expected: Float[Array, 'B K 2'], spread: Float[Array, 'B K']
) -> Float[Array, 'B K 3']:
  """Evidence that landmarks are wrong, as logarithms of distances.

  How wide a landmark's own heat map is, how far the others moved it from there, and how far they
  moved the picture's landmarks on average.
  """
  moved = jnp.linalg.norm(points - expected, axis=-1)
  together = jnp.broadcast_to(moved.mean(-1, keepdims=True), moved.shape)
  return jnp.log(jnp.stack([spread, moved, together], axis=-1) + LEAST_SPREAD)


def fit_ridge(
  pyramid: Pyramid,
  points: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  valid: Bool[Array, ' B'],
  *,
  side: int,
  group: Int[Array, ' B'] | None = None,
  flip_pairs: Sequence[tuple[int, int]] = (),
  size: int = 16,
  spread: float = 0.07,
  held_out: int = 256,
) -> RidgeFit:
  """Landmarks from frozen features in closed form: ridge regression of Gaussian heat maps.

  Args:
    pyramid: levels [B, h_l, w_l, C_l] of all labelled pictures, described at `side` pixels.
    points, visible: labels, normalised. An invisible landmark's heat map is zero everywhere.
    valid: False for padding.
    group: equal numbers for the copies of one picture, which are held out together; None: all are
      different pictures. The first of each group is the picture itself.
    flip_pairs: landmarks that are each other's mirror image, if a mirrored picture is as likely as
      the original: the prior is then that of the labels and their mirror images. Heat maps are
      learnt from mirrored copies only if the caller includes them among the pictures.
    size: side of the heat maps. spread: sd of the Gaussians, normalised.
    held_out: at most this many pictures are predicted by fits without them, to choose the strength
      of the ridge and the sharpness of the softmax, and to fit the linear map by which the
      landmarks correct each other; 0 chooses nothing.

  Everything is chosen on the labels, except that one label leaves nothing to choose by. The
  predictions for held-out pictures are those that it chose by, so they are as good as it could
  choose, not better; they cost nothing more. Raises ValueError for a landmark that no picture
  shows, for features that are not finite, and for what `check_maps` refuses.
  """
  check_maps(size=size, spread=spread)
  keep = np.flatnonzero(np.asarray(valid))
  visible = np.asarray(visible)[keep].astype(bool)  # COCO's 2 would weigh twice
  points = np.where(visible[..., None], np.asarray(points)[keep], 0).astype(np.float64)
  group = np.arange(len(keep)) if group is None else np.asarray(group)[keep]
  first, group = np.unique(group, return_index=True, return_inverse=True)[1:]
  _check_shown(visible, pictures=len(first))
  pyramid = tuple(np.asarray(level) for level in pyramid)
  if len(keep) < len(pyramid[0]):
    pyramid = tuple(level[keep] for level in pyramid)  # a copy: only where something is left out
  positions = coords.edges_to_corners(coords.cell_centres(size, size), side=side)
  grid = np.asarray(positions, np.float64).reshape(-1, 2)
  columns = Columns(pyramid, size)

  def targets(rows: Int[np.ndarray, ' n']) -> Float[np.ndarray, 'n P K']:
    return _gaussians(points[rows], visible[rows], grid, spread)

  fold = group % FOLDS
  parts = [
    normal_equations(columns, targets, np.flatnonzero(fold == f)) for f in range(fold.max() + 1)
  ]
  labels = with_mirrored(points[first], visible[first], flip_pairs)
  log_prior, mean_shape = position_prior(*labels, grid)
  choice = None
  if len(first) > 1 and held_out:
    pictures = np.linspace(0, len(first) - 1, min(held_out, len(first))).astype(int)
    strengths = STRENGTHS if len(first) >= FEWEST else FEW_STRENGTHS
    heat = held_out_heat(columns, parts, fold[first], first, pictures, strengths)
    choice = choose(heat, strengths, *labels, pictures, grid)
  if choice is None:
    choice, judged = Choice(ONE_STRENGTH, ONE_SHARPNESS, first_correction(mean_shape)), None
  else:
    judged = HeldOut(keep[first[pictures]], choice.points, choice.evidence)
  whole = _total(parts)
  weights = whole.solve(choice.strength)
  variables = RidgeVariables(
    kernels=columns.kernels(weights),
    log_prior=jnp.asarray(log_prior.reshape(size, size, -1), float),
    positions=positions,
    mean_shape=jnp.asarray(mean_shape, float),
    sharpness=jnp.asarray(choice.sharpness / whole.deviation(weights), float),
    correction=jnp.asarray(choice.correction, float),
  )
  return RidgeFit(LandmarkHead(variables, predict_ridge), judged)


def check_maps(*, size: int = 2, spread: float = 1.0) -> None:
  """Raises ValueError for heat maps that `fit_ridge` cannot learn; what is not given is right."""
  if size < 2:
    raise ValueError(f'size={size}: expected heat maps of at least 2 positions a side')
  if not 0 < spread < np.inf:
    raise ValueError(f'spread={spread}: expected a positive standard deviation of the heat maps')


def _check_shown(visible: Bool[np.ndarray, 'n K'], *, pictures: int) -> None:
  """Raises ValueError for a landmark that is visible nowhere."""
  if not visible.any(0).all():
    never = np.flatnonzero(~visible.any(0)).tolist()
    raise ValueError(
      f'landmarks {never} are not visible in any of the {pictures} labelled pictures'
    )


def _gaussians(
  points: Float[np.ndarray, 'n K 2'],
  visible: Bool[np.ndarray, 'n K'],
  grid: Float[np.ndarray, 'P 2'],
  spread: float,
) -> Float[np.ndarray, 'n P K']:
  """The heat maps to be learnt: 1 at a landmark; zero everywhere for one that is invisible."""
  maps = np.exp(-((grid[:, None] - points[:, None]) ** 2).sum(-1) / (2 * spread**2))
  return (maps * visible[:, None]).astype(np.float32)


class Columns:
  """Standardised hypercolumns at size x size = P positions, a constant as their last channel.

  pyramid: levels [B, h_l, w_l, C_l]. Each channel is standardised over all pictures and positions
  of its level. The constant is one more level, of one cell and one channel.

  Columns are not built. Those of level l are bases[l] times its coefficients, where bases[l]
  [P, R_l] has orthonormal columns: R_l is the number of the level's cells, or P if that is smaller.
  Sums over positions are thus sums over coefficients, of which most levels have fewer.
  """

  def __init__(self, pyramid: tuple[np.ndarray, ...], size: int) -> None:
    self.pyramid, self.size = pyramid, size
    self.mean, deviation = zip(*map(_mean_and_deviation, pyramid), strict=True)
    self.inverse = [1 / (each + 1e-6) for each in deviation]
    sides = [level.shape[1:3] for level in pyramid] + [(1, 1)]
    factors = [_resize_factors(*each, size) for each in sides]
    self.bases, self._from_cells = zip(*factors, strict=True)
    stops = np.cumsum([0, *(level.shape[-1] for level in pyramid), 1]).tolist()
    self.parts = [slice(*ends) for ends in itertools.pairwise(stops)]  # of a column, by level

  @property
  def channels(self) -> int:
    """Channels of a column, including its constant."""
    return self.parts[-1].stop

  def coefficients(self, rows: Int[np.ndarray, ' n']) -> list[Float[np.ndarray, '_ n _']]:
    """Of some pictures: float32 [R_l, n, C_l] for every level.

    Pictures come second, so that one large product maps those of all, not a small one for each.
    """
    levels = [
      (level[rows].astype(np.float32) - mean) * inverse
      for level, mean, inverse in zip(self.pyramid, self.mean, self.inverse, strict=True)
    ]
    levels.append(np.ones((len(rows), 1, 1, 1), np.float32))
    return [self._reduced(*each) for each in zip(levels, self._from_cells, strict=True)]

  def _reduced(
    self, level: Float[np.ndarray, 'n h w C'], from_cells: Float[np.ndarray, 'R cells'] | None
  ) -> Float[np.ndarray, 'R n C']:
    """The coefficients of a standardised level."""
    if from_cells is None:
      level = np.asarray(hypercolumn.resize(level, self.size))
    cells = level.reshape(len(level), -1, level.shape[-1]).swapaxes(0, 1)
    return np.ascontiguousarray(cells) if from_cells is None else np.tensordot(from_cells, cells, 1)

  def project(
    self, coefficients: Sequence[Float[np.ndarray, '_ n _']], weights: Float[np.ndarray, 'C K']
  ) -> Float[np.ndarray, 'n P K']:
    """Columns @ weights, each level at its own resolution."""
    weights = weights.astype(np.float32)
    levels = zip(self.bases, coefficients, self.parts, strict=True)
    maps = [np.tensordot(basis, np.tensordot(x, weights[p], 1), 1) for basis, x, p in levels]
    return sum(maps).swapaxes(0, 1)

  def kernels(self, weights: Float[np.ndarray, 'C K']) -> tuple[Array, ...]:
    """Weights of the standardised columns -> kernels for the raw levels, without the constant."""
    raw = weights[:-1] * np.concatenate(self.inverse)[:, None]
    return hypercolumn.split_rows(jnp.asarray(raw, float), [len(m) for m in self.mean])


def _resize_factors(
  height: int, width: int, size: int
) -> tuple[Float[np.ndarray, 'P R'], Float[np.ndarray, 'R cells'] | None]:
  """An orthonormal basis of resized maps, and a map's cells -> its coefficients there.

  Their product is the matrix of `hypercolumn.resize`. With P cells or more the basis is the
  positions themselves, and None: resizing gives the coefficients, faster than a full matrix.
  """
  cells, positions = height * width, size**2
  if cells >= positions:
    return np.eye(positions, dtype=np.float32), None
  each = np.eye(cells, dtype=np.float32).reshape(cells, height, width, 1)
  resized = np.asarray(hypercolumn.resize(each, size), np.float64).reshape(cells, positions)
  basis, from_cells = np.linalg.qr(resized.T)
  return basis.astype(np.float32), from_cells.astype(np.float32)


def _mean_and_deviation(
  level: Float[np.ndarray, 'B h w C'],
) -> tuple[Float[np.ndarray, ' C'], Float[np.ndarray, ' C']]:
  """Per channel, in blocks: a float64 copy of a whole level would be the largest array here."""
  total, squares = 0.0, 0.0
  for start in range(0, len(level), BLOCK):
    wide = level[start : start + BLOCK].astype(np.float64)
    total, squares = total + wide.sum((0, 1, 2)), squares + (wide * wide).sum((0, 1, 2))
  count = level.size / level.shape[-1]
  mean = total / count
  if not np.isfinite(mean).all():
    raise ValueError('the features of some pictures are not finite: did the training diverge?')
  deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
  return mean.astype(np.float32), deviation.astype(np.float32)


class NormalEquations(NamedTuple):
  """Of a ridge regression from columns X of some pictures to their targets Y; they can be added."""

  gram: Float[np.ndarray, 'C C']  # X' X
  moments: Float[np.ndarray, 'C K']  # X' Y
  count: int  # rows of X: pictures times positions

  def solve(self, strength: float) -> Float[np.ndarray, 'C K']:
    """The weights; strength is in units of the mean eigenvalue."""
    import scipy.linalg  # late: heavy

    penalty = strength * np.trace(self.gram) / len(self.gram)
    damped = self.gram + penalty * np.eye(len(self.gram))
    return scipy.linalg.solve(damped, self.moments, assume_a='pos')

  def deviation(self, weights: Float[np.ndarray, 'C K']) -> float:
    """The standard deviation of X @ weights over rows, as a root mean square over landmarks."""
    mean = self.gram[-1] @ weights / self.count  # the last channel is the constant
    square = ((self.gram @ weights) * weights).sum(0) / self.count
    return float(np.sqrt(np.maximum(square - mean**2, 1e-12).mean()))


def normal_equations(
  columns: Columns,
  targets: Callable[[Int[np.ndarray, ' n']], Float[np.ndarray, 'n P K']],
  rows: Int[np.ndarray, ' m'],
) -> NormalEquations:
  """The normal equations of some pictures; rows: their numbers, at least one.

  targets: of some rows. Those of all pictures at once would often be larger than the pyramid.

  The columns of levels l and m are Q_l G_l and Q_m G_m, with orthonormal bases Q and coefficients
  G. Their block of X' X is therefore G_l' (Q_l' Q_m) G_m, or G_l' G_l where they are the same: a
  sum over the coefficients of the smaller level, not over all positions.
  """
  bases, parts = columns.bases, columns.parts
  smaller_first = sorted(range(len(bases)), key=lambda level: bases[level].shape[1])
  pairs = itertools.combinations(smaller_first, 2)
  overlaps = {(a, b): bases[a].T @ bases[b] for a, b in pairs}
  gram, moments, count = np.zeros(2 * [columns.channels]), 0.0, 0
  for start in range(0, len(rows), BLOCK):
    some = rows[start : start + BLOCK]
    levels, y = columns.coefficients(some), targets(some)
    # Blocks in float32, their sum in float64: the small eigenvalues matter.
    found = [_summed(g, np.tensordot(q, y, (0, 1))) for g, q in zip(levels, bases, strict=True)]
    moments = moments + np.concatenate(found).astype(np.float64)
    for g, part in zip(levels, parts, strict=True):
      gram[part, part] += _summed(g, g)
    for (a, b), overlap in overlaps.items():
      gram[parts[a], parts[b]] += _summed(levels[a], np.tensordot(overlap, levels[b], 1))
    count += y.shape[0] * y.shape[1]
  for a, b in overlaps:
    gram[parts[b], parts[a]] = gram[parts[a], parts[b]].T
  return NormalEquations(gram, moments, count)


def _summed(
  x: Float[np.ndarray, 'R n C'], y: Float[np.ndarray, 'R n D']
) -> Float[np.ndarray, 'C D']:
  """x' y, over the coefficients of all pictures."""
  return x.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1])


def _total(parts: Sequence[NormalEquations], without: int | None = None) -> NormalEquations:
  """The equations of all pictures, or of all but those of one fold."""
  kept = [part for f, part in enumerate(parts) if f != without]
  return NormalEquations(*map(sum, zip(*kept, strict=True)))


def held_out_heat(
  columns: Columns,
  parts: Sequence[NormalEquations],
  fold: Int[np.ndarray, ' n'],
  first: Int[np.ndarray, ' n'],
  pictures: Int[np.ndarray, ' M'],
  strengths: Sequence[float],
) -> Float[np.ndarray, 'S M P K']:
  """Heat maps of some pictures for each strength of the ridge, fitted without their folds.

  Args:
    parts: the equations of every fold. fold: of every picture. first: its row in the columns.
    pictures: the numbers of those to be predicted. strengths: as in `NormalEquations.solve`.

  Returns: [S, M, P, K], in units of the standard deviation over the pictures that were fitted.
  """
  shape = len(strengths), len(pictures), columns.size**2, parts[0].moments.shape[1]
  heat = np.empty(shape, np.float32)
  for f in np.unique(fold[pictures]).tolist():
    rest, mine = _total(parts, without=f), np.flatnonzero(fold[pictures] == f)
    levels = columns.coefficients(first[pictures[mine]])
    for s, strength in enumerate(strengths):
      weights = rest.solve(strength)
      heat[s, mine] = columns.project(levels, weights / rest.deviation(weights))
  return heat


def with_mirrored(
  points: Float[np.ndarray, 'n K 2'],
  visible: Bool[np.ndarray, 'n K'],
  flip_pairs: Sequence[tuple[int, int]],
) -> tuple[Float[np.ndarray, 'V n K 2'], Bool[np.ndarray, 'V n K']]:
  """The labels alone (V = 1), or also their mirror images if there are flip pairs (V = 2)."""
  versions = [(points, visible)]
  if len(flip_pairs):
    versions.append(coords.mirrored(points, visible, flip_pairs))
  points, visible = zip(*versions, strict=True)
  return np.stack(points), np.stack(visible)


def position_prior(
  points: Float[np.ndarray, 'V n K 2'],
  visible: Bool[np.ndarray, 'V n K'],
  grid: Float[np.ndarray, 'P 2'],
  *,
  without: int | None = None,
) -> tuple[Float[np.ndarray, 'P K'], Float[np.ndarray, 'K 2']]:
  """Log density of a Gaussian per landmark at every position, and the mean shape.

  Covariances are shrunk towards the one pooled over landmarks with the weight of four labels, and
  that one towards a sd of .2 with the weight of one, so that a handful of labels gives a broad
  prior, not a wrong one. The V versions of a label share its weight.
  """
  weight = visible / len(visible)
  if without is not None:
    weight[:, without] = 0
  total = weight.sum((0, 1))
  mean = np.einsum('vnk,vnkc->kc', weight, points) / np.where(total, total, 1)[:, None]
  count = np.maximum(total, 1)
  off = points - mean
  scatter = np.einsum('vnk,vnki,vnkj->kij', weight, off, off)
  eye = np.eye(2)
  pooled = (scatter.sum(0) + 0.04 * eye) / ((count - 1).sum() + 1)
  covariance = (scatter + 4 * pooled) / (count + 3)[:, None, None] * (1 + 1 / count)[:, None, None]
  away = grid[:, None] - mean
  precision = np.linalg.inv(covariance + 0.03**2 * eye)
  return -0.5 * np.einsum('pki,kij,pkj->pk', away, precision, away), mean


class Choice(NamedTuple):
  """What was chosen on the held-out pictures, and the predictions for them, if there are any."""

  strength: float
  sharpness: float
  correction: Float[np.ndarray, '2*K 2*K']
  points: Float[np.ndarray, 'M K 2'] | None = None
  evidence: Float[np.ndarray, 'M K E'] | None = None


def choose(
  heat: Float[np.ndarray, 'S M P K'],
  strengths: Sequence[float],
  points: Float[np.ndarray, 'V n K 2'],
  visible: Bool[np.ndarray, 'V n K'],
  pictures: Int[np.ndarray, ' M'],
  grid: Float[np.ndarray, 'P 2'],
) -> Choice | None:
  """The strength, sharpness and correction that do best on the held-out pictures.

  Args:
    heat: of `held_out_heat`, for each of `strengths`, among which is SAFE_STRENGTH.
    points, visible: of `with_mirrored`, all labels. pictures: the numbers of those held out.
    grid: the positions of a heat map, normalised.

  Best is the smallest upper bound of the mean distance: its gap to that of the safe choice, plus
  CAUTION standard errors. None if there is nothing to judge by.
  """
  priors = [position_prior(points, visible, grid, without=i) for i in pictures.tolist()]
  log_prior, mean = (np.stack(arrays) for arrays in zip(*priors, strict=True))
  true, shown = points[0], visible[0]  # judged on the pictures as they are, not mirrored
  # A landmark that only the held-out picture shows has no mean shape to be judged by.
  judged = shown[pictures] & (shown.sum(0) > 1)
  if not judged.any():
    return None
  start, target = first_correction(mean.mean(0)), true[pictures] - mean
  maps = dict(zip(strengths, heat, strict=True))
  sharpnesses = (s for s in SHARPNESSES if s <= len(true))

  def candidates() -> Iterator[tuple[float, float, Correction]]:
    """The safe one first."""
    others = itertools.product(strengths, sharpnesses)
    for strength, sharpness in ((SAFE_STRENGTH, SAFE_SHARPNESS), *others):
      expected = np.asarray(_expectation(maps[strength], log_prior, grid, sharpness), np.float64)
      for correction in corrections(expected - mean, target, judged, start):
        yield strength, sharpness, correction

  found = candidates()
  safe = next(found)

  def bound(candidate: tuple[float, float, Correction]) -> float:
    gap = candidate[-1].share - safe[-1].share
    return gap.mean() + CAUTION * gap.std() / max(len(gap) - 1, 1) ** 0.5

  strength, sharpness, correction = min(itertools.chain([safe], found), key=bound)
  logits = sharpness * maps[strength] + log_prior
  predicted = mean + correction.left_out
  read = mean_and_spread(jnp.asarray(logits, float), jnp.asarray(grid, float))
  evidence = doubt(jnp.asarray(predicted, float), *read)
  return Choice(strength, sharpness, correction.fitted(), predicted, np.asarray(evidence))


def first_correction(shape: Float[np.ndarray, 'K 2']) -> Float[np.ndarray, '2*K 2*K']:
  """The correction before anything is fitted: trusts offsets that move, turn or scale the shape.

  Heat maps are less likely to agree by chance on those than on others, of which it keeps FREE_GAIN.
  """
  x, y = (shape - shape.mean(0)).T
  one, none = np.ones_like(x), np.zeros_like(x)
  moves = np.stack([[one, none], [none, one], [x, y], [-y, x]]).transpose(2, 1, 0)
  basis, size, _ = np.linalg.svd(moves.reshape(2 * len(shape), 4), full_matrices=False)
  basis = basis[:, size > 1e-6 * size[0]]
  rigid = basis @ basis.T
  return rigid + FREE_GAIN * (np.eye(len(rigid)) - rigid)


class Correction(NamedTuple):
  """A linear map from offsets to targets."""

  share: Float[np.ndarray, ' M']  # of each picture in the mean left-out distance
  fitted: Callable[[], Float[np.ndarray, '2*K 2*K']]
  left_out: Float[np.ndarray, 'M K 2']  # each picture's targets, predicted by the map of the others


def corrections(
  offset: Float[np.ndarray, 'M K 2'],
  target: Float[np.ndarray, 'M K 2'],
  judged: Bool[np.ndarray, 'M K'],
  start: Float[np.ndarray, '2*K 2*K'],
) -> Iterator[Correction]:
  """Linear maps from offsets to targets, and how they do on left-out pictures.

  Args:
    offset: of the landmarks that the heat maps show, from the mean shape. target: of the labels.
    judged: False for landmarks that do not count. start: the first map, of `first_correction`.

  Ridge regressions towards `start`, towards unchanged offsets, and towards the mean shape; the
  first is `start` itself. Leave-one-out is in closed form; a map is computed only on demand.
  """
  x, y = offset.reshape(len(offset), -1), target.reshape(len(offset), -1)
  seen = np.repeat(judged, 2, axis=1)
  scatter = max((y * y * seen).sum() / y.shape[1], 1e-12)
  values, vectors = np.linalg.eigh(x @ x.T)
  values, identity = np.maximum(values, 0), np.eye(len(start))

  def fitted(
    towards: Float[np.ndarray, 'D D'], rest: Float[np.ndarray, 'M D'], strength: float
  ) -> Float[np.ndarray, 'D D']:
    coefficients = (vectors / (values + strength * scatter)) @ (vectors.T @ rest)
    return towards + x.T @ coefficients

  for towards in (start, identity, 0 * identity):
    before = x @ towards
    rest = (y - before) * seen
    for strength in (s for s in CORRECTIONS if s * len(x) >= STIFFNESS):
      hat = (vectors * (values / (values + strength * scatter))) @ vectors.T
      left_out = (rest - hat @ rest) / (1 - hat.diagonal())[:, None]
      distance = np.linalg.norm(left_out.reshape(offset.shape), axis=-1)
      share = (distance * judged).sum(1) * len(x) / judged.sum()
      predicted = (before + rest - left_out).reshape(offset.shape)
      yield Correction(share, functools.partial(fitted, towards, rest, strength), predicted)


@jax.jit
def _expectation(
  maps: Float[Array, 'M P K'],
  log_prior: Float[Array, 'M P K'],
  grid: Float[Array, 'P 2'],
  sharpness: Float[Array, ''],
) -> Float[Array, 'M K 2']:
  return mean_and_spread(sharpness * maps + log_prior, grid)[0]


def mean_and_spread(
  logits: Float[Array, 'B P K'], grid: Float[Array, 'P 2']
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """Mean and standard deviation of the positions under a softmax over them."""
  probability = jax.nn.softmax(logits, axis=1)
  # Sums, not matrix products, in which accelerators would round the positions; and squares of
  # centred values, as a difference of two numbers near 1 is mostly rounding for a sharp landmark.
  mean = (probability[..., None] * grid[:, None]).sum(1)
  square = ((grid[:, None] - mean[:, None]) ** 2).sum(-1)
  return mean, jnp.sqrt((probability * square).sum(1))

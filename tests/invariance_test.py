"""Invariance and equivariance: a slow oracle, and features of which both are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Describer
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.evaluation import invariance
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.geometry import coords, splines
from landmarks_jax.models import hypercolumn
from landmarks_jax.runtime import sharding

SIDE, MARGIN, COUNT = 40, 4, 22
SEEN = SIDE - 2 * MARGIN


class Blots:
  """Smooth blots in two colours of each picture's own, of which the first is always lighter."""

  info = Info((), (), 'frame', (0.5,) * 3, (0.2,) * 3)

  def __init__(self, *, count=COUNT, bad=()):
    self.count, self.bad = count, bad

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.bad:
      raise BadImage(f'{index}.png', 'is broken')
    r = np.random.default_rng(index)
    waves = np.asarray(hypercolumn.resize(r.normal(size=(1, 6, 6, 1)).astype(np.float32), SIDE))[0]
    light, dark = r.uniform(130, 230, 3), r.uniform(30, 110, 3)
    soft = 1 / (1 + np.exp(-waves / 0.15))
    image = np.rint(dark + (light - dark) * soft).astype(np.uint8)
    return {'image': image, 'index': np.int32(index)}


def pooled(image, cell):
  side = image.shape[1] // cell
  return image.reshape(-1, side, cell, side, cell, image.shape[-1]).mean((2, 4))


def colours(variables, image, size):
  """Mean colours of the whole, of sixteenths of the side, of eighths, ...; of every pixel."""
  image = jnp.asarray(image, jnp.float32) * variables
  return tuple(pooled(image, cell) for cell in (SEEN, 8, 4, 2, 1))


def coarse(variables, image, size):
  return colours(variables, image, size)[1:3]


def lighter(variables, image, size):
  """Which pixels are lighter than the mean of their picture."""
  grey = jnp.asarray(image, jnp.float32) @ np.float32([0.299, 0.587, 0.114])
  return (jnp.float32(grey > grey.mean((1, 2), keepdims=True))[..., None] * variables,)


def positions(variables, image, size):
  code = jnp.concatenate([coords.pixel_grid(SEEN, SEEN), jnp.ones((SEEN, SEEN, 1))], -1)
  return (jnp.broadcast_to(code * variables, (len(image), SEEN, SEEN, 3)),)


def constant(variables, image, size):
  return (jnp.full((len(image), 8, 8, 3), 0.1) * jnp.arange(3) * variables,)


def chaos(variables, image, size):
  """What they are says nothing, however near two pictures are."""
  frequencies = jnp.asarray(np.random.default_rng(0).uniform(1e2, 1e3, (3, 64)), jnp.float32)
  return (jnp.sin(pooled(jnp.asarray(image, jnp.float32), 2) @ frequencies) * variables,)


def given(apply, variables=1):
  return Describer(np.float32(variables), apply)


def distances(apply, *, source=None, count=COUNT, **options):
  pairs = invariance.opposite_pairs(source or Blots(), count)
  options = {'margin': MARGIN, 'batch_size': 4} | options
  return invariance.distances(given(apply), pairs, **options)


def shares(apply, **options):
  """[L, 3]: colour, warp, equivariance of every level."""
  near, far = np.moveaxis(distances(apply, **options).mean(0), -1, 0)
  return invariance.share(near, far)


# The definition.


def oracle(apply, level, pairs):
  """Near and far by the formulas of the module, one cell after the other, float64."""
  flat, index = (np.asarray(x).reshape(-1, *x.shape[2:]) for x in pairs)
  rng, frames = jax.random.key(0), flat.astype(np.float32)
  coloured, warps = (np.asarray(x) for x in invariance._changes(rng, frames, index))
  warped = np.asarray(splines.warp_image(frames, warps))
  cut = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
  x, c, w = (
    np.asarray(apply(np.float32(1), view[cut], None)[level], float)
    for view in (frames, coloured, warped)
  )
  mean = x.mean((0, 1, 2))

  def distance(a, b):
    a, b = a - mean, b - mean
    return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

  def looked_up(maps, column, row):
    """Bilinear between cells, clamped at the edges."""
    total, side = 0, len(maps)
    for i in range(side):
      for j in range(side):
        away = np.abs(np.clip([column, row], 0, side - 1) - [j, i])
        total = total + maps[i, j] * np.maximum(0, 1 - away).prod()
    return total

  side, found = x.shape[1], np.zeros((len(x), 3, 2))
  cells = list(np.ndindex(side, side))
  # In pixels of the frame, whose pixel p covers p - .5 to p + .5.
  pixels = (np.array(cells)[:, ::-1] + 0.5) * SEEN / side - 0.5 + MARGIN
  points = np.tile(np.float32(2 * pixels / (SIDE - 1) - 1), (len(x), 1, 1))
  seen = (np.asarray(splines.apply(warps, points)) + 1) / 2 * (SIDE - 1) - MARGIN
  for b in range(len(x)):
    for k, partner in enumerate((b, b ^ 1)):
      found[b, 0, k] = np.mean([distance(x[b][p], c[partner][p]) for p in cells])
      found[b, 1, k] = distance(x[b].mean((0, 1)), w[partner].mean((0, 1)))
    inside = [p for p, at in enumerate(seen[b]) if at.min() >= 0 and at.max() <= SEEN - 1]
    there = [looked_up(x[b], *((seen[b, p] + 0.5) * side / SEEN - 0.5)) for p in inside]
    moved = [distance(w[b][cells[p]], value) for p, value in zip(inside, there, strict=True)]
    stayed = [distance(w[b][cells[p]], x[b][cells[p]]) for p in inside]
    found[b, 2] = np.mean(moved), np.mean(stayed)
  return found.reshape(-1, 2, 3, 2).mean(1)


@pytest.mark.parametrize('level', [1, 2])
def test_distances_are_those_of_the_definition(level):
  pairs = invariance.opposite_pairs(Blots(), 6)
  found = invariance.distances(given(colours), pairs, margin=MARGIN)[:, level]
  np.testing.assert_allclose(found, oracle(colours, level, pairs), rtol=2e-3, atol=2e-5)


def test_a_share_is_what_is_nearer_and_never_negative():
  near, far = np.array([0.0, 0.3, 0.9, 0.5, 1e-9]), np.array([0.4, 0.4, 0.4, 0.5, 1e-9])
  np.testing.assert_allclose(invariance.share(near, far), [1, 0.25, 0, 0, 0], atol=1e-12)


def test_the_interval_is_that_of_the_normal_distribution_where_there_are_many_pairs():
  r = np.random.default_rng(0)
  near, far = r.uniform(0, 0.4, 2000), r.uniform(0.6, 1, 2000)
  low, high = invariance.interval(near, far)
  ratio = near.mean() / far.mean()
  error = (near - ratio * far).std() / far.mean() / 2000**0.5
  np.testing.assert_allclose([low, high], 1 - ratio + np.array([-1.96, 1.96]) * error, atol=5e-4)
  assert 1.96 * error > 5e-3


# Features whose answer is known.


def test_colours_follow_warps_and_are_changed_by_colour():
  colour, warp, equivariance = shares(colours).T
  assert ((colour > 0.2) & (colour < 0.95)).all()
  assert equivariance[-1] > 0.999  # a warped pixel is a pixel looked up
  assert (np.diff(equivariance) > 0.02).all()  # the finer the better
  assert equivariance[0] == 0  # one cell is nowhere
  # Means over the map are those of the picture, whatever the cell.
  np.testing.assert_allclose(warp, warp[0], atol=1e-4)
  assert warp[0] > 0.9


def test_what_is_lighter_is_invariant_to_colour_and_moves_with_a_warp():
  ((colour, _, equivariance),) = shares(lighter)
  assert colour > 0.98
  assert colour > shares(colours)[-1, 0] + 0.05
  assert equivariance > 0.6


@pytest.mark.parametrize('apply', [positions, constant])
def test_features_that_say_nothing_of_the_picture_are_neither(apply):
  np.testing.assert_array_equal(shares(apply), 0)


def test_features_of_chance_survive_no_change_but_their_mean_may():
  ((colour, warp, equivariance),) = shares(chaos)
  assert max(colour, equivariance) < 0.05
  assert warp > 0.3  # a mean over the map counts the colours, which a warp does not change


def test_what_all_features_share_counts_for_nothing():
  def shifted(variables, image, size):
    return tuple(level + 1e4 * jnp.arange(1, 4) for level in coarse(variables, image, size))

  np.testing.assert_allclose(shares(shifted), shares(coarse), atol=0.01)


# Pictures and batches.


def test_strangers_are_half_the_set_apart_and_the_set_is_spread():
  pairs = invariance.opposite_pairs(Blots(count=90), 10)
  np.testing.assert_array_equal(pairs.index, [[0, 49], [9, 59], [19, 69], [29, 79], [39, 89]])
  np.testing.assert_array_equal(pairs.image[1, 1], Blots()[59]['image'])


def test_pictures_that_cannot_be_read_are_left_out():
  pairs = invariance.opposite_pairs(Blots(count=6, bad=(0, 4)), 100)
  np.testing.assert_array_equal(pairs.index, [[1, 3], [2, 5]])
  message = '^1 readable pictures of 100: expected 2 to tell apart$'
  with pytest.raises(ValueError, match=message):
    invariance.opposite_pairs(Blots(count=2, bad=(0,)), 100)


def test_distances_depend_on_the_picture_and_the_seed_not_on_the_batch():
  expected = distances(coarse)
  assert expected.shape == (COUNT // 2, 2, 3, 2)
  for batch_size in (3, 16):
    found = distances(coarse, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
  pairs = invariance.opposite_pairs(Blots(), COUNT)
  turned = invariance.Pairs(*(x[::-1] for x in pairs))
  found = invariance.distances(given(coarse), turned, margin=MARGIN, batch_size=4)
  np.testing.assert_allclose(found[::-1], expected, rtol=1e-3, atol=1e-6)
  other = distances(coarse, seed=1)
  assert (np.abs(other - expected) > 1e-2 * expected).mean() > 0.9


def test_padding_is_left_out_wherever_it_is_placed():
  behind = Spread(lambda tree: jax.tree.map(lambda x: jnp.asarray(x[::-1]), tree))
  found = distances(coarse, batch_size=8, spread=behind)
  in_order = [np.sort(x, axis=0) for x in (found, distances(coarse, batch_size=8))]
  np.testing.assert_allclose(*in_order, rtol=1e-3, atol=1e-6)


def test_one_device_and_eight_agree():
  found = []
  for count in (1, 8):
    mesh = sharding.mesh(jax.devices()[:count])
    place = lambda batch, mesh=mesh: sharding.to_global(batch, mesh)  # noqa: E731
    found.append(distances(coarse, batch_size=8, spread=Spread(place)))
  np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-6)

"""The method's formulas against slow loops, and its code: encoded, moved, painted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch
from landmarks_jax.geometry import coords
from landmarks_jax.methods import lmdis
from landmarks_jax.models import skip_hourglass
from landmarks_jax.models.skip_hourglass import Layers, Level

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
K, SIDE, MARGIN, PAD, COUNT = 3, 16, 2, 4, 4
TWO = Layers((Level((6,), (5,)), Level((6,), ())), skips=1)  # compiled in little time
TINY = {'network': 'tiny', 'appearance_width': 0.125, 'landmarks': K}
TINY |= {'margin': MARGIN, 'pad': PAD, 'precision': 'float32', 'code': 5}
RATIO = SIDE / (SIDE + 2 * PAD)


@pytest.fixture(scope='module', autouse=True)
def _tiny():
  with pytest.MonkeyPatch.context() as patch:
    eight = Layers((Level((6,), (8,)), Level((6,), ())), skips=1)  # an eighth of FEATURES
    patch.setitem(skip_hourglass.NETWORKS, 'tiny', skip_hourglass.Networks(TWO, eight, TWO))
    yield


def build(**options):
  return lmdis.build(mean=MEAN, std=STD, **(TINY | options))


def pictures(seed=0):
  frame = SIDE + 2 * MARGIN
  return np.random.default_rng(seed).integers(0, 256, (COUNT, frame, frame, 3), dtype=np.uint8)


def inner(image):
  return image[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def shares(seed=0, h=6, w=9, k=4):
  """Maps that are a softmax over channels, the last left out."""
  logits = 2 * np.random.default_rng(seed).normal(size=(2, h, w, k + 1))
  return np.asarray(jax.nn.softmax(logits))[..., :-1]


# The formulas.


def test_moments_are_those_of_a_loop_over_the_cells():
  maps = shares()
  places, deviation = lmdis.moments(maps)
  for b in range(maps.shape[0]):
    for k in range(maps.shape[3]):
      total = sum_x = sum_y = 0
      for i, j in np.ndindex(maps.shape[1:3]):
        total += maps[b, i, j, k]
        sum_x += maps[b, i, j, k] * (j + 0.5) / maps.shape[2]
        sum_y += maps[b, i, j, k] * (i + 0.5) / maps.shape[1]
      x, y = sum_x / (total + 1e-6), sum_y / (total + 1e-6)
      var_x = var_y = 0
      for i, j in np.ndindex(maps.shape[1:3]):
        var_x += maps[b, i, j, k] * ((j + 0.5) / maps.shape[2] - x) ** 2
        var_y += maps[b, i, j, k] * ((i + 0.5) / maps.shape[1] - y) ** 2
      np.testing.assert_allclose(places[b, k], (x, y), rtol=1e-5)
      expected = (math.sqrt(var_x / total) + math.sqrt(var_y / total)) / 2
      np.testing.assert_allclose(deviation[b, k], expected, rtol=1e-4)


def test_a_flat_map_has_the_published_width_and_concentration():
  places, deviation = lmdis.moments(jnp.full((1, 96, 96, 10), 1 / 11))
  np.testing.assert_allclose(places, 0.5, atol=1e-5)
  np.testing.assert_allclose(deviation, 0.288659, atol=1e-6)
  found = 100 * lmdis.concentration(deviation, ratio=80 / 96)
  np.testing.assert_allclose(found, 2049.31, rtol=1e-5)


def test_a_map_of_one_pixel_has_a_finite_gradient():
  maps = jnp.zeros((1, 5, 5, 1)).at[0, 1, 3].set(1e4)  # so that the deviation is exactly 0
  slope = jax.grad(lambda maps: lmdis.moments(maps)[1].sum())(maps)
  assert np.isfinite(slope).all()


def test_landmarks_near_each_other_cost_as_in_a_loop():
  points = np.random.default_rng(0).random((2, 5, 2)).astype(np.float32)
  found = lmdis.separation(points, ratio=0.8, bandwidth=0.3)
  for b in range(2):
    expected = 0
    for i in range(5):
      for j in range(5):
        if i != j:
          squared = sum((points[b, i, a] - points[b, j, a]) ** 2 for a in range(2))
          expected += math.exp(-squared / (2 * (0.3 * 0.8) ** 2))
    np.testing.assert_allclose(found[b], expected, rtol=1e-5)
  together = jnp.full((1, 10, 2), 0.3)
  assert float(20 * lmdis.separation(together, ratio=0.8, bandwidth=0.08)[0]) == 1800


def test_disagreement_and_reconstruction_are_sums_of_squares():
  r = np.random.default_rng(0)
  apart = r.normal(size=(2, 4, 2)).astype(np.float32)
  expected = [sum(apart[b, k, a] ** 2 for k in range(4) for a in range(2)) / 0.8 for b in range(2)]
  np.testing.assert_allclose(lmdis.disagreement(apart, ratio=0.8), expected, rtol=1e-5)
  image, painted = r.random((2, 2, 5, 5, 3))
  expected = [
    sum(0.5 * (image[b][at] - painted[b][at]) ** 2 for at in np.ndindex(5, 5, 3)) for b in range(2)
  ]
  np.testing.assert_allclose(lmdis.reconstruction_error(image, painted), expected, rtol=1e-5)


def test_decay_takes_gains_and_leaves_biases_out():
  params = {'a': {'kernel': jnp.array([2.0, 3.0]), 'bias': jnp.array([9.0])}}
  params['bn'] = {'scale': jnp.array([4.0]), 'bias': jnp.array([9.0])}
  assert float(lmdis.decay(params)) == (4 + 9 + 16) / 2


@pytest.mark.parametrize('published', [False, True])
def test_heat_maps_are_those_of_a_loop(published):
  points = np.array([[[0.2, 0.7], [0.9, -0.1]]], np.float32)
  size = 6
  found = lmdis.heat_maps(points, size=size, published=published)
  assert found.shape == (1, size, size, 5, 3)
  for i, j, level in np.ndindex(size, size, 5):
    s = 0.125 * math.sqrt(2) ** level
    values = []
    for x, y in points[0]:
      squared = ((j + 0.5) / size - x) ** 2 + ((i + 0.5) / size - y) ** 2
      if published:
        height = 1 / ((2 * math.pi * s**4 + 1e-6) * size**4)
        values.append(height * math.exp(-squared * s**2 / (2 * (s**4 + 1e-6))))
      else:
        values.append(math.exp(-squared / (2 * s**2)) / (2 * math.pi * s**2))
    values.append(1 / size**2 if published else 1)
    expected = np.array(values) / sum(values)
    np.testing.assert_allclose(found[0, i, j, level], expected, rtol=1e-4)


def test_a_lone_landmark_peaks_as_published():
  centre = jnp.full((1, 1, 2), 40.5 / 80)
  peaks = lmdis.heat_maps(centre, size=80, published=True)[0, 40, 40, :, 0]
  np.testing.assert_allclose(peaks, [0.0924, 0.0248, 0.0063, 0.0016, 0.0004], atol=5e-5)
  ours = lmdis.heat_maps(centre, size=80)[0, 40, 40, :, 0]
  s = np.array(lmdis.WIDTHS)
  np.testing.assert_allclose(ours, 1 / (1 + 2 * np.pi * s**2), rtol=1e-5)


def test_padding_is_the_mean_of_the_border():
  image = pictures().astype(np.float32)[:, :5, :5]
  padded = lmdis.pad_with_border(image, 2)
  np.testing.assert_allclose(padded[:, 2:-2, 2:-2], image, rtol=1e-5)
  for b, c in np.ndindex(COUNT, 3):
    border = [image[b, i, j, c] for i in (0, 4) for j in range(5)]
    border += [image[b, i, j, c] for j in (0, 4) for i in range(5)]
    np.testing.assert_allclose(padded[b, 0, :, c], np.mean(border), rtol=1e-5)
    np.testing.assert_allclose(padded[b, :, -1, c], np.mean(border), rtol=1e-5)


def test_groups_have_their_own_matrix_and_one_bias():
  params = lmdis.random_linear(jax.random.key(0), 4, 6, 3)
  assert params['kernel'].shape == (4, 6, 3)
  bound = math.sqrt(6 / (6 + 3))
  assert 0.8 * bound < np.abs(params['kernel']).max() <= bound
  params['bias'] = jnp.arange(3.0)
  groups = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
  expected = [[g @ params['kernel'][i] + params['bias'] for i, g in enumerate(x)] for x in groups]
  np.testing.assert_allclose(lmdis.linear(params, groups), expected, rtol=1e-5, atol=1e-6)


def test_positions_in_the_padded_picture_are_told_in_the_picture():
  side, pad = 10, 3
  # Edges and centre of a picture of 10 pixels between 3 and 3, and the first edge of the padding.
  padded = np.float32([[3, 13], [8, 8], [0, 3]]) / (side + 2 * pad)
  found = lmdis.in_picture(padded, ratio=side / (side + 2 * pad))
  np.testing.assert_allclose(found, [[0, 1], [0.5, 0.5], [-0.3, 0]], atol=1e-6)


def test_pooled_codes_are_encoded_means_under_the_maps():
  r = np.random.default_rng(0)
  maps, found = r.random((2, 3, 5, 4)), r.normal(size=(2, 3, 5, 6))
  maps[1, :, :, 2] = 0  # a landmark without any share pools nothing
  params = {'encode': lmdis.random_linear(jax.random.key(0), 4, 6, 3)}
  params['encode']['bias'] = jnp.arange(3.0)
  codes = lmdis.pool(params, maps.astype(np.float32), found.astype(np.float32))
  for b, g in np.ndindex(2, 4):
    mean, total = np.zeros(6), 0
    for at in np.ndindex(3, 5):
      mean += maps[b][at][g] * found[b][at]
      total += maps[b][at][g]
    expected = mean / max(total, 1e-6) @ params['encode']['kernel'][g] + np.arange(3)
    np.testing.assert_allclose(codes[b, g], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('published', [False, True])
def test_the_canvas_is_the_shares_and_what_is_painted_with_them(published):
  r = np.random.default_rng(0)
  points = r.random((2, 2, 2)).astype(np.float32)
  codes = r.normal(size=(2, 3, 4)).astype(np.float32)
  params = {'decode': lmdis.random_linear(jax.random.key(0), 3, 4, 6)}
  found = lmdis.canvas(params, points, codes, size=5, published=published)
  shares = np.asarray(lmdis.heat_maps(points, size=5, published=published))
  paint = [[c @ params['decode']['kernel'][g] for g, c in enumerate(row)] for row in codes]
  levels = len(lmdis.WIDTHS)
  assert found.shape == (2, 5, 5, levels * (3 + 6))
  for b, y, x in np.ndindex(2, 5, 5):
    np.testing.assert_array_equal(found[b, y, x, : 3 * levels], shares[b, y, x].ravel())
    for level in range(levels):
      expected = sum(shares[b, y, x, level, g] * paint[b][g] for g in range(3))
      at = 3 * levels + 6 * level
      np.testing.assert_allclose(found[b, y, x, at : at + 6], expected, rtol=1e-4, atol=1e-5)


# Warps.

STRENGTH = {'displacement': 0.1, 'rotation': 10.0, 'scale': 1.25, 'translation': 0.3}
STILL = {'displacement': 0.0, 'rotation': 0.0, 'scale': 1.0, 'translation': 0.0}


def published_spline(moved, points, *, bending):
  """Section 6: the dense solve on 49 points at cell centres, with its own exact kernel."""
  line = np.arange(-6, 7, 2) / 7
  grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)

  def kernel(squared):
    return squared * np.log(np.maximum(squared, 1e-30))

  squared = ((grid[:, None] - grid) ** 2).sum(-1)
  flat = np.concatenate([np.ones((49, 1)), grid], 1)
  system = np.block([[flat, kernel(squared)], [np.zeros((3, 3)), flat.T]])
  answer = np.linalg.solve(system, np.concatenate([grid + moved, np.zeros((3, 2))]))
  squared = ((points[:, None] - grid) ** 2).sum(-1)
  affine = np.concatenate([np.ones((len(points), 1)), points], 1) @ answer[:3]
  return affine + bending * kernel(squared) @ answer[3:]


@pytest.mark.parametrize('bending', [0.5, 1.0])
def test_a_warp_is_the_published_spline_after_the_similarity(bending):
  warp = lmdis.random_warp(jax.random.key(3), 2, bending=bending, **STRENGTH)
  points = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 30, 2)).astype(np.float32)
  found = warp(points)
  # The displacements that were drawn, read back from where an interpolating spline takes the grid.
  line = np.arange(-6, 7, 2, dtype=np.float32) / 7
  grid = np.stack(np.meshgrid(line, line), -1).reshape(1, -1, 2)
  whole = lmdis.random_warp(jax.random.key(3), 2, bending=1.0, **STRENGTH)
  moved = np.asarray(whole.spline(np.repeat(grid, 2, 0)) - grid)
  assert 0.08 < moved.std() < 0.12
  for b in range(2):
    (a, c), (d, e) = np.asarray(warp.turn[b])
    turned = [(a * x + c * y, d * x + e * y) for x, y in points[b]] + np.asarray(warp.shift[b])
    expected = published_spline(moved[b], turned, bending=bending)
    np.testing.assert_allclose(found[b], expected, atol=2e-3)


def test_similarities_are_drawn_as_said():
  warp = lmdis.random_warp(jax.random.key(0), 4000, bending=0.5, **STRENGTH)
  size = np.sqrt(np.linalg.det(warp.turn))
  angle = np.degrees(np.arctan2(warp.turn[:, 1, 0], warp.turn[:, 0, 0]))
  np.testing.assert_allclose(np.log(size).std(), math.log(1.25), rtol=0.05)
  rigid = np.einsum('bij,bkj->bik', warp.turn, warp.turn) / size[:, None, None] ** 2
  np.testing.assert_allclose(rigid, np.broadcast_to(np.eye(2), rigid.shape), atol=1e-5)
  np.testing.assert_allclose(angle.std(), 10, rtol=0.05)
  np.testing.assert_allclose(np.abs(warp.shift).max(), 0.3, rtol=0.01)
  np.testing.assert_allclose(np.asarray(warp.shift).std(), 0.3 / math.sqrt(3), rtol=0.05)


def dot(x, y, side=48):
  """A soft dot at a cell-centred place from -1 to 1, and that place."""
  cells = (np.arange(side) + 0.5) / side * 2 - 1
  picture = np.exp(-((cells - x) ** 2 + (cells[:, None] - y) ** 2) / (2 * 0.06**2))
  return np.repeat(picture[None, :, :, None], 3, -1).astype(np.float32)


def test_a_dot_and_its_landmark_move_together():
  """A place of the warped picture, through the warp, is the place in the original."""
  image = dot(0.2, -0.3)
  for seed in range(4):
    warp = lmdis.random_warp(jax.random.key(seed), 1, bending=0.5, **STRENGTH)
    result = lmdis.warped(image, warp)
    places, _ = lmdis.moments(result)
    if result.max() > 0.9:  # it has not left the picture
      np.testing.assert_allclose(warp(2 * places - 1)[0, 0], (0.2, -0.3), atol=0.02)


def test_no_warp_changes_nothing_and_what_is_beyond_the_edge_is_the_edge():
  image = jnp.asarray(pictures(), float)
  still = lmdis.random_warp(jax.random.key(0), COUNT, bending=0.5, **STILL)
  np.testing.assert_allclose(lmdis.warped(image, still), image, atol=0.1)
  away = still._replace(shift=jnp.full((COUNT, 2), 5.0))
  corner = image[:, -1:, -1:]
  np.testing.assert_allclose(lmdis.warped(image, away), jnp.broadcast_to(corner, image.shape))


def test_the_published_sampler_is_black_right_and_below():
  image = jnp.asarray(pictures(), float) + 1
  still = lmdis.random_warp(jax.random.key(0), COUNT, bending=0.5, **STILL)
  result = lmdis.warped_published(image, still)
  # The second sampling looks at the first one's blackness, too.
  assert (result[:, -1] == 0).all()
  assert (result[:, :, -1] == 0).all()
  assert (result[:, :-2, :-2] > 0).all()
  # On the grid that ends at the corners, position -1 is half a pixel beyond the first pixel.
  np.testing.assert_allclose(result[:, 0, 0], image[:, 0, 0], rtol=1e-4)
  once = lmdis.sample_published(image, jnp.zeros((COUNT, 1, 2)))  # the middle of the picture
  middle = image.shape[1] // 2
  four = image[:, middle - 1 : middle + 1, middle - 1 : middle + 1].mean((1, 2))
  np.testing.assert_allclose(once[:, 0], four, rtol=1e-4)


# Flow.


def test_flow_at_a_landmark_is_the_mean_of_a_loop():
  r = np.random.default_rng(0)
  points, deviation = r.random((2, K, 2)), r.uniform(0.05, 0.3, (2, K))
  flow, known = r.normal(size=(2, 7, 7, 2)), r.random((2, 7, 7)) < 0.4
  moved, share = lmdis.flow_at(points, deviation, flow, known)
  for b, k in np.ndindex(2, K):
    total = seen = 0
    mean = np.zeros(2)
    for i, j in np.ndindex(7, 7):
      x, y = (j + 0.5) / 7 - points[b, k, 0], (i + 0.5) / 7 - points[b, k, 1]
      weight = math.exp(-(x * x + y * y) / (2 * deviation[b, k] ** 2))
      total += weight
      if known[b, i, j]:
        seen += weight
        mean += weight * flow[b, i, j]
    np.testing.assert_allclose(moved[b, k], mean / seen, rtol=1e-3)
    np.testing.assert_allclose(share[b, k], seen / total, rtol=1e-4)


def test_without_a_known_flow_nothing_is_asked():
  nothing = np.zeros((1, 5, 5), bool)
  moved, share = lmdis.flow_at(
    np.full((1, 2, 2), 0.5), np.full((1, 2), 0.1), np.ones((1, 5, 5, 2)), nothing
  )
  assert (np.asarray(moved) == 0).all()
  assert (np.asarray(share) == 0).all()


# Pairs.


def test_landmarks_of_a_warped_pair_agree_where_the_warp_takes_them():
  image = jnp.asarray(pictures(), float)
  warp = lmdis.random_warp(jax.random.key(3), COUNT, bending=0.5, **STRENGTH)
  pair = lmdis.warped_pair(image, warp, pad=PAD)
  np.testing.assert_array_equal(pair.image, image)
  np.testing.assert_allclose(pair.first[:, PAD:-PAD, PAD:-PAD], image, rtol=1e-4)
  np.testing.assert_array_equal(pair.second, lmdis.warped(pair.first, warp))
  there = np.random.default_rng(0).random((COUNT, K, 2)).astype(np.float32)
  here = (warp(2 * there - 1) + 1) / 2
  width = np.full((COUNT, K), 0.1, np.float32)
  np.testing.assert_allclose(pair.apart(here, there, width), 0, atol=1e-5)
  off = np.float32([0.1, -0.2])
  expected = np.broadcast_to(-2 * off, there.shape)
  np.testing.assert_allclose(pair.apart(here + off, there, width), expected, atol=1e-5)


def test_landmarks_of_a_film_agree_where_the_flow_takes_them_and_count_where_it_is_known():
  image, after = (jnp.asarray(inner(pictures(seed)), float) for seed in (0, 1))
  flow = np.broadcast_to(np.float32([2, -1]), (COUNT, SIDE, SIDE, 2))
  known = np.ones((COUNT, SIDE, SIDE), bool)
  pair = lmdis.film_pair(image, after, flow, known, pad=PAD)
  np.testing.assert_array_equal(pair.image, image)
  for padded, picture in ((pair.first, image), (pair.second, after)):
    np.testing.assert_allclose(padded[:, PAD:-PAD, PAD:-PAD], picture, rtol=1e-4)
  here = np.random.default_rng(0).uniform(0.45, 0.55, (COUNT, K, 2)).astype(np.float32)
  width = np.full((COUNT, K), 0.03, np.float32)  # narrow: all of it is on the picture
  there = here + np.float32([2, -1]) / (SIDE + 2 * PAD)
  np.testing.assert_allclose(pair.apart(here, there, width), 0, atol=1e-4)
  off = np.float32([0.1, -0.2])
  expected = np.broadcast_to(-2 * off, here.shape)
  np.testing.assert_allclose(pair.apart(here, there + off, width), expected, atol=1e-4)
  # Of a landmark in the padding, where no flow is known, nothing is asked.
  np.testing.assert_allclose(pair.apart(0 * here, there, width), 0, atol=1e-6)


# The method.


@functools.cache
def started():
  batch = Batch(image=pictures())
  params, aux = jax.jit(build().init)(jax.random.key(0), batch)
  # Not at the start, where the last biases are zero and landmarks in the middle.
  moved = lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape)  # noqa: E731
  return jax.tree.map(moved, params), aux


def loss_of(batch, seed=1, step=0, **options):
  loss = jax.jit(build(**options).loss)
  return loss(*started(), batch, jax.random.key(seed), jnp.int32(step))


def test_the_loss_is_the_sum_of_its_parts_and_follows_its_weights():
  batch = Batch(image=pictures())
  value, (aux, parts) = loss_of(batch)
  np.testing.assert_allclose(value, sum(parts.values()), rtol=1e-6)
  assert jax.tree.structure(aux) == jax.tree.structure(started()[1])
  doubled = {'concentrate': 200.0, 'separate': 40.0, 'follow': 2e4, 'weight_decay': 2e-6}
  _, (_, more) = loss_of(batch, step=1, reconstruct=(0.1, 0.2), milestones=(1,), **doubled)
  for name, part in parts.items():
    np.testing.assert_allclose(more[name], 2 * part, rtol=1e-5, err_msg=name)


def test_the_parts_are_those_of_the_maps_that_it_describes():
  """A still pair without noise, with statistics of just this batch."""
  quiet = STILL | {'brightness': 0.0, 'contrast': 0.0}
  method, batch = build(**quiet), Batch(image=pictures())
  params, aux = started()
  _, (_, parts) = jax.jit(method.loss)(params, aux, batch, jax.random.key(0), jnp.int32(0))
  aux = jax.jit(method.calibrate)(params, aux, batch, jax.random.key(0), jnp.int32(0))
  cut = Batch(image=inner(batch.image))
  points, confidence = jax.jit(method.landmarks)(params, aux, cut)
  assert confidence.shape == (COUNT, K)
  assert ((confidence > 0) & (confidence <= 1)).all()
  places = ((coords.corners_to_edges(points, side=SIDE) + 1) / 2 - 0.5) * RATIO + 0.5
  expected = 20 * lmdis.separation(places, ratio=RATIO, bandwidth=0.08).mean()
  np.testing.assert_allclose(parts['separation'], expected, rtol=0.02)
  assert float(parts['equivariance']) < 1e-3
  painted = jax.jit(method.paint)(params, aux, cut.image, None)
  error = lmdis.reconstruction_error(jnp.asarray(cut.image, float) / 255, painted / 255)
  np.testing.assert_allclose(parts['reconstruction'], 0.1 * error.mean(), rtol=0.02)


def test_padding_examples_cost_nothing():
  one = Batch(image=pictures(), valid=np.array([True, False, True, True]))
  other = one._replace(image=np.where(one.valid[:, None, None, None], one.image, one.image // 2))
  quiet = {'norm_groups': COUNT}  # each picture has its own statistics
  a, b = (loss_of(batch, **quiet)[0] for batch in (one, other))
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert abs(loss_of(one._replace(valid=None), **quiet)[0] - a) > 1e-3


def test_a_film_follows_its_flow():
  """Everything moves by two pixels to the right and one up; statistics are of just this batch."""
  options = {'brightness': 0.0, 'contrast': 0.0, 'pad': 0}
  image, size = pictures(), (COUNT, SIDE + 2 * MARGIN, SIDE + 2 * MARGIN)
  flow = np.broadcast_to(np.float32([2, -1]), (*size, 2))
  film = Batch(image=image, next=pictures(1), flow=flow, flow_valid=np.ones(size, bool))
  _, (_, parts) = loss_of(film, **options)
  method, (params, aux) = build(**options), started()
  aux = jax.jit(method.calibrate)(params, aux, film, jax.random.key(0), jnp.int32(0))
  find = jax.jit(method.landmarks)
  here, there = (
    coords.corners_to_edges(find(params, aux, Batch(image=inner(x)))[0], side=SIDE)
    for x in (film.image, film.next)
  )
  apart = here + np.float32([2, -1]) * 2 / SIDE - there
  expected = 1e4 * (apart**2).sum((1, 2)).mean()
  np.testing.assert_allclose(parts['equivariance'], expected, rtol=0.02)
  nowhere = film._replace(flow_valid=np.zeros(size, bool))
  assert float(loss_of(nowhere, **options)[1][1]['equivariance']) == 0


def test_describe_gives_the_maps_of_the_picture_without_its_padding():
  params, aux = started()
  method, image = build(), inner(pictures())
  (maps,) = jax.jit(method.describe)(params, aux, image)
  assert maps.shape == (COUNT, SIDE, SIDE, K)
  assert ((maps >= 0) & (maps <= 1)).all()
  wide = np.asarray(lmdis.pad_with_border(jnp.asarray(image, float), PAD))
  whole = build(pad=0, margin=0).describe(params, aux, wide)[0]
  np.testing.assert_allclose(whole[:, PAD:-PAD, PAD:-PAD], maps, atol=1e-5)


def test_painting_with_its_own_landmarks_is_painting_it_and_others_move_it():
  params, aux = started()
  method, image = build(), inner(pictures())
  paint = jax.jit(method.paint)
  points, _ = method.landmarks(params, aux, Batch(image=image))
  own = paint(params, aux, image, None)
  assert own.shape == image.shape
  assert ((own >= 0) & (own <= 255)).all()
  np.testing.assert_allclose(paint(params, aux, image, points), own, atol=1e-2)
  assert np.abs(paint(params, aux, image, points + 0.5) - own).max() > 1


def test_calibration_is_the_exact_mean_over_training_batches():
  method = build()
  params, aux = started()
  calibrate = jax.jit(method.calibrate)
  batches = [Batch(image=pictures(seed)) for seed in range(3)]

  def after(n, batch, aux):
    return calibrate(params, aux, batch, jax.random.key(5), jnp.int32(n))

  found = aux
  for n, batch in enumerate(batches):
    found = after(n, batch, found)
  name = ('stats', 'detector', 'up0_0_bn', 'mean')
  pick = lambda tree: functools.reduce(lambda t, key: t[key], name, tree)  # noqa: E731
  # What n + 1 batches add to a mean of zeros, times n + 1, is what the last one has.
  zeros = jax.tree.map(jnp.zeros_like, aux)
  each = [(n + 1) * pick(after(n, batch, zeros)) for n, batch in enumerate(batches)]
  np.testing.assert_allclose(pick(found), np.mean(each, axis=0), rtol=1e-4, atol=1e-6)


def test_the_two_networks_for_appearance_have_the_published_linear_maps():
  for landmarks, counts in ((10, (5640, 5696)), (30, (15880, 15936))):
    method = lmdis.build(mean=MEAN, std=STD, landmarks=landmarks, biases=True)
    batch = Batch(image=np.zeros((1, 100, 100, 3), np.uint8))
    params, _ = jax.eval_shape(lambda m=method, b=batch: m.init(jax.random.key(0), b))
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert (sizes['encode'], sizes['decode']) == counts
    decoder = {10: 14_367_561, 30: 14_425_161}  # so the decoder starts from 375 and 475 channels
    assert sizes['decoder'] == decoder[landmarks]


@pytest.mark.parametrize(
  ('options', 'frame', 'maps'),
  [({'network': 'large', 'pad': 32, 'margin': 10}, 148, 64), ({'pad': 8, 'margin': 0}, 64, 64)],
)
def test_other_sizes_of_pictures_fit(options, frame, maps):
  method = lmdis.build(mean=MEAN, std=STD, **options)
  batch = Batch(image=np.zeros((2, frame, frame, 3), np.uint8))
  state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
  value = jax.eval_shape(
    lambda s: method.loss(*s, batch, jax.random.key(0), jnp.int32(0))[0], state
  )
  assert value.shape == ()
  image = np.zeros((2, frame - 2 * options['margin'], frame - 2 * options['margin'], 3), np.uint8)
  (level,) = jax.eval_shape(lambda s: method.describe(*s, image), state)
  assert level.shape == (2, maps, maps, 10)


@pytest.mark.parametrize('options', [{'joint_features': True}, {'sampler': 'published'}])
def test_published_surprises_change_the_loss(options):
  batch = Batch(image=pictures())
  assert abs(loss_of(batch, **options)[0] - loss_of(batch)[0]) > 1e-4


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'network': 'vgg'}, "network='vgg': choose from paper, large, light"),
    ({'precision': 'int8'}, "precision='int8': choose from float32, bfloat16"),
    ({'reconstruct': (1.0,)}, r'1 weights for 2 milestones: expected one more'),
  ],
)
def test_what_does_not_exist_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    build(**options)

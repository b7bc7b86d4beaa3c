"""Thin-plate splines: the published numbers; pictures and points that move together."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.geometry import coords, sampling, splines

MATCHING = {'warp': 5e-4, 'subset': 5e-3, 'translation': 0.05, 'scale': 0.05, 'rotation': 2.5}
FEW_SHOT = {'warp': 5e-4, 'translation': 0.02, 'scale': 0.02, 'rotation': 2.0}
DVE = {'warp': 1e-3, 'subset': 1e-2, 'translation': 0.1, 'scale': 0.1, 'rotation': 5.0}
PIXELS = 95 / 2  # of a frame of 96, in one unit

apply = jax.jit(splines.apply)
invert = jax.jit(splines.invert, static_argnames='iterations')
nearest_pixel = jax.jit(splines.nearest_pixel, static_argnames=('height', 'width'))
pixel_positions = jax.jit(splines.pixel_positions, static_argnames=('height', 'width'))
warp_image = jax.jit(splines.warp_image)


def warps(count, side=10, seed=0, **options):
  return splines.random_coefficients(jax.random.key(seed), count, side=side, **options or MATCHING)


def uniform(*shape, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def apply_oracle(coefficients, points, side):
  """The formula, one control point after the other, in float64."""
  rows = coefficients.astype(float)
  out = np.zeros(points.shape)
  knots = np.linspace(-1, 1, side)
  for b, (x, y) in enumerate(points.astype(float)):
    out[b] = rows[b, -3] + x * rows[b, -2] + y * rows[b, -1]
    for k in range(side * side):
      squared = (x - knots[k % side]) ** 2 + (y - knots[k // side]) ** 2
      out[b] += rows[b, k] * squared * np.log(squared + 1e-5)
  return out


def blob(pixel, height, width, spread=2.0):
  rows, columns = np.mgrid[:height, :width]
  squared = (columns - pixel[0]) ** 2 + (rows - pixel[1]) ** 2
  return np.exp(-squared / (2 * spread**2)).astype(np.float32)[..., None]


# Against the published code


def test_the_basis_is_the_published_one(golden):
  g = golden('tps_basics')
  np.testing.assert_allclose(splines.control_grid(), g['grid_ctrlpts'], atol=1e-6)
  np.testing.assert_allclose(coords.pixel_grid(5, 7).reshape(-1, 2), g['tps_grid_5x7'], atol=1e-6)
  # 1e-6 of the largest: one step of float32 at 15 is 1e-6 already.
  terms = splines.basis(g['grid_ctrlpts'])
  np.testing.assert_allclose(terms[:, :100], g['U_ctrlpts'], rtol=1e-6, atol=2e-6)
  terms = splines.basis(coords.pixel_grid(40, 40).reshape(-1, 2)[g['F_rows']])
  np.testing.assert_allclose(terms, g['F_sample'], rtol=1e-6, atol=2e-6)


def test_pixels_of_the_published_grids_are_x_first_here(golden):
  g = golden('tps_basics')
  pixels = coords.to_pixels(coords.pixel_grid(5, 7), width=7, height=5)
  np.testing.assert_allclose(pixels, g['spatial_grid_dve_5x7'], atol=1e-6)
  np.testing.assert_allclose(pixels[..., ::-1], g['spatial_grid_cl_5x7'], atol=1e-6)


def test_draws_become_the_published_coefficients(golden):
  g = golden('tps_basics')
  names = ('warp', 'subset', 'translation', 'scale', 'rotation')
  options = dict(zip(names, g['rtw_args'][1:].tolist(), strict=True))
  weights, chosen = g['rtw_draw_all'].copy(), g['rtw_draw_u'] > 0.5
  weights[chosen] = g['rtw_draw_subset']
  affine = g['rtw_draw_rot_sc_tx_ty'][None]
  out = splines.coefficients_from_draws(weights[None], chosen[None], affine, **options)
  np.testing.assert_allclose(out[0], g['rtw_weights'], atol=1e-6)


def test_positions_are_the_published_ones(golden):
  g = golden('tps_warper')
  positions = pixel_positions(g['weights1'][None], height=40, width=40)
  np.testing.assert_allclose(positions.reshape(-1, 2), g['grid1'], atol=1e-6)


PAIRS = {
  'matching': ('tps_warper', '', '_nocrop', 0),
  'matching, cropped': ('tps_warper', '', '_crop', 6),
  'training': ('tps_variants', 'cldef_', '', 6),
  'dve': ('tps_variants', 'dve_', '', 6),
  'not square': ('tps_variants', 'rect_', '', 3),
}


@pytest.mark.parametrize('name', PAIRS)
def test_pictures_and_landmarks_follow_the_published_pairs(golden, name):
  file, before, after, margin = PAIRS[name]
  g = golden(file)
  own = before if before == 'rect_' else ''
  image = g[f'{own}im'].transpose(1, 2, 0)[None]
  height, width = image.shape[1:3]
  points = coords.to_normalised(g[f'{own}kp'], width=width, height=height)[None]
  pictures = before + 'torch1.1_' if before == 'dve_' else before + 'out_'
  # The second picture is warped once, the first twice.
  for number, which in ((1, 'second'), (2, 'first')):
    coefficients = g[f'{before}weights{number}'][None]
    image = warp_image(image, coefficients)
    points = nearest_pixel(coefficients, points, height=height, width=width)
    inner = image[0, margin : height - margin, margin : width - margin].transpose(2, 0, 1)
    np.testing.assert_allclose(inner, g[f'{pictures}im_{which}{after}'], atol=0.01)
    pixels = coords.to_pixels(points, width=width, height=height)[0] - margin
    np.testing.assert_allclose(pixels, g[f'{before}out_kp_{which}{after}'], atol=1e-5)


def test_the_published_warper_of_single_pictures_leaves_half_the_weights_at_zero(golden):
  g = golden('tps_variants')
  coefficients = g['single_weights'][None]
  image = warp_image(g['im'].transpose(1, 2, 0)[None], coefficients)
  np.testing.assert_allclose(image[0, 6:-6, 6:-6].transpose(2, 0, 1), g['single_im'], atol=0.01)
  points = coords.to_normalised(g['kp'], width=40, height=40)[None]
  points = nearest_pixel(coefficients, points, height=40, width=40)
  pixels = coords.to_pixels(points, width=40, height=40)[0] - 6
  np.testing.assert_allclose(pixels, g['single_kp'], atol=1e-5)
  for bending in (g['single_weights'][:100], np.asarray(warps(1, **FEW_SHOT))[0, :100]):
    assert 0.4 < np.mean(bending == 0) < 0.6
    assert 4e-4 < bending[bending != 0].std() < 6e-4


def test_dve_on_a_newer_torch_reads_the_same_positions_between_the_edges(golden):
  # grid_sample's default changed; the flow did not, so there it no longer fits the pictures.
  g = golden('tps_variants')
  image = g['im'].transpose(1, 2, 0)[None]
  for number, which in ((1, 'second'), (2, 'first')):
    positions = pixel_positions(g[f'dve_weights{number}'][None], height=40, width=40)
    image = sampling.bilinear(image, coords.edges_to_corners(positions, side=40))
    inner = image[0, 6:-6, 6:-6].transpose(2, 0, 1)
    np.testing.assert_allclose(inner, g[f'dve_today_im_{which}'], atol=0.01)


# Warps


@pytest.mark.parametrize('side', [2, 4, 10])
def test_a_warp_is_the_slow_sum_over_control_points(side):
  coefficients, points = np.asarray(warps(3, side=side, **DVE)), 1.5 * uniform(3, 2)
  out = apply(coefficients, points[:, None])
  np.testing.assert_allclose(out[:, 0], apply_oracle(coefficients, points, side), atol=2e-6)


def test_points_may_form_any_grid_and_pixels_are_points():
  coefficients = warps(2)
  grid = jnp.broadcast_to(coords.pixel_grid(6, 9), (2, 6, 9, 2))
  out = apply(coefficients, grid)
  np.testing.assert_allclose(out, pixel_positions(coefficients, height=6, width=9), atol=1e-6)
  flat = apply(coefficients, grid.reshape(2, 54, 2))
  np.testing.assert_array_equal(out, flat.reshape(out.shape))


def test_without_strength_nothing_moves():
  coefficients = warps(2, warp=0.0)
  np.testing.assert_allclose(apply(coefficients, uniform(2, 5, 2)), uniform(2, 5, 2), atol=1e-7)
  image = np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3)).astype(np.uint8)
  warped = warp_image(image, coefficients)
  assert warped.dtype == np.float32
  np.testing.assert_allclose(warped, image, atol=1e-3)


def test_what_comes_from_outside_is_zero():
  coefficients = np.asarray(warps(1, warp=0.0)).copy()
  coefficients[0, -3] = [0.5, 0]  # the output looks a quarter of the frame to the right
  warped = np.asarray(warp_image(np.full((1, 9, 9, 1), 7, np.uint8), coefficients))[0, ..., 0]
  np.testing.assert_allclose(warped[:, :7], 7, atol=1e-5)
  np.testing.assert_array_equal(warped[:, 7:], 0)


def test_deviations_are_those_asked_for_and_draws_are_independent():
  rngs = jax.random.split(jax.random.key(0), 2000)
  options = {'warp': 0.1, 'subset': 0.4, 'translation': 0.3, 'scale': 0.02, 'rotation': 4.0}
  pairs = jax.vmap(lambda rng: splines.random_coefficients(rng, 2, side=5, **options))(rngs)
  drawn = np.asarray(pairs, float).reshape(4000, 28, 2)
  weights, offset, turn = drawn[:, :-3], drawn[:, -3], drawn[:, -2:]
  # Half of either kind: the mean square, and the mean fourth power that tells a mixture from one.
  np.testing.assert_allclose((weights**2).mean(0), (0.1**2 + 0.4**2) / 2, rtol=0.15)
  np.testing.assert_allclose((weights**2).mean(), (0.1**2 + 0.4**2) / 2, rtol=0.02)
  np.testing.assert_allclose((weights**4).mean(), 3 * (0.1**4 + 0.4**4) / 2, rtol=0.04)
  np.testing.assert_allclose(offset.std(0), 0.3, rtol=0.05)
  angle, size = np.arctan2(turn[:, 1, 0], turn[:, 0, 0]), np.hypot(turn[:, 0, 0], turn[:, 1, 0])
  np.testing.assert_allclose(np.rad2deg(angle.std()), 4, rtol=0.05)
  np.testing.assert_allclose([size.mean(), size.std()], [1, 0.02], rtol=0.05)
  np.testing.assert_allclose(turn[:, 0, 1], -turn[:, 1, 0], atol=1e-6)
  np.testing.assert_allclose(turn[:, 1, 1], turn[:, 0, 0], atol=1e-6)
  parts = np.column_stack([angle, size, offset, weights[:, :3].reshape(4000, -1)])
  assert np.abs(parts.mean(0) - np.eye(10)[1]).max() < 0.03
  both = parts.reshape(2000, 20)  # the two warps of one rng side by side
  assert np.abs(np.corrcoef(both.T) - np.eye(20)).max() < 0.12


def test_a_positive_rotation_turns_the_picture_clockwise():
  affine = np.float32([[1, 0, 0, 0]])
  weights, chosen = np.zeros((1, 100, 2), np.float32), np.zeros((1, 100, 2), bool)
  options = dict.fromkeys(DVE, 0.0) | {'rotation': 90.0}
  quarter = splines.coefficients_from_draws(weights, chosen, affine, **options)
  appears = invert(quarter, np.float32([[[0.5, 0]]]))
  np.testing.assert_allclose(appears[0, 0], [0, 0.5], atol=1e-6)  # from the right to below


# Points and pictures


@pytest.mark.parametrize('options', [MATCHING, FEW_SHOT, DVE], ids=['matching', 'few-shot', 'dve'])
def test_a_blob_appears_where_the_inverse_says(options):
  height, width, count = 60, 80, 12
  coefficients = warps(count, seed=3, **options)
  points = 0.5 * uniform(count, 2, seed=1)
  pixels = coords.to_pixels(points, width=width, height=height)
  image = np.stack([blob(pixel, height, width) for pixel in pixels])
  warped = np.asarray(warp_image(image, coefficients), float)[..., 0]
  grid = np.asarray(coords.pixel_grid(height, width), float)
  # The centre of mass of a peak: far from it another part of the warp is at work.
  weight = (warped > 0.6) * (warped - 0.6)
  found = np.einsum('bhw,hwc->bc', weight, grid) / weight.sum((1, 2))[:, None]
  expected = np.asarray(invert(coefficients, points[:, None]))[:, 0]
  inside = np.abs(expected).max(1) < 0.9
  assert inside.sum() > count / 2
  error = np.abs(found - expected)[inside] * [(width - 1) / 2, (height - 1) / 2]
  assert error.max() < 0.4
  # Not where the other direction would put it.
  wrong = np.asarray(apply(coefficients, points[:, None]))[:, 0]
  moved = np.abs(wrong - expected)[inside] * [(width - 1) / 2, (height - 1) / 2]
  assert np.median(moved.max(1)) > 1


def border_points(count, seed=0):
  """Positions in the frame, half of them on its border."""
  points = uniform(count, 24, 2, seed=seed)
  points[:, :6, 0] = np.sign(points[:, :6, 0])
  points[:, 6:12, 1] = np.sign(points[:, 6:12, 1])
  points[:, :4] = [[-1, -1], [1, -1], [-1, 1], [1, 1]]
  return points


@pytest.mark.parametrize('options', [MATCHING, FEW_SHOT], ids=['matching', 'few-shot'])
def test_the_inverse_finds_every_position_of_the_output(options):
  coefficients, positions = warps(300, **options), border_points(300)
  found = invert(coefficients, apply(coefficients, positions))
  # Float32 positions are known to some 1e-5 pixels.
  np.testing.assert_allclose(found * PIXELS, positions * PIXELS, atol=1e-4)


def test_in_float64_the_inverse_is_exact_to_a_millionth_of_a_pixel():
  with jax.enable_x64(True):
    coefficients = np.asarray(warps(100), np.float64)
    positions = border_points(100).astype(np.float64)
    found = invert(coefficients, apply(coefficients, positions))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found * PIXELS, positions * PIXELS, atol=1e-6)


def test_where_a_warp_folds_the_inverse_is_one_of_the_places():
  # Without a longest step three of these leap out of their fold and are lost.
  coefficients, positions = warps(300, seed=4, **DVE), border_points(300, seed=4)
  points = apply(coefficients, positions)
  found = invert(coefficients, points)
  np.testing.assert_allclose(apply(coefficients, found) * PIXELS, points * PIXELS, atol=1e-3)
  elsewhere = np.abs(found - positions).max(-1) > 0.01
  assert 0 < elsewhere.mean() < 0.02


@pytest.mark.parametrize('options', [MATCHING, DVE], ids=['matching', 'dve'])
def test_an_inverse_is_a_solution_or_nowhere(options):
  coefficients, points = warps(300, **options), border_points(300, seed=1)
  found = np.asarray(invert(coefficients, points))
  nowhere = (found == splines.NOWHERE).all(-1)
  assert 0.001 < nowhere.mean() < 0.2
  back = np.asarray(apply(coefficients, found))
  np.testing.assert_allclose(back[~nowhere], points[~nowhere], atol=1e-5)


def test_no_pixel_looks_near_a_point_that_appears_nowhere():
  coefficients, points = warps(300), border_points(300, seed=1)
  nowhere = (np.asarray(invert(coefficients, points)) == splines.NOWHERE).all(-1)
  seen = np.asarray(pixel_positions(coefficients, height=48, width=48)).reshape(300, -1, 2)
  nearest = [np.hypot(*(seen[b] - points[b, p]).T).min() for b, p in np.argwhere(nowhere)]
  assert len(nearest) > 10
  assert min(nearest) * PIXELS > 2


def test_the_nearest_pixel_is_the_nearest_of_all_pixels():
  coefficients, points = warps(20), uniform(20, 5, 2, seed=2)
  found = np.asarray(nearest_pixel(coefficients, points, height=11, width=16))
  seen = np.asarray(pixel_positions(coefficients, height=11, width=16), float)
  for b in range(20):
    for p in range(5):
      distance = np.hypot(*np.moveaxis(seen[b] - points[b, p], -1, 0))
      row, column = np.unravel_index(distance.argmin(), distance.shape)
      pixel = (found[b, p] + 1) / 2 * [15, 10]
      np.testing.assert_allclose(pixel, [column, row], atol=1e-4)


def test_the_nearest_pixel_is_within_half_a_diagonal_of_the_inverse():
  coefficients, points = warps(200, **FEW_SHOT), 0.7 * uniform(200, 20, 2, seed=3)
  exact = invert(coefficients, points)
  rounded = nearest_pixel(coefficients, points, height=96, width=96)
  apart = np.hypot(*np.moveaxis(np.asarray(rounded - exact), -1, 0)) * PIXELS
  # Nearest where the output looks: few-shot warps keep distances to a few percent.
  assert apart.max() < 1.05 * 0.5**0.5
  assert apart.mean() > 0.3


# Types, gradients, errors


def test_positions_in_float64_are_the_slow_sum_to_its_precision():
  with jax.enable_x64(True):
    coefficients, points = np.asarray(warps(2), np.float64), uniform(2, 2).astype(np.float64)
    out = apply(coefficients, points[:, None])
    np.testing.assert_allclose(out[:, 0], apply_oracle(coefficients, points, 10), atol=1e-13)


@pytest.mark.parametrize(
  ('given', 'expected'), [('float64', 'float64'), ('float32', 'float32'), ('bfloat16', 'float32')]
)
def test_types_are_kept_and_float32_is_the_least(given, expected):
  with jax.enable_x64(True):
    coefficients = jax.ShapeDtypeStruct((2, 103, 2), given)
    points = jax.ShapeDtypeStruct((2, 4, 2), given)
    image = jax.ShapeDtypeStruct((2, 5, 6, 3), given)
    results = [jax.eval_shape(f, coefficients, points) for f in (splines.apply, splines.invert)]
    results.append(jax.eval_shape(splines.warp_image, image, coefficients))
    assert [result.dtype for result in results] == [expected] * 3


@pytest.mark.parametrize('function', [splines.apply, splines.warp_image])
def test_positions_are_not_rounded_on_accelerators(function):
  arguments = warps(1), uniform(1, 6, 7, 2)
  arguments = arguments if function is splines.apply else arguments[::-1]
  with jax.default_matmul_precision('bfloat16'):
    program = jax.jit(function).lower(*arguments).as_text()
  products = [line for line in program.splitlines() if 'dot_general' in line]
  assert products
  assert all('HIGHEST' in line for line in products)


def test_the_gradient_of_a_warped_picture_is_the_slope():
  with jax.enable_x64(True):
    image = np.random.default_rng(0).normal(size=(1, 8, 9, 2))
    coefficients = jnp.asarray(np.asarray(warps(1), np.float64))
    target = np.random.default_rng(1).normal(size=(1, 8, 9, 2))

    @jax.jit
    def score(coefficients):
      return (splines.warp_image(image, coefficients) * target).sum()

    gradient = jax.jit(jax.grad(score))(coefficients)[0]
    for row, axis in ((37, 0), (100, 1), (101, 0), (102, 1)):
      step = jnp.zeros_like(coefficients).at[0, row, axis].set(1e-7)
      slope = (score(coefficients + step) - score(coefficients - step)) / 2e-7
      np.testing.assert_allclose(gradient[row, axis], slope, rtol=1e-5)


def test_rows_that_belong_to_no_control_grid_are_an_error():
  expected = re.escape('such as 103 rows for a control grid of 10; got shape (1, 102, 2)')
  with pytest.raises(ValueError, match=expected):
    splines.apply(np.zeros((1, 102, 2), np.float32), uniform(1, 4, 2))
  with pytest.raises(ValueError, match=re.escape('got shape (1, 2, 2)')):
    splines.warp_image(np.zeros((1, 5, 5, 3)), np.zeros((1, 2, 2), np.float32))


def test_one_warp_for_two_sets_of_points_is_an_error():
  told = r'points: B=2 in shape \(2, 4, 2\), but coefficients has B=1'
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  with pytest.raises(ValueError, match=told):
    splines.apply.__wrapped__(warps(1), uniform(2, 4, 2))
  with pytest.raises(ValueError, match=told):
    splines.nearest_pixel.__wrapped__(warps(1), uniform(2, 4, 2), height=5, width=5)


def test_points_of_three_coordinates_are_an_error():
  # As many numbers as six points: the shape hook speaks first in tests.
  with pytest.raises(ValueError, match=r'points: expected \[B \*grid 2\], got shape \(2, 4, 3\)'):
    splines.apply.__wrapped__(warps(2), uniform(2, 4, 3))


def test_an_interpolating_spline_takes_every_control_point_where_it_should():
  moved = np.random.default_rng(0).normal(0, 0.1, (2, 49, 2)).astype(np.float32)
  coefficients = splines.interpolating(moved)
  grid = splines.control_grid(side=7)
  found = splines.apply(coefficients, np.broadcast_to(grid, (2, 49, 2)))
  np.testing.assert_allclose(found, grid + moved, atol=1e-4)


def test_its_coefficients_are_those_of_a_dense_solve():
  moved = np.random.default_rng(1).normal(0, 0.1, (1, 16, 2))
  line = np.linspace(-1, 1, 4)
  grid = np.array([(x, y) for y in line for x in line])
  system = np.zeros((19, 19))
  for i in range(16):
    for j in range(16):
      squared = ((grid[i] - grid[j]) ** 2).sum()
      system[i, j] = squared * np.log(squared + 1e-5)
    system[i, 16:] = system[16:, i] = 1, *grid[i]
  expected = np.linalg.solve(system, np.concatenate([grid + moved[0], np.zeros((3, 2))]))
  np.testing.assert_allclose(splines.interpolating(moved)[0], expected, atol=2e-5)
  with jax.enable_x64(True):
    np.testing.assert_allclose(splines.interpolating(moved)[0], expected, atol=1e-10)


def test_an_affine_displacement_bends_nothing():
  grid = splines.control_grid(side=5)
  matrix = np.array([[0.2, -0.1], [0.05, 0.3]], np.float32)
  found = splines.interpolating((grid @ matrix + 0.1)[None])
  np.testing.assert_allclose(found[0, :25], 0, atol=1e-4)
  np.testing.assert_allclose(found[0, 26:], np.eye(2) + matrix, atol=1e-4)


@pytest.mark.parametrize('side', [4, 10, 20])
def test_no_displacement_is_the_identity_exactly(side):
  found = np.asarray(splines.interpolating(np.zeros((2, side * side, 2), np.float32)))
  assert not found[:, :-2].any()
  np.testing.assert_array_equal(found[:, -2:], [np.eye(2)] * 2)


@pytest.mark.parametrize('side', [10, 20])
def test_small_displacements_are_as_accurate_as_float32_allows(side):
  moved = np.random.default_rng(2).normal(0, 1e-3, (1, side * side, 2)).astype(np.float32)
  found = splines.interpolating(moved)
  with jax.enable_x64(True):
    exact = splines.interpolating(moved.astype(float))
  assert exact.dtype == np.float64
  np.testing.assert_allclose(found, exact, atol=2e-6 * np.abs(exact[:, :-2]).max())


def test_displacements_of_no_square_grid_are_refused():
  with pytest.raises(ValueError, match=r'such as 49 for .* of 7; got shape \(1, 48, 2\)'):
    splines.interpolating(np.zeros((1, 48, 2), np.float32))

"""Colour: against a loop over pixels in every order, against Pillow, and the published noise."""

import colorsys
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps

from landmarks_jax.augment import blur, colour

ORDERS = list(itertools.permutations(range(3)))
adjust = jax.jit(colour.adjust)


jitter = jax.jit(colour.random_jitter, static_argnames='strength')
add_pca_noise = jax.jit(colour.add_pca_noise, static_argnames='deviation')


def pictures(count, *, low=0, high=255, seed=0):
  r = np.random.default_rng(seed)
  return r.uniform(low, high, (count, 5, 7, 3)).astype(np.float32)


def factors(count, *, strength=0.4, seed=1):
  r = np.random.default_rng(seed)
  return r.uniform(1 - strength, 1 + strength, (count, 3)).astype(np.float32)


def grey(r, g, b):
  return 0.299 * r + 0.587 * g + 0.114 * b


def step_oracle(image, kind, factor):
  """One adjustment of one picture, pixel by pixel, in float64."""
  rows, columns, _ = image.shape
  mean = sum(grey(*image[i, j]) for i in range(rows) for j in range(columns)) / (rows * columns)
  out = np.zeros_like(image)
  for i in range(rows):
    for j in range(columns):
      ground = {'brightness': 0, 'contrast': mean, 'saturation': grey(*image[i, j])}[kind]
      for c in range(3):
        out[i, j, c] = min(max(factor * image[i, j, c] + (1 - factor) * ground, 0), 255)
  return out


NAMES = ['brightness', 'contrast', 'saturation']


def oracle(image, factors, order):
  image = image.astype(float)
  for kind in order:
    image = step_oracle(image, NAMES[kind], float(factors[kind]))
  return image


@pytest.mark.parametrize('strength', [0.4, 1.0])
def test_every_order_is_the_slow_loop(strength):
  image, factor, order = pictures(6), factors(6, strength=strength), np.array(ORDERS)
  out = np.asarray(adjust(image, factor, order))
  for b in range(6):
    np.testing.assert_allclose(out[b], oracle(image[b], factor[b], ORDERS[b]), atol=1e-3)
  assert out.min() == 0  # something was clipped, so that the clipping was tested
  assert out.max() == 255


def test_orders_differ():
  # The three commute as long as nothing is clipped: these factors clip.
  image, factor = np.repeat(pictures(1), 6, axis=0), np.tile(np.float32([1.7, 0.6, 1.9]), (6, 1))
  out = np.asarray(adjust(image, factor, np.array(ORDERS)))
  for a, b in itertools.combinations(out, 2):
    assert np.abs(a - b).max() > 1


ENHANCERS = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]


@pytest.mark.parametrize('kind', range(3))
@pytest.mark.parametrize('factor', [0.6, 0.85, 1.4])
def test_one_adjustment_is_pillows(kind, factor):
  image = np.random.default_rng(2).integers(0, 256, (1, 31, 23, 3), np.uint8)
  weights = np.ones((1, 3), np.float32)
  weights[0, kind] = factor
  out = adjust(image.astype(np.float32), weights, np.array([[0, 1, 2]]))
  expected = ENHANCERS[kind](Image.fromarray(image[0])).enhance(factor)
  assert np.abs(np.asarray(out[0]) - np.asarray(expected, np.float32)).max() <= 1.5


@pytest.mark.parametrize('order', ORDERS)
def test_three_adjustments_are_pillows_within_its_rounding(order):
  image = np.random.default_rng(3).integers(0, 256, (1, 31, 23, 3), np.uint8)
  weights = np.float32([[1.35, 0.7, 1.25]])
  expected = Image.fromarray(image[0])
  for kind in order:
    expected = ENHANCERS[kind](expected).enhance(float(weights[0, kind]))
  out = np.asarray(adjust(image.astype(np.float32), weights, np.array([order])))[0]
  assert np.abs(out - np.asarray(expected, np.float32)).max() <= 3 * 1.5


def test_factors_of_one_change_nothing():
  image = pictures(6)
  out = adjust(image, np.ones((6, 3), np.float32), np.array(ORDERS))
  np.testing.assert_allclose(out, image, atol=1e-4)


@pytest.mark.parametrize('kind', range(3))
def test_a_factor_of_zero_gives_the_ground(kind):
  image, factor = pictures(1), np.ones((1, 3), np.float32)
  factor[0, kind] = 0
  light = (image * [0.299, 0.587, 0.114]).sum(-1, keepdims=True)
  ground = [0 * image, light.mean() + 0 * image, light + 0 * image][kind]
  np.testing.assert_allclose(adjust(image, factor, np.array([[0, 1, 2]])), ground, atol=1e-3)


def test_the_mean_grey_is_each_pictures_own():
  image, factor, order = pictures(6), factors(6), np.array(ORDERS)
  together = np.asarray(adjust(image, factor, order))
  for b in range(6):
    alone = adjust(image[b : b + 1], factor[b : b + 1], order[b : b + 1])
    np.testing.assert_allclose(together[b], alone[0], atol=1e-4)


def test_jitter_draws_uniform_factors_and_every_order():
  # On a grey picture without clipping only brightness shows, whatever the order.
  image = np.full((3000, 1, 1, 3), 100, np.float32)
  drawn = np.asarray(jitter(jax.random.key(0), image, strength=0.3))[:, 0, 0, 0] / 100
  assert drawn.min() >= 0.7
  assert drawn.max() <= 1.3
  quantiles = np.quantile(drawn, [0.1, 0.25, 0.5, 0.75, 0.9])
  np.testing.assert_allclose(quantiles, [0.76, 0.85, 1.0, 1.15, 1.24], atol=0.03)
  assert sorted(map(tuple, colour.ORDERS.tolist())) == ORDERS


def test_jitter_is_one_of_the_six_orders_of_its_factors():
  count, rng = 120, jax.random.key(4)
  image = pictures(count)
  out = np.asarray(jitter(rng, image, strength=0.9))
  # The factors, as the function draws them; the order is found by trying all six.
  rng_factors, _ = jax.random.split(rng)
  drawn = np.asarray(jax.random.uniform(rng_factors, (count, 3), minval=0.1, maxval=1.9))
  tried = np.stack([adjust(image, drawn, np.tile(order, (count, 1))) for order in ORDERS])
  misses = np.abs(tried - out).max((2, 3, 4))
  assert misses.min(0).max() < 1e-3
  plain = np.sort(misses, axis=0)[1] > 0.1  # where clipping tells the orders apart
  found = np.bincount(misses.argmin(0)[plain], minlength=6)
  assert found.min() >= 2


def test_jitter_of_no_strength_changes_nothing():
  image = pictures(5)
  same = jitter(jax.random.key(0), image, strength=0.0)
  np.testing.assert_allclose(same, image, atol=1e-4)


@pytest.mark.parametrize('kind', ['face', 'animal'])
def test_matches_the_published_lighting_noise(golden, kind):
  g = golden('pca_aug')
  image = 255 * g[f'{kind}_x'].transpose(1, 2, 0)[None]
  out = add_pca_noise(image, g[f'{kind}_randn'][None])
  expected = g[f'{kind}_out'].transpose(1, 2, 0)[None]
  np.testing.assert_allclose(np.asarray(out) / 255, expected, atol=1e-6)
  np.testing.assert_array_equal(colour.EIGENVALUES, g['eigval'])
  np.testing.assert_array_equal(colour.EIGENVECTORS, g['eigvec'])


def test_lighting_noise_is_the_slow_sum_and_not_clipped():
  image, normals = pictures(3), np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
  out = np.asarray(add_pca_noise(image, normals, deviation=0.7))
  for b in range(3):
    for c in range(3):
      shift = 0.0
      for j in range(3):
        weight = 0.7 * float(normals[b, j]) * float(colour.EIGENVALUES[j])
        shift += float(colour.EIGENVECTORS[c, j]) * weight
      np.testing.assert_allclose(out[b, ..., c], image[b, ..., c] + 255 * shift, atol=1e-3)
  edge = np.array([0, 255], np.float32)[:, None, None, None] * np.ones((2, 1, 1, 3), np.float32)
  beyond = np.asarray(add_pca_noise(edge, np.float32([[2, 0, 0], [-2, 0, 0]])))
  assert beyond.min() < 0
  assert beyond.max() > 255


def test_random_lighting_noise_has_the_deviation_it_was_told():
  image = np.zeros((4000, 1, 1, 3), np.float32)
  out = np.asarray(colour.random_pca_noise(jax.random.key(0), image, deviation=0.2))[:, 0, 0]
  spread = 255 * 0.2 * colour.EIGENVECTORS * colour.EIGENVALUES
  np.testing.assert_allclose(np.cov(out.T), spread @ spread.T, rtol=0.1, atol=0.05)
  assert len(np.unique(out[:, 0])) > 3900


def test_standardised_channels_have_mean_zero_and_deviation_one():
  image = pictures(2)
  values = image.reshape(-1, 3).astype(float) / 255
  out = colour.standardise(image, mean=tuple(values.mean(0)), std=tuple(values.std(0)))
  out = np.asarray(out, float).reshape(-1, 3)
  np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(out.std(0), 1, rtol=1e-5)


def test_the_same_draws_give_the_same_colours_on_one_and_on_eight_devices():
  image = pictures(16)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  spread = NamedSharding(mesh, PartitionSpec('data'))
  for function in (colour.random_jitter, colour.random_pca_noise):
    one = jax.jit(function)(jax.random.key(3), image)
    eight = jax.jit(function, out_shardings=spread)(
      jax.random.key(3), jax.device_put(image, spread)
    )
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(eight, one, atol=1e-3)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    image, factor = pictures(6).astype(float), factors(6).astype(float)
    adjusted = adjust(image, factor, np.array(ORDERS))
    noisy = colour.random_pca_noise(jax.random.key(0), image)
    jittered = jitter(jax.random.key(0), image)
    standard = colour.standardise(image, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert {x.dtype for x in (adjusted, noisy, jittered, standard)} == {np.dtype(float)}
    expected = (image / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    np.testing.assert_allclose(standard, expected, atol=1e-13)
    # The weights of grey are stored in float32.
    np.testing.assert_allclose(adjusted[3], oracle(image[3], factor[3], ORDERS[3]), atol=1e-5)


def test_it_follows_the_type_of_the_picture():
  image = jnp.asarray(pictures(2), jnp.bfloat16)
  out = add_pca_noise(image, np.zeros((2, 3), np.float32))
  np.testing.assert_array_equal(np.asarray(out, np.float32), np.asarray(image, np.float32))


# The views of BYOL and SCRL: hue, grey, solarisation


def hue_oracle(image, turns):
  """Python's own HSV, pixel by pixel."""
  out = np.zeros_like(image, dtype=float)
  for place in np.ndindex(image.shape[:2]):
    h, s, v = colorsys.rgb_to_hsv(*image[place].astype(float))
    out[place] = colorsys.hsv_to_rgb((h + turns) % 1, s, v)
  return out


def test_a_shift_of_the_hue_is_that_of_pythons_hsv():
  image = pictures(5)
  image[:, 0] = image[:, 0, :, :1]  # grey pixels
  image[:, 1, :, 1] = image[:, 1, :, 0]  # two channels alike
  turns = np.float32([0, 0.1, -0.1, 0.37, -0.9])
  found = jax.jit(colour.shift_hue)(image, turns)
  for one, turn, own in zip(image, turns, found, strict=True):
    np.testing.assert_allclose(own, hue_oracle(one, turn), atol=2e-3)
  np.testing.assert_allclose(found[:, 0], image[:, 0], atol=1e-3)


def test_no_channel_must_equal_the_greatest_to_have_its_hue():
  """Where a compiler computes a channel twice, the two can round apart."""
  text = jax.jit(colour.shift_hue).lower(jnp.ones((2, 3, 3, 3)), jnp.ones(2)).as_text()
  assert 'stablehlo.compare GE' in text
  assert 'stablehlo.compare EQ' not in text


def test_with_hue_every_order_is_the_slow_loop():
  r = np.random.default_rng(4)
  orders = colour.ORDERS_WITH_HUE
  image = pictures(24, low=30, high=220)
  given = np.concatenate([factors(24, strength=0.3), r.uniform(-0.1, 0.1, (24, 1))], 1)
  found = adjust(image, given.astype('f'), orders)
  for one, factor, order, own in zip(image, given, orders, found, strict=True):
    expected = one.astype(float)
    for kind in order:
      if kind == colour.HUE:
        expected = hue_oracle(expected, factor[3])
      else:
        expected = step_oracle(expected, NAMES[kind], float(factor[kind]))
    np.testing.assert_allclose(own, expected, atol=5e-3)


def test_strengths_and_probability_are_those_asked_for():
  image = np.tile(np.float32([80, 100, 120]), (400, 2, 2, 1))
  dark = (0.4, 0.0, 0.0, 0.0)  # of 4 pictures in 5, unless told otherwise
  found = np.asarray(colour.random_colour(jax.random.key(0), image, strengths=dark))[:, 0, 0]
  factor = found[:, 0] / 80
  np.testing.assert_allclose(found, factor[:, None] * [80, 100, 120], rtol=1e-4)
  changed = np.abs(factor - 1) > 1e-6
  assert abs(changed.mean() - 0.8) < 0.08
  np.testing.assert_allclose([factor.min(), factor.max()], [0.6, 1.4], atol=0.02)
  turned = {'strengths': (0.0, 0.0, 0.0, 0.1), 'probability': 1.0}
  found = np.asarray(colour.random_colour(jax.random.key(0), image, **turned))[:, 0, 0]
  hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in found])
  hue = colorsys.rgb_to_hsv(80, 100, 120)[0]
  np.testing.assert_allclose([hues.min() - hue, hues.max() - hue], [-0.1, 0.1], atol=0.003)


def test_the_four_changes_of_colour_and_their_order_are_drawn_apart(monkeypatch):
  drawn = []
  monkeypatch.setattr(colour, 'adjust', lambda image, *given: drawn.append(given) or image)
  image = np.zeros((2400, 1, 1, 3), np.float32)
  colour.random_colour(jax.random.key(0), image, strengths=(0.4, 0.3, 0.2, 0.1), probability=1.0)
  factors, order = map(np.asarray, drawn[0])
  np.testing.assert_allclose(np.ptp(factors, axis=0), [0.8, 0.6, 0.4, 0.2], rtol=0.02)
  draws = np.column_stack([factors, order[:, 0]])
  assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.08
  counts = np.unique(order, axis=0, return_counts=True)[1]
  assert len(counts) == 24
  assert np.abs(counts - 100).max() < 40


def test_some_pictures_become_grey_or_solarised_and_the_others_stay():
  image = pictures(400)
  grey_ones = np.asarray(colour.random_grey(jax.random.key(1), image, probability=0.2))
  expected = np.array([ImageOps.solarize(Image.fromarray(p.astype('u1')), 128) for p in image])
  whole = image.astype('u1').astype('f')
  solarised = np.asarray(colour.random_solarisation(jax.random.key(2), whole, probability=0.2))
  luma = sum(w * image[..., c] for c, w in enumerate((0.299, 0.587, 0.114)))[..., None]
  for found, plain, other in ((grey_ones, image, luma), (solarised, whole, expected)):
    changed = np.abs(found - plain).max((1, 2, 3)) > 0
    assert abs(changed.mean() - 0.2) < 0.08
    np.testing.assert_allclose(
      found[changed], np.broadcast_to(other, plain.shape)[changed], atol=1e-3
    )


def test_exposure_is_that_of_a_loop_over_pictures_and_channels():
  image = np.random.default_rng(0).uniform(0, 255, (3, 4, 5, 3)).astype(np.float32)
  offsets, factors = np.array([20.0, -15, 0]), np.array([0.5, 1.4, 1])
  found = colour.expose(image, offsets, factors)
  for b, c in np.ndindex(3, 3):
    shifted = image[b, :, :, c] + offsets[b]
    expected = np.clip(shifted.mean() + factors[b] * (shifted - shifted.mean()), 0, 255)
    np.testing.assert_allclose(found[b, :, :, c], expected, rtol=1e-4, atol=1e-3)


def test_exposures_are_drawn_within_their_bounds_and_may_be_shared():
  grey = np.broadcast_to(np.float32([[100], [140]]), (2000, 2, 1))[..., None]
  draw = functools.partial(colour.random_exposure, jax.random.key(0), grey)
  found = np.asarray(draw(brightness=0.1, contrast=0.5))[..., 0]
  offsets, factors = found.mean((1, 2)) - 120, (found[:, 1] - found[:, 0])[:, 0] / 40
  for drawn, low, high in ((offsets, -25.5, 25.5), (factors, 0.5, 1.5)):
    assert low <= drawn.min() + 1e-3
    assert drawn.max() <= high + 1e-3
    np.testing.assert_allclose(drawn.std(), (high - low) / 12**0.5, rtol=0.05)
  assert abs(np.corrcoef(offsets, factors)[0, 1]) < 0.1
  shared = np.asarray(draw(brightness=0.1, contrast=0.5, shared=True))
  assert (shared == shared[:1]).all()


CHANCES = {
  'coloured': colour.random_colour,
  'grey': colour.random_grey,
  'blurred': blur.random_blur,
  'solarised': colour.random_solarisation,
}


STRENGTHS = {
  'the colour jitter': lambda rng, x, s: colour.random_jitter.__wrapped__(rng, x, strength=s),
  'the contrast': lambda rng, x, s: colour.random_exposure.__wrapped__(rng, x, contrast=s),
}


@pytest.mark.parametrize('what', STRENGTHS)
def test_a_strength_may_be_a_whole_number_or_traced_and_keeps_factors_positive(what):
  change, rng, image = STRENGTHS[what], jax.random.key(0), pictures(6)
  np.testing.assert_array_equal(change(rng, image, 1), change(rng, image, 1.0))
  traced = jax.jit(lambda strength: change(rng, image, strength))(0.5)
  np.testing.assert_allclose(traced, change(rng, image, 0.5), atol=1e-2)
  for wrong in (2, -0.4, float('nan')):
    with pytest.raises(ValueError, match=rf'^strength={wrong} of {what}: expected 0 to 1$'):
      change(rng, image, wrong)


def test_the_colour_jitter_of_views_has_four_strengths_of_0_to_1():
  change = functools.partial(colour.random_colour, jax.random.key(0), pictures(2))
  for wrong in (-0.4, 1.5):
    for place in range(4):
      strengths = (*[0.1] * place, wrong, *[0.1] * (3 - place))
      with pytest.raises(ValueError, match=rf'^strength={wrong} of the colour jitter: expected 0 '):
        change(strengths=strengths)
  for strengths in ((0.4,), (0.4, 0.4, 0.2)):
    message = rf'^strengths={re.escape(str(strengths))}: expected four, of brightness, contrast, '
    with pytest.raises(ValueError, match=message):
      change(strengths=strengths)


@pytest.mark.parametrize('what', CHANCES)
def test_a_probability_may_be_a_whole_number_or_traced_and_must_be_one(what):
  change = CHANCES[what].__wrapped__  # the shape hook knows no whole number as a float
  rng, image = jax.random.key(0), pictures(6)[:, :, :5]
  for whole in (0, 1):
    expected = change(rng, image, probability=float(whole))
    np.testing.assert_array_equal(change(rng, image, probability=whole), expected)
  assert np.abs(change(rng, image, probability=1) - image).max() > 1
  np.testing.assert_allclose(change(rng, image, probability=0), image, atol=1e-3)
  traced = jax.jit(lambda chance: change(rng, image, probability=chance))(0.5)
  np.testing.assert_allclose(traced, change(rng, image, probability=0.5), atol=1e-2)
  for wrong in (2, -0.1, float('nan')):
    message = rf'^probability={wrong} of {what} pictures: expected 0 to 1$'
    with pytest.raises(ValueError, match=message):
      change(rng, image, probability=wrong)


@pytest.mark.parametrize(
  'values', [None, 'abc', 5, (0.1, 0.2), (0.1, 0.2, None), (0.1, 0.2, np.nan), (np.inf, 1, 1)]
)
def test_statistics_that_standardise_nothing_are_told(values):
  colour.check_statistics(mean=(0, 0, 0), std=[1, 1, 0.5])
  colour.check_statistics(mean=np.zeros(3), std=np.ones(3, np.float32))
  for name in ('mean', 'std'):
    with pytest.raises(ValueError, match=rf'^where\.{name}=.*: expected three numbers'):
      colour.check_statistics(where='where.', **{name: values})
  for one in (0, -1, 10**400, 1e-40):
    with pytest.raises(ValueError, match=r'expected three numbers, .*, above 0'):
      colour.check_statistics(std=(1, one, 1))

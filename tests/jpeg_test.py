"""JPEG noise against Pillow's encoder, decoder and resize; the draws; one device against eight."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from landmarks_jax.augment import jpeg
from landmarks_jax.contracts import Batch
from landmarks_jax.data.synthetic import faces
from landmarks_jax.methods import moco

QUALITIES = np.array([30, 50, 75, 90, 98])
compress = jax.jit(jpeg.compress)
add_noise = jax.jit(jpeg.add_noise)
random_noise = jax.jit(jpeg.random_noise)
random_sides = jax.jit(jpeg.random_sides, static_argnums=1, static_argnames='side')


@functools.cache
def pictures(side):
  """Two rendered faces and one of strong colours with an edge along each border."""
  source = faces.source(frame=side, count=2)
  rows, columns = np.mgrid[:side, :side]
  bands = np.stack([rows // 3 % 2 * 255, columns // 5 % 2 * 255, (rows + 2 * columns) % 255], -1)
  bands[-1], bands[:, -1], bands[0] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
  return np.stack([source[0]['image'], source[1]['image'], bands.astype(np.uint8)])


def pillow(image, quality):
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=int(quality))
  return np.asarray(Image.open(file))


def pillow_noise(image, side, quality):
  def resize(picture, size):
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))

  return resize(pillow(resize(image, int(side)), quality), len(image))


def as_float(image):
  return image.astype(np.float32)


@pytest.mark.parametrize('side', [48, 41, 54, 70])
def test_pictures_are_what_pillow_reads_back(side):
  image = np.concatenate([pictures(side)] * 5)
  quality = QUALITIES.repeat(3)
  ours = np.asarray(compress(as_float(image), quality))
  theirs = np.stack([pillow(*pair) for pair in zip(image, quality, strict=True)]).astype(float)
  difference = np.abs(ours - theirs).mean((1, 2, 3))
  assert difference.max() < 0.4
  assert difference.mean() < 0.15
  assert np.abs(theirs - image).mean((1, 2, 3)).min() > 5 * difference.max()
  # Faults at the borders would drown in the mean.
  for border in (np.s_[:, -1], np.s_[:, :, -1], np.s_[:, 0], np.s_[:, :, 0]):
    assert np.abs(ours[border] - theirs[border]).mean() < 0.4


def test_the_tables_are_libjpegs_at_every_quality():
  qualities = np.arange(1, 101)
  ours = np.asarray(jpeg.quantisation_tables(qualities))
  for quality, tables in zip(qualities, ours, strict=True):
    file = io.BytesIO()
    Image.new('RGB', (16, 16)).save(file, 'JPEG', quality=int(quality))
    theirs = Image.open(file).quantization
    np.testing.assert_array_equal(tables, [theirs[0], theirs[1]])


@pytest.mark.parametrize('side', [41, 48])
def test_noise_is_pillows_at_the_same_sides_and_qualities(side):
  sides = np.array([int(0.8 * side), side - 3, side, side + 1, int(1.4 * side), 2 * side])
  sides, quality = sides.repeat(3), np.resize([98, 43, 75, 30, 60], 18)
  image = np.concatenate([pictures(side)] * 6)
  ours = np.asarray(add_noise(as_float(image), sides, quality))
  theirs = np.stack([pillow_noise(*x) for x in zip(image, sides, quality, strict=True)])
  difference = np.abs(ours - theirs).mean((1, 2, 3))
  assert difference.max() < 0.8
  assert difference.mean() < 0.25
  for border in (np.s_[:, -1], np.s_[:, :, -1], np.s_[:, 0], np.s_[:, :, 0]):
    assert np.abs(ours[border] - theirs[border]).mean() < 0.4


def test_at_every_quality_and_a_random_side_a_picture_is_within_a_grey_level_of_pillows():
  quality = np.arange(30, 99)
  image = np.resize(pictures(41), (len(quality), 41, 41, 3))
  sides = np.asarray(random_sides(jax.random.key(3), len(quality), side=41))
  assert len(np.unique(sides)) > 20
  coded = np.stack([pillow(*one) for one in zip(image, quality, strict=True)])
  noisy = np.stack([pillow_noise(*one) for one in zip(image, sides, quality, strict=True)])
  for ours, theirs in (
    (compress(as_float(image), quality), coded),
    (add_noise(as_float(image), sides, quality), noisy),
  ):
    assert np.abs(np.asarray(ours) - theirs).mean((1, 2, 3)).max() < 1


def test_whole_values_come_out_and_fractions_are_rounded_first():
  image, quality = as_float(pictures(41)), np.array([30, 98, 70])
  shift = np.random.default_rng(0).uniform(-0.49, 0.49, image.shape).astype(np.float32)
  for out, again in (
    (compress(image, quality), compress(image + shift, quality)),
    (add_noise(image, quality, quality), add_noise(image + shift, quality, quality)),
  ):
    np.testing.assert_array_equal(out, again)
    np.testing.assert_array_equal(out, np.round(out))
    assert np.min(out) >= 0
    assert np.max(out) <= 255


def test_the_random_step_is_noise_with_its_own_draws():
  image = np.concatenate([as_float(pictures(41))[:1]] * 8)
  rng = jax.random.key(4)
  out = np.asarray(random_noise(rng, image))
  rng_side, rng_quality = jax.random.split(rng)
  sides = np.asarray(random_sides(rng_side, 8, side=41))
  quality = np.asarray(jax.random.randint(rng_quality, (8,), 30, 99))
  for picture, side, q in zip(out, sides, quality, strict=True):
    theirs = pillow_noise(image[0].astype(np.uint8), side, q)
    assert np.abs(picture - theirs).mean() < 0.8
  assert len(np.unique(out.reshape(8, -1), axis=0)) == 8
  np.testing.assert_array_equal(out, random_noise(rng, image))
  assert np.abs(out - np.asarray(random_noise(jax.random.key(5), image))).max() > 1


@pytest.mark.parametrize(('side', 'floor'), [(136, 108), (90, 72), (17, 13)])
def test_sides_are_normal_with_a_floor_and_a_ceiling(side, floor):
  sides = np.asarray(random_sides(jax.random.key(0), 40_000, side=side))
  assert sides.min() == floor
  assert sides.max() == 2 * side
  draws = np.random.default_rng(0).standard_normal(400_000)
  expected = [
    int(x) for x in np.clip(np.maximum(0.8 * side, side * (1 + 0.5 * draws)), 0, 2 * side)
  ]
  for share in (lambda s: s == floor, lambda s: s == 2 * side, lambda s: s < 1.3 * side):
    np.testing.assert_allclose(share(sides).mean(), share(np.array(expected)).mean(), atol=0.008)
  np.testing.assert_allclose(sides.mean(), np.mean(expected), rtol=0.01)
  assert 0.018 < (sides == 2 * side).mean() < 0.028


def test_qualities_are_uniform_from_30_to_98_and_apart_from_the_sides(monkeypatch):
  drawn = []
  monkeypatch.setattr(jpeg, 'add_noise', lambda image, *draws: drawn.append(draws) or image)
  jpeg.random_noise(jax.random.key(1), np.zeros((20_000, 5, 5, 3), np.float32))
  sides, quality = map(np.asarray, drawn[0])
  assert quality.min() == 30
  assert quality.max() == 98
  counts = np.bincount(quality - 30)
  assert np.abs(counts / 20_000 * 69 - 1).max() < 0.3
  assert abs(np.corrcoef(sides, quality)[0, 1]) < 0.03


def test_the_same_draws_give_the_same_noise_on_one_and_on_eight_devices():
  image = np.concatenate([as_float(pictures(41))] * 6)[:16]
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rng = jax.random.key(7)
  one = random_noise(rng, image)
  eight = random_noise(
    jax.device_put(rng, NamedSharding(mesh, PartitionSpec())),
    jax.device_put(image, NamedSharding(mesh, PartitionSpec('data'))),
  )
  assert len(one.sharding.device_set) == 1
  assert len(eight.sharding.device_set) == 8
  assert not eight.sharding.is_fully_replicated  # each device makes its own pictures
  np.testing.assert_array_equal(eight, one)


def test_a_picture_does_not_depend_on_its_batch():
  image, quality = as_float(pictures(41)), np.array([30, 98, 70])
  whole = np.asarray(add_noise(image, np.array([33, 82, 60]), quality))
  alone = np.asarray(add_noise(image[1:2], np.array([82]), quality[1:2]))
  np.testing.assert_array_equal(whole[1:2], alone)


def test_float64_and_float32_stay_what_they_are_and_agree():
  image, sides, quality = pictures(41), np.array([33, 82, 60]), np.array([30, 98, 70])
  with jax.enable_x64(True):
    double = np.asarray(add_noise(image.astype(float), sides, quality))
    single = np.asarray(add_noise(as_float(image), sides, quality))
  assert double.dtype == np.float64
  assert single.dtype == np.float32
  assert np.abs(double - single).mean() < 0.01


def test_bfloat16_is_computed_in_float32():
  half, sides = jnp.asarray(pictures(41), jnp.bfloat16), np.array([33, 82, 60])
  quality = np.array([30, 98, 70])
  for noise, given in (add_noise, (sides, quality)), (jpeg.compress, (quality,)):
    result, exact = noise(half, *given), noise(half.astype(jnp.float32), *given)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, exact)


def test_one_quality_and_side_for_each_picture_or_an_error():
  with pytest.raises(ValueError, match=r'quality: B=2 in shape \(2,\), but image has B=3'):
    jpeg.compress.__wrapped__(as_float(pictures(41)), np.array([30, 40]))
  with pytest.raises(ValueError, match=r'sides: B=1 in shape \(1,\), but image has B=3'):
    jpeg.add_noise.__wrapped__(as_float(pictures(41)), np.array([30]), np.array([30, 40, 50]))


def test_moco_compresses_its_views_where_told_to():
  options = {'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.3, 0.25), 'margin': 4}
  options |= {'width': 0.0625, 'area': (1.0, 1.0), 'jitter': 0.0, 'pca': 0.0}
  batch = Batch(image=pictures(41))
  plain, told = (
    np.asarray(jax.jit(moco.build(**options, jpeg=told).views)(batch, jax.random.key(0)))
    for told in (False, True)
  )
  assert np.abs(told - plain).mean((2, 3, 4)).min() > 1

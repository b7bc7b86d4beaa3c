"""A view: the order of its steps, what each option leaves out, and one device against eight."""

import functools

import jax
import numpy as np
import pytest
from colour_test import oracle
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from landmarks_jax.augment import colour, crop, jpeg, views

SIDE, MARGIN = 17, 3


@functools.partial(jax.jit, static_argnames=('margin', 'area', 'aspect', 'jitter', 'pca', 'jpeg'))
def random_view(rng, image, **options):
  return views.random_view(rng, image, **options)


def frames(count=8):
  """Pictures of noise, each of its own lightness."""
  r = np.random.default_rng(0)
  low, high = r.integers(0, 100, (count, 1, 1, 1)), r.integers(150, 256, (count, 1, 1, 1))
  return r.integers(low, high, (count, SIDE, SIDE, 3)).astype(np.uint8)


def test_a_view_is_the_published_steps_one_after_the_other():
  """Pillow cuts and enlarges, a loop over pixels adjusts; only the draws are the code's."""
  rng_crop, rng_jitter, rng_pca, _ = jax.random.split(jax.random.key(9), 4)
  rng_factors, rng_order = jax.random.split(rng_jitter)
  boxes = np.asarray(crop.random_boxes(rng_crop, 8, side=SIDE))
  factors = np.asarray(jax.random.uniform(rng_factors, (8, 3), minval=0.1, maxval=1.9))
  orders = colour.ORDERS[np.asarray(jax.random.randint(rng_order, (8,), 0, 6))]
  normals = np.asarray(jax.random.normal(rng_pca, (8, 3)))
  view = random_view(jax.random.key(9), frames(), margin=MARGIN, jitter=0.9, pca=0.4)
  for b, (x, y, width, height) in enumerate(boxes.tolist()):
    channels = (Image.fromarray(plane) for plane in frames()[b].transpose(2, 0, 1).astype('f4'))
    cut = [channel.crop((x, y, x + width, y + height)) for channel in channels]
    wide = np.stack([c.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for c in cut], -1)
    shown = oracle(wide, factors[b], orders[b])[MARGIN:-MARGIN, MARGIN:-MARGIN]
    shift = colour.EIGENVECTORS @ (0.4 * normals[b] * colour.EIGENVALUES)
    np.testing.assert_allclose(view[b], shown + 255 * shift, atol=0.01)


def test_the_centre_is_cut_last():
  # The contrast's mean grey and the crop belong to the whole frame.
  rng = jax.random.key(0)
  whole = np.asarray(random_view(rng, frames(), margin=0))
  centre = np.asarray(random_view(rng, frames(), margin=MARGIN))
  assert centre.shape == (8, SIDE - 2 * MARGIN, SIDE - 2 * MARGIN, 3)
  inner = whole[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
  np.testing.assert_allclose(centre, inner, atol=1e-3)


def test_without_colour_a_view_is_a_stretched_box_of_whole_pixels():
  rows, columns = np.mgrid[:SIDE, :SIDE]
  ramp = np.stack([10 * columns, 10 * rows, 0 * rows], -1).astype(np.uint8)
  image = np.tile(ramp, (20, 1, 1, 1))
  view = np.asarray(random_view(jax.random.key(1), image, margin=4, jitter=0.0, pca=0.0)) / 10
  position = np.arange(4, SIDE - 4) + 0.5
  shapes = []
  for picture in view:
    for channel, axis in ((0, 1), (1, 0)):
      line = np.moveaxis(picture[..., channel], axis, 0)
      assert np.ptp(line, axis=1).max() < 1e-4  # x does not depend on y, nor y on x
      slope, offset = np.polyfit(position, line[:, 0], 1)
      extent, start = slope * SIDE, offset + 0.5
      np.testing.assert_allclose([extent, start], np.round([extent, start]), atol=1e-3)
      assert start > -0.1
      assert start + extent < SIDE + 0.1
      shapes.append(extent)
  width, height = np.reshape(shapes, (20, 2)).T
  assert (width * height).min() > 0.15 * SIDE**2
  assert len(np.unique(np.round(np.stack([width, height], 1)), axis=0)) > 10


def test_area_and_aspect_reach_the_crop():
  rows, columns = np.mgrid[:SIDE, :SIDE]
  image = np.tile(np.stack([10 * columns, 10 * rows, 0 * rows], -1).astype(np.uint8), (20, 1, 1, 1))
  options = {'area': (0.2, 0.3), 'aspect': (0.3, 0.5), 'margin': 4, 'jitter': 0.0, 'pca': 0.0}
  view = np.asarray(random_view(jax.random.key(1), image, **options)) / 10
  width = (view[:, 0, -1, 0] - view[:, 0, 0, 0]) * SIDE / (SIDE - 9)
  height = (view[:, -1, 0, 1] - view[:, 0, 0, 1]) * SIDE / (SIDE - 9)
  assert (width < 0.6 * height).all()
  assert (width * height < 0.4 * SIDE**2).all()


def test_lighting_noise_is_one_colour_a_picture():
  rng = jax.random.key(2)
  plain = np.asarray(random_view(rng, frames(), margin=MARGIN, jitter=0.9, pca=0.0))
  noisy = np.asarray(random_view(rng, frames(), margin=MARGIN, jitter=0.9, pca=0.4))
  shift = noisy - plain
  np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-3)
  assert len(np.unique(np.round(shift[:, 0, 0, 0], 3))) == 8


def test_jitter_stays_in_range_and_noise_does_not():
  rng = jax.random.key(3)
  plain = np.asarray(random_view(rng, frames(), margin=MARGIN, jitter=0.9, pca=0.0))
  assert plain.min() == 0
  assert plain.max() == 255
  noisy = np.asarray(random_view(rng, frames(), margin=MARGIN, jitter=0.9, pca=0.4))
  assert noisy.min() < 0 or noisy.max() > 255


def test_jitter_has_its_own_draws():
  # The crop and the noise stay as they are when the colour is left out.
  rng = jax.random.key(4)
  grey = np.repeat(frames()[..., :1], 3, axis=-1) // 4 + 90
  plain = np.asarray(random_view(rng, grey, margin=MARGIN, jitter=0.0, pca=0.0))
  coloured = np.asarray(random_view(rng, grey, margin=MARGIN, jitter=0.2, pca=0.0))
  for a, b in zip(plain, coloured, strict=True):
    # Unclipped grey pictures change by one factor and one constant: they are perfectly correlated.
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 1 - 1e-5
  assert np.abs(coloured - plain).max((1, 2, 3)).min() > 0.5


def test_pictures_are_compressed_first_and_only_if_told_to():
  rng = jax.random.key(8)
  compressed = jax.jit(jpeg.random_noise)(jax.random.split(rng, 4)[3], frames().astype(np.float32))
  compressed = np.asarray(compressed).astype(np.uint8)
  told = np.asarray(random_view(rng, frames(), margin=MARGIN, jpeg=True))
  plain = np.asarray(random_view(rng, frames(), margin=MARGIN))
  np.testing.assert_allclose(told, random_view(rng, compressed, margin=MARGIN), atol=1e-2)
  assert np.abs(told - plain).mean((1, 2, 3)).min() > 2


def test_strengths_reach_the_colour():
  # On flat grey only brightness shows: its factor and the noise are in proportion to the strength.
  flat, rng = np.full((8, SIDE, SIDE, 3), 100, np.uint8), jax.random.key(8)
  options = [{'jitter': 0.3, 'pca': 0.0}, {'jitter': 0.15, 'pca': 0.0}]
  options += [{'jitter': 0.0, 'pca': 0.3}, {'jitter': 0.0, 'pca': 0.15}]
  views_of = (random_view(rng, flat, margin=MARGIN, **one) for one in options)
  strong, weak, loud, soft = (np.asarray(view, float) - 100 for view in views_of)
  np.testing.assert_allclose(strong, 2 * weak, atol=1e-3)
  np.testing.assert_allclose(loud, 2 * soft, atol=1e-3)
  assert np.abs(strong).max() <= 30
  assert min(np.abs(strong).max(), np.abs(loud).max()) > 5


def test_every_picture_has_its_own_draws_and_every_rng_its_own_views():
  same = np.tile(frames(1), (8, 1, 1, 1))
  view = np.asarray(random_view(jax.random.key(5), same, margin=MARGIN))
  again = np.asarray(random_view(jax.random.key(5), same, margin=MARGIN))
  other = np.asarray(random_view(jax.random.key(6), same, margin=MARGIN))
  np.testing.assert_array_equal(view, again)
  assert len(np.unique(np.round(view[:, 0, 0], 2), axis=0)) == 8
  assert np.abs(view - other).max((1, 2, 3)).min() > 1


def test_the_same_draws_give_the_same_view_on_one_and_on_eight_devices():
  image, rng = frames(16), jax.random.key(7)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  spread = NamedSharding(mesh, PartitionSpec('data'))
  one = random_view(rng, image, margin=MARGIN)
  eight = random_view(
    jax.device_put(rng, NamedSharding(mesh, PartitionSpec())),
    jax.device_put(image, spread),
    margin=MARGIN,
  )
  assert len(one.sharding.device_set) == 1
  assert len(eight.sharding.device_set) == 8
  assert not eight.sharding.is_fully_replicated  # each device makes its own pictures
  np.testing.assert_allclose(eight, one, atol=1e-3)


def test_bytes_become_float32():
  view = random_view(jax.random.key(0), frames(), margin=MARGIN)
  assert view.dtype == np.float32


def test_a_margin_that_leaves_nothing_is_an_error():
  with pytest.raises(ValueError, match=r'margin=8: a frame of \(17, 17\) pixels can lose 0 to 7'):
    random_view(jax.random.key(0), frames(), margin=8)

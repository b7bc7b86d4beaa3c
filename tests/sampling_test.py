"""Gathers and separable crops against slow loops, PyTorch's numbers and Pillow."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.geometry import coords, sampling

bilinear = jax.jit(sampling.bilinear)
crop_resize = jax.jit(sampling.crop_resize, static_argnames='size')


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def bilinear_oracle(image, points):
  """One sample after the other, in float64; zero outside."""
  batch, height, width, channels = image.shape
  out = np.zeros((*points.shape[:2], channels))
  for b in range(batch):
    for p, (x_n, y_n) in enumerate(points[b].astype(float)):
      x, y = (x_n + 1) / 2 * (width - 1), (y_n + 1) / 2 * (height - 1)
      for row in range(height):
        for column in range(width):
          weight = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
          out[b, p] += weight * image[b, row, column]
  return out


def crop_oracle(image, box, size):
  """Cuts, then stretches with half-pixel centres and clamped edges: one pixel after the other."""
  x, y, width, height = box
  part = image[y : y + height, x : x + width].astype(float)
  out = np.zeros((size, size, image.shape[-1]))
  for row in range(size):
    for column in range(size):
      v = min(max((row + 0.5) * height / size - 0.5, 0), height - 1)
      u = min(max((column + 0.5) * width / size - 0.5, 0), width - 1)
      top, left = int(v), int(u)
      bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
      upper = part[top, left] * (1 - u + left) + part[top, right] * (u - left)
      lower = part[bottom, left] * (1 - u + left) + part[bottom, right] * (u - left)
      out[row, column] = upper * (1 - v + top) + lower * (v - top)
  return out


BOXES = np.array([[0, 0, 13, 11], [3, 2, 5, 9], [12, 10, 1, 1], [4, 0, 9, 2], [0, 5, 2, 6]])


def test_matches_grid_sample_of_torch(golden):
  g = golden('grid_sample')
  image = g['x'].transpose(0, 2, 3, 1)
  out = bilinear(image, g['grid'])
  np.testing.assert_allclose(out, g['out_align_true'].transpose(0, 2, 3, 1), atol=1e-5)


def test_a_sample_is_the_slow_sum_over_all_pixels():
  image, points = random(2, 4, 7, 3), random(2, 40, 2, seed=1)
  np.testing.assert_allclose(bilinear(image, points), bilinear_oracle(image, points), atol=1e-5)


def test_points_may_form_any_grid():
  image, points = random(2, 4, 7, 3), random(2, 3, 5, 6, 2, seed=1)
  out = bilinear(image, points)
  assert out.shape == (2, 3, 5, 6, 3)
  flat = bilinear(image, points.reshape(2, 90, 2))
  np.testing.assert_array_equal(out, flat.reshape(out.shape))


def test_sampling_at_the_pixels_gives_the_picture():
  image = random(2, 5, 8, 3)
  grid = jnp.broadcast_to(coords.pixel_grid(5, 8), (2, 5, 8, 2))
  np.testing.assert_allclose(bilinear(image, grid), image, atol=1e-5)


def test_far_outside_is_zero():
  points = np.float32([[[-1.5, 0], [1.5, 0], [0, -2], [0, 3], [1e30, 0], [0, -1e30]]])
  np.testing.assert_array_equal(bilinear(random(1, 5, 8, 3), points), np.zeros((1, 6, 3)))


def test_a_dot_and_its_point_move_together():
  image = np.zeros((1, 9, 12, 1), np.float32)
  image[0, 6, 3] = 1
  shift = np.float32([4, -2])  # the new picture shows at u what the old one shows at u - shift
  pixels = np.stack(np.meshgrid(np.arange(12.0), np.arange(9.0)), -1) - shift
  grid = coords.to_normalised(pixels.astype(np.float32), width=12, height=9)[None]
  moved = np.asarray(bilinear(image, grid))[0, ..., 0]
  row, column = np.unravel_index(moved.argmax(), moved.shape)
  assert (column, row) == (3 + 4, 6 - 2)
  np.testing.assert_allclose(moved[row, column], 1, atol=1e-5)


def test_the_gradient_of_points_is_the_slope_between_pixels():
  image = random(1, 5, 7, 2)
  pixels = np.array([[2.25, 1.5], [3.0, 2.0], [0.0, 0.0], [4.75, 3.0]])  # some on whole pixels
  points = coords.to_normalised(pixels, width=7, height=5).astype(np.float32)[None]
  points[0, 1] = [0, 0]  # exactly
  grad = jax.jit(jax.grad(lambda p: bilinear(image, p)[..., 1].sum()))(jnp.asarray(points))[0]
  channel = image[0, ..., 1].astype(float)
  for p, (x, y) in enumerate(pixels):
    i, j, u, v = int(y), int(x), x - int(x), y - int(y)
    a, b, c, d = channel[i, j], channel[i, j + 1], channel[i + 1, j], channel[i + 1, j + 1]
    expected = [((b - a) * (1 - v) + (d - c) * v) * 3, ((c - a) * (1 - u) + (d - b) * u) * 2]
    np.testing.assert_allclose(grad[p], expected, rtol=1e-4, atol=1e-5)


def test_a_wrong_shape_names_the_argument():
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  bare = sampling.bilinear.__wrapped__
  with pytest.raises(ValueError, match=re.escape('points: B=2 in shape (2, 4, 2), but image has')):
    bare(random(3, 4, 5, 1), random(2, 4, 2))
  with pytest.raises(ValueError, match=re.escape('image: expected [B H W C], got shape (3, 4, 5)')):
    bare(random(3, 4, 5), random(3, 4, 2))
  for wrong in ((3, 4, 1), (3, 4, 4, 3)):
    message = f'points: expected [B *grid 2], got shape {wrong}'
    with pytest.raises(ValueError, match=re.escape(message)):
      bare(random(3, 4, 5, 1), random(*wrong))


@pytest.mark.parametrize('size', [13, 17])
def test_a_crop_is_the_slow_loop(size):
  image = random(len(BOXES), 11, 13, 3)
  out = crop_resize(image, BOXES, size=size)
  for picture, box, cut in zip(image, BOXES, out, strict=True):
    np.testing.assert_allclose(cut, crop_oracle(picture, box, size), atol=1e-5)


def pillow(picture, box, size):
  x, y, width, height = (int(v) for v in box)
  part = Image.fromarray(picture).crop((x, y, x + width, y + height))
  return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR), np.float32)


def test_an_enlarged_crop_is_pillows_without_rounding():
  image = random(len(BOXES), 11, 13, 1)
  out = crop_resize(image, BOXES, size=16)
  for picture, box, cut in zip(image, BOXES, out, strict=True):
    expected = pillow(picture[..., 0], box, 16)  # mode F: Pillow in float
    np.testing.assert_allclose(cut[..., 0], expected, atol=1e-5)


def test_an_enlarged_crop_of_bytes_is_within_one_of_pillow():
  image = np.random.default_rng(3).integers(0, 256, (len(BOXES), 11, 13, 3), np.uint8)
  out = crop_resize(image.astype(np.float32), BOXES, size=16)
  for picture, box, cut in zip(image, BOXES, out, strict=True):
    assert np.abs(np.asarray(cut) - pillow(picture, box, 16)).max() <= 1  # it rounds twice
  np.testing.assert_array_equal(crop_resize(image, BOXES, size=16), out)


def test_boxes_kept_as_bytes_cut_as_others_do():
  image = np.random.default_rng(3).normal(size=(1, 310, 310, 1)).astype(np.float32)
  box = np.array([[200, 180, 100, 120]])  # to pixel 300, which a byte cannot hold
  expected = crop_resize(image, box, size=16)
  np.testing.assert_array_equal(crop_resize(image, box.astype(np.uint8), size=16), expected)


def test_inside_a_box_that_pillow_reads_around_the_pixels_agree():
  # resize(box=...) also blends pixels around the box into its border; a crop does not.
  image = np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8)
  x, y, width, height = 6, 9, 24, 17
  cut = crop_resize(image[None].astype(np.float32), np.array([[x, y, width, height]]), size=40)
  box = (x, y, x + width, y + height)
  whole = Image.fromarray(image).resize((40, 40), Image.Resampling.BILINEAR, box=box)
  inner = np.s_[2:-2, 2:-2]  # half a pixel of the box is 1.2 of the result
  assert np.abs(np.asarray(cut[0]) - np.asarray(whole, np.float32))[inner].max() <= 1


def test_the_whole_frame_is_left_as_it_is():
  image = random(2, 11, 11, 3)
  boxes = np.tile([0, 0, 11, 11], (2, 1))
  np.testing.assert_allclose(crop_resize(image, boxes, size=11), image, atol=1e-6)


def test_a_dot_moves_with_its_crop():
  image, spot = np.zeros((1, 30, 34, 1), np.float32), np.array([19.0, 11.0])
  rows, columns = np.mgrid[:30, :34]
  image[0, ..., 0] = np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / 4)
  box, size = np.array([[9, 2, 21, 17]]), 34
  cut = np.asarray(crop_resize(image, box, size=size))[0, ..., 0]
  rows, columns = np.mgrid[:size, :size]
  found = np.array([(cut * columns).sum(), (cut * rows).sum()]) / cut.sum()
  expected = (spot - box[0, :2] + 0.5) * size / box[0, 2:] - 0.5
  np.testing.assert_allclose(found, expected, atol=0.02)


def test_rows_of_an_interval_sum_to_one_and_stay_inside():
  start, extent = np.array([0, 3, 5]), np.array([9, 4, 1])
  matrix = np.asarray(sampling.interval_matrix(start, extent, side=9, size=12))
  assert matrix.shape == (3, 12, 9)
  np.testing.assert_allclose(matrix.sum(-1), 1, rtol=1e-6)
  for m, first, count in zip(matrix, start, extent, strict=True):
    outside = np.r_[0:first, first + count : 9]
    np.testing.assert_array_equal(m[:, outside], 0)


@pytest.mark.parametrize(('source', 'target'), [(17, 13), (17, 34), (17, 17), (23, 17), (34, 17)])
def test_lines_are_resized_as_pillow_does_and_the_last_sample_repeated(source, target):
  side, size, start = 36, 40, 2
  line = np.random.default_rng(source).uniform(0, 255, (1, source)).astype(np.float32)
  theirs = np.asarray(Image.fromarray(line, 'F').resize((target, 1), Image.Resampling.BILINEAR))
  padded = np.pad(line[0], (start, side - start - source), constant_values=1e6)
  place, samples = np.array([[start], [source]]), np.array([target])
  matrix = sampling.interval_matrix(*place, side=side, size=size, samples=samples)
  ours = np.asarray(matrix)[0] @ padded
  np.testing.assert_allclose(ours[:target], theirs[0], atol=1e-2)
  np.testing.assert_array_equal(ours[target:], ours[target - 1])


def test_one_box_for_two_pictures_is_an_error():
  bare = sampling.crop_resize.__wrapped__
  with pytest.raises(ValueError, match=re.escape('boxes: B=1 in shape (1, 4), but image has B=2')):
    bare(random(2, 5, 5, 1), np.array([[0, 0, 2, 2]]), size=5)
  with pytest.raises(ValueError, match=re.escape('boxes: expected [B 4], got shape (2, 3)')):
    bare(random(2, 5, 5, 1), np.zeros((2, 3), int), size=5)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    image, points = random(2, 4, 7, 3).astype(float), random(2, 40, 2, seed=1).astype(float)
    out = bilinear(image, points)
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, bilinear_oracle(image, points), atol=1e-12)
    image = random(1, 11, 13, 2).astype(float)
    cut = crop_resize(image, BOXES[1:2], size=13)
    assert cut.dtype == np.float64
    np.testing.assert_allclose(cut[0], crop_oracle(image[0], BOXES[1], 13), atol=1e-12)

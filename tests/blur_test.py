"""Blur by resizing, against Pillow's."""

import jax
import numpy as np
from PIL import Image

from landmarks_jax.augment import blur

BICUBIC = Image.Resampling.BICUBIC


def pictures(count, side=33):
  return np.random.default_rng(0).uniform(0, 255, (count, side, side, 3)).astype(np.float32)


def shrunk_and_enlarged(channel, factor):
  """By Pillow, in float."""
  side = len(channel)
  small = Image.fromarray(channel).resize((int(side / factor),) * 2, BICUBIC)
  return np.clip(small.resize((side, side), BICUBIC), 0, 255)


def test_resizing_is_pillows_bicubic():
  line = pictures(1)[0, :, :, 0]
  for size in (7, 22, 33, 50):
    expected = np.asarray(Image.fromarray(line).resize((33, size), BICUBIC))
    np.testing.assert_allclose(blur.bicubic_matrix(33, size) @ line, expected, atol=1e-3)


def test_every_picture_is_shrunk_by_one_of_the_factors_or_left_alone():
  image = pictures(300)
  found = np.asarray(
    jax.jit(lambda x: blur.random_blur(jax.random.key(0), x, probability=0.8))(image)
  )
  ways = [
    [np.stack([shrunk_and_enlarged(p[..., c], f) for c in range(3)], -1) for p in image[:40]]
    for f in (1.1, 1.2, 1.5)  # as published
  ]
  ways = np.array([*ways, image[:40]])
  apart = np.abs(ways - found[:40]).max((2, 3, 4))
  assert (apart.min(0) < 1e-2).all()
  assert len(np.unique(apart.argmin(0))) == 4
  same = np.abs(found - image).max((1, 2, 3)) < 1e-3
  assert abs(same.mean() - 0.2) < 0.08


def test_a_blurred_picture_keeps_its_mean_and_loses_its_detail():
  image = pictures(8)
  found = np.asarray(blur.random_blur(jax.random.key(1), image, probability=1.0))
  np.testing.assert_allclose(found.mean((1, 2)), image.mean((1, 2)), rtol=0.03)
  assert (found.std((1, 2)) < 0.9 * image.std((1, 2))).all()

"""Boxes of two views: where they lie, how they are distributed, and that they show the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from landmarks_jax.augment import boxes, crop
from landmarks_jax.geometry import regions, sampling
from landmarks_jax.geometry.regions import Crop

shared_boxes = jax.jit(
  boxes.shared_boxes, static_argnames=('side', 'count', 'smallest', 'overlap', 'jitter', 'tries')
)


def two_crops(count, *, frame, seed=0, area=(0.2, 1.0)):
  r = jax.random.split(jax.random.key(seed), 4)
  drawn = [crop.random_boxes(rng, count, side=frame, area=area) for rng in r[:2]]
  return [
    Crop(box.astype(float), jax.random.bernoulli(rng, 0.5, (count,)))
    for box, rng in zip(drawn, r[2:], strict=True)
  ]


def sides(found):
  return found[..., 2:] - found[..., :2]


def overlaps(found):
  """Of every box with each that was drawn before it, the greatest."""
  pairs = regions.intersection_over_union(found[:, :, None], found[:, None])
  return np.tril(pairs, -1).max(-1)


# Side of the views, smallest box; the specification's Monte-Carlo of 3,000 pairs (section 9, and 5
# for the last): valid pictures, slots that find no box apart, mean side over that of the view.
SPECIFIED = [
  (96, 32, 0.979, 0.187, 0.45),
  (96, 16, 0.996, 0.0017, 0.27),
  (224, 32, 0.998, 0.0004, 0.24),
]


@pytest.mark.parametrize(('side', 'smallest', 'valid', 'exhausted', 'mean'), SPECIFIED)
def test_statistics_are_those_of_the_specification(side, smallest, valid, exhausted, mean):
  crops = two_crops(1000, frame=136 if side == 96 else 375)
  found, known = shared_boxes(jax.random.key(1), *crops, side=side, smallest=smallest)
  found, known = np.asarray(found), np.asarray(known)
  # Estimates of 1,000 and of 3,000 pairs: four standard deviations of their difference.
  pairs = 1 / 1000 + 1 / 3000
  np.testing.assert_allclose(known.mean(), valid, atol=4 * np.sqrt(pairs * valid * (1 - valid)))
  # Boxes of a picture depend on each other: allow for three alike.
  late = overlaps(found[known][:, 0]) >= 0.5
  np.testing.assert_allclose(late.mean(), exhausted, atol=4 * np.sqrt(pairs * 3 / 10 * exhausted))
  less_zoomed = sides(found[known]).min(1)
  np.testing.assert_allclose(less_zoomed.mean() / side, mean, atol=0.01)
  if side == 224:
    assert 41 <= np.median(less_zoomed) <= 42.01


def test_boxes_lie_in_both_views_and_are_large_enough_in_the_less_zoomed_one():
  crops = two_crops(500, frame=136)
  found, known = shared_boxes(jax.random.key(1), *crops, side=96, smallest=16)
  found = np.asarray(found)[np.asarray(known)]
  assert found.min() == 0
  assert found.max() == 96
  # The canvas is rounded to whole pixels: half of one may be cut.
  assert sides(found).min() > 15.4
  assert (sides(found).min(1) < 16.5).any()


def test_a_box_shows_the_same_of_the_frame_in_both_views():
  """Views of ramps, whose channels are the frame's own pixel positions."""
  frame = side = 136  # crops are only enlarged, which keeps ramps exact
  count = 64
  rows, columns = np.mgrid[:frame, :frame].astype(np.float32)
  ramps = np.tile(np.stack([columns, rows], -1), (count, 1, 1, 1))
  crops = two_crops(count, frame=frame, seed=3)
  found, known = shared_boxes(jax.random.key(4), *crops, side=side, smallest=16)
  shown = []
  for view, (box, flipped) in enumerate(crops):
    image = np.asarray(sampling.crop_resize(ramps, np.asarray(box).astype(int), size=side))
    image = np.where(np.asarray(flipped)[:, None, None, None], image[:, :, ::-1], image)
    # What lies on the middle of each edge; an edge at 0 lies half a pixel before the first centre.
    left, top, right, bottom = np.moveaxis(np.asarray(found[:, view]), -1, 0) - 0.5
    x, y = (left + right) / 2, (top + bottom) / 2
    middles = np.stack([left, y, right, y, x, top, x, bottom], -1).reshape(count, -1, 2)
    inside = np.abs(middles - (side - 1) / 2).max(-1) <= (side - 1) / 2 - 1  # ends are clamped
    at = sampling.bilinear(image, np.float32(2 * middles / (side - 1) - 1))
    at = np.where(inside[..., None], np.asarray(at), np.nan).reshape(count, 10, 4, 2)
    mirror = np.asarray(flipped)[:, None, None, None]
    shown.append(np.where(mirror, at[:, :, [1, 0, 2, 3]], at))
  apart = np.abs(shown[0] - shown[1])[np.asarray(known)]
  assert np.isfinite(apart).mean() > 0.7
  # Most agree; a canvas of whole pixels may be half of one too large, and is cut in one view alone.
  assert np.nanmedian(apart) < 1e-3
  assert np.nanmean(apart) < 0.02
  assert np.nanmax(apart) < 1
  kinds = {(bool(a), bool(b)) for a, b in zip(crops[0].flipped, crops[1].flipped, strict=True)}
  assert len(kinds) == 4


def test_pictures_whose_views_share_too_little_are_not_valid():
  whole = Crop(jnp.float32([[0, 0, 100, 100]] * 4), jnp.zeros(4, bool))
  other = Crop(
    jnp.float32([[100, 0, 50, 50], [84, 0, 100, 100], [83, 0, 100, 100], [0, 90, 100, 100]]),
    jnp.zeros(4, bool),
  )
  found, known = shared_boxes(jax.random.key(0), whole, other, side=100, smallest=16)
  assert known.tolist() == [False, False, True, False]  # as much as `smallest` is too little
  assert np.isfinite(found).all()
  other = other._replace(box=whole.box.at[:2, 0].set(jnp.float32([83.6, 83.4])))
  found, known = shared_boxes(jax.random.key(0), whole, other, side=100, smallest=16)
  assert known.tolist() == [False, True, True, True]  # 16.4 pixels are 16, 16.6 are 17


def test_the_first_candidate_that_is_apart_is_taken_and_else_the_last():
  box = np.float32([0, 0, 10, 10])
  near, apart, beside = (box + np.float32(by) for by in ([2, 0, 2, 0], [5, 0, 5, 0], [0, 4, 0, 4]))
  candidates = np.stack(
    [[box, apart, beside], [near, apart, beside], [box, near, near], [near, beside, box]]
  )[None]
  found = boxes.first_apart(candidates, overlap=0.5)
  # near overlaps with the box by 2/3, apart by 1/3; beside by 3/7.
  np.testing.assert_array_equal(found[0], [box, apart, near, beside])


def test_small_and_large_boxes_are_as_the_slow_loop_draws_them():
  whole = Crop(jnp.float32([[0, 0, 100, 70]] * 4000), jnp.zeros(4000, bool))
  found, _ = shared_boxes(jax.random.key(0), whole, whole, side=96, count=1, smallest=13)
  found = np.asarray(found)[:, 0, 0]
  r, expected = np.random.default_rng(0), []
  for _ in range(4000):
    box = []
    for extent in (96, 96):
      cells = r.integers(1, extent // 13 + 1)
      cell, room = r.integers(0, cells), extent / cells
      length = r.integers(13, int(room) + 1)
      start = r.integers(0, int(room - length) + 1) + int(cell * room)
      box += [start, start + length]
    expected.append([box[0], box[2], box[1], box[3]])
  expected = np.array(expected)
  np.testing.assert_allclose(found, np.round(found), atol=1e-4)
  for column in range(4):  # Kolmogorov and Smirnov, one in a thousand
    steps = np.arange(97)
    shares = [(np.round(b[:, column, None]) <= steps).mean(0) for b in (found, expected)]
    assert np.abs(shares[0] - shares[1]).max() < 1.95 * np.sqrt(2 / 4000)


@pytest.mark.parametrize('jitter', [-0.1, 1.5])
def test_a_jitter_that_would_turn_boxes_inside_out_is_refused(jitter):
  with pytest.raises(ValueError, match=f'^strength={jitter} of the jitter of boxes: expected 0 to'):
    boxes.shared_boxes(jax.random.key(1), *two_crops(4, frame=40), side=40, jitter=jitter)


def test_jitter_moves_boxes_of_the_second_view_alone():
  crops = two_crops(400, frame=136, area=(0.7, 1.0))
  options = {'side': 96, 'smallest': 16}
  plain, known = shared_boxes(jax.random.key(1), *crops, **options)
  moved, _ = shared_boxes(jax.random.key(1), *crops, **options, jitter=0.1)
  plain, moved = (np.asarray(x)[np.asarray(known)] for x in (plain, moved))
  np.testing.assert_array_equal(moved[:, 0], plain[:, 0])
  inside = ((plain[:, 1] > 12) & (plain[:, 1] < 84)).all(-1)  # nothing is clipped
  assert inside.sum() > 300
  before, after = plain[:, 1][inside], moved[:, 1][inside]
  shift = (after[:, :2] - before[:, :2]) / sides(before)
  growth = sides(after) / sides(before) - 1
  for drawn in (*shift.T, *growth.T):
    np.testing.assert_allclose([drawn.min(), drawn.max()], [-0.1, 0.1], atol=0.005)
    assert abs(drawn.mean()) < 0.02


def test_boxes_follow_the_rng_alike_on_one_and_on_eight_devices():
  crops = two_crops(32, frame=136)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  spread = NamedSharding(mesh, PartitionSpec('data'))
  draw = functools.partial(boxes.shared_boxes, side=96, smallest=16)
  one = jax.jit(draw)(jax.random.key(0), *crops)
  rng = jax.device_put(jax.random.key(0), NamedSharding(mesh, PartitionSpec()))
  eight = jax.jit(draw, out_shardings=spread)(rng, *jax.device_put(crops, spread))
  np.testing.assert_allclose(eight[0], one[0], atol=1e-4)
  np.testing.assert_array_equal(eight[1], one[1])
  other = jax.jit(draw)(jax.random.key(1), *crops)
  assert (np.abs(other[0] - one[0]).max((1, 2, 3)) > 1).mean() > 0.9

"""A view: the order of its steps, what each option leaves out; pairs; one device against eight."""

import functools
import inspect

import jax
import numpy as np
import pytest
from colour_test import oracle
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from landmarks_jax.augment import blur, colour, crop, jpeg, views
from landmarks_jax.contracts import Batch
from landmarks_jax.geometry import coords, regions, sampling

SIDE, MARGIN = 17, 3
STRENGTHS = ('warp', 'subset', 'translation', 'scale', 'rotation', 'first_bending', 'first_affine')
PAIRS = {  # fixture, names before and after, margin
  'matching': ('tps_warper', '', '_nocrop', 0),
  'matching, cropped': ('tps_warper', '', '_crop', 6),
  'training': ('tps_variants', 'cldef_', '', 6),
  'dve': ('tps_variants', 'dve_', '', 6),
  'not square': ('tps_variants', 'rect_', '', 3),
}


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


ON_PICTURES = {  # what changes pictures, and what it needs beside them
  'blur.random_blur': {'probability': 1.0},
  'colour.add_pca_noise': {'normals': np.full((8, 3), 0.9, np.float32)},
  'colour.adjust': {
    'factors': np.float32([[0.7, 1.3, 0.6, 0.1]] * 8),
    'order': np.array([[0, 1, 2, 3]] * 8),
  },
  'colour.expose': {'offsets': np.full(8, 9.5, 'f'), 'factors': np.full(8, 0.6, 'f')},
  'colour.grey_of': {},
  'colour.random_colour': {'probability': 1.0},
  'colour.random_exposure': {},
  'colour.random_grey': {'probability': 0.5},
  'colour.random_jitter': {},
  'colour.random_pca_noise': {},
  'colour.random_solarisation': {'probability': 0.5},
  'colour.shift_hue': {'turns': np.full(8, 0.3, np.float32)},
  'colour.standardise': {'mean': (0.5, 0.4, 0.3), 'std': (0.3, 0.2, 0.1)},
  'crop.random_resized_crop': {},
  'crop.whole': {'size': 9},
  'jpeg.add_noise': {'sides': np.full(8, 14), 'quality': np.full(8, 60)},
  'jpeg.compress': {'quality': np.full(8, 60)},
  'jpeg.random_noise': {},
  'views.warp_pair': {},
  'views.warp_twice': {
    'first': np.zeros((8, 103, 2), np.float32),
    'second': np.full((8, 103, 2), 0.001, np.float32),
  },
}


@pytest.mark.parametrize('name', ON_PICTURES)
def test_bytes_are_changed_as_the_same_numbers_in_float32(name):
  module, function = name.split('.')
  change, options = getattr(globals()[module], function), ON_PICTURES[name]
  if 'rng' in inspect.signature(change).parameters:
    options = options | {'rng': jax.random.key(0)}
  found, expected = (change(image=x, **options) for x in (frames(), frames().astype(np.float32)))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert {x.dtype for x in jax.tree.leaves(found)} == {x.dtype for x in jax.tree.leaves(expected)}


def test_whatever_changes_pictures_is_tried_with_bytes():
  found = {
    f'{module.__name__.split(".")[-1]}.{name}'
    for module in (blur, colour, crop, jpeg, views)
    for name, thing in vars(module).items()
    if inspect.isfunction(thing)
    and thing.__module__ == module.__name__
    and name[0] != '_'
    and 'image' in inspect.signature(thing).parameters
  }
  views_of_bytes = {'views.random_view', 'views.random_located_view'}  # they take nothing else
  assert found == set(ON_PICTURES) | views_of_bytes


def test_a_margin_that_leaves_nothing_is_an_error():
  with pytest.raises(ValueError, match=r'margin=8: a frame of \(17, 17\) pixels can lose 0 to 7'):
    random_view(jax.random.key(0), frames(), margin=8)


# Views that say what they show


PLAIN = {'jitter': (0.0,) * 4, 'grey': 0.0, 'blurred': 0.0}


@pytest.mark.parametrize(('size', 'margin'), [(None, 0), (None, 3), (34, 5)])
def test_a_located_view_shows_the_frame_where_it_says(size, margin):
  """Of ramps: what a pixel of the view shows is its own place in the frame."""
  side = (size or SIDE) - 2 * margin
  rows, columns = np.mgrid[:SIDE, :SIDE]
  image = np.tile(np.stack([columns, rows, columns], -1).astype(np.uint8), (24, 1, 1, 1))
  rng = jax.random.key(3)
  view, crops = views.random_located_view(rng, image, size=size, margin=margin, **PLAIN)
  assert view.shape == (24, side, side, 3)
  box = np.asarray(crops.box)
  along = (np.arange(side) + 0.5) / side
  expected = box[:, :2, None] + box[:, 2:, None] * along - 0.5  # of pixel centres
  mirror = np.asarray(crops.flipped)[:, None]
  expected_x = np.where(mirror, expected[:, 0, ::-1], expected[:, 0])
  # Ends of a crop are clamped to its outermost pixel centre.
  np.testing.assert_allclose(view[:, side // 2, :, 0], expected_x, atol=0.501)
  np.testing.assert_allclose(view[:, :, side // 2, 1], expected[:, 1], atol=0.501)
  middle = slice(side // 4, -(side // 4))
  np.testing.assert_allclose(
    view[:, side // 2, middle, 0], expected_x[:, middle], atol=1e-3 if size is None else 0.1
  )
  assert 0 < crops.flipped.mean() < 1


def test_half_of_the_located_views_are_mirrored():
  crops_of = jax.jit(lambda *given: views.random_located_view(*given, **PLAIN)[1])
  crops = crops_of(jax.random.key(0), np.zeros((600, 6, 6, 3), np.uint8))
  assert abs(crops.flipped.mean() - 0.5) < 0.05


def test_area_and_aspect_reach_the_crop_of_a_located_view():
  options = PLAIN | {'area': (0.2, 0.3), 'aspect': (0.3, 0.5)}
  crops_of = jax.jit(lambda *given: views.random_located_view(*given, **options)[1])
  width, height = np.asarray(crops_of(jax.random.key(0), frames()).box)[:, 2:].T
  assert (width < 0.6 * height).all()
  assert (width * height < 0.4 * SIDE**2).all()


def test_a_located_view_takes_its_steps_in_order_and_as_often_as_asked():
  rng, rngs = jax.random.key(9), jax.random.split(jax.random.key(9), 6)
  view, _ = views.random_located_view(rng, frames(), **PLAIN)
  for name, given, step in (
    ('jitter', (0.4, 0.4, 0.2, 0.1), lambda x: colour.random_colour(rngs[2], x)),
    ('grey', 0.5, lambda x: colour.random_grey(rngs[3], x, probability=0.5)),
    ('blurred', 0.5, lambda x: blur.random_blur(rngs[4], x, probability=0.5)),
    ('solarised', 0.5, lambda x: colour.random_solarisation(rngs[5], x, probability=0.5)),
  ):
    found, _ = views.random_located_view(rng, frames(), **PLAIN | {name: given})
    expected = step(view)
    np.testing.assert_allclose(found, expected, atol=1e-2)
    assert np.abs(found - view).max() > 5
  every = {'grey': 1.0, 'blurred': 1.0, 'solarised': 1.0}
  found, _ = views.random_located_view(rng, frames(), **every)
  expected = colour.random_grey(rngs[3], colour.random_colour(rngs[2], view), probability=1.0)
  expected = blur.random_blur(rngs[4], expected, probability=1.0)
  expected = colour.random_solarisation(rngs[5], expected, probability=1.0)
  np.testing.assert_allclose(found, expected, atol=1e-2)


# Pairs by two warps


warp_twice = jax.jit(views.warp_twice)


def test_the_warps_of_a_pair_are_those_of_dve_unless_told_otherwise():
  parameters = inspect.signature(views.warp_pair).parameters
  found = [parameters[name].default for name in STRENGTHS]
  assert found == [1e-3, 1e-2, 0.1, 0.1, 5, 0.5, 1]


@pytest.mark.parametrize('name', PAIRS)
def test_a_pair_of_two_warps_is_the_published_one(golden, name):
  file, before, after, margin = PAIRS[name]
  g = golden(file)
  image = g['rect_im' if before == 'rect_' else 'im'].transpose(1, 2, 0)[None]
  pair = warp_twice(image, g[f'{before}weights1'][None], g[f'{before}weights2'][None])
  pair = regions.centre_crop(Batch(**pair._asdict()), margin)
  pictures = before + 'torch1.1_' if before == 'dve_' else before + 'out_'
  for picture, which in ((pair.image, 'first'), (pair.next, 'second')):
    expected = g[f'{pictures}im_{which}{after}'].transpose(1, 2, 0)
    np.testing.assert_allclose(picture[0], expected, atol=0.01)
  np.testing.assert_allclose(pair.flow, g[f'{before}flow{after}'], atol=1e-4)
  height, width = pair.flow.shape[1:3]
  to_units = 2 / np.float32([width - 1, height - 1])
  grid = coords.pixel_grid(height, width) + pair.flow * to_units
  np.testing.assert_allclose(grid, g[f'{before}grid{after}'], atol=1e-5)


def test_a_picture_is_its_next_where_the_flow_points():
  image = frames(8)[:, :13]
  pair = views.warp_pair(jax.random.key(0), image)
  rows, columns = np.mgrid[:13, :SIDE]
  pixels = np.stack([columns, rows], -1) + np.asarray(pair.flow)
  positions = coords.to_normalised(pixels, width=SIDE, height=13)
  shown = np.asarray(sampling.bilinear(pair.next, positions))
  np.testing.assert_allclose(shown, pair.image, atol=0.02)
  # Not where it would come from in the other direction.
  wrong = sampling.bilinear(pair.next, 2 * np.asarray(coords.pixel_grid(13, SIDE)) - positions)
  assert np.abs(np.asarray(wrong) - pair.image).mean() > 5


def test_flow_is_valid_where_it_stays_in_the_frame():
  image = frames(8)[:, :13]
  pair = views.warp_pair(jax.random.key(1), image, translation=0.3)
  valid = np.asarray(pair.flow_valid)
  rows, columns = np.mgrid[:13, :SIDE]
  x, y = columns + np.asarray(pair.flow)[..., 0], rows + np.asarray(pair.flow)[..., 1]
  inside = (x >= 0) & (x <= SIDE - 1) & (y >= 0) & (y <= 12)
  np.testing.assert_array_equal(valid, inside)
  assert 0.2 < valid.mean() < 0.95
  # A whole pixel outside there is nothing to see.
  far = (x < -1) | (x > SIDE) | (y < -1) | (y > 13)
  assert far.any()
  np.testing.assert_array_equal(np.asarray(pair.image)[far], 0)


def test_a_pair_that_nothing_moves_is_valid_up_to_its_border():
  pair = views.warp_pair(jax.random.key(0), frames(2), **dict.fromkeys(STRENGTHS, 0.0))
  np.testing.assert_allclose(pair.flow, 0, atol=1e-5)
  assert pair.flow_valid.all()


def ramps(count):
  """Pictures whose two channels are the pixel's own position."""
  rows, columns = np.mgrid[:SIDE, :SIDE]
  return np.tile(np.stack([columns, rows], -1).astype(np.float32), (count, 1, 1, 1))


def looks(pair):
  """Where the centre of either picture of ramps looks, from it: in next and in the original."""
  middle = SIDE // 2
  once = np.asarray(pair.next)[:, middle, middle] - middle
  return np.asarray(pair.flow)[:, middle, middle], once


@pytest.mark.parametrize('name', ['translation', 'warp', 'subset'])
def test_the_first_warp_has_its_own_strength(name):
  options = dict.fromkeys(STRENGTHS[:5], 0.0) | {name: {'translation': 0.05}.get(name, 5e-3)}
  options |= {'first_affine': 0.5, 'first_bending': 0.25}
  twice, once = looks(views.warp_pair(jax.random.key(2), ramps(600), **options))
  expected = options['first_affine' if name == 'translation' else 'first_bending']
  np.testing.assert_allclose(once.std() / twice.std(), expected, rtol=0.12)
  # Draws of its own, for every picture.
  assert abs(np.corrcoef(once[:, 0], twice[:, 0])[0, 1]) < 0.15
  assert len(np.unique(np.round(twice, 5), axis=0)) == 600


def test_without_strength_of_the_first_warp_next_is_the_picture():
  pair = views.warp_pair(jax.random.key(3), frames(4), first_bending=0.0, first_affine=0.0)
  assert pair.image.dtype == pair.next.dtype == pair.flow.dtype == np.float32
  assert pair.flow_valid.dtype == bool
  np.testing.assert_allclose(pair.next, frames(4), atol=1e-3)
  assert np.abs(np.asarray(pair.image) - frames(4)).mean((1, 2, 3)).min() > 5


def test_rotation_and_scale_of_both_warps_are_those_asked_for():
  options = dict.fromkeys(STRENGTHS[:5], 0.0) | {'first_affine': 2.0, 'first_bending': 0.0}
  middle, at = SIDE // 2, SIDE // 2 + 4
  for name, strength, unit in (('rotation', 3.0, np.pi / 180), ('scale', 0.05, 1.0)):
    pair = views.warp_pair(jax.random.key(4), ramps(600), **options | {name: strength})
    # What a step of four pixels to the right becomes: along it, and across it.
    axis = int(name == 'rotation')
    twice = np.asarray(pair.flow)[:, middle, at, axis] / 4
    once = (np.asarray(pair.next)[:, middle, at] - [at, middle])[:, axis] / 4
    np.testing.assert_allclose(twice.std(), strength * unit, rtol=0.1)
    np.testing.assert_allclose(once.std(), 2 * strength * unit, rtol=0.1)


def test_pairs_follow_the_rng_alike_on_one_and_on_eight_devices():
  image, rng = frames(16), jax.random.key(7)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  warp_pair = jax.jit(views.warp_pair)
  one = warp_pair(rng, image)
  eight = warp_pair(
    jax.device_put(rng, NamedSharding(mesh, PartitionSpec())),
    jax.device_put(image, NamedSharding(mesh, PartitionSpec('data'))),
  )
  assert len(eight.image.sharding.device_set) == 8
  assert not eight.image.sharding.is_fully_replicated
  for ours, theirs in zip(one, eight, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
  other = warp_pair(jax.random.key(8), image)
  assert np.abs(np.asarray(other.flow - one.flow)).mean((1, 2, 3)).min() > 0.1

"""Matching: the published numbers, describers of known score, and warps that points follow."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Batch, Describer, Predictions
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.evaluation import matching
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.geometry import coords, regions, sampling
from landmarks_jax.models import hypercolumn
from landmarks_jax.report import draw
from landmarks_jax.runtime import sharding

SIDE, MARGIN, GRID, COUNT = 40, 4, 64, 11
REACH = 1.4  # object coordinates of -REACH to REACH have colours
LANDMARKS = np.float32([[-0.25, -0.15], [0.3, -0.2], [0.08, 0.3]])
info = Info(('left', 'right', 'mouth'), ((0, 1),), (0, 1), (0.5,) * 3, (0.2,) * 3)
WARPS = {'warp': 5e-4, 'subset': 5e-3, 'translation': 0.05, 'scale': 0.05, 'rotation': 2.5}


def levels(maps, channels):
  """[C, H, W] of torch -> the pyramid whose hypercolumn it is."""
  cuts = np.cumsum(channels)[:-1]
  return tuple(np.ascontiguousarray(x) for x in np.split(maps.transpose(1, 2, 0)[None], cuts, -1))


# The published code.


def test_matches_are_the_published_ones(golden):
  g = golden('matching')
  source, target = (levels(g[name], g['feat_spectral']) for name in ('src', 'tgt'))
  norms = [np.asarray(hypercolumn.squared_norm(level, 25)) for level in source]
  unit = [level / np.sqrt(n)[..., None] for level, n in zip(source, norms, strict=True)]
  found = np.concatenate(unit, -1)[0].transpose(2, 0, 1)
  np.testing.assert_allclose(found, g['src_norm'], atol=1e-6)
  matched, similarity = matching.match(source, target, g['points'][None], size=25)
  np.testing.assert_allclose(matched[0], g['matched'], atol=1e-6)
  x, y = np.rint((np.asarray(matched[0]) + 1) * 12).astype(int).T
  products = np.einsum('chw,ck->khw', g['tgt_norm'], source_columns(g))
  np.testing.assert_allclose(similarity[0], products[np.arange(45), y, x], atol=1e-5)
  found = predictions(g['matched'], g['gt'])
  np.testing.assert_allclose(metrics.normalised_distances(found)[:, 0], g['pixel_err'], rtol=1e-5)


def source_columns(g):
  x, y = np.clip(np.round((g['points'] + 1) / 2 * 24), 0, 24).astype(int).T
  return g['src_norm'][:, y, x]


def predictions(points, target, **others):
  """Points [N, 2] as N pairs of one landmark."""
  count = len(points)
  scale, visible = np.full(count, matching.PIXEL, np.float32), np.ones((count, 1), bool)
  given = Predictions(points[:, None], target[:, None], visible, scale, np.arange(count))
  return given._replace(**others)


def test_matches_of_dve_are_the_published_ones(golden):
  # In pixels of a stride of 2, errors in pixels of 70 / 96.
  g = golden('matching')
  source, target = (levels(g[name], g['feat_spectral']) for name in ('src', 'tgt'))
  points = coords.to_normalised(g['dve_points_px'], width=49, height=49)
  matched, _ = matching.match(source, target, points[None], size=25)
  found = coords.to_pixels(np.asarray(matched[0]), width=49, height=49)
  np.testing.assert_allclose(found, g['dve_matched_px'], atol=1e-5)
  error = predictions(found, g['dve_points_px'], scale=np.full(45, 96 / 70))
  np.testing.assert_allclose(
    metrics.normalised_distances(error)[:, 0], g['dve_pixel_err'], rtol=1e-5
  )


@pytest.mark.parametrize(('row', 'name'), [(None, 'errors'), ('distilled', 'errors_distilled')])
def test_the_error_of_a_set_is_the_published_one(golden, row, name):
  g = golden('matching_validate')
  weight = g['distill_weight'][..., 0, 0].T

  def pyramid(maps):
    if row is None:
      return levels(maps, g['feat_spectral'])
    mapped = maps.transpose(1, 2, 0)[None] @ weight + g['distill_bias']
    return (jax.nn.softmax(7 * mapped, axis=(1, 2)),)

  found = {'same': [], 'different': []}
  for maps, points in zip(g['feats'], g['kps'], strict=True):
    source = pyramid(maps[0, 0])
    for item, task in enumerate(('same', 'different')):
      target = pyramid(maps[1, item])
      matched, _ = matching.match(source, target, points[:1, :5], size=24)
      found[task].append(predictions(np.asarray(matched[0]), points[item, 5:]))
  errors = [np.mean([metrics.mean_distance(p) for p in found[t]]) for t in ('same', 'different')]
  np.testing.assert_allclose(errors, g[name], rtol=1e-5)


@pytest.mark.parametrize('margin', [0, 6])
def test_two_warps_of_a_picture_and_its_points_are_the_published_ones(golden, margin):
  g = golden('tps_warper')
  points = coords.to_normalised(np.tile(g['kp'], (2, 1)), width=40, height=40)
  batch = Batch(g['im'].transpose(1, 2, 0)[None], points=points[None])
  batch = batch._replace(visible=np.ones((1, 10), bool))
  second = jax.jit(matching.warped)(batch, g['weights1'][None])
  first = jax.jit(matching.warped)(second, g['weights2'][None])
  for found, name in ((first, 'first'), (second, 'second')):
    found = regions.centre_crop(found, margin)
    end, side = 'crop' if margin else 'nocrop', 40 - 2 * margin
    expected = g[f'out_im_{name}_{end}'].transpose(1, 2, 0)
    np.testing.assert_allclose(found.image[0], expected, atol=0.05)
    pixels = coords.to_pixels(np.asarray(found.points[0]), width=side, height=side)
    np.testing.assert_allclose(pixels[5:], g[f'out_kp_{name}_{end}'], atol=1e-4)
    assert np.abs(pixels[:5] - pixels[5:]).max() < 1.5  # two roundings


# One match.


def random_pyramid(seed, shapes=((3, 2), (4, 5), (9, 3))):
  r = np.random.default_rng(seed)
  return tuple(r.normal(size=(2, side, side + 1, c)).astype(np.float32) for side, c in shapes)


def slow_match(source, target, points, size):
  """Columns stacked and normalised level by level; one point after the other."""
  columns = []
  for pyramid in (source, target):
    wide = [np.asarray(hypercolumn.resize(level, size), float) for level in pyramid]
    unit = [level / np.linalg.norm(level, axis=-1, keepdims=True) for level in wide]
    columns.append(np.concatenate(unit, -1))
  found, best = np.zeros(points.shape), np.zeros(points.shape[:2])
  for b, k in np.ndindex(points.shape[:2]):
    x, y = np.clip(np.round((points[b, k].astype(float) + 1) / 2 * (size - 1)), 0, size - 1)
    products = columns[1][b] @ columns[0][b, int(y), int(x)]
    row, column = np.unravel_index(products.argmax(), products.shape)
    found[b, k] = 2 * column / (size - 1) - 1, 2 * row / (size - 1) - 1
    best[b, k] = products.max()
  return found, best


@pytest.mark.parametrize('size', [6, 13])
def test_a_match_is_the_slow_search_over_stacked_columns(size):
  points = np.random.default_rng(5).uniform(-1.2, 1.2, (2, 30, 2)).astype(np.float32)
  source, target = random_pyramid(0), random_pyramid(1)
  found, best = matching.match(source, target, points, size=size)
  expected, similarity = slow_match(source, target, points, size)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  np.testing.assert_allclose(best, similarity, atol=1e-5)


def test_a_level_that_is_zero_adds_nothing():
  points = np.random.default_rng(5).uniform(-1, 1, (2, 8, 2)).astype(np.float32)
  source, target = random_pyramid(0), random_pyramid(1)
  expected = matching.match(source[1:], target[1:], points, size=8)
  for silenced in (
    ((np.zeros_like(source[0]), *source[1:]), target),
    (source, (np.zeros_like(target[0]), *target[1:])),
  ):
    found = matching.match(*silenced, points, size=8)
    for x, y in zip(found, expected, strict=True):
      np.testing.assert_allclose(x, y, atol=1e-6)


def test_pyramids_and_points_of_other_pictures_are_an_error():
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  bare, maps = matching.match.__wrapped__.__wrapped__, np.ones((2, 4, 4, 3), np.float32)
  points = np.zeros((2, 5, 2), np.float32)
  told = 'target[0]: B=2 in shape (2, 4, 4, 3), but source[0] has B=1'
  with pytest.raises(ValueError, match=re.escape(told)):
    bare((maps[:1],), (maps,), points, size=4)
  told = 'points: B=1 in shape (1, 5, 2), but source[0] has B=2'
  with pytest.raises(ValueError, match=re.escape(told)):
    bare((maps,) * 2, (maps,) * 2, points[:1], size=4)


def test_a_match_needs_less_memory_than_one_column():
  # Two pictures, ResNet-50 at 96 pixels, 68 landmarks, exact and snapped.
  count, landmarks, side = 2, 136, 96
  levels_of_resnet = ((3, 2048), (6, 1024), (12, 512), (24, 256))
  float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
  pyramid = tuple(float32(count, h, h, c) for h, c in levels_of_resnet)
  lowered = matching.match.lower(pyramid, pyramid, float32(count, landmarks, 2), size=side)
  used = lowered.compile().memory_analysis().temp_size_in_bytes
  copies = 8 * sum(h * h * c for h, c in levels_of_resnet)
  assert used < 4 * count * ((6 * landmarks + 20) * side**2 + copies)  # what its docstring says
  assert used < 4 * side**2 * sum(c for _, c in levels_of_resnet) / 2


# The protocol.


class Coloured:
  """Objects at different places and scales; the colour of a point says where on the object it is.

  The picture of `index` in `bad` cannot be read; landmark 2 of picture 3 and
  landmark 0 of picture 4 are not visible.
  """

  def __init__(self, split, *, count=COUNT, bad=(), names=info.names):
    self.count, self.bad, self.info = count, bad, info._replace(names=names)

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.bad:
      raise BadImage(f'{index}.png', 'is broken')
    r = np.random.default_rng(int(index))
    centre, zoom = r.uniform(-0.12, 0.12, 2), r.uniform(0.9, 1.1)
    place = (np.asarray(coords.pixel_grid(SIDE, SIDE)) - centre) / zoom
    image = np.full((SIDE, SIDE, 3), 200.0)
    image[..., :2] = 127.5 * (1 + place / REACH)
    return {
      'image': np.clip(np.rint(image), 0, 255).astype(np.uint8),
      'index': np.int32(index),
      'points': (centre + zoom * LANDMARKS).astype(np.float32),
      'visible': np.arange(3) != {3: 2, 4: 0}.get(int(index), 9),
      'scale': np.float32(1),
    }


def seeing(variables, image, size):
  """Where on the object each position is, as angles: x at full, y at half resolution."""
  angle = jnp.asarray(image)[..., :2] / 255 * (jnp.pi / 2)
  side = image.shape[1] // 2
  half = angle[..., 1].reshape(-1, side, 2, side, 2).mean((2, 4))
  x, y = (jnp.stack([jnp.cos(a), jnp.sin(a)], -1) for a in (angle[..., 0], half))
  return y * variables, x * variables


def constant(variables, image, size):
  return (jnp.ones((len(image), 1, 1, 3)) * variables,)


def noise(variables, image, size):
  """Features of chaos: what they are says nothing, however near two pictures are."""
  frequencies = jnp.asarray(np.random.default_rng(0).uniform(1e2, 1e3, (2, 16)), jnp.float32)
  return (jnp.sin(jnp.asarray(image)[..., :2] @ frequencies) * variables,)


def given(apply, variables=1):
  return Describer(np.float32(variables), apply)


def run(describer=given(seeing), *, open_split=Coloured, random_init=None, **options):  # noqa: B008
  options = {'margin': MARGIN, 'size': GRID, 'batch_size': 2} | options
  return matching.run(describer, open_split, random_init=random_init or {}, **options)


def test_descriptors_of_the_place_on_the_object_score_less_than_a_grid_cell():
  found = run()
  errors = matching.score(found)
  for task in ('same', 'different'):
    assert errors[task] < 0.8  # a cell of the grid is 1.1, and both ends are rounded to it
    assert errors[task] < errors[f'{task}_paper'] < 2
    assert errors[f'{task}_low'] < errors[task] < errors[f'{task}_high']
    assert errors[f'{task}_same_position'] > 3
    np.testing.assert_array_equal(found[f'trained/{task}'].index, [0, 2, 4, 6, 8])
    assert found[f'trained/{task}'].confidence == pytest.approx(2, abs=1e-3)
  assert errors['different'] != errors['same']


def test_descriptors_that_see_nothing_score_what_any_one_position_does():
  # All positions are equal and the first is taken: the corner.
  for apply, value in ((constant, 1), (seeing, 0)):
    found = run(given(apply, value), count=10)
    errors = matching.score(found)
    for task in ('same', 'different'):
      row = found[f'trained/{task}']
      np.testing.assert_array_equal(row.points, np.full(row.points.shape, -1))
      apart = np.linalg.norm(row.target + 1, axis=-1)[row.visible].mean() * 69 / 2
      assert errors[task] == pytest.approx(apart, rel=1e-6)
      assert errors[task] > 35


def test_descriptors_of_noise_score_chance():
  found = run(given(noise), open_split=lambda split: Coloured(split, count=60), batch_size=5)
  row = found['trained/different']
  r = np.random.default_rng(0)
  drawn = r.integers(0, GRID, (400, *row.points.shape)) * 2 / (GRID - 1) - 1
  chance = np.linalg.norm(drawn - row.target, axis=-1)[:, row.visible].mean(1) * 69 / 2
  assert metrics.mean_distance(row) == pytest.approx(chance.mean(), abs=3 * chance.std())


@pytest.mark.parametrize(('batch_size', 'devices'), [(3, 1), (8, 8)])
def test_the_same_numbers_come_with_any_batch_and_any_number_of_devices(batch_size, devices):
  mesh = sharding.mesh(jax.devices()[:devices])
  expected = run()
  found = run(batch_size=batch_size, spread=Spread(lambda x: sharding.to_global(x, mesh)))
  assert found.keys() == expected.keys()
  for name, one in expected.items():
    np.testing.assert_allclose(found[name].target, one.target, atol=1e-5)
    np.testing.assert_array_equal(found[name].visible, one.visible)
    np.testing.assert_array_equal(found[name].index, one.index)
    apart = np.abs(found[name].points - one.points)[one.visible]
    assert apart.max() < 1.01 * 2 / (GRID - 1)  # equal but for ties


def test_a_count_takes_the_first_pairs():
  some, every = run(count=6), run()
  for name, one in some.items():
    np.testing.assert_allclose(one.target, every[name].target[:3], atol=1e-6)
    np.testing.assert_array_equal(one.index, [0, 2, 4])


def test_other_seeds_draw_other_warps():
  a, b = (run(seed=seed, count=4)['trained/same'] for seed in (0, 1))
  assert (np.abs(a.target - b.target).max(-1) > 1e-3).all()


def test_a_pair_with_a_picture_that_cannot_be_read_is_left_out():
  every = run()
  for bad in (2, 3):
    found = run(open_split=lambda split, bad=bad: Coloured(split, bad=(bad,)))
    for name, one in found.items():
      np.testing.assert_array_equal(one.index, [0, 4, 6, 8])
      np.testing.assert_allclose(one.target, every[name].target[[0, 2, 3, 4]], atol=1e-6)


def test_a_landmark_counts_where_both_pictures_show_it():
  found = run()
  same, different = np.zeros((2, 5, 3), bool)
  same[2, 0] = different[2, 0] = True  # picture 4 is the first of the third pair
  different[1, 2] = True  # picture 3 is the second of the second
  for end in ('', '_paper'):
    np.testing.assert_array_equal(found['trained/different' + end].visible, ~different)
    np.testing.assert_array_equal(found['trained/same' + end].visible, ~same)


# The warps.


def pairs(count=5):
  examples = [Coloured('test')[i] for i in range(2 * count)]
  fields = 'image', 'index', 'points', 'visible'
  return [Batch(**{f: np.stack([e[f] for e in examples[k::2]]) for f in fields}) for k in (0, 1)]


def views(numbers=range(5), **changes):
  warps = matching.random_warps(jax.random.key(0), np.array(numbers), **WARPS | changes)
  return matching.warped_views(*pairs(len(numbers)), warps, margin=MARGIN)


def test_points_show_the_same_place_of_the_object_in_every_picture():
  expected = 127.5 * (1 + LANDMARKS / REACH)
  for view in views(translation=0.1, scale=0.1, rotation=10.0):
    colour = np.asarray(sampling.bilinear(view.image, view.points))[..., :2]
    seen = np.asarray(view.visible)[:, :3]
    assert seen.mean() > 0.7
    assert np.abs(colour[:, :3] - expected)[seen].max() < 1  # of 255; a pixel is 5
    assert 1 < np.abs(colour[:, 3:] - expected)[seen].max() < 8


def test_snapped_points_are_whole_pixels_of_the_frame_near_the_exact_ones():
  side = SIDE - 2 * MARGIN
  for view in views():
    pixels = coords.to_pixels(np.asarray(view.points), width=side, height=side)
    exact, snapped = np.split(pixels, 2, axis=1)
    np.testing.assert_allclose(snapped, np.round(snapped), atol=1e-4)
    assert 0.1 < np.abs(snapped - exact).max() < 1.5


def test_the_source_is_the_same_target_warped_again_and_every_warp_is_its_own():
  turned = []
  for view in views(**dict.fromkeys(WARPS, 0.0) | {'rotation': 9.0}):
    spans = (np.asarray(p[:, 1] - p[:, 0])[:, ::-1] for p in (view.points, LANDMARKS[None]))
    angle, start = (np.rad2deg(np.arctan2(*span.T)) for span in spans)
    turned.append(angle - start)
  source, same, different = turned
  drawn = np.concatenate([source - same, same, different])
  assert len(np.unique(np.round(drawn, 2))) == 15
  assert 4 < drawn.std() < 16


def test_the_warps_of_a_pair_follow_from_the_seed_and_its_number():
  draw = lambda seed, numbers: np.asarray(  # noqa: E731
    matching.random_warps(jax.random.key(seed), np.array(numbers), **WARPS)
  )
  # A compiler may round a batch of three unlike one of two: the last bit is not the warp's.
  np.testing.assert_allclose(draw(0, [7, 2, 5])[1:], draw(0, [2, 5]), rtol=1e-5, atol=1e-8)
  for other in (draw(1, [2, 5]), draw(0, [5, 2])):
    assert (np.abs(other - draw(0, [2, 5])).max(axis=(2, 3)) > 1e-3).all()


def test_exact_points_outside_a_picture_are_hidden_and_snapped_ones_are_not():
  source, same, different = views(translation=0.6)
  frame = (SIDE - 1) / (SIDE - 2 * MARGIN - 1)
  for view, passed in ((source, same), (same, same), (different, different)):
    exact, snapped = np.split(np.asarray(view.visible), 2, axis=1)
    inside = (np.abs(np.asarray(view.points)[:, :3]) <= 1).all(-1)
    # The source shows what was in the frame of the same target, of which the network sees less.
    inside &= (np.abs(np.asarray(passed.points)[:, :3]) <= frame).all(-1)
    labelled = np.stack(
      [Coloured('test')[2 * i + (view is different)]['visible'] for i in range(5)]
    )
    assert not inside.all()
    np.testing.assert_array_equal(exact, inside & labelled)
    np.testing.assert_array_equal(snapped, labelled)


def test_a_label_outside_its_frame_is_hidden_where_a_warp_brings_it_in():
  first, second = pairs()
  first.points[:, 0] = 1.05, 0
  warps = np.array(
    matching.random_warps(jax.random.key(0), np.arange(5), **dict.fromkeys(WARPS, 0.0))
  )
  warps[:, :, -3, 0] = 0.2  # pictures move to the left
  _, same, _ = matching.warped_views(first, second, warps, margin=0)
  np.testing.assert_allclose(same.points[:, 0], [[0.85, 0]] * 5, atol=1e-4)
  np.testing.assert_array_equal(same.visible[:, 0], False)
  np.testing.assert_array_equal(same.visible[:, 1], first.visible[:, 1])


# Rows and scores.


def test_the_random_row_is_the_variant_that_finds_more_in_other_pictures():
  variants = {'raw': given(constant), 'calibrated': given(seeing)}
  for order in (['raw', 'calibrated'], ['calibrated', 'raw']):
    found = run(
      given(constant), random_init={name: variants[name] for name in order}, base=given(noise)
    )
    rows = {name.split('/')[0] for name in found}
    assert rows == {'trained', 'base', 'random_init', 'same_position'}
    errors = matching.score(found)
    assert errors['different_random_init'] < 0.8 < 10 < errors['different_base']
    assert errors['different'] > 35


def test_the_variant_of_the_random_row_is_chosen_by_other_pictures_alone(monkeypatch):
  def match_views(describer, views, *, size):
    away = {'different': describer.variables, 'same': 1 - describer.variables}
    return {task: (getattr(views, task).points + shift, None) for task, shift in away.items()}

  monkeypatch.setattr(matching, 'match_views', match_views)
  for order in ((0, 1), (1, 0)):
    errors = matching.score(run(random_init={f'{away}': given(None, away) for away in order}))
    assert errors['different_random_init'] == 0
    assert errors['same_random_init'] > 30


def test_baselines_are_not_computed_twice():
  def never(variables, image, size):
    raise AssertionError('a baseline was described again')

  first = run(given(constant), random_init={'raw': given(noise)}, base=given(constant, 2))
  again = run(random_init={'raw': given(never)}, base=given(never), baselines=first)
  assert again.keys() == first.keys()
  for name, one in again.items():
    same = np.array_equal(one.points, first[name].points)
    assert same == (not name.startswith('trained'))


def test_the_size_reaches_the_describer_and_weights_compile_once():
  sizes = []

  def noted(variables, image, size):
    sizes.append(size)
    return constant(variables, image, size)

  for weight in (1, 2):
    run(given(noted, weight), count=4, size=24)
  assert sizes == [24]


def test_scores_are_named_by_task_and_row():
  row = predictions(np.float32([[0, 0], [3, 4]]), np.zeros((2, 2), np.float32))
  both = Predictions(*(np.concatenate([x, x], 1) for x in row[:3]), row.scale, row.index)
  # Landmark 0 is where landmark 1 should be in the second picture.
  both.points[1, 1], both.target[1, 1] = (3, 4), (3, 4)
  found = {f'{row}/{task}': both for row in ('trained', 'base') for task in ('same', 'different')}
  found |= {'same_position/same': both, 'trained/same_paper': both, 'base/different_paper': both}
  scores = matching.score(found, flip_pairs=((0, 1),))
  exact = {'same', 'different', 'same_base', 'different_base', 'same_same_position'}
  ends = {f'{name}{end}' for name in exact for end in ('', '_low', '_high')}
  confusion = {f'left_right_confusion{x}' for x in ('', '_base', '_same', '_same_base')}
  assert scores.keys() == ends | {'same_paper', 'different_paper_base'} | confusion
  assert matching.UNIT.factor * metrics.mean_distance(both) == scores['same']
  for name, score in scores.items():
    if name in exact or 'paper' in name:
      assert score == pytest.approx(5 / 4 * 69 / 2)
    if name in confusion:
      assert score == 25
  assert not confusion & matching.score(found).keys()
  assert [metric.name for metric in matching.METRICS] == ['different', 'same']
  assert {metric.name for metric in matching.METRICS} < scores.keys()


# Pictures of it.


@pytest.mark.parametrize('task', ['different', 'same'])
def test_pictures_are_those_that_were_matched(task):
  options = {'margin': MARGIN, 'seed': 3, 'test': 'test', **WARPS}
  found = run(**options)[f'trained/{task}']
  shown = matching.pictures(
    Coloured, found, (1, 4), task=task, **options, size=GRID, batch_size=2, count=None
  )
  expected = np.broadcast_to(127.5 * (1 + LANDMARKS / REACH), (2, 3, 2))
  for images, points, tolerance in (
    ('sources', 'query', 1),
    ('targets', 'target', 1),
    ('targets', 'matched', 5),
  ):
    assert shown[images].shape == (2, SIDE - 2 * MARGIN, SIDE - 2 * MARGIN, 3)
    colour = np.asarray(sampling.bilinear(shown[images], shown[points]))[..., :2]
    np.testing.assert_allclose(colour, expected, atol=tolerance)
  np.testing.assert_array_equal(shown['matched'], found.points[[1, 4]])
  np.testing.assert_array_equal(shown['visible'], found.visible[[1, 4]])
  assert draw.match_sheet(**shown).ndim == 3


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({'count': 5}, 'count=5: expected an even number of pictures, 2 to 11'),
    ({'count': 0}, 'count=0: expected an even number of pictures, 2 to 11'),
    ({'count': 12}, 'count=12: expected an even number of pictures, 2 to 11'),
    ({'size': 1}, 'size=1: expected a grid of at least 2 positions a side'),
    ({'batch_size': 0}, 'batch_size=0: expected at least 1 pair'),
  ],
)
def test_what_cannot_be_run_is_said_before_anything_is_described(options, expected):
  for function in (lambda: run(**options), lambda: matching.check(Coloured, **options)):
    with pytest.raises(ValueError, match=f'^{re.escape(expected)}$'):
      function()


def test_a_set_without_landmarks_or_pairs_is_said():
  with pytest.raises(ValueError, match=r"^matching needs landmarks; the split 'test' has none$"):
    run(open_split=lambda split: Coloured(split, names=()))
  with pytest.raises(ValueError, match=r"^matching needs pairs; the split 'test' has 1 pictures$"):
    run(open_split=lambda split: Coloured(split, count=1))

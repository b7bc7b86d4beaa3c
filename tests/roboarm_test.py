"""The arm's physics against Newton's laws, its flow against its pictures, and what it keeps."""

import pickle

import numpy as np
import pytest

from landmarks_jax.data import pipeline
from landmarks_jax.data import source as sources
from landmarks_jax.data.synthetic import arm_motion, roboarm

CAPSULES = arm_motion.CAPSULES
K = len(CAPSULES)


def directions(angles):
  """Degrees from the parent's direction -> unit vectors [K, 2], one capsule after another."""
  absolute = []
  for capsule, angle in zip(CAPSULES, angles, strict=True):
    absolute.append((absolute[capsule.parent] if capsule.parent >= 0 else 0) + angle)
  return np.stack([np.cos(np.radians(absolute)), np.sin(np.radians(absolute))], -1)


def hinge_angles(motion):
  """Unit vectors [..., K, 2] -> degrees from the parent's direction, -180 to 180."""
  found = []
  for k, capsule in enumerate(CAPSULES):
    own = complex_of(motion[..., k, :])
    found.append(own / complex_of(motion[..., capsule.parent, :]) if capsule.parent >= 0 else own)
  return np.degrees(np.angle(np.stack(found, -1)))


def complex_of(vectors):
  return vectors[..., 0] + 1j * vectors[..., 1]


def grains(angles, count=200):
  """Masses [K * count] and positions of the arm cut into small pieces, by a walk along the tree."""
  masses, places, ends = [], [], []
  for capsule, angle in zip(CAPSULES, angles, strict=True):
    start = ends[capsule.parent] if capsule.parent >= 0 else np.array(arm_motion.ANCHOR)
    way = capsule.length * np.array([np.cos(angle), np.sin(angle)])
    ends.append(start + way)
    places.append(start + (np.arange(count)[:, None] + 0.5) / count * way)
    masses.append(np.full(count, capsule.length / count))
  return np.concatenate(masses), np.concatenate(places)


# The physics.


def test_a_step_obeys_newton_grain_by_grain():
  dice = np.random.default_rng(3)
  rest, parent = 0, [c.parent for c in CAPSULES]
  angles = np.zeros(K)
  for k, capsule in enumerate(CAPSULES):  # inside every limit and away from the walls
    rest = angles[capsule.parent] if capsule.parent >= 0 else 0
    angles[k] = rest + np.radians(capsule.rest + 0.6 * capsule.limit * dice.uniform(-1, 1))
  speed, gravity, h = dice.normal(0, 3, K), np.array([7.0, -19.0]), 1e-4
  masses, places = grains(angles)
  assert np.abs(places[200:]).max() < arm_motion.WALL
  lever = [(grains(angles + h * e)[1] - grains(angles - h * e)[1]) / (2 * h) for e in np.eye(K)]
  ahead, behind = (grains(angles + t * speed)[1] for t in (h, -h))
  turning = (ahead - 2 * places + behind) / h**2  # acceleration at constant angular speeds

  direction = np.stack([np.cos(angles), np.sin(angles)])[..., None]
  _, after = arm_motion.advance(direction, speed[:, None], gravity[:, None])
  after = after[:, 0]
  gain = (after - speed) / arm_motion.STEP
  acceleration = sum(a * way for a, way in zip(gain, lever, strict=True)) + turning
  for i in range(K):  # what the hinges do, by d'Alembert
    needed = (masses[:, None] * (acceleration - gravity) * lever[i]).sum()
    relative = after[i] - (after[parent[i]] if parent[i] >= 0 else 0)
    friction = -arm_motion.DAMPING * relative
    friction += sum(arm_motion.DAMPING * (after[j] - after[i]) for j in range(K) if parent[j] == i)
    assert needed == pytest.approx(friction, abs=5e-3)


def test_gravity_is_drawn_anew_every_100_steps_and_a_frame_every_20(monkeypatch):
  drawn, advance = [], arm_motion.advance

  def spy(direction, speed, gravity):
    drawn.append((gravity[:, 0].copy(), direction[:, :, 0].T))
    return advance(direction, speed, gravity)

  monkeypatch.setattr(arm_motion, 'advance', spy)
  shown = arm_motion.simulate((5, 0), videos=1, frames=61)[0]
  gravity, seen = map(np.array, zip(*drawn, strict=True))
  np.testing.assert_array_equal(shown, seen[arm_motion.SETTLE * 20 :: 20])
  changes = np.flatnonzero((np.diff(gravity, axis=0) != 0).all(1)) + 1
  np.testing.assert_array_equal(changes, np.arange(100, len(gravity), 100))
  assert gravity.std() == pytest.approx(15, rel=0.35)


@pytest.fixture(scope='module')
def motion():
  return arm_motion.simulate((0, 0), videos=12, frames=121)


def test_hinges_keep_to_their_limits_and_reach_them(motion):
  angles = hinge_angles(motion)
  for k, capsule in enumerate(CAPSULES):
    beyond = np.abs(angles[..., k] - capsule.rest) - capsule.limit
    assert -3 < beyond.max() < 12  # degrees, where a fall ends
    assert (beyond > 1).mean() < 0.12


def test_the_arm_stays_in_the_frame_and_its_branches_apart(motion):
  ends = arm_motion.positions(motion, arm_motion.ends)
  assert np.abs(ends).max() / arm_motion.HALF + roboarm.RADIUS < 1.05
  centres = arm_motion.positions(motion, arm_motion.middles)
  neck, fork = motion[:, :, 2], ends[:, :, 2]
  left, right = (np.imag(complex_of(centres[:, :, k] - fork) / complex_of(neck)) for k in (4, 6))
  assert (left < right).all()


def test_a_motion_is_the_same_bit_for_bit_alone_and_among_others():
  alone = arm_motion.simulate((1, 2), videos=1, frames=4)
  among = arm_motion.simulate((1, 2), videos=9, frames=6)
  np.testing.assert_array_equal(alone[0], among[0, :4])
  assert len(np.unique(among[:, 0], axis=0)) == 9


# The pictures.


def bilinear(image, x, y):
  column, row = np.clip(np.floor([x, y]).astype(int), 0, len(image) - 2)
  u, v = (x - column)[..., None], (y - row)[..., None]
  top = image[row, column] * (1 - u) + image[row, column + 1] * u
  return top * (1 - v) + (image[row + 1, column] * (1 - u) + image[row + 1, column + 1] * u) * v


def warp_error(example):
  """Mean difference, of 255, between the picture and the next one fetched back by the flow."""
  row, column = np.nonzero(example['flow_valid'])
  dx, dy = example['flow'][row, column].T
  back = bilinear(example['next'].astype(float), column + dx, row + dy)
  return np.abs(back - example['image'][row, column]).mean()


def seen(image):
  """The capsule of every pixel, by the nearest colour; -1 for the background."""
  paints = 255 * np.array([*roboarm.COLOURS, roboarm.BACKGROUND])
  distance = np.linalg.norm(image[:, :, None] - paints, axis=-1)
  return np.where(distance.argmin(-1) == K, -1, distance.argmin(-1)), distance.min(-1)


def examples(number=16, **options):
  data = roboarm.source(**({'split': 'test', 'frame': 90} | options))
  return [data[i] for i in range(0, len(data), len(data) // number)][:number]


def test_warping_the_next_frame_back_by_the_flow_gives_the_frame():
  found = examples(frame=180)
  right = np.mean([warp_error(e) for e in found])
  still = np.mean([warp_error(e | {'flow': 0 * e['flow']}) for e in found])
  swapped = np.mean([warp_error(e | {'flow': e['flow'][..., ::-1]}) for e in found])
  assert right < 3  # antialiased edges only
  assert min(still, swapped) > 8 * right


def test_the_flow_of_a_capsule_is_rigid_and_moves_its_centre_to_the_next_ones():
  data, checked = roboarm.source(split='validation', frame=90), 0
  for i in range(0, 200, 9):
    now, then = data[i], data[i + 1]
    np.testing.assert_array_equal(now['next'], then['image'])
    owner, distance = seen(now['image'])
    for k in range(K):
      pixels = np.argwhere((owner == k) & (distance < 2) & now['flow_valid'])[:, ::-1]
      if len(pixels) < 10:
        continue
      affine = np.concatenate([pixels, np.ones((len(pixels), 1))], 1)
      moved = pixels + now['flow'][pixels[:, 1], pixels[:, 0]]
      fit, residual, *_ = np.linalg.lstsq(affine, moved, rcond=None)
      assert residual.max() < 1e-6
      np.testing.assert_allclose(fit[:2] @ fit[:2].T, np.eye(2), atol=1e-4)
      centre, target = ((e['points'][k] + 1) * 44.5 for e in (now, then))
      np.testing.assert_allclose(np.append(centre, 1) @ fit, target, atol=2e-3)
      checked += 1
  assert checked > 120


def test_a_capsules_paint_is_centred_on_its_point():
  for example in examples():
    owner, _ = seen(example['image'])
    rows, columns = np.nonzero(owner == K - 1)  # nothing covers the last one
    x, y = (example['points'][K - 1] + 1) * 44.5
    assert abs(columns.mean() - x) < 0.25
    assert abs(rows.mean() - y) < 0.25


def test_all_that_is_not_arm_has_no_flow_and_what_is_has_its_own():
  for example in examples():
    off = (example['image'] == example['image'][0, -1]).all(-1)
    assert 0.8 < off.mean() < 0.95
    assert not example['flow'][off].any()
    assert not example['flow_valid'][off].any()
    owner, distance = seen(example['image'])
    assert example['flow'][(owner >= 0) & (distance < 2)].any(-1).mean() > 0.95


OPEN = [-45, 0, 0, -40, -15, 40, 15]


def flow_of(now, then, side=90):
  now, then = (roboarm.pose(directions(angles)) for angles in (now, then))
  pixels = roboarm.grid(side)
  owner = roboarm.owners(now.depths(pixels))
  return (*roboarm.flow_between(now, then, pixels, owner), owner, then)


def test_flow_under_another_capsule_is_not_valid():
  over = [-45, 0, 0, -40, -15, -40, -15]  # the right branch lies on the left one
  flow, valid, owner, _ = flow_of(OPEN, over)
  assert valid[owner >= 5].all()
  assert not valid[(owner == 3) | (owner == 4)].any()
  assert np.abs(flow[(owner == 4)]).max() < 1e-5
  flow, valid, owner, _ = flow_of(over, OPEN)
  assert set(np.unique(owner)) == {-1, 0, 1, 2, 5, 6}
  assert valid[owner == 6].all()


def test_a_centre_under_another_capsule_is_not_visible(monkeypatch):
  over = directions([-45, 0, 0, -40, -15, -40, -15])
  data = roboarm.source(count=2, frame=45)
  monkeypatch.setattr(roboarm, '_motion', lambda *_, **__: np.stack([over] * 3)[None])
  assert data[1]['visible'].tolist() == [True, True, True, False, False, True, True]


def test_flow_out_of_the_frame_is_not_valid():
  down = [20, 0, 0, -40, -15, 40, 15]
  flow, valid, owner, then = flow_of(OPEN, down)
  rows, columns = np.nonzero(owner >= 0)
  target = np.stack([columns, rows], -1) + flow[rows, columns]
  left = (target > 89).any(-1)
  assert 100 < left.sum() < len(left) - 100
  assert not valid[rows, columns][left].any()
  centres = then.centres
  np.testing.assert_array_equal(roboarm.inside(centres), (np.abs(centres) <= 1).all(-1))
  assert not roboarm.inside(centres).all()


def test_every_frame_size_shows_the_same_moment():
  small, large = (roboarm.source(frame=side, count=240)[200] for side in (45, 133))
  np.testing.assert_array_equal(small['points'], large['points'])
  x, y = np.meshgrid(np.arange(45), np.arange(45))
  fetched = bilinear(large['image'].astype(float), 3 * x, 3 * y)
  assert np.abs(fetched - small['image']).mean() < 3
  both = small['flow_valid'] & large['flow_valid'][::3, ::3]
  np.testing.assert_allclose(small['flow'][both] * 3, large['flow'][::3, ::3][both], atol=1e-4)


# The dataset.


def test_the_statistics_are_those_of_a_benchmark():
  found = examples(200, split='train', count=2400)
  flow = np.concatenate([e['flow'][e['flow_valid']] for e in found])
  assert 2 < np.linalg.norm(flow, axis=-1).mean() < 4  # pixels
  points = np.stack([e['points'] for e in found])
  error = np.linalg.norm(points - points.mean(0), axis=-1).mean(0) / 2 * 100
  assert (error[1:] > 8).all()  # of the width: what the mean position would score
  assert error.mean() > 15
  assert np.stack([e['visible'] for e in found]).mean() > 0.97
  pixels = np.stack([e['image'] for e in found]).reshape(-1, 3) / 255
  np.testing.assert_allclose(pixels.mean(0), roboarm.INFO.mean, atol=0.005)
  np.testing.assert_allclose(pixels.std(0), roboarm.INFO.std, atol=0.005)


def test_splits_and_seeds_share_no_motion(monkeypatch):
  monkeypatch.setattr(roboarm, 'VIDEO', 2)
  options = [{'split': split, 'seed': seed} for split in roboarm.COUNTS for seed in (0, 1)]
  starts = [roboarm.source(frame=16, count=1, **o)[0]['points'].tobytes() for o in options]
  assert len(set(starts)) == len(options)


@pytest.mark.parametrize('side', [35, 90])
def test_examples_are_what_a_source_promises(side):
  data = sources.open_source('synthetic/roboarm', frame=side, split='validation')
  assert isinstance(data, sources.Source)
  example = pickle.loads(pickle.dumps(data))[999]
  shapes = {key: (value.dtype.name, value.shape) for key, value in example.items()}
  assert shapes == {
    'image': ('uint8', (side, side, 3)),
    'next': ('uint8', (side, side, 3)),
    'flow': ('float32', (side, side, 2)),
    'flow_valid': ('bool', (side, side)),
    'index': ('int32', ()),
    'points': ('float32', (K, 2)),
    'visible': ('bool', (K,)),
    'scale': ('float32', ()),
  }
  assert example['index'] == 999
  assert example['scale'] == 2
  assert len(data.info.names) == K
  assert [len(roboarm.source(split=split)) for split in roboarm.COUNTS] == [23_999, 1000, 2000]
  with pytest.raises(IndexError, match='examples 0 to 999'):
    data[1000]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'split': 'valid'}, "split='valid'; there are: train, validation, test"),
    ({'frame': 8}, 'frame=8; expected a whole number from 16 to 1024'),
    ({'count': 24_000}, 'count=24000; expected a whole number from 1 to 23999'),
    ({'seed': -1}, 'seed=-1; expected'),
  ],
)
def test_an_option_out_of_range_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    sources.open_source('synthetic/roboarm', **options)


def test_the_pipeline_batches_pairs():
  data = pipeline.cached(roboarm.source(frame=35, count=6))
  batch = next(pipeline.training_batches(data, seed=0, batch_size=4))
  assert batch.next.shape == (4, 35, 35, 3)
  assert batch.flow.shape == (4, 35, 35, 2)
  assert batch.flow_valid.any((1, 2)).all()


# What is kept.


@pytest.fixture
def short(monkeypatch):
  """Videos of 5 pairs."""
  monkeypatch.setattr(roboarm, 'VIDEO', 5)
  return {'frame': 24, 'count': 12}


def no_rendering(monkeypatch):
  def refuse(*_):
    raise AssertionError('rendered')

  monkeypatch.setattr(roboarm, 'render', refuse)


def test_a_folder_gives_what_was_rendered_without_rendering(short, tmp_path, monkeypatch):
  fresh = [roboarm.source(**short)[i] for i in (0, 7, 11)]
  kept = roboarm.source(str(tmp_path / 'new'), **short)
  assert kept[7]['index'] == 7
  assert len(list(tmp_path.rglob('*.npy'))) == 1
  assert kept[0]['index'] == 0
  assert kept[11]['index'] == 11
  no_rendering(monkeypatch)
  again = roboarm.source(str(tmp_path / 'new'), **short)
  for expected, i in zip(fresh, (0, 7, 11), strict=True):
    found = again[i]
    assert set(found) == set(expected)
    for key, value in expected.items():
      assert (type(found[key]), found[key].dtype) == (type(value), value.dtype)
      np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize('other', [{'seed': 1}, {'split': 'test'}, {'frame': 25}])
def test_a_folder_keeps_different_motions_apart(short, other, tmp_path):
  roboarm.source(str(tmp_path), **short)[0]
  found, expected = (roboarm.source(p, **short | other)[0] for p in (str(tmp_path), None))
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value)


def test_an_interrupted_video_leaves_nothing_and_a_damaged_one_is_made_again(
  short, tmp_path, monkeypatch
):
  data, expected = roboarm.source(str(tmp_path), **short), roboarm.source(**short)[6]
  with monkeypatch.context() as patch:
    patch.setattr(roboarm.np, 'save', lambda file, _: file.write(b'half') and 1 / 0)
    with pytest.raises(ZeroDivisionError):
      data[6]
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]
  np.testing.assert_array_equal(data[6]['image'], expected['image'])
  (file,) = tmp_path.rglob('*.npy')
  file.write_bytes(file.read_bytes()[:-100])
  other = tmp_path / 'moved'  # another process would come to it anew
  file.parent.parent.joinpath('moved').mkdir()
  file.parent.rename(other / file.parent.name)
  again = roboarm.source(str(other), **short)[6]
  np.testing.assert_array_equal(again['flow'], expected['flow'])

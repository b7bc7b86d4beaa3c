"""The sphere's flow against its pictures and its points, and what its splits show."""

import math
import pickle

import numpy as np
import pytest

from landmarks_jax.data import source as sources
from landmarks_jax.data.synthetic import sphere


def bilinear(image, x, y):
  column, row = np.clip(np.floor([x, y]).astype(int), 0, len(image) - 2)
  u, v = (x - column)[..., None], (y - row)[..., None]
  top = image[row, column] * (1 - u) + image[row, column + 1] * u
  return top * (1 - v) + (image[row + 1, column] * (1 - u) + image[row + 1, column + 1] * u) * v


def examples(number=16, **options):
  data = sphere.source(**({'split': 'validation', 'frame': 90} | options))
  return [data[i] for i in range(0, len(data), len(data) // number)][:number]


@pytest.fixture(scope='module')
def turn():
  data = sphere.source(split='test', frame=90)
  return [data[i] for i in range(len(data))]


def pixels(points, side=90):
  return (np.asarray(points, float) + 1) * ((side - 1) / 2)


def near_rim(side=90):
  """Pixels whose own or whose interpolated colour has the background in it."""
  x = np.linspace(-1, 1, side)
  return np.hypot(*np.meshgrid(x, x)) > sphere.RADIUS - 4 / side


def test_warping_the_next_frame_back_by_the_flow_gives_the_frame():
  def error(example, flow):
    row, column = np.nonzero(example['flow_valid'] & ~near_rim())
    dx, dy = flow[row, column].T
    back = bilinear(example['next'].astype(float), column + dx, row + dy)
    return np.abs(back - example['image'][row, column]).mean()

  found = examples()
  right = np.mean([error(e, e['flow']) for e in found])
  still = np.mean([error(e, 0 * e['flow']) for e in found])
  swapped = np.mean([error(e, e['flow'][..., ::-1]) for e in found])
  assert right < 1.5  # of 255
  assert min(still, swapped) > 7 * right


def test_flow_takes_every_point_to_where_it_is_in_the_next_example():
  data, checked = sphere.source(split='validation', frame=90), 0
  for i in range(0, 71, 7):
    now, then = data[i], data[i + 1]
    np.testing.assert_array_equal(now['next'], then['image'])
    seen = now['visible'] & then['visible']
    x, y = pixels(now['points'][seen]).T
    moved = np.stack([x, y], -1) + bilinear(now['flow'].astype(float), x, y)
    np.testing.assert_allclose(moved, pixels(then['points'][seen]), atol=0.02)
    checked += seen.sum()
  assert checked > 30


def test_a_point_keeps_its_colour_over_the_whole_turn(turn):
  points, visible = (np.stack([e[key] for e in turn]) for key in ('points', 'visible'))
  spread, others = [], []
  for k in range(sphere.POINTS):
    shown = np.flatnonzero(visible[:, k])
    colours = [bilinear(turn[i]['image'].astype(float), *pixels(points[i, k])) for i in shown]
    spread.append(np.std(colours, 0).mean())
    others.append(np.mean(colours, 0))
  assert len(others) == sphere.POINTS
  assert max(spread) < 12  # of 255; near the rim colours mix
  assert np.mean(spread) < 0.15 * np.std(others, 0).mean()


def test_the_test_split_is_one_full_turn_about_the_vertical(turn):
  assert len(turn) == 72
  np.testing.assert_array_equal(turn[-1]['next'], turn[0]['image'])
  points = np.stack([e['points'] for e in turn])
  np.testing.assert_allclose(points[..., 1], np.broadcast_to(points[0, :, 1], (72, 12)), atol=1e-6)
  centre = np.abs(points.mean(0)[:, 0])
  assert centre.max() < 1e-6
  width = np.hypot(points[..., 0], np.roll(points[..., 0], 18, 0))  # a quarter turn apart
  np.testing.assert_allclose(width, np.broadcast_to(width[0], width.shape), atol=1e-6)
  visible = np.stack([e['visible'] for e in turn])
  assert visible.any(0).all()
  assert 0.3 < visible.mean() < 0.5


def test_a_point_or_the_one_behind_it_is_visible_and_never_both(turn):
  corners = sphere.surface_points()
  np.testing.assert_allclose(np.linalg.norm(corners, axis=1), 1)
  cosine = corners @ corners.T
  np.testing.assert_allclose(np.sort(cosine, 1)[:, -2], 1 / math.sqrt(5))  # an icosahedron's
  behind = cosine.argmin(1)
  for example in turn[::5]:
    radius = np.linalg.norm(example['points'], axis=1) / sphere.RADIUS
    facing = np.sqrt(1 - radius**2) > sphere.FACING
    assert not (example['visible'] & example['visible'][behind]).any()
    np.testing.assert_array_equal(example['visible'] | example['visible'][behind], facing)


def test_what_turns_away_is_not_valid_and_what_is_not_sphere_has_no_flow():
  """A quarter turn about the vertical: the right half leaves, or the left one."""
  quarter = sphere.rotation(np.array([0.0, 1, 0]), math.pi / 2)
  flow, valid = sphere.flow_between(np.eye(3), quarter, 90)
  x = np.broadcast_to(np.linspace(-1, 1, 90), (90, 90))
  on = np.hypot(x, x.T) < sphere.RADIUS
  np.testing.assert_array_equal(valid, on & (x < 0))
  assert not flow[~on].any()
  np.testing.assert_allclose(flow[44, 44], [pixels(sphere.RADIUS) - 44.5, 0], atol=1)
  back, valid = sphere.flow_between(quarter, np.eye(3), 90)
  np.testing.assert_array_equal(valid, on & (x > 0))
  np.testing.assert_allclose(back[44, 44], [44.5 - pixels(sphere.RADIUS), 0], atol=1)


def test_a_rotation_turns_by_its_angle_about_its_axis():
  axis = np.array([2.0, -1, 2]) / 3
  matrix = sphere.rotation(axis, 0.7)
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
  assert np.linalg.det(matrix) == pytest.approx(1)
  np.testing.assert_allclose(matrix @ axis, axis)
  start = np.array([1.0, 2, 0]) / math.sqrt(5)  # across the axis
  end = matrix @ start
  assert math.atan2(np.cross(start, end) @ axis, start @ end) == pytest.approx(0.7)


def test_videos_begin_anywhere_and_turn_about_any_axis():
  motions = [sphere.draw((0, 0), video) for video in range(400)]
  for vectors in (
    np.array([m.axis for m in motions]),
    np.array([m.orientation[0] for m in motions]),
    np.array([m.orientation[:, 2] for m in motions]),
  ):
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.abs(vectors.mean(0)).max() < 0.1
    np.testing.assert_allclose((vectors**2).mean(0), 1 / 3, atol=0.06)
  angles = [math.acos((np.trace(m.orientation) - 1) / 2) for m in motions]
  assert np.mean(angles) == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.1)  # uniform on SO(3)
  speeds = np.array([m.degrees for m in motions])
  assert sphere.SLOWEST < speeds.min() < speeds.mean() - 2
  assert speeds.mean() + 2 < speeds.max() < sphere.FASTEST


def test_splits_and_seeds_show_the_same_sphere_in_different_motions():
  options = [{'split': split, 'seed': seed} for split in sphere.COUNTS for seed in (0, 1)]
  shown = [sphere.source(frame=90, count=1, **o)[0] for o in options]
  assert len({e['points'].tobytes() for e in shown}) == len(options)
  colours = np.full((len(options), sphere.POINTS, 3), np.nan)
  for row, example in zip(colours, shown, strict=True):
    x, y = pixels(example['points'][example['visible']]).T
    row[example['visible']] = bilinear(example['image'].astype(float), x, y)
  assert np.nanmean(np.nanstd(colours, 0)) < 0.2 * np.nanmean(np.nanstd(colours, 1))


def test_info_tells_the_colours_of_the_train_split():
  images = [e['image'] for e in examples(200, split='train', frame=45)]
  found = np.stack(images).reshape(-1, 3) / 255
  np.testing.assert_allclose(found.mean(0), sphere.INFO.mean, atol=0.01)
  np.testing.assert_allclose(found.std(0), sphere.INFO.std, atol=0.01)


@pytest.mark.parametrize('side', [35, 90])
def test_examples_are_what_a_source_promises(side, tmp_path, monkeypatch):
  data = sources.open_source('synthetic/sphere', frame=side)
  assert isinstance(data, sources.Source)
  assert [len(sphere.source(split=split)) for split in sphere.COUNTS] == [7200, 360, 72]
  example = pickle.loads(pickle.dumps(data))[7199]
  shapes = {key: (value.dtype.name, value.shape) for key, value in example.items()}
  assert shapes == {
    'image': ('uint8', (side, side, 3)),
    'next': ('uint8', (side, side, 3)),
    'flow': ('float32', (side, side, 2)),
    'flow_valid': ('bool', (side, side)),
    'index': ('int32', ()),
    'points': ('float32', (12, 2)),
    'visible': ('bool', (12,)),
    'scale': ('float32', ()),
  }
  assert example['index'] == 7199
  assert len(data.info.names) == 12
  with pytest.raises(ValueError, match='count=73; expected a whole number from 1 to 72'):
    sphere.source(split='test', count=73)


def test_a_folder_gives_what_was_rendered(tmp_path, monkeypatch):
  monkeypatch.setattr(sphere, 'TURN', 3)
  fresh, kept = (sphere.source(p, frame=20, count=5)[4] for p in (None, str(tmp_path)))
  assert len(list(tmp_path.rglob('*.npy'))) == 1
  for key, value in fresh.items():
    np.testing.assert_array_equal(kept[key], value)

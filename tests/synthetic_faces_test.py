import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.data import pipeline
from landmarks_jax.data import source as sources
from landmarks_jax.data.synthetic import face_model, faces, painting
from landmarks_jax.evaluation import regression
from landmarks_jax.methods import moco

root = pathlib.Path(__file__).resolve().parents[1]


def plain_face(i, **changes):
  """Face i with nothing that hides, blurs or displaces its features."""
  face = face_model.draw((11, 7, i))
  plain = {'gaze_x': 0.0, 'gaze_y': 0.0, 'openness': 1.1, 'glasses': False, 'occluders': []}
  plain |= {'noise': 0.0, 'blur': 0.0, 'grey': False, 'freckles': 0.0, 'beard': 0.0, 'blush': 0.0}
  plain |= {'hair_style': 'bald', 'shine': 0.0, 'eye_height': 0.45}
  for name, value in (plain | changes).items():
    assert hasattr(face, name), name
    setattr(face, name, value)
  return face


def moved_by(face, side, **change):
  """Where a change alters the picture: normalised positions of the pixels [N, 2], how much [N]."""
  shot = face_model.photograph(face)
  before = faces.render(face, shot, side).astype(int)
  for name, value in change.items():
    setattr(face, name, value)
  after = faces.render(face, shot, side).astype(int)
  change = np.abs(after - before).sum(-1)
  rows, columns = np.nonzero(change > 12)
  return shot, np.stack([columns, rows], -1) * (2 / (side - 1)) - 1, change[rows, columns]


@pytest.mark.parametrize('side', [96, 191])
def test_a_dot_in_the_eye_and_its_point_move_together(side):
  found, truth = [], []
  for i in range(16):
    face = plain_face(i, iris_size=0.2, iris=painting.colour(0, 0, 0))
    shot, dots, change = moved_by(face, side, iris=painting.colour(1.5, 0, 0))
    eyes = shot.points[:2]
    nearest = np.linalg.norm(dots[:, None] - eyes, axis=-1).argmin(1)
    for k in (0, 1):
      found.append(np.average(dots[nearest == k], 0, change[nearest == k]))
      truth.append(eyes[k])
  found, truth = np.array(found), np.array(truth)
  assert np.abs(found - truth).max() < 0.4 * 2 / (side - 1)  # of a pixel
  assert (found * truth).sum() / (truth**2).sum() == pytest.approx(1, abs=0.2 / side)


def test_the_lips_end_where_the_corners_are():
  for i in range(16):
    face = plain_face(i, lips=painting.colour(0.1, 0.1, 0.1))
    shot, lips, _ = moved_by(face, 256, lips=painting.colour(2, 0, 0))
    left, right = shot.points[3:5]
    along = (lips - left) @ (right - left) / np.linalg.norm(right - left)
    for end, corner in ((along.argmin(), left), (along.argmax(), right)):
      assert np.linalg.norm(lips[end] - corner) < 0.02


def test_the_nose_is_what_sticks_out_furthest():
  for i in range(16):
    face = plain_face(i)
    shot = face_model.photograph(face)
    area = painting.canvas(256)
    z, covered = faces._skin_surface(face, shot, area)  # knows the solids, not the landmark
    forward = np.stack(np.broadcast_arrays(area.x, area.y, z), -1) @ shot.rotation[:, 2]
    forward = np.where(covered > 0.5, forward, -9)
    rows, columns = np.nonzero(forward > forward.max() - 0.001)
    found = np.array([area.x[0, columns].mean(), area.y[rows, 0].mean()])
    assert np.linalg.norm(found - shot.points[2]) < 0.012


def test_turning_right_moves_the_nose_right_of_the_eyes():
  for yaw in (-0.5, 0.5):
    points = face_model.photograph(plain_face(3, yaw=yaw, roll=0.0)).points
    assert np.sign(points[2, 0] - points[:2, 0].mean()) == np.sign(yaw)


def test_flip_pairs_are_mirror_images_of_a_frontal_face():
  shot = face_model.photograph(plain_face(5, yaw=0.0, roll=0.0))
  order = np.arange(len(shot.points))
  for a, b in face_model.FLIP_PAIRS + face_model.MORE_FLIP_PAIRS:
    order[[a, b]] = b, a
  mirrored = shot.points[order] * [-1, 1] + [2 * shot.origin[0], 0]
  np.testing.assert_allclose(mirrored, shot.points, atol=1e-6)
  assert (shot.points[order] != shot.points).any(-1).sum() == 14


def test_a_covered_landmark_is_invisible():
  face = plain_face(2)
  before = face_model.photograph(face)
  assert before.visible[:5].all()
  x, y = before.points[0].tolist()
  paint = painting.colour(0, 0.8, 0)
  face.occluders = [painting.Shape(x, y, 0.05, 0.03, 0.4, True, paint, paint, 0.0, 0.0)]
  shot = face_model.photograph(face)
  assert shot.visible[:5].tolist() == [False, True, True, True, True]
  image = faces.render(face, shot, 136)
  column, row = np.round((shot.points[0] + 1) / 2 * 135).astype(int)
  assert image[row, column, 1] > image[row, column, [0, 2]].max() + 50


def test_hair_over_the_eyes_hides_them():
  changes = {'hair_style': 'short', 'hair_line': 0.3, 'hair_wave': 0.0, 'hair_part': 0.0}
  shot = face_model.photograph(plain_face(4, **changes))
  assert shot.visible[:5].tolist() == [False, False, True, True, True]


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
  """What another process renders (and fast: without this one's shape checks at every call)."""
  path = tmp_path_factory.mktemp('faces') / 'rendered.npz'
  code = f"""
import numpy as np
from landmarks_jax.data.synthetic import faces
train, test = faces.source(frame=24, count=600), faces.source(split='test', frame=45, count=700)
examples = [test[i] for i in reversed(range(700))][::-1]
fields = {{key: np.stack([e[key] for e in examples]) for key in examples[0]}}
large = faces.source(split='test', frame=90, count=450)
fields |= {{'large': np.stack([large[i]['image'] for i in range(450)])}}
np.savez({str(path)!r}, train=np.stack([train[i]['image'] for i in range(600)]), **fields)
"""
  result = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  return dict(np.load(path))


def test_an_example_depends_on_seed_split_and_index_alone(rendered):
  data = faces.source(split='test', frame=45)
  for again in (
    data,
    pickle.loads(pickle.dumps(data)),
    faces.source(split='test', frame=45, count=8),
  ):
    example = again[7]  # in the other process the 693rd, and the one before it was number 8
    assert set(example) == set(rendered) - {'train', 'large'}
    for key in example:
      np.testing.assert_array_equal(example[key], rendered[key][7])


def test_splits_and_seeds_share_nothing():
  options = [{'split': split, 'seed': seed} for split in faces.COUNTS for seed in (0, 1)]
  points = [faces.source(frame=16, **o)[i]['points'].tobytes() for o in options for i in range(4)]
  assert len(set(points)) == len(options) * 4


def test_every_frame_size_shows_the_same_picture():
  grid = np.linspace(-1, 1, 24)

  def averaged(side):
    weights = np.maximum(0.1 - np.abs(grid[:, None] - np.linspace(-1, 1, side)), 0)
    weights /= weights.sum(1, keepdims=True)
    return np.einsum('ih,hwc,jw->ijc', weights, faces.render(face, shot, side), weights)

  for i in range(6):
    face = face_model.draw((1, 2, i))
    face.noise = 0.0
    shot = face_model.photograph(face)
    assert np.abs(averaged(70) - averaged(180)).mean() < 3.5  # of 255
  small, large = (faces.source(frame=side)[2] for side in (70, 180))
  np.testing.assert_array_equal(small['points'], large['points'])


def inter_ocular(found, points, scale):
  return float((np.linalg.norm(found - points, axis=-1) / scale[:, None]).mean())


def test_the_mean_shape_does_not_solve_it(rendered):
  points, scale = rendered['points'], rendered['scale']
  assert 0.35 < inter_ocular(points.mean(0), points, scale) < 0.45  # cropped photographs: .29
  assert np.abs(points).max() < 0.7  # inside the centre crop 136 -> 96
  assert 0.9 < rendered['visible'].mean() < 0.995


def test_heads_turn_in_three_dimensions(rendered):
  eyes, nose = rendered['points'][:, :2], rendered['points'][:, 2]
  turn = ((nose - eyes.mean(1)) * (eyes[:, 1] - eyes[:, 0])).sum(-1) / rendered['scale'] ** 2
  low, high = np.quantile(turn, [0.1, 0.9])
  assert low < -0.2
  assert high > 0.2  # of the distance between the eyes


def test_neither_the_darkest_pixel_nor_a_thumbnail_solves_it(rendered):
  images = rendered['image'][:, 6:-7, 6:-7]  # the centre crop, 32 x 32
  points, scale = rendered['points'], rendered['scale']
  grey = images.mean(-1)
  rows, columns = np.divmod(grey.reshape(len(grey), -1).argmin(1), grey.shape[1])
  darkest = (np.stack([columns, rows], -1) + 6) * (2 / 44) - 1
  nearest = np.linalg.norm(points[:, :2] - darkest[:, None], axis=-1).min(1) / scale
  assert nearest.mean() > 0.5  # in distances between the eyes
  pixels = images.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).reshape(len(images), -1) / 255
  pixels -= pixels.mean(0)
  kernel, train = pixels @ pixels.T, slice(0, 500)
  target = points.reshape(len(points), -1)
  middle = target[train].mean(0)
  ridge = kernel[train, train] + 0.1 * kernel.trace() / len(kernel) * np.eye(500)
  found = kernel[500:, train] @ np.linalg.solve(ridge, target[train] - middle) + middle
  assert inter_ocular(found.reshape(-1, 5, 2), points[500:], scale[500:]) > 0.16


def test_a_network_that_has_learned_nothing_does_not_solve_it(rendered):
  arrays = {key: rendered[key][:450] for key in ('index', 'points', 'visible', 'scale')}
  arrays['image'] = rendered['large']
  parts = {'train': slice(0, 300), 'test': slice(300, 450)}
  parts = {
    name: pipeline.Cached(faces.INFO, {key: array[part] for key, array in arrays.items()})
    for name, part in parts.items()
  }
  options = {'mean': faces.INFO.mean, 'std': faces.INFO.std, 'margin': 13, 'norm_groups': 1}
  network = moco.build(**options, depth=18, width=0.25, precision='float32')
  start, calibrate = jax.jit(network.init), jax.jit(network.calibrate)
  labelled = Batch(image=parts['train'].arrays['image'][:150])

  def describe(variables, image, size):
    return network.describe(*variables, image, size)

  for seed in (0, 1):
    params, aux = start(jax.random.key(seed), labelled)
    aux = calibrate(params, aux, labelled, jax.random.key(seed), 0)
    describer = Describer((params, aux), describe)
    found = regression.run(describer, parts.get, random_init={}, margin=13)
    assert regression.score(found)['inter_ocular'] > 12  # percent, with all 300 labels


def test_info_tells_the_colours_of_the_train_split(rendered):
  pixels = rendered['train'].reshape(-1, 3) / 255
  np.testing.assert_allclose(pixels.mean(0), faces.INFO.mean, atol=0.02)
  np.testing.assert_allclose(pixels.std(0), faces.INFO.std, atol=0.02)


@pytest.mark.parametrize(('points', 'number'), [(5, 5), ('all', 18)])
def test_examples_are_what_a_source_promises(points, number):
  data = sources.open_source('synthetic/faces', points=points, frame=33, split='validation')
  assert isinstance(data, sources.Source)
  assert len(data) == 1000
  example = data[999]
  shapes = {key: (value.dtype.name, value.shape) for key, value in example.items()}
  assert shapes == {
    'image': ('uint8', (33, 33, 3)),
    'index': ('int32', ()),
    'points': ('float32', (number, 2)),
    'visible': ('bool', (number,)),
    'scale': ('float32', ()),
  }
  assert example['index'] == 999
  eyes = example['points'][1] - example['points'][0]
  assert example['scale'] == pytest.approx(np.hypot(*eyes))
  assert len(data.info.names) == number
  assert data.info.names[:5] == ('left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth')
  with pytest.raises(IndexError, match='examples 0 to 999'):
    data[1000]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'split': 'trian'}, r"split='trian'; there are: train, validation, test"),
    ({'points': 68}, r"points=68; there are: 5, 'all'"),
    ({'count': 0}, 'count=0; expected a whole number from 1'),
    ({'frame': 4}, 'frame=4; expected a whole number from 16'),
    ({'seed': -1}, 'seed=-1; expected a whole number from 0'),
  ],
)
def test_an_option_that_does_not_exist_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    faces.source(**options)


def test_blur_is_a_gaussian_in_both_directions_and_keeps_the_sum():
  picture = np.zeros((3, 21, 31), np.float32)
  picture[1, 9, 14] = 1
  blurred = painting.blur(picture, 1.3)
  x, y = np.arange(31) - 14, np.arange(21)[:, None] - 9
  expected = np.exp(-(x**2 + y**2) / (2 * 1.3**2)) * (np.abs(x) < 5) * (np.abs(y) < 5)
  np.testing.assert_allclose(blurred[1], expected / expected.sum(), atol=1e-6)
  assert not blurred[[0, 2]].any()
  np.testing.assert_allclose(painting.blur(picture + 2, 0.7)[0], 2, rtol=1e-6)  # the border too


def test_attributes_are_those_of_the_drawn_face_and_change_nothing_else():
  plain, known = (faces.source(frame=16, attributes=asked) for asked in (False, True))
  assert plain.info.attributes == ()
  assert known.info.attributes == faces.ATTRIBUTES
  found = []
  for i in range(60):
    example, more = plain[i], known[i]
    assert more.keys() - example.keys() == {'attributes'}
    np.testing.assert_array_equal(more['image'], example['image'])
    found.append(more['attributes'])
    drawn = face_model.draw((0, 0, i))
    assert dict(zip(faces.ATTRIBUTES, more['attributes'], strict=True)) == {
      'Bald': drawn.hair_style == 'bald',
      'Eyeglasses': drawn.glasses,
      'Mouth_Slightly_Open': drawn.gap > 0.05,
      'No_Beard': drawn.beard == 0,
      'Smiling': drawn.smile > 0.05,
      'Wearing_Hat': drawn.hair_style == 'cap',
    }
  assert np.std(found, axis=0).astype(bool).all()  # each is there and not there

import itertools
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import images, youtube_faces_68
from landmarks_jax.data.source import open_source
from landmarks_jax.geometry import coords


def opened(path, **options):
  return open_source('youtube_faces_68', path=str(path), **options)


def shapes(source, margin=0):
  """All points of a source, in the centre of its frame, without reading its pictures."""
  points = []
  for pixels in source.labels.values():
    chosen = youtube_faces_68._chosen(pixels, len(source.info.names))
    points.append(images.frame_points(chosen, images.box_around(pixels, 1.6), source.frame))
  return np.stack(points) * (source.frame - 1) / (source.frame - 1 - 2 * margin)


def test_the_split_is_by_person_and_complete(youtube_faces):
  parts = {s: opened(youtube_faces, split=s) for s in ('train', 'validation', 'test', 'all')}
  assert {s: (len(p), len(set(p.people))) for s, p in parts.items()} == {
    'train': (2487, 204),
    'validation': (613, 51),
    'test': (632, 52),
    'all': (3732, 307),
  }
  everybody = sorted(set(parts['all'].people))
  assert set(parts['test'].people) == set(everybody[::6])
  assert set(parts['validation'].people) == set(everybody[1::6])
  together = sum((parts[s].files for s in ('train', 'validation', 'test')), ())
  assert sorted(together) == sorted(parts['all'].files)


def test_neighbours_are_two_people(youtube_faces):
  for split in ('train', 'validation', 'test'):
    people = opened(youtube_faces, split=split).people
    assert all(a != b for a, b in itertools.pairwise(people))


@pytest.mark.parametrize(('points', 'percent'), [(5, 29.8), (68, 20.4)])
@pytest.mark.parametrize('margin', [0, 20])
def test_the_mean_shape_scores_what_is_known(youtube_faces, points, percent, margin):
  train, test = (opened(youtube_faces, split=s, points=points) for s in ('train', 'test'))
  mean, target = shapes(train, margin).mean(axis=0), shapes(test, margin)
  first, second = test.info.scale
  eyes = np.linalg.norm(target[:, first] - target[:, second], axis=-1)
  errors = np.linalg.norm(target - mean, axis=-1) / eyes[:, None]
  assert 100 * errors.mean() == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize('points', [5, 68])
def test_the_mirror_image_of_a_landmark_is_its_flip_partner(youtube_faces, points):
  source = opened(youtube_faces, split='all', points=points)
  assert len(set(source.info.names)) == points
  mean = shapes(source).mean(axis=0)
  mean -= mean.mean(axis=0)
  distance = np.linalg.norm((mean * [-1, 1])[:, None] - mean, axis=-1)
  partner = np.arange(points)
  for a, b in source.info.flip_pairs:
    partner[[a, b]] = b, a
  np.testing.assert_array_equal(distance.argmin(axis=1), partner)
  swap = {'left': 'right', 'right': 'left'}
  sides = [name.split('_')[0] for name in source.info.names]
  assert all(sides[partner[i]] == swap.get(side, side) for i, side in enumerate(sides))


def test_an_example_is_the_square_around_all_68_points(youtube_faces):
  five, all68 = (opened(youtube_faces, split='test', points=p, frame=100) for p in (5, 68))
  assert five.files == all68.files
  shape = np.stack(list(five.labels.values()))
  number = int(
    np.argmax((shape[:, 48] != shape[:, 60]).all(-1) & (shape[:, 54] != shape[:, 64]).all(-1))
  )
  few, many = five[number], all68[number]
  np.testing.assert_array_equal(few['image'], many['image'])
  assert (few['image'].shape, few['index'], few['index'].dtype) == ((100, 100, 3), number, 'int32')
  points = many['points']
  low, high = points.min(axis=0), points.max(axis=0)
  np.testing.assert_allclose((low + high) / 2, 0, atol=1e-5)
  assert (high - low).max() == pytest.approx(2 / 1.6 * 100 / 99, rel=1e-5)
  expected = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
  np.testing.assert_allclose(few['points'], expected, atol=1e-5)
  assert few['scale'] == pytest.approx(np.hypot(*(few['points'][0] - few['points'][1])), rel=1e-5)
  assert many['scale'] == pytest.approx(np.hypot(*(points[36] - points[45])), rel=1e-5)
  assert many['visible'].all()


def test_the_landmarks_lie_on_the_eyes(youtube_faces):
  """Pupils are darker than the cheeks below them: the points are where the picture says."""
  source = opened(youtube_faces, split='validation', points=5)
  darker = []
  for i in range(60):
    example = source[i]
    pixels = coords.to_pixels(example['points'], width=136, height=136)
    (ax, ay), (bx, by) = np.rint(pixels[:2]).astype(int)
    below = int(np.hypot(bx - ax, by - ay) * 0.6)
    grey = example['image'].mean(axis=-1)
    for x, y in ((ax, ay), (bx, by)):
      darker.append(grey[y, x] < grey[y + below, x])
  assert np.mean(darker) > 0.85


def test_the_colours_are_those_of_the_training_pictures(youtube_faces):
  source = opened(youtube_faces)
  sample = np.stack([source[i]['image'] for i in range(0, len(source), 10)]) / 255
  np.testing.assert_allclose(sample.mean(axis=(0, 1, 2)), source.info.mean, atol=0.01)
  np.testing.assert_allclose(sample.std(axis=(0, 1, 2)), source.info.std, atol=0.01)


@pytest.fixture
def small(tmp_path):
  """The layout with three people, of whom both parts have pictures."""
  rng = np.random.default_rng(0)
  for part, names in (('training', ['A_B_00', 'C_00', 'C_01']), ('test', ['A_B_00', 'D-E_07'])):
    (tmp_path / part).mkdir()
    lines = [','.join(['', *map(str, range(136))])]
    for name in names:
      Image.fromarray(rng.integers(0, 255, (60, 50, 3), np.uint8)).save(
        tmp_path / part / f'{name}.jpg'
      )
      lines.append(','.join([f'{name}.jpg', *map(str, rng.uniform(5, 45, 136).round(1))]))
    (tmp_path / f'{part}_frames_keypoints.csv').write_text('\n'.join(lines))
  return tmp_path


def test_the_key_is_part_and_name_and_the_person_ends_at_the_last_underscore(small):
  source = opened(small, split='all')
  assert source.files == (
    'test/A_B_00.jpg', 'training/C_00.jpg', 'test/D-E_07.jpg', 'training/A_B_00.jpg',
    'training/C_01.jpg',
  )  # fmt: skip
  assert source.people == ('A_B', 'C', 'D-E', 'A_B', 'C')
  assert not np.array_equal(source[0]['image'], source[3]['image'])
  assert opened(small, split='test').people == ('A_B', 'A_B')
  assert opened(small, split='train').people == ('D-E',)


def test_missing_files_and_wrong_lines_are_told(small):
  (small / 'test/D-E_07.jpg').unlink()
  with pytest.raises(FileNotFoundError, match=r'names 1 missing pictures, first test/D-E_07\.jpg'):
    opened(small)
  labels = small / 'training_frames_keypoints.csv'
  text = labels.read_text() + '\n\n'  # blank lines are none
  for cells, told in ((['1'] * 3, '136 numbers'), (['7'] * 136, 'with the eyes apart')):
    labels.write_text(text + ','.join(['C_02.jpg', *cells]))
    with pytest.raises(ValueError, match=rf'csv, line 6 \(C_02\.jpg\): expected .*{told}'):
      opened(small)
  labels.write_text(text + ','.join(['C_02.jpg', 'nan', *map(str, range(135))]))
  with pytest.raises(ValueError, match=r'line 6 \(C_02\.jpg\): expected 136 finite numbers'):
    opened(small)
  shutil.rmtree(small)
  with pytest.raises(FileNotFoundError, match=r'training_frames_keypoints\.csv is missing; docs/'):
    opened(small)


@pytest.mark.parametrize(
  ('options', 'text'), [({'split': 'val'}, 'train, validation, test'), ({'points': 9}, '5 or 68')]
)
def test_bad_options_are_told(small, options, text):
  with pytest.raises(ValueError, match=text):
    opened(small, **options)


def test_the_folder_may_begin_with_the_users_home(youtube_faces, monkeypatch):
  monkeypatch.setenv('HOME', str(pathlib.Path(youtube_faces).parent))
  assert opened('~/youtube_faces_68', split='test').files

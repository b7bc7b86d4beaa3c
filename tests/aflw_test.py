import re

import numpy as np
import pytest
import scipy.io
from PIL import Image

from landmarks_jax.contracts import Batch
from landmarks_jax.data.source import BadImage, open_source
from landmarks_jax.geometry import coords, regions


def opened(path, name, split, **options):
  return open_source(name, path=str(path), split=split, **options)


def pixels_of(source):
  """All points of a source, in pixels of its frame of 136."""
  points = np.stack([source[i]['points'] for i in range(len(source))])
  return coords.to_pixels(points, width=136, height=136)


def save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path, 'PNG')  # the suffix says .jpg: the content decides


def smooth(width, height, seed):
  coarse = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), np.uint8)
  return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def check_item(source, expected):
  """Example 0, after the centre is cut, against a published item."""
  batch = regions.centre_crop(Batch(**{k: v[None] for k, v in source[0].items()}), 20)
  image = (batch.image[0] / 255 - source.info.mean) / source.info.std
  np.testing.assert_allclose(image.transpose(2, 0, 1), expected['item_data'], atol=1e-5)
  kp = expected['item_kp_normalized']
  np.testing.assert_allclose(batch.points[0], kp, atol=1e-5)
  assert batch.scale[0] == pytest.approx(np.hypot(*(kp[0] - kp[1])), rel=1e-5)
  assert batch.visible.all()


columns = 'image_file,crop_file,set,face_id,' + ','.join(f'{a}{i}' for i in range(5) for a in 'xy')


@pytest.fixture
def aflw_m(tmp_path, golden):
  """The layout with the fixture's 8 training rows, 2 others among them, and 8 test rows."""
  expected = golden('aflw_mtfl_geometry')
  lines = [columns]
  for i, row in enumerate(expected['train_raw'].tolist()):
    if i in (2, 5):
      lines.append(f'o/{i}.jpg,0/{i}b.jpg,2,9,' + ','.join(['50'] * 10))
    lines.append(f'o/{i}.jpg,{i % 2}/{i}.jpg,1,{7 * i},' + ','.join(map(str, row)) + ',more')
    save(tmp_path / f'aflw_cropped/{i % 2}/{i}.jpg', smooth(150, 150, i))
  (tmp_path / 'aflw_cropped/facedata_cropped.csv').write_text('\n'.join(lines) + '\n')
  lines = []
  for i, row in enumerate(expected['test_raw'].tolist()):
    lines.append(f' AFLW\\{i}-image.jpg ' + ' '.join(map(str, row)) + ' 1 2 2 3')
    image = smooth(150, 150, 20 + i) if i else expected['item_image']
    save(tmp_path / f'MTFL/AFLW/{i}-image.jpg', image)
  (tmp_path / 'MTFL/testing.txt').write_text('\n'.join(lines) + '\n')
  return tmp_path


def test_aflw_m_has_the_published_points(aflw_m, golden):
  expected = golden('aflw_mtfl_geometry')
  train, test = (opened(aflw_m, 'aflw_m', split) for split in ('train', 'test'))
  assert train.files == tuple(f'aflw_cropped/{i % 2}/{i}.jpg' for i in range(8))
  assert test.files == tuple(f'MTFL/AFLW/{i}-image.jpg' for i in range(8))
  np.testing.assert_allclose(pixels_of(train), expected['train_kp136'], atol=1e-4)
  np.testing.assert_allclose(pixels_of(test), expected['test_kp136'], atol=1e-4)


def test_aflw_m_shows_the_published_picture(aflw_m, golden):
  check_item(opened(aflw_m, 'aflw_m', 'test'), golden('aflw_mtfl_geometry'))


@pytest.mark.parametrize(
  ('old', 'new', 'text'),
  [
    ('crop_file', 'crop', r"line 1: expected columns crop_file and set, found \['image_file'"),
    ('1/1.jpg,1,7,', '1/1.jpg,one,7,', r"line 3: could not convert string to float: 'one'; the li"),
    ('1/1.jpg,1,7,', '1/1.jpg,1,7,nan,', r'line 3: expected 10 finite coordinates in cells 5 to'),
    (',1,', ',3,', r'has no training pictures \(set 1\)'),
  ],
)
def test_a_wrong_row_of_the_csv_is_told_with_its_line(aflw_m, old, new, text):
  path = aflw_m / 'aflw_cropped/facedata_cropped.csv'
  path.write_text(path.read_text().replace(old, new))
  with pytest.raises(ValueError, match=rf'facedata_cropped\.csv.* {text}|csv {text}|csv, {text}'):
    opened(aflw_m, 'aflw_m', 'test')


def test_a_short_row_of_the_csv_is_told(aflw_m):
  with (aflw_m / 'aflw_cropped/facedata_cropped.csv').open('a') as file:
    file.write('\na.jpg,b.jpg,1,3,4,5\n')
  with pytest.raises(
    ValueError, match=r"line 13: expected 10 .*; the line is \['a\.jpg', 'b\.jpg'"
  ):
    opened(aflw_m, 'aflw_m', 'train')


@pytest.mark.parametrize('line', ['AFLW/x.jpg 1 2 3', 'AFLW/x.jpg ' + 'nan ' * 14])
def test_a_wrong_line_of_mtfl_is_told(aflw_m, line):
  with (aflw_m / 'MTFL/testing.txt').open('a') as file:
    file.write(line)
  with pytest.raises(
    ValueError, match=r'testing\.txt, line 9: expected a file name and 14 numbers'
  ):
    opened(aflw_m, 'aflw_m', 'train')


@pytest.fixture
def aflw_r(tmp_path, golden):
  """The layout with one training face and the fixture's six as test, one of them twice."""
  expected = golden('aflw_geometry')
  gt, hw = expected['gt_mat'].astype(float), expected['hw_mat']
  for part, rows in (('train', [3]), ('test', [0, 1, 2, 3, 4, 5, 2])):
    labels = {'gt': gt[rows], 'hw': hw[rows]}
    scipy.io.savemat(tmp_path / f'aflw_{part}_keypoints.mat', labels)
    names = [f'{part}_{row}.jpg' for row in rows]
    (tmp_path / f'aflw_{part}_images.txt').write_text('\n'.join(names) + '\n')
    for row, name in zip(rows, names, strict=True):
      height, width = hw[row].tolist()
      image = smooth(width, height, row) if row else expected['item_image']
      save(tmp_path / 'output' / name, image)
  return tmp_path


def test_aflw_r_has_the_published_points_and_keeps_its_duplicates(aflw_r, golden):
  expected = golden('aflw_geometry')['kp136']
  train, test = (opened(aflw_r, 'aflw_r', split) for split in ('train', 'test'))
  assert train.files == ('output/train_3.jpg',)
  assert test.files == tuple(f'output/test_{i}.jpg' for i in (0, 1, 2, 3, 4, 5, 2))
  np.testing.assert_allclose(pixels_of(train), expected[[3]], atol=1e-4)
  np.testing.assert_allclose(pixels_of(test), expected[[0, 1, 2, 3, 4, 5, 2]], atol=1e-4)


def test_aflw_r_shows_the_published_picture(aflw_r, golden):
  check_item(opened(aflw_r, 'aflw_r', 'test'), golden('aflw_geometry'))


def test_wrong_labels_of_aflw_r_are_told(aflw_r, golden):
  names, labels = aflw_r / 'aflw_test_images.txt', aflw_r / 'aflw_test_keypoints.mat'
  gt, hw = (golden('aflw_geometry')[name] for name in ('gt_mat', 'hw_mat'))
  names.write_text('a.jpg\nb.jpg\n')
  with pytest.raises(
    ValueError, match=r'mat: gt is \(7, 5, 2\) and hw \(7, 2\); expected \(2, 5, 2'
  ):
    opened(aflw_r, 'aflw_r', 'train')
  gt[1, 3, 0] = np.nan
  scipy.io.savemat(labels, {'gt': gt[:2], 'hw': hw[:2]})
  with pytest.raises(ValueError, match=r'keypoints\.mat: gt of picture 2 is not finite: \[\['):
    opened(aflw_r, 'aflw_r', 'train')
  scipy.io.savemat(labels, {'points': gt, 'hw': hw})
  with pytest.raises(ValueError, match=r'has no variable gt; it has: points, hw'):
    opened(aflw_r, 'aflw_r', 'train')
  labels.write_bytes(b'no labels at all')
  with pytest.raises(ValueError, match=r'keypoints\.mat cannot be read as a MATLAB file'):
    opened(aflw_r, 'aflw_r', 'train')
  names.write_text('\n')
  with pytest.raises(ValueError, match=r'images\.txt is empty; expected a file name a line'):
    opened(aflw_r, 'aflw_r', 'train')


trees = pytest.mark.parametrize('name', ['aflw_m', 'aflw_r'])


@trees
def test_missing_lists_and_folders_are_named(name, request):
  path = request.getfixturevalue(name)
  with pytest.raises(FileNotFoundError, match=r'nowhere is not a folder; docs/data\.md'):
    opened(path / 'nowhere', name, 'train')
  for file in [f for f in path.rglob('*') if f.suffix in ('.csv', '.txt', '.mat')]:
    file.rename(path / 'away')
    with pytest.raises(FileNotFoundError, match=rf'{file.name} is missing; docs/data\.md'):
      opened(path, name, 'train')
    (path / 'away').rename(file)


@trees
def test_a_picture_that_only_the_lists_have_is_left_out_and_counted(name, request):
  path = request.getfixturevalue(name)
  before = opened(path, name, 'test')
  (path / before.files[1]).unlink()
  told = re.escape(f'pictures are missing, first {before.files[1]}; they are left out')
  with pytest.warns(UserWarning, match=told):
    after = opened(path, name, 'test')
  assert after.files == before.files[:1] + before.files[2:]
  np.testing.assert_array_equal(after[1]['points'], before[2]['points'])
  for file in [f for f in path.rglob('*') if f.suffix == '.jpg']:
    file.unlink()
  with pytest.raises(FileNotFoundError, match=r'holds none of the \d+ pictures of its lists, such'):
    opened(path, name, 'test')


@trees
def test_bad_pictures_are_named(name, request):
  path = request.getfixturevalue(name)
  source = opened(path, name, 'test')
  file = path / source.files[1]
  Image.fromarray(smooth(150, 150, 0)).save(file)
  torn = file.read_bytes()[:1500]
  save(file, smooth(120, 90, 0))
  with pytest.raises(
    BadImage, match=rf'{file}: has 120x90 pixels, but its landmarks are given for'
  ):
    source[1]
  for data, reason in ((torn, 'cannot be decoded'), (b'text', 'not a picture in a known format')):
    file.write_bytes(data)
    with pytest.raises(BadImage, match=rf'{file}: {reason}'):
      source[1]
  assert source[0]['image'].shape == (136, 136, 3)


@trees
def test_an_unknown_split_is_told(name, request):
  with pytest.raises(ValueError, match="split='val'; expected one of train, test"):
    opened(request.getfixturevalue(name), name, 'val')

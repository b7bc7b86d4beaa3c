import os

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import folder
from landmarks_jax.data.source import BadImage, open_source

header = 'file,left_eye_x,left_eye_y,right_eye_x,right_eye_y,tail_x,tail_y'


def save(path, width=40, height=30, dots=(), **options):
  """A dark picture with a white 3x3 dot around each point."""
  image = np.full((height, width, 3), 20, np.uint8)
  for x, y in dots:
    image[y - 1 : y + 2, x - 1 : x + 2] = 250
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path, **options)


@pytest.fixture
def animals(tmp_path):
  """Three pictures of three shapes, two folders; the tail of cat.png is not visible."""
  save(tmp_path / 'train/cat.png', 40, 30, [(10, 8), (26, 9)])
  save(tmp_path / 'train/dog.png', 28, 50, [(5, 20), (20, 22), (11, 35)])
  save(tmp_path / 'test/cat.png', 33, 33, [(4, 5), (20, 6), (30, 29)])
  rows = ['train/cat.png,10,8,26,9,,', 'train/dog.png,5,20,20,22,11,35']
  write(tmp_path, header, *rows, 'test/cat.png,4,5,20,6,30,29')
  return tmp_path


def write(path, *lines, name='points.csv', **options):
  (path / name).write_text('\n'.join(lines) + '\n', **options)


def opened(path, **options):
  return open_source('folder', path=str(path), **options)


def test_pictures_are_found_recursively_and_sorted_and_hidden_ones_left_out(tmp_path):
  for name in ['b/2.JPG', 'b/10.jpeg', 'a.png', 'c.webp', '.hidden.png', '.thumbs/a.png']:
    save(tmp_path / name)
  (tmp_path / 'notes.txt').write_text('no picture')
  assert opened(tmp_path).files == ('a.png', 'b/10.jpeg', 'b/2.JPG', 'c.webp')


def test_linked_folders_are_followed_but_not_for_ever(tmp_path):
  save(tmp_path / 'elsewhere/x.png')
  save(tmp_path / 'mine/y.png')
  os.symlink(tmp_path / 'elsewhere', tmp_path / 'mine/link')
  os.symlink(tmp_path / 'mine', tmp_path / 'mine/loop')
  assert opened(tmp_path / 'mine').files == ('link/x.png', 'y.png')


def test_an_unlabelled_example_is_an_image_and_its_number(animals):
  source = opened(animals, frame=24)
  example = source[2]
  assert set(example) == {'image', 'index'}
  assert example['image'].shape == (24, 24, 3)
  assert (example['image'].dtype, example['index'].dtype, example['index']) == ('uint8', 'int32', 2)
  assert source.info.names == ()
  assert source.info.scale == 'frame'


@pytest.mark.parametrize('crop', ['centre', 'pad', 'squash'])
def test_the_dots_are_where_the_labels_say(animals, crop):
  source = opened(animals, labels='points.csv', frame=80, crop=crop)
  assert len(source) == 3
  for example in (source[i] for i in range(3)):
    pixels = np.rint((example['points'] + 1) / 2 * 79).astype(int)
    for (x, y), visible in zip(pixels, example['visible'], strict=True):
      assert not visible or example['image'][y, x, 0] > 200


def test_each_crop_shows_its_part_of_the_picture(tmp_path):
  stripes = np.full((30, 60, 3), 120, np.uint8)
  stripes[:, :15], stripes[:, 45:], stripes[0] = 10, 240, 60
  Image.fromarray(stripes).save(tmp_path / 'a.png')
  centre, pad, squash = (
    opened(tmp_path, frame=60, crop=crop)[0]['image'][..., 0]
    for crop in ('centre', 'pad', 'squash')
  )
  middle = [10] * 15 + [120] * 30 + [240] * 15
  assert (centre[30, 1:-1] == 120).all()
  np.testing.assert_array_equal(squash[30], middle)
  np.testing.assert_array_equal(pad[30], middle)
  assert (squash[4:] == middle).all()
  assert (pad[:15] == 60).all()


def test_empty_cells_are_not_visible_and_finite(animals):
  source = opened(animals, labels='points.csv', split='train')
  assert source.files == ('train/cat.png', 'train/dog.png')
  cat = source[0]
  assert cat['visible'].tolist() == [True, True, False]
  assert cat['points'].dtype == np.float32
  assert np.isfinite(cat['points']).all()


def test_the_scale_is_the_distance_of_the_named_pair_in_the_frame(animals):
  source = opened(animals, labels='points.csv', scale=('right_eye', 'left_eye'), frame=61)
  assert source.info.scale == (1, 0)
  dog = source.files.index('train/dog.png')
  pixels = np.hypot(15, 2) * 61 / 28  # the centre square's side is 28
  assert source[dog]['scale'] == pytest.approx(pixels * 2 / 60, rel=1e-5)
  assert opened(animals, labels='points.csv')[0]['scale'] == 2


def test_left_and_right_are_flip_pairs(animals):
  info = opened(animals, labels='points.csv').info
  assert info.names == ('left_eye', 'right_eye', 'tail')
  assert info.flip_pairs == ((0, 1),)


def test_a_split_is_a_folder_or_else_the_column_of_that_name(animals):
  assert opened(animals, split='test').files == ('test/cat.png',)
  rows = [
    f'{file},12,14,{split}' for file, split in [('test/cat.png', 'a'), ('train/cat.png', 'b')]
  ]
  write(animals, 'file,nose_x,nose_y,split', *rows, 'train/dog.png,3,14,a')
  source = opened(animals, labels='points.csv', split='a')
  assert source.files == ('test/cat.png', 'train/dog.png')
  assert [int(source[i]['index']) for i in range(2)] == [0, 1]
  assert len(opened(animals, labels='points.csv')) == 3
  with pytest.raises(ValueError, match=r"split='test': expected 'all' .* column split .*: a, b"):
    opened(animals, labels='points.csv', split='test')


def test_labels_may_lie_elsewhere_and_come_from_a_spreadsheet(animals, tmp_path_factory):
  other = tmp_path_factory.mktemp('labels')
  text = ['file,nose_x,nose_y', 'train\\dog.png,3,14', '', './train/cat.png, 30,2.5']
  write(other, *text, name='p.csv', encoding='utf-8-sig', newline='\r\n')
  source = opened(animals, labels=str(other / 'p.csv'), unlabelled='skip')
  assert source.files == ('train/cat.png', 'train/dog.png')


def test_rotated_pictures_are_labelled_as_they_are_displayed(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # stored 40x30, displayed 30x40: (x, y) is stored at (y, 29 - x)
  save(tmp_path / 'a.jpg', 40, 30, [(33, 21)], exif=exif, quality=95)
  write(tmp_path, 'file,nose_x,nose_y', 'a.jpg,8,33')
  upright = opened(tmp_path, labels='points.csv', crop='pad', frame=40)[0]
  write(tmp_path, 'file,nose_x,nose_y', 'a.jpg,33,21')
  stored = opened(tmp_path, labels='points.csv', crop='pad', frame=40, rotate=False)[0]
  for example in (upright, stored):
    x, y = np.rint((example['points'][0] + 1) / 2 * 39).astype(int)
    assert example['image'][y, x].min() > 200
  assert not np.array_equal(upright['image'], stored['image'])


def refused(path, error, *parts, **options):
  with pytest.raises(error) as caught:
    opened(path, **options)
  for part in parts:
    assert part in str(caught.value)


def test_a_missing_or_empty_folder_is_named(tmp_path):
  refused(tmp_path / 'none', FileNotFoundError, str(tmp_path / 'none'), 'not a folder')
  (tmp_path / 'a.txt').write_text('x')
  refused(tmp_path, FileNotFoundError, str(tmp_path), 'no pictures', '.jpeg')
  refused(tmp_path, FileNotFoundError, 'no pictures', labels='points.csv')


@pytest.mark.parametrize(
  ('lines', 'error', 'parts'),
  [
    (['file,nose_x', 'a.png,1'], ValueError, ["missing: 'nose_y'"]),
    (['name,nose_x,nose_y', 'a.png,1,2'], ValueError, ["missing: 'file'"]),
    (['file;nose_x;nose_y', 'a.png;1;2'], ValueError, ['comma-separated', "missing: 'file'"]),
    (['file,nose_x,nose_y,spilt', 'a.png,1,2,x'], ValueError, ["unknown: 'spilt'"]),
    (['file,nose_x,nose_y,nose_x', 'a.png,1,2,3'], ValueError, ["twice: 'nose_x'"]),
    (['file', 'a.png'], ValueError, ['no landmark']),
    ([''], ValueError, ['is empty']),
    (['file,nose_x,nose_y', 'a.png,1'], ValueError, ['line 2', '2 cells', 'header has 3']),
    (['file,nose_x,nose_y', 'b.png,1,2', 'a.png,1,2'], FileNotFoundError, ['line 2', "'b.png'"]),
    (['file,nose_x,nose_y', 'a.png,1,2', '', 'a.png,3,4'], ValueError, ['line 4', 'in line 2']),
    (['file,nose_x,nose_y'], ValueError, ['no row for 1 of 1', 'a.png', "unlabelled='skip'"]),
    (['file,nose_x,nose_y', 'a.png,1,two'], ValueError, ['line 2 (a.png)', 'nose is (1, two)']),
    (['file,nose_x,nose_y', 'a.png,,2'], ValueError, ['line 2 (a.png)', 'nose is (, 2)']),
    (['file,nose_x,nose_y', 'a.png,nan,2'], ValueError, ['line 2 (a.png)', 'nose is (nan, 2)']),
    (['file,nose_x,nose_y', 'a.png,3,30'], ValueError, ['line 2 (a.png)', '(3, 30)', '40x30']),
    (['file,nose_x,nose_y', 'a.png,-1,3'], ValueError, ['line 2 (a.png)', '(-1, 3)', '40x30']),
    (['file,nose_x,nose_y', 'a.png,36,3'], ValueError, ['(36, 3)', 'centre square', "crop='pad'"]),
  ],
)
def test_a_bad_csv_file_is_told_by_line_file_and_value(tmp_path, lines, error, parts):
  save(tmp_path / 'a.png')
  write(tmp_path, *lines)
  refused(tmp_path, error, 'points.csv', *parts, labels='points.csv')


def test_a_csv_file_in_another_encoding_or_absent_is_told(tmp_path):
  save(tmp_path / 'a.png')
  refused(tmp_path, FileNotFoundError, 'nothing.csv', labels='nothing.csv')
  write(tmp_path, 'file,né_x,né_y', 'a.png,1,2', encoding='latin-1')
  refused(tmp_path, ValueError, 'points.csv is not UTF-8', labels='points.csv')


@pytest.mark.parametrize(
  ('options', 'parts'),
  [
    ({'crop': 'center'}, ["crop='center'", 'centre, pad, squash']),
    ({'unlabelled': 'ignore'}, ["unlabelled='ignore'", 'error, skip']),
    ({'frame': 1}, ['frame=1']),
    ({'split': 'val'}, ["split='val'", 'test, train']),
    ({'scale': 'eyes'}, ["scale='eyes'", 'left_eye, right_eye, tail']),
    ({'scale': ('left_eye', 'nose')}, ["'nose'", 'left_eye, right_eye, tail']),
    ({'scale': ('left_eye', 'tail')}, ['line 2 (train/cat.png)', 'from left_eye to tail']),
    ({'scale': ('tail', 'tail')}, ['line 4 (test/cat.png)', 'from tail to tail']),
    ({'label': 'points.csv'}, ["no option 'label'", 'labels, split, frame']),
  ],
)
def test_bad_options_are_told(animals, options, parts):
  refused(animals, ValueError, *parts, labels='points.csv', **options)


def test_labels_of_a_large_jpeg_are_in_its_full_size(tmp_path):
  save(tmp_path / 'a.jpg', 480, 400, [(101, 53), (100, 50), (103, 50), (103, 53)], quality=95)
  write(tmp_path, 'file,nose_x,nose_y', 'a.jpg,101.5,51.5')
  example = opened(tmp_path, labels='points.csv', crop='pad', frame=120)[0]
  x, y = np.rint((example['points'][0] + 1) / 2 * 119).astype(int)
  assert example['image'][y, x].min() > 150


def test_a_bad_picture_is_named_when_read_not_when_opened(animals):
  (animals / 'train/dog.png').write_text('<html>')
  source = opened(animals, labels='points.csv')
  with pytest.raises(BadImage, match=r"dog\.png: not a picture .* starts with b'<html>'"):
    source[source.files.index('train/dog.png')]


def test_every_extension_can_be_read(tmp_path):
  kinds = {'.jpe': 'jpeg', '.jfif': 'jpeg'}
  for extension in folder.extensions:
    save(tmp_path / f'x{extension}', format=kinds.get(extension))
  source = opened(tmp_path, frame=8)
  assert len(source) == len(folder.extensions)
  for i in range(len(source)):
    assert np.abs(source[i]['image'].astype(int) - 20).max() <= 2

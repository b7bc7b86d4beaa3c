import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import folder, images, pipeline, preparing
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


@pytest.mark.parametrize('backwards', [False, True])
def test_a_picture_goes_by_its_real_folder_whatever_the_order_on_the_disk(
  tmp_path, monkeypatch, backwards
):
  for name in ('train/x.png', 'train/deep/y.png', 'elsewhere/z.png'):
    save(tmp_path / 'mine' / name)
  (tmp_path / 'mine/elsewhere').rename(tmp_path / 'elsewhere')
  links = {'a': 'mine/train/deep', 'test': 'mine/train', 'u': 'elsewhere', 'v': 'elsewhere'}
  for link, to in links.items():
    os.symlink(tmp_path / to, tmp_path / 'mine' / link)
  real = os.walk

  def in_order(*args, **options):
    for root, below, files in real(*args, **options):
      below.sort(reverse=backwards)
      yield root, below, files

  monkeypatch.setattr(os, 'walk', in_order)
  assert folder.find(tmp_path / 'mine') == ('train/deep/y.png', 'train/x.png', 'u/z.png')


def test_a_folder_of_videos_says_how_frames_are_made(tmp_path):
  (tmp_path / 'b.MP4').write_bytes(b'')
  (tmp_path / 'a.txt').write_bytes(b'')
  with pytest.raises(FileNotFoundError, match=r'ffmpeg -i b\.MP4 -vf fps=1 FOLDER/%06d\.png$'):
    folder.find(tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path, monkeypatch):
  save(tmp_path / 'a.png')
  save(tmp_path / 'secret/b.png')
  real = os.scandir

  def refuse(path):
    if os.fspath(path).endswith('secret'):
      raise PermissionError(13, 'Permission denied', path)
    return real(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.warns(UserWarning, match='secret: Permission denied; what is in there is left out'):
    assert folder.find(tmp_path) == ('a.png',)


def test_what_commands_drew_is_no_data(tmp_path):
  for name in ('a.png', 'run/pictures/views_00000000.png', 'm/matches.png', 'match/b.png'):
    save(tmp_path / name)
  for name in ('run/config.json', 'm/matches.json', 'match/config.json'):
    (tmp_path / name).write_text('{}')
  (tmp_path / 'run/checkpoints').mkdir()
  assert folder.find(tmp_path) == ('a.png', 'match/b.png')
  with pytest.raises(FileNotFoundError, match=r'run has no pictures in it .*, not in runs'):
    folder.find(tmp_path / 'run')


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


def test_a_folder_without_readable_pictures_says_what_it_has(tmp_path):
  for name in ('a.heic', 'below/b.HEIC', 'c.avif', 'LICENSE', '.hidden'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  told = r'not in runs; found 2 \.heic, 1 without extension, 1 \.avif\)'
  with pytest.raises(FileNotFoundError, match=told):
    folder.find(tmp_path)


def test_left_and_right_are_flip_pairs(animals):
  info = opened(animals, labels='points.csv').info
  assert info.names == ('left_eye', 'right_eye', 'tail')
  assert info.flip_pairs == ((0, 1),)


def test_pairs_that_the_labels_contradict_are_left_out_with_a_warning(animals):
  names = 'left_0', 'left_1', 'right_0', 'right_1', 'tail'
  rows = ['file,' + ','.join(f'{name}_{axis}' for name in names for axis in 'xy')]
  rows += [f'{file},9,8,12,13,18,13,21,8,15,20' for file in ('test/cat.png', 'train/cat.png')]
  (animals / 'odd.csv').write_text('\n'.join(rows))
  with pytest.warns(
    UserWarning, match=r'contradict the mirror pairs .*\(left_0/right_0, left_1/right_1\)'
  ):
    assert opened(animals, labels='odd.csv', unlabelled='skip').info.flip_pairs == ()


@pytest.mark.parametrize(
  ('names', 'pairs'),
  [
    (('Left eye', 'Right eye', 'nose'), ((0, 1),)),
    (('NOSE', 'RIGHT_EYE', 'LEFT_EYE', 'LEFT_EAR'), ((2, 1),)),
    (('eyeLeft', 'eyeRight', 'left ear', 'Right ear'), ((0, 1), (2, 3))),
    (('Left Eye', 'Right eye'), ()),
  ],
)
def test_left_and_right_are_flip_pairs_in_any_case_and_the_rest_of_the_name_is_equal(names, pairs):
  assert folder.flip_pairs(names) == pairs


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


@pytest.mark.parametrize(('there', 'given'), [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_labels_find_files_whose_accents_are_written_another_way(tmp_path, there, given):
  there, given = (unicodedata.normalize(form, 'Ägypten/café.png') for form in (there, given))
  save(tmp_path / there)
  save(tmp_path / 'plain.png')
  write(tmp_path, 'file,nose_x,nose_y', 'plain.png,11,12', f'{given},13,14', encoding='utf-8')
  source = opened(tmp_path, labels='points.csv')
  assert set(source.files) == {'plain.png', there}
  np.testing.assert_array_equal(source.catalogue.labels.points[there], [[13, 14]])


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


def coco(path, annotations, *, names=('left_eye', 'right_eye', 'tail'), **category):
  """Writes points.json; annotations: file -> [x, y, v, ...]."""
  images = [{'id': 70 + i, 'file_name': file} for i, file in enumerate(annotations)]
  data = {
    'images': images,
    'annotations': [
      {'id': i, 'image_id': image['id'], 'category_id': 3, 'keypoints': annotations[file]}
      for i, (file, image) in enumerate(zip(annotations, images, strict=True))
    ],
    'categories': [{'id': 3, 'name': 'animal', 'keypoints': list(names)} | category],
  }
  (path / 'points.json').write_text(json.dumps(data))


def test_coco_keypoints_are_the_same_labels_as_the_csv_file(animals):
  coco(
    animals,
    {
      'train/dog.png': [5, 20, 2, 20, 22, 1, 11, 35, 2],
      'train/cat.png': [10, 8, 2, 26, 9, 2, 0, 0, 0],
      'test/cat.png': [4, 5, 2, 20, 6, 2, 30, 29, 2],
    },
    skeleton=[[1, 2], [2, 3]],
  )
  options = {'crop': 'pad', 'scale': ('left_eye', 'right_eye')}
  given, expected = (
    opened(animals, labels=name, **options) for name in ('points.json', 'points.csv')
  )
  assert given.files == expected.files
  assert given.info == expected.info._replace(skeleton=((0, 1), (1, 2)))
  for i in range(3):
    ours, theirs = given[i], expected[i]
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
      np.testing.assert_array_equal(value, theirs[key])
  assert opened(animals, labels='points.json', split='test').files == ('test/cat.png',)


def test_a_picture_without_an_annotation_is_told_or_skipped(animals):
  coco(animals, {'train/dog.png': [5, 20, 2], 'train/cat.png': [1, 1, 0]}, names=['nose'])
  refused(animals, ValueError, 'points.json has no annotation for 2 of 3', labels='points.json')
  left = opened(animals, labels='points.json', unlabelled='skip')
  assert left.files == ('train/dog.png',)
  coco(animals, {'train/cow.png': [5, 20, 2]}, names=['nose'])
  parts = ('points.json, annotation 0', "no picture 'train/cow.png'")
  refused(animals, FileNotFoundError, *parts, labels='points.json')
  coco(animals, {'train/dog.png': [5, 55, 2]}, names=['nose'])
  parts = ('points.json, annotation 0 (train/dog.png)', 'nose at (5, 55) is outside its 28x50')
  refused(animals, ValueError, *parts, labels='points.json', unlabelled='skip')


def test_a_class_is_the_folder_that_holds_the_picture_in_every_split(tmp_path):
  for file in ('train/dog/1.png', 'train/ant/1.png', 'test/dog/2.png', 'test/eel/more/3.png'):
    save(tmp_path / file)
  source = opened(tmp_path, classes=True, split='test')
  assert source.files == ('test/dog/2.png', 'test/eel/more/3.png')
  assert source.catalogue.classes == ('ant', 'dog', 'more')
  labels = [source[i]['label'] for i in range(2)]
  assert [(label, label.dtype) for label in labels] == [(1, 'int32'), (2, 'int32')]
  assert 'label' not in opened(tmp_path)[0]
  assert opened(tmp_path).catalogue.classes == ()
  save(tmp_path / 'x.png')
  refused(tmp_path, ValueError, 'classes=True', 'x.png lies directly in', classes=True)


def test_the_catalogue_knows_every_picture_and_its_splits(animals):
  found = folder.catalogue(str(animals), labels='points.csv', frame=24)
  assert [(e.file, e.splits, e.label) for e in found.entries] == [
    ('test/cat.png', ('test',), None),
    ('train/cat.png', ('train',), None),
    ('train/dog.png', ('train',), None),
  ]
  source = opened(animals, labels='points.csv', frame=24, split='train')
  for i, row in enumerate((1, 2)):
    ours = found.example(row)
    assert ours.keys() | {'index'} == source[i].keys()
    np.testing.assert_array_equal(ours['image'], source[i]['image'])
    np.testing.assert_array_equal(ours['points'], source[i]['points'])
  write(animals, 'file,nose_x,nose_y,split', 'test/cat.png,1,2,a', 'train/cat.png,9,9,')
  found = folder.catalogue(str(animals), labels='points.csv', unlabelled='skip')
  assert [(e.file, e.splits) for e in found.entries] == [
    ('test/cat.png', ('a',)),
    ('train/cat.png', ()),
  ]


def test_a_prepared_folder_is_the_same_source_and_keeps_its_options(animals, tmp_path_factory):
  points = {'train/dog.png': [5, 20, 2, 11, 35, 2], 'test/cat.png': [4, 5, 2, 30, 29, 2]}
  coco(animals, points, names=('left_eye', 'tail'), skeleton=[[1, 2]])
  options = {'labels': 'points.json', 'crop': 'pad', 'unlabelled': 'skip', 'classes': True}
  options['scale'] = ('left_eye', 'tail')
  stored = tmp_path_factory.mktemp('stored')
  found = folder.catalogue(str(animals), frame=24, **options)
  preparing.prepare(found, stored, name='folder', options=options)
  before = opened(animals, frame=24, split='test', **options)
  for given in (options, {}):
    after = opened(stored, frame=24, split='test', **given)
    assert (after.files, after.info) == (before.files, before.info)
    assert after.catalogue.classes == ('test', 'train')
    assert before[0].keys() == after[0].keys()
    for key, value in before[0].items():
      np.testing.assert_array_equal(value, after[0][key])
  told = ("crop='squash'", "was prepared with crop='pad'", 'leave it out')
  refused(stored, ValueError, *told, frame=24, crop='squash')
  refused(stored, ValueError, 'scale=', "with scale=['left_eye", frame=24, scale=('tail', 'tail'))


def test_a_wrong_label_spoils_its_own_split_only(animals):
  write(
    animals, header, 'train/cat.png,10,8,26,9,,', 'train/dog.png,5,20,20,22,11,77', name='p.csv'
  )
  with (animals / 'p.csv').open('a') as file:
    file.write('test/cat.png,4,5,20,6,30,29')
  assert len(opened(animals, labels='p.csv', split='test')) == 1
  refused(animals, ValueError, 'line 3', '(11, 77)', labels='p.csv', split='train')
  found = folder.catalogue(str(animals), labels='p.csv')
  with pytest.raises(BadImage, match=r'dog\.png: .*line 3 .*tail at \(11, 77\) is outside'):
    found.example(2)


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
    (['file,nose_x,nose_y'], ValueError, ['points.csv has no row for any of the 1 pictures']),
    (['file,nose_x,nose_y', 'a.png,1,two'], ValueError, ['line 2 (a.png)', 'nose is (1, two)']),
    (['file,nose_x,nose_y', 'a.png,,2'], ValueError, ['line 2 (a.png)', 'nose is (, 2)']),
    (['file,nose_x,nose_y', 'a.png,1,' + '2' * 200_000], ValueError, ['line 2 is not CSV']),
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
    ({'scale': ('tail', 'tail')}, ['line 4 (test/cat.png)', 'from tail to tail']),
    ({'label': 'points.csv'}, ["no option 'label'", 'labels, split, frame']),
  ],
)
def test_bad_options_are_told(animals, options, parts):
  refused(animals, ValueError, *parts, labels='points.csv', **options)


def test_a_picture_without_a_scale_is_left_out_counted_and_named(animals):
  options = {'labels': 'points.csv', 'scale': ('left_eye', 'tail')}
  source, told = opened(animals, **options), []
  (batch,) = pipeline.evaluation_batches(source, batch_size=3, report=told.append)
  assert batch.valid.tolist() == [file != 'train/cat.png' for file in source.files]
  assert (batch.scale[batch.valid] > 0).all()
  (line,) = told
  assert line.startswith('bad picture 1 of 3, skipped: ')
  assert all(part in line for part in ('line 2 (train/cat.png)', 'from left_eye to tail', 'frame'))


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
  for extension in folder.EXTENSIONS:
    save(tmp_path / f'x{extension}', format=kinds.get(extension))
  source = opened(tmp_path, frame=8)
  assert len(source) == len(folder.EXTENSIONS)
  for i in range(len(source)):
    assert np.abs(source[i]['image'].astype(int) - 20).max() <= 2


def test_without_labels_a_large_jpeg_comes_reduced_unless_it_is_to_be_exact(tmp_path):
  ramp = np.linspace(0, 255, 400 * 300 * 3).reshape(300, 400, 3).astype(np.uint8)
  Image.fromarray(ramp).save(tmp_path / 'a.jpg')
  full = images.square_frame(images.read(tmp_path / 'a.jpg'), (50, 0, 300), 16)
  exact = folder.source(str(tmp_path), frame=16, exact=True)[0]['image']
  np.testing.assert_array_equal(exact, full)
  np.testing.assert_array_equal(folder.catalogue(str(tmp_path), frame=16).example(0)['image'], full)
  reduced = folder.source(str(tmp_path), frame=16)[0]['image'].astype(int)
  assert 0 < np.abs(reduced - full).max() < 20

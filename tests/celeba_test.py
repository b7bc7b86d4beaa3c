import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.contracts import Batch
from landmarks_jax.data import celeba, faces, mafl, pipeline, preparing
from landmarks_jax.data.source import BadImage, open_source
from landmarks_jax.geometry import coords, regions

aligned = 'Img/img_align_celeba'
header = 'lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y '
header += 'rightmouth_x rightmouth_y'


def write(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(lines) + '\n')


def encoded(image, kind):
  file = io.BytesIO()
  Image.fromarray(image).save(file, kind)
  return file.getvalue()


def smooth(width, height, seed=0):
  """A picture without noise, different in every place and channel."""
  coarse = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), np.uint8)
  return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def dot(width, height, x, y):
  """A bright dot on black."""
  rows, columns = np.mgrid[:height, :width]
  grey = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
  return np.repeat(grey[..., None], 3, axis=-1).round().astype(np.uint8)


def centroid(image):
  weight = image[..., 0].astype(float)
  rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
  return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  """CelebA's lists in full length, by the formula of the fixture, and the pictures that it has."""
  root = tmp_path_factory.mktemp('celeba')
  golden = dict(np.load(pathlib.Path(__file__).parent / 'golden/celeba_geometry.npz'))
  i, j, (a, b) = np.arange(202599)[:, None], np.arange(10), golden['formula']
  base = np.array([69, 111, 108, 111, 88, 135, 73, 152, 105, 152])
  pixels = base + (i * a + j * b + i // 97) % 13 - 6
  rows = np.concatenate([i + 1, pixels], axis=1).tolist()
  line = '{:06d}.jpg' + '  {} {}' * 5
  lines = [line.format(*row) for row in rows]
  write(root / 'Anno/list_landmarks_align_celeba.txt', '202599', header, *lines)
  parts = np.select([i < 162770, i < 182637], [0, 1], 2)[:, 0].tolist()
  files = [line[:10] for line in lines]
  write(
    root / 'Eval/list_eval_partition.txt',
    *(f'{f} {p}' for f, p in zip(files, parts, strict=True)),
  )
  write(root / 'MAFL/training.txt', *files[3:190003:10])
  write(root / 'MAFL/testing.txt', *files[7:200007:200])
  (root / aligned).mkdir(parents=True)
  jpeg = encoded(smooth(178, 218), 'JPEG')
  for file in np.concatenate([v for k, v in golden.items() if k.endswith('_files')]):
    (root / aligned / str(file)).write_bytes(jpeg)
  (root / aligned / '000008.jpg').write_bytes(encoded(golden['image_mafl_test0'], 'PNG'))
  return root


@pytest.fixture
def complete(published, monkeypatch):
  """As if all of its pictures were there."""
  monkeypatch.setattr(celeba, 'present', lambda root, files: list(range(len(files))))
  return published


@pytest.mark.parametrize(
  ('name', 'options', 'fixture'),
  [
    ('celeba', {'split': 'train'}, 'celeba_train'),
    ('celeba', {'split': 'mafl_train'}, 'mafl_train'),
    ('celeba', {'split': 'mafl_test'}, 'mafl_test'),
    ('mafl', {'split': 'train'}, 'mafl_train'),
    ('mafl', {'split': 'test'}, 'mafl_test'),
  ],
)
def test_the_lists_give_the_published_rows_and_points(complete, golden, name, options, fixture):
  expected = {k.removeprefix(fixture + '_'): v for k, v in golden('celeba_geometry').items()}
  source = open_source(name, path=str(complete), **options)
  assert len(source) == expected['len']
  rows = expected['rows'].tolist()
  files = source.files
  assert [files[row] for row in rows] == expected['files'].tolist()
  for row, kp136 in zip(rows, expected['kp136'], strict=True):
    example = source[row]
    pixels = coords.to_pixels(example['points'], width=136, height=136)
    np.testing.assert_allclose(pixels, kp136, atol=1e-4)
    assert example['image'].shape == (136, 136, 3)
    assert example['index'] == row


def test_the_official_parts_have_their_counts_and_the_published_validation_is_in_test(
  complete, golden
):
  expected = golden('celeba_geometry')
  whole = celeba.catalogue(str(complete))
  chosen = {split: faces.choose(whole, split, celeba.SPLITS).files for split in celeba.SPLITS}
  sizes = {split: len(files) for split, files in chosen.items()}
  assert (sizes['validation'], sizes['test']) == (19867, 19962)
  assert sizes['train_except_mafl_test'] == 162770 - len(range(7, 162770, 200))
  others = set(chosen['mafl_train'] + chosen['mafl_test'])
  validation = [file for file in chosen['test'] if file not in others][: expected['celeba_val_len']]
  rows = expected['celeba_val_rows']
  assert [validation[row] for row in rows] == expected['celeba_val_files'].tolist()


def test_an_aligned_picture_is_the_published_frame(published, golden):
  """Also from a folder that has 43 of the 202,599 pictures."""
  expected = golden('celeba_geometry')
  source = open_source('mafl', path=str(published), split='test')
  example = {name: value[None] for name, value in source[0].items()}
  batch = regions.centre_crop(Batch(**example), 20)
  image = (batch.image[0] / 255 - source.info.mean) / source.info.std
  np.testing.assert_allclose(image.transpose(2, 0, 1), expected['item_test_data'], atol=1e-5)
  kp = expected['item_test_kp_normalized']
  np.testing.assert_allclose(batch.points[0], kp, atol=1e-5)
  assert batch.scale[0] == pytest.approx(np.hypot(*(kp[0] - kp[1])), rel=1e-5)
  assert batch.visible.all()
  whole = Image.fromarray(expected['image_mafl_test0'][30:208])
  whole = whole.resize((136, 136), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(source[0]['image'], whole)


@pytest.fixture
def small(tmp_path):
  """The layout with 12 pictures, uncropped too; MAFL has four of them, from every part."""
  rng = np.random.default_rng(1)
  files = [f'{i:06d}.jpg' for i in range(1, 13)]
  for folder, landmarks, (width, height) in (
    (aligned, 'list_landmarks_align_celeba.txt', (178, 218)),
    ('Img_in_the_wild', 'list_landmarks_celeba.txt', (170, 110)),
  ):
    (tmp_path / folder).mkdir(parents=True)
    for seed, file in enumerate(files):
      (tmp_path / folder / file).write_bytes(encoded(smooth(width, height, seed), 'JPEG'))
    points = rng.integers(40, 100, (12, 10))
    lines = [' '.join(map(str, [f, *p])) for f, p in zip(files, points.tolist(), strict=True)]
    write(tmp_path / 'Anno' / landmarks, '12', header, *lines)
  attributes = rng.choice([-1, 1], (12, 40)).tolist()
  names = ' '.join(f'Attribute_{i}' for i in range(40))
  lines = [' '.join(map(str, [f, *a])) for f, a in zip(files, attributes, strict=True)]
  write(tmp_path / 'Anno/list_attr_celeba.txt', '12', names, *lines)
  boxes = [f'{f}  {60 + i} {20 + i} 50 70' for i, f in enumerate(files)]
  write(tmp_path / 'Anno/list_bbox_celeba.txt', '12', 'image_id x_1 y_1 width height', *boxes)
  parts = [f'{f} {int(i > 6) + int(i > 8)}' for i, f in enumerate(files)]  # 7, 2 and 3
  write(tmp_path / 'Eval/list_eval_partition.txt', *parts)
  write(tmp_path / 'MAFL/training.txt', '000002.jpg', '000008.jpg')
  write(tmp_path / 'MAFL/testing.txt', '000004.jpg', '000012.jpg')
  return tmp_path


def opened(path, split='test', name='celeba', **options):
  return open_source(name, path=str(path), split=split, **options)


def numbers(source):
  return [int(file[:6]) for file in source.files]


def replaced(path, old, new):
  text = path.read_text()
  assert text.count(old) == 1
  path.write_text(text.replace(old, new))


def test_training_leaves_out_all_of_mafl_or_only_what_is_tested(small):
  assert {split: numbers(opened(small, split)) for split in celeba.SPLITS} == {
    'train': [1, 3, 5, 6, 7],
    'train_except_mafl_test': [1, 2, 3, 5, 6, 7],
    'validation': [8, 9],
    'test': [10, 11, 12],
    'mafl_train': [2, 8],
    'mafl_test': [4, 12],
  }
  assert [e.file[:6] for e in mafl.catalogue(str(small)).entries] == [
    '000002', '000004', '000008', '000012',
  ]  # fmt: skip
  for part in mafl.SPLITS:
    ours, theirs = opened(small, part, 'mafl'), opened(small, f'mafl_{part}')
    for i in range(2):
      assert all(np.array_equal(ours[i][key], value) for key, value in theirs[i].items())


def test_without_the_lists_of_mafl_nothing_is_trained_on_that_might_be_in_it(small):
  (small / 'MAFL/testing.txt').unlink()
  for split in ('train', 'train_except_mafl_test', 'mafl_train', 'mafl_test'):
    with pytest.raises(FileNotFoundError, match=rf"'{split}' needs MAFL/training.txt and MAFL/te"):
      opened(small, split)
  assert numbers(opened(small, 'validation')) == [8, 9]
  with pytest.raises(FileNotFoundError, match=r'MAFL/testing\.txt is missing; docs/data\.md'):
    opened(small, 'train', 'mafl')


def test_attributes_come_with_their_names_where_there_is_a_list(small):
  path = small / 'Anno/list_attr_celeba.txt'
  source = opened(small)
  lines = path.read_text().splitlines()
  assert source.info.attributes == tuple(lines[1].split())
  for i, line in enumerate(lines[-3:]):
    assert source[i]['attributes'].dtype == bool
    assert source[i]['attributes'].tolist() == [cell == '1' for cell in line.split()[1:]]
  path.unlink()
  source = opened(small)
  assert source.info.attributes == ()
  assert 'attributes' not in source[0]


def test_lists_may_have_another_order(small):
  before = [e.attributes for e in celeba.catalogue(str(small)).entries]
  path = small / 'Anno/list_attr_celeba.txt'
  count, names, *lines = path.read_text().splitlines()
  write(path, count, names, *lines[::-1])
  assert [e.attributes for e in celeba.catalogue(str(small)).entries] == before


def test_a_squashed_picture_and_its_points_move_together(small):
  x, y = 131, 61
  file = small / aligned / '000011.jpg'
  file.write_bytes(encoded(dot(178, 218, x, y), 'PNG'))
  path = small / 'Anno/list_landmarks_align_celeba.txt'
  line = next(ln for ln in path.read_text().splitlines() if ln.startswith('000011'))
  replaced(path, line, f'000011.jpg {x} {y} 50 60 70 80 90 100 110 120')
  example = opened(small, crop='squash', frame=100)[1]
  pixels = coords.to_pixels(example['points'], width=100, height=100)
  np.testing.assert_allclose(pixels[0], centroid(example['image']), atol=0.02)
  np.testing.assert_allclose(
    pixels[0], [131.5 * 100 / 178 - 0.5, 61.5 * 100 / 218 - 0.5], atol=1e-4
  )


def test_the_whole_uncropped_picture_is_squashed_as_published(small):
  example = opened(small, crop='wild', frame=60)[0]
  picture = Image.open(small / 'Img_in_the_wild/000010.jpg')
  squashed = np.asarray(picture.resize((60, 60), Image.Resampling.BILINEAR), int)
  assert np.abs(example['image'] - squashed).max() <= 2  # two JPEG decoders
  line = (small / 'Anno/list_landmarks_celeba.txt').read_text().splitlines()[11]
  points = np.array(line.split()[1:], float).reshape(5, 2)
  pixels = coords.to_pixels(example['points'], width=60, height=60)
  np.testing.assert_allclose(pixels, points * [60 / 170, 60 / 110], atol=1e-4)


def test_the_box_of_an_uncropped_face_fills_what_the_network_sees(small):
  """The box is at (69, 29) to (119, 99), a point in its lower left corner; a picture is missing."""
  (small / 'Img_in_the_wild/000003.jpg').unlink()
  (small / 'Img_in_the_wild/000010.jpg').write_bytes(encoded(dot(170, 110, 75, 97), 'PNG'))
  path = small / 'Anno/list_landmarks_celeba.txt'
  line = path.read_text().splitlines()[11]
  replaced(path, line, '000010.jpg 75 97 94 64 70 80 90 100 110 120')
  example = opened(small, crop='wild_box')[0]
  pixels = coords.to_pixels(example['points'], width=136, height=136)
  zoom = 96 / 70  # its larger side fills 96 of 136 pixels
  centre = np.array([69 + 25, 29 + 35])
  expected = (np.array([75.5, 97.5]) - centre) * zoom + 68 - 0.5
  np.testing.assert_allclose(pixels[0], expected, atol=1e-4)
  peak = np.unravel_index(example['image'][..., 0].argmax(), (136, 136))
  np.testing.assert_allclose(pixels[0], peak[::-1], atol=1)


def test_a_box_without_area_is_a_bad_picture(small):
  replaced(small / 'Anno/list_bbox_celeba.txt', '000010.jpg  69 29 50 70', '000010.jpg 69 29 0 70')
  with pytest.raises(BadImage, match=r'000010\.jpg: has a box of 0x70 pixels in its list'):
    opened(small, crop='wild_box')[0]


def test_the_folder_of_pictures_is_the_first_that_exists_or_the_one_asked_for(small):
  image = dot(178, 218, 60, 90)
  (small / 'Img/img_align_celeba_hq').mkdir()
  (small / 'Img/img_align_celeba_hq/000010.jpg').write_bytes(encoded(image, 'PNG'))
  hq = opened(small, images='Img/img_align_celeba_hq')
  first = opened(small)
  assert (len(hq), len(first)) == (1, 3)
  assert not np.array_equal(hq[0]['image'], first[0]['image'])
  (small / aligned).rename(small / 'Img/elsewhere')
  np.testing.assert_array_equal(opened(small)[0]['image'], hq[0]['image'])


def test_a_picture_that_only_the_lists_have_is_left_out_and_counted(small):
  (small / aligned / '000011.jpg').unlink()
  told = r'1 of 12 pictures are missing, first 000011\.jpg; they are left out'
  with pytest.warns(UserWarning, match=told):
    source = opened(small)
  assert numbers(source) == [10, 12]
  whole = celeba.catalogue(str(small))
  np.testing.assert_array_equal(source[1]['points'], whole.example(10)['points'])
  assert whole.entries[10].file == '000012.jpg'


def test_a_folder_without_any_picture_of_the_lists_is_told(small):
  for file in (small / aligned).iterdir():
    file.rename(file.with_suffix('.png'))
  with pytest.raises(FileNotFoundError, match=r'none of the 12 pictures .* such as 000001\.jpg'):
    opened(small)


def test_a_split_without_pictures_says_what_there_is(small):
  for file in (small / aligned).iterdir():
    if file.stem > '000001':
      file.unlink()
  with pytest.raises(
    ValueError, match=r"split='test' has no pictures.* belong to: outside_mafl, tr"
  ):
    opened(small)


@pytest.mark.parametrize(
  'missing',
  ['Anno/list_landmarks_align_celeba.txt', 'Eval/list_eval_partition.txt', 'list_bbox_celeba.txt'],
)
def test_a_missing_list_is_named(small, missing):
  wild = {'crop': 'wild_box'} if 'bbox' in missing else {}
  next(small.rglob(missing)).unlink()
  with pytest.raises(FileNotFoundError, match=rf'{missing} is missing; docs/data\.md says'):
    opened(small, **wild)


def test_a_missing_root_or_picture_folder_is_named(small):
  with pytest.raises(FileNotFoundError, match=r'nowhere is not a folder; docs/data\.md'):
    opened(small / 'nowhere')
  (small / aligned).rename(small / 'Img/elsewhere')
  with pytest.raises(FileNotFoundError, match=r'no folder Img/img_align_celeba or Img/img_align_c'):
    opened(small)
  with pytest.raises(FileNotFoundError, match=r'no folder Img/here; docs/data\.md'):
    opened(small, images='Img/here')


@pytest.mark.parametrize(
  ('file', 'pattern', 'new', 'text'),
  [
    ('list_landmarks_align_celeba', '12\n', '13\n', r"line 1 says '13' pictures, but 12 follow"),
    ('list_landmarks_align_celeba', '000005.jpg', '000005.jpg 3', r'line 7: .* and 10 numbers, f'),
    (
      'list_landmarks_align_celeba',
      '000009.jpg ',
      '000009.jpg nan ',
      r"line 11: .*'000009.jpg nan",
    ),
    (
      'list_landmarks_align_celeba',
      '000012.jpg ',
      '000012.jpg x',
      r"line 14: .*found '000012.jpg x",
    ),
    ('list_attr_celeba', '000003.jpg ', '000003.jpg -1 ', r'line 5: .* and 40 numbers'),
    ('list_attr_celeba', 'Attribute_7 ', '', r'expected 40 names in line 2'),
    ('list_attr_celeba', '000001.jpg -1', '000001.jpg 0', r'-1 or 1 for each in every line'),
    ('list_eval_partition', '000001.jpg 0', '000001.jpg 3', r'expected 0, 1 or 2 .* found'),
    ('list_eval_partition', '000001.jpg 0\n', '', r'no line for 1 of 12 pictures, first 000001'),
    ('training', '000008.jpg', '777777.jpg', r"training.txt names '777777.jpg', which CelebA has"),
  ],
)
def test_a_wrong_list_is_told_with_its_line(small, file, pattern, new, text):
  path = next(small.rglob(f'{file}.txt'))
  whole = path.read_text()
  assert pattern in whole
  path.write_text(whole.replace(pattern, new, 1))
  with pytest.raises(ValueError, match=f'{path.name}.*{text}|{text}'):
    opened(small)


@pytest.mark.parametrize('content', ['', '\n \n', '12\n' + header + '\n'])
def test_an_empty_list_is_told(small, content):
  (small / 'Anno/list_landmarks_align_celeba.txt').write_text(content)
  with pytest.raises(ValueError, match=r'align_celeba\.txt has no pictures; expected a file name'):
    opened(small)
  (small / 'Anno/list_landmarks_align_celeba.txt').write_bytes(bytes(range(255)))
  with pytest.raises(ValueError, match='expected a file name and 10 numbers'):
    opened(small)


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'this is text', 'not a picture in a known format, it starts with'),
    (encoded(smooth(178, 218), 'JPEG')[:2000], 'cannot be decoded'),
    (encoded(smooth(178, 200), 'JPEG'), 'has 178x200 pixels, but its landmarks are .* 178x218'),
  ],
  ids=['text', 'truncated', 'size'],
)
def test_a_bad_picture_is_named_and_the_others_go_on(small, data, reason):
  (small / aligned / '000011.jpg').write_bytes(data)
  source = opened(small)
  with pytest.raises(BadImage, match=rf'{aligned}/000011\.jpg: {reason}'):
    source[1]
  assert pipeline.cached(source, report=lambda text: None).arrays['index'].tolist() == [0, 2, 2]


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({'split': 'val'}, "split='val'; expected one of train, train_except_mafl_test, validation"),
    ({'crop': 'box'}, "crop='box'; expected one of aligned, squash, wild, wild_box"),
  ],
)
def test_bad_options_are_told(small, options, text):
  with pytest.raises(ValueError, match=text):
    opened(small, **options)


def test_prepared_pictures_are_split_the_same_and_have_the_options_they_were_made_with(
  small, tmp_path_factory
):
  def stored(module, name, **options):
    made, options = tmp_path_factory.mktemp(name), {'crop': 'aligned', 'images': None} | options
    preparing.prepare(module.catalogue(str(small), **options), made, name=name, options=options)
    return made

  squashed, four = stored(celeba, 'celeba', crop='squash'), stored(mafl, 'mafl', crop='squash')
  assert numbers(opened(squashed, 'train', crop='squash')) == [1, 3, 5, 6, 7]
  assert numbers(opened(four, 'test', 'mafl', crop='squash')) == [4, 12]
  assert numbers(opened(squashed, 'mafl_test', crop='squash')) == [4, 12]
  for options, kept, asked in (
    ({}, "crop='squash'", '--frame=136 --crop=aligned'),
    ({'crop': 'wild', 'frame': 90}, "frame=136, crop='squash'", '--frame=90 --crop=wild'),
    ({'crop': 'squash', 'images': aligned}, 'images=None', f'--crop=squash --images={aligned}'),
  ):
    with pytest.raises(ValueError, match=rf'was prepared with {kept}, but .*{asked}$'):
      opened(squashed, **options)
  named = stored(celeba, 'celeba', images=aligned)
  assert numbers(opened(named)) == numbers(opened(named, images=aligned)) == [10, 11, 12]

import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from landmarks_jax.contracts import Batch
from landmarks_jax.data import w300
from landmarks_jax.data.source import BadImage, open_source
from landmarks_jax.geometry import coords, regions

lists = {
  'afw': ['1.jpg', '2.jpg'],
  'helen/trainset': ['h.jpg'],
  'lfpw/trainset': ['image_0001.png'],
  'helen/testset': ['h.jpg', 'g.jpg'],
  'lfpw/testset': ['image_0002.png'],
  'ibug': ['image_003.jpg', 'other.jpg', 'image_004.jpg'],
}


def write_points(path, points):
  lines = [f'{x:.6f} {y:.6f}' for x, y in points]
  path.write_text('\n'.join(['version: 1', 'n_points:  68', '{', *lines, '}']) + '\n')


def write_boxes(root, folder, boxes, *, cells):
  """The official form: a row of structs, in a cell array or a struct array."""
  whole = np.array([0.0, 0.0, 1.0, 1.0])
  records = [
    {'imgName': name, 'bb_detector': whole, 'bb_ground_truth': np.array(box, float)[None]}
    for name, box in boxes.items()
  ]
  if cells:
    value = np.empty((1, len(records)), object)
    value[0] = records
  else:
    fields = [(name, object) for name in records[0]]
    value = np.array([[tuple(record.values()) for record in records]], fields)
  (root / 'Bounding Boxes').mkdir(exist_ok=True)
  path = root / f'Bounding Boxes/bounding_boxes_{folder.replace("/", "_")}.mat'
  scipy.io.savemat(path, {'bounding_boxes': value})
  return path


def add(root, file, image, points):
  (root / file).parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(root / file, 'PNG')
  write_points((root / file).with_suffix('.pts'), points)


@pytest.fixture
def tree(tmp_path, golden):
  """The layout with ten pictures; those of the fixture are afw/1.jpg and afw/2.jpg."""
  expected, rng = golden('w300_geometry'), np.random.default_rng(0)
  for folder, names in lists.items():
    boxes = {}
    for name in names:
      image = rng.integers(0, 255, (60, 90, 3), np.uint8)
      boxes[name], points = [20, 12, 50, 40], rng.uniform(12, 40, (68, 2))
      if folder == 'afw':
        kind = {'1': 'inside', '2': 'topleft'}[name[0]]
        image, boxes[name], points = (expected[f'{kind}_{n}'] for n in ('image', 'box', 'pts'))
      add(tmp_path, f'{folder}/{name}', image, points)
    write_boxes(tmp_path, folder, boxes, cells='trainset' not in folder)
  return tmp_path


def opened(path, split='train', **options):
  return open_source('w300', path=str(path), split=split, **options)


@pytest.mark.parametrize(('row', 'kind'), [(0, 'inside'), (1, 'topleft')])
def test_a_face_is_the_published_frame(tree, golden, row, kind):
  expected = {k.removeprefix(kind + '_'): v for k, v in golden('w300_geometry').items()}
  source = opened(tree)
  batch = regions.centre_crop(Batch(**{k: v[None] for k, v in source[row].items()}), 20)
  image = (batch.image[0] / 255 - source.info.mean) / source.info.std
  np.testing.assert_allclose(image.transpose(2, 0, 1), expected['data'], atol=1e-5)
  np.testing.assert_allclose(batch.points[0], expected['kp_normalized'], atol=1e-5)
  pixels = coords.to_pixels(batch.points[0], width=96, height=96)
  np.testing.assert_allclose(pixels, expected['kp'], atol=1e-4)
  eyes = expected['kp_normalized'][[36, 45]]
  assert batch.scale[0] == pytest.approx(np.hypot(*(eyes[0] - eyes[1])), rel=1e-4)
  assert batch.visible.all()
  cut, _ = w300.cut_face(expected['image'], expected['pts'], expected['box'].astype(float))
  np.testing.assert_array_equal(cut, expected['crop100'])


def test_a_face_has_the_published_size_wherever_it_is():
  """A dot in a large picture and in a small one: same place in the cut, within the rounding."""
  for zoom in (0.6, 1.0, 2.7):
    box = np.array([90.0, 60.0, 190.0, 170.0]) * zoom
    x, y = 121 * zoom, 147 * zoom
    rows, columns = np.mgrid[: int(200 * zoom), : int(300 * zoom)]
    grey = 255 * np.exp(-((columns + 1 - x) ** 2 + (rows + 1 - y) ** 2) / (2 * (5 * zoom) ** 2))
    image = np.repeat(grey[..., None], 3, axis=-1).round().astype(np.uint8)
    cut, pixels = w300.cut_face(image, np.full((68, 2), [x, y]), box)
    weight = cut[..., 0].astype(float)
    rows, columns = np.mgrid[:100, :100]
    found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    np.testing.assert_allclose(pixels[0], found, atol=0.8)
    expected = [49 + (121 - 140) * 0.52, 51 + (147 - 115) * 0.52]  # 1 less: published
    np.testing.assert_allclose(found, expected, atol=1.2)


def test_the_published_parts(tree):
  assert {split: opened(tree, split).files for split in w300.SPLITS} == {
    'train': ('afw/1.jpg', 'afw/2.jpg', 'helen/trainset/h.jpg', 'lfpw/trainset/image_0001.png'),
    'test': (
      'helen/testset/h.jpg', 'helen/testset/g.jpg', 'lfpw/testset/image_0002.png',
      'ibug/image_003.jpg', 'ibug/image_004.jpg',
    ),
    'common': ('helen/testset/h.jpg', 'helen/testset/g.jpg', 'lfpw/testset/image_0002.png'),
    'challenging': ('ibug/image_003.jpg', 'ibug/image_004.jpg'),
  }  # fmt: skip


def test_every_picture_has_its_own_points_and_box(tree):
  """The list's order is not the folder's: box and points are found by name."""
  pixels = np.tile([30.0, 22.0], (68, 1))
  add(tree, 'helen/testset/g.jpg', np.zeros((60, 90, 3), np.uint8), pixels)
  write_boxes(
    tree, 'helen/testset', {'h.jpg': [1, 1, 80, 50], 'g.jpg': [11, 5, 36, 41]}, cells=True
  )
  example = opened(tree, 'common', frame=100)[1]
  points = coords.to_pixels(example['points'], width=100, height=100)
  corner = [round(23.5 * 2) - 50, 23 * 2 - 52]
  np.testing.assert_allclose(points, 2 * pixels - 1 - corner, atol=1e-4)


def test_missing_lists_and_folders_are_named(tree):
  with pytest.raises(FileNotFoundError, match=r'nowhere is not a folder; docs/data\.md'):
    opened(tree / 'nowhere')
  for file in list((tree / 'Bounding Boxes').iterdir()):
    file.rename(tree / 'away')
    with pytest.raises(FileNotFoundError, match=rf'{file.name} is missing; docs/data\.md'):
      opened(tree)
    (tree / 'away').rename(file)


@pytest.mark.parametrize(
  ('box', 'text'),
  [
    ([1, 2, np.nan, 4], r'entry 2 \(g\.jpg\): expected a box xmin ymin xmax ymax, found \[1'),
    ([5, 2, 5, 9], r'entry 2 \(g\.jpg\): expected a box'),
    ([5, 2, 8], r'entry 2 \(g\.jpg\): expected a box .*found \[5\.0, 2\.0, 8\.0\]'),
  ],
)
def test_a_wrong_box_is_told(tree, box, text):
  write_boxes(tree, 'helen/testset', {'h.jpg': [1, 1, 5, 5], 'g.jpg': box}, cells=True)
  with pytest.raises(ValueError, match=rf'bounding_boxes_helen_testset\.mat, {text}'):
    opened(tree)


def test_a_list_in_another_form_is_told(tree):
  path = tree / 'Bounding Boxes/bounding_boxes_ibug.mat'
  scipy.io.savemat(path, {'bounding_boxes': np.arange(3.0)})
  with pytest.raises(ValueError, match=r'ibug\.mat, entry 1: expected imgName and bb_ground_truth'):
    opened(tree)
  scipy.io.savemat(path, {'boxes': np.arange(3.0)})
  with pytest.raises(ValueError, match=r'ibug\.mat has no variable bounding_boxes; it has: boxes'):
    opened(tree)


def test_a_picture_that_only_the_lists_have_is_left_out_and_counted(tree):
  before = opened(tree)
  (tree / 'afw/1.jpg').unlink()
  told = r'1 of 9 pictures are missing, first afw/1\.jpg; they are left out'
  with pytest.warns(UserWarning, match=told):
    after = opened(tree)
  assert after.files == before.files[1:]
  np.testing.assert_array_equal(after[0]['points'], before[1]['points'])
  for folder in ('afw', 'helen', 'lfpw', 'ibug'):
    shutil.rmtree(tree / folder)
  with pytest.raises(
    FileNotFoundError, match=r'holds none of the 9 pictures of its lists, such as'
  ):
    opened(tree)


@pytest.mark.parametrize('content', ['', 'version: 1\n{\n1 2\n3 4\n}\n', '{' + '1 x ' * 68 + '}'])
def test_points_that_cannot_be_read_are_a_bad_picture(tree, content):
  (tree / 'afw/2.pts').write_text(content)
  source = opened(tree)
  with pytest.raises(BadImage, match=r'afw/2\.pts: its 68 points cannot be read'):
    source[1]
  write_points(tree / 'afw/2.pts', [[np.nan, 3]] * 68)
  with pytest.raises(BadImage, match=r'afw/2\.pts: has a point that is not finite'):
    source[1]
  (tree / 'afw/2.pts').unlink()
  with pytest.raises(BadImage, match=r'afw/2\.pts: its 68 points cannot be read \(.*No such file'):
    source[1]
  assert source[0]['points'].shape == (68, 2)


def test_bad_pictures_are_named(tree):
  file = tree / 'afw/2.jpg'
  Image.fromarray(np.array(Image.open(file))).save(file)
  torn, source = file.read_bytes()[:2000], opened(tree)
  for data, reason in ((torn, 'cannot be decoded'), (b'text', 'not a picture in a known format')):
    file.write_bytes(data)
    with pytest.raises(BadImage, match=rf'{file}: {reason}'):
      source[1]


def test_an_unknown_split_is_told(tree):
  with pytest.raises(
    ValueError, match="split='val'; expected one of train, test, common, challeng"
  ):
    opened(tree, 'val')

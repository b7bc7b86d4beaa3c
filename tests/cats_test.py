import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data.source import BadImage, open_source

# The annotation of CAT_00/00000001_000.jpg, a picture of 375x500, as its description quotes it.
annotation = '9 175 160 239 162 199 199 149 121 137 78 166 93 281 101 312 96 296 133 '


def opened(path, **options):
  return open_source('cats', path=str(path), **options)


def save(root, name, points, size=(375, 500), quality=95):
  """A dark picture with a white dot at each point, and its annotation."""
  image = np.full((*size[::-1], 3), 20, np.uint8)
  for x, y in points:
    image[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 250
  (root / name).parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(root / name, quality=quality)
  (root / f'{name}.cat').write_text(' '.join(map(str, [9, *np.ravel(points)])) + ' ')


@pytest.fixture
def real(tmp_path):
  """One picture with real points."""
  points = np.array(annotation.split()[1:], int).reshape(9, 2)
  save(tmp_path, 'CAT_00/00000001_000.jpg', points)
  (tmp_path / 'CAT_00/Thumbs.db').write_text('no picture')
  assert (tmp_path / 'CAT_00/00000001_000.jpg.cat').read_text() == annotation
  return tmp_path


@pytest.fixture
def tree(tmp_path):
  """13 series of two pictures in CAT_00 and 7 of one in CAT_03."""
  points = np.random.default_rng(0).integers(5, 25, (9, 2))
  for s in range(13):
    for i in (4, 11):
      save(tmp_path, f'CAT_00/{s:08d}_{i:03d}.jpg', points, (30, 40))
  for s in range(7):
    save(tmp_path, f'CAT_03/{40 + s:08d}_003.jpg', points, (30, 40))
  return tmp_path


def test_an_example_is_the_square_around_the_nine_points(real):
  source = opened(real, split='all', frame=100)
  example = source[0]
  points = example['points']
  low, high = points.min(axis=0), points.max(axis=0)
  np.testing.assert_allclose((low + high) / 2, 0, atol=1e-5)
  assert (high - low).max() == pytest.approx(2 / 1.6 * 100 / 99, rel=1e-5)
  assert example['scale'] == pytest.approx(np.hypot(*(points[0] - points[1])))
  assert example['visible'].tolist() == [True] * 9
  assert (example['image'].shape, example['index']) == ((100, 100, 3), 0)


def test_the_dots_are_where_the_points_say_also_beyond_the_edge(tmp_path):
  points = np.array(
    [[20, 9], [60, 12], [44, 40], [8, 9], [6, 2], [15, 3], [66, 4], [72, 3], [77, 9]]
  )
  save(tmp_path, 'CAT_01/00000500_001.jpg', points, (80, 50))
  example = opened(tmp_path, split='all')[0]
  x, y = np.rint((example['points'] + 1) / 2 * 135).astype(int).T
  assert (example['image'][y, x, 0] > 200).all()
  edge = np.mean(example['image'][0], axis=-1)  # above the picture its first row goes on
  np.testing.assert_allclose(edge, example['image'][5].mean(axis=-1), atol=2)
  assert edge.max() > edge.min() + 100


def test_the_mirror_image_of_a_landmark_is_its_flip_partner(real):
  """Of a real cat's ears the inner bases are nearest to each other, the tips farthest apart."""
  source = opened(real, split='all')
  points = source[0]['points']
  distance = np.linalg.norm(points[3:6, None] - points[None, 6:], axis=-1)
  inner, tips = (np.unravel_index(i, (3, 3)) for i in (distance.argmin(), distance.argmax()))
  (left,), (right,) = ({0, 1, 2} - {inner[i], tips[i]} for i in (0, 1))
  pairs = {(3 + a, 6 + b) for a, b in (inner, tips, (left, right))}
  assert pairs | {(0, 1)} == set(source.info.flip_pairs)
  assert points[0, 0] < points[1, 0]
  assert source.info.scale == (0, 1)


def test_seven_points_are_the_nine_without_the_tips_of_the_ears(real):
  nine, seven = (opened(real, split='all', points=p) for p in (9, 7))
  assert seven.info.names == tuple(n for n in nine.info.names if not n.endswith('ear_2'))
  many, few = nine[0], seven[0]
  np.testing.assert_array_equal(few['points'], np.delete(many['points'], [4, 7], axis=0))
  np.testing.assert_array_equal(few['image'], many['image'])
  assert (few['scale'], len(few['visible'])) == (many['scale'], 7)
  assert seven.files == nine.files
  pairs = [
    {tuple(s.info.names[i] for i in pair) for pair in s.info.flip_pairs} for s in (nine, seven)
  ]
  assert pairs[0] - pairs[1] == {('left_ear_2', 'right_ear_2')}
  assert pairs[1] < pairs[0]


def test_the_split_is_by_series_and_complete(tree):
  parts = {s: opened(tree, split=s).files for s in ('train', 'validation', 'test', 'all')}
  assert sorted(parts['train'] + parts['validation'] + parts['test']) == list(parts['all'])
  assert len(parts['all']) == 33
  series = {s: sorted({f.rpartition('_')[0] for f in files}) for s, files in parts.items()}
  assert not set(series['train']) & {*series['test'], *series['validation']}
  assert series['test'] == [
    *(f'CAT_00/{s:08d}' for s in (0, 6, 12)), *(f'CAT_03/{40 + s:08d}' for s in (0, 6))
  ]  # fmt: skip
  assert series['validation'] == [*(f'CAT_00/{s:08d}' for s in (1, 7)), 'CAT_03/00000041']
  assert len(parts['test']) == 2 * 3 + 2


def test_what_macos_puts_beside_files_is_no_picture(tree):
  before = opened(tree, split='test').files
  for file in list(tree.glob('CAT_*/*')):
    file.with_name(f'._{file.name}').write_bytes(b'\0\5\x16\7')
  assert opened(tree, split='test').files == before


def test_a_folder_more_or_less_does_not_move_the_others_pictures(tree):
  whole = opened(tree, split='train').files
  for file in (tree / 'CAT_00').iterdir():
    file.unlink()
  assert opened(tree, split='train').files == tuple(f for f in whole if f.startswith('CAT_03'))


def test_missing_folders_are_told(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'has no pictures CAT_00/NAME\.jpg to CAT_06/NAME\.jpg; docs/data'
  ):
    opened(tmp_path / 'nowhere')


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    (None, r'_000\.jpg\.cat: cannot be opened'),
    ('', r'_000\.jpg\.cat: expected 9 and then 18 numbers'),
    (annotation[:-5], r'expected 9 and then 18 numbers, found 18'),
    (annotation + '3 4', r'expected 9 and then 18 numbers, found 21'),
    (annotation.replace('9 ', '8 ', 1), 'expected 9 and then 18 numbers'),
    (annotation.replace('199', 'x', 1), 'expected 9 and then 18 numbers .*could not convert'),
    (annotation.replace('121', 'nan'), r'left_ear_1 at \(149, nan\) is outside the 375x500 pixels'),
    (annotation.replace('312', '412'), r'right_ear_2 at \(412, 96\) is outside the 375x500 pixels'),
    (annotation.replace('239 162', '175 160'), 'both eyes are at the same place'),
  ],
)
def test_a_bad_annotation_makes_a_bad_picture(real, text, told):
  path = real / 'CAT_00/00000001_000.jpg.cat'
  path.unlink() if text is None else path.write_text(text)
  with pytest.raises(BadImage, match=told):
    opened(real, split='all')[0]


def test_a_picture_that_cannot_be_read_is_named(tree):
  source = opened(tree, split='all')
  (tree / source.files[0]).write_text('text, not a picture')
  whole = (tree / source.files[1]).read_bytes()
  (tree / source.files[1]).write_bytes(whole[: len(whole) // 2])
  for i in (0, 1):
    with pytest.raises(BadImage, match=source.files[i]):
      source[i]


@pytest.mark.parametrize(
  ('options', 'text'), [({'split': 'val'}, 'train, validation, test'), ({'points': 5}, '7 or 9')]
)
def test_bad_options_are_told(tree, options, text):
  with pytest.raises(ValueError, match=text):
    opened(tree, **options)

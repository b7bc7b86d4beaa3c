import pathlib

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import cub, prepared
from landmarks_jax.data.source import BadImage, open_source

names = ['001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg']
names += ['014.Indigo_Bunting/Indigo_Bunting_0001_12469.jpg']
names += [
  '014.Indigo_Bunting/Indigo_Bunting_0012_13336.jpg',
  '017.Cardinal/Cardinal_0001_17057.jpg',
]


def opened(path, **options):
  return open_source('cub', path=str(path), **options)


def write_tree(root, files, parts, official=None):
  """The archive's lists for `files`, numbered from 1; `parts` [N, 15, 3] = x, y, visible."""
  (root / 'parts').mkdir(parents=True, exist_ok=True)
  official = official or [i % 2 for i in range(len(files))]
  for name, column in (('images', files), ('train_test_split', official)):
    lines = [f'{i} {value}' for i, value in enumerate(column, start=1)]
    (root / f'{name}.txt').write_text('\n'.join(lines) + '\n')
  lines = [
    f'{i} {k} {x!r} {y!r} {int(v)}'
    for i, picture in enumerate(parts.tolist(), start=1)
    for k, (x, y, v) in enumerate(picture, start=1)
  ]
  (root / 'parts/part_locs.txt').write_text('\n'.join(lines) + '\n')


def save(path, image):
  """Without loss, under the name of a JPEG: readers go by the content."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path, format='PNG')


@pytest.fixture
def tree(tmp_path):
  """Four pictures of three species; a dot at the first two parts, the fifth is not visible."""
  rng = np.random.default_rng(0)
  parts = np.zeros((4, 15, 3))
  for i, (width, height) in enumerate([(40, 30), (52, 61), (33, 33), (90, 44)]):
    parts[i, :, 0] = rng.integers(4, width - 4, 15)
    parts[i, :, 1] = rng.integers(4, height - 4, 15)
    parts[i, :, 2] = 1
    parts[i, 4] = 0
    image = np.full((height, width, 3), 20, np.uint8)
    for x, y in parts[i, :2, :2].astype(int):
      image[y - 1 : y + 2, x - 1 : x + 2] = 250
    save(tmp_path / 'images' / names[i], image)
  write_tree(tmp_path, names, parts)
  return tmp_path


def test_the_frame_is_the_published_one(golden, tmp_path):
  """Fixture cub_geometry: pixels exactly, points to 1e-4; it has -1 where a part is invisible."""
  expected = golden('cub_geometry')
  height, width = expected['image'].shape[:2]
  visible = expected['visible']
  pixels = expected['unit_kp'].astype(float) * (width, height)
  write_tree(tmp_path, names[1:2], np.concatenate([pixels, visible[:, None]], axis=-1)[None])
  save(tmp_path / 'images' / names[1], expected['image'])
  source = opened(tmp_path, split='all')
  example = source[0]
  image = expected['data'].transpose(1, 2, 0) * source.info.std + source.info.mean
  np.testing.assert_array_equal(example['image'], np.rint(image * 255))
  np.testing.assert_array_equal(example['visible'], visible)
  assert 0 < visible.sum() < 15
  points = np.where(visible[:, None], expected['kp_normalized'], 0)
  np.testing.assert_allclose(example['points'], points, atol=1e-4)


def test_an_example_has_its_parts_where_the_picture_shows_them(tree):
  source = opened(tree, split='all', frame=80)
  for i in range(4):
    example = source[i]
    x, y = np.rint((example['points'][:2] + 1) / 2 * 79).astype(int).T
    assert (example['image'][y, x, 0] > 150).all()
    assert example['visible'].tolist() == [k != 4 for k in range(15)]
    np.testing.assert_array_equal(example['points'][4], 0)
    assert (example['scale'], example['points'].dtype) == (2, 'float32')
  assert [source[i]['label'] for i in range(4)] == [0, 1, 1, 2]
  assert source.catalogue.classes == tuple(sorted({name.split('/')[0] for name in names}))


def test_the_fraction_1_of_the_picture_is_slightly_beyond_the_frame(tree):
  lines = (tree / 'parts/part_locs.txt').read_text().splitlines()
  lines[2] = '1 3 40.0 30.0 1'
  (tree / 'parts/part_locs.txt').write_text('\n'.join(lines))
  beyond = opened(tree, split='all')[0]['points'][2]
  np.testing.assert_allclose(beyond, 2 * 96 / 95 - 1, rtol=1e-6)


def test_left_and_right_parts_are_flip_pairs():
  swap = {cub.NAMES[a]: cub.NAMES[b] for a, b in cub.INFO.flip_pairs}
  assert swap == {f'left {part}': f'right {part}' for part in ('eye', 'leg', 'wing')}
  assert len(set(cub.NAMES)) == 15


def test_the_official_parts_are_known(tree):
  assert opened(tree, split='official_train').files == tuple(names[1::2])
  assert opened(tree, split='official_test').files == tuple(names[::2])
  assert opened(tree, split='all').files == tuple(names)


def test_lists_choose_by_name_and_in_their_order(tree):
  (tree / 'lists').mkdir()
  (tree / 'lists/train_2.txt').write_text(f'{names[3]}\n{names[1]}\n')
  (tree / 'lists/val.txt').write_text(f'{names[2]}\n')
  lists = str(tree / 'lists')
  source = opened(tree, lists=lists, split='train_2')
  assert source.files == (names[3], names[1])
  assert [source[i]['label'] for i in range(2)] == [2, 1]
  assert opened(tree, lists=lists, split='validation').files == (names[2],)
  with pytest.raises(FileNotFoundError, match=r'lists/train\.txt is missing; docs/data\.md'):
    opened(tree, lists=lists)


def test_a_list_that_cannot_be_is_told(tree):
  path = tree / 'train.txt'
  for text, error, told in (
    (
      f'{names[0]}\nnobody/x.jpg\n{names[1]}x\n',
      FileNotFoundError,
      r"line 2: .*nobody/x.jpg' \(2 of",
    ),
    (
      f'{names[0]}\n{names[1]} 1\n',
      FileNotFoundError,
      r"line 2: there is no picture '014.* 1' \(1 of",
    ),
    ('', ValueError, r'train\.txt is empty'),
  ):
    path.write_text(text)
    with pytest.raises(error, match=told):
      opened(tree, lists=str(tree), split='train')


def drawn(files, **options):
  return cub._draw(files, **({'seed': 0, 'split': 'train'} | options))


def all_files(count=60):
  """As many pictures of each of the 35 species, and of some others."""
  others = ['001.Black_footed_Albatross', '018.Spotted_Catbird', '200.Common_Yellowthroat']
  species = [f'{number:03d}.Species' for number in cub.SPECIES] + others
  return [f'{name}/{i:04d}_{len(name)}.jpg' for name in species for i in range(count)]


def test_the_drawn_split_has_the_papers_sizes_and_species_only():
  parts = {part: drawn(all_files(), split=part) for part in ('train', 'validation', 'test')}
  assert {part: len(files) for part, files in parts.items()} == cub.COUNTS
  together = [file for files in parts.values() for file in files]
  assert len(set(together)) == 2006
  assert {int(file[:3]) for file in together} == set(cub.SPECIES)
  for files in parts.values():
    assert len({file[:3] for file in files}) > 30


def test_the_drawn_split_follows_from_names_and_seed_alone():
  files = all_files()
  assert drawn(files) == drawn(files[::-1])
  assert set(drawn(files)) != set(drawn(files, seed=1))
  # One picture less moves at most one picture over each border.
  assert len(set(drawn(files)) - set(drawn(files[1:]))) <= 1
  order = drawn(files)
  assert drawn(files, split='train_50') == order[:50]
  assert drawn(files, split='train_10', seed=1) == drawn(files, seed=1)[:10]


def test_an_incomplete_tree_is_divided_in_proportion():
  files = all_files(count=20)
  assert [len(drawn(files, split=s)) for s in ('train', 'validation', 'test')] == [433, 133, 134]
  with pytest.raises(ValueError, match="split='train_434', but train has 433 pictures of the 35"):
    drawn(files, split='train_434')
  with pytest.raises(ValueError, match=r"split='test', but test has 0 pictures of the 35 species"):
    drawn(names[:1], split='test')


@pytest.fixture
def lists():
  """The folder of the paper's lists beside the repository; skips where it is absent."""
  path = pathlib.Path(__file__).resolve().parents[2] / 'shared/data/cub_splits'
  if not path.exists():
    pytest.skip(f"the paper's lists are not at {path}")
  return path


def test_the_papers_lists_are_of_these_species_and_sizes(lists, tmp_path, monkeypatch):
  content = {p.stem: p.read_text().split() for p in lists.glob('*.txt')}
  files = sorted(content['train'] + content['val'] + content['test'])
  assert {int(file[:3]) for file in files} == set(cub.SPECIES)
  for file in files:
    (tmp_path / 'images' / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'images' / file).touch()
  write_tree(tmp_path, files, np.ones((len(files), 15, 3)))
  stored = cub.catalogue(str(tmp_path))  # once, instead of at every opening
  monkeypatch.setattr(prepared, 'open_catalogue', lambda *args, frame: stored)
  for split, size in cub.COUNTS.items():
    source = opened(tmp_path, lists=str(lists), split=split)
    assert len(source) == size
    assert source.files == tuple(content['val' if split == 'validation' else split])
  for count in (10, 50, 100, 250, 500, 1241):
    source = opened(tmp_path, lists=str(lists), split=f'train_{count}')
    assert source.files == tuple(content[f'train_{count}'])
  assert {s: len(opened(tmp_path, split=s)) for s in cub.COUNTS} == cub.COUNTS


def test_missing_pictures_are_counted_and_left_out(tree):
  (tree / 'images' / names[1]).unlink()
  told = r'1 of 4 pictures are missing, first 014\.Indigo'
  with pytest.warns(UserWarning, match=told):
    source = opened(tree, split='all')
  assert source.files == (names[0], names[2], names[3])
  assert [source[i]['label'] for i in range(3)] == [0, 1, 2]
  x, y = np.rint((source[2]['points'][0] + 1) / 2 * 95).astype(int)
  assert source[2]['image'][y, x, 0] > 150
  for name in names[::2] + names[3:]:
    (tree / 'images' / name).unlink()
  with pytest.raises(FileNotFoundError, match=r'images holds none of the 4 pictures of its lists'):
    opened(tree)


@pytest.mark.parametrize('name', ['images', 'train_test_split', 'parts/part_locs'])
def test_a_missing_list_is_told(tree, name):
  (tree / f'{name}.txt').unlink()
  with pytest.raises(FileNotFoundError, match=rf'{name}\.txt is missing; docs/data\.md says'):
    opened(tree)


@pytest.mark.parametrize(
  ('line', 'text'),
  [
    ('2 3 10.0 11.0', 'line 18: expected 5 columns.*found .2 3 10.0 11.0.$'),
    ('', 'line 18: expected 5 columns'),
    (
      '2 3 nan 11.0 1',
      'line 18: expected 5 columns, a number of images.txt.*found .2 3 nan 11.0 1',
    ),
    ('2 3 ten 11.0 1', 'line 18: expected .*found .2 3 ten'),
    ('2 0 10.0 11.0 1', 'line 18: expected .* a part of 1 to 15'),
    ('2 16 10.0 11.0 1', 'line 18: expected .*found .2 16'),
    ('9 3 10.0 11.0 1', 'line 18: expected .*found .9 3'),
    ('2 3 10.0 11.0 2', 'line 18: expected .*1 or 0 for visible'),
    ('2 4 10.0 11.0 1', 'has no line for part 3 of picture 2'),
  ],
)
def test_a_wrong_line_of_parts_is_named(tree, line, text):
  path = tree / 'parts/part_locs.txt'
  lines = path.read_text().splitlines()
  lines[15 + 2] = line
  path.write_text('\n'.join(lines))
  with pytest.raises(ValueError, match=rf'part_locs\.txt,? {text}'):
    opened(tree)


@pytest.mark.parametrize('line', ['2 3 4', 'x 1', '2', ''])
@pytest.mark.parametrize('name', ['images', 'train_test_split'])
def test_a_wrong_line_of_the_other_lists_is_named(tree, name, line):
  lines = (tree / f'{name}.txt').read_text().splitlines()
  lines[1] = line
  (tree / f'{name}.txt').write_text('\n'.join(lines))
  text = rf"{name}\.txt, line 2: expected 2 columns, the first a number; found '{line}'"
  with pytest.raises(ValueError, match=text):
    opened(tree)


def test_a_list_that_is_no_text_is_named(tree):
  (tree / 'images.txt').write_bytes(b'\xff\xd8\xff\xe0 not text')
  with pytest.raises(ValueError, match=r'images\.txt, line 1: expected 2 columns'):
    opened(tree)


def test_a_picture_without_its_official_part_is_told(tree):
  (tree / 'train_test_split.txt').write_text('1 0\n2 1\n3 7\n4 0\n')
  with pytest.raises(ValueError, match=r'train_test_split\.txt has no 0 or 1 for picture 3'):
    opened(tree)


@pytest.mark.parametrize('split', ['val', 'train_0', 'train_', 'official', 'test_10'])
def test_a_split_that_does_not_exist_is_told(tree, split):
  with pytest.raises(ValueError, match=f"split='{split}'; expected train, train_N with a number"):
    opened(tree, split=split)


def test_a_part_outside_its_picture_is_a_bad_picture(tree):
  path = tree / 'parts/part_locs.txt'
  lines = path.read_text().splitlines()
  lines[6] = '1 7 41.5 11.0 1'
  lines[21] = '2 7 -3.0 400.0 0'  # not visible: nobody looks at it
  path.write_text('\n'.join(lines))
  source = opened(tree, split='all')
  with pytest.raises(BadImage, match=r'_18\.jpg: left eye at \(41\.5, 11\) is outside its 40x30'):
    source[0]
  assert not source[1]['visible'][6]


def test_a_picture_that_cannot_be_read_is_named(tree):
  (tree / 'images' / names[1]).write_text('text, not a picture')
  image = np.random.default_rng(0).integers(0, 255, (33, 33, 3), np.uint8)
  Image.fromarray(image).save(tree / 'whole.jpg')
  whole = (tree / 'whole.jpg').read_bytes()
  (tree / 'images' / names[2]).write_bytes(whole[: len(whole) // 2])
  source = opened(tree, split='all')
  for i in (1, 2):
    with pytest.raises(BadImage, match=names[i]):
      source[i]

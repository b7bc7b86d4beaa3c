import json

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import inat, prepared
from landmarks_jax.data.source import BadImage, open_source

root = 'train_val_images/'
birds = ['Aves/Anas crecca/0b.jpg', 'Aves/Anas crecca/a1.jpg', 'Aves/Buteo lagopus/77.jpg']
birds += ['Aves/Corvus corax/3c.jpg', 'Aves/Corvus corax/f0.jpg']
others = ['Mammalia/Vulpes vulpes/12.jpg', 'Mammalia/Anas crecca/99.jpg']


def opened(path, **options):
  return open_source('inat', path=str(path), **options)


def save(path, size=(50, 40), seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
  Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def write_json(path, names):
  """The competition's format; categories and images are numbered apart and not from 0."""
  kinds = sorted({tuple(name.split('/')[:2]) for name in birds + others})
  categories = [
    {'id': 40 + i, 'name': name, 'supercategory': kind} for i, (kind, name) in enumerate(kinds)
  ]
  category = {kind: 40 + i for i, kind in enumerate(kinds)}
  content = {
    'categories': categories,
    'images': [{'id': 7 * i, 'file_name': root + name} for i, name in enumerate(names)],
    'annotations': [
      {'id': i, 'image_id': 7 * i, 'category_id': category[tuple(name.split('/')[:2])]}
      for i, name in reversed(list(enumerate(names)))
    ],
  }
  path.write_text(json.dumps(content))


@pytest.fixture
def tree(tmp_path):
  """Five birds of three species in mixed order, and two mammals."""
  for i, name in enumerate(reversed(birds + others)):
    save(tmp_path / root / name, seed=i)
  (tmp_path / root / 'Aves/notes.txt').write_text('no species')
  (tmp_path / root / 'Aves/Anas crecca/Thumbs.db').write_text('no picture')
  (tmp_path / root / 'Aves/Anas crecca/._0b.jpg').write_bytes(b'what macOS puts beside files')
  return tmp_path


def test_all_birds_are_found_and_nothing_else(tree):
  source = opened(tree)
  assert source.files == tuple(root + name for name in birds)
  assert source.catalogue.classes == ('Anas crecca', 'Buteo lagopus', 'Corvus corax')
  assert [source[i]['label'] for i in range(5)] == [0, 0, 1, 2, 2]
  assert (source.info.names, source.info.scale) == ((), 'frame')
  assert source.info.mean == (0.485, 0.456, 0.406)


def test_pictures_are_sorted_whatever_their_order_on_disk(tmp_path):
  names = [f'Aves/{"ZYX"[i % 3]}/{i * 37 % 101:02x}.jpg' for i in range(99)]
  for name in names:
    (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / root / name).touch()
  assert opened(tmp_path).files == tuple(sorted(root + name for name in names))


def test_the_json_files_tell_the_splits_of_birds(tree):
  write_json(tree / 'train2017.json', [birds[4], others[1], birds[0], birds[2]])
  write_json(tree / 'val2017.json', [others[0], birds[3]])
  assert opened(tree, split='train').files == tuple(root + birds[i] for i in (0, 2, 4))
  assert opened(tree, split='validation').files == (root + birds[3],)
  assert len(opened(tree)) == 5
  assert opened(tree, split='validation')[0]['label'] == 2


def test_an_example_is_the_whole_picture_squashed_as_pillow_does(tree):
  save(tree / root / birds[2], size=(500, 333))
  example = opened(tree)[2]
  assert set(example) == {'image', 'index', 'label'}
  with Image.open(tree / root / birds[2]) as image:
    expected = image.resize((96, 96), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(example['image'], np.asarray(expected))
  assert opened(tree, frame=30)[2]['image'].shape == (30, 30, 3)


def test_reduced_decoding_is_another_way_to_nearly_the_same_picture(tree, monkeypatch):
  save(tree / root / birds[2], size=(800, 600))
  exact, reduced = (opened(tree, exact=e)[2]['image'].astype(int) for e in (True, False))
  assert 0 < np.abs(exact - reduced).mean() < 2


@pytest.mark.parametrize('prefix', ['', 'train_val_images/', 'Aves/', '/scratch/me/inat/Aves/'])
def test_a_list_chooses_in_its_order_whatever_stands_before_the_species(tree, tmp_path, prefix):
  chosen = [birds[3], birds[0], birds[2]]
  lines = [prefix + name.removeprefix('Aves/') for name in chosen]
  (tmp_path / 'list.txt').write_text('\n'.join(lines) + '\n\n')
  source = opened(tree, listed=str(tmp_path / 'list.txt'))
  assert source.files == tuple(root + name for name in chosen)
  assert [source[i]['label'] for i in range(3)] == [2, 0, 1]


def test_a_list_chooses_within_a_split(tree):
  write_json(tree / 'train2017.json', birds[:3])
  (tree / 'list.txt').write_text('\n'.join(birds[1:]))
  options = {'split': 'train', 'listed': str(tree / 'list.txt')}
  assert opened(tree, **options, missing='skip').files == (root + birds[1], root + birds[2])
  with pytest.raises(
    FileNotFoundError, match=r"2 pictures that .*list\.txt names are not in split='"
  ):
    opened(tree, **options)


def test_a_list_and_splits_apply_to_a_stored_catalogue_too(tree, monkeypatch):
  stored = inat.catalogue(str(tree))
  given = []

  def open_catalogue(path, name, raw, *, frame):
    given.append((path, name, frame))
    return stored

  monkeypatch.setattr(prepared, 'open_catalogue', open_catalogue)
  (tree / 'list.txt').write_text('\n'.join(birds[:2]))
  source = opened('elsewhere', listed=str(tree / 'list.txt'), frame=24)
  assert (source.catalogue, source.files) == (stored, tuple(root + name for name in birds[:2]))
  assert given == [('elsewhere', 'inat', 24)]


def test_names_of_missing_pictures_are_counted_or_skipped(tree):
  names = [birds[1], 'Aves/Anas crecca/none.jpg', 'Aves/Nobody/a1.jpg', birds[4]]
  (tree / 'list.txt').write_text('\n'.join(names))
  listed = str(tree / 'list.txt')
  text = r"2 pictures that .*list\.txt .*first 'Aves/Anas crecca/none.jpg'.*missing='skip'"
  with pytest.raises(FileNotFoundError, match=text):
    opened(tree, listed=listed)
  assert opened(tree, listed=listed, missing='skip').files == (root + birds[1], root + birds[4])
  write_json(tree / 'val2017.json', [birds[2], 'Aves/Corvus corax/lost.jpg'])
  text = r"1 pictures that train2017.json and val2017.json names.*first '.*Corvus corax/lost.jpg'"
  with pytest.raises(FileNotFoundError, match=text):
    opened(tree)
  assert len(opened(tree, missing='skip', split='validation')) == 1


def test_a_list_without_any_picture_of_the_tree_is_told(tree):
  (tree / 'list.txt').write_text('file,label\n' + birds[0] + ',3\n')
  for missing in ('error', 'skip'):
    with pytest.raises(ValueError, match=r"none of the 2 lines of .*the first is 'file,label'"):
      opened(tree, listed=str(tree / 'list.txt'), missing=missing)
  (tree / 'list.txt').write_text('\n')
  with pytest.raises(ValueError, match='none of the 0 lines of'):
    opened(tree, listed=str(tree / 'list.txt'))


def test_missing_roots_and_lists_are_told(tree, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'train_val_images/Aves is not a folder; docs/data'):
    opened(tmp_path / 'nowhere')
  (tmp_path / 'empty' / root / 'Aves/Anas').mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match=r'has no pictures; expected SPECIES/HASH\.jpg'):
    opened(tmp_path / 'empty')
  with pytest.raises(FileNotFoundError, match=r'list\.txt; .*data\.listed=None for all'):
    opened(tree, listed=str(tree / 'list.txt'))
  with pytest.raises(ValueError, match=r"no pictures of split='train'; that needs train2017\.json"):
    opened(tree, split='train')


@pytest.mark.parametrize('text', ['{"images": []}', '[1, 2]', '{', '\x00\x01'])
def test_a_json_file_of_another_kind_is_told(tree, text):
  (tree / 'train2017.json').write_text(text)
  with pytest.raises(ValueError, match=r'train2017\.json: expected JSON with images, annotations'):
    opened(tree)


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({'split': 'test'}, 'expected all, train, validation'),
    ({'missing': 'no'}, "'error' or 'skip'"),
  ],
)
def test_bad_options_are_told(tree, options, text):
  with pytest.raises(ValueError, match=text):
    opened(tree, **options)


def test_a_picture_that_cannot_be_read_is_named(tree):
  (tree / root / birds[1]).write_text('text, not a picture')
  whole = (tree / root / birds[2]).read_bytes()
  (tree / root / birds[2]).write_bytes(whole[: len(whole) // 2])
  source = opened(tree)
  for i in (1, 2):
    with pytest.raises(BadImage, match=birds[i]):
      source[i]

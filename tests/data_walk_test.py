"""docs/data.md, walked by a new user: its tables name what is there, its commands work.

The trees are those of the readers' own tests, in the official layouts.
"""

import codecs
import collections
import pathlib
import re
import shlex
import shutil

import aflw_test
import cats_test
import celeba_test
import cub_test
import folder_test
import inat_test
import numpy as np
import pytest
import video_test
import w300_test
import youtube_faces_68_test
from train_test import on_devices, rows

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import prepare
from landmarks_jax.cli.main import main
from landmarks_jax.data import source

root = pathlib.Path(__file__).parents[1]
guide = (root / 'docs/data.md').read_text()

aflw_m, aflw_r = aflw_test.aflw_m, aflw_test.aflw_r
celeba = mafl = celeba_test.small
w300, cub, cats, birds = w300_test.tree, cub_test.tree, cats_test.tree, inat_test.tree
folder, youtube_faces_68 = folder_test.animals, youtube_faces_68_test.small

parts = {
  'aflw_m': ('train', 'test'),
  'aflw_r': ('train', 'test'),
  'cats': ('train', 'validation', 'test', 'all'),
  'celeba': ('train', 'train_except_mafl_test', 'validation', 'test', 'mafl_train', 'mafl_test'),
  'cub': ('official_train', 'official_test', 'all'),
  'folder': ('train', 'test', 'all'),
  'inat': ('train', 'validation', 'all'),
  'mafl': ('train', 'test'),
  'w300': ('train', 'test', 'common', 'challenging'),
}


@pytest.fixture
def inat(birds):
  for name, chosen in (('train', [4, 0, 2]), ('val', [3, 1])):
    inat_test.write_json(birds / f'{name}2017.json', [inat_test.birds[i] for i in chosen])
  return birds


@pytest.fixture
def video(tmp_path):
  video_test.clip(tmp_path / 'street', ['0001', '0002', '0003'])
  return tmp_path


def table(*header):
  """The rows of a table of the guide, as lists of cells, by the names in their first cell."""
  lines = guide.splitlines()
  first = lines.index(f'| {" | ".join(header)} |') + 2
  found = {}
  for line in lines[first:]:
    if not line.startswith('|'):
      return found
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    found[tuple(re.findall('`(.+?)`', cells[0]))] = cells[1:]
  return found


layouts = table('Name', 'Below the folder', 'Config')


def names(rows_of):
  return sorted(name for group in rows_of for name in group)


def test_the_tables_name_every_dataset_and_no_other():
  sets = table('Name', 'What it is', 'Licence, in a line', 'Page')
  assert names(sets) == sorted(source.available())
  on_disk = [name for name in source.available() if not name.startswith('synthetic/')]
  assert names(layouts) == sorted(on_disk)
  (raw,) = re.findall(r'only way for (.+?)\)', guide, re.S)
  kept = set(prepare.preparable()) | set(re.findall('`(.+?)`', raw))
  assert sorted(kept) == names(layouts)


def test_the_table_names_every_config_of_a_dataset_and_no_other():
  used = {}
  for path in (root / 'configs').glob('*.py'):
    page = configs.load(str(path))
    sections = [page.data, *(options.data for options in page.get('evals', {}).values())]
    used[f'configs/{path.name}'] = {section.name for section in sections}
  for group, (_, told) in layouts.items():
    expected = {page for page, sets in used.items() if sets & set(group)}
    assert set(re.findall(r'configs/\w+\.py', told)) == expected


def test_the_frames_that_are_told_are_those_that_configs_read():
  told = collections.defaultdict(set)
  for (command,), (pages,) in table('Command', 'Frames for').items():
    for pattern in re.findall('`(.+?)`', pages):
      for page in (root / 'configs').glob(f'{pattern}.py'):
        told[page.stem].add(tuple(command.split()[1:]))
  for path in (root / 'configs').glob('*.py'):
    page, wanted = configs.load(str(path)), set()
    for data in (page.data, *(options.data for options in page.get('evals', {}).values())):
      if data.name in prepare.preparable() and data.name != 'folder':
        usual = configs.defaults(source.source_function(data.name))
        frames = {
          key: data[key] for key in ('frame', 'crop') if data.get(key) not in (None, usual.get(key))
        }
        wanted.add((data.name, *(f'--{key}={value}' for key, value in frames.items())))
    assert told[path.stem] == wanted, path


def described(text):
  """What the paths of a row match, with its {a,b}, * and words for names."""
  braces = lambda match: f'({match[1].replace(",", "|")})'  # noqa: E731
  for span in re.findall('`(.+?)`', text):
    path = re.sub(r'\{(.+?)\}', braces, span.replace('.', r'\.').replace('*', '[^/]+'))
    path = re.sub('NNNNNN|NAME|SPECIES|HASH', '[^/]+', path)
    yield re.compile(f'{path}.*' if span.endswith('/') else path)


@pytest.mark.parametrize('name', sorted(set(names(layouts)) - {'folder'}))
def test_every_list_that_a_reader_reads_is_described(name, request):
  tree = request.getfixturevalue(name)
  (text,) = [told for group, (told, _) in layouts.items() if name in group]
  expected, there = list(described(text)), 0
  for file in tree.rglob('*'):
    if file.suffix in ('.json', '.csv', '.mat', '.pts', '.cat', '.flo', '.txt'):
      here = file.relative_to(tree).as_posix()
      known = any(path.fullmatch(which) for path in expected for which in (here, file.name))
      assert known or file.name == 'notes.txt', here
      there += known
  assert there


@pytest.mark.parametrize('name', ['folder', 'video', 'youtube_faces_68'])
def test_what_is_read_without_preparing_keeps_the_contract(name, request):
  source.check(source.open_source(name, path=str(request.getfixturevalue(name))), examples=9)


def assert_same(one, other):
  assert one.files == other.files
  assert one.info == other.info
  for i in range(len(one)):
    before, after = one[i], other[i]
    assert before.keys() == after.keys()
    for field, value in before.items():
      np.testing.assert_array_equal(value, after[field])


@pytest.mark.parametrize('name', prepare.preparable())
def test_what_is_prepared_gives_the_examples_of_the_original(name, request, tmp_path_factory):
  tree, frames = request.getfixturevalue(name), tmp_path_factory.mktemp('out') / 'frames'
  assert main(['x', 'prepare', name, '--source', str(tree), '--output', str(frames)]) == 0
  for split in parts[name]:
    raw, stored = (source.open_source(name, path=str(path), split=split) for path in (tree, frames))
    assert len(raw) > 0
    assert_same(raw, stored)
    source.check(raw, examples=9)
  assert not raw.info.names or any(raw.catalogue.label_bytes())


@pytest.mark.parametrize('name', ['aflw_m', 'aflw_r', 'celeba', 'cub', 'mafl'])
def test_a_byte_order_mark_is_no_part_of_a_list(name, request, tmp_path_factory):
  tree = tmp_path_factory.mktemp('marked') / name
  shutil.copytree(request.getfixturevalue(name), tree)
  split = parts[name][0]
  before = source.open_source(name, path=str(tree), split=split)
  for file in [file for file in tree.rglob('*') if file.suffix in ('.txt', '.csv')]:
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
  assert_same(before, source.open_source(name, path=str(tree), split=split))


def commands():
  """The first commands of the guide, as arguments of `main`."""
  block = re.search('```sh\n(.+?)```', guide, re.S)[1]
  return [shlex.split(line)[2:] for line in block.splitlines()]


smaller = ['data.frame=46', 'method.margin=7', 'method.depth=18', 'method.width=0.0625']
smaller += ['method.queue=8', 'method.norm_groups=1', 'method.jpeg=False', 'evals={}', 'steps=2']
smaller += ['batch_size=4', 'log_every=1', 'optimizer.epochs=None']


def test_the_first_commands_train_a_config_on_prepared_pictures(
  celeba, tmp_path_factory, monkeypatch, capsys
):
  out = tmp_path_factory.mktemp('out')
  on_devices(monkeypatch, 1)
  monkeypatch.chdir(root)
  places = {'DIR': str(celeba), 'FRAMES': f'{out}/frames', 'runs': f'{out}/runs'}
  prepared, trained = (
    [re.sub(r'\b(DIR|FRAMES|runs)\b', lambda match: places[match[0]], word) for word in command]
    for command in commands()
  )
  assert main([*prepared, '--frame=46']) == 0
  changes = (f'--config.{change}' for change in smaller)
  assert main([*trained, *changes]) == 0, capsys.readouterr().err
  written = rows(out / 'runs/celeba')
  assert [row['step'] for row in written if 'train/loss' in row] == [1, 2]

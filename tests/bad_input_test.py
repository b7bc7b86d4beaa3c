"""What people's files may be, from the command line: odd ones are read right, wrong ones are named.

Wrong options are in cli_test.py, wrong files of a dataset's own layout in that dataset's test.
"""

import io
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from train_test import command, on_devices, plant, rows

from landmarks_jax.cli import config as configs
from landmarks_jax.cli.main import main
from landmarks_jax.data.source import open_source

pages = sorted((pathlib.Path(__file__).parents[1] / 'configs').glob('*.py'))
page = """
from ml_collections import ConfigDict

MINE = dict(name='folder', path={path!r}, frame=16, crop='squash')
LABELLED = dict(**MINE, labels='points.csv')

def get_config():
  return ConfigDict(dict(
    data=MINE,
    method=dict(name='tiny'),
    optimizer=dict(name='sgd', learning_rate=.1),
    steps=3,
    batch_size=4,
    log_every=1,
    evals=dict(mine=dict(protocol='regression', data=LABELLED, train='all', test='all', size=4)),
  ))
"""
header = 'file,nose_x,nose_y,tail_x,tail_y'
sizes = {f'{name}.png': (17 + 4 * i, 40 - 3 * i) for i, name in enumerate('abcdefgh')}


def picture(width, height):
  """Smooth, different in every channel and along both axes."""
  small = np.random.default_rng(width).integers(0, 256, (3, 4, 3), np.uint8)
  return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A folder of eight labelled pictures, each of its own size, and a page that trains on them."""
  plant(monkeypatch)
  on_devices(monkeypatch, 1)
  folder = tmp_path / 'mine'
  folder.mkdir()
  lines = {'file': header}
  for i, (name, size) in enumerate(sizes.items()):
    Image.fromarray(picture(*size)).save(folder / name)
    lines[name] = f'{name},{3 + i},{9 - i},{12 - i},{5 + i}'
  write(folder, lines)
  (tmp_path / 'page.py').write_text(page.format(path=str(folder)))
  return folder


def write(folder, lines):
  (folder / 'points.csv').write_text('\n'.join(lines.values()) + '\n')


def change(**changes):
  """Replaces lines of the CSV file, or takes them out."""

  def fault(folder):
    lines = {line.split(',')[0]: line for line in (folder / 'points.csv').read_text().split()}
    for name, line in changes.items():
      name = name.replace('_', '.')
      lines = lines | {name: line} if line else {k: v for k, v in lines.items() if k != name}
    write(folder, lines)

  return fault


def empty(folder):
  for file in folder.glob('*.png'):
    file.unlink()


# What is done to the folder, and what the one line says.
faults = {
  'missing folder': (shutil.rmtree, 'mine is not a folder'),
  'empty folder': (empty, 'mine has no pictures in it or below it (looked for .jpg .jpeg '),
  'no labels': (
    lambda folder: (folder / 'points.csv').unlink(),
    "labels='points.csv': there is no",
  ),
  'missing row': (change(c_png=''), 'points.csv has no row for 1 of 8 pictures, first c.png; add'),
  'missing picture': (
    lambda folder: (folder / 'd.png').unlink(),
    "line 5: there is no picture 'd.",
  ),
  'wrong column': (
    change(file='file,nose_x,nose_y,tail_x,tail_z'),
    "expected comma-separated columns file,NAME_x,NAME_y,... and perhaps split; missing: 'tail_y'",
  ),
  'short row': (change(b_png='b.png,1,2,3'), 'points.csv, line 3: 4 cells, but the header has 5'),
  'nan': (
    change(b_png='b.png,1,2,nan,4'),
    'points.csv, line 3 (b.png): tail is (nan, 4); leave both cells empty for a landmark that is',
  ),
  'outside': (
    change(e_png='e.png,1,2,33,5'),
    'points.csv, line 6 (e.png): tail at (33, 5) is outside its 33x28 pixels',
  ),
}


def told(capsys):
  """The one line on standard error."""
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  return line


@pytest.mark.parametrize('fault', faults)
def test_a_fault_is_one_line_and_nothing_is_written(mine, capsys, fault):
  spoil, expected = faults[fault]
  spoil(mine)
  assert command('train', mine.parent, 'run') == 2
  assert expected in told(capsys)
  assert not (mine.parent / 'run').exists()


broken = {
  'a.jpg': (b'<html>404</html>', "not a picture in a known format, it starts with b'<html>404"),
  'b.jpg': (encoded(Image.fromarray(picture(64, 48)), 'jpeg')[:600], 'cannot be decoded ('),
  'c.png': (b'', 'the file is empty'),
}


def test_broken_pictures_are_named_and_the_rest_is_learned_from(mine, capsys):
  lines = (mine / 'points.csv').read_text()
  for name, (content, _) in broken.items():
    (mine / name).write_bytes(content)
    lines += f'{name},1,2,3,4\n' if name != 'c.png' else ''
  (mine / 'points.csv').write_text(lines)
  assert command('train', mine.parent, 'run') == 0
  out, err = capsys.readouterr()
  assert err == ''
  told = [line for line in out.splitlines() if line.startswith('bad picture ')]
  for name, (_, reason) in broken.items():  # once for training and once for the evaluation
    assert len([line for line in told if f'of 10, skipped: {mine}/{name}: {reason}' in line]) == 2
  assert len(told) == 6
  assert 'mine/regression/inter_ocular' in rows(mine.parent / 'run')[-1]


@pytest.mark.parametrize('name', broken)
def test_a_broken_picture_stops_the_run_where_told_to(mine, capsys, name):
  content, reason = broken[name]
  (mine / name).write_bytes(content)
  change(**{name.replace('.', '_'): f'{name},1,2,3,4'})(mine)
  assert command('train', mine.parent, 'run', '--config.on_bad_image=error') == 2
  assert f'error: {mine}/{name}: {reason}' in told(capsys)


def test_mostly_broken_pictures_stop_the_run_and_repaired_it_goes_on(mine, capsys):
  good = {file: file.read_bytes() for file in sorted(mine.glob('*.png'))[:5]}
  for file in good:
    file.write_bytes(b'torn')
  assert command('train', mine.parent, 'run') == 2
  assert 'of 8 pictures cannot be read, more than half; the last: ' in told(capsys)
  for file, content in good.items():
    file.write_bytes(content)
  assert command('train', mine.parent, 'run') == 0
  assert rows(mine.parent / 'run')[-1]['step'] == 3


def odd(folder):
  """Writes pictures of every odd kind: what they show, and how far lossy coding may be off."""
  image = Image.fromarray(picture(36, 24))
  palette = image.quantize(11)
  sixteen = np.asarray(image)[..., 1].astype(np.uint16) * 250
  turned = Image.Exif()
  turned[0x0112] = 6  # to be shown turned by 90 degrees clockwise
  stored = image.transpose(Image.Transpose.ROTATE_90)
  kinds = {
    'grey.png': (image.convert('L'), {}, image.convert('L'), 0),
    'grey.jpg': (image.convert('L'), {'quality': 97}, image.convert('L'), 12),
    'cmyk.tif': (image.convert('CMYK'), {}, image, 0),
    'cmyk.jpg': (image.convert('CMYK'), {'quality': 97, 'subsampling': 0}, image, 12),
    'palette.png': (palette, {}, palette, 0),
    'palette.gif': (palette, {}, palette, 0),
    'sixteen.png': (
      Image.fromarray(sixteen),
      {},
      Image.fromarray((sixteen // 257).astype(np.uint8)),
      0,
    ),
    'turned.png': (stored, {'exif': turned}, image, 0),
    'turned.jpg': (stored, {'exif': turned, 'quality': 97, 'subsampling': 0}, image, 12),
    'large.png': (image.resize((410, 93)), {}, image.resize((410, 93)), 0),
    'thin.png': (image.resize((3, 70)), {}, image.resize((3, 70)), 0),
  }
  for name, (content, options, *_) in kinds.items():
    content.save(folder / name, **options)
  return {name: (np.array(shown.convert('RGB')), off) for name, (*_, shown, off) in kinds.items()}


def test_odd_pictures_show_what_they_should(tmp_path):
  expected = odd(tmp_path)
  source = open_source('folder', path=str(tmp_path), crop='squash', frame=30)
  assert source.files == tuple(sorted(expected))
  for i, name in enumerate(source.files):
    shown, off = expected[name]
    small = Image.fromarray(shown).resize((30, 30), Image.Resampling.BILINEAR)
    assert np.abs(source[i]['image'].astype(int) - np.array(small)).max() <= off, name


def test_odd_pictures_are_learned_from(mine, capsys):
  empty(mine)
  odd(mine)
  assert command('train', mine.parent, 'run', '--config.evals={}') == 0
  out, err = capsys.readouterr()
  assert (err, 'bad picture' in out) == ('', False)


on_disk = [path for path in pages if 'path' in configs.load(str(path)).data]


@pytest.mark.parametrize('path', on_disk, ids=lambda path: path.stem)
def test_a_page_whose_data_is_missing_says_where_to_read_of_it(path, tmp_path, capsys):
  arguments = f'--config={path}', f'--workdir={tmp_path}/run', f'--config.data.path={tmp_path}/no'
  assert main(['x', 'train', *arguments]) == 2
  line = told(capsys)
  assert f'{tmp_path}/no' in line
  yours = configs.load(str(path)).data.name == 'folder'  # nothing to read of your own pictures
  assert ('; docs/data.md says what' in line) == (not yours)
  assert list(tmp_path.iterdir()) == []

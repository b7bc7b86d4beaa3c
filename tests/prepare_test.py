"""`prepare` as people use it: on files, by its command, read back as the dataset that it was."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.cli import prepare
from landmarks_jax.cli.main import main
from landmarks_jax.data import folder, pipeline, preparing
from landmarks_jax.data.source import open_source

root = pathlib.Path(__file__).parents[1]


def run(*arguments):
  return main(['landmarks_jax', 'prepare', *map(str, arguments)])


def command(raw, out, *options):
  return 'folder', f'--source={raw}', f'--output={out}', *options


@pytest.fixture
def raw(tmp_path):
  """30 photographs of two classes with labels; one of them is torn."""
  lines = ['file,eye_x,eye_y,tail_x,tail_y,split']
  rng = np.random.default_rng(0)
  for i in range(30):
    file = tmp_path / f'raw/{("cat", "dog")[i % 2]}/{i}.jpg'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).resize((60, 50)).save(file)
    tail = ',' if i % 5 == 0 else f'{20 + i},{i}'
    lines.append(f'{file.relative_to(tmp_path / "raw")},{10 + i},{i + 9},{tail},{"ab"[i // 20]}')
  (tmp_path / 'raw/cat/8.jpg').write_bytes(b'\xff\xd8 torn')
  (tmp_path / 'raw/points.csv').write_text('\n'.join(lines))
  return tmp_path / 'raw'


def content(path):
  return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize('workers', [0, 1])
def test_training_reads_the_same_from_what_is_stored(raw, tmp_path, workers):
  options = {'labels': 'points.csv', 'classes': 'True', 'crop': 'pad'}
  given = [f'--{key}={value}' for key, value in options.items()]
  assert run(*command(raw, tmp_path / 'out', '--frame=24', *given)) == 0
  options['classes'] = True
  before = open_source('folder', path=str(raw), frame=24, split='a', **options)
  after = open_source('folder', path=str(tmp_path / 'out'), frame=24, split='a')
  names = [file for file in before.files if file != 'cat/8.jpg']
  assert list(after.files) == names
  assert after.info == before.info
  ours, theirs = (
    pipeline.evaluation_batches(source, batch_size=20, workers=at)
    for source, at in ((after, workers), (before, 0))
  )
  ours, theirs = next(ours), next(theirs)
  assert theirs.valid.tolist() == [file != 'cat/8.jpg' for file in before.files]
  for field in ('image', 'points', 'visible', 'scale', 'label'):
    np.testing.assert_array_equal(getattr(ours, field)[:19], getattr(theirs, field)[theirs.valid])


def test_the_last_line_says_what_was_kept_and_the_ones_before_what_was_not(
  raw, tmp_path, capsys, monkeypatch
):
  (raw / 'dog/1b.jpg').write_bytes((raw / 'dog/1.jpg').read_bytes())
  published = {'cat': 15, 'dog': 15, 'bird': 7}
  monkeypatch.setattr(folder, 'PUBLISHED', published, raising=False)
  assert run(*command(raw, tmp_path / 'out', '--workers=1')) == 0
  out, err = capsys.readouterr()
  assert re.search(r'\n31 of 31 pictures, [\d,]+ a second\n', out)
  assert 'skipped pictures: 1, the first cat/8.jpg: not a picture in a known' in out
  assert 'groups of the same picture: 1, the first dog/1.jpg = dog/1b.jpg\n' in out
  last = r'/out is finished: 30 of 31 pictures kept, 136x136, 1\.[67]\d MB\n'
  assert re.search(re.escape(str(tmp_path)) + last + '$', out)
  assert err.splitlines() == [
    'warning: cat has 14 pictures, published are 15: 1 cannot be read',
    'warning: dog has 16 pictures, published are 15: 1 more are in --source',
    'warning: bird has 0 pictures, published are 7: 7 are not in --source',
  ]


def test_the_command_on_a_finished_folder_says_so_and_needs_no_source(raw, tmp_path, capsys):
  assert run(*command(raw, tmp_path / 'out')) == 0
  before = content(tmp_path / 'out')
  for file in raw.rglob('*.jpg'):
    file.unlink()
  capsys.readouterr()
  assert run(*command(raw, tmp_path / 'out')) == 0
  out, err = capsys.readouterr()
  assert out.endswith('/out is finished already: 29 of 30 pictures kept, 136x136, 1.7 MB\n')
  assert (out.count('\n'), err) == (2, '')
  assert content(tmp_path / 'out') == before
  assert run(*command(raw, tmp_path / 'out', '--crop=squash')) == 2
  told = 'out was begun with crop=centre, not crop=squash; give another folder\n'
  assert capsys.readouterr().err.endswith(told)


@pytest.mark.parametrize('finished', [True, False])
def test_labels_that_were_corrected_are_not_mixed_with_those_stored(
  raw, tmp_path, capsys, finished
):
  out, labels = tmp_path / 'out', raw / 'points.csv'
  given = command(raw, out, '--labels=points.csv')
  assert run(*given) == 0
  if not finished:
    (out / 'manifest.json').unlink()
  before, text = content(out), labels.read_text()
  labels.write_text(text.replace('10,9,', '10,8,'))
  capsys.readouterr()
  assert run(*given) == 2
  assert 'begun with other files, splits or labels than there are now' in capsys.readouterr().err
  assert content(out) == before
  labels.write_text(text)
  assert run(*given) == 0


def test_what_a_version_that_kept_no_sum_of_its_landmarks_stored_is_still_finished(
  raw, tmp_path, capsys
):
  given = command(raw, tmp_path / 'out', '--labels=points.csv')
  assert run(*given) == 0
  plan = json.loads((tmp_path / 'out/plan.json').read_text())
  assert len(plan.pop('landmarks')) == 64
  (tmp_path / 'out/plan.json').write_text(json.dumps(plan))
  assert run(*given) == 0
  assert 'is finished already' in capsys.readouterr().out


def test_a_damaged_shard_is_made_again(raw, tmp_path, capsys):
  assert run(*command(raw, tmp_path / 'out')) == 0
  before = content(tmp_path / 'out')
  (shard,) = (tmp_path / 'out').glob('folder-*')
  shard.write_bytes(shard.read_bytes()[:-1])
  assert run(*command(raw, tmp_path / 'out')) == 0
  assert 'out is finished: 29 of 30' in capsys.readouterr().out
  assert content(tmp_path / 'out') == before


def test_kill_9_loses_no_finished_shard_and_changes_no_byte(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / 'raw').mkdir()
  for i in range(600):
    Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / f'raw/{i:03d}.png')
  stuck, picture = tmp_path / 'raw/300.png', (tmp_path / 'raw/300.png').read_bytes()
  stuck.unlink()
  os.mkfifo(stuck)  # the second of three shards is never finished
  arguments = command(tmp_path / 'raw', tmp_path / 'out', '--workers=1', '--frame=16')
  process = subprocess.Popen(
    [sys.executable, '-m', 'landmarks_jax', 'prepare', *arguments],
    cwd=root,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.DEVNULL,
  )
  began = time.monotonic()
  while not list((tmp_path / 'out').glob('*00001*.part')) and time.monotonic() < began + 60:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert not (tmp_path / 'out/manifest.json').exists()
  (shard,) = (tmp_path / 'out').glob('folder-*[0-9]')
  made = shard.stat().st_mtime_ns
  stuck.unlink()
  stuck.write_bytes(picture)
  assert run(*arguments) == 0
  assert shard.stat().st_mtime_ns == made
  assert run(*command(tmp_path / 'raw', tmp_path / 'whole', '--frame=16')) == 0
  assert content(tmp_path / 'whole') == content(tmp_path / 'out')


def test_an_interruption_is_told_with_its_exit_code(raw, tmp_path, capsys, monkeypatch):
  def interrupt(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(preparing, 'prepare', interrupt)
  assert run(*command(raw, tmp_path / 'out')) == 130
  assert capsys.readouterr().err == '\ninterrupted; the same command continues\n'


def test_progress_has_rate_and_remaining_time(capsys, monkeypatch):
  now = [50.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  tell = prepare._progress(202_599)
  now[0] += 10
  tell(102_599, 2_500)
  tell(202_599, 100_000)
  assert capsys.readouterr().out.splitlines() == [
    '102,599 of 202,599 pictures, 250 a second, 6 min 40 s left',
    '202,599 of 202,599 pictures, 10,000 a second',
  ]


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    (['foldr', '--source=.', '--output=x'], "no dataset 'foldr' .*did you mean 'folder'.*celeba"),
    (['folder', '--output=x'], 'prepare needs --source=DIR: '),
    (['folder', '--source=.'], 'prepare needs --output=DIR: '),
    (['folder', '--source=/no/where', '--output=x'], '--source: /no/where is not a folder'),
    (['folder', '--source=RAW', '--output=RAW/out'], '--output=.*raw/out is inside --source='),
    (['folder', '--source=RAW', '--output=RAW'], '--output=.*raw is inside --source='),
    (['folder', '--source=RAW/cat', '--output=RAW'], 'is not empty and `prepare` did not make it'),
    (['folder', '--source=RAW', '--output=O', '--crop=round'], "crop='round'; expected one of"),
    (['folder', '--source=RAW', '--output=O', '--rotate=7'], "--rotate='7': expected True or"),
    (['folder', '--source=RAW', '--output=O', '--frame=1'], 'frame=1'),
    (['folder', '--source=RAW', '--output=O', '--workers=0'], 'workers=0'),
    (['folder', '--source=RAW', '--output=O', '--cropp=pad'], 'Did you mean: crop'),
    (['cub', '--source=RAW', '--output=O', '--crop=pad'], "Unknown command line flag 'crop'"),
  ],
)
def test_bad_arguments_are_told_and_leave_nothing(raw, tmp_path, capsys, arguments, told):
  before = sorted(tmp_path.rglob('*'))
  places = {'RAW': str(raw), '=O': f'={tmp_path}/out'}
  for short, path in places.items():
    arguments = [re.sub(f'{short}(?=/|$)', path, argument) for argument in arguments]
  assert run(*arguments) == 2
  err = capsys.readouterr().err
  assert re.match(f'error: .*{told}', err)
  assert 'Traceback' not in err
  assert sorted(tmp_path.rglob('*')) == before


def test_pictures_that_are_all_broken_are_an_error(tmp_path, capsys):
  (tmp_path / 'raw').mkdir()
  for name in ('a.jpg', 'b.png'):
    (tmp_path / 'raw' / name).write_bytes(b'<html>')
  assert run(*command(tmp_path / 'raw', tmp_path / 'out')) == 2
  told = 'error: none of the 2 pictures can be read; the first, a.jpg: not a picture in a known'
  assert capsys.readouterr().err.startswith(told)
  assert run(*command(tmp_path / 'raw', tmp_path / 'out')) == 2


def test_a_dataset_of_one_s_own_is_prepared_and_written(raw, tmp_path, monkeypatch, capsys):
  (tmp_path / 'preparelab').mkdir()
  text = pathlib.Path(folder.__file__).read_text(encoding='utf-8')
  text = text.replace("catalogue(path, 'folder', raw", "catalogue(path, 'preparelab.own', raw")
  (tmp_path / 'preparelab/own.py').write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  out, frames = tmp_path / 'out', tmp_path / 'frames'
  given = f'--source={raw}', f'--output={out}', '--frame=24', '--labels=points.csv'
  assert run('preparelab.own', *given) == 0
  given = f'--path={out}', f'--output={frames}', '--frame=24', '--split=b'
  assert main(['x', 'frames', 'preparelab.own', *given]) == 0
  assert '10 of 10 frames with 2 landmarks' in capsys.readouterr().out


def test_help_names_the_datasets_and_then_the_options_of_one(capsys):
  assert run('--help') == 0
  out = capsys.readouterr().out
  names = re.search(r'NAME: One of (.*)\.\n', out)[1].split(', ')
  assert list(prepare.preparable()) == names
  assert {'celeba', 'cub', 'folder', 'inat'} <= set(names)
  assert not {'prepared', 'pipeline', 'youtube_faces_68'} & set(names)
  assert '--crop' not in out
  assert run('folder', '--help') == 0
  out = capsys.readouterr().out
  assert '\n  --crop: As in data.crop of configs; centre if absent.\n' in out
  assert '\n  --frame: Side of the frame in pixels. [136]\n' in out
  assert run('cub', '--help') == 0
  assert '\n  --frame: Side of the frame in pixels. [96]\n' in capsys.readouterr().out

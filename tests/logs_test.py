"""Lines that people read and lines that programs read, with the clock held in the hand."""

import json
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.runtime import logs


def lines(workdir):
  return (workdir / 'metrics.jsonl').read_text().splitlines()


def test_numbers_are_printed_and_kept_as_json(tmp_path, capsys):
  log = logs.Logs(tmp_path / 'deep/run')
  log.write(3, {'train/loss': 3.14159265, 'mafl/inter_ocular': np.float32(0.1)})
  log.write(4, {'train/loss': jnp.float32(2.5)}, line='step 4/9  loss 2.5')
  log.close()
  out = capsys.readouterr().out
  assert out == 'step 3  train/loss 3.142  mafl/inter_ocular 0.1\nstep 4/9  loss 2.5\n'
  first, second = map(json.loads, lines(tmp_path / 'deep/run'))
  assert first == {
    'step': 3,
    'train/loss': 3.14159265,
    'mafl/inter_ocular': float(np.float32(0.1)),
  }
  assert second == {'step': 4, 'train/loss': 2.5}


def test_numbers_that_json_lacks_stay_valid_json_and_readable(tmp_path):
  log = logs.Logs(tmp_path)
  log.write(1, {'a': math.nan, 'b': math.inf, 'c': -math.inf, 'd': 1.0})
  log.close()

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  values = json.loads(lines(tmp_path)[0], parse_constant=refuse)
  assert values == {'step': 1, 'a': 'nan', 'b': 'inf', 'c': '-inf', 'd': 1.0}
  assert float(values['c']) == -math.inf


def test_a_resumed_run_leaves_the_file_of_an_undisturbed_one(tmp_path):
  def run(workdir, first, last):
    log = logs.Logs(workdir)
    log.truncate(first)
    for step in range(first + 1, last + 1):
      log.write(step, {'loss': step / 7})
      if step == 4:
        log.write(step, {'eval': 0.5})
    log.close()

  run(tmp_path / 'whole', -1, 8)
  run(tmp_path / 'resumed', -1, 6)
  with open(tmp_path / 'resumed/metrics.jsonl', 'a', encoding='utf-8') as file:
    file.write('{"step": 7, "lo')  # killed here; the last checkpoint is step 4
  run(tmp_path / 'resumed', 4, 8)
  assert lines(tmp_path / 'resumed') == lines(tmp_path / 'whole')
  run(tmp_path / 'resumed', -1, 8)
  assert lines(tmp_path / 'resumed') == lines(tmp_path / 'whole')
  assert sorted(p.name for p in (tmp_path / 'resumed').iterdir()) == [
    'metrics.jsonl',
    'tensorboard',
  ]


@pytest.mark.parametrize(
  'line',
  [
    b'{"ste',
    b'[1]',
    b'{"loss": 1}',
    b'{"step": "2"}',
    b'{"step": null}',
    b'{"step": \xff2}',
    b'{"step": 2, "loss": [1]}',
    b'{"step": 2, "loss": "low"}',
    b'[' * 100_000,
  ],
)
def test_a_broken_line_inside_the_file_is_named_and_nothing_is_lost(tmp_path, line):
  text = b'{"step": 1}\n' + line + b'\n{"step": 2}\n'
  (tmp_path / 'metrics.jsonl').write_bytes(text)
  expected = r'metrics\.jsonl, line 2 is damaged.*delete that line: .* no weights are lost'
  with pytest.raises(ValueError, match=expected):
    logs.Logs(tmp_path).truncate(1)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == text


def test_other_processes_are_silent(tmp_path, capsys):
  log = logs.Logs(tmp_path / 'run', is_main=False)
  log.truncate(0)
  log.write(1, {'loss': 1.0})
  log.write_picture('faces', 1, np.zeros((2, 2, 3), np.uint8))
  log.close()
  assert capsys.readouterr().out == ''
  assert list(tmp_path.iterdir()) == []


def test_a_picture_comes_back_as_it_was(tmp_path):
  picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
  log = logs.Logs(tmp_path)
  log.write_picture('mafl/worst', 1200, picture)
  log.close()
  path = tmp_path / 'pictures/mafl/worst_00001200.png'
  np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)


@pytest.mark.parametrize('name', ['../../worst', '/tmp/worst'])
def test_a_picture_stays_in_its_folder(tmp_path, name):
  with pytest.raises(ValueError, match=r'would be written outside .*pictures'):
    logs.Logs(tmp_path / 'run').write_picture(name, 1, np.zeros((2, 2, 3), np.uint8))
  assert [path.name for path in tmp_path.rglob('*')] == ['run']


def test_tensorboard_has_the_numbers_the_pictures_and_where_a_run_resumed(tmp_path):
  from tensorboardX.proto import event_pb2

  (tmp_path / 'metrics.jsonl').write_text('{"step": 5}\n{"step": 6}\n')
  log = logs.Logs(tmp_path)
  log.truncate(5)
  log.write(6, {'train/loss': 2.5})
  log.write_picture('faces', 6, np.zeros((2, 3, 3), np.uint8))
  log.close()
  (path,) = (tmp_path / 'tensorboard').iterdir()
  data, events = path.read_bytes(), []
  while data:  # length, its checksum, the event, its checksum
    size = int.from_bytes(data[:8], 'little')
    events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  values = [(e.step, v) for e in events for v in e.summary.value]
  assert [(step, v.tag) for step, v in values] == [(6, 'train/loss'), (6, 'faces')]
  assert values[0][1].simple_value == 2.5
  assert (values[1][1].image.height, values[1][1].image.width) == (2, 3)
  assert [e.step for e in events if e.HasField('session_log')][:1] == [6]


class Clock:
  now = 1000.0

  def __call__(self):
    return self.now


def test_progress_is_one_line_of_the_latest_rate():
  clock = Clock()
  progress = logs.Progress(
    steps=5000, images_per_step=64, step=1000, memory=lambda: 1_250_000_000, clock=clock
  )
  clock.now += 100  # compiling
  progress.mark(1001)
  clock.now += 16
  line = progress.line(1201, {'loss': 3.41415, 'top1': jnp.float32(0.5)})
  assert line == (
    'step 1201/5000  loss 3.414  top1 0.5  800 pictures/s  ETA 5 min 4 s  memory 1.25 GB'
  )
  clock.now += 4
  assert '  1600 pictures/s  ETA 2 min 28 s  ' in progress.line(1301)


def test_progress_without_a_step_claims_no_rate():
  clock = Clock()
  progress = logs.Progress(steps=10, images_per_step=8, memory=lambda: 2 * 10**8, clock=clock)
  assert progress.line(3) == 'step 3/10  memory 200 MB'
  clock.now += 5
  assert progress.line(3) == 'step 3/10  memory 200 MB'


@pytest.mark.parametrize(
  ('seconds', 'what', 'line'),
  [
    (2.0, 'pictures', '3,000 of 9,000 pictures, 1,500 a second, 4 s left'),
    (5000.0, 'labels', '3,000 of 9,000 labels, 0.6 a second, 2 h 46 min left'),
  ],
)
def test_a_tally_has_what_is_counted_the_rate_and_the_time_left(seconds, what, line):
  assert logs.pictures_done(3000, 9000, 3000, seconds, what=what) == line


def test_memory_is_the_peak_of_this_process():
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    pytest.skip('needs Linux to know the answer')
  lines = status.read_text(encoding='utf-8').splitlines()
  kib = int(next(x for x in lines if x.startswith('VmHWM')).split()[1])
  # more only where a larger parent started this process
  assert 0.99 * kib * 1024 < logs.peak_memory() < 1e12


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0.4, '0 s'),
    (7, '7 s'),
    (59.7, '1 min 0 s'),
    (250, '4 min 10 s'),
    (3600, '1 h 0 min'),
    (7559, '2 h 5 min'),
    (4 * 86400 + 4 * 3600 + 1800, '4 d 4 h'),
  ],
)
def test_durations_are_for_people(seconds, text):
  assert logs.duration(seconds) == text

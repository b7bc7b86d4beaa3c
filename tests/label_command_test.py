"""The command: what it tells, that it starts again, and that mistakes are one line."""

import contextlib
import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import types
import urllib.request

import pytest
from labelling import LANDMARKS, make_folder, save

from landmarks_jax import labelling
from landmarks_jax.cli import label
from landmarks_jax.cli.main import main
from landmarks_jax.inference.landmark_model import LandmarkModel
from landmarks_jax.labelling.confirmed import ConfirmedLabels
from landmarks_jax.labelling.journal import Journal


@pytest.fixture
def root(tmp_path):
  return make_folder(tmp_path / 'pictures', count=3)


def run(*arguments):
  return main(['landmarks_jax', 'label', *map(str, arguments)])


def told(capsys):
  err = capsys.readouterr().err
  assert 'Traceback' not in err
  return err


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ([], 'label needs DIR: python -m landmarks_jax label DIR'),
    (['nowhere', '--landmarks=a'], 'nowhere is not a folder'),
    (['DIR'], 'there are no landmarks to place; name them: --landmarks='),
    (['DIR', '--landmarks=a,b,a'], "landmarks are ['a', 'b', 'a']; expected different names"),
    (['DIR', '--landmarks=a', '--model=nowhere'], 'nowhere holds no run'),
    (['DIR', '--landmarks=a', '--port=70000'], '--port=70000'),
    (['DIR', '--landmarks=a', '--labels=l.csv'], '--labels=l.csv is for --simulate'),
    (['DIR', '--simulate'], '--simulate needs --model=RUN'),
    (['DIR', '--simulate', '--counts=5,x', '--model=r'], '--counts=5,x: expected whole numbers'),
    (['DIR', '--simulate', '--model=nowhere'], 'nowhere holds no run'),
    (['DIR', '--landmarks=a', '--crop=round'], '--crop=round: value should be one of <centre|pad'),
  ],
)
def test_mistakes_are_one_line(root, capsys, arguments, said):
  assert run(*(root if a == 'DIR' else a for a in arguments)) == 2
  assert said in told(capsys)


def test_a_second_server_is_told_of_the_first(root, capsys):
  journal = Journal(root / 'labels')
  journal.say('http://localhost:8377')
  assert run(root, '--landmarks=a') == 2
  said = f'is open in another server (process {os.getpid()}, http://localhost:8377); use that page'
  assert said in told(capsys)
  journal.close()


@pytest.mark.parametrize(
  ('landmarks', 'arguments', 'crop', 'warned'),
  [
    ('a', [], 'centre', False),
    ('a', ['--crop=centre'], 'centre', False),
    ('a', ['--crop=pad'], 'pad', True),
    ('b', [], 'pad', False),  # a model of other landmarks predicts nothing
  ],
)
def test_pictures_are_cut_as_the_landmark_model_knows_them(
  root, capsys, monkeypatch, landmarks, arguments, crop, warned
):
  def learner(*_, crop, **__):
    raise ValueError(f'here {crop=}')

  model = types.SimpleNamespace(names=('a',), crop='centre', boxes=False)
  model.other_cut = functools.partial(LandmarkModel.other_cut, model)
  monkeypatch.setattr(label, '_models', lambda given: (object(), model))
  monkeypatch.setattr('landmarks_jax.labelling.learner.FrozenLearner', learner)
  assert run(root, '--model=M', f'--landmarks={landmarks}', *arguments) == 2
  out, err = capsys.readouterr()
  assert f"here crop='{crop}'" in err
  assert ('M finds a, not b: its predictions are not used' in out) == (landmarks == 'b')
  assert ("crop='pad', but the landmark model was fitted on crop='centre'" in err) == warned


def test_labels_that_lack_a_new_landmark_are_counted(root, capsys, monkeypatch):
  def serve(*_, **__):
    raise ValueError('served')

  monkeypatch.setattr('landmarks_jax.labelling.server.app', serve)
  with contextlib.closing(Journal(root / 'labels')) as journal:
    labels = ConfirmedLabels(journal, ['eye'])
    for i in range(2):
      labels.change(f'0{i}.png', {'eye': [1, 2]}, base=0, client='c', id=str(i))
  assert run(root, '--landmarks=eye,chin', '--port=0') == 2
  assert 'labelled pictures that lack the new landmark chin: 2\n' in capsys.readouterr().out
  assert run(root, '--port=0') == 2
  assert 'chin' not in capsys.readouterr().out


def test_without_a_free_port_nothing_is_written(root, capsys, monkeypatch):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    monkeypatch.setattr(label, 'PORTS', 1)
    port = taken.getsockname()[1]
    assert run(root, '--landmarks=a', f'--port={port}') == 2
  assert f'no port from {port} to {port} is free' in told(capsys)
  with contextlib.closing(Journal(root / 'labels')) as journal:
    assert journal.entries == []


def test_ports_end_at_the_last_one(monkeypatch):
  tried = []

  def bind(_, address):
    tried.append(address[1])
    raise OSError('taken')

  monkeypatch.setattr(socket.socket, 'bind', bind)
  with pytest.raises(ValueError, match='no port from 65530 to 65535 is free'):
    label._free(65530)
  assert tried == [*range(65530, 65536)]


@pytest.mark.parametrize('name', ['starlette', 'uvicorn'])
def test_without_the_extra_one_line_says_what_to_install(root, capsys, monkeypatch, name):
  monkeypatch.setitem(sys.modules, name, None)
  for module in [m for m in sys.modules if m.startswith(f'{name}.')]:
    monkeypatch.setitem(sys.modules, module, None)
  monkeypatch.delitem(sys.modules, 'landmarks_jax.labelling.server', raising=False)
  monkeypatch.delattr(labelling, 'server', raising=False)
  assert run(root, '--landmarks=a') == 2
  said = told(capsys)
  assert name in said
  assert 'the page needs starlette and uvicorn: pip install' in said
  assert not (root / 'labels').exists()


class Process:
  """The command as a process."""

  def __init__(self, *arguments):
    command = [sys.executable, '-m', 'landmarks_jax', 'label', *map(str, arguments)]
    pipe = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    where = pathlib.Path(__file__).parents[1]
    self.process = subprocess.Popen(command, cwd=where, env=os.environ | {'NO_PROXY': '*'}, **pipe)
    self.said = ''
    while not (found := re.search(r'label at (http://localhost:(\d+))', self.said)):
      line = self.process.stdout.readline()
      assert line, self.said
      self.said += line
    self.address = found[1]

  def get(self, path):
    with urllib.request.urlopen(f'{self.address}/{path}', timeout=20) as answer:
      return json.load(answer)

  def post(self, path, data):
    given = {'content-type': 'application/json'}
    body = json.dumps(data).encode()
    request = urllib.request.Request(f'{self.address}/{path}', body, given)
    with urllib.request.urlopen(request, timeout=20) as answer:
      return json.load(answer)

  def end(self, number):
    self.process.send_signal(number)
    self.said += self.process.communicate(timeout=30)[0]
    return self.process.returncode


def test_it_serves_and_goes_on_where_it_was_after_a_kill(root, tmp_path):
  names = tmp_path / 'names.txt'
  names.write_text('\n'.join(LANDMARKS), encoding='utf-8')
  first = Process(root, f'--landmarks={names}', '--port=0')
  assert '3 pictures, 0 of them labelled' in first.said
  assert first.get('api/session')['landmarks'] == LANDMARKS
  points = {name: [3, 4] for name in LANDMARKS}
  change = {'picture': 1, 'points': points, 'base': 0, 'client': 'c', 'id': 'i'}
  assert first.post('api/change', change)['points'] == points
  first.end(signal.SIGKILL)
  with (root / 'labels/journal.jsonl').open('a') as file:
    file.write('{"half')  # of a line that was never acknowledged
  second = Process(root, '--port=0')
  assert '6 bytes that were never said to be saved are cut off' in second.said
  assert '3 pictures, 1 of them labelled' in second.said
  assert second.get('api/pictures/1')['points'] == points
  assert second.end(signal.SIGINT) == 130
  assert 'Traceback' not in second.said


def write_labels(root, *, split=None):
  """labels.csv of ten pictures, with the column split if wanted."""
  save(root / '99.png', 99)
  files = [f'{i:02}.png' for i in range(9)] + ['99.png']
  rows = [f'{name},{i},2' + (f',{split(i)}' if split else '') for i, name in enumerate(files)]
  head = 'file,nose_x,nose_y' + (',split' if split else '')
  (root / 'labels.csv').write_text('\n'.join([head, *rows]) + '\n')


def test_simulation_scores_on_the_split_or_on_a_random_fifth(tmp_path, capsys):
  root = make_folder(tmp_path / 'pictures', count=10)
  options = {'points': 5, 'crop': 'pad', 'frame': 24}
  write_labels(root)
  train, test = label._labelled(root, 'labels.csv', split='test', **options)
  assert 'a random fifth, 2, is left out' in capsys.readouterr().out
  assert (len(train), len(test)) == (8, 2)
  assert not set(train.files) & set(test.files)
  assert test[1]['points'].shape == (1, 2)
  write_labels(root, split=lambda i: 'test' if i in (3, 4) else 'train')
  train, test = label._labelled(root, 'labels.csv', split='test', **options)
  assert test.files == ('03.png', '04.png')
  with pytest.raises(ValueError, match='needs true labels'):
    label._labelled(root, None, split='test', **options)

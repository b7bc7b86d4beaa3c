"""Evaluating a run again: the same numbers, others on request, nothing overwritten."""

import json

import numpy as np
import pytest
from train_test import command, copied, on_devices, page, plant, rows, whole

from landmarks_jax.cli import evaluate, experiment
from landmarks_jax.cli.main import main
from landmarks_jax.data import pipeline
from landmarks_jax.evaluation import scoring
from landmarks_jax.runtime import compiler, sharding


@pytest.fixture
def again(monkeypatch, tmp_path):
  """again('--step=2') evaluates a copy of the shared run, tmp_path/run: its exit code."""
  plant(monkeypatch)
  on_devices(monkeypatch, 1)
  copied(tmp_path)
  return lambda *changes: command('evaluate', tmp_path, 'run', *changes)


def written(tmp_path, name):
  return json.loads((tmp_path / f'run/evaluations/{name}.json').read_text())


def contents(folder):
  return {
    p.relative_to(folder): p.read_bytes()
    for p in folder.rglob('*')
    if p.is_file() and 'evaluations' not in p.parts
  }


def test_the_scores_are_those_of_the_run_and_the_run_is_left_alone(again, tmp_path, capsys):
  assert again() == 0
  out, err = capsys.readouterr()
  assert err == ''
  last = {k: v for row in rows(whole()[0]) if row['step'] == 6 for k, v in row.items()}
  expected = {k: v for k, v in last.items() if k.startswith(('few/', 'all/'))}
  found = written(tmp_path, 6)
  assert len(expected) == 24
  assert found['scores'] == expected
  evals = json.loads((whole()[0] / 'config.json').read_text())['evals']
  assert found['evals'] == {name: options | {'every': 0} for name, options in evals.items()}
  lines = out.splitlines()
  assert lines[-4:-1] == whole()[1].splitlines()[-3:]
  assert lines[-1] == f'written to {tmp_path}/run/evaluations/6.json'
  for name in ('few', 'all'):
    sheet = f'pictures/landmarks/{name}_00000006.png'
    mine, runs = tmp_path / 'run/evaluations/6' / sheet, whole()[0] / sheet
    assert mine.read_bytes() == runs.read_bytes()
  assert contents(tmp_path / 'run') == contents(whole()[0])


def test_the_training_pictures_are_not_all_read_for_the_random_row(again, tmp_path, monkeypatch):
  monkeypatch.setattr(experiment, 'CALIBRATION_BATCHES', 1)  # 8 of 20 pictures
  monkeypatch.delattr(pipeline, 'cached')
  assert again() == 0
  assert any('random_init' in name for name in written(tmp_path, 6)['scores'])


def test_the_table_and_the_page_say_what_errors_are_divided_by(
  again, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(scoring, 'error_title', lambda info: f'error / {info.scale}')
  assert again() == 0
  title = 'error / (0, 1), %'
  assert title in capsys.readouterr().out.splitlines()
  page = (tmp_path / 'run/evaluations/6.html').read_text()
  assert title.capitalize() in page
  assert 'nter-ocular' not in page
  assert 'all/regression/inter_ocular' in written(tmp_path, 6)['scores']


def test_what_was_evaluated_is_on_disk_when_a_later_evaluation_fails(again, tmp_path, monkeypatch):
  evaluated = experiment.Experiment.evaluate

  def failing(parts, name, *weights):
    if name == 'few':
      raise ValueError('the memory is full')
    return evaluated(parts, name, *weights)

  with monkeypatch.context() as patch:
    patch.setattr(experiment.Experiment, 'evaluate', failing)
    assert again() == 2
  first = written(tmp_path, 6)['scores']
  assert {name.split('/')[0] for name in first} == {'all'}
  assert again() == 0
  whole_file = written(tmp_path, 6)['scores']
  assert {name: whole_file[name] for name in first} == first
  assert {name.split('/')[0] for name in whole_file} == {'all', 'few'}
  with monkeypatch.context() as patch:  # and what is whole stays whole
    patch.setattr(experiment.Experiment, 'evaluate', failing)
    assert again() == 2
  assert written(tmp_path, 6)['scores'] == whole_file
  assert sorted(p.name for p in (tmp_path / 'run/evaluations').iterdir()) == [
    '6',
    '6.html',
    '6.json',
  ]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_evaluated(
  again, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(experiment.Experiment, 'evaluate', None)
  (tmp_path / 'run/evaluations').write_text('a file')
  assert again() == 2
  assert capsys.readouterr().err == f'error: {tmp_path}/run/evaluations: File exists\n'


def test_an_earlier_step_is_that_step(again, tmp_path):
  assert (
    again(
      '--step=2',
      '--config.evals={"all": {"protocol": "regression", "size": 4, '
      '"data": {"name": "synthetic/faces", "frame": 16, "count": 20}}}',
    )
    == 0
  )
  first = written(tmp_path, 2)['scores']['all/regression/inter_ocular']
  last = next(r for r in rows(whole()[0]) if 'all/regression/inter_ocular' in r)
  assert first != last['all/regression/inter_ocular']
  still = 'all/regression/inter_ocular_mean_shape'
  assert written(tmp_path, 2)['scores'][still] == last[still]


def test_other_evaluations_get_another_file_and_the_same_ones_the_same(again, tmp_path):
  assert again() == 0
  before = (tmp_path / 'run/evaluations/6.json').read_bytes()
  for change in ('--config.evals.few.every=3', '--config.evals.few.every=epoch'):
    assert again(change) == 0  # when training would run it makes no other evaluation
  for _ in range(2):
    assert again('--config.evals.few.labels=5') == 0
  assert (tmp_path / 'run/evaluations/6.json').read_bytes() == before
  names = sorted(p.name for p in (tmp_path / 'run/evaluations').iterdir())
  assert names == ['6', '6.html', '6.json', '6_2', '6_2.html', '6_2.json']
  one, other = written(tmp_path, 6), written(tmp_path, '6_2')
  assert (one['evals']['few']['labels'], other['evals']['few']['labels']) == (9, 5)
  key = 'few/regression/inter_ocular_mean_shape'
  assert one['scores'][key] != other['scores'][key]
  assert (
    one['scores']['all/regression/inter_ocular'] == (other['scores']['all/regression/inter_ocular'])
  )


def test_commands_that_start_at_the_same_moment_get_a_file_each(tmp_path, monkeypatch):
  write, mine, other = json.dumps, {'few': {'labels': 5}}, {'few': {'labels': 9}}

  def slow(*given, **options):
    monkeypatch.setattr(json, 'dumps', write)
    assert evaluate._claim(tmp_path, 6, other) == '6.json'  # while mine is about to write it
    return write(*given, **options)

  monkeypatch.setattr(json, 'dumps', slow)
  assert evaluate._claim(tmp_path, 6, mine) == '6_2.json'
  for evals, name in ((other, '6.json'), (mine, '6_2.json')):
    assert json.loads((tmp_path / name).read_text()) == {'evals': evals, 'scores': {}}


def test_a_file_that_a_killed_command_left_empty_is_passed_over(tmp_path):
  (tmp_path / '6.json').touch()
  assert evaluate._claim(tmp_path, 6, {'few': {'labels': 5}}) == '6_2.json'
  assert not (tmp_path / '6.json').read_text()


def test_the_evaluations_of_another_page_can_be_run(again, tmp_path):
  other = (
    page.replace('few=', 'five=').replace('labels=9', 'labels=5').replace('steps=6', 'steps=1')
  )
  (tmp_path / 'other.py').write_text(other)
  assert again(f'--config={tmp_path}/other.py', '--config.evals.five.draws=3') == 0
  found = written(tmp_path, 6)
  assert sorted(found['evals']) == ['all', 'five']
  assert (found['evals']['five']['labels'], found['evals']['five']['draws']) == (5, 3)
  scores = evaluate.evaluate(tmp_path / 'run', evals=found['evals'])
  assert scores == found['scores']


def test_moved_pictures_are_found_where_they_are(again, tmp_path, monkeypatch):
  configs = []

  def note(config, *, mesh):
    configs.append(config)
    raise ValueError('enough')

  monkeypatch.setattr('landmarks_jax.cli.experiment.Experiment', note)
  assert again('--config.data.path=/new', '--config.evals.all.data.path=/other') == 2
  (config,) = configs
  assert config['data']['path'] == '/new'
  assert config['evals']['few']['data']['path'] == '/new'
  assert config['evals']['all']['data']['path'] == '/other'


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['--step=77'], 'no step 77 in {}/checkpoints; complete steps there: [2, 4, 6]'),
    (['--config.steps=1'], 'evaluate changes config.evals.* and config.data.path, not config.ste'),
    (['--config.evals={{}}'], '{} names no evaluations; give some with --config=FILE'),
    (['--config.evals=3'], "config.evals='3': expected a section"),
    (['--config.evals.fw.labels=3'], "config.evals.fw.protocol is missing (did you mean 'few'?)"),
    (['--config.evals.few.labels=99'], 'config.evals.few: labels=99: expected 1 to 20'),
    (['--config=/nowhere.py'], 'no config file /nowhere.py'),
  ],
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
  again, tmp_path, capsys, arguments, expected
):
  run = tmp_path / 'run'
  assert again(*(argument.format(run) for argument in arguments)) == 2
  err = capsys.readouterr().err
  assert err.startswith(f'error: {expected.format(run)}')
  assert err.count('\n') == 1
  assert not (run / 'evaluations').exists()


def test_a_folder_without_a_run_is_said(tmp_path, capsys, monkeypatch):
  plant(monkeypatch)

  def told():
    assert main(['x', 'evaluate', f'--workdir={tmp_path}']) == 2
    return capsys.readouterr().err

  assert told() == f'error: {tmp_path} holds no run: it has no config.json\n'
  config = tmp_path / 'config.json'
  config.write_text('{"steps": 3, "da')
  assert told().startswith(f'error: {config} is damaged (')
  config.write_bytes((whole()[0] / 'config.json').read_bytes())
  assert told() == f'error: {tmp_path} has no checkpoints yet; train it first\n'
  (tmp_path / 'checkpoints').mkdir()
  assert told() == (f'error: no checkpoint in {tmp_path}/checkpoints; complete steps there: none\n')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['checkpoints', 'config.json']


def test_scores_on_eight_devices_are_those_on_one(again, tmp_path, monkeypatch):
  assert again() == 0
  one = written(tmp_path, 6)['scores']
  on_devices(monkeypatch, 8)
  eight = evaluate.evaluate(tmp_path / 'run')
  assert eight.keys() == one.keys()
  np.testing.assert_allclose(list(eight.values()), list(one.values()), rtol=1e-3)


def test_a_deterministic_run_is_evaluated_deterministically_or_a_note_says_not(
  again, tmp_path, monkeypatch, capsys
):
  file = tmp_path / 'run/config.json'
  file.write_text(file.read_text().replace('"deterministic": false', '"deterministic": true'))
  monkeypatch.setattr(compiler, 'deterministic', lambda: False)
  assert again() == 0
  assert capsys.readouterr().out.startswith('note: the run is deterministic, but JAX uses the GPU')


def test_the_error_of_another_process_is_that_of_all(again, tmp_path, monkeypatch, capsys):
  lacking = [None, 'no such file']
  monkeypatch.setattr(sharding, 'of_all', lambda own: lacking if own is None else [own])
  assert again() == 2
  assert capsys.readouterr().err == 'error: process 1: no such file\n'
  assert not (tmp_path / 'run/evaluations').exists()


def test_devices_that_the_training_batch_does_not_divide_over_are_left_out(
  again, tmp_path, monkeypatch, capsys
):
  on_devices(monkeypatch, 3)
  assert again() == 0
  told = 'note: the training batch of 8 does not divide over 3 devices; using 2\n'
  assert capsys.readouterr().out.startswith(told)
  last = {k: v for row in rows(whole()[0]) if row['step'] == 6 for k, v in row.items()}
  found = written(tmp_path, 6)['scores']
  np.testing.assert_allclose(list(found.values()), [last[name] for name in found], rtol=1e-3)


def test_processes_that_the_training_batch_does_not_divide_over_are_refused(
  again, tmp_path, monkeypatch, capsys
):
  on_devices(monkeypatch, 3)
  monkeypatch.setattr(sharding, 'shards', lambda: 3)
  assert again() == 2
  expected = 'error: a batch of 8 pictures does not divide over 3 devices of 3 processes; use as'
  assert capsys.readouterr().err.startswith(expected)
  assert not (tmp_path / 'run/evaluations').exists()

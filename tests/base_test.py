"""Methods on a frozen network: where its weights come from, and how a score selects weights."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from train_test import arrays, assert_same_run, on_devices, plant, rows, whole

from landmarks_jax.cli import base, completion, evaluate, experiment
from landmarks_jax.cli.main import main
from landmarks_jax.contracts import Batch, Method
from landmarks_jax.runtime import checkpoint, run_folder

page = """
from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=16, count=20)
MATCHING = dict(protocol='matching', data=FACES, size=12, batch_size=4)

def get_config():
  return ConfigDict(dict(
    base=dict(checkpoint='RUN'),
    data=FACES,
    method=dict(name='projection', dim=4, size=4, margin=0),
    optimizer=dict(name='adam', learning_rate=.05),
    steps=6,
    batch_size=8,
    log_every=1,
    checkpoint_every=2,
    keep=9,
    select='choose/matching/different',
    evals=dict(
      choose=dict(**MATCHING, every=2),
      few=dict(protocol='regression', data=FACES, size=4, labels=(1, 9), draws=2, copies=2),
    ),
  ))
"""


@pytest.fixture
def stacked(monkeypatch, tmp_path):
  """stacked('name', '--config.KEY=VALUE') trains a projection on the shared run: its exit code."""
  plant(monkeypatch)
  on_devices(monkeypatch, 1)
  (tmp_path / 'page.py').write_text(page.replace('RUN', str(whole()[0])))
  return lambda name, *changes: main(
    ['x', 'train', f'--config={tmp_path}/page.py', f'--workdir={tmp_path}/{name}', *changes]
  )


def frozen(run, folder='checkpoints', step=None):
  return checkpoint.read_variables(run / folder, ('aux',), step=step)['aux']['base']


def test_the_base_is_the_run_and_stays_as_it_was(stacked, tmp_path):
  assert stacked('run') == 0
  run = checkpoint.read_variables(whole()[0] / 'checkpoints', ('params', 'aux'))
  expected = jax.tree.leaves((run['params'], run['aux']))
  for step in (2, 6):
    found = jax.tree.leaves(frozen(tmp_path / 'run', step=step))
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_array_equal(a, b)
  config = json.loads((tmp_path / 'run/config.json').read_text())
  assert config['base']['step'] == 6
  assert config['base']['method']['name'] == 'tiny'


def test_an_earlier_step_of_the_base_can_be_taken(stacked, tmp_path):
  assert stacked('run', '--config.base.step=3', '--config.steps=2') == 2  # steps 2, 4, 6 are kept
  assert stacked('run', '--config.base.step=2', '--config.steps=2') == 0
  run = checkpoint.read_variables(whole()[0] / 'checkpoints', ('params', 'aux'), step=2)
  expected = jax.tree.leaves((run['params'], run['aux']))
  for a, b in zip(jax.tree.leaves(frozen(tmp_path / 'run')), expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_base_row_is_the_base_evaluated_alone(stacked, tmp_path):
  assert stacked('run') == 0
  mine = {k: v for row in rows(tmp_path / 'run') for k, v in row.items()}
  shutil.copytree(whole()[0], tmp_path / 'below')
  config = run_folder.read_config(tmp_path / 'run/config.json')
  alone = evaluate.evaluate(tmp_path / 'below', evals={'few': config['evals']['few']})
  for labels in (1, 9):
    name = f'few/regression/inter_ocular_n{labels}'
    assert mine[f'{name}_base'] == pytest.approx(alone[name], rel=1e-6)
    assert mine[name] != pytest.approx(alone[name], rel=1e-3)


def test_a_run_is_evaluated_without_the_folder_of_its_base(stacked, tmp_path):
  shutil.copytree(whole()[0], tmp_path / 'below')
  assert stacked('run', f'--config.base.checkpoint={tmp_path}/below') == 0
  shutil.rmtree(tmp_path / 'below')
  scores = evaluate.evaluate(tmp_path / 'run')
  logged = {k: v for row in rows(tmp_path / 'run') for k, v in row.items()}
  for name in ('few/regression/inter_ocular_n9', 'few/regression/inter_ocular_n9_base'):
    assert scores[name] == pytest.approx(logged[name], rel=1e-6)


@pytest.mark.parametrize('base_is', ['newer', 'gone'])
def test_a_run_goes_on_whatever_has_become_of_its_base(stacked, tmp_path, base_is):
  below, run = tmp_path / 'below', tmp_path / 'run'
  shutil.copytree(whole()[0], below)
  (below / 'checkpoints/6').rename(tmp_path / 'later')
  short = f'--config.base.checkpoint={below}', '--config.select=None', '--config.evals={}'
  assert stacked('run', *short) == 0
  shutil.copytree(run, tmp_path / 'undisturbed')
  for step in (4, 6):
    shutil.rmtree(run / f'checkpoints/{step}')
  if base_is == 'newer':
    (tmp_path / 'later').rename(below / 'checkpoints/6')
  else:
    shutil.rmtree(below)
  assert stacked('run', *short) == 0
  assert_same_run(tmp_path / 'undisturbed', run)
  assert run_folder.read_config(run / 'config.json')['base']['step'] == 4


def test_the_best_weights_are_kept_and_are_those_of_the_last_evaluations(stacked, tmp_path):
  assert stacked('run') == 0
  run, name = tmp_path / 'run', 'choose/matching/different'
  scored = {row['step']: row[name] for row in rows(run) if name in row}
  assert sorted(scored) == [2, 4, 6]
  best = min(scored, key=scored.get)
  kept, last = arrays(run, best), arrays(run)
  with checkpoint.Checkpoints(run / 'best', read_only=True) as checkpoints:
    assert checkpoints.latest_step() == best
  found = checkpoint.read_variables(run / 'best', ('params', 'aux', 'opt'))
  for a, b in zip(jax.tree.leaves(found), kept, strict=True):
    np.testing.assert_array_equal(a, b)
  again = evaluate.evaluate(run)  # of the selected weights
  assert again[name] == pytest.approx(scored[best], rel=1e-6)
  config = run_folder.read_config(run / 'config.json')
  other = evaluate.evaluate(run, evals={'other': config['evals']['choose']})
  assert other['other/matching/different'] == pytest.approx(scored[best], rel=1e-6)
  few = 'few/regression/inter_ocular_n9'
  assert again[few] == pytest.approx({k: v for r in rows(run) for k, v in r.items()}[few], rel=1e-6)
  assert best == 6 or any((a != b).any() for a, b in zip(kept, last, strict=True))


def test_what_a_run_without_checkpoints_had_written_is_kept_aside(stacked, tmp_path, capsys):
  run = tmp_path / 'run'

  def train():
    changes = '--config.steps=2', '--config.evals.few.labels=5', '--config.evals.few.copies=0'
    assert stacked('run', *changes) == 0
    return (run / 'metrics.jsonl').read_text(), arrays(run)

  first, weights = train()
  assert 'kept as' not in capsys.readouterr().out
  for number in (1, 2):
    (run / 'metrics.jsonl').write_text(f'{first}{{"step": 2, "number": {number}}}\n')
    shutil.rmtree(run / 'checkpoints')
    again, others = train()
    told = f'files of an earlier start are kept as metrics_{number}.jsonl, best_{number}'
    assert told in capsys.readouterr().out
    assert again == first
    for a, b in zip(weights, others, strict=True):
      np.testing.assert_array_equal(a, b)
    kept = (run / f'metrics_{number}.jsonl').read_text()
    assert kept == f'{first}{{"step": 2, "number": {number}}}\n'
    assert checkpoint.read_variables(run / f'best_{number}', ('params',)).keys() == {'params'}


def test_a_run_that_selects_resumes_as_if_it_had_not_stopped(stacked, tmp_path, monkeypatch):
  assert stacked('whole') == 0
  evaluated, real = [], experiment.Experiment.evaluate

  def evaluate_twice(self, *args):
    evaluated.append(args[0])
    if len(evaluated) == 3:
      raise KeyboardInterrupt
    return real(self, *args)

  monkeypatch.setattr(experiment.Experiment, 'evaluate', evaluate_twice)
  assert stacked('stopped') == 130
  assert stacked('stopped') == 0
  assert_same_run(tmp_path / 'whole', tmp_path / 'stopped')
  a, b = (
    checkpoint.read_variables(tmp_path / name / 'best', ('params',))
    for name in ('whole', 'stopped')
  )
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_signal_waits_until_the_best_weights_are_written(stacked, tmp_path, monkeypatch):
  real = checkpoint.Checkpoints.save

  def interrupted(self, step, *args):
    if self.path.endswith('best'):
      os.kill(os.getpid(), signal.SIGTERM)
    real(self, step, *args)

  monkeypatch.setattr(checkpoint.Checkpoints, 'save', interrupted)
  choosing(monkeypatch, (9,))
  assert stacked('run') == 75
  assert kept(tmp_path / 'run') == [2]


def choosing(monkeypatch, scores):
  """Evaluations find these scores in turn, and end the run after the last of them."""
  found = iter(scores)

  def evaluate(self, name, params, aux):
    if (score := next(found, None)) is None:
      raise ValueError('killed')
    return {}, {'different': float(score)}

  monkeypatch.setattr(experiment.Experiment, 'evaluate', evaluate)


def kept(run):
  return sorted(int(path.name) for path in (run / 'best').iterdir())


def test_the_best_that_a_resumed_run_finds_is_kept(stacked, tmp_path, monkeypatch):
  run, name = tmp_path / 'run', 'choose/matching/different'
  changes = ['steps=9', 'checkpoint_every=4', 'evals.choose.every=1', 'evals.few.every=0']
  changes = [f'--config.{change}' for change in changes]
  choosing(monkeypatch, (9, 8, 5, 6, 4, 3))
  assert stacked('run', *changes) == 2  # at step 7
  assert kept(run) == [3, 5, 6]
  choosing(monkeypatch, (7, 7, 7, 7, 7, 1))  # steps 5 to 9, then `few`
  assert stacked('run', *changes) == 0
  assert kept(run) == [3]
  assert min((row[name], row['step']) for row in rows(run) if name in row) == (5, 3)


def test_where_the_best_weights_are_gone_the_best_that_are_there_are_taken(
  stacked, tmp_path, monkeypatch
):
  run = tmp_path / 'run'
  choosing(monkeypatch, (4, 3, 5))
  assert stacked('run') == 2  # in the evaluation `few` of the best
  assert kept(run) == [2, 4]
  shutil.rmtree(run / 'best/4')
  choosing(monkeypatch, (1,))
  with pytest.warns(UserWarning, match='best has no step 4, the best; taking step 2, the best th'):
    assert stacked('run') == 0


def test_a_run_that_selects_resumes_from_before_damage_to_the_same_best(stacked, tmp_path):
  assert stacked('whole') == 0
  shutil.copytree(tmp_path / 'whole', tmp_path / 'damaged')
  for step in (4, 6):
    next((tmp_path / f'damaged/checkpoints/{step}/state/d').iterdir()).write_bytes(b'')
  with pytest.warns(UserWarning, match='is damaged'):
    assert stacked('damaged') == 0
  assert_same_run(tmp_path / 'whole', tmp_path / 'damaged')
  a, b = (
    checkpoint.read_variables(tmp_path / name / 'best', ('params', 'step'))
    for name in ('whole', 'damaged')
  )
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('base.checkpoint=nowhere', 'nowhere holds no run'),
    ('base.chekpoint=x', "no 'chekpoint' (did you mean 'checkpoint'?)"),
    ('base.step=77', 'no step 77'),
    ('select=choose/matching/distance', 'is not a score'),
    ('select=few/regression/inter_ocular_n9', 'config.evals.few.every'),
    ('method.dim=0.5', 'config.method.dim'),
  ],
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
  stacked, tmp_path, capsys, change, message
):
  assert stacked('run', f'--config.{change}') == 2
  err = capsys.readouterr().err
  assert message in err
  assert len(err.strip().splitlines()) == 1
  assert not (tmp_path / 'run').exists()


def test_a_base_is_needed_where_a_method_stands_on_one_and_nowhere_else(monkeypatch):
  plant(monkeypatch)
  data = {'name': 'synthetic/faces', 'frame': 16, 'count': 20}
  common = {'data': data, 'optimizer': {'name': 'sgd', 'learning_rate': 0.1}, 'steps': 1}
  with pytest.raises(ValueError, match=r'config\.base is missing: projection builds on a frozen'):
    completion.complete(common | {'method': {'name': 'projection'}})
  below = {'base': {'checkpoint': 'somewhere'}}
  with pytest.raises(ValueError, match=r'config\.base: moco builds on no other network'):
    completion.complete(common | below | {'method': {'name': 'moco'}})


def test_a_network_on_a_network_is_no_base(stacked, tmp_path):
  assert stacked('run', '--config.steps=2') == 0
  section = {'checkpoint': str(tmp_path / 'run'), 'step': None, 'method': None}
  with pytest.raises(ValueError, match='builds on a network of its own'):
    base.resolve(section)


def test_weights_of_the_right_shapes_under_other_names_are_refused(monkeypatch):
  zeros = np.zeros(4, np.float32)

  def init(rng, example):
    return {'one': zeros, 'two': zeros}, {}

  state = {'params': {'one': zeros, 'other': zeros + 1}, 'aux': {}}
  monkeypatch.setattr(base, 'read', lambda run, step: state)
  given = {'checkpoint': 'run', 'step': 3}, Method(init, *[None] * 3), jax.random.key(0), Batch()
  with pytest.raises(ValueError, match=r'config\.base\.checkpoint=run: .* first params/two'):
    base.variables(*given)
  state['params'] = {'two': zeros + 2, 'one': zeros + 1}
  params, _ = base.variables(*given)
  assert (params['one'][0], params['two'][0]) == (1, 2)

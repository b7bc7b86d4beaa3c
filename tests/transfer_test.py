"""A run starts from the weights of another one: what it takes, what it leaves, and what it says."""

import pathlib
import shutil
import warnings
from unittest import mock

import numpy as np
import pytest
from train_test import arrays, copied, rows, tiny, whole  # noqa: F401

from landmarks_jax.cli import experiment, transfer
from landmarks_jax.contracts import TrainState
from landmarks_jax.runtime import checkpoint, run_folder


def stored(**changes):
  tree = {
    'params/backbone/conv/kernel': np.full((3, 3), 7.0),
    'params/head/kernel': np.full((3, 8), 8.0, 'f'),
    'aux/stats/mean': np.full(3, 9.0, 'f'),
    'aux/queue': np.full((4, 8), 5.0, 'f'),
    'aux/pointer': np.int32(3),
    'aux/base/0/kernel': np.full(2, 6.0, 'f'),
  }
  return tree | changes


def fresh():
  """A method with a momentum encoder and another head than the stored one's."""
  backbone, head = np.float32([[1, 2, 3]] * 3), np.ones((3, 4), 'f')
  params = {'backbone': {'conv': {'kernel': backbone}}, 'head': {'kernel': head}}
  aux = {
    'key': {'backbone': {'conv': {'kernel': backbone.copy()}}, 'head': {'kernel': head.copy()}},
    'key_stats': {'mean': np.zeros(3, 'f')},
    'stats': {'mean': np.zeros(3, 'f')},
    'queue': np.ones((4, 8), 'f'),
    'pointer': np.int32(0),
    'base': ({'kernel': np.zeros(2, 'f')},),
  }
  return params, aux


def test_arrays_are_taken_by_name_and_shape_and_copies_follow():
  params, aux, told = transfer.start(
    transfer.Weights(pathlib.Path('RUN'), stored(), True), *fresh()
  )
  kernel = params['backbone']['conv']['kernel']
  np.testing.assert_array_equal(kernel, np.full((3, 3), 7.0))
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(aux['key']['backbone']['conv']['kernel'], kernel)
  np.testing.assert_array_equal(aux['stats']['mean'], np.full(3, 9.0))
  np.testing.assert_array_equal(aux['key_stats']['mean'], np.full(3, 9.0))
  np.testing.assert_array_equal(aux['queue'], np.full((4, 8), 5.0))
  for head in (params['head'], aux['key']['head']):
    np.testing.assert_array_equal(head['kernel'], np.ones((3, 4)))
  assert aux['pointer'] == 0
  np.testing.assert_array_equal(aux['base'][0]['kernel'], np.zeros(2))
  assert told.splitlines() == [
    'initial weights from RUN: params/backbone (1), aux/queue (1), aux/stats (1)',
    '  and their copies: aux/key (1), aux/key_stats (1)',
    '  not params/head (1), which have another shape there',
    '  not aux/key (1), which are not there',
    '  not aux/pointer (1), which count from the start',
    '  not aux/base (1), which config.base gives',
  ]


def test_what_is_stored_of_a_momentum_encoder_is_taken_as_it_is():
  own = stored(**{'aux/key/backbone/conv/kernel': np.full((3, 3), 4.0, 'f')})
  _, aux, _ = transfer.start(transfer.Weights(pathlib.Path('RUN'), own, False), *fresh())
  np.testing.assert_array_equal(aux['key']['backbone']['conv']['kernel'], np.full((3, 3), 4.0))
  np.testing.assert_array_equal(aux['base'][0]['kernel'], np.full(2, 6.0))


def test_weights_of_which_none_fits_are_refused_with_both_trees():
  other = {'params/conv1/kernel': np.zeros((3, 3)), 'aux/stats/mean': np.zeros(3, 'f')}
  with pytest.raises(ValueError) as error:
    transfer.start(transfer.Weights(pathlib.Path('RUN'), other, True), *fresh())
  assert str(error.value) == (
    'config.init_from=RUN: none of its weights has a name and shape of this method; it has '
    'params/conv1 (1), aux/stats (1); this method has params/backbone (1), params/head (1), '
    'aux/base (1), aux/key (2), aux/key_stats (1), aux/pointer (1), aux/queue (1), aux/stats (1)'
  )


@pytest.mark.parametrize(('layers', 'warned'), [(3, False), (5, True)])
def test_few_weights_are_warned_of_before_the_run_starts(tmp_path, layers, warned):
  def parts(names):
    params = {name: np.zeros((2, 3), 'f') for name in names}
    state = TrainState(np.int32(0), params, {}, ())
    config = {'init_from': str(tmp_path / 'there')}
    found = mock.Mock(spec=experiment.Experiment, config=config | {'base': None})
    found.shapes = lambda count: [state]
    return found

  names = [f'layer{number}' for number in range(layers)]
  run_folder.write(tmp_path / 'there', {}, {n: np.zeros((2, 3), 'f') for n in names[:2]}, {})
  told = (
    rf'init_from={tmp_path}/there: only 2 of the 5 arrays of params are taken; the others, such as '
    rf'params/layer2 \[2, 3\] \(there absent\), start untrained. Give config.method the sizes in '
  )
  quiet = warnings.catch_warnings(action='error')
  with pytest.warns(UserWarning, match=told) if warned else quiet:
    assert transfer.of(parts(names), tmp_path / 'new').run == tmp_path / 'there'


def test_a_run_starts_from_another_ones_newest_weights_at_step_zero(tiny, tmp_path, capsys):  # noqa: F811
  given = f'--init_from={whole()[0]}', '--config.steps=1', '--config.evals={}'
  slow = '--config.optimizer.learning_rate=0', '--config.checkpoint_every=1'
  assert tiny('run', *given, *slow) == 0
  out = capsys.readouterr().out
  assert f'initial weights from {whole()[0]}: params/w (1), aux/seen (1)\n' in out
  assert 'resuming' not in out
  read = ('params', 'opt', 'step')
  before = checkpoint.read_variables(whole()[0] / 'checkpoints', read)
  after = checkpoint.read_variables(tmp_path / 'run/checkpoints', read)
  np.testing.assert_array_equal(after['params']['w'], before['params']['w'])
  assert (before['step'], after['step']) == (6, 1)
  assert [row['step'] for row in rows(tmp_path / 'run')] == [1]


def test_the_flag_is_the_key_and_counts_only_before_the_first_checkpoint(tiny, tmp_path, capsys):  # noqa: F811
  source = shutil.copytree(whole()[0], tmp_path / 'source')
  short = '--config.steps=2', '--config.evals={}'
  assert tiny('flag', f'--init_from={source}', *short) == 0
  assert tiny('key', f'--config.init_from={source}', *short) == 0
  for a, b in zip(arrays(tmp_path / 'flag'), arrays(tmp_path / 'key'), strict=True):
    np.testing.assert_array_equal(a, b)
  shutil.rmtree(source)
  capsys.readouterr()
  assert tiny('flag', f'--config.init_from={source}', *short) == 0
  assert 'resuming' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('--init_from=nowhere', 'nowhere holds no run: it has no config.json'),
    ('--config.method.width=5', 'none of its weights has a name and shape of this method; it has'),
  ],
)
def test_weights_that_cannot_be_taken_are_one_clear_line(
  tiny,  # noqa: F811
  tmp_path,
  capsys,
  change,
  message,
):
  assert tiny('run', f'--init_from={whole()[0]}', change) == 2
  err = capsys.readouterr().err
  assert message in err
  assert len(err.strip().splitlines()) == 1
  assert not (tmp_path / 'run').exists()


def test_a_landmark_model_is_no_run_to_start_from(tiny, tmp_path, capsys):  # noqa: F811
  finder = tmp_path / 'finder'
  finder.mkdir()
  (finder / 'landmarks.json').write_text('{}')
  assert tiny('run', f'--init_from={finder}') == 2
  said = f'it is a landmark model, and its network is {finder / "run"}'
  assert said in capsys.readouterr().err

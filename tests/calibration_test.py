"""`calibrate`: statistics are measured before evaluations, and at the end for good."""

import numpy as np
import pytest
from train_test import command, on_devices, page, plant

from landmarks_jax.runtime import checkpoint

# The method planted by train_test counts down by one for every batch that it measures.


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The folder of two runs that differ in `calibrate`; one is continued once it has ended."""
  folder = tmp_path_factory.mktemp('runs')
  (folder / 'page.py').write_text(page)
  with pytest.MonkeyPatch.context() as patch:
    plant(patch)
    on_devices(patch, 1)
    assert command('train', folder, 'plain') == 0
    for _ in range(2):
      assert command('train', folder, 'measured', '--config.calibrate=3') == 0
    assert command('evaluate', folder, 'measured', '--step=4') == 0
  return folder


def seen(run, step):
  return checkpoint.read_variables(run / 'checkpoints', ('aux',), step=step)['aux']['seen']


def test_what_is_saved_last_has_been_measured_once_and_nothing_before(runs):
  plain, measured = (
    np.array([seen(runs / run, s) for s in (2, 4, 6)]) for run in ('plain', 'measured')
  )
  np.testing.assert_allclose(plain - measured, [0, 0, 3], atol=1e-5)


def test_training_goes_on_from_what_was_not_measured(runs):
  """The evaluation `few` at step 3 measures a copy; losses of later steps are the same."""
  texts = [(runs / run / 'metrics.jsonl').read_text() for run in ('plain', 'measured')]
  losses = [[line for line in text.splitlines() if 'train/loss' in line] for text in texts]
  assert len(losses[0]) == 3
  assert losses[0] == losses[1]


def test_a_method_without_statistics_is_refused(tmp_path, capsys):
  (tmp_path / 'page.py').write_text(
    page.replace("name='tiny'", "name='projection'").replace(
      'steps=6', "steps=6, base=dict(method=dict(name='moco', depth=18, width=.0625, margin=0))"
    )
  )
  assert command('train', tmp_path, 'run', '--config.calibrate=3') == 2
  assert 'config.calibrate: projection has no running statistics' in capsys.readouterr().err


def test_a_negative_number_is_refused(tmp_path, capsys):
  with pytest.MonkeyPatch.context() as patch:
    plant(patch)
    (tmp_path / 'page.py').write_text(page)
    assert command('train', tmp_path, 'run', '--config.calibrate=-1') == 2
  assert 'config.calibrate=-1: expected at least 0' in capsys.readouterr().err

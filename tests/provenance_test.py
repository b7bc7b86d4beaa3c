"""A run that goes on with other pictures or other versions says so, and keeps a record."""

import json
import warnings

import pytest
from train_test import copied, tiny, whole  # noqa: F401

from landmarks_jax.cli import provenance
from landmarks_jax.runtime import checkpoint


def lines(run):
  return [json.loads(line) for line in (run / provenance.FILE).read_text().splitlines()]


def test_every_checkpoint_and_the_run_say_what_they_were_made_with():
  run = whole()[0]
  config = json.loads((run / 'config.json').read_text())
  (line,) = lines(run)
  assert line['step'] == line['seed'] == 0
  assert line['data']['examples'] == 20
  assert line['versions'] == provenance.versions()
  assert {'Python', 'landmarks_jax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy'} <= set(
    line['versions']
  )
  for step in (2, 4, 6):
    with checkpoint.Checkpoints(run / 'checkpoints', read_only=True) as opened:
      saved = opened.metadata(step=step)
    expected = {'config': config} | {k: v for k, v in line.items() if k != 'step'}
    assert saved | expected == saved


def test_resuming_with_more_pictures_warns_once_and_says_what_to_do(tiny, tmp_path):  # noqa: F811
  run = copied(tmp_path)
  config = json.loads((run / 'config.json').read_text())
  config['data']['count'] = config['evals']['few']['data']['count'] = 21
  (run / 'config.json').write_text(json.dumps(config))  # as if the folder had grown
  changes = '--config.data.count=21', '--config.evals.few.data.count=21'
  for step in (6, 4):
    (run / 'checkpoints' / str(step)).rename(run / f'{step}.away')
  with pytest.warns(UserWarning, match='pictures') as told:
    assert tiny('run', *changes) == 0
  (text,) = (str(warning.message) for warning in told)
  assert 'not those of the checkpoint of step 2 (examples: 20 -> 21' in text
  assert 'batches come in another order' in text
  assert 'put the old pictures back' in text
  assert f'--init_from={run} to keep' in text
  assert [line['step'] for line in lines(run)] == [0, 2]
  assert [line['data']['examples'] for line in lines(run)] == [20, 21]
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert tiny('run', *changes) == 0


def test_resuming_with_other_versions_warns_and_names_them(tiny, tmp_path, monkeypatch):  # noqa: F811
  run = copied(tmp_path)
  here = provenance.versions()
  monkeypatch.setattr(provenance, 'versions', lambda: here | {'jax': '99.1', 'flax': '88.2'})
  with pytest.warns(UserWarning, match='versions') as told:
    assert tiny('run') == 0
  (text,) = (str(warning.message) for warning in told)
  changes = f"flax: '{here['flax']}' -> '88.2', jax: '{here['jax']}' -> '99.1'"
  assert f'step 6 was made with other versions ({changes})' in text
  assert [line['versions']['jax'] for line in lines(run)] == [here['jax'], '99.1']

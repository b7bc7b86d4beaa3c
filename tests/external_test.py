"""A package of one's own adds a method, a dataset, a protocol and an optimiser by import paths."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from train_test import on_devices

import landmarks_jax
from landmarks_jax.cli import completion
from landmarks_jax.cli import config as configs
from landmarks_jax.cli.main import main
from landmarks_jax.data import source
from landmarks_jax.evaluation import scoring
from landmarks_jax.runtime import by_name, optim

FILES = {
  '__init__.py': '',
  'colours.py': 'from train_test import build\n',
  'faces.py': """
from landmarks_jax.data.synthetic import faces


class Faces:
  def __init__(self, options):
    self.options, self.faces = options, faces.source(**options)
    self.info = self.faces.info

  def __len__(self):
    return len(self.faces)

  def __getitem__(self, index):
    return self.faces[index]


def source(*, split: str = 'train', frame: int = 32, count: int = 24) -> Faces:
  return Faces({'split': split, 'frame': frame, 'count': count})
""",
  'near.py': """
from landmarks_jax import metrics
from landmarks_jax.evaluation import nearest, scoring

EXTENDS = nearest.run
METRICS = (scoring.Metric('away', 'distance, hands'),)
UNIT = scoring.Unit(2.0, 'hands', 'hands of the scale')
check = nearest.check


def run(describer, open_split, *, labels: int = 8, **others):
  return nearest.run(describer, open_split, labels=labels, **others)


def score(predictions, *, flip_pairs=()):
  return scoring.summarise(predictions, 'away', metrics.inter_ocular_error)
""",
  'optim.py': """
import optax


def sign(rate, *, inertia: float = 0.5):
  scaled = optax.scale_by_sign(), optax.scale_by_learning_rate(rate)
  return optax.chain(optax.trace(inertia), *scaled)


def decay(learning_rate, *, epochs: int, half: float = 0.5):
  return lambda step: learning_rate * half ** (step / epochs)


def whole(learning_rate=1.0):
  return lambda step: learning_rate
""",
  'broken.py': 'import a_package_that_is_nowhere\n',
  'empty.py': '',
}
PAGE = """
from ml_collections import ConfigDict

DATA = dict(name='mylab.faces', frame=32)
METHOD = dict(name='mylab.colours', margin=2)
OPTIMIZER = dict(name='mylab.optim.sign', schedule='mylab.optim.decay', half=0.25)
OWN = dict(protocol='mylab.near', data=DATA, margin=2, every=2, test='train')


def get_config():
  return ConfigDict(dict(
    data=DATA, method=METHOD, optimizer=dict(**OPTIMIZER, learning_rate=0.01),
    evals=dict(own=OWN), select='own/mylab.near/away', steps=2, batch_size=8,
    log_every=1, checkpoint_every=1, cache='stream', workers=2,
  ))
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
  """A config that names modules of the package `mylab`, which Python finds."""
  (tmp_path / 'lab/mylab').mkdir(parents=True)
  for name, text in FILES.items():
    (tmp_path / 'lab/mylab' / name).write_text(text)
  monkeypatch.syspath_prepend(tmp_path / 'lab')
  (tmp_path / 'page.py').write_text(PAGE)
  yield tmp_path / 'page.py'
  for name in [name for name in sys.modules if name.split('.')[0] == 'mylab']:
    del sys.modules[name]


def test_everything_of_a_run_takes_modules_of_one_s_own(page, tmp_path, capsys, monkeypatch):
  on_devices(monkeypatch, 1)
  given, run = f'--config={page}', tmp_path / 'run'
  assert main(['x', 'train', given, '--help']) == 0
  assert re.search(r'optimizer\.inertia=0\.5\b', capsys.readouterr().out)
  assert main(['x', 'train', given, f'--workdir={run}']) == 0
  logged = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  rates = {line['step']: line['train/learning_rate'] for line in logged if 'train/loss' in line}
  assert rates == pytest.approx({1: 0.01, 2: 0.005})
  assert 'distance, hands' in capsys.readouterr().out
  shutil.rmtree(run / 'checkpoints/2')
  assert main(['x', 'train', given, f'--workdir={run}']) == 0
  assert (run / 'checkpoints/2').is_dir()
  assert main(['x', 'evaluate', given, f'--workdir={run}', '--config.evals.own.labels=4']) == 0
  (report,) = (run / 'evaluations').glob('*.html')
  assert 'error at most, hands of the scale' in report.read_text()
  capsys.readouterr()
  model = landmarks_jax.load(run)
  faces = source.open_source('mylab.faces', count=8)
  pictures = np.stack([faces[i]['image'] for i in range(8)])
  points = np.stack([(faces[i]['points'] + 1) / 2 * 31 for i in range(8)])
  finder = landmarks_jax.fit_landmarks(model, pictures, points, copies=1)
  finder.save(tmp_path / 'finder')
  again = landmarks_jax.load_landmarks(tmp_path / 'finder')
  np.testing.assert_array_equal(again.predict(pictures).points, finder.predict(pictures).points)
  output = '--format=safetensors', f'--output={tmp_path}/arrays'
  assert main(['x', 'export', f'--model={run}', *output]) == 0
  frames = 'mylab.faces', f'--output={tmp_path}/frames', '--count=3'
  assert main(['x', 'frames', *frames]) == 0
  assert '3 of 3 frames with' in capsys.readouterr().out


@pytest.mark.parametrize('options', [{}, {'b1': 0.5, 'mu_dtype': None}])
def test_an_optimizer_and_a_schedule_of_optax_work_as_they_are(page, options):
  given = {'name': 'optax.lion', 'schedule': 'optax.cosine_decay_schedule', 'decay_steps': 4}
  config = configs.load(str(page)).to_dict()
  given |= {'learning_rate': 0.5, 'steps_per_epoch': 1}
  config['optimizer'] = given | options
  done = completion.complete(config)['optimizer']
  assert done['b1'] == options.get('b1', 0.9)
  assert 'init_value' not in done
  tx, rate = optim.build(**done)
  np.testing.assert_allclose([rate(step) for step in (0, 2, 4)], [0.5, 0.25, 0], atol=1e-7)
  params = np.ones(2, 'f')
  updates, _ = tx.update(params, tx.init(params), params)
  np.testing.assert_allclose(updates, -0.5 * (1 + done['weight_decay'] * params))


def test_the_learning_rate_is_asked_for_whatever_the_default_of_a_schedule(page):
  given = {'name': 'sgd', 'schedule': 'mylab.optim.whole'}
  config = configs.load(str(page)).to_dict() | {'optimizer': given}
  with pytest.raises(ValueError, match=r'^config\.optimizer\.learning_rate is missing; give it'):
    completion.complete(config)


WRONG = {
  'method.name=mylab.none': (
    "config.method.name='mylab.none' is not known: No module named 'mylab.none'; expected a module "
    'that defines build, installed or in a folder of PYTHONPATH'
  ),
  'method.name=nolab.colours': "is not known: No module named 'nolab'; expected",
  'method.name=moco.py': "is not known (did you mean 'moco'?): No module named 'moco",
  'method.name=mylab.empty': 'empty.py has no build',
  'data.name=synthetic.faces': "'synthetic.faces' (did you mean 'synthetic/faces'?): No module",
  'data.name=mylab.empty': "'mylab.empty': expected a module that defines source; ",
  'evals.own.protocol=mylab.empty': 'expected a module that defines run, check, score, METRICS; ',
  'optimizer.name=mylab.optim.lion': 'expected a module that defines lion; ',
  'optimizer.schedule=mylab.none.decay': "unknown schedule 'mylab.none.decay': No module named ",
  'optimizer.third=0.5': "config.optimizer has no 'third'; it has: ",
}


@pytest.mark.parametrize('change', WRONG)
def test_what_is_not_there_is_one_line(page, tmp_path, capsys, change):
  given = f'--config={page}', f'--workdir={tmp_path}/r', f'--config.{change}'
  assert main(['x', 'train', *given]) == 2
  assert WRONG[change] in capsys.readouterr().err.splitlines()[0]
  assert not (tmp_path / 'r').exists()


def test_a_study_of_layers_takes_a_protocol_of_one_s_own(page):
  study = {'protocol': 'layers', 'of': 'mylab.near', 'data': {'name': 'mylab.faces'}}
  done = completion.evaluations({'study': study}, {}, {})
  assert {'labels', 'draws', 'measured'} <= done['study'].keys()
  assert scoring.stated_metrics(done['study'])[0].name == 'away'
  assert scoring.unit(done['study']).sign == 'hands'


def test_what_a_study_of_layers_needs_of_a_protocol_is_told_at_once(page):
  (page.parent / 'lab/mylab/runs.py').write_text('def run(describer, *, margin: int = 0): ...\n')
  study = {'protocol': 'layers', 'of': 'mylab.runs', 'data': {'name': 'mylab.faces'}}
  with pytest.raises(ValueError, match=r"^of='mylab\.runs' .* has no check, score, METRICS$"):
    completion.evaluations({'study': study}, {}, {})


@pytest.mark.parametrize(
  'text', ["OSError('12,5')", "FileNotFoundError(2, 'No such file', '/nope')"]
)
def test_a_file_that_a_source_misses_is_told_with_the_example(page, tmp_path, capsys, text):
  source = page.parent / 'lab/mylab/faces.py'
  source.write_text(source.read_text().replace('return self.faces[index]', f'raise {text}'))
  assert main(['x', 'train', f'--config={page}', f'--workdir={tmp_path}/r']) == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert line.endswith('; mylab.faces, example 0')
  assert line.startswith(('error: 12,5;', 'error: /nope: No such file;'))


def test_an_error_inside_a_module_is_its_own(page):
  with pytest.raises(ModuleNotFoundError, match="No module named 'a_package_that_is_nowhere'"):
    main(['x', 'train', f'--config={page}', '--workdir=x', '--config.method.name=mylab.broken'])


def test_only_import_paths_are_imported():
  for name in ('../moco', 'a/b.c', '.moco', 'moco.', 'a..b', 'moco.py/'):
    with pytest.raises(ValueError, match='there are: '):
      by_name.module('methods', 'build', name, fault='')


def test_a_schedule_of_one_s_own_follows_the_warm_up(page):
  given = {'learning_rate': 0.4, 'epochs': 5, 'warmup_epochs': 1, 'steps_per_epoch': 2}
  _, rate = optim.build(**given, schedule='mylab.optim.decay', half=0.25)
  expected = [0.2, 0.4, *(0.4 * 0.25 ** (step / 4) for step in range(4))]
  np.testing.assert_allclose([rate(step) for step in range(6)], expected, rtol=1e-6)

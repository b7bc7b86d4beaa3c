# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tables and figures of runs
#
# Everything that a run measured is in its `metrics.jsonl` and, of later evaluations, in
# `evaluations/*.json`. This page makes tables and figures of them: the curves of training, the
# scores beside their baselines, errors against the number of labels. Put the folders of your runs
# into `RUNS`; without any, two short ones of rendered faces are made, on a CPU in minutes.
#
# The first cell installs landmarks_jax where it is not installed. With the environment variable
# `LANDMARKS_JAX_SMOKE=1` there is one run of three steps, for the tests.

# %%
ADDRESS = 'https://example.org/landmarks_jax.git'  # where landmarks_jax is published

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

package = getattr(importlib.util.find_spec('landmarks_jax'), 'origin', None)  # None: not installed
places = [pathlib.Path(package).parents[1]] if package else []
places += [pathlib.Path('..'), pathlib.Path('.'), pathlib.Path('landmarks_jax_code')]
CODE = next((place for place in places if (place / 'configs/demo.py').exists()), places[-1])
if not CODE.exists():
  subprocess.run(['git', 'clone', '--quiet', ADDRESS, CODE], check=True)
if package is None:
  extra = '[cuda]' if shutil.which('nvidia-smi') else ''
  install = [sys.executable, '-m', 'pip', 'install', '--quiet', f'{CODE.resolve()}{extra}']
  subprocess.run(install, check=True)
CONFIGS = CODE.resolve() / 'configs'
SMOKE = bool(os.environ.get('LANDMARKS_JAX_SMOKE'))
WORK = pathlib.Path(tempfile.mkdtemp())  # what this page makes

import jax

print(jax.devices())

# %%
import json

import matplotlib.pyplot as plt

from landmarks_jax.cli import table
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.cli.main import main
from landmarks_jax.evaluation import scoring

RUNS = []  # such as ['runs/demo', 'runs/dve']
if not RUNS:
  page = f'--config={CONFIGS}/demo.py' + ':smoke' * SMOKE
  options = [f'--config.evals.faces.labels={"1,5" if SMOKE else "1,5,20,100"}']
  options.append(f'--config.log_every={1 if SMOKE else 20}')
  if SMOKE:
    options += ['--config.evals.faces.copies=1', '--config.evals.faces.draws=2']
  for steps in [3] if SMOKE else [100, 600]:
    RUNS.append(WORK / f'demo_{steps}_steps')
    words = ['train', page, f'--workdir={RUNS[-1]}', f'--config.steps={steps}', *options]
    if main(['landmarks_jax', *words]):
      raise SystemExit('training failed; the line above says why')

# %% [markdown]
# ## What a run holds
#
# A line of `metrics.jsonl` has a step and numbers by name: `train/...` of the step,
# `EVALUATION/PROTOCOL/SCORE` of an evaluation. The last number of a name counts. Of the
# files of `evaluate`, those of the weights that it takes by itself do: the selected or newest ones.


# %%
def newest(folder):
  """The last step of a folder of checkpoints, 0 if there is none."""
  return max((int(path.name) for path in folder.glob('*') if path.name.isdecimal()), default=0)


def read(run):
  """(config, lines of metrics.jsonl, scores by full name) of a run's folder."""
  run = pathlib.Path(run).expanduser()
  config = json.loads((run / 'config.json').read_text())
  log = run / 'metrics.jsonl'  # a converted run has none
  lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
  scores = {name: value for line in lines for name, value in line.items() if name.count('/') == 2}
  end = newest(run / 'best') or newest(run / 'checkpoints') or (lines[-1]['step'] if lines else 0)
  files = {tuple(map(int, f.stem.split('_'))): f for f in run.glob('evaluations/*.json')}
  evals = dict(config.get('evals', {}))
  for (step, *_), file in sorted(files.items()):  # STEP.json, STEP_2.json, ...
    if step >= end:
      later = json.loads(file.read_text())
      evals, scores = evals | later['evals'], scores | later['scores']
  return config | {'evals': evals}, lines, scores


def error_title(config, name):
  """What the errors of an evaluation are divided by; 'error' if its pictures are not here."""
  try:
    return scoring.error_title(Experiment(config).info(name))
  except (OSError, ValueError) as error:
    print(f'{name}: what its errors are divided by is not known here: {error}')
    return 'error'


found = {pathlib.Path(run).name: read(run) for run in RUNS}
titles = {
  run: {name: error_title(config, name) for name in config['evals']}
  for run, (config, _, _) in found.items()
}
for name, (config, lines, scores) in found.items():
  method, step = config['method']['name'], lines[-1]['step'] if lines else 0
  print(f'{name}: {method}, step {step}, {len(scores)} scores')

# %% [markdown]
# ## Curves of training
#
# Compare a loss with itself over time, never with that of another method.

# %%
for name, (_, lines, _) in found.items():
  logged = [line for line in lines if 'train/loss' in line]
  plt.plot([n['step'] for n in logged], [n['train/loss'] for n in logged], 'o-', label=name)
plt.xlabel('step')
plt.ylabel('loss')
plt.legend()
plt.show()

# %% [markdown]
# ## Scores beside their baselines
#
# The same tables as `train` and `evaluate` print: rows that features must beat, the spread over
# draws of labels, or the 95 % interval.

# %%
for name, (config, _, scores) in found.items():
  print(f'== {name}\n{table.of_scores(config["evals"], scores, titles[name])}\n')

# %% [markdown]
# ## Errors against the number of labels
#
# Scores whose name has `_n5` were learnt from five labels.
#
# The short runs of this page lie above the untrained network: contrast needs more pictures than 600
# steps see. The demo's 4,000 steps end below it.

# %%
ROWS = {'': 'trained', '_random_init': 'random init', '_mean_shape': 'mean shape'}


def curve(scores, start, row):
  """[(labels, error, deviation)] of an evaluation, such as 'faces/regression/inter_ocular'."""
  counts = sorted(
    int(part)
    for name in scores
    if name.startswith(f'{start}_n')
    for part in [name.removeprefix(f'{start}_n').partition('_')[0]]
    if f'{start}_n{part}{row}' == name
  )
  return [
    (n, scores[f'{start}_n{n}{row}'], scores.get(f'{start}_n{n}{row}_std', 0)) for n in counts
  ]


measured = set()
for name, (_, _, scores) in found.items():
  starts = {key.partition('_n')[0] for key in scores if key.partition('_n')[2][:1].isdigit()}
  for start in sorted(start for start in starts if start.endswith('inter_ocular')):
    for row, title in ROWS.items():
      points = curve(scores, start, row)
      if points and (not row or name == list(found)[-1]):
        label = f'{name}: {title}' if not row else title
        plt.errorbar(*zip(*points, strict=True), marker='o', capsize=3, label=label)
        measured.add(titles[name][start.partition('/')[0]])
plt.xscale('log')
plt.xlabel('labelled pictures')
plt.ylabel(f'{measured.pop() if len(measured) == 1 else "error"}, %')
if plt.gca().has_data():
  plt.legend()
plt.show()

# %% [markdown]
# ## A table for a paper
#
# Markdown, one line a run. Published figures stand in `docs/reproduce.md`, with the command that
# should give each; they belong beside yours in a column of their own that says so.

# %%
names = {name for _, _, scores in found.values() for name in scores}
spreads = '_std', '_low', '_high'
shown = sorted(n for n in names if '/inter_ocular' in n and not n.endswith(spreads))[:6]
print('| Run | ' + ' | '.join(shown) + ' |')
print('|---' * (len(shown) + 1) + '|')
for name, (_, _, scores) in found.items():
  cells = (f'{scores[n]:.2f}' if n in scores else '' for n in shown)
  print(f'| {name} | ' + ' | '.join(cells) + ' |')

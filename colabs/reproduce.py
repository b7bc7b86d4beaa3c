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
# into `RUNS`; without any, two short ones of rendered faces are made, in about ten minutes on two
# cores.
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
import re

import matplotlib.pyplot as plt

from landmarks_jax.cli import table
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.cli.main import main
from landmarks_jax.evaluation import scoring

RUNS = []  # such as ['runs/demo', 'runs/dve']
if not RUNS:
  faces = {'name': 'synthetic/faces', 'frame': 68, 'count': 16 if SMOKE else 500}
  faces = {'protocol': 'regression', 'data': faces, 'margin': 10}
  # Of every label, 20 warped copies are fitted, for each draw and row of the table.
  faces |= (
    {'labels': [1, 5], 'draws': 2, 'copies': 1} if SMOKE else {'labels': [1, 5, 20], 'draws': 3}
  )
  options = [f'--config={CONFIGS}/dense_synthetic_faces.py', '--config.data.count=1000']
  options += [f'--config.evals={ {"faces": faces} }', f'--config.log_every={1 if SMOKE else 10}']
  if SMOKE:
    options += ['--config.batch_size=8', '--config.method.width=.25', '--config.data.count=16']
  for steps in [3] if SMOKE else [50, 200]:
    RUNS.append(WORK / f'dense_{steps}_steps')
    words = ['train', f'--workdir={RUNS[-1]}', f'--config.steps={steps}', *options]
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
# Compare a loss with itself over time, never with that of another method. The two runs of this page
# have one seed, so the shorter is the beginning of the longer.

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
# The short runs of this page are of dense labelling. With 20 labels, errors of 23 % untrained, 16 %
# after 50 steps and 14 % after 200 were measured.

# %%
ROWS = {
  '': 'trained',
  '_random_init': 'random init',
  '_base': 'frozen base',
  '_mean_shape': 'mean shape',
}


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
# Markdown: runs and their baselines in rows, numbers of labels in columns, the deviation over draws
# of labels behind. Published figures stand in `docs/reproduce.md`, with the command that should
# give each; they belong beside yours in a column of their own that says so.

# %%
NAME = re.compile(r'(.+)/(.+)/inter_ocular(?:_n(\d+))?(' + '|'.join(filter(None, ROWS)) + ')?')


def cell(scores, name):
  """A score with the deviation over draws, if any; empty without the score."""
  spread = f' ± {scores[name + "_std"]:.2f}' if f'{name}_std' in scores else ''
  return f'{scores[name]:.2f}{spread}' if name in scores else ''


columns = {}  # by evaluation and protocol: the title of every number of labels
for config, _, scores in found.values():
  for evaluation, protocol, count, _ in (m.groups() for m in map(NAME.fullmatch, scores) if m):
    title = scoring.setting(config['evals'][evaluation], f'n{count}' if count else '')
    columns.setdefault((evaluation, protocol), {}).setdefault(int(count or 0), title)
for (evaluation, protocol), titles_by_count in columns.items():
  counts = sorted(titles_by_count)
  print(f'\n| {evaluation} | ' + ' | '.join(titles_by_count[n] for n in counts) + ' |')
  print('|---' * (len(counts) + 1) + '|')
  for name, (_, _, scores) in found.items():
    for row, title in ROWS.items():
      start = f'{evaluation}/{protocol}/inter_ocular'
      cells = [cell(scores, f'{start}_n{n}{row}' if n else f'{start}{row}') for n in counts]
      if any(cells):
        print(f'| {name}: {title} | ' + ' | '.join(cells) + ' |')

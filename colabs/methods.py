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
# # All systems on one picture
#
# What does each method see in the same rendered faces? Each is trained here for a few hundred small
# steps, on a CPU in some minutes, or taken from a run that you have: put its folder into `RUNS`. So
# short a training shows the kind of thing that a method learns, not how good it gets:
# `docs/results.md` has that.
#
# The first cell installs landmarks_jax where it is not installed. With the environment variable
# `LANDMARKS_JAX_SMOKE=1` the networks are tiny and untrained, for the tests.

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
import matplotlib.pyplot as plt
import numpy as np

import landmarks_jax
from landmarks_jax.cli import completion, experiment
from landmarks_jax.cli import config as configs
from landmarks_jax.cli.main import main
from landmarks_jax.data.source import open_source
from landmarks_jax.geometry import coords
from landmarks_jax.report import components, draw
from landmarks_jax.report import labels as label_colours
from landmarks_jax.runtime import run_folder

RUNS = {}  # such as {'moco': 'runs/demo'}; the others are trained below
PAGES = {  # a page of configs/, and steps that take a minute or two on two cores
  'moco': ('demo', 600),
  'projection': ('projection_synthetic_faces_128', 300),
  'dve': ('dve_synthetic_faces', 300),
  'scrl': ('scrl_synthetic_faces', 300),
  'lmdis': ('lmdis_synthetic_faces', 300),
}


def trained(name):
  """The folder of a run of a method: yours, or one that is made here, without evaluations."""
  if name in RUNS:
    return RUNS[name]
  (page, steps), folder = PAGES[name], WORK / name
  spec = f'{CONFIGS}/{page}.py' + ':smoke' * SMOKE
  changes = ['evals={}', 'select=None', f'steps={steps}']
  if name == 'projection':
    changes.append(f'base.checkpoint={trained("moco")}')
  if name == 'lmdis':
    changes.append('calibrate=1')
  if folder.exists():
    return folder
  if SMOKE:
    return untrained(folder, spec, changes)
  options = [f'--config.{change}' for change in changes]
  if main(['landmarks_jax', 'train', f'--config={spec}', f'--workdir={folder}', *options]):
    raise SystemExit(f'{name} failed; the line above says why')
  return folder


def untrained(folder, spec, changes):
  """The same with the weights that training begins with."""
  config = completion.complete(configs.changed(configs.load(spec), changes))
  parts = experiment.Experiment(config)
  parts.resolve()
  state = parts.init_state()
  run_folder.write(folder, parts.config, state.params, state.aux)
  return folder


# %% [markdown]
# ## The pictures
#
# Frames of 136 pixels that no method has seen. `Model.frames` cuts from them what each network
# looks at.

# %%
COUNT = 4 if SMOKE else 32
faces = open_source('synthetic/faces', split='test', count=COUNT, frame=136)
pictures = np.stack([faces[i]['image'] for i in range(COUNT)])
SHOWN = pictures[:4]


def show(sheet, title):
  plt.figure(figsize=(11, 11 * sheet.shape[0] / sheet.shape[1] + 0.3))
  plt.imshow(sheet)
  plt.title(title)
  plt.axis('off')
  plt.show()


show(draw.enlarged_sheet(SHOWN, columns=4), 'Four of the faces')

# %% [markdown]
# ## MoCo: hypercolumns as colours
#
# The first three principal components over all pictures, as red, green and blue. They tell pictures
# apart before they tell parts.

# %%
moco = landmarks_jax.load(trained('moco'))
maps = components.of_pyramid(moco.describe(pictures), size=32, count=3)
show(draw.rgb_sheet(moco.frames(SHOWN), maps[:4]), 'MoCo: hypercolumns')

# %% [markdown]
# ## SCRL: the same, learnt from boxes
#
# The comparison is of boxes with the same content, so the feature follows the place.

# %%
scrl = landmarks_jax.load(trained('scrl'))
maps = components.of_pyramid(scrl.describe(pictures), size=32, count=3)
show(draw.rgb_sheet(scrl.frames(SHOWN), maps[:4]), 'SCRL: hypercolumns')

# %% [markdown]
# ## Projection: a few channels, each a place
#
# What each of the first channels answers to, on the frozen MoCo of above: bright is where its
# softmax has its weight.

# %%
projection = landmarks_jax.load(trained('projection'))
(maps,) = projection.describe(SHOWN)
heat = maps[..., :12] / maps[..., :12].max(axis=(1, 2), keepdims=True)
show(
  draw.component_sheet(projection.frames(SHOWN), heat, columns=12), 'Projection: 12 of its channels'
)

# %% [markdown]
# ## DVE: a label for every pixel
#
# The same colour is the same label. Where it works, the same part has the same colour on all faces.

# %%
dve = landmarks_jax.load(trained('dve'))
(found,) = dve.describe(SHOWN)
show(label_colours.sheet(dve.frames(SHOWN), found, columns=4), 'DVE: labels as colours')

# %% [markdown]
# ## lmdis: landmarks that nobody named
#
# Ten places, each in its colour. The last row is painted from these places and eight numbers for
# each, and nothing else.

# %%
lmdis = landmarks_jax.load(trained('lmdis'))
seen = lmdis.frames(SHOWN)
places, _ = lmdis.describer.landmarks(lmdis.describer.variables, seen)
show(draw.discovered_sheet(seen, np.asarray(places), columns=4), 'lmdis: discovered landmarks')
painted = np.asarray(lmdis.describer.paint(lmdis.describer.variables, seen, None))
show(draw.enlarged_sheet(draw.to_bytes(painted), columns=4), 'lmdis: painted again')

# %% [markdown]
# ## One point, looked for by each
#
# The left eye of the first face, found in the second by the features alone. The ring is the truth.
# Every method sees its own square of the picture; points are in pixels of the whole one.

# %%
eyes = [coords.to_pixels(faces[i]['points'][:1], width=136, height=136) for i in (0, 1)]
models = {'MoCo': moco, 'SCRL': scrl, 'projection': projection, 'DVE': dve}
_, axes = plt.subplots(1, 4, figsize=(11, 3.2))
for axis, (name, model) in zip(axes, models.items(), strict=True):
  match = landmarks_jax.match(model, pictures[0], pictures[1], eyes[0], size=12 if SMOKE else 48)
  axis.imshow(pictures[1])
  axis.scatter(*eyes[1][0], s=120, facecolors='none', edgecolors='lime')
  axis.scatter(*match.points[0], s=40, c='red')
  axis.set_title(f'{name}: {np.linalg.norm(match.points[0] - eyes[1][0]):.0f} pixels off')
  axis.axis('off')
plt.show()

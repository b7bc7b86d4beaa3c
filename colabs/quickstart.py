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
# # Your pictures to landmarks
#
# Features are learnt from pictures without labels; a few labelled ones then make a detector. Runs
# on a CPU in minutes. Rendered faces stand in for your pictures: set `PICTURES` to a folder (in
# Colab, upload one at the left) to use your own.
#
# The first cell installs landmarks_jax where it is not installed. With the environment variable
# `LANDMARKS_JAX_SMOKE=1` everything is tiny and takes seconds: that is how the tests run this page.
# Its results then mean nothing.

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
import itertools

import matplotlib.pyplot as plt
import numpy as np

import landmarks_jax
from landmarks_jax.cli.main import main
from landmarks_jax.data import folder, images
from landmarks_jax.data.source import BadImage


def command(*words):
  """The same as `python -m landmarks_jax WORDS`."""
  if main(['landmarks_jax', *map(str, words)]):
    raise SystemExit(f'{words[0]} failed; the line above says why')


# %% [markdown]
# ## Pictures
#
# `frames` writes pictures of a dataset with a file `labels.csv`: `file,NAME_x,NAME_y,...` in
# pixels. Your own folder needs such a file for the labelled pictures only; `python -m landmarks_jax
# label DIR` is a page to make it.

# %%
PICTURES, LABELS = '', 'labels.csv'  # your folder, and your labels in it
if not PICTURES:
  PICTURES = WORK / 'faces'
  count = 16 if SMOKE else 1000
  command('frames', 'synthetic/faces', '--count', count, '--frame', 68, '--output', PICTURES)
PICTURES = pathlib.Path(PICTURES).expanduser()
pictures, labels = folder.find(PICTURES), folder.read_labels(PICTURES, LABELS)
files, names = sorted(labels.points), list(labels.names)
print(f'{len(pictures)} pictures, {len(files)} labelled; landmarks: {", ".join(names)}')


# %%
def show(files, points=None, confidence=None, truth=None, columns=8):
  """Pictures with points: red to green by confidence; rings are the truth."""
  rows = -(-len(files) // columns)
  _, axes = plt.subplots(rows, columns, figsize=(1.3 * columns, 1.3 * rows), squeeze=False)
  for axis in axes.flat:
    axis.axis('off')
  for i, (axis, file) in enumerate(zip(axes.flat, files, strict=False)):
    axis.imshow(images.read(PICTURES / file, rotate=True))
    if truth is not None:
      axis.scatter(*truth[i].T, s=34, facecolors='none', edgecolors='white', linewidths=0.8)
    if points is not None:
      axis.scatter(*points[i].T, s=9, c=confidence[i], cmap='RdYlGn', vmin=0, vmax=1)
  plt.tight_layout(pad=0.2)
  plt.show()


show(files[:8])

# %% [markdown]
# ## Features, without labels
#
# MoCo learns to tell the pictures apart, whatever crop and colour. Its config takes
# 10,000 steps; 800 are enough to see it work. The same cell again would go on from the last
# checkpoint.

# %%
tiny = ['--config.batch_size=8', '--config.method.width=.0625', '--config.log_every=1']
command(
  'train',
  f'--config={CONFIGS}/moco_folder.py',
  f'--workdir={WORK}/run',
  f'--config.data.path={PICTURES}',
  f'--config.steps={2 if SMOKE else 800}',
  *(tiny if SMOKE else []),
)
model = landmarks_jax.load(WORK / 'run')
model

# %% [markdown]
# ## Twenty labels
#
# Only these are learnt from. Names that differ by left and right are each other's mirror image,
# unless the labels contradict that.

# %%
LABELLED = 8 if SMOKE else 20
chosen = files[: min(LABELLED, len(pictures) - 1)]  # at least one picture is left to look at
pairs = folder.label_pairs(labels)
finder = landmarks_jax.fit_landmarks(
  model,
  [PICTURES / file for file in chosen],
  np.stack([labels.points[file] for file in chosen]),
  names=names,
  flip_pairs=pairs,
  scale=pairs[0] if pairs else 'frame',
  copies=2 if SMOKE else 20,
)

# %% [markdown]
# ## Landmarks of all others
#
# The colour is the confidence, measured on the labelled pictures: red is 0, green is 1. Rings are
# true places, which were not learnt from; pictures without labels have none.


# %%
def readable(file):
  """Whether a picture can be read; training left out those that cannot."""
  try:
    images.read(PICTURES / file)
  except BadImage:
    return False
  return True


unlabelled = [file for file in pictures if file not in labels.points]
others = list(itertools.islice(filter(readable, files[len(chosen) :] + unlabelled), 200))
points, confidence = finder.predict([PICTURES / file for file in others])
nothing = np.full((len(names), 2), np.nan)
truth = np.stack([labels.points.get(file, nothing) for file in others])
show(others[:16], points, confidence, truth)

# %%
if pairs:
  first, second = pairs[0]
  scale = np.linalg.norm(truth[:, first] - truth[:, second], axis=-1)
  error = np.linalg.norm(points - truth, axis=-1) / scale[:, None]
  known = np.isfinite(error)  # visible, in a picture that shows both landmarks of the scale
  if known.any():
    told = f'% of the distance of {names[first]} and {names[second]}'
    print(f'error: {100 * error[known].mean():.1f} {told}')
    print(
      f'nearer than a tenth of it: {(error[known] < 0.1).mean():.0%}; '
      f'claimed: {np.nanmean(confidence[known]):.0%}'
    )

# %% [markdown]
# ## Keep it
#
# The folder needs nothing else, and `python -m landmarks_jax predict --model finder --images DIR
# --output OUT` takes it.

# %%
finder.save(WORK / 'finder')
again = landmarks_jax.load_landmarks(WORK / 'finder')
again.predict([PICTURES / others[0]])[0].round(1)

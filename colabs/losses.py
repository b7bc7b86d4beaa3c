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
# # The losses alone
#
# Plain JAX functions: arrays in, one number for each example out; take the mean yourself. No state,
# no configuration, no device. Each one is shown here on data so small that the answer can be seen.
# `docs/unified.md` says how they are one loss.
#
# The first cell installs landmarks_jax where it is not installed. The environment variable
# `LANDMARKS_JAX_SMOKE=1` makes the page coarser; the tests run it so.

# %%
ADDRESS = 'https://example.org/landmarks_jax.git'  # where landmarks_jax is published

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

package = getattr(importlib.util.find_spec('landmarks_jax'), 'origin', None)  # None: not installed
CODE = pathlib.Path('landmarks_jax_code')
if package is None:
  if not CODE.exists():
    subprocess.run(['git', 'clone', '--quiet', ADDRESS, CODE], check=True)
  extra = '[cuda]' if shutil.which('nvidia-smi') else ''
  install = [sys.executable, '-m', 'pip', 'install', '--quiet', f'{CODE.resolve()}{extra}']
  subprocess.run(install, check=True)
SMOKE = bool(os.environ.get('LANDMARKS_JAX_SMOKE'))

import jax

print(jax.devices())

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from landmarks_jax import losses

# %% [markdown]
# ## InfoNCE: is this the same picture?
#
# One query, its key at an angle, and negatives all around. The loss grows with the angle; a low
# temperature makes it care about the nearest negatives alone.

# %%
angles = np.linspace(0, np.pi, 9 if SMOKE else 61)
query = jnp.tile(jnp.array([[1.0, 0.0]]), (len(angles), 1))
key = jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
around = np.linspace(0, 2 * np.pi, 12, endpoint=False) + 0.26
negatives = jnp.stack([jnp.cos(around), jnp.sin(around)], 1)
for temperature in (0.07, 0.2, 1.0):
  values = losses.info_nce(query, key, negatives, temperature=temperature)
  plt.plot(np.degrees(angles), values, label=f'temperature {temperature}')
plt.axhline(np.log(13), color='grey', linestyle=':', label='ln 13: no idea which of 13 it is')
plt.xlabel('angle between query and key, degrees')
plt.ylabel('info_nce')
plt.legend()
plt.show()

# %% [markdown]
# With vectors that know nothing the loss is about the logarithm of the number of candidates.
# `in_batch_nce` takes the other keys of the batch as negatives:

# %%
rows = losses.unit(jax.random.normal(jax.random.key(0), (2, 64, 128)))
values = losses.in_batch_nce(*rows, temperature=0.2)
print(f'64 random pairs: {values.mean():.2f}; ln 64 = {np.log(64):.2f}')
print(f'one number each: {values.shape}')

# %% [markdown]
# ## Equivariance: where did this pixel go?
#
# Labels of a picture and of the same picture moved by two cells. `key` is `query` moved, so `flow`
# says (2, 0) everywhere. Both losses are low where labels match the flow, and high for any other
# flow.

# %%
side = 8 if SMOKE else 16
cells = jnp.stack(jnp.meshgrid(*[jnp.linspace(-2, 2, side)] * 2), -1)
waves = jax.random.normal(jax.random.key(1), (2, 12)) * 2
labels = 3 * losses.unit(jnp.concatenate([jnp.sin(cells @ waves), jnp.cos(cells @ waves)], -1))
moved = jnp.roll(labels, 2, axis=1)  # what was at x is now at x + 2
shifts = range(-4, 5)


@jax.jit
def both(shift):
  """Likelihood and distance of the claim that everything went `shift` cells to the right."""
  flow = jnp.zeros((1, side, side, 2)).at[..., 0].set(shift)
  x = jnp.arange(side)[None, None] + shift
  valid = jnp.broadcast_to((x >= 2) & (x < side), (1, side, side))  # columns 0 and 1 wrapped round
  given = labels[None], moved[None], flow, valid
  nll = losses.equivariance_nll(*given)
  distance = losses.equivariance_distance(*given, power=0.5)
  return nll[0], distance[0]


found = np.array([both(shift) for shift in shifts])
for column, name in enumerate(('equivariance_nll', 'equivariance_distance')):
  share = found[:, column] / found[:, column].max()
  plt.plot(shifts, share, 'o-', label=f'{name}, share of its largest')
plt.axvline(2, color='grey', linestyle=':', label='the truth')
plt.xlabel('claimed shift, cells')
plt.ylim(top=1.35)  # room for the legend
plt.legend(loc='upper right')
plt.show()
assert np.all(found.argmin(0) == list(shifts).index(2))

# %% [markdown]
# ## The exchange of DVE
#
# A label is told in the labels of another picture. What only this picture has is lost; what both
# have stays.

# %%
own, theirs = 3 * losses.unit(jax.random.normal(jax.random.key(2), (2, *labels.shape)))
person = jnp.concatenate([labels, own], -1)[None]  # where it is on the face; whose face it is
other = jnp.concatenate([labels, theirs], -1)[None]
told = losses.descriptor_exchange(person, other, sharpness=20.0)[0]
half = labels.shape[-1]


def agreement(a, b):
  return float((losses.unit(a) * losses.unit(b)).sum(-1).mean())


print('mean cosine with the picture itself, before the exchange 1 and 1, after it:')
print(f'  where it is: {agreement(told[..., :half], labels):.2f}')
print(f'  whose it is: {agreement(told[..., half:], own):.2f}')
assert agreement(told[..., :half], labels) > 0.7 > 0.4 > agreement(told[..., half:], own)

# %% [markdown]
# ## Spatial contrast: places of one picture
#
# Low where each position is most like itself. Labels that are alike everywhere cannot tell; smooth
# ones can, and random ones best of all, which is why the projection stands on features that cannot
# be random.

# %%
kinds = {
  'the same everywhere': jnp.ones((1, side, side, 24)),
  'smooth': labels[None],
  'random': jax.random.normal(jax.random.key(3), (1, side, side, 24)),
}
values = [float(losses.spatial_contrast(f, sharpness=7.0, stride=4.0)[0]) for f in kinds.values()]
plt.barh(list(kinds), values)
plt.xlabel('spatial_contrast: expected root of the distance, √pixels')
plt.show()

# %% [markdown]
# ## Landmarks: smooth-L1
#
# Quadratic near the truth, linear far from it, ten times magnified; what is not visible costs
# nothing and has no gradient.

# %%
off = np.linspace(-0.4, 0.4, 9 if SMOKE else 81)
points = jnp.stack([jnp.asarray(off), jnp.zeros_like(off)], -1)[:, None]
visible = jnp.ones(points.shape[:2], bool)
cost = losses.smooth_l1_landmarks(points, jnp.zeros_like(points), visible)
slope = jax.grad(lambda p: losses.smooth_l1_landmarks(p, 0 * p, visible).sum())(points)[:, 0, 0]
plt.plot(off, cost, label='loss')
plt.plot(off, slope, label='its gradient')
plt.xlabel('offset of a landmark, half pictures')
plt.legend()
plt.show()
hidden = jax.grad(lambda p: losses.smooth_l1_landmarks(p, 0 * p, ~visible).sum())(points)
print(f'gradient of invisible landmarks: {float(jnp.abs(hidden).max())}')

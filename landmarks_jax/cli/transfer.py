"""Starts a run from the weights of another one, of the same method or not: `init_from`."""

import collections
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from landmarks_jax import training
from landmarks_jax.cli import base as bases
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.contracts import PyTree
from landmarks_jax.runtime import run_folder

Leaves = dict[str, Any]  # arrays or their shapes, by names such as params/backbone/conv1/kernel
ABSENT, OTHER_SHAPE = 'which are not there', 'which have another shape there'
COUNTER, OF_BASE = 'which count from the start', 'which config.base gives'
REASONS = OTHER_SHAPE, ABSENT, COUNTER, OF_BASE


class Weights(NamedTuple):
  """What a run starts from. own_base: the config gives the network below instead."""

  run: pathlib.Path
  stored: Leaves
  own_base: bool


def of(experiment: Experiment, workdir: pathlib.Path) -> Weights | None:
  """The weights that the config asks for; None if it does not, or if the run has begun.

  A warning says if less than half of the arrays that training changes are among them. Raises
  FileNotFoundError if there are none, and ValueError if none of them fits.
  """
  given = experiment.config['init_from']
  if given is None or run_folder.has_checkpoints(workdir):
    return None
  run = pathlib.Path(given).expanduser()
  run_folder.read_config(run / run_folder.CONFIG)  # says what is wrong with a folder that is no run
  own_base = experiment.config['base'] is not None
  weights = Weights(run, training.leaves(bases.read(run)), own_base)
  wanted = experiment.shapes(1)[0]
  wanted = training.leaves({'params': wanted.params, 'aux': wanted.aux})
  _warn_of_few(weights, wanted, _check(weights, wanted))
  return weights


def _warn_of_few(weights: Weights, wanted: Leaves, left: Mapping[str, str]) -> None:
  """Warns if less than half of params can be taken: often the networks have other sizes."""
  params = [name for name in wanted if name.startswith('params/')]
  missed = [name for name in params if name in left]
  if 2 * len(missed) <= len(params):
    return
  there = weights.stored.get(missed[0])
  shape = 'absent' if there is None else list(there.shape)
  warnings.warn(
    f'config.init_from={weights.run}: only {len(params) - len(missed)} of the {len(params)} arrays '
    f'of params are taken; the others, such as {missed[0]} {list(wanted[missed[0]].shape)} (there '
    f'{shape}), start untrained. Give config.method the sizes in {weights.run / run_folder.CONFIG}',
    stacklevel=2,
  )


def start(weights: Weights, params: PyTree, aux: PyTree) -> tuple[PyTree, PyTree, str]:
  """(params, aux) with every array that is stored under the same name and in the same shape.

  An array of aux that is not stored and starts as a copy of another one, as those of a momentum
  encoder do, takes that one's value. Integers are counters and start anew. The text says what was
  taken and what was left at its initial value, and why. Raises ValueError that names both trees if
  nothing of params is found.
  """
  wanted = training.leaves({'params': params, 'aux': aux})
  left = _check(weights, wanted)
  taken = {name: name for name in wanted if name not in left}
  copies = {n: _origin(n, wanted) for n, why in left.items() if why == ABSENT}
  copies = {name: origin for name, origin in copies.items() if origin in taken}
  found = {
    name: np.asarray(weights.stored[origin]).astype(wanted[name].dtype)
    for name, origin in (taken | copies).items()
  }
  structure = jax.tree.structure({'params': params, 'aux': aux})
  tree = jax.tree.unflatten(structure, list((wanted | found).values()))
  left = {name: why for name, why in left.items() if name not in copies}
  return tree['params'], tree['aux'], _summary(weights.run, taken, copies, left)


def _check(weights: Weights, wanted: Leaves) -> dict[str, str]:
  """Reasons, by name, why arrays cannot be taken. Raises ValueError if none of params can."""
  reasons = {name: _why_not(name, leaf, weights) for name, leaf in wanted.items()}
  left = {name: why for name, why in reasons.items() if why is not None}
  if not any(name.startswith('params/') for name in wanted.keys() - left.keys()):
    raise ValueError(
      f'config.init_from={weights.run}: none of its weights has a name and shape of this method; '
      f'it has {groups(weights.stored)}; this method has {groups(wanted)}'
    )
  return left


def _why_not(name: str, leaf: Any, weights: Weights) -> str | None:
  if weights.own_base and name.startswith('aux/base/'):
    return OF_BASE
  if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
    return COUNTER
  if name not in weights.stored:
    return ABSENT
  return None if weights.stored[name].shape == leaf.shape else OTHER_SHAPE


def _origin(name: str, wanted: Leaves) -> str | None:
  """The array that one of aux is a copy of: the same name under another prefix, bit for bit."""
  if name.startswith('params/'):
    return None
  rest = name.split('/', 2)[-1]
  tops = {'/'.join(other.split('/')[:2]) for other in wanted if other.startswith('aux/')}
  for origin in (f'{top}/{rest}' for top in ('params', *sorted(tops))):
    same = origin != name and origin in wanted
    if same and np.array_equal(np.asarray(wanted[origin]), np.asarray(wanted[name])):
      return origin
  return None


def _summary(
  run: pathlib.Path, taken: Iterable[str], copies: Iterable[str], left: Mapping[str, str]
) -> str:
  lines = [f'initial weights from {run}: {groups(taken)}']
  lines += [f'  and their copies: {groups(copies)}'] if copies else []
  for why in REASONS:
    names = [name for name in left if left[name] == why]
    lines += [f'  not {groups(names)}, {why}'] if names else []
  return '\n'.join(lines)


def groups(names: Iterable[str]) -> str:
  """Counts by prefix, such as: params/backbone (62), aux/stats (40)."""
  counts = collections.Counter('/'.join(name.split('/')[:2]) for name in names)
  order = sorted(counts, key=lambda name: (not name.startswith('params/'), name))
  return ', '.join(f'{name} ({counts[name]})' for name in order)

"""The frozen network that a method such as the projection stands on: a run's, or an untrained one.

In a config: `base=dict(checkpoint=DIR)` or `base=dict(method=dict(name=..., ...))`. The config.json
of a run holds both: where the weights came from, and how to build the network without that folder,
because the weights are in the run's own checkpoints.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from landmarks_jax.cli import completion
from landmarks_jax.contracts import Batch, Method, PyTree
from landmarks_jax.runtime import checkpoint, run_folder


def resolve(
  base: dict[str, Any], begun: Mapping[str, Any] | None = None, *, restores: bool = False
) -> None:
  """Fills in what the folder of the run says: its method, and the step of its weights.

  begun: the section of a run that goes on. If it names the same folder, or if the run `restores`
  the weights from a checkpoint, what that held when it began counts. Raises FileNotFoundError if
  the folder holds no run.
  """
  if not base['checkpoint']:
    return
  same = begun and (restores or begun.get('checkpoint') == base['checkpoint'])
  if same and base['step'] in (None, begun['step']):
    base |= {'step': begun['step'], 'method': begun['method']}
    return
  run = pathlib.Path(base['checkpoint']).expanduser()
  config = run_folder.read_config(run / run_folder.CONFIG)
  if config.get('base'):
    raise ValueError(f'config.base.checkpoint={run} builds on a network of its own; use that one')
  base['method'] = completion.method('config.base.method', config['method'])
  with checkpoint.Checkpoints(run_folder.weights(run), read_only=True) as checkpoints:
    base['step'] = checkpoints.latest_step() if base['step'] is None else base['step']
  if base['step'] is None:
    raise FileNotFoundError(f'{run} has no checkpoints yet; train it first')


def variables(base: Mapping[str, Any], method: Method, rng: PRNGKeyArray, example: Batch) -> PyTree:
  """(params, aux) of the network: those of the run, or untrained."""
  if not base['checkpoint']:
    return jax.jit(method.init)(rng, example)
  run = pathlib.Path(base['checkpoint']).expanduser()
  state, untrained = read(run, step=base['step']), jax.eval_shape(method.init, rng, example)
  return checkpoint.fitted(state, untrained, where=f'config.base.checkpoint={run}: its weights')


def blank(method: Method, rng: PRNGKeyArray, example: Batch) -> PyTree:
  """(params, aux) in the shapes of the network, where a checkpoint is going to fill them."""
  shapes = jax.eval_shape(method.init, rng, example)
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def read(run: pathlib.Path, *, step: int | None = None) -> dict[str, PyTree]:
  """The params and aux of a run as NumPy; step None: the selected one, else the newest."""
  return checkpoint.read_variables(run_folder.weights(run), step=step)

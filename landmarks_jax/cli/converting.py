"""From a file of published weights to the folder of a run."""

import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from landmarks_jax import training
from landmarks_jax.cli import completion, drafts, provenance, transfer
from landmarks_jax.cli import config as configs
from landmarks_jax.cli import workdir as workdirs
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.contracts import TrainState
from landmarks_jax.data import cub, faces
from landmarks_jax.inference.head import PROBE, Head
from landmarks_jax.inference.landmark_model import LandmarkModel
from landmarks_jax.inference.model import Model, load
from landmarks_jax.interop import published, torch_names
from landmarks_jax.interop.published import Published
from landmarks_jax.runtime import checkpoint, run_folder

PICTURES = 32  # rendered, in place of those that the weights learned from
KNOWN = {len(info.names): info for info in (*faces.INFOS.values(), cub.INFO)}  # by landmarks


class Plan(NamedTuple):
  """What a file becomes: a run, whose state has these shapes, or landmarks on the model below."""

  found: Published
  below: Model | None
  experiment: Experiment | None = None
  wanted: TrainState | None = None


def convert(
  file: pathlib.Path,
  output: pathlib.Path,
  *,
  base: pathlib.Path | None = None,
  frame: int | None = None,
  heads: int | None = None,
  changes: Sequence[str] = (),
) -> None:
  """Writes the weights in `file` as a run to the folder `output`; prints what was recognised.

  Args: base: the run below a projector or regressor. frame: side of the frames in pixels; None: as
  for files of this kind. heads: of a ViT. changes: of the config, such as 'method.levels=5'. Raises
  ValueError and OSError; then nothing is written.
  """
  drafts.check_new(output)
  if not file.is_file():
    raise FileNotFoundError(f'--input={file}: there is no such file')
  plan = prepare(file, base=base, frame=frame, heads=heads, changes=changes)
  found, untrained = plan.found, ()
  if plan.experiment is not None:
    state, untrained = _filled(plan)
  source = {'kind': found.kind, **_fingerprint(file)}
  with drafts.draft(output) as folder:
    if plan.experiment is None:
      _write_landmarks(folder, found, plan.below, source)
    else:
      _write(folder, plan.experiment, state, source)
  print('\n'.join([*_summary(plan, untrained), f'written to {output}']))


def prepare(
  file: pathlib.Path,
  *,
  base: pathlib.Path | None = None,
  frame: int | None = None,
  heads: int | None = None,
  changes: Sequence[str] = (),
) -> Plan:
  """What is in a file, compared with the method that it becomes.

  Raises as `convert` does; nothing is written and no network is computed.
  """
  below = None if base is None else load(base)
  found = published.read(file, published.Options(below and below.channels(), heads))
  what = f'{file}: {found.kind}, {found.network}'
  if below and found.frame is not None:
    raise ValueError(f'{what}: it builds on no other network; leave out --base={base}')
  if below and frame is not None:
    raise ValueError(f'{what}: it has the frames of --base={base}; leave out --frame={frame}')
  if heads is not None and 'heads' not in found.method:
    raise ValueError(f'{what}: it is no ViT, and has no heads; leave out --heads={heads}')
  if found.method['name'] == 'probe':
    if changes:
      raise ValueError(f'{what}: it becomes a landmark model, which has no config to change')
    return Plan(found, below)
  side, method = frame or found.frame, found.method
  if below:
    side, method = below.frame, method | {'margin': below.margin}
  experiment = Experiment(config(method, side, base=base, changes=changes))
  experiment.resolve()
  return Plan(found, below, experiment, _fitting(found, experiment, what))


def config(
  method: Mapping[str, Any],
  frame: int,
  *,
  base: pathlib.Path | None = None,
  changes: Sequence[str] = (),
) -> dict[str, Any]:
  """The config of a run of this method that takes no steps."""
  given = {
    'data': {'name': 'synthetic/faces', 'frame': frame, 'count': PICTURES},
    'method': dict(method),
    'optimizer': {'name': 'sgd', 'learning_rate': 0.03},
    'steps': 0,
    'batch_size': PICTURES,
    'base': None if base is None else {'checkpoint': str(base)},
  }
  return completion.complete(configs.changed(given, changes))


def shapes(experiment: Experiment) -> TrainState:
  """Shapes of the state before the first step. Raises ValueError if no network has such sizes."""
  try:
    return experiment.shapes(1)[0]
  except Exception as error:  # a hostile file's sizes can make any library fail
    reason = str(error).partition('\n')[0]
    raise ValueError(f'no network has these sizes ({reason})') from error


def _fitting(found: Published, experiment: Experiment, what: str) -> TrainState:
  """The shapes of the state. Raises ValueError that names the arrays that do not fit them."""
  try:
    state = shapes(experiment)
  except ValueError as error:
    raise ValueError(f'{what}: {error}') from error
  wanted = training.leaves({'params': state.params, 'aux': state.aux})
  stored = training.leaves({'params': found.params, 'aux': found.aux})
  wrong = [
    f'{name} {list(array.shape)} ({list(wanted[name].shape) if name in wanted else "none"})'
    for name, array in stored.items()
    if name not in found.spare and (name not in wanted or wanted[name].shape != array.shape)
  ]
  if wrong:
    more = f', and {len(wrong) - 5} more' if len(wrong) > 5 else ''
    raise ValueError(
      f'{what}: {len(wrong)} arrays are not those of that network (in brackets): '
      f'{", ".join(wrong[:5])}{more}'
    )
  return state


def _filled(plan: Plan) -> tuple[TrainState, list[str]]:
  """The state before the first step with what was found, and the names of what was not."""
  found, experiment, wanted = plan.found, plan.experiment, plan.wanted
  stored = training.leaves({'params': found.params, 'aux': found.aux})

  def others() -> dict[str, Any]:
    state = experiment.draw_state(experiment.rng_init)
    leaves = training.leaves({'params': state.params, 'aux': state.aux})
    return {name: array for name, array in leaves.items() if name not in stored}

  tree = {'params': wanted.params, 'aux': wanted.aux}
  # Compiling drops what is not returned, so a large network is not initialised in vain. A base is
  # stored already, and would become a constant.
  initial = others() if experiment.config['base'] else jax.jit(others)()
  arrays = stored | initial
  tree = jax.tree.unflatten(
    jax.tree.structure(tree), [arrays[name] for name in training.leaves(tree)]
  )
  opt = jax.jit(experiment.optimizer.tx.init)(tree['params'])
  state = TrainState(np.int32(0), tree['params'], tree['aux'], opt)
  untrained = [
    name
    for name, array in initial.items()
    if not name.startswith('aux/base/') and np.issubdtype(array.dtype, np.floating)
  ]
  return jax.device_get(state), untrained


def _write(
  folder: pathlib.Path, experiment: Experiment, state: TrainState, source: Mapping[str, str]
) -> None:
  here = provenance.of(experiment.config, experiment.inputs.fingerprint())
  here |= {'source': dict(source)}
  workdirs.claim(folder, experiment.config)
  with checkpoint.Checkpoints(folder / run_folder.ALL) as checkpoints:
    checkpoints.save(0, state, here | {'skipped': 0})
  provenance.write(folder, here, step=0)


def _write_landmarks(
  folder: pathlib.Path, found: Published, below: Model, source: Mapping[str, str]
) -> None:
  info = KNOWN.get(found.method['landmarks'])
  facts = {'names': [f'landmark_{i}' for i in range(1, found.method['landmarks'] + 1)]}
  if info is not None:
    facts = {key: getattr(info, key) for key in ('names', 'flip_pairs', 'skeleton', 'scale')}
  LandmarkModel(below, Head(PROBE, found.params), **facts).save(folder)
  here = {'versions': provenance.versions(), 'source': dict(source)}
  provenance.write(folder, here, step=0)


def _fingerprint(file: pathlib.Path) -> dict[str, str]:
  with file.open('rb') as content:
    return {'file': file.name, 'sha256': hashlib.file_digest(content, 'sha256').hexdigest()}


def _summary(plan: Plan, untrained: Sequence[str]) -> Iterator[str]:
  """Lines that say what was recognised, taken and dropped."""
  found = plan.found
  stored = training.leaves({'params': found.params, 'aux': found.aux})
  taken = [name for name in stored if name not in found.spare]
  weights = sum(stored[name].size for name in taken if name.startswith('params/'))
  yield f'{found.kind}: {found.network}, {weights:,} weights'
  yield f'taken: {transfer.groups(taken)}'
  if untrained:
    yield f'untrained, for the file has none: {transfer.groups(untrained)}'
  dropped = [*found.dropped, *(name for name in found.spare if name in stored)]
  if dropped:
    yield f'dropped: {torch_names.listed(dropped)}'
  config = plan.experiment.config if plan.experiment else plan.below.config
  colours = (config['base'] or config)['method']
  yield f'pictures are standardised by mean {colours["mean"]}, std {colours["std"]}'
  if plan.below:
    frame, margin = plan.below.frame, plan.below.margin
  else:
    frame, margin = config['data']['frame'], config['method']['margin']
  yield f'frames have {frame} pixels a side; the network sees them without {margin} on each'

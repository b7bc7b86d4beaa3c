"""Compiles the training step before the run, and checks that the memory it needs is free."""

import concurrent.futures
import math
from collections.abc import Callable
from typing import Any

import jax

from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.data import pipeline
from landmarks_jax.runtime import logs, memory, sharding

TOO_LARGE = 'RESOURCE_EXHAUSTED'  # what compilers that know their device's memory raise


def step(experiment: Experiment, *, held: int = 0) -> Callable[..., Any]:
  """The compiled step; decides where the pictures are kept, and prints what memory the run needs.

  held: bytes of the state on each device, if it is there already. Raises ValueError, with the batch
  size that would fit, if the free memory does not hold the run.
  """
  print('compiling the step', flush=True)
  batch, free = experiment.config['batch_size'], _free(experiment, held)
  with concurrent.futures.ThreadPoolExecutor() as beside:
    compiled, need = _compiled(experiment, batch, beside)
  missing = sum(need.values()) - held * _copies(experiment)
  experiment.inputs.choose_cache(reserved=max(0, missing))
  if compiled is not None:
    need['pictures'] = experiment.inputs.cache_bytes()
    if free is None or sum(need.values()) <= free:
      room = '' if free is None else f'; {logs.amount(free)} is free {_where(experiment)}'
      print(f'memory needed: {memory.describe(need)}{room}', flush=True)
      return compiled
  raise ValueError(_refusal(experiment, batch, need, free))


def _compiled(
  experiment: Experiment, batch: int, beside: concurrent.futures.Executor | None = None
) -> tuple[Any, dict[str, int]]:
  """(step, bytes needed by cause) at a batch size; (None, {}) if the compiler finds it too large.

  The bytes are summed over devices that share the host's memory. beside: compiles what a new run
  needs next, the first state, during the compilation, which leaves Python free.
  """
  state, examples = experiment.shapes(batch)
  try:
    lowered = experiment.step.lower(state, examples, experiment.rng_train)
    if beside is not None and experiment.config['base'] is None:
      beside.submit(lambda: experiment.compiled_draw)
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if TOO_LARGE not in str(error):
      raise
    return None, {}
  need = memory.of_step(compiled, state, examples, devices=experiment.mesh.size)
  working = need[memory.WORK] + need['batch']  # not in use while it evaluates
  need['evaluation'] = max(0, _evaluation(experiment) - working)
  return compiled, {name: _copies(experiment) * count for name, count in need.items()}


def _evaluation(experiment: Experiment) -> int:
  """Least bytes per device of the largest evaluation: the pictures and features of a batch."""
  found = [memory.size(batch) // experiment.mesh.size for batch in experiment.described]
  return max(found, default=0)


def _refusal(experiment: Experiment, batch: int, need: dict[str, int], free: int | None) -> str:
  room = 'what is free' if free is None else f'the {logs.amount(free)} that is free'
  said = f'config.batch_size={batch} does not fit into {room} {_where(experiment)}'
  said += f': it needs {memory.describe(need)}' if need else ''
  print('compiling smaller batches, to find one that fits', flush=True)
  fits = _largest(experiment, batch, sum(need.values()), free)
  if fits:
    return f'{said}. config.batch_size={fits} would fit'
  return (
    f'{said}. No batch would fit; choose smaller frames or a smaller network, '
    'config.cache=stream, or more devices'
  )


def _largest(experiment: Experiment, batch: int, at_batch: int, free: int | None) -> int:
  """The largest batch found to fit, by halving and then by a line through two sizes; 0 if none."""
  groups = experiment.config['method'].get('norm_groups') or 1
  multiple, pictures = math.lcm(experiment.mesh.size, groups), experiment.inputs.cache_bytes()

  def total(size: int) -> float | int:
    compiled, need = _compiled(experiment, size)
    return math.inf if compiled is None else sum(need.values()) + pictures

  def fits(size: int) -> bool:
    return needs[size] < math.inf if free is None else needs[size] <= free

  needs, above, size = {batch: at_batch or math.inf}, batch, batch
  while (size := size // 2 // multiple * multiple) > 0:
    needs[size] = total(size)
    if fits(size):
      break
    above = size
  if size == 0 or free is None or needs[above] == math.inf:
    return size
  line = {size: needs[size], above: needs[above]}
  better = memory.largest_batch(line, free=free, multiple=multiple, below=above)
  if better > size:
    needs[better] = total(better)
  return better if better > size and fits(better) else size


def _free(experiment: Experiment, held: int) -> int | None:
  """Bytes free for the run, the state included, on the fullest process; None if unknown."""
  free = sharding.free_memory(experiment.mesh)
  if free is None and (host := pipeline.free_memory()) is not None:
    free = host // experiment.inputs.sharing
  known = [count for count in sharding.of_all(free) if count is not None]
  return min(known) + held * _copies(experiment) if known else None


def _copies(experiment: Experiment) -> int:
  """How many devices of this process share one memory: all if they report none of their own."""
  return len(experiment.mesh.local_devices) if experiment.inputs.share_host_memory else 1


def _where(experiment: Experiment) -> str:
  if not experiment.inputs.share_host_memory:
    return 'on each device'
  return f'in the memory of this host{pipeline.of_free_memory(experiment.inputs.sharing)}'

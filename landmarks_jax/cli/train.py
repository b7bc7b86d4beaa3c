"""Trains a method, evaluates it, and keeps everything in a folder. The same command again resumes.

--config is a file of configs/, or FILE:smoke for three tiny steps on synthetic pictures; any key is
changed with --config.KEY=VALUE, as in --config.method.temperature=0.2. DIR gets config.json,
metrics.jsonl, TensorBoard, pictures and checkpoints. A folder made by another config is refused.

SIGTERM saves and exits with code 75, Ctrl-C saves (a single process) and exits with 130: see
docs/running.md.
"""

import os
import pathlib
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from absl import flags

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import paths, processes
from landmarks_jax.runtime import garbage, interruption

REQUIRED = '--config=FILE', '--workdir=DIR'


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns the rest of `argv`."""
  paths.define('workdir', 'Folder of the run; made if absent.', values)
  what = 'Folder of a run whose weights this one starts from; the same as --config.init_from.'
  flags.DEFINE_string('init_from', None, what, flag_values=values)
  processes.define_flags(values)
  return configs.define_flags(argv, values)


def train(
  workdir: str | os.PathLike,
  *,
  data: Mapping[str, Any],
  method: Mapping[str, Any],
  optimizer: Mapping[str, Any],
  base: Mapping[str, Any] | None = None,
  init_from: str | None = None,
  steps: int | None = None,
  batch_size: int = 256,
  evals: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
  select: str | None = None,
  calibrate: int = 0,
  seed: int = 0,
  log_every: int = 50,
  checkpoint_every: int = 1000,
  keep: int = 2,
  cache: Literal['auto', 'device', 'host', 'stream'] = 'auto',
  workers: int = 0,
  on_bad_image: Literal['skip', 'error'] = 'skip',
  deterministic: bool = False,
  skip_nonfinite: int = 0,
  stuck_after: int = 60,
) -> dict[str, float]:
  """Trains from the newest checkpoint of `workdir`, or from the start; returns the final scores.

  Args:
    data: the training pictures: name and options of a file of data/.
    method: name and options of a file of methods/. optimizer: name and options of runtime/optim.
      Here and in evals, a name with dots is an import path instead, see docs/extending.md.
    base: the frozen network that a method such as `projection` stands on: checkpoint, the folder of
      a run, and its step (None: the selected one, else the newest); or method, name and options of
      an untrained one.
    init_from: the folder of a run, of this method or another one, whose weights a new run starts
      from: those with the same name and shape. Steps and optimizer start anew.
    steps: updates of the weights; None takes the optimizer's epochs, of len(data) // batch_size.
    evals: by name: protocol (a file of evaluation/), its options and data, and `every`, a number of
      steps (0: only at the end; 'epoch': after each pass over the training pictures).
    select: the full name of a score, such as 'faces/matching/different'. The weights with the best
      one are kept in `best` and used for the final evaluations; its evaluation needs one of these.
    calibrate: before every evaluation, and permanently at the end, the method's running statistics
      become exact means over this many training batches; 0 leaves them alone.
    cache: decoded training pictures in the memory of each device ('device'), in host memory
      ('host'), or read as needed ('stream'); 'auto' takes the first that holds them and says so.
      The batches are the same. Evaluations use host memory if they fit, unless 'stream'.
    workers: processes that read for 'stream'; 0 = threads.
    on_bad_image: 'skip' (counted and listed) or 'error'.
    deterministic: bit-for-bit repeatable on GPU, at some cost in speed; CPUs always are, TPUs
      should be. It needs a process that has not used the GPU yet.
    skip_nonfinite: up to this many steps of the run may have a non-finite loss, gradient or
      outcome; they change nothing. The next one stops the run.
    stuck_after: seconds without a batch after which the input is reported.

  Raises interruption.Preempted after SIGTERM, and KeyboardInterrupt, both once the state is saved.
  """
  given = {name: value for name, value in locals().items() if name != 'workdir'}
  return run_config(given, pathlib.Path(workdir).expanduser())


def run_config(config: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, float]:
  """`train` with its arguments as one config."""
  with garbage.uncollected():
    from landmarks_jax.cli import completion, experiment, running  # late: heavy
    from landmarks_jax.runtime import compiler, sharding

    config = completion.complete(config)
    if config['deterministic'] and not compiler.deterministic():
      raise ValueError(
        'config.deterministic=True: JAX uses the GPU already, and XLA reads its flags only once; '
        f'start a new process, with XLA_FLAGS={compiler.DETERMINISTIC} if it uses JAX before this'
      )
    parts = experiment.Experiment(config)
  agreed = sharding.preempted if sharding.shards() > 1 else None
  with processes.only_main_prints(), interruption.Interruption(agreed) as signals:
    with garbage.uncollected():
      run = running.Run(parts, workdir, signals)
    try:
      return run()
    finally:
      run.close()


def keys(values: flags.FlagValues) -> dict[str, Any]:
  """The config with the defaults that it leaves out."""
  from landmarks_jax.cli import completion  # late: heavy

  return completion.complete(_config(values))


def _config(values: flags.FlagValues) -> dict[str, Any]:
  return configs.changed(configs.load(values.config), values['config.KEY'].value)


@processes.ended_by_sigterm()
def run(values: flags.FlagValues) -> int:
  """The command."""
  config = _config(values)
  if values.init_from:
    config['init_from'] = values.init_from
  processes.start(values)
  message = 'the same command continues from the last checkpoint'
  try:
    run_config(config, values.workdir)
  except KeyboardInterrupt:
    print(f'\ninterrupted; {message}', file=sys.stderr)
    return 130
  except interruption.Preempted:
    print(f'\nstopped by SIGTERM; {message}', file=sys.stderr)
    return interruption.EXIT_CODE
  return 0

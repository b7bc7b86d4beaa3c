"""The options that join several processes into one program, and what only one of them may do."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags

from landmarks_jax.cli import config as configs


def define_flags(values: flags.FlagValues) -> None:
  """Declares the options."""
  what = 'Joins the processes that TPU, Slurm or another cluster started.'
  flags.DEFINE_boolean('distributed', False, what, flag_values=values)
  what = 'HOST:PORT of process 0, the same for all; where no cluster starts them.'
  flags.DEFINE_string('coordinator', None, what, flag_values=values)
  what = 'How many processes run together; with --coordinator.'
  flags.DEFINE_integer('processes', None, what, flag_values=values)
  what = 'Number of this process, from 0; with --coordinator.'
  flags.DEFINE_integer('process', None, what, flag_values=values)
  what = 'Seconds to wait for the other processes.'
  flags.DEFINE_integer('start_timeout', 300, what, lower_bound=1, flag_values=values)


def start(values: flags.FlagValues) -> None:
  """Joins the processes, if asked to. Raises what `sharding.start` raises."""
  given = values.coordinator, values.processes, values.process
  if values.distributed or given != (None,) * 3:
    from landmarks_jax.runtime import sharding  # late: heavy

    sharding.start(*given, timeout=values.start_timeout)


def leave(code: int) -> int:
  """The exit code of a failure; one of several processes exits with it here, at once.

  JAX would first wait for the others, which wait for this one, and then end all without their code.
  """
  jax = sys.modules.get('jax')  # not imported by commands that need none
  if jax is None or not jax.distributed.is_initialized():
    return code
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
  """Silences standard output on the other processes; standard error is not affected."""
  from landmarks_jax.runtime import sharding  # late: heavy

  if sharding.is_main():
    yield
    return
  with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
    yield


def claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """`configs.claim` by the main process. Raises ValueError if another one does not see it."""
  from landmarks_jax.runtime import sharding  # late: heavy

  sharding.on_main(lambda: configs.claim(workdir, config))
  if not (workdir / 'config.json').exists():
    raise ValueError(
      f'process {sharding.shard()} does not see {workdir / "config.json"}, which process 0 wrote; '
      'give a --workdir that all processes share'
    )

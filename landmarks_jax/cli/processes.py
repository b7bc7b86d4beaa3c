"""The options that join several processes into one program, and what only one of them may do."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags

from landmarks_jax.cli import config as configs
from landmarks_jax.runtime import interruption

# What each process may choose: where its files are, and how it reads them.
OWN = (*configs.PLACES, '.checkpoint', 'init_from', 'workers', 'stuck_after')


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


def joined() -> bool:
  """Whether this process is one of several, or on the way to it."""
  jax = sys.modules.get('jax')  # not imported by commands that need none
  return jax is not None and jax.distributed.is_initialized()


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
  """SIGTERM ends the process at once, with the code that asks for another start.

  For the time in which nothing is to be saved. An Interruption takes the signal over, or JAX once
  it has joined several processes, and keeps it.
  """
  if threading.current_thread() is not threading.main_thread() or joined():
    yield
    return
  before = signal.signal(signal.SIGTERM, _end)
  try:
    yield
  finally:
    if not joined():
      signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: Any) -> None:
  # No exception: an import may catch it, and a half-made connection may keep the process.
  os.write(2, b'\nstopped by SIGTERM with nothing to save; the same command continues\n')
  os._exit(interruption.EXIT_CODE)


def leave(code: int) -> int:
  """The exit code of a failure; one of several processes exits with it here, at once.

  JAX would first wait for the others, which wait for this one, and then end all without their code.
  """
  if not joined():
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
  with open(os.devnull, 'w', encoding='utf-8') as nowhere, contextlib.redirect_stdout(nowhere):
    yield


def together(check: Callable[[], None]) -> None:
  """Calls `check`, in which no process may wait for another; all of them must call it.

  A ValueError or OSError of one, such as of a file that only this host lacks, is raised on all.
  """
  from landmarks_jax.runtime import sharding  # late: heavy

  error = None
  try:
    check()
  except (ValueError, OSError) as raised:
    error = raised
  said = sharding.of_all(None if error is None else str(error))
  if error is not None:
    raise error
  for number, text in enumerate(said):
    if text is not None:
      raise ValueError(f'process {number}: {text}')


def check_same(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
  """Raises ValueError, on every process, if not all have the same config and the same pictures.

  All of them must call it. Each would compute with shapes and batches of its own, and the first
  exchange between two that differ would wait for ever. Where files are may differ. data:
  fingerprints by name.
  """
  from landmarks_jax.runtime import sharding  # late: heavy

  config = {key: value for key, value in configs.flat(config).items() if not key.endswith(OWN)}
  first, *others = sharding.of_all({'config': config, 'pictures': data})
  for number, other in enumerate(others, 1):
    changed = configs.differences(first, other)
    if changed:
      raise ValueError(
        f'process {number} has another config or other pictures than process 0 (0 -> {number}):\n  '
        + '\n  '.join(changed)
        + '\nGive all processes the same --config, and whole copies of the same files.'
      )

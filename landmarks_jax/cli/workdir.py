"""The folder of a run belongs to one config: which it is, whether another may go on, the claim."""

import json
import pathlib
import re
from typing import Any

from landmarks_jax.cli import completion
from landmarks_jax.cli import config as configs
from landmarks_jax.runtime import atomic, run_folder, sharding

# What may differ when a run goes on, besides places, since it does not change what it computes: how
# it keeps, reads and watches.
HANDLING = frozenset(
  {'cache', 'checkpoint_every', 'keep', 'log_every', 'skip_nonfinite', 'stuck_after', 'workers'}
)


def begun(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The config of a run, with the defaults of options that its version did not have yet.

  None if no run has begun in the folder. Raises ValueError if its config.json is damaged.
  """
  file = workdir / run_folder.CONFIG
  if not file.exists():
    return None
  config = run_folder.read_config(file)
  try:
    return completion.complete(config)
  except ValueError:  # it lacks more; the differences will show what
    return config


def check(workdir: pathlib.Path, config: dict[str, Any]) -> list[str]:
  """Accepts a workdir that is new, or empty, or made by the same config; refuses others.

  Returns 'key=value (was other)' for every place, and every key of HANDLING, that differs. Raises
  ValueError that lists both values of every other key that does. A file instead of none is no move
  of files, but another set.
  """
  if not workdir.exists():
    return []
  if not workdir.is_dir():
    raise ValueError(f'--workdir={workdir} is a file; expected a folder, which is made if absent')
  there = begun(workdir)
  if there is None:
    if not all(re.fullmatch(r'config\.json\..*\.part', p.name) for p in workdir.iterdir()):
      raise ValueError(f'{workdir} is not empty and has no config.json; use a new --workdir')
    return []
  changed = configs.differing(there, config)
  moved = [key for key in changed if key.endswith(configs.PLACES) and None not in changed[key]]
  accepted = [key for key in changed if key in HANDLING or key in moved]
  refused = {key: values for key, values in changed.items() if key not in accepted}
  for key in ('method.steps', 'optimizer.epochs'):
    if 'steps' in refused and refused.get(key) == refused['steps']:  # it follows from that
      del refused[key]
  if refused:
    raise ValueError(
      f'{workdir} was made by another config (there -> here):\n  '
      + '\n  '.join(configs.lines(refused))
      + '\nUse another --workdir, or the same config to continue.'
    )
  return [f'{key}={changed[key][1]} (was {changed[key][0]})' for key in accepted]


def claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Writes config.json into a new workdir, after `check`, on the main process (all must call it).

  Raises ValueError if another process does not see it.
  """
  sharding.on_main(lambda: _claim(workdir, config))
  file = workdir / run_folder.CONFIG
  if not file.exists():
    raise ValueError(
      f'process {sharding.shard()} does not see {file}, which process 0 wrote; give a --workdir '
      'that all processes share'
    )


def _claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  check(workdir, config)
  file = workdir / run_folder.CONFIG
  if file.exists():
    return
  workdir.mkdir(parents=True, exist_ok=True)
  try:
    atomic.create_text(file, json.dumps(config, indent=2) + '\n')
  except FileExistsError:  # another process was faster by a moment
    check(workdir, config)

"""What lies where in the folder of a run: its config and its weights."""

import fcntl
import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

CONFIG = 'config.json'
SELECTED, ALL = 'best', 'checkpoints'  # of the weights that a score selected; of all


def read_config(file: pathlib.Path) -> dict[str, Any]:
  """The config.json of a run. Raises FileNotFoundError or ValueError that say what is wrong."""
  if not file.is_file():
    raise FileNotFoundError(f'{file.parent} holds no run: it has no {file.name}')
  try:
    config = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} is damaged ({error}); the run cannot be read without it') from error
  if not isinstance(config, dict):
    raise ValueError(f'{file} is damaged: it holds no keys; the run cannot be read without it')
  return config


def lock(run: pathlib.Path) -> TextIO | None:
  """Keeps others from training in a run's folder until the result is closed, or the process ends.

  Raises ValueError if another process does so already. None where the file system knows no locks.
  """
  file = (run / CONFIG).open('r+')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.close()
    raise ValueError(
      f'another process trains in {run}; wait for its end, or stop it, or use another --workdir'
    ) from error
  except OSError:  # such as ENOLCK, ENOTSUP
    file.close()
    return None
  return file


def weights(run: pathlib.Path, *, selected: bool = True) -> pathlib.Path:
  """Where the checkpoints of a run are; those that were selected, where it selects."""
  found = run / SELECTED if selected and (run / SELECTED).is_dir() else run / ALL
  if not found.is_dir():
    raise FileNotFoundError(f'{run} has no checkpoints yet; train it first')
  return found


def set_aside(*paths: pathlib.Path) -> list[str]:
  """Renames those that hold something: metrics.jsonl becomes metrics_1.jsonl; the new names."""
  names = []
  for path in paths:
    if not path.exists() or not (any(path.iterdir()) if path.is_dir() else path.stat().st_size):
      continue
    free = (path.with_name(f'{path.stem}_{i}{path.suffix}') for i in itertools.count(1))
    other = next(name for name in free if not name.exists())
    path.rename(other)
    names.append(other.name)
  return names


def write(run: pathlib.Path, config: Mapping[str, Any], params: Any, aux: Any) -> None:
  """Makes a folder that is read as a run is, of weights that come from elsewhere, at step 0.

  params, aux: of the method. config: at least method, base (or None) and data.frame. Raises
  ValueError where something is already.
  """
  from landmarks_jax.runtime import checkpoint  # late: heavy

  if run.exists() and (not run.is_dir() or any(run.iterdir())):
    raise ValueError(f'{run} exists already and is not overwritten; give another folder')
  run.mkdir(parents=True, exist_ok=True)
  with checkpoint.Checkpoints(run / ALL) as checkpoints:
    checkpoints.save(0, {'params': params, 'aux': aux})
  # Last: a folder without it is no run.
  (run / CONFIG).write_text(json.dumps(config, indent=2) + '\n')

"""What is where in the folder of a run."""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

from landmarks_jax.runtime import locks, reading

CONFIG, LOG = 'config.json', 'metrics.jsonl'
PICTURES, TENSORBOARD = 'pictures', 'tensorboard'
LANDMARKS, NETWORK = 'landmarks.json', 'run'  # in a landmark model's folder: its facts, its run
SELECTED, ALL = 'best', 'checkpoints'  # checkpoints selected by a score; all checkpoints


def read_config(file: pathlib.Path) -> dict[str, Any]:
  """The config.json of a run. Raises FileNotFoundError or ValueError that say what is wrong."""
  if not file.is_file():
    message = f'{file.parent} holds no run: it has no {file.name}'
    if (file.parent / LANDMARKS).is_file():
      message += f'; it is a landmark model, and its network is {file.parent / NETWORK}'
    raise FileNotFoundError(message)
  try:
    config = reading.parse_json(file.read_bytes(), file)
    reading.check_kinds(config, {}, file)
  except ValueError as error:
    raise ValueError(f'{error}; the run cannot be read without it') from error
  return config


def lock(run: pathlib.Path) -> TextIO | None:
  """Keeps others from training in a run's folder until the result is closed or the process ends.

  Raises ValueError if another process holds the lock. None if the file system has no locks.
  """
  file = (run / CONFIG).open('r+')
  try:
    if locks.take(file):
      return file
  except BlockingIOError as error:
    file.close()
    raise ValueError(
      f'another process trains in {run}; wait for its end, or stop it, or use another --workdir'
    ) from error
  file.close()
  return None


def has_checkpoints(run: pathlib.Path) -> bool:
  """Whether a run has saved a step."""
  return any(path.name.isdecimal() for path in (run / ALL).glob('*'))


def weights(run: pathlib.Path, *, selected: bool = True) -> pathlib.Path:
  """The folder of a run's checkpoints; that of the selected ones once the run has selected."""
  found = run / ALL
  if selected and (run / SELECTED).is_dir():  # made at the start, a score comes later
    steps = [path for path in (run / SELECTED).iterdir() if path.name.isdecimal()]
    found = run / SELECTED if steps else found
  if not found.is_dir():
    raise FileNotFoundError(f'{run} has no checkpoints yet; train it first')
  return found


def set_aside(*paths: pathlib.Path) -> list[str]:
  """Renames paths that are not empty, metrics.jsonl to metrics_1.jsonl; returns the new names."""
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
  """Makes a folder that can be read like a run, at step 0, from weights that come from elsewhere.

  params, aux: of the method. config: at least method, base (or None) and data.frame. Raises
  ValueError if the folder is not new or empty.
  """
  from landmarks_jax.runtime import checkpoint  # late: heavy

  if run.exists() and (not run.is_dir() or any(run.iterdir())):
    raise ValueError(f'{run} exists already and is not overwritten; give another folder')
  run.mkdir(parents=True, exist_ok=True)
  with checkpoint.Checkpoints(run / ALL) as checkpoints:
    checkpoints.save(0, {'params': params, 'aux': aux})
  # Written last: without it a folder is no run.
  (run / CONFIG).write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')

"""Writes the page of a run, for `train` and `evaluate`."""

import os
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from landmarks_jax.cli import provenance
from landmarks_jax.runtime import atomic, run_folder

FILES = (  # of a run, to which its page links
  run_folder.CONFIG,
  run_folder.LOG,
  run_folder.PICTURES,
  run_folder.ALL,
  run_folder.TENSORBOARD,
)


def write(
  file: pathlib.Path,
  experiment: Any,
  *,
  workdir: pathlib.Path,
  step: int,
  scores: Mapping[str, float],
  predictions: Mapping[str, Mapping[str, Any]],
  log: Sequence[Mapping[str, Any]] = (),
  cost: Mapping[str, str],
) -> None:
  """Writes the page, unless nothing was scored now and an earlier page, with curves, exists."""
  if file.exists() and not predictions:
    return
  from landmarks_jax.cli import pictures  # late: only at the end
  from landmarks_jax.report import page

  drawn = {name: pictures.shown(experiment, name, found) for name, found in predictions.items()}
  text = page.render(
    title=workdir.resolve().name,
    config=experiment.config,
    step=step,
    scores=scores,
    log=log,
    predictions=predictions,
    names={name: experiment.info(name).names for name in predictions},
    errors=experiment.error_titles(),
    examples={name: given for name, (kind, given) in drawn.items() if kind == 'landmarks'},
    matches={name: given for name, (kind, given) in drawn.items() if kind == 'matches'},
    pictures=_newest(workdir / run_folder.PICTURES, drawn=predictions),
    command=command(),
    cost=cost,
    versions=provenance.versions(),
    files={
      name: os.path.relpath(workdir / name, file.parent)
      for name in FILES
      if (workdir / name).exists()
    },
  )
  file.parent.mkdir(parents=True, exist_ok=True)
  atomic.write_text(file, text)
  print(f'the report is {file}')


def command() -> str | None:
  """The command line as typed; None if called from Python, not from the console."""
  typed = {'landmarks-jax': ['landmarks-jax'], '__main__.py': ['python', '-m', 'landmarks_jax']}
  program = typed.get(pathlib.Path(sys.argv[0]).name)
  return program and shlex.join([*program, *sys.argv[1:]])


def _newest(folder: pathlib.Path, *, drawn: Mapping[str, Any]) -> dict[str, bytes]:
  """The last picture of each name; those of evaluations that the page draws itself are not read."""
  last = {}
  for file in sorted(folder.rglob('*.png')):
    name = file.relative_to(folder).with_suffix('').as_posix()
    last[re.sub(r'_\d{8,}$', '', name)] = name
  skipped = {f'landmarks/{name}' for name in drawn}
  return {n: (folder / f'{n}.png').read_bytes() for base, n in last.items() if base not in skipped}

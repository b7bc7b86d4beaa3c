"""Evaluates the checkpoint of a run again, or with other evaluations.

--workdir is the folder of a run; nothing in it changes but evaluations/STEP.json and its pictures.
The evaluations are the run's own, or those of another config file (--config), whose keys are
changed with --config.evals.KEY=VALUE.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import table


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns the rest of `argv`."""
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_integer('step', None, 'Which checkpoint; the newest if absent.', flag_values=values)
  return configs.define_flags(argv, values)


def run(values: flags.FlagValues) -> int:
  """The command."""
  if values.workdir is None:
    raise ValueError('evaluate needs --workdir=DIR, the folder of a run')
  evaluate(
    pathlib.Path(values.workdir), step=values.step, evals=values.config and values.config.evals
  )
  return 0


def evaluate(
  workdir: pathlib.Path, *, step: int | None = None, evals: dict | None = None
) -> dict[str, float]:
  """Scores of a run's checkpoint by full name; prints the table and writes it beside the run."""
  from landmarks_jax.cli import experiment  # late: heavy
  from landmarks_jax.report import draw
  from landmarks_jax.runtime import checkpoint, logs

  file = workdir / 'config.json'
  if not file.is_file():
    raise FileNotFoundError(f'{workdir} holds no run: it has no config.json')
  config = json.loads(file.read_text())
  config['evals'] = configs.plain(evals) if evals else config['evals']
  if not config['evals']:
    raise ValueError(f'{file} names no evaluations; give some with --config=FILE')
  parts = experiment.Experiment(config)
  with checkpoint.Checkpoints(workdir / 'checkpoints', read_only=True) as checkpoints:
    step = checkpoints.latest_step() if step is None else step
    state, _ = checkpoints.restore(parts.init_state(), step=step)
  describer, scores = parts.describer(state.params, state.aux), {}
  pictures = logs.Logs(workdir / 'evaluations')
  for name, options in config['evals'].items():
    print(f'evaluating {name} at step {step}', flush=True)
    predictions, found = parts.evaluate(name, describer)
    scores |= {f'{name}/{options["protocol"]}/{metric}': v for metric, v in found.items()}
    sheet = draw.landmark_sheet(**parts.pictures(name, next(iter(predictions.values()))))
    pictures.write_picture(f'landmarks/{name}', step, sheet)
  pictures.close()
  result = workdir / 'evaluations' / f'{step}.json'
  result.write_text(json.dumps({'evals': config['evals'], 'scores': scores}, indent=2) + '\n')
  print(table.of_scores(config['evals'], scores))
  return scores

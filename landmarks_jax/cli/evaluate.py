"""Evaluates the checkpoint of a run again, or with other evaluations.

--workdir is the folder of a run; only its folder evaluations changes. There the same evaluations of
the same step replace their earlier result, others get files of their own. The evaluations are the
run's own, or those of another config file (--config), changed with --config.evals.KEY=VALUE, where
'evals.*' is every evaluation; --config.data.path=DIR says where the training pictures are now.
"""

import contextlib
import functools
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import paths, processes, report, table
from landmarks_jax.runtime import atomic, run_folder

REQUIRED = ('--workdir=DIR',)


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns the rest of `argv`."""
  paths.define('workdir', 'Folder of the run.', values)
  flags.DEFINE_integer(
    'step', None, 'Which checkpoint; if absent, the selected or newest.', flag_values=values
  )
  processes.define_flags(values)
  what = 'Changes evals.* or data.path, as in --config.evals.faces.labels=5.'
  return configs.define_flags(argv, values, changes=what)


def keys(values: flags.FlagValues) -> dict[str, Any]:
  """The config's evaluations with the defaults that they leave out, also where it has no more.

  What an evaluation takes from training is that of the run, if --workdir names one.
  """
  from landmarks_jax.cli import completion  # late: heavy

  config = configs.plain(configs.load(values.config))
  evals, _ = _changed(config, values['config.KEY'].value)
  if values.workdir:
    config = run_folder.read_config(values.workdir / run_folder.CONFIG)
  if 'method' in config:
    return {'evals': _completed(config, evals)['evals']}
  return {'evals': completion.evaluations(evals, {}, {})}


def _completed(config: Mapping[str, Any], evals: Mapping[str, Any]) -> dict[str, Any]:
  """The config with these evaluations, of which none selects."""
  from landmarks_jax.cli import completion  # late: heavy

  return completion.complete({**config, 'select': None, 'evals': evals})


def _changed(
  config: Mapping[str, Any], changes: Sequence[str]
) -> tuple[Mapping[str, Any], str | None]:
  """The evaluations of a config, changed, and the new path of the training pictures, if any."""
  moved = [change for change in changes if change.startswith('data.path=')]
  changes = [change for change in changes if change not in moved]
  for change in changes:
    if not change.startswith(('evals.', 'evals=')):
      key = change.partition('=')[0]
      raise ValueError(f'evaluate changes config.evals.* and config.data.path, not config.{key}')
  evals = configs.changed({'evals': config.get('evals', {})}, changes)['evals']
  evals = configs.typed('config.evals', evals, Mapping[str, Any])
  return evals, moved[-1].partition('=')[2] if moved else None


def run(values: flags.FlagValues) -> int:
  """The command."""
  given = run_folder.read_config(values.workdir / run_folder.CONFIG)
  if values.config:
    given = configs.plain(configs.load(values.config))
  evals, path = _changed(given, values['config.KEY'].value)
  processes.start(values)
  evaluate(values.workdir, step=values.step, evals=evals, path=path)
  return 0


def evaluate(
  workdir: pathlib.Path,
  *,
  step: int | None = None,
  evals: Mapping[str, Mapping[str, Any]] | None = None,
  path: str | None = None,
) -> dict[str, float]:
  """Scores of a run's checkpoint by full name; prints them and writes them to `evaluations`.

  Args: step: of the checkpoint; None takes the selected one, else the newest. evals: instead of the
  run's own. path: where the training pictures are now, and those of evaluations that were in the
  same place.
  """
  from landmarks_jax.cli import experiment, running  # late: heavy
  from landmarks_jax.runtime import checkpoint, compiler, sharding

  config = run_folder.read_config(workdir / run_folder.CONFIG)
  config = _completed(config, config.get('evals', {}) if evals is None else evals)
  for options in config['evals'].values():
    options['every'] = 0  # when training runs it makes no other evaluation
  before = config['data'].get('path')
  for data in (config['data'], *(options['data'] for options in config['evals'].values())):
    if path is not None and data.get('path') == before:
      data['path'] = path
  if not config['evals']:
    raise ValueError(f'{workdir} names no evaluations; give some with --config=FILE')
  folder = run_folder.weights(workdir, selected=step is None)
  if config['deterministic'] and not compiler.deterministic() and sharding.is_main():
    print(
      'note: the run is deterministic, but JAX uses the GPU already: last digits may vary unless '
      f'Python starts with XLA_FLAGS={compiler.DETERMINISTIC}'
    )
  everything = sharding.mesh()  # running statistics are measured on training batches
  mesh = sharding.divisor(everything, config['batch_size'])
  if mesh.size < everything.size:
    batch = f'the training batch of {config["batch_size"]}'
    print(f'note: {batch} does not divide over {everything.size} devices; using {mesh.size}')
  parts = experiment.Experiment(config, mesh=mesh)
  parts.restores = True  # the checkpoint gives all weights, also of the base
  parts.check_same()
  processes.together(parts.check_evals)
  with checkpoint.Checkpoints(folder, read_only=True) as checkpoints:
    step = checkpoints.latest_step() if step is None else step
    state, _ = checkpoints.restore(parts.init_state(), step=step)
  results = workdir / 'evaluations'
  # Before anything is computed, to check that the folder is writable.
  result = results / sharding.on_main(lambda: _claim(results, step, config['evals']))
  state = state._replace(aux=parts.calibrated(state.params, state.aux))
  scores, shown = {}, {}
  with processes.only_main_prints():
    for name, options in config['evals'].items():
      print(f'evaluating {name} at step {step}', flush=True)
      shown[name], found = parts.evaluate(name, state.params, state.aux)
      scores |= {f'{name}/{options["protocol"]}/{metric}': v for metric, v in found.items()}
      print(running.headline(found), flush=True)
      sharding.on_main(functools.partial(_note, result, config['evals'], scores))
    variables = sharding.local((state.params, state.aux))
    given = {'workdir': workdir, 'step': step, 'scores': scores, 'predictions': shown}
    sharding.on_main(lambda: _write(result, parts, variables, **given))
    print(table.of_scores(config['evals'], scores, parts.error_titles()))
    print(f'written to {result}')
  return scores


def _claim(folder: pathlib.Path, step: int, evals: Mapping[str, Mapping[str, Any]]) -> str:
  """The name of the file of these evaluations, made if absent: STEP.json, STEP_2.json, ..."""
  folder.mkdir(exist_ok=True)
  for number in itertools.count(1):
    file = folder / (f'{step}.json' if number == 1 else f'{step}_{number}.json')
    with contextlib.suppress(FileExistsError):  # also if another command made it a moment ago
      atomic.create_text(file, json.dumps({'evals': evals, 'scores': {}}))
    if not file.stat().st_size:  # an earlier command was killed where it made it
      continue
    if run_folder.read_config(file).get('evals') == configs.plain(evals):
      _note(file, evals, {})
      return file.name


def _note(
  result: pathlib.Path, evals: Mapping[str, Mapping[str, Any]], scores: Mapping[str, float]
) -> None:
  """Writes the scores so far, merged into those of an identical earlier command."""
  scores = run_folder.read_config(result)['scores'] | scores
  atomic.write_text(result, json.dumps({'evals': evals, 'scores': scores}, indent=2) + '\n')


def _write(
  result: pathlib.Path,
  parts: Any,
  variables: tuple[Any, Any],
  *,
  workdir: pathlib.Path,
  step: int,
  scores: Mapping[str, float],
  predictions: Mapping[str, Mapping[str, Any]],
) -> None:
  """Writes the pictures and the page. variables: this process's (params, aux)."""
  from landmarks_jax.cli import pictures  # late: heavy
  from landmarks_jax.runtime import logs

  drawings = logs.Logs(result.with_suffix(''))
  predictions = {name: found for name, found in predictions.items() if found}
  for name, found in predictions.items():
    drawings.write_picture(f'landmarks/{name}', step, pictures.sheet(parts, name, found))
  for name, picture in pictures.of_features(parts, *variables).items():
    drawings.write_picture(name, step, picture)
  drawings.close()
  report.write(
    result.with_suffix('.html'),
    parts,
    workdir=workdir,
    step=step,
    scores=scores,
    predictions=predictions,
    cost={},
  )

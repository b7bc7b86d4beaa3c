"""One training run from its first step or its newest checkpoint to its report."""

import json
import math
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from landmarks_jax import training
from landmarks_jax.cli import (
  compiling,
  completion,
  pictures,
  processes,
  provenance,
  report,
  table,
  transfer,
)
from landmarks_jax.cli import config as configs
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.contracts import Batch, TrainState
from landmarks_jax.evaluation import matching, scoring
from landmarks_jax.report import draw
from landmarks_jax.runtime import (
  checkpoint,
  compiler,
  guards,
  interruption,
  logs,
  memory,
  run_folder,
  sharding,
)


class Run:
  """One training run: where it stands, and what it writes."""

  def __init__(
    self,
    experiment: Experiment,
    workdir: pathlib.Path,
    signals: interruption.Interruption,
  ) -> None:
    self.experiment, self.config, self.workdir = experiment, experiment.config, workdir
    experiment.check_same()
    experiment.resolve()
    sharding.on_main(lambda: configs.check_workdir(workdir, self.config))
    experiment.check_evals()
    experiment.check_step()
    experiment.note_unused_path()
    self.initial = transfer.of(experiment, workdir)
    begun = sharding.of_main((workdir / 'config.json').exists())
    # Before the folder is claimed, since another batch size is another config.
    self.compiled = compiling.step(experiment) if self.config['steps'] and not begun else None
    processes.claim(workdir, self.config)
    self.lock = None
    sharding.on_main(self._lock)
    try:
      self._open(signals)
    except BaseException:  # else whoever keeps the error keeps the lock
      self._unlock()
      raise

  def _open(self, signals: interruption.Interruption) -> None:
    """Opens what is written, and sets up what watches the steps."""
    experiment, workdir = self.experiment, self.workdir
    self.mesh, self.is_main = experiment.mesh, sharding.is_main()
    self.predictions, self.began = {}, time.monotonic()  # what the report shows
    self.logs = logs.Logs(workdir, is_main=self.is_main)
    writers = {'is_main': self.is_main, 'largest': sharding.largest}
    folder = workdir / run_folder.ALL
    self.checkpoints = checkpoint.Checkpoints(folder, keep=self.config['keep'], **writers)
    sharding.on_main(self._keep_aside)
    self.provenance = provenance.of(self.config, experiment.inputs.fingerprint())
    self.select, self.selected = self.config['select'], None
    if self.select:
      self.more_is_better = completion.check_select(self.select, self.config['evals'])
      folder = workdir / run_folder.SELECTED
      self.selected = checkpoint.Checkpoints(folder, keep=None, **writers)
    self.interruption, self.late = signals, guards.DelayedChecks(self._check_finite)
    self.step, self.skipped = 0, 0  # the step under way; steps that were not finite
    self.all_finite = jax.jit(training.is_finite)
    self.progress = logs.Progress(
      steps=self.config['steps'],
      images_per_step=self.config['batch_size'],
      memory=lambda: logs.peak_memory(self.mesh.local_devices),
    )

  def __call__(self) -> dict[str, float]:
    """Trains the missing steps and evaluates; returns the final scores."""
    state, start = self._start()
    steps = self.config['steps']
    if start < steps and not self.compiled:  # first: it decides where the pictures are kept
      self.compiled = compiling.step(self.experiment, held=memory.size(state))
    scores = self._evaluate(state, start)
    if start < steps:
      scores = self._train(state, start)
    log = self._logged()
    sharding.on_main(lambda: self._report(start, scores, log))
    if scores:
      print(table.of_scores(self.config['evals'], scores, self.experiment.error_titles()))
    return scores

  def close(self) -> None:
    """Finishes what is written in the background, and releases the folder."""
    self.checkpoints.close()
    if self.selected:
      self.selected.close()
    self.logs.close()
    self._unlock()

  def _lock(self) -> None:
    self.lock = run_folder.lock(self.workdir)

  def _keep_aside(self) -> None:
    """Renames the files of an earlier start if there is no checkpoint to resume from."""
    if self.checkpoints.latest_step() is not None:
      return
    there = run_folder.set_aside(self.workdir / 'metrics.jsonl', self.workdir / run_folder.SELECTED)
    if there:
      print(
        f'{self.workdir} has no checkpoint: it trains from the first step; files of an '
        f'earlier start are kept as {", ".join(there)}'
      )

  def _unlock(self) -> None:
    if self.lock:
      self.lock.close()

  def _start(self) -> tuple[Any, int]:
    """The newest checkpoint, or the state before the first step."""
    state = self.experiment.init_state()
    found = self.checkpoints.restore_newest(state)
    if found is None:
      self.logs.truncate(-1)
      state = self._first(state)
      if self.is_main:
        provenance.write(self.workdir, self.provenance, step=0)
      return state, 0
    state, saved, start = found
    self.skipped = saved.get('skipped', 0)
    self.logs.truncate(start)
    if self.selected:
      self.selected.drop_after(start)
    where = {'step': start, 'workdir': self.workdir}
    if self.is_main and provenance.warn(saved, self.provenance, **where):
      provenance.write(here=self.provenance, **where)
    print(f'resuming {self.workdir} from step {start}')
    return state, start

  def _first(self, state: TrainState) -> TrainState:
    """The state before the first step, with the weights of `init_from`."""
    if self.initial is None:
      return state
    params, aux, told = transfer.start(self.initial, state.params, state.aux)
    print(told)
    self.initial = None
    opt = self.experiment.optimizer.init(params)
    return sharding.replicate(TrainState(state.step, params, aux, opt), self.mesh)

  def _train(self, state: Any, start: int) -> dict[str, float]:
    steps, scores = self.config['steps'], {}
    rng = self.experiment.rng_train
    batches, whole = self._batches(start), None  # the state that may be saved at any time
    try:
      for step in range(start + 1, steps + 1):
        self.step = step
        batch = next(batches)
        with self.interruption.deferred(step):
          whole = None  # the step reuses its memory
          state, metrics = self.compiled(state, batch, rng)
          if step == 1:
            self._draw_views(batch)  # while the devices run the step
          state = self._calibrated(state) if step == steps else state
          self._follow(step, state, metrics, first=step == start + 1)
          whole = step, state
        scores |= self._evaluate(state, step)
    except (KeyboardInterrupt, interruption.Preempted) as stop:
      if whole and self.interruption.allows_save(stop):
        self._save(*whole)
        self.checkpoints.wait()
      raise
    finally:
      batches.close()
    self.checkpoints.wait()
    return scores

  def _follow(self, step: int, state: Any, metrics: Mapping[str, Any], *, first: bool) -> None:
    """Checks, logs and saves what is due after a step."""
    self.late.add(step, metrics)
    final = step == self.config['steps']
    if first:
      jax.block_until_ready(metrics)
      self.progress.mark(step)
    if step % self.config['log_every'] == 0 or final:
      self._log(step, metrics)
    if step % self.config['checkpoint_every'] == 0 or final or self._long_wait_follows(step):
      self._save(step, state)

  def _long_wait_follows(self, step: int) -> bool:
    """Whether an evaluation follows that SIGTERM cannot interrupt, as with several processes."""
    every = [options['every'] for options in self.config['evals'].values()]
    return sharding.shards() > 1 and any(count and step % count == 0 for count in every)

  def _batches(self, start: int) -> Iterator[Batch]:
    batches = self.experiment.inputs.batches(start)
    return guards.watched(batches, seconds=self.config['stuck_after'], report=self._tell_stuck)

  def _tell_stuck(self, seconds: float) -> None:
    shard, shards = sharding.shard(), sharding.shards()
    cache, workers = self.experiment.inputs.cache, self.config['workers']
    print(
      f'warning: no batch for {logs.duration(seconds)} at step {self.step}, shard {shard} of '
      f'{shards}, cache={cache}, workers={workers}; it goes on waiting. Does the disk of '
      f'{self.config["data"].get("path") or "the pictures"} answer? If it is slow, give more '
      '--config.workers, --config.cache=host, or frames that the command `prepare` stored.',
      file=sys.stderr,
      flush=True,
    )

  def _log(self, step: int, metrics: Mapping[str, Any]) -> None:
    self.late.settle()
    values = {name: float(value) for name, value in metrics.items()}
    shown = {name: values[name] for name in ('loss',)}
    if 'skipped' in values:
      values['skipped'] = self.skipped
      shown |= {'skipped': self.skipped} if self.skipped else {}
    values['learning_rate'] = self.experiment.learning_rate(step - 1)
    line = self.progress.line(step, shown)
    self.logs.write(step, {f'train/{name}': v for name, v in values.items()}, line=line)

  def _save(self, step: int, state: Any) -> None:
    self._check_whole(step, state)
    if self.selected:  # resuming from here needs the best before it
      self.selected.wait()
    self.checkpoints.save(step, state, self.provenance | {'skipped': self.skipped})

  def _check_finite(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Raises at the first step that is not finite or, if skipping, at the first one too many."""
    found = {name: float(metrics[name]) for name in ('loss', 'grad_norm')}
    name, value = next(((k, v) for k, v in found.items() if not math.isfinite(v)), (None, 0.0))
    allowed = self.config['skip_nonfinite']
    if allowed:
      self.skipped += int(metrics['skipped'])
      if int(metrics['skipped']) and self.skipped > allowed:
        what = f'{name} is {value}' if name else 'the weights are not finite'
        raise self._not_finite(f'{what} at step {step}, the {self.skipped}. of such steps', step)
    elif name:
      raise self._not_finite(f'{name} is {value} at step {step}', step)

  def _check_whole(self, step: int, state: Any) -> None:
    """Raises if a state is not finite: the last loss was that of the weights before its update."""
    self.late.settle()
    if not self.all_finite(state):
      raise self._not_finite(f'the weights are not finite after step {step}', step)

  def _not_finite(self, what: str, step: int) -> ValueError:
    rate, last = self.experiment.learning_rate(step - 1), self.checkpoints.latest_step()
    good = 'there is no checkpoint' if last is None else f'the last checkpoint is of step {last}'
    return ValueError(
      f'{what}, learning rate {rate:.3g}; {good}. Try a smaller optimizer.learning_rate, '
      'or skip_nonfinite=N to leave out up to N such steps.'
    )

  def _evaluate(self, state: Any, step: int) -> dict[str, float]:
    """Runs what is due after `step` updates and not in metrics.jsonl yet; scores by full name.

    The final evaluations are of the selected weights, if a score selects.
    """
    final, scores = step == self.config['steps'], {}
    if self.select and step > 0:
      scores |= self._consider(state, step)
      if final:
        best = self._kept_step()
        scores = self._written(best, self._prefix(self.select.split('/')[0]))
        state, _ = self.selected.restore(state, step=best)
    due = [name for name in self.config['evals'] if self._due(name, step)]
    if due and (self.select or not final):  # else it was done before saving
      state = self._calibrated(state)
    for name in due:
      scores |= self._score(name, state, step, shown=final)
    if self.predictions and self.is_main:
      variables = sharding.local((state.params, state.aux))
      for name, picture in pictures.of_features(self.experiment, *variables).items():
        self.logs.write_picture(name, step, picture)
    return scores

  def _due(self, name: str, step: int) -> bool:
    """Whether an evaluation runs after `step` updates; one that selects has run already."""
    every = self.config['evals'][name]['every']
    due = step == self.config['steps'] or (step > 0 and every and step % every == 0)
    return bool(due) and not (self.select and name == self.select.split('/')[0])

  def _prefix(self, name: str) -> str:
    """The prefix of the names of an evaluation's scores."""
    return f'{name}/{self.config["evals"][name]["protocol"]}/'

  def _calibrated(self, state: TrainState) -> TrainState:
    return state._replace(aux=self.experiment.calibrated(state.params, state.aux))

  def _score(self, name: str, state: Any, step: int, *, shown: bool) -> dict[str, float]:
    """Scores of one evaluation, from metrics.jsonl if there. shown: whether on the page."""
    prefix = self._prefix(name)
    known = self._written(step, prefix)
    if known:
      return known
    print(f'evaluating {name}', flush=True)
    predictions, found = self.experiment.evaluate(name, state.params, state.aux)
    found = {prefix + metric: value for metric, value in found.items()}
    if shown and predictions:
      self.predictions[name] = predictions
    if self.is_main and predictions:
      sheet = pictures.sheet(self.experiment, name, predictions)
      self.logs.write_picture(f'landmarks/{name}', step, sheet)
    self.logs.write(step, found, line=f'step {step}  {headline(found)}')
    self.progress.mark(step)
    return found

  def _consider(self, state: Any, step: int) -> dict[str, float]:
    """Keeps the weights if their score is the best so far."""
    name = self.select.split('/')[0]
    options, final = self.config['evals'][name], step == self.config['steps']
    if not final and step % options['every']:
      return {}
    scores = self._score(name, self._calibrated(state), step, shown=False)
    if self._best_steps()[0] == step:
      self._check_whole(step, state)
      self.selected.save(step, state, self.provenance)
      self._drop_beaten()
    return scores

  def _drop_beaten(self) -> None:
    """Keeps the newest two, and the best that a run would find on resuming."""
    self.checkpoints.wait()  # a half-written step cannot be resumed from
    last = self.checkpoints.latest_step()
    steps = self.selected.steps()
    needed = [step for step in steps if last is not None and step <= last][-1:]
    self.selected.drop(set(steps) - {*steps[-2:], *needed})

  def _best_steps(self) -> list[int]:
    """The steps that have a score, best first."""
    sign = -1 if self.more_is_better else 1
    found = [(sign * row[self.select], row['step']) for row in self._logged() if self.select in row]
    return [step for _, step in sorted(found)]

  def _kept_step(self) -> int:
    """The best step whose weights are still there."""
    steps, there = self._best_steps(), self.selected.steps()
    found = next((step for step in steps if step in there), steps[0])
    if found != steps[0] and self.is_main:
      told = f'has no step {steps[0]}, the best; taking step {found}, the best there'
      warnings.warn(f'{self.selected.path} {told}', stacklevel=2)
    return found

  def _written(self, step: int, prefix: str) -> dict[str, float]:
    at_step = (row for row in self._logged() if row['step'] == step)
    return {k: v for row in at_step for k, v in row.items() if k.startswith(prefix)}

  def _logged(self) -> list[dict[str, Any]]:
    """What the main process logged, on every process."""
    file = self.workdir / 'metrics.jsonl'
    lines = file.read_text().splitlines() if self.is_main and file.exists() else []
    return sharding.of_main([json.loads(line) for line in lines])

  def _report(
    self, start: int, scores: Mapping[str, float], log: Sequence[Mapping[str, Any]]
  ) -> None:
    seconds = logs.duration(time.monotonic() - self.began)
    memory = logs.peak_memory(self.mesh.local_devices)
    report.write(
      self.workdir / 'report' / 'index.html',
      self.experiment,
      workdir=self.workdir,
      step=self.config['steps'],
      scores=scores,
      predictions=self.predictions,
      log=log,
      cost={
        'Time': f'{seconds} from step {start}' if start else seconds,
        'Devices': f'{self.mesh.size} x {self.mesh.devices.flat[0].device_kind}',
        'Memory': f'{memory / 2**30:.1f} GiB',
      },
    )

  def _draw_views(self, batch: Any) -> None:
    views = self.experiment.method.views
    if views is None:
      return
    once = compiler.options(compiler.ONCE, sharding.platform(self.mesh))
    drawn = jax.jit(views, compiler_options=once)(batch, self.experiment.rng_train)
    drawn = draw.to_bytes(sharding.to_host(drawn)[:, :8])
    sheet = draw.montage(drawn.reshape(-1, *drawn.shape[2:]), columns=drawn.shape[1])
    self.logs.write_picture('views', 0, sheet)


UNLISTED = (
  *scoring.SPREADS,
  matching.PAPER,
  *(f'_{row}' for row in scoring.ROWS if row != scoring.TRAINED),
)


def headline(scores: Mapping[str, float]) -> str:
  """The scores of the trained row alone; all are in metrics.jsonl."""
  listed = [name for name in scores if not any(part in _last(name) for part in UNLISTED)]
  return '  '.join(f'{name} {scores[name]:.4g}' for name in listed)


def _last(name: str) -> str:
  """A score's own name, without those of its evaluation and protocol."""
  return name.rpartition('/')[2]

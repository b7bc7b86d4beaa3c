"""One training run from its first step or its newest checkpoint to its report."""

import functools
import math
import pathlib
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from landmarks_jax import training
from landmarks_jax.cli import (
  compiling,
  pictures,
  processes,
  provenance,
  report,
  table,
  transfer,
)
from landmarks_jax.cli import workdir as workdirs
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.cli.selection import Selection
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

VIEWS = 8  # pictures of the first batch whose views are drawn


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
    begun = self._begun()
    processes.together(functools.partial(experiment.resolve, begun))
    sharding.on_main(self._check_workdir)
    processes.together(experiment.check_evals)
    experiment.check_step()  # not `together`: it reads the base, and Orbax waits for all processes
    experiment.note_unused_path()
    self.initial = transfer.of(experiment, workdir)
    # Before the folder is claimed, since another batch size is another config.
    self.compiled = compiling.step(experiment) if self.config['steps'] and not begun else None
    workdirs.claim(workdir, self.config)
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
    self.selection = None
    if self.config['select']:
      self.selection = Selection(self.config, workdir, logged=self._logged, **writers)
    self.interruption, self.late = signals, guards.DelayedChecks(self._check_finite)
    self.step, self.skipped = 0, 0  # the step under way; steps that were not finite
    self.all_finite = jax.jit(training.is_finite)
    self.progress = logs.Progress(
      steps=self.config['steps'],
      images_per_step=self.config['batch_size'],
      memory=self._peak_memory,
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

  def _begun(self) -> dict[str, Any] | None:
    """The config of the run in the folder, on every process; None if it is a new one.

    Also notes whether it has a checkpoint, which then gives the weights of the base, too.
    """
    begun, self.experiment.restores = sharding.on_main(
      lambda: [workdirs.begun(self.workdir), run_folder.has_checkpoints(self.workdir)]
    )
    return begun

  def _check_workdir(self) -> None:
    if changed := workdirs.check(self.workdir, self.config):
      print(f'{self.workdir} continues with {", ".join(changed)}')

  def close(self) -> None:
    """Finishes what is written in the background, and releases the folder."""
    self.checkpoints.close()
    if self.selection:
      self.selection.close()
    self.logs.close()
    self._unlock()

  def _lock(self) -> None:
    self.lock = run_folder.lock(self.workdir)

  def _keep_aside(self) -> None:
    """Renames the files of an earlier start if there is no checkpoint to resume from."""
    if self.checkpoints.latest_step() is not None:
      return
    left = (self.workdir / name for name in (run_folder.LOG, run_folder.SELECTED))
    there = run_folder.set_aside(*left)
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
      if self.experiment.restores:  # its base was not read
        raise FileNotFoundError(f'the checkpoints in {self.checkpoints.path} are gone; start again')
      self.logs.truncate(-1)
      state = self._first(state)
      if self.is_main:
        provenance.write(self.workdir, self.provenance, step=0)
      return state, 0
    state, saved, start = found
    self.skipped = saved.get('skipped', 0)
    self.logs.truncate(start)
    if self.selection:
      self.selection.drop_after(start)
    where = {'step': start, 'workdir': self.workdir}
    if self.is_main and provenance.warn(saved, self.provenance, **where):
      provenance.write(here=self.provenance, **where)
    print(f'resuming {self.workdir} from step {start}')
    return state, start

  def _first(self, state: TrainState) -> TrainState:
    """The state before the first step, with the weights of `init_from`."""
    if self.initial is None:
      return state
    params, aux, message = transfer.start(self.initial, state.params, state.aux)
    print(message)
    self.initial = None
    opt = self.experiment.optimizer.tx.init(params)
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
    values['learning_rate'] = self._rate(step, metrics)
    shown = {'loss': values['loss']}
    if 'skipped' in values:
      values['skipped'] = self.skipped
      shown |= {'skipped': self.skipped} if self.skipped else {}
    line = self.progress.line(step, shown)
    self.logs.write(step, {f'train/{name}': v for name, v in values.items()}, line=line)

  def _save(self, step: int, state: Any) -> None:
    self._check_whole(step, state)
    if self.selection:  # resuming from here needs the best before it
      self.selection.wait()
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
        what += f' at step {step}, the {self.skipped}. of such steps'
        raise self._not_finite(what, step, metrics)
    elif name:
      raise self._not_finite(f'{name} is {value} at step {step}', step, metrics)

  def _check_whole(self, step: int, state: Any) -> None:
    """Raises if a state is not finite: the last loss was that of the weights before its update."""
    self.late.settle()
    if not self.all_finite(state):
      raise self._not_finite(f'the weights are not finite after step {step}', step)

  def _rate(self, step: int, metrics: Mapping[str, Any]) -> float:
    """The learning rate of the last checked step: the schedule waits while steps are skipped."""
    before = self.skipped - int(metrics.get('skipped', 0))
    return self.experiment.learning_rate(step - 1 - before)

  def _not_finite(
    self, what: str, step: int, metrics: Mapping[str, Any] = types.MappingProxyType({})
  ) -> ValueError:
    rate, last = self._rate(step, metrics), self.checkpoints.latest_step()
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
    if self.selection and step > 0:
      scores |= self._consider(state, step)
      if final:
        state, best = self.selection.restore(state)
        scores = self._written(best, self._prefix(self.selection.evaluation))
    due = [name for name in self.config['evals'] if self._due(name, step)]
    if due and (self.selection or not final):  # else it was done before saving
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
    return bool(due) and not (self.selection and name == self.selection.evaluation)

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
    """Scores the weights, where that is due, and keeps them if they are the best so far."""
    if not self.selection.due(step):
      return {}
    name = self.selection.evaluation
    scores = self._score(name, self._calibrated(state), step, shown=False)
    if self.selection.score not in scores:
      raise ValueError(
        f'config.select={self.selection.score!r} is none of the scores of config.evals.{name}: '
        + ', '.join(sorted(scores))
        + '; select one of them in another --workdir'
      )
    if self.selection.is_best(step):
      with self.interruption.held():  # raised in the event loop of Orbax, it would wait for ever
        self._check_whole(step, state)
        self.selection.keep(step, state, self.provenance, self.checkpoints)
    return scores

  def _written(self, step: int, prefix: str) -> dict[str, float]:
    at_step = (row for row in self._logged() if row['step'] == step)
    return {k: v for row in at_step for k, v in row.items() if k.startswith(prefix)}

  def _logged(self) -> list[dict[str, Any]]:
    """What the main process logged, on every process."""
    file = self.workdir / run_folder.LOG
    return sharding.on_main(lambda: logs.read(file) if file.exists() else [])

  def _report(
    self, start: int, scores: Mapping[str, float], log: Sequence[Mapping[str, Any]]
  ) -> None:
    seconds = logs.duration(time.monotonic() - self.began)
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
        'Memory': logs.amount(self._peak_memory()),
      },
    )

  def _peak_memory(self) -> int:
    """Bytes on the fullest device; on the host where devices do not report any."""
    return sharding.peak_memory(self.mesh) or logs.peak_memory()

  def _draw_views(self, batch: Any) -> None:
    views = self.experiment.method.views
    if views is None:
      return
    # Cut while compiled: no device then receives the views of the whole batch.
    first = jax.jit(
      lambda batch, rng: views(batch, rng)[:, :VIEWS],
      out_shardings=sharding.replicated(self.mesh),
      compiler_options=compiler.options(compiler.ONCE, sharding.platform(self.mesh)),
    )
    drawn = draw.to_bytes(sharding.to_host(first(batch, self.experiment.rng_train)))
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

"""Trains the published landmark head on frozen features that were computed once."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from landmarks_jax import metrics, training
from landmarks_jax.contracts import Array, Batch, Predictions, Pyramid, PyTree, TrainState
from landmarks_jax.methods import probe
from landmarks_jax.models import heads
from landmarks_jax.runtime import compiler, logs, optim

BETAS = (0.5, 0.999)
LAST_RATE = 0.2**3 * 0.1  # final rate of the cosine, relative to the first
TELL_EVERY = 20  # seconds


def fit(
  labelled: Batch,
  rows: Int[np.ndarray, ' n'],
  *,
  size: int,
  epochs: int,
  learning_rate: float,
  weight_decay: float,
  stop_epoch: int | None = None,
  epoch_size: int = 0,
  batch_size: int = 32,
  seed: int = 0,
  validation: Batch | None = None,
  score: Callable[[Predictions], float] = metrics.mean_distance,
  validate_every: int = 1,
  report: Callable[[str], None] = print,
) -> heads.LandmarkHead:
  """The head of methods/probe.py, trained on some rows of a labelled set.

  Args:
    labelled: NumPy arrays with `pyramid`, `points`, `visible`. rows: those to learn from.
    size: side of the maps. epochs: length of the cosine schedule; the paper has 48 and 200.
    learning_rate, weight_decay: of Adam; 1e-3 and 5e-4, few-shot .01 and .05.
    stop_epoch: stop earlier, as the published numbers do: 120 of 200 on MAFL, 45 on AFLW, 80 on
      300W; None goes to the end.
    epoch_size: rows of an epoch (few-shot: 1000), see `epoch_rows`; 0: every row once.
    validation: other labelled pictures, with `scale` and `index`. The head is then that of the
      epoch with the lowest `score` of its predictions for them (the first of equals); they are
      scored after every `validate_every` epochs and after the last.
    report: gets a line every 20 seconds, and the best epoch.

  The result depends on the labels and the seed alone. Raises ValueError for a `stop_epoch` outside
  the schedule, without labels, and for a loss that is not finite. Specification section 5.
  """
  check(
    size=size,
    epochs=epochs,
    stop_epoch=stop_epoch,
    learning_rate=learning_rate,
    batch_size=batch_size,
    epoch_size=epoch_size,
    validate_every=validate_every,
  )
  stop = epochs if stop_epoch is None else stop_epoch
  if not len(rows):
    raise ValueError('there are no labelled pictures to learn from')
  draw = functools.partial(epoch_rows, rows, seed=seed, batch_size=batch_size, size=epoch_size)
  init, step, find = _compiled(
    labelled.points.shape[1], size, learning_rate, weight_decay, epochs, len(draw(0)[0])
  )
  rng, best = jax.random.key(seed), None
  state = init(rng, _take(labelled, rows[:1]))
  trained = _train(functools.partial(step, rng=rng), state, labelled, draw, stop, report)
  for epoch, (loss, params) in enumerate(trained, start=1):
    if not np.isfinite(loss):
      raise ValueError(f"the probe's loss is {loss}; try a smaller learning rate: {learning_rate=}")
    if validation is not None and (epoch % validate_every == 0 or epoch == stop):
      found = score(predict(heads.LandmarkHead(params, find), validation))
      if best is None or found < best[0]:
        best = found, epoch, jax.tree.map(jnp.copy, params)  # the next step donates its state
  if best is not None:
    found, epoch, params = best
    report(f'probe: epoch {epoch} of {stop} is the best on validation, {found:.4g}')
  return heads.LandmarkHead(params, find)


def check(
  *,
  size: int,
  epochs: int,
  learning_rate: float = 0.0,
  stop_epoch: int | None = None,
  batch_size: int = 32,
  epoch_size: int = 0,
  validate_every: int = 1,
  prefix: str = '',
  **others: Any,
) -> None:
  """Raises ValueError for what `fit` cannot do. prefix: of the options in messages."""
  least = {'size': (size, 2), 'epochs': (epochs, 1), 'learning_rate': (learning_rate, 0)}
  least |= {'batch_size': (batch_size, 1), 'epoch_size': (epoch_size, 0)}
  least |= {'validate_every': (validate_every, 1)}
  for name, (value, lowest) in least.items():
    if value < lowest:
      raise ValueError(f'{prefix}{name}={value}: expected {lowest} or more')
  if stop_epoch is not None and not 1 <= stop_epoch <= epochs:
    raise ValueError(
      f'{prefix}stop_epoch={stop_epoch}: expected 1 to {epochs}, the epochs of the schedule'
    )


def predict(head: heads.LandmarkHead, target: Batch, *, step: int = 32) -> Predictions:
  """Any head's landmarks of all of `target`, `step` pictures at a time.

  target: NumPy arrays with `pyramid`, `points`, `visible`, `scale`, `index`.
  """
  find = jax.jit(head.predict)
  points = [
    np.asarray(find(head.variables, tuple(level[i : i + step] for level in target.pyramid)))
    for i in range(0, len(target.points), step)
  ]
  points = np.concatenate(points).astype(np.float32)
  return Predictions(points, target.points, target.visible, target.scale, target.index)


def epoch_rows(
  rows: Int[np.ndarray, ' n'], epoch: int, *, seed: int, batch_size: int, size: int
) -> tuple[Int[np.ndarray, 'steps {batch_size}'], Bool[np.ndarray, 'steps {batch_size}']]:
  """The rows of every batch of an epoch, and which of them count: the others fill the last batch.

  An epoch has `size` rows: each as often as fits, and some, drawn anew, once more. With size=0 it
  has every row once. A pure function of (seed, epoch).
  """
  rng, size = np.random.default_rng((seed, epoch)), size or len(rows)
  some = rng.choice(rows, size % len(rows), replace=False)
  order = rng.permutation(np.concatenate([np.tile(rows, size // len(rows)), some]))
  steps = -(-size // batch_size)
  valid = np.arange(steps * batch_size) < size
  return np.resize(order, (steps, batch_size)), valid.reshape(steps, batch_size)


def _train(
  step: Callable[..., Any],
  state: TrainState,
  labelled: Batch,
  draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
  stop: int,
  report: Callable[[str], None],
) -> Iterator[tuple[float, PyTree]]:
  """The last loss and the parameters after each epoch; the next step invalidates the latter."""
  steps_per_epoch, batch_size = draw(0)[0].shape
  values, reported_at = {}, time.monotonic()
  progress = logs.Progress(steps=stop * steps_per_epoch, images_per_step=batch_size)
  for epoch in range(stop):
    drawn = zip(*draw(epoch), strict=True)
    for done, (chosen, valid) in enumerate(drawn, epoch * steps_per_epoch + 1):
      batch = _take(labelled, chosen)._replace(valid=valid)
      jax.block_until_ready(values)  # one step ahead at most: queued batches take memory
      state, values = step(state, batch)
      if time.monotonic() - reported_at > TELL_EVERY:
        report(progress.line(done, {'probe loss': values['loss']}))
        reported_at = time.monotonic()
    yield float(values['loss']), state.params


@functools.lru_cache(maxsize=16)  # draws and rows of one protocol share their compiled step
def _compiled(
  landmarks: int,
  size: int,
  learning_rate: float,
  weight_decay: float,
  epochs: int,
  steps_per_epoch: int,
) -> tuple[Callable[..., TrainState], Callable[..., Any], Callable[..., Any]]:
  """Compiled init (rng, batch) -> state and train step; the predict of a LandmarkHead."""
  method = probe.build(landmarks=landmarks, size=size)
  tx, _ = optim.build(
    name='adam',
    learning_rate=learning_rate,
    final=learning_rate * LAST_RATE,
    epochs=epochs,
    steps_per_epoch=steps_per_epoch,
    betas=BETAS,
    weight_decay=weight_decay,
  )
  init = jax.jit(functools.partial(training.init_state, method, tx))
  step = compiler.jit(training.make_train_step(method, tx), donate_argnums=0)

  def find(params: PyTree, pyramid: Pyramid) -> Float[Array, 'B K 2']:
    return method.landmarks(params, {}, Batch(pyramid=pyramid))[0]

  return init, step, find


def _take(labelled: Batch, rows: Int[np.ndarray, ' n']) -> Batch:
  pyramid = tuple(level[rows] for level in labelled.pyramid)
  return Batch(pyramid=pyramid, points=labelled.points[rows], visible=labelled.visible[rows])

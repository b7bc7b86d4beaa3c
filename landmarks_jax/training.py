"""The only train step in the project."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import PRNGKeyArray

from landmarks_jax.contracts import Array, Batch, Method, PyTree, TrainState


def init_state(
  method: Method, tx: optax.GradientTransformation, rng: PRNGKeyArray, batch: Batch
) -> TrainState:
  """The state before the first step; `batch` gives shapes only where a method needs no more."""
  params, aux = method.init(rng, batch)
  return TrainState(jax.numpy.zeros((), 'int32'), params, aux, tx.init(params))


def make_train_step(
  method: Method, tx: optax.GradientTransformation
) -> Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, dict[str, Array]]]:
  """The pure step (state, batch, rng) -> (state, metrics), for one big batch on one device.

  `rng` is the run's key, the same at every step: it is folded with the step here, so a resumed run
  draws the numbers that the undisturbed run would have drawn.
  """

  def train_step(
    state: TrainState, batch: Batch, rng: PRNGKeyArray
  ) -> tuple[TrainState, dict[str, Array]]:
    rng = jax.random.fold_in(rng, state.step)
    loss = jax.value_and_grad(method.loss, has_aux=True)
    (value, (aux, metrics)), grads = loss(state.params, state.aux, batch, rng, state.step)
    updates, opt = tx.update(grads, state.opt, state.params)
    params: PyTree = optax.apply_updates(state.params, updates)
    aux = method.after_update(params, aux, state.step)
    metrics = {'loss': value, 'grad_norm': optax.tree.norm(grads)} | metrics
    return TrainState(state.step + 1, params, aux, opt), metrics

  return train_step

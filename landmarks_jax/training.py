"""The only train step in the project."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, PRNGKeyArray

from landmarks_jax.contracts import Array, Batch, Method, PyTree, TrainState


def init_state(
  method: Method, tx: optax.GradientTransformation, rng: PRNGKeyArray, batch: Batch
) -> TrainState:
  """The state before the first step; most methods need only the shapes of `batch`."""
  params, aux = method.init(rng, batch)
  return TrainState(jnp.zeros((), 'int32'), params, aux, tx.init(params))


def make_train_step(
  method: Method, tx: optax.GradientTransformation, *, skip_nonfinite: bool = False
) -> Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, dict[str, Array]]]:
  """The pure step (state, batch, rng) -> (state, metrics), for one big batch on one device.

  `rng` is the run's key, the same at every step: the step is folded into it here, so a resumed run
  draws the numbers that an uninterrupted run would have drawn.

  skip_nonfinite: a step whose loss, gradient or new state is not finite changes nothing but `step`;
  the metric 'skipped' is then 1, else 0.
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
    after = TrainState(state.step + 1, params, aux, opt)
    if skip_nonfinite:
      good = is_finite((value, metrics['grad_norm'], after))
      after, metrics = _select(good, after, state), metrics | {'skipped': 1 - good.astype('int32')}
    return after, metrics

  return train_step


def is_finite(tree: PyTree) -> Bool[Array, '']:
  """Whether every floating number in a tree is finite."""
  leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def _select(good: Bool[Array, ''], after: TrainState, before: TrainState) -> TrainState:
  chosen = jax.tree.map(lambda a, b: jax.lax.select(good, a, b), after, before)
  return chosen._replace(step=after.step)

"""The only train step in the project."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, PRNGKeyArray

from landmarks_jax.contracts import Array, Batch, Method, PyTree, TrainState

TAKEN = 'loss', 'grad_norm', 'skipped', 'learning_rate'  # metrics of a run, for no method to use


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

  The step raises ValueError, when it is traced, if a metric of the method has a name of TAKEN.
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
    _check_names(metrics)
    metrics = {'loss': value, 'grad_norm': optax.tree.norm(grads)} | metrics
    after = TrainState(state.step + 1, params, aux, opt)
    if skip_nonfinite:
      good = is_finite((value, metrics['grad_norm'], after))
      after, metrics = _select(good, after, state), metrics | {'skipped': 1 - good.astype('int32')}
    return after, metrics

  return train_step


def _check_names(metrics: Mapping[str, Any]) -> None:
  if wrong := [name for name in metrics if name in TAKEN]:
    raise ValueError(
      f"the method's loss returns a metric {wrong[0]!r}; the names {', '.join(TAKEN)} are taken: "
      'choose another'
    )


def check(before: TrainState, after: TrainState, metrics: Mapping[str, Any]) -> None:
  """Raises ValueError for a step that a run could not go on from, or not be resumed at.

  Args: the state and the outcome of a step, as arrays or as their shapes (`jax.eval_shape`).
  """
  was, becomes = leaves(before), leaves(after)
  for name, leaf in was.items():
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
      raise ValueError(
        f'{name} of the state is a typed key, which no checkpoint can hold: keep '
        'jax.random.key_data(key) instead, and use it with jax.random.wrap_key_data'
      )
  for name in [*was, *becomes]:
    one, two = _kind(was.get(name)), _kind(becomes.get(name))
    if one != two:
      raise ValueError(f'{name} of the state is {one} before a step and {two} after it')
  one, two = jax.tree.structure(before), jax.tree.structure(after)
  if one != two:
    raise ValueError(f'a step changes the structure of the state from {one} to {two}')
  for name, value in metrics.items():
    if getattr(value, 'shape', None) != ():
      raise ValueError(f'the metric {name} is {jax.tree.map(_kind, value)}; expected one number')


def _kind(leaf: Any) -> str:
  return 'absent' if leaf is None else f'{leaf.dtype}{list(leaf.shape)}'


def leaves(tree: PyTree) -> dict[str, Any]:
  """The arrays of a tree by their names, such as 'params/backbone/conv1/kernel'."""
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in found}


def is_finite(tree: PyTree) -> Bool[Array, '']:
  """Whether every floating number in a tree is finite."""
  leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def _select(good: Bool[Array, ''], after: TrainState, before: TrainState) -> TrainState:
  chosen = jax.tree.map(lambda a, b: jax.lax.select(good, a, b), after, before)
  return chosen._replace(step=after.step)

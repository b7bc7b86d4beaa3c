"""The train step on a small method with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landmarks_jax import training
from landmarks_jax.contracts import Batch, Method


def recorder():
  """A method whose loss is w * (x - noise) and which writes down what it was called with."""

  def init(rng, batch):
    return {'w': jnp.float32(2.0)}, {'calls': jnp.float32(0.0), 'seen': jnp.float32(0.0)}

  def loss(params, aux, batch, rng, step):
    noise = jax.random.uniform(rng)
    value = params['w'] * (batch.label.mean() - noise)
    return value, (aux | {'calls': aux['calls'] + 1}, {'noise': noise, 'step_seen': step})

  def after_update(params, aux, step):
    return aux | {'seen': params['w'] + 100 * step}

  return Method(init, loss, describe=None, after_update=after_update)


@pytest.fixture
def run():
  method = recorder()
  tx = optax.sgd(0.5)
  batch = Batch(label=np.array([1, 3], np.int32))
  state = training.init_state(method, tx, jax.random.key(0), batch)
  return state, jax.jit(training.make_train_step(method, tx)), batch


def test_a_step_is_one_update_then_the_moving_averages(run):
  state, step, batch = run
  after, metrics = step(state, batch, jax.random.key(3))
  noise = jax.random.uniform(jax.random.fold_in(jax.random.key(3), 0))
  np.testing.assert_allclose(metrics['noise'], noise)
  np.testing.assert_allclose(metrics['loss'], 2.0 * (2.0 - noise), rtol=1e-6)
  np.testing.assert_allclose(metrics['grad_norm'], 2.0 - noise, rtol=1e-6)
  np.testing.assert_allclose(after.params['w'], 2.0 - 0.5 * (2.0 - noise), rtol=1e-6)
  np.testing.assert_allclose(after.aux['seen'], after.params['w'])  # step 0, updated params
  assert after.aux['calls'] == 1
  assert after.step == 1


def test_every_step_draws_its_own_numbers_from_the_same_key(run):
  state, step, batch = run
  rng = jax.random.key(3)
  drawn = []
  for _ in range(3):
    state, metrics = step(state, batch, rng)
    drawn.append(float(metrics['noise']))
  expected = [float(jax.random.uniform(jax.random.fold_in(rng, i))) for i in range(3)]
  np.testing.assert_allclose(drawn, expected)
  assert metrics['step_seen'] == 2


def test_a_state_from_the_middle_continues_with_the_same_numbers(run):
  state, step, batch = run
  rng = jax.random.key(9)
  states = [state]
  for _ in range(4):
    states.append(step(states[-1], batch, rng)[0])
  resumed = jax.device_get(states[2])
  for _ in range(2):
    resumed, _ = step(resumed, batch, rng)
  for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(states[4]), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('bad', ['loss', 'gradient', 'outcome'])
def test_a_step_that_is_not_finite_changes_nothing_but_the_step(bad):
  def loss(params, aux, batch, rng, step):
    wrong = batch.label.mean() > 2
    value = (params['w'] ** 2).sum()
    if bad == 'loss':
      value = jnp.where(wrong, jnp.inf, value)
    if bad == 'gradient':
      value += jnp.sqrt(jnp.where(wrong, 0.0 * params['w'], 1.0)).sum()
    seen = aux['seen'] / jnp.where(wrong & (bad == 'outcome'), 0.0, 2.0)
    return value, (
      {'seen': seen, 'key': jax.random.split(aux['key'])[0], 'queue': aux['queue'] + 1},
      {},
    )

  def init(rng, batch):
    return {'w': jnp.arange(3.0)}, {'seen': jnp.float32(1), 'key': rng, 'queue': jnp.int32(0)}

  method = Method(init, loss, describe=None)
  tx = optax.adam(0.1)
  good, wrong = (Batch(label=np.array(label, np.int32)) for label in ([1, 2], [4, 9]))
  rng = jax.random.key(3)
  state = training.init_state(method, tx, rng, good)
  state = jax.tree.map(jnp.asarray, state)
  step = jax.jit(training.make_train_step(method, tx, skip_nonfinite=True))
  plain = jax.jit(training.make_train_step(method, tx))

  before, metrics = step(state, good, rng)
  assert metrics['skipped'] == 0
  jax.tree.map(assert_equal, before, plain(state, good, rng)[0])  # a good step is the plain one
  after, metrics = step(before, wrong, rng)
  assert (metrics['skipped'], after.step) == (1, 2)
  jax.tree.map(assert_equal, after._replace(step=before.step), before)
  assert not training.is_finite((metrics, plain(before, wrong, rng)))
  again, metrics = step(after, good, rng)
  assert metrics['skipped'] == 0
  assert not np.array_equal(again.params['w'], after.params['w'])


def assert_equal(one, other):
  """Also of random keys."""
  assert one.dtype == other.dtype
  np.testing.assert_array_equal(
    *(jax.device_get(jax.tree.leaves(x)) for x in map(raw, (one, other)))
  )


def raw(x):
  return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

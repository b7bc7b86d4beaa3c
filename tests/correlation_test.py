"""Blockwise correlation against its plain form, in loops and with the matrix of all pairs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import correlation

expected_distance = jax.jit(
  correlation.expected_distance, static_argnames=('temperature', 'power', 'block')
)


def example(queries=11, keys=7, channels=5, dtype=np.float32):
  """Query, key, target, positions; the first two targets lie on a key."""
  r = np.random.default_rng(0)
  query, key = r.normal(size=(queries, channels)), r.normal(size=(keys, channels))
  target, positions = r.uniform(0, 40, (queries, 2)), r.uniform(0, 40, (keys, 2))
  target[:2] = positions[[4, 1]]
  return tuple(x.astype(dtype) for x in (query, key, target, positions))


def oracle(query, key, target, positions, *, temperature, power):
  """One query after the other, in float64."""
  query, key, target, positions = (np.asarray(x, float) for x in (query, key, target, positions))
  out = []
  for q, t in zip(query, target, strict=True):
    score = np.array([temperature * sum(q * k) for k in key])
    weight = np.exp(score - score.max())
    away = np.array([np.hypot(*(p - t)) for p in positions])
    out.append(sum(weight * away**power) / sum(weight))
  return np.array(out)


def plain(query, key, target, positions, *, temperature, power):
  """The form that needs all pairs at once."""
  probability = jax.nn.softmax(temperature * query @ key.T)
  away = ((target[:, None] - positions) ** 2).sum(-1) ** (power / 2)
  return (probability * away).sum(-1)


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
@pytest.mark.parametrize('temperature', [0.3, 7.0])
def test_every_query_is_the_slow_loop(temperature, power):
  arrays = example()
  found = expected_distance(*arrays, temperature=temperature, power=power, block=4)
  expected = oracle(*arrays, temperature=temperature, power=power)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_sharp_softmax_gives_the_distance_to_the_best_key():
  query, key, target, positions = example()
  found = expected_distance(query, key, target, positions, temperature=1e4, power=1.0)
  best = positions[(query @ key.T).argmax(1)]
  np.testing.assert_allclose(found, np.linalg.norm(best - target, axis=-1), rtol=1e-5)


@pytest.mark.parametrize('block', [1, 3, 11, 256])
def test_the_block_changes_neither_value_nor_gradient(block):
  """Blocks that divide the 11 queries, that do not, and one that is larger."""
  query, key, target, positions = example()
  options = {'temperature': 2.0, 'power': 0.5}

  def value_and_grad(function, **more):
    total = lambda q, k: (function(q, k, target, positions, **options, **more) ** 2).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(query, key)

  value, grads = value_and_grad(correlation.expected_distance, block=block)
  expected, right = value_and_grad(plain)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for grad, one in zip(grads, right, strict=True):
    np.testing.assert_allclose(grad, one, atol=1e-5 * np.abs(one).max())
    assert np.abs(one).max() > 0.1


def test_gradients_are_finite_where_a_target_lies_on_its_key():
  arrays = tuple(jnp.asarray(x) for x in example())
  loss = lambda *x: correlation.expected_distance(*x, temperature=2.0, power=0.5).sum()  # noqa: E731
  query, key, target, positions = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*arrays)
  for grad in (query, key):
    assert np.isfinite(grad).all()
    assert np.abs(grad).max() > 0.1
  assert not np.asarray(target).any()  # places are given, not learned
  assert not np.asarray(positions).any()


def test_memory_grows_with_the_block_and_not_with_all_pairs():
  """At 96x96 positions, forward and backward, as the compiler reports it."""
  count, options = 96 * 96, {'temperature': 7.0, 'power': 0.5}
  arguments = tuple(jax.ShapeDtypeStruct((count, n), jnp.float32) for n in (8, 2))

  def megabytes(function, **more):
    loss = lambda x, at: function(x, x, at, at, **options, **more).mean()  # noqa: E731
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6

  whole, half = (megabytes(correlation.expected_distance, block=b) for b in (256, 128))
  all_pairs = 4 * count**2 / 1e6  # 340 MB
  assert megabytes(plain) > 2 * all_pairs
  assert half < 0.8 * whole < 0.1 * all_pairs


def test_float64_stays_float64():
  with jax.enable_x64(True):
    arrays = example(dtype=np.float64)
    found = expected_distance(*arrays, temperature=3.0, power=0.5, block=4)
    assert found.dtype == np.float64
    expected = oracle(*arrays, temperature=3.0, power=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_wrong_shape_names_the_argument():
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  bare, options = correlation.expected_distance.__wrapped__, {'temperature': 1.0, 'power': 1.0}
  query, key, target, positions = example()
  with pytest.raises(ValueError, match=re.escape('key: C=4 in shape (7, 4), but query has C=5')):
    bare(query, key[:, :4], target, positions, **options)
  with pytest.raises(
    ValueError, match=re.escape('positions: Q=11 in shape (11, 2), but key has Q=7')
  ):
    bare(query, key, target, target, **options)

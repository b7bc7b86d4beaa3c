"""Blockwise correlation against its plain form, in loops and with the matrix of all pairs."""

import functools
import json
import pathlib
import re
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import correlation

every_reduction = pytest.mark.parametrize(
  'name', ['log_normaliser', 'expected_distance', 'expected_key']
)


def example(queries=11, keys=7, channels=5, dtype=np.float32):
  """Query, key, target, positions; the first two targets lie on a key."""
  r = np.random.default_rng(0)
  query, key = r.normal(size=(queries, channels)), r.normal(size=(keys, channels))
  target, positions = r.uniform(0, 40, (queries, 2)), r.uniform(0, 40, (keys, 2))
  target[:2] = positions[[4, 1]]
  return tuple(x.astype(dtype) for x in (query, key, target, positions))


def blockwise(name, query, key, target, positions, *, sharpness, power, block=256):
  """The function called `name`, with those of the arrays that it takes."""
  options = {'sharpness': sharpness, 'block': block}
  if name == 'expected_distance':
    return correlation.expected_distance(query, key, target, positions, power=power, **options)
  return getattr(correlation, name)(query, key, **options)


def oracle(name, query, key, target, positions, *, sharpness, power):
  """One query after the other, in float64."""
  query, key, target, positions = (np.asarray(x, float) for x in (query, key, target, positions))
  out = []
  for q, t in zip(query, target, strict=True):
    score = np.array([sharpness * sum(q * k) for k in key])
    weight = np.exp(score - score.max())
    away = np.array([np.hypot(*(p - t)) for p in positions])
    if name == 'log_normaliser':
      out.append(np.log(sum(weight)) + score.max())
    elif name == 'expected_distance':
      out.append(sum(weight * away**power) / sum(weight))
    else:
      out.append(sum(w * k for w, k in zip(weight, key, strict=True)) / sum(weight))
  return np.array(out)


def plain(name, query, key, target, positions, *, sharpness, power):
  """The form that needs all pairs at once."""
  score = sharpness * query @ key.T
  if name == 'log_normaliser':
    return jax.nn.logsumexp(score, axis=-1)
  if name == 'expected_key':
    return jax.nn.softmax(score) @ key
  away = ((target[:, None] - positions) ** 2).sum(-1) ** (power / 2)
  return (jax.nn.softmax(score) * away).sum(-1)


@every_reduction
@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
@pytest.mark.parametrize('sharpness', [-200.0, 0.0, 0.3, 7.0])
def test_every_query_is_the_slow_loop(name, sharpness, power):
  options = {'sharpness': sharpness, 'power': power}
  found = blockwise(name, *example(), **options, block=4)
  expected = oracle(name, *example(), **options)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_sharp_softmax_reduces_to_the_best_key():
  query, key, target, positions = example()
  options, score = {'sharpness': 1e4, 'power': 1.0}, query @ key.T
  best = score.argmax(1)
  found = {
    name: blockwise(name, *example(), **options)
    for name in ('log_normaliser', 'expected_distance', 'expected_key')
  }
  away = np.linalg.norm(positions[best] - target, axis=-1)
  np.testing.assert_allclose(found['expected_distance'], away, rtol=1e-5)
  np.testing.assert_allclose(found['expected_key'], key[best], rtol=1e-5)
  np.testing.assert_allclose(found['log_normaliser'], 1e4 * score.max(1), rtol=1e-5)


@pytest.mark.parametrize('sharpness', [1e4, 1e7, 1e9])
def test_the_probabilities_in_the_gradient_sum_to_1_at_any_sharpness(sharpness):
  """The gradient of a key is sharpness * sum_u p(v|u) query_u, and sums to that of all queries.

  Keys differ by so little that several are likely. Compiled, as compilers fuse what they round.
  """
  r = np.random.default_rng(1)
  base = r.normal(size=8) / 3
  query = (base + r.normal(size=(300, 8)) / 2).astype(np.float32)
  key = (base + r.normal(size=(200, 8)) / sharpness).astype(np.float32)
  total = lambda k: correlation.log_normaliser(query, k, sharpness=sharpness).sum()  # noqa: E731
  grad = np.asarray(jax.jit(jax.grad(total))(key), float)
  np.testing.assert_allclose(grad.sum(0) / sharpness, query.sum(0, dtype=float), rtol=2e-6)


@every_reduction
def test_no_queries_give_no_rows(name):
  query, key, target, positions = example()
  options = {'sharpness': 2.0, 'power': 1.0}
  found = blockwise(name, query[:0], key, target[:0], positions, **options)
  assert found.shape == ((0, 5) if name == 'expected_key' else (0,))


@every_reduction
@pytest.mark.parametrize('block', [1, 3, 11, 256])
def test_the_block_changes_neither_value_nor_gradient(name, block):
  """Blocks that divide the 11 queries, that do not, and one that is larger."""
  query, key, target, positions = example()
  options = {'sharpness': 2.0, 'power': 0.5}

  def value_and_grad(function, **more):
    total = lambda q, k: (function(name, q, k, target, positions, **options, **more) ** 2).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(query, key)

  value, grads = value_and_grad(blockwise, block=block)
  expected, right = value_and_grad(plain)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for grad, one in zip(grads, right, strict=True):
    np.testing.assert_allclose(grad, one, atol=1e-5 * np.abs(one).max())
    assert np.abs(one).max() > 0.1


def test_gradients_are_finite_where_a_target_lies_on_its_key():
  arrays = tuple(jnp.asarray(x) for x in example())
  loss = lambda *x: correlation.expected_distance(*x, sharpness=2.0, power=0.5).sum()  # noqa: E731
  query, key, target, positions = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*arrays)
  for grad in (query, key):
    assert np.isfinite(grad).all()
    assert np.abs(grad).max() > 0.1
  assert not np.asarray(target).any()  # places are given, not learned
  assert not np.asarray(positions).any()


def test_the_usual_power_is_a_root_and_not_a_power_of_every_pair():
  options = {'sharpness': 2.0, 'block': 4}
  function = functools.partial(correlation.expected_distance, **options)
  assert ' pow ' in str(jax.make_jaxpr(functools.partial(function, power=0.7))(*example()))
  assert ' pow ' not in str(jax.make_jaxpr(functools.partial(function, power=0.5))(*example()))
  bare = functools.partial(correlation.expected_distance.__wrapped__, **options)
  traced = jax.jit(lambda power: bare(*example(), power=power))(0.5)  # past the shape hook
  np.testing.assert_allclose(traced, function(*example(), power=0.5), rtol=1e-6)


def test_several_powers_are_each_of_them_with_its_gradient():
  function = functools.partial(correlation.expected_distance, sharpness=2.0, block=4)
  query, *others = example()

  def value_and_grad(power, pick):
    def total(query):
      found = function(query, *others, power=power)
      return (pick(found) ** 2).sum(), found

    return jax.value_and_grad(total, has_aux=True)(query)

  powers = 0.5, 1.0, 0.7
  for i, power in enumerate(powers):
    (_, found), grad = value_and_grad(powers, lambda found, i=i: found[:, i])
    assert found.shape == (11, 3)
    (_, expected), right = value_and_grad(power, lambda found: found)
    np.testing.assert_allclose(found[:, i], expected, rtol=1e-6)
    np.testing.assert_allclose(grad, right, atol=1e-6 * np.abs(right).max())


@every_reduction
def test_memory_grows_with_the_block_and_not_with_all_pairs(name):
  """At 96x96 positions, forward and backward, as the compiler reports it."""
  count, options = 96 * 96, {'sharpness': 7.0, 'power': 0.5}
  arguments = tuple(jax.ShapeDtypeStruct((count, n), jnp.float32) for n in (8, 2))

  def megabytes(function, **more):
    loss = lambda x, at: function(name, x, x, at, at, **options, **more).mean()  # noqa: E731
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6

  whole, half = (megabytes(blockwise, block=b) for b in (256, 128))
  all_pairs = 4 * count**2 / 1e6  # 340 MB
  assert megabytes(plain) > all_pairs
  assert half < 0.8 * whole < 0.1 * all_pairs


@every_reduction
def test_float64_stays_float64(name):
  with jax.enable_x64(True):
    arrays, options = example(dtype=np.float64), {'sharpness': 3.0, 'power': 0.5}
    found = blockwise(name, *arrays, **options, block=4)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, oracle(name, *arrays, **options), rtol=1e-12)


@every_reduction
def test_bfloat16_is_computed_in_float32(name):
  half = [jnp.asarray(x, jnp.bfloat16) for x in example()]
  options = {'sharpness': 3.0, 'power': 0.5, 'block': 4}
  found = blockwise(name, *half, **options)
  assert found.dtype == jnp.float32
  exact = blockwise(name, *(x.astype(jnp.float32) for x in half), **options)
  np.testing.assert_allclose(found, exact, rtol=1e-6)


@every_reduction
def test_a_wrong_shape_names_the_argument(name):
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  bare = getattr(correlation, name).__wrapped__
  query, key, target, positions = example()
  places, options = (), {'sharpness': 1.0}
  if name == 'expected_distance':
    places, options = (target, positions), options | {'power': 1.0}
    message = re.escape('positions: Q=11 in shape (11, 2), but key has Q=7')
    with pytest.raises(ValueError, match=message):
      bare(query, key, target, target, **options)
  with pytest.raises(ValueError, match=re.escape('key: C=4 in shape (7, 4), but query has C=5')):
    bare(query, key[:, :4], *places, **options)


def test_the_benchmark_compares_the_same_losses_and_writes_what_it_measured(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[1])
  options = ['--sides', '24', '--channels', '3', '--repetitions', '2']
  file = tmp_path / 'figures.json'
  monkeypatch.setattr(sys, 'argv', ['', *options, '--json', str(file)])
  runpy.run_module('benchmarks.correlation', run_name='__main__')
  assert capsys.readouterr().out.count('| 24x24 ') == 3
  figures = json.loads(file.read_text())['figures']
  assert len({figure['loss'] for figure in figures}) == len(figures) == 3
  for figure in figures:
    assert figure['loss_difference'] < 1e-5
    assert figure['gradient_difference'] < 1e-4
    assert figure['memory_ratio'] == figure['plain_mb'] / figure['blockwise_mb']
    assert figure['memory_ratio'] > 1.5
    plain, blockwise = figure['plain_seconds'], figure['blockwise_seconds']
    assert figure['time_ratio'] == pytest.approx(np.median(np.divide(blockwise, plain)))

"""Grouped batch normalisation against a loop over groups in NumPy, on one device and on eight."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from landmarks_jax.models import norm
from landmarks_jax.models.backbone import Backbone
from landmarks_jax.models.norm import GroupedBatchNorm
from landmarks_jax.models.resnet import ResNet, basic_block

SHAPE = (16, 5, 3, 7)


def example(dtype=np.float32):
  """Every example has its own mean and spread, so that a wrong group shows."""
  r = np.random.default_rng(1)
  spread, mean = r.uniform(0.5, 2, (16, 1, 1, 7)), r.normal(size=(16, 1, 1, 7))
  x = r.normal(size=SHAPE) * spread + mean
  params = {'scale': r.uniform(0.5, 2, 7), 'bias': r.normal(size=7)}
  stats = {'mean': r.normal(size=7), 'var': r.uniform(0.5, 2, 7)}
  cast = lambda tree: jax.tree.map(lambda a: np.asarray(a, dtype), tree)  # noqa: E731
  return cast({'params': params, 'batch_stats': stats}), cast(x)


def slow_oracle(variables, x, groups):
  """As one GPU per group would do it, running statistics averaged."""
  scale, bias = variables['params']['scale'], variables['params']['bias']
  y, means, variances = [], [], []
  for part in np.split(x, groups):
    values = part.reshape(-1, x.shape[-1])
    mean, var = values.mean(0), values.var(0)
    y.append((part - mean) / np.sqrt(var + 1e-5) * scale + bias)
    means.append(mean)
    variances.append(values.var(0, ddof=1))
  old = variables['batch_stats']
  new = {
    'mean': 0.9 * old['mean'] + 0.1 * np.mean(means, 0),
    'var': 0.9 * old['var'] + 0.1 * np.mean(variances, 0),
  }
  return np.concatenate(y), new


def train(groups):
  """(variables, x) -> (normalised x, running statistics)."""

  def run(variables, x):
    y, changed = GroupedBatchNorm(groups).apply(variables, x, train=True, mutable=['batch_stats'])
    return y, changed['batch_stats']

  return run


def test_layers_of_one_shape_and_networks_of_one_kind_are_traced_once(monkeypatch):
  traced = []
  original = norm.at_least_float32
  counted = lambda x: traced.append(x.shape) or original(x)  # noqa: E731
  monkeypatch.setattr(norm, 'at_least_float32', counted)
  network = ResNet(block=basic_block, stage_sizes=(2,), width=3 / 64)
  variables = network.init(jax.random.key(0), np.zeros((1, 44, 52, 3)), train=False)
  backbone = Backbone(network, mean=(0.5,) * 3, std=(0.2,) * 3)
  traced.clear()

  def two(params, other, stats, x):
    one, _ = backbone.train(params, stats, x)
    two, _ = backbone.train(other, stats, x)
    return (one[0] * two[0]).sum()

  x = np.zeros((5, 44, 52, 3), np.float32)
  jax.eval_shape(
    jax.grad(two), variables['params'], variables['params'], variables['batch_stats'], x
  )
  assert sorted(traced) == [(5, 11, 13, 3), (5, 22, 26, 64)]  # of twelve layers in two networks


class Listed(nn.Module):
  """A network whose attribute is a list."""

  widths: list


def test_a_network_that_cannot_be_hashed_is_told_when_it_is_given():
  with pytest.raises(ValueError, match=r'^Listed\(.* widths = \[2\].*\) cannot be hashed; give it'):
    Backbone(Listed([2]), mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.mark.parametrize('groups', [1, 2, 4, 16])
def test_each_group_is_normalised_by_itself(groups):
  variables, x = example()
  y, stats = jax.jit(train(groups))(variables, x)
  expected, expected_stats = slow_oracle(variables, x, groups)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, expected_stats)


def test_vectors_are_normalised_as_maps_are():
  variables, x = example()
  y, stats = train(4)(variables, x[:, 2, 1])
  expected, expected_stats = slow_oracle(variables, x[:, 2, 1], 4)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, expected_stats)


def train_valid(variables, x, valid, groups):
  module = GroupedBatchNorm(groups)
  y, changed = module.apply(variables, x, True, valid, mutable=['batch_stats'])
  return y, changed['batch_stats']


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('shape', ['vectors', 'maps'])
def test_what_is_not_valid_is_as_if_it_were_not_there(groups, shape):
  variables, x = example()
  x = x[:, 2, 1] if shape == 'vectors' else x
  valid = np.arange(16) % 3 > 0  # another number in every group
  spoilt = x.copy()
  spoilt[~valid] = np.nan
  y, stats = jax.jit(train_valid, static_argnums=3)(variables, spoilt, valid, groups)
  parts = [
    slow_oracle(variables, part, 1)
    for part in (
      x[i : i + 16 // groups][valid[i : i + 16 // groups]] for i in range(0, 16, 16 // groups)
    )
  ]
  np.testing.assert_allclose(y[valid], np.concatenate([part for part, _ in parts]), atol=1e-4)
  for name in ('mean', 'var'):
    expected = np.mean([own[name] for _, own in parts], 0)
    np.testing.assert_allclose(stats[name], expected, rtol=1e-4, atol=1e-5)


def test_a_group_without_valid_examples_has_no_say_and_finite_gradients():
  variables, x = example()
  for valid, groups in ((np.arange(16) >= 8, 2), (np.zeros(16, bool), 1), (np.arange(16) == 3, 1)):
    y, stats = train_valid(variables, x[:, 2, 1], valid, groups)
    if valid.sum() == 8:
      _, expected = slow_oracle(variables, x[8:, 2, 1], 1)
    elif not valid.any():
      expected = variables['batch_stats']
    else:
      expected = jax.tree.map(lambda s: 0.9 * s, variables['batch_stats'])
      expected['mean'] = expected['mean'] + 0.1 * x[3, 2, 1]  # of one, the variance is 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), stats, expected)
    assert np.isfinite(y).all()

    def loss(x, valid=valid, groups=groups):
      return (train_valid(variables, x, valid, groups)[0] * valid[:, None]).sum()

    gradient = jax.grad(loss)(x[:, 2, 1])
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~valid], 0)


def test_evaluation_uses_the_running_statistics_and_ignores_groups():
  variables, x = example()
  y = GroupedBatchNorm(5).apply(variables, x, train=False)  # 5 does not divide 16
  mean, var = variables['batch_stats']['mean'], variables['batch_stats']['var']
  expected = (x - mean) / np.sqrt(var + 1e-5) * variables['params']['scale']
  np.testing.assert_allclose(y, expected + variables['params']['bias'], rtol=1e-5, atol=1e-5)


def test_init_leaves_the_running_statistics_at_zero_and_one():
  _, x = example()
  variables = GroupedBatchNorm(4).init(jax.random.key(0), x, train=True)
  expected = {
    'params': {'scale': np.ones(7), 'bias': np.zeros(7)},
    'batch_stats': {'mean': np.zeros(7), 'var': np.ones(7)},
  }
  jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_a_large_mean_does_not_cancel_the_variance():
  variables, x = example()
  y, _ = train(4)(variables, x + np.float32(1000))
  expected, _ = slow_oracle(variables, (x + np.float32(1000)).astype(np.float64), 4)
  np.testing.assert_allclose(y, expected, atol=1e-3)


def test_bfloat16_has_float32_statistics():
  variables, x = example()
  x = jnp.asarray(x, jnp.bfloat16)
  y, stats = train(4)(variables, x)
  expected, expected_stats = slow_oracle(variables, np.asarray(x, np.float32), 4)
  assert y.dtype == jnp.bfloat16
  assert stats['var'].dtype == stats['mean'].dtype == np.float32
  np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=2**-8, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, expected_stats)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    variables, x = example(np.float64)
    y, stats = train(4)(variables, x)
    expected, expected_stats = slow_oracle(variables, x, 4)
    assert y.dtype == stats['mean'].dtype == stats['var'].dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), stats, expected_stats)
    variables = GroupedBatchNorm(4).init(jax.random.key(0), x, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    _, stats = train(4)(variables, x)  # the state keeps its dtype
    assert stats['var'].dtype == np.float32


def test_a_batch_that_does_not_split_is_an_error():
  variables, x = example()
  message = (
    'batch of 14 does not split into 4 norm groups; use a batch that is a multiple of 4, or '
    'another norm_groups'
  )
  with pytest.raises(ValueError, match=message):
    train(4)(variables, x[:14])


def test_one_value_a_channel_is_an_error():
  variables, x = example()
  with pytest.raises(ValueError, match=r'more than one value a channel: got shape \(16, 7\) in 16'):
    train(16)(variables, x[:, 0, 0])


def plain(variables, x, valid, groups):
  """What `GroupedBatchNorm` gives, as operations that are differentiated one by one."""
  y, weight = x.reshape(groups, -1, *x.shape[1:]), valid.reshape(groups, -1, 1, 1, 1)
  axes, count = (1, 2, 3), weight.sum((1, 2, 3), keepdims=True) * math.prod(x.shape[1:-1])
  mean = (weight * y).sum(axes, keepdims=True) / count
  var = (weight * (y - mean) ** 2).sum(axes, keepdims=True) / count
  y = (y - mean) / jnp.sqrt(var + 1e-5) * variables['params']['scale']
  return (y + variables['params']['bias']).reshape(x.shape)


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('masked', [False, True])
def test_the_gradient_is_that_of_the_formula(groups, masked):
  with jax.enable_x64(True):
    variables, x = example(np.float64)
    valid = np.arange(16) % 3 > 0 if masked else np.ones(16, bool)
    weight = np.random.default_rng(2).normal(size=x.shape)

    def norm(variables, x):
      given = valid if masked else None
      return train_valid(variables, x, given, groups)[0]

    def loss(y, counted):
      return (jnp.sin(y) * weight * counted[:, None, None, None]).sum()

    formula = lambda *given: loss(plain(*given, valid, groups), valid)  # noqa: E731
    mine = lambda *given: loss(norm(*given), np.ones(16))  # noqa: E731
    expected, found = (jax.jit(jax.grad(f, (0, 1)))(variables, x) for f in (formula, mine))
  for mine, theirs in ((found[0]['params'], expected[0]['params']), (found[1], expected[1])):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), mine, theirs)
  assert np.abs(found[1]).max() > 0.1


@pytest.mark.parametrize('masked', [False, True])
def test_second_derivatives_are_those_of_the_formula(masked):
  with jax.enable_x64(True):
    variables, x = example(np.float64)
    valid = np.arange(16) % 3 > 0 if masked else np.ones(16, bool)
    weight, direction = np.random.default_rng(2).normal(size=(2, *x.shape))
    weight *= valid[:, None, None, None]

    def of_gradient(norm):  # a Hessian times a direction, in the parameters and in x
      loss = lambda variables, x: (jnp.sin(norm(variables, x)) * weight).sum()  # noqa: E731
      slope = lambda *given: (jax.grad(loss, 1)(*given) * direction).sum()  # noqa: E731
      return jax.jit(jax.grad(slope, (0, 1)))(variables, x)

    mine = of_gradient(lambda v, x: train_valid(v, x, valid if masked else None, 4)[0])
    formula = of_gradient(lambda v, x: plain(v, x, valid, 4))
  for found, expected in ((mine[0]['params'], formula[0]['params']), (mine[1], formula[1])):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, expected)
  assert np.abs(mine[1]).max() > 0.1


def test_running_statistics_have_no_gradient():
  variables, x = example()
  gradient = jax.grad(lambda x: sum(s.sum() for s in train(4)(variables, x)[1].values()))(x)
  np.testing.assert_array_equal(gradient, 0)


def test_the_gradient_of_bfloat16_is_that_of_its_values():
  variables, x = example()
  weight = np.random.default_rng(2).normal(size=SHAPE)
  x, weight = (jnp.asarray(a, jnp.bfloat16) for a in (x, weight))
  loss = lambda x: (train(4)(variables, x)[0] * weight.astype(x.dtype)).sum()  # noqa: E731
  found, expected = jax.grad(loss)(x), jax.grad(loss)(x.astype(jnp.float32))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2**-8, atol=1e-3)


def gradient(groups):
  """The whole backward pass too: gradients of parameters and of x, beside the statistics."""

  def loss(variables, x):
    y, stats = train(groups)(variables, x)
    return (jnp.sin(y) * jnp.arange(y[0].size).reshape(y.shape[1:])).mean(), (y, stats)

  return jax.grad(loss, argnums=(0, 1), has_aux=True)


@pytest.mark.parametrize('groups', [1, 4, 8])
def test_eight_devices_give_the_numbers_of_one_and_exchange_only_statistics(groups):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec('data'))
  everywhere = NamedSharding(mesh, PartitionSpec())
  with jax.enable_x64(True):
    variables, x = example(np.float64)
    expected = jax.jit(gradient(groups))(variables, x)
    # Gradient and value of x stay where their examples are; the rest is the same on every device.
    shardings = ((everywhere, split), (split, everywhere))
    step = jax.jit(gradient(groups), in_shardings=(everywhere, split), out_shardings=shardings)
    compiled = step.lower(variables, x).compile()
    found = compiled(jax.device_put(variables, everywhere), jax.device_put(x, split))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, expected)
  assert_only_small_all_reduces(compiled.as_text(), at_most=groups * SHAPE[-1])


def test_parameters_inside_shard_map_have_the_gradient_over_all_devices():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  whole, split = PartitionSpec(), PartitionSpec('data')
  variables, x = example()

  def gradients(groups):  # inside shard_map the two examples of a device are one group
    def loss(params, x):
      return jnp.sin(train(groups)({**variables, 'params': params}, x)[0]).sum()

    return jax.grad(loss, (0, 1))

  specs = {'in_specs': (whole, split), 'out_specs': (whole, split)}
  inside = jax.jit(jax.shard_map(gradients(1), mesh=mesh, **specs))(variables['params'], x)
  at_once = jax.jit(gradients(8))(variables['params'], x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), inside, at_once)
  assert np.abs(inside[0]['scale']).max() > 0.1


@pytest.mark.parametrize('groups', [1, 4, 8])
def test_a_network_on_eight_devices_exchanges_only_statistics(groups):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec('data'))
  everywhere = NamedSharding(mesh, PartitionSpec())
  model = ResNet(
    block=basic_block, stage_sizes=(1, 1, 1, 1), width=1 / 16, norm_groups=groups, dtype=np.float64
  )
  x = np.random.default_rng(0).normal(size=(16, 32, 32, 3)) * np.arange(1, 17)[:, None, None, None]
  apply = functools.partial(model.apply, train=True, mutable=['batch_stats'])
  with jax.enable_x64(True):
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), x[:1])
    variables = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
    expected = jax.jit(apply)(variables, x)
    shardings = {'in_shardings': (everywhere, split), 'out_shardings': (split, everywhere)}
    compiled = jax.jit(apply, **shardings).lower(variables, x).compile()
    found = compiled(jax.device_put(variables, everywhere), jax.device_put(x, split))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, expected)
  assert_only_small_all_reduces(compiled.as_text(), at_most=groups * 64)


def assert_only_small_all_reduces(hlo, *, at_most):
  """No collective but all-reduce, and none of an array of more than `at_most` numbers."""
  pattern = r'= (.*?) (all-\w+|reduce-scatter|collective-\w+|ragged-all-\w+)(?:-start)?\('
  collectives = re.findall(pattern, hlo)
  assert collectives  # at least the mean over examples is one
  for result, name in collectives:
    assert name == 'all-reduce', (name, result)
    shapes = re.findall(r'\[([\d,]*)\]', result)
    sizes = [math.prod(int(n) for n in shape.split(',') if n) for shape in shapes]
    assert max(sizes) <= at_most, (name, result)


@pytest.mark.parametrize(('offset', 'running'), [(0.0, 0.0), (30.0, 0.0), (200.0, 190.0)])
def test_one_pass_over_bfloat16_loses_little(offset, running):
  x = jnp.asarray(np.random.default_rng(0).normal(offset, 2, (16, 6, 6, 3)), jnp.bfloat16)
  norm = GroupedBatchNorm()
  variables = norm.init(jax.random.key(0), x, True)
  variables['batch_stats']['mean'] = jnp.full(3, running)
  _, changed = norm.apply(variables, x, True, mutable=['batch_stats'])
  given = np.asarray(x, np.float64).reshape(-1, 3)
  mean, var = (changed['batch_stats'][name] for name in ('mean', 'var'))
  np.testing.assert_allclose(mean, 0.9 * running + 0.1 * given.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(var, 0.9 + 0.1 * given.var(0, ddof=1), rtol=5e-4)


def test_a_constant_channel_of_bfloat16_is_normalised_to_nothing():
  x = jnp.full((8, 5, 5, 2), 217, jnp.bfloat16)
  norm = GroupedBatchNorm()
  y, _ = norm.apply(norm.init(jax.random.key(0), x, True), x, True, mutable=['batch_stats'])
  np.testing.assert_array_equal(y, 0)


def test_means_over_batches_take_one_more_at_a_time():
  batches = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  found = {'mean': np.full(3, 7, np.float32)}  # before the first batch there may be anything
  for n, batch in enumerate(batches):
    found = norm.with_one_more(found, {'mean': batch}, n)
    np.testing.assert_allclose(found['mean'], batches[: n + 1].mean(0), rtol=1e-5, atol=1e-6)

"""MoCo against three steps of the published training loop, and its own properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import training
from landmarks_jax.contracts import Batch
from landmarks_jax.interop import resnet as torch_names
from landmarks_jax.methods import moco
from landmarks_jax.models import resnet
from landmarks_jax.runtime import optim

COLOURS = {'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.3, 0.25)}
TINY = {'width': 0.0625, 'dim': 16, 'margin': 4, 'norm_groups': 2, 'queue': 24}
TINY['precision'] = 'float32'


def part(arrays, prefix):
  return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def imported(arrays, prefix):
  found = torch_names.from_torch(part(arrays, prefix), prefix='')
  return {'backbone': found['params'], 'head': {'fc0': found['head']}}, found['batch_stats']


def close(ours, theirs, tolerance):
  """Every leaf within `tolerance` of its largest value."""
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
  ):
    limit = tolerance * max(np.abs(b).max(), 1e-3)
    np.testing.assert_allclose(a, b, atol=limit, rtol=0, err_msg=jax.tree_util.keystr(path))


@pytest.fixture
def published(golden, monkeypatch):
  """The fixture's arrays; the method that they belong to; its views are the stored ones."""
  arrays = golden('moco_train')
  rate, momentum, decay, average, temperature = arrays['hyper'].tolist()
  stored = iter(range(1000))

  def stored_view(rng, image, **options):
    first = 3 * (next(stored) % 2)  # the step asks for the query's view, then for the key's
    return 255 * image[..., first : first + 3]

  monkeypatch.setattr(moco.views, 'random_view', stored_view)
  tiny = functools.partial(
    resnet.ResNet, block=resnet.basic_block, stage_sizes=tuple(arrays['cfg_layers'].tolist())
  )
  monkeypatch.setattr(
    moco.resnet, 'ResNet', lambda depth, width, norm_groups, dtype: tiny(width=width)
  )
  method = moco.build(
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    width=float(arrays['cfg_width']),
    dim=32,
    temperature=temperature,
    queue=16,
    momentum=average,
    norm_groups=1,
    precision='float32',
  )
  tx = optim.sgd(rate, momentum=momentum, weight_decay=decay)
  params, stats = imported(arrays, 'q_init/')
  key, key_stats = imported(arrays, 'k_init/')
  aux = {'stats': stats, 'key': key, 'key_stats': key_stats}
  aux |= {'queue': jnp.asarray(arrays['queue0']), 'pointer': jnp.zeros((), 'int32')}
  state = training.TrainState(jnp.zeros((), 'int32'), params, aux, tx.init(params))
  batches = [Batch(image=np.moveaxis(x, 1, -1)) for x in arrays['x']]
  return arrays, method, tx, state, batches


def test_three_steps_equal_the_published_loop(published):
  arrays, method, tx, state, batches = published
  step = jax.jit(training.make_train_step(method, tx))
  for i, batch in enumerate(batches):
    state, metrics = step(state, batch, jax.random.key(5))
    np.testing.assert_allclose(metrics['loss'], arrays['loss'][i], atol=(1e-5, 5e-5, 1e-4)[i])
  params, stats = imported(arrays, 'q_final/')
  key, key_stats = imported(arrays, 'k_final/')
  close(state.params, params, 1e-4)
  close(state.aux['stats'], stats, 1e-4)
  close(state.aux['key'], key, 1e-4)
  close(state.aux['key_stats'], key_stats, 1e-4)
  close(state.aux['queue'], arrays['queue_final'], 1e-4)
  assert state.aux['pointer'] == arrays['index_final']


def test_the_first_gradient_equals_the_published_one(published):
  arrays, method, _, state, batches = published
  args = state.params, state.aux, batches[0], jax.random.key(5), state.step
  ours = jax.jit(jax.grad(method.loss, has_aux=True))(*args)[0]
  theirs = torch_names.from_torch(part(arrays, 'grad_step1/') | running(arrays), prefix='')
  close(ours, {'backbone': theirs['params'], 'head': {'fc0': theirs['head']}}, 1e-4)


def running(arrays):
  """The running statistics, which have no gradient but belong to a complete network."""
  return {k: v for k, v in part(arrays, 'q_init/').items() if 'running' in k or 'tracked' in k}


def frames(seed, count=8, side=40):
  return np.random.default_rng(seed).integers(0, 255, (count, side, side, 3), np.uint8)


def start(**options):
  method = moco.build(**COLOURS, **(TINY | options))
  params, aux = method.init(jax.random.key(0), Batch(image=frames(0)))
  return method, params, aux


def test_the_first_queue_is_uniform_and_its_rows_are_of_unit_length_on_average():
  queue = np.asarray(moco.random_queue(jax.random.key(0), 4000, 12))
  np.testing.assert_allclose((queue**2).sum(1).mean(), 1, rtol=0.02)
  np.testing.assert_allclose(
    np.quantile(queue, [0, 0.25, 0.5, 1]), [-0.5, -0.25, 0, 0.5], atol=0.02
  )


@pytest.mark.parametrize('pointer', [0, 5, 7])
def test_the_oldest_keys_are_overwritten(pointer):
  queue, keys = np.zeros((8, 2), np.float32), np.arange(1, 7, dtype=np.float32).reshape(3, 2)
  expected = queue.copy()
  for i, key in enumerate(keys):
    expected[(pointer + i) % 8] = key
  found, after = moco.enqueue(queue, jnp.int32(pointer), keys)
  np.testing.assert_array_equal(found, expected)
  assert after == (pointer + 3) % 8


def test_a_batch_as_large_as_the_queue_replaces_it():
  keys = np.arange(8, dtype=np.float32).reshape(4, 2)
  found, after = moco.enqueue(np.zeros((4, 2), np.float32), jnp.int32(3), keys)
  np.testing.assert_array_equal(found, np.roll(keys, 3, axis=0))
  assert after == 3


def test_a_queue_smaller_than_the_batch_is_refused():
  with pytest.raises(
    ValueError, match='queue=4 is smaller than the batch of 6: make it at least 6'
  ):
    moco.enqueue(jnp.zeros((4, 2)), jnp.int32(0), jnp.ones((6, 2)))


def test_keys_of_another_number_of_channels_are_refused():
  # The shape hook speaks first in tests; the unhooked function is what a user calls.
  bare = moco.enqueue.__wrapped__
  with pytest.raises(ValueError, match=r'keys: C=1 in shape \(2, 1\), but queue has C=4'):
    bare(jnp.zeros((6, 4)), jnp.int32(0), jnp.ones((2, 1)))


def test_an_unknown_precision_is_refused():
  with pytest.raises(ValueError, match="'half': choose from float32, bfloat16"):
    moco.build(**COLOURS, precision='half')


@pytest.mark.parametrize('levels', [1, 4, 5])
def test_the_pyramid_has_as_many_levels_as_asked_coarse_to_fine(levels):
  method = moco.build(**COLOURS, **TINY, levels=levels)
  image = frames(0, side=64)
  state = jax.eval_shape(method.init, jax.random.key(0), Batch(image=image))
  pyramid = jax.eval_shape(method.describe, *state, image)
  assert [level.shape[1] for level in pyramid] == [2, 4, 8, 16, 16][:levels]  # the stem is pooled


@pytest.mark.parametrize(('option', 'default'), [
  ('patch', 16), ('heads', 6), ('registers', 0), ('grid', 14)
])  # fmt: skip
def test_a_resnet_refuses_options_of_a_vit_unless_at_their_defaults(option, default):
  moco.build(**COLOURS, **{option: default})
  message = f"^{option}=8: network='resnet' has no {option}; leave it at its default, {default}, or"
  with pytest.raises(ValueError, match=message + " choose network='vit'$"):
    moco.build(**COLOURS, **{option: 8})


@pytest.mark.parametrize('levels', [0, 6])
def test_levels_that_no_network_has_are_refused(levels):
  with pytest.raises(ValueError, match=f'levels={levels}: expected 1 to 5'):
    moco.build(**COLOURS, levels=levels)


def test_the_options_of_views_reach_them(monkeypatch):
  options = {'margin': 3, 'area': (0.3, 0.9), 'aspect': (0.8, 1.2)}
  options |= {'jitter': 0.3, 'pca': 0.2, 'jpeg': True}
  found, view = [], np.zeros((8, 34, 34, 3), np.float32)
  monkeypatch.setattr(moco.views, 'random_view', lambda *_, **given: found.append(given) or view)
  moco.build(**COLOURS, **options).views(Batch(image=frames(0)), jax.random.key(0))
  assert found == [options] * 2


@pytest.mark.parametrize('momentum', [0.0, 1.0])
def test_the_key_encoder_may_be_the_query_encoder_or_stay_as_it_is(momentum):
  method = moco.build(**COLOURS, momentum=momentum)
  old, new = {'w': jnp.ones(2)}, {'w': jnp.full(2, 3.0)}
  after = method.after_update(new, {'key': old}, jnp.int32(0))
  np.testing.assert_array_equal(after['key']['w'], (old if momentum else new)['w'])


def test_the_key_encoder_gets_no_gradient_and_moves_slowly_after_the_step():
  method, params, aux = start(momentum=0.9)
  moved = jax.tree.map(lambda x: x + 1, params)
  after = method.after_update(moved, aux, jnp.int32(0))
  for new, old in zip(jax.tree.leaves(after['key']), jax.tree.leaves(aux['key']), strict=True):
    np.testing.assert_allclose(new, old + 0.1, atol=1e-6)

  @jax.jit
  @jax.grad
  def gradient(key):
    batch, rng = Batch(image=frames(1)), jax.random.key(2)
    return method.loss(params, aux | {'key': key}, batch, rng, jnp.int32(0))[0]

  grad = gradient(aux['key'])
  assert all((g == 0).all() for g in jax.tree.leaves(grad))


def test_dealing_gives_every_group_as_many_of_each_and_is_undone():
  rows = np.stack([np.arange(24), -np.arange(24)], axis=1)
  dealt = moco.deal(rows, 3)
  for group in np.split(dealt[:, 0], 3):
    assert {2, 3} == set(np.bincount(group // 8, minlength=3))
  assert sorted(dealt[:, 0]) == list(range(24))
  np.testing.assert_array_equal(moco.deal(dealt, 8), rows)


@pytest.mark.parametrize('array', [np.zeros, jnp.zeros])
def test_rows_that_do_not_divide_are_not_dealt(array):
  with pytest.raises(ValueError, match='5 rows cannot be dealt into 2 groups of one size'):
    moco.deal(array((5, 2)), 2)


def test_keys_are_those_of_other_groups_and_return_to_their_rows(monkeypatch):
  """With two groups the keys depend on the order; with one they do not."""
  dealt, given = moco.deal, []

  def queue(groups, deal):
    monkeypatch.setattr(moco, 'deal', deal)
    method, params, aux = start(
      norm_groups=groups, jitter=0.0, pca=0.0, area=(1.0, 1.0), aspect=(1.0, 1.0)
    )
    batch, rng = Batch(image=frames(3)), jax.random.key(4)
    loss = jax.jit(method.loss, compiler_options={'xla_backend_optimization_level': 3})
    _, (aux, _) = loss(params, aux, batch, rng, jnp.int32(0))  # rounded alike: conftest.py
    return np.asarray(aux['queue'][:8])

  def in_pairs(rows, groups):
    given.append(groups)
    return dealt(rows, 2 if rows.ndim == 4 else 4)  # frames out, keys back

  def in_order(rows, groups):
    return rows

  one, two = ([queue(groups, deal) for deal in (in_order, in_pairs)] for groups in (1, 2))
  np.testing.assert_allclose(*one, atol=1e-4)  # undone: row i is example i's key
  assert np.abs(two[0] - two[1]).max() > 1e-3
  assert given == [1, 8, 2, 4]


def test_queries_and_keys_are_those_of_two_views_and_their_mean_product_is_logged():
  small = {'network': 'vit', 'depth': 1, 'heads': 1, 'patch': 8, 'grid': 4}
  whole = {'jitter': 0.0, 'pca': 0.0, 'area': (1.0, 1.0), 'aspect': (1.0, 1.0)}
  (plain, params, aux), (varied, _, _) = start(**small, **whole), start(**small)
  other, _ = plain.init(jax.random.key(1), Batch(image=frames(0)))

  def logged(method, key):
    given = params, aux | {'key': key}, Batch(image=frames(3)), jax.random.key(4), jnp.int32(0)
    _, (after, metrics) = jax.jit(method.loss)(*given)
    return after['queue'][:8], metrics['positive_similarity']

  query, alike = logged(plain, params)  # of the same weights, and here of the same view
  np.testing.assert_allclose(alike, 1, atol=1e-5)
  key, apart = logged(plain, other)
  np.testing.assert_allclose(apart, (query * key).sum(1).mean(), atol=1e-5)
  assert apart < 0.9
  assert logged(varied, params)[1] < 0.999


def test_without_a_queue_the_other_keys_are_the_negatives():
  method, params, aux = start(queue=0)
  assert 'queue' not in aux
  value, (after, _) = jax.jit(method.loss)(
    params, aux, Batch(image=frames(5)), jax.random.key(6), jnp.int32(0)
  )
  assert jax.tree.structure(after) == jax.tree.structure(aux)
  assert 0 < value < 2 * np.log(8) + 2 / 0.07


def test_calibration_gives_the_exact_mean_statistics_of_its_batches():
  method, params, aux = start(norm_groups=1)
  batches = [Batch(image=frames(seed)) for seed in (7, 8, 9)]
  calibrated = aux
  for n, batch in enumerate(batches):
    calibrated = jax.jit(method.calibrate)(params, calibrated, batch, jax.random.key(0), n)
  found = calibrated['stats']['bn1']['mean']
  kernel = params['backbone']['conv1']['kernel']
  images = np.concatenate([b.image for b in batches])[:, 4:-4, 4:-4] / 255.0
  inputs = (images - np.array(COLOURS['mean'])) / COLOURS['std']
  maps = jax.lax.conv_general_dilated(
    inputs.astype(np.float32),
    kernel,
    (2, 2),
    ((3, 3), (3, 3)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  np.testing.assert_allclose(found, maps.mean((0, 1, 2)), atol=1e-5)


def test_bfloat16_computes_near_float32_and_keeps_float32_state():
  method, params, aux = start()
  rough = moco.build(**COLOURS, **(TINY | {'precision': 'bfloat16'}))
  args = params, aux, Batch(image=frames(1)), jax.random.key(2), jnp.int32(0)
  exact, (_, _) = jax.jit(method.loss)(*args)
  value, (after, _) = jax.jit(rough.loss)(*args)
  assert {x.dtype.name for x in jax.tree.leaves(after)} == {'float32', 'int32'}
  np.testing.assert_allclose(value, exact, rtol=0.1)
  assert value != exact

"""The projection against the published one, a slow form of itself, and its promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import losses, training
from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.geometry import regions
from landmarks_jax.methods import projection
from landmarks_jax.models import hypercolumn
from landmarks_jax.runtime import optim

CHANNELS = (6, 5, 3)
RNG = jax.random.key(0)
project = jax.jit(projection.project, static_argnames=('size', 'kernel', 'mode', 'map_sharpness'))


def random_batch(count=4, *, sides=(2, 3, 6), dtype=np.float32):
  r = np.random.default_rng(0)
  pyramid = tuple(
    r.normal(size=(count, h, h, c)).astype(dtype) for h, c in zip(sides, CHANNELS, strict=True)
  )
  return Batch(pyramid=pyramid, valid=np.ones(count, bool))


def small(**options):
  return projection.build(**{'dim': 4, 'size': 6, 'side': 24} | options)


def loss_and_grads(method, params, aux, batch, rng=RNG):
  loss = jax.value_and_grad(lambda p: method.loss(p, aux, batch, rng, jnp.int32(0))[0])
  return jax.jit(loss)(params)


def assert_close(found, expected, rtol=1e-5):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=rtol * np.abs(b).max())


def ours(weight, *splits):
  """A convolution's weight [D, C, k, k] -> our kernels, of levels that end at these channels."""
  kernel = weight.transpose(1, 2, 3, 0).reshape(weight.shape[1], -1)  # column (i, j, d)
  return tuple(jnp.asarray(part) for part in np.split(kernel, splits))


# The published projection (fixtures feat_distiller, projector_train).


@pytest.mark.parametrize('splits', [(), (9, 20)])
@pytest.mark.parametrize('mode', projection.MODES)
@pytest.mark.parametrize('kernel', [1, 3])
def test_maps_are_the_published_ones(golden, kernel, mode, splits):
  """From one level or, as several of one size, from three. Softmax needs no bias to agree."""
  g = golden('feat_distiller')
  params = {'kernels': ours(g[f'w_k{kernel}'], *splits)}
  if mode != 'softmax':
    params['bias'] = g[f'b_k{kernel}']
  pyramid = tuple(np.split(g['x'].transpose(0, 2, 3, 1), splits, axis=-1))
  maps = project(params, pyramid, size=12, kernel=kernel, mode=mode, map_sharpness=7.0)
  expected = g[f'out_k{kernel}_{mode}'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_three_steps_of_adam_are_the_published_ones(golden):
  g = golden('projector_train')
  hyper = g['hyper'].transpose(0, 1, 3, 4, 2)
  method = projection.build(dim=16, size=12, side=int(g['input_size'][-1]))
  rate, beta1, beta2, decay, eps = (float(x) for x in g['adam'])
  tx = optim.adam(rate, betas=(beta1, beta2), eps=eps, weight_decay=decay)
  batches = [Batch(pyramid=(features,)) for features in hyper]
  state = training.init_state(method, tx, RNG, batches[0])
  assert jax.tree.map(jnp.shape, state.params) == {'kernels': ((24, 16),)}
  state = state._replace(params={'kernels': ours(g['w_init'])})
  step, found = jax.jit(training.make_train_step(method, tx)), []
  for batch in batches:
    state, metrics = step(state, batch, RNG)
    found.append(float(metrics['loss']))
  np.testing.assert_allclose(found, g['losses'], rtol=1e-5)
  (kernel,) = state.params['kernels']
  np.testing.assert_allclose(kernel, ours(g['w_final'])[0], atol=2e-5)
  assert np.abs(kernel - ours(g['w_init'])[0]).max() > 2e-3  # three rates: it has moved


# What the method promises.


@pytest.mark.parametrize('mode', projection.MODES)
@pytest.mark.parametrize('kernel', [1, 3])
def test_it_equals_a_convolution_of_the_stacked_hypercolumn(kernel, mode):
  """Position after position, with zeros outside; the softmax runs over positions."""
  batch, size, reach = random_batch(2), 7, kernel // 2
  method = small(kernel=kernel, mode=mode, map_sharpness=3.0, size=size)
  params, _ = method.init(RNG, batch)
  kernels = np.concatenate(params['kernels']).astype(float).reshape(14, kernel, kernel, 4)
  column = np.asarray(hypercolumn.stack(batch.pyramid, size), float)
  column = np.pad(column, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
  maps = np.zeros((2, size, size, 4))
  for n, y, x, d in np.ndindex(*maps.shape):
    for i, j in np.ndindex(kernel, kernel):
      maps[n, y, x, d] += column[n, y + i, x + j] @ kernels[:, i, j, d]
  maps += np.asarray(params.get('bias', 0))
  if mode == 'softmax':
    weight = np.exp(3 * maps)
    maps = weight / weight.sum((1, 2), keepdims=True)
  elif mode == 'softplus':
    maps = np.log(1 + np.exp(maps))
  found = project(params, batch.pyramid, size=size, kernel=kernel, mode=mode, map_sharpness=3.0)
  np.testing.assert_allclose(found, maps, atol=1e-5)


@pytest.mark.parametrize('mode', ['softplus', 'linear'])
def test_only_a_bias_that_changes_something_is_a_parameter(mode):
  batch = random_batch()
  assert set(small().init(RNG, batch)[0]) == {'kernels'}
  params, aux = small(mode=mode).init(RNG, batch)
  shifted = params | {'bias': params['bias'] + 1}
  options = {'size': 6, 'kernel': 1, 'map_sharpness': 7.0}
  for chosen, changes in ((mode, True), ('softmax', False)):
    maps = project(params, batch.pyramid, mode=chosen, **options)
    moved = project(shifted, batch.pyramid, mode=chosen, **options)
    assert (np.abs(maps - moved).max() > 0.1) == changes
  _, grads = loss_and_grads(small(mode=mode), params, aux, batch)
  assert np.abs(grads['bias']).max() > 1e-4


@pytest.mark.parametrize('kernel', [1, 3])
def test_weights_start_as_those_of_a_torch_convolution(kernel):
  params, _ = small(dim=400, kernel=kernel, mode='linear').init(RNG, random_batch())
  assert [x.shape for x in params['kernels']] == [(c, kernel**2 * 400) for c in CHANNELS]
  bound = (14 * kernel**2) ** -0.5
  for values in (np.concatenate(params['kernels']), np.asarray(params['bias'])):
    assert 0.98 * bound < np.abs(values).max() <= bound
    np.testing.assert_allclose(values.mean(), 0, atol=0.1 * bound)
    np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.05)


def test_the_loss_is_the_contrast_of_the_maps_in_pixels_of_the_picture():
  batch, method = random_batch(), small(sharpness=3.0, power=0.7, map_sharpness=2.0, side=30)
  params, aux = method.init(RNG, batch)
  options = {'size': 6, 'kernel': 1, 'mode': 'softmax', 'map_sharpness': 2.0}
  maps = project(params, batch.pyramid, **options)
  value, (_, metrics) = jax.jit(method.loss)(params, aux, batch, RNG, jnp.int32(0))
  contrast = lambda power: losses.spatial_contrast(  # noqa: E731
    maps, sharpness=3.0, stride=30 / 6, power=power
  ).mean()
  np.testing.assert_allclose(value, contrast(0.7), rtol=1e-6)
  np.testing.assert_allclose(metrics['mean_distance'], contrast(1.0), rtol=1e-6)
  # Both of one loop over pairs of positions.
  step = jax.make_jaxpr(method.loss)(params, aux, batch, RNG, jnp.int32(0))
  assert str(step).count('scan[') == 1


def test_padding_counts_for_nothing():
  batch, method = random_batch(5), small()
  params, aux = method.init(RNG, batch)
  three = jax.tree.map(lambda x: x[:3], batch)
  padded = batch._replace(valid=np.arange(5) < 3)
  assert_close(
    loss_and_grads(method, params, aux, padded), loss_and_grads(method, params, aux, three)
  )
  whole, _ = loss_and_grads(method, params, aux, batch)
  assert abs(whole - loss_and_grads(method, params, aux, three)[0]) > 1e-4


def test_features_kept_in_bfloat16_give_nearly_the_loss_of_float32():
  wide, method = random_batch(), small()
  params, aux = method.init(RNG, wide)
  half = wide._replace(pyramid=tuple(level.astype(jnp.bfloat16) for level in wide.pyramid))
  value, grads = loss_and_grads(method, params, aux, half)
  expected, _ = loss_and_grads(method, params, aux, wide)
  assert value.dtype == jnp.float32
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
  np.testing.assert_allclose(value, expected, rtol=0.01)
  assert value != expected


# Pictures through a frozen network.


def blocks():
  """A network whose levels are means of blocks, times a weight."""

  def apply(variables, image, size):
    image = jnp.asarray(image, float) / 255
    n, side = image.shape[:2]
    means = (image.reshape(n, h, side // h, h, side // h, 3).mean((2, 4)) for h in (2, 4, 8))
    return tuple(variables['scale'] * level for level in means)

  return Describer({'scale': jnp.float32(3)}, apply)


def picture_batch(side=24):
  image = np.random.default_rng(3).integers(0, 255, (4, side, side, 3), np.uint8)
  return Batch(image=image, valid=np.ones(4, bool))


def test_pictures_through_the_base_train_as_their_cached_features():
  base, batch = blocks(), picture_batch()
  method = small(base=base, margin=4, side=None)
  params, aux = method.init(RNG, batch)
  cut = regions.cut_centre(batch.image, 4)
  cached = Batch(pyramid=base.apply(base.variables, cut, None), valid=batch.valid)
  found = loss_and_grads(method, params, aux, batch)
  assert_close(found, loss_and_grads(small(side=16), params, {}, cached), rtol=1e-4)


def test_one_view_is_the_centre_or_where_asked_for_a_random_one():
  base, batch = blocks(), picture_batch()
  plain, random = (small(base=base, margin=4, side=None, augment=a) for a in (False, True))
  params, aux = plain.init(RNG, batch)
  np.testing.assert_array_equal(plain.views(batch, RNG)[0], batch.image[:, 4:-4, 4:-4])
  drawn = jax.jit(random.views)(batch, RNG)
  assert drawn.shape == (1, 4, 16, 16, 3)
  assert np.abs(drawn - plain.views(batch, RNG)).mean() > 1
  # What is shown is what is trained on.
  shown = Batch(pyramid=base.apply(base.variables, drawn[0], None), valid=batch.valid)
  found = loss_and_grads(random, params, aux, batch)
  assert_close(found, loss_and_grads(small(side=16), params, {}, shown), rtol=1e-4)


def test_it_describes_on_the_grid_asked_for_and_leaves_its_base_frozen():
  base, batch = blocks(), picture_batch(16)
  method = small(base=base, margin=0)
  tx = optim.adam(1e-2, weight_decay=0.1)
  state = training.init_state(method, tx, RNG, batch)
  state, _ = jax.jit(training.make_train_step(method, tx), donate_argnums=0)(state, batch, RNG)
  assert float(state.aux['base']['scale']) == float(base.variables['scale'])  # neither donated
  pyramid = base.apply(base.variables, batch.image, None)
  for asked, size in ((None, 6), (11, 11)):
    (maps,) = method.describe(state.params, state.aux, batch.image, asked)
    expected = project(
      state.params, pyramid, size=size, kernel=1, mode='softmax', map_sharpness=7.0
    )
    np.testing.assert_allclose(maps, expected, rtol=1e-5)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)


def test_a_wrong_option_is_an_error_that_says_what_to_give():
  with pytest.raises(ValueError, match="mode='relu': choose from softmax, softplus, linear"):
    small(mode='relu')
  for option in ({'jitter': 0.1}, {'pca': 0.2}, {'jpeg': True}, {'area': (0.5, 1.0)}):
    (name,) = option
    with pytest.raises(ValueError, match=f'{name}=.*: augment=False has no {name}; .*=True'):
      small(**option)
    small(augment=True, **option)
  with pytest.raises(ValueError, match='kernel=2: expected an odd number'):
    small(kernel=2)
  with pytest.raises(ValueError, match='no network to describe pictures with: give it a base'):
    small(margin=4).init(RNG, picture_batch())
  with pytest.raises(ValueError, match='do not know the side of their pictures: pass it as side'):
    small(side=None).init(RNG, random_batch())
  with pytest.raises(ValueError, match='augment=True needs pictures'):
    small(augment=True).init(RNG, random_batch())


# That it learns: pictures of a surface that say where on it they look, and how it repeats itself.


def surfaces(count, seed):
  """Positions on a surface [count, 16, 16, 2] of pictures that stretch and shift it, in [0, 1]."""
  r = np.random.default_rng(seed)
  y, x = np.indices((16, 16)) / 15
  zoom, shift = r.uniform(0.6, 0.8, (count, 2)), r.uniform(0, 0.2, (count, 2))
  return np.stack([x, y], -1) * zoom[:, None, None] + shift[:, None, None]


def surface_features(positions, noise, seed):
  """A loud pattern that repeats, and quiet bumps each of which is at one place only."""
  centres = np.random.default_rng(1).uniform(0, 1, (12, 2))
  phases = 2 * np.pi * (positions @ np.float64([[5, 3, -4], [2, -5, 4]]) + [0, 0.3, 0.7])
  pattern = 2 * np.concatenate([np.cos(phases), np.sin(phases)], -1)
  squared = ((positions[..., None, :] - centres) ** 2).sum(-1)
  column = np.concatenate([pattern, np.exp(-squared / (2 * 0.2**2))], -1)
  column += np.random.default_rng(seed).normal(scale=noise, size=column.shape)
  fine = column[..., :10].astype(np.float32)
  coarse = column[..., 10:].reshape(-1, 8, 2, 8, 2, 8).mean((2, 4)).astype(np.float32)
  return coarse, fine


def matching_error(params, one, other, noise):
  """Mean distance on the surface between a position and its best match in another picture."""
  maps = [
    np.asarray(
      project(
        params,
        surface_features(at, noise, seed),
        size=16,
        kernel=1,
        mode='softmax',
        map_sharpness=7.0,
      )
    ).reshape(len(at), 256, -1)
    for seed, at in ((10, one), (11, other))
  ]
  unit = [m / np.linalg.norm(m, axis=-1, keepdims=True) for m in maps]
  best = np.einsum('npc,nqc->npq', *unit).argmax(-1)
  places = [at.reshape(len(at), 256, 2) for at in (one, other)]
  found = np.take_along_axis(places[1], best[..., None], axis=1)
  return np.linalg.norm(found - places[0], axis=-1).mean()


def test_training_lowers_the_loss_and_the_matching_error():
  method = projection.build(dim=16, size=16, side=64)
  batches = [
    Batch(pyramid=surface_features(surfaces(8, seed), 0.05, seed)) for seed in range(100, 140)
  ]
  tx = optim.adam(1e-2, betas=(0.5, 0.999), weight_decay=5e-4)
  state = training.init_state(method, tx, RNG, batches[0])
  one, other = surfaces(6, 50), surfaces(6, 51)
  before = matching_error(state.params, one, other, 0.05)
  step, found = jax.jit(training.make_train_step(method, tx)), []
  for batch in batches:
    state, metrics = step(state, batch, RNG)
    found.append([float(metrics['loss']), float(metrics['mean_distance'])])
  assert (np.mean(found[-5:], axis=0) < 0.8 * np.mean(found[:5], axis=0)).all()
  assert matching_error(state.params, one, other, 0.05) < 0.5 * before

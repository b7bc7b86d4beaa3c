"""The method on pairs whose flow is known, against the losses computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import losses
from landmarks_jax.contracts import Batch
from landmarks_jax.methods import equivariant

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAIN = {'jitter': 0.0, 'pca': 0.0, 'jpeg': False, 'precision': 'float32', 'margin': 3}
SIDE, COUNT = 22, 4


def build(**options):
  chosen = {'mean': MEAN, 'std': STD, 'network': 'simple', 'width': 0.2, **PLAIN, **options}
  return equivariant.build(**chosen)


def video(seed=0):
  """Pictures, the next ones, a flow of some pixels, and where it holds."""
  r = np.random.default_rng(seed)
  frames = r.integers(0, 256, (2, COUNT, SIDE, SIDE, 3), dtype=np.uint8)
  flow = r.normal(0, 2, (COUNT, SIDE, SIDE, 2)).astype(np.float32)
  return Batch(
    image=frames[0], next=frames[1], flow=flow, flow_valid=r.random((COUNT, SIDE, SIDE)) < 0.4
  )


def started(method, batch):
  params, aux = jax.jit(method.init)(jax.random.key(0), Batch(image=batch.image))
  # Not at the start, where the last biases are zero and statistics trivial.
  moved = lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)  # noqa: E731
  return jax.tree.map(moved, params), aux


def loss_of(method, state, batch, seed=1):
  return jax.jit(method.loss)(*state, batch, jax.random.key(seed), jnp.int32(0))


def inner(array, margin=PLAIN['margin']):
  return array[:, margin:-margin, margin:-margin]


def trained_labels(method, state, images):
  """Labels by the statistics of these pictures: training mode, from `calibrate`."""
  params, aux = state
  aux = method.calibrate(params, aux, Batch(image=images), jax.random.key(0), jnp.int32(0))
  return method.describe(params, aux, inner(images))[0]


COMPARED = {
  'distance': lambda q, k, b: losses.equivariance_distance(
    q, k, inner(b.flow), inner(b.flow_valid), power=0.7, sharpness=2.0
  ),
  'nll': lambda q, k, b: losses.equivariance_nll(
    q, k, inner(b.flow), inner(b.flow_valid), sharpness=2.0
  ),
}


@pytest.mark.parametrize('loss', COMPARED)
@pytest.mark.parametrize('normalise', [False, True])
def test_the_loss_of_a_video_is_that_of_its_labels_and_its_flow(loss, normalise):
  batch = video()
  power = {'power': 0.7} if loss == 'distance' else {}
  method = build(loss=loss, sharpness=2.0, normalise=normalise, **power)
  state = started(method, batch)
  value, (_, metrics) = loss_of(method, state, batch)
  # Statistics of both pictures together; calibrate's are unbiased, the normaliser's are not.
  both = np.concatenate([batch.image, batch.next])
  labels = trained_labels(method, state, both)
  length = np.linalg.norm(labels, axis=-1, keepdims=True)
  assert np.ptp(length) > 0.1  # a description is not normalised
  labels = labels / length if normalise else labels
  expected = COMPARED[loss](*np.split(np.asarray(labels), 2), batch).mean()
  np.testing.assert_allclose(value, expected, rtol=1e-2)
  np.testing.assert_allclose(metrics['matched'], inner(batch.flow_valid).mean(), rtol=1e-6)


def test_the_exchange_is_with_the_next_picture_of_the_batch():
  batch = video()
  method = build(exchange=True, sharpness=60.0, normalise=True, dim=6)
  state = started(method, batch)
  value, _ = loss_of(method, state, batch)
  both = np.concatenate([batch.image, batch.next])
  query, key = np.split(np.asarray(losses.unit(trained_labels(method, state, both))), 2)

  def expected(other):
    told = losses.descriptor_exchange(query, query[other], sharpness=60.0)
    flow = inner(batch.flow), inner(batch.flow_valid)
    return losses.equivariance_distance(told, key, *flow, sharpness=60.0).mean()

  next_one = np.array([1, 2, 3, 0])
  np.testing.assert_allclose(value, expected(next_one), rtol=1e-3)
  assert abs(expected(next_one[::-1]) - expected(next_one)) > 3e-3 * value


def test_neighbours_and_their_gradient_are_those_of_a_roll():
  maps, weight = np.random.default_rng(0).normal(size=(2, 5, 2, 3, 4)).astype('f')

  def cost(roll):
    return jax.value_and_grad(lambda maps: (jnp.sin(roll(maps)) * weight).sum())(maps)

  ours, theirs = cost(equivariant.neighbours), cost(lambda maps: jnp.roll(maps, -1, axis=0))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  # Networks of several seeds are trained at once by `vmap`.
  both = jax.vmap(jax.grad(lambda maps: (jnp.sin(equivariant.neighbours(maps)) * weight).sum()))
  np.testing.assert_allclose(both(np.stack([maps, weight]))[0], theirs[1], rtol=1e-6)


def test_padding_costs_nothing():
  batch = video()
  method = build()
  state = started(method, batch)
  valid = np.array([True, False, True, True])
  noise = np.random.default_rng(5).normal(size=batch.flow.shape).astype(np.float32)
  other = batch._replace(flow=np.where(valid[:, None, None, None], batch.flow, noise))
  one, two = (loss_of(method, state, b._replace(valid=valid))[0] for b in (batch, other))
  np.testing.assert_allclose(one, two, rtol=1e-6)
  assert abs(loss_of(method, state, other)[0] - loss_of(method, state, batch)[0]) > 1e-4


def test_a_picture_without_a_next_one_is_warped_into_a_pair():
  batch = Batch(image=video().image)
  still = {'warp': 0.0, 'subset': 0.0, 'translation': 0.0, 'scale': 0.0, 'rotation': 0.0}
  image, following = build(**still).views(batch, jax.random.key(0))
  np.testing.assert_allclose(image, inner(batch.image), atol=1e-3)
  np.testing.assert_allclose(following, inner(batch.image), atol=1e-3)
  image, following = build().views(batch, jax.random.key(0))
  assert np.abs(image - following).mean() > 5
  again, _ = build().views(batch, jax.random.key(1))
  assert np.abs(image - again).mean() > 5


def test_two_pictures_have_their_own_noise():
  batch = video()._replace(next=video().image)
  for options in ({'jitter': 0.4}, {'pca': 0.3}, {'jpeg': True}):
    image, following = build(**options).views(batch, jax.random.key(0))
    assert np.abs(image - following).mean() > 0.5, options
    assert np.abs(image - inner(batch.image)).mean() > 0.5, options


def test_labels_that_are_all_alike_are_matched_anywhere():
  batch = video()
  method = build()
  params, aux = started(method, batch)
  params = params | {'labels': jax.tree.map(jnp.zeros_like, params['labels'])}
  value, _ = loss_of(method, (params, aux), batch)
  side = (SIDE - 2 * PLAIN['margin']) // 2
  y, x = np.indices((side, side)) * 2
  cells = np.stack([x, y], -1).reshape(-1, 2)
  flow, seen = (
    inner(a)[:, ::2, ::2].reshape(COUNT, side**2, -1) for a in (batch.flow, batch.flow_valid)
  )
  away = np.linalg.norm(cells[None, None] - (cells + flow)[:, :, None], axis=-1) ** 0.5
  expected = [(a.mean(1) * s[:, 0]).sum() / s.sum() for a, s in zip(away, seen, strict=True)]
  np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'channels'),
  [
    ({'network': 'simple', 'dim': 5}, 5),
    ({'network': 'dilations', 'dim': 2}, 2),
    ({'network': 'hourglass', 'dim': 4, 'width': 0.25, 'blocks': 1, 'norm': 'group'}, 4),
    ({'network': 'hourglass', 'dim': 4, 'width': 0.0625, 'blocks': 1, 'stacks': 2}, 4),
  ],
)
def test_every_network_gives_one_map_of_half_the_side(options, channels):
  method = build(**options)
  image = np.zeros((2, 38, 38, 3), np.uint8)
  shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), Batch(image=image)))
  described = jax.eval_shape(lambda s: method.describe(*s, image[:, 3:-3, 3:-3]), shapes)
  assert [level.shape for level in described] == [(2, 16, 16, channels)]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'network': 'vgg'}, "network='vgg': choose from simple, dilations, hourglass"),
    ({'loss': 'mse'}, "loss='mse': choose from distance, nll"),
    ({'precision': 'int8'}, "precision='int8': choose from float32, bfloat16"),
    ({'network': 'hourglass', 'width': 0.01}, 'width=0.01 leaves no channels'),
    (
      {'network': 'dilations', 'norm': 'nonsense'},
      "^norm='nonsense': network='dilations' has no norm; it has leak; leave it at its default, "
      "'batch', or choose network='hourglass'$",
    ),
    ({'network': 'simple', 'scaled': True}, "scaled=True: network='simple' has no scaled"),
    ({'features': (1, 2, 3)}, r"features=\(1, 2, 3\): network='simple' has no features"),
    ({'network': 'hourglass', 'leak': 0.2}, "leak=0.2: network='hourglass' has no leak; it has st"),
    (
      {'loss': 'nll', 'power': 3.0},
      "^power=3.0: loss='nll' has no power; leave it at its default, 0.5, or choose loss='dist",
    ),
  ],
)
def test_what_does_not_exist_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    build(**options)

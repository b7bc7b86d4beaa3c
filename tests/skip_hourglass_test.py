"""The networks of lmdis: their size, their layers in order, and what their pictures must be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from landmarks_jax.models import skip_hourglass
from landmarks_jax.models.skip_hourglass import NETWORKS, Layers, Level, SkipHourglass

PUBLISHED = {  # by landmarks: specification lmdis, section 3
  10: {'detector': 680_769, 'features': 4_745_280, 'decoder': 14_367_561},
  30: {'detector': 686_589, 'features': 4_745_280, 'decoder': 14_425_161},
}


def sizes(landmarks, **options):
  layers = NETWORKS['paper']
  networks = {
    'detector': (SkipHourglass(layers.detector, landmarks + 1, **options), 96, 3),
    'features': (SkipHourglass(layers.features, **options), 96, 3),
    'decoder': (SkipHourglass(layers.decoder, 3, **options), 80, 5 * (landmarks + 1) + 320),
  }
  found = {}
  for name, (network, side, channels) in networks.items():
    image = jax.ShapeDtypeStruct((1, side, side, channels), np.float32)
    shapes = jax.eval_shape(
      lambda image, network=network: network.init(jax.random.key(0), image, train=False), image
    )
    found[name] = shapes['params']
  return found


@pytest.mark.parametrize('landmarks', PUBLISHED)
def test_they_have_as_many_parameters_as_published(landmarks):
  for name, params in sizes(landmarks, biases=True).items():
    assert sum(x.size for x in jax.tree.leaves(params)) == PUBLISHED[landmarks][name]


def test_without_biases_only_those_before_a_norm_are_gone():
  whole, less = sizes(10, biases=True), sizes(10)
  for name in whole:
    removed = whole[name].keys() ^ less[name].keys()
    assert not removed
    for layer, params in whole[name].items():
      gone = {'bias'} if layer.endswith('_conv') else set()
      assert params.keys() - less[name][layer].keys() == gone


def started(network, image):
  return jax.jit(lambda image: network.init(jax.random.key(0), image, train=False))(image)


def tested(network, variables, image):
  return jax.jit(lambda given, image: network.apply(given, image, train=False))(variables, image)


def by_hand(params, x):
  """The levels one after another, in training mode."""

  def block(x, name, active=True):
    kernel = params[f'{name}_conv']['kernel']
    x = lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    norm = params[f'{name}_bn']
    x = (x - mean) / jnp.sqrt(var + 1e-3) * norm['scale'] + norm['bias']
    return jnp.where(x > 0, x, 0.2 * x) if active else x

  def halved(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))

  def doubled(x):
    return jnp.kron(x, jnp.ones((1, 2, 2, 1)))

  one = block(block(x, 'down0_0'), 'down0_1')
  two = block(halved(one), 'down1_0')
  x = block(two, 'up1_0')
  skip = block(block(one, 'skip0_0'), 'skip0_1')
  return block(block(doubled(x) + skip, 'up0_0'), 'last', active=False)


def test_a_small_one_is_its_layers_by_hand():
  layers = Layers((Level((4, 6), (5,)), Level((8,), (6,))), skips=2)
  network = SkipHourglass(layers, channels=3)
  image = jax.random.normal(jax.random.key(1), (2, 6, 8, 3))
  variables = started(network, image)
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), variables['params']
  )
  train = jax.jit(lambda given: network.apply(given, image, True, mutable=['batch_stats'])[0])
  expected = jax.jit(by_hand)(params, image)
  np.testing.assert_allclose(train(variables | {'params': params}), expected, atol=2e-5)


def test_a_stem_halves_the_map_first_and_has_its_bias():
  layers = Layers((Level((4,), (5,)), Level((8,), (6,))), skips=1, stem=7, last_side=1)
  network = SkipHourglass(layers, channels=3)
  image = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  variables = started(network, image)
  assert variables['params']['stem']['bias'].shape == (7,)
  assert variables['params']['last_conv']['kernel'].shape == (1, 1, 5, 3)
  found = tested(network, variables, image)
  assert found.shape == (2, 4, 4, 3)
  stem = nn.Conv(7, (3, 3)).apply({'params': variables['params']['stem']}, image)
  pooled = nn.max_pool(stem, (2, 2), (2, 2))
  rest = SkipHourglass(layers._replace(stem=0), channels=3)
  without = {k: {n: v for n, v in tree.items() if n != 'stem'} for k, tree in variables.items()}
  np.testing.assert_allclose(tested(rest, without, pooled), found, atol=1e-6)


@pytest.mark.parametrize(('stem', 'side', 'multiple'), [(0, 12, 8), (0, 20, 8), (16, 40, 16)])
def test_a_map_that_cannot_be_halved_is_refused(stem, side, multiple):
  layers = NETWORKS['paper'].detector._replace(stem=stem)
  with pytest.raises(ValueError, match=f'{side} x {side} .* multiples of {multiple}'):
    jax.eval_shape(
      lambda: SkipHourglass(layers, 3).init(
        jax.random.key(0), jnp.zeros((1, side, side, 3)), train=False
      )
    )


def test_every_network_of_the_table_fits_together():
  for name, networks in NETWORKS.items():
    for part, layers in networks._asdict().items():
      network = SkipHourglass(layers, channels=4 if part != 'features' else None, width=0.25)
      side = 32 * (2 if layers.stem else 1)
      shape = jax.eval_shape(
        lambda network=network, side=side: network.init_with_output(
          jax.random.key(0), jnp.zeros((1, side, side, 3)), train=False
        )[0]
      ).shape
      assert shape == (1, 32, 32, 16 if part == 'features' else 4), name


def test_the_leak_and_epsilon_are_the_published_ones():
  assert (skip_hourglass.LEAK, skip_hourglass.EPSILON) == (0.2, 1e-3)

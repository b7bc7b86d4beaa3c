"""The ViT against a slow one in NumPy, written from the papers, on weights in their layout."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch
from landmarks_jax.interop import vit as interop
from landmarks_jax.methods import moco
from landmarks_jax.models import vit

CHANNELS, HEADS, PATCH, GRID, DEPTH = 24, 3, 4, 5, 2
MODEL = vit.ViT(patch=PATCH, depth=DEPTH, heads=HEADS, width=CHANNELS / HEADS / 64, grid=GRID)


def published(*, registers=0, scaled=False, own_position=True, seed=0, depth=DEPTH):
  """Random weights in the names and layouts of timm and DINO."""
  rng = np.random.default_rng(seed)

  def random(*shape):
    return rng.normal(0, 0.3, shape).astype('f')

  def layer(outputs, *inputs):
    return {'weight': random(outputs, *inputs), 'bias': random(outputs)}

  c = CHANNELS
  state = {'cls_token': random(1, 1, c), 'pos_embed': random(1, GRID**2 + own_position, c)}
  if registers:
    state['register_tokens'] = random(1, registers, c)
  layers = {'patch_embed.proj': layer(c, 3, PATCH, PATCH), 'norm': layer(c)}
  for i in range(depth):
    sizes = {'attn.qkv': (3 * c, c), 'attn.proj': (c, c), 'mlp.fc1': (4 * c, c)}
    sizes |= {'mlp.fc2': (c, 4 * c), 'norm1': (c,), 'norm2': (c,)}
    layers |= {f'blocks.{i}.{name}': layer(*size) for name, size in sizes.items()}
    if scaled:
      state |= {f'blocks.{i}.ls{k}.gamma': random(c) for k in (1, 2)}
  return state | {f'{n}.{leaf}': a for n, both in layers.items() for leaf, a in both.items()}


def oracle(state, image):
  """Dosovitskiy et al. 2021, equations 1 to 4, token by token; DINO's order of the tokens.

  image: [H, W, 3]. Returns the patch tokens [H/patch, W/patch, C].
  """
  state = {name: array.astype(np.float64) for name, array in state.items()}

  def linear(name, x):
    return x @ state[f'{name}.weight'].T + state[f'{name}.bias']

  def norm(name, x):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    return x * state[f'{name}.weight'] + state[f'{name}.bias']

  height, width = (side // PATCH for side in image.shape[:2])
  tokens = []
  position = positions(state['pos_embed'][0], height, width)
  for y in range(height):
    for x in range(width):
      cut = image[y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH].transpose(2, 0, 1)
      value = (state['patch_embed.proj.weight'] * cut).sum((1, 2, 3))
      tokens.append(value + state['patch_embed.proj.bias'] + position[y, x])
  own = len(state['pos_embed'][0]) > GRID**2
  first = state['cls_token'][0, 0] + (state['pos_embed'][0, 0] if own else 0)
  tokens = [first, *state.get('register_tokens', np.zeros((1, 0, 1)))[0], *tokens]
  for i in range(DEPTH):
    at = f'blocks.{i}'
    changes = attention(linear, at, [norm(f'{at}.norm1', x) for x in tokens])
    gamma = state.get(f'{at}.ls1.gamma', 1)
    tokens = [x + gamma * change for x, change in zip(tokens, changes, strict=True)]
    for k, x in enumerate(tokens):
      hidden = linear(f'{at}.mlp.fc1', norm(f'{at}.norm2', x))
      hidden = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in hidden])
      tokens[k] = x + state.get(f'{at}.ls2.gamma', 1) * linear(f'{at}.mlp.fc2', hidden)
  tokens = [norm('norm', x) for x in tokens[-height * width :]]
  return np.array(tokens).reshape(height, width, CHANNELS)


def attention(linear, at, tokens):
  """Appendix A, a head and a token at a time."""
  size = CHANNELS // HEADS
  parts = [linear(f'{at}.attn.qkv', x).reshape(3, HEADS, size) for x in tokens]
  found = []
  for own in parts:
    mixed = []
    for head in range(HEADS):
      logits = np.array([own[0, head] @ other[1, head] for other in parts]) / math.sqrt(size)
      weights = np.exp(logits - logits.max())
      mixed.append(sum(w * other[2, head] for w, other in zip(weights, parts, strict=True)))
      mixed[-1] /= weights.sum()
    found.append(linear(f'{at}.attn.proj', np.concatenate(mixed)))
  return found


def positions(stored, height, width):
  """The stored embeddings of the patches, at height x width, each by 16 of them."""
  stored = stored[-(GRID**2) :].reshape(GRID, GRID, -1)

  def kernel(x, a=-0.75):
    x = abs(x)
    if x <= 1:
      return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

  def taps(i, size):
    place = (i + 0.5) * GRID / size - 0.5
    for at in range(math.floor(place) - 1, math.floor(place) + 3):
      yield min(max(at, 0), GRID - 1), kernel(place - at)

  found = np.zeros((height, width, stored.shape[-1]))
  for y in range(height):
    for x in range(width):
      for i, weight in taps(y, height):
        found[y, x] += sum(weight * w * stored[i, j] for j, w in taps(x, width))
  return found


def described(state, image, **options):
  variables = interop.from_torch(state)
  (maps,) = jax.jit(functools.partial(MODEL.clone(**options).apply, train=False))(variables, image)
  return maps


@pytest.mark.parametrize(
  ('size', 'options'),
  [
    ((GRID, GRID), {}),
    ((3, 7), {'registers': 2}),
    ((6, 2), {'scaled': True, 'own_position': False}),
  ],
)
def test_published_weights_give_the_papers_features(size, options):
  state = published(**options)
  image = np.random.default_rng(1).normal(size=(2, size[0] * PATCH, size[1] * PATCH, 3)).astype('f')
  found = described(state, image, registers=options.get('registers', 0))
  assert found.shape == (2, *size, CHANNELS)
  np.testing.assert_allclose(found, [oracle(state, one) for one in image], atol=2e-4)


def test_timm_s_name_of_the_registers_is_known():
  state = published(registers=2)
  other = {name.replace('register_tokens', 'reg_token'): array for name, array in state.items()}
  jax.tree.map(np.testing.assert_array_equal, *map(interop.from_torch, (state, other)))


@pytest.mark.parametrize('registers', [0, 2])
def test_what_is_read_is_all_that_the_model_has(registers):
  model = MODEL.clone(registers=registers)
  image = jnp.zeros((1, 2 * PATCH, 3 * PATCH, 3))
  wanted = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
  state = {f'backbone.{k}': v for k, v in published(registers=registers).items()}
  found = interop.from_torch(state | {'head.weight': np.ones(3)}, prefix='backbone.')
  assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, wanted)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'blocks.1.norm2.bias': None}, '1 missing: blocks.1.norm2.bias'),
    ({'blocks.0.attn.extra': np.ones(3)}, '1 unexpected: blocks.0.attn.extra'),
    ({'blocks.3.norm1.weight': np.ones(3)}, '1 unexpected: blocks.3.norm1.weight'),
    ({'blocks.0.mlp.fc1.weight': np.ones(3)}, '1 misshapen: blocks.0.mlp.fc1.weight (3,)'),
    ({'cls_token': None}, '1 missing: cls_token'),
    ({'pos_embed': np.ones((3, 24))}, '1 misshapen: pos_embed (3, 24)'),
    ({'pos_embed': np.ones((1, 12, 24))}, 'pos_embed (1, 12, 24); expected the positions of a'),
    ({'pos_embed': np.ones((1, 0, 24))}, 'pos_embed (1, 0, 24); expected'),
    ({'pos_embed': np.ones((2, 26, 24))}, 'pos_embed (2, 26, 24); expected'),
    ({'cls_token': np.ones((1, 1, 8))}, 'cls_token (1, 1, 8), pos_embed'),
    ({'register_tokens': np.ones((1, 4, 8))}, 'register_tokens (1, 4, 8); expected'),
    ({'blocks.0.ls1.gamma': np.ones(8)}, 'blocks.0.ls1.gamma (8,) does not scale blocks.0.attn.p'),
  ],
)
def test_what_does_not_belong_to_a_vit_is_named(change, message):
  state = {k: v for k, v in (published() | change).items() if v is not None}
  with pytest.raises(ValueError) as error:
    interop.from_torch(state)
  assert message in str(error.value)
  assert 'not the weights of a ViT' in str(error.value)


def test_a_picture_that_patches_do_not_fill_is_refused():
  with pytest.raises(ValueError, match=r'a picture of 21 x 20 .* multiples of patch=4'):
    MODEL.init(jax.random.key(0), jnp.zeros((1, 20, 21, 3)), train=False)


def test_a_tenth_of_a_channel_is_refused():
  with pytest.raises(ValueError, match=r'width=0\.001 leaves no channels'):
    MODEL.clone(width=0.001).init(jax.random.key(0), jnp.zeros((1, 20, 20, 3)), train=False)


def test_moco_learns_with_a_vit_and_describes_one_level():
  method = moco.build(
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.25),
    **{'network': 'vit', 'depth': 2, 'heads': 2, 'width': 0.125, 'patch': 8, 'registers': 2},
    **{'grid': 3, 'dim': 8, 'queue': 24, 'margin': 4, 'precision': 'float32'},
    **{'jitter': 0.0, 'pca': 0.0},
  )
  frames = np.random.default_rng(0).integers(0, 255, (6, 40, 40, 3), np.uint8)
  params, aux = method.init(jax.random.key(0), Batch(image=frames))
  loss = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
  (_, (after, _)), grads = loss(
    params, aux, Batch(image=frames), jax.random.key(1), jnp.zeros((), 'int32')
  )
  assert jax.tree.structure(after) == jax.tree.structure(aux)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all(), jax.tree_util.keystr(path)
    assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)
  (level,) = method.describe(params, aux, frames[:, :32, :24])
  assert level.shape == (6, 4, 3, 16)
  calibrated = method.calibrate(params, aux, Batch(image=frames), jax.random.key(0), jnp.int32(0))
  assert calibrated is not aux
  assert calibrated.keys() == aux.keys()


def test_an_unknown_network_is_refused():
  with pytest.raises(ValueError, match="network='vgg': choose from resnet, vit"):
    moco.build(mean=(0.0,) * 3, std=(1.0,) * 3, network='vgg')


def test_bfloat16_computes_near_float32():
  state = published()
  image = np.random.default_rng(1).normal(size=(1, 8, 12, 3)).astype('f')
  exact, rough = (described(state, image, dtype=dtype) for dtype in (None, jnp.bfloat16))
  assert (exact.dtype, rough.dtype) == ('float32', 'bfloat16')
  assert 0 < np.abs(exact - rough).mean() < 0.1 * np.abs(exact).mean()

"""What every method must do. A new file in methods/ inherits all of it by having a config.

A method is built from the first file of configs/ that uses it, in the order of the files' names,
made tiny by its `:smoke`; one that learns on top of a frozen network, from `ON_BASE`.
"""

import functools
import inspect
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import training
from landmarks_jax.cli import completion
from landmarks_jax.cli import config as configs
from landmarks_jax.contracts import Describer
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import open_source
from landmarks_jax.models import skip_hourglass
from landmarks_jax.runtime import checkpoint, compiler, optim, sharding

ROOT = pathlib.Path(__file__).parents[1]
METHODS = sorted(p.stem for p in (ROOT / 'landmarks_jax/methods').glob('*.py') if p.stem[0] != '_')
# Options that make the test harder than the smoke config does.
HARDER = {
  'moco': {'queue': 48, 'norm_groups': 4, 'dim': 16, 'margin': 13},
  'equivariant': {'exchange': True, 'norm_groups': 2, 'dim': 8, 'leak': 0.2, 'margin': 4},
  # Some pictures have no boxes. One group for each device is `scaling_test`'s.
  'scrl': {'regions': True, 'norm_groups': 2, 'dim': 8, 'boxes': 3, 'steps': 30, 'smallest': 12}
  | {'depth': 18, 'output_stride': 8, 'area': (0.2, 1.0), 'margin': 4, 'size': None, 'classes': 0},
}
# Of lmdis: every kind of layer once, for its published networks take minutes to compile.
FEW = skip_hourglass.Layers(
  (skip_hourglass.Level((64,), (64,)), skip_hourglass.Level((64,), ())), skips=1
)
skip_hourglass.NETWORKS['few'] = skip_hourglass.Networks(FEW, FEW, FEW)
HARDER['lmdis'] = {'network': 'few', 'width': 0.0625, 'appearance_width': 0.0625, 'landmarks': 4}
HARDER['lmdis'] |= {'margin': 4, 'pad': 4, 'norm_groups': 2}
# Weights at which the loss is of the size of 1.
HARDER['lmdis'] |= {'concentrate': 0.05, 'separate': 0.5, 'follow': 5.0}
HARDER['lmdis'] |= {'reconstruct': (1e-3,), 'milestones': ()}
# At 64 pixels the last map is 2x2: on one pixel of four pictures BatchNorm makes training chaotic.
FRAMES = {'moco': 90, 'equivariant': 40, 'lmdis': 24, 'scrl': 40}
# Untrained, SCRL's gradient is 50 long, and one maximum that rounding moves changes .1 of it: with
# larger steps, chaos. Its own optimiser is LARS.
RATES = {'scrl': 1e-6}
# Methods on a frozen network: their options, and the frame of their pictures.
ON_BASE = {
  'probe': ({'landmarks': 5, 'points_per_landmark': 6, 'size': 12}, 32),
  'projection': ({'dim': 6, 'size': 8, 'margin': 4, 'augment': True}, 40),
}
ON_FEATURES = {'probe'}  # of these, the ones whose batches bring a pyramid
BATCH = 16
# What conftest.py asks for compiles faster, but then 1 and 8 devices round less alike, and twenty
# steps take longer.
ROUNDED_ALIKE = {'xla_backend_optimization_level': 1, 'xla_cpu_use_fusion_emitters': True}
ROUNDED_ALIKE = {name: v for name, v in ROUNDED_ALIKE.items() if compiler._known(name, v)}
# Of losses in three float32 steps, relative above 1. In MoCo rounding grows a hundredfold a step
# and more, to 2e-6 in the second and 3e-3 in the third. The steps in float64 are exact.
ROUNDING = np.array([1e-5, 1e-5, 1e-2])


def block_means(variables, image, size):
  """A network for methods that need one: means of blocks, mixed, in three levels."""
  n, side = image.shape[:2]
  image = jnp.asarray(image, variables[0].dtype) / 255 - 0.5
  levels = (image.reshape(n, h, side // h, h, side // h, 3).mean((2, 4)) for h in (2, 4, 8))
  return tuple(level @ kernel for level, kernel in zip(levels, variables, strict=True))


KERNELS = tuple(jax.random.normal(jax.random.key(i), (3, 4 + i)) for i in range(3))
BASE = Describer(KERNELS, block_means)


@functools.cache
def smoke_config(name):
  """The `:smoke` of the first file of configs/ that uses the method."""
  for path in sorted((ROOT / 'configs').glob('*.py')):
    config = configs.load(f'{path}:smoke').to_dict()
    if config['method']['name'] == name:
      return config
  raise AssertionError(f'no file of configs/ uses the method {name}')


def build(name, **options):
  """The method of `smoke_config`, or on BASE; and the side of its frames."""
  if name in ON_BASE:
    chosen, frame = ON_BASE[name]
    build = completion.find('methods', name, section='method').build
    return build(base=BASE, **chosen, **options), frame
  config = smoke_config(name)
  chosen = {k: v for k, v in config['method'].items() if k != 'name'}
  frame = FRAMES.get(name, config['data']['frame'])
  info = source(frame).info
  chosen |= {'mean': info.mean, 'std': info.std, 'precision': 'float32'}
  build = completion.find('methods', name, section='method').build
  known = inspect.signature(build).parameters
  chosen = {k: v for k, v in chosen.items() if k in known} | HARDER.get(name, {})
  given = chosen | {k: v for k, v in options.items() if k in known}
  return build(**given), frame


@functools.cache
def source(frame):
  return pipeline.cached(open_source('synthetic/faces', count=48, frame=frame))


def batches(run, start_step=0, **rows):
  """The whole batches, or with shard and shards the rows of a process."""
  stream = pipeline.training_batches(
    source(run.frame), seed=3, batch_size=BATCH, start_step=start_step, **rows
  )
  return map(described, stream) if run.name in ON_FEATURES else stream


def described(batch):
  pyramid = (level.astype(jnp.bfloat16) for level in block_means(KERNELS, batch.image, None))
  return batch._replace(image=None, pyramid=tuple(np.asarray(level) for level in pyramid))


def wide(tree):
  """Floating leaves in float64."""

  def lift(x):
    return x.astype('float64') if jnp.issubdtype(x.dtype, jnp.floating) else x

  return jax.tree.map(lift, tree)


class Run:
  """A tiny run of a method on some devices."""

  def __init__(self, name, devices=1, lift=lambda tree: tree):
    mesh = sharding.mesh(jax.devices()[:devices])
    self.name = name
    self.method, self.frame = build(name, constrain=sharding.constrain(mesh))
    tx = optim.sgd(RATES.get(name, 1e-3), momentum=0.9, weight_decay=1e-4)
    example = next(batches(self))
    state = jax.jit(
      lambda rng: training.init_state(self.method, tx, rng, example._replace(index=None)),
      compiler_options=ROUNDED_ALIKE,
    )(jax.random.key(0))
    self.state = sharding.replicate(lift(state), mesh)
    step = training.make_train_step(self.method, tx)
    self._step = sharding.compile_step(step, mesh, compiler_options=ROUNDED_ALIKE)
    self._mesh, self._rng = mesh, jax.random.key(1)

  def steps(self, count, start=0):
    """Runs steps; returns their losses."""
    rows = {'shard': sharding.shard(), 'shards': sharding.shards()}
    losses, stream = [], batches(self, start, **rows)
    for _ in range(count):
      batch = sharding.to_global(next(stream), self._mesh)
      self.state, metrics = self._step(self.state, batch, self._rng)
      losses.append(float(metrics['loss']))
    return losses


@pytest.fixture(scope='module', params=METHODS)
def run(request):
  """One compiled run on one device, and its host copy of the state before the first step."""
  run = Run(request.param)
  run.first = jax.device_get(run.state)
  run.losses = run.steps(3)
  run.after = jax.device_get(run.state)
  return run


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('nan')])
@pytest.mark.parametrize('name', ['moco', 'equivariant', 'projection'])
def test_a_temperature_that_is_not_above_0_is_refused(name, temperature):
  with pytest.raises(ValueError, match=f'^temperature={temperature}: expected a number above 0$'):
    build(name, temperature=temperature)


def loss_at(run):
  batch = next(batches(run))
  _, params, aux, _ = run.first

  def value(params):
    return run.method.loss(params, aux, batch, jax.random.key(7), jnp.int32(0))[0]

  return params, jax.jit(jax.value_and_grad(value))


def test_gradients_are_finite_and_reach_every_parameter(run):
  params, value_and_grad = loss_at(run)
  _, grads = value_and_grad(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all(), jax.tree_util.keystr(path)
    assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)


def test_a_small_step_against_the_gradient_lowers_the_loss(run):
  """At fixed aux and rng: over training steps a contrastive loss may well rise."""
  params, value_and_grad = loss_at(run)
  before, grads = value_and_grad(params)
  norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
  after, _ = value_and_grad(jax.tree.map(lambda p, g: p - 1e-3 * g / norm, params, grads))
  np.testing.assert_allclose(after - before, -1e-3 * norm, rtol=0.5)


def test_a_step_keeps_structure_shapes_and_types_of_the_state(run):
  first, after = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (run.first, run.after))
  assert first == after
  assert run.after.step == 3


def test_describe_ignores_batch_mates_and_returns_a_pyramid(run):
  side = run.frame - 2 * margin_of(run)
  images = np.random.default_rng(0).integers(0, 255, (4, side, side, 3), np.uint8)
  describe = jax.jit(run.method.describe, static_argnums=3)
  together = describe(run.after.params, run.after.aux, images, None)
  sizes = [level.shape[1] for level in together]
  assert sizes == sorted(sizes)  # coarse to fine
  for i in (0, 3):
    alone = describe(run.after.params, run.after.aux, images[i : i + 1], None)
    for level, one in zip(together, alone, strict=True):
      np.testing.assert_allclose(level[i], one[0], atol=1e-5 * np.abs(level).max())


def margin_of(run):
  if run.name in ON_BASE:
    return ON_BASE[run.name][0].get('margin', 0)
  return (smoke_config(run.name)['method'] | HARDER.get(run.name, {})).get('margin', 0)


def test_three_float32_steps_are_the_same_on_eight_devices(run):
  spread = Run(run.name, devices=8)
  assert_rounded_alike(run.losses, spread.steps(3))


def assert_rounded_alike(one, other):
  """Losses of three float32 steps."""
  one, other = np.array(one), np.array(other)
  np.testing.assert_array_less(np.abs(other - one), ROUNDING * np.maximum(np.abs(one), 1))


@functools.cache
def twenty_float64_steps(name, devices):
  """Their losses, and the leaves of the state after them by path."""
  with jax.enable_x64(True):
    run = Run(name, devices, wide)
    losses = run.steps(20)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(run.state))
  return losses, {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same_steps(one, other):
  """Losses within 1e-9 and states within 1e-8, where only rounding may differ."""
  np.testing.assert_allclose(other[0], one[0], atol=1e-9, rtol=0)
  assert one[1].keys() == other[1].keys()
  assert any(x.dtype == 'float64' for path, x in one[1].items() if path.startswith('.params'))
  for path, x in one[1].items():
    np.testing.assert_allclose(other[1][path], x, atol=1e-8, rtol=0, err_msg=path)


@pytest.mark.parametrize('name', METHODS)
def test_twenty_float64_steps_are_the_same_on_eight_devices(name):
  assert_same_steps(twenty_float64_steps(name, 1), twenty_float64_steps(name, 8))


def test_a_resumed_run_is_the_undisturbed_run_bit_for_bit(run, tmp_path):
  mesh = sharding.mesh(jax.devices()[:1])
  run.state = sharding.replicate(run.first, mesh)
  run.steps(1)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, run.state)
    run.state, _ = checkpoints.restore(run.state)
  assert run.steps(2, start=1) == run.losses[1:]
  for x, y in zip(
    jax.tree.leaves(jax.device_get(run.state)), jax.tree.leaves(run.after), strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_views_show_what_training_looks_at(run):
  if run.method.views is None:
    pytest.skip(f'{run.name} draws no views')
  draw, batch = jax.jit(run.method.views), next(batches(run))
  views, others = (np.asarray(draw(batch, jax.random.key(seed))) for seed in range(2))
  assert views.shape[1] == BATCH
  assert views.ndim == 5
  for one, another in itertools.combinations([*views, *others], 2):
    assert np.abs(one - another).mean() > 1

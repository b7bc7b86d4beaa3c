"""Options of the compiler: for CPUs, those that this version knows; steps here have them."""

import functools
import os

import jax
import jax.numpy as jnp
import pytest
from jax._src import xla_bridge

from landmarks_jax.evaluation import features
from landmarks_jax.runtime import compiler, sharding


@pytest.fixture
def unflagged(monkeypatch):
  """XLA_FLAGS, which conftest.py fills, state nothing."""
  monkeypatch.delenv('XLA_FLAGS')


@pytest.mark.parametrize('wanted', [compiler.NETWORKS, compiler.ONCE], ids=['step', 'once'])
def test_this_version_knows_them(unflagged, wanted):
  assert compiler.options(wanted, 'cpu') == dict(wanted)


def test_what_the_user_s_flags_state_holds(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=x --xla_backend_optimization_level=3')
  assert compiler.options(compiler.ONCE, 'cpu') == {}
  assert compiler.options(compiler.NETWORKS, 'cpu') == dict(compiler.NETWORKS)


def test_those_of_another_version_are_left_out(unflagged):
  wanted = {'xla_of_another_version': 'FASTER'} | compiler.ONCE
  assert compiler.options(wanted, 'cpu') == dict(compiler.ONCE)


def test_values_of_another_version_are_left_out():
  name = 'xla_cpu_experimental_ynn_fusion_type'
  for listed in '', compiler.NETWORKS[name] + ',':
    value = listed + 'LIBRARY_FUSION_TYPE_OF_ANOTHER_VERSION'
    assert compiler.options(compiler.NETWORKS | {name: value}, 'cpu').keys() == (
      compiler.NETWORKS.keys() - {name}
    )


def test_other_devices_are_left_alone():
  assert compiler.options(compiler.NETWORKS, 'tpu') == {}


@pytest.mark.parametrize(
  ('given', 'opened', 'platform', 'done', 'after'),
  [
    (None, False, 'gpu', True, compiler.DETERMINISTIC),
    ('--xla_dump_to=x', False, 'gpu', True, f'--xla_dump_to=x {compiler.DETERMINISTIC}'),
    ('--xla_dump_to=x', True, 'gpu', False, '--xla_dump_to=x'),
    (f'{compiler.DETERMINISTIC} -x', True, 'gpu', True, f'{compiler.DETERMINISTIC} -x'),
    ('', True, 'cpu', True, ''),
  ],
)
def test_a_gpu_is_deterministic_only_if_asked_before_it_is_opened(
  monkeypatch, given, opened, platform, done, after
):
  monkeypatch.setenv('XLA_FLAGS', given or '')
  if given is None:
    monkeypatch.delenv('XLA_FLAGS')
  monkeypatch.setattr(xla_bridge, 'backends_are_initialized', lambda: opened)
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  assert compiler.deterministic() == done
  assert os.environ['XLA_FLAGS'] == after


CONVOLVE = functools.partial(
  jax.lax.conv_general_dilated,
  window_strides=(1, 1),
  padding='SAME',
  dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
)
KERNEL, PICTURES = jnp.ones((3, 3, 64, 64)), jnp.ones((8, 24, 24, 64))


def compiled_step(function, *given):
  """What `runtime/sharding.py` compiles of (kernel, ...) -> result: instructions as text."""
  mesh = sharding.mesh(jax.devices()[:1])
  step = sharding.compile_step(lambda first, *rest: (first, function(first, *rest)), mesh)
  return step.lower(*given, *[jnp.zeros(())] * (3 - len(given))).compile().as_text()


def test_convolutions_of_a_step_are_not_ynnpack_s():
  plain = jax.jit(CONVOLVE).lower(PICTURES, KERNEL).compile().as_text()
  ours = compiled_step(lambda kernel, pictures, _: CONVOLVE(pictures, kernel), KERNEL, PICTURES)
  assert '__ynn_fusion' in plain
  assert '__ynn_fusion' not in ours


def test_products_of_a_step_are_ynnpack_s():
  matrix = jnp.ones((512, 512))
  assert '__ynn_fusion' in compiled_step(lambda _, x, y: x @ y, KERNEL, matrix, matrix)


def test_sums_of_a_step_are_ynnpack_s():
  ours = compiled_step(lambda _, pictures, __: pictures.sum((0, 1, 2)), KERNEL, PICTURES)
  assert '__ynn_fusion' in ours
  assert 'reduce-window' not in ours  # XLA's own way


def test_a_barrier_of_a_step_holds():
  ours = compiled_step(lambda _, x, __: jax.lax.optimization_barrier(x + 1), KERNEL, PICTURES)
  assert ' opt-barrier(' in ours


def test_networks_that_describe_are_compiled_alike():
  def apply(kernel, image, size):
    return (CONVOLVE(image, kernel),)

  compiled = features.compiled(apply), features.compiled(apply, None, size=24)
  for describe in compiled:
    assert '__ynn_fusion' not in describe.lower(KERNEL, PICTURES).compile().as_text()


def test_a_step_takes_options_of_its_own():
  mesh = sharding.mesh(jax.devices()[:1])
  step = sharding.compile_step(
    lambda *given: (given[0], given[1]), mesh, compiler_options={'xla_no_such_option': 1}
  )
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
    step(*3 * (jnp.zeros(1),))

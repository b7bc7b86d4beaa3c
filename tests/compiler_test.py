"""Options of the compiler: for CPUs, those that this version knows; steps here have them."""

import jax
import jax.numpy as jnp
import pytest

from landmarks_jax.evaluation import features, matching
from landmarks_jax.runtime import compiler, sharding


@pytest.mark.parametrize('wanted', [compiler.CONVOLUTIONS, compiler.ONCE], ids=['step', 'once'])
def test_this_version_knows_them(wanted):
  assert compiler.options(wanted, 'cpu') == dict(wanted)


def test_those_of_another_version_are_left_out():
  wanted = {'xla_of_another_version': 'FASTER'} | compiler.ONCE
  assert compiler.options(wanted, 'cpu') == dict(compiler.ONCE)


def test_values_of_another_version_are_left_out():
  wanted = dict.fromkeys(compiler.CONVOLUTIONS, 'LIBRARY_FUSION_TYPE_OF_ANOTHER_VERSION')
  assert compiler.options(wanted, 'cpu') == {}


def test_other_devices_are_left_alone():
  assert compiler.options(compiler.CONVOLUTIONS, 'tpu') == {}


def test_convolutions_of_a_step_are_not_ynnpack_s_and_products_are():
  mesh = sharding.mesh(jax.devices()[:1])

  def step(kernel, image, matrix):
    dimensions = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
    found = jax.lax.conv_general_dilated(image, kernel, (1, 1), 'SAME', **dimensions)
    return kernel, found.sum() + (matrix @ matrix).sum()

  given = jnp.ones((3, 3, 64, 64)), jnp.ones((8, 24, 24, 64)), jnp.ones((512, 512))
  plain = jax.jit(step).lower(*given).compile().as_text()
  ours = sharding.compile_step(step, mesh).lower(*given).compile().as_text()
  assert plain.count('__ynn_fusion') == 2
  assert ours.count('__ynn_fusion') == 1


def test_networks_that_describe_are_compiled_alike():
  def apply(kernel, image, size):
    dimensions = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
    return (jax.lax.conv_general_dilated(image, kernel, (1, 1), 'SAME', **dimensions),)

  given = jnp.ones((3, 3, 64, 64)), jnp.ones((8, 24, 24, 64))
  compiled = features.compiled(apply), matching.compiled(apply, 24)
  for describe in compiled:
    assert '__ynn_fusion' not in describe.lower(*given).compile().as_text()


def test_a_step_takes_options_of_its_own():
  mesh = sharding.mesh(jax.devices()[:1])
  step = sharding.compile_step(
    lambda *given: (given[0], given[1]), mesh, compiler_options={'xla_no_such_option': 1}
  )
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
    step(*3 * (jnp.zeros(1),))

"""What a step needs, counted before it runs, in terms that a person knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch, TrainState
from landmarks_jax.runtime import memory, sharding

S = jax.ShapeDtypeStruct


def shapes(examples):
  params = {'w': S((64, 32), 'float32')}
  aux = {'queue': S((100, 32), 'float32'), 'key': jax.eval_shape(jax.random.key, 0)}
  state = TrainState(S((), 'int32'), params, aux, {'m': params, 'v': params})
  return state, Batch(image=S((examples, 64), 'uint8'), index=S((examples,), 'int32'))


def step(state, batch, rng):
  hidden = jnp.tanh(batch.image.astype('f') @ state.params['w'])
  hidden = jnp.sort(hidden, 0)  # kept whole, before and after
  w = state.params['w'] + hidden.mean() + batch.index.sum()
  return state._replace(params={'w': w}), {'loss': hidden.sum()}


def compiled(examples, devices=1):
  mesh = sharding.mesh(jax.devices()[:devices])
  state, batch = shapes(examples)
  step_function = sharding.compile_step(step, mesh)
  return step_function.lower(state, batch, jax.random.key(0)).compile(), state, batch


def test_every_part_of_the_state_is_counted():
  need = memory.of_step(*compiled(16), devices=1)
  assert need['parameters'] == 64 * 32 * 4
  assert need['optimizer'] == 2 * 64 * 32 * 4
  assert need["the method's queue"] == 100 * 32 * 4
  assert need["the method's key"] == 8
  assert need['batch'] == 16 * (64 + 4)


@pytest.mark.parametrize('devices', [1, 4])
def test_what_goes_in_is_what_the_compiler_says_goes_in(devices):
  function, state, batch = compiled(64, devices)
  need = memory.of_step(function, state, batch, devices=devices)
  inputs = sum(count for name, count in need.items() if name != memory.WORK)
  stats = function.memory_analysis()
  assert stats.argument_size_in_bytes == pytest.approx(inputs, abs=64)
  assert need[memory.WORK] >= stats.temp_size_in_bytes


def test_work_grows_with_the_batch_and_shrinks_with_the_devices():
  def work(*given):
    function, state, batch = compiled(*given)
    return memory.of_step(function, state, batch, devices=1)[memory.WORK]

  assert work(4096) > 1.9 * work(2048) > 2048 * 32 * 4
  assert work(4096, 4) < work(4096)


def test_the_largest_terms_come_first_and_the_rest_is_summed():
  need = {'a': 10**7, 'b': 3 * 10**9, 'c': 0, 'd': 2 * 10**8, 'e': 10**7}
  assert memory.describe(need, most=2) == '3.22 GB (b 3.00 GB, d 200 MB, other 20 MB)'
  assert memory.describe({'a': 1500 * 10**6}) == '1.50 GB (a 1.50 GB)'


def test_the_largest_batch_lies_on_the_line_and_is_a_multiple():
  line = {8: 100 + 8 * 10, 16: 100 + 16 * 10}
  given = {'multiple': 4, 'below': 64}
  assert memory.largest_batch(line, free=100 + 31 * 10, **given) == 28
  assert memory.largest_batch(line, free=100 + 32 * 10, **given) == 32
  assert memory.largest_batch(line, free=10**6, **given) == 60  # 64 is known not to fit
  assert memory.largest_batch(line, free=99, **given) == 0


def test_sizes_are_those_of_the_arrays():
  tree = {'x': np.zeros((3, 4), 'f'), 'y': (jnp.zeros(5, 'bfloat16'), None)}
  assert memory.size(tree) == 3 * 4 * 4 + 5 * 2

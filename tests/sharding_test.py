"""Arrays come through the doorway whole, and one step on eight devices is the step on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch, TrainState
from landmarks_jax.runtime import sharding

rng = np.random.default_rng(0)


def batch(examples):
  image = rng.integers(0, 255, (examples, 4, 4, 3), np.uint8)
  pyramid = (rng.normal(size=(examples, 2, 2, 5)).astype('f'),)
  return Batch(image=image, index=np.arange(examples, dtype='i'), pyramid=pyramid)


def step(state, batch, rng):
  """Looks at the order of the whole batch, so that a wrong row shows."""
  x = batch.image.reshape(len(batch.image), -1) / 255.0
  x = x[jax.random.permutation(rng, len(x))] * jnp.arange(1.0, len(x) + 1)[:, None]
  w = state.params['w'] + x.mean(0)
  aux = {'ema': 0.5 * state.aux['ema'] + 0.5 * w}
  return TrainState(state.step + 1, {'w': w}, aux, state.opt), {'loss': w.sum()}


def fresh_state():
  w = jnp.arange(48.0)
  return TrainState(jnp.int32(0), {'w': w}, {'ema': w}, ())


def test_the_mesh_is_one_axis_of_all_devices_unless_told():
  assert sharding.mesh().shape == {'data': jax.device_count()}
  assert sharding.mesh(jax.devices()[2:4]).devices.tolist() == jax.devices()[2:4]


class FakeDevice:
  """As much of a device as a mesh looks at."""

  def __init__(self, id, process, kind, **others):
    self.id, self.process_index, self.device_kind = id, process, kind
    self.platform, self.core_on_chip = kind.split()[0].lower(), 0
    vars(self).update(others)


def gpu_hosts():
  """Every host is a slice of its own."""
  return [FakeDevice(i, i // 8, 'GPU H100', slice_index=i // 8) for i in range(32)]


def tpu_slice():
  """v5e 4x4, of four hosts with 2x2 chips each: ids count along rows, which two hosts share."""
  x, y = np.arange(16) % 4, np.arange(16) // 4
  places = {i: {'coords': (x[i], y[i], 0), 'slice_index': 0} for i in range(16)}
  return [FakeDevice(i, y[i] // 2 * 2 + x[i] // 2, 'TPU v5 lite', **places[i]) for i in places]


@pytest.mark.parametrize(('devices', 'own'), [(gpu_hosts(), 8), (tpu_slice(), 4)])
def test_the_devices_of_a_process_stand_together_and_processes_in_order(devices, own, monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: devices)
  mesh = sharding.mesh()
  assert mesh.shape == {'data': len(devices)}
  found = [device.process_index for device in mesh.devices]
  assert found == np.repeat(np.arange(4), own).tolist()
  ids = np.array([device.id for device in mesh.devices]).reshape(4, own)
  assert (np.diff(ids) > 0).all()


def test_rows_arrive_in_order_and_cut_over_the_devices():
  mesh, given = sharding.mesh(), batch(16)
  there = sharding.to_global(given, mesh)
  assert there.points is None
  assert there.image.sharding == sharding.sharded(mesh)
  rows = {s.device.id: np.asarray(s.data) for s in there.index.addressable_shards}
  assert [rows[d.id].tolist() for d in jax.devices()] == [[2 * i, 2 * i + 1] for i in range(8)]
  back = sharding.to_host(there)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(back))
  jax.tree.map(np.testing.assert_array_equal, back, given)
  assert back.image.dtype == np.uint8


def test_a_batch_that_does_not_divide_names_both_numbers():
  with pytest.raises(ValueError, match=r'12 examples does not divide over 8 devices; .* of 8'):
    sharding.to_global(batch(12), sharding.mesh())
  sharding.to_global(batch(12), sharding.mesh(jax.devices()[:4]))


def test_fields_of_different_length_are_refused():
  with pytest.raises(ValueError, match=r'different numbers of examples: \[8, 16\]'):
    sharding.to_global(batch(16)._replace(index=np.arange(8)), sharding.mesh())


def test_constrain_cuts_what_a_shuffle_replicated_and_changes_no_value():
  mesh = sharding.mesh()
  x = sharding.to_global(rng.normal(size=(16, 3)).astype('f'), mesh)
  order = rng.permutation(16)
  shuffle = jax.jit(lambda x, order: sharding.constrain(mesh)({'x': x[order], 'n': x[:8]}))
  out = shuffle(x, order)
  assert out['x'].sharding.is_equivalent_to(sharding.sharded(mesh), 2)
  np.testing.assert_array_equal(out['x'], np.asarray(x)[order])
  np.testing.assert_array_equal(out['n'], np.asarray(x)[:8])


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_a_compiled_step_is_the_plain_step_on_any_number_of_devices(devices):
  mesh = sharding.mesh(jax.devices()[:devices])
  compiled, key = sharding.compile_step(step, mesh), jax.random.key(3)
  state, plain = sharding.replicate(fresh_state(), mesh), fresh_state()
  for _ in range(3):
    given = batch(16)
    state, metrics = compiled(state, sharding.to_global(given, mesh), key)
    plain, expected = step(plain, given, key)
  assert state.params['w'].sharding.is_equivalent_to(sharding.replicated(mesh), 1)
  np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, plain)


@pytest.mark.parametrize('devices', [1, 8])
def test_the_state_is_donated_and_the_callers_copy_lives_on(devices):
  # params and aux share one buffer here, as when a momentum encoder starts
  mesh, mine = sharding.mesh(jax.devices()[:devices]), fresh_state()
  state = sharding.replicate(mine, mesh)
  sharding.compile_step(step, mesh)(state, sharding.to_global(batch(8), mesh), jax.random.key(0))
  assert state.params['w'].is_deleted()
  np.testing.assert_array_equal(mine.params['w'], np.arange(48))


def test_one_process_is_the_first_and_only():
  assert (sharding.shard(), sharding.shards(), sharding.is_main()) == (0, 1, True)

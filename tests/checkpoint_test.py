"""What comes back from disk is what was saved, bit for bit, or an error that says where not."""

import contextlib
import errno
import os
import re
import resource
import subprocess
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

from landmarks_jax.contracts import TrainState
from landmarks_jax.runtime import checkpoint, optim, run_folder, sharding

tx, _ = optim.build(name='adam', learning_rate=0.1, epochs=2, weight_decay=1e-4)


def make_state(seed, *, width=3):
  """Every type that a state holds, with the numbers that a conversion would lose."""
  rng = np.random.default_rng(seed)
  kernel = rng.normal(size=(8, width)).astype('f')
  kernel[0] = [np.nan, -0.0, np.inf][:width]
  params = {'stem': {'kernel': jnp.asarray(kernel)}, 'bias': jnp.asarray([1e-42, 3.0, seed], 'f')}
  aux = {
    'ema': params,
    'queue': (jnp.asarray(rng.normal(size=(16, 4)), jnp.bfloat16), jnp.int32(seed)),
    'seen': jnp.asarray(rng.random(5) > 0.5),
    'frame': jnp.asarray(rng.integers(0, 255, 7), jnp.uint8),
    'absent': None,
  }
  return TrainState(jnp.int32(seed), params, aux, tx.init(params))


def assert_same_bits(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def abstract(state, where):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state)


@pytest.fixture
def folder(tmp_path):
  """Holds steps 10 and 20."""
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    for step in (10, 20):
      checkpoints.save(step, make_state(step), {'method': 'moco', 'mean': [0.5, step]})
  return tmp_path / 'checkpoints'


def test_a_state_from_one_device_comes_back_on_eight_bit_for_bit(folder):
  mesh = sharding.mesh()
  with checkpoint.Checkpoints(folder) as checkpoints:
    state, metadata = checkpoints.restore(abstract(make_state(0), sharding.replicated(mesh)))
    assert_same_bits(state, make_state(20))
    assert all(x.sharding == sharding.replicated(mesh) for x in jax.tree.leaves(state))
    assert metadata == {'method': 'moco', 'mean': [0.5, 20]}
    older, metadata = checkpoints.restore(make_state(0), step=10)
    assert_same_bits(older, make_state(10))
    assert metadata['mean'] == [0.5, 10]


def test_a_state_from_eight_devices_comes_back_on_one_and_cut_otherwise(tmp_path):
  mesh, state = sharding.mesh(), make_state(5)
  queue = jax.device_put(state.aux['queue'][0], sharding.sharded(mesh))
  there = sharding.replicate(state, mesh)
  there = there._replace(aux=there.aux | {'queue': (queue, there.aux['queue'][1])})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, there)
    back, metadata = checkpoints.restore(state)
    two = sharding.sharded(sharding.mesh(jax.devices()[:2]))
    wanted = state._replace(aux=state.aux | {'queue': abstract(state.aux['queue'], None)})
    wanted.aux['queue'] = (abstract(queue, two), wanted.aux['queue'][1])
    cut, _ = checkpoints.restore(wanted)
  assert_same_bits(back, state)
  assert metadata == {}
  assert_same_bits(cut, state)
  assert cut.aux['queue'][0].sharding == two
  assert isinstance(cut.aux['queue'][1], np.ndarray | np.generic)


def test_a_donating_step_right_after_save_does_not_reach_the_disk(tmp_path):
  state = {'w': jnp.arange(1 << 18, dtype='f')}
  step = jax.jit(lambda s: {'w': s['w'] * 2 + 1}, donate_argnums=0)
  with checkpoint.Checkpoints(tmp_path, keep=5) as checkpoints:
    expected = {}
    for i in range(5):
      expected[i] = np.array(state['w'])
      checkpoints.save(i, state)
      state = step(state)
    for i in range(5):
      restored, _ = checkpoints.restore(abstract(state, None), step=i)
      np.testing.assert_array_equal(restored['w'], expected[i])


def test_a_save_does_not_ask_whether_a_preemption_stops_at_its_step(tmp_path, monkeypatch):
  """Asked in the background, for a step gone by, it let two processes stop after different ones."""
  asked = []
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', asked.append)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(1))
    checkpoints.save(2, make_state(2))
  assert asked == []


def test_only_the_newest_are_kept(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.latest_step() is None
    for step in (1, 2, 5, 9):
      checkpoints.save(step, make_state(step))
    assert checkpoints.latest_step() == 9
  assert sorted(path.name for path in tmp_path.iterdir()) == ['5', '9']


def test_a_killed_save_leaves_the_step_before_usable(folder):
  # What orbax leaves when it is killed: the name is not yet the final one.
  (folder / '20').rename(folder / '20.orbax-checkpoint-tmp')
  (folder / '20.orbax-checkpoint-tmp/commit_success.txt').unlink(missing_ok=True)
  with checkpoint.Checkpoints(folder, read_only=True) as checkpoints:
    assert checkpoints.metadata()['mean'] == [0.5, 10]
  with checkpoint.Checkpoints(folder) as checkpoints:
    assert checkpoints.latest_step() == 10
    state, _ = checkpoints.restore(make_state(0))
    assert_same_bits(state, make_state(10))
    checkpoints.save(21, make_state(21))
  assert sorted(path.name for path in folder.iterdir()) == ['10', '21']
  np.testing.assert_array_equal(checkpoint.read_variables(folder)['params']['bias'][2], 21)


def test_variables_are_read_without_the_code_that_made_them(folder):
  variables = checkpoint.read_variables(folder, step=10)
  assert sorted(variables) == ['aux', 'params']
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(variables['params']))
  expected = make_state(10)
  assert_same_bits(variables['params'], expected.params)
  assert_same_bits(variables['aux']['queue'], list(expected.aux['queue']))
  assert_same_bits(checkpoint.read_variables(folder, ('step',)), {'step': np.int32(20)})
  with pytest.raises(ValueError, match=r"has no \['param'\], it has \['aux', 'opt', 'params'"):
    checkpoint.read_variables(folder, ('param',))


def test_variables_fit_a_method_by_name_and_shape():
  class Moments(NamedTuple):
    first: Any
    second: Any

  stored = {'params': {'b': np.ones(2), 'a': np.zeros(2)}, 'aux': {'second': [5], 'first': [4]}}
  stored = jax.tree.map(np.asarray, stored)
  wanted = jax.eval_shape(lambda: ({'a': np.zeros(2), 'b': np.zeros(2)}, Moments([1], (2,))))
  params, aux = checkpoint.fitted(stored, wanted, where='there')
  assert (params['a'].sum(), params['b'].sum()) == (0, 2)
  assert (aux.first, aux.second) == ([4], (5,))
  for wrong in ({'c': np.ones(2), 'a': np.zeros(2)}, {'b': np.ones(3), 'a': np.zeros(2)}):
    with pytest.raises(ValueError, match=r'^there are not those .* 1 arrays .* first params/b$'):
      checkpoint.fitted(stored | {'params': wrong}, wanted, where='there')


def test_every_path_that_differs_is_named_with_both_sides(folder):
  other = make_state(0)
  other.params['head'] = other.params.pop('bias')
  other.params['stem']['kernel'] = jnp.zeros((8, 2))
  other.aux['frame'] = other.aux['frame'].astype('int32')
  with checkpoint.Checkpoints(folder) as checkpoints, pytest.raises(ValueError) as error:
    checkpoints.restore(other)
  text = str(error.value)
  assert f'{folder}, step 20 was made by another configuration' in text
  for line in [
    'params/bias: float32[3] in the checkpoint, absent here',
    'params/head: absent in the checkpoint, float32[3] here',
    'params/stem/kernel: float32[8, 3] in the checkpoint, float32[8, 2] here',
    'aux/frame: uint8[7] in the checkpoint, int32[7] here',
  ]:
    assert f'\n  {line}' in text
  assert 'aux/queue' not in text


def test_another_optimiser_does_not_fit(folder):
  state = make_state(0)
  state = state._replace(opt=optax.sgd(0.1, 0.9).init(state.params))
  text = r'opt/1/mu/bias: float32\[3\] in the checkpoint, absent here'
  with checkpoint.Checkpoints(folder) as checkpoints, pytest.raises(ValueError, match=text):
    checkpoints.restore(state)


def test_long_lists_of_differences_are_cut(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {f'w{i:02d}': np.zeros(1) for i in range(30)})
    with pytest.raises(ValueError) as error:
      checkpoints.restore({'v': np.zeros(1)})
  assert str(error.value).count('\n') == 21
  assert str(error.value).endswith('and 11 more')


def test_a_missing_checkpoint_is_named(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no checkpoint in .*nowhere; .* none'):
    checkpoint.read_variables(tmp_path / 'nowhere')
  assert not (tmp_path / 'nowhere').exists()
  with pytest.raises(FileNotFoundError, match=r'no step 15 in .*; complete steps .*\[10, 20\]'):
    checkpoint.read_variables(folder, step=15)


def test_a_run_that_has_not_selected_yet_has_the_weights_of_its_newest_step(folder):
  run = folder.parent
  with checkpoint.Checkpoints(run / run_folder.SELECTED, keep=None) as selected:
    assert run_folder.weights(run) == run / run_folder.ALL
    selected.save(10, make_state(10))
  assert run_folder.weights(run) == run / run_folder.SELECTED
  assert run_folder.weights(run, selected=False) == run / run_folder.ALL


def test_a_step_is_written_once_and_never_before_a_later_one(folder):
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(20, make_state(99))
    with pytest.raises(ValueError, match=r'holds step 20 and does not take step 15'):
      checkpoints.save(15, make_state(15))
  np.testing.assert_array_equal(checkpoint.read_variables(folder)['params']['bias'][2], 20)


def test_reading_leaves_another_runs_folder_alone(folder):
  (folder / '30.orbax-checkpoint-tmp').mkdir()
  checkpoint.read_variables(folder)
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20', '30.orbax-checkpoint-tmp']


def files(step):
  """Of one step, but for those at its top, which hold nothing that is restored."""
  return [path for path in sorted(step.rglob('*')) if path.is_file() and path.parent != step]


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def remove(path):
  path.unlink()


def read_metadata(folder):
  with checkpoint.Checkpoints(folder, read_only=True) as checkpoints:
    return checkpoints.metadata()


@pytest.mark.parametrize('damage', [cut, flip, remove])
def test_damage_to_any_file_of_a_step_is_found_and_named(folder, damage):
  paths = files(folder / '20')
  assert len(paths) > 8
  for path in [*paths, folder / '20' / checkpoint.CHECKSUMS]:
    if not path.stat().st_size:
      continue
    whole = path.read_bytes()
    damage(path)
    name = path.relative_to(folder / '20').as_posix()
    if path.name != checkpoint.CHECKSUMS:
      for read in (checkpoint.read_variables, read_metadata):
        with pytest.raises(checkpoint.DamagedError) as error:
          read(folder)
        wrong = 'missing' if damage is remove else 'not what was written'
        assert str(error.value) == (
          f'step 20 in {folder} is damaged ({name} is {wrong}); other steps there: [10]'
        )
    elif damage is not remove:  # without checksums a step is believed
      with pytest.raises(checkpoint.DamagedError, match=r'step 20 in .* is damaged'):
        checkpoint.read_variables(folder)
    path.write_bytes(whole)
  assert_same_bits(checkpoint.read_variables(folder)['params'], make_state(20).params)


def test_the_checksums_are_those_that_sha256sum_checks(folder):
  command = ['sha256sum', '--check', '--quiet', '--strict', checkpoint.CHECKSUMS]
  assert subprocess.run(command, cwd=folder / '20', check=False).returncode == 0
  listed = [line[66:] for line in (folder / '20' / checkpoint.CHECKSUMS).read_text().splitlines()]
  assert listed == [path.relative_to(folder / '20').as_posix() for path in files(folder / '20')]


@pytest.mark.parametrize('part', ['_METADATA', 'manifest.ocdbt', 'd'])
def test_a_damaged_step_without_checksums_is_named_too(folder, part):
  (folder / '20' / checkpoint.CHECKSUMS).unlink()
  damaged = folder / '20/state' / part
  for file in [damaged] if damaged.is_file() else damaged.rglob('*'):
    cut(file)
  expected = r'step 20 in .* is damaged \(.*other steps there: \[10\]'
  with (
    checkpoint.Checkpoints(folder) as checkpoints,
    pytest.raises(checkpoint.DamagedError, match=re.compile(expected, re.DOTALL)),
  ):
    checkpoints.restore(make_state(0))


def test_resuming_takes_the_step_before_a_damaged_one_and_keeps_that_aside(folder):
  for number in ('20.damaged', '20.damaged_2'):
    flip(next((folder / '20/state/d').iterdir()))
    before = {path.name: path.read_bytes() for path in files(folder / '20')}
    with checkpoint.Checkpoints(folder) as checkpoints:
      with pytest.warns(UserWarning, match='is damaged') as told:
        state, metadata, step = checkpoints.restore_newest(make_state(0))
      assert [str(warning.message) for warning in told] == [
        f'step 20 in {folder} is damaged and kept as {number}; continuing from step 10, '
        'the newest that is whole'
      ]
      assert (step, metadata['mean']) == (10, [0.5, 10])
      assert_same_bits(state, make_state(10))
      assert {path.name: path.read_bytes() for path in files(folder / number)} == before
      checkpoints.save(20, make_state(20))
  with warnings.catch_warnings(), checkpoint.Checkpoints(folder) as checkpoints:
    warnings.simplefilter('error')
    state, _, step = checkpoints.restore_newest(make_state(0))
  assert step == 20
  assert_same_bits(state, make_state(20))
  assert sorted(p.name for p in folder.iterdir()) == ['10', '20', '20.damaged', '20.damaged_2']


def test_resuming_where_no_step_is_whole_says_so_and_moves_nothing(folder):
  for step in ('10', '20'):
    flip(next((folder / step / 'state/d').iterdir()))
  with (
    checkpoint.Checkpoints(folder) as checkpoints,
    pytest.raises(checkpoint.DamagedError, match=r'no step in .* is whole: \[10, 20\] are damaged'),
  ):
    checkpoints.restore_newest(make_state(0))
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']


@pytest.mark.parametrize(
  ('error', 'raised'),
  [
    (OSError(errno.EMFILE, 'Too many open files'), 'step 20 cannot be read: Too many open files'),
    (ValueError("failed [os_error_code='116']"), 'step 20 cannot be read: Stale file handle'),
    (MemoryError('too much'), 'too much'),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 4 GB'), 'RESOURCE_EXHAUSTED: 4 GB'),
  ],
)
def test_what_a_machine_lacks_for_the_moment_is_no_damage(folder, monkeypatch, error, raised):
  def lacking(*_, **__):
    raise error

  with checkpoint.Checkpoints(folder) as checkpoints:
    monkeypatch.setattr(checkpoints._manager, 'restore', lacking)
    with pytest.raises(Exception, match=raised) as caught:
      checkpoints.restore_newest(make_state(0))
  assert not isinstance(caught.value, checkpoint.DamagedError)
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']


@pytest.mark.parametrize('number', [errno.EACCES, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize('name', ['_METADATA', checkpoint.CHECKSUMS])
def test_a_file_that_cannot_be_read_for_the_moment_is_no_damage(folder, monkeypatch, name, number):
  def failing(read):
    def reading(path, *given, **options):
      if str(path).startswith(f'{folder}/20/') and str(path).endswith(name):
        raise OSError(number, os.strerror(number), str(path))
      return read(path, *given, **options)

    return reading

  expected = f'step 20 cannot be read: {os.strerror(number)}'
  with checkpoint.Checkpoints(folder) as checkpoints, monkeypatch.context() as patch:
    patch.setattr('builtins.open', failing(open))
    if name != checkpoint.CHECKSUMS:  # without them a step is believed
      patch.setattr(os, 'stat', failing(os.stat))
    with pytest.raises(OSError, match=expected):
      checkpoints.restore_newest(make_state(0))
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']


@pytest.mark.parametrize('number', [errno.ENOENT, errno.EISDIR, errno.EBADMSG])
def test_what_the_disk_says_of_broken_files_is_damage(folder, monkeypatch, number):
  checkpoints = checkpoint.Checkpoints(folder)
  restore = checkpoints._manager.restore

  def broken(step, **options):
    if step == 20:
      raise OSError(number, os.strerror(number))
    return restore(step, **options)

  monkeypatch.setattr(checkpoints._manager, 'restore', broken)
  with checkpoints, pytest.warns(UserWarning, match='step 20'):
    assert checkpoints.restore_newest(make_state(0))[2] == 10
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20.damaged']


def test_resuming_with_another_configuration_is_no_damage(folder):
  other = make_state(0)
  other.params['head'] = other.params.pop('bias')
  with (
    checkpoint.Checkpoints(folder) as checkpoints,
    pytest.raises(ValueError, match='was made by another configuration'),
  ):
    checkpoints.restore_newest(other)
  assert sorted(path.name for path in folder.iterdir()) == ['10', '20']


def test_resuming_where_nothing_is_finds_nothing(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore_newest(make_state(0)) is None


@pytest.mark.parametrize('is_main', [True, False])
def test_a_process_takes_the_step_that_the_others_can_read(folder, is_main):
  asked = []

  def largest(number):  # another process cannot read step 20
    asked.append(number)
    return max(number, int(len(asked) == 2))

  told = pytest.warns(UserWarning, match='step 20') if is_main else contextlib.nullcontext()
  with checkpoint.Checkpoints(folder, is_main=is_main, largest=largest) as checkpoints, told:
    _, _, step = checkpoints.restore_newest(make_state(0))
  assert step == 10
  assert asked == [0] * 5  # files and reading, of two steps; then all wait for the new name
  assert (folder / '20').exists() == (not is_main)


def test_a_state_from_eight_devices_resumes_on_one_four_and_eight(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, sharding.replicate(make_state(5), sharding.mesh()))
  for count in (1, 4, 8):
    where = sharding.replicated(sharding.mesh(jax.devices()[:count]))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      state, _, step = checkpoints.restore_newest(abstract(make_state(0), where))
    assert step == 5
    assert_same_bits(state, make_state(5))
    assert all(x.sharding == where for x in jax.tree.leaves(state))


def test_later_steps_are_dropped_when_a_run_goes_back(folder):
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.drop_after(10)
    checkpoints.save(15, make_state(15))
  assert sorted(path.name for path in folder.iterdir()) == ['10', '15']


def test_a_full_disk_is_one_clear_error_and_costs_no_earlier_step(tmp_path):
  state = {'params': np.random.default_rng(0).normal(size=200_000)}
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
  checkpoints.save(1, state)
  checkpoints.wait()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
  try:
    checkpoints.save(2, state)
    with pytest.raises(OSError) as error:
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert str(error.value) == (
    f'step 2 could not be written to {tmp_path} (File too large); make it possible to write '
    'there, then continue; complete steps there: [1]'
  )
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore_newest(state)[2] == 1
    checkpoints.save(2, state)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['1', '2']


def test_a_save_that_misses_another_process_says_so(tmp_path, monkeypatch):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, {'w': np.zeros(3)})
  checkpoints.wait()

  def alone():
    raise jax.errors.JaxRuntimeError('INTERNAL: Barrier failed because: Task 1 heartbeat timeout.')

  monkeypatch.setattr(checkpoints._manager, 'wait_until_finished', alone)
  expected = r'another process of the run ended.*; complete steps there: \[1\]'
  with pytest.raises(OSError, match=expected):
    checkpoints.wait()

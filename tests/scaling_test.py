"""What steps send between eight devices, and the tables of docs/scaling.md."""

import argparse
import functools
import importlib
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch
from landmarks_jax.methods import moco
from landmarks_jax.models import resnet
from landmarks_jax.models.norm import GroupedBatchNorm
from landmarks_jax.runtime import sharding

ROOT = pathlib.Path(__file__).parents[1]
SIDE, CHANNELS = 6, 5


@pytest.fixture
def script(monkeypatch):
  """script('scaling') -> the module of benchmarks/; a ResNet-10, and half the time to compile."""
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  monkeypatch.setitem(resnet.DEPTHS, 10, (resnet.basic_block, (1,) * 4))
  jax.config.update('jax_disable_most_optimizations', True)
  yield importlib.import_module
  jax.config.update('jax_disable_most_optimizations', False)


class Network(nn.Module):
  """A convolution between two norms, so that activations meet both."""

  groups: int

  @nn.compact
  def __call__(self, x):
    x = GroupedBatchNorm(self.groups)(x, train=True)
    x = nn.Conv(CHANNELS, (3, 3), use_bias=False)(nn.relu(x))
    return GroupedBatchNorm(self.groups)(x, train=True)


def side_by_side(first, second):
  return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def behind(first, second):
  return jnp.concatenate([first, second])


def collectives_of(script, groups, views, *, count=24):
  """Of forward, backward and running statistics of two views of a batch on eight devices."""
  mesh, network = sharding.mesh(), Network(groups)
  constrain = sharding.constrain(mesh)
  shape = count, SIDE, SIDE, 3
  one = jnp.zeros((2 * groups, *shape[1:]))
  variables = jax.eval_shape(network.init, jax.random.key(0), one)

  def step(variables, first, second):
    def loss(params):
      both = constrain(views(first, second))
      held = variables | {'params': params}
      maps, changed = network.apply(held, both, mutable=['batch_stats'])
      return (jnp.sin(maps) ** 2).mean(), changed

    return jax.grad(loss, has_aux=True)(variables['params'])

  whole, cut = sharding.replicated(mesh), sharding.sharded(mesh)
  step = jax.jit(step, in_shardings=(whole, cut, cut), out_shardings=whole)
  image = jax.ShapeDtypeStruct(shape, 'float32')
  return script('collectives').read(step.lower(variables, image, image).compile().as_text())


def test_norm_groups_that_align_with_devices_send_one_sum_of_gradients_and_statistics(script):
  (only,) = collectives_of(script, 8, side_by_side)
  assert only.kind == 'all-reduce'
  assert only.together == 8
  kernel, vectors = 3 * 3 * 3 * CHANNELS, 2 * 2 * (3 + CHANNELS)  # scale, bias; mean, variance
  assert only.bytes == 4 * (kernel + vectors)


def test_norm_groups_across_devices_send_statistics_and_no_activations(script):
  found = collectives_of(script, 4, side_by_side)
  assert {collective.kind for collective in found} == {'all-reduce'}
  assert {collective.together for collective in found} >= {2}
  largest = max(part.bytes for collective in found for part in collective.parts)
  assert largest == 4 * 3 * 3 * 3 * CHANNELS  # the kernel's gradient


@pytest.mark.parametrize(('groups', 'views'), [(3, side_by_side), (8, behind)])
def test_activations_travel_where_groups_cut_devices_or_views_stand_apart(script, groups, views):
  found = collectives_of(script, groups, views)
  rows = 2 * 24 // 8
  moved = [c for c in found if c.kind != 'all-reduce']
  assert max(collective.bytes for collective in moved) >= rows // 2 * SIDE * SIDE * 3 * 4


def test_devices_get_the_rows_they_are_dealt_and_a_random_order_brings_all(script):
  mesh, cut = sharding.mesh(), sharding.sharded(sharding.mesh())
  frames = jax.ShapeDtypeStruct((64, 10, 10, 3), np.uint8)
  order = np.random.default_rng(0).permutation(64)
  ways = {'dealt': lambda x: moco.deal(x, 8), 'gathered': lambda x: x[order]}
  given = {}
  for name, way in ways.items():
    jitted = jax.jit(
      lambda x, way=way: sharding.constrain(mesh)(way(x)), in_shardings=cut, out_shardings=cut
    )
    found = script('collectives').read(jitted.lower(frames).compile().as_text())
    given[name] = sum(collective.bytes for collective in found)
  assert given == {'dealt': 8 * 300, 'gathered': 64 * 300}


def test_devices_of_a_collective_are_read_in_all_forms(script):
  read = script('collectives').read
  line = '  %x = (f32[2,3]{1,0}, bf16[5]{0}, /*index=5*/u8[]) all-reduce(%a, %b), {}, to_apply=%add'
  forms = {
    "replica_groups=mesh['a'=4,'b'=2,'c'=1] {'a'}": 4,
    "replica_groups=mesh['a'=4,'b'=2,'c'=1], device_ids=([2,4]T(1,0)) {'b'}": 2,
    "replica_groups=mesh['a'=8] {'a':(2)4}": 4,
    'replica_groups=[2,4]<=[4,2]T(1,0)': 4,
    'replica_groups={{0,1,2},{3,4,5}}': 3,
  }
  for form, together in forms.items():
    (found,) = read(line.replace('{},', f'{form},'))
    assert (found.kind, found.together) == ('all-reduce', together)
    assert [part.bytes for part in found.parts] == [24, 10, 1]
    assert [part.rank for part in found.parts] == [2, 1, 0]
  (found,) = read('%y = u8[7]{0} collective-permute(%a), source_target_pairs={{0,0},{2,1},{1,2}}')
  assert (found.kind, found.together, found.bytes) == ('collective-permute', 3, 7)
  with pytest.raises(ValueError, match='unknown form: %z = f32'):
    read('%z = f32[7]{0} all-gather(%a), dimensions={0}')
  assert read('%w = f32[7]{0} add(%all-reduce, %all-gather.1)') == []


OPTIONS = '--width .25 --frame 72 --devices 8 --queue 64 --no_flops --methods '


@pytest.mark.parametrize('name', ['moco_resnet18', 'dve', 'scrl'])
def test_a_step_on_devices_sends_what_the_formulas_say(script, name, capsys, monkeypatch):
  scaling = script('scaling')
  monkeypatch.setitem(scaling.CASES, 'moco_resnet18', scaling.contrast(10, None))
  boxes = functools.partial(scrl_of_depth_10, scaling.CASES['scrl'])
  monkeypatch.setitem(scaling.CASES, 'scrl', boxes)
  scaling.main((OPTIONS + name).split())
  rows = {
    line.split('|')[1].strip(): line.split('|')[2].strip()
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('|')
  }
  causes = {'kernels', 'vectors', 'numbers'}
  causes |= {'moco_resnet18': {'frames', 'keys'}, 'dve': {'labels'}}.get(name, set())
  assert rows.keys() - {'all causes', 'collectives (all-reduces)'} >= causes
  # How many pictures have boxes must be known before the gradient of their mean is.
  assert rows['collectives (all-reduces)'].endswith('(2)' if name == 'scrl' else '(1)')
  given = sum(int(rows[cause].replace(',', '')) for cause in causes)
  assert given == int(rows['all causes'].replace(',', ''))


def scrl_of_depth_10(case, options, devices):
  return functools.partial(case(options, devices), depth=10)


def test_more_than_the_formula_is_an_error(script):
  scaling = script('scaling')
  state = argparse.Namespace(params={'w': np.zeros((3, 4)), 'b': np.zeros(4)}, aux={})
  batch = Batch(image=np.zeros((8, 2, 2, 3), np.uint8))
  due = scaling.formulas('w', state, batch, 8)
  assert (due['kernels'], due['vectors']) == (48, 16)
  given = dict.fromkeys(scaling.CAUSES, 0) | {'kernels': 48, 'vectors': 16, 'numbers': 8}
  scaling.check('w', given, due)
  for cause in 'kernels', 'vectors', 'frames', 'keys', 'labels':
    with pytest.raises(AssertionError, match=f'w: {cause} take'):
      scaling.check('w', given | {cause: given[cause] + 1}, due)


def test_the_page_shows_the_models_tables(script):
  assert script('scaling_model').page() in (ROOT / 'docs/scaling.md').read_text()


def test_the_models_step_is_the_papers(script):
  model = script('scaling_model')
  method = moco.build(mean=(0.5,) * 3, std=(0.5,) * 3, depth=50)
  one = Batch(image=jnp.zeros((1, 136, 136, 3), np.uint8))
  params, aux = jax.eval_shape(lambda rng: method.init(rng, one), jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == model.PARAMETERS
  assert aux['queue'].shape[1] == model.DIM


def test_the_model_pays_for_what_more_devices_send(script):
  model = script('scaling_model')
  for machine in model.MACHINES:
    for batch in model.BATCHES:
      seconds = [model.step(machine, devices, batch) for devices in (1, 4, 64, 256)]
      assert model.efficiency(machine, 256, batch) < model.efficiency(machine, 64, batch) < 1
      assert min(seconds) > model.UPDATE / machine.memory
    one, eight = (model.parts(machine, devices, 256) for devices in (1, 8))
    assert eight['networks'] == one['networks'] / 8
    assert eight['update'] == one['update']
    assert 'gradients' not in one
  pod, more = (model.parts(model.MACHINES[0], devices, 32768) for devices in (256, 1024))
  assert more['frames'] > pod['frames'] / 4  # they leave the pod

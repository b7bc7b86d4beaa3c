"""Every method lowers for accelerators that are not here, with the shardings of eight devices."""

import functools

import jax
import methods_test
import numpy as np
import pytest
from jax import export

from landmarks_jax import training
from landmarks_jax.runtime import optim, sharding

PLATFORMS = 'tpu', 'cuda'


class Shapes:
  """A tiny method on eight devices, and the shapes of its state and batch."""

  def __init__(self, name):
    self.name, self.mesh = name, sharding.mesh()
    constrain = sharding.constrain(self.mesh)
    self.method, self.frame = methods_test.build(name, constrain=constrain)
    self.tx = optim.sgd(1e-3, momentum=0.9, weight_decay=1e-4)
    self.batch = next(methods_test.batches(self))
    init = functools.partial(training.init_state, self.method, self.tx, batch=self.batch)
    self.rng = jax.eval_shape(lambda: jax.random.key(0))
    self.state = jax.eval_shape(init, self.rng)


@pytest.fixture(scope='module', params=methods_test.METHODS)
def shapes(request):
  return Shapes(request.param)


def test_the_step_lowers_for_tpu_and_cuda_on_eight_devices(shapes):
  step = training.make_train_step(shapes.method, shapes.tx)
  step = sharding.compile_step(step, shapes.mesh)
  exported = export.export(step, platforms=PLATFORMS)(shapes.state, shapes.batch, shapes.rng)
  assert exported.platforms == PLATFORMS
  assert exported.nr_devices == 8
  whole, cut = sharding.replicated(shapes.mesh), sharding.sharded(shapes.mesh)
  state, batch = (jax.tree.leaves(tree) for tree in (shapes.state, shapes.batch))
  wanted = [whole] * len(state) + [cut] * len(batch) + [whole]
  given = exported.in_shardings_jax(shapes.mesh)  # None: not used by the step
  assert [g or w for g, w in zip(given, wanted, strict=True)] == wanted
  assert cut in given
  after = exported.out_avals[: len(state)]
  assert [(x.shape, x.dtype) for x in after] == [(x.shape, x.dtype) for x in state]


def test_describe_lowers_for_tpu_and_cuda_on_eight_devices(shapes):
  side = shapes.frame - 2 * methods_test.margin_of(shapes)
  image = jax.ShapeDtypeStruct((16, side, side, 3), np.uint8)
  whole, cut = sharding.replicated(shapes.mesh), sharding.sharded(shapes.mesh)
  describe = jax.jit(
    lambda params, aux, image: shapes.method.describe(params, aux, image, None),
    in_shardings=(whole, whole, cut),
    out_shardings=cut,
  )
  exported = export.export(describe, platforms=PLATFORMS)(
    shapes.state.params, shapes.state.aux, image
  )
  assert exported.platforms == PLATFORMS
  assert exported.nr_devices == 8
  assert all(level.shape[0] == 16 for level in exported.out_avals)

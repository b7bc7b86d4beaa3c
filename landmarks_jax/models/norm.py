"""Batch normalisation over groups of the batch, whatever the number of devices."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from landmarks_jax.contracts import Array, PyTree
from landmarks_jax.dtypes import at_least_float32
from landmarks_jax.losses import mean_of_valid
from landmarks_jax.models.varying import alike


class GroupedBatchNorm(nn.Module):
  """Batch normalisation (Ioffe & Szegedy 2015) with statistics over runs of B/groups examples.

  Four groups reproduce a paper that trained on four GPUs, on any number of devices: a sharded batch
  needs no axis name, and only statistics cross devices. Running statistics follow PyTorch: unbiased
  variance (normalisation uses the biased one), the mean over groups, momentum .9 = torch's .1.
  Statistics are at least float32; the result has the dtype of `x`. With `valid`, examples that are
  not valid are excluded from all statistics, and a group without valid ones leaves the running
  statistics unchanged. Running statistics have no gradient. In training, reverse mode only: no jvp.
  """

  groups: int = 1
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B *shape C'], train: bool, valid: Bool[Array, ' B'] | None = None
  ) -> Float[Array, 'B *shape C']:
    """Normalises channels: by the batch's own statistics if `train`, else by the running ones.

    With `valid`, the output for other examples is meaningless in training, and has no gradient.

    Raises ValueError in training if the groups do not divide B, or leave one value per channel.
    """
    channels = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)

    mean, var = running_mean.value, running_var.value
    if not train:
      return _by_running(x, scale, bias, mean, var, epsilon=self.epsilon)
    self._check_groups(x.shape)
    options = {'groups': self.groups, 'momentum': self.momentum, 'epsilon': self.epsilon}
    y, mean, var = _by_batch(x, valid, scale, bias, mean, var, **options)
    if not self.is_initializing():
      running_mean.value, running_var.value = mean, var
    return y

  def _check_groups(self, shape: tuple[int, ...]) -> None:
    size, rest = divmod(shape[0], self.groups)
    if rest or not size:
      raise ValueError(
        f'batch of {shape[0]} does not split into {self.groups} norm groups; '
        f'use a batch that is a multiple of {self.groups}, or another norm_groups'
      )
    if size * math.prod(shape[1:-1]) == 1:
      raise ValueError(
        f'training needs more than one value a channel: got shape {shape} in {self.groups} norm '
        'groups; use a larger batch or fewer norm_groups'
      )


# Compiled by themselves, so that layers of one shape are traced once, which starts a run sooner.
@functools.partial(jax.jit, static_argnames='epsilon')
def _by_running(
  x: Float[Array, 'B *shape C'],
  scale: Float[Array, ' C'],
  bias: Float[Array, ' C'],
  mean: Float[Array, ' C'],
  var: Float[Array, ' C'],
  *,
  epsilon: float,
) -> Float[Array, 'B *shape C']:
  """Normalises x by running statistics."""
  y = (at_least_float32(x) - mean) * (scale / jnp.sqrt(var + epsilon)) + bias
  return y.astype(x.dtype)


@functools.partial(jax.jit, static_argnames=('groups', 'momentum', 'epsilon'))
def _by_batch(
  x: Float[Array, 'B *shape C'],
  valid: Bool[Array, ' B'] | None,
  scale: Float[Array, ' C'],
  bias: Float[Array, ' C'],
  running_mean: Float[Array, ' C'],
  running_var: Float[Array, ' C'],
  *,
  groups: int,
  momentum: float,
  epsilon: float,
) -> tuple[Float[Array, 'B *shape C'], Float[Array, ' C'], Float[Array, ' C']]:
  """Normalises x by the statistics of its groups; also the running ones after this batch."""
  y = at_least_float32(x).reshape(groups, -1, *x.shape[1:])
  counted, count = None, math.prod(y.shape[1:-1])
  if valid is not None:
    counted = valid.reshape(*y.shape[:2], *[1] * (y.ndim - 2))
    y = jnp.where(counted, y, 0)  # whatever they hold
    count = counted.sum(_inner(y), keepdims=True) * math.prod(y.shape[2:-1])
  mean_of = functools.partial(_mean, counted=counted, count=count)
  mean = mean_of(y)
  if x.dtype.itemsize < 4:  # one pass: relative to the running mean, little cancels
    var = mean_of(jnp.square(y - running_mean)) - jnp.square(mean - running_mean)
    var = jnp.maximum(var, 0)
  else:  # two passes: one would cancel in float32
    var = mean_of(jnp.square(y - mean))
  unbiased = var * (count / jnp.maximum(count - 1, 1))
  after = functools.partial(_after, count=count, momentum=momentum)
  running = after(running_mean, mean), after(running_var, unbiased)
  y, scale, bias = alike((y, scale, bias))
  y = _normalised(y, scale, bias, (mean, jnp.sqrt(var + epsilon)), counted, count)
  return y.reshape(x.shape).astype(x.dtype), *running


def _after(
  running: Float[Array, ' C'],
  groups: Float[Array, 'G *ones C'],
  *,
  count: Int[Array, 'G 1 *ones'] | int,
  momentum: float,
) -> Float[Array, ' C']:
  """A running statistic after a batch, of which `groups` has it for each group."""
  new = jax.lax.stop_gradient(groups).reshape(-1, groups.shape[-1])
  if isinstance(count, int):
    new = new.mean(0)
  else:
    known = count.ravel() > 0  # over the groups that have valid examples
    new = jnp.where(known.any(), mean_of_valid(new, known), running)
  return (momentum * running + (1 - momentum) * new).astype(running.dtype)


def _inner(y: Float[Array, 'G n *shape C']) -> tuple[int, ...]:
  """The axes that a group's statistics are over: all but the group and the channel."""
  return tuple(range(1, y.ndim - 1))


def _mean(
  y: Float[Array, 'G n *shape C'],
  *,
  counted: Bool[Array, 'G n *ones'] | None,
  count: Int[Array, 'G 1 *ones'] | int,
) -> Float[Array, 'G *ones C']:
  """Mean over the `count` counted values (None: all) per channel; 0 where there are none."""
  return y.sum(_inner(y), keepdims=True, where=counted) / jnp.maximum(count, 1)


@jax.custom_vjp
def _normalised(
  y: Float[Array, 'G n *shape C'],
  scale: Float[Array, ' C'],
  bias: Float[Array, ' C'],
  statistics: tuple[Float[Array, 'G *ones C'], Float[Array, 'G *ones C']],
  counted: Bool[Array, 'G n *_'] | None,
  count: Int[Array, '*_'] | int,
) -> Float[Array, 'G n *shape C']:
  """Normalises y by its own mean and deviation, `statistics` of `count` values per channel.

  The gradient (Ioffe & Szegedy 2015, section 3) goes through them, too, in two passes over the
  maps: two sums, then the slopes. Autodiff makes three, and sums what is zero once centred. Hence
  `statistics` get no gradient here, but depend on y for the gradient's own derivatives.
  """
  mean, deviation = statistics
  return (y - mean) * (scale / deviation) + bias


def _forward(
  y: Array, scale: Array, bias: Array, statistics: PyTree, counted: Array | None, count: Array | int
) -> tuple[Array, PyTree]:
  kept = y, scale, statistics, counted, count
  return _normalised(y, scale, bias, statistics, counted, count), kept


def _backward(kept: PyTree, slope: Float[Array, 'G n *shape C']) -> PyTree:
  y, scale, (mean, deviation), counted, count = kept
  axes = _inner(y)
  if counted is not None:
    slope, count = jnp.where(counted, slope, 0), jnp.maximum(count, 1)
  centred = y - mean
  of_bias = slope.sum(axes, keepdims=True)  # in each group
  of_scale = (slope * centred).sum(axes, keepdims=True) / deviation
  of_y = slope - of_bias / count - centred * (of_scale / (count * deviation))
  of_y = of_y * (scale / deviation)
  of_scale, of_bias = (
    x.sum(tuple(range(x.ndim - 1))).astype(scale.dtype) for x in (of_scale, of_bias)
  )
  return of_y, of_scale, of_bias, None, None, None


_normalised.defvjp(_forward, _backward)


def with_one_more(stats: PyTree, new: PyTree, n: Int[Array, ''] | int) -> PyTree:
  """Means over n + 1 batches, from `stats`, those over the first n, and `new`, of the last."""
  return jax.tree.map(lambda old, new: old + (new - old) / (n + 1), stats, new)

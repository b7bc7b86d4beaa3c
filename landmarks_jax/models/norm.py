"""Batch normalisation over groups of the batch, whatever the number of devices."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from landmarks_jax.contracts import Array, PyTree

# Of a network's computation; parameters and statistics are float32.
PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


class GroupedBatchNorm(nn.Module):
  """Batch normalisation (Ioffe & Szegedy 2015) with statistics over runs of B/groups examples.

  Four groups reproduce a paper that trained on four GPUs, on any number of devices: a sharded batch
  needs no axis name, and only statistics cross devices. Running statistics follow PyTorch: unbiased
  variance (normalisation uses the biased one), the mean over groups, momentum .9 = torch's .1.
  Statistics are at least float32; the result has the dtype of `x`.
  """

  groups: int = 1
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Float[Array, 'B *shape C'], train: bool) -> Float[Array, 'B *shape C']:
    """Normalises channels: by the batch's own statistics if `train`, else by the running ones.

    Raises ValueError in training if the groups do not divide B, or leave one value a channel.
    """
    channels = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)

    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, var = running_mean.value, running_var.value
    if train:
      y = y.reshape(self.groups, self._group_size(x.shape), *x.shape[1:])
      axes = tuple(range(1, y.ndim - 1))
      mean = y.mean(axes, keepdims=True)
      var = jnp.square(y - mean).mean(axes, keepdims=True)  # two passes: one cancels in float32
      if not self.is_initializing():
        count = math.prod(y.shape[1:-1])
        self._update(running_mean, mean)
        self._update(running_var, var * (count / (count - 1)))
    y = (y - mean) * (scale / jnp.sqrt(var + self.epsilon)) + bias
    return y.reshape(x.shape).astype(x.dtype)

  def _update(self, running: nn.Variable, groups: Float[Array, 'G *ones C']) -> None:
    new = groups.reshape(-1, groups.shape[-1]).mean(0)
    old = running.value
    running.value = (self.momentum * old + (1 - self.momentum) * new).astype(old.dtype)

  def _group_size(self, shape: tuple[int, ...]) -> int:
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
    return size


def calibrated(
  network: nn.Module,
  params: PyTree,
  stats: PyTree,
  image: Float[Array, 'B H W C'],
  n: Int[Array, ''] | int,
) -> PyTree:
  """Running statistics as exact means over n + 1 batches, of which `image` is the last.

  Args: network: with a `norm_momentum`, or without running statistics. stats: means over the n
  batches before.
  """
  if not stats:
    return stats
  _, changed = network.clone(norm_momentum=0.0).apply(
    {'params': params, 'batch_stats': stats}, image, train=True, mutable=['batch_stats']
  )
  return jax.tree.map(lambda old, new: old + (new - old) / (n + 1), stats, changed['batch_stats'])

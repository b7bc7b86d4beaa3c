"""Heads of networks: embeddings, BYOL's MLP, and what every head that finds landmarks offers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from landmarks_jax import losses
from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import at_least_float32
from landmarks_jax.models.norm import GroupedBatchNorm


class EmbeddingHead(nn.Module):
  """Average pool, one linear layer (or an MLP of `layers`), unit length: MoCo v1 and v2.

  Weights and biases start uniform in +-1/sqrt(fan_in), as torch's linear layers do. float32 at
  least.
  """

  dim: int
  layers: int = 1

  @nn.compact
  def __call__(self, maps: Float[Array, 'B h w C']) -> Float[Array, 'B {self.dim}']:
    """Maps [B, h, w, C] -> unit rows [B, dim]."""
    x = at_least_float32(maps).mean(axis=(1, 2))
    fan_in = x.shape[-1]
    for layer in range(self.layers):
      x = nn.relu(x) if layer else x
      width = self.dim if layer == self.layers - 1 else fan_in
      x = _linear(width, fan_in, name=f'fc{layer}')(x)
    return losses.unit(x)


class NormedMLP(nn.Module):
  """Linear, BatchNorm, ReLU, linear without a bias: the projector and the predictor of BYOL.

  Weights start as in EmbeddingHead. Statistics are those of `GroupedBatchNorm` over valid rows.
  """

  hidden: int
  dim: int
  norm_groups: int = 1

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B C'], train: bool, valid: Bool[Array, ' B'] | None = None
  ) -> Float[Array, 'B {self.dim}']:
    """Rows [B, C] -> [B, dim]; the output for rows that are not valid is meaningless."""
    x = at_least_float32(x)
    x = _linear(self.hidden, x.shape[-1], name='fc0')(x)
    x = nn.relu(GroupedBatchNorm(self.norm_groups, name='norm')(x, train, valid))
    return _linear(self.dim, self.hidden, use_bias=False, name='fc1')(x)


def _linear(width: int, fan_in: int, *, name: str, use_bias: bool = True) -> nn.Dense:
  """A linear layer with torch's initialisation: all uniform in +-1/sqrt(fan_in)."""

  def bias(rng: Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> Array:
    return jax.random.uniform(rng, shape, dtype, -1, 1) * fan_in**-0.5

  kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
  return nn.Dense(width, use_bias=use_bias, kernel_init=kernel, bias_init=bias, name=name)


class LandmarkHead(NamedTuple):
  """Landmarks from a pyramid: `predict(variables, pyramid) -> points [B, K, 2]`, normalised."""

  variables: Any
  predict: Callable

"""A network on pictures of 0..255, and what methods do with it: train, describe, calibrate."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from landmarks_jax.augment import colour
from landmarks_jax.contracts import Array, Pyramid, PyTree
from landmarks_jax.models.norm import with_one_more


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A module `(image, train) -> Pyramid`, and the colours that standardise its pictures.

  Pictures are [B, H, W, 3], 0..255, bytes or floats. params, stats: weights and running statistics
  of the module, {} where it has none. Raises ValueError for colours that standardise nothing, and
  for a module with an attribute that cannot be hashed, such as a list, by which JAX finds it again.
  """

  module: nn.Module
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __post_init__(self) -> None:
    colour.check_statistics(mean=self.mean, std=self.std)
    try:
      hash(self.module)
    except TypeError as error:
      given = ' '.join(repr(self.module).split())
      raise ValueError(f'{given} cannot be hashed; give it tuples, not lists') from error

  def standardised(self, image: Num[Array, 'B H W 3']) -> Float[Array, 'B H W 3']:
    """What the module sees of pictures: see `colour.standardise`."""
    return colour.standardise(jnp.asarray(image, float), mean=self.mean, std=self.std)

  def train(
    self, params: PyTree, stats: PyTree, standardised: Float[Array, 'B H W 3']
  ) -> tuple[Pyramid, PyTree]:
    """The pyramid in training mode, and the running statistics after this batch.

    Args: standardised: from the method of that name; two networks may share them.
    """
    return _train(self.module, params, stats, standardised)

  def describe(self, params: PyTree, stats: PyTree, image: Num[Array, 'B H W 3']) -> Pyramid:
    """The pyramid by the running statistics, whatever else is in the batch."""
    variables = {'params': params, 'batch_stats': stats}
    return self.module.apply(variables, self.standardised(image), train=False)

  def calibrated(
    self, params: PyTree, stats: PyTree, image: Num[Array, 'B H W 3'], n: Int[Array, ''] | int
  ) -> PyTree:
    """Running statistics as exact means over n + 1 batches, of which `image` is the last.

    Args: stats: means over the n earlier batches; where there are any, the module has a
    `norm_momentum`.
    """
    if not stats:
      return stats
    forgetful = dataclasses.replace(self, module=self.module.clone(norm_momentum=0.0))
    _, new = forgetful.train(params, stats, self.standardised(image))
    return with_one_more(stats, new, n)


@functools.partial(jax.jit, static_argnums=0)  # traced once for a query and a key encoder
def _train(
  module: nn.Module, params: PyTree, stats: PyTree, standardised: Float[Array, 'B H W 3']
) -> tuple[Pyramid, PyTree]:
  variables = {'params': params, 'batch_stats': stats}
  pyramid, changed = module.apply(variables, standardised, train=True, mutable=['batch_stats'])
  return pyramid, changed.get('batch_stats', {})

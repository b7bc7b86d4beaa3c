"""Types of arrays inside `jax.shard_map`, which a gradient written by hand must keep."""

import jax

from landmarks_jax.contracts import PyTree


def alike(arrays: PyTree) -> PyTree:
  """The same numbers, all varying over those mesh axes over which any of the arrays varies.

  Inside `jax.shard_map` a gradient must vary as its array does. That of parameters, equal on all
  devices, with respect to one device's examples varies; the gradient of this cast is the sum over
  devices. Outside nothing changes.
  """
  axes = frozenset().union(*map(_varying, jax.tree.leaves(arrays)))

  def cast(x: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    missing = tuple(sorted(axes - _varying(x), key=str))  # every process compiles the same
    return jax.lax.pcast(x, missing, to='varying') if missing else x

  return jax.tree.map(cast, arrays)


def _varying(x: jax.typing.ArrayLike) -> frozenset[object]:
  return jax.typeof(x).mat.varying

"""The doorway between this process's rows and arrays on all devices.

This file and `cli/` are the only places that know of devices and processes: the rest is written for
one big batch on one device (what pmap was for is now jax.jit with shardings over a 1-D mesh).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from landmarks_jax.contracts import PyTree


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One axis, 'data', over `devices` (default: all of every process)."""
  devices = jax.devices() if devices is None else devices
  # Explicit axes, the default, raise on shuffles and on queue writes.
  return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, P())


def sharded(mesh: Mesh) -> NamedSharding:
  """The leading axis cut over the devices."""
  return NamedSharding(mesh, P('data'))


def constrain(mesh: Mesh) -> Callable[[PyTree], PyTree]:
  """A function tree -> tree that keeps leading axes cut over the devices in a compiled function.

  For what the compiler would replicate, such as `x[permutation]`. Values do not change.
  """
  return lambda tree: jax.lax.with_sharding_constraint(tree, sharded(mesh))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Copies a tree to every device.

  Always a copy: a state whose momentum encoder *is* its parameters, or that the caller still
  holds, could not be donated.
  """
  # device_put(may_alias=False) alone still hands on the buffer of the first device.
  return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), replicated(mesh)), tree)


def to_global(batch: PyTree, mesh: Mesh) -> PyTree:
  """This process's rows of a batch -> global arrays [B, ...] cut over the devices; None stays None.

  Do not write into `batch` afterwards: on the CPU the arrays may share its memory. Raises
  ValueError if the global batch does not divide over the devices, or if fields differ in length.
  """
  sizes = {len(leaf) for leaf in jax.tree.leaves(batch)}
  if len(sizes) > 1:
    raise ValueError(f'the fields of a batch have different numbers of examples: {sorted(sizes)}')
  examples = sum(sizes) * shards()
  if examples % mesh.size:
    raise ValueError(
      f'a batch of {examples} examples does not divide over {mesh.size} devices; '
      f'use a multiple of {mesh.size}'
    )
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharded(mesh), np.asarray(x)), batch
  )


def make_gather(arrays: PyTree, mesh: Mesh) -> Callable[[np.ndarray], PyTree]:
  """Copies arrays [N, ...] to every device; the function takes rows of them as a global batch.

  It maps this process's row numbers to arrays [B, ...] cut over the devices, like `to_global`, but
  only the numbers travel. All processes give the same arrays. Do not write into them afterwards.
  """
  whole, cut = replicated(mesh), sharded(mesh)
  held = jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(whole, np.asarray(x), np.shape(x)), arrays
  )
  take = jax.jit(
    lambda held, rows: jax.tree.map(lambda x: x[rows], held),
    in_shardings=(whole, cut),
    out_shardings=cut,
  )
  return lambda rows: take(held, to_global(rows, mesh))


def free_memory(mesh: Mesh) -> int | None:
  """Bytes that are free on the fullest device of this process; None where they do not say.

  CPUs do not: their memory is the host's.
  """
  found = [device.memory_stats() or {} for device in mesh.local_devices]
  if not all({'bytes_limit', 'bytes_in_use'} <= stats.keys() for stats in found):
    return None
  return min(stats['bytes_limit'] - stats['bytes_in_use'] for stats in found)


def largest(number: int) -> int:
  """The largest of the small numbers that the processes give (all of them must call it)."""
  return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def to_host(tree: PyTree) -> PyTree:
  """Arrays on devices -> whole NumPy arrays, on every process (all processes must call it)."""
  if shards() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


def compile_step(step: Callable, mesh: Mesh) -> Callable:
  """Compiles a `(state, batch, rng) -> (state, metrics)`: state replicated and donated, batch cut.

  The state that went in is gone afterwards; start from `replicate(state, mesh)` and
  `to_global(batch, mesh)`.
  """
  whole, cut = replicated(mesh), sharded(mesh)
  return jax.jit(
    step, in_shardings=(whole, cut, whole), out_shardings=(whole, whole), donate_argnums=0
  )


def shard() -> int:
  """The number of this process, from 0."""
  return jax.process_index()


def shards() -> int:
  """How many processes run together."""
  return jax.process_count()


def is_main() -> bool:
  """Whether this process writes the logs."""
  return shard() == 0

"""The interface between this process's rows and arrays on all devices.

Only this file and `cli/` know of devices and processes (and `compiler.py` of their kind): the rest
is written for one big batch on one device (jax.jit with shardings over a 1-D mesh takes the place
of pmap).
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import UInt8

from landmarks_jax.contracts import PyTree
from landmarks_jax.runtime import compiler

AUTOMATIC = 'TPU, Slurm, Open MPI, Kubernetes'  # where JAX looks for the processes of a program
LAST_WAIT = 30  # seconds an ending process waits for the others; then they end too


def start(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  *,
  timeout: int = 300,
) -> None:
  """Joins the processes of one program; call it before anything touches a device.

  Args:
    coordinator: HOST:PORT of process 0, the same on all; a free port there. processes: how many.
    process: the number of this one, from 0. Without all three, JAX asks the cluster (AUTOMATIC).
    timeout: seconds to wait for the others.

  Raises ValueError for inconsistent numbers, if no cluster is found or if the port is taken, and
  TimeoutError if not all processes have joined.
  """
  given = coordinator, processes, process
  if given != (None,) * 3:
    _check_processes(*given)
  found = {} if coordinator is None else {'cluster_detection_method': 'deactivate'}
  failed: list[Exception] = []

  def join() -> None:
    try:
      limits = {'initialization_timeout': timeout + 60, 'shutdown_timeout_seconds': LAST_WAIT}
      jax.distributed.initialize(*given, **limits, **found)
    except Exception as error:  # depends on the cluster
      failed.append(error)

  # In a thread: the client aborts the whole process at its own timeout.
  waiting = threading.Thread(target=join, daemon=True)
  waiting.start()
  waiting.join(timeout)
  if waiting.is_alive():
    raise TimeoutError(_unmet(*given, timeout=timeout))
  if failed and coordinator is None:
    raise ValueError(
      f'no cluster was found ({AUTOMATIC}): {failed[0]} '
      'Without one give --coordinator=HOST:PORT --processes=N --process=I'
    ) from failed[0]
  if failed:
    raise ValueError(f'process {process} cannot join at {coordinator}: {failed[0]}') from failed[0]


def _check_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
  if None in (coordinator, processes, process):
    raise ValueError('--coordinator=HOST:PORT, --processes=N and --process=I belong together')
  port = re.fullmatch(r'.+:(\d{1,5})', coordinator)
  if port is None or not 0 < int(port[1]) < 2**16:
    raise ValueError(f'--coordinator={coordinator}: expected HOST:PORT of process 0')
  if processes < 1:
    raise ValueError(f'--processes={processes}: expected 1 or more')
  if not 0 <= process < processes:
    raise ValueError(f'--process={process}: expected 0 to {processes - 1} of {processes} processes')
  if process == 0:
    try:  # JAX's server aborts the whole process if it cannot listen
      socket.create_server(('', int(port[1]))).close()
    except OSError as error:
      raise ValueError(
        f'process 0 cannot start at {coordinator}: {error.strerror}; '
        'choose a HOST:PORT of process 0 whose port is free'
      ) from error


def _unmet(
  coordinator: str | None, processes: int | None, process: int | None, *, timeout: int
) -> str:
  if process == 0:
    return (
      f'of {processes} processes not all came to {coordinator} in {timeout} s; start the same '
      f'command with --process=1 to {processes - 1}, or wait longer with --start_timeout=SECONDS'
    )
  return (
    f'process 0 did not answer at {coordinator or "the address that the cluster names"} in '
    f'{timeout} s, or not all processes came; start all of them, see that its host and port can be '
    'reached from here, or wait longer with --start_timeout=SECONDS'
  )


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One axis, 'data', over `devices` (default: all of every process), process by process."""
  devices = jax.devices() if devices is None else devices
  # By process, so that a batch is the rows of process 0, then those of process 1, and so on.
  # jax.make_mesh follows the torus of a TPU, which mixes the hosts, and refuses several GPU hosts.
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  # Explicit axes raise on shuffles and on queue writes.
  return Mesh(np.array(ordered), ('data',), axis_types=(AxisType.Auto,))


def divisor(mesh: Mesh, count: int) -> Mesh:
  """The mesh of the first devices, as many as divide `count`; `mesh` itself if all do.

  Raises ValueError with several processes, of which some could be left without a device.
  """
  if count % mesh.size == 0:
    return mesh
  size = next(size for size in range(mesh.size, 0, -1) if count % size == 0)
  if shards() > 1:
    raise ValueError(
      f'a batch of {count} pictures does not divide over {mesh.size} devices of {shards()} '
      f'processes; use as many devices as divide {count}, or one process'
    )
  return Mesh(mesh.devices[:size], mesh.axis_names, axis_types=mesh.axis_types)


def platform(mesh: Mesh) -> str:
  """The kind of its devices: 'cpu', 'gpu', 'tpu'."""
  return mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, P())


def sharded(mesh: Mesh) -> NamedSharding:
  """The leading axis sharded over the devices."""
  return NamedSharding(mesh, P('data'))


def constrain(mesh: Mesh) -> Callable[[PyTree], PyTree]:
  """A function tree -> tree that keeps leading axes sharded over the devices inside jit.

  For what the compiler would replicate, such as `x[permutation]`. Values do not change.
  """
  return lambda tree: jax.lax.with_sharding_constraint(tree, sharded(mesh))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Copies a tree to every device.

  Always a copy: a state whose momentum encoder *is* its parameters, or that the caller still
  holds, could not be donated.
  """
  if shards() > 1:
    # device_put would compare every leaf across processes; they already hold the same ones.
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=replicated(mesh))
    return copy(jax.tree.map(np.asarray, tree))
  # device_put(may_alias=False) alone still passes on the buffer of the first device.
  return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), replicated(mesh)), tree)


def to_global(batch: PyTree, mesh: Mesh) -> PyTree:
  """This process's rows of a batch -> global arrays [B, ...] sharded over devices; None stays None.

  Do not modify `batch` afterwards: on the CPU the arrays may share its memory. Raises
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
  """Copies arrays [N, ...] to every device; returns a function that takes rows as a global batch.

  It maps this process's row numbers to arrays [B, ...] sharded over the devices, like `to_global`,
  but transfers only the numbers. All processes give the same arrays. Do not modify them afterwards.
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
  """Bytes free on the fullest device of this process; None if the devices do not report it.

  CPUs do not: their memory is the host's.
  """
  found = [device.memory_stats() or {} for device in mesh.local_devices]
  if not all({'bytes_limit', 'bytes_in_use'} <= stats.keys() for stats in found):
    return None
  return min(stats['bytes_limit'] - stats['bytes_in_use'] for stats in found)


def peak_memory(mesh: Mesh) -> int | None:
  """Peak bytes used on the fullest device of this process; None if no device reports it.

  CPUs do not.
  """
  stats = [device.memory_stats() or {} for device in mesh.local_devices]
  peaks = [one['peak_bytes_in_use'] for one in stats if 'peak_bytes_in_use' in one]
  return max(peaks, default=None)


def largest(number: int) -> int:
  """The largest of the int32 numbers that the processes give (all of them must call it)."""
  return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def preempted(step: int) -> bool:
  """Whether all processes stop after this step, since SIGTERM came to one of them.

  All of them call it after every step. The runtime of several processes takes SIGTERM for itself,
  tells the others and finds the first step that none of them has passed.
  """
  return multihost_utils.reached_preemption_sync_point(step)


def to_host(tree: PyTree) -> PyTree:
  """Arrays on devices -> whole NumPy arrays, on every process (all processes must call it)."""
  if shards() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


def local(tree: PyTree) -> PyTree:
  """Replicated arrays -> this process's copy, to compute with while other processes do not."""
  return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


def of_main(value: Any) -> Any:
  """The main process's JSON value, returned on every process (all of them must call it)."""
  if shards() == 1:
    return value
  text = _padded(json.dumps(value if is_main() else None))
  return json.loads(bytes(multihost_utils.broadcast_one_to_all(text)))


def of_all(value: Any) -> list[Any]:
  """The JSON values of all processes by number, on every process (all of them must call it)."""
  if shards() == 1:
    return [value]
  texts = multihost_utils.process_allgather(_padded(json.dumps(value)))
  return [json.loads(bytes(text)) for text in texts]


def _padded(text: str) -> UInt8[np.ndarray, ' N']:
  """A JSON text as bytes, of the same length on all processes (all of them must call it)."""
  found = np.frombuffer(text.encode(), np.uint8)
  # Padded to few lengths, since each is compiled; JSON ignores trailing spaces.
  padded = np.full(1 << largest(len(found) - 1).bit_length(), ord(' '), np.uint8)
  padded[: len(found)] = found
  return padded


def on_main(act: Callable[[], Any]) -> Any:
  """The JSON value of `act` on the main process, on every process (all of them must call it).

  A ValueError or OSError, which is meant for users, stops all: the others raise ValueError.
  """
  error, value = None, None
  if is_main():
    try:
      value = act()
    except (ValueError, OSError) as raised:
      error = raised
  said, value = of_main([None if error is None else f'process 0: {error}', value])
  if error is not None:
    raise error
  if said is not None:
    raise ValueError(said)
  return value


def compile_step(
  step: Callable, mesh: Mesh, *, compiler_options: Mapping[str, Any] | None = None
) -> Callable:
  """Compiles `(state, batch, rng) -> (state, metrics)`: state replicated, donated; batch sharded.

  The input state is deleted; start from `replicate(state, mesh)` and `to_global(batch, mesh)`.
  compiler_options: of `jax.jit`, in addition to those of `compiler.NETWORKS`.
  """
  whole, cut = replicated(mesh), sharded(mesh)
  cuts = {'in_shardings': (whole, cut, whole), 'out_shardings': (whole, whole)}
  chosen = compiler.options(compiler.NETWORKS, platform(mesh)) | dict(compiler_options or {})
  return jax.jit(step, **cuts, donate_argnums=0, compiler_options=chosen)


def on_this_host() -> int:
  """How many of the processes run on the host of this one (all of them must call it)."""
  own = socket.gethostname()
  return of_all(own).count(own)


def shard() -> int:
  """The number of this process, from 0."""
  return jax.process_index()


def shards() -> int:
  """How many processes run together."""
  return jax.process_count()


def is_main() -> bool:
  """Whether this process writes the logs."""
  return shard() == 0

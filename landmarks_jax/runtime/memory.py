"""The device memory that a compiled step will need, by cause, before it runs."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from landmarks_jax.contracts import Array, Batch, PyTree, TrainState
from landmarks_jax.runtime import logs

WORK = 'activations, gradients and temporaries'


def size(tree: PyTree) -> int:
  """Bytes of the arrays of a tree, which may be shapes alone."""
  return sum(x.size * _itemsize(x) for x in jax.tree.leaves(tree))


def of_step(
  compiled: jax.stages.Compiled, state: TrainState, batch: Batch, *, devices: int
) -> dict[str, int]:
  """Bytes on each device while the step runs.

  Args: state: replicated on each device. batch: sharded over them. Both may be shapes alone.
  """
  stats = compiled.memory_analysis()
  made = stats.output_size_in_bytes - stats.alias_size_in_bytes  # not in donated buffers
  parts = state.aux if isinstance(state.aux, Mapping) else {'state': state.aux}
  found = {'parameters': size(state.params), 'optimizer': size(state.opt)}
  found |= {f"the method's {name}": size(part) for name, part in parts.items()}
  found['batch'] = size(batch) // devices
  found[WORK] = stats.temp_size_in_bytes + made + stats.generated_code_size_in_bytes
  return found


def describe(need: Mapping[str, int], *, most: int = 5) -> str:
  """The sum and its largest terms: '1.52 GB (batch 1.10 GB, parameters 400 MB, other 20 MB)'."""
  terms = sorted((term for term in need.items() if term[1]), key=lambda term: -term[1])
  shown = [f'{name} {logs.amount(count)}' for name, count in terms[:most]]
  if len(terms) > most:
    shown.append(f'other {logs.amount(sum(count for _, count in terms[most:]))}')
  return f'{logs.amount(sum(need.values()))} ({", ".join(shown)})'


def largest_batch(need: Mapping[int, int], *, free: int, multiple: int, below: int) -> int:
  """The largest batch that fits, by a straight line through two known needs; 0 if none does.

  Args: need: bytes by batch size, for two sizes. multiple: batches must be a multiple of it. below:
  a batch that does not fit.
  """
  (low, at_low), (high, at_high) = sorted(need.items())
  each = max((at_high - at_low) / (high - low), 1e-9)
  most = min(low + (free - at_low) / each, below - 1)
  return max(0, int(most // multiple) * multiple)


def _itemsize(x: Array | jax.ShapeDtypeStruct) -> int:
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), x.dtype))
    return data.size * data.dtype.itemsize
  return x.dtype.itemsize

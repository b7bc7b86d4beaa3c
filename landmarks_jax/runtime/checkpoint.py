"""Train states on disk, by step: the one thin module over orbax (v0 CheckpointManager)."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from landmarks_jax.contracts import PyTree


class Checkpoints:
  """The newest `keep` states in a folder; close it, or use it in a `with`: the last save must end.

  A step is complete when its folder has its final name: a killed save leaves a temporary folder,
  which is never read and which the next writer removes.
  """

  def __init__(self, path: str | os.PathLike, *, keep: int = 2, read_only: bool = False) -> None:
    path = os.fspath(path)
    self.path = path if '://' in path else os.path.abspath(path)  # orbax wants no relative paths
    writing = {'max_to_keep': keep, 'create': True, 'cleanup_tmp_directories': True}
    reading = {'read_only': True, 'create': False, 'save_interval_steps': 0}
    self._manager = ocp.CheckpointManager(
      self.path,
      options=ocp.CheckpointManagerOptions(**(reading if read_only else writing)),
      item_handlers={
        'state': ocp.PyTreeCheckpointHandler(),
        'metadata': ocp.JsonCheckpointHandler(),
      },
    )

  def save(self, step: int, state: PyTree, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes in the background, after any earlier save; `state` may be donated after the return.

    Does nothing if the step is there already. Raises ValueError if a later one is.
    """
    latest = self.latest_step()
    if latest is not None and step < latest:
      raise ValueError(
        f'{self.path} holds step {latest} and does not take step {step} after it; '
        'use another folder, or remove the later steps'
      )
    items = {
      'state': ocp.args.PyTreeSave(state),
      'metadata': ocp.args.JsonSave(dict(metadata or {})),
    }
    self._manager.save(step, args=ocp.args.Composite(**items))

  def latest_step(self) -> int | None:
    """The newest step, also if it is still being written; None if there is none."""
    return self._manager.latest_step()

  def restore(self, state: PyTree, *, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
    """(state, metadata) of a step (default: the newest).

    Args: state: a tree of arrays or jax.ShapeDtypeStruct that says structure, shapes, types and
    shardings, whichever it was saved with; leaves without a sharding come back as NumPy.
    Raises FileNotFoundError, and ValueError for a damaged step or naming the paths at which the
    trees differ.
    """
    step = self._step(step)
    _check_same(self._tree(step), state, where=f'{self.path}, step {step}')
    return self._read(step, state), self.metadata(step=step)

  def variables(
    self, names: Sequence[str] = ('params', 'aux'), *, step: int | None = None
  ) -> dict[str, PyTree]:
    """Parts of a state as NumPy, without the code that made them; tuples come back as lists."""
    step = self._step(step)
    tree = self._tree(step)
    missing = [name for name in names if name not in tree]
    if missing:
      raise ValueError(f'{self.path}, step {step}: has no {missing}, it has {sorted(tree)}')
    return self._read(step, {name: tree[name] for name in names}, partial_restore=True)

  def metadata(self, *, step: int | None = None) -> dict[str, Any]:
    """What `save` was given beside the state."""
    items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    return self._manager.restore(self._step(step), args=items)['metadata']

  def wait(self) -> None:
    """Returns when everything saved is on disk; raises what went wrong in the background."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go."""
    self._manager.close()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _step(self, step: int | None) -> int:
    self.wait()
    there = sorted(self._manager.all_steps())
    if not there or (step is not None and step not in there):
      asked = 'checkpoint' if step is None else f'step {step}'
      raise FileNotFoundError(f'no {asked} in {self.path}; complete steps there: {there or "none"}')
    return there[-1] if step is None else step

  def _tree(self, step: int) -> PyTree:
    with self._readable(step):
      return self._manager.item_metadata(step)['state'].tree

  def _read(self, step: int, like: PyTree, **options: Any) -> PyTree:
    restore = ocp.args.PyTreeRestore(item=like, restore_args=jax.tree.map(_how, like), **options)
    with self._readable(step):
      return self._manager.restore(step, args=ocp.args.Composite(state=restore))['state']

  @contextlib.contextmanager
  def _readable(self, step: int) -> Iterator[None]:
    """Turns whatever Orbax raises for a damaged step into one error that says what to do."""
    try:
      yield
    except Exception as error:
      others = [s for s in sorted(self._manager.all_steps()) if s != step]
      raise ValueError(
        f'step {step} in {self.path} is damaged ({type(error).__name__}: {str(error)[:200]}); '
        f'remove its folder to continue from another; other steps there: {others or "none"}'
      ) from error


def read_variables(
  path: str | os.PathLike, names: Sequence[str] = ('params', 'aux'), *, step: int | None = None
) -> dict[str, PyTree]:
  """`Checkpoints.variables` of a folder that nobody here writes."""
  with Checkpoints(path, read_only=True) as checkpoints:
    return checkpoints.variables(names, step=step)


def read_metadata(path: str | os.PathLike, *, step: int | None = None) -> dict[str, Any]:
  """`Checkpoints.metadata` of a folder that nobody here writes."""
  with Checkpoints(path, read_only=True) as checkpoints:
    return checkpoints.metadata(step=step)


def _how(leaf: Any) -> ocp.RestoreArgs:
  sharding = getattr(leaf, 'sharding', None)
  if not isinstance(
    sharding, jax.sharding.Sharding
  ):  # a file's own leaves carry a description of one
    return ocp.RestoreArgs(restore_type=np.ndarray)
  return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _leaves(tree: PyTree) -> dict[str, str]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  name = jax.tree_util.keystr
  return {
    name(path, simple=True, separator='/'): f'{np.dtype(x.dtype)}{list(x.shape)}'
    for path, x in leaves
  }


def _check_same(stored: PyTree, wanted: PyTree, *, where: str) -> None:
  stored, wanted = _leaves(stored), _leaves(wanted)
  if stored == wanted:
    return
  lines = [
    f'  {path}: {stored.get(path, "absent")} in the checkpoint, {wanted.get(path, "absent")} here'
    for path in sorted(stored.keys() | wanted.keys())
    if stored.get(path) != wanted.get(path)
  ]
  more = [f'  and {len(lines) - 20} more'] if len(lines) > 20 else []
  raise ValueError(
    f'the checkpoint in {where} was made by another configuration; they differ in\n'
    + '\n'.join(lines[:20] + more)
  )

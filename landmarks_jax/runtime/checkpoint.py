"""Train states on disk, by step: the one thin module over orbax (v0 CheckpointManager)."""

import contextlib
import errno
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from landmarks_jax import training
from landmarks_jax.contracts import PyTree

# Errors of the system that mean damage: files that are absent or folders, and what file systems
# say of a failed checksum or a broken structure.
DAMAGE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EBADMSG, getattr(errno, 'EUCLEAN', None)}
CHECKSUMS = 'SHA256SUMS'  # of a step's files; run `sha256sum -c SHA256SUMS` in its folder to check


class DamagedError(ValueError):
  """A step whose files differ from those that were written."""


class Checkpoints:
  """The newest `keep` states in a folder, or all (None); close it or use `with`, to finish saves.

  A step is complete when its folder has its final name: a killed save leaves a temporary folder,
  which is never read and which the next writer removes. Its files are compared with their checksums
  before they are read.

  Args: is_main: whether this process is the one, of those that write here, that checks and renames
  files. largest: returns the largest of the numbers that all these processes call it with.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    keep: int | None = 2,
    read_only: bool = False,
    is_main: bool = True,
    largest: Callable[[int], int] = lambda number: number,
  ) -> None:
    path = os.fspath(path)
    self.path = path if '://' in path else os.path.abspath(path)  # orbax rejects relative paths
    self._is_main, self._largest = is_main, largest
    self._saving: int | None = None
    self._whole: set[int] = set()  # steps whose checksums were compared
    writing = {'max_to_keep': keep, 'create': True, 'cleanup_tmp_directories': True}
    writing['async_options'] = ocp.AsyncOptions(post_finalization_callback=self._write_checksums)
    reading = {'read_only': True, 'create': False, 'save_interval_steps': 0}
    self._manager = _Manager(
      self.path,
      options=ocp.CheckpointManagerOptions(**(reading if read_only else writing)),
      item_handlers={
        'state': ocp.PyTreeCheckpointHandler(),
        'metadata': ocp.JsonCheckpointHandler(),
      },
    )

  def save(self, step: int, state: PyTree, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes in the background, after any earlier save; `state` may be donated once this returns.

    Does nothing if the step exists already. Raises ValueError if a later one does, and OSError if
    an earlier save failed.
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
    self.wait()
    self._saving = step
    with self._writable():
      self._manager.save(step, args=ocp.args.Composite(**items))

  def steps(self) -> list[int]:
    """All steps in the folder, oldest first, including one still being written."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The newest step, even if it is still being written; None if there is none."""
    return self._manager.latest_step()

  def restore(self, state: PyTree, *, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
    """(state, metadata) of a step (default: the newest).

    Args: state: a tree of arrays or jax.ShapeDtypeStruct that gives structure, shapes, types and
    shardings, which may differ from the saved ones; leaves without a sharding come back as NumPy.
    Raises FileNotFoundError, DamagedError, and ValueError naming the paths at which the trees
    differ.
    """
    step = self._step(step)
    self._check_whole(step)
    _check_same(self._tree(step), state, where=f'{self.path}, step {step}')
    return self._read(step, state), self.metadata(step=step)

  def restore_newest(self, state: PyTree) -> tuple[PyTree, dict[str, Any], int] | None:
    """(state, metadata, step) of the newest undamaged step; None if there is no step at all.

    Damaged steps after it are set aside: the folder 20 becomes 20.damaged, and a warning names
    both steps. Raises DamagedError, without renaming anything, if every step is damaged, and
    ValueError as `restore` does.
    """
    self.wait()
    damaged: dict[int, DamagedError | None] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      found, error = None, None
      for read in (self._check_whole, lambda step: self.restore(state, step=step)):
        try:
          found = read(step)
        except DamagedError as caught:
          error = caught
        if self._largest(int(error is not None)):  # all processes take the same step
          damaged[step] = error
          break
      else:
        self._set_aside(damaged, instead=step)
        return *found, step
    if damaged:
      errors = [error for error in damaged.values() if error is not None]
      raise DamagedError(
        f'no step in {self.path} is whole: {sorted(damaged)} are damaged; put back a copy of one, '
        f'or start again in another folder. The first: {errors[0] if errors else "elsewhere"}'
      )
    return None

  def drop_after(self, step: int) -> None:
    """Removes later steps, which a run that went back to `step` has not reached again."""
    self.drop(later for later in self.steps() if later > step)

  def drop(self, steps: Iterable[int]) -> None:
    """Removes these steps."""
    for step in steps:
      self._manager.delete(step)

  def variables(
    self, names: Sequence[str] = ('params', 'aux'), *, step: int | None = None
  ) -> dict[str, PyTree]:
    """Parts of a state as NumPy, without the code that made them; tuples come back as lists."""
    step = self._step(step)
    self._check_whole(step)
    tree = self._tree(step)
    missing = [name for name in names if name not in tree]
    if missing:
      raise ValueError(f'{self.path}, step {step}: has no {missing}, it has {sorted(tree)}')
    return self._read(step, {name: tree[name] for name in names}, partial_restore=True)

  def metadata(self, *, step: int | None = None) -> dict[str, Any]:
    """The metadata that `save` was given."""
    step = self._step(step)
    self._check_whole(step)
    items = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    with self._readable(step):
      return self._manager.restore(step, args=items)['metadata']

  def wait(self) -> None:
    """Returns when everything saved is on disk. Raises OSError if it could not be written."""
    with self._writable():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the last save, then closes the manager."""
    with self._writable():
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
    """Turns whatever Orbax raises for a damaged step into one error that says what to do.

    What this machine lacks for the moment, such as memory or an answer of the disk, is no damage.
    """
    try:
      yield
    except (MemoryError, jax.errors.JaxRuntimeError, DamagedError):
      raise
    except Exception as error:
      number = _os_error(error)
      if number is not None and number not in DAMAGE:
        said = (
          f'step {step} cannot be read: {os.strerror(number)}. Try again; if it stays so, move the '
          f'folder {step} away, and the run continues from the step before'
        )
        raise OSError(number, said, self.path) from error
      raise self._damage(step, f'{type(error).__name__}: {str(error)[:200]}') from error

  def _damage(self, step: int, what: str) -> DamagedError:
    others = [s for s in sorted(self._manager.all_steps()) if s != step]
    return DamagedError(
      f'step {step} in {self.path} is damaged ({what}); other steps there: {others or "none"}'
    )

  @contextlib.contextmanager
  def _writable(self) -> Iterator[None]:
    """Turns whatever Orbax raises for a failed save into one error that says what to do."""
    try:
      yield
    except Exception as error:
      self._manager.reload()  # it has forgotten the steps this save was to replace
      there = sorted(self._manager.all_steps())
      failed = OSError(
        f'step {self._saving} could not be written to {self.path} ({_reason(error)}); '
        f'{_advice(error)}, then continue; complete steps there: {there or "none"}'
      )
      failed.errno = _os_error(error)
      raise failed from error

  def _write_checksums(self) -> None:
    """Called by Orbax when a step's files are written, before their folder gets its final name."""
    root = self._manager.directory
    drafts = [*root.glob(f'{self._saving}.orbax-checkpoint-tmp*'), root / str(self._saving)]
    folder = next(path for path in drafts if path.exists())  # object stores have no draft
    # Orbax rewrites the top-level files when it gives the folder its final name.
    files = sorted(path for path in _files(folder) if path.parent != folder)
    lines = [f'{_checksum(path)}  {path.relative_to(folder).as_posix()}\n' for path in files]
    (folder / CHECKSUMS).write_text(''.join(lines), encoding='utf-8')

  def _check_whole(self, step: int) -> None:
    """Raises DamagedError if files are damaged; a step without checksums is trusted."""
    folder = self._manager.directory / str(step)
    file = folder / CHECKSUMS
    if step in self._whole or not self._is_main or not file.exists():
      return
    with self._readable(step):
      lines = file.read_bytes().decode(errors='replace').splitlines()
      if not lines:
        raise self._damage(step, f'{CHECKSUMS} is empty')
      for line in lines:
        checksum, _, name = line.partition('  ')
        try:
          found = _checksum(folder / name)
        except OSError as error:
          if error.errno not in DAMAGE:
            raise
          raise self._damage(step, f'{name or CHECKSUMS} is missing') from error
        if found != checksum:
          raise self._damage(step, f'{name} is not what was written')
    self._whole.add(step)

  def _set_aside(self, steps: Iterable[int], *, instead: int) -> None:
    root = self._manager.directory
    for step in steps:
      path, number = root / f'{step}.damaged', 1
      while path.exists():
        number += 1
        path = root / f'{step}.damaged_{number}'
      if self._is_main:
        (root / str(step)).rename(path)
        warnings.warn(
          f'step {step} in {self.path} is damaged and kept as {path.name}; continuing from step '
          f'{instead}, the newest that is whole',
          stacklevel=3,
        )
    if steps:
      self._largest(0)  # the others wait for the renaming
      self._manager.reload()


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, but it never asks JAX whether a preemption stops at the step that it saves.

  JAX takes the step in such a question for the one that this process is at. A past step, asked
  about in the background, could make the processes agree on one that another has passed, and then
  wait for each other for ever.
  """

  def reached_preemption(self, step: int) -> bool:
    return False  # only the training loop asks, once after every step


def read_variables(
  path: str | os.PathLike, names: Sequence[str] = ('params', 'aux'), *, step: int | None = None
) -> dict[str, PyTree]:
  """`Checkpoints.variables` of a folder opened read-only."""
  with Checkpoints(path, read_only=True) as checkpoints:
    return checkpoints.variables(names, step=step)


def _files(folder: Any) -> Iterator[Any]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _checksum(path: Any) -> str:
  digest = hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(1 << 22):
      digest.update(block)
  return digest.hexdigest()


def _reason(error: BaseException) -> str:
  """The operating system's message, where known; else the beginning of the error's own."""
  number = _os_error(error)
  return os.strerror(number) if number else f'{type(error).__name__}: {str(error)[:200]}'


def _os_error(error: BaseException) -> int | None:
  """The operating system's number of an error, if it has one."""
  if isinstance(error, OSError):
    return error.errno
  found = re.search(r"os_error_code='(\d+)'", str(error))  # as TensorStore spells it
  return int(found[1]) if found else None


def _advice(error: BaseException) -> str:
  left_alone = re.search('heartbeat|Barrier|unhealthy', str(error))  # by JAX's coordination service
  if left_alone:
    return 'another process of the run ended, see what it said; end all of them'
  return 'make it possible to write there'


def _how(leaf: Any) -> ocp.RestoreArgs:
  sharding = getattr(leaf, 'sharding', None)
  if not isinstance(
    sharding, jax.sharding.Sharding
  ):  # a file's own leaves carry a description of one
    return ocp.RestoreArgs(restore_type=np.ndarray)
  return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def fitted(
  stored: Mapping[str, PyTree], shapes: tuple[PyTree, PyTree], *, where: str
) -> tuple[PyTree, PyTree]:
  """(params, aux) of a file, which knows only names, in the structure of the method's own `shapes`.

  Raises ValueError, which begins with `where`, for arrays that are absent or of another shape.
  """
  tree = dict(zip(('params', 'aux'), shapes, strict=True))
  wanted, found = training.leaves(tree), training.leaves(stored)
  wrong = [n for n in wanted if n not in found or found[n].shape != wanted[n].shape]
  if wrong:
    raise ValueError(
      f'{where} are not those of its config.json: {len(wrong)} arrays are absent or of another '
      f'shape, first {wrong[0]}'
    )
  arrays = [np.asarray(found[name]) for name in wanted]
  tree = jax.tree.unflatten(jax.tree.structure(tree), arrays)
  return tree['params'], tree['aux']


def _kinds(tree: PyTree) -> dict[str, str]:
  return {name: f'{np.dtype(x.dtype)}{list(x.shape)}' for name, x in training.leaves(tree).items()}


def _check_same(stored: PyTree, wanted: PyTree, *, where: str) -> None:
  stored, wanted = _kinds(stored), _kinds(wanted)
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

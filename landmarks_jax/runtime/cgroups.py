"""The memory that the control groups of this process leave it: of a container, or of a job."""

import pathlib
from collections.abc import Iterator

MEMBERS = pathlib.Path('/proc/self/cgroup')  # lines NUMBER:CONTROLLERS:GROUP
ROOT = pathlib.Path('/sys/fs/cgroup')
# Limit, use, and what counts as used although the system gives it back when memory is needed.
VERSION_2 = 'memory.max', 'memory.current', ('inactive_file', 'slab_reclaimable')
VERSION_1 = 'memory.limit_in_bytes', 'memory.usage_in_bytes', ('total_inactive_file',)


def free_memory() -> list[int]:
  """Bytes that each limited group around this process may still take; all of them hold."""
  limited = (_left(folder, *names) for folder, names in _groups())
  return [left for left in limited if left is not None]


def _groups() -> Iterator[tuple[pathlib.Path, tuple]]:
  """The folder of every group of this process, from its own to the root, and its files' names."""
  roots = {'': (ROOT, VERSION_2), 'memory': (ROOT / 'memory', VERSION_1)}
  own = {'': '/'}  # a container sees its own group as the root
  try:
    for line in MEMBERS.read_text(encoding='utf-8').splitlines():
      _, controllers, group = line.split(':', 2)
      own |= dict.fromkeys(controllers.split(','), group)
  except (OSError, ValueError):
    pass
  for controller in own.keys() & roots.keys():
    root, names = roots[controller]
    group = root / own[controller].lstrip('/')
    for folder in (group, *group.parents):
      yield folder, names
      if folder == root:
        break


def _left(folder: pathlib.Path, limit: str, used: str, given_back: tuple[str, ...]) -> int | None:
  """Bytes that a group may still take; None without a limit."""
  try:
    most = (folder / limit).read_text(encoding='utf-8').strip()
    if most == 'max':
      return None
    stat = (folder / 'memory.stat').read_text(encoding='utf-8')
    sizes = dict(line.split() for line in stat.splitlines())
    freed = sum(int(sizes.get(name, 0)) for name in given_back)
    return int(most) - int((folder / used).read_text(encoding='utf-8')) + freed
  except (OSError, ValueError):  # no such group here, as in a container, or of another kind
    return None

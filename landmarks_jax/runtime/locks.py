"""Locks that keep a second process out of a folder."""

from typing import IO


def take(file: int | IO) -> bool:
  """Locks an open file until it is closed or the process ends, however it ends.

  False if the file system has no locks. Raises BlockingIOError, without waiting, if another process
  holds the lock.
  """
  import fcntl  # late: Windows has none

  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise
  except OSError:  # such as ENOLCK, ENOTSUP, and EBADF of NFS
    return False
  return True

"""Controls when Python's garbage collector runs."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
  """Disables Python's garbage collector within the context.

  For code that makes many lasting objects, as imports and tracing do: scanning them takes a
  twentieth of the start-up time (docs/performance.md).
  """
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      if not gc.get_freeze_count():  # else a program around this one keeps frozen objects
        gc.freeze()
        gc.unfreeze()  # what is young is old now, without the scan that would come at once
      gc.enable()

"""When Python looks for garbage: objects that only hold each other."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
  """Python does not look while this lasts.

  For what makes many objects that stay, as imports and tracing do: looking through them takes a
  twentieth of a start (docs/performance.md).
  """
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      gc.enable()

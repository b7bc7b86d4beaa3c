"""Watches over a run: for input that stalls, and for numbers that are not finite."""

import collections
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

LAG = 2  # steps that the device may lag behind the host


class DelayedChecks:
  """Calls `check(step, metrics)` for every step, two steps late.

  So the next step is already under way when the host reads a number of this one, and the device
  never waits; nor does the host run far ahead, which would delay the response to a signal.
  """

  def __init__(self, check: Callable[[int, Any], None]) -> None:
    self._check = check
    self._waiting: collections.deque[tuple[int, Any]] = collections.deque()

  def add(self, step: int, metrics: Any) -> None:
    """Records a step that was started."""
    self._waiting.append((step, metrics))
    if len(self._waiting) > LAG:
      self._check(*self._waiting.popleft())

  def settle(self) -> None:
    """Checks all remaining steps."""
    while self._waiting:
      self._check(*self._waiting.popleft())


def watched(
  items: Iterator[Any], *, seconds: float | int, report: Callable[[float], None]
) -> Iterator[Any]:
  """The same items; calls `report(seconds waited)`, in a thread, when one takes this long.

  It is called again after twice the time, and so on; the wait goes on. Close it, like `items`.
  """
  since: list[float] = []  # when waiting began; empty while the caller works
  ended = threading.Event()

  def watch() -> None:
    reported = None
    while not ended.wait(min(1, seconds / 4)):
      began, now = next(iter(since), None), time.monotonic()
      if began != reported:
        reported, due = began, seconds
      if began is not None and now - began >= due:
        report(now - began)
        due = 2 * (now - began)

  threading.Thread(target=watch, daemon=True).start()
  try:
    while True:
      since.append(time.monotonic())
      try:
        item = next(items)
      except StopIteration:
        return
      finally:
        since.clear()
      yield item
  finally:
    ended.set()
    items.close()

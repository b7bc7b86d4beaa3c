"""Handles requests to stop a run, by a scheduler (SIGTERM) or by a person (Ctrl-C)."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, may be retried
GRACE = 25.0  # seconds; schedulers kill after 30
LATE = (
  '\nstopped by SIGTERM: what ran did not end in {:.0f} s, so nothing was saved after the last '
  'checkpoint; the same command continues from there\n'
)


class Preempted(BaseException):
  """SIGTERM came. A BaseException, so that handlers of errors do not catch it."""


class Interruption:
  """A context in which signals stop a run where its state is consistent.

  Outside `deferred` and `held` a signal raises immediately, inside at the end of the block:
  Preempted for SIGTERM, KeyboardInterrupt for Ctrl-C. After the first signal, a further SIGTERM
  does nothing, since schedulers repeat it, and a further Ctrl-C raises at once. If Python cannot
  run for `grace` seconds after a SIGTERM, as in a long compilation, the process ends with
  EXIT_CODE.

  agreed: for several processes, whose runtime takes SIGTERM itself: a function of the step, called
  at the end of every `deferred`, that says whether all of them stop after it.
  """

  def __init__(
    self, agreed: Callable[[int], bool] | None = None, *, grace: float | int = GRACE
  ) -> None:
    self._agreed, self._grace = agreed, grace
    self._came: int | None = None  # the first signal
    self._deferring, self._raised = False, threading.Event()
    self._restore = contextlib.ExitStack()

  def __enter__(self) -> 'Interruption':
    if self._agreed is None and threading.current_thread() is threading.main_thread():
      self._set(signal.SIGTERM)
      if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in the background
        self._set(signal.SIGINT)
      self._start_clock()
    return self

  def __exit__(self, *_: object) -> None:
    self._raised.set()  # the clock must not end a process that left the context
    self._restore.close()

  @contextlib.contextmanager
  def deferred(self, step: int) -> Iterator[None]:
    """Signals wait for the end of the block, which holds one step."""
    with self.held():
      yield
    if self._agreed is not None and self._agreed(step):
      raise Preempted

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Signals wait for the end of the block, which an exception would leave broken."""
    self._deferring = True
    try:
      yield
    finally:
      self._deferring = False
    if self._came is not None:
      self._stop(self._came)

  def allows_save(self, stop: BaseException) -> bool:
    """Whether every process stops after the same step: a Ctrl-C reaches each at its own step."""
    return self._agreed is None or isinstance(stop, Preempted)

  def _set(self, number: signal.Signals) -> None:
    self._restore.callback(signal.signal, number, signal.signal(number, self._note))

  def _note(self, number: int, frame: Any) -> None:
    again, self._came = self._came is not None, self._came or number
    if again and number == signal.SIGTERM:
      return
    if again or not self._deferring:
      self._stop(number)
    if number == signal.SIGINT:  # not print: that may be what was interrupted
      os.write(2, b'\nstopping after this step; Ctrl-C again stops at once\n')

  def _stop(self, number: int) -> None:
    self._raised.set()
    raise Preempted if number == signal.SIGTERM else KeyboardInterrupt

  def _start_clock(self) -> None:
    # Python's handlers wait until Python runs; the C handler writes to this descriptor at once.
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    self._restore.callback(ear.close)
    self._restore.callback(mouth.close)
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    self._restore.callback(signal.set_wakeup_fd, before)
    threading.Thread(target=self._end_in_time, args=(ear.dup(),), daemon=True).start()

  def _end_in_time(self, ear: socket.socket) -> None:
    with ear:
      while number := ear.recv(1):
        if number[0] == signal.SIGTERM and not self._raised.wait(self._grace):
          os.write(2, LATE.format(self._grace).encode())
          os._exit(EXIT_CODE)

"""A run says what it waits for, and names the first step that went wrong."""

import threading

import pytest

from landmarks_jax.runtime import guards


def test_steps_are_checked_in_order_two_late_and_all_at_the_end():
  seen = []
  late = guards.DelayedChecks(lambda step, metrics: seen.append((step, metrics)))
  late.add(1, 'a')
  late.add(2, 'b')
  assert seen == []
  late.add(3, 'c')
  assert seen == [(1, 'a')]
  late.settle()
  assert seen == [(1, 'a'), (2, 'b'), (3, 'c')]


def test_input_that_does_not_come_is_told_at_growing_intervals():
  told, enough = [], threading.Event()

  def report(seconds):
    told.append(seconds)
    if len(told) == 3:
      enough.set()

  def stuck():
    yield 'first'
    assert enough.wait(60)
    yield 'second'

  items = guards.watched(stuck(), seconds=0.05, report=report)
  assert list(items) == ['first', 'second']
  assert told[0] >= 0.05
  assert told[1] >= 2 * told[0]
  assert told[2] >= 2 * told[1]


def test_every_wait_is_measured_alone():
  told, go = [], threading.Semaphore(0)

  def report(seconds):
    told.append(seconds)
    go.release()

  def slow():
    for i in range(3):
      assert go.acquire(timeout=60)
      yield i

  assert list(guards.watched(slow(), seconds=0.05, report=report)) == [0, 1, 2]
  assert len(told) == 3


def test_the_time_between_two_items_belongs_to_the_caller():
  told = []
  items = guards.watched(iter_closing(range(2)), seconds=0.05, report=told.append)
  next(items)
  threading.Event().wait(1)  # enough for five reports
  next(items)
  assert len(told) < 3  # of a machine that was busy in `next`


def test_closing_closes_what_is_watched_and_ends_the_thread():
  closed = []
  items = guards.watched(iter_closing(range(9), closed), seconds=0.01, report=print)
  before = set(threading.enumerate())
  next(items)
  (thread,) = set(threading.enumerate()) - before
  items.close()
  thread.join(60)
  assert closed == [True]
  assert not thread.is_alive()


def test_an_error_of_the_source_comes_through():
  def broken():
    yield 1
    raise OSError('gone')

  items = guards.watched(broken(), seconds=60, report=print)
  assert next(items) == 1
  with pytest.raises(OSError, match='gone'):
    next(items)


def iter_closing(items, closed=None):
  try:
    yield from items
  finally:
    if closed is not None:
      closed.append(True)

"""Signals stop a run where its state is whole, once, and in time."""

import os
import signal
import subprocess
import sys

import pytest

from landmarks_jax.runtime.interruption import EXIT_CODE, Interruption, Preempted

TERM, CTRL_C = signal.SIGTERM, signal.SIGINT
raised = {TERM: Preempted, CTRL_C: KeyboardInterrupt}


def send(number):
  os.kill(os.getpid(), number)


def steps(interruption, *acts):
  """Steps from 1 on, each of which does one act; those that were whole, and what stopped them."""
  done = []
  try:
    for step, act in enumerate(acts, 1):
      with interruption.deferred(step):
        act()
        done.append(step)
  except BaseException as stop:
    return done, type(stop)
  return done, None


def nothing():
  pass


@pytest.mark.parametrize('number', [TERM, CTRL_C])
def test_a_signal_waits_for_the_end_of_a_step(number):
  with Interruption() as interruption:
    found = steps(interruption, nothing, lambda: send(number), nothing)
  assert found == ([1, 2], raised[number])


@pytest.mark.parametrize('number', [TERM, CTRL_C])
def test_a_signal_between_steps_stops_there(number):
  with Interruption() as interruption:
    steps(interruption, nothing)
    with pytest.raises(raised[number]):
      send(number)


@pytest.mark.parametrize('number', [TERM, CTRL_C])
def test_a_signal_waits_for_the_end_of_what_is_held(number):
  done = []

  def hold(interruption):
    with interruption.held():
      send(number)
      done.append('whole')

  with Interruption() as interruption, pytest.raises(raised[number]):
    hold(interruption)
  assert done == ['whole']


def test_what_is_held_does_not_ask_the_other_processes():
  with Interruption(lambda step: pytest.fail('asked')) as interruption, interruption.held():
    nothing()


def test_more_of_the_first_signal_do_not_disturb_the_end():
  with Interruption() as interruption:
    found = steps(interruption, lambda: (send(TERM), send(TERM)), nothing)
    send(TERM)  # while it saves
  assert found == ([1], Preempted)


@pytest.mark.parametrize('first', [TERM, CTRL_C])
def test_a_second_signal_by_hand_stops_at_once(first):
  with Interruption() as interruption:
    found = steps(interruption, lambda: (send(first), send(CTRL_C)), nothing)
  assert found == ([], KeyboardInterrupt)


def test_an_error_of_the_step_itself_comes_first():
  def fail():
    send(TERM)
    raise OSError

  with Interruption() as interruption:
    assert steps(interruption, nothing, fail) == ([1], OSError)


def test_afterwards_signals_are_as_they_were():
  numbers = TERM, CTRL_C
  before = [signal.getsignal(number) for number in numbers]
  with Interruption():
    assert all(signal.getsignal(n) != b for n, b in zip(numbers, before, strict=True))
  assert [signal.getsignal(number) for number in numbers] == before
  assert signal.set_wakeup_fd(-1) == -1


def test_several_processes_stop_after_the_step_that_they_agree_on():
  before = signal.getsignal(TERM)
  with Interruption(lambda step: step == 3) as interruption:
    assert signal.getsignal(TERM) is before  # the runtime's own
    assert steps(interruption, *[nothing] * 8) == ([1, 2, 3], Preempted)
    assert interruption.allows_save(Preempted())
    assert not interruption.allows_save(KeyboardInterrupt())


LONG = """
import time
from landmarks_jax.runtime.interruption import Interruption
with Interruption(grace=.2) as interruption, interruption.deferred(1):
  print('ready', flush=True)
  while True:
    time.sleep(.01)
"""


def test_what_takes_too_long_ends_with_the_code_of_a_preemption():
  with subprocess.Popen(
    [sys.executable, '-c', LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(TERM)
    _, err = process.communicate(timeout=60)
  assert process.returncode == EXIT_CODE == 75
  assert 'continues from there' in err


FAILED_STEP = """
import os, signal, time
from landmarks_jax.runtime.interruption import Interruption

try:
  with Interruption(grace=0.2) as interruption, interruption.deferred(1):
    os.kill(os.getpid(), signal.SIGTERM)
    raise ValueError
except ValueError:
  time.sleep(1)
print('still here')
"""


def test_what_ended_by_itself_is_not_ended_by_the_clock():
  done = subprocess.run(
    [sys.executable, '-c', FAILED_STEP], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stdout) == (0, 'still here\n'), done.stderr

"""Python looks for no garbage while what stays is made, and looks again afterwards."""

import gc
import weakref

import pytest

from landmarks_jax.runtime import garbage


def test_nothing_is_collected_meanwhile_and_again_afterwards():
  assert gc.isenabled()
  with garbage.uncollected():
    assert not gc.isenabled()
    with garbage.uncollected():
      pass
    assert not gc.isenabled()  # who turned it off finds it off
  assert gc.isenabled()


def test_what_was_made_meanwhile_is_not_scanned_afterwards_but_freed_with_the_rest():
  class Node:
    pass

  with garbage.uncollected():
    made = Node()
    lost = Node()
    lost.itself = lost
    gone = weakref.ref(lost)
    del lost
  young = [n for n in (0, 1) if any(x is made for x in gc.get_objects(n))]
  assert young == []
  assert gone() is not None  # nobody has looked
  gc.collect()
  assert gone() is None


def test_what_a_program_around_it_has_frozen_stays_frozen():
  class Node:
    pass

  frozen = Node()
  gc.freeze()
  try:
    with garbage.uncollected():
      pass
    # The object itself is looked for: a count changes when another thread frees one.
    assert not any(x is frozen for x in gc.get_objects())
  finally:
    gc.unfreeze()
  assert any(x is frozen for x in gc.get_objects())


def test_an_error_leaves_it_as_it_was():
  with pytest.raises(ValueError, match='broken'), garbage.uncollected():
    raise ValueError('broken')
  assert gc.isenabled()

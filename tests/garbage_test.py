"""Python looks for no garbage while what stays is made, and looks again afterwards."""

import gc

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


def test_an_error_leaves_it_as_it_was():
  with pytest.raises(ValueError, match='broken'), garbage.uncollected():
    raise ValueError('broken')
  assert gc.isenabled()

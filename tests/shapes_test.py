"""The text of shape errors: which argument, what was expected, what was given."""

import doctest
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import shapes


def message(**arrays):
  with pytest.raises(ValueError) as caught:
    shapes.check(**arrays)
  return str(caught.value)


def test_sizes_are_returned_by_name():
  sizes = shapes.check(points=(np.zeros((3, 5, 2)), 'B K 2'), scale=(np.zeros(3), 'B'))
  assert sizes == {'B': 3, 'K': 5}


def test_a_disagreement_names_both_arguments_and_the_axis():
  given = message(
    query=(np.zeros((8, 5)), 'B C'),
    key=(np.zeros((8, 5)), 'B C'),
    negatives=(np.zeros((3, 4)), 'N C'),
  )
  assert given == 'negatives: C=4 in shape (3, 4), but query has C=5'


def test_the_source_is_the_argument_that_bound_the_letter():
  given = message(a=(np.zeros(2), 'B'), b=(np.zeros((2, 7)), 'B K'), c=(np.zeros((2, 6)), 'B K'))
  assert given == 'c: K=6 in shape (2, 6), but b has K=7'


def test_a_wrong_number_of_axes_shows_the_expected_ones():
  for shape in ((5, 2), (4, 5, 2, 1)):
    given = message(points=(np.zeros(shape), 'B K 2'))
    assert given == f'points: expected [B K 2], got shape {shape}'


def test_a_wrong_exact_size_shows_the_expected_axes():
  given = message(points=(np.zeros((4, 5, 3)), 'B K 2'))
  assert given == 'points: expected [B K 2], got shape (4, 5, 3)'
  given = message(a=(np.zeros((4, 2)), 'B 2'), b=(np.zeros((4, 3)), 'B 2'))
  assert given == 'b: expected [B 2], got shape (4, 3)'


def test_a_letter_twice_means_a_square():
  assert shapes.check(image=(np.zeros((2, 6, 6, 3)), 'B S S C')) == {'B': 2, 'S': 6, 'C': 3}
  given = message(image=(np.zeros((2, 6, 5, 3)), 'B S S C'))
  assert given == 'image: S=5 in shape (2, 6, 5, 3), but image has S=6'


def test_a_star_is_any_number_of_axes():
  for shape in ((3, 2), (3, 5, 2), (3, 5, 4, 2)):
    points = np.zeros(shape), 'B *grid 2'
    assert shapes.check(image=(np.zeros((3, 7)), 'B C'), points=points) == {'B': 3, 'C': 7}
  for shape in ((3, 5, 3), (2,), ()):
    given = message(points=(np.zeros(shape), 'B *grid 2'))
    assert given == f'points: expected [B *grid 2], got shape {shape}'
  given = message(a=(np.zeros((3, 7)), 'B C'), b=(np.zeros((4, 5, 5, 2)), 'B *grid 2'))
  assert given == 'b: B=4 in shape (4, 5, 5, 2), but a has B=3'


def test_nothing_broadcasts():
  assert 'B=1' in message(a=(np.zeros((3, 2)), 'B 2'), b=(np.zeros((1, 2)), 'B 2'))


def test_traced_arrays_are_checked_when_traced():
  @jax.jit
  def f(a, b):
    shapes.check(a=(a, 'B C'), b=(b, 'B C'))
    return a + b

  f(jnp.ones((2, 3)), jnp.ones((2, 3)))
  with pytest.raises(ValueError, match=re.escape('b: B=1 in shape (1, 3), but a has B=2')):
    f(jnp.ones((2, 3)), jnp.ones((1, 3)))


def test_the_examples_in_the_docstrings_hold():
  assert doctest.testmod(shapes).attempted
  assert not doctest.testmod(shapes).failed

"""Shape checks whose errors name the argument, what was expected, and what was given."""

from typing import Any


def check(**arrays: tuple[Any, str]) -> dict[str, Any]:
  """Checks that arrays agree on their named axes; returns the size of each name.

  A size is a number or a symbolic dimension of JAX.

  Args: name=(array, 'B C 2'): letters bind on first use, digits are exact sizes; a name
  with a star, such as *grid, stands for any number of axes of any size.
  Raises ValueError, such as: negatives: C=4 in shape (3, 4), but query has C=5.

  >>> import numpy as np
  >>> check(query=(np.zeros((8, 5)), 'B C'), negatives=(np.zeros((3, 5)), 'N C'))
  {'B': 8, 'C': 5, 'N': 3}
  """
  bound: dict[str, tuple[Any, str]] = {}
  for name, (array, axes) in arrays.items():
    shape = tuple(array.shape)
    letters, sizes = _without_starred(axes.split(), shape)
    if len(sizes) != len(letters):
      raise ValueError(f'{name}: expected [{axes}], got shape {shape}')
    for letter, size in zip(letters, sizes, strict=True):
      expected, source = bound.setdefault(letter, (int(letter) if letter.isdigit() else size, name))
      if size != expected and letter.isdigit():
        raise ValueError(f'{name}: expected [{axes}], got shape {shape}')
      if size != expected:
        raise ValueError(
          f'{name}: {letter}={size} in shape {shape}, but {source} has {letter}={expected}'
        )
  return {letter: size for letter, (size, _) in bound.items() if not letter.isdigit()}


def _without_starred(
  letters: list[str], shape: tuple[Any, ...]
) -> tuple[list[str], tuple[Any, ...]]:
  """Both without the name that has a star and the axes that it stands for."""
  for i, letter in enumerate(letters):
    if letter.startswith('*'):
      count = max(0, len(shape) - len(letters) + 1)
      return letters[:i] + letters[i + 1 :], shape[:i] + shape[i + count :]
  return letters, shape

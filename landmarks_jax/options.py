"""Options that belong to one choice, such as that of a network, are an error with the others."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def check(
  build: Callable[..., Any],
  given: Mapping[str, Any],
  /,
  **choices: Mapping[Any, Sequence[str]],
) -> None:
  """Raises ValueError for an unknown choice, and for an option that the choice made does not have.

  A config holds every option of `build`: one that the choice does not have must be at its default.

  Args: build: the function whose options they are. given: the values of all of them, by name.
  choices: option=TABLE; a table has every value of that option, with the names of those options
  that not all values have.

  >>> def build(*, network='small', leak=0.0, stacks=1): ...
  >>> networks = {'small': ('leak',), 'hourglass': ('stacks',)}
  >>> check(build, {'network': 'small', 'leak': 0.2, 'stacks': 1}, network=networks)
  """
  parameters = inspect.signature(build).parameters
  for option, table in choices.items():
    chosen = given[option]
    if chosen not in tuple(table):  # also for what has no hash
      raise ValueError(f'{option}={chosen!r}: choose from {", ".join(map(str, table))}')
    for other, names in table.items():
      for name in names:
        default = parameters[name].default
        if name not in table[chosen] and given[name] != default:
          own = f'; it has {", ".join(table[chosen])}' if table[chosen] else ''
          raise ValueError(
            f'{name}={given[name]!r}: {option}={chosen!r} has no {name}{own}; leave it at its '
            f'default, {default!r}, or choose {option}={other!r}'
          )

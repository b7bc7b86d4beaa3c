"""What configs name: files of a folder that define a function, and options as they are in JSON."""

import difflib
import importlib
import pathlib
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

PACKAGE = pathlib.Path(__file__).parents[1]


def module(folder: str, function: str, name: str, *, fault: str) -> ModuleType:
  """`landmarks_jax/<folder>/<name>.py`, which defines `function`.

  Raises ValueError, which begins with `fault` and lists those that exist, for any other name.
  """
  there = files_that_define(function, PACKAGE / folder)
  if name not in there:
    raise ValueError(f'{fault}{hint(name, there)}; there are: {", ".join(there)}')
  return importlib.import_module(f'landmarks_jax.{folder}.{name.replace("/", ".")}')


def hint(word: str, known: Iterable[str]) -> str:
  """' (did you mean ...?)' where a known word is near, else nothing."""
  near = difflib.get_close_matches(word, list(known), n=1)
  return f' (did you mean {near[0]!r}?)' if near else ''


def files_that_define(function: str, folder: pathlib.Path) -> tuple[str, ...]:
  """The files of a folder and below that define `function`, sorted: 'moco', 'synthetic/faces'."""
  definition = re.compile(rf'^def {function}\(', re.M)
  files = (file for file in folder.rglob('*.py') if definition.search(file.read_text()))
  return tuple(sorted(file.relative_to(folder).with_suffix('').as_posix() for file in files))


def tuples(options: Mapping[str, Any]) -> dict[str, Any]:
  """Options with the lists of JSON as the tuples that functions take."""
  return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}

"""What configs name: modules and functions, ours or anybody's, and options as they are in JSON.

A name with dots, such as mylab.pixcl, is an import path: Python finds it wherever it is installed.
Any other name is that of a file of this package, such as moco or synthetic/faces.
"""

import difflib
import importlib
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

PACKAGE = pathlib.Path(__file__).parents[1]


def module(
  folder: str, function: str, name: str, *, fault: str, also: Iterable[str] = ()
) -> ModuleType:
  """`landmarks_jax/<folder>/<name>.py`, or the module with this import path; it has `function`.

  also: what else an imported module has to define. Raises ValueError, which begins with `fault` and
  says what was expected, for any other name. Errors inside an imported module stay as they are.
  """
  there = files_that_define(function, PACKAGE / folder)
  if is_import_path(name):
    near = hint(name.removesuffix('.py').replace('.', '/'), there)
    return _imported(name, function, *also, fault=fault, near=near)
  if name not in there:
    raise ValueError(f'{fault}{hint(name, there)}; there are: {", ".join(there)}')
  return importlib.import_module(f'landmarks_jax.{folder}.{name.replace("/", ".")}')


def function(name: str, known: Mapping[str, Callable], *, fault: str) -> Callable:
  """One of the `known` functions, or that with this import path, such as mylab.optim.lion.

  Raises ValueError as `module` does.
  """
  if is_import_path(name):
    path, _, own = name.rpartition('.')
    return getattr(_imported(path, own, fault=fault), own)
  if name not in tuple(known):  # also for what has no hash
    raise ValueError(f'{fault}; known: {", ".join(known)}')
  return known[name]


def is_import_path(name: str) -> bool:
  """Whether a name has dots, and could be imported.

  >>> is_import_path('mylab.pixcl'), is_import_path('synthetic/faces'), is_import_path('../moco')
  (True, False, False)
  """
  parts = str(name).split('.')
  return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _imported(path: str, *needed: str, fault: str, near: str = '') -> ModuleType:
  expected = f'expected a module that defines {", ".join(needed)}'
  try:
    found = importlib.import_module(path)
  except ModuleNotFoundError as error:
    if not f'{path}.'.startswith(f'{error.name}.'):
      raise  # what the module itself imports
    where = 'installed or in a folder of PYTHONPATH'
    raise ValueError(f'{fault}{near}: {error}; {expected}, {where}') from error
  missing = [name for name in needed if not hasattr(found, name)]
  if missing:
    file = getattr(found, '__file__', None) or path
    raise ValueError(f'{fault}: {expected}; {file} has no {", ".join(missing)}')
  return found


def hint(word: str, known: Iterable[str]) -> str:
  """' (did you mean ...?)' where a known word is near, else nothing."""
  near = difflib.get_close_matches(word, list(known), n=1)
  return f' (did you mean {near[0]!r}?)' if near else ''


def files_that_define(function: str, folder: pathlib.Path) -> tuple[str, ...]:
  """The files of a folder and below that define `function`, sorted: 'moco', 'synthetic/faces'."""
  definition = re.compile(rf'^def {function}\(', re.M)
  texts = {file: file.read_text(encoding='utf-8') for file in folder.rglob('*.py')}
  files = (file for file, text in texts.items() if definition.search(text))
  return tuple(sorted(file.relative_to(folder).with_suffix('').as_posix() for file in files))


def tuples(options: Mapping[str, Any]) -> dict[str, Any]:
  """Options with the lists of JSON as the tuples that functions take."""
  return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}

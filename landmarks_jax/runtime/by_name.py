"""What configs name: files of a folder that define a function, and options as they are in JSON."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any


def files_that_define(function: str, folder: pathlib.Path) -> tuple[str, ...]:
  """The files of a folder and below that define `function`, sorted: 'moco', 'synthetic/faces'."""
  definition = re.compile(rf'^def {function}\(', re.M)
  files = (file for file in folder.rglob('*.py') if definition.search(file.read_text()))
  return tuple(sorted(file.relative_to(folder).with_suffix('').as_posix() for file in files))


def tuples(options: Mapping[str, Any]) -> dict[str, Any]:
  """Options with the lists of JSON as the tuples that functions take."""
  return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}

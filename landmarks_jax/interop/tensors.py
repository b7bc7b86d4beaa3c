"""Named arrays in safetensors files: a header and bytes, nothing executable."""

import os
import pathlib
from collections.abc import Mapping
from types import ModuleType

import numpy as np


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads arrays by name.

  Raises ValueError for other files, or without the package; OSError if the file cannot be read.
  """
  library = _library()
  try:
    return library.load_file(path)
  except OSError:
    raise
  except Exception as error:  # of its parser
    raise ValueError(f'damaged ({type(error).__name__}: {error}); expected safetensors') from error


def write(
  path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes arrays, and `metadata` beside them. Raises ValueError without the package."""
  arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  content = _library().save(arrays, dict(metadata))
  pathlib.Path(path).write_bytes(content)  # `save_file` would make it readable by its owner only


def _library() -> ModuleType:
  try:
    from safetensors import numpy
  except ImportError as error:
    raise ValueError("this needs the package safetensors: pip install -e '.[export]'") from error
  return numpy

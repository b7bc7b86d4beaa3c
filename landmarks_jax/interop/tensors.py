"""Named arrays in files of safetensors: a header and bytes, nothing that runs."""

import os
import pathlib
from collections.abc import Mapping
from types import ModuleType

import numpy as np


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays by name.

  Raises ValueError for another kind of file, and without the package; OSError where none is read.
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
  """Raises ValueError without the package. metadata: texts that are kept beside the arrays."""
  arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  content = _library().save(arrays, dict(metadata))
  pathlib.Path(path).write_bytes(content)  # `save_file` would let only its owner read the file


def _library() -> ModuleType:
  try:
    from safetensors import numpy
  except ImportError as error:
    raise ValueError(
      "this needs the package safetensors: pip install 'landmarks_jax[export]'"
    ) from error
  return numpy

"""Reading files that may be damaged: whatever is wrong is one ValueError that names the file."""

import io
import json
from collections.abc import Mapping
from typing import Any


def parse_json(data: bytes, what: Any) -> Any:
  """The value of a JSON text in UTF-8. Raises ValueError that begins with `what` it is."""
  try:
    return json.loads(data.decode('utf-8-sig'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{what} is damaged ({error})') from error


def parse_arrays(data: bytes, what: Any) -> dict[str, Any]:
  """The arrays of an npz file. Raises ValueError that begins with `what` it is."""
  import numpy as np  # late: heavy, and the help of commands needs none

  try:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except Exception as error:  # NumPy, zipfile and zlib have a dozen for what is damaged
    raise ValueError(f'{what} is damaged ({type(error).__name__}: {error})') from error


def check_kinds(fields: Any, kinds: Mapping[str, Any], what: Any) -> None:
  """Raises ValueError unless `fields` is a dict with values of these kinds by name."""
  if not isinstance(fields, dict):
    raise ValueError(f'{what} is damaged: it is {fields!r:.60}; expected named fields')
  for name, kind in kinds.items():
    if name not in fields or not isinstance(fields[name], kind):
      found = f'{name} is {fields[name]!r:.60}' if name in fields else f'it has no {name}'
      raise ValueError(f'{what} is damaged: {found}')

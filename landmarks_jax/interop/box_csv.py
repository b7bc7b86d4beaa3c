"""One box per picture from a CSV file: file,x0,y0,x1,y1 in pixels, edge coordinates."""

import csv
import os
import pathlib

import numpy as np

from landmarks_jax.interop.landmark_csv import number, picture_path

HEADER = ['file', 'x0', 'y0', 'x1', 'y1']


def read(path: str | os.PathLike) -> dict[str, tuple[float, float, float, float]]:
  """Reads the boxes, by the path of their picture. Errors name the line and the value."""
  path = pathlib.Path(path)
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      lines = csv.reader(file)
      rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(row)]
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f'{path} is not CSV in UTF-8 ({error})') from error
  if not rows or rows[0][1] != HEADER:
    found = ','.join(rows[0][1])[:60] if rows else 'nothing'
    raise ValueError(f'{path}: expected the header {",".join(HEADER)}; found {found}')
  boxes = {}
  for line, cells in rows[1:]:
    try:
      name, *numbers = cells
      x0, y0, x1, y1 = map(number, numbers)
    except ValueError:
      given = ','.join(cells)[:60]
      raise ValueError(f'{path}, line {line}: {given}; expected {",".join(HEADER)}') from None
    if not (np.isfinite([x0, y0, x1, y1]).all() and x0 < x1 and y0 < y1):
      raise ValueError(f'{path}, line {line} ({name}): expected x0 < x1 and y0 < y1')
    file = picture_path(name)
    if file in boxes:
      raise ValueError(f'{path}, line {line}: {file} has a box already')
    boxes[file] = x0, y0, x1, y1
  return boxes

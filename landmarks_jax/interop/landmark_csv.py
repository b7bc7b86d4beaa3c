"""Landmarks from a CSV file: file,NAME_x,NAME_y,... and optionally split, one row per picture."""

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class LabelTable(NamedTuple):
  """The labels in a file, by path of the picture; (0, 0) is the centre of the first pixel."""

  path: pathlib.Path
  names: tuple[str, ...]  # of the K landmarks
  points: dict[str, np.ndarray]  # [K, 2] in pixels, nan = not visible
  places: dict[str, str]  # where in the file, for messages: 'line 4'
  splits: dict[str, str] | None = None
  skeleton: tuple[tuple[int, int], ...] = ()  # landmarks to join in drawings
  unit: str = 'row'  # the part of the file that labels one picture, for messages


def read(path: str | os.PathLike) -> LabelTable:
  """Reads the file; two empty cells = not visible. Errors name the line and the value."""
  path = pathlib.Path(path)
  rows = _rows(path)
  header = list(map(str.strip, rows[0][1]))
  names = _names(path, header)
  labels = LabelTable(path, names, {}, {}, {} if 'split' in header else None)
  for line, row in rows[1:]:
    if len(row) != len(header):
      raise ValueError(f'{path}, line {line}: {len(row)} cells, but the header has {len(header)}')
    cells = dict(zip(header, row, strict=True))
    file = picture_path(cells['file'])
    if file in labels.places:
      raise ValueError(f'{path}, line {line}: {file} has a row in {labels.places[file]} already')
    labels.places[file] = f'line {line}'
    labels.points[file] = np.array([_point(path, line, file, n, cells) for n in names])
    if labels.splits is not None:
      labels.splits[file] = cells['split'].strip()
  return labels


def write(path: str | os.PathLike, names: Sequence[str], points: Mapping[str, np.ndarray]) -> None:
  """Writes a file for `read`: points [K, 2] in pixels by picture; nan becomes two empty cells."""
  with open(path, 'w', newline='', encoding='utf-8') as file:
    lines = csv.writer(file)
    lines.writerow(['file', *(f'{name}_{axis}' for name in names for axis in 'xy')])
    for picture, pixels in points.items():
      seen = np.isfinite(pixels).all(-1, keepdims=True) & np.ones(2, bool)
      cells = zip(pixels.ravel().tolist(), seen.ravel(), strict=True)
      lines.writerow([picture, *(f'{value:.3f}' if is_seen else '' for value, is_seen in cells)])


def number(text: str) -> float:
  """A number in a cell. Raises ValueError for 1_0 too, which Python takes for 10.

  >>> number('1e1')
  10.0
  """
  if '_' in text:
    raise ValueError(f'{text!r:.60}: expected a number')
  return float(text)


def picture_path(text: str) -> str:
  """Normalises a path from a label file to the form used when listing folders.

  >>> picture_path(' .\\\\cats\\\\a.png')
  'cats/a.png'
  """
  return text.strip().replace('\\', '/').removeprefix('./')


def name_fault(name: str) -> str | None:
  """Why labels of a picture with this name could not be read back from a file, if so."""
  try:
    name.encode()
  except UnicodeEncodeError:
    return 'its name is not UTF-8 text; rename it'
  if picture_path(name) != name or any(c in name for c in '\r\n'):
    return 'its name has a backslash, a line break, or a space at an end; rename it'
  return None


def _rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:  # Excel writes a byte order mark
      lines = csv.reader(file)
      rows = [(lines.line_num, row) for row in lines if any(map(str.strip, row))]
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8 text ({error}); save it as CSV UTF-8') from error
  except csv.Error as error:
    raise ValueError(f'{path}, line {lines.line_num} is not CSV ({error})') from error
  if not rows:
    raise ValueError(f'{path} is empty; expected the header file,NAME_x,NAME_y,...')
  return rows


def _names(path: pathlib.Path, header: list[str]) -> tuple[str, ...]:
  names = [c.removesuffix('_x') for c in header if c.endswith('_x')]
  expected = {'file', *(n + end for n in names for end in ('_x', '_y'))}
  missing = sorted(expected - set(header))
  extra = sorted(set(header) - expected - {'split'})
  doubled = sorted({c for c in header if header.count(c) > 1})
  beginning = f'{path}: expected comma-separated columns file,NAME_x,NAME_y,... and perhaps split; '
  found = f'; found {",".join(header)!r:.60}'
  for problem, columns in (('missing', missing), ('unknown', extra), ('twice', doubled)):
    if columns:
      raise ValueError(f'{beginning}{problem}: {", ".join(map(repr, columns)):.200}{found}')
  if not names:
    raise ValueError(f'{beginning}there is no landmark{found}')
  return tuple(names)


def _point(
  path: pathlib.Path, line: int, file: str, name: str, cells: Mapping[str, str]
) -> tuple[float, float]:
  x, y = (cells[f'{name}_{axis}'].strip() for axis in 'xy')
  where = f'{path}, line {line} ({file:.200}): {name:.60} is ({x:.60}, {y:.60})'
  if not x and not y:
    return np.nan, np.nan
  try:
    point = number(x), number(y)
  except ValueError:
    raise ValueError(f'{where}; expected two numbers, or both cells empty') from None
  if not np.isfinite(point).all():
    raise ValueError(f'{where}; leave both cells empty for a landmark that is not visible')
  return point

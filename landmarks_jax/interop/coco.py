"""Landmarks from a JSON file in the format of COCO keypoints (cocodataset.org/#format-data)."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from landmarks_jax.interop.landmark_csv import LabelTable, picture_path

_expected = (
  'expected images (id, file_name), annotations (image_id, category_id, keypoints) and categories '
  '(id, keypoints)'
)
Id = int | str


def read(path: str | os.PathLike) -> LabelTable:
  """Reads landmarks of the file's one category with keypoints, at most one object per picture.

  Of several objects in a picture the one with the largest `area` counts; crowds and objects without
  a labelled point are left out. Points with v=1 (occluded) and v=2 are used, as in COCO's own
  score; v=0 is not visible. The file's skeleton counts from 1. Errors name the annotation and the
  value.
  """
  path = pathlib.Path(path)
  data = _load(path)
  images, annotations = (_list(path, data, key) for key in ('images', 'annotations'))
  category = _category(path, _list(path, data, 'categories'))
  names = _names(path, category)
  files = _files(path, images)
  labels = LabelTable(
    path, names, {}, {}, None, _skeleton(path, category, len(names)), 'annotation'
  )
  areas: dict[str, float | None] = {}
  for number, annotation in enumerate(annotations):
    where = f'annotation {_take(path, annotation, "id", Id, f"annotation number {number}")}'
    if _take(path, annotation, 'category_id', Id, where) != category['id']:
      continue
    if annotation.get('iscrowd') or annotation.get('keypoints') in (None, []):
      continue
    points = _points(path, annotation, names, where)
    if np.isnan(points).all():
      continue
    image = _take(path, annotation, 'image_id', Id, where)
    if image not in files:
      raise ValueError(f'{path}, {where}: there is no image with id {image!r}')
    file, area = files[image], annotation.get('area')
    if file in areas and not _larger(path, f'{where} ({file})', area, areas[file]):
      continue
    labels.points[file], labels.places[file], areas[file] = points, where, area
  return labels


def write(
  path: str | os.PathLike,
  names: Sequence[str],
  points: Mapping[str, np.ndarray],
  sizes: Mapping[str, tuple[int, int]],
  *,
  confidence: Mapping[str, np.ndarray] | None = None,
  skeleton: Sequence[Sequence[int]] = (),
  category: str = 'object',
) -> None:
  """Writes a file for `read`: one object per picture, with v=2, or v=0 where a point is nan.

  Args: points: [K, 2] in pixels, by picture; a picture without a visible point gets no object.
  sizes: (width, height) of each. confidence: [K], for pictures with predicted points: `score` is
  the mean and `confidence` holds all.
  """
  images, annotations = [], []
  for number, (file, pixels) in enumerate(points.items(), start=1):
    width, height = sizes[file]
    images.append({'id': number, 'file_name': file, 'width': width, 'height': height})
    if np.isfinite(pixels).all(-1).any():
      own = None if confidence is None else confidence.get(file)
      annotations.append(_annotation(number, pixels, own))
  joined = [[a + 1, b + 1] for a, b in skeleton]
  kind = {'id': 1, 'name': category, 'keypoints': list(names), 'skeleton': joined}
  data = {'images': images, 'annotations': annotations, 'categories': [kind]}
  text = json.dumps(data, ensure_ascii=False, allow_nan=False)
  pathlib.Path(path).write_text(text + '\n', encoding='utf-8')


def _annotation(
  number: int, pixels: np.ndarray, confidence: np.ndarray | None = None
) -> dict[str, Any]:
  seen = np.isfinite(pixels).all(-1)
  low, high = pixels[seen].min(0), pixels[seen].max(0)
  triples = np.concatenate([np.where(seen[:, None], pixels, 0), 2 * seen[:, None]], -1)
  found = {
    'id': number,
    'image_id': number,
    'category_id': 1,
    'iscrowd': 0,
    'keypoints': [round(v, 3) for v in triples.ravel().tolist()],
    'num_keypoints': int(seen.sum()),
    'bbox': [round(v, 3) for v in (*low.tolist(), *(high - low).tolist())],
    'area': round(float((high - low).prod()), 3),
  }
  if confidence is not None and np.isfinite(confidence).any():
    each = [round(v, 4) if np.isfinite(v) else None for v in confidence.tolist()]
    found |= {'score': round(float(np.nanmean(confidence)), 4), 'confidence': each}
  return found


def _load(path: pathlib.Path) -> dict[str, Any]:
  try:
    data = json.loads(path.read_text(encoding='utf-8-sig'))
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8 text ({error})') from error
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not JSON ({error}); is the file complete?') from error
  if not isinstance(data, dict):
    raise ValueError(f'{path} holds a {type(data).__name__}; {_expected}')
  return data


def _take(path: pathlib.Path, record: Any, key: str, kind: Any, where: str) -> Any:
  """record[key], checked to be present and of the given kind."""
  if not isinstance(record, dict) or key not in record:
    raise ValueError(f'{path}: {where} has no {key!r}; {_expected}')
  if not isinstance(record[key], kind):
    raise ValueError(f'{path}, {where}: {key} is {record[key]!r:.60}; {_expected}')
  return record[key]


def _list(path: pathlib.Path, data: dict[str, Any], key: str) -> list[Any]:
  return _take(path, data, key, list, 'the file')


def _files(path: pathlib.Path, images: list[Any]) -> dict[Id, str]:
  """The paths of the pictures by their ids."""
  files: dict[Id, str] = {}
  for n, image in enumerate(images):
    number = _take(path, image, 'id', Id, f'image {n}')
    file = picture_path(_take(path, image, 'file_name', str, f'image {n}'))
    if files.setdefault(number, file) != file:
      raise ValueError(
        f'{path}, image {n}: {files[number]} and {file} have the id {number!r}; give each its own'
      )
  return files


def _category(path: pathlib.Path, categories: list[Any]) -> dict[str, Any]:
  found = [c for c in categories if isinstance(c, dict) and c.get('keypoints')]
  if len(found) != 1:
    given = ', '.join(repr(c.get('name', c.get('id'))) for c in found) or 'none'
    raise ValueError(f'{path}: expected one category with keypoints; there are: {given:.200}')
  _take(path, found[0], 'id', Id, 'the category')
  return found[0]


def _names(path: pathlib.Path, category: dict[str, Any]) -> tuple[str, ...]:
  names = _take(path, category, 'keypoints', list, 'the category')
  if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
    raise ValueError(
      f'{path}: keypoints of the category are {names!r:.200}; expected different names'
    )
  for name in names:
    try:
      name.encode()
    except UnicodeEncodeError:
      raise ValueError(
        f'{path}: the landmark {name!a:.60} is not Unicode text; rename it'
      ) from None
  return tuple(names)


def _skeleton(
  path: pathlib.Path, category: dict[str, Any], count: int
) -> tuple[tuple[int, int], ...]:
  pairs = category.get('skeleton') or []
  for pair in pairs if isinstance(pairs, list) else [pairs]:
    numbers = isinstance(pair, list) and len(pair) == 2 and all(type(i) is int for i in pair)
    if not numbers or not all(1 <= i <= count for i in pair):
      raise ValueError(f'{path}: skeleton has {pair!r:.60}; expected pairs of numbers 1 to {count}')
  return tuple((a - 1, b - 1) for a, b in pairs)


def _points(
  path: pathlib.Path, annotation: dict[str, Any], names: tuple[str, ...], where: str
) -> np.ndarray:
  values = _take(path, annotation, 'keypoints', list, where)
  try:
    points = np.array(values, np.float64).reshape(len(names), 3)
  except (ValueError, TypeError, OverflowError):  # whole numbers may have any number of digits
    count = f'{len(values)} values'
    raise ValueError(
      f'{path}, {where}: keypoints has {count}; expected {3 * len(names)} numbers x, y, v, ...'
    ) from None
  labelled = points[:, 2] != 0
  wrong = ~np.isin(points[:, 2], (0, 1, 2)) | (labelled & ~np.isfinite(points).all(axis=-1))
  for k in np.flatnonzero(wrong):
    x, y, v = points[k]
    raise ValueError(
      f'{path}, {where}: {names[k]} is x={x:g}, y={y:g}, v={v:g}; expected two finite numbers and '
      'v=0 (not labelled), 1 (occluded) or 2 (visible)'
    )
  return np.where(labelled[:, None], points[:, :2], np.nan)


def _larger(path: pathlib.Path, where: str, area: Any, other: Any) -> bool:
  if not all(isinstance(a, int | float) and a == a for a in (area, other)):  # nan is not
    raise ValueError(
      f'{path}, {where}: the picture has several annotations; give each its area, of which the '
      'largest is used, or leave one'
    )
  return area > other

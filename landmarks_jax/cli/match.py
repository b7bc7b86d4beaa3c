"""Finds points of one picture in another by a run's features, and checks each by matching back.

A and B are pictures. --points is a CSV file of landmarks (file,NAME_x,NAME_y,...) or COCO keypoints
with a row for A; without it, points whose matches lead back to them are chosen, and the share that
leads back is of all candidates. --output gets matches.png, both pictures with the points on them,
and matches.json. Points of A that the network does not see are left out. A point whose match leads
back to more than a twentieth of the picture away is drawn as a ring: doubtful.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from landmarks_jax.cli import drafts, labelled, paths

REQUIRED = 'A', 'B', '--model=RUN'
PICTURE, LIST = 'matches.png', 'matches.json'
DOUBTFUL = 0.05  # of the longer side of A


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  paths.define('A', 'The picture with the points.', values)
  paths.define('B', 'The picture in which they are found.', values)
  paths.define('model', 'Folder of a run.', values)
  what = 'CSV or COCO JSON file with landmarks of A; if absent, points are chosen.'
  flags.DEFINE_string('points', None, what, flag_values=values)
  what = 'At most this many points, where they are chosen.'
  flags.DEFINE_integer('count', 12, what, lower_bound=1, flag_values=values)
  what = 'Folder that is made; if absent, match_A_B here, after the names of the pictures.'
  paths.define('output', what, values)
  what = 'Square of a picture: centre, pad (all of it) or squash.'
  flags.DEFINE_enum('crop', 'centre', labelled.CROPS, what, flag_values=values)
  what = (
    'Pixels on each side of the square that the network does not see; as in training if absent.'
  )
  flags.DEFINE_integer('margin', None, what, lower_bound=0, flag_values=values)
  what = 'How many positions are compared along each side.'
  flags.DEFINE_integer('size', 96, what, lower_bound=2, flag_values=values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  first, second = values.A, values.B
  output = values.output or pathlib.Path(f'match_{first.stem}_{second.stem}')
  drafts.check_new(output)
  given = None if values.points is None else _points(first, values.points)
  match(
    first,
    second,
    values.model,
    output,
    given=given,
    count=values.count,
    margin=values.margin,
    crop=values.crop,
    size=values.size,
  )
  return 0


def match(
  first: pathlib.Path,
  second: pathlib.Path,
  model: pathlib.Path,
  output: pathlib.Path,
  *,
  given: dict[str, Any] | None,
  count: int,
  margin: int | None,
  **options: Any,
) -> None:
  """Writes the matches and prints how many lead back.

  given: points of the first picture by name. options: of `landmarks_jax.match`.
  """
  from PIL import Image  # late: heavy

  from landmarks_jax import api
  from landmarks_jax.data import images
  from landmarks_jax.inference.matching import consistent_points
  from landmarks_jax.report import overlay

  pictures = [images.read(path, rotate=True) for path in (first, second)]
  loaded = api.load(model, margin=margin)
  if given is None:
    points, found, judged = consistent_points(loaded, *pictures, count=count, **options)
    names = [str(k + 1) for k in range(len(points))]
  else:
    given = _seen(loaded, pictures[0], given, crop=options['crop'])
    names, points = list(given), np.stack(list(given.values()))
    judged = found = api.match(loaded, *pictures, points, **options)
  most = DOUBTFUL * max(pictures[0].shape[:2])
  doubtful = found.cycle > most
  drawn = overlay.matches(*pictures, points, found.points, names=names, doubtful=doubtful.tolist())
  listed = [
    {
      'name': name,
      'a': [round(v, 3) for v in points[k].tolist()],
      'b': [round(v, 3) for v in found.points[k].tolist()],
      'similarity': round(float(found.similarity[k]), 4),
      'cycle_pixels': round(float(found.cycle[k]), 3),
    }
    for k, name in enumerate(names)
  ]
  score = 100 * float((judged.cycle <= most).mean())  # points chosen for it prove nothing
  data = {'a': str(first), 'b': str(second), 'consistent_percent': score, 'matches': listed}
  with drafts.draft(output) as folder:
    folder.mkdir()
    Image.fromarray(drawn).save(folder / PICTURE)
    text = json.dumps(data, indent=2, ensure_ascii=False) + '\n'
    (folder / LIST).write_text(text, encoding='utf-8', errors='backslashreplace')
  judgement = f'{len(names)} points, {score:.0f} %'
  if given is None:
    shown = f'{len(names)} of {len(judged.cycle)} candidates shown'
    judgement = f'{shown}; {score:.0f} % of the candidates'
  print(
    f'{judgement} lead back to where they came from; the median distance is '
    f'{np.median(judged.cycle):.1f} pixels; written to {output}'
  )
  if numbers := overlay.key(names):
    print(f'in the picture {numbers}')


def _points(picture: pathlib.Path, file: str) -> dict[str, Any]:
  """The visible landmarks of a picture, by name."""
  table = labelled.read_labels(picture.parent, file)
  rows = [row for row in table.points if pathlib.PurePosixPath(row).name == picture.name]
  if len(rows) != 1:
    count = 'no picture' if not rows else f'{len(rows)} pictures'
    raise ValueError(f'{table.path} has {count} of the name {picture.name}')
  named = dict(zip(table.names, table.points[rows[0]], strict=True))
  found = {name: point for name, point in named.items() if np.isfinite(point).all()}
  if not found:
    raise ValueError(f'{table.path}: no landmark of {rows[0]} is visible')
  return found


def _seen(model: Any, picture: Any, given: dict[str, Any], *, crop: str) -> dict[str, Any]:
  """The points that the network sees, warning about others. Raises ValueError if there is none."""
  from landmarks_jax.inference import matching  # late: heavy

  seen = matching.seen(model, picture, list(given.values()), crop=crop)
  lost = [name for name, inside in zip(given, seen, strict=True) if not inside]
  if lost:
    shown = ', '.join(lost[:5]) + (', ...' if len(lost) > 5 else '')
    message = f'{len(lost)} of {len(given)} points lie outside what the network sees of A: {shown}'
    message += '; --crop=pad or --margin=0 shows more'
    if len(lost) == len(given):
      raise ValueError(message)
    print(f'warning: {message}; they are left out', file=sys.stderr)
  return {name: point for name, point in given.items() if name not in lost}

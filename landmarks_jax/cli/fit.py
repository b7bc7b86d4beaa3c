"""Learns landmarks from some labelled pictures, on the features of a run: a model for `predict`.

--model is the folder of a run, --images a folder of pictures, --labels a CSV file with the header
file,NAME_x,NAME_y,... in pixels or COCO keypoints; pictures without labels are ignored. --output
gets the model: a folder that needs nothing else. With --boxes every picture is cropped around its
box, else --crop says which part is used. Names that differ only in left and right are taken as
mirror images of each other, unless the labels contradict that; --flip_pairs states the pairs.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from landmarks_jax.cli import drafts, labelled, paths

REQUIRED = '--model=RUN', '--images=DIR', '--labels=FILE', '--output=DIR'
HEADS = 'ridge', 'probe'


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  labelled.define_flags(values, crop='centre')
  paths.define('model', 'Folder of a run.', values)
  what = 'CSV or COCO JSON file of landmarks, as in data.labels of configs.'
  flags.DEFINE_string('labels', None, what, flag_values=values)
  what = 'How many of the labelled pictures to use, drawn by --seed; all if absent.'
  flags.DEFINE_integer('count', None, what, lower_bound=1, flag_values=values)
  what = 'What errors are divided by: frame, or two landmarks separated by a comma.'
  flags.DEFINE_string('scale', 'frame', what, flag_values=values)
  what = 'Mirror images: none, or A/B,C/D with names of landmarks; from names if absent.'
  flags.DEFINE_string('flip_pairs', None, what, flag_values=values)
  what = 'Confidence is the probability of an error below this share of --scale.'
  flags.DEFINE_float('tolerance', 0.1, what, flag_values=values)
  what = 'ridge, in closed form, or probe, the published one: trained, and slow.'
  flags.DEFINE_enum('head', HEADS[0], HEADS, what, flag_values=values)
  what = 'Random warps of every labelled picture that are learned from, too.'
  flags.DEFINE_integer('copies', 20, what, lower_bound=0, flag_values=values)
  flags.DEFINE_integer(
    'seed', 0, 'Seed of the drawn pictures and of the warps.', flag_values=values
  )
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  drafts.check_new(values.output)
  drafts.check_outside(values.output, 'images', values.images)
  options = {name: values[name].value for name in ('tolerance', 'head', 'copies', 'seed')}
  fitted = fit(
    values.model,
    values.images,
    values.labels,
    count=values.count,
    scale=values.scale,
    flip_pairs=values.flip_pairs,
    boxes=values.boxes,
    crop=values.crop or 'centre',
    **options,
  )
  with drafts.draft(values.output) as folder:
    fitted.save(folder)
  print(f'{_summary(fitted, values.scale)}\nwritten to {values.output}')
  return 0


def fit(
  run: pathlib.Path,
  root: pathlib.Path,
  labels: str,
  *,
  count: int | None,
  scale: str,
  flip_pairs: str | None,
  boxes: pathlib.Path | None,
  seed: int,
  **options: Any,
) -> Any:
  """Fits the `LandmarkModel`; options: those of `fit_landmarks`."""
  from landmarks_jax import api
  from landmarks_jax.data import folder, mirrored
  from landmarks_jax.evaluation import few_shot
  from landmarks_jax.inference import confidence

  confidence.check_tolerance(options['tolerance'])
  table = labelled.read_labels(root, labels)
  size = labelled.pair(scale, table.names)
  files = sorted(table.points)
  if count is not None:
    if count > len(files):
      message = f'--count={count}: expected at most {len(files)}'
      raise ValueError(f'{message}, the number of pictures that {table.path} labels')
    files = [files[i] for i in few_shot.draw_labels(len(files), count, 0, seed=seed)]
  absent = sorted(set(files).difference(folder.find(root)))
  if absent:
    raise FileNotFoundError(f'{table.path}: {folder.why_absent(absent[0], root)}')
  table = table._replace(points={file: table.points[file] for file in files})
  pairs = folder.label_pairs(table) if flip_pairs is None else _pairs(flip_pairs, table.names)
  around = labelled.rows_of(files, labelled.read_boxes(root, boxes), boxes)
  model = api.load(run)
  print(f'mirror pairs ({len(pairs)}): {mirrored.listed(pairs, table.names)}', flush=True)
  return api.fit_landmarks(
    model,
    [root / file for file in files],
    np.stack(list(table.points.values())),
    names=table.names,
    flip_pairs=pairs,
    skeleton=table.skeleton,
    boxes=around,
    scale=size,
    seed=seed,
    **options,
  )


def _pairs(text: str, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
  """The indices of the pairs named in 'A/B,C/D'; none for 'none'."""
  if text == 'none':
    return ()
  pairs = [tuple(name.strip() for name in pair.split('/')) for pair in text.split(',')]
  given = [name for pair in pairs for name in pair]
  wrong = [f'{"/".join(pair)!r} is no pair' for pair in pairs if len(pair) != 2]
  wrong += [f'there is no landmark {name!r}' for name in given if name not in names]
  wrong += [f'{name!r} is named twice' for name in given if given.count(name) > 1]
  if wrong:
    known = ', '.join(names)
    raise ValueError(f'--flip_pairs={text}: {wrong[0]}; expected none, or A/B,C/D, from: {known}')
  return tuple((names.index(a), names.index(b)) for a, b in pairs)


def _summary(fitted: Any, scale: str) -> str:
  count, landmarks = len(fitted.learned_from), len(fitted.names)
  message = f'{landmarks} landmarks learned from {count} pictures'
  measured = fitted.confidence
  if measured is None:
    return f'{message}; too few for a confidence'
  share = f'an error below {measured.tolerance:g} of {scale}'
  return f'{message}; confidence is the probability of {share}, by {measured.pictures} held out'

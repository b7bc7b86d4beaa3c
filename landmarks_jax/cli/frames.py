"""Writes the frames of a dataset as PNG files, with their landmarks in labels.csv.

NAME is a dataset, or the import path of one of your own; `frames NAME --help` lists its options,
such as --path=DIR, --split=test or --frame=200. The folder --output gets 000000.png, ... and, if
the dataset has landmarks, labels.csv with the header file,NAME_x,NAME_y,...; `fit`, `predict`,
`audit` and data/folder.py can read it.
"""

import inspect
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import drafts, paths
from landmarks_jax.data import source as sources
from landmarks_jax.runtime import by_name

REQUIRED = 'NAME', '--output=DIR'
LABELS = 'labels.csv'


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options, and those of the dataset if one is named; returns `argv`."""
  known = sources.available()
  flags.DEFINE_string('NAME', None, f'One of {", ".join(known)}.', flag_values=values)
  paths.define('output', 'Folder that is made.', values)
  what = 'At most this many frames, evenly apart.'
  flags.DEFINE_integer('most', None, what, lower_bound=1, flag_values=values)
  own = filter(by_name.is_import_path, argv[:1])
  for name in [*own, *(argument for argument in argv if argument in known)][:1]:
    for key, parameter in _parameters(name).items():
      usual = '' if parameter.default is parameter.empty else f'; {parameter.default} if absent'
      what = f'As in data.{key} of configs{usual}.'
      flags.DEFINE_string(key, None, what, flag_values=values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  name, parameters = values.NAME, _parameters(values.NAME)
  drafts.check_new(values.output)
  options = {
    key: configs.typed(f'--{key}', configs.Text(values[key].value), parameter.annotation)
    for key, parameter in parameters.items()
    if key in values and values[key].value is not None
  }
  if path := options.get('path'):
    drafts.check_outside(values.output, 'path', pathlib.Path(path).expanduser())
  source = sources.open_source(name, **options)
  with drafts.draft(values.output) as folder:
    folder.mkdir()
    written = write(source, folder, most=values.most)
  print(f'{written} written to {values.output}')
  return 0


def write(source: Any, folder: pathlib.Path, *, most: int | None = None) -> str:
  """Writes the frames of a source and their landmarks; says how many."""
  import numpy as np  # late: heavy
  from PIL import Image

  from landmarks_jax.geometry import coords
  from landmarks_jax.interop import landmark_csv
  from landmarks_jax.runtime import logs

  total = len(source)
  rows = range(total) if most is None else sources.evenly_apart(total, most).tolist()
  points, bad = {}, 0
  tally = logs.Tally(len(rows))
  for done, row in enumerate(rows, start=1):
    try:
      example = source[row]
    except sources.BadImage as error:
      print(f'warning: left out: {error}', file=sys.stderr)
      bad += 1
      continue
    image, file = example['image'], f'{row:06}.png'
    Image.fromarray(image).save(folder / file, compress_level=1)
    if 'points' in example:
      pixels = coords.to_pixels(example['points'], width=image.shape[1], height=image.shape[0])
      inside = (np.abs(pixels - (len(image) - 1) / 2) <= len(image) / 2).all(-1)
      points[file] = np.where((example['visible'] & inside)[:, None], pixels, np.nan)
    tally(done)
  if points:
    landmark_csv.write(folder / LABELS, source.info.names, points)
  left = f' ({bad} could not be read)' if bad else ''
  return f'{len(rows) - bad:,} of {total:,} frames{left}' + (
    f' with {len(source.info.names)} landmarks' if points else ''
  )


def _parameters(name: str) -> dict[str, inspect.Parameter]:
  parameters = inspect.signature(sources.source_function(name)).parameters
  return {key: one for key, one in parameters.items() if one.kind is not one.VAR_KEYWORD}

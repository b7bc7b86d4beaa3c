"""Moves landmarks that a method discovered, and shows the pictures that it then paints.

WORKDIR is the folder of a run of lmdis, or of another method that paints. All landmarks, or those
of --landmarks, move by --by=X,Y pixels of the picture that the network sees, in --frames steps; or
they move to their places in another picture, --to. Their appearance stays that of --picture. The
strip has the picture, its painting, and every step; it is written as PNG and as GIF into the folder
--output, where nothing is overwritten. Without --by and --to the numbers of the landmarks are
shown.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from landmarks_jax.cli import paths

REQUIRED = 'WORKDIR', '--picture=FILE'
SIDE = 160  # of every picture of the strip, in pixels
MILLISECONDS = 120  # for which each frame of the GIF is shown


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  paths.define('WORKDIR', 'Folder of a run.', values)
  what = 'Checkpoint; the selected or newest one if absent.'
  flags.DEFINE_integer('step', None, what, flag_values=values)
  paths.define('picture', 'File of a picture.', values)
  what = 'Numbers of landmarks, such as 3 or 3,4; all if absent.'
  flags.DEFINE_list('landmarks', [], what, flag_values=values)
  what = 'How far the landmarks go, in pixels to the right and down, such as 4,-2.'
  flags.DEFINE_list('by', [], what, flag_values=values)
  what = 'File of another picture, to whose landmarks they move.'
  paths.define('to', what, values)
  what = 'How much of the way they have gone at the end; above 1 they go beyond it.'
  flags.DEFINE_float('factor', 1.0, what, flag_values=values)
  what = 'Pictures of the strip, from none of the way to all of it.'
  flags.DEFINE_integer('frames', 8, what, lower_bound=2, flag_values=values)
  what = 'Folder that the files go to; WORKDIR/manipulations if absent.'
  paths.define('output', what, values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  if values.by and values.to:
    raise ValueError('--by and --to are two ways to go; give one of them')
  manipulate(
    values.WORKDIR,
    values.picture,
    step=values.step,
    landmarks=[_number(text, '--landmarks') for text in values.landmarks],
    by=[_number(text, '--by', float) for text in values.by] or None,
    to=values.to,
    factor=values.factor,
    frames=values.frames,
    output=values.output or values.WORKDIR / 'manipulations',
  )
  return 0


def manipulate(
  workdir: pathlib.Path,
  picture: pathlib.Path,
  *,
  output: pathlib.Path,
  step: int | None = None,
  landmarks: Sequence[int] = (),
  by: Sequence[float] | None = None,
  to: pathlib.Path | None = None,
  factor: float = 1.0,
  frames: int = 8,
) -> list[pathlib.Path]:
  """Writes the strip and returns its files; see the command."""
  from landmarks_jax.inference import model as models  # late: heavy
  from landmarks_jax.report import draw

  model = models.load(workdir, step=step)
  name = model.config['method']['name']
  if model.describer.landmarks is None or model.describer.paint is None:
    raise ValueError(f'{workdir}: the method {name} does not paint pictures; lmdis does')
  images = model.frames([picture] if to is None else [picture, to])
  points = _landmarks(model, images)
  chosen = _chosen(landmarks, points.shape[1])
  if by is None and to is None:
    drawn = draw.discovered(images[0], points[0], side=3 * SIDE, numbers=True)
    return _write(output, picture.stem, drawn, ())
  way = _way(points, chosen, by=by, side=model.side)
  steps = points[:1] + np.linspace(0, factor, frames, dtype=np.float32)[:, None, None] * way
  painted = _paint(model, images[0], steps)
  shown, places = np.concatenate([images[:1], painted]), np.concatenate([points[:1], steps])
  marked = draw.discovered_sheet(shown, places, columns=len(shown), side=SIDE)
  plain = draw.enlarged_sheet(shown, columns=len(shown), side=SIDE)
  strip = draw.montage(np.stack([marked, plain]), columns=1)
  cells = [draw.enlarged_sheet(image[None], side=SIDE, columns=1) for image in painted]
  return _write(output, picture.stem, strip, cells)


def _landmarks(model: Any, images: np.ndarray) -> np.ndarray:
  from landmarks_jax.evaluation import features  # late: heavy

  found, _ = features.jitted(model.describer.landmarks)(model.describer.variables, images)
  return np.asarray(found)


def _paint(model: Any, image: np.ndarray, points: np.ndarray) -> np.ndarray:
  """The picture with its landmarks at each of [F, K, 2]: uint8 [F, S, S, 3]."""
  from landmarks_jax.evaluation import features  # late: heavy
  from landmarks_jax.report import draw

  images = np.repeat(image[None], len(points), axis=0)
  paint = features.jitted(model.describer.paint)
  return draw.to_bytes(paint(model.describer.variables, images, points))


def _chosen(landmarks: Sequence[int], count: int) -> list[int]:
  wrong = [number for number in landmarks if not 0 <= number < count]
  if wrong:
    raise ValueError(f'--landmarks={wrong[0]}: expected 0 to {count - 1}, the method has {count}')
  return list(landmarks) or list(range(count))


def _way(
  points: np.ndarray, chosen: Sequence[int], *, by: Sequence[float] | None, side: int
) -> np.ndarray:
  """How far every landmark goes: [K, 2], normalised."""
  way = np.zeros_like(points[0])
  if by is None:
    way[chosen] = (points[1] - points[0])[chosen]
    return way
  if len(by) != 2:
    raise ValueError(f'--by={",".join(map(str, by))}: expected two numbers, right and down')
  way[chosen] = 2 * np.asarray(by, np.float32) / (side - 1)
  return way


def _number(text: str, option: str, kind: type = int) -> Any:
  try:
    return kind(text)
  except ValueError as error:
    expected = 'a whole number' if kind is int else 'a number'
    raise ValueError(f'{option}={text}: expected {expected}') from error


def _write(
  folder: pathlib.Path, name: str, strip: np.ndarray, frames: Sequence[np.ndarray]
) -> list[pathlib.Path]:
  """Writes NAME.png, and NAME.gif there and back; numbered if one of them exists already."""
  from PIL import Image  # late: heavy

  folder.mkdir(parents=True, exist_ok=True)
  for number in itertools.count(1):
    stem = name if number == 1 else f'{name}_{number}'
    files = [folder / f'{stem}.png', folder / f'{stem}.gif']
    if not any(file.exists() for file in files):
      break
  Image.fromarray(strip).save(files[0])
  if frames:
    first, *rest = [Image.fromarray(frame) for frame in [*frames, *frames[-2:0:-1]]]
    first.save(files[1], save_all=True, append_images=rest, duration=MILLISECONDS, loop=0)
  written = [file for file in files if file.exists()]
  print(f'written to {" and ".join(map(str, written))}')
  return written

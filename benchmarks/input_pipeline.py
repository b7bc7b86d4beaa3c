"""Reading pictures against a Pillow loop, and augmenting them on the device against Pillow.

Pictures are rendered, written as JPEGs into a temporary folder, and read from the page cache. Every
loop is single-threaded. The defaults take less than a minute on two otherwise idle CPU cores. On an
accelerator:

python benchmarks/input_pipeline.py --batch_size 256
"""

import argparse
import functools
import io
import math
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
from PIL import Image, ImageEnhance

from landmarks_jax.augment import colour, views
from landmarks_jax.data import catalogue, folder, images, pipeline, prepared, preparing
from landmarks_jax.data.source import Source
from landmarks_jax.data.synthetic import faces

SIZES = {'faces': (178, 218), 'photographs': (600, 800)}  # width, height
BASELINE, HELD = 'Pillow loop', 'in memory (cache=host)'
BILINEAR = Image.Resampling.BILINEAR
JITTERS = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints a table of reading for each size of picture, and one of augmentation."""
  parser = measure.parser(__doc__)
  parser.add_argument('--faces', type=int, default=128, help='178x218 pictures')
  parser.add_argument('--photographs', type=int, default=32, help='600x800 pictures')
  parser.add_argument('--quality', type=int, default=90, help='of the JPEGs')
  parser.add_argument('--frame', type=int, default=136, help='side of what is made of them')
  parser.add_argument('--margin', type=int, default=20, help='cut from each side of a view')
  parser.add_argument('--batch_size', type=int, default=32, help='pictures augmented at once')
  packages = 'jax', 'numpy', 'pillow', 'simplejpeg'
  options = measure.parse(__file__, parser, arguments, packages=packages)
  for kind in SIZES:
    with tempfile.TemporaryDirectory() as path:
      write_pictures(pathlib.Path(path), kind, options)
      reading(kind, pathlib.Path(path), options)
  augmenting(options)


def write_pictures(path: pathlib.Path, kind: str, options: argparse.Namespace) -> None:
  """Writes rendered faces, cut to the size, as JPEGs, and one landmark each in labels.csv."""
  width, height = SIZES[kind]
  left, source = (height - width) // 2, faces.source(frame=height)
  rows = ['file,centre_x,centre_y']
  for i in range(getattr(options, kind)):
    picture = Image.fromarray(source[i]['image'][:, left : left + width])
    picture.save(path / f'{i:06d}.jpg', quality=options.quality)
    rows.append(f'{i:06d}.jpg,{width // 2},{height // 2}')
  (path / 'labels.csv').write_text('\n'.join(rows))


def reading(kind: str, path: pathlib.Path, options: argparse.Namespace) -> None:
  """Times reading files to square frames, and prints a table."""
  sources = readers(kind, path, options.frame)
  files = sources[BASELINE].files
  ways = {name: functools.partial(read_all, source) for name, source in sources.items()}
  seconds = measure.in_turn(ways, options.repetitions)
  frames = {name: read_all(source) for name, source in sources.items()}
  rows = [
    [
      name,
      measure.figure(len(files) / seconds[name]),
      measure.speed_up(seconds[name], seconds[BASELINE]),
      '-' if name == BASELINE else difference(frames[name], frames[BASELINE]),
    ]
    for name in sources
  ]
  size = np.mean([file.stat().st_size for file in files]) / 1e3
  width, height = SIZES[kind]
  measure.print_table(
    f'Reading {kind}, {width}x{height} to {options.frame}x{options.frame}',
    f'- {len(files)} JPEGs of quality {options.quality}, {measure.number(size)} kB each',
    ('reader', 'pictures/s', 'times Pillow', 'difference to Pillow, of 255'),
    rows,
  )


def readers(kind: str, path: pathlib.Path, frame: int) -> dict[str, Any]:
  """The ways to read the pictures of a folder by index, the baseline first."""
  files = sorted(path.glob('*.jpg'))
  labelled = folder.catalogue(str(path), frame=frame, labels='labels.csv')
  stored = path / 'prepared'
  preparing.prepare(labelled, stored, name=kind, options={})
  exact = folder.source(str(path), frame=frame, labels='labels.csv')
  return {
    BASELINE: Loop(files, frame),
    'folder, with landmarks (exact)': exact,
    'folder, without (scaled decoding)': folder.source(str(path), frame=frame),
    'prepared ArrayRecord': catalogue.Chosen(prepared.Prepared(stored), range(len(files))),
    HELD: pipeline.cached(exact, report=lambda line: None),
  }


class Loop:
  """The obvious loop: open, cut the centre square, resize."""

  def __init__(self, files: Sequence[pathlib.Path], frame: int) -> None:
    self.files, self.frame = files, frame

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    with Image.open(self.files[index]) as opened:
      image = opened.convert('RGB')
    x, y, side = images.centre_box(*image.size)
    size = self.frame, self.frame
    return {'image': np.asarray(image.resize(size, BILINEAR, box=(x, y, x + side, y + side)))}


def read_all(source: Source | Loop) -> np.ndarray:
  """All frames, [N, S, S, 3]."""
  return np.stack([source[i]['image'] for i in range(len(source))])


def difference(frames: np.ndarray, expected: np.ndarray) -> str:
  """Mean and greatest absolute difference of two sets of frames."""
  apart = np.abs(frames.astype(int) - expected.astype(int))
  return f'mean {measure.number(apart.mean())}, greatest {apart.max()}' if apart.any() else 'none'


def augmenting(options: argparse.Namespace) -> None:
  """Times drawing random views of frames, and prints a table."""
  frames = read_all(faces.source(frame=options.frame, count=options.batch_size))
  ways = view_ways(frames, options.margin)
  seconds = measure.in_turn(ways, options.repetitions)
  rows = []
  for name in ways:
    baseline = seconds['Pillow: ' + name.partition(': ')[2]]
    each = 1e6 * seconds[name] / len(frames)
    speed = measure.figure(1e6 / each)
    rows.append([name, speed, measure.figure(each), measure.speed_up(seconds[name], baseline)])
  measure.print_table(
    f'Random views of {options.frame}x{options.frame} frames, {len(frames)} at once',
    '- Pillow on one thread of the host, the device compiled by JAX; the frames are in memory',
    ('views', 'pictures/s', 'microseconds a picture', 'times Pillow'),
    rows,
  )


def view_ways(frames: np.ndarray, margin: int) -> dict[str, Callable[[], Any]]:
  """The ways to draw a view of every frame: Pillow's and the device's, without and with JPEG."""
  ways: dict[str, Callable[[], Any]] = {}
  for kind, jpeg in {'crop, colour': False, 'JPEG, crop, colour': True}.items():
    draw = functools.partial(views.random_view, margin=margin, jpeg=jpeg)
    ways[f'Pillow: {kind}'] = PillowViews(frames, margin, jpeg=jpeg)
    ways[f'on the device: {kind}'] = functools.partial(
      jax.jit(draw), jax.random.key(0), jnp.asarray(frames)
    )
  return ways


class PillowViews:
  """`views.random_view` in Pillow, picture by picture; a call makes a view of every frame."""

  def __init__(self, frames: np.ndarray, margin: int, *, jpeg: bool) -> None:
    self.frames, self.margin, self.jpeg = frames, margin, jpeg
    self.rng = np.random.default_rng(0)

  def __call__(self) -> np.ndarray:
    """Float views [B, s, s, 3]."""
    return np.stack([self.view(frame) for frame in self.frames])

  def view(self, frame: np.ndarray) -> np.ndarray:
    """One view."""
    image = Image.fromarray(frame)
    image = self.compress(image) if self.jpeg else image
    image = image.resize(image.size, BILINEAR, box=self.box(frame.shape[0]))
    for jitter in self.rng.permutation(np.array(JITTERS)):
      image = jitter(image).enhance(self.rng.uniform(0.6, 1.4))
    inside = slice(self.margin, frame.shape[0] - self.margin)
    normals = 0.1 * self.rng.standard_normal(3).astype(np.float32)
    shift = 255 * (colour.EIGENVECTORS * colour.EIGENVALUES) @ normals
    return np.asarray(image, np.float32)[inside, inside] + shift

  def compress(self, image: Image.Image) -> Image.Image:
    """JPEG compression at a random size and quality, resized back."""
    side = image.size[0]
    drawn = int(side * (1 + 0.5 * self.rng.standard_normal()))
    drawn = min(max(drawn, int(0.8 * side)), 2 * side)
    file = io.BytesIO()
    image = image.resize((drawn, drawn), BILINEAR)
    image.save(file, 'JPEG', quality=int(self.rng.integers(30, 99)))
    return Image.open(file).resize((side, side), BILINEAR)

  def box(self, side: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) with the distribution of `crop.random_boxes`."""
    for _ in range(10):
      area = self.rng.uniform(0.2, 1) * side**2
      aspect = math.exp(self.rng.uniform(math.log(3 / 4), math.log(4 / 3)))
      width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
      if width <= side and height <= side:
        break
    else:
      width = height = side
    x, y = self.rng.integers(0, side - width + 1), self.rng.integers(0, side - height + 1)
    return int(x), int(y), int(x) + width, int(y) + height


if __name__ == '__main__':
  main()

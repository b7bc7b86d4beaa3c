"""Cuts any pictures to the square frames that a network sees, and maps points back to their pixels.

Points are in pixels of the given picture, with (0, 0) the centre of its first pixel. Boxes are in
edge coordinates, as everywhere here: (0, 0, width, height) is the whole picture.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Integer, Num, UInt8
from PIL import Image

from landmarks_jax.contracts import Batch
from landmarks_jax.data import folder, images, pipeline
from landmarks_jax.data.source import BadImage, Info, check_facts, normaliser
from landmarks_jax.runtime import logs

WIDEST = 8  # of a box, and how far a label may lie off, in multiples of the picture's larger side
MOST_PIXELS = 2**28  # of a square padded with repeated edges
Scale = Sequence[SupportsIndex] | Integer[np.ndarray, ' 2'] | str  # a pair of landmarks, or 'frame'
NOTHING = Info((), (), 'frame', (0.0,) * 3, (1.0,) * 3)  # what is known of user-supplied pictures


class PointLabels(NamedTuple):
  """Landmarks of N pictures, and facts about them."""

  points: Float[np.ndarray, 'N K 2']  # in pixels
  visible: Bool[np.ndarray, 'N K']
  info: Info

  @classmethod
  def of(
    cls,
    points: Any,
    visible: Any = None,
    *,
    names: Sequence[str] | None = None,
    flip_pairs: Sequence[Sequence[int]] = (),
    scale: Scale = 'frame',
  ) -> 'PointLabels':
    """Labels from unchecked input. visible=None: where no coordinate is nan."""
    points = np.asarray(points)
    numbers = np.issubdtype(points.dtype, np.floating) or np.issubdtype(points.dtype, np.integer)
    if points.ndim != 3 or points.shape[2] != 2 or not points.size or not numbers:
      given = f'points is {points.dtype} {list(points.shape)}'
      raise ValueError(f'{given}; expected [N, K, 2], (x, y) of every landmark in pixels')
    finite = np.isfinite(points).all(-1)
    for i, k in np.argwhere(np.isinf(points).any(-1)) if visible is None else ():
      raise ValueError(
        f'points[{i}, {k}] is {points[i, k].tolist()}; expected numbers, or nan for a landmark '
        'that is not visible'
      )
    visible = finite if visible is None else np.asarray(visible)
    if visible.shape != finite.shape or visible.dtype != bool:
      given = f'visible is {visible.dtype} {list(visible.shape)}'
      raise ValueError(f'{given}; expected bool {list(finite.shape)}')
    for i, k in np.argwhere(visible & ~finite):
      raise ValueError(
        f'points[{i}, {k}] is {points[i, k].tolist()}, but visible; expected numbers'
      )
    names = [f'landmark {k}' for k in range(points.shape[1])] if names is None else names
    check_facts(names, flip_pairs, (), scale, points.shape[1])
    pairs = tuple((int(a), int(b)) for a, b in flip_pairs)
    info = Info(tuple(names), pairs, plain_scale(scale), NOTHING.mean, NOTHING.std)
    return cls(points.astype(np.float64), visible, info)


class Pictures:
  """User-supplied pictures as a `Source` of frames, labelled if `labels` are given.

  Args:
    given: uint8 [N, H, W, 3], or a sequence of arrays [H, W, 3] (or [H, W] grey, or [H, W, 4] with
      transparency, composited on white), Pillow images or paths of files. Pillow images and files
      are turned upright by their EXIF orientation.
    frame: side of the frames in pixels.
    crop: one of `folder.CROPS`: what a frame shows of the picture, the 'centre' square, or all of
      it with its edge repeated ('pad') or squashed ('squash').
    boxes: [N, 4] as (x0, y0, x1, y1): the frame shows the square with the box's centre and its
      larger side instead.
    labels: of the same pictures.

  A picture that cannot be read or framed, or has a label far from it, raises BadImage when it is
  indexed. `placed` and `sizes` hold the box and (width, height) of every picture read so far,
  `checksums` identify the labelled ones.
  """

  def __init__(
    self,
    given: Any,
    *,
    frame: int,
    crop: str = 'centre',
    boxes: Any = None,
    labels: PointLabels | None = None,
  ) -> None:
    self._given = _sequence(given)
    if crop not in folder.CROPS:
      raise ValueError(f'crop={crop!r}; expected one of {", ".join(folder.CROPS)}')
    if labels is not None and len(labels.points) != len(self):
      raise ValueError(f'points are of {len(labels.points)} pictures, images are {len(self)}')
    self.info = NOTHING if labels is None else labels.info
    self.frame, self.crop, self._labels = frame, crop, labels
    self._boxes = None if boxes is None else _checked_boxes(boxes, len(self))
    self.placed: dict[int, images.Box] = {}
    self.sizes: dict[int, tuple[int, int]] = {}
    self.checksums: dict[int, str] = {}

  def __len__(self) -> int:
    return len(self._given)

  def __getitem__(self, index: Any) -> dict[str, Any]:
    index = int(index)
    image = self.read(index)
    box = self._box(index, *image.shape[1::-1])
    self.placed[index], self.sizes[index] = box, image.shape[1::-1]
    example = {'image': images.square_frame(image, box, self.frame), 'index': np.int32(index)}
    if self._labels is None:
      return example
    self.checksums[index] = checksum(image)
    self._check_near(index)
    visible = self._labels.visible[index]
    pixels = np.where(visible[:, None], self._labels.points[index], 0)
    points = images.frame_points(pixels, box, self.frame)
    scale = np.float32(normaliser(points, self.info.scale))
    if not isinstance(self.info.scale, str) and not visible[list(self.info.scale)].all():
      scale = np.float32(np.nan)
    return example | {'points': points, 'visible': visible, 'scale': scale}

  def name(self, index: int) -> str:
    """The name of a picture, for messages."""
    one = self._given[index]
    return os.fspath(one) if isinstance(one, str | os.PathLike) else f'images[{index}]'

  def read(self, index: int) -> UInt8[np.ndarray, 'H W 3']:
    """The whole picture. Raises BadImage."""
    one = self._given[index]
    if isinstance(one, str | os.PathLike):
      return images.read(one, rotate=True)
    if isinstance(one, Image.Image):
      try:
        return images.from_pillow(one, rotate=True)
      except Exception as error:  # Pillow's decoders raise nearly anything, and late
        raise BadImage(self.name(index), f'cannot be decoded ({error})') from error
    return _rgb(one, self.name(index))

  def to_pixels(
    self, index: int, points: Float[np.ndarray, '*shape 2']
  ) -> Float[np.ndarray, '*shape 2']:
    """Points normalised in the frame -> pixels of the picture, which must have been read."""
    return images.picture_points(points, self.placed[index], self.frame)

  def from_pixels(
    self, index: int, pixels: Num[np.ndarray, '*shape 2']
  ) -> Float[np.ndarray, '*shape 2']:
    """The inverse of `to_pixels`."""
    return images.frame_points(pixels, self.placed[index], self.frame)

  def _check_near(self, index: int) -> None:
    """Raises BadImage for a label so far from its picture that it can only be a slip."""
    (width, height), points = self.sizes[index], self._labels.points[index]
    for k in np.flatnonzero(far_off(points, width, height) & self._labels.visible[index]):
      x, y = points[k]
      raise BadImage(
        self.name(index),
        f'is {width}x{height} pixels, its label {self.info.names[k]:.60} is at ({x:g}, {y:g}); was '
        'it made on a picture of another size?',
      )

  def _box(self, index: int, width: int, height: int) -> images.Box:
    if self._boxes is None:
      box = folder.crop_box(self.crop, width, height)
    else:
      x0, y0, x1, y1 = self._boxes[index]
      side = max(x1 - x0, y1 - y0)
      box = ((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side)
      if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0 or side > WIDEST * max(width, height):
        corners = f'{x0:g}, {y0:g}, {x1:g}, {y1:g}'
        raise BadImage(self.name(index), f'is {width}x{height} pixels, its box is ({corners})')
    if len(box) == 3 and box[2] ** 2 > max(MOST_PIXELS, width * height):
      raise BadImage(self.name(index), f'is {width}x{height} pixels, too long for a square')
    return box


def far_off(
  points: Float[np.ndarray, '*shape 2'], width: int, height: int
) -> Bool[np.ndarray, '*shape']:
  """Which points, in pixels, are so far from a picture of this size that they can only be slips."""
  return np.abs(points).max(-1) > WIDEST * max(width, height)


def checksum(image: UInt8[np.ndarray, 'H W 3']) -> str:
  """Identifies a whole picture, so that one the model learned from can be recognised."""
  return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def batches(source: Any, *, batch_size: int, progress: bool | None) -> Iterator[Batch]:
  """Batches of a whole source in order, padded to one size (`valid`), with progress on request.

  Args: batch_size: upper limit; fewer pictures make one batch, padded to a power of two, so that
  few sizes are ever compiled. progress: whether to print lines to stderr; None: if it is a
  terminal. A bad picture raises, unless the source handles it itself (`pipeline.Reporting`).
  """
  if batch_size < 1:
    raise ValueError(f'batch_size={batch_size}: expected 1 or more pictures')
  size = min(batch_size, 1 << (len(source) - 1).bit_length())
  shows = logs.watched() if progress is None else progress
  tally = logs.Tally(len(source), file=sys.stderr)
  found = pipeline.evaluation_batches(source, batch_size=size, on_bad_image='error')
  with contextlib.closing(found):
    for number, batch in enumerate(found, start=1):
      yield batch
      if shows:
        tally(min(number * size, len(source)))


def distances(points: Float[np.ndarray, 'B K 2'], batch: Batch) -> Float[np.ndarray, 'B K']:
  """|points - labels| / scale; nan where a label is not visible or there is no scale."""
  known = batch.visible & (np.nan_to_num(batch.scale) > 0)[:, None]
  found = np.linalg.norm(points - batch.points, axis=-1)
  return np.where(known, found / np.where(known, batch.scale[:, None], 1), np.nan)


def plain_scale(scale: Scale) -> tuple[int, ...] | str:
  """A checked scale that can be compared and written: NumPy's integers become Python's."""
  return scale if isinstance(scale, str) else tuple(int(i) for i in scale)


def _sequence(given: Any) -> Sequence[Any] | UInt8[np.ndarray, 'N _ _ _']:
  """The pictures as a sequence; ValueError for anything that is not a set of pictures."""
  expected = 'expected uint8 [N, H, W, 3] or a list of pictures: arrays, paths or of Pillow'
  if isinstance(given, str | bytes | os.PathLike | Image.Image):
    raise ValueError(f'images is one {type(given).__name__}; {expected}; give [image] for one')
  if not isinstance(given, list | tuple):
    given = np.asarray(given)
    if given.ndim != 4:
      hint = '; give image[None] for one' if given.ndim in (2, 3) else ''
      raise ValueError(f'images is {given.dtype} {list(given.shape)}; {expected}{hint}')
  if not len(given):
    raise ValueError(f'images is empty; {expected}')
  if isinstance(given, np.ndarray):
    _rgb(given[0], 'images')  # all share its type: fail before anything is computed
  return given


def _rgb(image: Any, name: str) -> UInt8[np.ndarray, 'H W 3']:
  """An array as a picture. Raises BadImage saying what was expected."""
  array = np.asarray(image)
  channels = array.shape[2] if array.ndim == 3 else 1
  if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
    raise BadImage(
      name,
      f'it is {array.dtype} {list(array.shape)}; expected uint8 [H, W, 3], values 0 to 255 '
      '(or [H, W] grey, or [H, W, 4] with transparency)',
    )
  if not array.size:
    raise BadImage(name, f'it is {list(array.shape)} and has no pixels')
  if channels == 3:
    return array
  return images.from_pillow(Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _checked_boxes(boxes: Any, count: int) -> Float[np.ndarray, 'N 4']:
  boxes = np.asarray(boxes, np.float64)
  if boxes.shape != (count, 4):
    raise ValueError(
      f'boxes is {list(boxes.shape)}; expected [{count}, 4], (x0, y0, x1, y1) in pixels for each '
      f'of the {count} pictures'
    )
  wrong = ~np.isfinite(boxes).all(1) | (boxes[:, 2:] <= boxes[:, :2]).any(1)
  for i in np.flatnonzero(wrong):
    raise ValueError(f'boxes[{i}] is {boxes[i].tolist()}; expected x0 < x1 and y0 < y1')
  return boxes

"""Reads any picture file as RGB uint8, and cuts a box out of it into the frame, with its points.

Positions are in pixels with (0, 0) the centre of the first one; boxes are in edge coordinates,
where pixel p covers [p, p + 1], so the box of a whole picture is (0, 0, width, height).
"""

import io
import math
import os
import pathlib
import re
import stat

import numpy as np
import simplejpeg
from jaxtyping import Float, Num, UInt8
from PIL import Image

from landmarks_jax.data.source import BadImage
from landmarks_jax.geometry import coords

Box = tuple[int | float | np.number, ...]  # (x0, y0, side) or (x0, y0, width, height)
ROOMY = 2**26  # pixels of a padded picture
_orientation_tag = 0x0112
_orientation_marks = b'Exif\0\0', b'tiff:Orientation'  # Pillow finds it in EXIF, else in XMP
_upright = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


def read(
  path: str | os.PathLike, *, rotate: bool = False, min_side: int | None = None
) -> UInt8[np.ndarray, 'H W 3']:
  """The picture in a file, as `decode` gives it. Raises BadImage, also for a missing file."""
  try:
    check_file(path)
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise BadImage(path, f'cannot be opened ({error.strerror})') from error
  return decode(data, path=path, rotate=rotate, min_side=min_side)


def check_file(path: str | os.PathLike) -> None:
  """Raises BadImage for a pipe or a device, which a reader might wait for without end, or OSError.

  A folder passes: that it cannot be read is told when it is opened.
  """
  mode = os.stat(path).st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
    raise BadImage(path, 'is no file')


def decode(
  data: bytes,
  *,
  path: str | os.PathLike = 'bytes',
  rotate: bool = False,
  min_side: int | None = None,
) -> UInt8[np.ndarray, 'H W 3']:
  """An encoded picture -> RGB. Raises BadImage with `path` and the reason.

  rotate: turn it upright by its EXIF orientation. The default leaves it as stored, which is what
  the pixel labels of the public datasets refer to; use True for pictures without labels. (TIFF is
  upright either way: Pillow turns it.)
  min_side: a JPEG at least twice as large may be decoded at k/8 of its size, both sides at least
  this, which is faster; only for pictures without labels in pixels.
  Transparency is laid on white; 16 bits become 8 by division; an animation gives its first picture.
  """
  if not data:
    raise BadImage(path, 'the file is empty')
  try:
    image, opened = _fast_jpeg(data, min_side or 0), None
    if image is None:
      opened = Image.open(io.BytesIO(data))
      image = _to_rgb(opened)
    turn = _upright.get(_orientation(data, opened)) if rotate else None
    return image if turn is None else np.array(Image.fromarray(image).transpose(turn))
  except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
    raise BadImage(path, _reason(data, error)) from error


def from_pillow(image: Image.Image, *, rotate: bool = False) -> UInt8[np.ndarray, 'H W 3']:
  """A Pillow image -> RGB, as `decode` gives it."""
  rgb = _to_rgb(image)
  turn = _upright.get(image.getexif().get(_orientation_tag)) if rotate else None
  return rgb if turn is None else np.array(Image.fromarray(rgb).transpose(turn))


def size(path: str | os.PathLike, *, rotate: bool = False) -> tuple[int, int]:
  """(width, height) of the picture that `read` gives, from the file's header. Raises BadImage."""
  try:
    check_file(path)
    with Image.open(path) as image:
      rotate = rotate and image.format != 'TIFF'  # its size is the turned one already
      turned = rotate and image.getexif().get(_orientation_tag) in (5, 6, 7, 8)
      return image.size[::-1] if turned else image.size
  except BadImage:
    raise
  except Exception as error:
    raise BadImage(path, _reason(b'', error)) from error


def square_frame(
  image: UInt8[np.ndarray, 'H W 3'], box: Box, frame: int
) -> UInt8[np.ndarray, '{frame} {frame} 3']:
  """Cuts a box out of a picture and resizes it to frame x frame, bilinear with antialiasing.

  Args: box = (x0, y0, side), or (x0, y0, width, height), which is squashed; in pixels, edge
  coordinates. Where the box leaves the picture, the picture's edge is repeated.
  """
  x0, y0, width, height = _checked(box)
  rows, columns = image.shape[:2]
  padded = (max(x0 + width, columns) - min(x0, 0)) * (max(y0 + height, rows) - min(y0, 0))
  if padded > max(ROOMY, rows * columns):
    # The square around a strip is huge: its long side is shrunk before the other one is padded.
    if columns > rows:
      image, x0, width = _cut(image, (x0, 0, width, rows), (frame, rows)), 0, frame
    else:
      image, y0, height = _cut(image, (0, y0, columns, height), (columns, frame)), 0, frame
  return _cut(image, (x0, y0, width, height), (frame, frame))


def frame_points(
  points: Num[np.ndarray, '*shape 2'], box: Box, frame: int
) -> Float[np.ndarray, '*shape 2']:
  """Where `square_frame` puts points: pixels of the picture -> normalised in the frame, float32.

  Pixel p lies at (p + .5 - x0) * frame / side - .5 pixels of the frame.
  """
  x0, y0, width, height = _checked(box)
  pixels = (points + 0.5 - np.array([x0, y0])) * (frame / np.array([width, height])) - 0.5
  return coords.to_normalised(pixels, width=frame, height=frame).astype(np.float32)


def picture_points(
  points: Float[np.ndarray, '*shape 2'], box: Box, frame: int
) -> Float[np.ndarray, '*shape 2']:
  """The inverse of `frame_points`: normalised in the frame -> pixels of the picture, float32."""
  x0, y0, width, height = _checked(box)
  pixels = coords.to_pixels(points, width=frame, height=frame)
  pixels = (pixels + 0.5) * (np.array([width, height]) / frame) - 0.5 + np.array([x0, y0])
  return pixels.astype(np.float32)


def centre_box(width: int, height: int) -> tuple[float, float, float]:
  """The largest centred square of a picture, (x0, y0, side)."""
  side = min(width, height)
  return (width - side) / 2, (height - side) / 2, float(side)


def box_around(points: Num[np.ndarray, 'K 2'], factor: float) -> tuple[float, float, float]:
  """The square around points in pixels: centred on their box, `factor` times its larger side."""
  low, high = points.min(axis=0), points.max(axis=0)
  side = factor * float(np.max(high - low))
  x0, y0 = (low + high) / 2 + 0.5 - side / 2
  return float(x0), float(y0), side


def _cut(
  image: UInt8[np.ndarray, 'H W 3'], box: Box, size: tuple[int, int]
) -> UInt8[np.ndarray, 'rows columns 3']:
  """A box (x0, y0, width, height) of a picture, its edge repeated, resized to (columns, rows)."""
  x0, y0, width, height = box
  left, top = max(0, math.ceil(-x0)), max(0, math.ceil(-y0))
  right = max(0, math.ceil(x0 + width - image.shape[1]))
  bottom = max(0, math.ceil(y0 + height - image.shape[0]))
  if left or top or right or bottom:
    image = np.pad(image, ((top, bottom), (left, right), (0, 0)), mode='edge')
  x0, y0 = x0 + left, y0 + top
  cut = (x0, y0, x0 + width, y0 + height)
  return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=cut))


def _checked(box: Box) -> tuple[float, float, float, float]:
  if len(box) not in (3, 4):
    raise ValueError(f'box {box}: expected (x0, y0, side) or (x0, y0, width, height)')
  x0, y0, width, height = (float(v) for v in (*box, box[-1])[:4])
  if not (math.isfinite(x0 + y0 + width + height) and width > 0 and height > 0):
    raise ValueError(f'box {box}: expected finite numbers and a positive side')
  return x0, y0, width, height


def _fast_jpeg(data: bytes, min_side: int) -> np.ndarray | None:
  if not data.startswith(b'\xff\xd8'):
    return None
  try:
    if min(simplejpeg.decode_jpeg_header(data)[:2]) < 2 * min_side:
      min_side = 0  # reducing by less than half costs more than it saves
    return simplejpeg.decode_jpeg(data, 'RGB', min_height=min_side, min_width=min_side)
  except ValueError:
    return None  # Pillow is more lenient, or says what is wrong


def _to_rgb(image: Image.Image) -> np.ndarray:
  if image.mode.startswith('I'):  # 16 bits; Pillow's own conversion clips instead of dividing
    grey = np.asarray(image).astype(np.int64)
    if image.mode == 'I' and not 255 < grey.max() <= 65535:
      message = f'pixels are 32-bit integers up to {grey.max()}'
      raise ValueError(f'{message}, without a stated range; save it with 8 or 16 bits')
    grey = np.clip(grey, 0, 65535) // 257
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
  if image.mode == 'F':
    raise ValueError('pixels are floating-point numbers without a stated range')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
  return np.array(image.convert('RGB'))


def _orientation(data: bytes, opened: Image.Image | None) -> int:
  if opened is None and not any(mark in data for mark in _orientation_marks):
    return 1  # most JPEGs: saves opening them again
  return (opened or Image.open(io.BytesIO(data))).getexif().get(_orientation_tag, 1)


def _reason(data: bytes, error: Exception) -> str:
  if isinstance(error, Image.UnidentifiedImageError):
    return 'not a picture in a known format' + (f', it starts with {data[:20]!r}' if data else '')
  if isinstance(error, Image.DecompressionBombError):
    given, most = int(re.search(r'\d+', str(error))[0]), 2 * Image.MAX_IMAGE_PIXELS
    return f'has {given / 1e6:,.0f} megapixels, more than the {most / 1e6:.0f} read; reduce it'
  return f'cannot be decoded ({error})'

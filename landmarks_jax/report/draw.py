"""Pictures from arrays: montages, and landmarks drawn on photographs. Arrays in, arrays out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageDraw

from landmarks_jax.contracts import Array
from landmarks_jax.geometry import coords

TRUTH, PREDICTION = (80, 220, 100), (255, 70, 50)


def to_bytes(image: Shaped[Array, '... 3']) -> UInt8[np.ndarray, '... 3']:
  """Pictures in 0..255 of any type -> uint8, clipped and rounded."""
  return np.clip(np.rint(np.asarray(image, np.float32)), 0, 255).astype(np.uint8)


def montage(
  images: UInt8[np.ndarray, 'N H W 3'], *, columns: int, gap: int = 2
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Pictures in rows of `columns`, white between them and where the last row ends early.

  Args: images: uint8 [N, H, W, 3]. columns: pictures in a row. gap: pixels between pictures.
  """
  count, height, width, _ = images.shape
  rows = -(-count // columns)
  sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
  for i, image in enumerate(images):
    y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
    sheet[y : y + height, x : x + width] = image
  return sheet


def landmarks(
  image: UInt8[np.ndarray, 'S S 3'],
  points: Float[np.ndarray, 'K 2'],
  *,
  target: Float[np.ndarray, 'K 2'] | None = None,
  visible: Bool[np.ndarray, ' K'] | None = None,
  side: int = 192,
) -> UInt8[np.ndarray, '{side} {side} 3']:
  """A picture, enlarged to `side`, with predicted (red) and true (green) landmarks, joined.

  Args:
    image: uint8 [S, S, 3], not written into. points, target: [K, 2], normalised.
    visible: [K], of the true landmarks; an invisible one is left out, its prediction is drawn.
    side: of the result in pixels.
  """
  canvas = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
  pen = ImageDraw.Draw(canvas)
  zoom, radius = side / image.shape[0], max(2, side // 80)

  def place(xy: Float[np.ndarray, ' 2']) -> tuple[int, int]:
    # Pixel p of the picture is drawn at (p + .5) * zoom - .5 of the enlarged one.
    pixel = coords.to_pixels(xy, width=image.shape[1], height=image.shape[0])
    x, y = (pixel + 0.5) * zoom - 0.5
    return round(float(x)), round(float(y))  # Pillow would truncate

  def dot(xy: tuple[int, int], colour: tuple[int, int, int]) -> None:
    x, y = xy
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0))

  for k, point in enumerate(points):
    if target is not None and (visible is None or visible[k]):
      pen.line([place(target[k]), place(point)], fill=(255, 255, 255))
      dot(place(target[k]), TRUTH)
    dot(place(point), PREDICTION)
  return np.asarray(canvas)


def landmark_sheet(
  images: Sequence[UInt8[np.ndarray, 'S S 3']],
  points: Float[np.ndarray, 'N K 2'],
  target: Float[np.ndarray, 'N K 2'],
  visible: Bool[np.ndarray, 'N K'],
  *,
  columns: int = 6,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Many pictures with their predicted and true landmarks on one sheet.

  Args: images: N of uint8 [S, S, 3]. points, target: [N, K, 2], normalised. visible: [N, K]. See
  `landmarks` and `montage`.
  """
  drawn = [
    landmarks(image, predicted, target=true, visible=seen)
    for image, predicted, true, seen in zip(images, points, target, visible, strict=True)
  ]
  return montage(np.stack(drawn), columns=columns)

"""Pixels <-> normalised coordinates: the one place that holds the convention.

Corner-aligned: pixel centre 0 is -1, pixel centre S-1 is +1; always (x, y). Feature maps that
cover the frame use the same interval with half-pixel centres when they are resized
(models/hypercolumn.py).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from landmarks_jax.contracts import Array


def to_normalised(
  pixels: Num[Array, '*shape 2'], *, width: int, height: int
) -> Float[Array, '*shape 2']:
  """Pixel positions (x, y) -> corner-aligned [-1, 1]. NumPy in, NumPy out.

  Args: pixels: [..., 2]. width, height: of the picture in pixels, at least 2.
  Specification section 1; fixture kp_normalize.

  >>> to_normalised(np.array([0.0, 9.0]), width=10, height=10)
  array([-1.,  1.])
  """
  # Divided first: 2 * pixels overflows in bytes.
  return 2 * (pixels / np.array([width - 1, height - 1], np.float32)) - 1


def to_pixels(
  points: Float[Array, '*shape 2'], *, width: int, height: int
) -> Float[Array, '*shape 2']:
  """Corner-aligned [-1, 1] -> pixel positions (x, y), the inverse of `to_normalised`.

  Args: points: [..., 2]. width, height: of the picture in pixels.
  """
  return (points + 1) / 2 * np.array([width - 1, height - 1], np.float32)


def pixel_grid(height: int, width: int) -> Float[Array, '{height} {width} 2']:
  """The normalised (x, y) of every pixel centre of an image, corner-aligned."""
  x, y = jnp.linspace(-1, 1, width), jnp.linspace(-1, 1, height)
  return jnp.stack(jnp.meshgrid(x, y, indexing='xy'), axis=-1)


def cell_centres(height: int, width: int) -> Float[Array, '{height} {width} 2']:
  """The (x, y) of every cell centre of a feature map, in a frame whose *edges* are -1 and +1.

  A map of h cells covers the frame from edge to edge, so cell i is centred at 2 * (i + .5) / h -
  1. This is half a pixel of the frame away from the corner-aligned convention: `edges_to_corners`
  converts it.
  """
  x, y = (2 * (jnp.arange(n) + 0.5) / n - 1 for n in (width, height))
  return jnp.stack(jnp.meshgrid(x, y, indexing='xy'), axis=-1)


def edges_to_corners(points: Float[Array, '*shape 2'], *, side: int) -> Float[Array, '*shape 2']:
  """Positions where +-1 are the frame's outer edges -> corner-aligned.

  Args: points: [..., 2]. side: of the square frame in pixels.
  """
  return points * (side / (side - 1))


def corners_to_edges(points: Float[Array, '*shape 2'], *, side: int) -> Float[Array, '*shape 2']:
  """Corner-aligned positions -> those where +-1 are the frame's outer edges.

  Args: points: [..., 2]. side: of the square frame in pixels.
  """
  return points * ((side - 1) / side)


def mirrored(
  points: Float[Array, '*shape K 2'],
  visible: Bool[Array, '*shape K'],
  flip_pairs: Sequence[tuple[int, int]],
) -> tuple[Float[Array, '*shape K 2'], Bool[Array, '*shape K']]:
  """Landmarks of mirrored pictures: x changes sign, and the two of each pair are swapped.

  Args: points: normalised. flip_pairs: indices of landmarks that are each other's mirror image.

  >>> points, visible = np.array([[0.25, 0.0], [-0.5, 1.0]]), np.array([True, False])
  >>> mirrored(points, visible, [(0, 1)])
  (array([[ 0.5 ,  1.  ],
         [-0.25,  0.  ]]), array([False,  True]))
  """
  order = np.arange(points.shape[-2])
  for one, other in flip_pairs:
    order[[one, other]] = other, one
  return points[..., order, :] * np.array([-1, 1], points.dtype), visible[..., order]

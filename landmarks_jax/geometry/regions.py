"""Regions of a frame."""

import numpy as np
from jaxtyping import Shaped

from landmarks_jax.contracts import Array, Batch


def cut_centre(image: Shaped[Array, 'B S _ C'], margin: int) -> Shaped[Array, 'B s _ C']:
  """Drops `margin` pixels on every side."""
  if not 0 <= 2 * margin < min(image.shape[1:3]):
    raise ValueError(f'margin={margin} leaves nothing of a frame of {image.shape[1:3]} pixels')
  return image[:, margin : image.shape[1] - margin, margin : image.shape[2] - margin]


def centre_crop(batch: Batch, margin: int) -> Batch:
  """The central square of every frame, with points, scale and flow re-expressed in it.

  The only place that changes frames. `margin` is in pixels a side: 20 turns 136 into 96. Points
  and scale grow by (S-1)/(s-1), because the corner-aligned frame shrinks about the same centre.
  `scale` is not touched where it is absent. Raises ValueError where nothing would be left, or
  without pictures.
  """
  if margin == 0:
    return batch
  if batch.image is None:
    raise ValueError('centre_crop needs pictures; this batch holds a cached pyramid')
  side = batch.image.shape[1]
  zoom = np.float32((side - 1) / (side - 2 * margin - 1))
  changed = {'image': cut_centre(batch.image, margin)}
  for name in ('points', 'scale'):
    if (value := getattr(batch, name)) is not None:
      changed[name] = value * zoom
  if batch.next is not None:
    changed['next'] = cut_centre(batch.next, margin)
  if batch.flow is not None:
    changed['flow'] = cut_centre(batch.flow, margin)
    changed['flow_valid'] = cut_centre(batch.flow_valid[..., None], margin)[..., 0]
  return batch._replace(**changed)

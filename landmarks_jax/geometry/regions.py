"""Regions of a frame."""

from jaxtyping import Shaped

from landmarks_jax.contracts import Array, Batch


def cut_centre(image: Shaped[Array, 'B S _ C'], margin: int) -> Shaped[Array, 'B s _ C']:
  """Drops `margin` pixels on every side of pictures [B, S, S, C].

  Raises ValueError where less than 2 pixels would be left: one has no normalised coordinates.
  """
  most = (min(image.shape[1:3]) - 2) // 2
  if not 0 <= margin <= most:
    raise ValueError(
      f'margin={margin}: a frame of {image.shape[1:3]} pixels can lose 0 to {most} on every side'
    )
  return image[:, margin : image.shape[1] - margin, margin : image.shape[2] - margin]


def centre_crop(batch: Batch, margin: int) -> Batch:
  """The central square of every frame, with points, scale and flow re-expressed in it.

  The only place that changes frames. `margin` is in pixels a side: 20 turns 136 into 96. Points
  and scale grow by (S-1)/(s-1), because the corner-aligned frame shrinks about the same centre;
  flow is in pixels and keeps its values. Points that fall outside stay visible, and flow that
  leads outside stays valid: the caller decides. Absent fields stay absent. Raises ValueError where
  nothing would be left, or without pictures.
  """
  if margin == 0:
    return batch
  if batch.image is None:
    raise ValueError('centre_crop needs pictures; this batch holds a cached pyramid')
  changed = {'image': cut_centre(batch.image, margin)}
  side = batch.image.shape[1]
  zoom = (side - 1) / (side - 2 * margin - 1)
  for name in ('points', 'scale'):
    if (value := getattr(batch, name)) is not None:
      changed[name] = value * zoom
  for name in ('next', 'flow'):
    if (value := getattr(batch, name)) is not None:
      changed[name] = cut_centre(value, margin)
  if batch.flow_valid is not None:
    changed['flow_valid'] = cut_centre(batch.flow_valid[..., None], margin)[..., 0]
  return batch._replace(**changed)

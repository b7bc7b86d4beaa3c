"""Principal components of hypercolumns, for `draw.component_sheet` and `draw.rgb_sheet`.

From pyramids to numbers in 0..1; specification section 5, Pictures.
"""

import numpy as np
from jaxtyping import Float

from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.models import hypercolumn


def of_pyramid(
  pyramid: Pyramid, *, size: int = 48, count: int = 25
) -> Float[np.ndarray, 'B {size} {size} _']:
  """The principal components of some pictures' hypercolumns, in 0..1 as `draw` expects them.

  Args: pyramid: levels [B, h_l, w_l, C_l]; with few pictures, components tell the pictures apart
  rather than their parts, so describe 32 and draw some. size, count: of the maps.

  Needs twice the memory of the stacked hypercolumns: 2.3 GB for 32 pictures of a ResNet-50. See
  `standardised`, `principal_components` and `to_unit`.
  """
  column = hypercolumn.stack(standardised(pyramid), size)
  return to_unit(principal_components(np.asarray(column), count=count))


def standardised(pyramid: Pyramid) -> tuple[Float[np.ndarray, 'B _ _ _'], ...]:
  """Levels in float32 with mean 0 and, over all of a level's channels together, variance 1.

  Otherwise the level with the largest activations would dominate the components. Channels of a
  level keep their proportions. A level without variance becomes 0.
  """
  found = []
  for level in pyramid:
    centred = _centred(np.asarray(level))
    size = np.sqrt(np.mean(np.square(centred).sum(-1), dtype=np.float64))
    found.append(centred / np.float32(size or 1))
  return tuple(found)


def principal_components(
  maps: Float[Array, 'B h w C'], count: int = 25
) -> Float[np.ndarray, 'B h w _']:
  """Projections on the directions of largest variance over all positions of all pictures.

  Args: maps: [B, h, w, C]. count: the number of components, at most C.

  Returns: float32 [B, h, w, count], each with mean 0, the largest variance first. The sign of a
  component, which the variance leaves open, is chosen to make its largest weight positive.
  """
  centred = _centred(np.asarray(maps))
  rows = centred.reshape(-1, centred.shape[-1])
  _, directions = np.linalg.eigh(rows.T @ rows)  # ascending
  directions = directions[:, ::-1][:, :count]
  largest = np.abs(directions).argmax(0)
  directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
  return centred @ directions


def to_unit(
  components: Float[np.ndarray, 'B h w N'], *, share: float = 0.02
) -> Float[np.ndarray, 'B h w N']:
  """Scales each component to 0..1 over all pictures, clipping both ends.

  Args: share: of the positions, clipped at either end. A constant component becomes 0.5.
  """
  low, high = np.quantile(components, (share, 1 - share), axis=(0, 1, 2))
  room = high - low
  scaled = (components - low) / np.where(room > 0, room, 1)
  return np.where(room > 0, np.clip(scaled, 0, 1), 0.5).astype(np.float32)


def _centred(maps: Float[np.ndarray, 'B h w C']) -> Float[np.ndarray, 'B h w C']:
  """Maps in float32, minus the mean of each channel."""
  maps = np.asarray(maps, np.float32)
  return maps - maps.mean((0, 1, 2), dtype=np.float64).astype(np.float32)

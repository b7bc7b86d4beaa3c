"""What both releases of AFLW share: squashed face crops, 5 landmarks (Koestinger et al. 2011)."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from landmarks_jax.data import faces
from landmarks_jax.data.catalogue import Entry, present
from landmarks_jax.data.source import labelled

SPLITS: faces.Splits = {'train': [{'train'}], 'test': [{'test'}]}


class Pictures:
  """The listed pictures that exist below `root`, with points in pixels (the first pixel is 0)."""

  classes = ()
  info = faces.INFOS[5]

  def __init__(
    self,
    root: pathlib.Path,
    entries: Sequence[Entry],
    pixels: Float[np.ndarray, 'N 5 2'],
    sizes: Int[np.ndarray, 'N 2'],
    *,
    frame: int,
  ) -> None:
    rows = present(root, [entry.file for entry in entries])
    self.root, self.frame, self.entries = root, frame, [entries[row] for row in rows]
    self.pixels, self.sizes = pixels[rows], sizes[rows]

  def example(self, row: int) -> dict[str, Any]:
    """One picture, squashed to the frame. Raises BadImage, also if its size is not as labelled."""
    image = faces.read(self.root / self.entries[row].file, tuple(self.sizes[row].tolist()))
    square, points = faces.published_frame(image, self.pixels[row], self.frame)
    return labelled(square, points, self.info)

  def label_bytes(self) -> Iterator[bytes]:
    """The points of all pictures, and the sizes that they are for."""
    yield self.pixels.tobytes()
    yield self.sizes.tobytes()

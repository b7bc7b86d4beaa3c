"""Your own videos: folders of frames, and the optical flow from each frame to a later one.

A folder that holds pictures is a clip; its pictures, sorted by name (9.png before 10.png), are its
frames. Beside NAME.png lies the flow to the next frame: NAME.flo, the Middlebury format, or
NAME.npz with `flow` [H, W, 2] = (dx, dy) in pixels and, optionally, `valid` [H, W]. The flow to the
frame `step` > 1 frames later is a separate file: NAME.step5.flo or NAME.step5.npz. The last frames
of a clip have no later one and need no file.
"""

import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from landmarks_jax.data import folder, images
from landmarks_jax.data.catalogue import Chosen, Entry, natural
from landmarks_jax.data.source import BadImage, Info

INFO = Info((), (), 'frame', *folder.IMAGENET)

_magic = b'PIEH'  # 202021.25 as a little-endian float32


class Catalogue:
  """Every pair of frames; `pairs` holds the paths of a frame, the later one and the flow to it."""

  classes = ()

  def __init__(
    self, root: pathlib.Path, pairs: Sequence[tuple[str, str, str]], *, frame: int
  ) -> None:
    self.root, self.pairs, self.info, self.frame = root, pairs, INFO, frame
    self.entries = [Entry(first, tuple(first.split('/')[:-1][:1])) for first, _, _ in pairs]

  def example(self, row: int) -> dict[str, Any]:
    """The centre squares of both frames, at frame x frame, and the flow between them."""
    first, later, flow = (self.root / file for file in self.pairs[row])
    image, following = images.read(first), images.read(later)
    height, width = image.shape[:2]
    if following.shape != image.shape:
      raise BadImage(later, f'its size is not the {width}x{height} of {first.name}, before it')
    box = images.centre_box(width, height)
    flow, valid = frame_flow(*_read_flow(flow, width, height), box, self.frame)
    return {
      'image': images.square_frame(image, box, self.frame),
      'next': images.square_frame(following, box, self.frame),
      'flow': flow,
      'flow_valid': valid,
    }


def _catalogue(path: str, frame: int, step: int) -> Catalogue:
  """All pairs of all clips. Not public, since what `prepare` stores has no place for flow."""
  if step < 1:
    raise ValueError(f'step={step}; expected at least 1 frame')
  root = pathlib.Path(path).expanduser()
  pairs, absent = [], []
  for clip, frames in _clips(folder.source(path).files):
    present = set(os.listdir(root / clip))
    for first, later in zip(frames, frames[step:], strict=False):
      name = pathlib.Path(first).stem + (f'.step{step}' if step > 1 else '')
      flows = [flow for flow in (f'{name}.flo', f'{name}.npz') if flow in present]
      if flows:
        pairs.append(tuple((clip / file).as_posix() for file in (first, later, flows[0])))
      else:
        absent.append((clip / name).as_posix())
  if absent:
    raise FileNotFoundError(
      f'{len(absent):,} of {len(pairs) + len(absent):,} frames with a later one have no flow; '
      f'the first needs {absent[0]}.flo or {absent[0]}.npz in {root}'
    )
  if not pairs:
    raise ValueError(f'{root}: every clip is shorter than the {step + 1} frames of step={step}')
  return Catalogue(root, pairs, frame=frame)


def source(path: str, *, split: str = 'all', step: int = 1, frame: int = 136) -> Chosen:
  """Pairs of frames (image, next) with flow in the pixels of the frame: image(u) = next(u + flow).

  split: 'all', or the name of a folder directly below `path`: a clip or a folder of clips (train,
  ...). step: how many frames later `next` is. frame: side in pixels; pictures that are not square
  are cropped to their centre. flow_valid is False where the flow is unknown (not `valid`, not
  finite, or above 1e9, as Middlebury marks it) and where it leaves the frame. Flow of 0 is valid:
  mark a background that is not to be learned from in `valid`.
  Raises FileNotFoundError and ValueError that say what was found and what to do.
  """
  tree = _catalogue(path, frame, step)
  rows = [row for row, e in enumerate(tree.entries) if split in ('all', *e.splits)]
  if not rows:
    found = ', '.join(sorted({name for e in tree.entries for name in e.splits})) or 'none'
    raise ValueError(f"split={split!r}; expected 'all' or a folder directly in {path}: {found}")
  return Chosen(tree, rows)


def frame_flow(
  flow: Float[np.ndarray, 'H W 2'],
  valid: Bool[np.ndarray, 'H W'],
  box: images.Box,
  frame: int,
) -> tuple[Float[np.ndarray, '{frame} {frame} 2'], Bool[np.ndarray, '{frame} {frame}']]:
  """Flow between two pictures -> flow between the frames that `images.square_frame` cuts from them.

  Args: flow (dx, dy) in pixels, finite; box = (x0, y0, side). Vectors are read bilinearly at the
  centre of each pixel of the frame. Returns them in pixels of the frame, 0 where not valid, and
  their validity: known at all four pixels they are read from, and not leaving the frame.
  """
  x0, y0, side = box
  centres = (np.arange(frame) + 0.5) * side / frame - 0.5
  known = np.concatenate([flow, valid[..., None]], axis=-1)
  known = _interpolate(_interpolate(known, y0 + centres, 0), x0 + centres, 1)
  flow = known[..., :2] * frame / side
  x, y = np.meshgrid(np.arange(frame), np.arange(frame))
  target = np.stack([x, y], axis=-1) + flow
  valid = (known[..., 2] > 1 - 1e-6) & ((target >= 0) & (target <= frame - 1)).all(axis=-1)
  return np.where(valid[..., None], flow, 0).astype(np.float32), valid


def _interpolate(
  values: Float[np.ndarray, 'H W C'], positions: Float[np.ndarray, ' n'], axis: int
) -> Float[np.ndarray, 'h w C']:
  """Linear along one axis; positions beyond the first or last pixel get its value."""
  positions = np.clip(positions, 0, values.shape[axis] - 1)
  below = np.floor(positions).astype(int)
  above = np.minimum(below + 1, values.shape[axis] - 1)
  share = np.expand_dims(positions - below, (1 - axis, 2))
  return values.take(below, axis) * (1 - share) + values.take(above, axis) * share


def _clips(files: Sequence[str]) -> list[tuple[pathlib.PurePosixPath, list[str]]]:
  paths = sorted(
    map(pathlib.PurePosixPath, files), key=lambda p: (natural(str(p.parent)), natural(p.name))
  )
  groups = itertools.groupby(paths, key=lambda path: path.parent)
  return [(clip, [path.name for path in frames]) for clip, frames in groups]


def _read_flow(
  path: pathlib.Path, width: int, height: int
) -> tuple[Float[np.ndarray, '{height} {width} 2'], Bool[np.ndarray, '{height} {width}']]:
  """(flow, where it is known) of a picture of this size; 0 where unknown. Raises BadImage."""
  try:
    flow, valid = _read_flo(path) if path.suffix == '.flo' else _read_npz(path)
  except BadImage:
    raise
  except Exception as error:  # a broken zip raises nearly anything
    raise BadImage(path, f'cannot be read as optical flow ({error})') from error
  if flow.shape != (height, width, 2) or valid.shape != (height, width):
    raise BadImage(
      path,
      f'flow has the shape {flow.shape} and valid {valid.shape}, but the frame is {width}x{height} '
      f'pixels; expected {(height, width, 2)} and {(height, width)}',
    )
  valid = valid & np.isfinite(flow).all(axis=-1)  # Middlebury's 1e9 leaves any frame anyway
  return np.where(valid[..., None], flow, np.float32(0)), valid


def _read_flo(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  data = path.read_bytes()
  if not data.startswith(_magic):
    raise BadImage(path, f'is no .flo file: it starts with {data[:4]!r}, not with {_magic!r}')
  width, height = np.frombuffer(data[4:12].ljust(8, b'\0'), '<i4').tolist()
  need = 12 + 8 * width * height
  if min(width, height) < 1 or len(data) != need:
    raise BadImage(path, f'has {len(data)} bytes; its header, {width}x{height}, means {need}')
  return np.frombuffer(data, '<f4', offset=12).reshape(height, width, 2), np.ones(
    (height, width), bool
  )


def _read_npz(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  with np.load(path) as arrays:
    if 'flow' not in arrays:
      raise BadImage(path, f"has no array 'flow'; it has {', '.join(arrays) or 'none'}")
    flow = arrays['flow'].astype(np.float32)
    valid = arrays['valid'] if 'valid' in arrays else np.ones(flow.shape[:2])
  return flow, valid.astype(bool)

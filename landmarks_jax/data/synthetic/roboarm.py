"""Videos of a jointed arm with exact flow: the embedded benchmark of dense equivariant labelling.

After Thewlis, Bilen and Vedaldi 2017, section 4.1: coloured capsules on limited hinges, anchored at
the bottom left, moved by a gravity that is drawn anew every 100 physics steps (arm_motion.py); a
frame every 20. The arm forks, so that it is a tree. All splits show the same arm.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from landmarks_jax.data import source as sources
from landmarks_jax.data.synthetic import arm_motion, painting
from landmarks_jax.data.synthetic.videos import Videos

# Mean and standard deviation of all pixels of train at frame=90, seed 0.
INFO = sources.Info(
  names=tuple(capsule.name for capsule in arm_motion.CAPSULES),
  flip_pairs=(),
  scale='frame',
  mean=(0.159, 0.145, 0.160),
  std=(0.188, 0.150, 0.155),
  skeleton=tuple((c.parent, k) for k, c in enumerate(arm_motion.CAPSULES) if c.parent >= 0),
)
COUNTS = {'train': 23_999, 'validation': 1_000, 'test': 2_000}
VIDEO = 240  # pairs; 100 videos are train
RADIUS = 0.08  # of a capsule, normalised
BACKGROUND = (0.1, 0.1, 0.12)
COLOURS = (
  *((0.85, 0.16, 0.16), (0.95, 0.60, 0.10), (0.92, 0.90, 0.25)),
  *((0.20, 0.65, 0.25), (0.35, 0.85, 0.90), (0.25, 0.35, 0.90), (0.85, 0.30, 0.80)),
)


def source(
  path: str | None = None,
  *,
  split: str = 'train',
  frame: int = 90,
  count: int | None = None,
  seed: int = 0,
) -> 'Roboarm':
  """Pairs of adjacent frames (image, next), the flow between them, and the capsules' centres.

  Args: path: a folder that keeps what is rendered (122 kB per example at frame=90) for later runs;
  None renders every time. frame: the side of the pictures. count: how many, always the first ones,
  instead of the split's own number. seed: of the motion. flow_valid is True on the arm where its
  point is visible in `next`: inside the frame, and under no other capsule. Raises ValueError for a
  split or number out of range.
  """
  return Roboarm(INFO, COUNTS, VIDEO, path=path, split=split, frame=frame, count=count, seed=seed)


class Roboarm(Videos):
  """`source[i]` is pair i; see `source`."""

  name = 'roboarm-v1'

  def example(self, video: int, place: int) -> dict[str, Any]:
    """A pair of frames and all that is known of it, except its index."""
    videos = -(-self.count // self.length)
    motion = _motion(self.entropy, videos=videos, frames=self.length + 1)[video]
    now, then = (pose(motion[place + late]) for late in (0, 1))
    pixels = grid(self.frame)
    depths, centres = now.depths(pixels), now.centres
    flow, valid = flow_between(now, then, pixels, owners(depths))
    seen = owners(now.depths(centres)) == np.arange(len(centres))
    return {
      'image': render(depths),
      'next': render(then.depths(pixels)),
      'flow': flow,
      'flow_valid': valid,
      'points': centres.astype(np.float32),
      'visible': seen & inside(centres),
      'scale': sources.normaliser(centres, self.info.scale),
    }


_motion = functools.lru_cache(maxsize=4)(arm_motion.simulate)  # of the splits of a run


class Pose(NamedTuple):
  """Where the capsules are, normalised: their first hinge, unit direction and length."""

  start: Float[np.ndarray, 'K 2']
  direction: Float[np.ndarray, 'K 2']
  length: Float[np.ndarray, ' K']

  @property
  def centres(self) -> Float[np.ndarray, 'K 2']:
    """Midway between the hinges."""
    return self.start + self.direction * (self.length / 2)[:, None]

  def depths(self, points: Float[np.ndarray, '*any 2']) -> Float[np.ndarray, 'K *any']:
    """How far inside each capsule points are; negative outside."""
    found = []
    for (x, y), (dx, dy), length in zip(*self, strict=True):
      x, y = points[..., 0] - x, points[..., 1] - y
      beyond = x * dx + y * dy
      beyond -= beyond.clip(0, length)
      across = y * dx - x * dy
      found.append(RADIUS - np.sqrt(beyond * beyond + across * across))
    return np.stack(found)


def pose(direction: Float[np.ndarray, 'K 2']) -> Pose:
  """The arm in a frame of `arm_motion.simulate`."""
  ends = arm_motion.positions(direction, arm_motion.ends) / arm_motion.HALF
  length = arm_motion.lengths / arm_motion.HALF
  return Pose(ends - length[:, None] * direction, direction, length)


def owners(depths: Float[np.ndarray, 'K *any']) -> Int[np.ndarray, '*any']:
  """Which capsule is seen, given the depths in all: the last that covers the point, or -1."""
  there = depths > 0
  return np.where(there.any(0), len(there) - 1 - there[::-1].argmax(0), -1)


def inside(points: Float[np.ndarray, '*any 2']) -> Bool[np.ndarray, '*any']:
  """Whether points are in the frame."""
  return (np.abs(points) <= 1).all(-1)


def flow_between(
  now: Pose, then: Pose, pixels: Float[np.ndarray, 'S S 2'], owner: Int[np.ndarray, 'S S']
) -> tuple[Float32[np.ndarray, 'S S 2'], Bool[np.ndarray, 'S S']]:
  """(flow in pixels, whether its point is still visible); 0 and False where there is no arm.

  pixels: the normalised positions of their centres. owner: the capsule that is seen there, or -1.
  """
  arm = owner >= 0
  own, here = owner[arm], pixels[arm]
  (x, y), (cos, sin) = (here - now.start[own]).T, now.direction[own].T
  along, across = x * cos + y * sin, y * cos - x * sin
  cos, sin = then.direction[own].T
  moved = np.stack([along * cos - across * sin, along * sin + across * cos], -1)
  there = then.start[own] + moved
  flow, valid = np.zeros(pixels.shape, np.float32), np.zeros(owner.shape, bool)
  flow[arm] = (there - here) * ((len(pixels) - 1) / 2)
  valid[arm] = (owners(then.depths(there)) == own) & inside(there)
  return flow, valid


def render(depths: Float[np.ndarray, 'K S S']) -> UInt8[np.ndarray, 'S S 3']:
  """The picture, given how deep the centres of its pixels are in the capsules."""
  side = depths.shape[-1]
  picture = np.empty((3, side, side))
  picture[:] = painting.colour(*BACKGROUND)
  for depth, paint in zip(depths, COLOURS, strict=True):
    painting.blend(picture, painting.cover(depth, 2 / (side - 1)), painting.colour(*paint))
  return np.ascontiguousarray((255 * picture + 0.5).astype(np.uint8).transpose(1, 2, 0))


@functools.lru_cache(maxsize=16)
def grid(side: int) -> Float[np.ndarray, '{side} {side} 2']:
  """The normalised (x, y) of the centres of a frame's pixels."""
  line = np.linspace(-1, 1, side)
  return np.stack(np.meshgrid(line, line), -1)

"""Videos of a turning textured sphere with exact flow, points on its surface and their visibility.

After Thewlis, Bilen and Vedaldi 2017, section 4.2: pairs of adjacent frames never show more than a
small turn, yet the labels have to agree over a full one. All splits show the same sphere. In train
and validation a video turns about its own axis, at its own speed, from its own orientation; test is
one full turn about the picture's vertical.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from landmarks_jax.data import source as sources
from landmarks_jax.data.synthetic import painting
from landmarks_jax.data.synthetic.videos import Videos

POINTS = 12  # an icosahedron's corners
# Mean and standard deviation of all pixels of train at frame=90, seed 0.
INFO = sources.Info(
  names=tuple(f'point_{k}' for k in range(POINTS)),
  flip_pairs=(),
  scale='frame',
  mean=(0.357, 0.296, 0.289),
  std=(0.351, 0.239, 0.293),
)
TURN = 72  # pairs of a video; at 5 degrees each, the full turn of test
COUNTS = {'train': 100 * TURN, 'validation': 5 * TURN, 'test': TURN}
SLOWEST, FASTEST = 3.0, 8.0  # degrees a frame
RADIUS = 0.85  # normalised
# A surface point is visible if its normal's z towards the viewer exceeds this: nearer the rim, a
# pixel covers more than five times as much of the surface as in the middle.
FACING = 0.2
PATCHES, SHARPNESS = 60, 120.0  # of the texture
BACKGROUND = (0.1, 0.1, 0.12)
SIDES = (0.92, 0.55, 0.15), (0.15, 0.40, 0.85)  # an orange and a blue half
VARIETY = 0.22  # of the patches' colours


def source(
  path: str | None = None,
  *,
  split: str = 'train',
  frame: int = 90,
  count: int | None = None,
  seed: int = 0,
) -> 'Sphere':
  """Pairs of adjacent frames (image, next), the flow between them, and points of the surface.

  Args: path: a folder that keeps what is rendered (122 kB per example at frame=90) for later runs;
  None renders every time. frame: the side of the pictures. count: how many, always the first ones,
  instead of the split's own number. seed: of the motion. flow_valid is True on the sphere where its
  point faces the viewer in `next` too; `visible`, of the 12 points, where they face the viewer by a
  margin. Raises ValueError for a split or number out of range.
  """
  return Sphere(INFO, COUNTS, TURN, path=path, split=split, frame=frame, count=count, seed=seed)


class Sphere(Videos):
  """`source[i]` is pair i; see `source`."""

  name = 'sphere-v1'

  def example(self, video: int, place: int) -> dict[str, Any]:
    """A pair of frames and all that is known of it, except its index."""
    motion = draw(self.entropy, video)
    if self.split == 'test':
      motion = motion._replace(axis=np.array([0.0, 1, 0]), degrees=360 / TURN)
    now, then = (motion.orientation_at(place + late) for late in (0, 1))
    flow, valid = flow_between(now, then, self.frame)
    normals = surface_points() @ now.T
    points = (RADIUS * normals[:, :2]).astype(np.float32)
    return {
      'image': render(now, self.frame),
      'next': render(then, self.frame),
      'flow': flow,
      'flow_valid': valid,
      'points': points,
      'visible': normals[:, 2] > FACING,
      'scale': sources.normaliser(points, self.info.scale),
    }


class Motion(NamedTuple):
  """A steady turn. An orientation maps directions of the sphere to right, down and near."""

  orientation: Float[np.ndarray, '3 3']  # in frame 0
  axis: Float[np.ndarray, '3']  # a unit vector in the viewer's frame
  degrees: float  # a frame

  def orientation_at(self, frame: int) -> Float[np.ndarray, '3 3']:
    """Where the sphere is then."""
    return rotation(self.axis, math.radians(self.degrees * frame)) @ self.orientation


def draw(entropy: tuple[int, ...], video: int) -> Motion:
  """The motion of a video, its axis and orientation uniform; a pure function of its arguments."""
  dice = np.random.Generator(np.random.PCG64((*entropy, video)))
  (w, *vector), axis = dice.standard_normal(4), dice.standard_normal(3)
  length = math.hypot(*vector)  # a normal quaternion is a uniform rotation
  orientation = rotation(np.array(vector) / length, 2 * math.atan2(length, w))
  return Motion(orientation, axis / np.linalg.norm(axis), dice.uniform(SLOWEST, FASTEST))


def rotation(axis: Float[np.ndarray, '3'], angle: float) -> Float[np.ndarray, '3 3']:
  """Rodrigues' formula; the axis a unit vector, the angle in radians."""
  x, y, z = axis
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


@functools.cache
def surface_points() -> Float[np.ndarray, '12 3']:
  """The corners of an icosahedron, as directions of the sphere."""
  golden = (1 + math.sqrt(5)) / 2
  corners = [np.roll([0, a, b * golden], k) for k in range(3) for a in (1, -1) for b in (1, -1)]
  return np.array(corners) / math.hypot(1, golden)


def flow_between(
  now: Float[np.ndarray, '3 3'], then: Float[np.ndarray, '3 3'], side: int
) -> tuple[Float32[np.ndarray, '{side} {side} 2'], Bool[np.ndarray, '{side} {side}']]:
  """(flow in pixels, whether its point still faces the viewer); 0 and False off the sphere."""
  normals, depth = facing(side)
  moved = np.einsum('ij,hwj->hwi', then @ now.T, normals)
  on = depth > 0
  flow = (moved - normals)[..., :2] * (RADIUS * (side - 1) / 2) * on[..., None]
  return flow.astype(np.float32), on & (moved[..., 2] > 0)


def render(
  orientation: Float[np.ndarray, '3 3'], side: int
) -> UInt8[np.ndarray, '{side} {side} 3']:
  """The picture, unshaded: a point of the surface has the same colour wherever it is."""
  normals, depth = facing(side)
  alpha = painting.cover(depth, 2 / (side - 1))
  near = alpha > 0
  paint = np.einsum('vs,nv->sn', orientation, normals[near]).astype(np.float32)
  picture = np.empty((side, side, 3))
  picture[:] = BACKGROUND
  picture[near] += alpha[near][:, None] * (texture(paint).T - picture[near])
  return (255 * picture + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def facing(
  side: int,
) -> tuple[Float[np.ndarray, '{side} {side} 3'], Float[np.ndarray, '{side} {side}']]:
  """(normal at every pixel, off the sphere the nearest rim's; normalised depth in the outline)."""
  line = np.linspace(-1, 1, side) / RADIUS
  x, y = np.meshgrid(line, line)
  radius = np.hypot(x, y)
  x, y = x / np.maximum(radius, 1), y / np.maximum(radius, 1)
  normals = np.stack([x, y, np.sqrt(np.maximum(1 - x * x - y * y, 0))], -1)
  return normals, RADIUS * (1 - radius)


def texture(directions: Float32[np.ndarray, '3 N']) -> Float32[np.ndarray, '3 N']:
  """The colours of a soft mosaic: the nearest patch's, blended over its borders."""
  centres, colours = patches()
  # einsum without `optimize` starts no threads, which would only slow down arrays this small.
  weight = np.exp(SHARPNESS * (np.einsum('kp,kn->pn', centres, directions) - 1))
  return np.einsum('cp,pn->cn', colours, weight) / weight.sum(0)


@functools.cache
def patches() -> tuple[Float32[np.ndarray, '3 P'], Float32[np.ndarray, '3 P']]:
  """(directions, colours) of the patches, the same for every seed."""
  dice = np.random.Generator(np.random.PCG64(0))
  height = np.linspace(-1, 1, PATCHES + 1)[1:] - 1 / PATCHES
  angle = np.arange(PATCHES) * math.pi * (3 - math.sqrt(5))  # a sunflower's: no two are close
  ring = np.sqrt(1 - height**2)
  centres = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], -1)
  centres += 0.12 * dice.standard_normal(centres.shape)
  centres /= np.linalg.norm(centres, axis=1, keepdims=True)
  sides = np.array(SIDES)[(centres[:, 0] > 0).astype(int)]
  colours = np.clip(sides + VARIETY * dice.standard_normal(sides.shape), 0, 1)
  return tuple(np.ascontiguousarray(values.T, np.float32) for values in (centres, colours))

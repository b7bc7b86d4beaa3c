"""The arm's physics: rigid capsules on damped hinges, moved by a gravity that keeps changing.

It uses only + - * / and square roots, element by element: IEEE arithmetic rounds these alike
everywhere, so a motion is the same bit for bit on any machine, however many arms move at once.
Lengths are in metres, times in seconds; x to the right, y down, the origin in the frame's middle.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64


class Capsule(NamedTuple):
  """A link of the arm. Angles are in degrees from the parent's direction, from x towards y."""

  name: str
  parent: int  # the anchor is -1; its direction is that of x
  length: float  # between the hinges, at which its two half discs are centred
  rest: int  # the middle of its range
  limit: int  # furthest to either side of `rest`, where a stiff spring stops it


# A trunk of three and two branches of two; the branches' ranges keep them apart.
CAPSULES = (
  Capsule('base', -1, 0.75, -45, 30),
  Capsule('trunk', 0, 0.7, 0, 42),
  Capsule('neck', 1, 0.6, 0, 42),
  Capsule('left', 2, 0.6, -40, 22),
  Capsule('left_tip', 3, 0.55, -15, 25),
  Capsule('right', 2, 0.6, 40, 22),
  Capsule('right_tip', 5, 0.55, 15, 25),
)
HALF = 1.75  # half the frame's side
ANCHOR = -1.6, 1.6
WALL = 1.5  # hinges that go further from the middle are pushed back
STEP = 0.002  # s
FRAME_STEPS, GRAVITY_STEPS = 20, 100
SETTLE = 15  # frames between rest and the first that is shown
GRAVITY = 15.0  # m/s^2, standard deviation of a component
DAMPING = 1.0  # N m s, of each hinge
STIFFNESS = 3000.0  # N m, of the hinges beyond their limits
PUSH = 6000.0  # N/m, of the walls; a metre of capsule weighs 1 kg


def _reach() -> Float64[np.ndarray, 'K K']:
  """[k, i]: how far along capsule i one goes from the anchor to the end of capsule k."""
  reach = np.zeros((len(CAPSULES), len(CAPSULES)))
  for k, capsule in enumerate(CAPSULES):
    reach[k] = reach[capsule.parent] if capsule.parent >= 0 else 0
    reach[k, k] = capsule.length
  return reach


def _sines(degrees: list[int]) -> Float64[np.ndarray, 'K 1']:
  # Rounded, since maths libraries disagree on the last bit.
  return np.array([[round(math.sin(math.radians(angle)), 9)] for angle in degrees])


parents = np.array([capsule.parent for capsule in CAPSULES])
lengths = np.array([capsule.length for capsule in CAPSULES])
ends = _reach()
middles = ends - np.diag(lengths / 2)
# A hinge turns by its own capsule's angle minus its parent's.
_hinge = np.eye(len(CAPSULES)) - (parents[:, None] == np.arange(len(CAPSULES)))
# Twice the kinetic energy: the sum over i, j of _inertia[i, j] cos(angle of i - of j) w_i w_j.
_inertia = (lengths[:, None, None] * middles[:, :, None] * middles[:, None, :]).sum(0)
_inertia += np.diag(lengths**3 / 12)
_moment = (lengths[:, None] * middles).sum(0)[:, None]
_friction = DAMPING * (_hinge[:, :, None] * _hinge[:, None, :]).sum(0)
_rest_x = _sines([90 - capsule.rest for capsule in CAPSULES])
_rest_y = _sines([capsule.rest for capsule in CAPSULES])
_limit = _sines([capsule.limit for capsule in CAPSULES])


def simulate(
  entropy: tuple[int, ...], *, videos: int, frames: int
) -> Float64[np.ndarray, 'V T K 2']:
  """The capsules' directions in every frame of some videos: unit vectors [videos, frames, K, 2].

  Video v is a pure function of (entropy, v), and a longer one begins with the shorter one. Each
  starts at rest, `SETTLE` frames before the first. Semi-implicit Euler on the capsules' angles.
  """
  intervals = -(-(SETTLE + frames) * FRAME_STEPS // GRAVITY_STEPS)
  gravity = np.empty((intervals, 2, videos))
  for video in range(videos):
    dice = np.random.Generator(np.random.PCG64((*entropy, video)))
    gravity[..., video] = GRAVITY * dice.standard_normal((intervals, 2))
  direction, speed = rest(videos), np.zeros((len(CAPSULES), videos))
  shown = np.empty((videos, frames, len(CAPSULES), 2))
  for step in range((SETTLE + frames - 1) * FRAME_STEPS + 1):
    frame, between = divmod(step, FRAME_STEPS)
    if not between and frame >= SETTLE:
      shown[:, frame - SETTLE] = direction.transpose(2, 1, 0)
    direction, speed = advance(direction, speed, gravity[step // GRAVITY_STEPS])
  return shown


def rest(videos: int) -> Float64[np.ndarray, '2 K {videos}']:
  """The directions of the capsules when every hinge is in the middle of its range."""
  x, y = np.empty((2, len(CAPSULES), videos))
  for k, parent in enumerate(parents):
    from_x, from_y = (x[parent], y[parent]) if parent >= 0 else (1, 0)
    x[k] = from_x * _rest_x[k] - from_y * _rest_y[k]
    y[k] = from_y * _rest_x[k] + from_x * _rest_y[k]
  return np.stack([x, y])


def advance(
  direction: Float64[np.ndarray, '2 K V'],
  speed: Float64[np.ndarray, 'K V'],
  gravity: Float64[np.ndarray, '2 V'],
) -> tuple[Float64[np.ndarray, '2 K V'], Float64[np.ndarray, 'K V']]:
  """Directions and angular speeds (rad/s) one `STEP` later, under a gravity in m/s^2.

  The equation of motion of a tree of rods, in the angles from x towards y (M is `_inertia` times
  cosines): M w' = torques - sum over j of _inertia[i, j] sin(angle of i - angle of j) w_j^2.
  """
  x, y = direction
  cosine = x[:, None] * x + y[:, None] * y
  sine = y[:, None] * x - x[:, None] * y
  mass = _inertia[..., None] * cosine
  torque = _moment * (x * gravity[1] - y * gravity[0])
  torque -= (_inertia[..., None] * sine * (speed * speed)).sum(1)
  torque += _limit_torque(x, y) + _wall_torque(x, y)
  momentum = (mass * speed).sum(1) + STEP * torque
  # Friction acts on the new speeds, which is stable for any damping.
  speed = _solve(mass + STEP * _friction[..., None], momentum)
  x, y = x - STEP * speed * y, y + STEP * speed * x
  return np.stack([x, y]) / np.sqrt(x * x + y * y), speed


def positions(direction: Float64[np.ndarray, '*any K 2'], along: np.ndarray) -> np.ndarray:
  """Points in metres [*any, K, 2]; along: `ends` for the capsules' ends, `middles` for centres."""
  return (along[..., None] * direction[..., None, :, :]).sum(-2) + np.array(ANCHOR)


def _limit_torque(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  # The anchor's direction comes last, where parent -1 finds it.
  from_x = np.concatenate([x, np.ones_like(x[:1])])[parents]
  from_y = np.concatenate([y, np.zeros_like(y[:1])])[parents]
  middle_x, middle_y = from_x * _rest_x - from_y * _rest_y, from_y * _rest_x + from_x * _rest_y
  bend = middle_x * y - middle_y * x  # its sine
  torque = STIFFNESS * (np.clip(bend, -_limit, _limit) - bend)
  return (_hinge[..., None] * torque[:, None]).sum(0)


def _wall_torque(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  ends_x = (ends[..., None] * x).sum(1) + ANCHOR[0]
  ends_y = (ends[..., None] * y).sum(1) + ANCHOR[1]
  force_x, force_y = (PUSH * (np.clip(end, -WALL, WALL) - end) for end in (ends_x, ends_y))
  turning = x * force_y[:, None] - y * force_x[:, None]
  return (ends[..., None] * turning).sum(0)


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Gauss-Jordan without pivots (M is positive definite); LAPACK's rounding is not fixed."""
  rows = np.concatenate([matrix, right[:, None]], axis=1)
  for k in range(len(rows)):
    rows[k] /= rows[k, k].copy()
    factor = rows[:, k].copy()
    factor[k] = 0
    rows -= factor[:, None] * rows[k]
  return rows[:, -1]

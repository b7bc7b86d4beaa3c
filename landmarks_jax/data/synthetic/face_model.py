"""A random face in three dimensions: who it is, how it is turned and lit, where its landmarks are.

The head's frame: x to the picture's right when frontal, y down, z forward; origin between the ears
at the height of the eyes, half the skull's width about 1. Seen by scaled orthographic projection.
"""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from landmarks_jax.data.synthetic.painting import (
  Chart,
  Ellipsoid,
  Number,
  Shape,
  colour,
  project_ellipsoids,
  smooth_max,
)

HAIR_STYLES = 'bald', 'short', 'long', 'cap'
NAMES = ('left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth')
MORE_NAMES = (
  *('left_eye_outer', 'left_eye_inner', 'right_eye_inner', 'right_eye_outer'),
  *('left_brow_outer', 'left_brow_inner', 'right_brow_inner', 'right_brow_outer'),
  *('nose_left', 'nose_right', 'lip_top', 'lip_bottom', 'chin'),
)
FLIP_PAIRS = ((0, 1), (3, 4))
MORE_FLIP_PAIRS = ((5, 8), (6, 7), (9, 12), (10, 11), (13, 14))

_skin = np.array([[0.35, 0.22, 0.16], [0.62, 0.43, 0.32], [0.85, 0.64, 0.51], [0.95, 0.80, 0.70]])
_hair = (
  *((0.06, 0.05, 0.05), (0.13, 0.09, 0.07), (0.24, 0.15, 0.10), (0.40, 0.26, 0.15)),
  *(
    (0.68, 0.52, 0.30),
    (0.80, 0.68, 0.45),
    (0.48, 0.20, 0.10),
    (0.55, 0.54, 0.53),
    (0.86, 0.85, 0.83),
  ),
)
_iris = (
  (0.20, 0.11, 0.06),
  (0.33, 0.20, 0.10),
  (0.30, 0.42, 0.52),
  (0.32, 0.42, 0.28),
  (0.45, 0.5, 0.5),
)


class Dice:
  """Uniform numbers drawn at once (a call per number would cost more than the painting)."""

  def __init__(self, entropy: tuple[int, ...]) -> None:
    self._values = iter(np.random.Generator(np.random.PCG64(entropy)).random(600).tolist())

  def uniform(self, low: Number, high: Number) -> float:
    """A number in this range."""
    return low + (high - low) * next(self._values)

  def bell(self, deviation: Number) -> float:
    """Centred on 0 and never beyond 3 deviations."""
    return deviation * 2 * (next(self._values) + next(self._values) + next(self._values) - 1.5)

  def chance(self, probability: Number) -> bool:
    """True with this probability."""
    return next(self._values) < probability

  def pick(self, options: tuple) -> Any:
    """One of them."""
    return options[int(next(self._values) * len(options))]

  def colour(self, low: Number, high: Number) -> np.ndarray:
    """A colour with every channel in this range; most are muted, as in rooms and streets."""
    values = [self.uniform(low, high) for _ in range(3)]
    middle, keep = self.uniform(low, high), self.uniform(0.05, 1) ** 1.5
    return colour(*(middle + keep * (value - middle) for value in values))

  def near(self, rgb: tuple[float, ...], deviation: Number) -> np.ndarray:
    """A colour near this one."""
    return colour(*(max(c + self.bell(deviation), 0.02) for c in rgb))


def draw(entropy: tuple[int, ...]) -> SimpleNamespace:
  """All parameters of a picture, as plain numbers and colours; a pure function of `entropy`."""
  dice = Dice(entropy)
  face = SimpleNamespace()
  _draw_shape(face, dice)
  _draw_colours(face, dice)
  _draw_expression(face, dice)
  _draw_pose(face, dice)
  _draw_light(face, dice)
  _draw_surroundings(face, dice)
  return face


def _draw_shape(face: SimpleNamespace, dice: Dice) -> None:
  face.width, face.skull = 1 + dice.bell(0.05), 1.28 + dice.bell(0.07)
  face.jaw_width, face.jaw_length = 0.82 + dice.bell(0.06), 1.22 + dice.bell(0.08)
  face.jaw_depth = 0.98 + dice.bell(0.04)
  face.ear_size, face.ear_out = 1 + dice.bell(0.12), dice.uniform(0, 0.1)
  face.eye_x, face.eye_width = 0.44 + dice.bell(0.03), 0.225 + dice.bell(0.018)
  face.eye_height, face.eye_tilt = 0.40 + dice.bell(0.05), dice.bell(0.035)
  face.iris_size, face.socket = 0.43 + dice.bell(0.03), dice.uniform(0.02, 0.09)
  face.brow_y, face.brow_width = 0.30 + dice.bell(0.035), 0.30 + dice.bell(0.025)
  face.brow_thick, face.brow_arch = dice.uniform(0.025, 0.075), dice.uniform(0, 0.09)
  face.brow_slant = dice.bell(0.04)
  face.nose_y, face.nose_out = 0.60 + dice.bell(0.045), 0.20 + dice.bell(0.04)
  face.nose_size, face.nose_width = 1 + dice.bell(0.10), 0.17 + dice.bell(0.02)
  face.mouth_y, face.mouth_width = 1.03 + dice.bell(0.045), 0.36 + dice.bell(0.035)
  face.lip_top, face.lip_bottom = dice.uniform(0.12, 0.30), dice.uniform(0.18, 0.42)
  face.cheek, face.chin = dice.uniform(0, 0.10), dice.uniform(0, 0.10)


def _draw_colours(face: SimpleNamespace, dice: Dice) -> None:
  tone = 2.999 * dice.uniform(0, 1) ** 0.6
  below, above = _skin[int(tone)], _skin[int(tone) + 1]
  base = below + (tone % 1) * (above - below)
  base = 0.6 * np.array([0.72, 0.53, 0.43]) + 0.4 * base
  face.skin = dice.near(tuple(base.tolist()), 0.012)
  red = dice.uniform(0, 1)
  face.lips = face.skin * colour(0.95 - 0.1 * red, 0.82 - 0.35 * red, 0.82 - 0.28 * red)
  face.blush, face.blush_size = dice.uniform(0, 0.35), dice.uniform(0.25, 0.4)
  face.freckles = dice.uniform(0.02, 0.10)
  hair = dice.near(dice.pick(_hair), 0.03)
  face.hair = 0.6 * colour(0.2, 0.15, 0.1) + 0.4 * hair
  face.brow = hair * dice.uniform(0.5, 1.05)
  face.brow_alpha, face.iris = dice.uniform(0.45, 0.95), dice.near(dice.pick(_iris), 0.03)
  face.sclera = dice.near((0.88, 0.86, 0.84), 0.03)
  face.hair_style = dice.pick(('bald', 'short', 'short', 'short', 'long', 'long', 'cap'))
  face.hair_volume = dice.uniform(1.04, 1.2) + (0.06 if face.hair_style == 'long' else 0)
  face.hair_line = dice.uniform(-1.15, -0.72)
  face.hair_drop = dice.uniform(1.1, 2.6) if face.hair_style == 'long' else dice.uniform(0.2, 0.8)
  face.hair_part, face.hair_wave = dice.bell(0.18), dice.uniform(0.03, 0.18)
  face.hair_curl, face.hair_contrast = dice.uniform(12, 60), dice.uniform(0.15, 0.5)
  if face.hair_style == 'cap':
    face.hair, face.hair_contrast, face.hair_wave = dice.colour(0.05, 0.95), 0.05, 0
  face.beard = dice.uniform(0.12, 0.95) if dice.chance(0.25) else 0.0
  face.beard_line, face.beard_colour = dice.uniform(0.72, 0.98), hair * dice.uniform(0.7, 1.1)
  face.glasses = dice.chance(0.05)
  face.glasses_colour, face.glasses_thick = dice.colour(0.02, 0.5), dice.uniform(0.05, 0.16)
  face.glasses_size, face.glasses_square = dice.uniform(1.35, 1.65), dice.chance(0.5)
  face.glasses_tint, face.glasses_glare = dice.uniform(0, 0.3) ** 2 * 4, dice.uniform(-2, 2)


def _draw_expression(face: SimpleNamespace, dice: Dice) -> None:
  face.gap = dice.uniform(0.08, 0.75) if dice.chance(0.45) else dice.uniform(0, 0.02)
  face.smile = dice.bell(0.05) + (0.1 if dice.chance(0.4) else 0)
  face.stretch = 1 + dice.bell(0.06) + 0.9 * max(face.smile, 0)
  face.teeth = dice.uniform(0, 0.45)
  face.openness = dice.uniform(0.03, 0.2) if dice.chance(0.1) else dice.uniform(0.55, 1.2)
  face.raise_brow = dice.bell(0.04)
  face.gaze_x, face.gaze_y, face.shine = dice.bell(0.14), dice.bell(0.06), dice.uniform(0, 1)


def _draw_pose(face: SimpleNamespace, dice: Dice) -> None:
  face.yaw = math.radians(dice.uniform(-36, 36))
  face.pitch, face.roll = math.radians(dice.bell(7)), math.radians(dice.bell(9))
  face.size = dice.uniform(0.44, 0.66)  # of the frame's half side, per unit of the head
  face.shift_x, face.shift_y = dice.uniform(-0.22, 0.22), dice.uniform(-0.22, 0.22)


def _draw_light(face: SimpleNamespace, dice: Dice) -> None:
  around, above = math.radians(dice.uniform(-20, 20)), math.radians(dice.uniform(3, 25))
  across = math.cos(above)
  face.light = (math.sin(around) * across, -math.sin(above), math.cos(around) * across)
  face.ambient = dice.uniform(0.5, 0.6)
  face.diffuse = dice.uniform(0.55, 0.65)
  face.light_colour, face.gloss = dice.near((1.0, 0.97, 0.93), 0.05), dice.uniform(0, 0.3)
  face.gain, face.contrast = dice.uniform(0.85, 0.96), dice.uniform(0.95, 1.03)
  face.cast, face.offset = dice.near((1.0, 1.0, 1.0), 0.045), dice.bell(0.01)
  face.grey = dice.chance(0.01)
  face.blur = dice.uniform(0.004, 0.012) if dice.chance(0.03) else 0.0
  face.noise, face.noise_start = dice.uniform(0, 0.11) ** 2, dice.uniform(0, 1)


def _draw_surroundings(face: SimpleNamespace, dice: Dice) -> None:
  face.backdrop = dice.colour(0.34, 0.59), dice.colour(0.34, 0.59)
  face.ramp_x, face.ramp_y = dice.bell(0.4), dice.bell(0.4)
  face.texture = dice.pick(('cloud', 'cloud', 'strands', 'patches', 'weave', 'fine'))
  zoom, turn = math.exp(dice.uniform(4.2, 5.4)), dice.uniform(-math.pi, math.pi)
  face.texture_axes = zoom * math.cos(turn), zoom * math.sin(turn)
  face.texture_start = dice.uniform(0, 512), dice.uniform(0, 512)
  face.texture_paint = dice.colour(-0.08, 0.08) + dice.uniform(-0.1, 0.1)
  face.skin_start = dice.uniform(0, 512), dice.uniform(0, 512)
  face.clutter = [_shape(dice, 1.0, 0.08, 0.5) for _ in range(int(dice.uniform(1, 6)))]
  face.decoys = [_shape(dice, 1.0, 0.03, 0.09) for _ in range(int(dice.uniform(0, 1.1)))]
  face.cloth, face.cloth_trim = dice.colour(0.32, 0.6), dice.colour(0.32, 0.6)
  face.cloth_stripes = dice.uniform(10, 60) if dice.chance(0.3) else 0.0
  face.collar = dice.uniform(0.15, 0.5)
  face.occluders = []
  if dice.chance(0.15):
    face.occluders = [_shape(dice, 0.6, 0.08, 0.3) for _ in range(int(dice.uniform(1, 2.6)))]


def _shape(dice: Dice, spread: Number, smallest: Number, largest: Number) -> Shape:
  ratio = math.log(largest / smallest)
  return Shape(
    *(dice.uniform(-spread, spread), dice.uniform(-spread, spread)),
    *(smallest * math.exp(dice.uniform(0, ratio)), smallest * math.exp(dice.uniform(0, ratio))),
    angle=dice.uniform(-math.pi, math.pi),
    box=dice.chance(0.5),
    first=dice.colour(0, 1),
    second=dice.colour(0, 1),
    frequency=dice.uniform(4, 25) if dice.chance(0.35) else 0.0,
    grain=dice.uniform(0, 0.8),
  )


class Shot(NamedTuple):
  """A face seen by the camera. Ellipsoids and charts are in the frame's coordinates."""

  charts: dict[str, Chart]
  solids: dict[str, Ellipsoid]
  rotation: np.ndarray  # [3, 3], head to camera
  origin: tuple[float, float]  # where the head's origin appears
  points: np.ndarray  # [K, 2], all named landmarks
  visible: np.ndarray  # [K]


def photograph(face: SimpleNamespace) -> Shot:
  """Turns, scales and places the head; the five landmarks stay inside the usual centre crop."""
  rotation = _rotation(face.yaw, face.pitch, face.roll)
  solids = _solids(face)
  sheets, points = _features(face, solids)
  seen = points @ (face.size * rotation[:2].T)
  low, high = seen[: len(NAMES)].min(0), seen[: len(NAMES)].max(0)
  middle = (low + high) / 2 - np.array([face.shift_x, face.shift_y])
  middle = np.clip(middle, high - 0.66, low + 0.66)
  origin = tuple((-middle).tolist())
  flat = np.array(list(sheets.values())) @ (face.size * rotation[:2].T)
  flat[:, 0] -= middle
  charts = {
    name: Chart(*map(tuple, rows)) for name, rows in zip(sheets, flat.tolist(), strict=True)
  }
  solids = _project(solids, face.size, rotation, origin)
  seen = seen - middle
  depth = points @ (face.size * rotation[2])
  visible = _visible(face, solids, rotation, origin, seen, depth)
  return Shot(charts, solids, rotation, origin, seen, visible)


def _rotation(yaw: Number, pitch: Number, roll: Number) -> np.ndarray:
  """Head to camera: positive yaw turns to the picture's right, pitch down, roll clockwise."""
  c, s = (np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll]))
  about_y = np.array([[c[0], 0, s[0]], [0, 1, 0], [-s[0], 0, c[0]]])
  about_x = np.array([[1, 0, 0], [0, c[1], s[1]], [0, -s[1], c[1]]])
  about_z = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
  return about_z @ about_x @ about_y


def _solids(face: SimpleNamespace) -> dict[str, tuple]:
  """name -> (centre, radii, tilt about x) in the head's frame."""
  drop, size, wide = 0.16 * face.gap, face.nose_size, face.nose_width
  places = np.array([[0, face.nose_y], [0, -0.02], [wide, face.nose_y + 0.07]])
  tip, top, wing = _front(face, places).tolist()
  tip, top = (0, face.nose_y, tip + face.nose_out - 0.13), (0, -0.02, top - 0.05)
  wing += 0.25 * face.nose_out - 0.02
  ridge = tuple((a + b) / 2 for a, b in zip(tip, top, strict=True))
  return {
    'skull': ((0, -0.32, -0.3), (face.width, face.skull, 1.25), 0),
    'jaw': ((0, 0.45 + drop, 0), (face.jaw_width, face.jaw_length, face.jaw_depth), 0),
    'hair': (
      (0, -0.34, -0.32),
      tuple(r * face.hair_volume for r in (face.width, face.skull, 1.25)),
      0,
    ),
    'ridge': (ridge, (0.11 * size, 0.42, 0.13), math.atan2(tip[2] - top[2], tip[1] - top[1])),
    'tip': (tip, (0.165 * size, 0.135 * size, 0.17), 0),
    'wing_left': ((-wide, face.nose_y + 0.07, wing), (0.09 * size, 0.09 * size, 0.13), 0),
    'wing_right': ((wide, face.nose_y + 0.07, wing), (0.09 * size, 0.09 * size, 0.13), 0),
    'ear_left': ((-face.width - face.ear_out, 0.17, -0.25), (0.12, 0.28 * face.ear_size, 0.2), 0),
    'ear_right': ((face.width + face.ear_out, 0.17, -0.25), (0.12, 0.28 * face.ear_size, 0.2), 0),
  }


def _project(
  solids: dict[str, tuple], size: float, rotation: np.ndarray, origin: tuple[float, float]
) -> dict[str, Ellipsoid]:
  centres, radii, tilts = zip(*solids.values(), strict=True)
  axes = np.repeat(np.eye(3)[None], len(tilts), 0)
  c, s = np.cos(tilts), np.sin(tilts)
  axes[:, 1, 1], axes[:, 2, 2], axes[:, 2, 1], axes[:, 1, 2] = c, c, s, -s
  centres = size * (np.array(centres) @ rotation.T) + np.array([*origin, 0])
  seen = project_ellipsoids(centres, rotation @ axes, size * np.array(radii))
  return dict(zip(solids, seen, strict=True))


def _front(face: SimpleNamespace, places: Float[np.ndarray, '*n 2']) -> Float[np.ndarray, '*n']:
  """The height z of the face's skin, without the nose, over (x, y) of the head's frame."""
  x, y = places[..., 0], places[..., 1]
  skull = 1 - (x / face.width) ** 2 - ((y + 0.32) / face.skull) ** 2
  jaw = 1 - (x / face.jaw_width) ** 2 - ((y - 0.45 - 0.16 * face.gap) / face.jaw_length) ** 2
  skull = 1.25 * np.sqrt(np.maximum(skull, 0.05)) - 0.3
  return smooth_max(skull, face.jaw_depth * np.sqrt(np.maximum(jaw, 0.05)), 0.2)


def _features(
  face: SimpleNamespace, solids: dict[str, tuple]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Curved sheets [p, a, b, c] (see `Chart`) to paint on, and the landmarks [K, 3], on the head.

  A spec is three points of the skin that the sheet passes over at s = 0, -1, 1, and two heights:
  the first raises the first point, the second all three.
  """
  specs = {}
  for side, sign in (('left', -1), ('right', 1)):
    x, w, tilt = sign * face.eye_x, face.eye_width, sign * face.eye_tilt
    specs[f'{side}_eye'] = (x, 0), (x - w, tilt), (x + w, -tilt), (0, 0)
    specs[f'{side}_glass'] = (x, 0.05), (x - w, 0.05 + tilt), (x + w, 0.05 - tilt), (0, 0.1)
    x, w, y = sign * (face.eye_x + 0.02), face.brow_width, -face.brow_y - face.raise_brow
    slant, end = sign * face.brow_slant, y + face.brow_arch
    specs[f'{side}_brow'] = (x, y), (x - w, end - slant), (x + w, end + slant), (0, 0)
    x, w = sign * 0.5, face.blush_size
    specs[f'{side}_cheek'] = (x, 0.55), (x - w, 0.55), (x + w, 0.55), (0, 0)
    x, y = sign * 0.55 * face.nose_width, face.nose_y + 0.14
    specs[f'{side}_nostril'] = (x, y), (x - 0.07, y), (x + 0.07, y), (0, 0.4 * face.nose_out)
  w, y = face.mouth_width * face.stretch, face.mouth_y
  specs['mouth'] = (0, y), (-w, y - face.smile), (w, y - face.smile), (0.05, 0)
  y = 0.5 * (face.nose_y + face.mouth_y) + 0.02
  specs['philtrum'] = (0, y), (-0.25, y), (0.25, y), (0, 0)
  y = 1.45 + 0.16 * face.gap
  specs['chin'] = (0, y), (-0.3, y), (0.3, y), (0, 0)
  sheets = dict(zip(specs, _sheets(face, np.array(list(specs.values()))), strict=True))
  return sheets, np.array(_landmarks(face, {k: v.tolist() for k, v in sheets.items()}, solids))


def _sheets(face: SimpleNamespace, specs: Float[np.ndarray, 'n 4 2']) -> Float[np.ndarray, 'n 4 3']:
  places, step = np.concatenate([specs[:, :3], specs[:, :1], specs[:, :1]], 1), 0.05
  places[:, 3, 1] += step
  places[:, 4, 1] -= step
  z = _front(face, places)
  points = np.concatenate([places[:, :3], z[:, :3, None]], -1)
  points[:, 0, 2] += specs[:, 3, 0]
  points[:, :, 2] += specs[:, 3, 1:]
  middle, left, right = points.transpose(1, 0, 2)
  across = (right - left) / 2
  down = np.zeros_like(across)
  down[:, 1] = np.abs(across[:, 0])
  down[:, 2] = down[:, 1] * (z[:, 3] - z[:, 4]) / (2 * step)
  return np.stack([middle, across, (left + right) / 2 - middle, down], 1)


def _landmarks(
  face: SimpleNamespace, sheets: dict[str, list], solids: dict[str, tuple]
) -> list[list[Number]]:
  """In the order of `NAMES` and `MORE_NAMES`."""

  def on(name: str, s: Number, t: Number) -> list[Number]:
    p, a, b, c = sheets[name]
    return [p[i] + s * a[i] + s * s * b[i] + t * c[i] for i in range(3)]

  def front(name: str) -> list[Number]:
    (x, y, z), radii, _ = solids[name]
    return [x, y, z + radii[2]]

  top, bottom = lip_edges(face)
  (_, y, z), (_, length, depth), _ = solids['jaw']
  pairs = ('left_eye', 'right_eye', 'left_brow', 'right_brow')
  return [
    *(on('left_eye', 0, 0), on('right_eye', 0, 0), front('tip')),
    *(on('mouth', -1, 0), on('mouth', 1, 0)),
    *(on(name, s, 0) for name in pairs for s in (-1, 1)),
    *(front('wing_left'), front('wing_right'), on('mouth', 0, top), on('mouth', 0, bottom)),
    [0, y + length * math.sin(1.15), z + depth * math.cos(1.15)],
  ]


def lip_edges(face: SimpleNamespace) -> tuple[float, float]:
  """The outer edges of the lips at the middle, in t of the mouth's chart."""
  return -(0.35 * face.gap + 0.8 * face.lip_top), 0.65 * face.gap + face.lip_bottom


def hair_gap(
  face: SimpleNamespace,
  rotation: np.ndarray,
  origin: tuple,
  x: np.ndarray,
  y: np.ndarray,
  z: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """How far inside the hair line a point of the hair's surface is; its x and y on the head."""
  back = (rotation.T / face.size).tolist()
  dx, dy = x - origin[0], y - origin[1]
  across, down, forward = ((row[0] * dx + row[1] * dy) + row[2] * z for row in back)
  line = face.hair_line + face.hair_drop * (1 - forward) + face.hair_part * across
  return line - down, across, down


def _visible(
  face: SimpleNamespace,
  solids: dict[str, Ellipsoid],
  rotation: np.ndarray,
  origin: tuple,
  points: Float[np.ndarray, 'K 2'],
  depth: Float[np.ndarray, ' K'],
) -> np.ndarray:
  """False where an occluder, the nose or the hair hides the landmark, or the frame cuts it off."""
  x, y = points.T
  hidden = (np.abs(points) > 1).any(-1)
  for shape in face.occluders:
    hidden |= shape.distance(x, y)[0] > 0
  for name in ('ridge', 'tip', 'wing_left', 'wing_right'):
    z, inside = solids[name].surface(x, y)
    hidden |= (inside > 0) & (z > depth + 0.06 * face.size)
  if face.hair_style != 'bald':
    z, inside = solids['hair'].surface(x, y)
    gap, _, _ = hair_gap(face, rotation, origin, x, y, z)
    hidden |= (inside > 0) & (gap > 0) & (z > depth)
  return ~hidden

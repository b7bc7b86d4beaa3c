"""Rendered faces with exact landmarks: the benchmark that needs no download and cannot be gamed.

Every picture is a random person (face_model.py) in a random pose, expression, light and clutter.
Example i of a split is a pure function of (seed, split, i): the same picture at every frame size.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from landmarks_jax.data import source as sources
from landmarks_jax.data.synthetic import face_model, painting
from landmarks_jax.data.synthetic.face_model import Shot
from landmarks_jax.data.synthetic.painting import Canvas, blend, cover

# Mean and standard deviation of all pixels of train, 20,000 pictures at frame=136, seed 0.
INFO = sources.Info(
  names=face_model.NAMES,
  flip_pairs=face_model.FLIP_PAIRS,
  scale=(0, 1),
  mean=(0.435, 0.382, 0.351),
  std=(0.168, 0.136, 0.135),
)
# Named as in CelebA.
ATTRIBUTES = 'Bald', 'Eyeglasses', 'Mouth_Slightly_Open', 'No_Beard', 'Smiling', 'Wearing_Hat'
COUNTS = {'train': 20_000, 'validation': 1_000, 'test': 1_000}
RENDERS = True  # its pictures, so that `path` is not used


def source(
  path: str | None = None,
  *,
  split: str = 'train',
  frame: int = 136,
  points: int | str = 5,
  count: int | None = None,
  attributes: bool = False,
  seed: int = 0,
  classes: bool = False,
) -> 'Faces':
  """The rendered faces of a split.

  Args: path is unused, nothing is read. frame: the side of the pictures. points: 5, or 'all' for
  the 18 named ones, which begin with these 5. count: how many, always the first ones, instead of
  the split's own number. attributes: whether examples say which of ATTRIBUTES the face has.
  classes: whether a picture's label is its person's hair style, of `face_model.HAIR_STYLES`. Raises
  ValueError for a split, points or number out of range.
  """
  if split not in COUNTS:
    raise ValueError(f'split={split!r}; there are: {", ".join(COUNTS)}')
  if points not in (5, 'all'):
    raise ValueError(f"points={points!r}; there are: 5, 'all'")
  count = COUNTS[split] if count is None else count
  for name, value, low, high in (
    ('frame', frame, 16, 1024),
    ('count', count, 1, 2**31 - 1),
    ('seed', seed, 0, 2**32 - 1),
  ):
    if not low <= value <= high:
      raise ValueError(f'{name}={value}; expected a whole number from {low} to {high}')
  return Faces(split, frame, points, count, seed, attributes=attributes, classes=classes)


class Faces:
  """`source[i]` renders example i; see `source`."""

  def __init__(
    self,
    split: str,
    frame: int,
    points: int | str,
    count: int,
    seed: int,
    *,
    attributes: bool = False,
    classes: bool = False,
  ) -> None:
    self.split, self.frame, self.count, self.seed = split, frame, count, seed
    self.classes = face_model.HAIR_STYLES if classes else ()
    self.info = INFO
    if points == 'all':
      self.info = INFO._replace(
        names=INFO.names + face_model.MORE_NAMES,
        flip_pairs=INFO.flip_pairs + face_model.MORE_FLIP_PAIRS,
      )
    if attributes:
      self.info = self.info._replace(attributes=ATTRIBUTES)

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: Any) -> dict[str, Any]:
    if not 0 <= index < self.count:
      raise IndexError(f'index {index}; {self.split} has the examples 0 to {self.count - 1}')
    face = face_model.draw((self.seed, list(COUNTS).index(self.split), int(index)))
    shot = face_model.photograph(face)
    points = shot.points[: len(self.info.names)].astype(np.float32)
    known = {'attributes': attributes_of(face)} if self.info.attributes else {}
    if self.classes:
      known['label'] = np.int32(self.classes.index(face.hair_style))
    return known | {
      'image': render(face, shot, self.frame),
      'index': np.int32(index),
      'points': points,
      'visible': shot.visible[: len(points)],
      'scale': sources.normaliser(points, self.info.scale),
    }


def attributes_of(face: SimpleNamespace) -> Bool[np.ndarray, ' A']:
  """Which of ATTRIBUTES a face of `face_model.draw` has."""
  return np.array(
    [
      face.hair_style == 'bald',
      face.glasses,
      face.gap > 0.05,
      face.beard == 0,
      face.smile > 0.05,
      face.hair_style == 'cap',
    ]
  )


def render(face: SimpleNamespace, shot: Shot, side: int) -> UInt8[np.ndarray, '{side} {side} 3']:
  """The picture of a face from `face_model.draw`, as `face_model.photograph` sees it."""
  area = painting.canvas(side)
  texture = _background_texture(face, area)
  picture = _paint_background(face, area, texture)
  _paint_body(face, shot, area, picture, texture)
  _paint_head(face, shot, area, picture)
  for shape in face.occluders:
    painting.paint_shape(picture, area, shape, texture[::-1, ::-1])
  return _develop(face, picture)


def _background_texture(face: SimpleNamespace, area: Canvas) -> Float32[np.ndarray, 'S S']:
  (u0, v0), (cos, sin) = face.texture_start, face.texture_axes
  texture = painting.textures(0)[face.texture]
  return painting.sample(
    texture, cos * area.x + (sin * area.y + u0), cos * area.y + (v0 - sin * area.x)
  )


def _paint_background(
  face: SimpleNamespace, area: Canvas, texture: Float32[np.ndarray, 'S S']
) -> Float32[np.ndarray, '3 S S']:
  first, second = face.backdrop
  ramp = np.clip(0.5 + (face.ramp_x * area.x + face.ramp_y * area.y), 0, 1)
  picture = first + ramp * (second - first)
  picture += face.texture_paint * texture
  for shape in (*face.clutter, *face.decoys):
    painting.paint_shape(picture, area, shape, texture)
  for shape in face.decoys:  # dark discs on light ones: not every such pair is an eye
    inner = shape._replace(
      rx=shape.rx * 0.4, ry=shape.ry * 0.4, box=False, first=shape.second * 0.1
    )
    painting.paint_shape(picture, area, inner, texture)
  return picture


def _paint_body(
  face: SimpleNamespace, shot: Shot, area: Canvas, picture: np.ndarray, texture: np.ndarray
) -> None:
  size, (x0, y0) = face.size, shot.origin
  if face.hair_style == 'long':
    back = (x0 + 0.1 * size * shot.rotation[0, 2], y0 + 0.5 * size, 1.15 * size, 1.7 * size)
    rows, columns, inner = area.window(*back)
    u, v = (inner.x - back[0]) / back[2], (inner.y - back[1]) / back[3]
    alpha = cover((1 - u * u - v * v * v * v) * (0.5 * back[2]), area.pixel)
    paint = face.hair * (0.55 + 0.3 * face.hair_contrast * texture[rows, columns])
    blend(picture[:, rows, columns], alpha, paint)
  rows, columns, inner = area.window(x0, y0 + 2.2 * size, 3 * size, 1.7 * size)
  u, v = (inner.x - x0) * (1 / size), (inner.y - y0) * (1 / size)
  light = 0.7 + 0.2 * np.clip(u * face.light[0], -1, 1)
  neck = cover((0.52 + 0.1 * (v - 1.6) ** 2 - np.abs(u)) * size, area.pixel) * (v > 0.5)
  under = np.clip((v - 1.0) * 0.8, 0.45, 0.9)  # the chin's shadow
  blend(
    picture[:, rows, columns],
    neck,
    face.skin * (light * under * (face.ambient + face.diffuse * 0.6)),
  )
  edge = v - 1.95 - 0.25 * u * u + face.collar * np.clip(1 - np.abs(u) * 1.8, 0, 1)
  cloth = face.cloth
  if face.cloth_stripes:
    stripes = cover(np.sin(u * face.cloth_stripes) * (size / face.cloth_stripes), area.pixel)
    cloth = cloth + stripes * (face.cloth_trim - cloth)
  shaded = cloth * (light * (1 + 0.3 * texture[rows, columns]))
  blend(picture[:, rows, columns], cover(edge * size, area.pixel), shaded)


def _paint_head(face: SimpleNamespace, shot: Shot, area: Canvas, picture: np.ndarray) -> None:
  reach = [(s.cx, s.cy, s.reach_x, s.reach_y) for s in shot.solids.values()]
  cx, cy, rx, ry = np.array(reach).T
  left, right, top, bottom = (cx - rx).min(), (cx + rx).max(), (cy - ry).min(), (cy + ry).max()
  middle = float(left + right) / 2, float(top + bottom) / 2
  box = *middle, float(right - left) / 2 + 0.02, float(bottom - top) / 2 + 0.02
  rows, columns, inner = area.window(*box)
  part = picture[:, rows, columns]
  z, alpha = _skin_surface(face, shot, inner)
  skin = _paint_skin(face, shot, inner, z)
  _paint_relief(face, shot, inner, z, skin)
  for eye in ('left', 'right'):
    _paint_eye(face, shot.charts[f'{eye}_eye'], inner, skin)
    _paint_brow(face, shot.charts[f'{eye}_brow'], inner, skin)
  _paint_mouth(face, shot.charts['mouth'], inner, skin)
  if face.glasses:
    _paint_glasses(face, shot, inner, skin)
  skin *= _shading(face, z, area.pixel)
  blend(part, alpha, skin)
  if face.hair_style != 'bald':
    _paint_hair(face, shot, inner, part, z)


def _skin_surface(face: SimpleNamespace, shot: Shot, area: Canvas) -> tuple[np.ndarray, np.ndarray]:
  """(z, coverage) of everything that is skin: smoothly joined solids, then bumps and hollows."""
  solids, width = shot.solids, 0.1 * face.size
  z, inside = solids['skull'].surface(area.x, area.y)
  jaw, jaw_inside = solids['jaw'].surface(area.x, area.y)
  z, inside = (
    painting.smooth_max(z, jaw, 2 * width),
    painting.smooth_max(inside, jaw_inside, 0.3 * width),
  )
  for name in ('ear_left', 'ear_right', 'ridge', 'wing_left', 'wing_right', 'tip'):
    solid = solids[name]
    rows, columns, inner = area.window(solid.cx, solid.cy, 1.3 * solid.reach_x, 1.3 * solid.reach_y)
    part, own = solid.surface(inner.x, inner.y, fall=3)
    z[rows, columns] = painting.smooth_max(z[rows, columns], part, 0.4 * width)
    if name.startswith('ear'):
      np.maximum(inside[rows, columns], own, out=inside[rows, columns])
  return z, cover(inside, area.pixel)


def _shading(face: SimpleNamespace, z: np.ndarray, pixel: float) -> Float32[np.ndarray, '3 H W']:
  across, along = np.zeros_like(z), np.zeros_like(z)
  np.subtract(z[:, 2:], z[:, :-2], out=across[:, 1:-1])
  np.subtract(z[2:], z[:-2], out=along[1:-1])
  across *= 0.5 / pixel
  along *= 0.5 / pixel
  upright = 1 / np.sqrt(1 + across * across + along * along)
  x, y, forward = face.light
  towards = (forward - x * across - y * along) * upright
  light = face.diffuse * np.maximum(0.88 * towards + 0.12, 0)
  mirror = np.maximum(towards, 0) ** 2
  mirror *= mirror
  mirror *= mirror
  light += face.gloss * mirror
  return face.light_colour * light + face.ambient * (0.5 + 0.5 * upright)


def _paint_skin(face: SimpleNamespace, shot: Shot, area: Canvas, z: np.ndarray) -> np.ndarray:
  """The skin's colour before light: texture, beard, blush, nostrils."""
  back = (shot.rotation.T / face.size).tolist()
  dx, dy = area.x - shot.origin[0], area.y - shot.origin[1]
  across, down = ((row[0] * dx + row[1] * dy) + row[2] * z for row in back[:2])
  (u0, v0), textures = face.skin_start, painting.textures(0)
  fine = painting.sample(textures['fine'], 110 * across + u0, 110 * down + v0)
  skin = face.skin * (1 + face.freckles * fine)
  if face.beard:
    line = 0.35 + (face.beard_line - 0.35) * np.maximum(1 - across * across * 1.6, 0)
    alpha = np.clip((down - line) * 4 + 0.4 * fine, 0, 1) * (face.beard + 0.2 * fine)
    blend(skin, np.clip(alpha, 0, 1), face.beard_colour * (1 + 0.5 * fine))
  return skin


def _paint_relief(
  face: SimpleNamespace, shot: Shot, area: Canvas, z: np.ndarray, skin: np.ndarray
) -> None:
  """Soft discs that raise or hollow the surface and tint it."""
  red, dark = face.skin * painting.colour(1.0, 0.62, 0.6), face.skin * 0.5
  for name, across, along, height, most, paint in (
    ('left_eye', 2, 1.7, -face.socket, 0.35, dark),
    ('right_eye', 2, 1.7, -face.socket, 0.35, dark),
    ('left_cheek', 1.2, 1, face.cheek, face.blush, red),
    ('right_cheek', 1.2, 1, face.cheek, face.blush, red),
    ('philtrum', 1, 0.6, 0, 0.3, dark),
    ('left_nostril', 1.3, 0.9, 0, 0.85, 0.4 * dark),
    ('right_nostril', 1.3, 0.9, 0, 0.85, 0.4 * dark),
    ('mouth', 1.3, 0.7, 0.05, 0, dark),
    ('chin', 1, 1, face.chin, 0, dark),
  ):
    rows, columns, s, t, _ = shot.charts[name].window(area, across, along)
    disc = np.maximum(1 - s * s * (1 / across**2) - t * t * (1 / along**2), 0)
    if height:
      z[rows, columns] += (height * face.size) * (disc * disc)
    if most:
      blend(skin[:, rows, columns], most * disc * (2 - disc), paint)


def _paint_eye(face: SimpleNamespace, chart: Any, area: Canvas, skin: np.ndarray) -> None:
  rows, columns, s, t, pixel = chart.window(area, 1.35, 0.9)
  part = skin[:, rows, columns]
  arch = 1 - s * s
  lid = (face.eye_height * face.openness) * arch
  fold = np.abs(t + lid + 0.16)
  blend(part, cover(0.05 - fold, pixel) * np.clip(2 * arch, 0, 0.5), face.skin * 0.45)
  opening = cover(lid - np.abs(t), pixel)
  blend(part, opening, face.sclera * np.clip(0.85 + t, 0.45, 1))
  radius = np.sqrt((s - face.gaze_x) ** 2 + (t - face.gaze_y) ** 2)
  iris = cover(face.iris_size - radius, pixel)
  ring = face.iris * np.clip(1.5 - radius * (1.1 / face.iris_size), 0.3, 1.2)
  blend(part, opening * iris, ring)
  blend(
    part, opening * cover(0.42 * face.iris_size - radius, pixel), painting.colour(0.02, 0.02, 0.02)
  )
  x, y = face.gaze_x + 0.14 * face.light[0], face.gaze_y - 0.13
  shine = cover((0.015 - (s - x) ** 2 - (t - y) ** 2) * 5, pixel)
  blend(part, (face.shine * opening) * shine, painting.colour(1.5, 1.5, 1.5))
  lash = cover(0.075 - np.abs(t + lid), pixel) * np.clip(5 * (1.1 - np.abs(s)), 0, 1)
  blend(part, lash, face.brow * 0.35)
  rim = cover(0.03 - np.abs(t - lid), pixel) * np.clip(5 * (1 - np.abs(s)), 0, 0.6)
  blend(part, rim, face.skin * 0.4)


def _paint_brow(face: SimpleNamespace, chart: Any, area: Canvas, skin: np.ndarray) -> None:
  rows, columns, s, t, pixel = chart.window(area, 1.1, 0.4)
  thick = (face.brow_thick / face.brow_width) * (1.1 - 0.8 * s * s)
  alpha = cover(thick - np.abs(t), pixel) * np.clip(8 * (1 - np.abs(s)) + 0.5, 0, face.brow_alpha)
  blend(skin[:, rows, columns], alpha, face.brow)


def _paint_mouth(face: SimpleNamespace, chart: Any, area: Canvas, skin: np.ndarray) -> None:
  top, bottom = face_model.lip_edges(face)
  rows, columns, s, t, pixel = chart.window(area, 1.15, max(-top, bottom) * 1.4 + 0.15)
  part = skin[:, rows, columns]
  arch = 1 - s * s
  upper, lower = -0.35 * face.gap * arch, 0.65 * face.gap * arch
  bow = 0.8 + 0.5 * np.minimum(np.abs(s) * 3, 1) * arch
  lips = cover(t - upper + face.lip_top * bow * arch, pixel)
  lips *= cover(lower + face.lip_bottom * arch - t, pixel)
  blend(part, lips, face.lips * np.clip(0.9 + 0.3 * t, 0.7, 1.1))
  inside = cover(t - upper, pixel) * cover(lower - t, pixel)
  blend(part, inside, painting.colour(0.16, 0.05, 0.05))
  teeth = inside * cover(upper + face.teeth * face.gap - t, pixel)
  blend(part, teeth, painting.colour(0.86, 0.83, 0.78))
  line = cover(0.045 - np.abs(t - upper), pixel) * cover(1.02 - np.abs(s), pixel)
  blend(part, 0.8 * line, face.lips * 0.25)


def _paint_glasses(face: SimpleNamespace, shot: Shot, area: Canvas, skin: np.ndarray) -> None:
  thick = face.glasses_thick
  for side in ('left', 'right'):
    chart = shot.charts[f'{side}_glass']
    rows, columns, s, t, pixel = chart.window(area, 2.2, 1.7)
    part = skin[:, rows, columns]
    u, v = s * (1 / face.glasses_size), t * (1 / (0.75 * face.glasses_size))
    u, v = u * u, v * v
    radius = (u * u + v * v) ** 0.25 if face.glasses_square else np.sqrt(u + v)
    depth = (1 - radius) * face.glasses_size
    lens = cover(depth, pixel)
    blend(part, face.glasses_tint * lens, face.glasses_colour)
    streak = np.clip(0.5 - 2 * np.abs(s - t - face.glasses_glare), 0, 0.5)
    blend(part, streak * lens, painting.colour(1.2, 1.2, 1.2))
    blend(part, cover(thick - np.abs(depth), pixel), face.glasses_colour)
    inner = s if side == 'left' else -s
    bridge = cover(thick - np.abs(t + 0.2), pixel) * (inner > face.glasses_size)
    blend(part, bridge, face.glasses_colour)


def _paint_hair(
  face: SimpleNamespace, shot: Shot, area: Canvas, picture: np.ndarray, skin_z: np.ndarray
) -> None:
  z, inside = shot.solids['hair'].surface(area.x, area.y)
  gap, across, down = face_model.hair_gap(face, shot.rotation, shot.origin, area.x, area.y, z)
  (u0, v0), textures = face.skin_start, painting.textures(0)
  strands = painting.sample(
    textures['strands'], 2.5 * face.hair_curl * across + u0, face.hair_curl * down + v0
  )
  gap += face.hair_wave * strands
  alpha = cover(inside + (0.3 * face.hair_wave * face.size) * strands, area.pixel)
  alpha *= np.clip(gap * (1 / (0.03 + 0.3 * face.hair_wave)), 0, 1)
  alpha *= np.clip((z - skin_z) * (25 / face.size) + 0.5, 0, 1)  # behind the cheeks and the chin
  light = _shading(face, z, area.pixel)
  light *= face.hair * (1 + face.hair_contrast * strands)
  blend(picture, alpha, light)


def _develop(face: SimpleNamespace, picture: np.ndarray) -> UInt8[np.ndarray, 'S S 3']:
  """Exposure, blur, sensor noise, eight bits."""
  side = picture.shape[1]
  if face.blur:
    picture = painting.blur(picture, face.blur * (side - 1) / 2)
  if face.grey:
    picture = np.repeat(picture.mean(0, keepdims=True), 3, 0)
  level = 255 * face.gain * face.contrast
  picture *= level * face.cast
  picture += 255 * (0.42 * (1 - face.contrast) + face.offset) + 0.5
  grain = painting.textures(0)['grain']
  if picture.size > grain.size:
    grain = np.resize(grain, picture.size)
  start = int(face.noise_start * (grain.size - picture.size))
  picture += (255 * face.noise) * grain[start : start + picture.size].reshape(picture.shape)
  picture.clip(0, 255, out=picture)
  return np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0))

"""Painting with antialiased edges, in continuous coordinates, on small windows; NumPy only.

Pictures are float32 [3, H, W] (planes are faster than interleaved colours), values around 0..1.
Positions and lengths are normalised and corner-aligned, so that the same calls paint the same
picture at any size.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

Number = float | int

TEXTURE_SIDE = 512  # a power of two: textures wrap by a bit mask


class Canvas(NamedTuple):
  """The pixel centres of a rectangle of the frame: x [1, W], y [H, 1], `pixel` apart."""

  x: np.ndarray
  y: np.ndarray
  pixel: float
  left: float  # = x[0, 0], or where it would be if the rectangle had pixels
  top: float

  def window(self, cx: Number, cy: Number, rx: Number, ry: Number) -> 'tuple[slice, slice, Canvas]':
    """The rows and columns where |x - cx| <= rx and |y - cy| <= ry, and their canvas."""
    left, right = self._inside(cx - self.left, rx, self.x.shape[1])
    top, bottom = self._inside(cy - self.top, ry, self.y.shape[0])
    x, y = self.x[:, left:right], self.y[top:bottom]
    inner = Canvas(x, y, self.pixel, self.left + left * self.pixel, self.top + top * self.pixel)
    return slice(top, bottom), slice(left, right), inner

  def _inside(self, centre: Number, radius: Number, size: int) -> tuple[int, int]:
    first = min(max(int((centre - radius) / self.pixel), 0), size)
    return first, min(max(int((centre + radius) / self.pixel) + 2, first), size)


@functools.lru_cache(maxsize=16)
def canvas(side: int) -> Canvas:
  """The whole frame of `side` pixels."""
  grid = np.linspace(-1, 1, side, dtype=np.float32)
  return Canvas(grid[None], grid[:, None], 2 / (side - 1), -1.0, -1.0)


def cover(depth: np.ndarray, pixel: Number) -> np.ndarray:
  """How much of a pixel lies inside an edge `depth` away (positive inside): a box filter."""
  ramp = depth * (1 / pixel)
  ramp += 0.5
  return ramp.clip(0, 1, out=ramp)


def colour(red: Number, green: Number, blue: Number) -> Float32[np.ndarray, '3 1 1']:
  """A colour that broadcasts over planes."""
  return np.array((red, green, blue), np.float32).reshape(3, 1, 1)


def blend(picture: Float[np.ndarray, '3 H W'], alpha: np.ndarray, paint: np.ndarray) -> None:
  """Mixes `paint` (a colour or a picture) into `picture`, in place, by `alpha` [H, W]."""
  picture += alpha * (paint - picture)


class Shape(NamedTuple):
  """A rotated box or ellipse with two colours: stripes, checks or a texture between them."""

  cx: float
  cy: float
  rx: float
  ry: float
  angle: float
  box: bool
  first: np.ndarray
  second: np.ndarray
  frequency: float  # of the stripes; 0 = textured
  grain: float

  def distance(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How deep (x, y) lies inside (negative outside), and its place along the first axis."""
    cos, sin = math.cos(self.angle), math.sin(self.angle)
    dx, dy = x - self.cx, y - self.cy
    u = (cos / self.rx) * dx + (sin / self.rx) * dy
    v = (cos / self.ry) * dy - (sin / self.ry) * dx
    if self.box:
      return np.minimum((1 - np.abs(u)) * self.rx, (1 - np.abs(v)) * self.ry), u
    return (1 - u * u - v * v) * (min(self.rx, self.ry) / 2), u


def paint_shape(
  picture: Float[np.ndarray, '3 H W'], area: Canvas, shape: Shape, texture: Float[np.ndarray, 'H W']
) -> None:
  """Paints a `Shape`; `texture` covers the same canvas as `picture`, values around -1..1."""
  cos, sin = abs(math.cos(shape.angle)), abs(math.sin(shape.angle))
  reach_x, reach_y = shape.rx * cos + shape.ry * sin, shape.rx * sin + shape.ry * cos
  rows, columns, inner = area.window(shape.cx, shape.cy, reach_x, reach_y)
  depth, u = shape.distance(inner.x, inner.y)
  alpha = cover(depth, area.pixel)
  if shape.frequency:
    mix = cover(np.sin(u * shape.frequency) * (shape.rx / shape.frequency), area.pixel)
  else:
    mix = np.clip(0.5 + shape.grain * texture[rows, columns], 0, 1)
  blend(picture[:, rows, columns], alpha, shape.first + mix * (shape.second - shape.first))


class Chart(NamedTuple):
  """A curved sheet in parallel projection: (s, t) appears at p + s a + s^2 b + t c, all (x, y).

  What is painted in (s, t) on the sheet lies in the picture exactly where `at` says.
  """

  p: tuple[float, float]
  a: tuple[float, float]
  b: tuple[float, float]
  c: tuple[float, float]

  def at(self, s: Number, t: Number) -> tuple[float, float]:
    """Where (s, t) appears."""
    p, a, b, c = self
    return p[0] + s * a[0] + s * s * b[0] + t * c[0], p[1] + s * a[1] + s * s * b[1] + t * c[1]

  def unit(self) -> float:
    """The length of a step in t."""
    return math.hypot(*self.c)

  def window(self, area: Canvas, s: Number, t: Number) -> tuple:
    """(rows, columns, s [h, w], t [h, w], pixel in t) where |s| and |t| are up to these."""
    (px, py), (ax, ay), (bx, by), (cx, cy) = self
    reach_x = s * abs(ax) + s * s * abs(bx) + t * abs(cx)
    reach_y = s * abs(ay) + s * s * abs(by) + t * abs(cy)
    rows, columns, inner = area.window(px, py, reach_x, reach_y)
    return rows, columns, *self.inverse(inner.x, inner.y), area.pixel / self.unit()

  def inverse(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(s, t) of what appears at (x, y): a linear map, then the root of s + b1 s^2 = u near 0."""
    (px, py), (ax, ay), (bx, by), (cx, cy) = self
    det = ax * cy - ay * cx
    dx, dy = x - px, y - py
    u = dx * (cy / det) - dy * (cx / det)
    v = dy * (ax / det) - dx * (ay / det)
    b1, b2 = (bx * cy - by * cx) / det, (by * ax - bx * ay) / det
    if b1:
      root = np.sqrt(np.maximum(1 + (4 * b1) * u, 0.01))
      u = 2 * u / (1 + root)
    return u, v - b2 * u * u


class Ellipsoid(NamedTuple):
  """An ellipsoid seen along z: where it is, and its nearer surface as a function of (x, y)."""

  cx: float
  cy: float
  cz: float
  sxx: float  # outline: sxx dx^2 + 2 sxy dx dy + syy dy^2 = 1
  sxy: float
  syy: float
  slope_x: float  # the surface's mid-plane: z = cz - slope . d
  slope_y: float
  swell: float  # half the thickness, squared
  reach_x: float
  reach_y: float

  def surface(
    self, x: np.ndarray, y: np.ndarray, *, fall: Number = 0.5
  ) -> tuple[np.ndarray, np.ndarray]:
    """(z, depth): its nearer surface, falling away outside, and how deep inside (x, y) is."""
    dx, dy = x - self.cx, y - self.cy
    inside = (1 - self.sxx * dx * dx) - self.syy * dy * dy - (2 * self.sxy * dy) * dx
    z = np.sqrt(np.maximum(inside, 0) * self.swell)
    z += np.minimum(inside, 0) * (fall * math.sqrt(self.swell))
    z += (self.cz - self.slope_x * dx) - self.slope_y * dy
    radius = (self.sxx * self.syy - self.sxy**2) ** -0.25
    return z, inside * (radius / 2)


def project_ellipsoids(centres: np.ndarray, axes: np.ndarray, radii: np.ndarray) -> list[Ellipsoid]:
  """Projects along z. Centres [N, 3], axes [N, 3, 3] (columns), radii [N, 3] in camera space."""
  shape = (axes / radii[:, None] ** 2) @ axes.transpose(0, 2, 1)
  spread = (axes * radii[:, None] ** 2) @ axes.transpose(0, 2, 1)
  thick = 1 / shape[:, 2, 2]
  across = shape[:, :2, 2] * thick[:, None]
  outline = shape[:, :2, :2] - shape[:, :2, 2:] * across[:, None]
  columns = [*centres.T, outline[:, 0, 0], outline[:, 0, 1], outline[:, 1, 1], *across.T, thick]
  columns += [np.sqrt(spread[:, 0, 0]), np.sqrt(spread[:, 1, 1])]
  return [Ellipsoid(*row) for row in np.stack(columns, 1).tolist()]


def smooth_max(a: np.ndarray, b: np.ndarray, width: Number) -> np.ndarray:
  """The larger of two, rounded where they differ by less than `width`, exact elsewhere."""
  round_off = np.maximum(width - np.abs(a - b), 0)
  round_off *= round_off
  round_off *= 0.25 / width
  round_off += np.maximum(a, b)
  return round_off


@functools.lru_cache(maxsize=4)
def textures(seed: int) -> dict[str, np.ndarray]:
  """Noise that tiles: name -> float32 [512 * 512] in -1..1; 'grain' is white, 2 ** 17 long."""
  rng = np.random.Generator(np.random.PCG64([seed, 1]))
  frequency = np.fft.fftfreq(TEXTURE_SIDE) * TEXTURE_SIDE
  across, along = np.meshgrid(frequency[: TEXTURE_SIDE // 2 + 1], frequency)

  def noise(radius: np.ndarray, power: Number, lowest: Number, highest: Number) -> np.ndarray:
    white = np.fft.rfft2(rng.standard_normal((TEXTURE_SIDE, TEXTURE_SIDE)))
    band = np.maximum(radius, 1) ** -power * (radius >= lowest) * np.exp(-((radius / highest) ** 2))
    field = np.fft.irfft2(white * band)
    return np.clip(field / (2 * field.std()), -1, 1)

  radius = np.hypot(across, along)
  fields = {
    'fine': noise(radius, 0.6, 8, 110),
    'cloud': noise(radius, 1.7, 2, 110),
    'strands': noise(np.hypot(across, along * 8), 0.6, 10, 90),
    'patches': np.tanh(5 * noise(radius, 1.2, 6, 40)),
    'weave': np.tanh(4 * noise(np.abs(across), 0.8, 6, 60) * noise(np.abs(along), 0.8, 6, 60)),
  }
  result = {name: field.astype(np.float32).ravel() for name, field in fields.items()}
  return result | {'grain': rng.standard_normal(2**17).astype(np.float32)}


def sample(texture: Float32[np.ndarray, ' n'], u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """The nearest texels at (u, v), in texels, wrapping."""
  columns = u.astype(np.int32) & (TEXTURE_SIDE - 1)
  rows = (v.astype(np.int32) & (TEXTURE_SIDE - 1)) * TEXTURE_SIDE
  return texture.take(rows + columns, mode='wrap')


def blur(picture: Float[np.ndarray, '3 H W'], sigma: Number) -> Float[np.ndarray, '3 H W']:
  """A Gaussian of `sigma` pixels; the border is repeated.

  It adds shifted copies: matrix products would start a thread for every core in every worker.
  """
  reach = math.ceil(2.5 * sigma)
  taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(reach + 1)]
  total = 2 * sum(taps) - taps[0]
  for _ in range(2):
    margins = [(0, 0), (reach, reach), (0, 0)]
    padded, size = np.pad(picture, margins, mode='edge'), picture.shape[1]
    picture = padded[:, reach : reach + size] * (taps[0] / total)
    for k in range(1, reach + 1):
      before, after = padded[:, reach - k :][:, :size], padded[:, reach + k :][:, :size]
      picture += (before + after) * (taps[k] / total)
    picture = picture.transpose(0, 2, 1)  # columns, then rows
  return picture

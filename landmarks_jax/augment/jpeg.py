"""JPEG noise: what libjpeg's encoder and decoder do to a picture, at a random size and quality.

Everything is arithmetic on arrays, so it runs on the device: the colours, the 4:2:0 chroma, the
quantised 8x8 blocks, the triangle upsampling. Entropy coding is lossless and is left out. Pictures
of different sides lie in the top left corner of canvases of the same side, a multiple of 16.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num, PRNGKeyArray

from landmarks_jax import shapes
from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import at_least_float32
from landmarks_jax.geometry.sampling import interval_matrix

# Quantisation at quality 50 (ITU T.81, annex K.1), rows of vertical frequency.
LUMA_TABLE = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ]
)
CHROMA_TABLE = np.full((8, 8), 99)
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# libjpeg's fixed-point colour weights: exact in float32, sums included. They are Python floats,
# which do not promote.
LUMA = tuple(n / 2**16 for n in (19595, 38470, 7471))
BLUE = tuple(n / 2**16 for n in (-11059, -21709, 32768))
RED = tuple(n / 2**16 for n in (32768, -27439, -5329))
RED_OF_RED, GREEN_OF_BLUE, GREEN_OF_RED, BLUE_OF_BLUE = (
  n / 2**16 for n in (91881, -22554, -46802, 116130)
)

_frequency, _position = np.mgrid[:8, :8]
_dct = np.cos((2 * _position + 1) * _frequency * np.pi / 16) / np.where(_frequency, 2, 8**0.5)
DCT = np.kron(_dct, _dct)  # [64, 64], orthogonal: one row for each pair of frequencies


def quantisation_tables(quality: Int[Array, ' B']) -> Int[Array, 'B 2 64']:
  """Divisors of the luma's and the chroma's coefficients, as libjpeg scales them.

  Args: quality: [B], 1..100. Returns rows of vertical frequency, flattened.
  """
  scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
  tables = np.stack([LUMA_TABLE.ravel(), CHROMA_TABLE.ravel()])
  return jnp.clip((tables * scale + 50) // 100, 1, 255)


def _round(x: Float[Array, '*shape']) -> Array:
  """Nearest whole number, halves upwards, as integer codecs round."""
  return jnp.floor(x + 0.5)


def _round_sum(x: Float[Array, '*shape']) -> Array:
  """`_round` of a matrix product: the lift rounds exact halves up in any order of summation."""
  return jnp.floor(x + (0.5 + 2**-10))


def _resize(planes: Float[Array, 'B C H W'], matrix: Float[Array, 'B N S']) -> Array:
  """Resizes rows, then columns, rounding to bytes each time, as Pillow does."""
  matrix = matrix.astype(planes.dtype)
  wide = _round_sum(jnp.einsum('bxw,bchw->bchx', matrix, planes, precision='high'))
  return _round_sum(jnp.einsum('byh,bchx->bcyx', matrix, wide, precision='high'))


def _extend(x: Float[Array, 'B C H W'], count: Int[Array, ' B'], axis: int) -> Array:
  """Repeats row (or column) count - 1 of each picture to the end of the canvas."""
  count = count[:, None, None, None]
  last = jnp.take_along_axis(x, count - 1, axis=axis)
  place = jnp.arange(x.shape[axis])
  return jnp.where((place[:, None] if axis == 2 else place) < count, x, last)


def _halve(chroma: Float[Array, 'B C H W'], side: Int[Array, ' B']) -> Array:
  """Means of 2x2 pixels, halves rounded down and up alternately; the last row of means repeated."""
  turns = np.arange(chroma.shape[3] // 2) % 2
  total = chroma[..., ::2] + chroma[..., 1::2]
  total = total[:, :, ::2] + total[:, :, 1::2]
  means = jnp.floor((total + (1 + turns).astype(chroma.dtype)) / 4)
  return _extend(means, (side + 1) // 2, 2)


def _double(chroma: Float[Array, 'B C h w'], side: Int[Array, ' B']) -> Array:
  """Triangle ('fancy') upsampling: 3/4 of the nearer and 1/4 of the farther sample on each axis."""
  count = (side + 1) // 2
  x = _extend(_extend(chroma, count, 2), count, 3)
  batch, channels, height, width = x.shape
  x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode='edge')
  near = 3 * x[:, :, 1:-1]
  x = jnp.stack([near + x[:, :, :-2], near + x[:, :, 2:]], axis=3)
  x = x.reshape(batch, channels, 2 * height, width + 2)
  near = 3 * x[..., 1:-1]
  x = jnp.stack([near + x[..., :-2] + 8, near + x[..., 2:] + 7], axis=-1)
  return jnp.floor(x / 16).reshape(batch, channels, 2 * height, 2 * width)


def _code_blocks(planes: Float[Array, 'B C H W'], table: Int[Array, 'B 64']) -> Array:
  """The quantised 8x8 DCT and its inverse."""
  batch, channels, height, width = planes.shape
  blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8)
  blocks = blocks.transpose(0, 1, 2, 4, 3, 5).reshape(batch, -1, 64)
  dct, step = DCT.astype(planes.dtype), table[:, None].astype(planes.dtype)
  # The forward transform of libjpeg keeps eighths; halves are then quantised away from zero.
  eighths = _round_sum(jnp.einsum('bni,ui->bnu', blocks - 128, 8 * dct, precision='highest'))
  level = jnp.sign(eighths) * _round(jnp.abs(eighths) / (8 * step))
  blocks = jnp.einsum('bnu,ui->bni', level * step, dct, precision='highest')
  blocks = jnp.clip(_round_sum(blocks) + 128, 0, 255)
  blocks = blocks.reshape(batch, channels, height // 8, width // 8, 8, 8)
  return blocks.transpose(0, 1, 2, 4, 3, 5).reshape(planes.shape)


def _code(
  planes: Float[Array, 'B 3 H W'], side: Int[Array, ' B'], quality: Int[Array, ' B']
) -> Array:
  """Encodes and decodes whole values, 0..255.

  Args: planes: the last of the first `side` rows and columns is repeated to the end. The result
  beyond `side` is meaningless.
  """
  tables = quantisation_tables(quality)
  r, g, b = planes[:, :1], planes[:, 1:2], planes[:, 2:]
  y, blue, red = (w[0] * r + w[1] * g + w[2] * b for w in (LUMA, BLUE, RED))
  # libjpeg rounds halves of the chroma down.
  chroma = jnp.floor(jnp.concatenate([blue, red], 1) + (128 + 32767 / 65536))
  y = _code_blocks(_round(y), tables[:, 0])
  chroma = _double(_code_blocks(_halve(chroma, side), tables[:, 1]), side) - 128
  blue, red = chroma[:, :1], chroma[:, 1:]
  green = GREEN_OF_BLUE * blue + GREEN_OF_RED * red
  shift = jnp.concatenate([RED_OF_RED * red, green, BLUE_OF_BLUE * blue], 1)
  return jnp.clip(y + _round(shift), 0, 255)


def _blocks_side(side: int) -> int:
  """The side of whole 16x16 blocks that cover `side` pixels."""
  return -(-side // 16) * 16


def compress(image: Num[Array, 'B S S 3'], quality: Int[Array, ' B']) -> Float[Array, 'B S S 3']:
  """Encodes pictures as JPEG (baseline, 4:2:0) and decodes them: whole values, 0..255.

  Args: image: [B, S, S, 3], 0..255, rounded to bytes first; S at least 5, below which libjpeg
  upsamples differently. quality: [B], 1..100. As libjpeg and Pillow do by default, apart from the
  rounding inside libjpeg's integer DCT: a mean difference of .02 to .32 grey levels.
  """
  shapes.check(image=(image, 'B S S 3'), quality=(quality, 'B'))
  count, side = image.shape[:2]
  beyond = (0, _blocks_side(side) - side)
  planes = _round(at_least_float32(image).transpose(0, 3, 1, 2))
  planes = jnp.pad(planes, ((0, 0), (0, 0), beyond, beyond), mode='edge')
  planes = _code(planes, jnp.full(count, side), quality)
  return planes[:, :, :side, :side].transpose(0, 2, 3, 1)


def add_noise(
  image: Num[Array, 'B S S 3'], sides: Int[Array, ' B'], quality: Int[Array, ' B']
) -> Float[Array, 'B S S 3']:
  """Resizes each picture to its side, compresses it, and resizes it back; whole values, 0..255.

  Args: image: [B, S, S, 3], 0..255, rounded to bytes first. sides: [B], 5..2S. quality: [B],
  1..100. Bilinear as in Pillow: antialiased where it shrinks (ICCV 2021, specification section 2,
  step 1).
  """
  shapes.check(image=(image, 'B S S 3'), sides=(sides, 'B'), quality=(quality, 'B'))
  count, side = image.shape[:2]
  canvas, whole, start = _blocks_side(2 * side), jnp.full(count, side), jnp.zeros(count, int)
  planes = _round(at_least_float32(image).transpose(0, 3, 1, 2))
  matrix = interval_matrix(start, whole, side=side, size=canvas, samples=sides)
  planes = _code(_resize(planes, matrix), sides, quality)
  planes = _resize(planes, interval_matrix(start, sides, side=canvas, size=side))
  return planes.transpose(0, 2, 3, 1)


def random_sides(rng: PRNGKeyArray, count: int, *, side: int) -> Int[Array, '{count}']:
  """Sides max(.8, 1 + .5 * N(0, 1)) times the frame's, truncated to whole pixels.

  Args: count: of pictures. side: of the frame. At most 2 * side, which clips 2 % of the draws; the
  paper has no bound.
  """
  drawn = jnp.trunc(side * (1 + 0.5 * jax.random.normal(rng, (count,)))).astype(int)
  return jnp.clip(drawn, int(0.8 * side), 2 * side)


def random_noise(rng: PRNGKeyArray, image: Num[Array, 'B S S 3']) -> Float[Array, 'B S S 3']:
  """JPEG at a random side and a quality uniform in 30..98, resized back to the frame's size.

  Pictures are [B, S, S, 3], 0..255; whole values come out. Specification section 2, step 1.
  """
  rng_side, rng_quality = jax.random.split(rng)
  count, side = image.shape[:2]
  sides = random_sides(rng_side, count, side=side)
  return add_noise(image, sides, jax.random.randint(rng_quality, (count,), 30, 99))

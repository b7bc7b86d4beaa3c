"""Landmarks as structural representations (lmdis; Zhang, Guo, Jin, Luo, He, Lee, CVPR 2018).

An autoencoder whose code is K landmarks and a few numbers that say what each looks like. A detector
divides every pixel between K landmarks and the background; a landmark is the mean position of its
share. A decoder paints the picture again from Gaussians at the landmarks. Landmarks must be narrow,
far from each other, and follow the picture when it is warped or moves: this makes them parts.

Inside this file positions are cell-centred as in the specification (lmdis, section 2): from 0 to 1
between the edges of the padded picture, or of the picture itself, which has `ratio` of its side.
They are normalised (docs/conventions.md) where they enter or leave it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from landmarks_jax.augment import colour
from landmarks_jax.contracts import Array, Batch, Method, Pyramid, PyTree
from landmarks_jax.dtypes import at_least_float32
from landmarks_jax.geometry import coords, regions, sampling, splines
from landmarks_jax.models import skip_hourglass
from landmarks_jax.models.norm import PRECISIONS

CONTROLS, REACH = 7, 6 / 7  # control points of the warps per side, and where the outer ones are
WIDTHS = tuple(0.125 * 2 ** (level / 2) for level in range(5))  # of the decoder's Gaussians
FEATURES = 64  # channels pooled at a landmark, and painted there
ENTROPY = 2 * math.pi * math.e


def pad_with_border(image: Float[Array, 'B S _ C'], pad: int) -> Float[Array, 'B P _ C']:
  """Pictures with `pad` more pixels per side, of each channel's mean over the border's pixels.

  A corner belongs to two edges and counts twice.
  """
  edges = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
  mean = jnp.concatenate(edges, axis=1).mean(1)[:, None, None]
  inner = jnp.pad(image - mean, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
  return inner + mean


def moments(maps: Float[Array, 'B h w K']) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """The mean position of each map's weight, and the mean of its deviations along x and y.

  Args: maps: not negative, of any sum. Returns: positions, cell-centred in [0, 1]; deviations, in
  the same unit. (Section 4; a flat map of 96x96 is at .5 with .288659.)
  """
  columns, rows = maps.sum(1), maps.sum(2)
  total = columns.sum(1) + 1e-6

  def along(weight: Float[Array, 'B n K']) -> tuple[Float[Array, 'B K'], Float[Array, 'B K']]:
    count = weight.shape[1]
    place = ((jnp.arange(count) + 0.5) / count).astype(weight.dtype)[:, None]
    mean = (weight * place).sum(1) / total
    variance = (weight * (place - mean[:, None]) ** 2).sum(1) / total
    return mean, jnp.sqrt(jnp.maximum(variance, 1e-12))  # at 0 the root has no gradient

  (x, wide), (y, high) = along(columns), along(rows)
  return jnp.stack([x, y], axis=-1), (wide + high) / 2


def concentration(deviation: Float[Array, 'B K'], *, ratio: float) -> Float[Array, ' B']:
  """How wide the maps are: the sum of exp(entropy) of Gaussians of their deviation (section 7)."""
  return ENTROPY * (deviation**2).sum(1) / ratio**2


def separation(
  points: Float[Array, 'B K 2'], *, ratio: float, bandwidth: float
) -> Float[Array, ' B']:
  """How near landmarks are to each other: a Gaussian of each distance, every pair counted twice."""
  apart = points[:, :, None] - points[:, None]
  near = jnp.exp(-(apart**2).sum(-1) / (2 * (bandwidth * ratio) ** 2))
  return (near * (1 - jnp.eye(points.shape[1], dtype=near.dtype))).sum((1, 2))


def disagreement(apart: Float[Array, 'B K 2'], *, ratio: float) -> Float[Array, ' B']:
  """How far landmarks are from where the warp or flow takes them; `apart` in a frame of -1 to 1."""
  return (apart**2).sum((1, 2)) / ratio


def reconstruction_error(
  image: Float[Array, 'B S _ C'], painted: Float[Array, 'B S _ C']
) -> Float[Array, ' B']:
  """Half the squared difference of pictures in 0..1, summed: a Gaussian's up to a constant."""
  return 0.5 * ((image - painted) ** 2).sum((1, 2, 3))


def decay(params: PyTree) -> Float[Array, '']:
  """Half the squared norm of all parameters except biases."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return sum(0.5 * (leaf**2).sum() for path, leaf in leaves if path[-1].key != 'bias')


class Warp(NamedTuple):
  """A random warp of every picture of a batch: a thin-plate spline after a similarity."""

  bent: Float[Array, 'B rows 2']
  turn: Float[Array, 'B 2 2']
  shift: Float[Array, 'B 2']

  def spline(self, points: Float[Array, 'B *grid 2']) -> Float[Array, 'B *grid 2']:
    """Where positions of the bent picture look in the original; the edges are -1 and 1."""
    return REACH * splines.apply(self.bent, points / REACH)

  def similarity(self, points: Float[Array, 'B *grid 2']) -> Float[Array, 'B *grid 2']:
    """Where positions of the result look in the bent picture."""
    flat = points.reshape(len(points), -1, 2)
    moved = jnp.einsum('bij,bpj->bpi', self.turn, flat, precision='highest')
    return (moved + self.shift[:, None]).reshape(points.shape)

  def __call__(self, points: Float[Array, 'B *grid 2']) -> Float[Array, 'B *grid 2']:
    """Where positions of the result look in the original."""
    return self.spline(self.similarity(points))


def random_warp(
  rng: PRNGKeyArray,
  count: int,
  *,
  displacement: float,
  bending: float,
  rotation: float,
  scale: float,
  translation: float,
) -> Warp:
  """Warps of `count` pictures (section 6); see `build` for the strengths."""
  rng_bend, rng_turn, rng_size, rng_shift = jax.random.split(rng, 4)
  moved = displacement * jax.random.normal(rng_bend, (count, CONTROLS**2, 2)) / REACH
  bent = splines.interpolating(moved)
  weights = bent[:, : CONTROLS**2]
  # The effect of keeping a spline in part depends on the unit of length: here it is the picture's,
  # but these coefficients are in that of the control points.
  squared = (splines.control_grid(side=CONTROLS) ** 2).sum(-1)
  offset = math.log(REACH**-2) * jnp.einsum('bnc,n->bc', weights, squared, precision='highest')
  bent = bent.at[:, : CONTROLS**2].multiply(bending)
  bent = bent.at[:, CONTROLS**2].add((1 - bending) * offset)
  angle = jnp.deg2rad(rotation * jax.random.normal(rng_turn, (count,)))
  size = scale ** jax.random.normal(rng_size, (count,))
  cosine, sine = size * jnp.cos(angle), size * jnp.sin(angle)
  turn = jnp.stack([jnp.stack([cosine, -sine], -1), jnp.stack([sine, cosine], -1)], axis=1)
  shift = jax.random.uniform(rng_shift, (count, 2), minval=-translation, maxval=translation)
  return Warp(bent, turn, shift)


def sample(
  image: Float[Array, 'B S S C'], points: Float[Array, 'B *grid 2']
) -> Float[Array, 'B *grid C']:
  """Bilinear values at positions where -1 and 1 are the edges; beyond them, the edge pixels."""
  corners = coords.edges_to_corners(points, side=image.shape[1])
  return sampling.bilinear(image, jnp.clip(corners, -1, 1))


def sample_published(
  image: Float[Array, 'B S S C'], points: Float[Array, 'B *grid 2']
) -> Float[Array, 'B *grid C']:
  """Like `sample`, but black at and beyond the last row and column, as published."""
  side = image.shape[1]
  pixels = jnp.clip((points + 1) * (side / 2) - 0.5, 0, side - 1)
  inside = (pixels < side - 1).all(-1, keepdims=True)
  return sampling.bilinear(image, coords.to_normalised(pixels, width=side, height=side)) * inside


def warped(image: Float[Array, 'B S S C'], warp: Warp) -> Float[Array, 'B S S C']:
  """The warped pictures, sampled once."""
  grid = coords.cell_centres(*image.shape[1:3]).astype(image.dtype)
  return sample(image, warp(jnp.broadcast_to(grid, (len(image), *grid.shape))))


def warped_published(image: Float[Array, 'B S S C'], warp: Warp) -> Float[Array, 'B S S C']:
  """The same in two steps, with the published sampler on a grid that ends at the corners."""
  grid = coords.pixel_grid(*image.shape[1:3]).astype(image.dtype)
  grid = jnp.broadcast_to(grid, (len(image), *grid.shape))
  return sample_published(sample_published(image, warp.spline(grid)), warp.similarity(grid))


def flow_at(
  points: Float[Array, 'B K 2'],
  deviation: Float[Array, 'B K'],
  flow: Float[Array, 'B P P 2'],
  known: Bool[Array, 'B P P'],
) -> tuple[Float[Array, 'B K 2'], Float[Array, 'B K']]:
  """The mean of a flow under each landmark's Gaussian, and the share of that with a known flow."""
  place = ((jnp.arange(flow.shape[1]) + 0.5) / flow.shape[1]).astype(points.dtype)
  away = (place[:, None, None] - points[:, None]) / deviation[:, None, :, None]
  weight = jnp.exp(-(away**2) / 2)  # [B, P, K, 2]
  x, y = weight[..., 0], weight[..., 1]
  seen = known.astype(points.dtype)
  total = jnp.einsum('byk,bxk,byx->bk', y, x, seen)
  moved = jnp.einsum('byk,bxk,byxc->bkc', y, x, seen[..., None] * flow.astype(points.dtype))
  tiny = 1e-12
  share = total / jnp.maximum(x.sum(1) * y.sum(1), tiny)
  return moved / jnp.maximum(total, tiny)[..., None], share


def heat_maps(
  points: Float[Array, 'B K 2'], *, size: int, published: bool = False
) -> Float[Array, 'B {size} {size} L K+1']:
  """Gaussians at landmarks, in the five WIDTHS, each pixel divided between them and a background.

  Args: points: cell-centred in the picture, perhaps outside it. published: with the prefactor of
  the paper's code, which makes the maps nearly all background. (Section 5.)
  """
  place = ((jnp.arange(size) + 0.5) / size).astype(points.dtype)
  away = (place[:, None, None] - points[:, None])[:, :, None] ** 2  # [B, size, 1, K, 2]
  width = jnp.asarray(WIDTHS, points.dtype)[:, None]
  narrow, height = 1 / width**2, 1 / (2 * math.pi * width**2)
  if published:
    narrow = width**2 / (width**4 + 1e-6)
    height = 1 / ((2 * math.pi * width**4 + 1e-6) * size**2)
  line = jnp.exp(-away * narrow[..., None] / 2)
  maps = height * line[:, None, ..., 0] * line[:, :, None, ..., 1]
  maps = jnp.concatenate([maps, jnp.ones_like(maps[..., :1])], axis=-1)
  return maps / maps.sum(-1, keepdims=True)


def random_linear(rng: PRNGKeyArray, groups: int, inputs: int, outputs: int) -> dict[str, Any]:
  """A linear map per group, Glorot uniform, and one bias that all groups share."""
  kernel = nn.initializers.glorot_uniform(batch_axis=0)(rng, (groups, inputs, outputs))
  return {'kernel': kernel, 'bias': jnp.zeros(outputs)}


def linear(params: PyTree, groups: Float[Array, 'B G I']) -> Float[Array, 'B G O']:
  """Maps every group by its own matrix."""
  product = jnp.einsum('bgi,gio->bgo', groups, params['kernel'], precision='float32')
  return product + params['bias']


def build(
  *,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  landmarks: int = 10,
  network: str = 'paper',
  width: float = 1.0,
  appearance_width: float = 1.0,
  code: int = 8,
  biases: bool = False,
  norm_groups: int = 1,
  norm_momentum: float = 0.99,
  margin: int = 10,
  pad: int = 8,
  brightness: float = 32 / 255,
  contrast: float = 0.5,
  shared_exposure: bool = False,
  displacement: float = 0.1,
  bending: float = 0.5,
  rotation: float = 10.0,
  scale: float = 1.25,
  translation: float = 0.3,
  concentrate: float = 100.0,
  separate: float = 20.0,
  bandwidth: float = 0.08,
  follow: float = 1e4,
  reconstruct: Sequence[float] = (0.1, 1.0, 10.0),
  milestones: Sequence[int] = (100_000, 200_000),
  weight_decay: float = 1e-6,
  sampler: Literal['exact', 'published'] = 'exact',
  heat: Literal['exact', 'published'] = 'exact',
  joint_features: bool = False,
  precision: str = 'bfloat16',
  constrain: Callable[[Any], Any] = lambda x: x,
) -> Method:
  """The autoencoder; the defaults are CelebA's with 10 landmarks, at 80 pixels of 100.

  Args:
    mean, std: of the pictures' channels in [0, 1]; the paper's are 0 and 1. Saved with the weights.
    landmarks: K. code: numbers that say what a landmark, or the background, looks like.
    network: of skip_hourglass.NETWORKS: 'paper', 'large' for 128 pixels (pad=32), or 'light'.
    width, appearance_width: multiply the channels of the detector, and of features and decoder.
    biases: also before every BatchNorm, as published, where they do nothing but drift.
    norm_groups: BatchNorm groups; a picture and its warp share one. norm_momentum: of the running
      statistics, which `calibrate` replaces by exact ones.
    margin: pixels cut from each side. pad: pixels added back, for what a warp moves out.
    brightness, contrast: of `colour.random_exposure`. shared_exposure: one for the batch, as
      published.
    displacement: deviation of the control points of the warp; the picture is 2 wide. bending: share
      of the spline beyond its affine part that is kept: 1 makes it interpolate and fold, .5 is the
      paper's. rotation: deviation in degrees. scale: a random factor's geometric deviation.
      translation: maximum on each axis.
    concentrate, separate, follow: weights of `concentration`, of `separation` with `bandwidth`, and
      of `disagreement`. weight_decay: of `decay`, in the loss.
    reconstruct: weights of `reconstruction_error`, one more than milestones, the steps at which the
      next weight takes over.
    sampler, heat: 'published' uses `warped_published`, and `heat_maps` with the paper's prefactor.
    joint_features: the feature network also sees the warped pictures, for its statistics alone, as
      published.
    precision: 'bfloat16' or 'float32' of the networks; losses and statistics are float32 at least.
    constrain: keeps a batch spread over the devices; the identity on one.

  A batch with `next`, `flow` and `flow_valid` (video) is its own pair. `describe` gives the K maps
  of the picture as one level. `paint` shows a picture with its landmarks moved. aux: `stats`.
  Metrics: the parts of the loss, weighted. Confidence: the greatest share of a pixel.
  """
  if precision not in PRECISIONS:
    raise ValueError(f'precision={precision!r}: choose from {", ".join(PRECISIONS)}')
  if network not in skip_hourglass.NETWORKS:
    known = ', '.join(skip_hourglass.NETWORKS)
    raise ValueError(f'network={network!r}: choose from {known}')
  if len(reconstruct) != len(milestones) + 1:
    raise ValueError(
      f'reconstruct={tuple(reconstruct)} has {len(reconstruct)} weights for {len(milestones)} '
      'milestones: expected one more'
    )
  features = max(1, int(appearance_width * FEATURES))
  make = functools.partial(
    skip_hourglass.SkipHourglass,
    biases=biases,
    norm_groups=norm_groups,
    norm_momentum=norm_momentum,
    dtype=PRECISIONS[precision],
  )
  layers = skip_hourglass.NETWORKS[network]
  networks = {
    'detector': make(layers.detector, landmarks + 1, width=width),
    'features': make(layers.features, width=appearance_width),
    'decoder': make(layers.decoder, 3, width=appearance_width),
  }
  warp_picture = {'exact': warped, 'published': warped_published}[sampler]

  def run(
    name: str, params: PyTree, stats: PyTree, maps: Array, *, momentum: float | None = None
  ) -> tuple[Array, PyTree]:
    """A network's maps in float32 at least, and its statistics; momentum None is test mode."""
    chosen = networks[name]
    if momentum is not None:
      chosen = chosen.clone(norm_momentum=momentum)
    found, changed = chosen.apply(
      {'params': params[name], 'batch_stats': stats[name]},
      maps,
      train=momentum is not None,
      mutable=['batch_stats'],
    )
    found = at_least_float32(found)
    return found, changed['batch_stats']

  def padded(image: Array) -> Float[Array, 'B P P 3']:
    return pad_with_border(image, pad)

  def standard(image: Array) -> Array:
    return colour.standardise(image, mean=mean, std=std)

  def ratio_of(side: int) -> float:
    return side / (side + 2 * pad)

  def in_picture(points: Array, side: int) -> Float[Array, 'B K 2']:
    """From the padded picture to the picture; may leave [0, 1]."""
    return (points - 0.5) / ratio_of(side) + 0.5

  def pool(params: PyTree, maps: Array, found: Array) -> Float[Array, 'B G code']:
    """Codes of what each landmark and the background look like: encoded features under its map."""
    total = jnp.maximum(maps.sum((1, 2)), 1e-6)[..., None]
    return linear(
      params['encode'], jnp.einsum('bhwg,bhwc->bgc', maps, found, precision='float32') / total
    )

  def canvas(params: PyTree, points: Array, codes: Array, size: int) -> Float[Array, 'B S S D']:
    """The decoder's input: where landmarks are, and painted there, what they look like."""
    shares = heat_maps(points, size=size, published=heat == 'published')
    paint = linear(params['decode'], codes)
    painted = jnp.einsum('byxlg,bgc->byxlc', shares, paint, precision='float32')
    flat = (*shares.shape[:3], -1)
    return jnp.concatenate([shares.reshape(flat), painted.reshape(flat)], axis=-1)

  def pair_of(
    batch: Batch, rng: PRNGKeyArray
  ) -> tuple[Array, Array, Array, Callable[..., Float[Array, 'B K 2']]]:
    """The picture, 0..255; it and its partner, padded; and how far apart their landmarks are.

    The last is a function of positions in both padded pictures and of deviations in the first.
    """
    rng_exposure, rng_warp = jax.random.split(rng)
    expose = functools.partial(
      colour.random_exposure,
      rng_exposure,
      brightness=brightness,
      contrast=contrast,
      shared=shared_exposure,
    )
    names = 'image', 'next', 'flow', 'flow_valid'
    cut = regions.centre_crop(Batch(**{name: getattr(batch, name) for name in names}), margin)
    image = expose(jnp.asarray(cut.image, float))
    first = padded(image)
    if batch.next is None:
      warp = random_warp(
        rng_warp,
        len(image),
        displacement=displacement,
        bending=bending,
        rotation=rotation,
        scale=scale,
        translation=translation,
      )

      def apart(here: Array, there: Array, _: Array) -> Float[Array, 'B K 2']:
        return warp(2 * there - 1) - (2 * here - 1)

      return image, first, warp_picture(first, warp), apart
    around = [(0, 0), (pad, pad), (pad, pad)]
    flow = jnp.pad(jnp.asarray(cut.flow), [*around, (0, 0)]) * (2 / first.shape[1])
    known = jnp.pad(jnp.asarray(cut.flow_valid), around)

    def apart(here: Array, there: Array, deviation: Array) -> Float[Array, 'B K 2']:
      moved, share = flow_at(*jax.lax.stop_gradient((here, deviation)), flow, known)
      return jnp.sqrt(share)[..., None] * (2 * (here - there) + moved)

    return image, first, padded(expose(jnp.asarray(cut.next, float))), apart

  def autoencode(
    params: PyTree, stats: PyTree, first: Array, second: Array, *, momentum: float
  ) -> tuple[Array, Array, Array, PyTree]:
    """In training mode: positions [B, 2, K, 2], deviations, painted picture, new statistics."""

    def by_pair(rows: Array) -> Array:
      return rows.reshape(-1, 2, *rows.shape[1:])

    # A picture and its warp are adjacent, so that they share a norm group and a device.
    both = jnp.stack([first, second], axis=1)
    both = standard(constrain(both.reshape(-1, *both.shape[2:])))
    logits, detector = run('detector', params, stats, both, momentum=momentum)
    maps = jax.nn.softmax(logits)
    places, deviation = moments(maps[..., :-1])
    places, deviation = by_pair(places), by_pair(deviation)
    seen = both if joint_features else by_pair(both)[:, 0]
    found, looks = run('features', params, stats, seen, momentum=momentum)
    found = by_pair(found)[:, 0] if joint_features else found
    side = first.shape[1] - 2 * pad
    codes = pool(params, by_pair(maps)[:, 0], found)
    start = canvas(params, in_picture(places[:, 0], side), codes, side)
    painted, decoder = run('decoder', params, stats, start, momentum=momentum)
    new = {'detector': detector, 'features': looks, 'decoder': decoder}
    return places, deviation, jax.nn.sigmoid(painted), new

  def init(rng: PRNGKeyArray, batch: Batch) -> tuple[PyTree, PyTree]:
    rngs = jax.random.split(rng, 5)
    image = regions.cut_centre(jnp.asarray(batch.image[:1], float), margin)
    side, groups = image.shape[1], landmarks + 1
    inputs = {name: padded(image) for name in ('detector', 'features')}
    inputs['decoder'] = jnp.zeros((1, side, side, len(WIDTHS) * (groups + features)))
    variables = {
      name: networks[name].init(rng, inputs[name], train=False)
      for name, rng in zip(networks, rngs, strict=False)
    }
    params = {name: given['params'] for name, given in variables.items()}
    params['encode'] = random_linear(rngs[3], groups, features, code)
    params['decode'] = random_linear(rngs[4], groups, code, features)
    return params, {'stats': {name: given['batch_stats'] for name, given in variables.items()}}

  def loss(
    params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, step: Array
  ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    image, first, second, apart = pair_of(batch, rng)
    places, deviation, painted, stats = autoencode(
      params, aux['stats'], first, second, momentum=norm_momentum
    )
    valid = jnp.ones(len(image), bool) if batch.valid is None else batch.valid
    ratio = ratio_of(image.shape[1])

    def mean(cost: Float[Array, ' B']) -> Float[Array, '']:
      return (cost * valid).sum() / jnp.maximum(valid.sum(), 1)  # padding costs nothing

    def mean_of_both(cost: Callable[[Array], Array], given: Array) -> Float[Array, '']:
      return mean((cost(given[:, 0]) + cost(given[:, 1])) / 2)

    weight = jnp.asarray(reconstruct)[(step >= jnp.asarray(milestones, int)).sum()]
    wide = functools.partial(concentration, ratio=ratio)
    near = functools.partial(separation, ratio=ratio, bandwidth=bandwidth)
    parts = {
      'concentration': concentrate * mean_of_both(wide, deviation),
      'separation': separate * mean_of_both(near, places),
      'equivariance': follow
      * mean(disagreement(apart(places[:, 0], places[:, 1], deviation[:, 0]), ratio=ratio)),
      'reconstruction': weight * mean(reconstruction_error(image / 255, painted)),
      'decay': weight_decay * decay(params),
    }
    return sum(parts.values()), (aux | {'stats': stats}, parts)

  def detect(params: PyTree, aux: PyTree, image: Array) -> Float[Array, 'B h w G']:
    """The maps of the padded pictures; `image` is at network size, not padded."""
    image = standard(padded(jnp.asarray(image, float)))
    return jax.nn.softmax(run('detector', params, aux['stats'], image)[0])

  def describe(params: PyTree, aux: PyTree, image: Array, size: int | None = None) -> Pyramid:
    maps = detect(params, aux, image)[..., :-1]
    around = pad * maps.shape[1] // (image.shape[1] + 2 * pad)  # maps may be smaller
    return (regions.cut_centre(maps, around),)

  def find(params: PyTree, aux: PyTree, batch: Batch) -> tuple[Array, Array]:
    maps, side = detect(params, aux, batch.image)[..., :-1], batch.image.shape[1]
    edges = 2 * in_picture(moments(maps)[0], side) - 1
    return coords.edges_to_corners(edges, side=side), maps.max((1, 2))

  def paint(
    params: PyTree, aux: PyTree, image: Array, points: Array | None = None
  ) -> Float[Array, 'B S S 3']:
    maps, side = detect(params, aux, image), image.shape[1]
    seen = standard(padded(jnp.asarray(image, float)))
    codes = pool(params, maps, run('features', params, aux['stats'], seen)[0])
    places = in_picture(moments(maps[..., :-1])[0], side)
    if points is not None:
      places = (coords.corners_to_edges(points, side=side) + 1) / 2
    start = canvas(params, places, codes, side)
    return 255 * jax.nn.sigmoid(run('decoder', params, aux['stats'], start)[0])

  def after_update(params: PyTree, aux: PyTree, step: Array) -> PyTree:
    return aux

  def calibrate(params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, n: Array) -> PyTree:
    """Exact means over n + 1 training batches, warped pictures included, as published."""
    _, first, second, _ = pair_of(batch, jax.random.fold_in(rng, n))
    *_, new = autoencode(params, aux['stats'], first, second, momentum=0.0)
    stats = jax.tree.map(lambda old, new: old + (new - old) / (n + 1), aux['stats'], new)
    return aux | {'stats': stats}

  def pictures(batch: Batch, rng: PRNGKeyArray) -> Float[Array, '2 B P P 3']:
    _, first, second, _ = pair_of(batch, rng)
    return jnp.stack([first, second])

  return Method(
    init,
    loss,
    describe,
    after_update,
    landmarks=find,
    calibrate=calibrate,
    views=pictures,
    paint=paint,
  )

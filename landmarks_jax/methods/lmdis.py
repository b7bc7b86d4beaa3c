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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray

from landmarks_jax import losses
from landmarks_jax.augment import colour
from landmarks_jax.contracts import Array, Batch, Method, Pyramid, PyTree
from landmarks_jax.dtypes import at_least_float32, dtype_of
from landmarks_jax.geometry import coords, regions, sampling, splines
from landmarks_jax.models import skip_hourglass
from landmarks_jax.models.norm import with_one_more

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


def in_picture(points: Float[Array, '*shape 2'], *, ratio: float) -> Float[Array, '*shape 2']:
  """Positions in the padded picture -> in the picture, both from 0 to 1; may leave that."""
  return (points - 0.5) / ratio + 0.5


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
  # Of the bending a part is kept, of the affine map all; which is which depends on the unit of
  # length. It is the picture's, in which distances are s = REACH times those in the unit of `bent`,
  # the control points', and the basis is U(s^2 D) = s^2 (U(D) + D log s^2), but for EPSILON.
  # Weights, and weights times controls, sum to 0, so the second terms add up to a constant,
  # log s^2 sum_k w_k |control_k|^2: it is of the bending, and `offset`, its negative, of the rest.
  squared = (splines.control_grid(side=CONTROLS) ** 2).sum(-1)
  offset = math.log(REACH**-2) * jnp.einsum('bnc,n->bc', weights, squared, precision='highest')
  bent = bent.at[:, : CONTROLS**2].multiply(bending)
  bent = bent.at[:, CONTROLS**2].add((1 - bending) * offset)
  angle = jnp.deg2rad(rotation * jax.random.normal(rng_turn, (count,)))
  size = scale ** jax.random.normal(rng_size, (count,))
  turn = splines.similarity(angle, size)
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


class PaddedPair(NamedTuple):
  """A picture and a partner that shows the same landmarks elsewhere, both padded."""

  image: Float[Array, 'B S S 3']  # the picture without padding, 0..255
  first: Float[Array, 'B P P 3']
  second: Float[Array, 'B P P 3']
  # How far landmarks are apart, in a frame of -1 to 1, once the known motion is undone: a function
  # of their positions in `first`, those in `second`, and their deviations in `first`.
  apart: Callable[[Array, Array, Array], Float[Array, 'B K 2']]


def warped_pair(
  image: Float[Array, 'B S S 3'],
  warp: Warp,
  *,
  pad: int,
  warp_picture: Callable[[Array, Warp], Array] = warped,
) -> PaddedPair:
  """Pictures and their warps; `warp_picture` is `warped` or `warped_published`."""
  first = pad_with_border(image, pad)

  def apart(here: Array, there: Array, _: Array) -> Float[Array, 'B K 2']:
    return warp(2 * there - 1) - (2 * here - 1)

  return PaddedPair(image, first, warp_picture(first, warp), apart)


def film_pair(
  image: Float[Array, 'B S S 3'],
  after: Float[Array, 'B S S 3'],
  flow: Float[Array, 'B S S 2'],
  known: Bool[Array, 'B S S'],
  *,
  pad: int,
) -> PaddedPair:
  """Pictures of a film and later ones, with the flow between them, in pixels.

  A landmark counts by the share of its Gaussian in which the flow is known.
  """
  first = pad_with_border(image, pad)
  around = [(0, 0), (pad, pad), (pad, pad)]
  flow = jnp.pad(jnp.asarray(flow), [*around, (0, 0)]) * (2 / first.shape[1])
  known = jnp.pad(jnp.asarray(known), around)

  def apart(here: Array, there: Array, deviation: Array) -> Float[Array, 'B K 2']:
    moved, share = flow_at(*jax.lax.stop_gradient((here, deviation)), flow, known)
    return jnp.sqrt(share)[..., None] * (2 * (here - there) + moved)

  return PaddedPair(image, first, pad_with_border(after, pad), apart)


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


def pool(
  params: PyTree, maps: Float[Array, 'B h w G'], found: Float[Array, 'B h w C']
) -> Float[Array, 'B G code']:
  """Codes of what each landmark and the background look like.

  Args: params: with `encode`, a `random_linear`. maps: of the landmarks and the background, of any
  sum. found: maps of the feature network, whose mean under each map is encoded.
  """
  total = jnp.maximum(maps.sum((1, 2)), 1e-6)[..., None]
  mean = jnp.einsum('bhwg,bhwc->bgc', maps, found, precision='float32') / total
  return linear(params['encode'], mean)


def canvas(
  params: PyTree,
  points: Float[Array, 'B K 2'],
  codes: Float[Array, 'B K+1 code'],
  *,
  size: int,
  published: bool = False,
) -> Float[Array, 'B {size} {size} D']:
  """The decoder's input: where landmarks are, and painted there, what they look like.

  Args: params: with `decode`, a `random_linear`. points, size, published: see `heat_maps`. codes:
  from `pool`.
  """
  shares = heat_maps(points, size=size, published=published)
  paint = linear(params['decode'], codes)
  painted = jnp.einsum('byxlg,bgc->byxlc', shares, paint, precision='float32')
  flat = (*shares.shape[:3], -1)
  return jnp.concatenate([shares.reshape(flat), painted.reshape(flat)], axis=-1)


def networks_of(
  name: str,
  *,
  landmarks: int,
  width: float,
  appearance_width: float,
  **options: Any,
) -> dict[str, skip_hourglass.SkipHourglass]:
  """Detector, features and decoder; `options` are those of every SkipHourglass.

  Raises ValueError for a name that skip_hourglass.NETWORKS does not have.
  """
  if name not in skip_hourglass.NETWORKS:
    known = ', '.join(skip_hourglass.NETWORKS)
    raise ValueError(f'network={name!r}: choose from {known}')
  layers, make = skip_hourglass.NETWORKS[name], skip_hourglass.SkipHourglass
  return {
    'detector': make(layers.detector, landmarks + 1, width=width, **options),
    'features': make(layers.features, width=appearance_width, **options),
    'decoder': make(layers.decoder, 3, width=appearance_width, **options),
  }


def forward(
  network: nn.Module,
  params: PyTree,
  stats: PyTree,
  maps: Float[Array, 'B h w I'],
  *,
  momentum: float | None = None,
) -> tuple[Float[Array, 'B i j O'], PyTree]:
  """A network's maps in float32 at least, and its running statistics.

  Args: momentum: of the statistics in training mode; None is test mode.
  """
  if momentum is not None:
    network = network.clone(norm_momentum=momentum)
  found, changed = network.apply(
    {'params': params, 'batch_stats': stats},
    maps,
    train=momentum is not None,
    mutable=['batch_stats'],
  )
  return at_least_float32(found), changed['batch_stats']


def random_params(
  rng: PRNGKeyArray,
  networks: Mapping[str, nn.Module],
  image: Float[Array, '1 S S 3'],
  *,
  pad: int,
  landmarks: int,
  features: int,
  code: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parameters of the networks, `encode` and `decode` before training; statistics of the networks.

  Args: networks: from `networks_of`. image: one picture, not padded, of which only the size counts.
  features: channels of the feature network's maps. code: see `build`.
  """
  rngs = jax.random.split(rng, 5)
  side, groups = image.shape[1], landmarks + 1
  inputs = dict.fromkeys(('detector', 'features'), pad_with_border(image, pad))
  inputs['decoder'] = jnp.zeros((1, side, side, len(WIDTHS) * (groups + features)))
  variables = {
    name: networks[name].init(rng, inputs[name], train=False)
    for name, rng in zip(networks, rngs, strict=False)
  }
  params = {name: given['params'] for name, given in variables.items()}
  params['encode'] = random_linear(rngs[3], groups, features, code)
  params['decode'] = random_linear(rngs[4], groups, code, features)
  return params, {name: given['batch_stats'] for name, given in variables.items()}


def costs(
  pair: PaddedPair,
  places: Float[Array, 'B 2 K 2'],
  deviation: Float[Array, 'B 2 K'],
  painted: Float[Array, 'B S S 3'],
  *,
  ratio: float,
  bandwidth: float,
) -> dict[str, Float[Array, ' B']]:
  """The parts of the loss that pictures have, one number per picture each, without weights.

  Args: places, deviation: `moments` of the landmarks in both pictures of the pair. painted: the
  picture as the decoder repaints it, 0..1. ratio: of a picture's side to the padded one's.
  """

  def of_both(cost: Callable[[Array], Array], given: Array) -> Float[Array, ' B']:
    return (cost(given[:, 0]) + cost(given[:, 1])) / 2

  apart = pair.apart(places[:, 0], places[:, 1], deviation[:, 0])
  return {
    'concentration': of_both(functools.partial(concentration, ratio=ratio), deviation),
    'separation': of_both(functools.partial(separation, ratio=ratio, bandwidth=bandwidth), places),
    'equivariance': disagreement(apart, ratio=ratio),
    'reconstruction': reconstruction_error(pair.image / 255, painted),
  }


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
  if len(reconstruct) != len(milestones) + 1:
    raise ValueError(
      f'reconstruct={tuple(reconstruct)} has {len(reconstruct)} weights for {len(milestones)} '
      'milestones: expected one more'
    )
  colour.check_statistics(mean=mean, std=std)
  networks = networks_of(
    network,
    landmarks=landmarks,
    width=width,
    appearance_width=appearance_width,
    biases=biases,
    norm_groups=norm_groups,
    norm_momentum=norm_momentum,
    dtype=dtype_of(precision),
  )
  expose = functools.partial(
    colour.random_exposure, brightness=brightness, contrast=contrast, shared=shared_exposure
  )
  draw_warp = functools.partial(
    random_warp,
    displacement=displacement,
    bending=bending,
    rotation=rotation,
    scale=scale,
    translation=translation,
  )
  warp_picture = {'exact': warped, 'published': warped_published}[sampler]
  paint_codes = functools.partial(canvas, published=heat == 'published')

  # The networks on pictures.

  def run(
    name: str, params: PyTree, stats: PyTree, maps: Array, *, momentum: float | None = None
  ) -> tuple[Array, PyTree]:
    return forward(networks[name], params[name], stats[name], maps, momentum=momentum)

  def standard(image: Array) -> Array:
    return colour.standardise(image, mean=mean, std=std)

  def ratio_of(side: int) -> float:
    return side / (side + 2 * pad)

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
    start = paint_codes(params, in_picture(places[:, 0], ratio=ratio_of(side)), codes, size=side)
    painted, decoder = run('decoder', params, stats, start, momentum=momentum)
    new = {'detector': detector, 'features': looks, 'decoder': decoder}
    return places, deviation, jax.nn.sigmoid(painted), new

  def detect(params: PyTree, aux: PyTree, image: Array) -> Float[Array, 'B h w G']:
    """The maps of the padded pictures; `image` is at network size, not padded."""
    image = standard(pad_with_border(jnp.asarray(image, float), pad))
    return jax.nn.softmax(run('detector', params, aux['stats'], image)[0])

  # Training.

  def pair_of(batch: Batch, rng: PRNGKeyArray) -> PaddedPair:
    """The batch's centres and their partners, of one random exposure."""
    rng_exposure, rng_warp = jax.random.split(rng)
    names = 'image', 'next', 'flow', 'flow_valid'
    cut = regions.centre_crop(Batch(**{name: getattr(batch, name) for name in names}), margin)
    image = expose(rng_exposure, jnp.asarray(cut.image, float))
    if batch.next is None:
      warp = draw_warp(rng_warp, len(image))
      return warped_pair(image, warp, pad=pad, warp_picture=warp_picture)
    after = expose(rng_exposure, jnp.asarray(cut.next, float))
    return film_pair(image, after, cut.flow, cut.flow_valid, pad=pad)

  def init(rng: PRNGKeyArray, batch: Batch) -> tuple[PyTree, PyTree]:
    image = regions.cut_centre(jnp.asarray(batch.image[:1], float), margin)
    features = max(1, int(appearance_width * FEATURES))
    sizes = {'landmarks': landmarks, 'features': features, 'code': code}
    params, stats = random_params(rng, networks, image, pad=pad, **sizes)
    return params, {'stats': stats}

  def loss(
    params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, step: Array
  ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
    pair = pair_of(batch, rng)
    places, deviation, painted, stats = autoencode(
      params, aux['stats'], pair.first, pair.second, momentum=norm_momentum
    )
    found = costs(
      pair, places, deviation, painted, ratio=ratio_of(pair.image.shape[1]), bandwidth=bandwidth
    )
    weights = {'concentration': concentrate, 'separation': separate, 'equivariance': follow}
    passed = (step >= jnp.asarray(milestones, int)).sum()
    weights['reconstruction'] = jnp.asarray(reconstruct)[passed]
    parts = {k: weights[k] * losses.mean_of_valid(cost, batch.valid) for k, cost in found.items()}
    parts['decay'] = weight_decay * decay(params)
    return sum(parts.values()), (aux | {'stats': stats}, parts)

  def calibrate(params: PyTree, aux: PyTree, batch: Batch, rng: PRNGKeyArray, n: Array) -> PyTree:
    """Exact means over n + 1 training batches, warped pictures included, as published."""
    pair = pair_of(batch, jax.random.fold_in(rng, n))
    *_, new = autoencode(params, aux['stats'], pair.first, pair.second, momentum=0.0)
    return aux | {'stats': with_one_more(aux['stats'], new, n)}

  def pictures(batch: Batch, rng: PRNGKeyArray) -> Float[Array, '2 B P P 3']:
    pair = pair_of(batch, rng)
    return jnp.stack([pair.first, pair.second])

  # Use.

  def describe(params: PyTree, aux: PyTree, image: Array, size: int | None = None) -> Pyramid:
    maps = detect(params, aux, image)[..., :-1]
    around = pad * maps.shape[1] // (image.shape[1] + 2 * pad)  # maps may be smaller
    return (regions.cut_centre(maps, around),)

  def find(params: PyTree, aux: PyTree, batch: Batch) -> tuple[Array, Array]:
    maps, side = detect(params, aux, batch.image)[..., :-1], batch.image.shape[1]
    edges = 2 * in_picture(moments(maps)[0], ratio=ratio_of(side)) - 1
    return coords.edges_to_corners(edges, side=side), maps.max((1, 2))

  def paint(
    params: PyTree, aux: PyTree, image: Array, points: Array | None = None
  ) -> Float[Array, 'B S S 3']:
    maps, side = detect(params, aux, image), image.shape[1]
    seen = standard(pad_with_border(jnp.asarray(image, float), pad))
    codes = pool(params, maps, run('features', params, aux['stats'], seen)[0])
    places = in_picture(moments(maps[..., :-1])[0], ratio=ratio_of(side))
    if points is not None:
      places = (coords.corners_to_edges(points, side=side) + 1) / 2
    start = paint_codes(params, places, codes, size=side)
    return 255 * jax.nn.sigmoid(run('decoder', params, aux['stats'], start)[0])

  return Method(
    init,
    loss,
    describe,
    landmarks=find,
    calibrate=calibrate,
    views=pictures,
    paint=paint,
  )

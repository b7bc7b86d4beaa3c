"""Pure losses: arrays in, one number per example out; `mean_of_valid` makes them a batch's."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from landmarks_jax import correlation, shapes
from landmarks_jax.contracts import Array
from landmarks_jax.dtypes import at_least_float32
from landmarks_jax.geometry import sampling


def info_nce(
  query: Float[Array, 'B C'],
  key: Float[Array, 'B C'],
  negatives: Float[Array, 'N C'],
  *,
  temperature: float,
) -> Float[Array, ' B']:
  """InfoNCE with explicit negatives (van den Oord et al. 2018, eq. 4; MoCo, He et al. 2020, eq. 1).

  Args:
    query, key: [B, C], unit rows. negatives: [N, C], such as MoCo's queue.
    temperature: divides the products.

  No gradient is stopped here: pass `jax.lax.stop_gradient(key)` where the key is a target.
  Computed in at least float32. Raises ValueError that names the argument whose shape differs.
  Fixture moco_memory.

  >>> import numpy as np
  >>> one_hot = np.eye(2, dtype=np.float32)
  >>> print(np.round(np.asarray(info_nce(one_hot, one_hot, -one_hot, temperature=1.0)), 3))
  [0.408 0.408]
  """
  shapes.check(query=(query, 'B C'), key=(key, 'B C'), negatives=(negatives, 'N C'))
  query, key, negatives = (at_least_float32(x) for x in (query, key, negatives))
  # The softmax multiplies the rounding errors of a product by 1 / temperature.
  product = functools.partial(jnp.einsum, precision='float32')
  positive = product('bc,bc->b', query, key)[:, None]
  logits = jnp.concatenate([positive, product('bc,nc->bn', query, negatives)], axis=1)
  return -jax.nn.log_softmax(logits / temperature)[:, 0]


def in_batch_nce(
  query: Float[Array, 'B C'], key: Float[Array, 'B C'], *, temperature: float
) -> Float[Array, ' B']:
  """InfoNCE whose negatives are the keys of the other examples (Chen et al. 2021, MoCo v3, alg. 1).

  Args:
    query, key: [B, C], unit rows; row i of one belongs to row i of the other.
    temperature: divides the products.

  The algorithm's factor of 2 * temperature is left out.
  Computed in at least float32. Raises ValueError that names the argument whose shape differs.
  """
  shapes.check(query=(query, 'B C'), key=(key, 'B C'))
  query, key = at_least_float32(query), at_least_float32(key)
  # The softmax multiplies the rounding errors of a product by 1 / temperature.
  logits = jnp.einsum('bc,nc->bn', query, key, precision='float32') / temperature
  return -jnp.diagonal(jax.nn.log_softmax(logits))


def smooth_l1_landmarks(
  points: Float[Array, 'B K 2'],
  target: Float[Array, 'B K 2'],
  visible: Bool[Array, 'B K'],
  *,
  magnification: float = 10.0,
) -> Float[Array, ' B']:
  """Smooth-L1 (beta 1) of magnified normalised coordinates, the paper's landmark loss (section 5).

  Args: points, target: [B, K, 2], normalised. visible: [B, K].
  Invisible landmarks cost nothing and get no gradient. The mean is over all 2K coordinates,
  invisible ones included, as published: an example with few visible landmarks weighs less.
  Computed in at least float32. Raises ValueError that names the argument whose shape differs.
  Fixture regression_losses.
  """
  shapes.check(points=(points, 'B K 2'), target=(target, 'B K 2'), visible=(visible, 'B K'))
  # Masked before the square, so that a NaN in an invisible target reaches neither loss nor
  # gradient.
  points, target = at_least_float32(points), at_least_float32(target)
  difference = magnification * jnp.where(visible[..., None], points - target, 0)
  size = jnp.abs(difference)
  cost = jnp.where(size < 1, 0.5 * difference**2, size - 0.5)
  return cost.mean(axis=(1, 2))


def spatial_contrast(
  features: Float[Array, 'B h w C'],
  *,
  sharpness: float,
  stride: float,
  power: float | Sequence[float] = 0.5,
  normalise: bool = True,
  groups: Sequence[int] | None = None,
) -> Float[Array, ' B'] | Float[Array, 'B n']:
  """Expected distance from a position to its match in its own picture (ICCV 2021, section 3).

  mean_u sum_v p(v|u) |u - v|^power with p(v|u) = softmax_v(sharpness * <f_u, f_v>): low where
  descriptors differ between positions, and alike only where they are near.

  Args:
    features: [B, h, w, C]. sharpness: multiplies the products; the paper's temperature.
    stride: pixels of the input from one position to the next, the unit of distances.
    power: of the distance, above 0; n of them give [B, n], in little more time than one.
    normalise: scale descriptors to unit length first; a descriptor of zeros stays zero.
    groups: channel counts of consecutive slices that are normalised separately, so that their
      products add up; None is one slice.

  Blockwise (`correlation`), in at least float32. Raises ValueError for another rank, and where
  groups do not add up to C. Specification section 4; fixture dense_corr_loss.
  """
  channels = shapes.check(features=(features, 'B h w C'))['C']
  groups = [channels] if groups is None else list(groups)
  if sum(groups) != channels:
    raise ValueError(f'groups {tuple(groups)} sum to {sum(groups)}, but features has C={channels}')
  if normalise:
    slices = jnp.split(features, np.cumsum(groups)[:-1], axis=-1)
    features = jnp.concatenate([unit(part) for part in slices], axis=-1)
  positions = _positions(features, stride)
  rows = _rows(features)
  distance = functools.partial(correlation.expected_distance, sharpness=sharpness, power=power)
  return jax.vmap(distance, in_axes=(0, 0, None, None))(rows, rows, positions, positions).mean(1)


def equivariance_nll(
  query: Float[Array, 'B h w C'],
  key: Float[Array, 'B h w C'],
  flow: Float[Array, 'B H W 2'],
  flow_valid: Bool[Array, 'B H W'],
  *,
  sharpness: float = 1.0,
) -> Float[Array, ' B']:
  """How unlikely each position's true match is (Thewlis et al. 2017, eq. 4).

  -mean_u log p(gu|u) with p(v|u) = softmax_v(sharpness * <query_u, key_v>) and gu = u + flow(u);
  log-probabilities are interpolated bilinearly between the cells of the key.

  Args:
    query, key: [B, h, w, C], label maps of a picture and of the next one. Cell (i, j) is at
      pixel (stride * j, stride * i), stride = H / h.
    flow, flow_valid: [B, H, W, 2] in pixels and [B, H, W], as in `contracts.Pair`.
    sharpness: multiplies the products; the paper's temperature.

  Positions that are not valid, or whose match leaves the grid of the key's cells, are excluded from
  the mean and get no gradient; if none remain, the loss is 0. Blockwise (`correlation`), in at
  least float32. Raises ValueError that names the argument whose shape differs, and where H and W
  are not multiples of h and w. Specification equivariant, section 1.
  """
  positions, target, valid = _matches(query, key, flow, flow_valid)
  valid &= ((target >= 0) & (target <= positions[-1])).all(-1)
  query, target = (jnp.where(valid[..., None], x, 0) for x in (_rows(query), target))
  key = at_least_float32(key)
  # A map one cell high or wide has its last cell at 0, and so has every match that is on it.
  matched = sampling.bilinear(key, 2 * target / jnp.maximum(positions[-1], 1) - 1)
  score = sharpness * jnp.einsum('bpc,bpc->bp', query, matched, precision='float32')
  normaliser = functools.partial(correlation.log_normaliser, sharpness=sharpness)
  return jax.vmap(mean_of_valid)(jax.vmap(normaliser)(query, _rows(key)) - score, valid)


def equivariance_distance(
  query: Float[Array, 'B h w C'],
  key: Float[Array, 'B h w C'],
  flow: Float[Array, 'B H W 2'],
  flow_valid: Bool[Array, 'B H W'],
  *,
  power: float = 0.5,
  sharpness: float = 1.0,
) -> Float[Array, ' B']:
  """Expected distance of each position's match from the true one (Thewlis et al. 2017, eq. 5).

  mean_u sum_v p(v|u) |v - gu|^power in pixels of the input; p, gu and the arguments are those of
  `equivariance_nll`, and the power, the paper's gamma, above 0, makes the distance robust.

  Positions that are not valid are excluded from the mean and get no gradient; if none remain, the
  loss is 0. A match outside the picture counts, with its distance, unless `flow_valid` excludes it:
  as published in DVE, whose loss has no mask. Blockwise, in at least float32, with the errors of
  `equivariance_nll`. Specification equivariant, section 1; fixture dve_losses.
  """
  positions, target, valid = _matches(query, key, flow, flow_valid)
  query, target = (jnp.where(valid[..., None], x, 0) for x in (_rows(query), target))
  distance = functools.partial(correlation.expected_distance, sharpness=sharpness, power=power)
  cost = jax.vmap(distance, in_axes=(0, 0, 0, None))(query, _rows(key), target, positions)
  return jax.vmap(mean_of_valid)(cost, valid)


def descriptor_exchange(
  query: Float[Array, 'B h w C'], auxiliary: Float[Array, 'B i j C'], *, sharpness: float = 1.0
) -> Float[Array, 'B h w C']:
  """Descriptors re-expressed in those of another picture (DVE, Thewlis et al. 2019).

  sum_w p(w|u) auxiliary_w with p(w|u) = softmax_w(sharpness * <query_u, auxiliary_w>): the label
  of a position must be one that another object of the category has too. Compare the result, not
  the query, with the next picture. DVE's vectors of length 20 amount to `unit` ones at sharpness
  400, and its auxiliary picture is the next one in the batch, `jnp.roll(query, -1, axis=0)`.

  Args: query: [B, h, w, C]. auxiliary: [B, i, j, C]. sharpness: multiplies the products.
  Blockwise (`correlation`), in at least float32. Raises ValueError that names the argument whose
  shape differs. Fixture dve_losses.
  """
  shapes.check(query=(query, 'B h w C'), auxiliary=(auxiliary, 'B i j C'))
  mean = functools.partial(correlation.expected_key, sharpness=sharpness)
  return jax.vmap(mean)(_rows(query), _rows(auxiliary)).reshape(query.shape)


def unit(rows: Float[Array, '*shape C']) -> Float[Array, '*shape C']:
  """Descriptors scaled to length 1; one of zeros stays zero, with a finite gradient.

  Args: rows: [..., C]; the greatest number of each is 0 or, without its sign, from 2e-38 to 8e37.
  Others may give zeros or nan. Computed, and returned, in at least float32.
  """
  rows = at_least_float32(rows)  # lengths that differ by rounding would count as similarity
  # Scaled first: squares of small numbers vanish. The direction does not depend on the scale.
  top = jax.lax.stop_gradient(jnp.abs(rows).max(-1, keepdims=True))
  rows = rows / jnp.where(top == 0, 1, top)
  # The sum is 0 or at least 1: the bound keeps the gradient at 0 finite and affects no other.
  return rows * jax.lax.rsqrt(jnp.maximum((rows * rows).sum(-1, keepdims=True), 0.5))


def mean_of_valid(
  values: Float[Array, 'B *shape'],
  valid: Bool[Array, ' B'] | None,
  *,
  count: Int[Array, ''] | None = None,
) -> Float[Array, '*shape']:
  """Mean over the valid examples (None: all) of a batch; 0, without gradient, where there are none.

  Values of other examples, even NaN, reach neither the mean nor its gradient. count: how many are
  valid, where that is known already. Raises ValueError where the batches differ.
  """
  if valid is None:
    return values.mean(0) if len(values) else jnp.zeros(values.shape[1:], values.dtype)
  valid = jnp.asarray(valid, bool)  # a number would be a weight in the count
  # A single one would be broadcast, and the result be the sum.
  shapes.check(values=(values, 'B *shape'), valid=(valid, 'B'))
  # A product with the mask would keep a NaN.
  kept = jnp.where(valid.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
  return kept.sum(0) / jnp.maximum(valid.sum() if count is None else count, 1)


def _matches(
  query: Float[Array, 'B h w C'],
  key: Float[Array, 'B h w C'],
  flow: Float[Array, 'B H W 2'],
  flow_valid: Bool[Array, 'B H W'],
) -> tuple[Float[Array, 'P 2'], Float[Array, 'B P 2'], Bool[Array, 'B P']]:
  """Positions of the cells and of their matches, both in pixels; and which matches are known."""
  sizes = shapes.check(
    query=(query, 'B h w C'),
    key=(key, 'B h w C'),
    flow=(flow, 'B H W 2'),
    flow_valid=(flow_valid, 'B H W'),
  )
  h, w, height, width = (sizes[name] for name in 'hwHW')
  stride = height // h
  if (height, width) != (stride * h, stride * w):
    raise ValueError(
      f'flow: {height}x{width} pixels are not a whole multiple of the {h}x{w} cells of query; '
      'choose a network or a size of pictures that halves without a remainder'
    )
  flow, flow_valid = (x[:, ::stride, ::stride] for x in (flow, flow_valid))
  positions = _positions(query, stride)
  target = positions + jax.lax.stop_gradient(_rows(flow))
  # Cast for masks of 0 and 255 and the like: what is valid is counted.
  return positions, target, flow_valid.reshape(target.shape[:2]).astype(bool)


def _positions(maps: Float[Array, 'B h w C'], stride: int | float) -> Float[Array, 'P 2']:
  """(x, y) of the cells of a map in pixels, in the order of `_rows` and in at least float32."""
  y, x = np.indices(maps.shape[1:3]).reshape(2, -1)
  return jnp.asarray(stride * np.stack([x, y], axis=1), jnp.promote_types(maps.dtype, jnp.float32))


def _rows(maps: Float[Array, 'B h w C']) -> Float[Array, 'B P C']:
  # All sizes are told: of an empty batch, reshape cannot know one.
  batch, height, width, channels = maps.shape
  return at_least_float32(maps).reshape(batch, height * width, channels)

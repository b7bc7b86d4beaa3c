"""Max pooling and its gradient against loops over windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models import pooling

CASES = [  # height, width, side, stride, padding
  (8, 8, 3, 2, 1),
  (9, 7, 3, 2, 1),
  (9, 8, 2, 2, 0),
  (5, 6, 3, 1, 1),
  (11, 11, 5, 3, 2),
  (7, 7, 2, 3, 0),
  (13, 14, 12, 1, 0),  # more pixels in a window than a byte counts
]


def loops(x, slope, side, stride, padding):
  """The greatest of every window, and the slopes that each pixel gets as the first greatest."""
  around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  padded = np.pad(x, around, constant_values=-np.inf)
  values, slopes = np.zeros(slope.shape), np.zeros(padded.shape)
  for b, i, j, c in np.ndindex(*slope.shape):
    window = padded[b, i * stride : i * stride + side, j * stride : j * stride + side, c]
    k, m = divmod(int(window.argmax()), side)
    values[b, i, j, c] = window[k, m]
    slopes[b, i * stride + k, j * stride + m, c] += slope[b, i, j, c]
  inside = (slice(padding, padding + n) for n in x.shape[1:3])
  return values, slopes[:, *inside]


@pytest.mark.parametrize(('height', 'width', 'side', 'stride', 'padding'), CASES)
def test_values_and_gradients_are_those_of_loops_over_windows(height, width, side, stride, padding):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 4, (2, height, width, 3)).astype(np.float32)  # many windows have equal pixels
  y, pull = jax.vjp(lambda x: pooling.max_pool(x, side, stride, padding), x)
  slope = rng.normal(size=y.shape).astype(np.float32)
  values, slopes = loops(x, slope, side, stride, padding)
  np.testing.assert_array_equal(y, values)
  np.testing.assert_allclose(pull(slope)[0], slopes, atol=1e-6)


def test_no_window_loses_its_gradient_where_what_was_pooled_is_rounded_apart(monkeypatch):
  pool, up = pooling.nn.max_pool, np.float32(1 + 2**-23)
  monkeypatch.setattr(pooling.nn, 'max_pool', lambda *given, **more: pool(*given, **more) * up)
  x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
  y, pull = jax.vjp(lambda x: pooling.max_pool(x, 3, 2, 1), x)
  assert pull(jnp.ones_like(y))[0].sum() == y.size


def test_bfloat16_stays_bfloat16_forward_and_backward():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 2)), jnp.bfloat16)
  y, pull = jax.vjp(lambda x: pooling.max_pool(x, 3, 2, 1), x)
  assert y.dtype == pull(y)[0].dtype == jnp.bfloat16

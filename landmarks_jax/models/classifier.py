"""A linear classifier on frozen features: logistic regression at its minimum (it is convex)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Bool, Float, Int

from landmarks_jax.contracts import Array

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of the ridge, on features of variance 1
HELD_OUT = 10  # one example in so many, at random, is held out to choose among them
ITERATIONS = 300
ROWS = 65_536  # on the device at a time


class Classifier(NamedTuple):
  """Class scores of features [N, C] are `features @ kernel + bias`."""

  kernel: np.ndarray  # [C, L]
  bias: np.ndarray  # [L]


def fit(
  features: Float[np.ndarray, 'N C'], label: Int[np.ndarray, ' N'], *, classes: int
) -> Classifier:
  """Multinomial logistic regression with a ridge whose strength is chosen on a random tenth.

  Args: features: finite. label: 0 to classes - 1, of every example.

  Minimises mean cross-entropy + strength / 2 * |kernel|^2 with features scaled to mean 0 and
  variance 1, by L-BFGS, from the strongest ridge to the weakest; then refits on all examples. With
  fewer than 2 * HELD_OUT examples the middle strength is used. Raises ValueError for a label out of
  range and for features that are not finite.
  """
  if not np.isfinite(features).all():
    raise ValueError('a classifier needs finite features')
  if label.min() < 0 or label.max() >= classes:
    raise ValueError(f'labels from {label.min()} to {label.max()}: expected 0 to {classes - 1}')
  features, mean, deviation = _standardised(_at_least_float32(features))
  held = _held_out(len(label))
  chosen = STRENGTHS[len(STRENGTHS) // 2]
  start = np.zeros((features.shape[1] + 1, classes))
  if len(label) >= 2 * HELD_OUT:
    chosen, start = _choose(features, label, held, start)
  weights = _minimise(features, label, strength=chosen, start=start)
  kernel = weights[:-1] / deviation[:, None]
  return Classifier(kernel, weights[-1] - mean @ kernel)


def predict(classifier: Classifier, features: Float[np.ndarray, 'N C']) -> Int[np.ndarray, ' N']:
  """The class with the highest score, for each example."""
  return (_at_least_float32(features) @ classifier.kernel + classifier.bias).argmax(1)


def _at_least_float32(features: Float[np.ndarray, 'N C']) -> Float[np.ndarray, 'N C']:
  """On the host, where a sum of many halves overflows or stops growing."""
  return np.asarray(features, np.promote_types(features.dtype, np.float32))


def _standardised(
  features: Float[np.ndarray, 'N C'],
) -> tuple[Float[np.ndarray, 'N C'], Float[np.ndarray, ' C'], Float[np.ndarray, ' C']]:
  """Features scaled to mean 0 and variance 1; their mean and deviation, 1 where they are constant.

  Sums are float64: NumPy adds row by row, and a float32 sum of many rows stops growing. Squares are
  those of the features' dtype, so that float32 deviations are right from 1e-18 to 1e18.
  """
  mean = features.mean(0, dtype=np.float64).astype(features.dtype)
  features = features - mean
  deviation = np.sqrt(np.square(features).mean(0, dtype=np.float64)).astype(features.dtype)
  deviation = np.where(deviation > 0, deviation, 1)
  features /= deviation
  return features, mean, deviation


def _held_out(count: int) -> Bool[np.ndarray, '{count}']:
  """The same examples every time, but none by their place: every tenth may be of one class."""
  bits = np.random.PCG64(0).random_raw(count)  # bits, as in evaluation/few_shot.py
  return np.argsort(np.argsort(bits, kind='stable')) % HELD_OUT == HELD_OUT - 1


def _choose(
  features: Float[np.ndarray, 'N C'],
  label: Int[np.ndarray, ' N'],
  held: np.ndarray,
  weights: Float[np.ndarray, 'D L'],
) -> tuple[float, Float[np.ndarray, 'D L']]:
  """The strength with the most correct held-out examples (strongest of equals), and its weights.

  Each strength starts from the weights of the previous one.
  """
  found = []
  for strength in STRENGTHS:
    weights = _minimise(features[~held], label[~held], strength=strength, start=weights)
    predicted = predict(Classifier(weights[:-1], weights[-1]), features[held])
    found.append(((predicted == label[held]).mean(), strength, weights))
  _, strength, weights = max(found, key=lambda given: given[:2])
  return strength, weights


def _minimise(
  features: Float[np.ndarray, 'N C'],
  label: Int[np.ndarray, ' N'],
  *,
  strength: float,
  start: Float[np.ndarray, 'D L'],
) -> Float[np.ndarray, 'D L']:
  """The fitted kernel and, in the last row, the bias."""

  def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
    weights = flat.reshape(start.shape)
    value, slope = 0.0, np.zeros(start.shape)
    for first in range(0, len(label), ROWS):
      rows = slice(first, first + ROWS)
      part, steepness = _cross_entropy(np.float32(weights), features[rows], label[rows])
      value, slope = value + float(part), slope + np.asarray(steepness, float)
    value, slope = value / len(label), slope / len(label)
    slope[:-1] += strength * weights[:-1]
    return value + strength / 2 * (weights[:-1] ** 2).sum(), slope.ravel()

  options = {'maxiter': ITERATIONS}
  found = scipy.optimize.minimize(cost, start.ravel(), jac=True, method='L-BFGS-B', options=options)
  return found.x.reshape(start.shape)


@jax.jit
@jax.value_and_grad
def _cross_entropy(
  weights: Float[Array, 'D L'], features: Float[Array, 'N C'], label: Int[Array, ' N']
) -> Float[Array, '']:
  """Cross-entropy, summed over examples."""
  scores = jnp.matmul(features, weights[:-1], precision='float32') + weights[-1]
  return -jnp.take_along_axis(jax.nn.log_softmax(scores), label[:, None], axis=1).sum()

"""Finds what may be wrong with landmarks: labels in, findings out."""

import itertools
import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Complex, Float, Int

from landmarks_jax import metrics
from landmarks_jax.data.audit import Finding, Item
from landmarks_jax.interop.landmark_csv import LabelTable

APART = 0.25  # of the object's radius; landmarks usually farther apart do not coincide by rounding
LEAST_SHAPES = 8  # fewer have no majority
EXCHANGED = 'left and right exchanged'
UNREAD = '; it is there, but such files are not read: save it as JPEG or PNG'
ADVICE = {
  'pictures without labels': 'Evaluations leave them out only with unlabelled=skip.',
  'labels without a picture': 'The picture is missing or cannot be read.',
  'points outside': 'Landmarks that are not in their picture; pixels count from 0.',
  'equal points': (
    'Two landmarks at one place, which are well apart in most pictures: often a placeholder, or a '
    'landmark that was not visible and should say so.'
  ),
  EXCHANGED: (
    'Their landmarks fit the shape of the others at least twice as well once left and right are '
    'exchanged: labelled from the other side, or mirrored without their labels.'
  ),
  'odd shapes': (
    'Landmarks far from where the others have them, after the best shift, turn and scale: a '
    'mistake, or a rare pose. Beyond the upper quartile by three times the range of the quartiles.'
  ),
}


def findings(
  labels: LabelTable,
  sizes: Mapping[str, tuple[int, int]],
  *,
  flip_pairs: Sequence[tuple[int, int]],
  others: Collection[str] = (),
) -> list[Finding]:
  """What is wrong with landmarks.

  Args: sizes: width and height of every picture that can be read. flip_pairs: indices of the
  landmarks that mirroring exchanges. others: files whose extension is not read.
  """
  files = [file for file in labels.points if file in sizes]
  points = np.array([labels.points[file] for file in files]).reshape(-1, len(labels.names), 2)
  size = np.array([sizes[file] for file in files], int).reshape(-1, 2)
  swapped, odd = _odd_shapes(points, labels.names, flip_pairs)
  found = {
    'pictures without labels': [[Item(file)] for file in sizes if file not in labels.points],
    'labels without a picture': [
      [Item(file, labels.places[file] + (UNREAD if file in others else ''))]
      for file in labels.points
      if file not in sizes
    ],
    'points outside': _noted(files, _outside(points, size, labels.names)),
    'equal points': _noted(files, _equal(points, labels.names)),
    EXCHANGED: _noted(files, swapped),
    'odd shapes': _noted(files, odd),
  }
  return [Finding(name, ADVICE[name], groups, landmarks=True) for name, groups in found.items()]


def _noted(files: Sequence[str], notes: Mapping[int, str]) -> list[list[Item]]:
  return [[Item(files[i], note)] for i, note in notes.items()]


def _outside(
  points: Float[np.ndarray, 'N K 2'], size: Int[np.ndarray, 'N 2'], names: Sequence[str]
) -> dict[int, str]:
  beyond = ((points < -0.5) | (points > size[:, None] - 0.5)).any(axis=-1)  # False for nan
  rows = np.flatnonzero(beyond.any(axis=-1)).tolist()
  return {i: _list([names[k] for k in np.flatnonzero(beyond[i])]) for i in rows}


def _equal(points: Float[np.ndarray, 'N K 2'], names: Sequence[str]) -> dict[int, str]:
  """Landmarks that coincide in a picture although their median distance over all is not small."""
  shapes = _complex(points)
  with np.errstate(invalid='ignore', divide='ignore'):  # without points, or all at one place
    shapes = shapes / _radius(shapes)[:, None]
  notes: dict[int, list[str]] = {}
  for a, b in itertools.combinations(range(len(names)), 2):
    distance = np.abs(shapes[:, a] - shapes[:, b])
    both = np.flatnonzero(distance == 0)
    if len(both) and np.nanmedian(distance) > APART:
      for i in both:
        notes.setdefault(int(i), []).append(f'{names[a]} = {names[b]}')
  most = sorted(notes, key=lambda i: -len(notes[i]))
  return {i: _list(notes[i]) for i in most}


def _list(words: Sequence[str]) -> str:
  shown = ', '.join(words[:3])
  return shown + (f' and {len(words) - 3} more' if len(words) > 3 else '')


def _odd_shapes(
  points: Float[np.ndarray, 'N K 2'], names: Sequence[str], flip_pairs: Sequence[tuple[int, int]]
) -> tuple[dict[int, str], dict[int, str]]:
  """Notes on shapes that fit once left and right are exchanged, and on other outliers.

  Shapes are aligned with the median shape by shift, rotation and scale, never mirrored. Outliers
  exceed the upper quartile by more than three interquartile ranges (Tukey's far outliers).
  """
  shapes = _complex(points)
  judged = np.isfinite(shapes).sum(axis=-1) >= 3
  if judged.sum() < LEAST_SHAPES:
    return {}, {}
  middle = median_shape(shapes[judged])
  error = misfit(shapes, middle)
  low, high = np.nanquantile(error, (0.25, 0.75))
  doubtful = np.flatnonzero(error > high)
  doubtful = doubtful[np.argsort(-error[doubtful], kind='stable')]
  exchanges = _exchanges(names, flip_pairs)
  errors = [misfit(shapes[doubtful][:, order], middle) for order in exchanges.values()]
  errors = np.nan_to_num(errors, nan=np.inf)
  swapped, odd = {}, {}
  for i, ways in zip(doubtful.tolist(), errors.T, strict=True):
    way = int(ways.argmin())
    if ways[way] < error[i] / 2:
      reason = f'{ways[way]:.2f} with {list(exchanges)[way]} exchanged'
      swapped[i] = f'off by {error[i]:.2f} of the radius of the object, {reason}'
    elif error[i] > high + 3 * (high - low):
      away = np.abs(_aligned(shapes[i : i + 1], middle)[0] - middle) / _radius(middle[None])[0]
      k = int(np.nanargmax(away))
      odd[i] = f'{names[k]} is off by {away[k]:.2f} of the radius of the object'
  return swapped, odd


def _exchanges(names: Sequence[str], flip_pairs: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
  """Orders of the landmarks with left and right exchanged: none, all of them, each pair alone."""
  ways = {'nothing': [], 'all left and right': flip_pairs}
  ways |= {f'{names[a]} and {names[b]}': [(a, b)] for a, b in flip_pairs}
  orders = {}
  for what, pairs in ways.items():
    other = dict(pairs) | {b: a for a, b in pairs}
    orders[what] = [other.get(k, k) for k in range(len(names))]
  return orders


def misfit(
  shapes: Complex[np.ndarray, 'N K'], reference: Complex[np.ndarray, ' K']
) -> Float[np.ndarray, ' N']:
  """How far points lie from the reference after alignment: their root mean square distance to it.

  In units of the reference's root mean square radius; points are x + iy, nan where not visible.
  nan for shapes with fewer than three points of the reference: any two can be aligned.
  """
  error = _root_mean_square(_aligned(shapes, reference) - reference) / _radius(reference[None])[0]
  common = (np.isfinite(shapes) & np.isfinite(reference)).sum(axis=-1)
  return np.where(common >= 3, error, np.nan)


def median_shape(shapes: Complex[np.ndarray, 'N K']) -> Complex[np.ndarray, ' K']:
  """The median of shapes, aligned first with one that fits most of them, then with the median."""
  complete = np.argsort(-np.isfinite(shapes).sum(axis=-1), kind='stable')
  tried = shapes[complete[np.linspace(0, len(shapes) // 2, 25, dtype=int)]]
  middle = min(tried, key=lambda one: np.median(np.nan_to_num(misfit(shapes, one), nan=np.inf)))
  for _ in range(5):
    aligned = _aligned(shapes, middle)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', RuntimeWarning)  # a landmark missing everywhere stays nan
      middle = np.nanmedian(aligned.real, axis=0) + 1j * np.nanmedian(aligned.imag, axis=0)
  return middle


def _aligned(
  shapes: Complex[np.ndarray, 'N K'], reference: Complex[np.ndarray, ' K']
) -> Complex[np.ndarray, 'N K']:
  """Shapes shifted, rotated and scaled to the reference, by least squares over common points."""
  known = np.isfinite(shapes) & np.isfinite(reference)
  moved, aim = np.where(known, shapes, np.nan), np.where(known, reference, np.nan)
  centre, target = (metrics.mean_of_known(z, axis=-1, keepdims=True) for z in (moved, aim))
  size = np.where(known, np.abs(moved - centre) ** 2, 0).sum(axis=-1, keepdims=True)
  product = np.where(known, (moved - centre).conj() * (aim - target), 0)
  turn = product.sum(axis=-1, keepdims=True) / np.where(size > 0, size, np.nan)
  return turn * (shapes - centre) + target


def _complex(points: Float[np.ndarray, 'N K 2']) -> Complex[np.ndarray, 'N K']:
  return points[..., 0] + 1j * points[..., 1]


def _radius(shapes: Complex[np.ndarray, 'N K']) -> Float[np.ndarray, ' N']:
  return _root_mean_square(shapes - metrics.mean_of_known(shapes, axis=-1, keepdims=True))


def _root_mean_square(z: Complex[np.ndarray, 'N K']) -> Float[np.ndarray, ' N']:
  return np.sqrt(metrics.mean_of_known(np.abs(z) ** 2, axis=-1))

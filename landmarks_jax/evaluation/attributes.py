"""What landmarks found without labels tell about a picture as a whole: is this person smiling?

One linear classifier per attribute sees only the coordinates of the discovered landmarks (lmdis,
CVPR 2018: the authors' slides; specification lmdis, section 8). The classifier is not published;
here it is a linear SVM.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import features, scoring
from landmarks_jax.evaluation.scoring import Metric
from landmarks_jax.evaluation.spread import ALONE, Spread

DISCOVERS = True  # it judges landmarks that a method finds by itself
METRICS = (Metric('accuracy', 'attributes predicted from landmarks, % correct', True),)
CELEBA = (  # those of the published figure
  *('Arched_Eyebrows', 'Bags_Under_Eyes', 'Big_Lips', 'Big_Nose', 'Double_Chin'),
  *('High_Cheekbones', 'Male', 'Mouth_Slightly_Open', 'Narrow_Eyes', 'Oval_Face'),
  *('Pointy_Nose', 'Receding_Hairline', 'Smiling'),
)


class _Seen(NamedTuple):
  """The landmarks of every picture of a split as one row, and its attributes."""

  landmarks: Float[np.ndarray, 'N D']
  attributes: Bool[np.ndarray, 'N A']


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  baselines: Mapping[str, Predictions] | None = None,
  margin: int = 0,
  names: Sequence[str] = CELEBA,
  strength: float = 1.0,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, Predictions]:
  """Predicts nothing: attributes are not landmarks, and `measure` has their scores.

  Args:
    random_init: variants of the untrained network; the better one is the row. base, baselines:
      unused.
    margin: pixels cut from each side of the frame.
    names: of the attributes, as in the dataset.
    strength: C of the SVM, the weight of its errors.
    train, test: names of the splits.
  """
  check(open_split, names=names, strength=strength, train=train, test=test)
  return {}


def check(
  open_split: Callable[[str], Source],
  *,
  names: Sequence[str] = CELEBA,
  strength: float = 1.0,
  train: str = 'train',
  test: str = 'test',
  **others: Any,
) -> None:
  """Raises ValueError for what `measure` cannot do, from the sets' metadata alone."""
  _classifiers()
  if strength <= 0:
    raise ValueError(f'strength={strength}: expected more than 0')
  if not names:
    raise ValueError('names is empty: expected names of attributes')
  for name in names:
    scoring.check_group(name, what='attribute')
  for split in (train, test):
    there = open_split(split).info.attributes
    missing = [name for name in names if name not in there]
    if missing:
      raise ValueError(
        f'the split {split!r} has no attribute {missing[0]!r}; it has: {", ".join(there) or "none"}'
      )


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """No scores: see `measure`."""
  return {}


def measure(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  random_init: Mapping[str, Describer],
  base: Describer | None = None,
  margin: int = 0,
  names: Sequence[str] = CELEBA,
  strength: float = 1.0,
  train: str = 'train',
  test: str = 'test',
  batch_size: int = 128,
  spread: Spread = ALONE,
) -> dict[str, float]:
  """accuracy, in percent, by row: the mean over attributes, then each alone (accuracy_Smiling).

  The row majority predicts for every picture what most training pictures are. Args: see `run`.
  """
  sources = open_split(train), open_split(test)
  options = {'margin': margin, 'batch_size': batch_size, 'spread': spread}

  def look(describer: Describer) -> list[_Seen]:
    return [_look(describer, source, names, **options) for source in sources]

  def accuracy(given: list[_Seen]) -> dict[str, float]:
    return _by_name(names, classify(*given, strength=strength))

  def majority(given: list[_Seen]) -> dict[str, float]:
    known, truth = (split.attributes for split in given)
    usual = known.mean(0) >= 0.5
    return _by_name(names, 100 * (truth == usual).mean(0))

  found = scoring.measured(
    look,
    accuracy,
    describer,
    random_init=random_init,
    quality=lambda scores: scores[''],
    blind={scoring.MAJORITY: majority},
  )
  return {
    scoring.score_name('accuracy', row, name): value
    for row, scores in found.items()
    for name, value in scores.items()
  }


def classify(
  train: tuple[Float[np.ndarray, 'N D'], Bool[np.ndarray, 'N A']],
  test: tuple[Float[np.ndarray, 'M D'], Bool[np.ndarray, 'M A']],
  *,
  strength: float = 1.0,
) -> Float[np.ndarray, ' A']:
  """Percent of the test pictures that a linear SVM classifies correctly, for each attribute.

  Args: train, test: coordinates and attributes. Coordinates are standardised by those of `train`.
  An attribute that all or no training pictures have is predicted as constant.
  """
  pipeline, preprocessing, svm = _classifiers()
  found = []
  for a in range(train[1].shape[1]):
    known = train[1][:, a]
    if known.all() or not known.any():
      found.append((test[1][:, a] == known[0]).mean())
      continue
    classifier = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      svm.LinearSVC(C=strength, dual='auto', max_iter=10_000, random_state=0),
    )
    found.append((classifier.fit(train[0], known).predict(test[0]) == test[1][:, a]).mean())
  return 100 * np.array(found)


def _look(
  describer: Describer,
  source: Source,
  names: Sequence[str],
  *,
  batch_size: int,
  spread: Spread,
  margin: int,
) -> _Seen:
  batches = spread.batches(source, batch_size=batch_size)
  labels, points, _ = features.discover(describer, batches, margin=margin, spread=spread)
  columns = [source.info.attributes.index(name) for name in names]
  return _Seen(points.reshape(len(points), -1), np.asarray(labels.attributes, bool)[:, columns])


def _by_name(names: Sequence[str], values: Float[np.ndarray, ' A']) -> dict[str, float]:
  """The value of each attribute, and their mean under ''."""
  return {'': float(values.mean())} | dict(zip(names, map(float, values), strict=True))


def _classifiers() -> list[Any]:
  """The modules needed of scikit-learn; without it, a ValueError says how to install it."""
  try:
    return [
      importlib.import_module(f'sklearn.{name}') for name in ('pipeline', 'preprocessing', 'svm')
    ]
  except ImportError as error:
    raise ValueError(
      "attributes are classified by scikit-learn, which is not installed: pip install -e '.[eval]'"
    ) from error

"""Exports the labels in files that `data/folder.py` reads, with and without predictions."""

import pathlib
import threading
from typing import Any

import numpy as np

from landmarks_jax.data.source import BadImage
from landmarks_jax.interop import coco, landmark_csv
from landmarks_jax.labelling.session import Session
from landmarks_jax.runtime import atomic

# By kind: confirmed labels alone, and together with predictions for all other pictures.
FILES = {
  'labels-csv': 'labels.csv',
  'labels-coco': 'labels.json',
  'all-csv': 'all.csv',
  'all-coco': 'all.json',
}


_writing = threading.Lock()  # two pages may export at once


def write(session: Session, output: pathlib.Path) -> dict[str, Any]:
  """Writes all FILES into `output`, replacing earlier ones, and the newest model beside them.

  Returns a summary. Only pictures with all their landmarks count as labelled. Raises ValueError if
  there are none, and OSError saying what could not be written; the earlier file is then intact.
  Before the first fit only confirmed labels are written, and ValueError says so.
  """
  with _writing:
    return _write(session, output)


def _write(session: Session, output: pathlib.Path) -> dict[str, Any]:
  labelled = session.labelled()
  if not labelled:
    raise ValueError('no picture has all its landmarks yet: there is nothing to export')
  waits = session.awaits_first_fit  # asked first: it may end meanwhile
  sizes, confidence, predicted = _predictions(session, labelled)
  names, kinds = session.labels.landmarks, {'labels': labelled}
  if not waits:
    kinds['all'] = dict(sorted((labelled | predicted).items()))
  for kind, numbers in kinds.items():
    points = {session.files.names[i]: pixels for i, pixels in numbers.items()}
    with atomic.replaced(output / FILES[f'{kind}-csv']) as part:
      landmark_csv.write(part, names, points)
    known = {name: pixels for name, pixels in points.items() if name in sizes}
    with atomic.replaced(output / FILES[f'{kind}-coco']) as part:
      coco.write(part, names, known, sizes, confidence=confidence)
  if waits:
    raise ValueError(
      'the first fit is not ready: only labels.csv and labels.json are written; export again for '
      'predictions'
    )
  return {
    'labelled': len(labelled),
    'predicted': len(predicted),
    'folder': str(output),
    'files': FILES,
    'model': session.save_model(output),
  }


def _predictions(session: Session, labelled: dict[int, np.ndarray]) -> tuple[Any, Any, Any]:
  """Sizes and confidence by name, and the predicted points of unlabelled pictures by number."""
  sizes, confidence, predicted = {}, {}, {}
  fit = session.fit  # of one fit, whatever is learned meanwhile
  for number, name in enumerate(session.files.names):
    known = number not in labelled and fit is not None and np.isfinite(fit.points[number]).all()
    if number not in labelled and not known:
      continue
    try:
      sizes[name] = width, height = session.size(number)
    except BadImage:
      continue
    if known:
      points = np.clip(fit.points[number], -0.5, [width - 0.5, height - 0.5])
      predicted[number], confidence[name] = points.astype(float), fit.confidence[number]
  return sizes, confidence, predicted

"""A folder of small pictures, a learner in NumPy, and the server over them, for tests of labelling.

As a program it serves a folder, with that learner: python tests/labelling.py DIR PORT [plain].
"""

import pathlib
import sys
import time

import numpy as np
from PIL import Image

from landmarks_jax.labelling import order
from landmarks_jax.labelling.confirmed import ConfirmedLabels
from landmarks_jax.labelling.journal import Journal
from landmarks_jax.labelling.picture_files import PictureFiles
from landmarks_jax.labelling.session import Fit, Session

LANDMARKS = ['left "eye"', '<img src=x onerror=alert(1)>', 'Mundwinkel größe']
NASTY = 'it\'s "q" <b>größe 顔 & 100%#?.png'


def make_folder(root, count=12):
  """Pictures 40x30 of different colours, one with a hard name in a folder of its own."""
  root.mkdir()
  for i in range(count - 1):
    save(root / f'{i:02}.png', i)
  (root / 'sub').mkdir()
  save(root / 'sub' / NASTY, count)
  return root


def save(path, number, size=(40, 30)):
  colour = tuple(np.random.default_rng(number).integers(40, 250, 3).tolist())
  Image.new('RGB', size, colour).save(path)


class Planted:
  """Predicts the mean of all labels; less sure of colours that are far from the labelled ones."""

  def __init__(self, files, landmarks, *, seconds=0.0):
    self.files, self.landmarks, self.seconds, self.fitted = files, len(landmarks), seconds, []

  def describe(self, report):
    broken, looks = {}, []
    for i in range(len(self.files)):
      try:
        image = Image.open(self.files.path(i))
        self.files.size(i)
        looks.append(np.asarray(image.convert('RGB'), float).mean((0, 1)))
      except Exception as error:
        broken[i] = str(error)
        looks.append(np.zeros(3))
    self._looks = np.array(looks)
    report(len(self.files), broken)

  def looks(self):
    return self._looks

  def first(self):
    return None

  def save(self, path):
    path.mkdir()

  def fit(self, labels):
    time.sleep(self.seconds)
    self.fitted.append(sorted(labels))
    seen = np.stack(list(labels.values()))
    if np.isnan(seen).all((0, 2)).any():
      raise ValueError('a landmark is not visible in any labelled picture')
    mean = np.nanmean(seen, 0)
    far = order.distances(self._looks, self._looks[list(labels)]).min(1)
    points = np.broadcast_to(mean, (len(self.files), self.landmarks, 2)).astype(np.float32)
    confidence = np.exp(-far / 100)[:, None] * np.ones(self.landmarks)
    return Fit(points, confidence.astype(np.float32), far)


def open_session(root, output, landmarks=LANDMARKS, **options):
  """A session with the planted learner, not started; close its `journal` in the end."""
  files, journal = PictureFiles(root), Journal(output)
  labels = ConfirmedLabels(journal, landmarks)
  session = Session(files, labels, Planted(files, labels.landmarks), **options)
  session.journal = journal
  return session


def wait_for(condition, seconds=20.0):
  """Waits until it holds."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'it did not happen'
    time.sleep(0.01)


def serve(root, port, *, learns=True):
  """Until it is killed; without a learner nothing is looked at."""
  import uvicorn

  from landmarks_jax.labelling import server

  output = root / 'labels'
  session = open_session(root, output, None if (output / 'journal.jsonl').exists() else LANDMARKS)
  if learns:
    session.start()
  app = server.app(session, port=port, output=output)
  uvicorn.run(app, port=port, log_level='error', timeout_graceful_shutdown=1)


if __name__ == '__main__':
  serve(pathlib.Path(sys.argv[1]), int(sys.argv[2]), learns='plain' not in sys.argv)

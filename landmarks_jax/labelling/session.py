"""The state of a labelling server: pictures, labels and the newest fit, learned by one thread.

All timing and threading is here; a `Learner` only computes. Pictures are identified by number.
"""

import datetime
import functools
import itertools
import pathlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from landmarks_jax import metrics
from landmarks_jax.data.source import BadImage
from landmarks_jax.labelling import order
from landmarks_jax.labelling.confirmed import INVISIBLE, ConfirmedLabels, parse
from landmarks_jax.labelling.picture_files import PictureFiles

UNTOUCHED, PARTLY, COMPLETE, BROKEN = range(4)  # states of a picture
AHEAD = 64  # suggestions made at once
GONE = 20.0  # seconds after which a silent page no longer holds its picture


class Fit(NamedTuple):
  """A learner's predictions for every picture, from all labels."""

  points: Float[np.ndarray, 'N K 2']  # in pixels; nan where nothing is predicted
  confidence: Float[np.ndarray, 'N K']  # in 0..1; nan where none is known
  doubt: Float[np.ndarray, ' N']  # how uncertain a picture is, on any increasing scale


@runtime_checkable
class Learner(Protocol):
  """Learns landmarks from few labels. Called by one thread at a time."""

  def describe(self, report: Callable[[int, Mapping[int, str]], bool]) -> None:
    """Computes the features of all pictures; report(done, broken) returns whether to go on."""
    ...

  def looks(self) -> Float[np.ndarray, 'N C']:
    """What the pictures look like, once they are described; see `order.poses`."""
    ...

  def first(self) -> Fit | None:
    """Predictions before any label, if the model has landmarks already."""
    ...

  def fit(self, labels: Mapping[int, Float[np.ndarray, 'K 2']]) -> Fit:
    """Learns from pictures with points in pixels; nan = invisible. Raises ValueError."""
    ...

  def save(self, path: pathlib.Path) -> None:
    """Writes the newest model into a folder, which is created."""
    ...


class Status(NamedTuple):
  """The status of the background work."""

  described: int = 0
  fits: int = 0
  labelled: int = 0  # number of pictures that the newest fit learned from
  seconds: float = 0.0
  busy: bool = False
  problem: str = ''


class Session:
  """The state shared by all pages open on one folder.

  learner: if None, nothing is predicted. now: a clock, in seconds.
  """

  def __init__(
    self,
    files: PictureFiles,
    labels: ConfirmedLabels,
    learner: Learner | None = None,
    *,
    now: Callable[[], float] = time.monotonic,
  ) -> None:
    self.files, self.labels, self._learner, self._now = files, labels, learner, now
    self.fit: Fit | None = None
    self.broken: dict[int, str] = {}
    self.status = Status()
    self._held: dict[str, tuple[int, float]] = {}  # by client
    self._suggested: list[int] = []
    self._state, self._wanted = threading.RLock(), threading.Event()
    self._fitting, self._stopping = threading.Lock(), False
    self._thread: threading.Thread | None = None
    self._size = functools.lru_cache(1 << 16)(files.size)
    self.lost = self._find_moved()

  # Requests from pages.

  def facts(self) -> dict[str, Any]:
    """What does not change while the server runs."""
    return {
      'folder': self.files.root.resolve().name,
      'landmarks': list(self.labels.landmarks),
      'names': [name.encode('utf-8', 'replace').decode() for name in self.files.names],
      'key': self.files.key,
      'learns': self._learner is not None,
      'journal': str(self.labels.path),
    }

  def changes(
    self, client: str, *, revision: int, fits: int, broken: int, picture: int | None = None
  ) -> dict[str, Any]:
    """What happened since a page, which is showing `picture`, last asked.

    revision, fits, broken: the counts it last saw. Confidence is included if there is a newer fit.
    """
    with self._state:
      self._hold(client, picture)
      names = self.labels.changed_since(revision)
      if broken != len(self.broken):
        names |= {self.files.names[i] for i in self.broken}
      numbers = [self.files.numbers[name] for name in names if name in self.files.numbers]
      news = {
        'key': self.files.key,
        'revision': self.labels.revision,
        'changed': [
          [i, self.state_of(i), self.labels.revision_of(self.files.names[i])]
          for i in sorted(numbers)
        ],
        'complete': self.complete,
        'broken': {i: reason for i, reason in self.broken.items() if broken != len(self.broken)},
        'status': self.status._asdict() | {'pictures': len(self.files)},
      }
      if self.fit is not None and fits != self.status.fits:
        sure = metrics.mean_of_known(self.fit.confidence, axis=1)
        news['sure'] = _rounded(sure)
        news['order'] = np.lexsort((-self.fit.doubt, sure)).tolist()  # the least sure first
      return news

  def state_of(self, number: int) -> int:
    """One of UNTOUCHED, PARTLY, COMPLETE, BROKEN."""
    name = self.files.names[number]
    if number in self.broken:
      return BROKEN
    return COMPLETE if self.labels.complete(name) else PARTLY if self.labels.of(name) else UNTOUCHED

  @property
  def complete(self) -> int:
    """The number of pictures here with all their landmarks."""
    return sum(map(self.labels.complete, set(self.labels.pictures) & set(self.files.numbers)))

  def picture(self, number: int) -> dict[str, Any]:
    """All that is known about a picture. Raises BadImage and IndexError."""
    name = self._name(number)
    width, height = self.size(number)
    with self._state:
      known = {
        'picture': number,
        'width': width,
        'height': height,
        'revision': self.labels.revision_of(name),
        'points': self.labels.of(name),
        'fits': self.status.fits,
        'predicted': None,
      }
      if self.fit is not None and np.isfinite(self.fit.points[number]).all():
        points = np.clip(self.fit.points[number], -0.5, [width - 0.5, height - 0.5])
        known['predicted'] = _rounded(points)
        known['confidence'] = _rounded(self.fit.confidence[number])
      return known

  def size(self, number: int) -> tuple[int, int]:
    """(width, height). Raises BadImage, and remembers it."""
    try:
      return self._size(number)
    except BadImage as error:
      with self._state:
        self.broken.setdefault(number, error.reason)
      raise

  def change(
    self, number: int, points: Mapping[str, Any], *, base: int, client: str, id: str
  ) -> None:
    """`ConfirmedLabels.change`, after checking that the points lie in the picture."""
    name = self._name(number)
    width, height = self.size(number)
    points = {landmark: parse(point) for landmark, point in points.items()}
    for landmark, point in points.items():
      if isinstance(point, tuple) and not _inside(point, width, height):
        raise ValueError(f'{landmark} at {point} is outside of {width}x{height} pixels')
    file = None if self.labels.file_of(name) else self.files.identity(number)
    given = {'base': base, 'client': client, 'id': id, 'file': file, 'time': _utc()}
    with self._state:
      self.labels.change(name, points, **given)
    self._wanted.set()

  def undo(self, client: str, *, id: str) -> int | None:
    """`ConfirmedLabels.undo`; returns the number of the picture that was changed."""
    with self._state:
      name = self.labels.undo(client, id=id, time=_utc())
    self._wanted.set()
    return self.files.numbers.get(name) if name is not None else None

  def suggest(self, client: str, skipped: Collection[int] = ()) -> int | None:
    """The picture to label next, preferably one no other page shows; None if none is left."""
    with self._state:
      now = self._now()
      others = {p for c, (p, at) in self._held.items() if c != client and now - at < GONE}
      by_turn = itertools.chain(self._suggested, self._shuffled)
      left = (i for i in by_turn if self.state_of(i) in (UNTOUCHED, PARTLY))
      found = _first(left, apart=others.union(skipped))
      self._hold(client, found)
      return found

  def labelled(self) -> dict[int, Float[np.ndarray, 'K 2']]:
    """The pictures whose landmarks are all given, by number; nan = invisible."""
    found = {}
    with self._state:
      for name in self.labels.pictures:
        if name in self.files.numbers and self.labels.complete(name):
          found[self.files.numbers[name]] = self.array(name)
    return dict(sorted(found.items()))

  def array(self, name: str) -> Float[np.ndarray, 'K 2']:
    """The points of a picture; nan = invisible or not given."""
    points = self.labels.of(name)
    nowhere = (np.nan, np.nan)
    given = [points.get(landmark, INVISIBLE) for landmark in self.labels.landmarks]
    return np.array([nowhere if point == INVISIBLE else point for point in given], np.float64)

  @property
  def awaits_first_fit(self) -> bool:
    """Whether predictions will come, but are not there yet."""
    return self._thread is not None and self.fit is None and not self.status.problem

  def save_model(self, folder: pathlib.Path) -> str | None:
    """Writes the newest model into a new subfolder; returns its name, or None if there is none."""
    if self.status.labelled == 0:
      return None
    with self._fitting:
      name = f'model_{datetime.datetime.now():%Y-%m-%d_%H%M%S}'
      self._learner.save(folder / name)
    return name

  # Background work.

  def start(self) -> None:
    """Starts describing and fitting in the background, if there is a learner."""
    if self._learner is not None:
      self._thread = threading.Thread(target=self._work, name='labelling', daemon=True)
      self._thread.start()

  def stop(self) -> None:
    """Stops the background work, waiting up to 10 seconds for a fit under way."""
    self._stopping = True
    self._wanted.set()
    if self._thread is not None:
      self._thread.join(timeout=10)

  def _work(self) -> None:
    try:
      self._tell(busy=True)
      self._learner.describe(self._described)
      if not self._stopping:
        self._publish(self._learner.first(), labelled=0, seconds=0.0)
    except Exception as error:  # the page goes on without predictions, and says why
      self._tell(busy=False, problem=f'the pictures cannot be described: {error}')
      return
    learned: dict[int, bytes] = {}
    while not self._stopping:
      labels = self.labelled()
      now = {number: points.tobytes() for number, points in labels.items()}
      if labels and now != learned:
        self._learn(labels)
        learned = now
        continue
      self._tell(busy=False)
      self._wanted.wait()
      self._wanted.clear()

  def _described(self, done: int, broken: Mapping[int, str]) -> bool:
    with self._state:
      self.broken |= broken
      self._tell(described=done)
    return not self._stopping

  def _learn(self, labels: Mapping[int, Float[np.ndarray, 'K 2']]) -> None:
    self._tell(busy=True)
    began = time.monotonic()
    try:
      with self._fitting:
        fit = self._learner.fit(labels)
      self._publish(fit, labelled=len(labels), seconds=time.monotonic() - began)
    except Exception as error:  # such as a landmark that no picture shows yet
      self._tell(problem=str(error))

  def _publish(self, fit: Fit | None, *, labelled: int, seconds: float) -> None:
    """Shows a fit, then works out which pictures to label next."""
    if fit is not None:
      with self._state:
        self.fit = fit
        self._tell(fits=self.status.fits + 1, labelled=labelled, seconds=seconds, problem='')
    labels = self.labelled()
    with self._state:
      candidates = np.array(
        [self.state_of(i) in (UNTOUCHED, PARTLY) for i in range(len(self.files))]
      )
    chosen = order.suggest(self._looks, list(labels), candidates, count=AHEAD)
    with self._state:
      self._suggested = chosen

  def _tell(self, **news: Any) -> None:
    with self._state:
      self.status = self.status._replace(**news)

  # Helpers.

  @functools.cached_property
  def _looks(self) -> Float[np.ndarray, 'N C']:
    """The looks of all pictures, computed once: that takes longer than a fit."""
    return self._learner.looks()

  def _name(self, number: int) -> str:
    if not 0 <= number < len(self.files):
      raise IndexError(f'there is no picture {number}; there are {len(self.files)}')
    return self.files.names[number]

  def _hold(self, client: str, picture: int | None) -> None:
    if picture is not None:
      self._held[client] = picture, self._now()

  @functools.cached_property
  def _shuffled(self) -> list[int]:
    """All pictures in a random order that depends only on how many there are."""
    return np.random.default_rng(len(self.files)).permutation(len(self.files)).tolist()

  def _find_moved(self) -> list[str]:
    """Moves labels of missing or replaced files to identical files; returns those left over."""
    for name in self.labels.pictures:
      number, file = self.files.numbers.get(name), self.labels.file_of(name)
      if number is not None and file and not self.files.is_still(number, file):
        self.labels.move(name, f'{name} ({file[1][:12]})')  # frees the name for another's labels
    gone = [name for name in self.labels.pictures if name not in self.files.numbers]
    free = [i for i, name in enumerate(self.files.names) if not self.labels.of(name)]
    sizes = {i: self.files.stamp(i)[0] for i in free} if gone else {}
    checksum, lost = functools.cache(lambda number: self.files.identity(number)[1]), []
    for name in gone:
      file = self.labels.file_of(name)
      same = (i for i in sizes if file and sizes[i] == file[0] and checksum(i) == file[1])
      found = next(same, None)
      if found is None:
        lost.append(name)
      else:
        self.labels.move(name, self.files.names[found])
        del sizes[found]
    return [name for name in lost if self.labels.of(name)]


def _first(numbers: Iterable[int], *, apart: Collection[int]) -> int | None:
  """The first number not in `apart`, else the first of all."""
  spare = None
  for number in numbers:
    if number not in apart:
      return number
    spare = number if spare is None else spare
  return spare


def _inside(point: tuple[float, float], width: int, height: int) -> bool:
  return -0.5 <= point[0] <= width - 0.5 and -0.5 <= point[1] <= height - 0.5


def _rounded(values: Float[np.ndarray, '...']) -> Any:
  """Values as lists for JSON, with nan as None."""
  if values.ndim > 1:
    return [_rounded(row) for row in values]
  return [round(v, 3) if np.isfinite(v) else None for v in values.tolist()]


def _utc() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')

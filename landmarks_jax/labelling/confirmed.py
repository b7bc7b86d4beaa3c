"""The labels of all pictures as replayed from the journal, and the only way to change them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from landmarks_jax.labelling.journal import Entry, Journal

INVISIBLE = 'invisible'
MOST = 1e12  # pixels, more than any picture has

# In pixels of the picture, (0, 0) the centre of the first pixel; or INVISIBLE.
Point = tuple[float, float] | str
Points = dict[str, Point]  # by the name of the landmark


class Conflict(ValueError):
  """Another client, such as another tab, has changed the picture in the meantime."""


class _Change(NamedTuple):
  """A change by a client, kept so that it can be undone."""

  picture: str
  before: dict[str, Point | None]
  base: int  # revision of the picture before the change; `after`: after it
  after: int


class ConfirmedLabels:
  """Points by picture and landmark; every change is on disk before it takes effect.

  Pictures are identified by their paths relative to their folder. `revision` counts all changes,
  `revision_of(picture)` those of one picture; both survive a restart.

  landmarks: their names; None: those of the journal. Names can be added; those that never had a
  point can be left out, such as a misspelt one. Raises ValueError for invalid names.
  """

  def __init__(self, journal: Journal, landmarks: Sequence[str] | None = None) -> None:
    self._journal = journal
    self.landmarks: tuple[str, ...] = ()
    self._used: set[str] = set()  # landmarks in any change, which an undo may bring back
    self._points: dict[str, Points] = {}
    self._files: dict[str, Any] = {}
    self._changes: list[str] = []  # the picture of every change
    self._revisions: dict[str, int] = {}
    self._known: set[str] = set()  # the ids of all changes
    self._undo: dict[str, list[_Change]] = {}
    for number, entry in enumerate(journal.entries, start=2):
      try:
        self._apply(entry)
      except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
          f'{journal.path}, line {number} is damaged: {entry!r:.80} ({error!r:.200}); fix or '
          'delete that line, the others count'
        ) from error
    before = self.landmarks
    if landmarks is not None and tuple(landmarks) != self.landmarks:
      self._add({'landmarks': self._accepted(landmarks)})
    # Those that an earlier start did not know.
    self.added = tuple(name for name in self.landmarks if before and name not in before)
    if not self.landmarks:
      raise ValueError('there are no landmarks to place; name them: --landmarks="left eye,nose"')

  @property
  def path(self) -> pathlib.Path:
    """The path of the journal."""
    return self._journal.path

  @property
  def revision(self) -> int:
    """The number of changes so far."""
    return len(self._changes)

  @property
  def pictures(self) -> tuple[str, ...]:
    """The pictures that have, or once had, a point."""
    return tuple(self._points)

  def revision_of(self, picture: str) -> int:
    """The number of changes of one picture."""
    return self._revisions.get(picture, 0)

  def of(self, picture: str) -> Points:
    """The points of a picture."""
    return dict(self._points.get(picture, {}))

  def complete(self, picture: str) -> bool:
    """Whether every landmark of the picture is placed or said to be invisible."""
    return len(self._points.get(picture, {})) == len(self.landmarks)

  def changed_since(self, revision: int) -> set[str]:
    """The pictures changed after this revision."""
    return set(self._changes[revision:])

  def file_of(self, picture: str) -> Any:
    """What identifies the file of a picture, as given with its first change."""
    return self._files.get(picture)

  def change(
    self,
    picture: str,
    points: Mapping[str, Any],
    *,
    base: int,
    client: str,
    id: str,
    file: Any = None,
    time: str = '',
  ) -> None:
    """Sets some landmarks of a picture; None removes one. The change is undone as a whole.

    Args: points: see `parse`. base: the revision of the picture that the change was based on.
    client: who makes it; each client undoes its own changes. id: of the change; a known id is
    ignored, so that a client that got no answer may retry. file: see `file_of`.

    Raises Conflict if the picture is not at `base`, ValueError for invalid points, and NotSaved.
    """
    if id in self._known:
      return
    self._at(picture, base)
    points = self._parsed(points)
    entry = {'picture': picture, 'points': points, 'client': client, 'id': id, 'time': time}
    if file is not None and picture not in self._files:
      entry['file'] = file
    self._add(entry)

  def undo(self, client: str, *, id: str, time: str = '') -> str | None:
    """Undoes the last change of a client; returns its picture, or None if there is none.

    Raises Conflict if another client has changed the picture since.
    """
    if id in self._known:
      return None
    if not self._undo.get(client):
      return None
    picture, before, _, after = self._undo[client][-1]
    self._at(picture, after)
    entry = {'picture': picture, 'points': before, 'client': client, 'id': id, 'time': time}
    self._add(entry | {'undoes': True})
    return picture

  def move(self, picture: str, to: str) -> None:
    """Moves the labels of a renamed file to its new name."""
    self._add({'moved': picture, 'to': to})

  def _at(self, picture: str, revision: int) -> None:
    if self.revision_of(picture) != revision:
      raise Conflict(f'{picture} was changed elsewhere in the meantime')

  def _parsed(self, points: Mapping[str, Any]) -> dict[str, Point | None]:
    unknown = [name for name in points if name not in self.landmarks]
    if unknown or not points:
      what = f'{unknown[0]!r} is not a landmark here' if unknown else 'nothing is changed'
      raise ValueError(what)
    return {name: parse(value) for name, value in points.items()}

  def _accepted(self, names: Sequence[str]) -> list[str]:
    """Names of landmarks; ValueError if they are invalid or leave out one that is in use."""
    names = [name.strip() for name in names]
    wrong = [name for name in names if not name or not name.isprintable()]
    if wrong or not names or len(set(names)) < len(names):
      raise ValueError(f'landmarks are {names!r:.200}; expected different names that can be read')
    lost = [name for name in self.landmarks if name in self._used and name not in names]
    if lost:
      raise ValueError(
        f'landmarks are {names}, but the journal has points of {", ".join(map(repr, lost))} too; '
        'name those as well, or give another --output=DIR'
      )
    return names

  def _add(self, entry: Entry) -> None:
    self._journal.append(entry)
    self._apply(entry)

  def _apply(self, entry: Entry) -> None:
    if 'landmarks' in entry:
      self.landmarks = tuple(self._accepted(entry['landmarks']))
    elif 'moved' in entry:
      self._move(entry['moved'], entry['to'])
    else:
      self._change(**entry)

  def _change(
    self,
    *,
    picture: str,
    points: Mapping[str, Any],
    client: str,
    id: str,
    time: str,
    file: Any = None,
    undoes: bool = False,
  ) -> None:
    new = self._parsed(points)
    texts = all(isinstance(text, str) for text in (picture, client, id, time))
    if not texts or not (file is None or _identifies(file)):
      raise ValueError('expected texts, and a file as [bytes, checksum, time]')
    self._used |= new.keys()
    own, stack = self._points.setdefault(picture, {}), self._undo.setdefault(client, [])
    base = self.revision_of(picture)
    before = {name: own.get(name) for name in new}
    own |= new
    self._points[picture] = {n: own[n] for n in self.landmarks if own.get(n) is not None}
    self._revisions[picture] = base + 1
    self._changes.append(picture)
    self._known.add(id)
    if file is not None:
      self._files[picture] = file
    if undoes:
      self._as_before(stack.pop())
    else:
      stack.append(_Change(picture, before, base, base + 1))

  def _as_before(self, undone: _Change) -> None:
    """After an undo, lets the change that led to the restored state be undone, whoever made it."""
    now = self.revision_of(undone.picture)
    for stack in self._undo.values():
      for i, change in enumerate(stack):
        if (change.picture, change.after) == (undone.picture, undone.base):
          stack[i] = change._replace(after=now)

  def _move(self, picture: str, to: str) -> None:
    if not isinstance(picture, str) or not isinstance(to, str):
      raise ValueError('expected names of pictures')
    for table in (self._points, self._revisions, self._files):
      if picture in table:
        table[to] = table.pop(picture)
    self._changes = [to if name == picture else name for name in self._changes]
    for stack in self._undo.values():
      stack[:] = [c._replace(picture=to) if c.picture == picture else c for c in stack]


def _identifies(file: Any) -> bool:
  """Whether this is what `PictureFiles.identity` gives; earlier versions noted no time."""
  kinds = [type(part) for part in file] if isinstance(file, list | tuple) else []
  return kinds in ([int, str], [int, str, int])


def parse(value: Any) -> Point | None:
  """Parses a point from a client or the journal. Raises ValueError if it is not a point."""
  if value is None or value == INVISIBLE:
    return value
  number = isinstance(value, list | tuple) and len(value) == 2
  if not number or not all(type(v) in (int, float) and abs(v) < MOST for v in value):
    raise ValueError(f'the point is {value!r:.60}; expected [x, y] in pixels, or {INVISIBLE!r}')
  return round(float(value[0]), 3), round(float(value[1]), 3)

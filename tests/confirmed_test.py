"""Labels from the journal: the same after a restart, undone by who made them, never overwritten."""

import json

import numpy as np
import pytest

from landmarks_jax.labelling.confirmed import INVISIBLE, ConfirmedLabels, Conflict
from landmarks_jax.labelling.journal import FILE, Journal

NAMES = ['left "eye"', '<b>nose</b>', 'Größe']
LEFT, NOSE, SIZE = NAMES


class Desk:
  """Labels of a folder that can be closed and opened again."""

  def __init__(self, folder):
    self.folder, self.count = folder, 0
    self.open(NAMES)

  def open(self, names=None):
    self.journal = Journal(self.folder)
    self.labels = ConfirmedLabels(self.journal, names)
    return self.labels

  def again(self, names=None):
    self.journal.close()
    return self.open(names)

  def change(self, picture, points, client='one', base=None):
    self.count += 1
    base = self.labels.revision_of(picture) if base is None else base
    self.labels.change(picture, points, base=base, client=client, id=f'id{self.count}')

  def undo(self, client='one'):
    self.count += 1
    return self.labels.undo(client, id=f'id{self.count}')

  def state(self):
    found = {p: self.labels.of(p) for p in self.labels.pictures if self.labels.of(p)}
    return found, {p: self.labels.revision_of(p) for p in self.labels.pictures}


@pytest.fixture
def desk(tmp_path):
  desk = Desk(tmp_path)
  yield desk
  desk.journal.close()


def test_points_are_set_replaced_removed_and_invisible(desk):
  desk.change('a.jpg', {LEFT: [1.23456, 2], NOSE: INVISIBLE})
  assert desk.labels.of('a.jpg') == {LEFT: (1.235, 2.0), NOSE: INVISIBLE}
  assert not desk.labels.complete('a.jpg')
  desk.change('a.jpg', {SIZE: (5, 6), LEFT: (7, 8)})
  assert desk.labels.complete('a.jpg')
  assert list(desk.labels.of('a.jpg')) == NAMES
  desk.change('a.jpg', {NOSE: None})
  assert desk.labels.of('a.jpg') == {LEFT: (7, 8), SIZE: (5, 6)}
  assert desk.labels.of('b.jpg') == {}


def test_a_change_on_an_old_revision_is_a_conflict_and_changes_nothing(desk):
  desk.change('a.jpg', {LEFT: (1, 2)}, client='one')
  lines = (desk.folder / FILE).read_text()
  with pytest.raises(Conflict, match=r'a\.jpg was changed elsewhere'):
    desk.change('a.jpg', {NOSE: (3, 4)}, client='two', base=0)
  assert (desk.folder / FILE).read_text() == lines
  assert desk.labels.of('a.jpg') == {LEFT: (1, 2)}
  desk.change('b.jpg', {NOSE: (3, 4)}, client='two', base=0)


def test_a_repeated_change_is_made_once(desk):
  given = {'base': 0, 'client': 'one', 'id': 'same'}
  desk.labels.change('a.jpg', {LEFT: (1, 2)}, **given)
  desk.labels.change('a.jpg', {LEFT: (1, 2)}, **given)
  desk.again().change('a.jpg', {LEFT: (1, 2)}, **given)
  assert desk.labels.revision == 1
  assert desk.labels.undo('one', id='undo') == 'a.jpg'
  assert desk.labels.undo('one', id='undo') is None  # repeated as well
  assert desk.labels.revision == 2


@pytest.mark.parametrize('restart', [False, True])
def test_undo_takes_back_each_change_of_its_client_in_turn(desk, restart):
  desk.change('a.jpg', {LEFT: (1, 2)})
  desk.change('b.jpg', {LEFT: (3, 4), NOSE: INVISIBLE})
  desk.change('a.jpg', {LEFT: (5, 6), NOSE: (7, 8)})
  desk.change('c.jpg', {SIZE: (9, 9)}, client='two')
  if restart:
    desk.again()
  assert desk.undo() == 'a.jpg'
  assert desk.labels.of('a.jpg') == {LEFT: (1, 2)}
  assert desk.undo() == 'b.jpg'
  if restart:
    desk.again()
  assert desk.undo() == 'a.jpg'
  assert desk.undo() is None
  assert desk.state()[0] == {'c.jpg': {SIZE: (9, 9)}}


def test_undo_does_not_take_back_what_somebody_else_built_on(desk):
  desk.change('a.jpg', {LEFT: (1, 2)}, client='one')
  desk.change('a.jpg', {NOSE: (3, 4)}, client='two')
  with pytest.raises(Conflict):
    desk.undo('one')
  assert desk.undo('two') == 'a.jpg'
  assert desk.undo('one') == 'a.jpg'  # it is again as one left it
  assert desk.state()[0] == {}


def random_history(desk, rng, steps):
  for _ in range(steps):
    client, picture = str(rng.integers(3)), f'{rng.integers(4)}.jpg'
    name = NAMES[rng.integers(3)]
    if rng.random() < 0.4:
      try:
        desk.undo(client)
      except Conflict:
        continue
    else:
      value = [None, INVISIBLE, (float(rng.integers(9)), 1.5)][rng.integers(3)]
      desk.change(picture, {name: value}, client=client)


def test_any_history_is_the_same_after_a_restart(desk):
  rng = np.random.default_rng(0)
  for _ in range(6):
    random_history(desk, rng, 40)
    before = desk.state()
    desk.again()
    assert desk.state() == before
    assert desk.labels.changed_since(0) == set(before[1])


def test_one_client_alone_undoes_everything(desk):
  rng = np.random.default_rng(1)
  states = [desk.state()[0]]
  for _ in range(30):
    desk.change(f'{rng.integers(3)}.jpg', {NAMES[rng.integers(3)]: (float(rng.integers(9)), 2)})
    states.append(desk.state()[0])
  for expected in states[-2::-1]:
    assert desk.undo() is not None
    assert desk.state()[0] == expected


def test_what_changed_since_a_revision(desk):
  desk.change('a.jpg', {LEFT: (1, 2)})
  desk.change('b.jpg', {LEFT: (1, 2)})
  desk.change('b.jpg', {NOSE: (1, 2)})
  assert [desk.labels.changed_since(r) for r in range(4)] == [
    {'a.jpg', 'b.jpg'},
    {'b.jpg'},
    {'b.jpg'},
    set(),
  ]


def test_landmarks_are_those_of_the_journal_and_may_become_more(desk):
  desk.change('a.jpg', dict.fromkeys(NAMES, (1, 2)))
  assert desk.again().landmarks == tuple(NAMES)
  more = desk.again(['new', *NAMES])
  assert more.landmarks == ('new', *NAMES)
  assert not more.complete('a.jpg')
  assert desk.again().landmarks == ('new', *NAMES)
  with pytest.raises(ValueError, match='the journal has points of \'left "eye"\' too'):
    ConfirmedLabels(desk.journal, NAMES[1:])


def test_a_name_that_never_had_a_point_can_be_corrected(desk):
  desk.again([*NAMES, 'rigth eye'])
  assert desk.again([*NAMES, 'right eye']).landmarks == (*NAMES, 'right eye')
  assert desk.again().landmarks == (*NAMES, 'right eye')
  desk.change('a.jpg', {'right eye': INVISIBLE})
  with pytest.raises(ValueError, match="has points of 'right eye' too"):
    desk.again(NAMES)


def test_no_names_at_all_leave_the_journal_as_it_is(desk):
  lines = (desk.folder / FILE).read_text()
  with pytest.raises(ValueError, match=r'landmarks are \[\]; expected'):
    desk.again([])
  assert (desk.folder / FILE).read_text() == lines


def test_a_name_whose_point_an_undo_can_bring_back_is_kept(desk):
  desk.change('a.jpg', {SIZE: (1, 2)})
  desk.change('a.jpg', {SIZE: None})
  with pytest.raises(ValueError, match="has points of 'Größe' too"):
    desk.again([LEFT, NOSE])
  desk.again()
  desk.undo()
  assert desk.labels.of('a.jpg') == {SIZE: (1, 2)}


@pytest.mark.parametrize('names', [['a', 'a'], ['a', ''], ['a\nb'], []])
def test_names_that_cannot_be_are_told(tmp_path, names):
  journal = Journal(tmp_path)
  with pytest.raises(ValueError, match='landmarks'):
    ConfirmedLabels(journal, names)
  assert journal.entries == []
  journal.close()


@pytest.mark.parametrize(
  'point',
  [
    [1],
    [1, 2, 3],
    [1, 'x'],
    [1, None],
    [1, True],
    [float('nan'), 1],
    [1e999, 1],
    [10**400, 1],
    'no',
    {},
  ],
)
def test_what_is_no_point_is_refused(desk, point):
  with pytest.raises(ValueError, match='expected'):
    desk.change('a.jpg', {LEFT: point})
  with pytest.raises(ValueError, match="'eye' is not a landmark"):
    desk.change('a.jpg', {'eye': [1, 2]})
  assert desk.labels.revision == 0


@pytest.mark.parametrize(
  'entry',
  [
    {'picture': 'a'},
    {'picture': 'a', 'points': {LEFT: [1]}, 'client': 'c', 'id': 'i', 'time': ''},
    {'picture': 'a', 'points': [], 'client': 'c', 'id': 'i', 'time': ''},
    {'picture': 'a', 'points': {LEFT: None}, 'client': 'c', 'id': 'i', 'time': '', 'undoes': True},
    {'picture': 'a', 'points': {'eye': [1, 2]}, 'client': 'c', 'id': 'i', 'time': ''},
    {'landmarks': [NOSE, SIZE]},
    *(
      {'picture': 'b', 'points': {LEFT: None}, 'client': 'c', 'id': 'i', 'time': '', 'file': file}
      for file in (5, 'sum', [], [5], ['5', 'sum'], [5, 'sum', None], {})
    ),
    {'picture': 5, 'points': {LEFT: None}, 'client': 'c', 'id': 'i', 'time': ''},
    {'moved': 'a.jpg', 'to': 5},
    {'landmarks': ['a' * 5000, '']},
  ],
)
def test_an_entry_that_makes_no_sense_is_named_by_its_line(desk, entry):
  desk.change('a.jpg', {LEFT: (1, 2)})
  desk.journal.close()
  with (desk.folder / FILE).open('a') as file:
    file.write(json.dumps(entry) + '\n')
  desk.journal = Journal(desk.folder)
  with pytest.raises(ValueError, match=r'journal\.jsonl, line 4') as caught:
    ConfirmedLabels(desk.journal)
  assert len(str(caught.value)) < 600


def test_labels_go_with_a_file_that_has_another_name(desk):
  desk.labels.change('a.jpg', {LEFT: (1, 2)}, base=0, client='one', id='1', file=[5, 'sum'])
  desk.change('a.jpg', {NOSE: (3, 4)})
  desk.labels.move('a.jpg', 'b/c.jpg')
  for labels in (desk.labels, desk.again()):
    assert labels.of('b/c.jpg') == {LEFT: (1, 2), NOSE: (3, 4)}
    assert labels.of('a.jpg') == {}
    assert labels.file_of('b/c.jpg') == [5, 'sum']
    assert (labels.revision_of('b/c.jpg'), labels.revision_of('a.jpg')) == (2, 0)
  assert desk.undo() == 'b/c.jpg'

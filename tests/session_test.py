"""The state behind the pages: what is suggested, learned, refused and found again."""

import threading

import labelling
import numpy as np
import pytest
from labelling import LANDMARKS, NASTY, make_folder, open_session, wait_for

from landmarks_jax.data.source import BadImage
from landmarks_jax.labelling import order
from landmarks_jax.labelling.confirmed import INVISIBLE, Conflict
from landmarks_jax.labelling.journal import NotSaved
from landmarks_jax.labelling.picture_files import PictureFiles
from landmarks_jax.labelling.session import BROKEN, COMPLETE, PARTLY, UNTOUCHED

POINTS = dict(zip(LANDMARKS, [[1, 2], [30, 4], [10.5, 20]], strict=True))


class Person:
  """Changes pictures of a session, as a page does."""

  def __init__(self, session, client='one'):
    self.session, self.client, self.count = session, client, 0

  def change(self, number, points=POINTS, base=None):
    self.count += 1
    name = self.session.files.names[number]
    base = self.session.labels.revision_of(name) if base is None else base
    given = {'base': base, 'client': self.client, 'id': f'{self.client}{self.count}'}
    self.session.change(number, points, **given)

  def undo(self):
    self.count += 1
    return self.session.undo(self.client, id=f'{self.client}{self.count}')


@pytest.fixture
def root(tmp_path):
  return make_folder(tmp_path / 'pictures')


@pytest.fixture
def session(root):
  session = open_session(root, root / 'labels')
  yield session
  session.stop()
  session.journal.close()


@pytest.fixture
def person(session):
  return Person(session)


def test_states_of_pictures(session, person):
  person.change(3, {LANDMARKS[0]: [1, 2]})
  person.change(4, POINTS | {LANDMARKS[1]: INVISIBLE})
  assert [session.state_of(i) for i in (2, 3, 4)] == [UNTOUCHED, PARTLY, COMPLETE]
  assert session.complete == 1
  labelled = session.labelled()
  assert list(labelled) == [4]
  np.testing.assert_array_equal(labelled[4], [[1, 2], [np.nan, np.nan], [10.5, 20]])


@pytest.mark.parametrize('point', [[-0.51, 3], [39.51, 3], [3, -0.6], [3, 29.6], [1e9, 0]])
def test_points_lie_in_the_picture(session, person, point):
  person.change(0, {LANDMARKS[0]: [-0.5, 29.5]})
  with pytest.raises(ValueError, match=r'outside of 40x30 pixels'):
    person.change(0, {LANDMARKS[0]: point})
  with pytest.raises(IndexError, match='there is no picture 12; there are 12'):
    person.session.change(12, POINTS, base=0, client='c', id='x')
  with pytest.raises(IndexError):
    session.picture(-1)


def test_it_learns_after_every_change_of_complete_pictures(session, person):
  session.start()
  wait_for(lambda: session.status.described == 12 and not session.status.busy)
  assert session.fit is None
  person.change(5)
  wait_for(lambda: session.status.fits == 1)
  assert session.status.labelled == 1
  assert session.picture(2)['predicted'] == list(POINTS.values())
  assert session.picture(2)['confidence'] == pytest.approx(session.fit.confidence[2], abs=1e-3)
  person.change(6, {LANDMARKS[0]: [1, 2]})  # not complete: nothing to learn
  person.change(7, {name: [10, 10] for name in LANDMARKS})
  wait_for(lambda: session.status.labelled == 2)
  assert session.picture(2)['predicted'][0] == [5.5, 6]
  person.undo()
  wait_for(lambda: session.status.labelled == 1)
  assert session._learner.fitted == [[5], [5, 7], [5]]


def test_a_fit_that_fails_is_told_and_the_next_one_is_tried(session, person):
  session.start()
  person.change(5, POINTS | {LANDMARKS[1]: INVISIBLE})
  wait_for(lambda: 'not visible in any' in session.status.problem)
  person.change(6)
  wait_for(lambda: session.status.labelled == 2)
  assert session.status.problem == ''


def test_a_fit_is_shown_before_the_next_pictures_are_chosen_and_looks_are_compared_once(
  session, person, monkeypatch
):
  looked, shown, real = [], [], session._learner.looks
  monkeypatch.setattr(session._learner, 'looks', lambda: looked.append(1) or real())
  suggest = order.suggest

  def chosen(*args, **options):
    shown.append(session.status.fits)
    return suggest(*args, **options)

  monkeypatch.setattr(order, 'suggest', chosen)
  session.start()
  for number in (5, 6):
    person.change(number)
    wait_for(lambda n=number: session.status.labelled == n - 4 and not session.status.busy)
  assert (len(looked), shown[-2:]) == (1, [1, 2])


def test_an_error_after_a_fit_is_told_and_the_work_goes_on(session, person, monkeypatch):
  session.start()
  wait_for(lambda: session.status.described == 12 and not session.status.busy)
  monkeypatch.setattr(order, 'suggest', lambda *_, **__: 1 / 0)
  person.change(5)
  wait_for(lambda: session.status.problem == 'division by zero' and not session.status.busy)
  monkeypatch.undo()
  person.change(6)
  wait_for(lambda: session.status.labelled == 2 and not session.status.busy)
  assert session.status.problem == ''


def test_pictures_that_cannot_be_described_leave_a_session_without_predictions(root):
  session = open_session(root, root / 'labels')
  session._learner.describe = lambda told: 1 / 0
  session.start()
  wait_for(lambda: 'cannot be described: division by zero' in session.status.problem)
  Person(session).change(1)
  assert session.suggest('one') is not None
  session.stop()
  session.journal.close()


def test_suggestions_are_unlabelled_and_those_of_two_pages_differ(session, person):
  session.start()
  wait_for(lambda: session._suggested)
  seen = []
  for _ in range(12):
    one, two = session.suggest('one'), session.suggest('two')
    assert one not in seen
    assert one != two or len(seen) == 11
    person.change(one)
    seen.append(one)
  assert sorted(seen) == list(range(12))
  assert session.suggest('one') is None


def test_a_page_that_is_gone_does_not_hold_its_picture(root):
  clock = [0.0]
  session = open_session(root, root / 'labels', now=lambda: clock[0])
  first = session.suggest('one')
  assert session.suggest('two') != first
  clock[0] = 15.0
  session.changes('one', revision=0, fits=0, broken=0, picture=first)  # it still looks at it
  clock[0] = 30.0
  assert session.suggest('two') != first
  clock[0] = 36.0
  assert session.suggest('three') == first
  session.journal.close()


def test_skipped_pictures_come_last(session):
  skipped = [session.suggest('one')]
  for _ in range(11):
    skipped.append(session.suggest('one', skipped))
  assert sorted(skipped) == list(range(12))
  assert session.suggest('one', skipped) == skipped[0]


def test_the_first_suggestions_are_known_without_any_model(root):
  from landmarks_jax.labelling.session import Session

  first = open_session(root, root / 'labels')
  session = Session(first.files, first.labels)
  session.start()
  assert session.suggest('one') == first.suggest('one')
  session.stop()
  first.journal.close()


def test_pages_are_told_what_they_did_not_see(session, person):
  session.start()
  person.change(5)
  wait_for(lambda: session.status.fits == 1)
  news = session.changes('two', revision=0, fits=0, broken=0)
  assert news['changed'] == [[5, COMPLETE, 1]]
  assert (news['revision'], news['complete'], len(news['sure'])) == (1, 1, 12)
  assert sorted(news['order']) == list(range(12))
  assert news['order'][-1] == 5  # the surest is the labelled one
  news = session.changes('two', revision=1, fits=1, broken=0)
  assert news['changed'] == []
  assert 'sure' not in news
  person.undo()
  assert session.changes('two', revision=1, fits=1, broken=0)['changed'] == [[5, UNTOUCHED, 2]]


def test_broken_pictures_are_listed_and_never_suggested(root):
  (root / '03.png').write_bytes(b'')
  (root / 'text.jpg').write_text('no picture')
  (root / ' space.png').write_bytes((root / '01.png').read_bytes())
  with open(bytes(root) + b'/\xff.png', 'wb') as file:
    file.write((root / '01.png').read_bytes())
  session = open_session(root, root / 'labels')
  session.start()
  wait_for(lambda: session.status.described == 15)
  bad = {session.files.names[i]: reason for i, reason in session.broken.items()}
  assert sorted(bad) == [' space.png', '03.png', 'text.jpg', '\udcff.png']
  assert session.changes('one', revision=0, fits=0, broken=0)['broken'] == session.broken
  assert {session.state_of(i) for i in session.broken} == {BROKEN}
  found, skipped = session.suggest('one'), []
  while found not in skipped:
    assert found not in session.broken
    skipped.append(found)
    found = session.suggest('one', skipped)
  assert len(skipped) == 11
  number = session.files.numbers['03.png']
  with pytest.raises(BadImage):
    session.picture(number)
  session.stop()
  session.journal.close()


def test_what_is_not_on_disk_is_not_said_to_be(session, person, monkeypatch):
  person.change(5)

  def full(entry):
    raise NotSaved('no space')

  monkeypatch.setattr(session.journal, 'append', full)
  with pytest.raises(NotSaved):
    person.change(6)
  assert session.state_of(6) == UNTOUCHED
  assert session.labels.revision == 1
  monkeypatch.undo()
  person.change(6)
  assert session.state_of(6) == COMPLETE


def test_everything_is_there_after_a_restart_under_another_folder_name(root, tmp_path):
  session = open_session(root, root / 'labels')
  person = Person(session)
  number = session.files.numbers[f'sub/{NASTY}']
  person.change(number)
  root.rename(tmp_path / 'renamed')  # while it is open
  session.labels.change('00.png', POINTS, base=0, client='one', id='late')
  session.journal.close()
  again = open_session(tmp_path / 'renamed', tmp_path / 'renamed/labels', None)
  assert list(again.labelled()) == [0, number]
  assert (again.labels.landmarks, again.lost) == (tuple(LANDMARKS), [])
  again.journal.close()


def test_labels_follow_files_that_were_renamed_inside_and_are_kept_for_those_that_are_gone(root):
  session = open_session(root, root / 'labels')
  person = Person(session)
  for number in (1, 2, 11):
    person.change(number)
  session.journal.close()
  (root / 'sub').rename(root / 'other')
  (root / '01.png').rename(root / 'zz.png')
  (root / '02.png').unlink()
  again = open_session(root, root / 'labels', None)
  names = [again.files.names[i] for i in again.labelled()]
  assert names == [f'other/{NASTY}', 'zz.png']
  assert again.lost == ['02.png']
  again.journal.close()
  labelling.save(root / '02.png', 2)
  last = open_session(root, root / 'labels', None)
  assert (len(last.labelled()), last.lost) == (3, [])
  last.journal.close()


def test_labels_follow_files_whose_names_were_swapped(root):
  session = open_session(root, root / 'labels')
  person, other = Person(session), {name: [3, 3] for name in LANDMARKS}
  person.change(1)
  person.change(2, other)
  key = session.files.key
  session.journal.close()
  for name, to in (('01', 'x'), ('02', '01'), ('x', '02')):
    (root / f'{name}.png').rename(root / f'{to}.png')
  again = open_session(root, root / 'labels', None)
  assert again.files.key != key  # browsers have kept copies
  assert (again.labels.of('01.png')[LANDMARKS[0]], again.lost) == ((3, 3), [])
  assert again.labels.of('02.png')[LANDMARKS[0]] == (1, 2)
  again.journal.close()
  last = open_session(root, root / 'labels', None)
  assert (list(last.labelled()), last.labels.of('01.png')) == ([1, 2], again.labels.of('01.png'))
  last.journal.close()


def test_a_picture_that_replaced_another_has_none_of_its_labels(root):
  session = open_session(root, root / 'labels')
  Person(session).change(1)
  session.journal.close()
  picture, first = root / '01.png', (root / '01.png').read_bytes()
  labelling.save(picture, 77)
  again = open_session(root, root / 'labels', None)
  assert again.labelled() == {}
  (lost,) = again.lost
  assert lost.startswith('01.png (')
  Person(again, 'two').change(1, {name: [5, 5] for name in LANDMARKS})
  again.journal.close()
  second = picture.read_bytes()
  picture.write_bytes(first)
  last = open_session(root, root / 'labels', None)
  assert last.labels.of('01.png')[LANDMARKS[0]] == (1, 2)
  assert len(last.lost) == 1
  last.journal.close()
  (root / 'new.png').write_bytes(second)
  end = open_session(root, root / 'labels', None)
  assert (end.labels.of('new.png')[LANDMARKS[0]], end.lost) == ((5, 5), [])
  end.journal.close()


def test_files_that_only_look_changed_keep_their_labels_and_unchanged_ones_are_not_read(
  root, monkeypatch
):
  session = open_session(root, root / 'labels')
  for number in (1, 2, 3):
    Person(session, f'c{number}').change(number)
  session.journal.close()
  (root / '01.png').touch()
  (root / '02.png').unlink()
  (root / '02.png').symlink_to(root / 'nowhere')
  read, real = [], PictureFiles.identity

  def identity(self, number):
    read.append(number)
    return real(self, number)

  monkeypatch.setattr(PictureFiles, 'identity', identity)
  again = open_session(root, root / 'labels', None)
  assert (list(again.labelled()), again.lost, read) == ([1, 2, 3], [], [1, 2])
  again.journal.close()


def test_two_people_at_once_lose_nothing(session):
  session.start()
  people, errors = [Person(session, f'c{i}') for i in range(4)], []

  def work(person, numbers):
    for number in numbers:
      while True:
        try:
          person.change(int(number), {LANDMARKS[person.count % 3]: [person.count % 30, 1]})
          break
        except Conflict:
          errors.append(1)

  orders = [np.random.default_rng(i).integers(0, 2, 40) for i in range(4)]
  threads = [threading.Thread(target=work, args=args) for args in zip(people, orders, strict=True)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert session.labels.revision == 160
  before = {i: session.labels.of(session.files.names[i]) for i in (0, 1)}
  session.stop()
  session.journal.close()
  again = open_session(session.files.root, session.files.root / 'labels', None)
  assert {i: again.labels.of(again.files.names[i]) for i in (0, 1)} == before
  again.journal.close()

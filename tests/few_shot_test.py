"""The lists of labels are fair, nested, and for ever the same."""

import hashlib
import itertools

import numpy as np
import pytest

from landmarks_jax.evaluation import few_shot

mafl = 19_000
# By number of labels: of the text of the lists of draws 0 to 4.
checksums = {
  1: 'af3e99e0c4063dd3744b5c188c33f0a2a607973172965536877baedd92d471c6',
  5: 'cbe2c78e2779dd6205ef2917358ca85f4fab42e2aa772b19c6c038033aab35ea',
  10: '88b993188f3d81b76764cb6a36888938692c48c3db3137f48c6c324ba11479d8',
  20: '8b7755a82a4bdf2e6229a0afb1da813d8614a2ae1681b48efa3afe611c063dac',
  50: '00f573d74165ca043710e5fc8b97dcbb655ebb7dad84491eec3fff03032b6420',
  100: '54e2bd04a88f9b70b40d7b763bbfe502ea38c4c216c24d05c7f86f7d64ae38ac',
}
fives = [
  [855, 921, 3697, 6037, 16026],
  [1347, 1922, 2226, 3705, 6178],
  [9697, 11386, 12962, 15738, 18201],
  [924, 11226, 13623, 18720, 18938],
  [594, 2341, 15374, 18461, 18886],
]


def lists(labels, count=mafl, draws=range(5), seed=0):
  drawn = [few_shot.draw_labels(count, labels, draw, seed=seed) for draw in draws]
  return [rows.tolist() for rows in drawn]


@pytest.mark.parametrize('labels', checksums)
def test_the_lists_of_mafl_never_change(labels):
  np.random.seed(labels)  # nor with the state of NumPy
  assert hashlib.sha256(str(lists(labels)).encode()).hexdigest() == checksums[labels]
  if labels == 5:
    assert lists(labels) == fives


def test_a_list_has_every_example_at_most_once_in_order():
  for labels in checksums:
    for rows in lists(labels):
      assert rows == sorted(set(rows))
      assert len(rows) == labels
      assert 0 <= rows[0] <= rows[-1] < mafl
  assert lists(7, count=7) == [list(range(7))] * 5


def test_fewer_labels_of_a_draw_are_some_of_more():
  for few, many in itertools.pairwise(checksums):
    for some, all_of in zip(lists(few), lists(many), strict=True):
      assert set(some) < set(all_of)


def test_an_example_keeps_its_rank_in_a_larger_set():
  large = few_shot.draw_labels(60, 40, 3, seed=2)
  kept = [row for row in large.tolist() if row < 45]
  assert few_shot.draw_labels(45, len(kept), 3, seed=2).tolist() == kept


def test_draws_and_seeds_have_lists_of_their_own():
  every = [tuple(rows) for seed in range(6) for rows in lists(3, count=1000, seed=seed)]
  assert len(set(every)) == 6 * 5


def test_every_example_is_drawn_equally_often():
  drawn = np.bincount(np.ravel(lists(3, count=12, draws=range(4000), seed=1)), minlength=12)
  expected = 4000 * 3 / 12
  deviation = (expected * (1 - 3 / 12)) ** 0.5
  np.testing.assert_allclose(drawn, expected, atol=4 * deviation)


@pytest.mark.parametrize('labels', [0, -1, 14])
def test_more_labels_than_examples_or_none_are_told(labels):
  text = f'^labels={labels}: expected 1 to 13, the number of labelled pictures$'
  with pytest.raises(ValueError, match=text):
    few_shot.draw_labels(13, labels, 0)


@pytest.mark.parametrize('seed', [-1, 2**63])
def test_a_seed_that_cannot_be_is_told(seed):
  with pytest.raises(
    ValueError, match=rf'^seed={seed}: expected a whole number, 0 to {2**63 - 1}$'
  ):
    few_shot.draw_labels(13, 5, 0, seed=seed)


@pytest.mark.parametrize('seed', [-1, 2**63, 1.5, None, '3'])
def test_a_seed_is_a_whole_number(seed):
  with pytest.raises(ValueError, match=rf'^config\.seed={seed}: expected a whole number, 0 to'):
    few_shot.check_seed(seed, 'config.seed')
  few_shot.check_seed(np.int32(3))


def test_lists_are_named_by_their_number_of_labels_where_there_are_several():
  assert {k: v.tolist() for k, v in few_shot.label_lists(3, None, 1).items()} == {'0': [0, 1, 2]}
  one = few_shot.label_lists(mafl, 5, 2)
  assert {name: rows.tolist() for name, rows in one.items()} == {'0': fives[0], '1': fives[1]}
  several = few_shot.label_lists(40, (3, 10), 2, seed=4)
  assert list(several) == ['n3/0', 'n3/1', 'n10/0', 'n10/1']
  for name, rows in several.items():
    number, draw = map(int, name[1:].split('/'))
    assert rows.tolist() == few_shot.draw_labels(40, number, draw, seed=4).tolist()
  assert few_shot.label_lists(40, (), 2) == {}


def test_what_cannot_be_drawn_is_told_before_it_is():
  for labels, draws in ((None, 1), (5, 1), (5, 3), ((1, 13), 2)):
    few_shot.check(13, labels, draws)
  for labels, draws, message in (
    (5, 0, 'draws=0: expected 1 or more, and 1 without few=N'),
    (None, 2, 'draws=2: expected 1 or more, and 1 without few=N'),
    (14, 1, 'few=14: expected 1 to 13'),
    ((1, 14), 2, 'few=14: expected 1 to 13'),
  ):
    with pytest.raises(ValueError, match=f'^{message}'):
      few_shot.check(13, labels, draws, name='few')
  with pytest.raises(ValueError, match=r'^seed=-1: expected a whole number'):
    few_shot.check(13, 5, 1, seed=-1)


def test_a_number_of_labels_may_be_numpys():
  lists = few_shot.label_lists.__wrapped__  # without the check of annotations that tests have
  np.testing.assert_equal(lists(13, np.int64(4), 2), lists(13, 4, 2))

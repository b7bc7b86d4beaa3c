"""Mirror pairs guessed from names are kept unless the labels show that they are wrong."""

import numpy as np
import pytest

from landmarks_jax.data import face_landmarks, folder, mirrored, youtube_faces_68
from landmarks_jax.data.synthetic import face_model

names, true, _ = face_landmarks.SIXTY_EIGHT


@pytest.fixture(scope='module')
def points(youtube_faces):
  return np.array(list(youtube_faces_68.source(str(youtube_faces), split='all').labels.values()))


def share(points, pairs, count, draws=40):
  """How often so many labels contradict the pairs."""
  rng = np.random.default_rng(0)
  chosen = [rng.choice(len(points), count, replace=False) for _ in range(draws)]
  return np.mean([mirrored.contradicted(pairs, points[rows]) for rows in chosen])


@pytest.mark.parametrize('count', [1, 5, 20])
def test_numbered_names_are_contradicted_and_true_pairs_are_not(points, count):
  guessed = folder.flip_pairs(names)
  assert share(points, guessed, count) >= (0.85 if count == 1 else 1)
  assert share(points, true, count) == 0
  assert share(points, tuple(reversed(true)), count) == 0


def test_all_labels_decide_alike(points):
  assert mirrored.contradicted(folder.flip_pairs(names), points)
  assert not mirrored.contradicted(true, points)


@pytest.mark.parametrize('count', [1, 5, 20])
def test_names_of_five_points_are_not_contradicted(points, count):
  five = np.stack([youtube_faces_68._chosen(one, 5) for one in points])
  pairs = folder.flip_pairs(face_landmarks.FIVE[0])
  assert len(pairs) == 2
  assert share(five, pairs, count) == 0


@pytest.mark.parametrize('count', [1, 5, 20])
def test_names_of_rendered_faces_are_not_contradicted(count):
  shots = [face_model.photograph(face_model.draw((0, 0, i))) for i in range(100)]
  shown = np.stack([np.where(one.visible[:, None], one.points, np.nan) for one in shots])
  pairs = folder.flip_pairs(face_model.NAMES + face_model.MORE_NAMES)
  assert len(pairs) == 7
  assert share(shown, pairs, count) == 0


def test_landmarks_that_are_rarely_or_never_visible_decide_nothing(points):
  few = points[:40].copy()
  few[1:, :17] = np.nan
  few[:, 20] = np.nan
  assert mirrored.contradicted(folder.flip_pairs(names), few)
  assert not mirrored.contradicted(true, few)


def test_two_points_no_pairs_or_no_labels_contradict_nothing():
  steep = np.array([[[0.0, 0], [1, 9]]])
  assert not mirrored.contradicted(((0, 1),), steep)
  assert not mirrored.contradicted((), np.zeros((3, 4, 2)))
  assert not mirrored.contradicted(((0, 1),), np.empty((0, 4, 2)))
  assert not mirrored.contradicted(((0, 1),), np.full((2, 4, 2), np.nan))


def test_the_first_pairs_are_listed():
  assert mirrored.listed((), 'abcd') == 'none'
  assert mirrored.listed(((0, 1), (3, 2)), 'abcd') == 'a/b, d/c'
  assert mirrored.listed(((0, 1), (3, 2)), 'abcd', most=1) == 'a/b and 1 more'

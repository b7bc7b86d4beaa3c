"""Drawings on whole pictures: marks at their pixels, whatever the size and the names."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from landmarks_jax.report import overlay


def changed(drawn, image):
  """Where a drawing is not the picture, enlarged."""
  size = drawn.shape[1::-1]
  plain = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
  return (drawn != plain).any(-1)


@pytest.mark.parametrize(('width', 'height'), [(100, 60), (37, 81), (3000, 1000), (480, 480)])
def test_a_dot_is_where_its_pixel_is(width, height):
  image = np.full((height, width, 3), 90, np.uint8)
  point = np.array([[width * 0.7, height * 0.25]])
  many = [str(k) for k in range(overlay.NAMED + 1)]  # no names: the dot alone
  drawn = overlay.landmarks(image, point, names=many)
  assert overlay.LEAST <= max(drawn.shape[:2]) <= overlay.MOST
  assert drawn.shape[1] / drawn.shape[0] == pytest.approx(width / height, rel=0.02)
  rows, columns = np.nonzero(changed(drawn, image))
  zoom = drawn.shape[1] / width
  expected = (point[0] + 0.5) * zoom - 0.5
  np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=1)


def lightness(colour):
  """CIE L* of a colour in sRGB."""
  light = np.array(colour) / 255
  light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
  return 116 * np.cbrt(light @ [0.2126, 0.7152, 0.0722]) - 16


def test_confidence_is_a_colour_from_red_to_green_and_from_dark_to_light():
  image = np.zeros((480, 480, 3), np.uint8)
  points = np.array([[100.0, 100], [200, 100], [300, 100], [400, 100]])
  given = np.array([0.0, 0.5, 1.0, np.nan])
  many = [str(k) for k in range(overlay.NAMED + 1)]
  drawn = overlay.landmarks(image, points, names=many, confidence=given)
  low, middle, high, unknown = (drawn[100, x].astype(int) for x in (100, 200, 300, 400))
  assert low[0] > 160 > 60 > low[1]
  assert min(middle[:2]) > 120 > 60 > middle[2]
  assert high[1] > 250 > 200 > high[0]
  steps = np.diff([lightness(colour) for colour in (low, middle, high)])
  assert min(steps) > 20
  assert tuple(unknown) == overlay.UNKNOWN


def test_a_skeleton_joins_landmarks_in_the_colour_of_the_less_certain():
  image = np.zeros((480, 480, 3), np.uint8)
  many = [str(k) for k in range(overlay.NAMED + 1)]
  points = np.array([[100.0, 100], [300, 100], [100, 300], [np.nan, 5]])
  pairs, sure = [(0, 1), (2, 0), (1, 3)], np.array([1.0, 0, np.nan, 0])
  drawn = overlay.landmarks(image, points, names=many, confidence=sure, skeleton=pairs)
  assert (drawn[100, 110:290] == overlay.SURE[0]).all()
  assert (drawn[110:290, 100] == overlay.UNKNOWN).all()
  assert not changed(drawn, image)[:90].any()
  plain = overlay.landmarks(image, points, names=many, skeleton=pairs)
  assert (plain[100, 110:290] == overlay.UNKNOWN).all()


def test_the_truth_is_a_ring_joined_to_its_dot():
  image = np.zeros((480, 480, 3), np.uint8)
  many = [str(k) for k in range(overlay.NAMED + 1)]
  points, target = np.array([[100.0, 100]]), np.array([[300.0, 100]])
  drawn = overlay.landmarks(image, points, names=many, target=target)
  assert (drawn[100, 150:290] == 255).all()
  hidden = overlay.landmarks(image, points, names=many, target=target * np.nan)
  assert not changed(hidden, image)[:, 150:].any()


@pytest.mark.parametrize(
  'name', ['<b>"&\'', '鼻', '😀 nose', 'two\nlines', '\udcff', 'x' * 300, '']
)
def test_any_name_is_drawn(name):
  image = np.zeros((60, 90, 3), np.uint8)
  points = np.array([[85.0, 30]])
  drawn = overlay.landmarks(image, points, names=[name], confidence=np.array([0.5]))
  assert changed(drawn, image).sum() > 20


def test_a_name_near_the_border_stands_on_the_other_side():
  image = np.zeros((480, 480, 3), np.uint8)
  drawn = overlay.landmarks(image, np.array([[460.0, 100]]), names=['a long name'])
  assert changed(drawn, image)[:, :440].any()


@pytest.mark.parametrize('side', [80, 480])
@pytest.mark.parametrize('place', [(0, 0), (1, 1), (1, 0), (0, 1)])
def test_a_name_in_a_corner_stays_in_the_picture(monkeypatch, side, place):
  point = np.array([place], float) * (side - 1)
  true = np.clip(point + 2, 0, side - 1) - 2 * np.array([place])  # a ring that the name would meet
  image = np.zeros((side, side, 3), np.uint8)
  ((left, top, right, bottom),), _ = boxes_of(monkeypatch, image, point, names=['eye'], target=true)
  assert min(left, top) >= -2  # of the outline
  assert max(right, bottom) <= 482


# Of a picture that a reviewer looked at, where names lay on points and on each other.
FIVE = np.array([[217.0, 191], [292, 196], [252, 239], [221, 275], [283, 277]])
TRUE = np.array([[240.0, 213], [310, 215], [268, 253], [247, 292], [302, 292]])
NAMES = ['left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth']


def boxes_of(monkeypatch, *arguments, **options):
  """The (left, top, right, bottom) of every text and every mark that `landmarks` draws."""
  texts, marks = [], []
  text, ellipse = ImageDraw.ImageDraw.text, ImageDraw.ImageDraw.ellipse

  def see_text(pen, place, written, *, fill, stroke_fill, **style):
    texts.append(pen.textbbox(place, written, **style))
    text(pen, place, written, fill=fill, stroke_fill=stroke_fill, **style)

  def see_mark(pen, box, **style):
    marks.append(box)
    ellipse(pen, box, **style)

  monkeypatch.setattr(ImageDraw.ImageDraw, 'text', see_text)
  monkeypatch.setattr(ImageDraw.ImageDraw, 'ellipse', see_mark)
  overlay.landmarks(*arguments, **options)
  return texts, marks


def meet(one, other):
  return all(one[i] < other[i + 2] and other[i] < one[i + 2] for i in (0, 1))


def test_no_name_lies_on_a_mark_or_on_another_name(monkeypatch):
  image = np.zeros((432, 480, 3), np.uint8)
  given = {'names': NAMES, 'confidence': np.full(5, 0.11), 'target': TRUE}
  texts, marks = boxes_of(monkeypatch, image, FIVE, **given)
  assert len(texts) == 5
  assert len(marks) >= 10
  for i, text in enumerate(texts):
    assert not [mark for mark in marks if meet(text, mark)]
    assert not [other for other in texts[:i] if meet(text, other)]


def test_a_name_that_must_lie_on_a_mark_does_not_hide_it():
  image = np.zeros((480, 480, 3), np.uint8)
  rows, columns = np.mgrid[200:290:30, 150:330:30]
  points = np.stack([columns.ravel(), rows.ravel()], axis=1)[11::-1].astype(float)
  drawn = overlay.landmarks(image, points, names=['a very long name'] * len(points))
  assert [tuple(drawn[int(y), int(x)]) for x, y in points] == [overlay.UNKNOWN] * len(points)


def test_names_are_drawn_in_their_letters_or_as_numbers_never_as_boxes():
  image, point = np.zeros((60, 90, 3), np.uint8), np.array([[40.0, 30]])
  draw = lambda *names: overlay.landmarks(image, point, names=names)  # noqa: E731
  assert overlay.key(['nose', 'Öl äöüß', 'нос', 'κορυφή', '<b>', 'two\nlines']) == ''
  for name in ('鼻', 'a鼻b', '🫠 nose', '\U0010ffff'):
    assert overlay.key(['eye', name]) == f'2 = {name}'
    assert (draw(name) == draw('1')).all()
  different = {draw(name).tobytes() for name in ('äa', 'öa', 'üa', 'на', 'он')}
  assert len(different) == 5


def test_too_many_names_are_left_out():
  image, count = np.zeros((480, 480, 3), np.uint8), overlay.NAMED + 1
  points = np.stack([30.0 * np.arange(count) + 20, np.full(count, 100)], axis=1)
  options = {'doubtful': [False] * count}
  names = ['鼻'] * count
  drawn = overlay.matches(image, image, points, points, names=names, **options)
  plain = overlay.matches(image, image, points, points, names=[''] * count, **options)
  assert (drawn == plain).all()
  assert overlay.key(names) == ''


def test_a_doubtful_match_is_a_ring_and_a_line_below_says_so():
  image, points = np.full((480, 480, 3), 90, np.uint8), np.array([[100.0, 100], [200, 300]])
  draw = lambda *doubtful: overlay.matches(  # noqa: E731
    image, image, points, points, names=['', ''], doubtful=doubtful
  )
  sure, doubted = draw(False, False), draw(False, True)
  assert sure.shape == (480, 960, 3)
  assert 500 < len(doubted) < 540
  assert (doubted[480:, :500] < 60).any()
  assert (doubted[290:311, 200] == 0).all(-1).sum() >= 4  # its outline
  assert (doubted[298:303, 198:203] == 90).all()  # its hole


@pytest.mark.parametrize('shape', [(1, 1), (1, 900), (700, 2)])
def test_pictures_of_any_shape(shape):
  image = np.zeros((*shape, 3), np.uint8)
  overlay.landmarks(image, np.zeros((1, 2)), names=['a'])
  overlay.matches(image, image, np.zeros((1, 2)), np.zeros((1, 2)), names=['a'], doubtful=[True])


def test_matches_stand_side_by_side_in_the_same_colour():
  first, second = np.zeros((480, 300, 3), np.uint8), np.zeros((240, 200, 3), np.uint8)
  points, matched = np.array([[50.0, 100], [200, 300]]), np.array([[20.0, 50], [100, 150]])
  drawn = overlay.matches(first, second, points, matched, names=['1', '2'], doubtful=[False, True])
  assert drawn[:480].shape == (480, 300 + 400, 3)  # and a line below
  sure = drawn[100, 50].tolist()
  assert max(sure) > 200
  assert drawn[101, 300 + 41].tolist() == sure  # pixel p of the second is at 2 p + .5
  assert drawn[300, 200].tolist() == [0, 0, 0]  # a ring is empty


@pytest.mark.parametrize('shape', [(60, 2000), (100, 1800)])
def test_points_of_a_panorama_are_where_their_pixels_are(shape):
  """At the height of the other it would be wider than any picture may be."""
  first, second = np.zeros((600, 500, 3), np.uint8), np.zeros((*shape, 3), np.uint8)
  height, width = shape
  matched = np.array([[width * 0.8, height * 0.4]])
  options = {'names': [''], 'doubtful': [False]}
  drawn = overlay.matches(first, second, np.array([[50.0, 100]]), matched, **options)
  assert drawn.shape == (600, 500 + overlay.WIDEST, 3)
  rows, columns = np.nonzero(drawn[:, 500:].any(-1) & (drawn[:, 500:] < 255).any(-1))
  expected = (matched[0] + 0.5) * (overlay.WIDEST / width) - 0.5
  np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=1)
  assert (drawn[-1, 500:] == 255).all()


def test_points_that_are_no_numbers_are_left_out():
  image, many = np.zeros((480, 480, 3), np.uint8), ['a', 'b']
  points = np.array([[100.0, 100], [np.nan, np.inf]])
  drawn = overlay.landmarks(image, points, names=many, target=np.array([[50.0, 100], [300, 300]]))
  alone = overlay.landmarks(image, points[:1], names=many[:1], target=np.array([[50.0, 100]]))
  assert (drawn[:200] == alone[:200]).all()
  assert drawn[300 - 10 : 300 + 10, 290:310].any()  # the ring of what should have been found
  for first, second in ((points, points[::-1]), (points[::-1], points)):
    overlay.matches(image, image, first, second, names=many, doubtful=[False, True])
  overlay.landmarks(image, np.array([[1e30, -1e30], [1e9, 3]]), names=many)

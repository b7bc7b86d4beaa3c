"""Landmark models fitted to labelled pictures: the few-shot protocol's numbers, in pixels."""

import re
import weakref

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from PIL import Image

from landmarks_jax import metrics
from landmarks_jax.api import fit_landmarks, load_landmarks
from landmarks_jax.contracts import Describer
from landmarks_jax.data import folder
from landmarks_jax.evaluation import regression
from landmarks_jax.inference import fitting
from landmarks_jax.inference.model import Model
from landmarks_jax.inference.pictures import checksum
from landmarks_jax.interop import landmark_csv
from landmarks_jax.models import ridge

FRAME, MARGIN = 36, 2
NAMES = ('left eye', 'right eye', 'nose "n", <b>鼻</b>')


def planted(variables, image, size):
  """Features that are the landmarks' own colours; coarse ones beside them."""
  image = jnp.asarray(image, jnp.float32) * variables
  half = image.reshape(len(image), image.shape[1] // 2, 2, -1, 2, 3).mean((2, 4))
  return half, image


def model_of(strength):
  describer = Describer(np.float32(strength), planted)
  return Model(describer, {'method': {'name': 'planted'}}, frame=FRAME, margin=MARGIN)


@pytest.fixture(scope='module')
def seeing():
  return model_of(1)


def face(index):
  """A picture with a soft dot at each landmark, in a colour of its own, and the points."""
  rng = np.random.default_rng(index)
  width, height = rng.integers(40, 70, 2).tolist()
  side = min(width, height)
  centres = np.array([(-0.2, -0.12), (0.2, -0.15), (0.05, 0.2)])
  share = centres + rng.uniform(-0.13, 0.13, (3, 2))
  points = np.array([width, height]) / 2 + share * side
  y, x = np.mgrid[:height, :width]
  away = (x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2
  dots = np.exp(-away / (2 * (side / 9) ** 2))
  return np.rint(255 * dots).astype(np.uint8).transpose(1, 2, 0), points


@pytest.fixture(scope='module')
def faces():
  """Two sets of (pictures, points [N, K, 2])."""
  sets = ([face(i) for i in range(12)], [face(100 + i) for i in range(9)])
  return [([image for image, _ in s], np.stack([points for _, points in s])) for s in sets]


@pytest.fixture(scope='module')
def fitted(seeing, faces):
  return fit_landmarks(seeing, *faces[0], names=NAMES, scale=(0, 1), copies=2, options={'size': 12})


def off(found, points):
  """Distances over that of the first two."""
  scale = np.linalg.norm(points[:, 0] - points[:, 1], axis=-1)
  return np.linalg.norm(found - points, axis=-1) / scale[:, None]


def test_landmarks_that_the_features_mark_are_found(fitted, faces):
  images, points = faces[1]
  found, confidence = fitted.predict(images, batch_size=4)
  assert found.shape == (9, 3, 2)
  assert found.dtype == confidence.dtype == np.float32
  assert off(found, points).mean() < 0.1
  assert confidence.shape == (9, 3)
  assert ((confidence >= 0) & (confidence <= 1)).all()
  blind = fit_landmarks(model_of(0), *faces[0], scale=(0, 1), copies=0, options={'size': 12})
  lost, doubted = blind.predict(images)
  assert off(lost, points).mean() > 0.25
  assert doubted.mean() < confidence.mean() - 0.2


def test_the_same_whoever_holds_the_pictures(fitted, faces, tmp_path):
  images = faces[1][0]
  files = [tmp_path / f'{i}.png' for i in range(len(images))]
  for file, image in zip(files, images, strict=True):
    Image.fromarray(image).save(file)
  expected = fitted.predict(images)
  for given in (files, [str(f) for f in files], [Image.open(f) for f in files]):
    for a, b in zip(fitted.predict(given, batch_size=2), expected, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-3)


def test_a_box_moves_what_is_looked_at(fitted, faces):
  images, _ = faces[1]
  wide, boxes = [], []
  for i, image in enumerate(images):
    canvas = np.full((150, 170, 3), 9, np.uint8)
    x, y = 20 + 3 * i, 40 - 2 * i
    height, width = image.shape[:2]
    canvas[y : y + height, x : x + width] = image
    side = min(width, height)
    left, top = x + (width - side) / 2, y + (height - side) / 2
    wide.append(canvas)
    boxes.append([left, top, left + side, top + side])
  found, _ = fitted.predict(wide, boxes=boxes)
  shift = np.array([[20 + 3 * i, 40 - 2 * i] for i in range(len(images))])
  np.testing.assert_allclose(found - shift[:, None], fitted.predict(images).points, atol=1e-2)


@pytest.fixture
def folders(tmp_path, faces):
  """The sets as folders with labels, as the protocol reads them."""
  for split, (images, points) in zip(('train', 'test'), faces, strict=True):
    (tmp_path / split).mkdir()
    for i, image in enumerate(images):
      Image.fromarray(image).save(tmp_path / split / f'{i:02}.png')
    labels = {f'{i:02}.png': p for i, p in enumerate(points)}
    landmark_csv.write(tmp_path / split / 'labels.csv', NAMES, labels)
  options = {'labels': 'labels.csv', 'frame': FRAME, 'crop': 'pad'}
  options |= {'scale': (NAMES[0], NAMES[1])}
  return lambda split: folder.source(str(tmp_path / split), **options)


@pytest.mark.parametrize(
  ('labels', 'copies'), [(None, 0), (12, 3)], ids=['all labels', 'few labels with mirrored copies']
)
def test_the_numbers_are_those_of_the_protocol(seeing, faces, folders, labels, copies):
  common = {'margin': MARGIN, 'size': 8, 'batch_size': 4, 'copies': copies, 'labels': labels}
  with_file_precision = [np.round(points, 3) for _, points in faces]
  predictions = regression.run(
    seeing.describer, folders, random_init={}, baselines={}, seed=5, **common
  )
  (expected,) = (p for name, p in predictions.items() if name.startswith('trained/'))
  mine = fit_landmarks(
    seeing,
    faces[0][0],
    with_file_precision[0],
    names=NAMES,
    flip_pairs=folders('train').info.flip_pairs,
    crop='pad',
    copies=copies,
    seed=5,
    options={'size': 8},
    batch_size=4,
  )
  found, _ = mine.predict(faces[1][0])
  zoom = (FRAME - 1) / (FRAME - 2 * MARGIN - 1)
  pictures = seeing.pictures(faces[1][0], crop='pad')
  for i, points in enumerate(found):
    pictures[i]
    normalised = pictures.from_pixels(i, points) * zoom
    np.testing.assert_allclose(normalised, expected.points[i], atol=2e-3)
  assert folders('train').info.flip_pairs == ((0, 1),)


def test_confidence_is_of_pictures_held_out(fitted, faces):
  images, points = faces[1]
  found, confidence = fitted.predict(images)
  error = off(found, points)
  assert fitted.confidence.pictures == 12
  assert confidence.mean() == pytest.approx((error < 0.1).mean(), abs=0.2)


def test_few_labels_are_honest(seeing, faces):
  images, points = faces[0]
  one = fit_landmarks(seeing, images[:1], points[:1], copies=2, options={'size': 8})
  assert np.isnan(one.predict(images[:2]).confidence).all()
  three = fit_landmarks(seeing, images[:3], points[:3], copies=2, options={'size': 8})
  assert np.ptp(three.predict(images[:2]).confidence) == 0


def test_a_confidence_can_be_measured_on_other_pictures(seeing, fitted, faces):
  images, points = faces[0]
  one = fit_landmarks(seeing, images[:1], points[:1], scale=(0, 1), copies=2, options={'size': 8})
  measured = one.calibrated(images[1:], points[1:], tolerance=0.2)
  assert measured.confidence.pictures == 11
  found, confidence = measured.predict(images[1:])
  assert one.confidence is None
  with pytest.warns(UserWarning, match='1 of the 12 pictures were learned from and are left out'):
    assert one.calibrated(images, points, tolerance=0.2).confidence.pictures == 11
  right = (off(found, points[1:]) < 0.2).mean()
  assert confidence.mean() == pytest.approx(right, abs=0.1)


def test_a_confidence_that_nothing_measures_is_an_error(fitted, faces):
  images, points = faces[1]
  with pytest.raises(ValueError, match=r'1 of the 1 pictures have .*; expected at least 2'):
    fitted.calibrated(images[:1], points[:1])
  learned = faces[0]
  with (
    pytest.warns(UserWarning, match='12 of the 13 pictures were learned from and are left out'),
    pytest.raises(ValueError, match='1 of the 1 pictures that were not learned from have'),
  ):
    fitted.calibrated([*learned[0], images[0]], np.concatenate([learned[1], points[:1]]))
  points = points.copy()
  points[:, 0] = np.nan
  with pytest.raises(ValueError, match=r'0 of the 9 pictures have .* scale=\(0, 1\)'):
    fitted.calibrated(images, points)


def test_the_published_head_learns_too_and_is_saved(seeing, faces, tmp_path, monkeypatch):
  options = {'size': 12, 'epochs': 6, 'learning_rate': 0.01}
  fitted = fit_landmarks(seeing, *faces[0], head='probe', copies=1, scale=(0, 1), options=options)
  images, points = faces[1]
  found, confidence = fitted.predict(images)
  assert off(found, points).mean() < 0.35
  assert fitted.confidence.pictures == 2  # every fifth of twelve
  assert np.ptp(confidence) == 0
  monkeypatch.setattr(Model, 'save', lambda self, folder: folder.mkdir(parents=True))
  fitted.save(tmp_path / 'probe')
  monkeypatch.setattr('landmarks_jax.inference.landmark_model.load', lambda *_, **__: seeing)
  for a, b in zip(
    load_landmarks(tmp_path / 'probe').predict(images), (found, confidence), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(('head', 'size'), [('probe', 12), ('ridge', None)])
def test_only_the_published_head_asks_for_features_on_its_own_grid(faces, head, size):
  def softmax(variables, image, size):  # whose values depend on the grid, as those of a projection
    shape = len(image), size or 8, size or 8, 3
    maps = jax.image.resize(jnp.asarray(image, jnp.float32), shape, 'linear')
    return (jax.nn.softmax(maps * variables, axis=(1, 2)),)

  def found(apply):
    model = Model(Describer(np.float32(0.02), apply), {'method': {}}, frame=FRAME, margin=MARGIN)
    options = {'size': 12} | ({'epochs': 1} if head == 'probe' else {})
    images, points = (given[:4] for given in faces[0])
    fitted = fit_landmarks(model, images, points, head=head, copies=1, options=options)
    return fitted.predict(faces[1][0][:2]).points

  expected = found(lambda variables, image, _: softmax(variables, image, size))
  np.testing.assert_array_equal(found(softmax), expected)


@pytest.mark.parametrize('progress', [False, True])
def test_the_published_head_tells_its_progress_where_wanted(
  seeing, faces, monkeypatch, capsys, progress
):
  monkeypatch.setattr('landmarks_jax.evaluation.probing.TELL_EVERY', 0)
  images, points = (given[:3] for given in faces[0])
  options = {'head': 'probe', 'copies': 0, 'options': {'size': 6, 'epochs': 2}}
  fit_landmarks(seeing, images, points, progress=progress, **options)
  assert ('probe loss' in capsys.readouterr().err) == progress


def test_features_are_in_memory_once_during_the_fit(seeing, faces, monkeypatch):
  parts, fit, join = [], ridge.fit_ridge, fitting._joined

  def joined(given):
    parts.extend(weakref.ref(level) for part in given for level in part.pyramid)
    return join(given)

  def fitted(*given, **options):
    assert len(parts) == 4
    assert all(part() is None for part in parts)
    return fit(*given, **options)

  monkeypatch.setattr(fitting, '_joined', joined)
  monkeypatch.setattr(ridge, 'fit_ridge', fitted)
  fit_landmarks(seeing, *faces[0], copies=2, options={'size': 12})


def test_invisible_labels_are_not_learned(seeing, faces):
  images, points = faces[0]
  hidden = points.copy()
  hidden[3, 1] = np.nan
  wrong = points.copy()
  wrong[3, 1] = 5
  visible = np.isfinite(hidden).all(-1)
  options = {'copies': 0, 'options': {'size': 8}}
  a = fit_landmarks(seeing, images, hidden, **options).predict(images[:2])
  b = fit_landmarks(seeing, images, wrong, visible, **options).predict(images[:2])
  np.testing.assert_array_equal(a.points, b.points)


def test_what_was_learned_from_is_known_again(fitted, faces):
  learned, others = faces[0][0], faces[1][0]
  assert list(fitted.learned_from) == [checksum(image) for image in learned]
  assert not set(fitted.learned_from) & {checksum(image) for image in others}


def test_labels_that_the_network_cannot_see_are_told(seeing, faces):
  images, points = faces[0]
  moved = points.copy()
  moved[2, 0] = 0
  with pytest.warns(
    UserWarning, match='1 of 36 labels lie outside .* landmark 0 of images.2.. Give'
  ):
    fit_landmarks(seeing, images, moved, copies=0, options={'size': 8})


def test_what_is_told_of_a_label_names_landmark_and_file(seeing, faces, tmp_path):
  images, points = faces[0]
  files = [tmp_path / f'{i}.png' for i in range(len(images))]
  for file, image in zip(files, images, strict=True):
    Image.fromarray(image).save(file)
  moved = points.copy()
  moved[2, 0], moved[4, 1] = 0, -9
  with pytest.warns(UserWarning, match='lie outside') as told:
    fit_landmarks(seeing, files, moved, names=NAMES, copies=0, options={'size': 8})
  outside, unseen = (str(one.message) for one in told)
  assert f'the first is {NAMES[1]} of {files[4]}, at (' in outside
  assert f'the first is {NAMES[0]} of {files[2]}. Give' in unseen


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda points: points.__setitem__((2, 0), 300), '1 of 36 labels lie outside their picture; '),
    (lambda points: points.__setitem__((5, 1), -1), 'landmark 1 of images.5., at .-1, -1. of '),
    (lambda points: np.divide(points, 80, out=points), 'all 36 points lie .* are these in pixels'),
  ],
)
def test_labels_outside_their_picture_or_in_another_unit_are_told(seeing, faces, change, message):
  images, points = faces[0]
  points = points.copy()
  change(points)
  with pytest.warns(UserWarning, match=message) as told:
    fit_landmarks(seeing, images, points, copies=0, options={'size': 8})
  assert len(told) == 1


def test_labels_of_larger_pictures_are_refused(seeing, faces):
  images, points = faces[0]
  message = r'3[0-9] of 36 labels lie outside .* Were they made on pictures of another size\?'
  with pytest.raises(ValueError, match=message):
    fit_landmarks(seeing, images, 4 * points, copies=0, options={'size': 8})


@pytest.mark.parametrize('value', [1e4, -1e30, 1e300])
def test_a_label_far_from_its_picture_is_refused_by_landmark_and_picture(
  seeing, faces, value, recwarn
):
  images, points = faces[0]
  points = points.copy()
  points[2, 1, 0] = value
  message = (
    rf'images\[2\]: is .* pixels, its label {NAMES[1]} is at \({re.escape(f"{value:g}")}, .*size'
  )
  with pytest.raises(ValueError, match=message):
    fit_landmarks(seeing, images, points, names=NAMES, copies=0, options={'size': 8})
  assert not recwarn.list
  visible = np.ones(points.shape[:2], bool)
  visible[2, 1] = False
  fit_landmarks(seeing, images, points, visible, copies=0, options={'size': 8})


def test_a_scale_that_no_picture_shows_is_told(seeing, faces):
  images, points = faces[0]
  points = points.copy()
  points[:6, 0], points[6:, 1] = np.nan, np.nan
  with pytest.warns(
    UserWarning, match='both landmarks of the scale, landmark 0 and landmark 1, apart'
  ):
    fitted = fit_landmarks(
      seeing, images, points, scale=(0, 1), copies=0, options={'size': 8, 'spread': 0.2}
    )
  assert fitted.confidence is None


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'head': 'forest'}, "head='forest': choose from ridge, probe"),
    ({'copies': -1}, 'copies=-1'),
    ({'options': {'epochs': 3}}, 'options: those of a ridge are size, spread, not epochs'),
    ({'head': 'probe', 'options': {'epoch': 3}}, 'of a probe are size, epochs, .*, not epoch$'),
    ({'skeleton': [(0, 3)]}, r'skeleton: \(0, 3\); expected two numbers'),
    ({'names': ['a', 'b']}, 'expected 3 different'),
    ({'crop': 'oval'}, "crop='oval'"),
    ({'boxes': [[0, 0, 5, 5]]}, r'boxes is \[1, 4\]'),
    ({'tolerance': 0.0}, 'expected a positive share'),
    ({'seed': -1}, 'seed=-1'),
    ({'seed': 2**63}, f'seed={2**63}: expected a whole number, 0 to {2**63 - 1}'),
    ({'tolerance': np.inf}, 'tolerance=inf: expected a positive share'),
    ({'batch_size': 0}, 'batch_size=0: expected a whole number, 1 or more'),
    ({'options': {'size': 1}}, 'size=1: expected heat maps of at least 2'),
    ({'options': {'spread': 0.0}}, 'spread=0.0: expected a positive'),
    ({'options': {'spread': np.nan}}, 'spread=nan'),
    ({'head': 'probe', 'options': {'epochs': 0}}, 'epochs=0: expected 1 or more'),
    ({'head': 'probe', 'options': {'size': 1}}, 'size=1: expected 2 or more'),
    ({'head': 'probe', 'options': {'stop_epoch': 201}}, 'stop_epoch=201: expected 1 to 200'),
    ({'head': 'probe', 'options': {'batch_size': 0}}, 'batch_size=0'),
    ({'head': 'probe', 'options': {'epoch_size': -1}}, 'epoch_size=-1: expected 0 or more'),
    ({'head': 'probe', 'options': {'learning_rate': -1.0}}, 'learning_rate=-1.0'),
  ],
)
def test_wrong_options_are_named_before_anything_is_described(faces, options, message):
  def describe(variables, image, size):
    raise AssertionError('this may take minutes')

  images, points = faces[0]
  config = {'method': {'name': 'planted'}}
  model = Model(Describer(np.float32(1), describe), config, frame=FRAME, margin=MARGIN)
  given = {'copies': 0, 'options': {'size': 8}} | options
  with pytest.raises(ValueError, match=message):
    fit_landmarks(model, images, points, **given)


def test_measured_errors_are_the_metrics(fitted, faces, seeing):
  """`distances` and `metrics` agree on what an error is."""
  from landmarks_jax.contracts import Predictions
  from landmarks_jax.inference.pictures import PointLabels, distances

  images, points = faces[1]
  pictures = seeing.pictures(images, labels=PointLabels.of(points, scale=(0, 1)))
  for batch, found, _ in fitted.look(pictures):
    gathered = Predictions(found, batch.points, batch.visible, batch.scale, batch.index)
    np.testing.assert_allclose(
      distances(found, batch), metrics.normalised_distances(gathered), rtol=1e-5
    )

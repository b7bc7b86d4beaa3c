"""A real network, untrained and tiny, learns the places of two discs from a few labels."""

import os
import pathlib
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.data.source import normaliser
from landmarks_jax.inference import confidence, fitting
from landmarks_jax.inference.head import Head
from landmarks_jax.inference.landmark_model import LandmarkModel
from landmarks_jax.inference.model import Model
from landmarks_jax.inference.pictures import checksum, distances
from landmarks_jax.labelling import described as storage
from landmarks_jax.labelling import learner as learning
from landmarks_jax.labelling.learner import FrozenLearner
from landmarks_jax.labelling.picture_files import PictureFiles
from landmarks_jax.methods import equivariant, probe
from landmarks_jax.models import ridge

FRAME, MARGIN, COUNT, SIZE = 36, 2, 16, (90, 60)
METHOD = {'name': 'equivariant', 'network': 'simple', 'dim': 8, 'width': 0.2, 'margin': MARGIN}
METHOD |= {'precision': 'float32', 'mean': (0.5,) * 3, 'std': (0.2,) * 3}
NAMES = ['left disc', 'right disc']


@pytest.fixture(scope='module', autouse=True)
def _few_copies():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(learning, 'COPIES', 2)
    patch.setattr(learning, 'BATCH', 8)
    yield


@pytest.fixture(scope='module')
def model():
  method = equivariant.build(**{k: v for k, v in METHOD.items() if k != 'name'})
  example = Batch(image=np.zeros((1, FRAME, FRAME, 3), np.uint8))
  variables = jax.jit(method.init)(jax.random.key(0), example)
  describer = Describer(variables, lambda v, image, size: method.describe(*v, image, size))
  return Model(describer, {'method': METHOD}, frame=FRAME, margin=MARGIN)


def paint(path, places):
  image = Image.new('RGB', SIZE, (40, 45, 60))
  pen = ImageDraw.Draw(image)
  for (x, y), colour in zip(places, ((250, 60, 40), (60, 240, 80)), strict=True):
    pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
  image.save(path)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """A folder of pictures with two discs, and their places in pixels."""
  root, rng = tmp_path_factory.mktemp('discs'), np.random.default_rng(0)
  low, high = [[14, 12], [52, 20]], [[40, 46], [76, 50]]
  places = rng.integers(low, high, size=(COUNT, 2, 2)).astype(float)
  for i in range(COUNT):
    paint(root / f'{i:02}.png', places[i])
  return root, places


@pytest.fixture(scope='module')
def learner(model, world):
  learner = FrozenLearner(model, PictureFiles(world[0]), NAMES)
  told = []
  learner.describe(lambda done, broken: told.append((done, broken)) or True)
  assert told[-1] == (COUNT, {})
  return learner


def error(fit, places, rows):
  return np.linalg.norm(fit.points[rows] - places[rows], axis=-1).mean()


def test_it_finds_the_discs_in_pixels_of_pictures_that_are_not_square(learner, world):
  places = world[1]
  labels = {i: places[i] for i in range(8)}
  fit = learner.fit(labels)
  rest = np.arange(8, COUNT)
  mean = np.linalg.norm(places[:8].mean(0) - places[rest], axis=-1).mean()
  assert error(fit, places, rest) < 0.6 * mean
  assert error(fit, places, np.arange(8)) < 0.6 * mean
  assert np.isfinite(fit.doubt).all()
  assert ((fit.confidence > 0) & (fit.confidence < 1)).all()


def test_confidence_is_the_share_of_points_that_are_near(learner, world):
  places = world[1]
  fit = learner.fit({i: places[i] for i in range(8)})
  side = SIZE[0]  # of the frame, in pixels
  near = np.linalg.norm(fit.points - places, axis=-1) < learning.TOLERANCE * side
  assert abs(fit.confidence[8:].mean() - near[8:].mean()) < 0.25


def test_confidence_is_of_the_whole_frame_where_the_network_sees_less(monkeypatch):
  count, frame, margin = 12, 136, 20
  describer = Describer({}, lambda *_: (np.zeros((1, 1, 1, 1)),))
  model = Model(describer, {'method': METHOD}, frame=frame, margin=margin)
  seen = np.zeros((count, 2, 2), np.float32)
  found = seen + np.float32([6 * 2 / (model.side - 1), 0])  # 6 pixels: 4 % of the frame's side
  evidence = np.zeros((count, 2, 1))
  held_out = ridge.HeldOut(np.arange(count), found, evidence)
  head = SimpleNamespace(variables=ridge.RidgeVariables((), *[None] * 5))  # not looked at
  fitted = ridge.RidgeFit(head, held_out)
  monkeypatch.setattr(ridge, 'fit_ridge', lambda *_, **__: fitted)
  scale = np.full(count, 2 / model.zoom, np.float32)
  labelled = Batch(points=seen, visible=np.ones((count, 2), bool), scale=scale)
  _, judged = fitting.fit_ridge(labelled)
  judge = confidence.fit(*judged, tolerance=learning.TOLERANCE)
  side = normaliser(seen * model.zoom, 'frame')
  error = distances(found * model.zoom, labelled._replace(points=seen * model.zoom, scale=side))
  observed = (error < judge.tolerance).mean()
  assert abs(judge(evidence).mean() - observed) < 0.01
  assert observed == 1


def test_a_model_is_saved_that_predicts_the_same_and_may_be_given_at_the_next_start(
  model, learner, world, tmp_path
):
  from landmarks_jax.inference.landmark_model import load_landmarks

  fit = learner.fit({i: world[1][i] for i in range(8)})
  learner.save(tmp_path / 'model')
  saved = load_landmarks(tmp_path / 'model')
  assert (saved.names, saved.flip_pairs, saved.crop) == (tuple(NAMES), ((0, 1),), 'pad')
  assert saved.learned_from == tuple(checksum(learner.pictures.read(i)) for i in range(8))
  found = saved.predict([str(learner.files.path(i)) for i in range(3)])
  np.testing.assert_allclose(found.points, fit.points[:3], atol=0.05)
  np.testing.assert_allclose(found.confidence, fit.confidence[:3], atol=0.02)
  again = FrozenLearner(model, learner.files, NAMES, known=saved)
  again.described = learner.described
  np.testing.assert_allclose(again.first().points, fit.points, atol=0.05)
  turned = FrozenLearner(model, learner.files, NAMES[::-1], known=saved)
  turned.described = learner.described
  np.testing.assert_allclose(turned.first().points, again.first().points[:, ::-1], atol=1e-3)
  np.testing.assert_array_equal(turned.first().confidence, again.first().confidence[:, ::-1])
  empty = FrozenLearner(model, learner.files, NAMES)
  assert empty.first() is None
  with pytest.raises(ValueError, match='nothing is fitted'):
    empty.save(tmp_path / 'other')


def test_a_known_head_with_a_grid_of_its_own_reads_features_of_that_grid(world, tmp_path):
  def described(variables, image, size):  # values that depend on the grid, as of a projection
    side = 6 if size is None else size
    maps = jax.image.resize(image.astype(np.float32), (len(image), side, side, 3), 'linear')
    return (jax.nn.softmax(maps / 50, axis=(1, 2)),)

  for i in range(3):
    paint(tmp_path / f'{i}.png', world[1][i])
  (tmp_path / '1b.png').write_bytes(b'no picture')
  network = Model(Describer((), described), {'method': METHOD}, frame=FRAME, margin=MARGIN)
  params = probe.random_params(jax.random.key(0), (3,), landmarks=2, points_per_landmark=4)
  head = Head('probe', params, {'size': 12, 'sharpness': 1000.0})
  known = LandmarkModel(network, head, names=NAMES, crop='pad')
  again = FrozenLearner(network, PictureFiles(tmp_path), NAMES, known=known)
  again.describe(lambda done, broken: True)
  found = again.first().points
  readable = [i for i, name in enumerate(again.files.names) if name != '1b.png']
  paths = [str(again.files.path(i)) for i in readable]
  np.testing.assert_allclose(found[readable], known.predict(paths).points, atol=1e-3)
  assert np.isnan(found[[i for i in range(4) if i not in readable]]).all()


def test_labels_are_in_the_frame_that_the_network_sees_and_copies_lie_around_them(learner, world):
  labelled = learner._labelled([3], {3: world[1][3]})
  np.testing.assert_allclose(learner._pixels(3, labelled.points[0]), world[1][3], atol=1e-3)
  plain, mirrored = labelled.points[1:]
  np.testing.assert_allclose(plain, labelled.points[0], atol=0.25)
  np.testing.assert_allclose(mirrored, labelled.points[0][::-1] * [-1, 1], atol=0.25)


def test_copies_of_a_picture_are_described_once_and_again_when_its_label_changes(learner, world):
  labels = {i: world[1][i] for i in range(4)}
  learner.fit(labels)
  before = dict(learner._copies)
  learner.fit(labels | {3: world[1][3] + 1})
  same = [learner._copies[i][1] is before[i][1] for i in range(4)]
  assert same == [True, True, True, False]


def test_invisible_landmarks_are_left_out(learner, world):
  places = world[1]
  labels = {i: places[i].copy() for i in range(8)}
  labels[0][1] = np.nan
  fit = learner.fit(labels)
  assert np.isfinite(fit.points).all()
  with pytest.raises(ValueError, match='not visible in any'):
    learner.fit({0: np.full((2, 2), np.nan)})


def test_left_and_right_are_each_others_mirror_image(learner):
  assert learner.flip_pairs == ((0, 1),)


def test_pairs_that_the_labels_contradict_are_dropped_with_one_warning(model, world):
  names = 'left 0', 'left 1', 'right 0', 'right 1', 'tail'
  points = np.array([[20.0, 10], [32, 30], [58, 30], [70, 10], [45, 55]])  # from left to right
  files = PictureFiles(world[0])
  learner = FrozenLearner(model, files, names)
  learner.describe(lambda done, broken: True)
  with pytest.warns(UserWarning, match='the labels contradict the mirror pairs'):
    learner.fit({0: points, 1: points + 1})
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    learner.fit({i: points + i for i in range(3)})
  assert learner.flip_pairs == ()
  stated = learner._known
  stated.flip_pairs = true = (0, 3), (1, 2)
  again = FrozenLearner(model, files, names, known=stated)
  again.described = learner.described
  again.fit({0: points})
  assert again.flip_pairs == true
  stated.flip_pairs = (2, 0), (3, 1)  # those that the names suggest, the other way round
  again = FrozenLearner(model, files, names, known=stated)
  again.described = learner.described
  with pytest.warns(UserWarning, match='the labels contradict the mirror pairs'):
    again.fit({0: points, 1: points + 1})
  assert again.flip_pairs == ()


@pytest.mark.parametrize('crop', ['pad', 'centre', 'squash'])
def test_pixels_go_to_the_frame_and_back(model, world, crop):
  learner = FrozenLearner(model, PictureFiles(world[0]), NAMES, crop=crop)
  learner.described.sizes[:] = SIZE
  learner.described.done[:] = True
  pixels = np.array([[20.0, 30.5], [44, 59]])
  normalised = learner._normalised(3, pixels)
  zoom = (FRAME - 1) / (model.side - 1)  # the network's frame is the inner part
  np.testing.assert_allclose(learner._pixels(3, normalised * zoom), pixels, atol=1e-4)
  unseen = learner._normalised(3, np.array([[2.0, 30]]))
  assert np.isnan(unseen).all() == (crop == 'centre')


def test_features_are_there_at_the_next_start_and_not_for_other_pictures(model, world, tmp_path):
  files = PictureFiles(world[0])
  first = FrozenLearner(model, files, NAMES, keep=tmp_path / 'features')
  first.describe(lambda done, broken: done < 8)  # stopped on the way
  done = int(first.described.done.sum())
  assert 8 <= done < COUNT or done == COUNT
  first.describe(lambda *_: True)
  again = FrozenLearner(model, files, NAMES, keep=tmp_path / 'features')
  assert again.described.done.all()
  again._frame = None  # nothing is read
  again.describe(lambda *_: True)
  for one, other in zip(first.described.pyramid, again.described.pyramid, strict=True):
    np.testing.assert_array_equal(one, other)
  np.testing.assert_array_equal(again.looks(), first.looks())
  path = files.path(5)
  stat = path.stat()
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # it may be another picture
  changed = FrozenLearner(model, files, NAMES, keep=tmp_path / 'features')
  assert not changed.described.done.any()
  other_crop = FrozenLearner(model, files, NAMES, crop='centre', keep=tmp_path / 'features')
  assert not other_crop.described.done.any()


def test_a_stop_loses_no_described_picture(model, world, tmp_path, monkeypatch):
  monkeypatch.setattr(learning, 'TELL', 0.0)
  keep = tmp_path / 'features'
  first = FrozenLearner(model, PictureFiles(world[0]), NAMES, keep=keep)
  first.describe(lambda *_: False)
  assert first.described.done.sum() == 8
  again = FrozenLearner(model, PictureFiles(world[0]), NAMES, keep=keep)
  np.testing.assert_array_equal(again.described.done, first.described.done)


def test_without_room_on_the_disk_features_stay_in_memory_and_leave_it_to_the_labels(
  tmp_path, monkeypatch
):
  given = {'key': 'k', 'count': 3, 'shapes': [(2, 2, 5)]}
  allocate = os.posix_fallocate

  def full(file, start, size):
    if (tmp_path / 'sizes').exists():  # the last but one, when the level has its room
      raise OSError(28, 'No space left on device')
    allocate(file, start, size)

  with monkeypatch.context() as patch:
    free = storage.RESERVE + 3 * (2 * 2 * 5 * 2 + 2 * 4 + 1) - 1
    patch.setattr(storage.shutil, 'disk_usage', lambda _: SimpleNamespace(free=free))
    assert '268 are for labels' in storage.Described(tmp_path, **given).warning
    assert list(tmp_path.iterdir()) == []
  monkeypatch.setattr(storage.os, 'posix_fallocate', full)
  kept = storage.Described(tmp_path, **given)
  assert list(tmp_path.iterdir()) == []
  assert 'No space left on device' in kept.warning
  values = np.arange(20.0).reshape(1, 2, 2, 5)
  kept.put(np.array([1]), (values,), np.array([[7, 9]], np.int32))
  np.testing.assert_array_equal(np.asarray(kept.pyramid[0][1], float), values[0])
  assert (kept.done.tolist(), kept.sizes[1].tolist()) == ([False, True, False], [7, 9])


def test_features_that_are_not_kept_are_told(model, world, tmp_path):
  (tmp_path / 'features').write_text('no folder')
  learner = FrozenLearner(model, PictureFiles(world[0]), NAMES, keep=tmp_path / 'features')
  with pytest.warns(UserWarning, match='features are not kept for the next start: .*File exists'):
    assert not learner.described.done.any()


def test_room_is_taken_also_where_the_system_cannot_reserve_it(tmp_path, monkeypatch):
  monkeypatch.delattr(storage.os, 'posix_fallocate')
  monkeypatch.setattr(storage, 'PART', 64)
  given = {'key': 'k', 'count': 3, 'shapes': [(2, 2, 5)]}
  kept = storage.Described(tmp_path, **given)
  assert (tmp_path / 'level_0').stat().st_size == 3 * 2 * 2 * 5 * 2
  kept.put(np.array([1]), (np.ones((1, 2, 2, 5)),), np.array([[7, 9]], np.int32))
  kept.keep()
  again = storage.Described(tmp_path, **given)
  assert (again.warning, again.done.tolist()) == ('', [False, True, False])
  assert np.asarray(again.pyramid[0], float).sum() == 20


def test_features_are_on_disk_before_they_are_said_to_be(tmp_path, monkeypatch):
  given, told = {'key': 'k', 'count': 3, 'shapes': [(2, 2, 5)]}, []
  kept, flush = storage.Described(tmp_path, **given), np.memmap.flush

  def watched(array):
    told.append((pathlib.Path(array.filename).name, (tmp_path / 'done').read_bytes()))
    flush(array)

  monkeypatch.setattr(np.memmap, 'flush', watched)
  kept.put(np.array([0, 2]), (np.ones((2, 2, 2, 5)),), np.array([[7, 9], [7, 9]], np.int32))
  kept.keep()
  assert told == [('level_0', bytes(3)), ('sizes', bytes(3))]
  assert (tmp_path / 'done').read_bytes() == bytes([1, 0, 1])


def test_a_row_without_a_size_is_described_again(tmp_path):
  given = {'key': 'k', 'count': 3, 'shapes': [(2, 2, 5)]}
  storage.Described(tmp_path, **given)
  (tmp_path / 'done').write_bytes(bytes([1, 1, 2]))
  (tmp_path / 'sizes').write_bytes(np.array([[7, 9], [0, 0], [7, 9]], np.int32).tobytes())
  assert storage.Described(tmp_path, **given).done.tolist() == [True, False, False]


def test_facts_that_are_no_json_are_replaced(tmp_path):
  given = {'key': 'k', 'count': 3, 'shapes': [(2, 2, 5)]}
  storage.Described(tmp_path, **given)
  (tmp_path / 'features.json').write_text('[' * 100_000)
  assert storage.Described(tmp_path, **given).warning == ''


def test_a_picture_that_cannot_be_read_is_told_and_not_predicted(model, world, tmp_path):
  for i in range(3):
    paint(tmp_path / f'{i}.png', world[1][i])
  (tmp_path / '3.png').write_bytes(b'')
  learner, told = FrozenLearner(model, PictureFiles(tmp_path), NAMES), []
  learner.describe(lambda done, broken: told.append(dict(broken)) or True)
  assert told[-1] == {3: 'the file is empty'}
  fit = learner.fit({i: world[1][i] for i in range(3)})
  assert np.isnan(fit.points[3]).all()
  assert np.isfinite(fit.points[:3]).all()
  with pytest.raises(ValueError, match='none of the labelled pictures'):
    learner.fit({3: world[1][0]})


def test_features_after_a_picture_without_a_usable_name_are_each_pictures_own(
  model, world, tmp_path
):
  for i in range(4):
    paint(tmp_path / ('1\\.png' if i == 1 else f'{i}.png'), world[1][i])  # read well
  learner, told = FrozenLearner(model, PictureFiles(tmp_path), NAMES), []
  learner.describe(lambda done, broken: told.append(dict(broken)) or True)
  assert 'backslash' in told[-1][1]
  for n in (0, 2, 3):
    own = model.describe([str(learner.files.path(n))], crop='pad')
    for level, found in zip(learner.described.pyramid, own, strict=True):
      np.testing.assert_allclose(level[n], found[0], atol=0.05)


def test_features_kept_by_a_version_that_mixed_pictures_up_are_not_used(model, world, monkeypatch):
  learner = FrozenLearner(model, PictureFiles(world[0]), NAMES)
  now = learner._key()
  monkeypatch.setattr(learning, 'KEPT', 1)
  assert learner._key() != now


def test_a_labelled_picture_that_is_deleted_is_left_out_of_the_fit(model, world, tmp_path):
  for i in range(4):
    paint(tmp_path / f'{i}.png', world[1][i])
  learner = FrozenLearner(model, PictureFiles(tmp_path), NAMES)
  learner.describe(lambda done, broken: True)
  labels = {i: world[1][i] for i in range(4)}
  learner.fit({i: labels[i] for i in range(3)})
  (tmp_path / '2.png').unlink()  # its copies are known while its labels stay
  (tmp_path / '3.png').unlink()
  with pytest.warns(UserWarning, match='left out of the fit: .*3.png: cannot be opened'):
    learner.fit(labels)
  assert learner._known.learned_from == tuple(learner._checksum(i) for i in range(3))
  with pytest.warns(UserWarning, match=r'left out of the fit: .*2.png'):
    learner.fit({0: labels[0], 2: labels[2] + 1})

"""Pictures from anybody: whatever their kind, they are framed as data/folder.py frames files."""

import sys

import numpy as np
import pytest
from jax import numpy as jnp
from PIL import Image

from landmarks_jax.contracts import Describer
from landmarks_jax.data import folder
from landmarks_jax.data.source import BadImage
from landmarks_jax.inference.model import Model
from landmarks_jax.inference.pictures import Pictures, PointLabels, batches

FRAME, MARGIN = 18, 3


def smooth(width, height, seed=0):
  small = np.random.default_rng((width, height, seed)).integers(0, 256, (3, 4, 3), np.uint8)
  return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def planted(variables, image, size):
  """Two levels: the picture in halves, and as it is."""
  image = jnp.asarray(image, jnp.float32) * variables
  half = image.reshape(len(image), image.shape[1] // 2, 2, -1, 2, 3).mean((2, 4))
  return half, image


@pytest.fixture(scope='module')
def model():
  describer = Describer(np.float32(1), planted)
  return Model(describer, {'method': {'name': 'planted'}}, frame=FRAME, margin=MARGIN)


SIZES = [(40, 30), (23, 51), (18, 18), (1, 1), (200, 7)]


@pytest.mark.parametrize('crop', folder.CROPS)
@pytest.mark.parametrize('kind', ['arrays', 'files', 'pillow'])
def test_a_picture_is_framed_as_the_same_file_is_in_a_folder(tmp_path, model, crop, kind):
  arrays = [smooth(*size) for size in SIZES]
  files = [tmp_path / f'{i}.png' for i in range(len(arrays))]
  for file, array in zip(files, arrays, strict=True):
    Image.fromarray(array).save(file)
  given = {'arrays': arrays, 'files': files, 'pillow': [Image.open(f) for f in files]}[kind]
  source = folder.source(str(tmp_path), frame=FRAME, crop=crop, exact=True)
  expected = np.stack([source[i]['image'] for i in range(len(source))])
  cut = expected[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
  np.testing.assert_array_equal(model.frames(given, crop=crop), cut)
  coarse, fine = model.describe(given, crop=crop, batch_size=2)
  np.testing.assert_array_equal(fine, cut)
  assert coarse.shape == (len(SIZES), 6, 6, 3)
  assert coarse.dtype == fine.dtype == np.float32
  assert len(np.unique(cut[0].reshape(-1, 3), axis=0)) > 20


def test_points_go_to_the_frame_and_come_back():
  image, box = smooth(60, 44), [[11.5, -4, 40, 30]]  # the square leaves the picture above
  pixels = np.array([[12.0, 3], [30, 20.5], [-7, 60]])
  pictures = Pictures([image], frame=FRAME, boxes=box)
  pictures[0]
  x0, y0, side = 8.75, -4.0, 34.0
  frame = (pixels + 0.5 - [x0, y0]) * FRAME / side - 0.5
  normalised = pictures.from_pixels(0, pixels)
  np.testing.assert_allclose(normalised, 2 * frame / (FRAME - 1) - 1, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(pictures.to_pixels(0, normalised), pixels, atol=1e-4)


def test_a_box_is_the_square_that_a_dot_is_seen_in(model):
  """A dot in the middle of a long box is in the middle of the frame."""
  image = np.zeros((90, 120, 3), np.uint8)
  image[50:53, 70:73] = 255  # its centre is pixel (71, 51), edge coordinates 71.5, 51.5
  seen = model.frames([image], boxes=[[71.5 - 18, 51.5 - 4, 71.5 + 18, 51.5 + 4]])[0, ..., 0]
  rows, columns = (seen.sum(axis) for axis in (1, 0))
  centre = (seen.shape[0] - 1) / 2
  for line in (rows, columns):
    assert (line * np.arange(len(line))).sum() / line.sum() == pytest.approx(centre, abs=1e-6)


def test_grey_transparent_and_turned_pictures(tmp_path, model):
  grey = smooth(30, 20)[..., 0]
  three = np.repeat(grey[..., None], 3, -1)
  clear = np.dstack([three, np.zeros_like(grey)])
  opaque = np.dstack([three, np.full_like(grey, 255)])
  frames = model.frames([grey, grey[..., None], three, opaque, clear])
  for frame in frames[1:4]:
    np.testing.assert_array_equal(frame, frames[0])
  assert (frames[4] == 255).all()
  turned = Image.fromarray(three)
  turned.getexif()[0x0112] = 6
  turned.save(tmp_path / 'turned.jpg', quality=100, subsampling=0, exif=turned.getexif())
  upright = model.frames([np.rot90(three, -1)])[0].astype(int)
  for given in (tmp_path / 'turned.jpg', Image.open(tmp_path / 'turned.jpg')):
    assert np.abs(model.frames([given])[0] - upright).max() <= 6


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ('face.jpg', 'images is one str; .* give'),
    (np.zeros((9, 9, 3), np.uint8), r'images is uint8 \[9, 9, 3\]; .* image\[None\]'),
    (np.zeros((2, 9, 9, 3)), r'float64 \[9, 9, 3\]; expected uint8'),
    ([np.zeros((9, 9, 3), np.float32)], r'images\[0\]: it is float32'),
    ([np.zeros((9, 9, 2), np.uint8)], r'images\[0\]: it is uint8 \[9, 9, 2\]'),
    ([np.zeros((0, 9, 3), np.uint8)], 'has no pixels'),
    ([], 'images is empty'),
    (7, r'images is int64 \[\]'),
    (['/nowhere.png'], '/nowhere.png: cannot be opened'),
    ([np.zeros((2, 30_000), np.uint8)], 'too long for a square'),
  ],
)
def test_what_is_no_picture_is_named(model, given, message):
  with pytest.raises(ValueError, match=message):
    model.describe(given, crop='pad')


@pytest.mark.parametrize(
  ('boxes', 'message'),
  [
    ([0, 0, 5, 5], r'boxes is \[4\]; expected \[1, 4\]'),
    ([[0, 0, 0, 5]], r'boxes\[0\] is .*expected x0 < x1'),
    ([[0, 0, np.nan, 5]], r'boxes\[0\] is'),
    ([[50, 50, 60, 60]], r'images\[0\]: is 20x20 pixels, its box is \(50, 50, 60, 60\)'),
    ([[-1e6, -1e6, 1e6, 1e6]], 'its box is'),
  ],
)
def test_a_box_that_shows_nothing_is_named(model, boxes, message):
  with pytest.raises(ValueError, match=message):
    model.describe([smooth(20, 20)], boxes=boxes)


@pytest.mark.parametrize(
  ('points', 'options', 'message'),
  [
    (np.zeros((2, 3)), {}, r'points is float64 \[2, 3\]; expected \[N, K, 2\]'),
    (np.zeros((1, 0, 2)), {}, 'expected'),
    ([[['a', 'b']]], {}, 'points is'),
    (np.zeros((1, 2, 2)), {'visible': np.ones((1, 3), bool)}, 'visible is bool'),
    (np.zeros((1, 2, 2)), {'visible': np.ones((1, 2))}, 'visible is float64'),
    (np.full((1, 2, 2), np.nan), {'visible': np.ones((1, 2), bool)}, r'points\[0, 0\]'),
    ([[[1, 2], [np.inf, 2]]], {}, r'points\[0, 1\] is \[inf, 2.0\]; expected numbers, or nan'),
    (np.zeros((1, 2, 2)), {'names': ['a']}, 'expected 2 different'),
    (np.zeros((1, 2, 2)), {'scale': (0, 2)}, 'expected two numbers of landmarks'),
    (np.zeros((1, 2, 2)), {'scale': (1, 1)}, r'scale: \(1, 1\); expected two numbers'),
    (np.zeros((1, 2, 2)), {'flip_pairs': [(1, 1)]}, r'flip_pairs: \(1, 1\); expected two'),
    (np.zeros((1, 3, 2)), {'flip_pairs': [(0, 1), (1, 2)]}, 'flip_pairs: 1 is in several'),
  ],
)
def test_labels_that_cannot_be_are_named(points, options, message):
  with pytest.raises(ValueError, match=message):
    PointLabels.of(points, **options)


def test_labels_are_in_the_frame_and_nan_is_not_visible(model):
  points = np.array([[[5.0, 5], [9, 7]], [[1, 2], [np.nan, 3]]])
  labels = PointLabels.of(points, scale=(0, 1))
  pictures = model.pictures([smooth(20, 20), smooth(20, 20)], labels=labels)
  first, second = pictures[0], pictures[1]
  np.testing.assert_allclose(pictures.to_pixels(0, first['points']), points[0], atol=1e-4)
  assert first['scale'] == pytest.approx(np.hypot(4, 2) * FRAME / 20 * 2 / (FRAME - 1), rel=1e-5)
  assert second['visible'].tolist() == [True, False]
  assert np.isnan(second['scale'])
  with pytest.raises(ValueError, match='points are of 2 pictures, images are 1'):
    model.pictures([smooth(20, 20)], labels=labels)


def test_batches_have_one_size_and_leave_nothing_out(model):
  pictures = model.pictures([smooth(20, 20, i) for i in range(5)])
  for batch_size, sizes in ((2, [2, 2, 2]), (64, [8])):
    found = list(batches(pictures, batch_size=batch_size, progress=False))
    assert [len(batch.valid) for batch in found] == sizes
    index = np.concatenate([batch.index[batch.valid] for batch in found])
    np.testing.assert_array_equal(index, np.arange(5))
  assert model.describe([smooth(20, 20)])[0].shape[0] == 1
  with pytest.raises(ValueError, match='batch_size=0'):
    list(batches(pictures, batch_size=0, progress=False))


def test_progress_is_told_where_it_is_asked_for(model, capsys, monkeypatch):
  monkeypatch.setattr('landmarks_jax.runtime.logs.INTERVAL', 0)
  given = [smooth(20, 20, i) for i in range(5)]
  model.describe(given, batch_size=2)
  assert capsys.readouterr().err == ''
  model.describe(given, batch_size=2, progress=True)
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 3
  assert told[0].startswith('2 of 5 pictures')
  assert ' left' in told[0]
  assert told[-1].startswith('5 of 5 pictures')


def test_a_daemon_without_standard_error_sees_no_progress(model, capsys, monkeypatch):
  monkeypatch.setattr(sys, 'stderr', None)
  model.describe([smooth(20, 20)])
  assert capsys.readouterr().out == ''


def test_the_first_bad_picture_stops_it(model, tmp_path):
  (tmp_path / 'bad.png').write_bytes(b'\x89PNG\r\n\x1a\nnothing')
  with pytest.raises(BadImage, match=r'bad\.png: cannot be decoded|bad\.png: not a picture'):
    model.describe([smooth(20, 20), tmp_path / 'bad.png'])

import io
import itertools
import os
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from landmarks_jax.data import images
from landmarks_jax.data.source import BadImage


def picture(width=23, height=17, seed=0):
  """Smooth, different in every channel and along both axes."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (3, 4, 3), np.uint8)
  return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind, **options):
  file = io.BytesIO()
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(file, kind, **options)
  return file.getvalue()


def tagged(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif


@pytest.mark.parametrize(('kind', 'tolerance'), [('png', 0), ('bmp', 0), ('tiff', 0), ('jpeg', 12)])
def test_formats_give_the_same_picture(kind, tolerance):
  image = picture()
  options = {'quality': 97, 'subsampling': 0} if kind == 'jpeg' else {}
  result = images.decode(encoded(image, kind, **options))
  assert result.dtype == np.uint8
  assert np.abs(result.astype(int) - image).max() <= tolerance


@pytest.mark.parametrize('kind', ['png', 'jpeg'])
def test_a_grey_picture_gets_three_equal_channels(kind):
  grey = picture()[..., 0]
  result = images.decode(encoded(grey, kind))
  assert result.shape == (17, 23, 3)
  assert (result == result[..., :1]).all()
  assert np.abs(result[..., 0].astype(int) - grey).max() <= (0 if kind == 'png' else 12)


def test_a_cmyk_jpeg_keeps_its_colours():
  image = picture()
  cmyk = Image.fromarray(image).convert('CMYK')
  result = images.decode(encoded(cmyk, 'jpeg', quality=97))
  assert np.abs(result.astype(int) - image).mean() < 4


def test_sixteen_bits_are_divided_not_clipped():
  grey = (np.arange(12 * 10).reshape(10, 12) * 500).astype(np.uint16)
  result = images.decode(encoded(Image.fromarray(grey), 'png'))
  np.testing.assert_array_equal(result[..., 1], grey // 257)


def test_integers_of_32_bits_need_the_range_of_16():
  grey = np.arange(12 * 10, dtype=np.int32).reshape(10, 12)
  wide = grey * 65535 // 119
  wide[0, 0] = -300  # below black is black
  result = images.decode(encoded(Image.fromarray(wide), 'tiff'))
  np.testing.assert_array_equal(result[..., 1], np.maximum(wide, 0) // 257)
  for factor, most in ((2, 238), (1000, 119000)):
    with pytest.raises(BadImage, match=f'32-bit integers up to {most}, without a stated range'):
      images.decode(encoded(Image.fromarray(grey * factor), 'tiff'))


def test_palette_and_transparency_are_laid_on_white():
  palette = Image.new('P', (4, 2))
  palette.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
  palette.putpixel((3, 1), 1)
  opaque = images.decode(encoded(palette, 'png'))
  assert opaque[0, 0].tolist() == [10, 20, 30]
  assert opaque[1, 3].tolist() == [200, 100, 50]
  clear = images.decode(encoded(palette, 'png', transparency=0))
  assert clear[0, 0].tolist() == [255, 255, 255]
  assert clear[1, 3].tolist() == [200, 100, 50]
  half = Image.new('RGBA', (4, 2), (0, 100, 200, 0))
  assert (images.decode(encoded(half, 'png')) == 255).all()


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp'])
def test_exif_turns_a_picture_only_when_asked(kind, tmp_path):
  image = Image.fromarray(picture())
  options = {'lossless': True} if kind == 'webp' else {}
  for orientation in range(1, 9):
    data = encoded(image, kind, exif=tagged(orientation), **options)
    stored, upright = images.decode(data), images.decode(data, rotate=True)
    assert stored.shape == (17, 23, 3)
    oracle = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(upright, oracle)
    path = tmp_path / f'{orientation}.{kind}'
    path.write_bytes(data)
    assert images.size(path) == (23, 17)
    assert images.size(path, rotate=True) == upright.shape[1::-1]


def segment(marker, content):
  return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


@pytest.mark.parametrize('where', ['xmp', 'exif after 64 KiB'])
def test_an_orientation_wherever_it_stands_turns_pixels_and_size_alike(where, tmp_path):
  if where == 'xmp':
    given = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')
  else:
    given = segment(0xFE, bytes(65000)) * 2 + segment(0xE1, tagged(6).tobytes())
  data = encoded(picture(), 'jpeg')
  data = data[:2] + given + data[2:]
  path = tmp_path / 'a.jpg'
  path.write_bytes(data)
  upright = images.read(path, rotate=True)
  assert upright.shape[1::-1] == images.size(path, rotate=True) == (17, 23)
  np.testing.assert_array_equal(upright, images.from_pillow(Image.open(path), rotate=True))
  assert images.read(path).shape[1::-1] == images.size(path) == (23, 17)


def test_a_large_jpeg_may_come_reduced_but_not_below_the_side_asked_for():
  image = picture(640, 400)
  data = encoded(image, 'jpeg', quality=95)
  reduced = images.decode(data, min_side=90)
  assert 90 <= min(reduced.shape[:2]) < 180
  whole = images.square_frame(image, images.centre_box(640, 400), 40)
  small = images.square_frame(reduced, images.centre_box(*reduced.shape[1::-1]), 40)
  assert np.abs(whole.astype(int) - small).mean() < 2
  assert images.decode(data).shape == image.shape
  for turned in (data, encoded(image.transpose(1, 0, 2), 'jpeg')):
    assert min(images.decode(turned, min_side=200).shape[:2]) == 200
  assert images.decode(data, min_side=201).shape == image.shape  # less than half is not worth it


def test_a_jpeg_whose_restart_markers_are_out_of_order_is_read_as_pillow_does():
  data = encoded(picture(64, 48), 'jpeg', restart_marker_rows=1)
  broken = data.replace(b'\xff\xd1', b'\xff\xd3')
  assert broken != data
  np.testing.assert_array_equal(images.decode(broken), np.asarray(Image.open(io.BytesIO(broken))))


def test_a_turned_tiff_has_the_size_that_is_said(tmp_path):
  for orientation in range(1, 9):
    path = tmp_path / f'{orientation}.tiff'
    path.write_bytes(encoded(picture(), 'tiff', exif=tagged(orientation)))
    for rotate in (False, True):
      assert images.read(path, rotate=rotate).shape[1::-1] == images.size(path, rotate=rotate)


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'the file is empty'),
    (b'404: not found', "not a picture in a known format, it starts with b'404: not found'"),
    (encoded(picture(64, 48), 'jpeg')[:500], 'cannot be decoded'),
    (encoded(picture(64, 48), 'png')[:900], 'cannot be decoded'),
    (encoded(picture(64, 48), 'png').replace(b'IDAT', b'IDXT'), 'known format'),
    (encoded(Image.new('F', (4, 4)), 'tiff'), 'floating-point'),
  ],
  ids=['empty', 'text', 'truncated jpeg', 'truncated png', 'broken png', 'float'],
)
def test_a_bad_file_is_named_with_its_reason(data, reason, tmp_path):
  path = tmp_path / 'face_7.jpg'
  path.write_bytes(data)
  with pytest.raises(BadImage) as caught:
    images.read(path)
  assert str(path) in str(caught.value)
  assert reason in str(caught.value)


def test_a_huge_picture_says_its_size_and_what_to_do(tmp_path):
  (tmp_path / 'scan.ppm').write_bytes(b'P6 20000 20000 255\n')
  for read in (images.read, images.size):
    with pytest.raises(BadImage, match='has 400 megapixels, more than the 179 read; reduce it'):
      read(tmp_path / 'scan.ppm')


def test_a_missing_file_is_a_bad_image(tmp_path):
  with pytest.raises(BadImage, match=r'gone\.png: cannot be opened \(No such file'):
    images.read(tmp_path / 'gone.png')


def test_a_pipe_is_a_bad_image_and_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'pipe.jpg')
  for read in (images.read, images.size):
    with pytest.raises(BadImage, match=r'pipe\.jpg: is no file'):
      read(tmp_path / 'pipe.jpg')


def test_a_folder_is_a_bad_image_and_says_so(tmp_path):
  with pytest.raises(BadImage, match=r'cannot be opened \(Is a directory'):
    images.read(tmp_path)


boxes = [
  (0, 0, 40),
  (5.25, 3.5, 20),
  (-7.5, 4, 44.5),
  (12, -9, 50),
  (30.4, 22, 33),
  (-10, -10, 90),
  (2, 6, 30, 21.5),
]


def blob(x, y, width=60, height=45, sigma=2.5):
  """A grey picture with one soft dot at (x, y)."""
  columns, rows = np.arange(width), np.arange(height)[:, None]
  dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
  return np.repeat(np.round(dot).astype(np.uint8)[..., None], 3, axis=-1)


def centroid(image):
  weight = image[..., 0].astype(float)
  rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
  return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize(('box', 'frame'), list(itertools.product(boxes, [31, 80])))
def test_a_dot_and_its_point_move_together(box, frame):
  width, height = box[2], box[-1]
  # Well inside box and picture: the dot's tails must not be cut.
  x = (max(box[0], 0) + min(box[0] + width, 60)) / 2 + 1.3
  y = (max(box[1], 0) + min(box[1] + height, 45)) / 2 - 0.6
  sigma = min(width, height, 40) / 14
  found = centroid(images.square_frame(blob(x, y, sigma=sigma), box, frame))
  point = images.frame_points(np.array([x, y]), box, frame)
  np.testing.assert_allclose((point + 1) / 2 * (frame - 1), found, atol=0.06)
  formula = (np.array([x, y]) + 0.5 - box[:2]) * frame / np.array([width, height]) - 0.5
  np.testing.assert_allclose((point + 1) / 2 * (frame - 1), formula, atol=1e-4)
  np.testing.assert_allclose(images.picture_points(point, box, frame), [x, y], atol=1e-4)


def test_a_box_that_leaves_the_picture_repeats_its_edge():
  image = picture(9, 6)
  result = images.square_frame(image, (-2, -1, 12), 12)  # one frame pixel a picture pixel
  rows, columns = np.clip(np.arange(12) - 1, 0, 5), np.clip(np.arange(12) - 2, 0, 8)
  np.testing.assert_array_equal(result, image[rows][:, columns])


@pytest.mark.parametrize('turn', [False, True])
def test_the_square_around_a_long_strip_takes_little_memory(monkeypatch, turn):
  colours = np.repeat(picture(60, 3).mean(axis=0), 10, axis=0).astype(np.uint8)  # smooth
  strip = np.tile(colours, (20, 1, 1))
  strip, box = (strip.transpose(1, 0, 2), (-270, 20, 560)) if turn else (strip, (20, -270, 560))
  expected = images.square_frame(strip, box, 24)
  real, made = np.pad, []
  monkeypatch.setattr(images.np, 'pad', lambda *a, **k: made.append(real(*a, **k)) or made[-1])
  monkeypatch.setattr(images, 'ROOMY', 560 * 600 - 1)
  result = images.square_frame(strip, box, 24)
  np.testing.assert_allclose(result.astype(int), expected.astype(int), atol=1)
  assert [image.size for image in made] == [24 * 560 * 3]


def test_shrinking_is_antialiased():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  result = images.square_frame(stripes, (0, 0, 64), 16)
  assert np.abs(result.astype(int) - 127).max() <= 16  # without it: all 0 or all 255


@pytest.mark.parametrize('box', [(1, 2), (0, 0, 5, 5, 5)])
def test_a_box_of_too_few_or_too_many_numbers_is_refused(box):
  with pytest.raises(ValueError, match=r'expected \(x0, y0, side\) or \(x0, y0, width, height\)'):
    images.square_frame(picture(), box, 8)


@pytest.mark.parametrize('box', [(0, 0, 0), (0, float('nan'), 5), (0, 0, -3), (0, 0, 5, 0)])
def test_a_box_without_area_is_refused(box):
  with pytest.raises(ValueError, match='expected'):
    images.square_frame(picture(), box, 8)


def test_the_box_around_points_contains_them_in_its_middle():
  points = np.array([[10.0, 20.0], [30.0, 26.0], [14.0, 40.0]])
  normalised = images.frame_points(points, images.box_around(points, 1.6), 136)
  middle = (normalised.min(axis=0) + normalised.max(axis=0)) / 2
  np.testing.assert_allclose(middle, 0, atol=1e-6)
  extent = np.max(normalised.max(axis=0) - normalised.min(axis=0)) / 2 * 135 / 136
  assert extent == pytest.approx(1 / 1.6)


def test_the_centre_box_is_the_largest_square_inside():
  assert images.centre_box(640, 480) == (80, 0, 480)
  assert images.centre_box(5, 8) == (0, 1.5, 5)


def test_paths_may_be_strings(tmp_path):
  path = tmp_path / 'a b ü.png'
  path.write_bytes(encoded(picture(), 'png'))
  np.testing.assert_array_equal(images.read(str(path)), images.read(pathlib.Path(path)))

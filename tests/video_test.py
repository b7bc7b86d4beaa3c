import struct

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.contracts import Batch
from landmarks_jax.data import images, pipeline, video
from landmarks_jax.data.source import BadImage, open_source

width, height, frame = 90, 60, 40


def opened(path, **options):
  return open_source('video', path=str(path), **options)


def colours(x, y):
  """A smooth picture without symmetry, at any position in pixels."""
  waves = (np.sin(x / 7 + y / 23), np.cos(x / 31 - y / 9 + 1), np.sin(x * y / 900 + x / 17))
  return 127.5 + 110 * np.stack(waves, axis=-1)


def moved(matrix, shift):
  """Two pictures of one scene that moves by p -> matrix p + shift, and the flow between them."""
  grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(float)
  before = (grid - shift) @ np.linalg.inv(matrix).T
  pictures = [np.rint(colours(p[..., 0], p[..., 1])).astype(np.uint8) for p in (grid, before)]
  return *pictures, (grid @ np.transpose(matrix) + shift - grid).astype(np.float32)


def write_flo(path, flow):
  header = struct.pack('<fii', 202021.25, flow.shape[1], flow.shape[0])
  path.write_bytes(header + flow.astype('<f4').tobytes())


def save(path, picture):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(picture).save(path)


def clip(folder, names, *, step=1, size=(width, height), seed=0):
  """Frames of noise with a flow that is the frame's number, and none for the last ones."""
  rng = np.random.default_rng(seed)
  for i, name in enumerate(names):
    save(folder / f'{name}.png', rng.integers(0, 255, (*size[::-1], 3), np.uint8))
    if i + step < len(names):
      stem = name if step == 1 else f'{name}.step{step}'
      write_flo(folder / f'{stem}.flo', np.full((*size[::-1], 2), i, np.float32))


def between(picture, positions):
  """A slow bilinear reading of picture [S, S, 3] at positions (x, y) inside it."""
  result = []
  for x, y in positions:
    i, j = min(int(y), len(picture) - 2), min(int(x), len(picture) - 2)
    v, u = y - i, x - j
    rows = picture[i : i + 2, j : j + 2].astype(float)
    result.append((1 - v) * ((1 - u) * rows[0, 0] + u * rows[0, 1])
                  + v * ((1 - u) * rows[1, 0] + u * rows[1, 1]))  # fmt: skip
  return np.array(result)


@pytest.mark.parametrize('ending', ['flo', 'npz'])
@pytest.mark.parametrize(
  ('matrix', 'shift'),
  [(np.eye(2), (7, -4)), ([[1.1, 0.06], [-0.04, 0.95]], (-6, 5))],
  ids=['translation', 'affine'],
)
def test_the_frame_and_the_next_one_show_the_same_where_the_flow_leads(
  tmp_path, matrix, shift, ending
):
  first, second, flow = moved(matrix, shift)
  save(tmp_path / '0001.png', first)
  save(tmp_path / '0002.png', second)
  if ending == 'flo':
    write_flo(tmp_path / '0001.flo', flow)
  else:
    np.savez(tmp_path / '0001.npz', flow=flow)
  example = opened(tmp_path, frame=frame)[0]
  v, u = np.nonzero(example['flow_valid'])
  assert 0.5 < len(u) / frame**2 < 0.95
  target = np.stack([u, v], axis=-1) + example['flow'][v, u]
  difference = np.abs(between(example['next'], target) - example['image'][v, u])
  assert difference.mean() < 1
  assert difference.max() < 6
  assert np.abs(example['next'][v, u].astype(float) - example['image'][v, u]).mean() > 10


def test_the_flow_of_a_translation_is_that_times_the_resize(tmp_path):
  first, second, flow = moved(np.eye(2), (6, -3))
  for name, picture in (('a', first), ('b', second)):
    save(tmp_path / f'{name}.png', picture)
  write_flo(tmp_path / 'a.flo', flow)
  example = opened(tmp_path, frame=frame)[0]
  x, y = np.meshgrid(np.arange(frame), np.arange(frame))
  valid = (x + 4 <= frame - 1) & (y - 2 >= 0)
  np.testing.assert_array_equal(example['flow_valid'], valid)
  np.testing.assert_allclose(example['flow'][valid], np.broadcast_to([4, -2], (valid.sum(), 2)))
  np.testing.assert_array_equal(example['flow'][~valid], 0)
  centre = (width - height) / 2, 0, (width + height) / 2, height
  expected = Image.fromarray(first).resize((frame, frame), Image.Resampling.BILINEAR, box=centre)
  np.testing.assert_array_equal(example['image'], np.asarray(expected))


@pytest.mark.parametrize(('size', 'side'), [((9, 14), 5), ((15, 8), 8), ((12, 7), 20)])
def test_flow_is_read_bilinearly_and_is_valid_where_all_it_is_read_from_is(size, side):
  rng = np.random.default_rng(side)
  flow = rng.normal(0, 1.5, (*size, 2)).astype(np.float32)
  valid = rng.random(size) < 0.9
  flow[~valid] = 0
  box = images.centre_box(size[1], size[0])
  found, found_valid = video.frame_flow(flow, valid, box, side)
  seen = np.zeros(2, int)
  for i, j in np.ndindex(side, side):
    x, y = (
      np.clip((q + 0.5) * box[2] / side - 0.5 + start, 0, n - 1)
      for q, start, n in ((j, box[0], size[1]), (i, box[1], size[0]))
    )
    vector, known = np.zeros(2), True
    for r, c in np.ndindex(size):
      weight = max(0, 1 - abs(r - y)) * max(0, 1 - abs(c - x))
      vector += weight * flow[r, c] * side / box[2]
      known &= weight < 1e-9 or valid[r, c]
    known &= 0 <= j + vector[0] <= side - 1 and 0 <= i + vector[1] <= side - 1
    assert found_valid[i, j] == known
    np.testing.assert_allclose(found[i, j], vector if known else 0, atol=1e-5)
    seen[int(known)] += 1
  assert seen.min() > 0.1 * side**2


def test_every_frame_but_the_last_of_a_clip_has_a_pair(tmp_path):
  clip(tmp_path / 'b', ['2', '9', '10', '11'])  # as text, 10 is before 9
  clip(tmp_path / 'a/deep', ['x', 'y'])
  clip(tmp_path / 'alone', ['x'])
  source = opened(tmp_path, frame=20)
  assert source.files == ('a/deep/x.png', 'b/2.png', 'b/9.png', 'b/10.png')
  laters = [later for _, later, _ in source.catalogue.pairs]
  assert laters == ['a/deep/y.png', 'b/9.png', 'b/10.png', 'b/11.png']
  ten = images.square_frame(images.read(tmp_path / 'b/10.png'), (15, 0, 60), 20)
  np.testing.assert_array_equal(source[2]['next'], ten)
  np.testing.assert_array_equal(source[3]['image'], ten)


def test_a_split_is_a_folder_directly_below(tmp_path):
  clip(tmp_path / 'train/one', ['0', '1', '2'])
  clip(tmp_path / 'test', ['0', '1'])
  clip(tmp_path, ['0', '1'])
  assert len(opened(tmp_path)) == 4
  assert opened(tmp_path, split='train').files == ('train/one/0.png', 'train/one/1.png')
  assert opened(tmp_path, split='test').files == ('test/0.png',)
  with pytest.raises(ValueError, match=r"split='val'; expected 'all' or a folder .*: test, train$"):
    opened(tmp_path, split='val')


def test_a_step_of_more_frames_has_flow_files_of_its_own(tmp_path):
  clip(tmp_path, ['0', '1', '2', '3', '4'], step=3)
  source = opened(tmp_path, step=3, frame=30)
  assert source.catalogue.pairs == [
    ('0.png', '3.png', '0.step3.flo'),
    ('1.png', '4.png', '1.step3.flo'),
  ]
  valid = source[1]['flow_valid']
  np.testing.assert_allclose(source[1]['flow'][valid], 1 * 30 / 60)  # `clip` wrote its number, 1
  with pytest.raises(FileNotFoundError, match=r'4 of 4 frames .* first needs 0\.flo or 0\.npz in'):
    opened(tmp_path)


def test_flow_that_is_not_known_is_not_valid(tmp_path):
  clip(tmp_path, ['0', '1'], size=(30, 30))
  flow = np.zeros((30, 30, 2), np.float32)
  flow[3, 4], flow[5, 6, 1], flow[7, 8, 0] = 1e10, np.nan, -np.inf
  known = np.ones((30, 30), bool)
  known[[3, 5, 7], [4, 6, 8]] = False
  write_flo(tmp_path / '0.flo', flow)
  example = opened(tmp_path, frame=30)[0]
  np.testing.assert_array_equal(example['flow_valid'], known)
  assert not example['flow'].any()
  (tmp_path / '0.flo').unlink()
  valid = np.random.default_rng(0).random((30, 30)) < 0.5
  np.savez(tmp_path / '0.npz', flow=flow, valid=valid.astype(np.uint8))
  np.testing.assert_array_equal(opened(tmp_path, frame=30)[0]['flow_valid'], valid & known)


def test_batches_hold_the_pair_and_its_flow(tmp_path):
  clip(tmp_path / 'a', ['0', '1', '2'])
  clip(tmp_path / 'b', ['0', '1'], size=(50, 70))
  (batch,) = pipeline.evaluation_batches(opened(tmp_path, frame=24), batch_size=3)
  assert isinstance(batch, Batch)
  assert batch.image.shape == batch.next.shape == (3, 24, 24, 3)
  assert (batch.flow.shape, batch.flow_valid.shape) == ((3, 24, 24, 2), (3, 24, 24))
  assert (batch.next.dtype, batch.flow.dtype, batch.flow_valid.dtype) == ('uint8', 'float32', bool)
  assert batch.index.tolist() == [0, 1, 2]
  assert batch.points is None


magic = struct.pack('<f', 202021.25)
good = magic + struct.pack('<ii', width, height) + bytes(8 * width * height)
big_endian = struct.pack('>fii', 202021.25, width, height) + bytes(8 * width * height)


@pytest.mark.parametrize(
  ('content', 'text'),
  [
    (b'PNG?' + good[4:], r"0\.flo: is no \.flo file: it starts with b'PNG\?', not with b'PIEH'"),
    (big_endian, r"0\.flo: is no \.flo file: it starts with b'HEIP'"),
    (b'', r'0\.flo: is no \.flo file'),
    (good[:-8], r'0\.flo: has 43204 bytes; its header, 90x60, means 43212'),
    (good + b'more', r'0\.flo: has 43216 bytes; its header, 90x60, means 43212'),
    (good[:7], r'0\.flo: has 7 bytes; its header'),
    (magic + struct.pack('<ii', -1, -1) + bytes(8), r'0\.flo: has 20 bytes; its header, -1x-1,'),
    (magic + struct.pack('<ii', 60, 90) + good[12:], r'flow has the shape \(90, 60, 2\).*90x60'),
  ],
)
def test_a_bad_flo_file_makes_a_bad_pair(tmp_path, content, text):
  clip(tmp_path, ['0', '1'])
  (tmp_path / '0.flo').write_bytes(content)
  with pytest.raises(BadImage, match=text):
    opened(tmp_path)[0]


@pytest.mark.parametrize(
  ('arrays', 'text'),
  [
    ({'optical': np.zeros(3)}, r"0\.npz: has no array 'flow'; it has optical"),
    (
      {'flow': np.zeros((60, 90))},
      r'0\.npz: flow has the shape \(60, 90\).*expected \(60, 90, 2\)',
    ),
    ({'flow': np.zeros((60, 90, 2)), 'valid': np.ones((1, 90))}, r'and valid \(1, 90\), but'),
    ({'flow': np.array([['a', 'b']])}, r'0\.npz: cannot be read as optical flow \(could not'),
    ({'flow': np.array([{}, None])}, r'0\.npz: cannot be read as optical flow \(Object arrays'),
    (None, r'0\.npz: cannot be read as optical flow'),
  ],
)
def test_a_bad_npz_file_makes_a_bad_pair(tmp_path, arrays, text):
  clip(tmp_path, ['0', '1'])
  (tmp_path / '0.flo').unlink()
  if arrays is None:
    (tmp_path / '0.npz').write_text('no zip file')
  else:
    np.savez(tmp_path / '0.npz', **arrays)
  with pytest.raises(BadImage, match=text):
    opened(tmp_path)[0]


def test_missing_folders_frames_and_flow_are_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere is not a folder'):
    opened(tmp_path / 'nowhere')
  clip(tmp_path / 'short', ['0'])
  with pytest.raises(ValueError, match='every clip is shorter than the 2 frames of step=1'):
    opened(tmp_path)
  clip(tmp_path / 'a', ['0', '1', '2', '3'])
  (tmp_path / 'a/1.flo').unlink()
  with pytest.raises(FileNotFoundError, match=r'1 of 3 frames .* needs a/1\.flo or a/1\.npz in'):
    opened(tmp_path)
  with pytest.raises(ValueError, match='step=0; expected at least 1 frame'):
    opened(tmp_path, step=0)


def test_frames_that_cannot_be_read_or_differ_in_size_are_named(tmp_path):
  clip(tmp_path, ['0', '1', '2', '3'])
  save(tmp_path / '1.png', np.zeros((50, 90, 3), np.uint8))
  whole = (tmp_path / '3.png').read_bytes()
  (tmp_path / '3.png').write_bytes(whole[: len(whole) // 2])
  source = opened(tmp_path)
  for i, text in ((0, r'1\.png: its size is not the 90x60 of 0\.png'), (2, r'3\.png: cannot be')):
    with pytest.raises(BadImage, match=text):
      source[i]
  save(tmp_path / '1.png', np.zeros((60, 90, 3), np.uint8))
  (tmp_path / '0.png').write_text('text, not a picture')
  with pytest.raises(BadImage, match=r'0\.png: not a picture in a known format'):
    source[0]

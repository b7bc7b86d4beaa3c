import json

import numpy as np
import pytest

from landmarks_jax.interop import coco, landmark_csv

NAMES = ('left "eye", outer', '<b>nose</b>', 'Mundwinkel größe', 'a_x')
POINTS = {
  'a/ä b.png': np.array([[1.25, 2], [30, 0], [np.nan, np.nan], [0.125, 7]]),
  'it\'s "b", <i>.jpg': np.array([[0, 0], [np.nan, 3], [5, 6.5], [-0.5, 8]]),
  'nothing.png': np.full((4, 2), np.nan),
}
SIZES = {'a/ä b.png': (40, 50), 'it\'s "b", <i>.jpg': (8, 9), 'nothing.png': (3, 4)}


def expected(file):
  points = POINTS[file]
  return np.where(np.isfinite(points).all(-1, keepdims=True), points, np.nan)


def test_what_is_written_as_csv_is_read_back(tmp_path):
  landmark_csv.write(tmp_path / 'x.csv', NAMES, POINTS)
  found = landmark_csv.read(tmp_path / 'x.csv')
  assert found.names == NAMES
  assert list(found.points) == list(POINTS)
  for file in POINTS:
    np.testing.assert_array_equal(found.points[file], expected(file))


def test_spaces_around_the_cells_of_the_header_are_no_part_of_names(tmp_path):
  (tmp_path / 'x.csv').write_text('file, left eye_x, left eye_y ,split\na.png, 1, 2, train\n')
  found = landmark_csv.read(tmp_path / 'x.csv')
  assert (found.names, found.splits) == (('left eye',), {'a.png': 'train'})
  assert found.points['a.png'].tolist() == [[1, 2]]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('file;nose_x;nose_y\na.png;1;2\n', "missing: 'file'; found 'file;nose_x;nose_y"),
    ('file\tnose_x\tnose_y\n', r"missing: 'file'; found 'file\\tnose_x\\tnose_y"),
    ('file,nose_x,nose_y\na.png,1_0,2\n', r'line 2 \(a.png\): nose is \(1_0, 2\); expected two'),
    (f'file,nose_x,nose_y\n{"a" * 5000},{"x" * 5000},2\n', 'expected two numbers'),
    (f'file,{",".join(f"name{i}_x" for i in range(900))}\n', 'missing: '),
  ],
)
def test_what_was_found_is_told_and_cut(tmp_path, text, message):
  (tmp_path / 'x.csv').write_text(text)
  with pytest.raises(ValueError, match=message) as caught:
    landmark_csv.read(tmp_path / 'x.csv')
  assert len(str(caught.value)) < 600


def test_a_row_of_blanks_is_no_picture(tmp_path):
  (tmp_path / 'x.csv').write_text('file,nose_x,nose_y\n , ,\na.png,1,2\n ,\t, \n')
  assert list(landmark_csv.read(tmp_path / 'x.csv').points) == ['a.png']


def test_what_is_written_as_coco_is_read_back_where_a_point_is_visible(tmp_path):
  confidence = {'a/ä b.png': np.array([0.5, 0.25, np.nan, 1])}
  given = {'skeleton': [(0, 1), (1, 3)], 'confidence': confidence, 'category': 'face'}
  coco.write(tmp_path / 'x.json', NAMES, POINTS, SIZES, **given)
  found = coco.read(tmp_path / 'x.json')
  assert (found.names, found.skeleton) == (NAMES, ((0, 1), (1, 3)))
  assert list(found.points) == list(POINTS)[:2]
  for file in found.points:
    np.testing.assert_array_equal(found.points[file], expected(file))


def test_coco_objects_have_the_fields_of_the_format(tmp_path):
  coco.write(tmp_path / 'x.json', NAMES, POINTS, SIZES, confidence={'nothing.png': np.ones(4)})
  data = json.loads((tmp_path / 'x.json').read_text(encoding='utf-8'))
  first = data['annotations'][0]
  assert first['bbox'] == [0.125, 0, pytest.approx(29.875), 7]
  assert first['area'] == pytest.approx(29.875 * 7)
  assert (first['num_keypoints'], first['keypoints'][6:9]) == (3, [0, 0, 0])
  assert {'width': 8, 'height': 9}.items() <= data['images'][1].items()
  assert 'score' not in first

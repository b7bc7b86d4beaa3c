import json

import numpy as np
import pytest

from landmarks_jax.interop import coco


def page():
  """Two pictures; the second has three objects, crowds, and objects without points, too."""
  points = {
    1: [12, 30.5, 2, 40, 31, 1, 7, 9, 0],
    2: [1, 2, 2, 3, 4, 2, 5, 6, 2],
    3: [11, 12, 2, 13, 14, 2, 0, 0, 0],
    4: [21, 22, 2, 23, 24, 2, 25, 26, 2],
  }
  annotations = [
    {'id': i, 'image_id': 8 if i == 1 else 'b', 'category_id': 5, 'area': a, 'keypoints': points[i]}
    for i, a in ((1, 3), (2, 9), (3, 50.5), (4, 10))
  ]
  annotations.append({'id': 5, 'image_id': 8, 'category_id': 6, 'bbox': [0, 0, 9, 9]})
  annotations.append(annotations[3] | {'id': 6, 'area': 999, 'iscrowd': 1})
  annotations.append(annotations[3] | {'id': 7, 'area': 999, 'keypoints': [0] * 9})
  annotations.append({'id': 8, 'image_id': 'b', 'category_id': 5, 'area': 999})
  annotations.append(annotations[-1] | {'id': 9, 'keypoints': [], 'num_keypoints': 0})
  annotations.append(annotations[-1] | {'id': 10, 'iscrowd': 1, 'segmentation': {}})
  names = ['left_ear', 'right_ear', 'tail']
  return {
    'images': [{'id': 8, 'file_name': './a/x.png'}, {'id': 'b', 'file_name': 'a\\y.png'}],
    'annotations': annotations,
    'categories': [{'id': 6, 'name': 'car'}, {'id': 5, 'name': 'cat', 'keypoints': names}],
  }


def read(tmp_path, data):
  path = tmp_path / 'labels.json'
  path.write_text(data if isinstance(data, str) else json.dumps(data))
  return coco.read(path)


def test_points_are_those_of_the_largest_object_and_v_0_is_not_visible(tmp_path):
  labels = read(tmp_path, page())
  assert labels.names == ('left_ear', 'right_ear', 'tail')
  assert labels.places == {'a/x.png': 'annotation 1', 'a/y.png': 'annotation 3'}
  nan = [np.nan, np.nan]
  np.testing.assert_array_equal(labels.points['a/x.png'], [[12, 30.5], [40, 31], nan])
  np.testing.assert_array_equal(labels.points['a/y.png'], [[11, 12], [13, 14], nan])
  assert (labels.splits, labels.skeleton) == (None, ())


def test_the_order_of_the_objects_does_not_matter(tmp_path):
  data = page()
  data['annotations'].reverse()
  assert read(tmp_path, data).places == {'a/x.png': 'annotation 1', 'a/y.png': 'annotation 3'}


def test_a_skeleton_counts_from_1(tmp_path):
  data = page()
  data['categories'][1]['skeleton'] = [[1, 3], [3, 2]]
  assert read(tmp_path, data).skeleton == ((0, 2), (2, 1))


def broken(change):
  data = page()
  change(data)
  return data


def change(*path, to):
  """Sets, or with to=None removes, what is at a path."""

  def apply(data):
    *above, last = path
    for key in above:
      data = data[key]
    if to is None:
      del data[last]
    else:
      data[last] = to

  return apply


@pytest.mark.parametrize(
  ('path', 'to', 'parts'),
  [
    (['images'], None, ["the file has no 'images'", 'expected images (id, file_name)']),
    (['annotations'], None, ["the file has no 'annotations'"]),
    (['categories'], None, ["the file has no 'categories'"]),
    (['annotations'], {'a': 1}, ["annotations is {'a': 1}"]),
    (['images', 1], 'y.png', ["image 1 has no 'id'"]),
    (['images', 1, 'file_name'], None, ["image 1 has no 'file_name'"]),
    (['images', 0, 'file_name'], 7, ['image 0: file_name is 7']),
    (['images', 0, 'id'], [1], ['image 0: id is [1]']),
    (['images', 1, 'id'], 8, ['image 1: a/x.png and a/y.png have the id 8; give each its own']),
    (['annotations', 2, 'id'], None, ["annotation number 2 has no 'id'"]),
    (['annotations', 2, 'image_id'], None, ["annotation 3 has no 'image_id'"]),
    (['annotations', 2, 'image_id'], 77, ['annotation 3: there is no image with id 77']),
    (['annotations', 2, 'category_id'], None, ["annotation 3 has no 'category_id'"]),
    (['annotations', 2, 'keypoints'], 'all', ["annotation 3: keypoints is 'all'"]),
    (['annotations', 2, 'keypoints'], [1, 2], ['2 values; expected 9 numbers x, y, v']),
    (['annotations', 2, 'keypoints', 4], 'x', ['annotation 3: keypoints has 9 values']),
    pytest.param(
      *(['annotations', 2, 'keypoints', 4], 10**400, ['annotation 3: keypoints has 9 values']),
      id='400 digits',
    ),
    (['annotations', 2, 'keypoints', 5], 3, ['annotation 3: right_ear is x=13, y=14, v=3']),
    (['annotations', 2, 'keypoints', 4], float('nan'), ['right_ear is x=13, y=nan, v=2']),
    (['annotations', 3, 'area'], None, ['annotation 4 (a/y.png)', 'several', 'give each its area']),
    (['annotations', 3, 'area'], float('nan'), ['annotation 4 (a/y.png)', 'give each its area']),
    (['categories', 1, 'keypoints'], None, ['one category with keypoints; there are: none']),
    (['categories', 0, 'keypoints'], ['x'], ["one category with keypoints; there are: 'car'"]),
    (['categories', 1, 'keypoints'], ['a', 'b', 'a'], ["are ['a', 'b', 'a']; expected different"]),
    (['categories', 1, 'keypoints', 1], 4, ['expected different names']),
    (['categories', 1, 'keypoints', 1], '\ud800', [r"the landmark '\ud800' is not Unicode text"]),
    (['categories', 1, 'id'], None, ["the category has no 'id'"]),
    (['categories', 1, 'skeleton'], [[0, 1]], ['skeleton has [0, 1]; expected pairs', '1 to 3']),
    (['categories', 1, 'skeleton'], 'all', ["skeleton has 'all'"]),
  ],
)
def test_a_wrong_file_is_told_by_annotation_and_value(tmp_path, path, to, parts):
  with pytest.raises(ValueError) as caught:
    read(tmp_path, broken(change(*path, to=to)))
  for part in ('labels.json', *parts):
    assert part in str(caught.value)


def test_a_message_is_short_however_long_the_names_are(tmp_path):
  with pytest.raises(ValueError, match='expected different names') as caught:
    read(tmp_path, broken(change('categories', 1, 'keypoints', to=['a' * 5000, 'a' * 5000])))
  assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
  ('text', 'parts'),
  [
    ('', 'is not JSON'),
    (json.dumps(page())[:-9], 'is not JSON'),
    ('[' * 100_000, 'is not JSON'),
    ('[]', 'holds a list; expected images'),
  ],
)
def test_what_is_no_coco_file_is_told(tmp_path, text, parts):
  with pytest.raises(ValueError, match=parts):
    read(tmp_path, text)
  (tmp_path / 'latin.json').write_bytes(b'{"images": "\xe9"}')
  with pytest.raises(ValueError, match=r'latin\.json is not UTF-8'):
    coco.read(tmp_path / 'latin.json')

"""Boxes from a file: what is read, and what is said of a wrong line."""

import pathlib
import unicodedata

import pytest

from landmarks_jax.cli import labelled
from landmarks_jax.interop import box_csv


def written(tmp_path, text):
  (tmp_path / 'boxes.csv').write_text(text, encoding='utf-8')
  return tmp_path / 'boxes.csv'


def test_boxes_are_read_by_picture(tmp_path):
  text = '\ufefffile,x0,y0,x1,y1\n./a/ü "1".png, 1,2.5 ,30,40\n\n"b,c.jpg",-5,0,1e2,7\n'
  found = box_csv.read(written(tmp_path, text))
  assert found == {'a/ü "1".png': (1, 2.5, 30, 40), 'b,c.jpg': (-5, 0, 100, 7)}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'expected the header file,x0,y0,x1,y1; found nothing'),
    ('file,x,y,w,h\n', 'found file,x,y,w,h'),
    ('file,x0,y0,x1,y1\na.png,1,2,3\n', 'line 2: a.png,1,2,3; expected'),
    ('file,x0,y0,x1,y1\na.png,1,2,x,4\n', 'line 2: a.png,1,2,x,4; expected'),
    ('file,x0,y0,x1,y1\na.png,1,2,1_0,4\n', 'line 2: a.png,1,2,1_0,4; expected'),
    ('file,x0,y0,x1,y1\na.png,1,2,1,4\n', r'line 2 \(a.png\): expected x0 < x1'),
    ('file,x0,y0,x1,y1\na.png,1,2,nan,4\n', r'line 2 \(a.png\): expected x0 < x1'),
    ('file,x0,y0,x1,y1\na.png,1,2,3,4\na.png,1,2,3,4\n', 'line 3: a.png has a box already'),
  ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
  with pytest.raises(ValueError, match=message):
    box_csv.read(written(tmp_path, text))


def test_another_encoding_is_named(tmp_path):
  (tmp_path / 'boxes.csv').write_bytes('file,x0,y0,x1,y1\nü.png,1,2,3,4\n'.encode('latin-1'))
  with pytest.raises(ValueError, match='is not CSV in UTF-8'):
    box_csv.read(tmp_path / 'boxes.csv')


@pytest.mark.parametrize(('there', 'given'), [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_boxes_find_files_whose_accents_are_written_another_way(tmp_path, there, given):
  there, given = (unicodedata.normalize(form, 'café.png') for form in (there, given))
  (tmp_path / there).touch()
  (tmp_path / 'boxes.csv').write_text(f'file,x0,y0,x1,y1\n{given},1,2,3,4\n', encoding='utf-8')
  assert labelled.read_boxes(tmp_path, pathlib.Path('boxes.csv')) == {there: (1, 2, 3, 4)}

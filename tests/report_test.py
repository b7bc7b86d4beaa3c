"""The page that `train` and `evaluate` leave behind; what is on it is tested in page_test.py."""

import pathlib
import sys

import pytest
from train_test import command, copied, on_devices, plant, whole

from landmarks_jax.cli import report


def test_a_run_leaves_a_page_with_its_scores_curves_and_pictures():
  text = (whole()[0] / 'report/index.html').read_text()
  for part in (
    'few',
    'all',
    'Mean shape',
    'Random init',
    'Trained',
    '<svg',
    'data:image/',
    'left_eye',
  ):
    assert part in text, part
  assert '<script' not in text


def test_a_finished_run_repeated_keeps_its_page(tmp_path, monkeypatch):
  plant(monkeypatch)
  on_devices(monkeypatch, 1)
  (tmp_path / 'page.py').write_text((whole()[0].parent / 'page.py').read_text())
  page = copied(tmp_path) / 'report/index.html'
  before = page.read_bytes()
  assert command('train', tmp_path, 'run') == 0
  assert page.read_bytes() == before


def test_an_evaluation_leaves_its_own_page(tmp_path, monkeypatch):
  plant(monkeypatch)
  on_devices(monkeypatch, 1)
  run = copied(tmp_path)
  before = (run / 'report/index.html').read_bytes()
  assert command('evaluate', tmp_path, 'run') == 0
  assert '<svg' in (run / 'evaluations/6.html').read_text()
  assert (run / 'report/index.html').read_bytes() == before


@pytest.mark.parametrize(
  ('program', 'expected'),
  [
    ('/x/landmarks_jax/__main__.py', "python -m landmarks_jax train '--workdir=a b'"),
    ('/bin/landmarks-jax', "landmarks-jax train '--workdir=a b'"),
    ('notebook.py', None),
  ],
)
def test_the_command_is_given_as_it_would_be_typed(monkeypatch, program, expected):
  monkeypatch.setattr(sys, 'argv', [program, 'train', '--workdir=a b'])
  assert report.command() == expected


def test_only_the_newest_picture_of_each_name_is_shown(tmp_path):
  for name in (
    'views_00000000',
    'landmarks/a_00000003',
    'landmarks/a_00000012',
    'landmarks/b_00000012',
  ):
    file = tmp_path / f'{name}.png'
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(name.encode())
  found = report._newest(pathlib.Path(tmp_path), drawn={'b': None})
  assert found == {n: n.encode() for n in ('views_00000000', 'landmarks/a_00000012')}

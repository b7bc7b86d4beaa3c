"""The commands that people use trained weights with: frames, fit, predict, match."""

import csv
import json
import os
import pathlib
import shutil
import warnings

import numpy as np
import pytest
from fitting_test import NAMES, face, model_of
from PIL import Image

from landmarks_jax.cli import match as match_command
from landmarks_jax.cli import predict
from landmarks_jax.cli.main import main
from landmarks_jax.data import folder
from landmarks_jax.inference import landmark_model
from landmarks_jax.inference.matching import consistent_points
from landmarks_jax.inference.model import Model
from landmarks_jax.inference.pictures import checksum
from landmarks_jax.interop import coco, landmark_csv
from landmarks_jax.runtime import run_folder

SCALE = '--scale=left eye,right eye'


@pytest.fixture(scope='module', autouse=True)
def planted():
  """RUN is a network whose features are the landmarks' own colours; saved models hold it."""
  with pytest.MonkeyPatch.context() as patch:
    load = lambda *_, frame=None, margin=None: model_of(1)  # noqa: E731
    patch.setattr('landmarks_jax.api.load', load)
    patch.setattr(landmark_model, 'load', load)
    patch.setattr(Model, 'save', lambda self, folder: folder.mkdir(parents=True))
    yield


def write(root, numbers):
  root.mkdir(parents=True)
  points = {}
  for i in numbers:
    image, points[f'{i:03}.png'] = face(i)
    Image.fromarray(image).save(root / f'{i:03}.png')
  landmark_csv.write(root / 'labels.csv', NAMES, points)
  return points


@pytest.fixture(scope='module')
def mine(tmp_path_factory):
  """A folder with train (12 labelled pictures), test (9) and the model M fitted to ten of them."""
  root = tmp_path_factory.mktemp('mine')
  write(root / 'train', range(12))
  write(root / 'test', range(100, 109))
  arguments = ['--model=RUN', f'--images={root}/train', '--labels=labels.csv', '--count=10', SCALE]
  assert run('fit', *arguments, '--copies=2', f'--output={root}/M') == 0
  return root


def run(*arguments):
  return main(['x', *arguments])


def fitted_pairs(root, output, *more):
  given = '--model=RUN', f'--images={root}', '--labels=labels.csv', '--copies=1'
  assert run('fit', *given, f'--output={output}', *more) == 0
  return json.loads((output / run_folder.LANDMARKS).read_text())['flip_pairs']


def test_fit_takes_pairs_from_names_or_as_stated_and_prints_them(mine, tmp_path, capsys):
  assert fitted_pairs(mine / 'train', tmp_path / 'a') == [[0, 1]]
  assert 'mirror pairs (1): left eye/right eye\n' in capsys.readouterr().out
  assert fitted_pairs(mine / 'train', tmp_path / 'b', '--flip_pairs=none') == []
  assert 'mirror pairs (0): none\n' in capsys.readouterr().out
  stated = '--flip_pairs=right eye/left eye'
  assert fitted_pairs(mine / 'train', tmp_path / 'c', stated) == [[1, 0]]


def test_pairs_that_the_labels_contradict_are_not_used_unless_stated(tmp_path, capsys):
  names = 'left 0', 'left 1', 'right 0', 'right 1', 'tail'
  shape = np.array([[-12, -10], [-6, 0], [6, 0], [12, -10], [0, 14]])  # from left to right
  write(tmp_path / 'mine', range(6))
  points = {f'{i:03}.png': np.array(face(i)[0].shape[1::-1]) / 2 + shape for i in range(6)}
  landmark_csv.write(tmp_path / 'mine/labels.csv', names, points)
  with pytest.warns(UserWarning, match=r'contradict .*\(left 0/right 0, left 1/right 1\), so'):
    assert fitted_pairs(tmp_path / 'mine', tmp_path / 'a') == []
  assert 'mirror pairs (0): none\n' in capsys.readouterr().out
  stated = '--flip_pairs=left 0/right 1,left 1/right 0'
  assert fitted_pairs(tmp_path / 'mine', tmp_path / 'b', stated) == [[0, 3], [1, 2]]


@pytest.fixture(scope='module')
def predicted(mine):
  options = f'--model={mine}/M', f'--images={mine}/test', '--labels=labels.csv'
  assert run('predict', *options, f'--output={mine}/out', '--overlays=4') == 0
  return mine / 'out'


def test_predictions_are_read_back_as_labels(mine, predicted):
  found = landmark_csv.read(predicted / 'landmarks.csv')
  assert found.names == NAMES
  truth = landmark_csv.read(mine / 'test/labels.csv')
  assert set(found.points) == set(truth.points)
  for file, points in truth.points.items():
    scale = np.linalg.norm(points[0] - points[1])
    assert np.linalg.norm(found.points[file] - points, axis=-1).max() < 0.35 * scale
  labels = str(predicted / 'landmarks.csv')
  source = folder.source(str(mine / 'test'), labels=labels, frame=36)
  assert len(source) == 9
  assert source[0]['visible'].all()
  as_coco = coco.read(predicted / 'landmarks.json')
  assert as_coco.names == NAMES
  for file, points in found.points.items():
    np.testing.assert_allclose(as_coco.points[file], points, atol=1e-3)


def test_confidence_and_overlays_are_beside_them(mine, predicted):
  with (predicted / 'confidence.csv').open(newline='', encoding='utf-8') as file:
    header, *rows = csv.reader(file)
  assert header == ['file', *NAMES]
  assert len(rows) == 9
  assert all(0 <= float(c) <= 1 for row in rows for c in row[1:])
  annotations = json.loads((predicted / 'landmarks.json').read_text())['annotations']
  assert annotations[0]['confidence'] == [float(c) for c in rows[0][1:]]
  shown = sorted(path.name for path in (predicted / 'overlays').iterdir())
  assert len(shown) == 4
  assert shown[0] == '100.png'
  assert max(Image.open(predicted / 'overlays/100.png').size) >= 480


def test_every_picture_has_an_overlay_of_its_own(mine, tmp_path):
  write(tmp_path / 'mine', range(2))
  (tmp_path / 'mine/000.png').rename(tmp_path / 'mine/x.jpg')
  (tmp_path / 'mine/001.png').rename(tmp_path / 'mine/x.jpg.png')
  options = f'--model={mine}/M', f'--images={tmp_path}/mine', f'--output={tmp_path}/out'
  assert run('predict', *options) == 0
  drawn = sorted(path.name for path in (tmp_path / 'out/overlays').iterdir())
  assert drawn == ['x.jpg.png', 'x.jpg.png.png']
  assert predict.overlay_name('x.jpg', {'x.jpg', 'y.png'}) == 'x.jpg.png'
  assert predict.overlay_name('x.jpg.png', {'x.jpg', 'x.jpg.png'}) == 'x.jpg.png'


def test_scores_are_of_pictures_that_were_not_learned_from(mine, predicted, tmp_path, capsys):
  scores = json.loads((predicted / 'scores.json').read_text())
  assert scores['pictures'] == 9
  assert scores['learned_from'] == 0
  assert scores['error_percent'] < 15
  assert sum(one['count'] for one in scores['reliability']) == 27
  options = f'--model={mine}/M', f'--images={mine}/train', '--labels=labels.csv', '--overlays=0'
  assert run('predict', *options, f'--output={tmp_path}/again') == 0
  again = json.loads((tmp_path / 'again/scores.json').read_text())
  assert (again['pictures'], again['learned_from']) == (2, 10)
  out = capsys.readouterr().out
  assert '2 labelled pictures that were not learned from: error' in out
  assert 'confidence   landmarks   claimed   observed' in out
  assert not (tmp_path / 'again/overlays').exists()


def test_where_all_labelled_pictures_were_learned_from_there_is_no_score(mine, tmp_path, capsys):
  images = f'--images={mine}/train', '--labels=labels.csv'
  assert run('fit', '--model=RUN', *images, SCALE, '--copies=1', f'--output={tmp_path}/M') == 0
  options = f'--model={tmp_path}/M', *images, '--overlays=0', f'--output={tmp_path}/out'
  assert run('predict', *options) == 0
  out = capsys.readouterr().out
  assert 'no labelled picture is left to be scored; 12 were learned from' in out
  assert (tmp_path / 'out/landmarks.csv').exists()
  assert not (tmp_path / 'out/scores.json').exists()


def boxed(folder):
  """Writes a box of every labelled picture: its centre square, as without boxes."""
  lines = ['file,x0,y0,x1,y1']
  for file in landmark_csv.read(folder / 'labels.csv').points:
    width, height = Image.open(folder / file).size
    left, top = max(0, width - height) / 2, max(0, height - width) / 2
    lines.append(f'{file},{left},{top},{width - left},{height - top}')
  (folder / 'boxes.csv').write_text('\n'.join(lines))


def test_a_fit_on_boxes_says_where_predictions_have_none(tmp_path, capsys):
  write(tmp_path / 'train', range(4))
  boxed(tmp_path / 'train')
  images = f'--images={tmp_path}/train', '--copies=0'
  given = '--model=RUN', *images, '--labels=labels.csv', '--boxes=boxes.csv'
  assert run('fit', *given, f'--output={tmp_path}/M') == 0
  facts = json.loads((tmp_path / 'M/landmarks.json').read_text())
  assert facts['boxes'] is True
  predict = 'predict', f'--model={tmp_path}/M', images[0], '--overlays=0'
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert run(*predict, '--boxes=boxes.csv', f'--output={tmp_path}/a') == 0
  with pytest.warns(UserWarning, match='was fitted on boxes, and without them .* give boxes'):
    assert run(*predict, f'--output={tmp_path}/b') == 0
  del facts['boxes']  # as earlier versions wrote them
  (tmp_path / 'M/landmarks.json').write_text(json.dumps(facts))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert run(*predict, f'--output={tmp_path}/c') == 0


def test_another_crop_than_that_of_the_fit_is_told(mine, tmp_path):
  options = f'--model={mine}/M', f'--images={mine}/test', '--overlays=0', f'--output={tmp_path}/out'
  with pytest.warns(UserWarning, match="crop='pad', but .* was fitted on crop='centre'"):
    assert run('predict', *options, '--crop=pad') == 0


@pytest.mark.parametrize('crop', ['centre', 'pad', 'squash'])
def test_what_was_learned_from_is_known_whatever_is_cut_out(mine, tmp_path, crop):
  options = f'--model={mine}/M', f'--images={mine}/train', '--labels=labels.csv', '--overlays=0'
  assert run('predict', *options, f'--crop={crop}', f'--output={tmp_path}/out') == 0
  scores = json.loads((tmp_path / 'out/scores.json').read_text())
  assert (scores['pictures'], scores['learned_from']) == (2, 10)


def test_a_model_that_knows_frames_as_earlier_versions_wrote_them_knows_them_still(mine, tmp_path):
  shutil.copytree(mine / 'M', tmp_path / 'M')
  facts = json.loads((mine / 'M/landmarks.json').read_text())
  pictures = model_of(1).pictures([str(mine / 'train' / f'{i:03}.png') for i in range(10)])
  facts['learned_from'] = [checksum(pictures[i]['image']) for i in range(10)]
  (tmp_path / 'M/landmarks.json').write_text(json.dumps(facts))
  options = f'--images={mine}/train', '--labels=labels.csv', '--overlays=0'
  assert run('predict', f'--model={tmp_path}/M', *options, f'--output={tmp_path}/out') == 0
  assert json.loads((tmp_path / 'out/scores.json').read_text())['learned_from'] == 10


def test_bad_pictures_are_skipped_counted_and_listed(mine, tmp_path, capsys):
  pictures = tmp_path / 'pictures'
  pictures.mkdir()
  names = ['ok <b>"ü".png', 'grey.png', 'clear.png', 'one.png', 'turned.jpg', 'text.png', 'cut.png']
  image, _ = face(200)
  Image.fromarray(image).save(pictures / names[0])
  Image.fromarray(image).convert('L').save(pictures / 'grey.png')
  Image.fromarray(image).convert('RGBA').save(pictures / 'clear.png')
  Image.new('RGB', (1, 1)).save(pictures / 'one.png')
  turned = Image.fromarray(image)
  turned.getexif()[0x0112] = 8
  turned.save(pictures / 'turned.jpg', exif=turned.getexif())
  (pictures / 'text.png').write_text('not a picture')
  (pictures / 'cut.png').write_bytes((pictures / names[0]).read_bytes()[:300])
  (pictures / 'empty.png').write_bytes(b'')
  options = f'--model={mine}/M', f'--images={pictures}', f'--output={tmp_path}/out'
  assert run('predict', *options, '--overlays=-1') == 0
  out, err = capsys.readouterr()
  assert '5 of 8 pictures; 3 could not be read, see skipped.csv' in out
  assert err.count('warning: bad picture') == 3
  with (tmp_path / 'out/skipped.csv').open(newline='') as file:
    skipped = [row[0] for row in csv.reader(file)]
  assert skipped == ['file', 'cut.png', 'empty.png', 'text.png']
  found = landmark_csv.read(tmp_path / 'out/landmarks.csv')
  assert set(found.points) == set(names[:5])
  drawn = sorted(path.name for path in (tmp_path / 'out/overlays').iterdir())
  assert drawn == sorted(n if n.endswith('.png') else f'{n}.png' for n in names[:5])
  sizes = json.loads((tmp_path / 'out/landmarks.json').read_text())['images']
  upright = next(one for one in sizes if one['file_name'] == 'turned.jpg')
  assert (upright['width'], upright['height']) == image.shape[:2]


def test_an_overlay_that_cannot_be_written_is_counted_and_costs_nothing_else(
  mine, tmp_path, capsys
):
  root, output, long = tmp_path / 'pictures', tmp_path / 'found', f'{"x" * 249}.jpg'
  write(root, range(100, 102))
  Image.fromarray(face(102)[0]).save(root / long)  # a name of 253 bytes: with .png too long
  capsys.readouterr()
  assert run('predict', f'--model={mine}/M', f'--images={root}', f'--output={output}') == 0
  told = capsys.readouterr()
  assert '3 of 3 pictures; 1 of the overlays could not be written; written to' in told.out
  assert "xxx.jpg' cannot be written (File name too long)" in told.err
  assert sorted(landmark_csv.read(output / 'landmarks.csv').points) == ['100.png', '101.png', long]
  assert len(list((output / 'overlays').iterdir())) == 2


def test_a_full_disk_costs_overlays_and_no_table(mine, tmp_path, capsys, monkeypatch):
  tables = []

  def full(self, path, *_, **__):
    tables.append(sorted(file.name for file in (tmp_path / 'out').glob('*.*')))
    pathlib.Path(path).write_bytes(b'cut')
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr(Image.Image, 'save', full)
  options = f'--model={mine}/M', f'--images={mine}/test', '--labels=labels.csv'
  assert run('predict', *options, f'--output={tmp_path}/out') == 0
  told = capsys.readouterr()
  assert '9 of 9 pictures; 9 of the overlays could not be written; written to' in told.out
  assert told.err.count('cannot be written (No space left on device)') == 1
  assert tables[0] == ['confidence.csv', 'landmarks.csv', 'landmarks.json', 'scores.json']
  assert list((tmp_path / 'out/overlays').iterdir()) == []


@pytest.mark.parametrize(
  ('broken', 'kept', 'advice'),
  [
    (landmark_csv, [], 'make room and run the command again'),
    (coco, ['landmarks.csv'], 'what is in it is complete; make room and give another --output\n'),
  ],
)
def test_a_table_that_cannot_be_written_leaves_none_that_is_cut(
  mine, tmp_path, capsys, monkeypatch, broken, kept, advice
):
  def full(path, *_, **__):
    path.write_text('cut')
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr(broken, 'write', full)
  options = f'--model={mine}/M', f'--images={mine}/test', f'--output={tmp_path}/out'
  assert run('predict', *options) == 2
  assert f'error: {tmp_path}/out: No space left on device; {advice}' in capsys.readouterr().err
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == kept
  monkeypatch.undo()
  assert run('predict', *options[:2], f'--output={tmp_path}/{"again" if kept else "out"}') == 0


def test_a_picture_that_is_gone_before_its_overlay_costs_only_that(
  mine, tmp_path, capsys, monkeypatch
):
  root, output, draw = tmp_path / 'pictures', tmp_path / 'found', predict.Prediction._draw
  write(root, range(100, 103))

  def gone(self, row, *given):
    (root / '101.png').unlink(missing_ok=True)
    draw(self, row, *given)

  monkeypatch.setattr(predict.Prediction, '_draw', gone)
  assert run('predict', f'--model={mine}/M', f'--images={root}', f'--output={output}') == 0
  assert '3 of 3 pictures; 1 of the overlays could not be written' in capsys.readouterr().out
  assert len(landmark_csv.read(output / 'landmarks.csv').points) == 3


def test_names_that_no_table_can_hold_are_told_before_anything_is_computed(mine, tmp_path, capsys):
  pictures = tmp_path / 'pictures'
  shutil.copytree(mine / 'test', pictures)
  for name in (b'caf\xe9.png', b'a\\b.png'):
    shutil.copy(pictures / '100.png', os.fsdecode(bytes(pictures) + b'/' + name))
  os.rename(pictures / '104.png', pictures / ' 104.png')
  options = f'--model={mine}/M', f'--images={pictures}', f'--output={tmp_path}/out'
  assert run('predict', *options, '--overlays=-1') == 0
  out, err = capsys.readouterr()
  assert '8 of 11 pictures; 3 could not be read, see skipped.csv' in out
  assert r"'caf\udce9.png': its name is not UTF-8 text; rename it" in err
  assert len(landmark_csv.read(tmp_path / 'out/landmarks.csv').points) == 8
  with (tmp_path / 'out/skipped.csv').open(newline='', encoding='utf-8') as file:
    skipped = [row[0] for row in csv.reader(file)]
  assert skipped == ['file', ' 104.png', 'a\\b.png', r'caf\udce9.png']


def test_boxes_say_which_pictures_and_where(mine, tmp_path, capsys):
  points = write(tmp_path / 'wide', [])
  image, points = face(300)
  canvas = np.zeros((200, 240, 3), np.uint8)
  height, width = image.shape[:2]
  canvas[70 : 70 + height, 90 : 90 + width] = image
  Image.fromarray(canvas).save(tmp_path / 'wide/a.png')
  Image.fromarray(canvas).save(tmp_path / 'wide/unboxed.png')
  side = min(width, height)
  left, top = 90 + (width - side) / 2, 70 + (height - side) / 2
  boxes = f'file,x0,y0,x1,y1\na.png,{left},{top},{left + side},{top + side}\nb.pgn,0,0,9,9\n'
  (tmp_path / 'wide/boxes.csv').write_text(boxes)
  options = f'--model={mine}/M', f'--images={tmp_path}/wide', '--boxes=boxes.csv'
  assert run('predict', *options, f'--output={tmp_path}/out') == 0
  found = landmark_csv.read(tmp_path / 'out/landmarks.csv').points
  assert list(found) == ['a.png']
  told = capsys.readouterr()
  assert '1 of 2 pictures; 1 without a box, see skipped.csv; written to' in told.out
  assert "boxes.csv: 1 of 2 boxes are of no picture, the first 'b.pgn'" in told.err
  assert (tmp_path / 'out/skipped.csv').read_text().split() == [
    'file,reason',
    'unboxed.png,no',
    'box',
  ]
  scale = np.linalg.norm(points[0] - points[1])
  assert np.linalg.norm(found['a.png'] - points - [90, 70], axis=-1).max() < 0.35 * scale


def test_a_landmark_outside_its_picture_is_left_empty(mine, tmp_path, capsys):
  write(tmp_path / 'pictures', [7])
  boxes = 'file,x0,y0,x1,y1\n007.png,-60,-60,12,12\n'
  (tmp_path / 'pictures/boxes.csv').write_text(boxes)
  options = f'--model={mine}/M', f'--images={tmp_path}/pictures', '--boxes=boxes.csv'
  assert run('predict', *options, f'--output={tmp_path}/out') == 0
  assert 'are outside their picture and left empty' in capsys.readouterr().out
  found = landmark_csv.read(tmp_path / 'out/landmarks.csv').points['007.png']
  assert np.isnan(found).any()


def test_an_interrupt_keeps_what_was_found(mine, tmp_path, capsys, monkeypatch):
  real = landmark_model.LandmarkModel.look

  def interrupted(self, *args, **options):
    for i, found in enumerate(real(self, *args, **options)):
      if i == 2:
        raise KeyboardInterrupt
      yield found

  monkeypatch.setattr(landmark_model.LandmarkModel, 'look', interrupted)
  options = f'--model={mine}/M', f'--images={mine}/test', f'--output={tmp_path}/out'
  assert run('predict', *options, '--batch_size=2') == 130
  told = capsys.readouterr().err
  assert 'interrupted; 4 of 9 pictures; written to' in told
  assert 'in the overlays' not in told
  assert len(landmark_csv.read(tmp_path / 'out/landmarks.csv').points) == 4
  assert not (tmp_path / 'out/overlays').exists()


def test_overlays_do_not_wait_for_the_disk(mine, tmp_path, monkeypatch):
  synced, sync = [], os.fsync
  monkeypatch.setattr(os, 'fsync', lambda file: synced.append(sync(file)))
  options = f'--model={mine}/M', f'--images={mine}/test', f'--output={tmp_path}/out'
  assert run('predict', *options) == 0
  assert len(list((tmp_path / 'out/overlays').iterdir())) == 9
  assert len(synced) == 3  # the tables


def test_a_label_far_from_its_picture_costs_its_score_alone(mine, tmp_path, capsys):
  points = landmark_csv.read(mine / 'test/labels.csv').points
  points['101.png'][0] = 9000, 16
  landmark_csv.write(tmp_path / 'far.csv', NAMES, points)
  options = f'--model={mine}/M', f'--images={mine}/test', f'--labels={tmp_path}/far.csv'
  assert run('predict', *options, f'--output={tmp_path}/out') == 0
  told = capsys.readouterr()
  assert '9 of 9 pictures; written to' in told.out
  width, height = Image.open(mine / 'test/101.png').size
  first = f"the first {NAMES[0]} of '101.png' ({width}x{height} pixels) at (9000, 16); were they"
  assert told.err.count('warning: ') == 1
  assert '1 of the labels are far outside their picture and not scored' in told.err
  assert first in told.err
  assert len(landmark_csv.read(tmp_path / 'out/landmarks.csv').points) == 9
  assert json.loads((tmp_path / 'out/scores.json').read_text())['pictures'] == 8  # no scale there
  fit = 'fit', '--model=RUN', *options[1:], '--copies=0', f'--output={tmp_path}/M'
  assert run(*fit) == 2
  assert 'is at (9000, 16); was it made on a picture of another size?' in capsys.readouterr().err


FIT = '--model=RUN', '--images={}/train', '--labels=labels.csv'
PREDICT = '--model={}/M', '--images={}/test'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('fit', '--output={}/new'), 'fit needs --model=RUN --images=DIR --labels=FILE: '),
    (('fit', *FIT, '--output={}/train/M'), 'train/M is inside --images='),
    (('fit', *FIT, '--output={}/new', '--tolerance=-1'), 'tolerance=-1.0: expected a positive'),
    (('fit', *FIT, '--output={}/train'), 'exists already and is not overwritten'),
    (('fit', *FIT, '--output={}/new', '--count=13'), '--count=13: expected at most 12, the number'),
    (('fit', *FIT, '--output={}/new', '--scale=left eye,ear'), '--scale=left eye,ear: expected'),
    (('fit', *FIT, '--output={}/new', '--flip_pairs=left eye'), "'left eye' is no pair; expected"),
    (('fit', *FIT, '--output={}/new', '--flip_pairs=a/b'), "there is no landmark 'a'; expected"),
    (
      ('fit', *FIT, '--output={}/new', '--flip_pairs=left eye/left eye'),
      "'left eye' is named twice; expected none, or A/B,C/D, from: left eye, right eye",
    ),
    (('fit', *FIT, '--output={}/new', '--boxes=none.csv'), '--boxes=none.csv: there is no file'),
    (('fit', *FIT[:2], '--labels=no.csv', '--output={}/new'), "labels='no.csv': there is no file"),
    (('fit', *FIT, '--output={}/new', '--head=tree'), 'head'),
    (('predict', *PREDICT), 'predict needs --output=DIR: '),
    (('predict', *PREDICT, '--output={}/test'), 'exists already and is not overwritten'),
    (('predict', *PREDICT, '--output={}/test/new'), '/test/new is inside --images='),
    (('predict', '--model={}/test', '--images={}/test', '--output={}/new'), 'no landmark model'),
    (('predict', '--model={}/M', '--images={}/nil', '--output={}/new'), 'nil is not a folder'),
    (('predict', *PREDICT, '--output={}/new', '--crop=oval'), 'crop'),
    (('match', '{}/test/100.png'), 'match needs B --model=RUN: '),
    (('match', '{}/test/100.png', '{}/test/101.png'), 'match needs --model=RUN: '),
    (('match', '{}/test/100.png', '{}/nil.png', '--model=RUN', '--output={}/new'), 'nil.png'),
    (('match', 'a', 'b', 'c', '--model=RUN'), "unexpected 'c'"),
    (('frames',), 'frames needs NAME --output=DIR: '),
    (('frames', 'facez', '--output={}/new'), "no dataset named 'facez'"),
    (('frames', 'synthetic/faces'), 'frames needs --output=DIR: '),
    (('frames', 'folder', '--path={}/test', '--output={}/test/new'), '/test/new is inside --path='),
    (('frames', 'synthetic/faces', '--split=x', '--output={}/new'), "split='x'; there are"),
    (('frames', 'synthetic/faces', '--frame=a', '--output={}/new'), '--frame'),
  ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(mine, capsys, arguments, message):
  before = sorted(str(p) for p in mine.rglob('*'))
  capsys.readouterr()
  assert run(*(argument.replace('{}', str(mine)) for argument in arguments)) == 2
  err = capsys.readouterr().err
  assert message in err
  assert len(err.replace(err[err.find('\nOptions:') :], '').strip().splitlines()) == 1
  assert sorted(str(p) for p in mine.rglob('*')) == before


def test_points_of_one_picture_are_found_in_another(mine, tmp_path, capsys):
  pictures = mine / 'test/100.png', mine / 'test/101.png'
  options = '--model=RUN', '--points=labels.csv', '--size=24'
  assert run('match', *map(str, pictures), *options, f'--output={tmp_path}/out') == 0
  found = json.loads((tmp_path / 'out/matches.json').read_text())
  truth = landmark_csv.read(mine / 'test/labels.csv').points
  assert [one['name'] for one in found['matches']] == list(NAMES)
  for k, one in enumerate(found['matches']):
    np.testing.assert_allclose(one['a'], truth['100.png'][k], atol=2e-3)
    assert 0 <= one['similarity'] <= 1.0001
    assert one['cycle_pixels'] >= 0
  drawn = Image.open(tmp_path / 'out/matches.png').size
  heights = [Image.open(path).size for path in pictures]
  assert 480 <= drawn[1] < 540  # doubtful ones have a line below
  assert drawn[0] == sum(round(480 * w / h) for w, h in heights)
  assert '3 points, ' in capsys.readouterr().out


def test_names_that_are_drawn_as_numbers_are_told(mine, tmp_path, capsys):
  pictures, number = (str(mine / 'test/100.png'), str(mine / 'test/101.png')), f'3 = {NAMES[2]}'
  options = '--model=RUN', '--points=labels.csv', '--size=24'
  assert run('match', *pictures, *options, f'--output={tmp_path}/match') == 0
  assert f'in the picture {number}\n' in capsys.readouterr().out
  for count, told in ((2, True), (0, False)):
    options = f'--model={mine}/M', f'--output={tmp_path}/{count}', f'--overlays={count}'
    assert run('predict', *options, f'--images={mine}/test') == 0
    assert (f'\nin the overlays {number}\n' in capsys.readouterr().out) == told


def test_points_that_the_network_does_not_see_are_left_out_by_name(mine, tmp_path, capsys):
  pictures = [str(mine / f'test/{i}.png') for i in (100, 101)]
  points = landmark_csv.read(mine / 'test/labels.csv').points['100.png'].copy()
  points[1] = 0
  landmark_csv.write(tmp_path / 'points.csv', NAMES, {'100.png': points})
  options = '--model=RUN', f'--points={tmp_path}/points.csv', '--size=24'
  assert run('match', *pictures, *options, f'--output={tmp_path}/out') == 0
  found = json.loads((tmp_path / 'out/matches.json').read_text())
  assert [one['name'] for one in found['matches']] == [NAMES[0], NAMES[2]]
  told = '1 of 3 points lie outside what the network sees of A: right eye; --crop=pad or --margin=0'
  assert told in capsys.readouterr().err
  landmark_csv.write(tmp_path / 'points.csv', NAMES, {'100.png': 0 * points})
  assert run('match', *pictures, *options, f'--output={tmp_path}/none') == 2
  assert '3 of 3 points lie outside' in capsys.readouterr().err


def test_what_is_wrong_is_said_before_the_network_is_read(mine, tmp_path, monkeypatch, capsys):
  def load(run, **_):
    raise FileNotFoundError(f'{run} holds no run')

  monkeypatch.setattr('landmarks_jax.api.load', load)
  given = f'--images={mine}/train', '--labels=labels.csv', f'--output={tmp_path}/M'
  assert run('fit', '--model=nope', *given) == 2
  told = capsys.readouterr()
  assert 'nope holds no run' in told.err
  assert 'mirror pairs' not in told.out
  assert run('fit', '--model=nope', *given, '--tolerance=-1') == 2
  assert 'tolerance=-1.0: expected a positive' in capsys.readouterr().err
  assert run('match', f'{mine}/test/100.png', f'{mine}/nil.png', '--model=nope') == 2
  assert 'nil.png' in capsys.readouterr().err


def test_a_picture_whose_kind_is_not_read_is_said_to_be_there(mine, tmp_path, capsys):
  write(tmp_path / 'mine', range(3))
  (tmp_path / 'mine/001.png').rename(tmp_path / 'mine/001.HEIC')
  table = (tmp_path / 'mine/labels.csv').read_text().replace('001.png', '001.HEIC')
  (tmp_path / 'mine/labels.csv').write_text(table)
  given = '--model=RUN', f'--images={tmp_path}/mine', '--labels=labels.csv'
  assert run('fit', *given, f'--output={tmp_path}/M') == 2
  told = "'001.HEIC' is there, but .heic is not read; save it as JPEG or PNG"
  assert told in capsys.readouterr().err
  with pytest.raises(FileNotFoundError, match=told):
    folder.source(str(tmp_path / 'mine'), labels='labels.csv', frame=36)


def test_a_picture_in_a_hidden_folder_is_said_to_be_there(mine, tmp_path, capsys):
  write(tmp_path / 'mine', range(3))
  (tmp_path / 'mine/.own').mkdir()
  (tmp_path / 'mine/001.png').rename(tmp_path / 'mine/.own/001.png')
  table = (tmp_path / 'mine/labels.csv').read_text().replace('001.png', '.own/001.png')
  (tmp_path / 'mine/labels.csv').write_text(table)
  given = '--model=RUN', f'--images={tmp_path}/mine', '--labels=labels.csv'
  assert run('fit', *given, f'--output={tmp_path}/M') == 2
  assert "'.own/001.png' is there, but not among the pictures found" in capsys.readouterr().err


def test_without_points_some_are_chosen(mine, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  pictures = str(mine / 'test/100.png'), str(mine / 'test/101.png')
  assert run('match', *pictures, '--model=RUN', '--size=24', '--count=5') == 0
  found = json.loads((tmp_path / 'match_100_101/matches.json').read_text())
  assert [one['name'] for one in found['matches']] == ['1', '2', '3', '4', '5']
  cycle = consistent_points(model_of(1), *pictures, count=5, size=24)[2].cycle
  share = 100 * (cycle <= match_command.DOUBTFUL * max(Image.open(pictures[0]).size)).mean()
  assert found['consistent_percent'] == pytest.approx(share)
  assert share < 100
  told = f'5 of 256 candidates shown; {share:.0f} % of the candidates lead back'
  assert told in capsys.readouterr().out
  assert match_command.REQUIRED == ('A', 'B', '--model=RUN')
  assert run('match', *pictures, '--model=RUN', '--points=nil.csv') == 2
  other = tmp_path / 'other.csv'
  landmark_csv.write(other, ['a'], {'x.png': np.zeros((1, 2))})
  assert run('match', *pictures, '--model=RUN', f'--points={other}', '--output=o') == 2


def test_frames_of_a_dataset_become_a_folder_that_is_read(tmp_path, capsys):
  options = '--count=9', '--frame=24', '--split=test', '--most=4'
  assert run('frames', 'synthetic/faces', *options, f'--output={tmp_path}/faces') == 0
  assert '4 of 9 frames with 5 landmarks' in capsys.readouterr().out
  from landmarks_jax.data.synthetic import faces

  original = faces.source(split='test', frame=24, count=9)
  source = folder.source(str(tmp_path / 'faces'), labels='labels.csv', frame=24)
  assert [entry.file for entry in source.catalogue.entries] == [f'{i:06}.png' for i in (0, 2, 5, 8)]
  for i, row in enumerate((0, 2, 5, 8)):
    a, b = source[i], original[row]
    np.testing.assert_array_equal(a['image'], b['image'])
    np.testing.assert_array_equal(a['visible'], b['visible'])
    np.testing.assert_allclose(a['points'][a['visible']], b['points'][a['visible']], atol=1e-3)

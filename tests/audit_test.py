"""Planted faults are found, sound pictures are not, and what is written can be trusted."""

import csv
import json
import os
import pathlib
import re
import shutil
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.cli import audit as command
from landmarks_jax.cli.main import main
from landmarks_jax.data import audit, audit_labels, folder, youtube_faces_68
from landmarks_jax.interop import landmark_csv
from landmarks_jax.interop.landmark_csv import LabelTable


def picture(seed, width=90, height=80):
  """Smooth colours, as photographs have; another one for each seed."""
  small = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
  return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def save(path, image, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path, **options)


def moved(image, shift):
  """A picture a little brighter: the next frame of a film."""
  return Image.fromarray(np.clip(np.asarray(image).astype(int) + shift, 0, 255).astype(np.uint8))


@pytest.fixture
def pictures(tmp_path):
  """A folder with one fault of each kind, and pictures without any."""
  root = tmp_path / 'mine'
  for i in range(4):
    save(root / f'good/{i}.png', picture(i))
  save(root / 'again/first.jpg', picture(10, 400, 300), quality=95)
  shutil.copy(root / 'again/first.jpg', root / 'good/copy <b>&.jpg')
  save(root / 'again/small.webp', picture(10, 200, 150), quality=70)
  for number, frame in enumerate((8, 9, 10, 11)):
    save(root / f'film/{frame}.png', moved(picture(20), 3 * number))
  save(root / 'film/12.png', picture(21))
  save(root / 'odd/tiny.png', picture(30, 63, 80))
  save(root / 'odd/long.png', picture(31, 80, 250))
  save(root / 'odd/grey.png', picture(32).convert('L').convert('RGB'))
  save(root / 'odd/print.jpg', picture(33).convert('CMYK'))
  deep = np.asarray(picture(34).convert('L')).astype(np.uint16) * 257
  save(root / 'odd/deep.png', Image.fromarray(deep))
  several = {'save_all': True, 'append_images': [picture(36), picture(37)]}
  save(root / 'odd/stack.tif', picture(35), **several)
  save(root / 'odd/moving.gif', picture(38), **several)
  save(root / 'odd/preview.jpg', picture(39), format='MPO', **several)
  (root / 'odd/page.jpg').write_text('<html>')
  (root / 'odd/empty.png').touch()
  data = (root / 'good/0.png').read_bytes()
  (root / 'odd/cut.png').write_bytes(data[: len(data) // 2])
  return root


def looks(root):
  return [audit.look(root, file) for file in folder.find(root)]


def files(findings):
  """By name of the finding, the files of each group."""
  return {one.name: [[item.file for item in group] for group in one.groups] for one in findings}


def test_every_planted_fault_is_found_and_nothing_else(pictures):
  assert files(audit.of_pictures(looks(pictures))) == {
    'unreadable': [['odd/cut.png'], ['odd/empty.png'], ['odd/page.jpg']],
    'equal files': [['again/first.jpg', 'good/copy <b>&.jpg']],
    'near duplicates': [['again/first.jpg', 'again/small.webp']],
    'bursts': [['film/8.png', 'film/9.png', 'film/10.png', 'film/11.png']],
    'several pages': [['odd/moving.gif'], ['odd/stack.tif']],
    'tiny': [['odd/tiny.png']],
    'long': [['odd/long.png']],
    'grey': [['odd/grey.png']],
    'CMYK': [['odd/print.jpg']],
    '16 bits': [['odd/deep.png']],
  }


def test_reasons_and_sizes_are_said(pictures):
  found = {one.name: [g[0].note for g in one.groups] for one in audit.of_pictures(looks(pictures))}
  assert found['tiny'] == ['63x80']
  assert found['long'] == ['80x250']
  assert found['several pages'] == ['3 pages', '3 pages']
  cut, empty, page = found['unreadable']
  assert 'cannot be decoded' in cut
  assert empty == 'the file is empty'
  assert "not a picture in a known format, it starts with b'<html>'" in page


def test_a_burst_is_broken_by_another_picture_and_by_another_folder(tmp_path):
  film = [moved(picture(0), i) for i in range(6)]
  for name, image in zip(('a1', 'a2', 'b1', 'b2', 'b3', 'b9'), film, strict=True):
    save(tmp_path / name[0] / f'{name}.png', image)
  save(tmp_path / 'b/b5.png', picture(1))
  found = files(audit.of_pictures(looks(tmp_path)))
  assert found['bursts'] == [['b/b1.png', 'b/b2.png', 'b/b3.png']]
  assert found['near duplicates'] == [
    ['a/a1.png', 'a/a2.png', 'b/b1.png', 'b/b2.png', 'b/b3.png', 'b/b9.png']
  ]


def test_sizes_are_those_of_upright_readable_pictures(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # stored 120x80, displayed 80x120
  save(tmp_path / 'a.jpg', picture(0, 120, 80), exif=exif)
  save(tmp_path / 'b.png', picture(1, 100, 70))
  (tmp_path / 'c.png').touch()
  found = audit.sizes(looks(tmp_path))
  assert [found[name][i] for name in ('width', 'height') for i in (0, 2, 4)] == [
    80, 90, 100, 70, 95, 120,
  ]  # fmt: skip
  assert found['aspect'][0] == pytest.approx(80 / 120)
  assert audit.sizes([]) == {}


names = ('left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth', 'hat')
flip_pairs = ((0, 1), (3, 4))
face = np.array([[-10, -8], [11, -8], [1, 3], [-6, 10], [7, 11], [2, -22]], float)


def faces(count=40, noise=0.6, seed=0):
  """Faces anywhere, of any size and tilt, well inside 300x200; the last point is often hidden."""
  rng = np.random.default_rng(seed)
  angle = rng.uniform(-0.9, 0.9, count)
  turn = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  points = np.einsum('xyn,ky->nkx', turn, face) + rng.normal(0, noise, (count, 6, 2))
  points = points * rng.uniform(0.8, 2, (count, 1, 1)) + rng.uniform(80, 120, (count, 1, 2))
  points[rng.random(count) < 0.5, 5] = np.nan
  return points


def label_findings(points, size=(300, 200), pairs=flip_pairs):
  given = {f'{i}.png': one for i, one in enumerate(points)}
  labels = LabelTable('p.csv', names, given, dict.fromkeys(given, 'line 2'))
  return audit_labels.findings(labels, dict.fromkeys(given, size), flip_pairs=pairs)


def about_labels(points, **options):
  found = {one.name: one.groups for one in label_findings(points, **options)}
  return {name: {g[0].file: g[0].note for g in groups} for name, groups in found.items() if groups}


def test_sound_labels_have_no_findings():
  assert about_labels(faces()) == {}
  assert about_labels(faces(3)) == {}
  assert about_labels(faces(0)) == {}


def test_labels_of_the_wrong_side_are_found_whole_or_of_one_pair():
  points = faces()
  points[[3, 17]] = points[[3, 17]][:, [1, 0, 2, 4, 3, 5]]
  points[9] = points[9, [1, 0, 2, 3, 4, 5]]
  found = about_labels(points)
  assert set(found) == {'left and right exchanged'}
  notes = found['left and right exchanged']
  assert set(notes) == {'3.png', '17.png', '9.png'}
  assert notes['3.png'].endswith('with all left and right exchanged')
  assert notes['9.png'].endswith('with left_eye and right_eye exchanged')


def test_a_mirrored_picture_whose_labels_were_not_exchanged_is_found():
  points = faces()
  points[8] = [300, 0] + points[8] * [-1, 1]
  assert set(about_labels(points)['left and right exchanged']) == {'8.png'}
  assert set(about_labels(points, pairs=())) == {'odd shapes'}


def test_two_points_that_are_left_after_an_exchange_prove_nothing():
  points = faces(80)
  points[:, 4] = np.nan  # nobody has it, so its partner alone is exchanged with nothing
  points[:9, [0, 1, 5]] = np.nan
  points[:9, 3] += np.random.default_rng(0).normal(0, 12, (9, 2))
  points[:9, 5] = points[:9, 2] - 20
  assert set(about_labels(points)) == {'odd shapes'}
  points[20] = points[20, [1, 0, 2, 3, 4, 5]]
  points[20, [2, 4, 5]] = np.nan  # three points: exchanging the mouth's would leave the eyes
  notes = about_labels(points)['left and right exchanged']
  assert set(notes) == {'20.png'}
  assert notes['20.png'].endswith('with left_eye and right_eye exchanged')


def test_a_landmark_far_from_where_others_have_it_is_named():
  points = faces()
  points[5, 2] += 30
  found = about_labels(points)
  assert set(found) == {'odd shapes'}
  note = found['odd shapes']['5.png']
  assert re.fullmatch(r'nose is off by (0\.[5-9]|1\.)\d* of the radius of the object', note)


def test_points_outside_and_at_one_place_are_named():
  points = faces()
  points[4, 1] = points[4, 3]
  points[6, :, 0] += 300 - 0.6 - np.nanmax(points[6, :, 0])  # in the last column
  points[7, :, 1] += 200 - 0.4 - np.nanmax(points[7, :, 1])  # below the last row
  found = about_labels(points)
  assert found['equal points'] == {'4.png': 'right_eye = left_mouth'}
  outside = names[int(np.nanargmax(points[7, :, 1]))]
  assert found['points outside'] == {'7.png': outside}


def test_landmarks_that_are_usually_near_may_be_equal():
  points = faces(noise=0.1)
  points[:, 5] = points[:, 2] + 0.5
  points[::3, 5] = points[::3, 2]
  assert about_labels(points) == {}


def test_pictures_without_labels_and_labels_without_pictures_are_listed():
  labels = LabelTable(
    'p.csv', names, {'a.png': face, 'b.png': face}, {'a.png': '', 'b.png': 'line 7'}
  )
  sizes = {'a.png': (90, 90), 'c.png': (90, 90)}
  found = audit_labels.findings(labels, sizes, flip_pairs=())
  assert files(found)['pictures without labels'] == [['c.png']]
  assert found[1].groups == [[audit.Item('b.png', 'line 7')]]
  found = audit_labels.findings(labels, sizes, flip_pairs=(), others=['b.png'])
  note = 'line 7; it is there, but such files are not read: save it as JPEG or PNG'
  assert found[1].groups == [[audit.Item('b.png', note)]]


def misfit_slowly(shape, reference):
  """Least squares over shift, turn and scale, written as a linear system."""
  both = np.isfinite(shape).all(-1) & np.isfinite(reference).all(-1)
  rows = [row for x, y in shape[both] for row in ([x, -y, 1, 0], [y, x, 0, 1])]
  aim = reference[both].ravel()
  solution = np.linalg.lstsq(np.array(rows), aim, rcond=None)[0]
  error = ((np.array(rows) @ solution - aim) ** 2).reshape(-1, 2).sum(-1).mean()
  known = reference[np.isfinite(reference).all(-1)]
  return np.sqrt(error / ((known - known.mean(0)) ** 2).sum(-1).mean())


def test_the_misfit_is_that_of_least_squares():
  points, reference = faces(12, noise=4), faces(1, noise=3, seed=1)[0]
  points[2, 1] = reference[3] = np.nan
  expected = [misfit_slowly(one, reference) for one in points]
  shapes = points @ [1, 1j]
  np.testing.assert_allclose(audit_labels.misfit(shapes, reference @ [1, 1j]), expected, rtol=1e-9)


def run(*arguments):
  return main(['landmarks_jax', 'audit', *map(str, arguments)])


def test_the_command_tells_lists_and_shows_what_it_found(pictures, tmp_path, capsys):
  lines = ['file,left_eye_x,left_eye_y,right_eye_x,right_eye_y', 'good/0.png,5,9,20,9']
  lines += ['good/1.png,5,99,20,9', 'gone.png,1,2,3,4']
  (pictures / 'p.csv').write_text('\n'.join(lines))
  before = sorted(pictures.rglob('*'))
  assert run(pictures, '--labels=p.csv', f'--output={tmp_path}/out') == 0
  out = capsys.readouterr().out
  assert re.search(r'^equal files +1 +2$', out, re.M)
  assert re.search(r'^unreadable +3$', out, re.M)
  assert re.search(r'^points outside +1$', out, re.M)
  assert re.search(r'^labels without a picture +1$', out, re.M)
  assert f'23 pictures; the page is {tmp_path}/out/index.html' in out
  with (tmp_path / 'out/findings.csv').open(newline='') as file:
    rows = [tuple(row) for row in csv.reader(file)]
  assert rows[0] == ('finding', 'group', 'file', 'note')
  assert ('equal files', '1', 'good/copy <b>&.jpg', '') in rows
  assert ('points outside', '1', 'good/1.png', 'left_eye') in rows
  assert sorted(pictures.rglob('*')) == before
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['findings.csv', 'index.html']


def test_sizes_are_whole_pixels_and_the_folder_has_a_row_of_its_own(tmp_path):
  root = tmp_path / 'pictures_of_someone'
  save(root / 'wide.png', Image.new('RGB', (10_000, 8)))
  save(root / 'other.png', Image.new('RGB', (101, 150)))
  assert run(root, f'--output={tmp_path}/out') == 0
  page = (tmp_path / 'out/index.html').read_text()
  row = lambda name: re.findall('<td>(.*?)</td>', re.search(f'<td>{name}</td>(.*?)</tr>', page)[1])  # noqa: E731
  assert row('width') == ['101', '596', '5,050', '9,505', '10,000']
  assert row('height') == ['8', '15', '79', '143', '150']
  assert row('aspect')[0] == '0.6733'
  assert row('aspect')[-1] == '1,250'
  (folder_fact,) = re.findall('<div class="long"><dt>Folder</dt><dd>(.*?)</dd></div>', page)
  assert folder_fact.replace('<wbr>', '') == str(root)
  assert '<div><dt>Pictures</dt><dd>2</dd></div>' in page


def test_the_page_has_every_shown_picture_escapes_names_and_loads_nothing(pictures, tmp_path):
  assert run(pictures, f'--output={tmp_path}/out') == 0
  page = (tmp_path / 'out/index.html').read_text()
  assert '<b>' not in page
  assert 'copy &lt;b&gt;&amp;.' in page
  assert page.count('<figure>') == 2 + 2 + 4 + 3 + 7  # equal, near, burst, unreadable, odd ones
  assert page.count('<image href="data:image/jpeg;base64,') == page.count('<figure>') - 3
  assert not re.findall(r'(?:href|src)="(?!data:|#)', page)
  assert '<script' not in page
  assert '<h2>CMYK</h2>' in page
  assert 'become negatives of each other' in page


def test_long_findings_are_cut_on_the_page_and_whole_in_the_list(tmp_path):
  for i in range(30):
    save(tmp_path / f'mine/{i}.png', picture(i, 60, 60))
  assert run(tmp_path / 'mine', f'--output={tmp_path}/out') == 0
  page = (tmp_path / 'out/index.html').read_text()
  assert page.count('<figure>') == 24
  assert 'and 6 more pictures; all are in findings.csv' in page
  assert len((tmp_path / 'out/findings.csv').read_text().splitlines()) == 31


def test_a_folder_is_listed_once(pictures, tmp_path):
  with mock.patch.object(folder, '_walk', wraps=folder._walk) as listed:
    command.audit(pictures, output=tmp_path / 'out')
  listed.assert_called_once_with(pictures)


def test_files_that_are_not_read_as_pictures_are_counted_by_extension(tmp_path, capsys):
  save(tmp_path / 'mine/a.png', picture(0))
  for name in ('b.heic', 'c.HEIC', 'd.avif', 'labels.csv', '.hidden.heic'):
    (tmp_path / 'mine' / name).touch()
  assert run(tmp_path / 'mine', f'--output={tmp_path}/out') == 0
  assert re.search(r'^other files +2 +3$', capsys.readouterr().out, re.M)
  lines = (tmp_path / 'out/findings.csv').read_text().splitlines()
  assert lines[1:] == [
    'other files,1,b.heic,.heic', 'other files,1,c.HEIC,.heic', 'other files,2,d.avif,.avif',
  ]  # fmt: skip


def test_landmarks_are_drawn_where_they_are_in_question(tmp_path):
  for i in range(2):
    save(tmp_path / f'mine/{i}.png', picture(i, 100, 50))
  shutil.copy(tmp_path / 'mine/0.png', tmp_path / 'mine/2.png')
  rows = ['file,nose_x,nose_y', '0.png,24.5,12', '1.png,-3,12', '2.png,24.5,12']
  (tmp_path / 'p.csv').write_text('\n'.join(rows))
  assert run(tmp_path / 'mine', f'--labels={tmp_path}/p.csv', f'--output={tmp_path}/out') == 0
  page = (tmp_path / 'out/index.html').read_text()
  equal, outside = re.findall(r'<section id="(?:equal-files|points-outside)">.*?</section>', page)
  assert 'prediction' not in equal
  # The square is 100 wide: x = -3 + .5, y = 12 + .5 below the 25 rows that fill it up.
  assert 'd="M-2.5 37.5h.001"' in outside


def test_coco_labels_are_looked_at_too(tmp_path, capsys):
  points = {f'{i}.png': one for i, one in enumerate(faces(12))}
  points['7.png'] = points['7.png'][[1, 0, 2, 4, 3, 5]]
  seen = {f: np.where(np.isfinite(p[:, 0]), 2, 0) for f, p in points.items()}
  annotations = [
    {'id': i, 'image_id': file, 'category_id': 1, 'keypoints':
     np.column_stack([np.nan_to_num(points[file]), seen[file]]).ravel().tolist()}
    for i, file in enumerate(points)
  ]  # fmt: skip
  data = {'images': [{'id': f, 'file_name': f} for f in points], 'annotations': annotations}
  data['categories'] = [{'id': 1, 'keypoints': names}]
  for i, file in enumerate(points):
    save(tmp_path / 'mine' / file, picture(i, 300, 200))
  (tmp_path / 'mine/p.json').write_text(json.dumps(data))
  assert run(tmp_path / 'mine', '--labels=p.json', f'--output={tmp_path}/out') == 0
  assert re.search(r'^left and right exchanged +1$', capsys.readouterr().out, re.M)
  assert ',7.png,' in (tmp_path / 'out/findings.csv').read_text()


def test_exchanges_are_not_counted_by_pairs_that_the_labels_contradict(tmp_path, capsys):
  points = {f'{i}.png': one[[0, 3, 1, 2, 4, 5]] for i, one in enumerate(faces(12))}
  for i, file in enumerate(points):
    save(tmp_path / 'mine' / file, picture(i, 300, 200))
  landmark_csv.write(tmp_path / 'mine/p.csv', names, points)
  with pytest.warns(UserWarning, match='the labels contradict the mirror pairs'):
    assert run(tmp_path / 'mine', '--labels=p.csv', f'--output={tmp_path}/out') == 0
  told = capsys.readouterr().out
  assert 'odd shapes' in told
  assert 'left and right exchanged' not in told


def test_the_equal_files_of_the_real_photographs_are_found(youtube_faces, tmp_path, capsys):
  assert run(youtube_faces, f'--output={tmp_path}/out') == 0
  with (tmp_path / 'out/findings.csv').open(newline='') as file:
    rows = [row for row in csv.DictReader(file) if row['finding'] == 'equal files']
  groups = {}
  for row in rows:
    groups.setdefault(row['group'], []).append(row['file'])
  assert list(groups.values()) == [
    [
      'test/Carlos_Iturgaitz_31.jpg',
      'training/Carlos_Iturgaitz_30.jpg',
      'training/Carlos_Iturgaitz_31.jpg',
      'training/Carlos_Iturgaitz_32.jpg',
    ],
    ['test/Poala_Suarez_51.jpg', 'training/Poala_Suarez_51.jpg'],
    ['training/Jake_Plummer_41.jpg', 'training/Jake_Plummer_42.jpg'],
  ]
  out = capsys.readouterr().out
  assert 'layout of youtube_faces_68: its landmarks are looked at too' in out
  assert re.search(r'^left and right exchanged +0$', out, re.M)


def test_exchanged_labels_of_real_faces_are_found(youtube_faces):
  source = youtube_faces_68.source(youtube_faces, split='all')
  points = {file: pixels.copy() for file, pixels in source.labels.items()}
  wrong = sorted(np.random.default_rng(0).choice(source.files, 60, replace=False).tolist())
  order = np.arange(68)
  for a, b in source.info.flip_pairs:
    order[[a, b]] = b, a
  for file in wrong:
    points[file] = points[file][order]
  labels = LabelTable('p.csv', source.info.names, points, dict.fromkeys(points, ''))
  size = dict.fromkeys(points, (200, 200))
  found = audit_labels.findings(labels, size, flip_pairs=source.info.flip_pairs)
  assert sorted(group[0] for group in files(found)['left and right exchanged']) == wrong


def told(capsys, *parts):
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith('error: ')
  for part in parts:
    assert part in lines[0]
  assert lines[1:] in ([], ['Options: python -m landmarks_jax audit --help'])


@pytest.mark.parametrize(
  ('arguments', 'parts'),
  [
    ([], ['audit needs DIR: python -m landmarks_jax audit DIR [--options]']),
    (['--labels=p.csv'], ['audit needs DIR']),
    (['{tmp}/none'], ['{tmp}/none is not a folder']),
    (['{tmp}/empty'], ['{tmp}/empty has no pictures in it or below it']),
    (['{tmp}/one', '{tmp}/two'], ["audit: unexpected '{tmp}/two'; options start with --"]),
    (['{tmp}/one', '--lables=p.csv'], ["Unknown command line flag 'lables'", 'labels ?']),
    (['{tmp}/one', '--labels=q.csv'], ["labels='q.csv': there is no file {tmp}/one/q.csv"]),
    (['{tmp}/one', '--labels=p.csv'], ['p.csv, line 2 (a.png): nose is (1, two)']),
    (['{tmp}/one', '--labels=p.json'], ['p.json is not JSON']),
    (['{tmp}/one', '--labels=k.json'], ["k.json: the file has no 'images'"]),
    (['{tmp}/one', '--output={tmp}/one'], ['{tmp}/one exists already and is not overwritten']),
    (['{tmp}/one', '--output={tmp}/one/p.csv'], ['p.csv exists already']),
  ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(
  tmp_path, capsys, monkeypatch, arguments, parts
):
  save(tmp_path / 'one/a.png', picture(0))
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'one/p.csv').write_text('file,nose_x,nose_y\na.png,1,two')
  (tmp_path / 'one/p.json').write_text('{"images": [')
  (tmp_path / 'one/k.json').write_text('{"annotations": []}')
  monkeypatch.chdir(tmp_path)
  before = sorted(tmp_path.rglob('*'))
  assert run(*(argument.format(tmp=tmp_path) for argument in arguments)) == 2
  told(capsys, *(part.format(tmp=tmp_path) for part in parts))
  assert sorted(tmp_path.rglob('*')) == before


def test_the_output_is_beside_the_pictures_unless_asked_for_and_never_written_twice(
  tmp_path, capsys, monkeypatch
):
  save(tmp_path / 'mine/a.png', picture(0))
  monkeypatch.chdir(tmp_path)
  assert run('mine') == 0
  assert (tmp_path / 'audit_mine/index.html').is_file()
  assert run('mine') == 2
  told(capsys, '--output=audit_mine exists already and is not overwritten; give another')
  monkeypatch.chdir(tmp_path / 'mine')
  assert run('.') == 2
  told(capsys, 'audit_mine would be written into . itself; say where with --output=DIR')
  assert run('--output=inside', '.') == 0
  assert (tmp_path / 'mine/inside/index.html').is_file()


def test_an_interrupt_writes_nothing(pictures, tmp_path, capsys, monkeypatch):
  def interrupted(root, file):
    if file == 'film/9.png':
      raise KeyboardInterrupt
    return audit.Look(file)

  monkeypatch.setattr(command, 'CHUNK', 2)
  monkeypatch.setattr(audit, 'look', interrupted)
  assert run(pictures, f'--output={tmp_path}/out') == 130
  assert 'interrupted' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_a_full_disk_leaves_nothing_and_the_command_can_be_repeated(
  pictures, tmp_path, capsys, monkeypatch
):
  def full(self, *_, **__):
    raise OSError(28, os.strerror(28))

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'write_text', full)  # of the page: the list is there by then
    assert run(pictures, f'--output={tmp_path}/out') == 2
  told(capsys, f'{tmp_path}/out: No space left on device; make room and run the command again')
  assert list(tmp_path.iterdir()) == [pictures]
  assert run(pictures, f'--output={tmp_path}/out') == 0


def test_a_pipe_is_no_picture(tmp_path):
  os.mkfifo(tmp_path / 'a.jpg')
  assert audit.look(tmp_path, 'a.jpg').reason == 'is no file'


def test_help_shows_what_has_no_name_without_dashes(capsys):
  assert run('--help') == 0
  out = capsys.readouterr().out
  assert '\n  DIR: Folder of pictures.' in out
  assert '\n  --labels: ' in out

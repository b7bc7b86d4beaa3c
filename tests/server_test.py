"""What the server answers, to its page and to everybody else."""

import io
import json
import threading
import time

import numpy as np
import pytest
from labelling import LANDMARKS, NASTY, make_folder, open_session, wait_for
from PIL import Image
from starlette.testclient import TestClient

from landmarks_jax.data import folder
from landmarks_jax.labelling import export, server
from landmarks_jax.labelling.journal import NotSaved

PORT = 8377
HOME = f'http://localhost:{PORT}'
POINTS = dict(zip(LANDMARKS, [[1, 2], [30, 4], [10.5, 20]], strict=True))


@pytest.fixture
def root(tmp_path):
  return make_folder(tmp_path / 'pictures')


@pytest.fixture
def session(root):
  session = open_session(root, root / 'labels')
  session.start()
  wait_for(lambda: session.status.described == 12)
  yield session
  session.stop()
  session.journal.close()


@pytest.fixture
def page(session, root):
  app = server.app(session, port=PORT, output=root / 'labels')
  return TestClient(app, base_url=HOME, raise_server_exceptions=True)


def change(page, picture, points=POINTS, base=0, **others):
  data = {'picture': picture, 'points': points, 'base': base, 'client': 'c', 'id': str(time.time())}
  return page.post('/api/change', json=data | others)


def test_the_page_is_whole_and_asks_nobody_else(page):
  html, css, script = (page.get(f'/{name}').text for name in server.FILES)
  assert 'src="label.js"' in html
  for text in (html, css, script):
    assert 'http:' not in text
    assert 'https:' not in text
    assert 'innerHTML' not in text
  policy = page.get('/').headers['content-security-policy']
  assert "default-src 'none'" in policy
  assert 'unsafe' not in policy


def test_facts_name_pictures_and_landmarks_as_they_are(page):
  facts = page.get('/api/session').json()
  assert facts['landmarks'] == LANDMARKS
  assert facts['names'][11] == f'sub/{NASTY}'
  assert (facts['folder'], facts['learns'], len(facts['names'])) == ('pictures', True, 12)


def test_a_change_is_answered_when_it_is_on_disk(page, session):
  answer = change(page, 11)
  assert answer.status_code == 200
  assert answer.json()['points'] == POINTS
  last = json.loads(session.labels.path.read_text(encoding='utf-8').splitlines()[-1])
  assert (last['picture'], last['points']) == (f'sub/{NASTY}', POINTS)
  assert page.get('/api/pictures/11').json()['revision'] == 1


def test_the_fit_after_it_comes_to_all_pages(page, session):
  change(page, 11)
  wait_for(lambda: session.status.fits == 1)
  query = {'client': 'other', 'revision': 0, 'fits': 0, 'broken': 0}
  news = page.get('/api/changes', params=query).json()
  assert news['changed'] == [[11, 2, 1]]
  assert (news['status']['labelled'], len(news['sure'])) == (1, 12)
  assert page.get('/api/pictures/0').json()['predicted'] == list(POINTS.values())


def test_another_tab_is_refused_and_told_why(page):
  change(page, 3)
  answer = change(page, 3, {LANDMARKS[0]: [9, 9]}, base=0)
  assert answer.status_code == 409
  assert answer.json() == {
    'error': '03.png was changed elsewhere in the meantime',
    'conflict': True,
  }
  assert page.get('/api/pictures/3').json()['points'] == POINTS


def test_undo_tells_the_picture(page):
  change(page, 3)
  undo = {'client': 'c', 'id': 'u1'}
  assert page.post('/api/undo', json=undo).json() == {'picture': 3, 'revision': 2}
  assert page.get('/api/pictures/3').json()['points'] == {}
  assert page.post('/api/undo', json=undo | {'id': 'u2'}).json() == {'picture': None}


def test_a_full_disk_is_told_and_nothing_counts(page, session, monkeypatch):
  def full(entry):
    raise NotSaved('journal.jsonl: No space left on device; this was not saved')

  monkeypatch.setattr(session.journal, 'append', full)
  answer = change(page, 3)
  assert answer.status_code == 507
  assert 'No space left on device' in answer.json()['error']
  assert page.get('/api/pictures/3').json()['points'] == {}
  assert page.post('/api/undo', json={'client': 'c', 'id': 'u'}).json() == {'picture': None}


@pytest.mark.parametrize(
  ('data', 'told'),
  [
    ({'picture': 99}, 'there is no picture 99'),
    ({'picture': -1}, 'there is no picture -1'),
    ({'picture': '3'}, 'expected picture'),
    ({'picture': True}, 'expected picture'),
    ({'picture': '../../etc/passwd'}, 'expected picture'),
    ({'base': None}, 'expected picture, base'),
    ({'points': []}, 'points'),
    ({'points': {}}, 'nothing is changed'),
    ({'points': {'eye': [1, 2]}}, "'eye' is not a landmark"),
    ({'points': {LANDMARKS[0]: [1, 99]}}, 'outside of 40x30 pixels'),
    ({'points': {LANDMARKS[0]: ['1', 2]}}, 'expected [x, y]'),
    ({'client': ''}, 'client'),
    ({'client': 'x' * 65}, 'client'),
    ({'id': 5}, 'id'),
  ],
)
def test_what_makes_no_sense_is_refused_in_words(page, session, data, told):
  answer = change(page, **({'picture': 3} | data))
  assert answer.status_code in (400, 404)
  assert told in answer.json()['error']
  assert session.labels.revision == 0


@pytest.mark.parametrize('body', [b'', b'[]', b'{', b'[' * 10000, b'\xff'])
def test_what_is_no_object_is_refused(page, body):
  answer = page.post('/api/change', content=body, headers={'content-type': 'application/json'})
  assert (answer.status_code, answer.json()) == (400, {'error': 'expected a JSON object'})


def test_a_request_without_end_is_refused(page):
  answer = page.post('/api/change', json={'x': 'y' * (1 << 20)})
  assert answer.status_code == 413


# Whatever another page in the same browser, or another name for this host, can send.
FOREIGN = [
  {'host': 'evil.example'},
  {'host': f'evil.example:{PORT}'},
  {'host': 'localhost:1'},
  {'origin': 'https://evil.example'},
  {'origin': 'null'},
  {'origin': 'http://localhost:1'},
  {'sec-fetch-site': 'cross-site'},
  {'sec-fetch-site': 'same-site'},
]


@pytest.mark.parametrize('headers', FOREIGN, ids=str)
@pytest.mark.parametrize('path', ['/', '/label.js', '/api/session', '/api/pictures/0', '/export/x'])
def test_others_cannot_read(page, headers, path):
  answer = page.get(path, headers=headers)
  assert answer.status_code == 403
  assert 'content-security-policy' in answer.headers


@pytest.mark.parametrize('headers', [*FOREIGN, {'content-type': 'text/plain'}], ids=str)
@pytest.mark.parametrize('path', ['/api/change', '/api/undo', '/api/export', '/api/next'])
def test_others_cannot_write(page, session, headers, path):
  given = {'content-type': 'application/json'} | headers
  data = {'picture': 3, 'points': POINTS, 'base': 0, 'client': 'c', 'id': 'i'}
  assert page.post(path, content=json.dumps(data), headers=given).status_code == 403
  assert session.labels.revision == 0
  assert not (session.labels.path.parent / 'labels.csv').exists()


def test_a_link_elsewhere_may_open_the_page_and_its_own_origin_may_ask(page):
  link = {'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate'}
  assert page.get('/', headers=link).status_code == 200
  assert page.get('/api/session', headers=link).status_code == 403
  for origin in (HOME, f'http://127.0.0.1:{PORT}'):
    assert page.get('/api/session', headers={'origin': origin}).status_code == 200
  assert 'access-control-allow-origin' not in page.get('/', headers={'origin': HOME}).headers


@pytest.mark.parametrize(
  'path',
  [
    '/../setup.py',
    '/%2e%2e/setup.py',
    '/page/label.js',
    '/label.html',
    '/export/..%2f..%2fjournal.jsonl',
    '/export/journal.jsonl',
    '/export/labels-csv',
    '/pictures/KEY/192/..%2f00.png',
    '/pictures/KEY/192/-1',
    '/pictures/KEY/192/12',
    '/pictures/KEY/193/0',
    '/pictures/other/192/0',
    '/api/pictures/12',
    '/api/pictures/..%2f..%2fx',
  ],
)
def test_no_path_leaves_the_folder(page, session, path):
  answer = page.get(path.replace('KEY', session.files.key))
  assert answer.status_code in (400, 404)


def picture(page, session, name, side=1024):
  number = session.files.numbers[name]
  answer = page.get(f'/pictures/{session.files.key}/{side}/{number}')
  assert answer.status_code == 200
  return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_pictures_come_upright_and_their_points_are_in_upright_pixels(root, tmp_path):
  pixels = np.zeros((20, 60, 3), np.uint8)
  pixels[:, :30] = 255, 0, 0
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned clockwise
  Image.fromarray(pixels).save(root / 'turned.jpg', exif=exif, quality=95)
  session = open_session(root, root / 'labels')
  page = TestClient(server.app(session, port=PORT, output=root / 'labels'), base_url=HOME)
  image = picture(page, session, 'turned.jpg')
  assert image.shape == (60, 20, 3)
  assert image[5, 10, 0] > 200 > 50 > image[55, 10, 0]
  number = session.files.numbers['turned.jpg']
  told = page.get(f'/api/pictures/{number}').json()
  assert (told['width'], told['height']) == (20, 60)
  assert change(page, number, {LANDMARKS[0]: [19, 59]}).status_code == 200
  session.journal.close()


def test_a_picture_of_40_megapixels_is_served_scaled_and_labelled_in_its_own_pixels(root):
  pixels = np.zeros((5000, 8000, 3), np.uint8)
  pixels[:, 6000:] = 90, 160, 220
  Image.fromarray(pixels).save(root / 'large.jpg', quality=85)
  session = open_session(root, root / 'labels')
  page = TestClient(server.app(session, port=PORT, output=root / 'labels'), base_url=HOME)
  image = picture(page, session, 'large.jpg', 1024)
  assert image.shape == (640, 1024, 3)
  assert abs(int(image[300, 766, 2]) - int(image[300, 769, 2])) > 100  # the edge is at 768
  number = session.files.numbers['large.jpg']
  told = change(page, number, {LANDMARKS[0]: [7999.25, 4999]}).json()
  assert (told['width'], told['height']) == (8000, 5000)
  assert told['points'] == {LANDMARKS[0]: [7999.25, 4999]}
  session.journal.close()


def test_a_small_picture_is_not_enlarged(page, session):
  assert picture(page, session, f'sub/{NASTY}', 4096).shape == (30, 40, 3)


def test_a_broken_picture_is_told(page, session, root):
  (root / '05.png').write_bytes(b'\x89PNG nothing')
  session.files._thumbnail.cache_clear()
  assert page.get(f'/pictures/{session.files.key}/192/5').status_code == 404
  assert 'not a picture' in page.get('/api/pictures/5').json()['error']


def test_exports_are_read_back_and_hold_labels_and_predictions(page, session, root):
  assert page.post('/api/export', json={}).json()['error'].startswith('no picture has all')
  change(page, 11, POINTS | {LANDMARKS[1]: 'invisible'})
  change(page, 2)
  change(page, 3, {LANDMARKS[0]: [5, 5]})  # not complete
  wait_for(lambda: session.status.labelled == 2)
  told = page.post('/api/export', json={}).json()
  assert (told['labelled'], told['predicted'], told['files']) == (2, 10, export.FILES)
  for ending in ('csv', 'json'):
    found = folder.read_labels(root, str(root / f'labels/labels.{ending}'))
    assert found.names == tuple(LANDMARKS)
    assert sorted(found.points) == ['02.png', f'sub/{NASTY}']
    np.testing.assert_array_equal(found.points['02.png'], list(POINTS.values()))
    assert np.isnan(found.points[f'sub/{NASTY}'][1]).all()
    every = folder.read_labels(root, str(root / f'labels/all.{ending}')).points
    assert len(every) == 12
    np.testing.assert_array_equal(every['02.png'], found.points['02.png'])
    np.testing.assert_allclose(every['07.png'], session.fit.points[7], atol=1e-3)
  source = folder.source(str(root), labels='labels/labels.csv', unlabelled='skip', crop='pad')
  assert source[0]['visible'].tolist() == [True, True, True]
  assert page.get('/export/labels-csv').text == (root / 'labels/labels.csv').read_bytes().decode()
  scores = [a.get('score') for a in json.loads(page.get('/export/all-coco').text)['annotations']]
  assert sum(score is not None for score in scores) == 10


def test_an_export_during_the_first_fit_says_that_predictions_are_to_come(page, session, root):
  session._learner.seconds = 1.0
  change(page, 2)
  answer = page.post('/api/export', json={})
  assert answer.status_code == 400
  assert 'the first fit is not ready: only labels.csv' in answer.json()['error']
  assert (root / 'labels/labels.csv').is_file()
  assert not (root / 'labels/all.csv').exists()
  wait_for(lambda: session.status.labelled == 1)
  assert page.post('/api/export', json={}).json()['predicted'] == 11


def test_an_export_is_of_one_fit_whatever_is_learned_meanwhile(page, session, monkeypatch):
  change(page, 2)
  wait_for(lambda: session.status.labelled == 1 and not session.status.busy)
  real = session.size

  def size(number):
    session.fit = session.fit._replace(points=session.fit.points + 1)
    return real(number)

  monkeypatch.setattr(session, 'size', size)
  _, _, predicted = export._predictions(session, session.labelled())
  assert len({tuple(points.ravel()) for points in predicted.values()}) == 1


def test_an_export_that_fails_leaves_the_earlier_one_whole(page, session, root, monkeypatch):
  change(page, 2)
  page.post('/api/export', json={})
  before = (root / 'labels/labels.csv').read_bytes()
  change(page, 3)

  def full(path, *_):
    path.write_text('half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(export.landmark_csv, 'write', full)
  answer = page.post('/api/export', json={})
  assert answer.status_code == 400
  assert 'No space left on device' in answer.json()['error']
  assert (root / 'labels/labels.csv').read_bytes() == before
  assert not list((root / 'labels').glob('*.part'))


def test_many_requests_at_once_are_answered(page, session):
  answers = []

  def ask(number):
    answers.append(change(page, number, id=f'n{number}').status_code)
    answers.append(page.get(f'/pictures/{session.files.key}/192/{number}').status_code)

  threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert answers == [200] * 24
  assert session.complete == 12


def test_ten_thousand_pictures_are_told_at_once(root, monkeypatch):
  monkeypatch.setattr(folder, 'find', lambda _: tuple(f'{i:05}.png' for i in range(10_000)))
  session = open_session(root, root / 'labels')
  page = TestClient(server.app(session, port=PORT, output=root / 'labels'), base_url=HOME)
  assert len(page.get('/api/session').content) < 300_000
  began = time.monotonic()
  query = {'client': 'other', 'revision': 0, 'fits': 0, 'broken': 0}
  assert page.get('/api/changes', params=query).json()['status']['pictures'] == 10_000
  page.post('/api/next', json={'client': 'c'})
  assert time.monotonic() - began < 2
  session.journal.close()

"""The page in a real browser: Chromium without a window, driven by what a person does."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from labelling import LANDMARKS, NASTY, make_folder, save

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
  not (CHROMIUM and DRIVER),
  reason='no Chromium with its driver here: apt-get install chromium chromium-driver',
)
SPOTS = {LANDMARKS[0]: (10, 8), LANDMARKS[1]: (30, 6), LANDMARKS[2]: (20, 22)}
here = pathlib.Path(__file__).parent


class Server:
  """A labelling server in a process of its own; it can be killed and started again."""

  def __init__(self, root, *options):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      self.port = free.getsockname()[1]
    self.root, self.options = root, options
    self.start()

  def start(self):
    command = [sys.executable, here / 'labelling.py', self.root, str(self.port), *self.options]
    environment = os.environ | {'PYTHONPATH': f'{here.parent}:{here}'}
    self.process = subprocess.Popen(command, env=environment)
    end = time.monotonic() + 60
    while time.monotonic() < end:
      with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', self.port), 1):
        return
      assert self.process.poll() is None, 'the server ended'
      time.sleep(0.05)
    raise AssertionError('the server did not start')

  def kill(self):
    self.process.send_signal(signal.SIGKILL)
    self.process.wait()

  def journal(self):
    """The changes on disk."""
    lines = (self.root / 'labels/journal.jsonl').read_text(encoding='utf-8').splitlines()
    return [entry for entry in map(json.loads, lines) if 'picture' in entry]

  def on_disk(self, picture):
    """The points of one picture, by replaying the file."""
    points = {}
    for entry in self.journal():
      if entry['picture'] == picture:
        points |= entry['points']
    return {name: point for name, point in points.items() if point is not None}

  @property
  def address(self):
    return f'http://localhost:{self.port}'


class Page:
  """A tab with the page."""

  def __init__(self, browser, server):
    self.browser, self.server = browser, server
    self.tab = browser.current_window_handle

  def open(self):
    self.browser.get(self.server.address)
    self.until(lambda: self.name and self.text('count'))
    return self

  def use(self):
    self.browser.switch_to.window(self.tab)

  def one(self, selector):
    from selenium.webdriver.common.by import By

    return self.browser.find_element(By.CSS_SELECTOR, selector)

  def all(self, selector):
    from selenium.webdriver.common.by import By

    return self.browser.find_elements(By.CSS_SELECTOR, selector)

  def text(self, id):
    return self.browser.execute_script(
      'return document.getElementById(arguments[0]).textContent', id
    )

  @property
  def name(self):
    return self.text('name')

  def states(self):
    """The landmarks as the list beside the picture says: placed, predicted, invisible, missing."""
    return [button.get_attribute('class') for button in self.all('#landmarks button')]

  def until(self, holds, seconds=20):
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
      with contextlib.suppress(WebDriverException):
        if holds():
          return
      time.sleep(0.03)
    state = {id: self.text(id) for id in ('name', 'saved', 'toast', 'alarm', 'fit', 'count')}
    raise AssertionError(f'it did not happen; the page shows {state}, {self.states()}')

  def spot(self, point, size=(40, 30)):
    """Where a pixel of the whole picture is on the canvas, from its centre."""
    width, height = self.browser.execute_script(
      'const c = document.getElementById("canvas"); return [c.clientWidth, c.clientHeight]'
    )
    scale = min((width - 24) / size[0], (height - 24) / size[1], 40)
    return [scale * (p + 0.5 - n / 2) for p, n in zip(point, size, strict=True)]

  def actions(self):
    from selenium.webdriver import ActionChains

    return ActionChains(self.browser, duration=20)

  def click(self, point):
    x, y = map(round, self.spot(point))
    self.actions().move_to_element_with_offset(self.one('#canvas'), x, y).click().perform()

  def drag(self, start, end):
    (x, y), (u, v) = (map(round, self.spot(p)) for p in (start, end))
    canvas = self.one('#canvas')
    move = self.actions().move_to_element_with_offset(canvas, x, y).click_and_hold()
    move.move_to_element_with_offset(canvas, u, v).release().perform()

  def press(self, *keys):
    self.actions().send_keys(*keys).perform()

  def find(self, text):
    """Searches for the one picture with this in its name, and clicks it."""
    self.press('/', text)
    self.until(lambda: len(self.all('#tiles button')) == 1)
    self.all('#tiles button')[0].click()

  def place_all(self):
    """Clicks the landmarks of SPOTS, one after the other."""
    for point in SPOTS.values():
      self.click(point)
    self.until(self.is_saved)

  def is_saved(self):
    return self.text('saved') == 'Saved'


@pytest.fixture(scope='module')
def browser():
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for option in ('headless=new', 'no-sandbox', 'disable-gpu', 'disable-dev-shm-usage', 'lang=en'):
    options.add_argument(f'--{option}')
  options.add_argument('--window-size=1200,800')
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
  yield driver
  driver.quit()


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  server = Server(make_folder(tmp_path_factory.mktemp('page') / 'pictures', count=30))
  yield server
  server.kill()


@pytest.fixture
def page(browser, server):
  browser.switch_to.new_window('tab')
  page = Page(browser, server).open()
  yield page
  for tab in browser.window_handles[1:]:
    browser.switch_to.window(tab)
    browser.close()
  browser.switch_to.window(browser.window_handles[0])


def near(found, expected, least=0.6):
  return all(abs(a - b) < least for a, b in zip(found, expected, strict=True))


def test_place_fit_correct_undo_and_reload(page, server):
  assert page.states() == ['missing'] * 3
  first = page.name
  page.place_all()
  points = server.on_disk(first)
  assert all(near(points[name], spot) for name, spot in SPOTS.items())

  page.press(' ')
  page.until(lambda: page.name != first)
  page.until(lambda: page.states() == ['predicted'] * 3)
  page.until(lambda: 'Fit on 1 picture' in page.text('fit'))
  second = page.name
  assert server.on_disk(second) == {}

  page.drag(points[LANDMARKS[1]], (33, 9))
  page.until(lambda: page.states() == ['predicted', 'placed', 'predicted'] and page.is_saved())
  assert near(server.on_disk(second)[LANDMARKS[1]], (33, 9))
  page.press(' ')
  page.until(lambda: len(server.on_disk(second)) == 3 and page.name != second)
  assert near(server.on_disk(second)[LANDMARKS[0]], points[LANDMARKS[0]], 0.01)
  page.until(lambda: page.text('count').startswith('2 of 30') and 'on 2 pict' in page.text('fit'))

  page.press('z')
  page.until(lambda: page.name == second)
  page.until(lambda: page.states() == ['predicted', 'placed', 'predicted'])
  assert list(server.on_disk(second)) == [LANDMARKS[1]]

  page.open()
  page.press('z')
  page.until(lambda: page.name == second and page.states() == ['predicted'] * 3)
  assert server.on_disk(second) == {}
  page.press('p')
  assert near(server.on_disk(first)[LANDMARKS[0]], SPOTS[LANDMARKS[0]])


def test_keys_choose_nudge_hide_and_remove(page, server):
  from selenium.webdriver.common.keys import Keys

  picture = page.name
  page.press('3')
  page.click((5, 5))
  page.until(page.is_saved)
  assert near(server.on_disk(picture)[LANDMARKS[2]], (5, 5))
  page.press('3', Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
  before = len(server.journal())
  page.until(lambda: page.is_saved() and len(server.journal()) > before)
  x, y = server.on_disk(picture)[LANDMARKS[2]]
  assert 5 < x < 6
  assert 5 < y < 6
  assert len(server.journal()) == before + 1  # one change, one undo
  page.press('2', 'i')
  page.until(lambda: server.on_disk(picture).get(LANDMARKS[1]) == 'invisible')
  assert page.states()[1:] == ['invisible', 'placed']
  page.press('2', 'i', '3', Keys.DELETE)
  page.until(lambda: server.on_disk(picture) == {})
  page.press('n')
  page.until(lambda: page.name != picture)
  page.press('p')
  page.until(lambda: page.name == picture)


def test_a_change_right_after_an_undo_is_saved(page, server, browser):
  picture = page.name
  page.press('1')
  page.click((8, 8))
  page.until(page.is_saved)
  browser.execute_script(
    'window.fetch = (f => async (u, o) => { if (String(u).includes("undo")) '
    'await new Promise(done => setTimeout(done, 700)); return f(u, o); })(window.fetch)'
  )
  page.press('z', '2')
  page.click((28, 8))
  page.press('3')
  page.click((20, 20))
  page.until(lambda: 'Undone' in page.text('toast') and page.is_saved())
  assert set(server.on_disk(picture)) == set(LANDMARKS[1:])
  assert page.states()[1:] == ['placed', 'placed']
  page.press('1')
  page.click((9, 9))
  page.until(lambda: len(server.on_disk(picture)) == 3)


def test_zoom_and_pan_keep_points_where_they_are_in_the_picture(page, server):
  picture = page.name
  page.press('1', '+', '+', '+')
  page.until(lambda: page.text('whole') != '0 %')
  page.drag((2, 28), (6, 26))  # nothing is there: it pans
  time.sleep(0.2)
  assert server.on_disk(picture) == {}
  page.press('f')
  page.click((12, 9))
  page.until(lambda: near(server.on_disk(picture).get(LANDMARKS[0], (0, 0)), (12, 9)))


def test_two_tabs_see_each_other_and_never_overwrite(page, server, browser):
  picture = page.name
  browser.switch_to.new_window('tab')
  other = Page(browser, server).open()
  assert other.name != picture  # two people do not do the same work
  other.find(picture)
  other.until(lambda: other.name == picture)
  other.press('1')
  other.click((7, 7))
  other.until(other.is_saved)
  page.use()
  page.until(lambda: page.states()[0] == 'placed')
  assert 'another tab' in page.text('toast')

  # A tab that has not heard of a change yet is refused.
  browser.execute_script(
    'window.fetch = (f => (u, o) => String(u).includes("changes") ? '
    'new Promise(() => {}) : f(u, o))(window.fetch)'
  )
  other.use()
  other.press('2')
  other.click((9, 9))
  other.until(lambda: LANDMARKS[1] in server.on_disk(picture))
  page.use()
  page.press('2')
  page.click((30, 20))
  page.until(lambda: 'was not saved' in page.text('toast'))
  assert near(server.on_disk(picture)[LANDMARKS[1]], (9, 9))
  page.until(lambda: page.states()[1] == 'placed')


def test_a_killed_server_loses_nothing_and_the_page_says_what_is_not_saved(page, server):
  picture = page.name
  page.press('1')
  page.click((8, 8))
  page.until(page.is_saved)
  server.kill()
  page.press('2')
  page.click((28, 8))
  page.until(lambda: 'does not answer' in page.text('alarm'))
  assert page.text('saved') == 'Not saved'
  assert list(server.on_disk(picture)) == [LANDMARKS[0]]
  server.start()
  page.until(page.is_saved)
  assert near(server.on_disk(picture)[LANDMARKS[0]], (8, 8))
  assert near(server.on_disk(picture)[LANDMARKS[1]], (28, 8))
  page.until(lambda: not page.one('#alarm').is_displayed())
  page.press('z')
  page.until(lambda: list(server.on_disk(picture)) == [LANDMARKS[0]])


def test_a_full_disk_is_shown_and_the_point_is_saved_when_there_is_room(page, server):
  picture, pid = page.name, server.process.pid
  size = (server.root / 'labels/journal.jsonl').stat().st_size
  before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
  resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 20, before[1]))
  page.press('1')
  page.click((8, 8))
  page.until(lambda: 'this was not saved' in page.text('alarm'))
  assert page.one('#alarm').is_displayed()
  assert page.text('saved') == 'Not saved'
  assert (server.root / 'labels/journal.jsonl').stat().st_size == size
  resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
  page.one('#alarm button').click()
  page.until(page.is_saved)
  assert near(server.on_disk(picture)[LANDMARKS[0]], (8, 8))


def test_names_are_text_and_exports_can_be_fetched(page, server, browser):
  page.find('GRÖßE')
  page.until(lambda: page.name == f'sub/{NASTY}')
  assert [b.text.splitlines()[0] for b in page.all('#landmarks button')] == LANDMARKS
  assert not page.all('#landmarks img, header b, #name b')
  page.one('#export').click()
  page.until(lambda: len(page.all('#exported a')) == 4)
  assert (server.root / 'labels/labels.csv').is_file()
  page.one('#exported button').click()
  errors = [line for line in browser.get_log('browser') if line['source'] == 'javascript']
  assert not errors


def test_all_filters_are_in_one_line(browser, tmp_path):
  root = make_folder(tmp_path / 'some', count=5)
  (root / 'bad.png').write_bytes(b'no picture')
  some = Server(root)
  size = browser.get_window_size()
  try:
    browser.switch_to.new_window('tab')
    browser.set_window_size(1400, 900)
    page = Page(browser, some).open()
    page.place_all()
    page.press(' ')
    shown = lambda: [b for b in page.all('#filters button') if b.is_displayed()]  # noqa: E731
    page.until(lambda: len(shown()) == 5)
    assert len({button.rect['y'] for button in shown()}) == 1
    assert all(b.rect['width'] >= b.get_property('scrollWidth') for b in shown())
    first, *_, last = shown()
    aside = page.one('aside').rect
    assert aside['x'] < first.rect['x']
    assert last.rect['x'] + last.rect['width'] < aside['x'] + aside['width']
  finally:
    some.kill()
    browser.close()
    browser.switch_to.window(browser.window_handles[0])
    browser.set_window_size(size['width'], size['height'])


def test_ten_thousand_pictures_without_a_fit_are_a_few_tiles(browser, tmp_path):
  root = tmp_path / 'many'
  root.mkdir()
  save(root / '00000.png', 1)
  for i in range(1, 10_000):
    os.link(root / '00000.png', root / f'{i:05}.png')
  many = Server(root, 'plain')
  try:
    browser.switch_to.new_window('tab')
    page = Page(browser, many).open()
    page.until(lambda: page.all('#tiles button'))
    assert page.text('count') == '0 of 10,000 labelled'
    browser.execute_script('const list = document.getElementById("list"); list.scrollTop = 1e9')
    page.until(lambda: any('09999' in b.get_attribute('title') for b in page.all('#tiles button')))
    assert len(page.all('#tiles button')) < 60
    name = page.name
    page.press(' ')
    page.until(lambda: f'Still missing: {LANDMARKS[0]}' in page.text('toast'))
    assert page.name == name
  finally:
    many.kill()
    browser.close()
    browser.switch_to.window(browser.window_handles[0])

"""The command: a landmark is moved, and what is painted goes with it; nothing is overwritten."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.cli.main import main
from landmarks_jax.contracts import Describer
from landmarks_jax.inference import model as models

side, margin = 20, 2
config = {'method': {'name': 'dots', 'margin': margin}}


def landmarks(variables, image):
  """The brightest pixel of red, and of green."""
  flat = jnp.asarray(image, jnp.float32)[..., :2].reshape(len(image), -1, 2)
  y, x = jnp.divmod(flat.argmax(1), image.shape[2])
  return 2 * jnp.stack([x, y], -1) / (image.shape[1] - 1) - 1, jnp.ones((len(image), 2))


def paint(variables, image, points):
  """One white pixel at each landmark."""
  n = image.shape[1]
  at = jnp.rint((points + 1) / 2 * (n - 1)).astype(int)
  rows = jnp.arange(len(image))[:, None]
  return jnp.zeros(image.shape).at[rows, at[..., 1], at[..., 0]].set(255.0)


def of(found=landmarks, painted=paint):
  return models.Model(
    Describer((), lambda v, image, size: (image,), found, painted),
    config,
    frame=side + 2 * margin,
    margin=margin,
  )


@pytest.fixture
def run(tmp_path, monkeypatch):
  """run(*options) -> exit code, in a folder with pictures a.png and b.png."""
  for name, places in {'a': [(5, 6), (12, 9)], 'b': [(9, 6), (12, 15)]}.items():
    picture = np.zeros((side + 2 * margin, side + 2 * margin, 3), np.uint8)
    for channel, (x, y) in enumerate(places):
      picture[y + margin, x + margin, channel] = 255
    Image.fromarray(picture).save(tmp_path / f'{name}.png')
  monkeypatch.setattr(models, 'load', lambda workdir, step: of())
  monkeypatch.chdir(tmp_path)
  return lambda *options: main(['x', 'manipulate', str(tmp_path), *options])


def cells(path):
  """The painted pictures of a strip, its lower row, small again: [F, S, S, 3]."""
  strip = np.asarray(Image.open(path).convert('RGB'))
  row = strip[162:322]
  count = (strip.shape[1] + 2) // 162
  return np.stack([row[4:160:8, i * 162 + 4 : i * 162 + 160 : 8] for i in range(count)])


def test_a_tilde_is_the_home_folder(run, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir('/')
  assert run('--picture=~/a.png', '--to=~/b.png', '--output=~/new') == 0
  assert (tmp_path / 'new/a.png').is_file()


def white(picture):
  y, x = np.nonzero(picture.min(-1) > 128)
  return {(int(a), int(b)) for a, b in zip(x, y, strict=True)}


def test_one_landmark_goes_in_steps_and_the_other_stays(run, tmp_path):
  assert run('--picture=a.png', '--landmarks=0', '--by=6,-3', '--frames=4') == 0
  found = cells(tmp_path / 'manipulations/a.png')
  assert len(found) == 5  # the picture, and what is painted of it at four places
  places = [white(picture) for picture in found[1:]]
  assert places == [{(5 + 2 * i, 6 - i), (12, 9)} for i in range(4)]
  frames = Image.open(tmp_path / 'manipulations/a.gif')
  assert frames.n_frames == 6  # there and back


def test_all_landmarks_go_to_those_of_another_picture_and_beyond(run, tmp_path):
  assert run('--picture=a.png', '--to=b.png', '--frames=3', '--output=out') == 0
  places = [white(picture) for picture in cells(tmp_path / 'out/a.png')[1:]]
  assert places == [{(5, 6), (12, 9)}, {(7, 6), (12, 12)}, {(9, 6), (12, 15)}]
  options = '--landmarks=1', '--factor=1.5', '--frames=2', '--output=out'
  assert run('--picture=a.png', '--to=b.png', *options) == 0
  assert white(cells(tmp_path / 'out/a_2.png')[2]) == {(5, 6), (12, 18)}


def test_nothing_is_overwritten_and_without_a_way_the_numbers_are_shown(run, tmp_path, capsys):
  for _ in range(2):
    assert run('--picture=a.png') == 0
  files = sorted(p.name for p in (tmp_path / 'manipulations').iterdir())
  assert files == ['a.png', 'a_2.png']
  assert 'manipulations/a_2.png' in capsys.readouterr().out
  assert Image.open(tmp_path / 'manipulations/a.png').size == (480, 480)


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    (['--picture=a.png', '--by=1,2', '--to=b.png'], '--by and --to are two ways to go'),
    (['--picture=a.png', '--by=1'], '--by=1.0: expected two numbers, right and down'),
    (['--picture=a.png', '--by=x,1'], '--by=x: expected a number'),
    (['--picture=a.png', '--landmarks=2', '--by=1,1'], '--landmarks=2: expected 0 to 1'),
    (['--picture=a.png', '--landmarks=1.5'], '--landmarks=1.5: expected a whole number'),
    (['--picture=nowhere.png', '--by=1,1'], 'nowhere.png: cannot be opened'),
  ],
)
def test_what_cannot_be_done_is_one_line(run, capsys, options, said):
  assert run(*options) == 2
  error = capsys.readouterr().err
  assert said in error
  assert error.count('\n') == 1


def test_a_picture_must_be_given(run, capsys):
  assert run() == 2
  assert 'manipulate needs --picture=FILE: ' in capsys.readouterr().err


def test_a_method_that_does_not_paint_is_refused(run, capsys, monkeypatch):
  monkeypatch.setattr(models, 'load', lambda workdir, step: of(painted=None))
  assert run('--picture=a.png', '--by=1,1') == 2
  assert 'the method dots does not paint pictures; lmdis does' in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_said(tmp_path, capsys):
  assert main(['x', 'manipulate', str(tmp_path), '--picture=a.png']) == 2
  assert 'holds no run' in capsys.readouterr().err

"""A local page to click landmarks on the pictures that help most, with a fit after each.

DIR is a folder of pictures; only its folder labels changes, and every point is written there before
the page reports it as saved. --model is the folder of a run, or of a landmark model. The page is
at http://localhost:PORT, for this machine only; Ctrl-C ends it, and the same command continues.
--simulate shows no page: an oracle clicks true labels, and the table says what choosing the
pictures was worth.
"""

import contextlib
import pathlib
import socket
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from landmarks_jax.cli import labelled, paths

REQUIRED = ('DIR',)
FOLDER = 'labels'  # in DIR
NEEDED = "the page needs starlette and uvicorn: pip install -e '.[label]'"
PORTS, LAST_PORT = 20, 65535  # how many are tried


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  paths.define('DIR', 'Folder of pictures.', values)
  what = 'Folder of a run or of a landmark model; without, nothing is predicted.'
  paths.define('model', what, values)
  what = 'Names separated by commas, or a text file with one per line; later starts know them.'
  flags.DEFINE_string('landmarks', None, what, flag_values=values)
  what = 'Folder for labels, features and exports; DIR/labels if absent.'
  paths.define('output', what, values)
  what = 'Which part of a picture is seen: pad (all), centre, squash; by default as the model '
  what += 'was fitted, or pad.'
  flags.DEFINE_enum('crop', None, labelled.CROPS, what, flag_values=values)
  what = 'Port of the page; the next free one if it is taken.'
  flags.DEFINE_integer('port', 8377, what, lower_bound=0, upper_bound=LAST_PORT, flag_values=values)
  what = 'No page: measures what choosing pictures is worth, with the labels of DIR.'
  flags.DEFINE_boolean('simulate', False, what, flag_values=values)
  what = 'With --simulate: CSV or COCO JSON file of landmarks, as in data.labels of configs.'
  flags.DEFINE_string('labels', None, what, flag_values=values)
  what = 'With --simulate on youtube_faces_68: 5 or 68 landmarks.'
  flags.DEFINE_integer('points', 5, what, flag_values=values)
  what = 'With --simulate: the numbers of labelled pictures.'
  flags.DEFINE_list('counts', '5,10,20,50', what, flag_values=values)
  what = 'With --simulate: the part of the labelled pictures to score on.'
  flags.DEFINE_string('split', 'test', what, flag_values=values)
  what = 'With --simulate: how often to repeat, each time on a random half of the pictures.'
  flags.DEFINE_integer('draws', 5, what, flag_values=values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  root = values.DIR
  if values.simulate:
    options = {'labels': values.labels, 'points': values.points, 'crop': values.crop or 'pad'}
    options['split'] = values.split
    options |= {'counts': _numbers(values.counts), 'draws': values.draws}
    simulate(root, model=values.model, **options)
    return 0
  if values.labels:
    raise ValueError(f'--labels={values.labels} is for --simulate; the page reads no labels')
  output = values.output or root / FOLDER
  names = _names(values.landmarks)
  label(root, output, names, model=values.model, crop=values.crop, port=values.port)
  return 0


def label(
  root: pathlib.Path,
  output: pathlib.Path,
  landmarks: Sequence[str] | None,
  *,
  model: pathlib.Path | None,
  crop: str | None,
  port: int,
) -> None:
  """Serves the page until Ctrl-C."""
  try:
    import uvicorn  # late: an extra

    from landmarks_jax.labelling import server
  except ModuleNotFoundError as error:
    raise ValueError(f'{error}; {NEEDED}') from error
  from landmarks_jax.labelling.confirmed import ConfirmedLabels
  from landmarks_jax.labelling.journal import Journal
  from landmarks_jax.labelling.picture_files import PictureFiles
  from landmarks_jax.labelling.session import Session

  files, (network, known) = PictureFiles(root), _models(model)
  # The lock of the journal first, then the port; only then are the landmarks written.
  with contextlib.closing(Journal(output)) as journal, _free(port) as listening:
    port = listening.getsockname()[1]
    if journal.torn:
      message = f'{len(journal.torn)} bytes that were never said to be saved are cut off'
      print(f'{journal.path}: {message}: {journal.torn!r:.80}')
    if landmarks is None and known is not None and not journal.entries:
      landmarks = known.names
    labels, learner = ConfirmedLabels(journal, landmarks), None
    if network is not None:
      from landmarks_jax.labelling.learner import FrozenLearner

      known = _same_landmarks(known, labels.landmarks, model)
      crop = _crop(crop, known)
      options = {'crop': crop, 'keep': output / 'features', 'known': known}
      learner = FrozenLearner(network, files, labels.landmarks, **options)
    session = Session(files, labels, learner)
    for name in session.lost:
      print(f'labelled, but no longer in {root}, or changed: {name!a}; its labels are kept')
    for name in labels.added:
      lack = sum(bool(labels.of(picture)) for picture in labels.pictures)
      print(f'labelled pictures that lack the new landmark {name}: {lack}')
    journal.say(f'http://localhost:{port}')
    print(f'{len(files):,} pictures, {session.complete} of them labelled, in {journal.path}')
    print(f'label at http://localhost:{port} (Ctrl-C ends)', flush=True)
    app = server.app(session, port=port, output=output)
    config = uvicorn.Config(app, log_level='error', timeout_graceful_shutdown=2)
    session.start()
    try:
      uvicorn.Server(config).run(sockets=[listening])
    finally:
      session.stop()


def simulate(
  root: pathlib.Path,
  *,
  model: pathlib.Path | None,
  labels: str | None,
  points: int,
  crop: str,
  split: str,
  counts: Sequence[int],
  draws: int,
) -> dict[str, Any]:
  """Prints and returns the errors on held-out pictures, by number of labels."""
  if model is None:
    raise ValueError('--simulate needs --model=RUN, the folder of a run')
  from landmarks_jax.labelling import simulate as simulation  # late: heavy

  network, _ = _models(model)
  given = {'points': points, 'crop': crop, 'split': split, 'frame': network.frame}
  train, test = _labelled(root, labels, **given)
  curves = simulation.simulate(
    network, train, test, counts=counts, draws=draws, report=lambda line: print(line, flush=True)
  )
  print(f'error on {len(test):,} other pictures, % of the normaliser; {draws} draws')
  print(simulation.table(curves))
  return curves


def _labelled(
  root: pathlib.Path, labels: str | None, *, points: int, crop: str, split: str, frame: int
) -> tuple[Any, Any]:
  """Labelled pictures to pick from, and others to score on: the splits, or a random fifth."""
  import numpy as np

  from landmarks_jax.data import folder, youtube_faces_68
  from landmarks_jax.data.catalogue import Chosen  # late: heavy
  from landmarks_jax.evaluation import few_shot

  if labels is None:
    if not youtube_faces_68.is_layout(root):
      raise ValueError(f'--simulate needs true labels of {root}: --labels=FILE')
    sets = (
      youtube_faces_68.source(str(root), split=part, points=points, frame=frame)
      for part in ('train', split)
    )
    return tuple(sets)
  options = {'labels': labels, 'frame': frame, 'crop': crop, 'unlabelled': 'skip'}
  whole = folder.source(str(root), **options)
  parts = {name for entry in whole.catalogue.entries for name in entry.splits}
  if {'train', split} <= parts:
    return tuple(folder.source(str(root), **options, split=part) for part in ('train', split))
  out = few_shot.draw_labels(len(whole), max(1, len(whole) // 5), 0)
  print(
    f'no splits train and test in {labels}: a random fifth, {len(out):,}, is left out to score on'
  )
  rows = np.arange(len(whole))
  return Chosen(whole.catalogue, np.delete(rows, out)), Chosen(whole.catalogue, out)


def _numbers(given: Sequence[str]) -> list[int]:
  try:
    return sorted({int(text) for text in given})
  except ValueError:
    raise ValueError(f'--counts={",".join(given)}: expected whole numbers') from None


def _models(given: pathlib.Path | None) -> tuple[Any, Any]:
  """The network, and the landmark model if the folder holds one; None for what is absent."""
  if given is None:
    return None, None
  from landmarks_jax import api  # late: heavy
  from landmarks_jax.runtime import run_folder

  if not (given / run_folder.LANDMARKS).is_file():
    return api.load(given), None
  known = api.load_landmarks(given)
  return known.model, known


def _same_landmarks(known: Any, landmarks: Sequence[str], model: pathlib.Path | None) -> Any:
  """The landmark model if it finds these landmarks, in any order; else None, saying why."""
  if known is None or set(known.names) == set(landmarks):
    return known
  found, wanted = ', '.join(known.names), ', '.join(landmarks)
  print(f'{model} finds {found}, not {wanted}: its predictions are not used')
  return None


def _crop(given: str | None, known: Any) -> str:
  """What is seen of a picture: what is wanted, else what a landmark model was fitted on."""
  if known is None:
    return given or 'pad'
  crop = given or known.crop
  if difference := known.other_cut(boxes=False, crop=crop):
    advice = '; cut the objects out first, as there are no boxes here' if known.boxes else ''
    print(f'warning: {difference}{advice}', file=sys.stderr)
  return crop


def _names(given: str | None) -> list[str] | None:
  """The landmarks given on the command line, or in the file that it names."""
  if given is None:
    return None
  path = pathlib.Path(given).expanduser()
  try:
    lines = (
      path.read_text(encoding='utf-8-sig').splitlines() if path.is_file() else given.split(',')
    )
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8 text ({error})') from error
  except OSError:  # a list of names that is too long for a path
    lines = given.split(',')
  return [name.strip() for name in lines if name.strip()]


def _free(port: int) -> socket.socket:
  """A socket on the loopback, at the first port from `port` on that is free; 0 takes any."""
  last = min(port + PORTS - 1, LAST_PORT) if port else 0
  for number in range(port, last + 1):
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listening.bind(('127.0.0.1', number))
      listening.listen(64)
      return listening
    except OSError as error:
      listening.close()
      print(f'port {number}: {error}', file=sys.stderr)
  raise ValueError(f'no port from {port} to {last} is free; choose another --port=N')

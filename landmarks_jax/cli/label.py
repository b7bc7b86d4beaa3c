"""A local page to click landmarks on the pictures that help most, with a fit after each.

DIR is a folder of pictures; nothing in it changes but its folder labels, where every point is
written before the page says that it is saved. --model=M is the folder of a run, or of a landmark
model. The page is at http://localhost:PORT, for this machine only; Ctrl-C ends it, the same command
goes on where it was. --simulate shows no page: an oracle clicks true labels, and the table says
what choosing the pictures was worth.
"""

import contextlib
import pathlib
import socket
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

POSITIONAL = 'DIR'
FOLDER = 'labels'  # in DIR
NEEDED = "the page needs starlette and uvicorn: pip install 'landmarks_jax[label]'"
PORTS = 20  # so many are tried


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  flags.DEFINE_string('DIR', None, 'Folder of pictures.', flag_values=values)
  what = 'Folder of a run or of a landmark model; without, nothing is predicted.'
  flags.DEFINE_string('model', None, what, flag_values=values)
  what = 'Names with commas between, or a text file with one a line; later starts know them.'
  flags.DEFINE_string('landmarks', None, what, flag_values=values)
  what = 'Folder for labels, features and exports; DIR/labels if absent.'
  flags.DEFINE_string('output', None, what, flag_values=values)
  what = 'What the network sees of a picture: pad (all of it), centre or squash.'
  flags.DEFINE_string('crop', 'pad', what, flag_values=values)
  flags.DEFINE_integer('port', 8377, 'Of the page; the next free one.', flag_values=values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  root = pathlib.Path(values.DIR).expanduser()
  output = pathlib.Path(values.output).expanduser() if values.output else root / FOLDER
  names = _names(values.landmarks)
  label(root, output, names, model=values.model, crop=values.crop, port=values.port)
  return 0


def label(
  root: pathlib.Path,
  output: pathlib.Path,
  landmarks: Sequence[str] | None,
  *,
  model: str | None,
  crop: str,
  port: int,
) -> None:
  """Serves the page until Ctrl-C."""
  try:
    import uvicorn  # late: an extra

    from landmarks_jax.labelling import server
  except ModuleNotFoundError as error:
    raise ValueError(f'{error}; {NEEDED}') from error
  from landmarks_jax.data import folder
  from landmarks_jax.labelling.confirmed import Labels
  from landmarks_jax.labelling.journal import Journal
  from landmarks_jax.labelling.picture_files import PictureFiles
  from landmarks_jax.labelling.session import Session

  if crop not in folder.crops:
    raise ValueError(f'{crop=}; expected one of {", ".join(folder.crops)}')
  files = PictureFiles(root)
  with contextlib.closing(Journal(output)) as journal:
    if journal.torn:
      told = f'{len(journal.torn)} bytes that were never said to be saved are cut off'
      print(f'{journal.path}: {told}: {journal.torn!r:.80}')
    labels = Labels(journal, landmarks)
    learner = None if model is None else _learner(model, files, labels.landmarks, crop, output)
    session = Session(files, labels, learner)
    for name in session.lost:
      print(f'labelled, but no longer in {root}: {name!a}; its labels are kept')
    with _free(port) as listening:
      port = listening.getsockname()[1]
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


def _learner(
  model: str, files: Any, landmarks: Sequence[str], crop: str, output: pathlib.Path
) -> Any:
  from landmarks_jax import api  # late: heavy
  from landmarks_jax.labelling.learner import FrozenLearner

  return FrozenLearner(api.load(model), files, landmarks, crop=crop, keep=output / 'features')


def _names(given: str | None) -> list[str] | None:
  """The landmarks of the command line, from a file if it is one."""
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
  for number in range(port, port + (PORTS if port else 1)):
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listening.bind(('127.0.0.1', number))
      listening.listen(64)
      return listening
    except (OSError, OverflowError) as error:
      listening.close()
      print(f'port {number}: {error}', file=sys.stderr)
  raise ValueError(f'no port from {port} to {port + PORTS - 1} is free; choose another --port=N')

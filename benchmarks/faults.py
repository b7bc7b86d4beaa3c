"""Kills, signals and damages tiny training runs, resumes them, and compares results bit for bit.

Every run is the command `train` in a forked process, so that libraries are imported once, with a
one-matrix method planted here, so that little is compiled: what is tested is how runs are saved,
not what they learn. After a fault the same command is run again: it must resume from the newest
complete step, and end with the metrics and weights of an undisturbed run. The output of each fault
is shown. Mounts need root: without it a limit on file size stands in for the full disk, and the
read-only workdir is skipped.

python benchmarks/faults.py --kills 5 --signals 2
"""

import argparse
import collections
import contextlib
import hashlib
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from landmarks_jax.cli import completion, provenance, running  # noqa: F401 (imported before forks)
from landmarks_jax.cli.main import main as command
from landmarks_jax.contracts import Method
from landmarks_jax.runtime import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[1]
SAVED = 75  # the exit code of a run that a signal stopped and that saved
LIMIT = 600  # seconds that one run may take


PAGE = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict(dict(
    data=dict(name='synthetic/faces', frame=16, count=16),
    method=dict(name='matrix'),
    optimizer=dict(name='adam', learning_rate=.05),
    batch_size=8,
    log_every=1,
    checkpoint_every=1,
  ))
"""


def build(*, mean, std, constrain=lambda x: x) -> Method:  # noqa: ANN001
  """Maps small pictures by one matrix to a noise target; `seen` is kept beside the weights."""

  def init(rng, batch):  # noqa: ANN001, ANN202
    return {'w': jax.random.normal(rng, (16, 64))}, {'seen': jnp.zeros(64)}

  def loss(params, aux, batch, rng, step):  # noqa: ANN001, ANN202
    x = (jnp.asarray(batch.image, float) / 255 - jnp.asarray(mean)) / jnp.asarray(std)
    y = x.reshape(len(x), 16, 16, 3).mean((2, 3)) @ params['w']
    value = ((y - jax.random.normal(rng, y.shape)) ** 2).mean()
    return value, ({'seen': aux['seen'] + y.mean(0)}, {})

  return Method(init, loss, lambda *_: ())


def plant() -> None:
  """Makes `method=dict(name='matrix')` known."""
  real = completion.find

  def find(folder: str, name: str, *, section: str = 'name') -> Any:
    planted = (folder, name) == ('methods', 'matrix')
    return types.SimpleNamespace(build=build) if planted else real(folder, name, section=section)

  completion.find = find


class Outcome(NamedTuple):
  """One row of the table. lost: attempts that did not resume from the newest complete step."""

  fault: str
  count: int
  codes: tuple[int, ...]
  lost: int
  equal: bool
  told: tuple[str, ...] = ()
  note: str = ''


class Trial:
  """A workdir, and the command that trains in it."""

  def __init__(self, folder: pathlib.Path, *changes: str) -> None:
    self.workdir, self.log = folder / 'run', folder / 'log'
    folder.mkdir(parents=True, exist_ok=True)
    self.argv = [
      'train',
      f'--config={folder.parent}/page.py',
      f'--workdir={self.workdir}',
      *changes,
    ]
    self.lost, self.codes = 0, []

  def start(self, *more: str, before: Callable[[], None] = lambda: None) -> int:
    """Starts an attempt in its own process; returns the process id."""
    expected = self.newest()

    def attempt() -> int:
      before()
      return command(['faults', *self.argv, *more])

    self.expected, self.pid = expected, fork(attempt, self.log)
    return self.pid

  def end(self, seconds: float = LIMIT) -> int:
    """Waits for the attempt; returns its exit code, negative for a signal."""
    self.codes.append(wait(self.pid, seconds))
    begun = re.findall(r'resuming .* from step (\d+)', self.text)
    if 'compiling the step' in self.text and not begun:
      begun = ['0']
    self.lost += any(int(step) != self.expected for step in begun)
    return self.codes[-1]

  @property
  def text(self) -> str:
    """What the attempt has printed so far."""
    return self.log.read_text()

  def newest(self) -> int:
    """The newest complete step; 0 if there is none."""
    names = (path.name for path in (self.workdir / 'checkpoints').glob('*'))
    return max((int(name) for name in names if name.isdigit()), default=0)

  def until(self, condition: Callable[[], bool]) -> bool:
    """Waits until the condition holds; returns False if the attempt ends first."""
    while not condition():
      if not alive(self.pid):
        return False
      time.sleep(0.001)
    return True

  def told(self) -> tuple[str, ...]:
    """The attempt's output lines that are warnings, errors or about saving and resuming."""
    words = ('warning:', 'error:', 'interrupted', 'Traceback', 'resuming', 'saved', 'stopped')
    lines = (line.strip() for line in self.text.splitlines())
    return tuple(line for line in lines if any(word in line for word in words))


def fork(work: Callable[[], int], log: pathlib.Path) -> int:
  """Runs `work` in a child that prints into `log` and exits with the returned code."""
  sys.stdout.flush()
  pid = os.fork()
  if pid:
    return pid
  code = 1
  try:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, 'w', buffering=1)
    sys.stderr = os.fdopen(2, 'w', buffering=1)
    code = work()
  except BaseException:
    import traceback

    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(code)


def alive(pid: int) -> bool:
  """Whether a child is still running; does not reap it."""
  return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait(pid: int, seconds: float) -> int:
  """Waits for a child's exit code; after `seconds` kills it, which gives -9."""
  deadline = time.monotonic() + seconds
  while alive(pid) and time.monotonic() < deadline:
    time.sleep(0.01)
  if alive(pid):
    os.kill(pid, signal.SIGKILL)
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def digest(workdir: pathlib.Path) -> str:
  """A checksum of a run's metrics and its last state."""
  total = hashlib.sha256((workdir / 'metrics.jsonl').read_bytes())
  parts = ('step', 'params', 'aux', 'opt')
  for leaf in jax.tree.leaves(checkpoint.read_variables(workdir / 'checkpoints', parts)):
    total.update(np.ascontiguousarray(leaf).tobytes())
  return total.hexdigest()


class Lab:
  """Creates trials in a folder, and knows what they must end with."""

  def __init__(self, folder: pathlib.Path, options: argparse.Namespace) -> None:
    self.folder, self.options, self.count = folder, options, 0
    self.random = random.Random(options.seed)
    (folder / 'page.py').write_text(PAGE)
    self.changes = (f'--config.steps={options.steps}',)
    self.known: dict[tuple[str, ...], tuple[str, float]] = {}

  def trial(self, *more: str) -> Trial:
    """A run that has not started."""
    self.count += 1
    return Trial(self.folder / f'{self.count:03d}', *self.changes, *more)

  def digest(self, workdir: pathlib.Path) -> str:
    """`digest` in a separate process, as this one could not fork any more after it."""
    out = self.folder / 'digest'
    code = wait(fork(lambda: print(digest(workdir)) or 0, out), LIMIT)
    return out.read_text().split()[-1] if code == 0 else f'unreadable: {out.read_text()}'

  def undisturbed(self, *more: str) -> tuple[str, float]:
    """The digest of an undisturbed run with these changes, and its duration in seconds."""
    if more not in self.known:
      trial = self.trial(*more)
      for _ in range(1 + (not more)):  # the first one fills the cache of compiled code
        shutil.rmtree(trial.workdir, ignore_errors=True)
        began = time.monotonic()
        trial.start()
        if trial.end() != 0:
          raise SystemExit(f'an undisturbed run failed:\n{trial.text}')
      self.known[more] = self.digest(trial.workdir), time.monotonic() - began
    return self.known[more]

  def finish(
    self, fault: str, trial: Trial, *more: str, told: Sequence[str] = (), **fields: Any
  ) -> Outcome:
    """Lets the command resume and finish, and compares the result."""
    faults = tuple(trial.codes)
    trial.start()
    end = trial.end()
    equal = end == 0 and self.digest(trial.workdir) == self.undisturbed(*more)[0]
    told = tuple(told) + trial.told() + (() if end == 0 else (trial.text[-2000:],))
    fields = {'count': len(faults), 'codes': faults} | fields
    return Outcome(fault, lost=trial.lost, equal=equal, told=tuple(dict.fromkeys(told)), **fields)


def repeatedly(lab: Lab, number: int, sent: signal.Signals) -> Outcome:
  """Sends a signal at random moments, `number` times; when a run ends, another is started."""
  _, seconds = lab.undisturbed()
  trial, runs, equal, lost, codes, told, slowest = lab.trial(), 1, True, 0, [], {}, 0.0
  while len(codes) < number:
    trial.start()
    began = time.monotonic()
    moment = began + lab.random.uniform(0, seconds)
    if trial.until(lambda moment=moment: time.monotonic() > moment):
      os.kill(trial.pid, sent)
      began = time.monotonic()
      codes.append(trial.end())
      slowest = max(slowest, time.monotonic() - began)
      told |= dict.fromkeys(re.sub(r'\d+', 'N', line) for line in trial.told())
    elif trial.end() == 0:
      seconds = min(seconds, time.monotonic() - began)  # the machine may be less busy by now
      equal &= lab.digest(trial.workdir) == lab.undisturbed()[0]
      lost += trial.lost
      trial, runs = lab.trial(), runs + 1
    else:
      raise SystemExit(f'an attempt failed:\n{trial.text}')
  trial.codes.clear()
  last = lab.finish(sent.name, trial)
  note = f'in {runs} run{"s" * (runs > 1)}, at random moments of {seconds:.0f} s'
  note += f'; ended within {slowest:.1f} s' if sent == signal.SIGTERM else ''
  return last._replace(
    count=number,
    codes=tuple(codes),
    lost=lost + last.lost,
    equal=equal and last.equal,
    told=tuple(told) if sent == signal.SIGTERM else (),
    note=note,
  )


def kill(lab: Lab) -> Outcome:
  """`kill -9` at random moments."""
  return repeatedly(lab, lab.options.kills, signal.SIGKILL)


def terminate(lab: Lab) -> Outcome:
  """SIGTERM at random moments: the run saves, and its exit code says so."""
  return repeatedly(lab, lab.options.signals, signal.SIGTERM)


def kill_while_writing(lab: Lab) -> Outcome:
  """`kill -9` while a step is being written: its folder still has a temporary name."""
  trial, caught = lab.trial(), 0
  folder = trial.workdir / 'checkpoints'
  for _ in range(lab.options.writes):
    trial.start()
    step = trial.expected + 1
    trial.until(lambda step=step: bool(list(folder.glob(f'{step}.orbax-checkpoint-tmp*'))))
    time.sleep(lab.random.uniform(0, 0.02))
    if alive(trial.pid):
      os.kill(trial.pid, signal.SIGKILL)
    trial.end()
    caught += bool(list(folder.glob('*.orbax-checkpoint-tmp*')))
  return lab.finish(
    'kill -9 inside a checkpoint write', trial, note=f'{caught} left a draft behind'
  )


def damage(lab: Lab, name: str, change: Callable[[pathlib.Path], None]) -> Outcome:
  """Changes the largest file of the newest step while no training runs."""
  trial = stopped(lab)
  newest = trial.workdir / 'checkpoints' / str(trial.newest())
  change(max((p for p in newest.rglob('*') if p.is_file()), key=lambda path: path.stat().st_size))
  trial.lost -= 1  # it must resume from one step earlier
  return lab.finish(name, trial, count=1, codes=())


def stopped(lab: Lab, *more: str, before: Callable[[], None] = lambda: None) -> Trial:
  """A run that was killed after some steps."""
  trial = lab.trial(*more)
  trial.start(before=before)
  trial.until(lambda: trial.newest() >= lab.options.steps // 2)
  os.kill(trial.pid, signal.SIGKILL)
  trial.end()
  return trial


def truncate(lab: Lab) -> Outcome:
  """Cuts off half of a file of the newest step."""
  change = lambda path: os.truncate(path, path.stat().st_size // 2)  # noqa: E731
  return damage(lab, 'newest checkpoint truncated', change)


def flip(lab: Lab) -> Outcome:
  """Flips one bit of the newest step."""

  def change(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[lab.random.randrange(len(content))] ^= 1 << lab.random.randrange(8)
    path.write_bytes(content)

  return damage(lab, 'newest checkpoint with one bit flipped', change)


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *options: str) -> Iterator[bool]:
  """A temporary mount; yields False if the system refuses it."""
  done = subprocess.run(['mount', *options, str(folder)], check=False, capture_output=True)
  try:
    yield done.returncode == 0
  finally:
    if done.returncode == 0:
      subprocess.run(['umount', '--lazy', str(folder)], check=False)


def full_disk(lab: Lab) -> Outcome:
  """Fills the disk of the workdir, so that no step can be written any more."""
  trial = stopped(lab)
  aside, name = trial.workdir.with_name('aside'), 'full disk during save (tmpfs)'
  trial.workdir.rename(aside)
  trial.workdir.mkdir()
  with mounted(trial.workdir, '--types=tmpfs', 'tmpfs') as possible:
    if possible:
      shutil.copytree(aside, trial.workdir, dirs_exist_ok=True)
      disk = os.statvfs(trial.workdir)
      used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
      resize(trial.workdir, used + 40_000)  # less than a step
      trial.start()
    else:
      trial.workdir.rmdir()
      aside.rename(trial.workdir)
      trial.start(before=small_files)
      name = 'full disk during save (RLIMIT_FSIZE)'
    code, told = trial.end(), trial.told()
    if possible:
      resize(trial.workdir, 1 << 30)
    ended = lab.finish(name, trial, told=told, count=1, codes=(code,))
    return ended._replace(equal=ended.equal and code == 2)


def resize(folder: pathlib.Path, size: int) -> None:
  """Resizes a tmpfs to `size` bytes."""
  subprocess.run(['mount', f'--options=remount,size={size}', str(folder)], check=True)


def small_files() -> None:
  """Limits the size of files that this process writes from now on."""
  import resource

  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def read_only(lab: Lab) -> Outcome:
  """Makes the workdir read-only."""
  trial, name = stopped(lab), 'read-only workdir'
  with mounted(trial.workdir, '--bind', str(trial.workdir)) as possible:
    if not possible:
      return Outcome(name, 0, (), 0, True, note='skipped: no mounts here')
    subprocess.run(['mount', '--options=remount,ro,bind', str(trial.workdir)], check=True)
    trial.start()
    code, told = trial.end(), trial.told()
  ended = lab.finish(name, trial, told=told, count=1, codes=(code,))
  return ended._replace(equal=ended.equal and code == 2)


def vanishing_data(lab: Lab) -> Outcome:
  """Removes the folder of pictures while they are being read, then restores it."""
  from PIL import Image

  from landmarks_jax.data.synthetic import faces

  folder, source = lab.folder / 'pictures', faces.source(frame=16, count=24)
  folder.mkdir(exist_ok=True)
  for i in range(len(source)):
    Image.fromarray(source[i]['image']).save(folder / f'{i:02d}.png')
  data = f'--config.data={{"name": "folder", "path": "{folder}", "frame": 16}}'
  more = data, '--config.cache=stream'
  lab.undisturbed(*more)
  trial = lab.trial(*more)
  trial.start()
  trial.until(lambda: trial.newest() >= 2)
  folder.rename(lab.folder / 'away')
  first, told = trial.end(), trial.told()
  trial.start()
  second = trial.end()
  told += trial.told()
  (lab.folder / 'away').rename(folder)
  name = 'data folder vanishes'
  return lab.finish(name, trial, *more, told=told, count=2, codes=(first, second))


def clock_back(lab: Lab) -> Outcome:
  """Sets the clock back by a day during a run, kills it, and resumes a year in the past."""
  name = 'clock goes back'
  library = next(pathlib.Path('/usr/lib').rglob('libfaketime.so.1'), None)
  if library is None:
    return Outcome(name, 0, (), 0, True, note="skipped: no faketime; Debian's package has it")
  trial, clock = lab.trial(), lab.folder / 'clock'
  env = {
    'LD_PRELOAD': str(library),
    'FAKETIME_TIMESTAMP_FILE': str(clock),
    'FAKETIME_NO_CACHE': '1',
  }
  env |= {'FAKETIME_DONT_FAKE_MONOTONIC': '1', 'PYTHONPATH': str(ROOT)}

  def attempt() -> int:  # the library must be loaded from the first instruction on
    arguments = [sys.executable, __file__, 'attempt', *trial.argv]
    return os.execve(sys.executable, arguments, os.environ | env)

  def begin() -> None:
    trial.expected, trial.pid = trial.newest(), fork(attempt, trial.log)

  clock.write_text('+0d')
  begin()
  trial.until(lambda: trial.newest() >= 2)
  clock.write_text('-1d')
  trial.until(lambda: trial.newest() >= 4)
  os.kill(trial.pid, signal.SIGKILL)
  codes = [trial.end()]
  clock.write_text('-365d')
  begin()
  codes.append(trial.end())
  return lab.finish(name, trial, told=trial.told(), count=2, codes=tuple(codes))


def one_of_two(lab: Lab) -> Outcome:
  """Kills one of two processes that train together, then restarts both."""
  two = [lab.trial(), lab.trial()]
  two[1].argv = two[0].argv

  def start() -> None:
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    for i, trial in enumerate(two):
      trial.start(f'--coordinator=127.0.0.1:{port}', '--processes=2', f'--process={i}')

  def together() -> str:
    start()
    codes = [trial.end() for trial in two]
    return lab.digest(two[0].workdir) if codes == [0, 0] else two[0].text + two[1].text

  expected = together()
  shutil.rmtree(two[0].workdir)
  start()
  two[0].until(lambda: two[0].newest() >= 2)
  began = time.monotonic()
  os.kill(two[1].pid, signal.SIGKILL)
  codes = two[1].end(), two[0].end()
  seconds, told = time.monotonic() - began, two[0].told()
  ended = together()
  told += two[0].told() + (() if ended == expected else (ended[-2000:],))
  note = f'the other ended after {seconds:.0f} s'
  lost = two[0].lost
  return Outcome('one of two processes killed', 1, codes, lost, ended == expected, told, note)


FAULTS = {
  'kill': kill,
  'terminate': terminate,
  'write': kill_while_writing,
  'two': one_of_two,
  'truncate': truncate,
  'flip': flip,
  'full': full_disk,
  'read_only': read_only,
  'data': vanishing_data,
  'clock': clock_back,
}


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints a table of faults and their output; returns 1 if one was not survived."""
  plant()
  if (arguments or sys.argv[1:])[:1] == ['attempt']:
    return command(sys.argv[1:])
  formatter = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
  parser.add_argument('--kills', type=int, default=50, help='kill -9 at random moments')
  parser.add_argument('--signals', type=int, default=20, help='SIGTERM at random moments')
  parser.add_argument('--writes', type=int, default=10, help='kill -9 inside a checkpoint write')
  parser.add_argument('--steps', type=int, default=16, help='of every run')
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  parser.add_argument('--only', nargs='*', choices=FAULTS, default=list(FAULTS))
  options = parser.parse_args(arguments)
  given = sys.argv[1:] if arguments is None else arguments
  print(f'`{shlex.join(["python", "benchmarks/faults.py", *given])}`\n')
  print('- versions: ' + ', '.join(f'{k} {v}' for k, v in provenance.versions().items()))
  print(f'- host: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n', flush=True)
  with tempfile.TemporaryDirectory() as folder:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{folder}/cache'
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    lab, outcomes = Lab(pathlib.Path(folder), options), []
    for name in options.only:
      outcomes.append(FAULTS[name](lab))
      print(f'{outcomes[-1]}\n', file=sys.stderr, flush=True)
  print('| fault | times | exit codes | lost more than the last save | same end | |')
  print('|---|---|---|---|---|---|')
  for one in outcomes:
    counts = collections.Counter(one.codes)
    codes = ', '.join(f'{code} x {count}' for code, count in counts.items()) or '-'
    equal = 'yes' if one.equal else '**no**'
    print(f'| {one.fault} | {one.count} | {codes} | {one.lost} | {equal} | {one.note} |')
  for one in outcomes:
    lines = ''.join(f'    {line}\n' for line in one.told)
    print(f'\n{one.fault}:\n\n{lines.replace(folder, "DIR")}' if lines else '', end='')
  return int(any(one.lost or not one.equal for one in outcomes))


if __name__ == '__main__':
  sys.exit(main())

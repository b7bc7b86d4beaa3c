"""Output of a run: lines on the screen, lines of JSON, TensorBoard, pictures."""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from landmarks_jax.runtime import atomic, reading, run_folder

INTERVAL = 5.0  # seconds between two lines of a Tally


class Logs:
  """Writes numbers and pictures under `workdir`; silent on processes that are not the main one.

  A resumed run's `metrics.jsonl` equals that of an uninterrupted one, so keep times out of
  `values`: they belong in `line`.
  """

  def __init__(self, workdir: str | os.PathLike, *, is_main: bool = True) -> None:
    self._workdir = pathlib.Path(workdir)
    self._is_main = is_main
    self._tensorboard: Any = None  # opened at the first write
    self._purge_step: int | None = None
    if is_main:
      self._workdir.mkdir(parents=True, exist_ok=True)

  def write(
    self, step: int, values: Mapping[str, SupportsFloat], *, line: str | None = None
  ) -> None:
    """Writes numbers with names such as 'train/loss'; prints `line`, or else the numbers.

    Non-finite numbers become the strings 'nan', 'inf' and '-inf' in the file: JSON has none.
    """
    if not self._is_main:
      return
    numbers = {name: float(value) for name, value in values.items()}
    shown = (f'{name} {number:.4g}' for name, number in numbers.items())
    print(line or '  '.join([f'step {step}', *shown]), flush=True)
    safe = {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
    with open(self._workdir / run_folder.LOG, 'a', encoding='utf-8') as file:
      file.write(json.dumps({'step': step} | safe, allow_nan=False) + '\n')
    for name, number in numbers.items():
      self._writer().add_scalar(name, number, step)
    self._writer().flush()

  def write_picture(self, name: str, step: int, image: UInt8[np.ndarray, 'H W 3']) -> None:
    """Writes pictures/<name>_<step>.png and shows it in TensorBoard; `name` may contain slashes."""
    if not self._is_main:
      return
    folder = (self._workdir / run_folder.PICTURES).resolve()
    path = (folder / f'{name}_{step:08d}.png').resolve()
    if not path.is_relative_to(folder):
      raise ValueError(f'picture {name!r} would be written outside {folder}; give a relative name')
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    self._writer().add_image(name, image, step, dataformats='HWC')
    self._writer().flush()

  def truncate(self, step: int) -> None:
    """Removes what was written after a restored `step` (-1: all); call it before any write."""
    path = self._workdir / run_folder.LOG
    self._purge_step = step + 1
    if not self._is_main or not path.exists():
      return
    kept = [json.dumps(row) for row in read(path) if row['step'] <= step]
    atomic.write_text(path, ''.join(f'{line}\n' for line in kept))

  def close(self) -> None:
    """Ends the TensorBoard file."""
    if self._tensorboard is not None:
      self._tensorboard.close()

  def _writer(self) -> Any:
    if self._tensorboard is None:
      import tensorboardX  # late: heavy

      self._tensorboard = tensorboardX.SummaryWriter(
        str(self._workdir / run_folder.TENSORBOARD), purge_step=self._purge_step
      )
    return self._tensorboard


class Progress:
  """How fast a run goes, as a line: pictures per second, time left, memory.

  The rate is that of the steps since the last `mark` or `line`: call `mark` after the first
  (compiling) step and after anything else that takes time, such as an evaluation.
  """

  def __init__(
    self,
    *,
    steps: int,
    images_per_step: int,
    step: int = 0,
    memory: Callable[[], int] | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    self._steps, self._images_per_step = steps, images_per_step
    self._memory, self._clock = memory or peak_memory, clock
    self.mark(step)

  def mark(self, step: int) -> None:
    """Starts measuring at this step."""
    self._since, self._began = step, self._clock()

  def line(self, step: int, values: Mapping[str, SupportsFloat] | None = None) -> str:
    """A line such as: step 1200/5000  loss 3.41  812 pictures/s  ETA 4 min 10 s  memory 1.25 GB."""
    parts = [f'step {step}/{self._steps}']
    parts += [f'{name} {float(value):.4g}' for name, value in (values or {}).items()]
    seconds, done = self._clock() - self._began, step - self._since
    if seconds > 0 and done > 0:
      parts.append(f'{done * self._images_per_step / seconds:.4g} pictures/s')
      parts.append(f'ETA {duration((self._steps - step) * seconds / done)}')
    parts.append(f'memory {amount(self._memory())}')
    self.mark(step)
    return '  '.join(parts)


def peak_memory() -> int:
  """Peak bytes that this process has used of the host."""
  import resource  # late: Windows has none

  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Tally:
  """Prints how many of `total` pictures are done, every INTERVAL seconds, and the last of several.

  file: where to; None: standard output. what: the name of what is counted.
  """

  def __init__(self, total: int, *, file: Any = None, what: str = 'pictures') -> None:
    self._total, self._file, self._what = total, file, what
    self._began = self._told = time.monotonic()

  def __call__(self, done: int) -> None:
    """Takes note that this many are done."""
    now = time.monotonic()
    if now - self._told > INTERVAL or (done == self._total and self._told > self._began):
      line = pictures_done(done, self._total, done, now - self._began, what=self._what)
      print(line, file=self._file, flush=True)
      self._told = now


def watched() -> bool:
  """Whether standard error is a terminal; a daemon has none."""
  return sys.stderr is not None and sys.stderr.isatty()


def pictures_done(
  done: int, total: int, made: int, seconds: float, *, what: str = 'pictures'
) -> str:
  """Progress through pictures, the rate and the time left; `made` of `done` took `seconds`.

  what: the name of what is counted.
  """
  rate = made / max(seconds, 1e-9)
  left = f', {duration((total - done) / rate)} left' if made and done < total else ''
  return f'{done:,} of {total:,} {what}, {_per_second(rate)}{left}'


def _per_second(rate: float) -> str:
  """A rate as a whole number, or with one digit where that would be 0 or 1."""
  return f'{rate:,.0f} a second' if rate >= 2 else f'{rate:.1g} a second'


def amount(count: int) -> str:
  """Bytes in readable form, such as '1.52 GB' or '0.25 MB'."""
  return f'{count / 1e9:.2f} GB' if count >= 1e9 else f'{count / 1e6:.3g} MB'


def duration(seconds: float | int) -> str:
  """A time for people, in its two largest units.

  >>> duration(0.4), duration(59.7), duration(250), duration(7500), duration(100 * 3600)
  ('0 s', '1 min 0 s', '4 min 10 s', '2 h 5 min', '4 d 4 h')
  """
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  days, hour = divmod(hours, 24)
  units = [(days, 'd'), (hour, 'h'), (minute, 'min'), (second, 's')]
  first = next((i for i, (count, _) in enumerate(units) if count), 3)
  return ' '.join(f'{count} {unit}' for count, unit in units[first : first + 2])


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a run's metrics.jsonl, without a last one whose writer died.

  Raises ValueError for a damaged line before the last.
  """
  rows, lines = [], path.read_bytes().splitlines()
  for number, line in enumerate(lines, start=1):
    where = f'{path}, line {number}'
    try:
      row = reading.parse_json(line, where)
      reading.check_kinds(row, {'step': int}, where)
      _check_numbers(row, where)
    except ValueError as error:
      if number == len(lines):
        break
      raise ValueError(
        f'{error}; delete that line: it holds numbers for the report, and no weights are lost'
      ) from error
    rows.append(row)
  return rows


def _check_numbers(row: Mapping[str, Any], where: str) -> None:
  for name, value in row.items():
    try:
      float(value)  # 'nan' is written as a string
    except (TypeError, ValueError, OverflowError) as error:
      raise ValueError(f'{where} is damaged: {name} is {value!r:.60}') from error

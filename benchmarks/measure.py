"""Times several ways to do one thing in turn, and prints tables with ratios to a baseline.

Every repetition runs every way, so that other load on the machine affects all of them, and ratios
are taken within a repetition. A figure is a median, with the lowest and the highest value.
"""

import argparse
import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

Seconds = Float[np.ndarray, ' repetitions']


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
  pass


def parser(text: str) -> argparse.ArgumentParser:
  """A parser that shows a script's docstring and every default, with --repetitions."""
  made = argparse.ArgumentParser(description=text, formatter_class=_Formatter)
  made.add_argument('--repetitions', type=int, default=5, help='of everything, in turn')
  return made


def parse(
  script: str,
  parser: argparse.ArgumentParser,
  arguments: Sequence[str] | None,
  *,
  packages: Sequence[str],
) -> argparse.Namespace:
  """Parses the options; prints the command, all options, the device, the load and versions."""
  options = parser.parse_args(arguments)
  name = pathlib.Path(script).name
  called = ['-m', 'benchmarks'] if name == '__main__.py' else [f'benchmarks/{name}']
  command = ['python', *called, *(arguments or sys.argv[1:])]
  device = jax.devices()[0]
  versions = [f'Python {platform.python_version()}', *map(_version, packages)]
  print(f'`{shlex.join(command)}`\n')
  print('- options: ' + ', '.join(f'{name}={value}' for name, value in vars(options).items()))
  print(f'- device: {device.device_kind} ({device.platform}), one of {jax.device_count()}')
  print(
    f'- host: {_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start'
  )
  print(f'- versions: {", ".join(versions)}')
  return options


def in_turn(ways: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, Seconds]:
  """Seconds that every way takes, including waiting for its result.

  Each way runs twice per repetition and the second run counts: the first one compiles, and recovers
  caches and threads from the way before it.
  """
  seconds = {name: np.zeros(repetitions) for name in ways}
  for repetition in range(repetitions):
    for name in np.roll(list(ways), -repetition):  # start with another way each time
      jax.block_until_ready(ways[name]())
      began = time.perf_counter()
      jax.block_until_ready(ways[name]())
      seconds[name][repetition] = time.perf_counter() - began
  return seconds


def repeated(step: Callable[[], Any], steps: int) -> Callable[[], float]:
  """A function that takes some steps in a row and waits for the last one's loss."""

  def run() -> float:
    for _ in range(steps):
      loss = step()
    return float(loss)

  return run


def number(value: float) -> str:
  """A number with three significant digits."""
  return f'{float(f"{value:.3g}"):,.10g}'


def figure(values: Float[np.ndarray, ' n'], form: Callable[[float], str] = number) -> str:
  """Median (lowest to highest)."""
  low, middle, high = (form(float(of(values))) for of in (np.min, np.median, np.max))
  return f'{middle} ({low} to {high})'


def speed_up(seconds: Seconds, baseline: Seconds | None) -> str:
  """How many times faster than the baseline; 1 for the baseline itself."""
  if baseline is None:
    return '-'
  return '1' if seconds is baseline else figure(baseline / seconds)


def print_table(
  title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
  """Prints a Markdown table under its title and a text that explains it."""
  lines = [header, *rows]
  widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
  lines.insert(1, ['-' * width for width in widths])
  print(f'\n## {title}\n\n{text}\n')
  for line in lines:
    cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
    print('| ' + ' | '.join(cells) + ' |')


def _version(package: str) -> str:
  try:
    return f'{package} {importlib.metadata.version(package)}'
  except importlib.metadata.PackageNotFoundError:
    return f'no {package}'


def _processor() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    return next(line.split(': ')[1] for line in lines if line.startswith('model name'))
  except (OSError, StopIteration):
    return platform.processor() or platform.machine()

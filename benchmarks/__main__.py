"""Measures everything that users wait for in one run: python -m benchmarks.

Steps of every method, random views, reading, files to gradients, the probe, matching, dense
correlation, start-up and checkpoints, compared with what the machine could do at that time and with
baselines: PyTorch if installed, Pillow, explicit hypercolumns, the matrix of all pairs. All cases
take about half an hour on two CPU cores; name the ones you want.

python -m benchmarks step_moco matching --json after.json
python -m benchmarks --compare before.json after.json

The comparison exits with 1 if a compiled program computes or moves more than before. On an
accelerator:

python -m benchmarks pytorch files --precision bfloat16 --depth 50 --batch_size 256 --matrix 8192
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # PyTorch needs memory beside JAX

# When run as a module, this folder is not on the path.
sys.path.append(str(pathlib.Path(__file__).parent))

import jax
import measure
import suite
from cases import CASES

SMOKE = {'repetitions': 1, 'depth': 18, 'width': 0.0625, 'frame': 40, 'margin': 4, 'queue': 8}
SMOKE |= {'batch_size': 4, 'steps': 1, 'matrix': 32, 'megabytes': 1, 'pictures': 8}
PACKAGES = 'jax', 'jaxlib', 'flax', 'numpy', 'pillow', 'torch'


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints a table for each case and writes the figures to --json; returns the exit code."""
  made = parser(list(CASES))
  given = made.parse_args(arguments)
  if unknown := sorted(set(given.cases) - set(CASES)):
    made.error(f'no case {", ".join(unknown)}; there are: {", ".join(CASES)}')
  if given.compare:
    return compared(*given.compare)
  if given.smoke:
    made.set_defaults(**SMOKE)
  options = measure.parse(__file__, made, arguments, packages=PACKAGES)
  tops = suite.ceilings(
    matrix=options.matrix, megabytes=options.megabytes, precision=options.precision
  )
  record = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__}
  record |= {'options': {**vars(options), 'json': None}, 'cases': {}}
  for name in options.cases or CASES:
    print(f'measuring {name}', file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
      found = suite.measured(CASES[name](options, stack), tops, options.repetitions)
    suite.table(name, found)
    sys.stdout.flush()
    record['cases'][name] = found
    if options.json:
      options.json.write_text(json.dumps(record, indent=1) + '\n')
  return 0


def parser(cases: Sequence[str]) -> argparse.ArgumentParser:
  """The command's argument parser."""
  made = measure.parser(__doc__)
  listed = f'{", ".join(cases)}; all if none is named'
  made.add_argument('cases', nargs='*', metavar='CASE', help=listed)
  made.add_argument('--smoke', action='store_true', help='tiny sizes: does everything run?')
  made.add_argument('--json', type=pathlib.Path, metavar='FILE', help='for the figures')
  of_two = 'two such files: what changed'
  made.add_argument('--compare', nargs=2, type=pathlib.Path, metavar='FILE', help=of_two)
  made.add_argument('--depth', type=int, default=18, help='of the ResNet')
  made.add_argument('--width', type=float, default=1.0, help='of the ResNet')
  made.add_argument('--frame', type=int, default=136, help='side of the pictures in pixels')
  made.add_argument('--margin', type=int, default=20, help='cut from each side of a view')
  made.add_argument('--batch_size', type=int, default=64, help='pictures, so pairs, a step')
  made.add_argument('--queue', type=int, default=4096, help='negatives')
  made.add_argument('--precision', choices=('float32', 'bfloat16'), default='float32')
  made.add_argument('--steps', type=int, default=1, help='in a row in every repetition')
  made.add_argument('--pictures', type=int, default=512, help='that are read')
  made.add_argument('--matrix', type=int, default=2048, help='side of the matrix product')
  made.add_argument('--megabytes', type=int, default=256, help='of the pass through memory')
  return made


def compared(before: pathlib.Path, after: pathlib.Path) -> int:
  """Prints a comparison; returns 1 if counts grew, 2 for an invalid file."""
  try:
    grown = suite.compare(before, after)
  except (OSError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print('', *(grown or ['no count grew']), sep='\n')
  return int(bool(grown))


if __name__ == '__main__':
  sys.exit(main())

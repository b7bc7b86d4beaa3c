"""Finds the command named on the command line: a file of this folder that defines COMMAND."""

import importlib
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags, logging

USAGE = 'python -m landmarks_jax COMMAND [--options]'


def commands() -> dict[str, str]:
  """The commands and the first line of what each says of itself."""
  found = {}
  for file in sorted(pathlib.Path(__file__).parent.glob('*.py')):
    text = file.read_text()
    if re.search(r'^def define_flags\(', text, re.M):
      found[file.stem] = text.removeprefix('"""').splitlines()[0].removesuffix('"""')
  return found


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; the exit code: 0 done, 2 what the user can mend, 130 interrupted."""
  argv = list(sys.argv if argv is None else argv)
  name = argv[1] if len(argv) > 1 else '--help'
  if name in ('--help', '-h', 'help'):
    lines = [f'  {command:<12}{line}' for command, line in commands().items()]
    print('\n'.join([USAGE, '', *lines, '', 'Options: python -m landmarks_jax COMMAND --help']))
    return 0
  if name not in commands():
    return _fail(f'no command {name!r}; there are: {", ".join(commands())}')
  command = importlib.import_module(f'landmarks_jax.cli.{name}')
  values = flags.FlagValues()
  flags.DEFINE_boolean('help', False, 'Shows these options.', flag_values=values)
  flags.DEFINE_boolean(
    'traceback', False, 'Shows where in the code an error arose.', flag_values=values
  )
  flags.FLAGS.mark_as_parsed()  # Grain and Orbax ask for it; ours are not global
  logging.set_verbosity(logging.ERROR)  # what matters is printed, not logged
  try:
    arguments = command.define_flags(argv[2:], values)
    rest = values([name, *arguments])[1:]
    if rest and not values.help:
      raise ValueError(f'{name}: unexpected {" ".join(rest)!r}; options start with --')
  except (flags.Error, ValueError, OSError) as error:
    return _fail(f'{error}\nOptions: python -m landmarks_jax {name} --help')
  if values.help:
    print(f'{commands()[name]}\n\n{command.__doc__.partition(chr(10))[2].strip()}\n')
    print(_describe(values))
    return 0
  try:
    return command.run(values) or 0
  except KeyboardInterrupt:
    return 130
  except (ValueError, OSError) as error:
    if values.traceback or os.environ.get('LANDMARKS_JAX_TRACEBACK'):
      raise
    return _fail(str(error))


def _describe(values: flags.FlagValues) -> str:
  lines = []
  for name in values:
    flag = values[name]
    default = '' if flag.default is None or name in ('config', 'help') else f' [{flag.default}]'
    lines.append(f'  --{name}: {flag.help}{default}')
  return 'Options:\n' + '\n'.join(sorted(lines))


def _fail(message: str) -> int:
  print(f'error: {message}', file=sys.stderr)
  return 2


def console() -> None:
  """The console script `landmarks-jax`."""
  sys.exit(main())

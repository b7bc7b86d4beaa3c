"""Finds the command named on the command line: a file of this folder that defines `run(values)`.

Its `define_flags` declares the options. REQUIRED says which must be given, as in ('A', 'B',
'--model=RUN'); those without dashes are given in this order, without their names. If it declares
--config, it also defines `keys(values)`: that config with all defaults, as far as the command takes
it.
"""

import importlib
import importlib.util
import io
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import flags, logging

import landmarks_jax
from landmarks_jax.cli import config as configs
from landmarks_jax.cli import processes
from landmarks_jax.runtime import by_name

PROGRAM = 'python -m landmarks_jax'
CLOSED = 128 + 13  # how shells tell of the signal SIGPIPE
USAGE = f'{PROGRAM} COMMAND [--options]'


def commands() -> dict[str, str]:
  """The commands and the first line of each one's docstring."""
  found = {}
  for file in sorted(pathlib.Path(__file__).parent.glob('*.py')):
    text = file.read_text(encoding='utf-8')
    if re.search(r'^def run\(', text, re.M):
      found[file.stem] = text.removeprefix('"""').splitlines()[0].removesuffix('"""')
  return found


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; returns the exit code.

  0 is done, 2 a user error, 75 and 130 interrupted, 141 that whoever read the output is gone.
  """
  try:
    code = _run(argv)
    sys.stdout.flush()  # here, not when Python ends, which would tell of a closed pipe at length
    return code
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return processes.leave(CLOSED)


def _run(argv: Sequence[str] | None) -> int:
  _prepare_streams()
  argv = list(sys.argv if argv is None else argv)
  name = argv[1] if len(argv) > 1 else '--help'
  if name in ('--help', '-h', 'help'):
    lines = [f'  {command:<12}{line}' for command, line in commands().items()]
    lines += ['', f'Options: {PROGRAM} COMMAND --help', f'Version: {PROGRAM} --version']
    print('\n'.join([USAGE, '', *lines]))
    return 0
  if name in ('--version', 'version'):
    print(f'landmarks_jax {landmarks_jax.__version__}')
    return 0
  if name not in commands():
    near = by_name.hint(name, commands())
    return _fail(f'no command {name!r}{near}; there are: {", ".join(commands())}')
  command = importlib.import_module(f'landmarks_jax.cli.{name}')
  flags.FLAGS.mark_as_parsed()  # Grain and Orbax require it; these flags are not global
  logging.set_verbosity(logging.FATAL)  # what matters is printed or raised, not logged
  warnings.formatwarning = lambda message, *where: f'warning: {message}\n'
  if sys.unraisablehook is sys.__unraisablehook__:  # no other program's, such as a test's
    sys.unraisablehook = _unraisable
  try:
    values = _parse(name, command, argv[2:])
  except (flags.Error, ValueError) as error:
    return _fail(f'{error}\nOptions: {PROGRAM} {name} --help')
  if not values.help and importlib.util.find_spec('fcntl') is None:  # Windows
    return _fail(
      f'{name} needs Linux, macOS or WSL: this system has no fcntl, which locks folders of runs; '
      'install landmarks_jax there. The losses alone, landmarks_jax.losses, run anywhere'
    )
  try:
    return _help(name, command, values) if values.help else command.run(values) or 0
  except KeyboardInterrupt:
    print('\ninterrupted', file=sys.stderr)
    return 130
  except BrokenPipeError:
    raise
  except (ValueError, OSError) as error:
    if values.traceback or os.environ.get('LANDMARKS_JAX_TRACEBACK'):
      raise
    return processes.leave(_fail(_spell(error)))


def _prepare_streams() -> None:
  """Opens the standard streams that a daemon lacks, to nowhere; makes the others show any text.

  In this order, so that each gets its own number, which the next file to be opened would take:
  libraries would print into that file.
  """
  for name, mode in {'stdin': 'r', 'stdout': 'w', 'stderr': 'w'}.items():
    if getattr(sys, name) is None:
      stream = open(os.devnull, mode, encoding='utf-8')  # noqa: SIM115
      os.set_inheritable(stream.fileno(), True)  # by the processes that read pictures
      setattr(sys, name, stream)
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # file names may hold what its encoding cannot show
      stream.reconfigure(errors='backslashreplace')


def _parse(name: str, command: ModuleType, argv: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  what = 'Shows where in the code an error arose.'
  flags.DEFINE_boolean('traceback', False, what, flag_values=values)
  argv = command.define_flags(argv, values)
  more = '; with --config=FILE also its keys' if 'config' in values else ''
  what = f'Shows these options{more}.'
  flags.DEFINE_boolean('help', False, what, short_name='h', flag_values=values)
  rest = values([name, *argv])[1:]
  positional = _positional(command)
  given = {flag: rest.pop(0) for flag in positional[: len(rest)]}
  _check_not_empty(given | {f'--{key}': values[key].value for key in values})
  for flag, text in given.items():
    values[flag].parse(text)
  if values.help:
    return values
  if rest:
    raise ValueError(f'{name}: unexpected {" ".join(rest)!r}; options start with --')
  missing = [word for word in command.REQUIRED if not values[_flag(word)].value]
  if missing:
    raise ValueError(f'{name} needs {" ".join(missing)}: {_usage(name, command)}')
  return values


def _flag(word: str) -> str:
  """The name of the flag that a word of REQUIRED stands for."""
  return word.removeprefix('--').partition('=')[0]


def _positional(command: ModuleType) -> list[str]:
  return [word for word in command.REQUIRED if not word.startswith('--')]


def _usage(name: str, command: ModuleType) -> str:
  return ' '.join([PROGRAM, name, *command.REQUIRED, '[--options]'])


def _check_not_empty(given: Mapping[str, Any]) -> None:
  """Raises ValueError for an empty text, as from a variable of the shell that is not set."""
  for flag, value in given.items():
    if value == '':
      raise ValueError(f'{flag} is empty: expected a value')


def _help(name: str, command: ModuleType, values: flags.FlagValues) -> int:
  """Prints a command's docstring, usage and options, and the keys of the config if one is named.

  Only the keys need imports beyond the flags, so that other help is immediate.
  """
  positional = _positional(command)
  lines = [commands()[name], '', command.__doc__.partition('\n')[2].strip()]
  lines += ['', f'Usage: {_usage(name, command)}', '', 'Options:']
  for key in sorted(set(values) - {'h'}):
    flag = values[key]
    default = '' if key == 'help' else _default(flag)
    dashes = '' if key in positional else '--'
    lines.append(f'  {dashes}{key}: {flag.help.splitlines()[0].rstrip(";")}{default}')
  if 'config' in values and values.config:
    lines += ['', f'Keys of {values.config} and their values:']
    keys = configs.flat(command.keys(values))
    lines += [f'  --config.{key}={value}' for key, value in sorted(keys.items())]
  print('\n'.join(lines))
  return 0


def _default(flag: flags.Flag) -> str:
  """' [VALUE]' as it would be typed; nothing for a flag that is off or empty unless given."""
  default = ','.join(flag.default) if isinstance(flag.default, list) else flag.default
  return '' if default is None or default is False or default == '' else f' [{default}]'


def _unraisable(unraisable: Any) -> None:
  """Shows an error in a thread of a library, except the echoes of a save that failed.

  Orbax closes its event loop at the first write that fails, and raises that error; all other writes
  then complain about the loop.
  """
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def _spell(error: Exception) -> str:
  if not isinstance(error, OSError):  # the notes of others may be JAX's, of the traceback
    return str(error)
  named = error.strerror and error.filename
  text = f'{error.filename}: {error.strerror}' if named else str(error)
  return '; '.join([text, *getattr(error, '__notes__', ())])


def _fail(message: str) -> int:
  print(f'error: {message}', file=sys.stderr)
  return 2

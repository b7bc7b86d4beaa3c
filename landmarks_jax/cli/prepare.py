"""Stores a dataset's pictures as frames, once, so that training reads them many times faster.

NAME is a dataset, or the import path of one of your own; `prepare NAME --help` lists its options.
The folder --source is as docs/data.md says; the folder --output gets the frames, of side --frame,
with all that is known of them, and is then given to configs as data.path. Running the same command
again continues, or repairs what is damaged.
"""

import contextlib
import functools
import inspect
import pathlib
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import drafts, paths
from landmarks_jax.data import source as sources
from landmarks_jax.runtime import by_name

REQUIRED = 'NAME', '--source=DIR', '--output=DIR'


def preparable() -> tuple[str, ...]:
  """The datasets that can be prepared: the files of data/ that define `catalogue`."""
  return sources.available('catalogue')


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options, and those of the dataset if one is named; returns `argv`."""
  known = preparable()
  flags.DEFINE_string('NAME', None, f'One of {", ".join(known)}.', flag_values=values)
  paths.define('source', 'Folder of the original files.', values)
  what = 'Folder that is made, or completed after an interruption.'
  paths.define('output', what, values)
  what = 'Threads that read; all cores if absent.'
  flags.DEFINE_integer('workers', None, what, lower_bound=1, flag_values=values)
  what = 'Side of the frame in pixels.'
  flags.DEFINE_integer('frame', None, what, lower_bound=2, flag_values=values)
  own = filter(by_name.is_import_path, argv[:1])
  for name in [*own, *(argument for argument in argv if argument in known)][:1]:
    parameters = _parameters(name)
    values['frame'].default = values['frame'].value = parameters.pop('frame').default
    for key, parameter in parameters.items():
      what = f'As in data.{key} of configs; {parameter.default} if absent.'
      flags.DEFINE_string(key, None, what, flag_values=values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  name, parameters = values.NAME, _parameters(values.NAME)
  source, output = values.source, values.output
  if not source.is_dir():
    raise FileNotFoundError(f'--source: {source} is not a folder')
  drafts.check_outside(output, 'source', source)
  options = {}
  for key, parameter in parameters.items():
    given = values[key].value if key in values else None
    if key != 'frame':
      text = parameter.default if given is None else configs.Text(given)
      options[key] = configs.typed(f'--{key}', text, parameter.annotation)
  try:
    prepare(name, source, output, frame=values.frame, options=options, workers=values.workers)
  except KeyboardInterrupt:
    print('\ninterrupted; the same command continues', file=sys.stderr)
    return 130
  return 0


def prepare(
  name: str,
  source: pathlib.Path,
  output: pathlib.Path,
  *,
  frame: int,
  options: Mapping[str, Any],
  workers: int | None = None,
) -> dict[str, Any]:
  """Stores the dataset `name` and prints the outcome; returns the manifest."""
  from landmarks_jax.data import prepared, preparing  # late: heavy

  if (output / prepared.MANIFEST).exists():
    print(f'comparing checksums in {output}', flush=True)
  module = _module(name)
  read = functools.partial(module.catalogue, str(source), frame=frame, **by_name.tuples(options))
  manifest = preparing.finished(output, name=name, frame=frame, options=options)
  if manifest is not None:
    with contextlib.suppress(FileNotFoundError):  # the originals may be gone by now
      preparing.check_begun(read(), output, name=name, options=options)
    print(f'{output} is finished already: {_kept(manifest)}')
    return manifest
  print(f'reading what is in {source}', flush=True)
  catalogue = read()
  manifest = preparing.prepare(
    catalogue,
    output,
    name=name,
    options=options,
    workers=workers,
    progress=_progress(len(catalogue.entries)),
  )
  for line in _remarks(manifest):
    print(line)
  for line in _differences(manifest, getattr(module, 'PUBLISHED', {})):
    print(f'warning: {line}', file=sys.stderr)
  print(f'{output} is finished: {_kept(manifest)}')
  return manifest


def _module(name: str) -> types.ModuleType:
  return by_name.module('data', 'catalogue', name, fault=f'no dataset {name!r} to prepare')


def _parameters(name: str) -> dict[str, inspect.Parameter]:
  """The options of a dataset's `catalogue`, its frame included."""
  parameters = inspect.signature(_module(name).catalogue).parameters
  return {key: parameter for key, parameter in parameters.items() if key != 'path'}


def _progress(total: int) -> Callable[[int, int], None]:
  from landmarks_jax.runtime import logs  # late: heavy

  began = time.monotonic()

  def tell(done: int, made: int) -> None:
    print(logs.pictures_done(done, total, made, time.monotonic() - began), flush=True)

  return tell


def _kept(manifest: Mapping[str, Any]) -> str:
  from landmarks_jax.runtime import logs  # late: heavy

  size = sum(shard['bytes'] for shard in manifest['shards'])
  frame = manifest['frame']
  total = f'{manifest["kept"]:,} of {manifest["pictures"]:,} pictures kept'
  return f'{total}, {frame}x{frame}, {logs.amount(size)}'


def _remarks(manifest: Mapping[str, Any]) -> list[str]:
  """Counts of what was left out and duplicated, with the first of each; the manifest has all."""
  lines = []
  for file, reason in list(manifest['skipped'].items())[:1]:
    lines.append(f'skipped pictures: {len(manifest["skipped"]):,}, the first {file}: {reason}')
  words = {'exact': 'the same picture', 'near': 'nearly the same picture'}
  for kind, groups in manifest['duplicates'].items():
    for group in groups[:1]:
      first = ' = '.join(group[:3] + ['...'] * (len(group) > 3))
      lines.append(f'groups of {words[kind]}: {len(groups):,}, the first {first}')
  return [*lines, 'all of them are listed in manifest.json'] if lines else []


def _differences(manifest: Mapping[str, Any], published: Mapping[str, int]) -> list[str]:
  """The splits whose count is not the published one, and why."""
  lines = []
  for split, expected in published.items():
    count = manifest['splits'].get(split, {'kept': 0, 'skipped': 0})
    if count['kept'] != expected:
      missing = expected - count['kept'] - count['skipped']
      reasons = [f'{count["skipped"]:,} cannot be read'] if count['skipped'] else []
      reasons += [f'{missing:,} are not in --source'] if missing > 0 else []
      reasons += [f'{-missing:,} more are in --source'] if missing < 0 else []
      message = f'{split} has {count["kept"]:,} pictures, published are {expected:,}'
      lines.append(f'{message}: {", ".join(reasons)}')
  return lines

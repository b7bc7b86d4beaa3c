"""Measuring, recording and comparing for `python -m benchmarks`.

A case is something that users wait for, done in one or more ways, one of which may be the baseline
for ratios. The machine's ceilings, a matrix product and a pass through memory, take turns with the
ways, so that shares refer to what the machine could do at that time.
"""

import contextlib
import functools
import json
import pathlib
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np

from landmarks_jax.dtypes import PRECISIONS

PRODUCT, MEMORY = 'matrix product', 'pass through memory'
COUNTS = 'flops', 'bytes', 'peak_bytes'  # of a compiled program: exact, so they may not grow
GROWTH = 1.01  # growth of counts tolerated as compiler variation
HEADER = 'way', '{}/s', 'ms', 'GFLOP/s', 'of the product', 'GB/s', 'of memory', 'peak MB', 'times'


class Way(NamedTuple):
  """One way to do what a case measures."""

  run: Callable[[], Any]  # its result is waited for
  items: int = 1  # processed by a call, in the case's unit
  counts: Mapping[str, float] = types.MappingProxyType({})  # COUNTS of a call, from XLA's analysis
  compile_seconds: float | None = None


class Case(NamedTuple):
  """The ways to do one thing."""

  unit: str  # such as 'pairs'
  ways: dict[str, Way]
  baseline: str | None = None  # one of the ways
  notes: tuple[str, ...] = ()
  most: int | None = None  # limit on repetitions, for slow cases


def program(
  function: Callable,
  *given: Any,
  items: int = 1,
  runner: Callable[..., Callable[[], Any]] = functools.partial,
  **static: Any,
) -> Way:
  """A way that runs a jitted function, compiled here so that its program can be analysed.

  given, static: its arguments. runner: `runner(compiled, *given)()` runs it.
  """
  lowered = function.lower(*given, **static)
  began = time.perf_counter()
  compiled = lowered.compile()
  took = time.perf_counter() - began
  return Way(runner(compiled, *given), items, counts(compiled), took)


def counts(compiled: jax.stages.Compiled) -> dict[str, float]:
  """Operations, bytes read and written between fused loops, and peak bytes of one call."""
  cost, held = compiled.cost_analysis(), compiled.memory_analysis()
  peak = held.argument_size_in_bytes + held.temp_size_in_bytes
  peak += held.output_size_in_bytes - held.alias_size_in_bytes
  found = cost.get('flops', 0.0), cost.get('bytes accessed', 0.0), peak
  return dict(zip(COUNTS, map(float, found), strict=True))


def ceilings(*, matrix: int, megabytes: int, precision: str) -> dict[str, Way]:
  """What the machine can do: a square matrix product, and an array updated in place."""
  shape, dtype = (matrix, matrix), PRECISIONS[precision]
  product = program(jax.jit(jnp.matmul), *2 * [jax.random.normal(jax.random.key(0), shape, dtype)])
  counted = {'flops': 2.0 * matrix**3}  # XLA does not count the work of cuBLAS
  product = product._replace(counts=product.counts | counted)
  change, numbers = jax.jit(lambda x: x + 1, donate_argnums=0), [jnp.zeros(megabytes * 250_000)]

  def passes() -> jax.Array:
    numbers[0] = change(numbers[0])
    return numbers[0]

  size = 2 * numbers[0].nbytes  # read and written
  return {PRODUCT: product, MEMORY: Way(passes, counts={'bytes': size})}


def measured(case: Case, tops: dict[str, Way], repetitions: int) -> dict[str, Any]:
  """Runs a case; returns plain numbers, for `table` and for a file."""
  every = case.ways | tops
  if case.most is not None:
    repetitions = min(repetitions, case.most)
  seconds = measure.in_turn({name: way.run for name, way in every.items()}, repetitions)
  ways = {
    name: {
      'items': way.items,
      'seconds': seconds[name].tolist(),
      'compile_seconds': way.compile_seconds,
      **way.counts,
    }
    for name, way in every.items()
  }
  kept = {'unit': case.unit, 'baseline': case.baseline, 'notes': list(case.notes)}
  return kept | {'ways': ways}


def table(name: str, record: dict[str, Any]) -> None:
  """Prints a measured case: medians with their range, shares and ratios taken within each turn."""
  ways = record['ways']
  took = {way: np.array(found['seconds']) for way, found in ways.items()}
  each = {way: took[way] / found['items'] for way, found in ways.items()}
  product = ways[PRODUCT]['flops'] / took[PRODUCT]
  memory = ways[MEMORY]['bytes'] / took[MEMORY]
  notes = [
    f'- {PRODUCT}: {measure.figure(product / 1e9)} GFLOP/s; '
    f'{MEMORY}: {measure.figure(memory / 1e9)} GB/s'
  ]
  notes += [f'- {note}' for note in record['notes']]
  compiling = {way: found['compile_seconds'] for way, found in ways.items() if way != PRODUCT}
  timed = [f'{way} {measure.number(s)} s' for way, s in compiling.items() if s is not None]
  notes += [f'- compiled: {", ".join(timed)}'] if timed else []
  header = [column.format(record['unit']) for column in HEADER]
  rows = [
    row(way, ways[way], each, product, memory, record['baseline'])
    for way in ways
    if way not in (PRODUCT, MEMORY)
  ]
  measure.print_table(name, '\n'.join(notes), header, rows)


def row(
  way: str,
  found: dict[str, Any],
  each: dict[str, measure.Seconds],
  product: measure.Seconds,
  memory: measure.Seconds,
  baseline: str | None,
) -> list[str]:
  """The cells of a way, given all ways' seconds per item; '-' for what was not counted."""
  seconds, cells = found['items'] * each[way], []
  for count, top in ('flops', product), ('bytes', memory):
    rate = found[count] / seconds if found.get(count) else None
    cells.append('-' if rate is None else measure.figure(rate / 1e9))
    cells.append('-' if rate is None else measure.figure(rate / top, '{:.0%}'.format))
  peak = found.get('peak_bytes')
  return [
    way,
    measure.figure(found['items'] / seconds),
    measure.figure(1e3 * seconds),
    *cells,
    '-' if peak is None else measure.number(peak / 1e6),
    '-' if baseline is None else measure.speed_up(each[way], each[baseline]),
  ]


def compare(before: pathlib.Path, after: pathlib.Path) -> list[str]:
  """Prints how many times faster each way became; returns a line for each count that grew.

  Times of two runs also differ with other load on the machines; counts do not. Raises ValueError
  for a file without figures.
  """
  old, new = (load(path) for path in (before, after))
  rows, grown = [], []
  for name, way in sorted(pairs(old) & pairs(new)):
    one, two = (record['cases'][name]['ways'][way] for record in (old, new))
    speeds = [np.median(found['items'] / np.array(found['seconds'])) for found in (one, two)]
    cells = [*speeds, speeds[1] / speeds[0]]
    changes = []
    for count in COUNTS:
      if one.get(count) and count in two:
        changes.append(f'{two[count] / one[count] - 1:+.2%}')
        if two[count] > GROWTH * one[count]:
          grown.append(f'{name}, {way}: {count} grew from {one[count]:,.0f} to {two[count]:,.0f}')
      else:
        changes.append('-')
    rows.append([name, way, *map(measure.number, cells), *changes])
  header = 'case', 'way', f'{before.name}, /s', f'{after.name}, /s', 'times', *COUNTS
  alone = sorted(pairs(old) ^ pairs(new))
  text = f'- in one of the files only: {", ".join(map(": ".join, alone)) or "nothing"}'
  measure.print_table(f'{before} and {after}', text, header, rows)
  return grown


def load(path: pathlib.Path) -> dict[str, Any]:
  """Loads a file written by --json."""
  with contextlib.suppress(ValueError, KeyError, TypeError):
    record = json.loads(path.read_text(encoding='utf-8'))
    pairs(record)
    return record
  raise ValueError(f'{path} holds no figures; expected a file that --json wrote')


def pairs(record: dict[str, Any]) -> set[tuple[str, str]]:
  """The (case, way) of a file, without the ceilings."""
  found = {(name, way) for name, case in record['cases'].items() for way in case['ways']}
  return {(name, way) for name, way in found if way not in (PRODUCT, MEMORY)}

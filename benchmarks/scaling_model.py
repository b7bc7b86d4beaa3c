"""A model, not a measurement: the time of a MoCo step from published speeds and counted bytes.

docs/scaling.md states the formulas and shows the tables made by `page`. The step is the paper's
(ResNet-50, 96 pixels, frames of 136) with one BatchNorm group for each device.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import train_step

PARAMETERS = 23_770_304  # of the ResNet-50 and its linear layer to 128
FRAME = 136 * 136 * 3  # bytes of a picture
DIM = 128  # of a key
UTILISATION = 0.4  # assumed: the share of the peak that convolutions reach
COLLECTIVES = 6  # of a step: frames twice, keys three times, one all-reduce
NORM_COLLECTIVES = 307  # additional ones if norm groups span devices: moco_resnet50_4_groups
UPDATE = 7 * 4 * PARAMETERS  # read parameters, gradient, momentum, key encoder; write all but one
MOST = 1024  # pictures on a device; with more, activations are assumed not to fit
BATCHES = 256, 1024, 4096, 16384, 32768
SHOWN = (16, 256), (64, 1024), (256, 4096), (256, 32768), (1024, 32768)


class Machine(NamedTuple):
  """Published speeds of a device and its two networks, per second and in one direction."""

  name: str
  operations: float  # of bfloat16 products
  memory: float  # bytes
  inside: float  # bytes from a device to its neighbours in the same pod or host
  outside: float  # bytes from a device to other pods or hosts
  domain: int  # devices of a pod or host
  host: int  # devices that one host feeds
  latency: tuple[float, float]  # assumed: of a collective inside, outside
  torus: bool  # rows travel over neighbours, an eighth of a ring's length at a time


MACHINES = (
  Machine('TPU v5e', 197e12, 819e9, 200e9, 3.1e9, 256, 8, (20e-6, 100e-6), True),
  Machine('H100 SXM', 989e12, 3.35e12, 450e9, 50e9, 8, 8, (20e-6, 40e-6), False),
  Machine('H200 SXM', 989e12, 4.8e12, 450e9, 50e9, 8, 8, (20e-6, 40e-6), False),
)
DEVICES = {'TPU v5e': (1, 4, 16, 64, 256, 1024), 'H100 SXM': (1, 8, 16, 64, 256, 1024)}


def picture_flops() -> int:
  """Operations of a step for one picture, without augmentation."""
  stem, rest = train_step.forward_flops(50, 1.0, 96)
  return 3 * stem + 4 * rest


def parts(machine: Machine, devices: int, batch: int) -> dict[str, float]:
  """Seconds of a step by part, assuming that nothing overlaps."""
  each, inner = batch / devices, min(devices, machine.domain)
  seconds = {
    'networks': each * picture_flops() / (UTILISATION * machine.operations),
    'update': UPDATE / machine.memory,
  }
  if devices == 1:
    return seconds
  hops = inner**0.5 / 2 if machine.torus else 1  # of a row on its way, on average
  outer = devices // inner
  rows = 2 * each * FRAME  # all-to-all, then a permutation
  gradient = 4 * PARAMETERS
  keys = 4 * batch * DIM
  seconds['gradients'] = 2 * gradient * (inner - 1) / inner / bandwidth(machine, inner)
  seconds['gradients'] += 2 * gradient / inner * (outer - 1) / outer / machine.outside
  seconds['frames'] = rows / outer * hops / bandwidth(machine, inner)
  seconds['frames'] += rows * (outer - 1) / outer / machine.outside
  seconds['keys'] = keys / bandwidth(machine, inner)
  seconds['keys'] += keys / inner * (outer - 1) / outer / machine.outside
  seconds['latency'] = COLLECTIVES * latency(machine, devices)
  return seconds


def bandwidth(machine: Machine, inner: int) -> float:
  """Bandwidth inside a domain, halved for part of a pod: only a whole pod is a torus."""
  return machine.inside / 2 if machine.torus and inner < machine.domain else machine.inside


def latency(machine: Machine, devices: int) -> float:
  """The latency of one collective among all devices."""
  return machine.latency[devices > machine.domain]


def step(machine: Machine, devices: int, batch: int) -> float:
  """Seconds of a step."""
  return sum(parts(machine, devices, batch).values())


def efficiency(machine: Machine, devices: int, batch: int) -> float:
  """Pictures per second and device, relative to one device with 256 pictures."""
  return step(machine, 1, 256) / 256 * batch / devices / step(machine, devices, batch)


def page() -> str:
  """All tables, as shown in docs/scaling.md."""
  return '\n'.join([*_inputs(), *_times(), *_parts(), *_feeding()]).strip()


def _inputs() -> Iterator[str]:
  header = 'device', 'bfloat16 TFLOP/s', 'memory GB/s', 'inside GB/s', 'outside GB/s', 'domain'
  rows = [
    (
      m.name,
      f'{m.operations / 1e12:,.0f}',
      f'{m.memory / 1e9:,.0f}',
      f'{m.inside / 1e9:,.0f}',
      f'{m.outside / 1e9:g}',
      f'{m.domain} devices',
    )
    for m in MACHINES
  ]
  yield from _table(f'Inputs; {picture_flops() / 1e9:.3g} GFLOP a picture', header, rows)


def _times() -> Iterator[str]:
  for machine in MACHINES[:2]:
    rows = []
    for devices in DEVICES[machine.name]:
      cells = [_cell(machine, devices, batch) for batch in BATCHES]
      rows.append((f'{devices:,}', *cells))
    header = 'devices', *(f'batch {batch:,}' for batch in BATCHES)
    yield from _table(f'{machine.name}: ms a step, efficiency (model)', header, rows)


def _cell(machine: Machine, devices: int, batch: int) -> str:
  if not 1 <= batch // devices <= MOST:
    return '–'
  share = efficiency(machine, devices, batch)
  return f'{1e3 * step(machine, devices, batch):.3g}, {share:.0%}'


def _parts() -> Iterator[str]:
  """Where the time goes on a v5e, and what two alternatives would cost."""
  machine, columns = MACHINES[0], []
  for devices, batch in SHOWN:
    seconds = parts(machine, devices, batch)
    inner = min(devices, machine.domain)
    gathered = batch * FRAME / bandwidth(machine, inner)
    if devices > inner:
      gathered += batch * FRAME / inner / machine.outside
    seconds['in place of frames: all to all devices (random order)'] = gathered
    seconds['in addition: norm groups across devices'] = NORM_COLLECTIVES * latency(
      machine, devices
    )
    columns.append(seconds)
  rows = [(name, *(f'{1e3 * column[name]:.2g}' for column in columns)) for name in columns[0]]
  header = 'ms', *(f'{devices:,} chips, batch {batch:,}' for devices, batch in SHOWN)
  yield from _table(f'Parts of a step on {machine.name} (model)', header, rows)


def _feeding() -> Iterator[str]:
  rows = []
  for machine in MACHINES[:2]:
    for devices, batch in SHOWN:
      rate = machine.host * batch / devices / step(machine, devices, batch)
      size = f'{rate * FRAME / 1e9:.2g}'
      rows.append((machine.name, f'{devices:,}', f'{batch:,}', f'{rate:,.0f}', size))
  header = 'device', 'devices', 'batch', 'pictures/s a host of 8', 'GB/s of frames'
  yield from _table('What a host must deliver (model)', header, rows)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
  yield f'\n**{title}**\n'
  for line in (header, ['---'] * len(header), *rows):
    yield '| ' + ' | '.join(line) + ' |'


if __name__ == '__main__':
  print(page())

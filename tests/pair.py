"""What each of two processes with four devices does for process_test.py: FOLDER PORT PROCESS.

It leaves a run and its evaluation in FOLDER/run, the numbers of every method in FOLDER/METHOD.npz,
and a run in FOLDER/killed that process 0 does not survive.
"""

import os
import pathlib
import signal
import sys

import compiling

# Compiled like the tests, whose numbers these are compared with to the last digits.
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count=4 {compiling.QUICKLY}'

import jax
import numpy as np
import pytest
import train_test

from landmarks_jax.cli.main import main
from landmarks_jax.runtime import logs, sharding

jax.config.update('jax_default_matmul_precision', 'highest')


def train(folder, name, *options):
  page, workdir = f'--config={folder}/page.py', f'--workdir={folder}/{name}'
  return main(['x', 'train', page, workdir, *options])


def write_methods(folder):
  import methods_test  # late: it computes, which must wait for the processes to be joined

  devices = jax.device_count()
  for name in methods_test.METHODS:
    losses, state = methods_test.twenty_float64_steps(name, devices)
    if sharding.is_main():
      np.savez(folder / f'{name}.npz', losses=losses, **state)
  losses = methods_test.Run('moco', devices).steps(3)  # of float32
  if sharding.is_main():
    np.save(folder / 'moco_float32.npy', losses)


def die_at_the_line_of(step):
  """Process 0 is killed before it writes that line."""
  write = logs.Logs.write

  def dying(self, at, values, **others):
    if at == step and sharding.is_main():
      os.kill(os.getpid(), signal.SIGKILL)
    return write(self, at, values, **others)

  logs.Logs.write = dying


if __name__ == '__main__':
  folder, port, process = pathlib.Path(sys.argv[1]), *sys.argv[2:]
  join = f'--coordinator=127.0.0.1:{port}', '--processes=2', f'--process={process}'
  train_test.plant(pytest.MonkeyPatch())
  assert train(folder, 'run', *join) == 0
  assert main(['x', 'evaluate', f'--workdir={folder}/run']) == 0
  write_methods(folder)
  print('done', flush=True)
  die_at_the_line_of(6)
  sys.exit(train(folder, 'killed'))

"""Writes the network of a run for other programs, as one file that runs no code when it is read.

--format=safetensors holds all arrays under this package's names, with the config beside them;
torchvision holds a ResNet's weights under PyTorch's names, also as safetensors; jax holds the
compiled network for any number of pictures, on CPUs, GPUs and TPUs, which only JAX can run.
docs/weights.md shows how to read each.
"""

from collections.abc import Sequence

from absl import flags

from landmarks_jax.cli import paths

FORMATS = ('safetensors', 'torchvision', 'jax')
REQUIRED = '--model=RUN', '--format=FORMAT', '--output=FILE'


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  paths.define('model', 'Folder of the run.', values)
  what = f'One of {", ".join(FORMATS)}.'
  flags.DEFINE_enum('format', None, FORMATS, what, flag_values=values)
  paths.define('output', 'File that is made; it must be new.', values)
  what = 'Which checkpoint; if absent, the selected or newest.'
  flags.DEFINE_integer('step', None, what, flag_values=values)
  what = 'Side of the pictures in pixels, with --format=jax; that of training if absent.'
  flags.DEFINE_integer('side', None, what, lower_bound=1, flag_values=values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  if values.side and values.format != 'jax':
    raise ValueError('--side belongs to --format=jax; weights alone know no pictures')
  from landmarks_jax.cli import exporting  # late: heavy

  exporting.export(
    values.model, values.output, format=values.format, step=values.step, side=values.side
  )
  return 0

"""Makes a run from weights that others published, so that they can be used wherever a run can.

FILE was saved by PyTorch or as safetensors; no code in it runs. Its kind is recognised by the names
of its weights: docs/weights.md lists the kinds. DIR gets config.json and checkpoints at step 0, as
`train` writes them: it can be evaluated, be the base of another run, or start one (--init_from).
--config.method.KEY=VALUE changes what the weights do not decide, as in --config.method.levels=5.
"""

from collections.abc import Sequence

from absl import flags

from landmarks_jax.cli import config as configs
from landmarks_jax.cli import paths

REQUIRED = '--input=FILE', '--output=DIR'


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  paths.define('input', 'The file of weights, FILE.', values)
  what = 'Folder that is made, DIR; it must be new or empty.'
  paths.define('output', what, values)
  what = 'Folder of the run that a projector or a landmark regressor stands on.'
  paths.define('base', what, values)
  what = 'Mean of R, G, B in 0..1 that pictures are standardised by; else that of the kind.'
  flags.DEFINE_string('mean', None, what, flag_values=values)
  what = 'Standard deviation of R, G, B, as --mean.'
  flags.DEFINE_string('std', None, what, flag_values=values)
  what = 'Side of the frames that pictures are cut to, in pixels; else that of the kind.'
  flags.DEFINE_integer('frame', None, what, lower_bound=2, flag_values=values)
  what = "Heads of a ViT's attention; one for 64 channels if absent."
  flags.DEFINE_integer('heads', None, what, lower_bound=1, flag_values=values)
  what = 'Changes method.*, as in --config.method.levels=5.'
  return configs.define_changes(argv, values, what=what)


def run(values: flags.FlagValues) -> int:
  """The command."""
  changes = list(values['config.KEY'].value)
  changes += [_colours(key, values[key].value) for key in ('mean', 'std') if values[key].value]
  for change in changes:
    if not change.startswith('method.'):
      raise ValueError(f'convert changes config.method.*, not config.{change.partition("=")[0]}')
  from landmarks_jax.cli import converting  # late: heavy

  given = {'base': values.base, 'frame': values.frame, 'heads': values.heads}
  converting.convert(values.input, values.output, changes=changes, **given)
  return 0


def _colours(key: str, text: str) -> str:
  try:
    red, green, blue = map(float, text.split(','))
  except ValueError:
    raise ValueError(f'--{key}={text}: expected three numbers, R,G,B in 0..1') from None
  return f'method.{key}={red},{green},{blue}'

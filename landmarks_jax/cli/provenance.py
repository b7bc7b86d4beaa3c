"""What a run is made with: config, seed, data and versions; kept with each of its checkpoints.

provenance.jsonl of a run has a line for its start, and one for each step from which it continued
with other data or other versions.
"""

import importlib.metadata
import json
import pathlib
import platform
import warnings
from collections.abc import Mapping
from typing import Any

import landmarks_jax
from landmarks_jax.cli import config as configs

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
FILE = 'provenance.jsonl'


def versions() -> dict[str, str]:
  """Versions of Python, this package and the packages that numbers depend on."""
  ours = {'Python': platform.python_version(), 'landmarks_jax': landmarks_jax.__version__}
  return ours | {name: importlib.metadata.version(name) for name in PACKAGES}


def of(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
  """The provenance to save a checkpoint with. data: the fingerprint of the training pictures."""
  return {
    'config': dict(config),
    'seed': config['seed'],
    'data': dict(data),
    'versions': versions(),
  }


def warn(
  saved: Mapping[str, Any], here: Mapping[str, Any], *, step: int, workdir: pathlib.Path
) -> bool:
  """Warns of every part in which a checkpoint's provenance differs; returns whether any does."""
  advice = {
    'data': (
      'The training pictures are not those of the checkpoint of step {step} ({changes}): the '
      'batches come in another order from here on, so the run is no longer the one that began. To '
      'have that one, put the old pictures back before it goes on; to train on these from the '
      'start, use another --workdir, with --init_from={workdir} to keep the weights.'
    ),
    'versions': (
      'The checkpoint of step {step} was made with other versions ({changes}): the run may differ '
      'in the last digits from one that was not interrupted. Install those to continue bit for bit.'
    ),
  }
  found = False
  for part, text in advice.items():
    changes = configs.differences(saved[part], here[part]) if part in saved else []
    if changes:
      found = True
      message = text.format(step=step, changes=', '.join(changes), workdir=workdir)
      warnings.warn(message, stacklevel=2)
  return found


def write(workdir: pathlib.Path, here: Mapping[str, Any], *, step: int) -> None:
  """Appends the line of a step, without the config, which has its own file; step 0 starts anew."""
  line = {'step': step} | {key: value for key, value in here.items() if key != 'config'}
  with open(workdir / FILE, 'a' if step else 'w', encoding='utf-8') as file:
    file.write(json.dumps(line) + '\n')

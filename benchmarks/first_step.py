"""Does what `train` does up to and including its first step; used by the suite's case `start`.

python benchmarks/first_step.py FOLDER OPTIONS, a folder of pictures and JSON
"""

import json
import os
import sys

from landmarks_jax.runtime import garbage

with garbage.uncollected():
  from landmarks_jax.cli import compiling, completion
  from landmarks_jax.cli.experiment import Experiment


def main(folder: str, text: str) -> None:
  """Takes the first step on a folder of pictures. text: options of the suite, as JSON."""
  options = json.loads(text)
  batch_size, frame = options.pop('batch_size'), options.pop('frame')
  config = {
    'data': {'name': 'folder', 'path': folder, 'frame': frame},
    'method': {'name': 'moco', 'norm_groups': 1, **options},
    'optimizer': {'name': 'sgd', 'learning_rate': 0.03, 'weight_decay': 1e-4},
    'batch_size': batch_size,
    'steps': 1,
  }
  with garbage.uncollected():
    experiment = Experiment(completion.complete(config))
    experiment.resolve()
    experiment.check_step()
    step = compiling.step(experiment)
  state = experiment.init_state()
  batches = experiment.inputs.batches(0)
  _, metrics = step(state, next(batches), experiment.rng_train)
  print(float(metrics['loss']), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
  os._exit(0)  # the step is done: how long Python takes to end is not measured

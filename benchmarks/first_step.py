"""A process that imports, compiles MoCo's step and takes one: what `start` of the suite times.

python benchmarks/first_step.py OPTIONS, as JSON
"""

import argparse
import json
import sys

import numpy as np
import train_step


def main(text: str) -> None:
  """options: those of train_step.py, and depth as one number."""
  options = argparse.Namespace(**json.loads(text))
  shape = options.batch_size, options.frame, options.frame, 3
  frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  state = train_step.initial_state(options, options.depth, frames)
  method = train_step.build(options, options.depth, augment=True)
  print(float(train_step.Step(method, state, frames)()))


if __name__ == '__main__':
  main(sys.argv[1])

"""Matching on rendered faces: landmarks of one face found in another, and in its own warp.

  python -m landmarks_jax evaluate --workdir runs/demo --config configs/match_synthetic_faces.py

for any run of these pictures, such as one of configs/demo.py; `train` with it scores an
untrained network.
"""

from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=46)
FIVE = dict(**FACES, count=1000)

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}


def get_config():
  """Pairs of neighbours of the test split, errors in pixels of a 70-pixel frame."""
  common = dict(data=FIVE, margin=7)
  return ConfigDict(
    dict(
      data=dict(**FACES, count=4000),
      method=dict(
        name='moco', depth=18, width=0.25, margin=7, queue=0, levels=5, precision='float32'
      ),
      optimizer=dict(name='sgd', learning_rate=0.06),
      steps=0,
      evals=dict(matching=dict(protocol='matching', **common)),
    )
  )

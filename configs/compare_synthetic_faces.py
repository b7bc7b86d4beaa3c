"""Compares methods on rendered faces: five points with all labels and few, and matching.

  python -m landmarks_jax evaluate --workdir runs/demo --config configs/compare_synthetic_faces.py

for any run of these frames: configs/demo.py, byol_synthetic_faces.py, scrl_synthetic_faces.py, and
others with --config.data.frame=46 --config.method.margin=7; `train` with it scores an
untrained network.
"""

from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=46)
FIVE = dict(**FACES, count=1000)

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}
SMOKE |= {'evals.few.draws': 1, 'evals.few.copies': 1}


def get_config():
  """1,000 labelled pictures, and 1,000 of other faces to score on."""
  common = dict(data=FIVE, margin=7)
  return ConfigDict(
    dict(
      data=dict(**FACES, count=4000),
      method=dict(
        name='moco', depth=18, width=0.25, margin=7, queue=0, levels=5, precision='float32'
      ),
      optimizer=dict(name='sgd', learning_rate=0.06),
      steps=0,
      evals=dict(
        all=dict(protocol='regression', **common),
        few=dict(protocol='regression', **common, labels=(1, 10, 50), draws=3),
        matching=dict(protocol='matching', **common),
      ),
    )
  )

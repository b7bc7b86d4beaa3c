"""BYOL on rendered faces, minutes on two CPU cores; no download.

  python -m landmarks_jax train --config configs/byol_synthetic_faces.py --workdir runs/byol

The baseline of configs/scrl_synthetic_faces.py: everything is the same except the boxes.
"""

from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=46)

SMOKE = {'method.width': 0.0625, 'method.hidden': 32, 'method.dim': 8}


def get_config():
  """A quarter-width ResNet-18 at 32 pixels."""
  common = dict(data=dict(**FACES, count=1000), margin=7)
  return ConfigDict(
    dict(
      data=dict(**FACES, count=4000),
      method=dict(
        name='scrl',
        regions=False,
        depth=18,
        width=0.25,
        output_stride=8,
        margin=7,
        boxes=10,
        smallest=8,
        area=(0.4, 1.0),
        hidden=256,
        dim=64,
        momentum=0.99,
        norm_groups=1,
        levels=5,
        precision='float32',
      ),
      optimizer=dict(name='sgd', learning_rate=0.1, weight_decay=1e-4),
      steps=2000,
      batch_size=64,
      evals=dict(
        matching=dict(protocol='matching', **common),
        points5=dict(protocol='regression', **common),
        points5_few=dict(protocol='regression', **common, labels=50, draws=3),
      ),
    )
  )

"""The embedded default: MoCo on rendered faces, scored with 50 labels. No download, minutes on CPU.

python -m landmarks_jax train --config configs/demo.py --workdir runs/demo
"""

from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=46)
EVAL = dict(protocol='regression', data=dict(**FACES, count=500), margin=7, labels=50, draws=3)

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}


def get_config():
  """A quarter-width ResNet-18 at 32 pixels, so that two cores take thousands of steps."""
  return ConfigDict(
    dict(
      data=dict(**FACES, count=4000),
      method=dict(
        name='moco',
        depth=18,
        width=0.25,
        margin=7,
        area=(0.4, 1.0),
        head_layers=2,
        queue=0,
        temperature=0.2,
        momentum=0.99,
        norm_groups=1,
        levels=5,
        precision='float32',
      ),
      optimizer=dict(name='sgd', learning_rate=0.12, weight_decay=1e-4),
      steps=4000,
      batch_size=64,
      log_every=100,
      evals=dict(faces=EVAL),
    )
  )

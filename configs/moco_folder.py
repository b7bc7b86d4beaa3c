"""MoCo on your own pictures of one kind of object: any folder, no labels.

  python -m landmarks_jax train --config configs/moco_folder.py --workdir runs/mine \
      --config.data.path=DIR

With landmarks in a CSV file (landmarks_jax/data/folder.py), copy this file and fill `evals` as
configs/demo.py does. For an accelerator: depth=50, width=1.0, frame=136, margin=20,
precision='bfloat16', batch_size=256, and more steps.
"""

from ml_collections import ConfigDict

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}


def get_config():
  """A quarter-width ResNet-18 at 48 pixels, in about half an hour on two CPU cores."""
  return ConfigDict(
    dict(
      data=dict(name='folder', path='pictures', frame=68),
      method=dict(
        name='moco',
        depth=18,
        width=0.25,
        margin=10,
        area=(0.4, 1.0),
        head_layers=2,
        queue=0,
        temperature=0.2,
        momentum=0.99,
        norm_groups=1,
        levels=5,
        precision='float32',
      ),
      optimizer=dict(name='sgd', learning_rate=0.06, weight_decay=1e-4),
      steps=10_000,
      batch_size=64,
    )
  )

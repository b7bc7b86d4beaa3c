"""MoCo on 3,732 real photographs, for an accelerator: ResNet-18 at 96 pixels.

  python -m landmarks_jax train --config configs/moco_youtube_faces.py --workdir runs/youtube \
      --config.data.path=DIR

The settings that worked in moco_youtube_faces_cpu.py, at full width and the paper's size, for
longer. DIR is the same. People of the test split are never seen in training.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=136)  # evaluations inherit the path

SMOKE = {'method.width': 0.0625}


def get_config():
  """Five points and 68, with all labels and with 50; 19 steps an epoch."""
  regression = dict(protocol='regression', margin=20)
  few = dict(labels=50, draws=3)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
      method=dict(
        name='moco',
        depth=18,
        width=1.0,
        margin=20,
        area=(0.4, 1.0),
        jpeg=True,
        head_layers=2,
        queue=0,
        temperature=0.2,
        momentum=0.99,
        norm_groups=1,
        levels=5,
        precision='bfloat16',
      ),
      optimizer=dict(name='sgd', learning_rate=0.06, weight_decay=1e-4, epochs=400),
      batch_size=128,
      evals={
        'points5': dict(**regression, data=dict(**FACES, points=5)),
        'points5_few': dict(**regression, **few, data=dict(**FACES, points=5)),
        'points68': dict(**regression, data=dict(**FACES, points=68)),
        'points68_few': dict(**regression, **few, data=dict(**FACES, points=68)),
      },
    )
  )

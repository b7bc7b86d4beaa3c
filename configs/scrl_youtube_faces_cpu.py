"""SCRL on real photographs, small enough for two CPU cores.

  python -m landmarks_jax train --config configs/scrl_youtube_faces_cpu.py --workdir runs/scrl \
      --config.data.path=DIR

The pictures, the network's size and the evaluations of configs/moco_youtube_faces_cpu.py; maps keep
a stride of 8, so that boxes of a fifth of the view have cells of their own.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path

SMOKE = {'method.width': 0.0625, 'method.hidden': 32, 'method.dim': 8}


def get_config():
  """Five points and 68, with all labels and with 50."""
  regression = dict(protocol='regression', margin=10)
  few = dict(labels=50, draws=3)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
      method=dict(
        name='scrl',
        regions=True,
        depth=18,
        width=0.25,
        output_stride=8,
        margin=10,
        boxes=10,
        smallest=10,
        area=(0.4, 1.0),
        hidden=256,
        dim=64,
        momentum=0.99,
        norm_groups=1,
        levels=5,
        precision='float32',
      ),
      optimizer=dict(name='sgd', learning_rate=0.1, weight_decay=1e-4),
      steps=10_000,
      batch_size=64,
      evals={
        'points5': dict(**regression, data=dict(**FACES, points=5)),
        'points5_few': dict(**regression, **few, data=dict(**FACES, points=5)),
        'points68': dict(**regression, data=dict(**FACES, points=68)),
        'points68_few': dict(**regression, **few, data=dict(**FACES, points=68)),
      },
    )
  )

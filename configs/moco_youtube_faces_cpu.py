"""MoCo on 3,732 real photographs, in half an hour on two CPU cores.

  python -m landmarks_jax train --config configs/moco_youtube_faces_cpu.py --workdir runs/youtube \
      --config.data.path=DIR

DIR holds the *Facial Keypoints* teaching set (landmarks_jax/data/youtube_faces_68.py). Small where
the paper is large: a quarter-width ResNet-18 at 48 pixels, the batch's other keys as negatives, a
faster target. People of the test split are never seen in training.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}


def get_config():
  """Five points and 68, with all labels and with 50."""
  regression = dict(protocol='regression', margin=10)
  few = dict(labels=50, draws=3)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
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
      evals={
        'points5': dict(**regression, data=dict(**FACES, points=5)),
        'points5_few': dict(**regression, **few, data=dict(**FACES, points=5)),
        'points68': dict(**regression, data=dict(**FACES, points=68)),
        'points68_few': dict(**regression, **few, data=dict(**FACES, points=68)),
      },
    )
  )

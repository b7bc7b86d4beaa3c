"""Compares methods on real photographs: five points with all labels and few, and matching.

  python -m landmarks_jax evaluate --workdir runs/youtube \
      --config configs/compare_youtube_faces.py --config.data.path=DIR

for any run of 48 pixels of these pictures, such as one of configs/moco_youtube_faces_cpu.py, with
its DIR; `train` with it scores an untrained network. Nobody in the test split was seen.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path
FIVE = dict(**FACES, points=5)

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}
SMOKE |= {'evals.few.draws': 1, 'evals.few.copies': 1}


def get_config():
  """People of the training split are labelled; those of the test split are scored."""
  common = dict(data=FIVE, margin=10)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
      method=dict(
        name='moco', depth=18, width=0.25, margin=10, queue=0, levels=5, precision='float32'
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

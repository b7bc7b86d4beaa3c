"""Matching on real photographs: landmarks of one face found in another, and in its own warp.

  python -m landmarks_jax evaluate --workdir runs/youtube --config configs/match_youtube_faces.py \
      --config.data.path=DIR

for any run of these pictures, such as one of configs/moco_youtube_faces_cpu.py; `train` with it
scores an untrained network.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path
FIVE = dict(**FACES, points=5)

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}


def get_config():
  """Pairs of neighbours of the test split, errors in pixels of a 70-pixel frame."""
  common = dict(data=FIVE, margin=10)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
      method=dict(
        name='moco', depth=18, width=0.25, margin=10, queue=0, levels=5, precision='float32'
      ),
      optimizer=dict(name='sgd', learning_rate=0.06),
      steps=0,
      evals=dict(matching=dict(protocol='matching', **common)),
    )
  )

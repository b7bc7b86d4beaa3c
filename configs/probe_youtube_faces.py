"""The published head on real photographs, for fewer epochs and on smaller maps; five points.

  python -m landmarks_jax evaluate --workdir runs/youtube --config configs/probe_youtube_faces.py \
      --config.data.path=DIR

for any run of these pictures, such as one of configs/moco_youtube_faces_cpu.py; `train` with it
scores an untrained network.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path
FIVE = dict(**FACES, points=5)

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}
SMOKE |= {'evals.points5.probe_epochs': 1, 'evals.points5.probe_size': 12}


def get_config():
  """All labels; the head is trained for 20 epochs, not 200."""
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
        points5=dict(protocol='regression', **common, head='probe', probe_size=24, probe_epochs=20)
      ),
    )
  )

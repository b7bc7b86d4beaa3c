"""Descriptor exchange (DVE) on real photographs, 64 dimensions, on two CPU cores.

  python -m landmarks_jax train --config configs/dve_youtube_faces_cpu.py --workdir runs/dve \
      --config.data.path=DIR

The same square of the picture as configs/moco_youtube_faces_cpu.py, in the same 48 pixels.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path
FIVE = dict(**FACES, points=5)

SMOKE = {'method.width': 0.25}


def get_config():
  """The whole small network at 48 pixels; --config.method.exchange=False is the 2017 form."""
  common = dict(data=FIVE, margin=10)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
      method=dict(
        name='equivariant',
        network='dilations',
        dim=64,
        leak=0.2,
        loss='distance',
        power=0.5,
        exchange=True,
        margin=10,
        jpeg=False,
        precision='float32',
      ),
      optimizer=dict(
        name='adam',
        amsgrad=True,
        learning_rate=1e-3,
        bias_factor=0.01,
        schedule='step',
        milestones=(12, 16),
        epochs=18,
      ),
      batch_size=16,
      evals=dict(
        matching=dict(protocol='matching', **common),
        points5=dict(protocol='regression', **common),
        points5_few=dict(protocol='regression', **common, labels=50, draws=3),
      ),
    )
  )

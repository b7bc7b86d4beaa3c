"""Dense labelling (2017) of 64 dimensions on real photographs, on two CPU cores.

  python -m landmarks_jax train --config configs/dense_youtube_faces_cpu.py --workdir runs/dense \
      --config.data.path=DIR

The baseline of configs/dve_youtube_faces_cpu.py: everything is the same except the exchange.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path
FIVE = dict(**FACES, points=5)

SMOKE = {'method.width': 0.25}


def get_config():
  """The whole small network at 48 pixels, without the exchange."""
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
        exchange=False,
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

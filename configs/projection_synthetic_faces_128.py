"""Features learnt on rendered faces, projected to 128 channels; minutes on two CPU cores.

  python -m landmarks_jax train --config configs/projection_synthetic_faces_128.py \
      --workdir runs/projection --config.base.checkpoint=runs/demo

The base is a run of configs/demo.py, frozen: 32-pixel pictures on a grid of 8, the stride of 4
pixels that the paper has at 96. The rate is 10 times the paper's, for fewer steps.
"""

from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=46)
TEST = dict(**FACES, count=1000)

SMOKE = {'evals.points5_few.draws': 1, 'evals.points5_few.copies': 1}


def get_config():
  """Matching chooses the weights; scores are matching, five points with all labels and few."""
  matching = dict(protocol='matching', data=TEST, margin=7)
  regression = dict(protocol='regression', data=TEST, margin=7)
  return ConfigDict(
    dict(
      base=dict(checkpoint='runs/demo'),
      data=dict(**FACES, count=4000),
      method=dict(name='projection', dim=128, map_sharpness=7.0, sharpness=7.0, size=8, margin=7),
      optimizer=dict(
        name='adam',
        learning_rate=1e-2,
        betas=(0.5, 0.999),
        weight_decay=5e-4,
        final=1e-2 * 0.2**3 * 0.1,
        epochs=15,
      ),
      batch_size=32,
      select='choose/matching/different',
      evals=dict(
        choose=dict(**matching, test='validation', every=625),  # 5 epochs of 4,000
        matching=matching,
        points5=regression,
        points5_few=dict(**regression, labels=(1, 5, 10, 20, 50, 100), draws=3),
      ),
    )
  )

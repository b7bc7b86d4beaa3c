"""30 landmarks discovered on CelebA (lmdis, CVPR 2018).

  python -m landmarks_jax train --config configs/lmdis_celeba_30.py --workdir runs/lmdis \
      --config.data.path=DIR

docs/data.md says what DIR should hold. Every number is the published one; the schedule ends where
the published weights were taken. docs/lmdis.md lists options for where the paper's code differs.
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=100, crop='squash')  # evaluations inherit the path

SMOKE = {'method.width': 0.0625, 'method.appearance_width': 0.0625, 'calibrate': 1}
SMOKE |= {'evals.mafl.few': (1, 5)}
SMOKE |= {'evals.attributes.data.attributes': True}
SMOKE |= {'evals.attributes.names': ('Mouth_Slightly_Open', 'Smiling')}


def get_config():
  """Faces of 80 pixels of 100; five points of MAFL, and attributes, from the landmarks."""
  mafl = dict(data=FACES, train='mafl_train', test='mafl_test', margin=10)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='train_except_mafl_test'),
      method=dict(
        name='lmdis',
        landmarks=30,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        concentrate=100.0,
        separate=10.0,
        bandwidth=0.04,
        follow=1e4,
        reconstruct=(0.1, 10.0, 100.0),
        milestones=(100_000, 200_000),
      ),
      optimizer=dict(
        name='adam', learning_rate=1e-2, schedule='step', milestones=(100_000, 200_000)
      ),
      steps=205_000,
      batch_size=8,
      calibrate=500,
      evals=dict(
        mafl=dict(protocol='discovery', **mafl, few=(1, 5, 10, 20, 100), draws=5),
        attributes=dict(protocol='attributes', data=FACES, margin=10),
      ),
    )
  )

"""10 landmarks discovered on CelebA (lmdis, CVPR 2018).

  python -m landmarks_jax train --config configs/lmdis_celeba_10.py --workdir runs/lmdis \
      --config.data.path=DIR

docs/data.md says what DIR should hold. Every number is the published one; the schedule ends where
the published weights were taken. docs/lmdis.md lists options for where the paper's code differs.
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=100, crop='squash')  # evaluations inherit the path

SMOKE = {'method.width': 0.0625, 'method.appearance_width': 0.0625, 'calibrate': 1}
SMOKE |= {'evals.mafl.few': (1, 5)}


def get_config():
  """Faces of 80 pixels of 100; five points of MAFL from the landmarks."""
  mafl = dict(data=FACES, train='mafl_train', test='mafl_test', margin=10)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='train_except_mafl_test'),
      method=dict(
        name='lmdis',
        landmarks=10,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        concentrate=100.0,
        separate=20.0,
        bandwidth=0.08,
        follow=1e4,
        reconstruct=(0.1, 1.0, 10.0),
        milestones=(100_000, 200_000),
      ),
      optimizer=dict(
        name='adam', learning_rate=1e-3, schedule='step', milestones=(100_000, 200_000)
      ),
      steps=225_000,
      batch_size=16,
      calibrate=500,
      evals=dict(
        mafl=dict(protocol='discovery', **mafl, few=(1, 5, 10, 20, 100), draws=5),
      ),
    )
  )

"""10 landmarks discovered on real photographs, for an accelerator.

  python -m landmarks_jax train --config configs/lmdis_youtube_faces.py --workdir runs/lmdis \
      --config.data.path=DIR

The options of CelebA, on a fifth of the schedule; docs/data.md says what DIR should hold. Tested on
people who are not in the training pictures.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=100)  # evaluations inherit the path

SMOKE = {'method.width': 0.0625, 'method.appearance_width': 0.0625, 'calibrate': 1}
SMOKE |= {'evals.points5.few': (1, 5)}


def get_config():
  """80 pixels of 100; five and 68 points from the landmarks."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
      method=dict(
        name='lmdis',
        landmarks=10,
        concentrate=100.0,
        separate=20.0,
        bandwidth=0.08,
        follow=1e4,
        reconstruct=(0.1, 1.0, 10.0),
        milestones=(20_000, 40_000),
      ),
      optimizer=dict(name='adam', learning_rate=1e-3, schedule='step', milestones=(20_000, 40_000)),
      steps=45_000,
      batch_size=16,
      calibrate=150,
      evals=dict(
        points5=dict(
          protocol='discovery',
          data=dict(**FACES, points=5),
          margin=10,
          few=(1, 5, 10, 20, 100),
          draws=5,
        ),
        points68=dict(protocol='discovery', data=FACES, margin=10),
      ),
    )
  )

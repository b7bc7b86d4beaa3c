"""30 landmarks discovered on AFLW, from the weights of CelebA (lmdis, CVPR 2018).

  python -m landmarks_jax train --config configs/lmdis_aflw_30.py --workdir runs/lmdis_aflw \
      --config.data.path=DIR --init_from=runs/lmdis

where runs/lmdis is a run of configs/lmdis_celeba_30.py; docs/data.md says what DIR should hold. How
long it was trained is not published: the number of steps is chosen here.
"""

from ml_collections import ConfigDict

FACES = dict(name='aflw_r', frame=80)  # evaluations inherit the path

SMOKE = {'method.width': 0.0625, 'method.appearance_width': 0.0625, 'calibrate': 1}
SMOKE |= {'evals.aflw.few': (1, 5)}


def get_config():
  """Faces of 80 pixels, nothing cut; weights and rate stay as they are."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/aflw'),
      method=dict(
        name='lmdis',
        landmarks=30,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        margin=0,
        concentrate=100.0,
        separate=10.0,
        bandwidth=0.04,
        follow=1e4,
        reconstruct=(0.001,),
        milestones=(),
      ),
      optimizer=dict(name='adam', learning_rate=1e-2, schedule='constant'),
      steps=50_000,
      batch_size=8,
      calibrate=500,
      evals=dict(
        aflw=dict(protocol='discovery', data=FACES, few=(1, 5, 10, 20, 100), draws=5),
      ),
    )
  )

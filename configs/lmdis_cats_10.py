"""10 landmarks discovered on cats' heads (lmdis, CVPR 2018).

  python -m landmarks_jax train --config configs/lmdis_cats_10.py --workdir runs/lmdis_cats \
      --config.data.path=DIR

docs/data.md says what DIR should hold. The paper scores seven of the nine points. Its lists of
pictures, and how long it was trained, are not published: split and steps are chosen here.
"""

from ml_collections import ConfigDict

CATS = dict(name='cats', frame=100, points=7)  # evaluations inherit the path

SMOKE = {'method.width': 0.0625, 'method.appearance_width': 0.0625, 'calibrate': 1}
SMOKE |= {'evals.cats.few': (1, 5)}


def get_config():
  """Heads of 80 pixels of 100."""
  return ConfigDict(
    dict(
      data=dict(**CATS, path='data/cats'),
      method=dict(
        name='lmdis',
        landmarks=10,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        concentrate=100.0,
        separate=20.0,
        bandwidth=0.08,
        follow=5e3,
        reconstruct=(1e-4, 1e-3, 1e-2),
        milestones=(100_000, 200_000),
      ),
      optimizer=dict(
        name='adam', learning_rate=1e-3, schedule='step', milestones=(100_000, 200_000)
      ),
      steps=225_000,
      batch_size=16,
      calibrate=500,
      evals=dict(
        cats=dict(protocol='discovery', data=CATS, margin=10, few=(1, 5, 10, 20, 100), draws=5),
      ),
    )
  )

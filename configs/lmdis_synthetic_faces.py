"""Landmarks discovered on rendered faces, no label and no download: lmdis on two CPU cores.

  python -m landmarks_jax train --config configs/lmdis_synthetic_faces.py --workdir runs/lmdis

`discovery/inter_ocular` is the error of a linear map from the discovered landmarks to five true
ones, on faces that were never seen.
"""

from ml_collections import ConfigDict

FACES = dict(name='synthetic/faces', frame=40)

SMOKE = {'method.width': 0.125, 'method.appearance_width': 0.125, 'evals.faces.few': (1, 5)}
SMOKE |= {'calibrate': 1}


def get_config():
  """The light networks at 32 pixels: many small steps."""
  return ConfigDict(
    dict(
      data=dict(**FACES, count=4000),
      method=dict(
        name='lmdis',
        landmarks=10,
        network='light',
        width=0.25,
        appearance_width=0.25,
        margin=4,
        pad=4,
        concentrate=100.0,
        separate=20.0,
        bandwidth=0.08,
        follow=1e4,
        reconstruct=(0.1, 1.0),
        milestones=(1000,),
        precision='float32',
      ),
      optimizer=dict(
        name='adam',
        learning_rate=1e-3,
        schedule='step',
        milestones=(3000,),
        factor=0.1,
        epochs=4000,
      ),
      steps=4000,
      batch_size=16,
      calibrate=50,
      log_every=50,
      checkpoint_every=500,
      evals=dict(
        faces=dict(
          protocol='discovery',
          data=dict(**FACES, count=1000),
          margin=4,
          few=(1, 5, 10, 20, 100),
          draws=5,
        )
      ),
    )
  )

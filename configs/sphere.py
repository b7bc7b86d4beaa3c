"""Dense labels of a turning, textured sphere, learnt from adjacent frames (NeurIPS 2017, 4.2).

  python -m landmarks_jax train --config configs/sphere.py --workdir runs/sphere

Rendered video with exact flow, nothing to download. The figure is `drift/drift`: how many degrees
the label of one point of the surface wanders while the sphere makes a full turn.
"""

from ml_collections import ConfigDict

SPHERE = dict(name='synthetic/sphere', frame=90)

SMOKE = {
  'data.frame': 46,
  'method.width': 0.25,
  'evals.turn.data.frame': 46,
}


def get_config():
  """DILATIONS, whose labels see twice as far as those of SIMPLE; the paper needed it here too."""
  return ConfigDict(
    dict(
      data=SPHERE,
      method=dict(
        name='equivariant',
        network='dilations',
        dim=3,
        loss='distance',
        power=0.5,
        margin=0,
        jitter=0.0,
        pca=0.0,
        jpeg=False,
        precision='float32',
      ),
      optimizer=dict(
        name='adam',
        amsgrad=True,
        learning_rate=1e-3,
        bias_factor=0.01,
        schedule='step',
        milestones=(70, 90),
        epochs=100,
      ),
      batch_size=32,
      evals=dict(turn=dict(protocol='drift', data=SPHERE)),
    )
  )

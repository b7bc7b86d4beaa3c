"""Dense labels of a robotic arm, learnt from its motion by the distance loss (NeurIPS 2017, 4.1).

  python -m landmarks_jax train --config configs/roboarm_dist1.py --workdir runs/roboarm_dist1

Rendered video with exact flow, nothing to download. The figure is `nearest/error`: how far from a
capsule's centre its label is found, in percent of the image's width. docs/results.md has the
command that runs on two CPU cores.
"""

from ml_collections import ConfigDict

ARM = dict(name='synthetic/roboarm', frame=90)

SMOKE = {
  'data.frame': 46,
  'data.count': 480,
  'method.width': 0.25,
  'evals.capsules.data.frame': 46,
  'evals.capsules.data.count': 480,
}


def get_config():
  """SIMPLE with labels of three dimensions, power 1; the schedule of DVE's small networks."""
  return ConfigDict(
    dict(
      data=ARM,
      method=dict(
        name='equivariant',
        network='simple',
        dim=3,
        loss='distance',
        power=1.0,
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
      evals=dict(capsules=dict(protocol='nearest', data=ARM)),
    )
  )

"""Landmarks discovered on a moving arm: they follow the known flow between frames.

  python -m landmarks_jax train --config configs/lmdis_roboarm.py --workdir runs/lmdis_arm

Rendered video, nothing to download. `capsules/discovery/inter_ocular` is the error of the capsules'
centres, linear in the landmarks, in percent of the frame.
"""

from ml_collections import ConfigDict

ARM = dict(name='synthetic/roboarm', frame=80)

SMOKE = {'method.width': 0.0625, 'method.appearance_width': 0.0625, 'calibrate': 1}
SMOKE |= {'evals.capsules.few': (1, 5)}


def get_config():
  """Pairs of frames instead of warps; 10 landmarks for an arm of seven capsules."""
  return ConfigDict(
    dict(
      data=ARM,
      method=dict(
        name='lmdis',
        landmarks=10,
        margin=0,
        brightness=0.0,
        contrast=0.0,
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
        capsules=dict(protocol='discovery', data=ARM, few=(1, 5, 10, 20, 100), draws=5),
      ),
    )
  )

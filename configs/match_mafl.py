"""The paper's matching on MAFL: landmarks of one face found in another, and in its own warp.

  python -m landmarks_jax evaluate --workdir runs/projection --config configs/match_mafl.py \
      --config.evals.mafl.data.path=DIR

for any run; `train` with it scores an untrained ResNet-50. Every number is the published one
(docs/specification.md, section 5).
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', crop='aligned', frame=136)  # the evaluation inherits the path

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}


def get_config():
  """500 pairs of different faces, errors in pixels of a 70-pixel frame."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='mafl_train'),
      method=dict(name='moco', depth=50, margin=20),
      optimizer=dict(name='sgd', learning_rate=0.03),
      steps=0,
      evals=dict(mafl=dict(protocol='matching', data=FACES, test='mafl_test', margin=20)),
    )
  )

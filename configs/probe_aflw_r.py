"""The paper's landmark regression on AFLW_R: the trained head on frozen features.

  python -m landmarks_jax evaluate --workdir runs/celeba --config configs/probe_aflw_r.py \
      --config.evals.aflw_r.data.path=DIR

for any run; `train` with it scores an untrained ResNet-50. Every number is the published one
(docs/specification.md, section 5). --config.evals.aflw_r.head=ridge takes minutes on a CPU.
"""

from ml_collections import ConfigDict

FACES = dict(name='aflw_r', frame=136)  # the evaluation inherits the path

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}
SMOKE |= {
  'evals.aflw_r.probe_epochs': 1,
  'evals.aflw_r.probe_stop_epoch': 1,
  'evals.aflw_r.probe_size': 12,
}


def get_config():
  """Five points, inter-ocular error; the head is read at epoch 45 of 200."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/aflw_r'),
      method=dict(name='moco', depth=50, margin=20),
      optimizer=dict(name='sgd', learning_rate=0.03),
      steps=0,
      evals=dict(
        aflw_r=dict(
          protocol='regression',
          data=FACES,
          margin=20,
          head='probe',
          probe_epochs=200,
          probe_stop_epoch=45,
        )
      ),
    )
  )

"""The paper's landmark regression on 300W: the trained head on frozen features.

  python -m landmarks_jax evaluate --workdir runs/celeba --config configs/probe_w300.py \
      --config.evals.w300.data.path=DIR

for any run; `train` with it scores an untrained ResNet-50. Every number is the published one
(docs/specification.md, section 5). --config.evals.w300.head=ridge takes minutes on a CPU.
"""

from ml_collections import ConfigDict

FACES = dict(name='w300', frame=136)  # the evaluation inherits the path

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}
SMOKE |= {
  'evals.w300.probe_epochs': 1,
  'evals.w300.probe_stop_epoch': 1,
  'evals.w300.probe_size': 12,
}


def get_config():
  """68 points, inter-ocular error; the head is read at epoch 80 of 200."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/w300'),
      method=dict(name='moco', depth=50, margin=20),
      optimizer=dict(name='sgd', learning_rate=0.03),
      steps=0,
      evals=dict(
        w300=dict(
          protocol='regression',
          data=FACES,
          margin=20,
          head='probe',
          probe_epochs=200,
          probe_stop_epoch=80,
        )
      ),
    )
  )

"""The paper's few-shot evaluation: landmarks of AFLW from 1 to 100 labelled pictures.

  python -m landmarks_jax evaluate --workdir runs/celeba --config configs/fewshot_aflw_m.py \
      --config.evals.aflw.data.path=DIR

for any run; `train` with it scores an untrained ResNet-50. The published head, trained for
1,000 epochs of 1,000 pictures (docs/specification.md, section 5): hours on a GPU.
--config.evals.aflw.head=ridge takes minutes, and is better with few labels.
"""

from ml_collections import ConfigDict

FACES = dict(name='aflw_m', frame=136)  # the evaluation inherits the path

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}
SMOKE |= {'evals.aflw.probe_epochs': 1, 'evals.aflw.probe_size': 12, 'evals.aflw.copies': 1}
SMOKE |= {'evals.aflw.probe_epoch_size': 0}


def get_config():
  """Three draws of each number of labels; 20 warped copies of every labelled picture."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/aflw_m'),
      method=dict(name='moco', depth=50, margin=20),
      optimizer=dict(name='sgd', learning_rate=0.03),
      steps=0,
      evals=dict(
        aflw=dict(
          protocol='regression',
          data=FACES,
          margin=20,
          labels=(1, 5, 10, 20, 50, 100),
          draws=3,
          copies=20,
          mirror=False,
          head='probe',
          probe_epochs=1000,
          probe_epoch_size=1000,
          probe_learning_rate=0.01,
          probe_weight_decay=0.05,
        )
      ),
    )
  )

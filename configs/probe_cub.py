"""The paper's bird landmarks: parts of CUB from 10 to all 1,241 labels, on frozen features.

  python -m landmarks_jax evaluate --workdir runs/inat --config configs/probe_cub.py \
      '--config.evals.*.data.path=DIR' '--config.evals.*.data.lists=LISTS'

for any run; LISTS holds the paper's lists, without which a split of the same sizes is drawn.
`train` with it scores an untrained ResNet-50. Every number is the published one
(docs/specification.md, section 5).
"""

from ml_collections import ConfigDict

BIRDS = dict(name='cub', path='data/cub', frame=96)

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}
# Weight decay of the head by training list. DVE's features had .0005 above 100 labels.
LISTS = {'train_10': 0.05, 'train_50': 0.05, 'train_100': 0.05}
LISTS |= {'train_250': 0.005, 'train_500': 0.005, 'train': 0.005}
for split in LISTS:
  SMOKE |= {f'evals.cub_{split}.probe_epochs': 1, f'evals.cub_{split}.probe_size': 12}


def get_config():
  """15 parts, correct within 5 % of the frame; the epoch that is best on validation decides."""
  return ConfigDict(
    dict(
      data=BIRDS,
      method=dict(name='moco', depth=50, margin=0),
      optimizer=dict(name='sgd', learning_rate=0.03),
      steps=0,
      evals={
        f'cub_{split}': dict(
          protocol='pck',
          data=BIRDS,
          train=split,
          head='probe',
          probe_epochs=2000,
          probe_validate_every=1,
          probe_learning_rate=0.01,
          probe_weight_decay=decay,
        )
        for split, decay in LISTS.items()
      },
    )
  )

"""The paper's first stage on birds: ResNet-50, 100,000 pictures of iNaturalist; parts of CUB.

  python -m landmarks_jax train --config configs/moco_inat_resnet50.py --workdir runs/inat \
      --config.data.path=DIR --config.data.listed=FILE

docs/data.md says what these should hold; --config.data.listed=None takes all birds. CUB is expected
in data/cub, or where '--config.evals.*.data.path=DIR' says, the paper's lists of it where
'--config.evals.*.data.lists=DIR' says. Every number is the published one (docs/specification.md,
sections 2 and 5); 800 epochs of 100,000 pictures are 312,000 steps.
"""

from ml_collections import ConfigDict

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}
# Weight decay of the head by training list. DVE's features had .0005 above 100 labels.
LISTS = {'train_10': 0.05, 'train_50': 0.05, 'train_100': 0.05}
LISTS |= {'train_250': 0.005, 'train_500': 0.005, 'train': 0.005}

for split in LISTS:
  SMOKE |= {f'evals.cub_{split}.probe_epochs': 1, f'evals.cub_{split}.probe_size': 12}


def get_config():
  """The hyper-parameters of the ICCV 2021 paper; heads learn from 10 to all 1,241 labels."""
  return ConfigDict(
    dict(
      data=dict(name='inat', path='data/inat', listed='data/inat/listed.txt', frame=96),
      method=dict(
        name='moco',
        depth=50,
        width=1.0,
        margin=0,
        area=(0.2, 1.0),
        jitter=0.4,
        pca=0.1,
        jpeg=True,
        head_layers=1,
        dim=128,
        queue=4096,
        temperature=0.07,
        momentum=0.999,
        norm_groups=4,
      ),
      optimizer=dict(name='sgd', learning_rate=0.03, momentum=0.9, weight_decay=1e-4, epochs=800),
      batch_size=256,
      evals={
        f'cub_{split}': dict(
          protocol='pck',
          data=dict(name='cub', path='data/cub', frame=96),
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

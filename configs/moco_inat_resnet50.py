"""The paper's first stage on birds: ResNet-50, 100,000 pictures of iNaturalist; parts of CUB.

  python -m landmarks_jax train --config configs/moco_inat_resnet50.py --workdir runs/inat \
      --config.data.path=DIR --config.data.listed=FILE --config.evals.cub.data.path=DIR

docs/data.md says what these should hold. Every number is the published one (docs/specification.md,
sections 2 and 5); 800 epochs of 100,000 pictures are 312,000 steps. The paper keeps the epoch of
the head that is best on validation, here it is the last.
"""

from ml_collections import ConfigDict

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}
SMOKE |= {'evals.cub.probe_epochs': 1, 'evals.cub.probe_size': 12}


def get_config():
  """The hyper-parameters of the ICCV 2021 paper; the head learns from all 1,241 labels."""
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
      evals=dict(
        cub=dict(
          protocol='regression',
          data=dict(name='cub', path='data/cub', frame=96),
          head='probe',
          probe_epochs=2000,
          probe_learning_rate=0.01,
          probe_weight_decay=0.005,
        )
      ),
    )
  )

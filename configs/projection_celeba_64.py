"""The paper's second stage on faces: 64 channels on a frozen ResNet-50; matching on MAFL.

  python -m landmarks_jax train --config configs/projection_celeba_64.py \
      --workdir runs/projection --config.base.checkpoint=runs/celeba --config.data.path=DIR

The base is a run of configs/moco_celeba_resnet50.py. Every number is the published one
(docs/specification.md, sections 4 and 5). The released code trains on augmented pictures
(--config.method.augment=True --config.method.jpeg=True); the paper says that it does not.
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=136)  # evaluations inherit the path


def get_config():
  """Weights are chosen by matching 2,000 training pictures of MAFL after each of 10 epochs."""
  matching = dict(protocol='matching', data=FACES, margin=20)
  return ConfigDict(
    dict(
      base=dict(checkpoint='runs/celeba'),
      data=dict(**FACES, path='data/celeba', split='train'),
      method=dict(name='projection', dim=64, map_sharpness=6.5, sharpness=8.0, size=24, margin=20),
      optimizer=dict(
        name='adam',
        learning_rate=1e-3,
        betas=(0.5, 0.999),
        weight_decay=5e-4,
        final=1e-3 * 0.2**3 * 0.1,
        epochs=10,
      ),
      batch_size=32,
      select='choose/matching/different',
      evals=dict(
        choose=dict(**matching, test='mafl_train', count=2000, every='epoch'),
        mafl=dict(**matching, test='mafl_test'),
      ),
    )
  )

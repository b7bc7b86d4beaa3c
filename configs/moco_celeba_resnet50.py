"""The paper's first stage on faces: ResNet-50, CelebA without MAFL; landmarks of MAFL.

  python -m landmarks_jax train --config configs/moco_celeba_resnet50.py --workdir runs/celeba \
      --config.data.path=DIR

docs/data.md says what DIR should hold. Every number is the published one (docs/specification.md,
sections 2 and 5). The number of pictures, about 145,000, says how many steps 800 epochs are: about
455,000. The run prints both.
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=136)  # the evaluation inherits the path

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.queue': 64}
SMOKE |= {'evals.mafl.probe_epochs': 1, 'evals.mafl.probe_stop_epoch': 1}
SMOKE |= {'evals.mafl.probe_size': 12}


def get_config():
  """The hyper-parameters of the ICCV 2021 paper; the trained head is read at epoch 120 of 200."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='train'),
      method=dict(
        name='moco',
        depth=50,
        width=1.0,
        margin=20,
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
        mafl=dict(
          protocol='regression',
          data=FACES,
          train='mafl_train',
          test='mafl_test',
          margin=20,
          head='probe',
          probe_epochs=200,
          probe_stop_epoch=120,
        )
      ),
    )
  )

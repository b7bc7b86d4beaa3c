"""SCRL on faces: ResNet-50 on CelebA without MAFL, at 96 pixels; landmarks of MAFL.

  python -m landmarks_jax train --config configs/scrl_celeba.py --workdir runs/scrl_celeba \
      --config.data.path=DIR

docs/data.md says what DIR should hold. The published size is 224 pixels; this is an adaptation
(docs/scrl.md, section 6): maps of 6x6 instead of 3x3, boxes of 16 pixels or more.
--config.method.regions=False is BYOL.
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=136)  # the evaluation inherits the path

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.norm_groups': 1}
SMOKE |= {'method.hidden': 32, 'method.dim': 8}
SMOKE |= {'evals.mafl.probe_epochs': 1, 'evals.mafl.probe_stop_epoch': 1}
SMOKE |= {'evals.mafl.probe_size': 12}


def get_config():
  """One device, 512 pictures; MAFL as configs/moco_celeba_resnet50.py scores it."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='train'),
      method=dict(
        name='scrl',
        regions=True,
        depth=50,
        output_stride=16,
        margin=20,
        boxes=10,
        smallest=16,
        overlap=0.5,
        area=(0.2, 1.0),
        hidden=4096,
        dim=256,
        momentum=0.99,
        norm_groups=1,
      ),
      optimizer=dict(
        name='lars',
        learning_rate=0.4,
        momentum=0.9,
        weight_decay=1.5e-6,
        schedule='cosine_by_step',
        warmup_epochs=10,
        epochs=200,
      ),
      batch_size=512,
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

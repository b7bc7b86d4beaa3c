"""SCRL as published: ResNet-50 on ImageNet, 200 epochs, then a linear classifier.

  python -m landmarks_jax train --config configs/scrl_imagefolder.py --workdir runs/scrl \
      --config.data.path=DIR

DIR holds train/CLASS/*.jpg and val/CLASS/*.jpg: ImageNet, or any pictures in such folders. Every
number is the published one (docs/scrl.md) for batches of 8,192 pictures; the rate is .45 for 256.
1,000 epochs: --config.optimizer.epochs=1000 --config.optimizer.learning_rate=6.4
--config.optimizer.weight_decay=1.5e-6 --config.method.momentum=.996.
"""

from ml_collections import ConfigDict

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.norm_groups': 1}
SMOKE |= {'method.size': 64, 'method.hidden': 32, 'method.dim': 8, 'method.classes': 4}
SMOKE |= {'data.frame': 72, 'evals.classes.data.frame': 72, 'evals.classes.margin': 4}


def get_config():
  """Crops of 224 pixels from frames of 320; classes are predicted at 224 of 256."""
  pictures = dict(name='folder', classes=True)
  return ConfigDict(
    dict(
      data=dict(**pictures, path='data/imagenet', split='train', frame=320),
      method=dict(
        name='scrl',
        regions=True,
        depth=50,
        size=224,
        boxes=10,
        smallest=32,
        overlap=0.5,
        area=(0.2, 1.0),
        hidden=4096,
        dim=256,
        momentum=0.97,
        classes=1000,
        norm_groups=1,
      ),
      optimizer=dict(
        name='lars',
        learning_rate=14.4,
        momentum=0.9,
        weight_decay=1e-6,
        exclude=r'bias$|layer\d_\d+/bn\d/scale$',
        schedule='cosine_by_step',
        warmup_epochs=10,
        epochs=200,
      ),
      batch_size=8192,
      evals=dict(
        classes=dict(
          protocol='linear',
          data=dict(**pictures, frame=256),
          train='train',
          test='val',
          margin=16,
        )
      ),
    )
  )

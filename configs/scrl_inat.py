"""SCRL on birds: ResNet-50, 100,000 pictures of iNaturalist at 96 pixels; parts of CUB.

  python -m landmarks_jax train --config configs/scrl_inat.py --workdir runs/scrl_inat \
      --config.data.path=DIR --config.data.listed=FILE

docs/data.md says what these should hold; --config.data.listed=None takes all birds. CUB is expected
in data/cub, or where --config.evals.cub.data.path=DIR says. The adaptation to 96 pixels of
configs/scrl_celeba.py (docs/scrl.md, section 6). --config.method.regions=False is BYOL.
"""

from ml_collections import ConfigDict

SMOKE = {'method.depth': 18, 'method.width': 0.0625, 'method.norm_groups': 1}
SMOKE |= {'method.hidden': 32, 'method.dim': 8}
SMOKE |= {'evals.cub.probe_epochs': 1, 'evals.cub.probe_size': 12}


def get_config():
  """One device, 512 pictures; heads learn parts from all 1,241 labels, as for MoCo."""
  return ConfigDict(
    dict(
      data=dict(name='inat', path='data/inat', listed='data/inat/listed.txt', frame=96),
      method=dict(
        name='scrl',
        regions=True,
        depth=50,
        output_stride=16,
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
        cub=dict(
          protocol='pck',
          data=dict(name='cub', path='data/cub', frame=96),
          train='train',
          head='probe',
          probe_epochs=2000,
          probe_validate_every=1,
          probe_learning_rate=0.01,
          probe_weight_decay=0.005,
        )
      ),
    )
  )

"""Descriptor exchange on faces with the hourglass (DVE, ICCV 2019), 64 dimensions.

  python -m landmarks_jax train --config configs/dve_celeba_hourglass.py --workdir runs/dve \
      --config.data.path=DIR

docs/data.md says what DIR should hold. The training is that of the released code, the head that of
the ICCV 2021 system (docs/equivariant.md says what differs).
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=136)  # evaluations inherit the path

SMOKE = {'method.width': 0.125, 'method.blocks': 1, 'method.jpeg': False}
SMOKE |= {'evals.mafl.probe_epochs': 1, 'evals.mafl.probe_stop_epoch': 1}
SMOKE |= {'evals.mafl.probe_size': 12}


def get_config():
  """The loss compares unit labels times 20; MAFL by regression, and matching of its test set."""
  mafl = dict(data=FACES, train='mafl_train', test='mafl_test', margin=20)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='train'),
      method=dict(
        name='equivariant',
        network='hourglass',
        dim=64,
        loss='distance',
        power=0.5,
        exchange=True,
        normalise=True,
        sharpness=400.0,
        margin=20,
      ),
      optimizer=dict(
        name='adam',
        amsgrad=True,
        learning_rate=1e-3,
        schedule='step',
        milestones=(50,),
        epochs=100,
      ),
      batch_size=16,
      evals=dict(
        mafl=dict(protocol='regression', **mafl, head='probe', probe_stop_epoch=120),
        mafl_matching=dict(protocol='matching', data=FACES, margin=20, test='mafl_test'),
      ),
    )
  )

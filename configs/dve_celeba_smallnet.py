"""Descriptor exchange on faces with the small network (DVE, ICCV 2019), 64 dimensions.

  python -m landmarks_jax train --config configs/dve_celeba_smallnet.py --workdir runs/dve \
      --config.data.path=DIR

docs/data.md says what DIR should hold. The training is that of the released code, the head that of
the ICCV 2021 system (docs/equivariant.md says what differs).
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=100)  # evaluations inherit the path

SMOKE = {'method.width': 0.25}
SMOKE |= {'evals.mafl.probe_epochs': 1, 'evals.mafl.probe_stop_epoch': 1}
SMOKE |= {'evals.mafl.probe_size': 12}


def get_config():
  """DILATIONS with leaky activations; landmarks of MAFL by regression, matching of its test set."""
  mafl = dict(data=FACES, train='mafl_train', test='mafl_test', margin=15)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='train'),
      method=dict(
        name='equivariant',
        network='dilations',
        dim=64,
        leak=0.2,
        loss='distance',
        power=0.5,
        exchange=True,
        margin=15,
      ),
      optimizer=dict(
        name='adam',
        amsgrad=True,
        learning_rate=1e-3,
        bias_factor=0.01,
        biases=r'(conv\d|labels)/bias$',
        schedule='step',
        milestones=(70, 90),
        epochs=100,
      ),
      batch_size=32,
      evals=dict(
        mafl=dict(protocol='regression', **mafl, head='probe', probe_stop_epoch=120),
        mafl_matching=dict(protocol='matching', data=FACES, margin=15, test='mafl_test'),
      ),
    )
  )

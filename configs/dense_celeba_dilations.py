"""Dense labels of three dimensions on faces, DILATIONS network (NeurIPS 2017, section 4.3).

  python -m landmarks_jax train --config configs/dense_celeba_dilations.py --workdir runs/dense \
      --config.data.path=DIR

docs/data.md says what DIR should hold. Network, loss and pictures are the paper's; it does not say
how long and how fast it trains, which is as in DVE's code. The head is that of the ICCV 2021 system
(docs/equivariant.md).
"""

from ml_collections import ConfigDict

FACES = dict(name='celeba', frame=100)  # evaluations inherit the path

SMOKE = {'method.width': 0.25}
SMOKE |= {'evals.mafl.probe_epochs': 1, 'evals.mafl.probe_stop_epoch': 1}
SMOKE |= {'evals.mafl.probe_size': 12}


def get_config():
  """The distance loss, power .5; landmarks of MAFL by nearest label and by regression."""
  mafl = dict(data=FACES, train='mafl_train', test='mafl_test', margin=15)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/celeba', split='train_except_mafl_test'),
      method=dict(
        name='equivariant',
        network='dilations',
        dim=3,
        loss='distance',
        power=0.5,
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
        mafl_nearest=dict(protocol='nearest', **mafl),
      ),
    )
  )

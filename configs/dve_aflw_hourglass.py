"""Descriptor exchange fine-tuned on AFLW without labels, hourglass (DVE, ICCV 2019).

  python -m landmarks_jax train --config configs/dve_aflw_hourglass.py --workdir runs/dve_aflw \
      --config.data.path=DIR --init_from=runs/dve

where runs/dve is a run of configs/dve_celeba_hourglass.py; docs/data.md says what DIR should hold.
The training is that of the released code, the head that of the ICCV 2021 system
(docs/equivariant.md).
"""

from ml_collections import ConfigDict

FACES = dict(name='aflw_m', frame=136)  # the evaluation inherits the path

SMOKE = {'method.width': 0.125, 'method.blocks': 1, 'method.jpeg': False}
SMOKE |= {'evals.aflw.probe_epochs': 1, 'evals.aflw.probe_stop_epoch': 1}
SMOKE |= {'evals.aflw.probe_size': 12}


def get_config():
  """The loss compares unit labels times 20; five points by regression."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/aflw_m'),
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
        milestones=(30, 40),
        epochs=50,
      ),
      batch_size=16,
      evals=dict(
        aflw=dict(protocol='regression', data=FACES, margin=20, head='probe', probe_stop_epoch=45),
      ),
    )
  )

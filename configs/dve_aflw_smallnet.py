"""Descriptor exchange fine-tuned on AFLW without labels, small network (DVE, ICCV 2019).

  python -m landmarks_jax train --config configs/dve_aflw_smallnet.py --workdir runs/dve_aflw \
      --config.data.path=DIR --init_from=runs/dve

where runs/dve is a run of configs/dve_celeba_smallnet.py; docs/data.md says what DIR should hold.
The training is that of the released code, whose config gives the loss no options: labels have unit
length. The head is that of the ICCV 2021 system (docs/equivariant.md).
"""

from ml_collections import ConfigDict

FACES = dict(name='aflw_m', frame=100)  # the evaluation inherits the path

SMOKE = {'method.width': 0.25}
SMOKE |= {'evals.aflw.probe_epochs': 1, 'evals.aflw.probe_stop_epoch': 1}
SMOKE |= {'evals.aflw.probe_size': 12}


def get_config():
  """Unlike on CelebA, labels have unit length and biases the common rate; five points."""
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/aflw_m'),
      method=dict(
        name='equivariant',
        network='dilations',
        dim=64,
        leak=0.2,
        loss='distance',
        power=0.5,
        exchange=True,
        normalise=True,
        sharpness=400.0,
        margin=15,
      ),
      optimizer=dict(
        name='adam',
        amsgrad=True,
        learning_rate=1e-3,
        schedule='step',
        milestones=(30, 40),
        epochs=50,
      ),
      batch_size=32,
      evals=dict(
        aflw=dict(protocol='regression', data=FACES, margin=15, head='probe', probe_stop_epoch=45),
      ),
    )
  )

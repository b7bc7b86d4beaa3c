"""Dense labels of three dimensions on cats' heads (NeurIPS 2017, figure 8).

  python -m landmarks_jax train --config configs/dense_cats.py --workdir runs/cats \
      --config.data.path=DIR

docs/data.md says what DIR should hold. The paper shows pictures only; landmarks are scored here.
"""

from ml_collections import ConfigDict

CATS = dict(name='cats', frame=100)  # evaluations inherit the path

SMOKE = {'method.width': 0.25}


def get_config():
  """DILATIONS by the likelihood; nine landmarks by nearest label and by regression."""
  return ConfigDict(
    dict(
      data=dict(**CATS, path='data/cats'),
      method=dict(name='equivariant', network='dilations', dim=3, loss='nll', margin=15),
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
        nearest=dict(protocol='nearest', data=CATS, margin=15),
        regression=dict(protocol='regression', data=CATS, margin=15),
      ),
    )
  )

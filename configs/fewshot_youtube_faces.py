"""Evaluates a run on real photographs: few labels, matching, and every layer alone.

  python -m landmarks_jax evaluate --workdir runs/youtube \
      --config configs/fewshot_youtube_faces.py --config.data.path=DIR

The published head's long schedule is `published`, for 10 labels; its maps have 24 positions a side,
twice those of the finest level, as the paper's 48 are.
"""

from ml_collections import ConfigDict

FACES = dict(name='youtube_faces_68', frame=68)  # evaluations inherit the path
FIVE = dict(**FACES, points=5)

SMOKE = {'method.width': 0.0625, 'method.norm_groups': 1}
SMOKE |= {'evals.published.probe_epochs': 1, 'evals.published.probe_epoch_size': 0}
SMOKE |= {'evals.few.draws': 1, 'evals.few.copies': 1}
SMOKE |= {'evals.layers.draws': 1, 'evals.layers.copies': 1, 'evals.layers.labels': 4}


def get_config():
  """Evaluations only; the method is that of configs/moco_youtube_faces_cpu.py, untrained."""
  common = dict(data=FIVE, margin=10)
  return ConfigDict(
    dict(
      data=dict(**FACES, path='data/youtube_faces_68'),
      method=dict(
        name='moco', depth=18, width=0.25, margin=10, queue=0, levels=5, precision='float32'
      ),
      optimizer=dict(name='sgd', learning_rate=0.06),
      steps=0,
      evals=dict(
        few=dict(protocol='regression', **common, labels=(1, 5, 10, 20, 50, 100), draws=5),
        layers=dict(protocol='layers', of='regression', random=True, **common, labels=50, draws=3),
        matching=dict(protocol='matching', **common),
        published=dict(
          protocol='regression',
          **common,
          labels=10,
          draws=1,
          mirror=False,
          head='probe',
          probe_size=24,
          probe_epochs=1000,
          probe_epoch_size=1000,
          probe_learning_rate=0.01,
          probe_weight_decay=0.05,
        ),
      ),
    )
  )

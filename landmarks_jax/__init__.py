"""Unsupervised learning of object landmarks in JAX/Flax. Start at contracts.py.

To use a trained network: `load`, `match`, `fit_landmarks`, `load_landmarks` and `Model`
(docs/using.md). For code of your own: the modules `contracts`, `losses` and `metrics`.
"""

import importlib
from typing import Any

__version__ = '0.1.0'
_MODULES = ['contracts', 'losses', 'metrics']
__all__ = [
  'LandmarkModel',
  'Landmarks',
  'Matches',
  'Model',
  'fit_landmarks',
  'load',
  'load_landmarks',
  'match',
  *_MODULES,
]


def __getattr__(name: str) -> Any:
  """Imports what is offered on first use, so that `import landmarks_jax` itself is instant."""
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  if name in _MODULES:
    return importlib.import_module(f'{__name__}.{name}')
  return getattr(importlib.import_module(f'{__name__}.api'), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])

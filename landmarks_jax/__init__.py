"""Unsupervised learning of object landmarks in JAX/Flax. Start at contracts.py.

To use a trained network: `load`, `match`, `fit_landmarks`, `load_landmarks` and `Model`
(docs/using.md).
"""

from typing import Any

__version__ = '0.1.0'
__all__ = ['Model', 'fit_landmarks', 'load', 'load_landmarks', 'match']


def __getattr__(name: str) -> Any:
  """Imports the names of `api` on first use, so that `import landmarks_jax` itself is instant."""
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from landmarks_jax import api

  return getattr(api, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])

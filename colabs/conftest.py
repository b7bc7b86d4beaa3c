"""pytest runs the notebooks in smoke mode: tiny, in seconds, with results of no meaning."""

import os

import pytest

SMOKE = {'LANDMARKS_JAX_SMOKE': '1', 'JAX_PLATFORMS': 'cpu'}
# One device, where tests/conftest.py has eight, and code that is compiled quickly.
SMOKE['XLA_FLAGS'] = '--xla_backend_optimization_level=0'


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
  """What the kernel of a notebook inherits."""
  before = dict(os.environ)
  os.environ.update(SMOKE)
  try:
    return (yield)
  finally:
    os.environ.clear()
    os.environ.update(before)

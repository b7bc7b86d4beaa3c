"""Lets pytest run the notebooks in smoke mode: tiny, in seconds, with meaningless results."""

import os
import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / 'tests'))

import compiling

# One device, unlike tests/conftest.py, which sets up eight.
SMOKE = {'LANDMARKS_JAX_SMOKE': '1', 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': compiling.QUICKLY}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
  """Sets the environment that a notebook's kernel inherits."""
  before = dict(os.environ)
  os.environ.update(SMOKE)
  try:
    return (yield)
  finally:
    os.environ.clear()
    os.environ.update(before)

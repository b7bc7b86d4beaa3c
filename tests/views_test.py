"""A view: the order of its steps, what each option leaves out, and one device against eight."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from landmarks_jax.augment import colour, crop, views

SIDE = 17


def frames(count=6, side=SIDE):
  """Smooth pictures, each of its own tint."""
  r = np.random.default_rng(0)
  rows, columns = np.mgrid[:side, :side, None][:2] if False else np.mgrid[:side, :side]
  tint = r.uniform(40, 120, (count, 1, 1, 3))
  wave = np.sin(rows / 3)[None, ..., None] * r.uniform(10, 60, (count, 1, 1, 3))
  wave = wave + np.cos(columns / 2)[None, ..., None] * r.uniform(10, 60, (count, 1, 1, 3))
  return np.clip(tint + wave + 60, 0, 255).astype(np.uint8)

"""Eight CPU devices, shapes checked at every call, code compiled quickly and kept on disk."""

import os
import pathlib
import signal

import compiling

root = pathlib.Path(__file__).resolve().parents[1]
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
devices = '--xla_force_host_platform_device_count=8'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {devices} {compiling.QUICKLY}'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(root / '.cache/jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook('landmarks_jax', 'beartype.beartype')

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

# A shell has its background jobs ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
flags.FLAGS.mark_as_parsed()  # Grain's workers ask for it
jax.config.update('jax_default_matmul_precision', 'highest')  # parity with float32 PyTorch


@pytest.fixture(scope='module', autouse=True)
def _let_go_of_compiled_code():
  """A process may hold 65,530 pieces of memory, and the suite compiles more than that."""
  yield
  jax.clear_caches()


@pytest.fixture
def golden():
  """golden('name') -> dict of the arrays in tests/golden/name.npz."""
  return lambda name: dict(np.load(root / 'tests/golden' / f'{name}.npz'))


@pytest.fixture(scope='session')
def youtube_faces():
  """The folder of real photographs beside the repository; skips where it is absent."""
  path = root.parent / 'shared/data/youtube_faces_68'
  if not path.exists():
    pytest.skip(f'no real photographs at {path}')
  return str(path)

"""pytest runs the notebooks in smoke mode: tiny, in seconds, with results of no meaning."""

import os

os.environ['LANDMARKS_JAX_SMOKE'] = '1'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

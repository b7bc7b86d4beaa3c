"""Installs landmarks_jax. Tool settings live in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent


def read(file: str) -> str:
  """A file beside this one, whatever the locale."""
  return (here / file).read_text(encoding='utf-8')


version = re.search(r"__version__ = '(.+)'", read('landmarks_jax/__init__.py'))[1]

core = [
  'absl-py',
  'flax>=0.12.8',
  'grain>=0.2.18',
  'importlib_resources',  # tensorflow-datasets imports it and does not declare it
  'jax>=0.10.2,<0.13',
  'jaxtyping',
  'matplotlib',
  'ml-collections',
  'numpy',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.12.8',
  'pillow',
  'scipy',
  'simplejpeg',
  'tensorboardX',
  'tensorflow-datasets>=4.9.10',
]
extras = {
  'eval': ['scikit-learn'],
  'label': ['starlette', 'uvicorn'],
  'docs': ['mkdocs-material'],
  'notebooks': ['jupytext', 'nbmake'],
  'export': ['flatbuffers', 'safetensors'],  # the first for jax.export, which does not declare it
}
everything = [package for packages in extras.values() for package in packages]
tests = ['beartype', 'httpx2', 'pytest', 'pytest-xdist[psutil]', 'ruff', 'selenium']
extras['test'] = [*tests, *everything]
extras['cuda'] = ['jax[cuda13]>=0.10.2,<0.13']
extras['tpu'] = ['jax[tpu]>=0.10.2,<0.13']

setup(
  name='landmarks_jax',
  version=version,
  description='Unsupervised learning of object landmarks in JAX and Flax, for TPU and GPU',
  long_description=read('README.md'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  packages=find_packages(include=['landmarks_jax', 'landmarks_jax.*']),
  package_data={'landmarks_jax.labelling': ['page/*']},
  python_requires='>=3.11',
  install_requires=core,
  extras_require=extras,
  entry_points={'console_scripts': ['landmarks-jax = landmarks_jax.cli.main:main']},
)

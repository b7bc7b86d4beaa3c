"""Installs landmarks_jax. Tool settings live in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent


def read(file: str) -> str:
  """A file beside this one, whatever the locale."""
  return (here / file).read_text(encoding='utf-8')


version = re.search(r"__version__ = '(.+)'", read('landmarks_jax/__init__.py'))[1]

# The least versions with which parts of the tests passed on Python 3.11, all others at their least.
core = [
  'absl-py>=0.10',
  'array_record>=0.8.1; sys_platform != "win32"',  # Grain's, which leaves it out on Windows
  'flax>=0.12.8',
  'grain>=0.2.18',
  'importlib_resources',  # tensorflow-datasets imports it and does not declare it
  'jax>=0.10.2,<0.13',
  'jaxtyping>=0.2.31',
  'matplotlib>=3.8.4',
  'ml-collections>=0.1',
  'ml_dtypes>=0.5',
  'numpy>=2',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.12.8',
  'pillow>=11.2.1',
  'scipy>=1.14',
  'simplejpeg>=1.7.4',
  'tensorboardX>=2.6.1',
  'tensorflow-datasets>=4.9.10',
]
extras = {
  'eval': ['scikit-learn>=1.4.2'],
  'label': ['starlette>=1.2', 'uvicorn>=0.30'],
  'docs': ['mkdocs-material'],
  'notebooks': ['jupytext', 'nbmake'],
  # The first for jax.export, which does not declare it.
  'export': ['flatbuffers>=2', 'safetensors>=0.4'],
}
everything = [package for packages in extras.values() for package in packages]
tests = [
  'beartype',
  'httpx2',
  'pytest',
  'pytest-xdist[psutil]',
  'ruff',
  'selenium',
  'setuptools>=77',
]
extras['test'] = [*tests, *everything]
extras['cuda'] = ['jax[cuda13]>=0.10.2,<0.13']
extras['tpu'] = ['jax[tpu]>=0.10.2,<0.13']

setup(
  name='landmarks_jax',
  version=version,
  description='Unsupervised learning of object landmarks in JAX and Flax, for TPU and GPU',
  long_description=read('README.md'),
  long_description_content_type='text/markdown',
  license_expression='Apache-2.0',
  license_files=['LICENSE'],
  packages=find_packages(include=['landmarks_jax', 'landmarks_jax.*']),
  package_data={'landmarks_jax': ['py.typed'], 'landmarks_jax.labelling': ['page/*']},
  keywords='landmarks keypoints unsupervised self-supervised jax flax tpu moco dve scrl lmdis',
  classifiers=[
    'Intended Audience :: Science/Research',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Scientific/Engineering :: Image Recognition',
    'Typing :: Typed',
  ],
  python_requires='>=3.11',
  install_requires=core,
  extras_require=extras,
  entry_points={'console_scripts': ['landmarks-jax = landmarks_jax.cli.main:main']},
)

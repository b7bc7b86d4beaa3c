"""What `pip install` brings where there is no checkout."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import landmarks_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
EVERYTHING = """
import importlib, pkgutil, landmarks_jax
for module in pkgutil.walk_packages(landmarks_jax.__path__, 'landmarks_jax.'):
  if not module.name.endswith('__main__'):
    importlib.import_module(module.name)
print(landmarks_jax.__file__)
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The files of a wheel, unpacked."""
  copy = tmp_path_factory.mktemp('checkout')
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, copy)
  unread = shutil.ignore_patterns('__pycache__')
  shutil.copytree(ROOT / 'landmarks_jax', copy / 'landmarks_jax', ignore=unread)
  built = tmp_path_factory.mktemp('wheel')
  command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
  subprocess.run([*command, '-w', built, copy], check=True)
  (path,) = built.iterdir()
  shutil.unpack_archive(path, built / 'site', 'zip')
  return built / 'site'


def files(folder):
  paths = (folder / 'landmarks_jax').rglob('*')
  return {str(path.relative_to(folder)) for path in paths if path.is_file()}


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel):
  assert files(wheel) == {name for name in files(ROOT) if '__pycache__' not in name}
  (about,) = wheel.glob('*.dist-info')
  assert {path.name for path in wheel.iterdir()} == {'landmarks_jax', about.name}
  assert f'Version: {landmarks_jax.__version__}' in (about / 'METADATA').read_text('utf-8')


def test_every_module_imports_outside_of_a_checkout(wheel, tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(wheel))
  command = [sys.executable, '-c', EVERYTHING]
  out = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
  assert pathlib.Path(out.strip()).is_relative_to(wheel)

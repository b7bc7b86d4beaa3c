"""The notebooks of colabs/ and their sources say the same. pytest runs them: colabs/conftest.py."""

import ast
import importlib.util
import pathlib
import shutil
import subprocess
import tempfile
import types

import jupytext
import nbformat
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(p for p in (ROOT / 'colabs').glob('*.py') if p.name != 'conftest.py')
every_source = pytest.mark.parametrize('source', SOURCES, ids=lambda path: path.stem)
with_configs = pytest.mark.parametrize(
  'source', [p for p in SOURCES if p.stem != 'losses'], ids=lambda path: path.stem
)


def cells(notebook):
  return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_the_notebooks_are_there():
  assert [path.stem for path in SOURCES] == ['losses', 'methods', 'quickstart', 'reproduce']
  assert {path.stem for path in (ROOT / 'colabs').glob('*.ipynb')} == {p.stem for p in SOURCES}


@every_source
def test_a_notebook_and_its_source_are_in_step(source):
  notebook = nbformat.read(source.with_suffix('.ipynb'), as_version=4)
  said = f'run: jupytext --update --to ipynb colabs/{source.name}'
  assert cells(notebook) == cells(jupytext.read(source)), said


@every_source
def test_a_notebook_is_small(source):
  assert source.with_suffix('.ipynb').stat().st_size < 300_000


@every_source
def test_the_first_code_names_the_one_address_where_the_package_is(source):
  (first, *others) = [text for kind, text in cells(jupytext.read(source)) if kind == 'code']
  site = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())
  (address,) = [
    node.value.value
    for node in ast.parse(first).body
    if isinstance(node, ast.Assign) and node.targets[0].id == 'ADDRESS'
  ]
  assert address == site['extra']['address']
  assert address not in ''.join(others)
  assert address in (ROOT / 'docs/tutorial.md').read_text()


@pytest.fixture
def begin(tmp_path, monkeypatch):
  """begin(source, installed=FILE, gpu=False) runs the first code of a page in an empty folder.

  installed: `__init__.py` of the installed package, or None. Returns (the names it defined, the
  commands it gave); a clone makes its folder, nothing is installed.
  """

  def run(source, *, installed=None, gpu=False):
    given = []

    def take(words, check):
      given.append(' '.join(map(str, words[1:])))
      if 'clone' in words:
        (pathlib.Path(words[-1]) / 'configs').mkdir(parents=True)
        (pathlib.Path(words[-1]) / 'configs/demo.py').touch()

    spec = installed and types.SimpleNamespace(origin=str(installed))
    with monkeypatch.context() as patch:
      patch.chdir(tmp_path)
      patch.setattr(tempfile, 'tempdir', str(tmp_path))
      patch.setattr(importlib.util, 'find_spec', lambda name: spec)
      patch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}' if gpu else None)
      patch.setattr(subprocess, 'run', take)
      names = {}
      exec(next(text for kind, text in cells(jupytext.read(source)) if kind == 'code'), names)
    return names, given

  return run


@every_source
def test_the_first_code_clones_and_installs_where_nothing_is_there(source, begin, tmp_path):
  code = tmp_path / 'landmarks_jax_code'
  names, (clone, install) = begin(source)
  assert clone == f'clone --quiet {names["ADDRESS"]} landmarks_jax_code'
  assert install == f'-m pip install --quiet {code}'
  assert names.get('CONFIGS', code / 'configs') == code / 'configs'


@every_source
def test_the_first_code_does_not_clone_twice(source, begin):
  begin(source)
  _, (install,) = begin(source)
  assert 'pip install' in install


@every_source
def test_the_first_code_installs_what_a_gpu_needs(source, begin, tmp_path, capsys):
  _, (_, install) = begin(source, gpu=True)
  assert install == f'-m pip install --quiet {tmp_path}/landmarks_jax_code[cuda]'
  assert 'Device' in capsys.readouterr().out


@with_configs
def test_the_first_code_finds_the_configs_beside_an_installed_package(source, begin):
  names, given = begin(source, installed=ROOT / 'landmarks_jax/__init__.py')
  assert names['CONFIGS'] == ROOT / 'configs'
  assert not given


@with_configs
def test_the_first_code_clones_configs_that_an_installed_package_lacks(source, begin, tmp_path):
  (tmp_path / 'configs').mkdir()  # the reader's own
  names, (clone,) = begin(source, installed=tmp_path / 'site-packages/landmarks_jax/__init__.py')
  assert clone.startswith('clone')
  assert names['CONFIGS'] == tmp_path / 'landmarks_jax_code/configs'


def test_the_first_code_is_the_same_in_all_pages_with_configs():
  pages = [cells(jupytext.read(p)) for p in SOURCES if p.stem != 'losses']
  assert len({next(text for kind, text in page if kind == 'code') for page in pages}) == 1

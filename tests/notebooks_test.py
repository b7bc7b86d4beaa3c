"""The notebooks of colabs/ and their sources say the same. pytest runs them: colabs/conftest.py."""

import ast
import pathlib

import jupytext
import nbformat
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(p for p in (ROOT / 'colabs').glob('*.py') if p.name != 'conftest.py')
every_source = pytest.mark.parametrize('source', SOURCES, ids=lambda path: path.stem)


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
def test_the_first_code_installs_from_the_one_address_where_nothing_is_installed(source):
  (first, *others) = [text for kind, text in cells(jupytext.read(source)) if kind == 'code']
  site = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())
  (address,) = [
    node.value.value
    for node in ast.parse(first).body
    if isinstance(node, ast.Assign) and node.targets[0].id == 'ADDRESS'
  ]
  assert address == site['extra']['address']
  assert "if importlib.util.find_spec('landmarks_jax') is None:" in first
  assert address not in ''.join(others)
  assert address in (ROOT / 'docs/tutorial.md').read_text()

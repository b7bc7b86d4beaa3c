"""A hook of MkDocs: pages of the site that are made from the source, and links that leave docs/.

The API reference shows docstrings as they were written. mkdocstrings was tried: it takes <f_u, f_v>
for HTML, several arguments on a line for one, and doctests for quotations. Nothing is imported.
"""

import ast
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'landmarks_jax'
# Pages of the reference: what is on them, and the files or folders of the package.
REFERENCE = {
  'api': ('landmarks_jax: load, match, fit_landmarks', ['api.py', 'inference']),
  'train': ('Keys of a config', ['cli/train.py']),
  'contracts': ('Contracts', ['contracts.py', 'dtypes.py', 'shapes.py']),
  'losses': ('Losses and dense correlation', ['losses.py', 'correlation.py']),
  'metrics': ('Metrics', ['metrics.py']),
  'methods': ('Methods and the train step', ['methods', 'training.py']),
  'evaluation': ('Protocols', ['evaluation']),
  'data': ('Datasets and the pipeline', ['data']),
  'geometry': ('Geometry', ['geometry']),
  'augment': ('Augmentation', ['augment']),
  'models': ('Networks and heads', ['models']),
  'interop': ('Files of other programs', ['interop']),
  'runtime': ('Optimiser, devices, checkpoints, logs', ['runtime']),
  'report': ('Pictures and pages', ['report']),
  'labelling': ('The labelling page', ['labelling']),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the generated pages before the navigation is made."""
  pages = {f'reference/{name}.md': reference(*page) for name, page in REFERENCE.items()}
  pages['reference/commands.md'] = commands()
  for path, text in pages.items():
    files.append(File.generated(config, path, content=text))
  return files


def on_page_markdown(markdown: str, *, config: MkDocsConfig, **others: Any) -> str:
  """Links to files of the repository outside docs/ become links to where it is published."""

  published = config.extra['address'].removesuffix('.git')

  def outside(match: re.Match) -> str:
    return '](index.md' if match[1] == 'README.md' else f']({published}/blob/main/{match[1]}'

  return re.sub(r'\]\(\.\./([^)#]+)', outside, markdown)


def reference(title: str, places: list[str]) -> str:
  """A page: every module of these places with its public functions and classes."""
  parts = [f'# {title}']
  for place in places:
    path = PACKAGE / place
    for file in sorted(path.rglob('*.py')) if path.is_dir() else [path]:
      parts += module(file)
  return '\n\n'.join(parts) + '\n'


def module(file: pathlib.Path) -> Iterator[str]:
  """The parts of a page that a module makes; packages that hold nothing make none."""
  text = file.read_text(encoding='utf-8')
  tree = ast.parse(text)
  public = [node for node in tree.body if _is_public(node)]
  if not public and file.name == '__init__.py':
    return
  name = '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
  yield f'## {name}'
  yield from docstring(tree)
  lines = text.splitlines()
  for node in public:
    yield f'### {node.name}'
    yield f'```python\n{head(node, lines)}\n```'
    yield from docstring(node)
    for method in node.body if isinstance(node, ast.ClassDef) else ():
      if isinstance(method, ast.FunctionDef) and _is_public(method) and ast.get_docstring(method):
        yield f'#### {node.name}.{method.name}'
        yield f'```python\n{_dedent(head(method, lines))}\n```'
        yield from docstring(method)


def head(node: Any, lines: list[str]) -> str:
  """The signature of a function, or a class with its fields, as the source has them."""
  first = node.body[0]
  end = first.lineno if ast.get_docstring(node) else first.lineno - len(first.decorator_list or ())
  found = lines[node.lineno - 1 : end - 1]
  if isinstance(node, ast.ClassDef):
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    stop = methods[0].lineno - 1 - len(methods[0].decorator_list) if methods else node.end_lineno
    begin = first.end_lineno if ast.get_docstring(node) else node.lineno
    found = [*found, *lines[begin:stop]]
  return '\n'.join(found).rstrip()


def docstring(node: Any) -> Iterator[str]:
  """Its first paragraph as text, the rest as it was laid out."""
  text = ast.get_docstring(node) or ''
  summary, _, rest = text.partition('\n\n')
  if summary:
    yield escaped(' '.join(summary.split()))
  if rest:
    fence = '~~~' if '```' in rest else '```'
    yield f'{fence}text\n{rest}\n{fence}'


def escaped(text: str) -> str:
  """Text that Markdown shows as it is; what stands in backticks stays code."""
  parts = text.split('`')
  for i in range(0, len(parts), 2):
    parts[i] = re.sub(r'([\\*_\[\]<>#|])', r'\\\1', parts[i])
  return '`'.join(parts)


def commands() -> str:
  """A page: every command with what it says of itself, as its --help begins."""
  parts = ['# Commands', 'Each one explains its options with `--help`.']
  for file in sorted((PACKAGE / 'cli').glob('*.py')):
    tree = ast.parse(file.read_text(encoding='utf-8'))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if {'run', 'define_flags'} <= names:
      parts += [f'## {file.stem}', f'```sh\n{_usage(file.stem, tree)}\n```', *docstring(tree)]
  return '\n\n'.join(parts) + '\n'


def _usage(name: str, tree: ast.Module) -> str:
  """python -m landmarks_jax NAME and what must be given."""
  assigned = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
  words = ast.literal_eval(assigned['REQUIRED'])
  return ' '.join(['python -m landmarks_jax', name, *words, '[--options]'])


def _is_public(node: Any) -> bool:
  return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_')


def _dedent(text: str) -> str:
  return '\n'.join(line.removeprefix('  ') for line in text.splitlines())

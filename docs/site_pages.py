"""A hook of MkDocs: pages of the site that are made from the source, and links that leave docs/.

The API reference shows docstrings as they were written. mkdocstrings was tried: it takes <f_u, f_v>
for HTML, several arguments on a line for one, and doctests for quotations. Only the options of the
commands are asked of the program itself, as `--help` prints them.
"""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'landmarks_jax'
# Prints the help of every command, each after a form feed and its name.
HELP = """
from landmarks_jax.cli import main
for name in main.commands():
  print(f'\\f{name}')
  assert main.main(['', name, '--help']) == 0
"""
# Pages of the reference: what is on them, and the files or folders of the package.
REFERENCE = {
  'api': ('landmarks_jax: load, match, fit_landmarks', ['api.py', 'inference']),
  'train': ('Keys of a config', ['cli/train.py']),
  'contracts': ('Contracts', ['contracts.py', 'dtypes.py', 'shapes.py', 'options.py']),
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
# Front matter of pages that name everything: the search shows those that explain it first.
SELDOM = '---\nsearch:\n  boost: 0.3\n---'
COMMON = (
  'Every command also has `--help`, which prints what stands here, and `--traceback`, which shows '
  'where in the code an error arose. The default of an option stands in brackets. '
  'What `--config.KEY=VALUE` can change are [keys of a config](train.md).'
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the generated pages before the navigation is made."""
  pages = {f'reference/{name}.md': reference(*page) for name, page in REFERENCE.items()}
  pages['reference/commands.md'] = commands()
  for path, text in pages.items():
    files.append(File.generated(config, path, content=text))
  return files


def on_page_markdown(markdown: str, *, config: MkDocsConfig, **others: Any) -> str:
  """Links to files of the repository outside docs/ become links to pages that show them.

  A link whose text is the file name of a page, as one reads on GitHub, gets the title that the
  page has in the navigation.
  """
  published = config.extra['address'].removesuffix('.git')
  names = dict(titles(config.nav))
  markdown = re.sub(
    r'\[(\w+\.md)\](?=\(\1)', lambda match: f'[{names.get(match[1], match[1])}]', markdown
  )
  return re.sub(r'\]\(\.\./([^)#]+)', lambda match: f']({shown(match[1], published)}', markdown)


def titles(nav: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
  """(file, title) of every page in a navigation, which may be nested."""
  for entry in nav:
    for title, target in entry.items():
      yield from [(target, title)] if isinstance(target, str) else titles(target)


def shown(path: str, published: str) -> str:
  """Where a reader of the site sees a file or folder of the repository.

  A page of the site if it has one, and the module's part of it if there are several; otherwise
  where the repository is published. README and docs/ link to the files, which all exist without
  the site.
  """
  if path == 'README.md':
    return 'index.md'
  if path == 'landmarks_jax/cli':
    return 'reference/commands.md'
  inside = path.removeprefix(f'{PACKAGE.name}/')
  for name, (_, places) in REFERENCE.items():
    if inside == places[0]:
      return f'reference/{name}.md'
    if any(inside.startswith(place) for place in places):
      return f'reference/{name}.md#{path.removesuffix(".py").replace("/", "")}'
  return f'{published}/blob/main/{path}'


def reference(title: str, places: list[str]) -> str:
  """A page: every module of these places with its public functions and classes."""
  parts = [SELDOM, f'# {title}']
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
  """A page: every command with all that its --help says."""
  parts = ['# Commands', COMMON]
  flags = options()
  for file in sorted((PACKAGE / 'cli').glob('*.py')):
    tree = ast.parse(file.read_text(encoding='utf-8'))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if {'run', 'define_flags'} <= names:
      parts += [f'## {file.stem}', f'```sh\n{_usage(file.stem, tree)}\n```', *docstring(tree)]
      parts += ['\n'.join(flags[file.stem])]
  return '\n\n'.join(parts) + '\n'


def options() -> dict[str, list[str]]:
  """The items of each command's list of options: `name`, what it is for and [its default].

  Raises CalledProcessError if the program does not start.
  """
  told = subprocess.run(
    [sys.executable, '-c', HELP], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
  ).stdout
  found = {}
  for text in told.split('\f')[1:]:
    name, _, text = text.partition('\n')
    lines = re.findall(r'^  ((?:--)?[\w.]+): (.*)', text.partition('\nOptions:\n')[2], re.M)
    items = [f'- `{flag}`: {escaped(what)}' for flag, what in lines]
    found[name] = [item for item in items if not item.startswith(('- `--help`', '- `--trace'))]
  return found


def _usage(name: str, tree: ast.Module) -> str:
  """python -m landmarks_jax NAME and what must be given."""
  assigned = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
  words = ast.literal_eval(assigned['REQUIRED'])
  return ' '.join(['python -m landmarks_jax', name, *words, '[--options]'])


def _is_public(node: Any) -> bool:
  return isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_')


def _dedent(text: str) -> str:
  return '\n'.join(line.removeprefix('  ') for line in text.splitlines())

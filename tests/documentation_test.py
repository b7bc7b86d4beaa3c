"""README and docs/ say what is so: every command runs or is checked, every example runs.

A newcomer's commands and every evaluation are run in small. Training and benchmarks are checked,
their pages, keys and options: train_test trains pages in their smoke form, one for each program,
and benchmarks_test runs every script in small.
One that nobody knows fails the test.
"""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import itertools
import pathlib
import re
import shlex
import shutil
import types

import jax
import numpy as np
import pytest
import yaml
from absl import flags
from PIL import Image
from train_test import on_devices

import landmarks_jax
from landmarks_jax.cli import completion, label
from landmarks_jax.cli import config as configs
from landmarks_jax.cli import main as cli
from landmarks_jax.interop import landmark_csv

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.S | re.M)
PROGRAM = ['python', '-m', 'landmarks_jax']
SHORT = {'TRAIN': [*PROGRAM, 'train'], 'EVALUATE': [*PROGRAM, 'evaluate']}  # docs/reproduce.md
STARTS = re.compile(r'`((?:python -m |python benchmarks/|TRAIN |EVALUATE )[^`]+)`')
KEYWORDS = {'if', 'then', 'until', 'do', 'done', 'fi', 'break', ''}


def commands(text):
  """Simple commands of a shell script, as lists of words; what is inside quotes stays a word."""
  text = re.sub(r'(^|\s)#.*', r'\1', text, flags=re.M).replace('\\\n', ' ')
  lexer = shlex.shlex(text, posix=True, punctuation_chars=';|&\n')
  lexer.whitespace, lexer.whitespace_split, lexer.commenters = ' \t', True, ''
  for ends, words in itertools.groupby(lexer, key=lambda word: not word.strip(';|&\n')):
    words = [word for word in words if word not in KEYWORDS]
    if words and not ends:
      yield SHORT.get(words[0], words[:1]) + words[1:]


def told(page):
  """All commands of a page: of blocks, of spans of code, and those that a command is given."""
  text = page.read_text()
  blocks = [block for language, block in FENCE.findall(text) if language == 'sh']
  for block in [*blocks, *STARTS.findall(FENCE.sub('', text))]:
    for words in commands(block):
      yield words
      inner = [word.partition('=')[2] for word in words if word.startswith('--command=')]
      for script in inner:
        yield from commands(script)


COMMANDS = [(page.name, tuple(words)) for page in PAGES for words in told(page)]


def product(words):
  """The arguments of landmarks_jax in a command, or None."""
  for i, word in enumerate(words):
    if word.endswith('python') and list(words[i + 1 : i + 3]) == PROGRAM[1:]:
      return list(words[i + 3 :])
  return None


# --- What is checked and not run.


def parsed(arguments):
  """The options of a command of ours; a word that it does not know is an error."""
  name, *rest = arguments
  assert name in cli.commands(), f'no command {name}'
  command = importlib.import_module(f'landmarks_jax.cli.{name}')
  known = [re.sub('^--process=I$', '--process=0', word) for word in rest if word != '...']
  return cli._parse(name, command, known)


def check(arguments):
  """Options exist; a page exists, and its keys, as changed, are complete and of their types."""
  if not arguments or arguments[1:] in ([], ['...']):  # in short
    assert set(arguments[:1]) <= set(cli.commands())
    return
  values = parsed(arguments)
  if 'config' not in values or 'FILE' in arguments or arguments[-1] == '...':
    return
  spec, changes = values.config, values['config.KEY'].value
  if spec in ('...', None):
    return
  given = configs.plain(configs.load(spec))
  if arguments[0] == 'train':
    completion.complete(configs.changed(given, changes))
    return
  changed = configs.changed({'evals': given['evals']}, [c for c in changes if c[:5] == 'evals'])
  assert [c for c in changes if c[:5] != 'evals' and not c.startswith('data.path=')] == []
  page = configs.plain(configs.load('configs/demo.py')) | {'data': given['data']} | changed
  completion.complete(page)


def benchmark(words):
  """A script that exists, with options that it has."""
  path = words[1] if words[1].endswith('.py') else words[2].replace('.', '/') + '.py'
  script = ROOT / path
  assert script.is_file() or (ROOT / words[2]).is_dir(), f'{path} is not there'
  text = script.read_text() if script.is_file() else ''
  for option in (word for word in words if word.startswith('--')):
    assert f"'{option}'" in text or not text, f'{path} has no {option}'


def pip(words):
  """Extras that setup.py has."""
  for extra in re.findall(r'\[(\w+)\]', ' '.join(words)):
    assert f"'{extra}'" in (ROOT / 'setup.py').read_text(), f'no extra {extra}'


def pytest_command(words):
  for path in (word for word in words if word.endswith('.py')):
    assert (ROOT / path).is_file(), f'{path} is not there'


def ours(words):
  return check(product(words))


def exported(words):
  """An environment variable of JAX."""
  name = words[1].partition('=')[0]
  if name.lower() not in jax.config.values:
    raise ValueError(f'JAX has no option {name}')


OUTSIDE = {  # programs that are not ours, by their first words
  ('pip', 'install'): pip,
  ('.venv/bin/pip', 'install'): pip,
  ('python3', '-m', 'venv'): None,
  ('.venv/bin/python', '-m', 'pytest'): pytest_command,
  ('python', '-m', 'pytest'): pytest_command,
  ('git', 'clone'): None,
  ('cd',): None,
  ('.', '.venv/bin/activate'): None,
  ('gcloud', 'compute'): None,
  ('srun',): ours,
  ('export',): exported,
  ('scontrol', 'requeue'): None,
  ('[',): None,
  ('python', '-c'): lambda words: compile(words[2], 'docs', 'exec'),
}


def checker(words):
  """What checks a command. Raises KeyError for one that nobody knows."""
  if product(words) is not None:
    return ours
  if words[0] == 'python' and re.match(r'(-m )?benchmarks\b', ' '.join(words[1:])):
    return benchmark
  for start, known in OUTSIDE.items():
    if tuple(words[: len(start)]) == start:
      return known
  raise KeyError(f'no test knows how to run: {" ".join(words)}')


@pytest.mark.parametrize('page', [page.name for page in PAGES])
def test_every_command_is_one_that_exists(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  for words in (words for name, words in COMMANDS if name == page):
    try:
      known = checker(words)
      if known:
        known(words)
    except Exception as error:
      raise AssertionError(f'{" ".join(words)}\n{error}') from error


def test_the_commands_are_found():
  assert len(COMMANDS) > 80
  named = {product(words)[0] for _, words in COMMANDS if product(words)}
  assert named == set(cli.commands())
  tricky = 'until a -b ...; do [ $? = 75 ] || break; done\nx --command=\'\n y && z -e ".[t]"\' # k'
  assert [words[0] for words in commands(tricky)] == ['a', '[', 'x']
  assert list(commands('TRAIN --config a.py \\\n  --x=1')) == [
    [*PROGRAM, 'train', '--config', 'a.py', '--x=1']
  ]


@pytest.mark.parametrize(
  ('words', 'error'),
  [
    (['train', '--workdir=r', '--config', 'configs/none.py'], FileNotFoundError),
    (['train', '--workdir=r', '--config=configs/demo.py', '--config.method.widht=2'], ValueError),
    (['train', '--workdir=r', '--config=configs/demo.py', '--config.steps=many'], ValueError),
    (
      ['evaluate', '--workdir', 'r', '--config', 'configs/match_mafl.py', '--config.evals.x=1'],
      ValueError,
    ),
    (['evaluate', '--workdir', 'r', '--colour=red'], flags.Error),
    (['paint'], AssertionError),
  ],
)
def test_a_wrong_command_is_found(words, error, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(error):
    check(words)
  with pytest.raises(KeyError):
    checker(['cmake', '..'])


# --- What is run: the ways of a newcomer, in one folder, on one tiny run.

TINY = ['--config.steps=1', '--config.log_every=1', '--config.batch_size=8']
TINY += ['--config.method.width=.0625', '--config.data.frame=46', '--config.method.margin=7']
SMALL = {  # options that are added, so that a command takes seconds
  'frames': ['--frame=32', '--count=12'],
  'fit': ['--copies=2', '--count=8'],
  'predict': ['--overlays=2'],
  'match': ['--size=12', '--count=2'],
}


def run(arguments, **names):
  """Runs a command in small; the words of `names` stand for something else."""
  arguments = [names.get(word, word) for word in arguments]
  assert cli.main(['x', *arguments, *SMALL.get(arguments[0], [])]) == 0, arguments


def of_page(name, command=None):
  """The commands of ours on a page, in order."""
  found = [product(words) for page, words in COMMANDS if page == name and product(words)]
  return [words for words in found if command in (None, words[0])]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder as newcomers have it: the tutorial's pictures and run, tiny, under all their names."""
  root = tmp_path_factory.mktemp('newcomer')
  shutil.copytree(ROOT / 'configs', root / 'configs')
  with pytest.MonkeyPatch.context() as patch, contextlib.chdir(root):
    on_devices(patch, 1)
    for arguments in of_page('tutorial.md', 'frames'):
      run(arguments)
    run([*of_page('tutorial.md', 'train')[0], *TINY])
    for name in ('runs/mine', 'runs/youtube', 'RUN'):
      pathlib.Path(name).symlink_to(root / 'runs/faces', target_is_directory=True)
    for name, folder in (('DIR', 'faces/train'), ('OTHER', 'faces/test')):
      pathlib.Path(name).symlink_to(root / folder, target_is_directory=True)
    for name, row in (('A.jpg', 0), ('B.jpg', 1)):
      Image.open(f'DIR/{row:06}.png').save(name)
  return root


@pytest.fixture
def there(place, monkeypatch):
  monkeypatch.chdir(place)
  on_devices(monkeypatch, 1)
  return place


def test_the_tutorial_goes_from_an_empty_folder_to_a_detector(there, capsys, monkeypatch):
  opened = []
  monkeypatch.setattr(label, 'label', lambda *given, **options: opened.append((given, options)))
  commands = of_page('tutorial.md')
  names = ['frames', 'frames', 'audit', 'train', 'label', 'fit', 'predict', 'train']
  assert [arguments[0] for arguments in commands] == names
  for arguments in commands:
    if arguments[0] not in ('frames', 'train'):  # `place` has run those
      run(arguments)
  ((_, _, landmarks), options) = opened[0]
  assert landmarks == ['left_eye', 'right_eye', 'nose']
  header = (there / 'faces/test/labels.csv').read_text().splitlines()[0]
  assert {f'{name}_x' for name in landmarks} <= set(header.split(','))
  assert str(options['model']) == 'runs/faces'
  assert (there / 'audit/index.html').is_file()
  assert len(landmark_csv.read(there / 'found/landmarks.csv').points) == 12
  assert 'error' in capsys.readouterr().out
  assert run_blocks('tutorial.md')['points'].shape == (1, 5, 2)


def test_trained_weights_are_used_as_the_page_says(there):
  for arguments in of_page('using.md'):
    run(arguments)
  assert (there / 'OUT/landmarks.json').is_file()
  assert (there / 'match_A_B/matches.png').is_file()


def test_weights_come_in_and_go_out(there):
  given = ROOT / 'tests/golden/resnet18_w0.0625_moco.pth'
  for name in ('convert', 'export'):
    (arguments,) = of_page('weights.md', name)
    names = {'RUN': 'converted'} | ({'FILE': str(given)} if name == 'convert' else {})
    run(arguments, **names)
  scripts = [(page, words[2]) for page, words in COMMANDS if words[:2] == ('python', '-c')]
  (script,) = [script for page, script in scripts if page == 'weights.md']
  exec(script.replace('RUN', 'converted'))
  run_blocks('weights.md', pictures=np.zeros((1, 96, 96, 3), np.uint8))


def test_pictures_are_looked_at_and_labelled_as_the_readme_says(there, monkeypatch):
  opened = []
  monkeypatch.setattr(label, 'label', lambda root, *given, **options: opened.append(root.name))
  for name in ('audit', 'label'):
    for arguments in of_page('README.md', name):
      run(arguments)
  assert opened == ['DIR']


# Whose own evaluations are told.
RUNS = {'runs/demo': 'demo', 'runs/lmdis': 'lmdis_synthetic_faces'}


def small(arguments):
  """An evaluation in its smoke form, whose faces have no files; any run stands for any other."""
  words = [re.sub(r'^(configs/\w+\.py)$', r'\1:smoke', word) for word in arguments]
  if '--config' in words:
    words[words.index('--workdir') + 1] = 'RUN'
  return tuple(word for word in words if not re.search(r'\.(path|lists)=', word))


TOLD = [product(words) or [] for _, words in COMMANDS]
EVALUATIONS = sorted({small(words) for words in TOLD if words[:2] == ['evaluate', '--workdir']})


@pytest.fixture(scope='module')
def trained(place):
  """Runs of pages, tiny, by the names that the pages of docs/ give them."""
  with pytest.MonkeyPatch.context() as patch, contextlib.chdir(place):
    on_devices(patch, 1)
    for run_of, page in RUNS.items():
      run(['train', '--config', f'configs/{page}.py:smoke', '--workdir', run_of])


@pytest.mark.parametrize('arguments', EVALUATIONS, ids=' '.join)
def test_every_evaluation_that_is_told_runs_in_small(there, trained, capsys, arguments):
  run(arguments)
  assert 'written to' in capsys.readouterr().out


# --- Python.


def run_blocks(page, **names):
  """Runs the Python blocks of a page, in order, in one namespace, which it returns."""
  path = ROOT / page if page == 'README.md' else ROOT / 'docs' / page
  for language, block in FENCE.findall(path.read_text()):
    if language == 'python':
      names |= {'points': names.get('place', names.get('points'))} if 'match(' in block else {}
      exec(compile(block, page, 'exec'), names)
  return names


def labelled(place):
  labels = landmark_csv.read(place / 'DIR/labels.csv').points
  files = sorted(labels)
  pictures = np.stack([np.asarray(Image.open(place / 'DIR' / file)) for file in files])
  return pictures, np.stack([labels[file][:3] for file in files])


@pytest.fixture
def names(there, tmp_path, monkeypatch):
  """What the examples take as given, in a folder of their own; few copies, to be quick."""
  pictures, points = labelled(there)
  (tmp_path / 'runs').symlink_to(there / 'runs', target_is_directory=True)
  monkeypatch.chdir(tmp_path)
  fit = landmarks_jax.fit_landmarks
  monkeypatch.setattr(landmarks_jax, 'fit_landmarks', lambda *a, **o: fit(*a, **o, copies=2), False)
  given = {'pictures': pictures[:8], 'points': points[:8], 'others': pictures[8:]}
  given |= {'other_pictures': pictures[8:], 'place': points[0]}
  return given | {'image_a': pictures[0], 'image_b': pictures[1]}


def test_the_readme_s_examples_run(names):
  found = run_blocks('README.md', **names)
  assert found['found'].shape == (4, 3, 2)
  assert found['confidence'].shape == (4, 3)


def test_the_examples_of_using_run(names):
  found = run_blocks('using.md', **names)
  assert found['found'].shape == (4, 3, 2)
  assert found['matches'].points.shape == (3, 2)


def test_the_optimizer_of_extending_is_one():
  found = run_blocks('extending.md')
  rate = found['halving'](0.4, epochs=2, steps_per_epoch=5, halvings=4)
  assert rate(5) == pytest.approx(0.1)
  found['lion'](rate, weight_decay=0.1).init({'w': np.zeros(3)})


def test_every_page_with_python_is_run_here():
  pages = {page.name for page in PAGES if '```python' in page.read_text()}
  assert pages == {'README.md', 'using.md', 'weights.md', 'tutorial.md', 'extending.md'}


WITH_EXAMPLES = sorted(
  path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')
  for path in (ROOT / 'landmarks_jax').rglob('*.py')
  if '>>> ' in path.read_text()
)


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_examples_in_docstrings_run(name):
  """Read from the source: doctest's own finder passes over functions whose shapes are checked."""
  module = importlib.import_module(name)
  runner = doctest.DocTestRunner()
  for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text(encoding='utf-8'))):
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    text = ast.get_docstring(node) or '' if documented else ''
    if '>>> ' in text:
      where = getattr(node, 'name', name)
      runner.run(doctest.DocTestParser().get_doctest(text, dict(vars(module)), where, name, 0))
  assert runner.tries
  assert not runner.failures


# --- Numbers and links.


@pytest.mark.parametrize('page', ['moco.md', 'projection.md', 'equivariant.md', 'lmdis.md'])
def test_what_a_method_s_page_has_measured_is_in_the_results(page):
  text = (ROOT / 'docs' / page).read_text()
  (section,) = re.findall(r'^## Measured here\n(.*?)^## ', text, re.S | re.M)
  rows = [line for line in section.splitlines() if line.startswith('|')]
  results = (ROOT / 'docs/results.md').read_text().splitlines()
  assert len(rows) > 3
  assert [row for row in rows if row not in results] == []


def test_the_readme_s_table_has_numbers_of_the_two_pages_and_no_other():
  text = (ROOT / 'README.md').read_text()
  (section,) = re.findall(r'^## Results\n(.*?)^## ', text, re.S | re.M)
  rows = [line.strip('|').split('|') for line in section.splitlines() if line.startswith('| ')]
  measured, published = (
    {number for row in rows[1:] for cell in row[part] for number in re.findall(r'\d*\.\d+', cell)}
    for part in (slice(1, 3), slice(3, 4))
  )
  assert len(measured) > 8
  assert measured <= set(re.findall(r'\d*\.\d+', (ROOT / 'docs/results.md').read_text()))
  assert published <= set(re.findall(r'\d*\.\d+', (ROOT / 'docs/reproduce.md').read_text()))


def test_the_index_answers_ten_questions_and_names_every_page():
  text = (ROOT / 'docs/index.md').read_text()
  (section,) = re.findall(r'^## Ten questions\n(.*?)^## ', text, re.S | re.M)
  assert len(re.findall(r'^\| .*\?.*\|.*\.(?:md|py)\)', section, re.M)) == 10
  linked = set(re.findall(r'\(([\w/]+\.md)', text))
  missing = {page.name for page in PAGES[1:]} - linked - {'index.md'}
  assert not missing


# Addresses in Markdown, of pictures too; those of other sites and within a page are not files.
LINK = re.compile(r'\]\((?![a-z]+:|#)([^)#\s]+)')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_of_the_tree(page):
  """As readers on GitHub follow it, for whom the site's generated pages do not exist."""
  targets = LINK.findall(FENCE.sub('', page.read_text()))
  assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_below_every_picture_is_what_it_shows(page):
  """In italics: the text that stands for a picture is not seen by those who see the picture."""
  blocks = page.read_text().split('\n\n')
  pairs = [pair for pair in itertools.pairwise(blocks) if pair[0].startswith('![')]
  assert [picture for picture, caption in pairs if not re.fullmatch(r'\*[^*]+\*', caption)] == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_address_is_a_link(page):
  """Also for Markdown that, unlike GitHub's, makes none of a bare address: the site's."""
  text = re.sub('`[^`]*`', '', FENCE.sub('', page.read_text()))
  assert re.findall(r'(?<![(<])https?://[^ |]+', text) == []


@pytest.mark.parametrize(
  ('path', 'page'),
  [
    ('README.md', 'index.md'),
    ('landmarks_jax/losses.py', 'reference/losses.md'),
    ('landmarks_jax/cli/train.py', 'reference/train.md'),
    ('landmarks_jax/cli', 'reference/commands.md'),
    ('landmarks_jax/evaluation', 'reference/evaluation.md'),
    ('landmarks_jax/data/source.py', 'reference/data.md#landmarks_jaxdatasource'),
    ('landmarks_jax/shapes.py', 'reference/contracts.md#landmarks_jaxshapes'),
    ('colabs/losses.ipynb', 'https://here/blob/main/colabs/losses.ipynb'),
  ],
)
def test_a_file_of_the_tree_is_shown_by_its_page_of_the_site(path, page):
  assert (ROOT / path).exists()
  assert site_pages().shown(path, 'https://here') == page


def test_the_site_s_search_shows_pages_that_explain_before_those_that_name_everything():
  front = '---\nsearch:\n  boost: 0.3\n---\n\n# Metrics\n'
  assert site_pages().reference('Metrics', ['metrics.py']).startswith(front)
  assert site_pages().commands().startswith('# Commands\n')


def test_the_site_s_search_finds_words_in_brackets_and_between_points():
  plugins = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['plugins']
  words = re.split(plugins[0]['search']['separator'], 'memory (OOM): 1.5 `config.batch_size`')
  assert words == ['memory', 'OOM', '1.5', 'config', 'batch_size', '']


def test_a_link_that_reads_as_a_file_has_the_page_s_title_on_the_site():
  nav = [{'Overview': 'index.md'}, {'Methods': [{'MoCo': 'moco.md'}]}]
  site = types.SimpleNamespace(nav=nav, extra={'address': 'https://here.git'})
  given = '[moco.md](moco.md#idea), [the overview](index.md), [LICENSE](../LICENSE).'
  said = (
    '[MoCo](moco.md#idea), [the overview](index.md), [LICENSE](https://here/blob/main/LICENSE).'
  )
  assert site_pages().on_page_markdown(given, config=site) == said


def test_the_site_lists_every_option_of_every_command():
  text = site_pages().commands()
  sections = dict(re.findall(r'^## (\w+)\n(.*?)(?=^## |\Z)', text, re.S | re.M))
  assert set(sections) == set(cli.commands())
  for name, section in sections.items():
    values = flags.FlagValues()
    importlib.import_module(f'landmarks_jax.cli.{name}').define_flags([], values)
    listed = re.findall(r'^- `(?:--)?([\w.]+)`: \S', section, re.M)
    assert listed == sorted(values), name


def site_pages():
  """The hook of the site, which is no module of the package."""
  spec = importlib.util.spec_from_file_location('site_pages', ROOT / 'docs/site_pages.py')
  hook = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hook)
  return hook

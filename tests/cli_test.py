"""What people type, and what they are told: one clear line, exit code 2, no traceback."""

import errno
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types

import pytest

import landmarks_jax
from landmarks_jax.cli import completion, drafts, evaluate, experiment, train
from landmarks_jax.cli import config as configs
from landmarks_jax.cli import workdir as workdirs
from landmarks_jax.cli.main import commands, main

root = pathlib.Path(__file__).parents[1]
smoke = f'--config={root}/configs/demo.py:smoke'
page = """
from ml_collections import ConfigDict
def get_config():
  return ConfigDict(dict({}))
"""


def run(*arguments):
  return main(['landmarks_jax', *map(str, arguments)])


def process(*arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=root,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': '80'},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


@pytest.mark.parametrize('arguments', [(), ('--help',), ('-h',), ('help',)])
def test_without_a_command_the_commands_are_listed(capsys, arguments):
  assert run(*arguments) == 0
  out, err = capsys.readouterr()
  listed = [line.split()[0] for line in out.splitlines() if line.startswith('  ')]
  files = (root / 'landmarks_jax/cli').glob('*.py')
  assert listed == sorted(commands()) == sorted(f.stem for f in files if is_command(f))
  assert {'train', 'evaluate'} <= set(listed)
  assert err == ''


def is_command(file):
  return '\ndef run(values: flags.FlagValues) -> int:\n' in file.read_text()


@pytest.mark.parametrize('command', sorted(commands()))
@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_every_command_prints_its_options(capsys, command, flag):
  assert run(command, flag) == 0
  out, err = capsys.readouterr()
  assert out.startswith(commands()[command])
  assert '\n  --help: ' in out
  source = (root / f'landmarks_jax/cli/{command}.py').read_text()
  options = re.findall(r"(?:DEFINE_\w+|paths\.define)\(\s*'(\w+)'", source)
  assert options
  for name in options:
    assert re.search(rf'\n  (--)?{name}: ', out)
  assert err == ''


def options(capsys, command):
  assert run(command, '--help') == 0
  return capsys.readouterr().out.splitlines()


def test_help_begins_with_what_must_be_given(capsys):
  assert run('match', '--help') == 0
  usage = 'Usage: python -m landmarks_jax match A B --model=RUN [--options]'
  assert f'\n\n{usage}\n\nOptions:\n' in capsys.readouterr().out


def test_help_speaks_of_a_config_only_where_there_is_one(capsys):
  with_keys = '  --help: Shows these options; with --config=FILE also its keys.'
  assert with_keys in options(capsys, 'train')
  for command in ('convert', 'label', 'audit'):
    assert '  --help: Shows these options.' in options(capsys, command)


@pytest.mark.parametrize(
  ('command', 'needed'),
  [('evaluate', ['--workdir=.']), ('convert', ['--input=no', '--output=out'])],
)
def test_the_change_that_help_names_as_an_example_is_one_that_the_command_takes(
  capsys, tmp_path, monkeypatch, command, needed
):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('config.json').write_text('{}', encoding='utf-8')
  line = next(line for line in options(capsys, command) if line.startswith('  --config.KEY: '))
  key = re.search(r'as in --config\.([\w.]+)=', line).group(1)
  for change, refused in ((key, False), ('log_every', True)):
    assert run(command, *needed, f'--config.{change}=5') == 2  # there is nothing to work on
    assert (f'{command} changes config.' in capsys.readouterr().err) == refused


def test_help_shows_defaults_as_they_are_typed_also_zero(capsys):
  label, fit = options(capsys, 'label'), options(capsys, 'fit')
  assert any(line.startswith('  --counts: ') and line.endswith(' [5,10,20,50]') for line in label)
  assert any(line.startswith('  --seed: ') and line.endswith(' [0]') for line in fit)
  off = [line for line in label if line.startswith(('  --simulate: ', '  --model: '))]
  assert len(off) == 2
  assert not any(line.endswith(']') for line in off)


def test_help_with_a_config_lists_its_keys_and_values(capsys):
  assert run('train', smoke, '--config.steps=7', '--config.method.area=.5,1', '--help') == 0
  lines = capsys.readouterr().out.splitlines()
  for key in ('steps=7', 'method.area=[0.5, 1]', 'method.mean=None', 'evals.faces.draws=3'):
    assert f'  --config.{key}' in lines
  assert run('train', smoke, '--config.stepz=7', '--help') == 2


EVALS = f"""
{page.partition('def')[0]}
FACES = dict(name='synthetic/faces', count=20)
def get_config():
  return ConfigDict(dict(evals=dict(mine=dict(protocol='regression', data=FACES, labels=3))))
"""


@pytest.mark.parametrize('alone', [False, True])
def test_help_of_evaluate_lists_the_keys_of_evaluations_alone(capsys, tmp_path, alone):
  name = 'mine' if alone else 'faces'
  (tmp_path / 'evals.py').write_text(EVALS)
  config = f'--config={tmp_path}/evals.py' if alone else smoke
  assert run('evaluate', config, f'--config.evals.{name}.labels=5', '--help') == 0
  lines = capsys.readouterr().out.splitlines()
  keys = lines[lines.index(f'Keys of {config.partition("=")[2]} and their values:') + 1 :]
  assert keys
  assert all(line.startswith(f'  --config.evals.{name}.') for line in keys)
  assert f'  --config.evals.{name}.labels=5' in keys
  assert f'  --config.evals.{name}.every=0' in keys
  assert run('evaluate', config, '--config.steps=7', '--help') == 2
  assert 'evaluate changes config.evals.*' in capsys.readouterr().err


def test_help_of_evaluate_takes_from_training_what_an_evaluation_of_the_run_does(capsys, tmp_path):
  (tmp_path / 'evals.py').write_text(EVALS)
  changes = ['data.name=synthetic/faces', 'data.frame=40', 'method.margin=3']
  config = completion.complete(configs.changed(configs.load(smoke[9:]), changes))
  workdirs.claim(tmp_path / 'run', config)
  where = f'--config={tmp_path}/evals.py', f'--workdir={tmp_path}/run'
  assert run('evaluate', *where, '--help') == 0
  keys = capsys.readouterr().out.splitlines()
  assert '  --config.evals.mine.data.frame=40' in keys
  assert '  --config.evals.mine.margin=3' in keys


def test_exit_codes_and_streams_of_the_process():
  listed = process('-m', 'landmarks_jax')
  assert (listed.returncode, listed.stderr) == (0, '')
  assert '  train ' in listed.stdout
  wrong = process('-m', 'landmarks_jax', 'train', '--wrkdir=x')
  assert (wrong.returncode, wrong.stdout) == (2, '')
  assert wrong.stderr == (
    "error: Unknown command line flag 'wrkdir'. Did you mean: workdir ?\n"
    'Options: python -m landmarks_jax train --help\n'
  )


@pytest.mark.parametrize('argument', ['--version', 'version'])
def test_the_version_is_told(capsys, argument):
  assert run(argument) == 0
  assert capsys.readouterr().out == f'landmarks_jax {landmarks_jax.__version__}\n'


@pytest.mark.parametrize('arguments', ['', 'train --help'])
def test_a_reader_that_is_gone_ends_a_command_silently(arguments):
  reader, writer = os.pipe()
  os.close(reader)
  try:
    done = subprocess.run(
      [sys.executable, '-m', 'landmarks_jax', *arguments.split()],
      cwd=root,
      env={name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'},
      stdout=writer,
      stderr=subprocess.PIPE,
      timeout=120,
      check=False,
    )
  finally:
    os.close(writer)
  assert (done.returncode, done.stderr) == (141, b'')


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&- >&- 2>&-'])
def test_a_daemon_without_streams_does_its_work(tmp_path, closed):
  def begin(words):
    start = f'exec "$0" -m landmarks_jax {words} {closed}'
    given = ['sh', '-c', start, sys.executable]
    return subprocess.run(given, cwd=root, capture_output=True, timeout=120, check=False)

  done = begin(f'frames synthetic/faces --count 2 --frame 32 --output {tmp_path}/faces')
  assert (done.returncode, done.stderr) == (0, b'')
  assert len(list(tmp_path.glob('faces/*.png'))) == 2
  wrong = begin('train --wrkdir=x')
  assert (wrong.returncode, wrong.stdout) == (2, b'')


def test_processes_that_a_daemon_starts_have_streams_too():
  code = (
    'from landmarks_jax.cli import main; import subprocess, sys; main._prepare_streams(); '
    'given = [sys.executable, "-c", "import sys; sys.exit(None in (sys.stdin, sys.stdout, '
    'sys.stderr))"]; sys.exit(subprocess.run(given, close_fds=False).returncode)'
  )
  words = ['sh', '-c', 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
  assert subprocess.run(words, cwd=root, timeout=120, check=False).returncode == 0


@pytest.mark.parametrize(
  'words',
  [
    '-m landmarks_jax frames synthetic/faces --count 1 --frame 32 --output {}',
    '-m landmarks_jax train --config configs/demo.py --help',
    'setup.py --version',
  ],
)
def test_sources_are_read_whatever_the_locale(tmp_path, words):
  ascii_alone = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
  done = subprocess.run(
    [sys.executable, *words.format(tmp_path / 'faces').split()],
    cwd=root,
    env=os.environ | ascii_alone,
    capture_output=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_windows_imports_and_explains_but_runs_no_command():
  code = f"""
import sys
sys.modules.update(fcntl=None, resource=None)  # what it lacks
from landmarks_jax import load, losses
from landmarks_jax.cli.main import main
for words in '--help', 'train --help', 'train {smoke} --help', 'evaluate --workdir=none':
  print('code', main(['x', *words.split()]))
"""
  done = process('-c', code)
  codes = [line for line in done.stdout.splitlines() if line.startswith('code')]
  assert codes == ['code 0', 'code 0', 'code 0', 'code 2'], done.stderr
  assert done.stderr == (
    'error: evaluate needs Linux, macOS or WSL: this system has no fcntl, which locks folders of '
    'runs; install landmarks_jax there. The losses alone, landmarks_jax.losses, run anywhere\n'
  )


def test_help_and_the_import_come_at_once():
  code = """
import sys, time
began = time.monotonic()
import landmarks_jax
from landmarks_jax.cli.main import main
codes = [main(['x', command, '--help']) for command in ('train', 'evaluate')] + [main(['x'])]
heavy = {'jax', 'flax', 'orbax', 'grain', 'numpy'} & set(sys.modules)
print(codes, time.monotonic() - began < 2, sorted(heavy))
"""
  done = process('-c', code)
  assert done.stdout.splitlines()[-1] == '[0, 0, 0] True []'


# What is typed after `train smoke --workdir=NEW`, and what is said.
mistakes = {
  '--wrkdir=x': "Unknown command line flag 'wrkdir'. Did you mean: workdir ?",
  'extra': "train: unexpected 'extra'; options start with --",
  '--config.stepz=3': "config has no 'stepz' (did you mean 'steps'?); it has: base, batch_size, ",
  '--config.method.widht=3': "config.method has no 'widht' (did you mean 'width'?); it has: area, ",
  '--config.metod.width=3': "config has no 'metod' (did you mean 'method'?)",
  '--config.data.fram=90': "config.data has no 'fram' (did you mean 'frame'?)",
  '--config.optimizer.rate=1': "config.optimizer has no 'rate'",
  '--config.evals.faces.lables=3': "config.evals.faces has no 'lables' (did you mean 'labels'?)",
  '--config.evals.faces.data.fram=90': "config.evals.faces.data has no 'fram'",
  '--config.evals.fces.labels=3': "config.evals.fces.protocol is missing (did you mean 'faces'?)",
  '--config.steps': '--config.steps needs a value: --config.steps=VALUE',
  '--config.steps.a=3': '--config.steps.a: steps is not a section',
  '--config.steps=abc': "config.steps='abc': expected a whole number",
  '--config.steps=1.5': "config.steps='1.5': expected a whole number",
  '--config.steps=-1': 'config.steps=-1: expected at least 0',
  '--config.steps=None': 'config.steps is missing; give it, or config.optimizer.epochs',
  '--config.log_every=0': 'config.log_every=0: expected at least 1',
  '--config.cache=maybe': "config.cache='maybe': expected 'auto' or 'device' or 'host' or 'stream'",
  '--config.on_bad_image=stop': "config.on_bad_image='stop': expected 'skip' or 'error'",
  '--config.method.area=0.1': "config.method.area='0.1': expected 2 values (a number, a number)",
  '--config.method.mean=.1,.2': 'config.method.mean=[0.1, 0.2]: expected three numbers',
  '--config.method.std=0,1,1': 'config.method.std=[0, 1, 1]: expected three numbers, R, G',
  f'--config.seed={2**63}': f'config.seed={2**63}: expected a whole number, 0 to {2**63 - 1}',
  '--config.evals.faces.seed=-1': 'config.evals.faces.seed=-1: expected a whole number, 0 to',
  '--config.method.name=moko': "config.method.name='moko' is not known (did you mean 'moco'?)",
  '--config.method.norm_groups=3': 'batch of 8 does not split into 3 norm groups',
  '--config.method.margin=60': 'margin=60: a frame of (46, 46) pixels can lose',
  '--config.method.dim=0': 'dim=0: expected 1 or more',
  '--config.method.head_layers=0': 'head_layers=0: expected 1 or more',
  '--config.method.area=1.0,.4': 'area=(1.0, 0.4): expected (least, most) share of the frame',
  '--config.method.aspect=1.4,.7': 'aspect=(1.4, 0.7): expected (least, most) width / height',
  '--config.method.jitter=-.4': 'strength=-0.4 of the colour jitter: expected 0 to 1',
  '--config.method.temperature=0.0': 'temperature=0.0: expected a number above 0',
  '--config.method.momentum=2.5': 'momentum=2.5: expected 0 to 1',
  '--config.method.patch=8': "patch=8: network='resnet' has no patch; leave it at its default, 16",
  '--config.optimizer.learning_rate=-1': 'learning_rate=-1: expected 0 or more',
  '--config.optimizer.name=adan': "unknown optimizer 'adan'; known: adam, lars, sgd",
  '--config.optimizer.milestones=1,2': "config.optimizer has no 'milestones'; it has: epochs, ",
  '--config.optimizer.schedule=step': 'config.optimizer.milestones is missing; give it as',
  '--config.optimizer.schedule=cos': "unknown schedule 'cos'; known: constant, cosine, ",
  '--config.data.name=foldr': "no dataset named 'foldr' (did you mean 'folder'?); there are: ",
  '--config.data.split=tset': "split='tset'; there are: train, ",
  '--config.batch_size=12': 'config.batch_size=12 does not divide over 8 devices; use a multiple',
  '--config.batch_size=64': 'config.batch_size=64, but there are 32 pictures',
  '--config.evals.faces.protocol=voxels': "protocol='voxels' is not known; there are: ",
  '--config.evals.faces.labels=ten': "labels='ten': expected a whole number or a list,",
  '--config.evals.faces.labels=100': 'config.evals.faces: labels=100: expected 1 to 32',
  '--config.evals.faces.draws=0': 'config.evals.faces: draws=0: expected 1 or more',
  '--config.evals.faces.batch_size=0': 'config.evals.faces.batch_size=0: expected at least 1',
  '--config.evals.faces.probe_epochs=0': 'config.evals.faces: probe_epochs=0: expected 1 or more',
  '--config.evals.faces.probe_epoch_size=-5': 'faces: probe_epoch_size=-5: expected 0 or more',
  '--config.evals.faces.margin=23': 'config.evals.faces.margin=23 leaves nothing of frame=46',
  '--config.evals.faces.test=tset': "config.evals.faces: split='tset'; there are: train, ",
  '--config.evals.faces.data.split=test': 'give config.evals.faces.test=SPLIT, and',
  '--config.evals.faces.every=-1': 'config.evals.faces.every=-1: expected 0 or more',
}


@pytest.mark.parametrize('argument', mistakes)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(tmp_path, capsys, argument):
  assert run('train', smoke, f'--workdir={tmp_path}/new', argument) == 2
  told(capsys, mistakes[argument])
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('area=2.,3.', 'area=(2.0, 3.0): expected (least, most) share of the frame, within 0 to 1'),
    ('jitter=.4,.4,.2', 'strengths=(0.4, 0.4, 0.2): expected four, of brightness, contrast, '),
    ('grey=2.', 'probability=2.0 of grey pictures: expected 0 to 1'),
    ('solarised=0.,-.2', 'probability=-0.2 of solarised pictures: expected 0 to 1'),
  ],
)
def test_views_that_cannot_be_are_refused_before_anything_is_written(
  tmp_path, capsys, argument, message
):
  config = f'--config={root}/configs/scrl_synthetic_faces.py:smoke'
  given = f'--workdir={tmp_path}/new', f'--config.method.{argument}', '--config.evals={}'
  assert run('train', config, *given) == 2
  told(capsys, message)
  assert list(tmp_path.iterdir()) == []


def told(capsys, *expected):
  """Standard error is one line, perhaps with where to find the options; its parts."""
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith('error: ')
  for part in expected:
    assert part in lines[0]
  assert len(lines) <= 2
  assert all(re.fullmatch(r'Options: python -m landmarks_jax \w+ --help', x) for x in lines[1:])


def test_the_folder_one_is_in_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for output in (pathlib.Path('.'), tmp_path):
    with pytest.raises(ValueError, match=rf'^--output={output} is the folder you are in; give'):
      drafts.check_new(output)
  drafts.check_new(pathlib.Path('new'))
  assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_made_is_refused_before_anything_is_computed(tmp_path):
  (tmp_path / 'file').touch()
  message = rf'nothing can be made in {tmp_path}/file \(Not a directory\); give another'
  with pytest.raises(OSError, match=message) as caught:
    drafts.check_new(tmp_path / 'file/new/output')
  assert caught.value.filename == f'--output={tmp_path}/file/new/output'


def test_it_is_tried_where_the_command_will_write(tmp_path, monkeypatch):
  tried, real = [], tempfile.TemporaryDirectory
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'link').symlink_to('empty')

  def make(*, dir, **options):
    tried.append(dir.name)
    return real(dir=dir, **options)

  monkeypatch.setattr(tempfile, 'TemporaryDirectory', make)
  for output in ('empty', 'link', 'new/output'):
    drafts.check_new(tmp_path / output)
    drafts.check_new(tmp_path / output, inside=True)
  here = tmp_path.name
  assert tried == [here, 'empty', here, 'empty', here, here]


def test_the_root_of_a_file_system_is_refused_where_nothing_can_be_beside_it(tmp_path, monkeypatch):
  (tmp_path / 'link').symlink_to(tmp_path / 'disk')
  (tmp_path / 'disk').mkdir()
  monkeypatch.setattr(os.path, 'ismount', lambda path: path == tmp_path / 'disk')
  for name in ('disk', 'link'):
    with pytest.raises(ValueError, match=rf'/{name} is the root of a file system; give the name'):
      drafts.check_new(tmp_path / name)
    drafts.check_new(tmp_path / name, inside=True)


def test_a_link_to_an_empty_folder_can_be_the_output(tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'link').symlink_to('empty')
  with drafts.draft(tmp_path / 'link') as folder:
    folder.mkdir()
    (folder / 'file').touch()
  assert (tmp_path / 'link').is_symlink()
  assert sorted(path.name for path in tmp_path.rglob('*')) == ['empty', 'file', 'link']


def test_only_after_a_full_disk_is_a_draft_waited_for(tmp_path, monkeypatch):
  def write(error):
    with drafts.draft(tmp_path / 'output') as folder:
      folder.mkdir()
      raise error

  waited = []
  monkeypatch.setattr(time, 'sleep', waited.append)
  for error in (KeyboardInterrupt, ValueError, OSError(errno.EACCES, 'no')):
    with pytest.raises((KeyboardInterrupt, ValueError, OSError)):
      write(error)
  assert waited == []
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(OSError, match='make room'):
    write(OSError(errno.ENOSPC, 'full'))
  assert waited


def test_a_full_disk_names_the_output_and_leaves_no_draft(tmp_path, monkeypatch):
  removed, real = [], shutil.rmtree

  def write(output):
    with drafts.draft(output) as folder:
      folder.mkdir()
      (folder / 'file').write_text('cut')
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def remove(path, **options):
    removed.append(path)
    real(path, **options)
    if len(removed) < 3:  # somebody still writes there
      path.mkdir()

  monkeypatch.setattr(shutil, 'rmtree', remove)
  with pytest.raises(OSError, match='make room and run the command again') as caught:
    write(tmp_path / 'new/output')
  assert caught.value.filename == f'{tmp_path}/new/output'
  assert list(tmp_path.iterdir()) == []


def test_of_a_failed_save_only_the_error_is_told(monkeypatch):
  shown = []
  monkeypatch.setattr(sys, 'unraisablehook', sys.__unraisablehook__)
  assert run('convert') == 2
  monkeypatch.setattr(sys, '__unraisablehook__', shown.append)
  error = types.SimpleNamespace(
    exc_type=RuntimeError, exc_traceback=None, err_msg=None, object=None
  )
  error.exc_value = RuntimeError('Event loop is closed')
  sys.unraisablehook(error)
  error.exc_value = RuntimeError('another')
  sys.unraisablehook(error)
  assert shown == [error]


def test_what_must_be_given_is_said(tmp_path, capsys):
  usage = 'python -m landmarks_jax train --config=FILE --workdir=DIR [--options]'
  for arguments, missing in (
    ([], '--config=FILE --workdir=DIR'),
    ([smoke], '--workdir=DIR'),
    ([f'--workdir={tmp_path}/x'], '--config=FILE'),
  ):
    assert run('train', *arguments) == 2
    told(capsys, f'train needs {missing}: {usage}')
  assert run('train', smoke, '--workdir=') == 2
  told(capsys, '--workdir=: expected a path')
  assert run('train', smoke, f'--workdir={tmp_path}/x', '--init_from=') == 2
  told(capsys, '--init_from is empty: expected a value')
  assert run('evaluate', f'--workdir={tmp_path}', '--config=') == 2
  told(capsys, '--config is empty: expected a value')
  assert run('audit', '') == 2
  told(capsys, 'DIR is empty: expected a value')
  assert run('evaluate') == 2
  told(capsys, 'evaluate needs --workdir=DIR')
  assert run('export', '--format=jax') == 2
  told(capsys, 'export needs --model=RUN --output=FILE: ')
  assert run('trian') == 2
  told(capsys, "no command 'trian' (did you mean 'train'?); there are: audit, ")
  assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('HOME', str(tmp_path))
  found = []
  monkeypatch.setattr(train, 'run_config', lambda config, workdir: found.append(workdir) or {})
  train.train('~/run', data={}, method={}, optimizer={})
  assert found == [tmp_path / 'run']
  assert run('audit', '~/pictures') == 2
  told(capsys, f'{tmp_path}/pictures is not a folder')
  assert run('audit', '~nobody-here/pictures') == 2
  told(capsys, '~nobody-here/pictures is not a folder')


def test_missing_pictures_are_found_before_anything_is_written(tmp_path, capsys):
  (tmp_path / 'empty').mkdir()
  folder = f"name='folder', path='{tmp_path}/empty'"
  faces = "name='synthetic/faces', count=8, frame=16"
  rest = "method=dict(name='moco'), optimizer=dict(name='sgd', learning_rate=.1), steps=3"
  eval_ = f"evals=dict(mine=dict(protocol='regression', data=dict({folder})))"
  (tmp_path / 'train.py').write_text(page.format(f'data=dict({folder}), {rest}'))
  (tmp_path / 'test.py').write_text(
    page.format(f'data=dict({faces}), batch_size=8, {rest}, {eval_}')
  )
  for name in ('train', 'test'):
    assert run('train', f'--config={tmp_path}/{name}.py', f'--workdir={tmp_path}/run') == 2
    told(capsys, f'{tmp_path}/empty has no pictures in it or below it')
    change = '--config.data.path' if name == 'train' else '--config.evals.mine.data.path'
    arguments = f'--config={tmp_path}/{name}.py', f'--workdir={tmp_path}/run'
    assert run('train', *arguments, f'{change}=/nowhere') == 2
    told(capsys, '/nowhere is not a folder')
  assert not (tmp_path / 'run').exists()


def test_a_workdir_that_is_no_new_folder_is_left_alone(tmp_path, capsys):
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/notes').write_text('mine')
  assert run('train', smoke, f'--workdir={tmp_path}/file') == 2
  told(capsys, f'--workdir={tmp_path}/file is a file; expected a folder')
  assert run('train', smoke, f'--workdir={tmp_path}/file/below') == 2
  told(capsys, f'{tmp_path}/file/below: Not a directory')
  assert run('train', smoke, f'--workdir={tmp_path}/full') == 2
  told(capsys, f'{tmp_path}/full is not empty and has no config.json; use a new --workdir')
  assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*')) == [
    'file',
    'full',
    'full/notes',
  ]
  assert (tmp_path / 'file').read_text() == 'mine'


def test_errors_of_the_system_name_the_file(tmp_path, capsys, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied', f'{tmp_path}/run')

  monkeypatch.setattr(train, 'run_config', refuse)
  assert run('train', smoke, f'--workdir={tmp_path}/run') == 2
  assert capsys.readouterr().err == f'error: {tmp_path}/run: Permission denied\n'


@pytest.mark.parametrize('command', ['train', 'evaluate'])
def test_an_interrupt_is_no_error(tmp_path, capsys, monkeypatch, command):
  def interrupt(*_, **__):
    raise KeyboardInterrupt

  (tmp_path / 'config.json').write_text('{"evals": {}}')
  monkeypatch.setattr(train, 'run_config', interrupt)
  monkeypatch.setattr(evaluate, 'evaluate', interrupt)
  arguments = [smoke] if command == 'train' else []
  assert run(command, *arguments, f'--workdir={tmp_path}') == 130
  err = capsys.readouterr().err
  assert 'interrupted' in err
  assert ('same command continues' in err) == (command == 'train')


def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path, monkeypatch):
  shown = io.TextIOWrapper(io.BytesIO(), 'utf-8', errors='strict')
  monkeypatch.setattr(sys, 'stdout', shown)
  monkeypatch.setattr(evaluate, 'run', lambda values: print(os.fsdecode(b'caf\xe9.png')))
  assert run('evaluate', f'--workdir={tmp_path}') == 0
  shown.flush()
  assert shown.buffer.getvalue() == b'caf\\udce9.png\n'


def test_a_traceback_is_shown_on_request(tmp_path):
  with pytest.raises(ValueError, match='stepz'):
    run('train', smoke, f'--workdir={tmp_path}/x', '--config.stepz=1', '--traceback')


def test_an_evaluation_that_shows_another_size_than_training_is_noted():
  told = 'note: config.evals.faces shows 36 pixels a side (frame=46, margin=5), training 32 (frame='
  for change, notes in (('5', 1), ('7', 0)):
    config = configs.changed(
      configs.load(smoke.removeprefix('--config=')), [f'evals.faces.margin={change}']
    )
    lines = []
    made = experiment.Experiment(completion.complete(config), report=lines.append)
    made.resolve()
    made.check_evals()
    assert sum(told in line for line in lines) == notes


@pytest.mark.parametrize(
  ('page', 'changes', 'notes'),
  [
    ('demo.py', ['data.path=birds'], 1),
    ('demo.py', [], 0),
    ('moco_folder.py:smoke', [], 0),  # the page's own path
    ('moco_folder.py:smoke', ['data.path=birds'], 1),
    ('moco_folder.py', ['data.path=birds'], 0),
  ],
)
def test_a_path_of_pictures_that_are_rendered_is_noted(page, changes, notes):
  config = configs.changed(configs.load(f'{root}/configs/{page}'), changes)
  lines = []
  made = experiment.Experiment(completion.complete(config), report=lines.append)
  made.note_unused_path()
  told = 'note: config.data.path=birds is not used: synthetic/faces renders its pictures'
  assert lines == [told] * notes

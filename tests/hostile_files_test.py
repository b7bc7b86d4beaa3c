"""Files that want to harm: exit code 2, one line, nothing executed and nothing written.

tests/torch_checkpoint_test.py has what the reader refuses, one by one; here whole files of every
kind go through the command line.
"""

import importlib
import io
import json
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch_files
from convert_test import small_state
from PIL import Image
from torch_checkpoint_test import (
  call,
  const,
  dict_of,
  name,
  storage,
  streamed,
  tensor,
  tuple_of,
  zipped,
)

from landmarks_jax.cli.main import main
from landmarks_jax.interop import torch_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
MOST_BYTES = 2**17  # in a pickle here: millions of opcodes take seconds
CANARY = 'canary'  # a file that the payloads would make in the working folder
TOUCH = const(f'touch {CANARY}')


def tower(levels):
  """A tuple that holds one tuple twice, and so on: its hash and its text take 2**levels steps."""
  return b')q\x00' + b'0h\x00h\x00\x86q\x00' * levels


def instance(full, *arguments):
  """Of protocol 2's objects."""
  return name(full) + tuple_of(*arguments) + b'\x81'


SYSTEM = call('builtins.getattr', call('builtins.__import__', const('os')), const('system'))
PAYLOADS = {  # what a pickle may try: every one would make the canary, hang, or fill the memory
  'a command': call('posix.system', TOUCH),
  'a command of a process': instance('subprocess.Popen', const(['touch', CANARY])),
  'an expression': call('builtins.eval', const(f'open("{CANARY}", "w")')),
  'a statement of Python 2': call('__builtin__.exec', const(f'open("{CANARY}", "w")')),
  'a chain of builtins': SYSTEM + tuple_of(TOUCH) + b'R',
  'an opcode that calls': b'(' + TOUCH + b'iposix\nsystem\n',
  'another opcode that calls': b'(' + name('posix.system') + TOUCH + b'o',
  'a name by the stack': const('posix') + const('system') + b'\x93' + tuple_of(TOUCH) + b'R',
  'a dotted name': name('collections.OrderedDict.__init__.__globals__') + b')R',
  'a nested pickle': call('pickle.loads', const('cposix\nsystem\n.')),
  'a nested file': call('torch.load', const(CANARY)),
  'a state that calls': name('argparse.Namespace') + b')\x81' + call('posix.system', TOUCH) + b'b',
  'a memo of gigabytes': b'Nr' + struct.pack('<I', 2**32 - 1),
  'a tower as a key': b'}' + tower(60) + b'Ns',
  'a tower as a state dict': b'}' + const('state_dict') + tower(60) + b's',
  'a tower that is called': tower(60) + b')R',
  'a tower as a size': call(
    'torch._utils._rebuild_tensor_v2', storage(), const(0), tower(60), tower(60)
  ),
  'a number of many digits': b'\x8b' + struct.pack('<i', 10**5) + b'\x7f' * 10**5,
  'nothing but opcodes': b'}' * (MOST_BYTES + 1),
  'brackets without end': b']' * 50_000 + b'a' * 49_999,
  'itself': b'}q\x00' + const('model') + b'h\x00s',
  'a storage of terabytes': tensor((10**12,), (1,), at=storage(count=10**12)),
  'a view of terabytes': tensor((10**6, 10**6), (0, 0)),
  'strides outside of the storage': tensor((3, 4), (40, 1)),
  'an offset outside of the storage': tensor(offset=2**40),
  'an offset before the storage': tensor(offset=-4),
  'a storage by a path': tensor(at=storage('../../0')),
  'text as weights': dict_of(model=dict_of(**{'encoder.module.conv1.weight': const('a')})),
  'no weights': const([1, 2, 3]),
}


def pickled(payload):
  """The payload in both serialisations."""
  return {'zip': lambda path: zipped(path, payload), 'stream': lambda path: streamed(path, payload)}


def good(path, form='zip'):
  return torch_files.write(path, small_state(), form)


def bomb(path):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('model/data.pkl', b'\x80\x02' + b'}' * 10**8)


def renamed(path, record):
  """A good file with a record of another name, as a program that unpacks it would be misled by."""
  with zipfile.ZipFile(good(path)) as archive:
    records = {info.filename: archive.read(info) for info in archive.infolist()}
  with zipfile.ZipFile(path, 'w') as archive:
    for one, content in (records | {record: b'0'}).items():
      archive.writestr(one, content)


def cut(path, form, share):
  content = good(path, form).read_bytes()
  path.write_bytes(content[: int(share * len(content))])


def picture(path):
  Image.new('RGB', (8, 8)).save(path, 'png')


def tensors(path, header, content=bytes(16)):
  """A file of safetensors with any header."""
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(header)) + header + content)


def weight(**changes):
  return {'conv1.weight': {'dtype': 'F32', 'shape': [2, 2], 'data_offsets': [0, 16]} | changes}


OTHERS = {
  'a zip bomb': bomb,
  'a record above the archive': lambda path: renamed(path, 'model/data/../../../canary'),
  'a record from the root': lambda path: renamed(path, '/canary'),
  'a record of Windows': lambda path: renamed(path, 'model\\..\\..\\canary'),
  'a file cut in its names': lambda path: cut(path, 'stream', 0.01),
  'a file cut in its numbers': lambda path: cut(path, 'stream', 0.9),
  'an archive cut': lambda path: cut(path, 'zip', 0.9),
  'an empty file': lambda path: path.touch(),
  'a picture': picture,
  'a page': lambda path: path.write_text('<html>404</html>'),
  'JSON': lambda path: path.write_text('{"state_dict": {}}'),
  'an archive of NumPy': lambda path: np.savez(path.open('wb'), a=np.ones(3)),
  'a pickle of Python': lambda path: path.write_bytes(pickle.dumps({'a': 1})),
  'zeros': lambda path: path.write_bytes(bytes(1000)),
  'a header of exabytes': lambda path: path.write_bytes(struct.pack('<Q', 2**60) + b'{}'),
  'a header that is not JSON': lambda path: tensors(path, b'{' * 50),
  'an array outside of the file': lambda path: tensors(path, weight(data_offsets=[0, 160])),
  'arrays of more than their bytes': lambda path: tensors(path, weight(shape=[2**40, 2**20])),
  'arrays over one another': lambda path: tensors(
    path, weight() | {'bn1.bias': {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}}
  ),
}
FILES = OTHERS | {
  f'{what} ({form})': write
  for what, payload in PAYLOADS.items()
  for form, write in pickled(payload).items()
}


@pytest.mark.parametrize('what', FILES)
def test_a_hostile_file_is_one_line_and_nothing_happens(what, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(torch_checkpoint, 'MOST_BYTES', MOST_BYTES)
  path = tmp_path / 'weights.pth'
  FILES[what](path)
  began = time.process_time()
  assert main(['x', 'convert', f'--input={path}', f'--output={tmp_path}/run']) == 2
  assert time.process_time() - began < 20
  captured = capsys.readouterr()
  (line,) = captured.err.splitlines()
  assert line.startswith(f'error: {path}: ')
  assert line.isprintable()
  assert len(line) < 1200
  assert captured.out == ''
  assert [entry.name for entry in tmp_path.iterdir()] == ['weights.pth']


def test_the_payloads_would_work_elsewhere(tmp_path, monkeypatch):
  """Else nothing was tried: Python's own unpickler runs them."""
  monkeypatch.chdir(tmp_path)
  for what in ('a command', 'an opcode that calls', 'a name by the stack', 'a chain of builtins'):
    pickle.load(io.BytesIO(b'\x80\x02' + PAYLOADS[what] + b'.'))
    (tmp_path / CANARY).unlink()


@pytest.mark.parametrize('form', ['zip', 'stream'])
def test_the_program_itself_runs_nothing_and_takes_little_memory(tmp_path, form):
  """A whole process: the payload stands beside good weights."""
  state = dict_of(**{'conv6.weight': tensor()}) + const('x') + call('posix.system', TOUCH) + b's'
  pickled(state)[form](tmp_path / 'weights.pth')
  done = subprocess.run(
    [sys.executable, '-m', 'landmarks_jax', 'convert', '--input=weights.pth', '--output=run'],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith('error: weights.pth: refusing posix.system: it is not a tensor')
  assert done.stderr.count('\n') == 1
  assert [entry.name for entry in tmp_path.iterdir()] == ['weights.pth']


def test_mutations_of_good_files_are_read_or_refused(monkeypatch, capsys):
  """Some of the 5,000 of benchmarks/mutations.py."""
  monkeypatch.syspath_prepend(ROOT / 'benchmarks')
  mutations = importlib.import_module('mutations')
  assert mutations.main(['--count=120', '--seed=1']) == 0
  out = capsys.readouterr().out
  refused, read = map(int, re.search(r'\| all \| (\d+) \| (\d+) \|', out).groups())
  assert refused + read == 120
  assert min(refused, read) > 0

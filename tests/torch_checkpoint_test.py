"""The checkpoint reader on pickles written by hand, honest and hostile, in both serialisations.

Pickles are assembled from opcodes, because most of these no honest writer would write. Files of
torch itself are in tests/golden (interop_resnet_test.py reads them).
"""

import pickle
import pickletools
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from landmarks_jax.interop import torch_checkpoint
from landmarks_jax.interop.torch_checkpoint import CheckpointError, Dropped, read

DATA = {'0': np.arange(12, dtype=np.float32)}


def const(value):
  """The opcodes of a plain value."""
  return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def name(full):
  module, _, attribute = full.rpartition('.')
  return f'c{module}\n{attribute}\n'.encode()


def tuple_of(*parts):
  return b'(' + b''.join(parts) + b't'


def call(full, *arguments):
  return name(full) + tuple_of(*arguments) + b'R'


def dict_of(**items):
  return b'}(' + b''.join(const(key) + item for key, item in items.items()) + b'u'


def storage(key='0', count=12, kind='torch.FloatStorage', view=()):
  """The reference to a storage; the stream format adds `view`, None or (key, start, length)."""
  return (
    tuple_of(*map(const, ('storage',)), name(kind), *map(const, (key, 'cpu', count, *view))) + b'Q'
  )


def tensor(size=(3, 4), stride=(4, 1), offset=0, at=None):
  hooks = call('collections.OrderedDict')
  arguments = (const(offset), const(size), const(stride), const(False), hooks)
  return call('torch._utils._rebuild_tensor_v2', at or storage(), *arguments)


def zipped(path, body, data=DATA, records=(), **options):
  """What torch.save writes since 1.6."""
  with zipfile.ZipFile(path, 'w', **options) as archive:
    archive.writestr('model/data.pkl', b'\x80\x02' + body + b'.')
    for key, array in data.items():
      archive.writestr(f'model/data/{key}', array.tobytes())
    for record, content in dict(records).items():
      archive.writestr(f'model/{record}', content)
  return path


def streamed(path, body, data=DATA, protocol=1001, little_endian=True):
  """What torch.save wrote before."""
  header = (
    0x1950A86A20F9469CFC6C,
    protocol,
    {'protocol_version': 1001, 'little_endian': little_endian},
  )
  parts = [pickle.dumps(value, 2) for value in header]
  parts += [b'\x80\x02' + body + b'.', pickle.dumps(list(data), 2)]
  parts += [struct.pack('<q', array.size) + array.tobytes() for array in data.values()]
  path.write_bytes(b''.join(parts))
  return path


@pytest.fixture(params=[zipped, streamed])
def write(request, tmp_path):
  """write(body, data=...) -> the path of a checkpoint, in each serialisation."""
  write = request.param

  def to_path(body, data=DATA, **options):
    return write(tmp_path / 'x.pth', body, data, **options)

  return to_path


def test_views_share_a_storage_and_keep_their_strides(write):
  tree = read(
    write(
      dict_of(
        rows=tensor(),
        columns=tensor((4, 3), (1, 4)),
        part=tensor((2, 2), (8, 2), offset=1),
        scalar=tensor((), (), offset=7),
        one=tensor((1, 3), (2**62, 1), offset=9),
      )
    )
  )
  rows = np.arange(12.0).reshape(3, 4)
  np.testing.assert_array_equal(tree['rows'], rows)
  np.testing.assert_array_equal(tree['columns'], rows.T)
  np.testing.assert_array_equal(tree['part'], rows[::2, 1::2])
  np.testing.assert_array_equal(tree['one'], rows[2:, 1:])
  assert tree['scalar'].shape == ()
  assert tree['scalar'] == 7
  assert all(np.shares_memory(array, tree['rows']) for array in tree.values())
  assert not any(array.flags.writeable for array in tree.values())


@pytest.mark.parametrize(
  ('kind', 'dtype'),
  [
    ('FloatStorage', np.float32),
    ('DoubleStorage', np.float64),
    ('HalfStorage', np.float16),
    ('BFloat16Storage', ml_dtypes.bfloat16),
    ('LongStorage', np.int64),
    ('IntStorage', np.int32),
    ('ShortStorage', np.int16),
    ('CharStorage', np.int8),
    ('ByteStorage', np.uint8),
    ('BoolStorage', np.bool_),
    ('ComplexFloatStorage', np.complex64),
    ('ComplexDoubleStorage', np.complex128),
  ],
)
def test_every_type_of_number_is_read(write, kind, dtype):
  values = np.array([0, 1, 3, 0, 5, 7]).astype(dtype)
  at = storage('k', 6, f'torch.{kind}')
  found = read(write(tensor((2, 2), (3, 1), offset=1, at=at), {'k': values}))
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, values.reshape(2, 3)[:, 1:])


def test_empty_tensors_parameters_and_old_tensors_are_read(write):
  body = dict_of(
    empty=tensor((0, 5), (5, 1)),
    parameter=call('torch._utils._rebuild_parameter', tensor(), const(True), const({})),
    old=call('torch._utils._rebuild_tensor', storage(), const(2), const((2,)), const((3,))),
  )
  tree = read(write(body))
  assert (tree['empty'].shape, tree['empty'].dtype) == ((0, 5), np.float32)
  np.testing.assert_array_equal(tree['parameter'], np.arange(12.0).reshape(3, 4))
  np.testing.assert_array_equal(tree['old'], [2, 5])


def test_plain_python_and_numpy_values_are_read(write):
  number = 'numpy.core.multiarray.scalar'
  double = call('numpy.dtype', const('f8'), const(0), const(1))
  double += const((3, '<', None, None, None, -1, -1, 0)) + b'b'
  big = call('numpy.dtype', const('i2'), const(0), const(1))
  big += const((3, '>', None, None, None, -1, -1, 0)) + b'b'
  encoded = [
    call('_codecs.encode', const(array.tobytes().decode('latin1')), const('latin1'))
    for array in (np.float64(-2.25), np.array([[1, 300, 3], [4, 5, -600]], '>i2'))
  ]
  empty = call('numpy.core.multiarray._reconstruct', name('numpy.ndarray'), const((0,)), const(0))
  body = dict_of(
    plain=const([1, -2.5, None, True, 'é', (2**80, {'a': []})]),
    set=call('__builtin__.set', const([3, 1])),
    complex=call('builtins.complex', const(1.0), const(-2.0)),
    bytes=call('__builtin__.bytes'),
    ordered=call('collections.OrderedDict') + const({'z': 1, 'a': 2})[1:],
    pairs=call('collections.OrderedDict', const([['z', 1], ['a', 2]])),
    scalar=call(number, double, encoded[0]),
    new_name=call('numpy._core.multiarray.scalar', double, encoded[0]),
    array=empty + tuple_of(const(1), const((2, 3)), big, const(False), encoded[1]) + b'b',
    columns=empty + tuple_of(const(1), const((3, 2)), big, const(True), encoded[1]) + b'b',
  )  # fmt: skip
  tree = read(write(body, {}))
  assert tree['plain'] == [1, -2.5, None, True, 'é', (2**80, {'a': []})]
  assert tree['set'] == {1, 3}
  assert tree['complex'] == 1 - 2j
  assert tree['bytes'] == b''
  assert list(tree['ordered'].items()) == list(tree['pairs'].items()) == [('z', 1), ('a', 2)]
  assert tree['scalar'] == tree['new_name'] == np.float64(-2.25)
  assert type(tree['scalar']) is np.float64
  assert type(tree['array']) is np.ndarray
  np.testing.assert_array_equal(tree['array'], [[1, 300, 3], [4, 5, -600]])
  np.testing.assert_array_equal(tree['columns'], np.array([[1, 300, 3], [4, 5, -600]]).T)


@pytest.mark.parametrize(
  'full', ['argparse.Namespace', 'parse_config.ConfigParser', 'pathlib.PosixPath']
)
def test_configuration_objects_become_inert(write, full):
  state = dict_of(lr=const(0.1), path=call('pathlib.PosixPath', const('/'), const('tmp')))
  for made in (name(full) + b')\x81', name(full) + b')R'):  # protocol 2's way, and a call
    tree = read(write(dict_of(opt=made + state + b'b', weight=tensor())))
    assert tree['opt'] == Dropped(full)
    assert not hasattr(tree['opt'], 'lr')
    np.testing.assert_array_equal(tree['weight'], np.arange(12.0).reshape(3, 4))


def test_what_torch_hangs_on_a_state_dict_is_dropped(write):
  state = call('collections.OrderedDict') + b'(' + const('w') + tensor() + b'u'
  state += dict_of(_metadata=const({'version': 1}), items=const(3)) + b'b'
  tree = read(write(state))
  assert type(tree) is dict
  assert [key for key, _ in tree.items()] == ['w']


@pytest.mark.parametrize(
  'full',
  [
    'posix.system', 'os.system', 'builtins.eval', '__builtin__.getattr', 'builtins.bytearray',
    'numpy.load', 'numpy.core.multiarray.fromfile', 'torch.load', 'torch._utils._rebuild_tensor_v9',
    'torch.nn.modules.conv.Conv2d', 'collections.defaultdict', 'argparse.ArgumentParser',
    'landmarks_jax.interop.torch_checkpoint.read',
  ],
)  # fmt: skip
def test_any_other_global_is_refused_by_name(write, full, monkeypatch):
  # Were it looked up and called, this test would fail by the exception below.
  monkeypatch.setattr(torch_checkpoint, 'read', lambda *_: pytest.fail('it was called'))
  path = write(dict_of(weight=tensor(), bad=call(full, const('echo'))))
  with pytest.raises(CheckpointError) as error:
    read(path)
  assert str(error.value).startswith(f'{path}: refusing {full}: ')


@pytest.mark.parametrize('header', range(3))
def test_a_stream_s_header_may_call_nothing_either(tmp_path, header):
  parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True})]
  parts[header] = b'\x80\x02' + call('posix.system', const('echo')) + b'.'
  path = tmp_path / 'x.pth'
  path.write_bytes(b''.join(parts))
  with pytest.raises(CheckpointError, match=r'not a torch checkpoint|refusing posix\.system'):
    read(path)


@pytest.mark.parametrize(
  'body',
  [
    name('numpy.ndarray') + const((10**12,)) + b'R',  # would allocate
    name('numpy.ndarray') + const((3,)) + b'\x81',
    name('collections.OrderedDict') + b')\x81',
    const('text') + const((1,)) + b'R',
    const([1, 2]) + const({'append': 3}) + b'b',
    const(None) + const((1, (2,), 3, False, b'')) + b'b',
    call('_codecs.encode', const('text'), const('rot13')),
    b'\xff',
    b'',
  ],
)
def test_any_other_way_to_make_an_object_is_refused(write, body):
  with pytest.raises(CheckpointError):
    read(write(body))


@pytest.mark.parametrize(
  'body',
  [
    b'(' + const('echo') + b'iposix\nsystem\n',  # INST
    b'(' + name('argparse.Namespace') + b'o',  # OBJ
    name('argparse.Namespace') + const(()) + const({}) + b'\x92',  # NEWOBJ_EX
    b'\x82\x01',  # EXT1
    b'\x96' + struct.pack('<Q', 10**12),  # BYTEARRAY8: would allocate
  ],
)
def test_opcodes_that_torch_does_not_write_are_refused(write, body):
  with pytest.raises(CheckpointError, match=r'x\.pth: a pickle opcode that torch'):
    read(write(body))


FIT = 'does not fit its storage of 12 elements'
NATURAL = 'where a size, stride or offset was expected'


@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    (tensor(offset=1), FIT),
    (tensor(offset=-1), NATURAL),
    (tensor((3, 4), (5, 1)), FIT),
    (tensor((3, 4), (-4, 1)), NATURAL),
    (tensor((12,), (2,)), FIT),
    (tensor((-3, 4)), NATURAL),
    (tensor((-3, -4)), NATURAL),
    (tensor((3, 4), (4,)), r'size \(3, 4\), stride \(4,\)'),
    (tensor((3.0, 4)), NATURAL),
    (tensor((True, 4)), NATURAL),
    (tensor((2**40, 2**40), (0, 0)), FIT),  # all in one element, but not in the file
    (tensor((13,), (0,)), FIT),
    (tensor((1,), (1,), offset=2**62), FIT),
    (tensor((0, 2**62, 2**62), (1, 1, 1)), 'damaged'),
    (tensor(at=const([0.0] * 12)), 'a tensor of list'),
  ],
)
def test_a_tensor_outside_its_storage_is_refused(write, bad, message):
  with pytest.raises(CheckpointError, match=rf'x\.pth: .*{message}'):
    read(write(bad))


def test_the_error_shows_the_tensor_that_does_not_fit(write):
  with pytest.raises(CheckpointError) as error:
    read(write(tensor((3, 4), (4, 1), offset=1)))
  assert str(error.value).endswith(
    'a tensor of size (3, 4), stride (4, 1), offset 1 does not fit its storage of 12 elements'
  )


@pytest.mark.parametrize(
  ('bad', 'in_zip', 'in_stream'),
  [
    (storage(count=13), 'expected 52 bytes, found 48 bytes', 'found 48 of 12 x float32'),
    (storage(count=11), 'expected 44 bytes, found 48 bytes', 'found 44 of 12 x float32'),
    (storage(count=10**13), 'found 48 bytes', '40000000000000 bytes in a file of .*truncated?'),
    (storage(count=-12), NATURAL, NATURAL),
    (storage('1'), 'found no record', "not those in the file: .'0', '1'"),
    (storage(kind='torch.DoubleStorage'), 'found 48 bytes', 'found 48 of 12 x float64'),
    (
      tuple_of(storage(), storage(count=6, kind='torch.DoubleStorage')),
      "storage '0' is declared twice, differently",
      "storage '0' is declared twice, differently",
    ),
    (const(('module', 1, 2, 3, 4)) + b'Q', "persistent object 'module'", 'expected a storage'),
    (b'P0\n', 'damaged', 'damaged'),  # a persistent id in text
  ],
)
def test_a_storage_of_another_size_is_refused(tmp_path, bad, in_zip, in_stream):
  for write_file, message in ((zipped, in_zip), (streamed, in_stream)):
    with pytest.raises(CheckpointError, match=rf'x\.pth: .*{message}'):
      read(write_file(tmp_path / 'x.pth', bad))


@pytest.mark.parametrize(
  ('dtype', 'shape', 'data'),
  [('f8', (10**9,), b'12345678'), ('O', (1,), b'12345678'), ('V8', (1,), b'12345678')],
)
def test_a_numpy_array_of_other_contents_is_refused(write, dtype, shape, data):
  made = call('numpy.dtype', const(dtype), const(0), const(1))
  made += const((3, '<', None, None, None, -1, -1, 0)) + b'b'
  content = call('_codecs.encode', const(data.decode()), const('latin1'))
  array = call('numpy.core.multiarray._reconstruct', name('numpy.ndarray'), const((0,)), const(0))
  array += tuple_of(const(1), const(shape), made, const(False), content) + b'b'
  with pytest.raises(CheckpointError, match='NumPy'):
    read(write(array))


@pytest.mark.parametrize('data', ['1234', '1234567812345678', ''])
def test_a_numpy_scalar_of_other_contents_is_refused(write, data):
  made = call('numpy.dtype', const('f8'), const(0), const(1))
  content = call('_codecs.encode', const(data), const('latin1'))
  with pytest.raises(CheckpointError, match='a NumPy scalar of float64 from other contents'):
    read(write(call('numpy.core.multiarray.scalar', made, content)))


def test_a_small_file_cannot_build_much_larger_objects(write):
  text = const('x' * 10_000) + b'q\x010'  # kept as memo 1
  copies = b''.join(
    name('_codecs.encode') + b'h\x01' + const('latin1') + b'\x86R' for _ in range(100)
  )
  with pytest.raises(CheckpointError, match='much larger than the file'):
    read(write(text + b'](' + copies + b'e'))


@pytest.mark.parametrize('write_file', [zipped, streamed])
def test_a_truncated_file_is_named(tmp_path, write_file):
  path = write_file(tmp_path / 'x.pth', dict_of(weight=tensor()))
  whole = path.read_bytes()
  for length in range(0, len(whole) if write_file is streamed else len(whole) - 22, 7):
    path.write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match=rf'^{path}: .*(torch|truncated)'):
      read(path)


@pytest.mark.parametrize(
  'content',
  [b'\x89PNG\r\n\x1a\n' + bytes(50), pickle.dumps({'a': 1}), pickle.dumps(1), b'PK', b'{"a": 1}'],
)
def test_another_kind_of_file_is_no_checkpoint(tmp_path, content):
  path = tmp_path / 'x.pth'
  path.write_bytes(content)
  with pytest.raises(
    CheckpointError, match=r'x\.pth: not a torch checkpoint: it begins with b.*expected'
  ):
    read(path)


def test_an_empty_and_an_absent_file_are_told_apart(tmp_path):
  (tmp_path / 'x.pth').touch()
  with pytest.raises(CheckpointError, match=r'x\.pth: the file is empty'):
    read(tmp_path / 'x.pth')
  with pytest.raises(FileNotFoundError):
    read(tmp_path / 'y.pth')


def test_another_zip_file_is_no_checkpoint(tmp_path):
  np.savez(tmp_path / 'x.npz', a=np.ones(3))
  with pytest.raises(CheckpointError, match=r'x\.npz: a zip file with 0 data\.pkl'):
    read(tmp_path / 'x.npz')


def test_a_zip_bomb_is_refused(tmp_path):
  path = zipped(
    tmp_path / 'x.pth',
    tensor(at=storage(count=10**6)),
    {'0': np.zeros(10**6, np.float32)},
    compression=zipfile.ZIP_DEFLATED,
  )
  assert path.stat().st_size < 20_000
  with pytest.raises(CheckpointError, match=r'zip records of 4000\d\d\d bytes in a file of'):
    read(path)


def test_zip_records_that_share_their_bytes_are_refused(tmp_path):
  path = zipped(tmp_path / 'x.pth', tensor(), {'0': np.zeros(300), '1': np.zeros(300)})
  with zipfile.ZipFile(path, 'a') as archive:
    first = archive.getinfo('model/data/0')
    for info in archive.infolist()[1:]:
      info.header_offset = first.header_offset
    clones = [f'model/data/{i}' for i in range(2, 9)]
    for clone in clones:
      info = zipfile.ZipInfo(clone)
      info.file_size, info.compress_size, info.CRC = first.file_size, first.compress_size, first.CRC
      info.header_offset = first.header_offset
      archive.filelist.append(info)
    archive._didModify = True
  with pytest.raises(CheckpointError, match=r'zip records of \d+ bytes in a file of'):
    read(path)


def test_a_damaged_record_is_refused(tmp_path):
  path = zipped(tmp_path / 'x.pth', tensor())
  content = path.read_bytes()
  path.write_bytes(content.replace(np.float32(7).tobytes(), np.float32(8).tobytes()))
  with pytest.raises(CheckpointError, match='CRC'):
    read(path)


def test_big_endian_files_are_refused(tmp_path):
  path = tmp_path / 'x.pth'
  for write in (
    lambda: zipped(path, tensor(), records={'byteorder': b'big'}),
    lambda: streamed(path, tensor(), little_endian=False),
  ):
    with pytest.raises(CheckpointError, match='big-endian'):
      read(write())
  np.testing.assert_array_equal(
    read(zipped(path, tensor(), records={'byteorder': b'little'})), np.arange(12.0).reshape(3, 4)
  )


def test_a_stream_of_another_protocol_is_refused(tmp_path):
  with pytest.raises(CheckpointError, match='stream protocol 1002; expected 1001'):
    read(streamed(tmp_path / 'x.pth', tensor(), protocol=1002))


def test_a_stream_with_other_storages_than_it_uses_is_refused(tmp_path):
  extra = DATA | {'1': np.zeros(3, np.float32)}
  with pytest.raises(CheckpointError, match=r"not those in the file: \['1'\]"):
    read(streamed(tmp_path / 'x.pth', tensor(), extra))


def test_a_stream_s_slices_of_storages_are_read_and_checked(tmp_path):
  def view(start, length):
    return tensor((2,), (2,), at=storage(view=(('0v', start, length),)))

  path = tmp_path / 'x.pth'
  np.testing.assert_array_equal(read(streamed(path, view(5, 3))), [5, 7])
  np.testing.assert_array_equal(
    read(streamed(path, tensor(at=storage(view=(None,)))))[1], [4, 5, 6, 7]
  )
  for bad, message in (
    (view(5, 2), 'does not fit its storage of 2 elements'),
    (view(10, 3), "elements 10 to 13 of storage '0' of 12"),
    (view(-1, 5), NATURAL),
  ):
    with pytest.raises(CheckpointError, match=message):
      read(streamed(path, bad))


TOWER = b')q\x00' + b'0h\x00h\x00\x86q\x00' * 60  # 2**60 steps to hash or to print


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (b'}' + TOWER + b'Ns', 'a tuple as a key; only texts and numbers are read'),
    (b'}(' + TOWER + b'Nu', 'a tuple as a key'),
    (b'(' + TOWER + b'Nd', 'a tuple as a key'),
    (name('__builtin__.set') + b'(](' + TOWER + b'e' + b'tR', 'a tuple as a key'),
    (tensor(at=storage().replace(const('0'), TOWER)), 'a tuple as a key'),
    (b'}(' + const(2**70) + b'Nu', '1180591620717411303424 as a key'),
    (TOWER + b')R', 'a call of a tuple'),
    (
      call('torch._utils._rebuild_tensor_v2', storage(), *[const(0), TOWER, TOWER]),
      'a tuple where',
    ),
    (call('_codecs.encode', const(''), TOWER), 'bytes in encoding a tuple'),
    (b'N' + b'(' + TOWER + b'Nu', 'items for None'),
  ],
)
def test_nested_containers_of_a_file_are_neither_hashed_nor_printed(write, body, message):
  with pytest.raises(CheckpointError, match=message):
    read(write(body))


def test_a_pickle_has_only_so_many_bytes_beside_the_tensors(write, monkeypatch):
  monkeypatch.setattr(torch_checkpoint, 'MOST_BYTES', 1000)
  assert read(write(const([None] * 500), {})) == [None] * 500
  with pytest.raises(CheckpointError, match='more than 1000 bytes beside the tensors'):
    read(write(b'0'.join([b'}'] * 600)))


@pytest.mark.parametrize('record', ['data/../../canary', '/canary', '..\\canary', 'a//b'])
def test_a_record_that_points_elsewhere_is_refused(tmp_path, record):
  path = zipped(tmp_path / 'x.pth', tensor())
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr(record, b'0')
  with pytest.raises(CheckpointError, match=r'x\.pth: zip records that point elsewhere: '):
    read(path)


def test_numbers_and_axes_have_bounds(write):
  for bad in (tensor((2**63,), (1,)), tensor((1,), (2**70,)), tensor((1,) * 40, (1,) * 40)):
    with pytest.raises(CheckpointError, match=r'where a size|a tensor of _Storage'):
      read(write(bad))

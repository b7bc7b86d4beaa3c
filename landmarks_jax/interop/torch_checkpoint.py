"""PyTorch checkpoints without PyTorch, and without trusting them.

A checkpoint is a pickle, and a pickle is a program. This reader knows the few calls that build
tensors, plain containers and NumPy values, and refuses all others by name. No code from the file
runs, and memory use is bounded by the size of the file.
"""

import dataclasses
import io
import math
import mmap
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
  'FloatStorage': np.float32,
  'DoubleStorage': np.float64,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
  'ComplexFloatStorage': np.complex64,
  'ComplexDoubleStorage': np.complex128,
}
DROPPED = (  # classes in published files; an object of one is read as an inert `Dropped`
  'argparse.Namespace',
  'parse_config.ConfigParser',  # DVE's configuration; it holds paths
  'pathlib.PosixPath',
  'pathlib._local.PosixPath',
)
MOST_BYTES = 2**22  # of a pickle; a ResNet-50 with momentum encoder and optimizer takes 91,704
MOST_AXES = 32
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
BIG_ENDIAN = 'written on a big-endian machine; only little-endian files are read'


class CheckpointError(ValueError):
  """The file is not a PyTorch checkpoint, is damaged, or asks for what this reader refuses."""


@dataclasses.dataclass(frozen=True)
class Dropped:
  """Stands for an object of a class in DROPPED, or for the class; its contents are discarded."""

  name: str


def read(path: str | os.PathLike) -> Any:
  """Reads a file written by `torch.save`: a zip, or the stream format from before torch 1.6.

  Returns: the saved tree: dicts (also for OrderedDict), lists, tuples, sets, numbers, strings,
  `Dropped`, and read-only NumPy arrays (views of one storage share memory; bfloat16 is
  `ml_dtypes.bfloat16`).
  Raises CheckpointError naming the path, what was found and what was expected.
  """
  with open(path, 'rb') as file:
    try:
      start = file.read(4)
      if not start:
        raise CheckpointError('the file is empty; expected a checkpoint written by torch.save')
      return _read_zip(file) if start == b'PK\x03\x04' else _read_stream(file)
    except CheckpointError as error:
      raise CheckpointError(f'{os.fspath(path)}: {error}') from None
    except Exception as error:  # a damaged pickle can make Python raise anything
      raise CheckpointError(
        f'{os.fspath(path)}: damaged or truncated ({type(error).__name__}: {error}); '
        'expected a checkpoint written by torch.save'
      ) from error


def _read_zip(file: BinaryIO) -> Any:
  """Reads a zip: `<root>/data.pkl` holds the tree, `<root>/data/<key>` the bytes of a storage."""
  size = os.fstat(file.fileno()).st_size
  with zipfile.ZipFile(file) as archive:
    records = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix('data.pkl') for name in records if f'/{name}'.endswith('/data.pkl')]
    if len(roots) != 1:
      raise CheckpointError(f'a zip file with {len(roots)} data.pkl; a torch checkpoint has one')
    stray = [name for name in records if name.startswith('/') or {'..', ''} & set(_parts(name))]
    if stray:
      raise CheckpointError(f'zip records that point elsewhere: {_shown(stray[0])}')
    compressed = [name for name, info in records.items() if info.compress_type]
    declared = sum(info.file_size for info in archive.infolist())
    if compressed or declared > size:
      raise CheckpointError(
        f'zip records of {declared} bytes in a file of {size} (compressed: {compressed[:3]}); '
        'torch stores records as they are'
      )
    order = records.get(f'{roots[0]}byteorder')
    if order and archive.read(order) != b'little':
      raise CheckpointError(BIG_ENDIAN)

    def load_storage(key: str, nbytes: int) -> np.ndarray:
      record = records.get(f'{roots[0]}data/{key}')
      if record is None or record.file_size != nbytes:
        found = 'no record' if record is None else f'{record.file_size} bytes'
        raise CheckpointError(f'storage {key!r}: expected {nbytes} bytes, found {found}')
      return np.frombuffer(archive.read(record), np.uint8)

    tree = io.BytesIO(archive.read(f'{roots[0]}data.pkl'))
    return _Unpickler(tree, size, load_storage).load()


def _read_stream(file: BinaryIO) -> Any:
  """Reads five pickles (magic, protocol, machine, tree, storage keys), then lengths and bytes."""
  with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
    size = left = len(stream)

    def reserve(key: str, nbytes: int) -> np.ndarray:
      nonlocal left
      left -= nbytes  # the bytes follow the tree: do not allocate more than can be there
      if left < 0:
        raise CheckpointError(f'storage {key!r} of {nbytes} bytes in a file of {size}: truncated?')
      return np.empty(nbytes, np.uint8)

    if _magic(stream) != LEGACY_MAGIC:
      raise CheckpointError(
        f'not a torch checkpoint: it begins with {stream[:8]!r}; expected a zip file or the magic '
        "number of torch's stream format"
      )
    protocol = _Unpickler(stream, size).load()
    if protocol != LEGACY_PROTOCOL:
      raise CheckpointError(f'stream protocol {_shown(protocol)}; expected {LEGACY_PROTOCOL}')
    if not _Unpickler(stream, size).load()['little_endian']:
      raise CheckpointError(BIG_ENDIAN)
    unpickler = _Unpickler(stream, size, reserve)
    tree, storages = unpickler.load(), unpickler.storages
    keys = [_plain(key) for key in _Unpickler(stream, size).load()]
    if sorted(keys) != sorted(storages):
      odd = sorted(set(keys) ^ set(storages))[:5]
      raise CheckpointError(f'the storages used are not those in the file: {odd} in one of them')
    for key in keys:
      data, dtype = storages[key]
      count, found = int.from_bytes(stream.read(8), 'little'), stream.read(data.nbytes)
      if not count * dtype.itemsize == len(found) == data.nbytes:
        raise CheckpointError(
          f'storage {key!r}: expected {data.nbytes} bytes, found {len(found)} of '
          f'{count} x {dtype}: truncated?'
        )
      data[:] = np.frombuffer(found, np.uint8)
    return tree


def _magic(stream: mmap.mmap) -> Any:
  try:
    return _Unpickler(stream, len(stream)).load()
  except Exception:  # any other kind of file
    return None


class _Storage(NamedTuple):
  data: np.ndarray  # uint8
  dtype: np.dtype


class _Call(NamedTuple):
  """Stands for an allowed global of the pickle: the only kind of object that can be called."""

  function: Callable


class _DType:
  """A NumPy dtype being unpickled: its byte order comes after its name."""

  def __init__(self, name: Any, *_: Any) -> None:
    if not re.fullmatch(r'[biufcSU][1-9]\d{0,8}', name):
      raise CheckpointError(f'NumPy dtype {name!r}; only numbers and strings are read')
    self.dtype = np.dtype(name)

  def build(self, state: Any) -> None:
    self.dtype = self.dtype.newbyteorder(state[1])


class _Limited:
  """A file that limits the length of a pickle, since each byte of one can become a dict."""

  def __init__(self, file: Any) -> None:
    self.file, self.left = file, MOST_BYTES

  def read(self, count: int) -> bytes:
    """See `io.BufferedIOBase.read`."""
    return self.checked(self.file.read(count))

  def readline(self) -> bytes:
    """See `io.IOBase.readline`."""
    return self.checked(self.file.readline())

  def checked(self, content: bytes) -> bytes:
    """Raises CheckpointError after too many bytes."""
    self.left -= len(content)
    if self.left < 0:
      raise CheckpointError(f'names and numbers of more than {MOST_BYTES} bytes beside the tensors')
    return content


class _Unpickler(pickle._Unpickler):
  """An unpickler that calls only what `__init__` lists.

  It extends the pure-Python implementation, whose opcodes can be replaced and whose memo is a dict;
  the C one's is an array that a single opcode in a small file can make gigabytes long. Values from
  a file are hashed, compared and printed only if they are texts or numbers (`_plain`).
  """

  def __init__(self, file: Any, size: int, load_storage: Callable | None = None) -> None:
    super().__init__(_Limited(file), encoding='utf-8')
    self.load_storage, self.storages = load_storage, {}
    self.budget = 4 * size  # calls may copy what is in the file, but not multiply it
    self.unbuilt = None
    self.calls = {
      'builtins.bytes': lambda: b'',  # how protocol 2 writes empty bytes
      'builtins.complex': complex,
      'builtins.set': lambda items=(): set(map(_plain, self.spend(items))),
      'collections.OrderedDict': self.ordered_dict,
      '_codecs.encode': self.encode,
      'numpy.dtype': _DType,
      'numpy.ndarray': None,  # an argument of _reconstruct; never called
      'numpy.core.multiarray.scalar': self.numpy_scalar,
      'numpy.core.multiarray._reconstruct': self.numpy_array,
      'torch._utils._rebuild_tensor': self.tensor,
      'torch._utils._rebuild_tensor_v2': self.tensor,
      'torch._utils._rebuild_parameter': lambda data, *_: data,
    }

  def find_class(self, module: str, name: str) -> Any:
    full = f'{module}.{name}'.replace('__builtin__.', 'builtins.')  # its name in Python 2
    full = full.replace('numpy._core.', 'numpy.core.')  # its name since NumPy 2
    if full in self.calls:
      return _Call(self.calls[full])
    if module == 'torch' and name in STORAGES:
      return np.dtype(STORAGES[name])
    if full in DROPPED:
      return Dropped(full)
    raise CheckpointError(
      f'refusing {module}.{name}: it is not a tensor, plain container or number. If you trust the '
      'file, load it with PyTorch and save its state dicts alone'
    )

  def persistent_load(self, pid: Any) -> _Storage:
    kind, dtype, key, _, count, *view = pid
    if kind != 'storage' or not isinstance(dtype, np.dtype) or self.load_storage is None:
      raise CheckpointError(f'persistent object {_shown(kind)}; expected a storage')
    key = _plain(key)
    nbytes = _natural(count) * dtype.itemsize
    if key not in self.storages:
      self.storages[key] = _Storage(self.load_storage(key, nbytes), dtype)
    storage = self.storages[key]
    if storage.dtype != dtype or storage.data.nbytes != nbytes:
      raise CheckpointError(f'storage {key!r} is declared twice, differently')
    if not view or view[0] is None:
      return storage
    start, length = map(_natural, view[0][1:])  # a slice of a storage, in the stream format
    if start + length > count:
      raise CheckpointError(f'elements {start} to {start + length} of storage {key!r} of {count}')
    return _Storage(storage.data[start * dtype.itemsize :][: length * dtype.itemsize], dtype)

  def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > MOST_AXES:
      raise CheckpointError(
        f'a tensor of {type(storage).__name__}, size {_shown(size)}, stride {_shown(stride)}'
      )
    (data, dtype), itemsize = storage, storage.dtype.itemsize
    last = _natural(offset) + sum(
      max(_natural(n) - 1, 0) * _natural(step) for n, step in zip(size, stride, strict=True)
    )
    count = math.prod(size)
    # A view with more elements than its storage (expanded) would let a small file fill the memory.
    if count and max(last + 1, count) * itemsize > data.nbytes:
      raise CheckpointError(
        f'a tensor of size {_shown(size)}, stride {_shown(stride)}, offset {_shown(offset)} '
        f'does not fit its storage of {data.nbytes // itemsize} elements'
      )
    strides = [step * itemsize if n > 1 else itemsize for n, step in zip(size, stride, strict=True)]
    array = (
      np.ndarray(size, dtype, data, offset * itemsize, strides) if count else np.empty(size, dtype)
    )
    array.flags.writeable = False  # other tensors may share the memory
    return array

  def numpy_array(self, *_: Any) -> np.ndarray:
    self.unbuilt = np.empty(0)  # its shape, dtype and contents come with BUILD
    return self.unbuilt

  def build_numpy_array(self, state: Any) -> None:
    _, shape, dtype, fortran, data = state
    dtype, data = dtype.dtype, self.spend(data)
    if (
      not isinstance(data, bytes)
      or len(shape) > MOST_AXES
      or math.prod(map(_natural, shape)) * dtype.itemsize != len(data)
    ):
      raise CheckpointError(
        f'a NumPy array of shape {_shown(shape)} and {dtype} from other contents'
      )
    self.unbuilt.__setstate__((1, shape, dtype, bool(fortran), data))
    self.unbuilt.flags.writeable = False
    self.unbuilt = None

  def numpy_scalar(self, dtype: Any, data: Any) -> np.generic:
    if not isinstance(data, bytes) or len(self.spend(data)) != dtype.dtype.itemsize:
      raise CheckpointError(f'a NumPy scalar of {dtype.dtype} from other contents')
    return np.frombuffer(data, dtype.dtype)[0]

  def encode(self, text: Any, encoding: Any) -> bytes:
    """The call by which protocol 2 writes bytes."""
    if encoding != 'latin1':
      raise CheckpointError(f'bytes in encoding {_shown(encoding)}')
    return self.spend(text).encode('latin1')

  def ordered_dict(self, items: Any = ()) -> dict[Any, Any]:
    """A dict from pairs, as in state dicts written by Python 2."""
    return {_plain(key): value for key, value in self.spend(items)}

  def spend(self, items: Any) -> Any:
    self.budget -= len(items)
    if self.budget < 0:
      raise CheckpointError('refusing to build objects much larger than the file')
    return items

  def load_global(self) -> None:
    lines = [self.readline(), self.readline()]
    if not all(line.endswith(b'\n') for line in lines):  # otherwise a cut-off name would be refused
      raise EOFError('it ends within a name')
    self.append(self.find_class(*(line[:-1].decode() for line in lines)))

  def load_reduce(self) -> None:
    arguments = self.stack.pop()
    function = self.stack[-1]
    if isinstance(function, _Call):
      self.stack[-1] = function.function(*arguments)
    elif not isinstance(function, Dropped):
      raise CheckpointError(f'a call of {_shown(function)}')

  def load_newobj(self) -> None:
    self.stack.pop()
    if not isinstance(self.stack[-1], Dropped):
      raise CheckpointError(f'an instance of {_shown(self.stack[-1])}')

  def load_build(self) -> None:
    state = self.stack.pop()
    made = self.stack[-1]
    if isinstance(made, _DType):
      made.build(state)
    elif made is self.unbuilt:
      self.build_numpy_array(state)
    elif not isinstance(made, Dropped | dict):  # a state dict's `_metadata` is dropped too
      raise CheckpointError(f'a state for {_shown(made)}')

  def load_dict(self) -> None:
    items = self.pop_mark()
    self.append(dict(zip(map(_plain, items[::2]), items[1::2], strict=True)))

  def load_setitem(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self.filled()[_plain(key)] = value

  def load_setitems(self) -> None:
    items = self.pop_mark()
    self.filled().update(zip(map(_plain, items[::2]), items[1::2], strict=True))

  def filled(self) -> dict[Any, Any]:
    """The dict on the stack that items are added to."""
    if type(self.stack[-1]) is not dict:
      raise CheckpointError(f'items for {_shown(self.stack[-1])}')
    return self.stack[-1]

  def load_refused(self) -> None:
    raise CheckpointError('a pickle opcode that torch.save does not write')

  dispatch = pickle._Unpickler.dispatch | {
    pickle.DICT[0]: load_dict,
    pickle.SETITEM[0]: load_setitem,
    pickle.SETITEMS[0]: load_setitems,
    pickle.GLOBAL[0]: load_global,
    pickle.REDUCE[0]: load_reduce,
    pickle.NEWOBJ[0]: load_newobj,
    pickle.BUILD[0]: load_build,
    **dict.fromkeys(
      b''.join(
        getattr(pickle, name)
        for name in (
          *('INST', 'OBJ', 'NEWOBJ_EX', 'EXT1', 'EXT2', 'EXT4', 'BYTEARRAY8'),
          *('EMPTY_SET', 'ADDITEMS', 'FROZENSET'),
        )
      ),
      load_refused,
    ),
  }


def _natural(number: Any) -> int:
  if type(number) is not int or not 0 <= number < 2**63:
    raise CheckpointError(f'{_shown(number)} where a size, stride or offset was expected')
  return number


def _plain(key: Any) -> Any:
  """Checks a key of a dict or a member of a set.

  Nothing else is hashed, compared or printed: a tuple that holds one tuple twice, nested forty
  levels deep, fits in a small file and takes days to hash or print.
  """
  kinds = str | bytes | int | float | complex | np.generic | None
  if not isinstance(key, kinds) or (type(key) is int and key.bit_length() > 64):
    raise CheckpointError(f'{_shown(key)} as a key; only texts and numbers are read')
  return key


def _shown(value: Any) -> str:
  """For a message: texts, numbers and short rows of them as they are, anything else by type."""
  row = type(value) in (tuple, list) and len(value) <= 8
  scalars = str, bytes, int, float, bool, type(None)
  if type(value) in scalars or (row and all(type(one) in scalars for one in value)):
    try:
      return f'{value!r:.100}' if not row else f'{value!r}'[:100]
    except ValueError:  # a number of thousands of digits
      return 'a huge number'
  return value.name if isinstance(value, Dropped) else f'a {type(value).__name__}'


def _parts(name: str) -> list[str]:
  return name.replace('\\', '/').removesuffix('/').split('/')

"""Weight files as torch writes them, without torch: trees of arrays and plain values, both ways."""

import numpy as np
from torch_checkpoint_test import call, const, name, storage, streamed, tensor, zipped

FORMS = {'zip': zipped, 'stream': streamed}
STORAGES = {'float32': 'Float', 'float64': 'Double', 'float16': 'Half', 'int64': 'Long'}
NAMESPACE = object()  # stands for the options that training scripts keep in their files


def write(path, tree, form):
  """Writes a tree of dicts with arrays and plain values in one of FORMS; returns the path."""
  data = {}
  body = _opcodes(tree, data)
  return FORMS[form](path, body, data)


def _opcodes(value, data):
  if value is NAMESPACE:
    return name('argparse.Namespace') + b')\x81' + const({'lr': 0.03}) + b'b'
  if isinstance(value, np.ndarray):
    key = str(len(data))
    data[key] = np.array(value, order='C')
    strides = tuple(step // value.itemsize for step in data[key].strides)
    kind = f'torch.{STORAGES[value.dtype.name]}Storage'
    return tensor(value.shape, strides, at=storage(key, value.size, kind))
  if isinstance(value, dict):
    items = b''.join(const(key) + _opcodes(item, data) for key, item in value.items())
    return call('collections.OrderedDict') + b'(' + items + b'u'
  return const(value)

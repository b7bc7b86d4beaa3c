"""Published weight files: their kind, recognised by the names in them, and their contents.

A file is a state dict, or has one under a key (KINDS). Everything in it is checked: names that are
missing or that the network does not have are reported as errors.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from landmarks_jax.contracts import PyTree
from landmarks_jax.data import faces, folder
from landmarks_jax.interop import (
  head_weights,
  hourglass,
  resnet,
  smallnet,
  tensors,
  torch_checkpoint,
  torch_names,
  vit,
)
from landmarks_jax.models import hourglass as hourglasses
from landmarks_jax.models import resnet as resnets
from landmarks_jax.models import smallnet as smallnets

State = dict[str, np.ndarray]
FACES, IMAGENET = (
  {'mean': list(mean), 'std': list(std)}
  for mean, std in ((faces.INFOS[5].mean, faces.INFOS[5].std), folder.IMAGENET)
)
MOCO = {'name': 'moco', 'precision': 'float32'}
DVE = {'name': 'equivariant', 'precision': 'float32', 'exchange': True, **FACES}
HEADS = {1280: 16, 1408: 16}  # of ViT-H and ViT-g; all others have 64 channels a head
MOST_BLOCKS = 100  # with more, a file of a few kilobytes could take hours to compile
MOST_PIXELS = 1024  # a side, of the proposed frames
SHOWN = 1000  # the most characters of a message


class Published(NamedTuple):
  """The contents of a file, converted to those of a method.

  network: a description. method: its section of a config. params, aux: as far as the file has them;
  the method may lack those named in `spare`. frame: side in pixels of the frames that the network
  was made for; None: as the network below. kind: of the file. dropped: names that were not used.
  """

  network: str
  method: dict[str, Any]
  params: PyTree
  aux: PyTree
  frame: int | None
  spare: tuple[str, ...] = ()
  dropped: tuple[str, ...] = ()
  kind: str = ''


class Options(NamedTuple):
  """What cannot be read from a file.

  channels: of every level of the network below, coarse to fine. heads: of a ViT's attention.
  """

  channels: tuple[int, ...] | None = None
  heads: int | None = None


class Kind(NamedTuple):
  """A kind of file. `key` holds its state dict; `beside` are the other keys of the file.

  pattern: matches the start of names that identify it; group 1 is the prefix of all names. read:
  (state dict, that prefix, the other keys' values, options) -> Published.
  """

  name: str
  pattern: str
  key: str | None
  beside: tuple[str, ...]
  read: Callable[[State, str, Mapping[str, Any], Options], Published]


def read(path: str | os.PathLike, options: Options | None = None) -> Published:
  """Reads a file's weights: PyTorch, in either serialisation, or safetensors.

  Raises a one-line ValueError for a file that is damaged, hostile or of no known kind, and for
  missing or unexpected names.
  """
  try:
    return recognise(_load(path), options or Options())
  except ValueError as error:
    name, text = os.fspath(path), str(error)
    text = text if text.startswith(name) else f'{name}: {text}'
    raise ValueError(_printable(text)) from error


def recognise(tree: Any, options: Options) -> Published:
  """As `read`, given the contents of the file."""
  if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
    raise ValueError(f'it holds a {type(tree).__name__}; expected names and weights')
  keyed = [kind for kind in KINDS if kind.key in tree]
  kind, prefix = _kind_of(tree, keyed)
  state = _state(tree[kind.key] if keyed else tree, kind.key or 'the file')
  rest = {key: value for key, value in tree.items() if keyed and key != kind.key}
  _among(rest, kind.beside, f'{kind.name}: ')
  try:
    found = kind.read(state, prefix, rest, options)
  except ValueError as error:
    raise ValueError(f'{kind.name}: {error}') from error
  dropped = [key for key in kind.beside if key in rest and key not in ('model_ema', 'contrast')]
  return found._replace(kind=kind.name, dropped=(*found.dropped, *dropped))


def _kind_of(tree: Mapping[str, Any], keyed: list[Kind]) -> tuple[Kind, str]:
  """The kind, and the prefix of its names. keyed: kinds whose key is present; [] = a state dict."""
  for kind in keyed or KINDS:
    state = tree[kind.key] if keyed else tree
    names = state if isinstance(state, dict) else ()
    matches = (re.match(kind.pattern, name) for name in names if isinstance(name, str))
    match = next(filter(None, matches), None)
    if match:
      return kind, match[1]
  if len(keyed) == 1:
    return keyed[0], ''
  known = '; '.join(kind.name for kind in KINDS)
  found = tree[keyed[0].key] if keyed else tree
  found = torch_names.listed(map(str, found)) if isinstance(found, dict) else type(found).__name__
  raise ValueError(f'no known kind; it has {found or "nothing"}. Known are: {known}')


def _load(path: str | os.PathLike) -> Any:
  with open(path, 'rb') as file:
    start = file.read(9)
  # Eight bytes of length, then JSON. A zip file begins with PK, a pickle with 80.
  if start[8:] != b'{' or start.startswith((b'PK', b'\x80')):
    return torch_checkpoint.read(path)
  return tensors.read(path)


def _state(tree: Any, where: str) -> State:
  """A state dict, in float32 except counters. Raises ValueError naming what is not a weight."""
  if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
    raise ValueError(f'{where} is a {type(tree).__name__}; expected names and weights')
  others = [name for name, x in tree.items() if not _is_weight(name, x)]
  if others:
    raise ValueError(f'{where}: {len(others)} no arrays of numbers: {torch_names.listed(others)}')
  with np.errstate(all='ignore'):
    state = {n: x.astype(np.float32) if _is_float(x) else np.asarray(x) for n, x in tree.items()}
  wild = [name for name, x in state.items() if not np.isfinite(x).all()]
  if wild:
    raise ValueError(f'{where}: {len(wild)} not finite: {torch_names.listed(wild)}')
  return state


def _is_weight(name: str, value: Any) -> bool:
  counter = name.endswith(('num_batches_tracked', 'queue_ptr')) or name == 'params'
  return isinstance(value, np.ndarray | np.generic) and (
    _is_float(value) or (counter and np.issubdtype(value.dtype, np.integer))
  )


def _is_float(value: np.ndarray | np.generic) -> bool:
  return bool(jnp.issubdtype(value.dtype, jnp.floating))  # np.issubdtype does not know bfloat16


def _among(names: Collection[str], known: Collection[str], what: str = '') -> None:
  unknown = sorted(set(names) - set(known))
  if unknown:
    raise ValueError(f'{what}{len(unknown)} unexpected: {torch_names.listed(unknown)}')


def _below(state: State, prefix: str, known: Collection[str] = ()) -> None:
  """Raises ValueError for names that neither start with the prefix nor are known."""
  _among([name for name in state if not name.startswith(prefix)], known)


def _stage_one(state: State, prefix: str, rest: Mapping[str, Any], options: Options) -> Published:
  query, key = _encoder(state, prefix), None
  _below(state, prefix)
  if 'model_ema' in rest:
    average = _state(rest['model_ema'], 'model_ema')
    try:
      _below(average, prefix)
      key = _encoder(average, prefix)
    except ValueError as error:
      raise ValueError(f'model_ema: {error}') from error
  contrast = _state(rest.get('contrast', {}), 'contrast')
  _among(contrast, ('memory', 'params'), 'contrast: ')
  method = {'margin': 20, **FACES}
  return _contrastive(query, key, contrast.get('memory'), method, frame=136)


def _moco(state: State, prefix: str, rest: Mapping[str, Any], options: Options) -> Published:
  top = prefix.removesuffix('encoder_q.')
  other = f'{top}encoder_k.'
  query = _encoder(state, prefix)
  key = _encoder(state, other) if any(name.startswith(other) for name in state) else None
  networks = [name for name in state if name.startswith((prefix, other))]
  _among(state, {*networks, f'{top}queue', f'{top}queue_ptr'})
  queue = state.get(f'{top}queue')
  method = {'margin': 0, **IMAGENET}
  if query['head'] and len(query['head']) == 2:
    method['temperature'] = 0.2  # as in MoCo v2
  return _contrastive(query, key, None if queue is None else queue.T, method, frame=224)


def _resnet(state: State, prefix: str, rest: Mapping[str, Any], options: Options) -> Published:
  _below(state, prefix)
  query = resnet.from_torch(state, prefix=prefix, head=False)
  found = _contrastive(query, None, None, {'margin': 0, **IMAGENET}, frame=224)
  classifier = sorted(name for name in state if name.startswith(f'{prefix}fc.'))
  return found._replace(dropped=tuple(classifier))


def _encoder(state: State, prefix: str) -> dict[str, PyTree]:
  """A ResNet's variables, plus `head`: the params of EmbeddingHead, or None."""
  mlp = {f'fc.{i}': ('dense', (f'fc{i // 2}',)) for i in (0, 2)}
  inner = tuple(f'{prefix}{name}.' for name in mlp)
  tree = resnet.from_torch(
    {name: array for name, array in state.items() if not name.startswith(inner)}, prefix=prefix
  )
  head = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(inner)}
  if head:
    if tree['head']:
      raise ValueError(f'{prefix}fc is a layer, and holds some: {torch_names.listed(head)}')
    return tree | {'head': torch_names.place(head, mlp, 'not a head of two layers')['params']}
  return tree | {'head': {'fc0': tree['head']} if tree['head'] else None}


def _contrastive(
  query: Mapping[str, PyTree],
  key: Mapping[str, PyTree] | None,
  queue: np.ndarray | None,
  method: Mapping[str, Any],
  *,
  frame: int,
) -> Published:
  """MoCo on a ResNet. A missing key encoder becomes a copy, as before the first step."""
  sizes = tuple(
    len({name for name in query['params'] if name.startswith(f'layer{stage}_')})
    for stage in (1, 2, 3, 4)
  )
  block = resnets.bottleneck_block if 'conv3' in query['params']['layer1_0'] else None
  depths = [
    d for d, kind in resnets.DEPTHS.items() if kind == (block or resnets.basic_block, sizes)
  ]
  if not depths:
    raise ValueError(
      f'a ResNet of {sizes} {"bottlenecks" if block else "basic blocks"} in its stages; known are '
      f'the depths {", ".join(map(str, resnets.DEPTHS))}'
    )
  width = query['params']['layer1_0']['conv1']['kernel'].shape[-1] / 64
  params, head = {'backbone': query['params']}, query['head']
  options = {**MOCO, 'depth': depths[0], 'width': width, **method}
  if head:
    params['head'] = head
    options |= {'head_layers': len(head), 'dim': head[f'fc{len(head) - 1}']['kernel'].shape[1]}
  aux = {'stats': query['batch_stats'], 'key': params, 'key_stats': query['batch_stats']}
  if key is not None:
    own = {'head': key['head']} if key['head'] else {}
    aux |= {'key': {'backbone': key['params'], **own}, 'key_stats': key['batch_stats']}
  if queue is not None:
    aux['queue'] = queue
    options['queue'] = len(queue)
  return Published(f'ResNet-{depths[0]} of width {width:g}', options, params, aux, frame)


def _vit(state: State, prefix: str, rest: Mapping[str, Any], options: Options) -> Published:
  _below(state, prefix)
  left = [n for n in state if n.removeprefix(prefix).startswith(('head.', 'mask_token'))]
  state = {name: array for name, array in state.items() if name not in left}
  params = vit.from_torch(state, prefix=prefix)['params']
  patch, other, _, channels = params['embed']['kernel'].shape
  depth, grid = sum(name.startswith('block') for name in params), len(params['position'])
  heads = options.heads or HEADS.get(channels) or channels // 64
  if patch != other or depth > MOST_BLOCKS or not heads or channels % heads:
    raise ValueError(
      f'a ViT of {depth} blocks and {heads} heads of {channels} channels, patches of {patch} x '
      f'{other}; expected square patches, at most {MOST_BLOCKS} blocks, and heads=N that divides '
      'the channels'
    )
  sizes = {'patch': patch, 'depth': depth, 'heads': heads, 'width': channels / heads / 64}
  sizes |= {'grid': grid, 'registers': len(params.get('registers', ()))}
  method = {**MOCO, 'network': 'vit', **sizes, 'margin': 0, 'levels': 1, **IMAGENET}
  frame = patch * max(min(grid, MOST_PIXELS // patch), -(-16 // patch))
  text = f'ViT of {depth} blocks, {channels} channels, {heads} heads, patches of {patch} pixels'
  params = {'backbone': params}
  aux = {'stats': {}, 'key': params, 'key_stats': {}}
  return Published(text, method, params, aux, frame, dropped=tuple(left))


def _small_network(
  state: State, prefix: str, rest: Mapping[str, Any], options: Options
) -> Published:
  _below(state, prefix)
  tree = smallnet.from_torch(state, prefix=prefix)
  kernels = [tree['params'][f'conv{i}']['kernel'] for i in range(1, 6)]
  sides = [kernel.shape[0] for kernel in kernels]
  names = [n for n, rows in smallnets.LAYERS.items() if [side for side, *_ in rows] == sides]
  if not names:
    raise ValueError(f'kernels of {sides} pixels; known are {", ".join(smallnets.LAYERS)}')
  width = kernels[-1].shape[-1] / smallnets.LAYERS[names[0]][-1][1]
  dim = tree['params']['labels']['kernel'].shape[-1]
  method = {**DVE, 'network': names[0], 'dim': dim, 'width': width, 'leak': 0.2, 'margin': 15}
  text = f'small network, {names[0]}, of width {width:g}, {dim} dimensions'
  return Published(text, method, tree['params'], {'stats': tree['batch_stats']}, 100)


def _hourglass(state: State, prefix: str, rest: Mapping[str, Any], options: Options) -> Published:
  _below(state, prefix)
  places = {'stacks': r'hg\.(\d+)\.', 'blocks': r'hg\.0\.layer1_1\.(\d+)\.'}
  names = {name.removeprefix(prefix): array for name, array in state.items()}
  sizes = {key: torch_names.count(names, pattern) for key, pattern in places.items()}
  depth = torch_names.count(names, r'hg\.0\.layer(\d+)_1\.')
  if depth != hourglasses.Hourglass.depth or max(sizes.values()) > MOST_BLOCKS:
    known = f'depth {hourglasses.Hourglass.depth}, at most {MOST_BLOCKS} of each'
    raise ValueError(f'hourglasses of depth {depth}, {sizes}; expected {known}')
  tree = hourglass.from_torch(state, prefix=prefix)
  params, stats = tree['params'], tree.get('batch_stats', {})
  features = [params['conv1']['kernel'].shape[-1]]
  features += [params[f'layer{i}']['conv1']['kernel'].shape[-1] for i in (2, 3)]
  dim, scaled = params['labels']['kernel'].shape[-1], 'scale' in params
  method = {**DVE, 'network': 'hourglass', 'dim': dim, **sizes, 'features': features}
  method |= {'norm': 'batch' if stats else 'group', 'scaled': scaled, 'margin': 20}
  if not scaled:
    method |= {'normalise': True, 'sharpness': 400.0}
  text = f'hourglass, {sizes["stacks"]} stacked, features {features}, {dim} dimensions'
  return Published(text, method, params, {'stats': stats}, 136)


def _projector(state: State, prefix: str, rest: Mapping[str, Any], options: Options) -> Published:
  _below(state, prefix)
  params = head_weights.projector(state, _channels(options), prefix=prefix)
  dim, kernel = (state[f'{prefix}reg_conv.weight'].shape[axis] for axis in (0, 2))
  method = {'name': 'projection', 'dim': dim, 'kernel': kernel}
  if dim == 64:  # as published; other sizes use the defaults
    method |= {'map_sharpness': 6.5, 'sharpness': 8.0}
  text = f'projection to {dim} channels, kernel {kernel}'
  return Published(text, method, params, {}, None, spare=('params/bias',))


def _regressor(state: State, prefix: str, rest: Mapping[str, Any], options: Options) -> Published:
  _below(state, prefix)
  params = head_weights.regressor(state, _channels(options), prefix=prefix)
  landmarks, twice, _ = params['outer'].shape
  method = {'name': 'probe', 'landmarks': landmarks, 'points_per_landmark': twice // 2}
  left = [n for n in state if n.removeprefix(prefix).startswith(head_weights.UNTRAINED)]
  text = f'{landmarks} landmarks of {twice // 2} points'
  return Published(text, method, params, {}, None, dropped=tuple(left))


def _channels(options: Options) -> tuple[int, ...]:
  if options.channels is None:
    raise ValueError('it builds on a frozen network; name its run: --base=RUN')
  return options.channels


def _printable(text: str) -> str:
  """One line without control characters, which names in a hostile file may contain."""
  text = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)
  return text if len(text) <= SHOWN else f'{text[:SHOWN]} ...'


OF_DVE = 'arch', 'epoch', 'optimizer', 'monitor_best', 'config'
KINDS = (
  Kind(
    'landmark regressor (ICCV 2021)',
    r'(module\.|)inner_conv\.',
    'regressor',
    ('opt', 'epoch', 'best_error', 'optimizer'),
    _regressor,
  ),
  Kind(
    'feature projector (ICCV 2021)',
    r'(module\.|)reg_conv\.',
    'feat_disiller',  # sic
    ('opt', 'epoch', 'val_error', 'test_error'),
    _projector,
  ),
  Kind(
    'stage 1 (ICCV 2021)',
    r'(encoder\.module\.)',
    'model',
    ('opt', 'contrast', 'optimizer', 'epoch', 'model_ema'),
    _stage_one,
  ),
  Kind(
    'MoCo, official',
    r'(module\.encoder_q\.)',
    'state_dict',
    ('epoch', 'arch', 'optimizer'),
    _moco,
  ),
  Kind('DVE, hourglass', r'(module\.|)(?:hg|output_layers)\.\d', 'state_dict', OF_DVE, _hourglass),
  Kind('DVE, small network', r'(module\.|)conv\d\.\d\.', 'state_dict', OF_DVE, _small_network),
  Kind('ViT (timm, DINO)', r'(module\.|)(?:patch_embed|blocks\.\d+)\.', None, (), _vit),
  Kind('ResNet (torchvision)', r'(module\.|)(?:layer\d\.\d|bn1)', None, (), _resnet),
)

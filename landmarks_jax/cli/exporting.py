"""From the folder of a run to one file for other programs."""

import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import landmarks_jax
from landmarks_jax import training
from landmarks_jax.cli import drafts
from landmarks_jax.contracts import Array, Pyramid
from landmarks_jax.inference.model import Model, load
from landmarks_jax.interop import resnet, tensors

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(
  run: pathlib.Path,
  output: pathlib.Path,
  *,
  format: str,
  step: int | None = None,
  side: int | None = None,
) -> None:
  """Writes `output` and prints what it holds.

  Args: format: 'safetensors', 'torchvision' or 'jax'. step: of the checkpoint. side: of the
  pictures, for 'jax'. Raises ValueError and OSError; then nothing is written.
  """
  drafts.check_new(output)
  model = load(run, step=step)
  write = {'safetensors': _write_arrays, 'torchvision': _write_resnet, 'jax': _write_compiled}
  if side is not None:
    model = Model(model.describer, model.config, frame=side, margin=0)
  with drafts.draft(output) as path:
    contents = write[format](model, path)
  print(f'{output}: {contents}, {output.stat().st_size / 1e6:.1f} MB')


def _write_arrays(model: Model, path: pathlib.Path) -> str:
  params, aux = model.describer.variables
  arrays = training.leaves({'params': params, 'aux': aux})
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  tensors.write(path, arrays, _facts(model) | {'config': json.dumps(model.config)})
  return f'{len(arrays)} arrays by our names, as safetensors'


def _write_resnet(model: Model, path: pathlib.Path) -> str:
  params, aux = model.describer.variables
  try:
    variables = {'params': params['backbone'], 'batch_stats': aux['stats']}
    arrays = resnet.to_torch(variables, prefix='')
  except (KeyError, TypeError, ValueError) as error:  # of another tree
    method = model.config['method']
    network = method.get('network', 'no network of its own')
    raise ValueError(
      "torchvision has ResNets: expected one as params['backbone'] and aux['stats'], as moco and "
      f'scrl have it; this is {method["name"]} ({network})'
    ) from error
  tensors.write(path, arrays, _facts(model))
  return f"{len(arrays)} arrays of a ResNet by torchvision's names, as safetensors"


def _write_compiled(model: Model, path: pathlib.Path) -> str:
  (batch,) = jax.export.symbolic_shape('batch')
  side = model.side
  pictures = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
  exported = jax.export.export(jax.jit(describer(model)), platforms=PLATFORMS)(pictures)
  try:
    path.write_bytes(exported.serialize())
  except ImportError as error:
    raise ValueError(
      "--format=jax needs the package flatbuffers: pip install -e '.[export]'"
    ) from error
  levels = ', '.join('x'.join(map(str, level.shape[1:])) for level in exported.out_avals)
  return f'uint8 [N, {side}, {side}, 3] -> float32 maps {levels}, for {", ".join(PLATFORMS)}'


def describer(model: Model) -> Callable[[Array], Pyramid]:
  """Pictures -> the pyramid in float32, with the weights inside."""
  apply, variables = model.describer.apply, model.describer.variables

  def describe(pictures: Array) -> Pyramid:
    return jax.tree.map(lambda level: level.astype(jnp.float32), apply(variables, pictures, None))

  return describe


def _facts(model: Model) -> dict[str, str]:
  facts = {'landmarks_jax': landmarks_jax.__version__}
  method = (model.config['base'] or model.config)['method']
  colours = {name: method.get(name) for name in ('mean', 'std')}
  return facts | {name: json.dumps(value) for name, value in colours.items()}

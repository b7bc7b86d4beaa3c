"""The features of a run for any pictures, from its folder alone, whatever it was trained on."""

import contextlib
import inspect
import numbers
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from landmarks_jax.contracts import Batch, Describer, Method, PyTree
from landmarks_jax.evaluation import features
from landmarks_jax.geometry import regions
from landmarks_jax.inference.pictures import Pictures, batches
from landmarks_jax.runtime import by_name, checkpoint, run_folder


class Model:
  """Frozen features of pictures: those of a run (`landmarks_jax.load`), or of any network.

  A picture is cut to a square and resized to `frame` pixels; the network sees it without `margin`
  pixels on every side, as in training: `side` pixels. The square is chosen by `crop`: the 'centre'
  square, or the whole picture with its edge repeated ('pad') or squashed ('squash'). It can also be
  given by `boxes` [N, 4] as (x0, y0, x1, y1) in pixels: it then has the box's centre and its larger
  side.

  describer: any network, see contracts.py. config: of the run, if there is one; its sections
  method and base are kept for `save`.
  """

  def __init__(
    self,
    describer: Describer,
    config: Mapping[str, Any] | None = None,
    *,
    frame: int,
    margin: int = 0,
  ) -> None:
    self.describer = describer
    self.frame, self.margin = _checked_sides(frame, margin)
    self.config = None if config is None else _sections(config, self.margin)

  @property
  def side(self) -> int:
    """The side of what the network sees, in pixels."""
    return self.frame - 2 * self.margin

  @property
  def zoom(self) -> float:
    """Factor from positions normalised in what the network sees to those in the frame."""
    return (self.side - 1) / (self.frame - 1)

  def pictures(self, images: Any, **options: Any) -> Pictures:
    """`images` as frames of this model. options: of `Pictures`."""
    return Pictures(images, frame=self.frame, **options)

  def frames(
    self, images: Any, *, boxes: Any = None, crop: str = 'centre'
  ) -> UInt8[np.ndarray, 'N s s 3']:
    """What the network sees of every picture: uint8 [N, side, side, 3]."""
    pictures = self.pictures(images, boxes=boxes, crop=crop)
    frames = np.stack([pictures[i]['image'] for i in range(len(pictures))])
    return regions.cut_centre(frames, self.margin)

  def describe(
    self,
    images: Any,
    *,
    boxes: Any = None,
    crop: str = 'centre',
    batch_size: int = 64,
    progress: bool | None = None,
  ) -> tuple[Float[np.ndarray, 'N h w C'], ...]:
    """The pyramid of every picture: float32 maps [N, h_l, w_l, C_l], coarse to fine.

    Args:
      images: uint8 [N, H, W, 3], or a list of arrays of any size, paths or Pillow images.
      boxes, crop: the square of every picture to describe; every map covers the part of it that the
        network sees, from edge to edge.
      batch_size: the most pictures at once.
      progress: whether to print a line to stderr every five seconds; None: if it is a terminal.

    Raises ValueError naming the first picture that cannot be read.
    """
    parts = []
    describe = features.compiled(self.describer.apply, jnp.float32)
    source = self.pictures(images, boxes=boxes, crop=crop)
    for batch in batches(source, batch_size=batch_size, progress=progress):
      seen = regions.cut_centre(batch.image, self.margin)
      pyramid = describe(self.describer.variables, seen)
      parts.append(jax.tree.map(lambda level, keep=batch.valid: np.asarray(level)[keep], pyramid))
    return jax.tree.map(lambda *levels: np.concatenate(levels), *parts)

  def channels(self) -> tuple[int, ...]:
    """The number of channels of every level of the pyramid."""
    image = jax.ShapeDtypeStruct((1, self.side, self.side, 3), np.uint8)
    describe = features.compiled(self.describer.apply, jnp.float32)
    pyramid = jax.eval_shape(describe, self.describer.variables, image)
    return tuple(level.shape[-1] for level in pyramid)

  def save(self, folder: pathlib.Path) -> None:
    """Writes the network as a folder that `load` reads like that of a run.

    Raises ValueError for a network that is of no run: what computes it could not be kept.
    """
    if self.config is None:
      raise ValueError(
        'only the network of a run can be saved, since a folder names the method that computes it'
      )
    params, aux = self.describer.variables
    base = self.config['base'] and self.config['base'] | {'checkpoint': None, 'step': None}
    config = self.config | {'base': base, 'data': {'frame': self.frame}}
    run_folder.write(folder, config, params, aux)

  def __repr__(self) -> str:
    name = 'of no run' if self.config is None else self.config['method']['name']
    pixels = f'{self.side} of {self.frame} pixels'
    return f'<Model {name}: sees the central {pixels}; {sum(self.channels())} channels>'


def load(
  path: str | pathlib.Path,
  *,
  step: int | None = None,
  frame: SupportsIndex | None = None,
  margin: SupportsIndex | None = None,
) -> Model:
  """Loads the network of a run, or of a folder that `convert` made.

  Args:
    path: the folder with config.json. step: of the checkpoint; None: the selected one, else the
      newest.
    frame, margin: in pixels; None: as in training.

  Raises FileNotFoundError or ValueError saying what is missing or does not fit.
  """
  run = pathlib.Path(path).expanduser()
  config = run_folder.read_config(run / run_folder.CONFIG)
  where = run / run_folder.CONFIG
  method = _section(config, 'method', where)
  for name in ('data', 'base'):
    if not isinstance(config.get(name), dict | None):
      raise ValueError(f'{where} is damaged: {name} is {config[name]!r:.60}')
  trained = config.get('data') or {}
  frame = trained.get('frame') if frame is None else frame
  if frame is None:
    raise ValueError(f'{where} names no data.frame; say the side of the frames: frame=N')
  margin = method.get('margin', 0) if margin is None else margin
  frame, margin = _checked_sides(frame, margin)
  weights = run_folder.weights(run, selected=step is None)
  with _quiet():
    found = checkpoint.read_variables(weights, step=step)
  built, shapes = _method(config, where, frame, margin)
  variables = checkpoint.fitted(found, shapes, where=f'{weights}: the weights')
  return Model(features.of_method(built, variables), config, frame=frame, margin=margin)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences Orbax's warning that the folder is only read, which is intended."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _section(config: Mapping[str, Any], name: str, where: pathlib.Path) -> dict[str, Any]:
  section = config.get(name)
  if not isinstance(section, dict) or not isinstance(section.get('name'), str):
    raise ValueError(f'{where} is damaged: it has no section {name} with a name')
  return section


def _checked_sides(frame: Any, margin: Any) -> tuple[int, int]:
  """Both as ints; ValueError if they are not integers or nothing would be seen."""
  for name, value in {'frame': frame, 'margin': margin}.items():
    if not isinstance(value, numbers.Integral):
      raise ValueError(f'{name}={value!r:.60}: expected a whole number of pixels')
  if frame < 2 or not 0 <= 2 * margin <= frame - 2:
    raise ValueError(f'{frame=} and {margin=}: expected at least 2 pixels between the margins')
  return int(frame), int(margin)


def _sections(config: Mapping[str, Any], margin: int) -> dict[str, Any]:
  """The config sections of the network, with this margin in both methods."""
  base = config.get('base')
  base = base and base | {'method': _cutting(base['method'], margin)}
  return {'method': _cutting(config['method'], margin), 'base': base}


def _cutting(section: Mapping[str, Any], margin: int) -> dict[str, Any]:
  """A method's section with this margin; `_build` leaves it out for a method without the option."""
  return {**section, 'margin': margin} if margin or 'margin' in section else dict(section)


def _method(
  config: Mapping[str, Any], where: pathlib.Path, frame: int, margin: int
) -> tuple[Method, PyTree]:
  """The method of a config and the shapes of its variables, without computing anything."""
  example = Batch(image=jax.ShapeDtypeStruct((1, frame, frame, 3), np.uint8))
  rng = jax.eval_shape(lambda: jax.random.key(0))
  options = _cutting(_section(config, 'method', where), margin)
  if not config.get('base'):
    method = _build(options, where)
    return method, _shapes(method.init, rng, example, where=where)
  below = _build(_cutting(_section(config['base'], 'method', where), margin), where)
  below_shapes = _shapes(below.init, rng, example, where=where)

  def describe(variables: PyTree, image: Any, size: int | None) -> Any:
    return below.describe(*variables, image, size)

  def init(rng: Any, example: Batch, variables: PyTree) -> PyTree:
    return _build(options, where, base=Describer(variables, describe)).init(rng, example)

  # The network below is part of the method's own state: its describer needs no variables.
  method = _build(options, where, base=Describer(None, describe))
  return method, _shapes(init, rng, example, below_shapes, where=where)


def _build(options: Mapping[str, Any], where: pathlib.Path, **base: Any) -> Method:
  options = by_name.tuples(options)
  name = options.pop('name')
  fault = f'{where}: no method is called {name!r:.60}'
  build = by_name.module('methods', 'build', name, fault=fault).build
  if 'margin' not in inspect.signature(build).parameters:
    options.pop('margin', None)  # the method cuts nothing in training; `Model` cuts all the same
  try:
    return build(**options, **base)
  except Exception as error:  # numbers of another type, or huge, can make any library fail
    raise _misfit(f'{where}: the method {name}', error) from error


def _shapes(init: Any, *args: Any, where: pathlib.Path) -> PyTree:
  try:
    return jax.eval_shape(init, *args)
  except Exception as error:  # as in `_build`
    raise _misfit(f'{where}: the method', error) from error


def _misfit(what: str, error: Exception) -> ValueError:
  reason = str(error).partition('\n')[0]
  return ValueError(f'{what} cannot be built as it says ({reason:.300})')

"""A network and a head in one: from pictures to landmarks in their pixels; saved as a folder."""

import copy
import functools
import json
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

import landmarks_jax
from landmarks_jax.contracts import Array, Batch, Pyramid, PyTree
from landmarks_jax.data.source import check_facts
from landmarks_jax.evaluation import features
from landmarks_jax.geometry import regions
from landmarks_jax.inference import confidence as confidences
from landmarks_jax.inference.confidence import Confidence
from landmarks_jax.inference.head import PROBE, Head
from landmarks_jax.inference.head import from_arrays as head_from_arrays
from landmarks_jax.inference.model import Model, load
from landmarks_jax.inference.pictures import (
  Pictures,
  PointLabels,
  Scale,
  batches,
  checksum,
  distances,
  plain_scale,
)
from landmarks_jax.runtime import reading, run_folder

ARRAYS = 'head.npz'  # of a saved model, beside run_folder.LANDMARKS and run_folder.NETWORK
CONFIDENCE = 'confidence/'  # its arrays' names in there begin so; the others are the head's
FORMAT = 1
Pair = Sequence[int]


class Landmarks(NamedTuple):
  """What a landmark model finds: `points, confidence = model.predict(images)`."""

  points: Float[np.ndarray, 'N K 2']  # in pixels of the given pictures
  confidence: Float[np.ndarray, 'N K']  # in 0..1; nan where none was ever measured


class LandmarkModel:
  """Finds K landmarks in pictures. Made by `landmarks_jax.fit_landmarks` or `load_landmarks`.

  Args:
    model: the network. head: what reads landmarks from its features.
    names: of the landmarks. flip_pairs: index pairs of mirror-image landmarks. skeleton: pairs
      joined by lines in drawings.
    scale: what errors are divided by, a pair of landmarks or the side of the 'frame'.
    crop: the square of a picture without a box, as in `Model`.
    boxes: whether the pictures that the head was fitted to had boxes.
    confidence: how likely a point is to be near the true one; None: never measured.
    learned_from: checksums of the pictures that the head was fitted to, see `pictures.checksum`.
  """

  def __init__(
    self,
    model: Model,
    head: Head,
    *,
    names: Sequence[str],
    flip_pairs: Sequence[Pair] = (),
    skeleton: Sequence[Pair] = (),
    scale: Scale = 'frame',
    crop: str = 'centre',
    boxes: bool = False,
    confidence: Confidence | None = None,
    learned_from: Sequence[str] = (),
  ) -> None:
    check_facts(names, flip_pairs, skeleton, scale, head.landmarks)
    kernels, channels = tuple(k.shape[0] for k in head.kernels), model.channels()
    if kernels != channels:
      raise ValueError(f'the head reads levels of {kernels} channels, the network has {channels}')
    self.model, self.head, self.names = model, head, tuple(names)
    self.flip_pairs, self.skeleton = _pairs(flip_pairs), _pairs(skeleton)
    self.scale, self.boxes = plain_scale(scale), boxes
    self.crop, self.confidence, self.learned_from = crop, confidence, tuple(learned_from)

  def predict(
    self,
    images: Any,
    *,
    boxes: Any = None,
    crop: str | None = None,
    batch_size: int = 64,
    progress: bool | None = None,
  ) -> Landmarks:
    """Points [N, K, 2] in pixels of the given pictures, and confidence [N, K].

    Args: as in `Model.describe`; crop: None: as for the pictures the head was fitted to.

    Raises ValueError naming the first picture that cannot be read.
    """
    pictures = self.pictures(images, boxes=boxes, crop=crop)
    shape = len(pictures), len(self.names)
    found = Landmarks(np.empty((*shape, 2), np.float32), np.empty(shape, np.float32))
    for batch, points, evidence in self.look(pictures, batch_size=batch_size, progress=progress):
      for row, normalised in zip(batch.index.tolist(), points, strict=True):
        found.points[row] = pictures.to_pixels(row, normalised)
      found.confidence[batch.index] = self.judge(evidence)
    return found

  def calibrated(
    self,
    images: Any,
    points: Any,
    visible: Any = None,
    *,
    boxes: Any = None,
    crop: str | None = None,
    tolerance: float = 0.1,
    batch_size: int = 64,
    progress: bool | None = None,
  ) -> 'LandmarkModel':
    """This model with a confidence measured on labelled pictures that it did not learn from.

    For heads from elsewhere, or to measure the confidence again. Args: as in `fit_landmarks`.
    Pictures that the model learned from are left out, with a warning. Raises ValueError if errors
    are known for fewer than two of the others.
    """
    confidences.check_tolerance(tolerance)
    labels = PointLabels.of(points, visible, names=self.names, scale=self.scale)
    pictures = self.pictures(images, boxes=boxes, crop=crop, labels=labels)
    found = self.look(pictures, batch_size=batch_size, progress=progress)
    parts = [(e, distances(p, batch), self.knows(pictures, batch)) for batch, p, e in found]
    evidence, error, known = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if known.any():
      what = f'{known.sum()} of the {len(known)} pictures were learned from and are left out'
      warnings.warn(what, stacklevel=2)
    evidence, error = evidence[~known], error[~known]
    measured = confidences.fit(evidence, error, tolerance=tolerance)
    if measured is None:
      others = ' that were not learned from' if known.any() else ''
      known = np.isfinite(error).any(1).sum()
      raise ValueError(
        f'{known} of the {len(error)} pictures{others} have visible labels and a '
        f'scale={self.scale!r} to measure errors by; expected at least 2'
      )
    changed = copy.copy(self)
    changed.confidence = measured
    return changed

  def look(
    self, pictures: Any, *, batch_size: int = 64, progress: bool | None = None
  ) -> Iterator[tuple[Batch, Float[np.ndarray, 'B K 2'], Float[np.ndarray, 'B K E']]]:
    """Batch by batch: the pictures, their points normalised in the frame, and evidence of doubt."""
    zoom = np.float32(self.model.zoom)
    describer = self.model.describer
    # Two programs: fused into one, XLA would keep more precision than the features of the fit had.
    describe = features.compiled(describer.apply, size=self.head.size)
    for batch in batches(pictures, batch_size=batch_size, progress=progress):
      seen = regions.cut_centre(batch.image, self.model.margin)
      found = self._look(self.head.variables, describe(describer.variables, seen))
      points, evidence = (np.asarray(x, np.float32)[batch.valid] for x in found)
      read = jax.tree.map(lambda x, keep=batch.valid: x[keep], batch)
      yield read, points * zoom, evidence

  def pictures(
    self, images: Any, *, boxes: Any = None, crop: str | None = None, labels: Any = None
  ) -> Pictures:
    """`Model.pictures`, by default with the crop of the fit; warns if they are cut otherwise."""
    crop = self.crop if crop is None else crop
    found = self.model.pictures(images, boxes=boxes, crop=crop, labels=labels)
    if difference := self.other_cut(boxes=boxes is not None, crop=crop):
      advice = '; give boxes, unless the pictures are cut out already' if self.boxes else ''
      warnings.warn(difference + advice, stacklevel=3)
    return found

  def other_cut(self, *, boxes: bool, crop: str) -> str | None:
    """How pictures are cut otherwise than those of the fit, for a warning; None if they are not.

    Boxes are no difference to a fit without: they may show the object as large as it was there.
    """
    if boxes:
      return None
    if self.boxes:
      return (
        'the landmark model was fitted on boxes, and without them the object fills the square '
        'less: landmarks will be wrong, and their confidence does not tell'
      )
    if crop == self.crop:
      return None
    return f'{crop=}, but the landmark model was fitted on crop={self.crop!r}; expect worse points'

  def knows(self, pictures: Pictures, batch: Batch) -> Bool[np.ndarray, ' B']:
    """Which labelled pictures of a batch the head was fitted to."""
    # By the whole picture, whatever is cut out of it; models of earlier versions know the frame.
    whole = [pictures.checksums[row] for row in batch.index.tolist()]
    both = zip(whole, map(checksum, batch.image), strict=True)
    known = set(self.learned_from)
    return np.array([not known.isdisjoint(one) for one in both], bool)

  def judge(self, evidence: Float[np.ndarray, 'B K E']) -> Float[np.ndarray, 'B K']:
    """Confidence from evidence of doubt."""
    if self.confidence is None:
      return np.full(evidence.shape[:2], np.nan, np.float32)
    return self.confidence(evidence)

  @functools.cached_property
  def _look(self) -> Callable[[PyTree, Pyramid], tuple[Array, Array]]:
    return jax.jit(self.head.look)

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a self-contained folder: the network, the head and all facts.

    Raises ValueError if `path` exists and is not an empty folder, or if the network is of no run.
    """
    folder = pathlib.Path(path).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
      raise ValueError(f'{folder} exists already and is not overwritten; give another folder')
    facts = {
      'format': FORMAT,
      'versions': {'landmarks_jax': landmarks_jax.__version__, 'jax': jax.__version__},
      'names': self.names,
      'flip_pairs': self.flip_pairs,
      'skeleton': self.skeleton,
      'scale': self.scale,
      'frame': self.model.frame,
      'margin': self.model.margin,
      'crop': self.crop,
      'boxes': self.boxes,
      'head': self.head.kind,
      'head_options': dict(self.head.options),
      'confidence': None if self.confidence is None else self.confidence.facts(),
      'learned_from': self.learned_from,
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + '\n'
    self.model.save(folder / run_folder.NETWORK)
    arrays = self.head.arrays()
    if self.confidence is not None:
      arrays |= {CONFIDENCE + k: v for k, v in self.confidence.arrays().items()}
    np.savez(folder / ARRAYS, **arrays)
    # Written last: a folder without it is not a model.
    (folder / run_folder.LANDMARKS).write_text(text, encoding='utf-8')

  def __repr__(self) -> str:
    some = ', '.join(self.names[:5]) + (', ...' if len(self.names) > 5 else '')
    return (
      f'<LandmarkModel of {len(self.names)} landmarks ({some}), {self.head.kind} on {self.model}>'
    )


def load_landmarks(path: str | pathlib.Path) -> LandmarkModel:
  """Loads a model written by `LandmarkModel.save` or the command `fit`.

  Raises FileNotFoundError or ValueError saying what is missing or damaged.
  """
  folder = pathlib.Path(path).expanduser()
  facts = _facts(folder / run_folder.LANDMARKS)
  arrays = _arrays(folder / ARRAYS)
  judged = [k for k in arrays if k.startswith(CONFIDENCE)]
  judged = {k.removeprefix(CONFIDENCE): arrays.pop(k) for k in judged}
  model = load(folder / run_folder.NETWORK)
  for name in ('frame', 'margin'):
    if facts[name] != getattr(model, name):
      raise ValueError(
        f'{name} is {facts[name]} in {folder / run_folder.LANDMARKS}, but {getattr(model, name)} '
        f'in {folder / run_folder.NETWORK / run_folder.CONFIG}; one of them was changed: put back '
        'what `fit` wrote'
      )
  if facts['earlier']:
    _check_described_alike(folder, facts['head'], model.config['method'])
  try:
    head = head_from_arrays(facts['head'], arrays, facts['head_options'])
    stated = facts['confidence']
    sizes = {'landmarks': head.landmarks, 'evidence': head.evidence}
    confidence = None if stated is None else Confidence.from_arrays(stated, judged, **sizes)
    kept = {k: facts[k] for k in ('names', 'flip_pairs', 'skeleton', 'scale', 'crop', 'boxes')}
    return LandmarkModel(
      model, head, confidence=confidence, learned_from=facts['learned_from'], **kept
    )
  except ValueError as error:
    raise ValueError(f'{folder} is damaged or of another version: {error}') from error


KINDS = {
  'names': list,
  'flip_pairs': list,
  'skeleton': list,
  'scale': list | str,
  'frame': int,
  'margin': int,
  'crop': str,
  'boxes': bool,
  'head': str,
  'head_options': dict,
  'confidence': dict | None,
  'learned_from': list,
}
PARTS = {'names': str, 'flip_pairs': list, 'skeleton': list, 'learned_from': str}  # of the lists


def _facts(file: pathlib.Path) -> dict[str, Any]:
  if not file.is_file():
    message = f'{file.parent} holds no landmark model: it has no {file.name}'
    if (file.parent / run_folder.CONFIG).is_file():
      message += '; it is a run, and the command fit makes a landmark model from a run and labels'
    raise FileNotFoundError(message)
  facts = reading.parse_json(file.read_bytes(), file)
  if not isinstance(facts, dict) or facts.get('format') != FORMAT:
    found = facts.get('format') if isinstance(facts, dict) else None
    raise ValueError(f'{file} has the format {found!r}; this version reads {FORMAT}')
  facts['earlier'] = 'boxes' not in facts  # whether written by a version before boxes were noted
  facts.setdefault('boxes', False)
  reading.check_kinds(facts, KINDS, file)
  for name, kind in PARTS.items():
    if not all(isinstance(part, kind) for part in facts[name]):
      raise ValueError(f'{file} is damaged: {name} is {facts[name]!r:.60}')
  return facts


def _check_described_alike(folder: pathlib.Path, head: str, method: Mapping[str, Any]) -> None:
  """Raises ValueError if an earlier version described pictures otherwise than this one."""
  if method.get('normalise') or (head == PROBE and method['name'] == 'projection'):
    raise ValueError(
      f'{folder} was fitted by an earlier version, for which {method["name"]} described pictures '
      'otherwise; fit or convert it again'
    )


def _arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    data = file.read_bytes()
  except OSError as error:
    raise FileNotFoundError(f'{file} cannot be read ({error})') from error
  return reading.parse_arrays(data, file)


def _pairs(given: Sequence[Pair]) -> tuple[tuple[int, int], ...]:
  return tuple((int(a), int(b)) for a, b in given)

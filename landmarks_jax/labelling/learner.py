"""Landmarks from few labels on frozen features: a `Learner` for `Session`, backed by a `Model`."""

import contextlib
import functools
import hashlib
import pathlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from landmarks_jax.contracts import Batch, Pyramid
from landmarks_jax.data import folder, images, mirrored, pipeline
from landmarks_jax.data.source import BadImage
from landmarks_jax.evaluation import features
from landmarks_jax.evaluation.regression import WARP
from landmarks_jax.geometry import regions
from landmarks_jax.inference import confidence, fitting
from landmarks_jax.inference.head import Head
from landmarks_jax.inference.landmark_model import LandmarkModel
from landmarks_jax.inference.model import Model
from landmarks_jax.inference.pictures import NOTHING, Pictures, checksum
from landmarks_jax.labelling import order
from landmarks_jax.labelling.described import Described
from landmarks_jax.labelling.picture_files import PictureFiles
from landmarks_jax.labelling.session import Fit

COPIES, MOST_COPIES = 6, 1000  # warped copies of each labelled picture, and in total
BATCH, LOOK = 32, 256  # pictures described at once, and predicted at once
SIZE = 16  # side of the heat maps
TOLERANCE = 0.05  # of the confidence, as a share of the side of the frame
TELL = 0.5  # seconds between two progress reports
SYNC = 5.0  # seconds of work that a kill or a power failure may cost; an ordinary stop costs none
KEPT = 3  # version of features on disk: in the second, `normalise=True` made labels unit vectors


class FrozenLearner:
  """Computes features of all pictures once, then a closed-form head whenever labels change.

  Args:
    model: the network. files: the pictures. landmarks: their names; names that differ only by left
    and right are mirror images, unless the labels contradict that. crop: one of `folder.CROPS`,
    what a frame shows of a picture. keep: a folder for features, or None; see `Described`. known: a
    model with these landmarks, in any order, which predicts before there are labels; its pairs of
    mirror images, if it has any that the names do not suggest, are taken as stated.
  """

  def __init__(
    self,
    model: Model,
    files: PictureFiles,
    landmarks: Sequence[str],
    *,
    crop: str = 'pad',
    keep: pathlib.Path | None = None,
    known: LandmarkModel | None = None,
  ) -> None:
    self.model, self.files, self.crop = model, files, crop
    self.landmarks, self.flip_pairs = tuple(landmarks), folder.flip_pairs(tuple(landmarks))
    self._guessed, self._stated = self.flip_pairs, ()
    if known is not None:
      place = [self.landmarks.index(name) for name in known.names]
      stated = tuple((place[a], place[b]) for a, b in known.flip_pairs)
      same = {*map(frozenset, stated)} == {*map(frozenset, self._guessed)}
      self._stated = () if same else stated
    self.pictures: Pictures = model.pictures(
      [str(files.path(i)) for i in range(len(files))], crop=crop
    )
    self._keep, self._copies, self._known, self._told = keep, {}, known, False
    self._checksum = functools.cache(lambda number: checksum(self.pictures.read(number)))

  def looks(self) -> Float[np.ndarray, 'N C']:
    """See `order.poses`."""
    return order.poses(semantic(self.described.pyramid))

  @functools.cached_property
  def described(self) -> Described:
    """The features; those kept from an earlier start are available at once."""
    shapes = self._shapes(None)
    kept = Described(self._keep, key=self._key(), count=len(self.files), shapes=shapes)
    if kept.warning:
      warnings.warn(kept.warning, stacklevel=2)
    return kept

  def describe(self, report: Callable[[int, Mapping[int, str]], bool]) -> None:
    """Describes the remaining pictures; report(done, broken) returns whether to go on."""
    kept, broken, last = self.described, {}, time.monotonic()
    synced = last
    left = np.flatnonzero(~kept.done)
    try:
      for start in range(0, len(left), BATCH):
        broken |= self._describe_rows(left[start : start + BATCH].tolist())
        if time.monotonic() - synced > SYNC:
          kept.keep()
          synced = time.monotonic()
        if time.monotonic() - last > TELL:
          last = time.monotonic()
          if not report(int(kept.done.sum()) + len(broken), broken):
            return
    finally:
      kept.keep()
    report(len(self.files), broken)

  def first(self) -> Fit | None:
    """The predictions of a model that was fitted elsewhere, if there is one."""
    return None if self._known is None else self._predictions()

  def fit(self, labels: Mapping[int, Float[np.ndarray, 'K 2']]) -> Fit:
    """Fits a head to these points, in pixels; returns predictions for all. Raises ValueError.

    Labelled pictures that can no longer be read are left out, with a warning.
    """
    known = [n for n in labels if self.described.done[n]]
    if known:
      self.flip_pairs = self._pairs(np.stack([labels[n] for n in known]))
    known = [n for n in known if self._is_read(n, labels[n])]
    if not known:
      raise ValueError('none of the labelled pictures can be described')
    labelled = self._labelled(known, labels)
    head, judged = fitting.fit_ridge(
      labelled, side=self.model.side, flip_pairs=self.flip_pairs, size=SIZE
    )
    judge = None if judged is None else confidence.fit(*judged, tolerance=TOLERANCE)
    facts = {'names': self.landmarks, 'flip_pairs': self.flip_pairs, 'crop': self.crop}
    facts |= {'learned_from': [self._checksum(n) for n in known]}
    self._known = LandmarkModel(self.model, head, confidence=judge, **facts)
    return self._predictions()

  def save(self, path: pathlib.Path) -> None:
    """Writes the newest model, for the command `predict`. Raises ValueError if there is none."""
    if self._known is None:
      raise ValueError('nothing is fitted yet')
    self._known.save(path)

  def _describe_rows(self, given: Sequence[int]) -> dict[int, str]:
    """Describes up to BATCH pictures; returns why some cannot be read."""
    broken, frames, rows, sizes = {}, [], [], []
    for row in given:
      try:
        frame, size = self._frame(row), self.files.size(row)
      except BadImage as error:
        broken[row] = error.reason
        continue
      frames.append(frame)
      sizes.append(size)
      rows.append(row)
    if rows:
      padded = np.zeros((BATCH, *frames[0].shape), np.uint8)
      padded[: len(frames)] = frames
      pyramid = self._describe(None)(self.model.describer.variables, self._seen(padded))
      pyramid = tuple(np.asarray(level)[: len(rows)] for level in pyramid)
      self.described.put(np.array(rows), pyramid, np.array(sizes, np.int32))
    return broken

  def _predictions(self) -> Fit:
    points, evidence = self._looked(self._known.head)
    unknown = ~self.described.done
    places = [self._known.names.index(name) for name in self.landmarks]
    pixels = np.stack([self._pixels(n, p) for n, p in enumerate(points[:, places])])
    doubt = np.where(unknown, -np.inf, evidence[..., 0].mean(1))
    sure = self._known.judge(evidence)[:, places]
    return Fit(pixels, np.where(unknown[:, None], np.nan, sure).astype(np.float32), doubt)

  def _looked(self, head: Head) -> tuple[Float[np.ndarray, 'N K 2'], Float[np.ndarray, 'N K E']]:
    """Normalised points and evidence of doubt for all pictures; of any value where unknown."""
    if head.size is None or self._shapes(head.size) == self._shapes(None):
      return head.look_at(self.described.pyramid, step=LOOK)
    describe, found = self._describe(head.size), []  # such maps of all pictures may be too large
    for start in range(0, len(self.files), BATCH):
      frames = np.zeros((BATCH, self.model.frame, self.model.frame, 3), np.uint8)
      for i, done in enumerate(self.described.done[start : start + BATCH]):
        with contextlib.suppress(BadImage):  # it may have been deleted
          if done:
            frames[i] = self._frame(start + i)
      pyramid = describe(self.model.describer.variables, self._seen(frames))
      found.append(head.look_at(pyramid, step=LOOK))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(self.files)], *found)

  def _pairs(self, points: Float[np.ndarray, 'N K 2']) -> mirrored.Pairs:
    """The pairs that are stated, or guessed and not contradicted by the labels (told once)."""
    if self._stated:
      return self._stated
    if not mirrored.contradicted(self._guessed, points):
      return self._guessed
    if not self._told:
      warnings.warn(mirrored.warning(self._guessed, self.landmarks), stacklevel=2)
    self._told = True
    return ()

  def _is_read(self, number: int, pixels: Float[np.ndarray, 'K 2']) -> bool:
    """Whether all that a fit reads of a labelled picture is known; it may have been deleted."""
    try:
      self._checksum(number)
      self._warped(number, pixels)
    except BadImage as error:
      warnings.warn(f'left out of the fit: {error}', stacklevel=2)
      return False
    return True

  def _labelled(self, known: Sequence[int], labels: Mapping[int, Any]) -> Batch:
    """The labelled pictures, then their warped copies."""
    copies = int(np.clip(MOST_COPIES // len(known), 1, COPIES))
    parts = [jax.tree.map(lambda x: x[:copies], self._warped(n, labels[n])) for n in known]
    points = np.stack([self._normalised(n, labels[n]) for n in known])
    visible = np.isfinite(points).all(-1)
    own = Batch(
      pyramid=tuple(level[known] for level in self.described.pyramid),
      points=np.where(visible[..., None], points / self.model.zoom, 0).astype(np.float32),
      visible=visible,
      scale=np.full(len(known), 2 / self.model.zoom, np.float32),  # of the frame, as it is seen
      valid=np.ones(len(known), bool),
      index=np.array(known, np.int32),
    )
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), own, *parts)

  def _warped(self, number: int, pixels: Float[np.ndarray, 'K 2']) -> Batch:
    """Copies of one labelled picture, described; recomputed when its labels or the pairs change."""
    depends = pixels.tobytes(), self.flip_pairs
    stamp, batch = self._copies.get(number, (None, None))
    if stamp != depends:
      points = self._normalised(number, pixels)
      visible = np.isfinite(points).all(-1)
      example = {
        'image': self._frame(number),
        'points': np.where(visible[:, None], points, 0).astype(np.float32),
        'visible': visible,
        'scale': np.float32(2),  # of the frame
        'index': np.int32(number),
      }
      arrays = {name: np.asarray(value)[None] for name, value in example.items()}
      batch = features.gather_warped(
        self.model.describer,
        pipeline.Cached(NOTHING, arrays),
        np.array([0]),
        copies=COPIES,
        warp=WARP,
        flip_pairs=self.flip_pairs,
        margin=self.model.margin,
        batch_size=COPIES,
      )
      self._copies[number] = depends, batch
    return batch

  def _frame(self, number: int) -> np.ndarray:
    return self.pictures[number]['image']

  def _seen(self, frames: np.ndarray) -> np.ndarray:
    """What the network sees of them."""
    return regions.cut_centre(frames, self.model.margin)

  def _box(self, number: int) -> images.Box:
    return folder.crop_box(self.crop, *self.described.sizes[number].tolist())

  def _normalised(self, number: int, pixels: np.ndarray) -> np.ndarray:
    """Pixels, normalised in the whole frame; nan for points outside it."""
    points = images.frame_points(pixels, self._box(number), self.model.frame)
    inside = (np.abs(points) <= self.model.frame / (self.model.frame - 1)).all(-1, keepdims=True)
    return np.where(inside, points, np.nan)

  def _pixels(self, number: int, points: np.ndarray) -> np.ndarray:
    if not self.described.done[number]:
      return np.full(points.shape, np.nan, np.float32)
    return images.picture_points(points * self.model.zoom, self._box(number), self.model.frame)

  def _describe(self, size: int | None) -> Callable[[Any, Any], Pyramid]:
    return features.compiled(self.model.describer.apply, jnp.bfloat16, size=size)

  def _shapes(self, size: int | None) -> list[tuple[int, ...]]:
    """The shapes of a picture's pyramid; methods that ignore the size have only one."""
    image = jax.ShapeDtypeStruct((1, self.model.side, self.model.side, 3), np.uint8)
    pyramid = jax.eval_shape(self._describe(size), self.model.describer.variables, image)
    return [level.shape[1:] for level in pyramid]

  def _key(self) -> str:
    """A digest of everything the features depend on."""
    facts = KEPT, self.model.frame, self.model.margin, self.crop
    digest = hashlib.sha256(repr(facts).encode())
    for leaf in jax.tree.leaves(self.model.describer.variables):
      digest.update(np.ascontiguousarray(leaf).tobytes())
    for number, name in enumerate(self.files.names):
      try:
        stat = self.files.path(number).stat()
        digest.update(f'{name!a} {stat.st_size} {stat.st_mtime_ns}'.encode())
      except OSError:
        digest.update(f'{name!a} gone'.encode())
    return digest.hexdigest()


def semantic(pyramid: Pyramid) -> Shaped[np.ndarray, 'N h w C']:
  """The level that best tells parts apart: the deepest of those with the most positions."""
  return max(pyramid, key=lambda level: level.shape[1])

"""Finds landmarks in a folder of pictures with a model that `fit` made.

--output gets landmarks.csv, which can be used as labels; landmarks.json, the same as COCO keypoints
with confidence; confidence.csv; and a folder overlays of pictures with the landmarks on them, from
red for no confidence to green for full. A landmark outside its picture is left empty. Pictures that
are unreadable, that --boxes has no box for, or whose names no table can hold, are left out and
listed in skipped.csv; overlays that cannot be written are counted. With --labels, true landmarks of
some of the pictures, errors and a reliability table are printed and written to scores.json, for
those that the model did not learn from; a label far outside its picture is not scored. Ctrl-C keeps
what was found, without overlays. These come last, so that a full disk costs no table.
"""

import contextlib
import csv
import json
import pathlib
import sys
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from absl import flags

from landmarks_jax.cli import drafts, labelled, paths
from landmarks_jax.runtime import atomic

REQUIRED = '--model=DIR', '--images=DIR', '--output=DIR'

LANDMARKS, COCO, CONFIDENCE = 'landmarks.csv', 'landmarks.json', 'confidence.csv'
SKIPPED, SCORES, OVERLAYS = 'skipped.csv', 'scores.json', 'overlays'


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  labelled.define_flags(values, crop='as the model was fitted')
  paths.define('model', 'Folder that `fit` made.', values)
  what = 'CSV or COCO JSON file of true landmarks, to score against.'
  flags.DEFINE_string('labels', None, what, flag_values=values)
  what = 'At most this many pictures with the landmarks on them, evenly apart; -1 for all.'
  flags.DEFINE_integer('overlays', 100, what, lower_bound=-1, flag_values=values)
  what = 'Pictures processed at once.'
  flags.DEFINE_integer('batch_size', 64, what, lower_bound=1, flag_values=values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  drafts.check_new(values.output, inside=True)
  drafts.check_outside(values.output, 'images', values.images)
  prediction = Prediction(
    values.model,
    values.images,
    values.output,
    labels=values.labels,
    boxes=values.boxes,
    crop=values.crop,
    overlays=values.overlays,
  )
  try:
    prediction(batch_size=values.batch_size)
  except KeyboardInterrupt:
    if prediction.points:
      prediction.write()  # without overlays, which take long
      print(f'\ninterrupted; {prediction.summary()}', file=sys.stderr)
      return 130
    raise
  prediction.write()
  scores = None if prediction.truth is None else prediction.scores()
  if scores and scores['pictures']:
    prediction.write_scores(scores)
  prediction.draw()
  print(prediction.summary())
  if scores:
    print(in_words(scores, prediction.unit))
  return 0


class Prediction:
  """Finds the landmarks of a folder of pictures, and writes them."""

  def __init__(
    self,
    model: pathlib.Path,
    root: pathlib.Path,
    output: pathlib.Path,
    *,
    labels: str | None,
    boxes: pathlib.Path | None,
    crop: str | None,
    overlays: int,
  ) -> None:
    from landmarks_jax import api  # late: heavy
    from landmarks_jax.data import folder, pipeline
    from landmarks_jax.data.source import BadImage, evenly_apart
    from landmarks_jax.interop.landmark_csv import name_fault

    self.output, self.model = output, api.load_landmarks(model)
    self.files, around = list(folder.find(root)), labelled.read_boxes(root, boxes)
    self.unboxed = []
    if around is not None:
      self._tell_of_lost(around, boxes)
      self.unboxed = [file for file in self.files if file not in around]
      self.files = [file for file in self.files if file in around]
    if not self.files:
      raise ValueError(f'{boxes} has no box for any picture in {root}')
    self.truth = None if labels is None else self._labels(root, labelled.read_labels(root, labels))
    self.pictures = self.model.pictures(
      [root / file for file in self.files],
      crop=crop,
      boxes=labelled.rows_of(self.files, around, boxes),
      labels=self.truth,
    )
    self.names, count = frozenset(self.files), len(self.files)
    self.bad = pipeline.BadImages(count, 'skip', _tell, most=1.0)
    for i, file in enumerate(self.files):
      if fault := name_fault(file):
        self.bad.add(i, BadImage(ascii(file), fault))
    self.source = pipeline.Reporting(self.pictures, self.bad)
    shown = range(count) if overlays < 0 else evenly_apart(count, overlays) if overlays else ()
    self.shown = {int(i) for i in shown}
    self.drawn: dict[int, tuple[Any, Any]] = {}  # pixels and confidence of those to be shown
    self.points: dict[str, Any] = {}
    self.confidence: dict[str, Any] = {}
    self.sizes: dict[str, tuple[int, int]] = {}
    self.outside, self.undrawn, self.scored = 0, 0, []

  def __call__(self, *, batch_size: int) -> None:
    """Finds the landmarks."""
    for batch, points, evidence in self.model.look(self.source, batch_size=batch_size):
      confidence = self.model.judge(evidence)
      if self.truth is not None:
        self.scored.append(self._scored(batch, points, confidence))
      for row, normalised, sure in zip(batch.index.tolist(), points, confidence, strict=True):
        self._keep(row, self.pictures.to_pixels(row, normalised), sure)

  def write(self) -> None:
    """Writes the tables of what was found, each complete under its name or not at all."""
    from landmarks_jax.interop import coco, landmark_csv  # late: heavy

    rows = [[file, *(f'{c:.4f}' for c in sure)] for file, sure in self.confidence.items()]
    skipped = [[self.files[i], error.reason] for i, error in sorted(self.bad.found.items())]
    skipped += [[file, 'no box'] for file in self.unboxed]
    more = {'confidence': self.confidence, 'skeleton': self.model.skeleton}
    with drafts.full_disk_told(self.output):
      self.output.mkdir(parents=True, exist_ok=True)
      with atomic.replaced(self.output / LANDMARKS) as part:
        landmark_csv.write(part, self.model.names, self.points)
      with atomic.replaced(self.output / COCO) as part:
        coco.write(part, self.model.names, self.points, self.sizes, **more)
      self._table(CONFIDENCE, ['file', *self.model.names], rows)
      if skipped:
        self._table(SKIPPED, ['file', 'reason'], skipped)

  def draw(self) -> None:
    """Writes the overlays; those that cannot be written are counted."""
    from landmarks_jax.data.source import BadImage  # late: heavy
    from landmarks_jax.runtime import logs

    tally = logs.Tally(len(self.drawn), file=sys.stderr) if logs.watched() else None
    for done, (row, found) in enumerate(self.drawn.items(), start=1):
      try:
        self._draw(row, *found)
      except (OSError, BadImage) as error:  # a name too long, a full disk, a picture that is gone
        if not self.undrawn:
          reason = getattr(error, 'strerror', None) or error
          _tell(f'the overlay of {self.files[row]!a} cannot be written ({reason})')
        self.undrawn += 1
      if tally:
        tally(done)

  def summary(self) -> str:
    """What was found, and what was not, in words."""
    from landmarks_jax.report import overlay  # late: heavy

    message = f'{len(self.points):,} of {len(self.files) + len(self.unboxed):,} pictures'
    counts = {'could not be read': len(self.bad.found), 'without a box': len(self.unboxed)}
    if told := [f'{count:,} {what}' for what, count in counts.items() if count]:
      message += f'; {" and ".join(told)}, see {SKIPPED}'
    if self.outside:
      message += f'; {self.outside:,} landmarks are outside their picture and left empty'
    if self.undrawn:
      message += f'; {self.undrawn:,} of the overlays could not be written'
    message += f'; written to {self.output}'
    if (self.output / OVERLAYS).is_dir() and (numbers := overlay.key(self.model.names)):
      message += f'\nin the overlays {numbers}'
    return message

  @property
  def unit(self) -> str:
    """What errors are divided by, in words."""
    scale = self.model.scale
    return scale if isinstance(scale, str) else ' to '.join(self.model.names[i] for i in scale)

  def scores(self) -> dict[str, Any]:
    """The errors and the reliability, for labelled pictures that were not learned from.

    Without any, only their number `pictures`, 0, and that of those `learned_from`. The reliability
    is absent if the model has no measured confidence.
    """
    from landmarks_jax import metrics

    predictions, learned = self._gathered()
    if predictions is None:
      return {'pictures': 0, 'learned_from': learned}
    measured = self.model.confidence
    tolerance = 0.1 if measured is None else measured.tolerance
    distances = metrics.normalised_distances(predictions)
    known = distances[~np.isnan(distances)]
    scores = {
      'pictures': len(predictions.points),
      'learned_from': learned,
      'error_percent': metrics.inter_ocular_error(predictions),
      'tolerance': tolerance,
      'below_tolerance': float((known < tolerance).mean()),
    }
    if measured is not None:
      bins, gap = metrics.reliability(predictions, tolerance=tolerance)
      scores |= {'reliability': [one._asdict() for one in bins], 'calibration_error': gap}
    return scores

  def write_scores(self, scores: dict[str, Any]) -> None:
    """Writes what `scores` returned beside what `write` wrote."""
    with drafts.full_disk_told(self.output):
      atomic.write_text(self.output / SCORES, json.dumps(scores, indent=2) + '\n')

  def _tell_of_lost(self, around: dict[str, Any], boxes: pathlib.Path) -> None:
    """Warns about boxes of no picture, as after a misspelt name."""
    lost = sorted(around.keys() - set(self.files))
    if lost:
      few = f'{len(lost):,} of {len(around):,} boxes'
      _tell(f'{boxes}: {few} are of no picture, the first {lost[0]!a}')

  def _labels(self, root: pathlib.Path, table: Any) -> Any:
    """The truth about all pictures; those without any have no visible landmark."""
    from landmarks_jax.inference.pictures import PointLabels

    absent = [name for name in self.model.names if name not in table.names]
    if absent:
      raise ValueError(f'{table.path} has no landmark {absent[0]!r}, which the model finds')
    order = [table.names.index(name) for name in self.model.names]
    nothing = np.full((len(table.names), 2), np.nan)
    points = np.stack([table.points.get(file, nothing)[order] for file in self.files])
    if not np.isfinite(points).any():
      raise ValueError(f'{table.path} labels none of the pictures')
    self._hide_far(root, points, table.path)
    return PointLabels.of(points, names=self.model.names, scale=self.model.scale)

  def _hide_far(self, root: pathlib.Path, points: Any, path: Any) -> None:
    """Sets labels far outside their picture to nan; warns, naming the first."""
    from landmarks_jax.data import images  # late: heavy
    from landmarks_jax.data.source import BadImage
    from landmarks_jax.inference.pictures import far_off

    told = []
    for row in np.flatnonzero(np.isfinite(points).any((1, 2))):
      file = self.files[row]
      with contextlib.suppress(BadImage):  # told when it is predicted
        width, height = images.size(root / file, rotate=True)
        for k in np.flatnonzero(far_off(points[row], width, height)):
          (x, y), name = points[row, k], self.model.names[k]
          told.append(f'{name:.60} of {file!a} ({width}x{height} pixels) at ({x:g}, {y:g})')
          points[row, k] = np.nan
    if told:
      few = f'{len(told):,} of the labels are far outside their picture and not scored'
      _tell(f'{path}: {few}, the first {told[0]}; were they made on pictures of another size?')

  def _keep(self, row: int, pixels: Any, confidence: Any) -> None:
    """One picture's landmarks, those outside of it for its overlay alone."""
    file = self.files[row]
    width, height = self.pictures.sizes[row]
    inside = ((pixels >= -0.5) & (pixels <= [width - 0.5, height - 0.5])).all(-1)
    if row in self.shown:
      self.drawn[row] = pixels, confidence
    self.outside += int((~inside).sum())
    self.sizes[file], self.confidence[file] = (width, height), confidence
    self.points[file] = np.where(inside[:, None], pixels, np.nan)

  def _draw(self, row: int, pixels: Any, confidence: Any) -> None:
    """Writes one picture's overlay. Raises OSError, or BadImage if it can no longer be read."""
    from PIL import Image  # late: heavy

    from landmarks_jax.report import overlay

    file, target = self.files[row], None
    if self.truth is not None:
      target = np.where(self.truth.visible[row][:, None], self.truth.points[row], np.nan)
    drawn = overlay.landmarks(
      self.pictures.read(row),
      pixels,
      names=self.model.names,
      confidence=confidence,
      target=target,
      skeleton=self.model.skeleton,
    )
    path = self.output / OVERLAYS / overlay_name(file, self.names)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      Image.fromarray(drawn).save(path, 'png')  # not `atomic`, which waits for the disk each time
    except BaseException:
      with contextlib.suppress(OSError):
        path.unlink()
      raise

  def _scored(self, batch: Any, points: Any, confidence: Any) -> tuple[Any, Any]:
    """The labelled pictures of a batch as Predictions, and which of them were learned from."""
    from landmarks_jax.contracts import Predictions

    usable = np.nan_to_num(batch.scale) > 0
    visible = batch.visible & usable[:, None]
    scale = np.where(usable, batch.scale, 1)
    given = Predictions(points, batch.points, visible, scale, batch.index, confidence)
    return given, self.model.knows(self.pictures, batch)

  def _gathered(self) -> tuple[Any, int]:
    """Predictions of all labelled pictures that were not learned from; how many were."""
    import jax  # late: heavy

    given, learned = zip(*self.scored, strict=True)
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *given)
    learned, labelled = np.concatenate(learned), whole.visible.any(1)
    rest, count = labelled & ~learned, int((labelled & learned).sum())
    return (jax.tree.map(lambda x: x[rest], whole) if rest.any() else None), count

  def _table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with (
      atomic.replaced(self.output / name) as part,
      part.open('w', newline='', encoding='utf-8', errors='backslashreplace') as file,
    ):
      csv.writer(file).writerows([header, *rows])


def overlay_name(file: str, pictures: Container[str]) -> str:
  """The name of a picture's overlay, a PNG, which no other of the pictures gets.

  >>> overlay_name('a.png', {'a.png', 'b.jpg'}), overlay_name('b.jpg', {'a.png', 'b.jpg'})
  ('a.png', 'b.jpg.png')
  >>> overlay_name('b.jpg', {'b.jpg', 'b.jpg.png'})
  'b.jpg.png.png'
  """
  if file.endswith('.png'):
    return file
  name = f'{file}.png'
  while name in pictures:
    name += '.png'
  return name


def in_words(scores: dict[str, Any], unit: str) -> str:
  """What `Prediction.scores` returned, as lines for a person; unit: of `Prediction.unit`."""
  if not scores['pictures']:
    return f'no labelled picture is left to be scored; {scores["learned_from"]} were learned from'
  lines = [
    f'{scores["pictures"]:,} labelled pictures that were not learned from: error '
    f'{scores["error_percent"]:.2f} % of {unit}; {100 * scores["below_tolerance"]:.1f} % of '
    f'the landmarks below {100 * scores["tolerance"]:g} %'
  ]
  if 'reliability' in scores:
    lines += ['', 'confidence   landmarks   claimed   observed']
    for one in scores['reliability']:
      columns = f'{one["count"]:13,}{one["confidence"]:10.2f}{one["observed"]:11.2f}'
      lines.append(f'{one["low"]:.1f} to {one["high"]:.1f}{columns}')
    gap = scores['calibration_error']
    lines.append(f'claimed and observed differ by {gap:.3f} in the mean')
  return '\n'.join(lines)


def _tell(line: str) -> None:
  print(f'warning: {line}', file=sys.stderr, flush=True)

"""Percentage of correct keypoints: landmark regression where not every part is in every picture.

The published evaluation on birds (specification section 5): the rows and fits of `regression`, with
the head of the epoch that is best on a validation split, and another score.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from landmarks_jax import metrics
from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data.source import Source
from landmarks_jax.evaluation import regression, scoring

EXTENDS = regression.run  # whose options `run` takes besides its own
METRICS = (
  scoring.Metric('pck', 'parts nearer than 5 % of the frame, %', higher_is_better=True),
  scoring.Metric('pck_paper', 'the same with the published rounding, %', higher_is_better=True),
)


def run(
  describer: Describer,
  open_split: Callable[[str], Source],
  *,
  head: str = regression.PROBE,
  validation: str | None = 'validation',
  **others: Any,
) -> dict[str, Predictions]:
  """Predictions of every row and draw, named as those of `regression.run`.

  Args:
    head: 'probe', the published one, or 'ridge'.
    validation: the split on which the probe's best epoch is chosen, by PCK; None keeps the last.
      The ridge has no epochs and needs none.
    others: of `regression.run`.
  """
  chosen = validation if head == regression.PROBE else None
  return regression.run(
    describer, open_split, head=head, validation=chosen, validation_score=missed, **others
  )


def check(
  open_split: Callable[[str], Source],
  *,
  head: str = regression.PROBE,
  validation: str | None = 'validation',
  **others: Any,
) -> None:
  """Raises ValueError for what `run` cannot do, from the sizes of the sets alone."""
  chosen = validation if head == regression.PROBE else None
  regression.check(open_split, head=head, validation=chosen, **others)


def missed(predictions: Predictions) -> float:
  """Percent of keypoints that are not correct: the best epoch has the fewest."""
  return 100 - metrics.pck(predictions)


def score(
  predictions: Mapping[str, Predictions], *, flip_pairs: Sequence[Sequence[int]] = ()
) -> dict[str, float]:
  """pck, pck_paper and left_right_confusion, all in percent, by row; see `scoring`."""

  def interval(draw: Predictions) -> tuple[float, float]:
    low, high = metrics.bootstrap_interval(metrics.pck_hits(draw), by_landmark=True)
    return 100 * low, 100 * high

  return (
    scoring.summarise(predictions, 'pck', metrics.pck, interval=interval)
    | scoring.summarise(predictions, 'pck_paper', metrics.pck_paper)
    | scoring.confusion(predictions, flip_pairs)
  )

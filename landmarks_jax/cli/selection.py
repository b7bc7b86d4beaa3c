"""The weights that a score selects: which are the best so far, and where a run keeps them."""

import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from landmarks_jax.cli import completion
from landmarks_jax.runtime import checkpoint, run_folder

Row = Mapping[str, Any]  # of metrics.jsonl


class Selection:
  """The folder `best` of a run whose config selects weights by a score.

  Args: config: completed. logged: returns the rows that the run has logged so far, the same on all
  processes. is_main, writers: of `Checkpoints`.
  """

  def __init__(
    self,
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    logged: Callable[[], Sequence[Row]],
    is_main: bool,
    **writers: Any,
  ) -> None:
    self.score, self.evaluation = config['select'], config['select'].split('/')[0]
    self._higher_is_better = completion.check_select(self.score, config['evals'])
    self._every, self._last = config['evals'][self.evaluation]['every'], config['steps']
    self._logged, self._is_main = logged, is_main
    folder = workdir / run_folder.SELECTED
    self._kept = checkpoint.Checkpoints(folder, keep=None, is_main=is_main, **writers)

  def due(self, step: int) -> bool:
    """Whether the weights of this step are scored."""
    return step == self._last or step % self._every == 0

  def is_best(self, step: int) -> bool:
    """Whether a step that was scored is the best so far."""
    return self._best_steps()[0] == step

  def keep(
    self, step: int, state: Any, metadata: Mapping[str, Any], run: checkpoint.Checkpoints
  ) -> None:
    """Saves a step, and drops those that nothing will ask for. run: the checkpoints to resume from.

    It keeps the newest two, and the best that a run would find on resuming.
    """
    self._kept.save(step, state, metadata)
    run.wait()  # a half-written step cannot be resumed from
    last = run.latest_step()
    steps = self._kept.steps()
    needed = [step for step in steps if last is not None and step <= last][-1:]
    self._kept.drop(set(steps) - {*steps[-2:], *needed})

  def restore(self, state: Any) -> tuple[Any, int]:
    """The best weights that are still there, in the structure of `state`, and their step."""
    steps, there = self._best_steps(), self._kept.steps()
    found = next((step for step in steps if step in there), steps[0])
    if found != steps[0] and self._is_main:
      message = f'has no step {steps[0]}, the best; taking step {found}, the best there'
      warnings.warn(f'{self._kept.path} {message}', stacklevel=2)
    state, _ = self._kept.restore(state, step=found)
    return state, found

  def drop_after(self, step: int) -> None:
    """Removes later steps, which a run that went back to `step` has not reached again."""
    self._kept.drop_after(step)

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    self._kept.wait()

  def close(self) -> None:
    """Finishes what is written in the background."""
    self._kept.close()

  def _best_steps(self) -> list[int]:
    """The steps that have a score, best first."""
    sign = -1 if self._higher_is_better else 1
    rows = [row for row in self._logged() if self.score in row]
    return [step for _, step in sorted((sign * row[self.score], row['step']) for row in rows)]

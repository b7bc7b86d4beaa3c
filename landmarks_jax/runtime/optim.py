"""Optimisers and learning rates with torch's formulas, written with optax and found by name.

`build` takes a section of a config and gives both, so that logs show the rate that the step used.
New ones are functions here, with an entry in OPTIMISERS or SCHEDULES, or anywhere, named by their
import path.
"""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from landmarks_jax.contracts import Array
from landmarks_jax.runtime import by_name

Number = float | int  # a config may say 0
Rate = optax.Schedule  # step (int, from 0) -> learning rate, a pure function


class Optimiser(NamedTuple):
  """What the section `optimizer` of a config names."""

  tx: optax.GradientTransformation
  rate: Rate  # the learning rate that `tx` uses, for logs


def build(
  *,
  name: str = 'sgd',
  schedule: str = 'cosine',
  learning_rate: Number,
  epochs: int | None = None,
  steps_per_epoch: int = 1,
  warmup_epochs: int = 0,
  **options: Any,
) -> Optimiser:
  """The optimiser and the learning rate of a config; `options` are those of the two functions.

  Args:
    name: one of OPTIMISERS, or the import path of a function such as these.
    schedule: one of SCHEDULES, or the import path of a function such as these; it gets the learning
      rate after the warm-up, and those of the other options that it has.
    epochs, warmup_epochs: like `milestones` of a schedule in epochs; with `steps_per_epoch=1` these
      are steps.

  >>> tx, rate = build(name='sgd', learning_rate=0.03, epochs=800, weight_decay=1e-4)

  Raises ValueError for an unknown name, schedule or option, listing the known ones, and for a
  schedule without an end.
  """
  make, make_rate = _optimiser(name), _schedule(schedule)
  mine, of_rate = _options_of(make), _options_of(make_rate)
  common = {'learning_rate': learning_rate, 'epochs': epochs}
  common |= {'steps_per_epoch': steps_per_epoch, 'warmup_epochs': warmup_epochs}
  if unknown := options.keys() - mine - of_rate:
    listed = ', '.join(sorted({'schedule', *common} | mine | of_rate))
    what = f'optimizer {name!r} with schedule {schedule!r}'
    raise ValueError(f'{what} has no option {min(unknown)!r}; it has {listed}')
  if learning_rate < 0:
    raise ValueError(f'learning_rate={learning_rate}: expected 0 or more')
  if steps_per_epoch < 1:
    raise ValueError(f'steps_per_epoch is {steps_per_epoch}; is the batch larger than the dataset?')
  if 'epochs' in of_rate and (epochs is None or epochs <= warmup_epochs):
    raise ValueError(
      f'schedule {schedule} needs epochs > warmup_epochs={warmup_epochs}, got {epochs}'
    )
  given = common | options
  later = {'epochs': epochs and epochs - warmup_epochs}
  if 'milestones' in given:
    later['milestones'] = [milestone - warmup_epochs for milestone in given['milestones']]
  after = make_rate(learning_rate, **{k: v for k, v in (given | later).items() if k in of_rate})
  rate = warm_up(after, peak=learning_rate, steps=warmup_epochs * steps_per_epoch)
  return Optimiser(make(rate, **{k: v for k, v in given.items() if k in mine}), rate)


def functions(
  name: str, *, schedule: str = 'cosine', **others: Any
) -> tuple[Callable[..., Any], ...]:
  """Those whose arguments are the options of an optimiser: itself, `build` and its schedule.

  They are for their signatures alone, which lack the first argument of optimiser and schedule: it
  is passed by position, whatever it is called. Raises ValueError for an unknown name or schedule.
  """
  return _after_first(_optimiser(name)), build, _after_first(_schedule(schedule))


def _after_first(make: Callable) -> Callable:
  """`make` with its first argument given, so that its signature shows the others."""
  return functools.partial(make, None)


def _options_of(make: Callable) -> set[str]:
  return set(inspect.signature(_after_first(make)).parameters)


def _optimiser(name: str) -> Callable[..., optax.GradientTransformation]:
  return by_name.function(name, OPTIMISERS, fault=f'unknown optimizer {name!r}')


def _schedule(name: str) -> Callable[..., Rate]:
  return by_name.function(name, SCHEDULES, fault=f'unknown schedule {name!r}')


def sgd(
  rate: Rate | Number, *, momentum: Number = 0.9, weight_decay: Number = 0.0
) -> optax.GradientTransformation:
  """torch.optim.SGD without dampening: g += decay * p; m = momentum * m + g; p -= rate * m."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum),
    optax.scale_by_learning_rate(rate),
  )


def adam(
  rate: Rate | Number,
  *,
  betas: tuple[Number, Number] = (0.9, 0.999),
  eps: Number = 1e-8,
  weight_decay: Number = 0.0,
  amsgrad: bool = False,
  bias_factor: Number = 1.0,
  biases: str = r'(^|/)bias$',
) -> optax.GradientTransformation:
  """torch.optim.Adam, not AdamW: the decay is added to the gradient; eps is outside the root.

  Args: amsgrad: never divide by less than before (Reddi et al. 2018), as in torch.
  bias_factor: multiplies the rate of every parameter that `biases` means, a regular expression as
  `exclude` of `lars`; by default all that are named `bias`, those of normalisation layers too.
  """
  scale = scale_by_amsgrad if amsgrad else optax.scale_by_adam
  steps = [
    optax.add_decayed_weights(weight_decay),
    scale(*betas, eps=eps),
    optax.scale_by_learning_rate(rate),
  ]
  if bias_factor != 1:
    steps.append(optax.masked(optax.scale(bias_factor), named(biases)))
  return optax.chain(*steps)


def named(pattern: str) -> Callable[[optax.Params], optax.Params]:
  """A mask of the parameters whose path, such as backbone/bn1/scale, contains a match."""

  def found(path: tuple[Any, ...], _: Array) -> bool:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return re.search(pattern, name) is not None

  return lambda params: jax.tree_util.tree_map_with_path(found, params)


def lars(
  rate: Rate | Number,
  *,
  momentum: Number = 0.9,
  weight_decay: Number = 0.0,
  trust: Number = 1e-3,
  eps: Number = 1e-8,
  exclude: str = r'(bias|scale)$',
  double_rate: bool = False,
) -> optax.GradientTransformation:
  """SGD whose rate follows the norm of each weight (LARS, You et al. 2017), as in torchlars.

  d = g + decay * p; d *= trust * |p| / (|g| + decay * |p| + eps); m = momentum * m + d; p -= rate *
  m. The factor is 1 where |p| or |g| is 0.

  Args: trust, eps: see above; decay is `weight_decay`. exclude: a regular expression; parameters
  whose path (such as backbone/bn1/scale) contains a match have neither decay nor factor, by default
  those that are vectors. double_rate: the gradient of these is multiplied by the rate, and the step
  by the rate again, as in SCRL's code. Specification scrl, section 5.
  """
  excluded = named(exclude)

  def included(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda found: not found, excluded(params))

  def scaled(gradient: Array, parameter: Array) -> Array:
    length, steepness = jnp.linalg.norm(parameter), jnp.linalg.norm(gradient)
    factor = trust * length / (steepness + weight_decay * length + eps)
    factor = jnp.where((length > 0) & (steepness > 0), factor, 1)
    return factor * (gradient + weight_decay * parameter)

  layerwise = optax.stateless(lambda updates, params: jax.tree.map(scaled, updates, params))
  steps = [optax.masked(layerwise, included)]
  if double_rate:
    once = rate if callable(rate) else optax.constant_schedule(rate)
    steps.append(optax.masked(optax.scale_by_schedule(once), excluded))
  return optax.chain(*steps, optax.trace(momentum), optax.scale_by_learning_rate(rate))


class AmsgradState(NamedTuple):
  """The state of `scale_by_amsgrad`."""

  adam: optax.ScaleByAdamState
  greatest: optax.Updates  # second moments, without bias correction


def scale_by_amsgrad(
  b1: Number = 0.9, b2: Number = 0.999, *, eps: Number = 1e-8
) -> optax.GradientTransformation:
  """Adam's update with the greatest second moment so far, taken before bias correction.

  optax takes it after, where the first gradients weigh most and slow down all later updates.
  """
  moments = optax.scale_by_adam(b1, b2, eps=eps)

  def init(params: optax.Params) -> AmsgradState:
    return AmsgradState(moments.init(params), jax.tree.map(jnp.zeros_like, params))

  def update(
    updates: optax.Updates, state: AmsgradState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, AmsgradState]:
    _, now = moments.update(updates, state.adam, params)
    greatest = jax.tree.map(jnp.maximum, state.greatest, now.nu)
    first, second = (1 - b**now.count for b in (b1, b2))
    updates = jax.tree.map(
      lambda mu, nu: (mu / first) / (jnp.sqrt(nu / second) + eps), now.mu, greatest
    )
    return updates, AmsgradState(now, greatest)

  return optax.GradientTransformation(init, update)


OPTIMISERS = {'adam': adam, 'lars': lars, 'sgd': sgd}


def cosine_per_epoch(
  learning_rate: Number, *, epochs: int, steps_per_epoch: int, final: Number = 0.0
) -> Rate:
  """Cosine held for an epoch at a time, e = 1..epochs, then at its end (specification section 2).

  rate = final + (learning_rate - final) * .5 * (1 + cos(pi * e / epochs)): the first epoch is
  already below `learning_rate`, the last is exactly `final`.
  """

  def at(step: int | Array) -> Float[Array, '']:
    epoch = jnp.minimum(step // steps_per_epoch + 1, epochs)
    # .5 * (1 + cos) as sin^2 of half the remaining angle: near the end the sum cancels in float32.
    left = jnp.sin(0.5 * jnp.pi * (epochs - epoch) / epochs) ** 2
    return final + (learning_rate - final) * left

  return at


def cosine_per_step(
  learning_rate: Number, *, epochs: int, steps_per_epoch: int, final: Number = 0.0
) -> Rate:
  """`cosine_per_epoch` that falls at every step."""
  steps = epochs * steps_per_epoch
  return cosine_per_epoch(learning_rate, epochs=steps, steps_per_epoch=1, final=final)


def step_per_epoch(
  learning_rate: Number, *, steps_per_epoch: int, milestones: Sequence[int], factor: Number = 0.1
) -> Rate:
  """Multiplied by `factor` for every milestone that epoch e = 1.. is beyond (e > milestone)."""

  def at(step: int | Array) -> Float[Array, '']:
    epoch = step // steps_per_epoch + 1
    return learning_rate * factor ** jnp.sum(epoch > jnp.asarray(milestones))

  return at


def constant(learning_rate: Number) -> Rate:
  """The same rate at every step."""
  return optax.constant_schedule(learning_rate)


SCHEDULES = {
  'constant': constant,
  'cosine': cosine_per_epoch,
  'cosine_by_step': cosine_per_step,
  'step': step_per_epoch,
}


def warm_up(rate: Rate, *, peak: Number, steps: int) -> Rate:
  """Linear from peak / steps at step 0 to `peak`, then `rate` (Goyal et al. 2017)."""
  if steps == 0:
    return rate
  return optax.join_schedules([lambda step: jnp.asarray(peak * (step + 1) / steps), rate], [steps])

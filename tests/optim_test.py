"""torch's optimisers and the published schedules: the reference's numbers and slow loops."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landmarks_jax.runtime import optim

rng = np.random.default_rng(0)
params = {'w': rng.normal(size=(3, 2)).astype('f'), 'bias': rng.normal(size=2).astype('f')}
gradients = [
  {name: rng.normal(size=p.shape).astype('f') * 10.0**-i for name, p in params.items()}
  for i in range(6)
]


def run(tx):
  """Parameters after every step."""
  p, state, out = params, tx.init(params), []
  for g in gradients:
    updates, state = jax.jit(tx.update)(g, state, p)
    p = optax.apply_updates(p, updates)
    out.append(p)
  return out


def torch_sgd(rates, momentum, decay):
  p, m, out = {k: v.astype('d') for k, v in params.items()}, {}, []
  for rate, gradient in zip(rates, gradients, strict=True):
    for k, g in gradient.items():
      g = g + decay * p[k]
      m[k] = momentum * m[k] + g if k in m else g
      p[k] = p[k] - rate * m[k]
    out.append(dict(p))
  return out


def torch_adam(rates, betas, eps, decay, amsgrad=False):
  p, out = {k: v.astype('d') for k, v in params.items()}, []
  m, v, top = ({k: np.zeros(x.shape) for k, x in params.items()} for _ in range(3))
  for t, (rate, gradient) in enumerate(zip(rates, gradients, strict=True), 1):
    for k, g in gradient.items():
      g = g + decay * p[k]
      m[k] = betas[0] * m[k] + (1 - betas[0]) * g
      v[k] = betas[1] * v[k] + (1 - betas[1]) * g * g
      top[k] = np.maximum(top[k], v[k]) if amsgrad else v[k]
      denominator = np.sqrt(top[k]) / np.sqrt(1 - betas[1] ** t) + eps
      p[k] = p[k] - rate / (1 - betas[0] ** t) * m[k] / denominator
    out.append(dict(p))
  return out


SCHEDULES = {
  'moco_cosine_800_lr0.03': (optim.cosine_per_epoch, 0.03, {'epochs': 800}),
  'step_240_lr0.03': (optim.step_per_epoch, 0.03, {'milestones': (120, 160, 200)}),
  'regress_cosine_200_lr0.001': (
    optim.cosine_per_epoch,
    1e-3,
    {'epochs': 200, 'final': 1e-3 * 0.2**3 * 0.1},
  ),
  'projector_cosine_10_lr0.001': (
    optim.cosine_per_epoch,
    1e-3,
    {'epochs': 10, 'final': 1e-3 * 0.2**3 * 0.1},
  ),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_are_the_published_ones_in_every_step_of_every_epoch(golden, name):
  make, learning_rate, options = SCHEDULES[name]
  expected = golden('lr_schedules')[name]
  schedule = make(learning_rate, steps_per_epoch=3, **options)
  rates = jax.jit(jax.vmap(schedule))(jnp.arange(3 * len(expected)))
  np.testing.assert_allclose(rates, np.repeat(expected, 3), rtol=1e-6)


def test_rates_in_float64_are_the_published_ones_to_float64(golden):
  with jax.enable_x64(True):
    schedule = optim.cosine_per_epoch(0.03, epochs=800, steps_per_epoch=1)
    rates = jax.jit(jax.vmap(schedule))(jnp.arange(800))
  np.testing.assert_allclose(rates, golden('lr_schedules')['moco_cosine_800_lr0.03'], atol=1e-16)


def test_cosine_ends_at_exactly_its_final_rate_and_stays_there():
  schedule = optim.cosine_per_epoch(0.03, epochs=5, steps_per_epoch=4)
  assert schedule(15) > 0
  assert [float(schedule(step)) for step in (16, 19, 20, 100000)] == [0.0] * 4
  schedule = optim.cosine_per_epoch(0.5, epochs=5, steps_per_epoch=4, final=0.125)
  assert [float(schedule(step)) for step in (16, 19, 20, 100000)] == [0.125] * 4


def test_steps_stay_at_the_last_value_after_the_last_milestone():
  schedule = optim.step_per_epoch(1.0, steps_per_epoch=2, milestones=(3, 5), factor=0.5)
  assert [float(schedule(step)) for step in (5, 6, 9, 10, 10**6)] == [1, 0.5, 0.5, 0.25, 0.25]


def test_warm_up_is_linear_then_the_cosine_has_the_epochs_that_are_left():
  # SCRL, per step: t = 1.. of T, W of warm-up
  base, warm, total = 0.45, 4, 11
  expected = [
    base * t / warm if t <= warm else base * 0.5 * (1 + np.cos(np.pi * (t - warm) / (total - warm)))
    for t in range(1, total + 1)
  ]
  _, schedule = optim.build(learning_rate=base, epochs=total, warmup_epochs=warm)
  rates = [float(schedule(step)) for step in range(total)]
  np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-9)


def test_a_cosine_by_step_falls_within_an_epoch_as_scrls_does():
  base, each, warm, total = 0.45, 5, 2, 6  # steps of an epoch; epochs
  expected = []
  for t in range(1, total * each + 1):
    e = t / each
    left = 0.5 * (1 + np.cos(np.pi * (e - warm) / (total - warm)))
    expected.append(base * e / warm if e <= warm else base * left)
  options = {'learning_rate': base, 'epochs': total, 'warmup_epochs': warm}
  _, schedule = optim.build(**options, schedule='cosine_by_step', steps_per_epoch=each)
  rates = [float(schedule(step)) for step in range(total * each)]
  np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-9)
  with pytest.raises(ValueError, match='cosine_by_step needs epochs > warmup_epochs=7, got 6'):
    optim.build(**options | {'warmup_epochs': 7}, schedule='cosine_by_step')


def test_milestones_count_from_the_start_also_after_a_warm_up():
  _, schedule = optim.build(
    learning_rate=1.0, schedule='step', steps_per_epoch=2, milestones=(3,), warmup_epochs=2
  )
  rates = [float(schedule(step)) for step in range(8)]
  np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1], rtol=1e-6)


def test_sgd_is_torchs():
  tx, _ = optim.build(
    name='sgd', learning_rate=0.3, epochs=3, steps_per_epoch=2, momentum=0.8, weight_decay=0.1
  )
  rates = [0.3 * 0.5 * (1 + np.cos(np.pi * e / 3)) for e in (1, 1, 2, 2, 3, 3)]
  for ours, theirs in zip(run(tx), torch_sgd(rates, 0.8, 0.1), strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), ours, theirs)


def test_adam_is_torchs():
  options = {'betas': (0.5, 0.99), 'eps': 0.02, 'weight_decay': 0.1}
  tx, _ = optim.build(name='adam', learning_rate=0.3, schedule='constant', **options)
  theirs = torch_adam([0.3] * 6, (0.5, 0.99), 0.02, 0.1)
  for ours, expected in zip(run(tx), theirs, strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_the_defaults_are_torchs_and_decay_reaches_the_bias():
  rate = [0.01] * 6
  constant = {'learning_rate': 0.01, 'schedule': 'constant'}
  for name, theirs in [
    ('sgd', torch_sgd(rate, 0.9, 0.0)),
    ('adam', torch_adam(rate, (0.9, 0.999), 1e-8, 0.0)),
  ]:
    ours = run(optim.build(name=name, **constant).tx)[-1]
    # float32 knows 1 - .999 ** t to 5e-5 of itself, so Adam's rate to half of that
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), ours, theirs[-1])
    decayed = run(optim.build(name=name, **constant, weight_decay=0.5).tx)[-1]
    assert abs(decayed['bias'] - ours['bias']).max() > 1e-3


def test_amsgrad_is_torchs_and_never_divides_by_less():
  # Gradients shrink; the second moment forgets quickly, so that its greatest value is another.
  constant = {'learning_rate': 0.01, 'schedule': 'constant', 'betas': (0.9, 0.5)}
  ours = run(optim.build(name='adam', amsgrad=True, **constant).tx)
  theirs = torch_adam([0.01] * 6, (0.9, 0.5), 1e-8, 0.0, amsgrad=True)
  for one, other in zip(ours, theirs, strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), one, other)
  plain = torch_adam([0.01] * 6, (0.9, 0.5), 1e-8, 0.0)
  assert abs(plain[-1]['w'] - theirs[-1]['w']).max() > 1e-3


def test_biases_have_a_rate_of_their_own():
  constant = {'learning_rate': 0.01, 'schedule': 'constant'}
  ours = run(optim.build(name='adam', bias_factor=0.01, **constant).tx)[-1]
  same, slow = (torch_adam([rate] * 6, (0.9, 0.999), 1e-8, 0.0)[-1] for rate in (0.01, 1e-4))
  np.testing.assert_allclose(ours['w'], same['w'], atol=3e-6)
  np.testing.assert_allclose(ours['bias'], slow['bias'], atol=3e-6)


def test_the_rate_of_biases_can_be_for_some_of_them_alone():
  layer = {'kernel': np.ones((2, 2), 'f'), 'bias': np.ones(2, 'f')}
  given = {'conv1': layer, 'bn1': {'scale': np.ones(2, 'f'), 'bias': np.ones(2, 'f')}}

  def slow(**options):
    tx = optim.adam(0.5, bias_factor=0.01, **options)
    updates, _ = tx.update(given, tx.init(given), given)
    steps = jax.tree_util.tree_leaves_with_path(updates)
    assert {round(float(abs(x).max()), 4) for _, x in steps} == {0.5, 0.005}
    return {'/'.join(k.key for k in path) for path, x in steps if abs(x).max() < 0.1}

  assert slow() == {'conv1/bias', 'bn1/bias'}
  assert slow(biases=r'conv\d/bias$') == {'conv1/bias'}


def test_parameters_in_other_containers_than_dicts_are_named_too():
  class Layer(NamedTuple):
    weight: Any
    bias: Any

  layer = Layer(jnp.ones(2), jnp.ones(2))
  found = optim.named('(^|/)1/bias$')({'layers': [layer, layer]})
  assert found == {'layers': [Layer(False, False), Layer(False, True)]}


def test_the_logged_rate_is_the_one_that_the_step_used():
  page = {'name': 'sgd', 'learning_rate': 0.3, 'epochs': 6, 'momentum': 0.0, 'weight_decay': 0.0}
  tx, rate = optim.build(**page)
  states = [params, *run(tx)]
  for step, (before, after, g) in enumerate(zip(states, states[1:], gradients, strict=False)):
    moved = (before['w'] - after['w']) / g['w']
    np.testing.assert_allclose(moved, rate(step), rtol=0.02, atol=1e-6 / abs(g['w']).min())


def test_unknown_names_and_options_list_the_known():
  with pytest.raises(ValueError, match=r"unknown optimizer 'adamw'; known: adam, lars, sgd"):
    optim.build(name='adamw', learning_rate=0.1)
  for option in ({'betas': (0.5, 0.9)}, {'warmup_epoch': 1}, {'milestones': (1, 2)}):
    (unknown,) = option
    message = f"'sgd' with schedule 'cosine' has no option '{unknown}'; it has epochs, .*momentum"
    with pytest.raises(ValueError, match=message):
      optim.build(name='sgd', learning_rate=0.1, epochs=1, **option)
  with pytest.raises(
    ValueError, match=r"unknown schedule 'cos'; known: constant, cosine, cosine_by_step, step"
  ):
    optim.build(learning_rate=0.1, schedule='cos')
  with pytest.raises(ValueError, match=r'needs epochs > warmup_epochs=0, got None'):
    optim.build(learning_rate=0.1)
  with pytest.raises(ValueError, match=r'steps_per_epoch is 0; is the batch larger'):
    optim.build(learning_rate=0.1, epochs=1, steps_per_epoch=0)


LARS_PARAMS = {
  'backbone': {
    'bn1': {'scale': rng.normal(size=3).astype('f')},
    'layer1_0': {
      'bn1': {'scale': rng.normal(size=3).astype('f')},
      'downsample_bn': {'scale': rng.normal(size=3).astype('f')},
      'conv1': {'kernel': rng.normal(size=(2, 3)).astype('f')},
    },
  },
  'head': {'bias': rng.normal(size=2).astype('f'), 'kernel': np.zeros((2, 2), 'f')},
}
PUBLISHED = r'bias$|layer\d_\d+/bn\d/scale$'


def torch_lars(rates, gradients, *, exclude, decay, double_rate):
  """torchlars 0.1.2 around torch's SGD, by path."""
  flat = {
    '/'.join(k.key for k in path): np.float64(x)
    for path, x in jax.tree_util.tree_leaves_with_path(LARS_PARAMS)
  }
  buffers = {name: np.zeros_like(p) for name, p in flat.items()}
  for rate, gradient in zip(rates, gradients, strict=True):
    for (name, p), g in zip(flat.items(), jax.tree.leaves(gradient), strict=True):
      g = np.float64(g)
      if any(name.endswith(end) for end in exclude):
        d = g * rate if double_rate else g
      else:
        length, steepness = np.linalg.norm(p), np.linalg.norm(g)
        d = g + decay * p
        if length > 0 and steepness > 0:
          d *= 0.001 * length / (steepness + decay * length + 1e-8)
      buffers[name] = 0.9 * buffers[name] + d
      flat[name] = p - rate * buffers[name]
  return flat


@pytest.mark.parametrize('double_rate', [False, True])
@pytest.mark.parametrize(('pattern', 'excluded'), [
  (None, ('bias', 'scale')), (PUBLISHED, ('bias', 'layer1_0/bn1/scale'))
])  # fmt: skip
def test_lars_is_torchlars_with_and_without_the_published_exclusions(
  pattern, excluded, double_rate
):
  r = np.random.default_rng(1)
  gradients = [
    jax.tree.map(lambda p: r.normal(size=p.shape).astype('f') * 3, LARS_PARAMS) for _ in range(4)
  ]
  gradients[2] = jax.tree.map(np.zeros_like, gradients[2])
  schedule = {'schedule': 'cosine', 'learning_rate': 2.0, 'epochs': 5}
  options = {'exclude': pattern} if pattern else {}
  tx, rate = optim.build(
    name='lars', weight_decay=0.01, double_rate=double_rate, **options, **schedule
  )
  p, state = LARS_PARAMS, tx.init(LARS_PARAMS)
  for g in gradients:
    updates, state = jax.jit(tx.update)(g, state, p)
    p = optax.apply_updates(p, updates)
  rates = [float(rate(step)) for step in range(4)]
  expected = torch_lars(rates, gradients, exclude=excluded, decay=0.01, double_rate=double_rate)
  for (name, want), found in zip(expected.items(), jax.tree.leaves(p), strict=True):
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_double_rate_is_the_square_for_what_is_excluded_alone():
  gradient = jax.tree.map(np.ones_like, LARS_PARAMS)
  for rate in (0.5, 14.4):
    one, two = (optim.lars(rate, exclude=PUBLISHED, double_rate=double) for double in (False, True))
    one, two = (tx.update(gradient, tx.init(LARS_PARAMS), LARS_PARAMS)[0] for tx in (one, two))
    np.testing.assert_allclose(two['head']['bias'], rate * one['head']['bias'], rtol=1e-6)
    np.testing.assert_allclose(two['head']['bias'], -(rate**2), rtol=1e-6)
    np.testing.assert_array_equal(two['backbone']['bn1']['scale'], one['backbone']['bn1']['scale'])

"""Training the landmark head on cached features: what it learns, from what, in which order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Batch, Describer
from landmarks_jax.data.source import open_source
from landmarks_jax.evaluation import probing, regression
from landmarks_jax.geometry import coords
from landmarks_jax.methods import probe


def planted(count, *, landmarks=2, seed=0, dtype=jnp.bfloat16):
  """Features whose channels are blurred dots at the landmarks, mixed; nothing else."""
  points = np.random.default_rng(seed).uniform(-0.7, 0.7, (count, landmarks, 2)).astype(np.float32)
  mix = np.random.default_rng(99).normal(size=(landmarks, 6))
  pyramid = []
  for h in (4, 8, 16):
    centres = np.asarray(coords.cell_centres(h, h))
    away = ((centres[None, :, :, None] - points[:, None, None]) ** 2).sum(-1)
    pyramid.append((np.exp(-away / (2 * (2 / h) ** 2)) @ mix).astype(dtype))
  visible = np.ones((count, landmarks), bool)
  return Batch(pyramid=tuple(pyramid), points=points, visible=visible)


def fit(labelled, rows=None, **options):
  rows = np.arange(len(labelled.points)) if rows is None else np.asarray(rows)
  chosen = {'size': 12, 'epochs': 2, 'learning_rate': 1e-3, 'weight_decay': 5e-4} | options
  chosen = {'report': lambda line: None} | chosen
  return probing.fit(labelled, rows, **chosen)


def error(head, batch):
  found = np.asarray(head.predict(head.variables, batch.pyramid))
  return np.linalg.norm(found - batch.points, axis=-1).mean()


def assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True):
    np.testing.assert_array_equal(x, y)


def test_planted_landmarks_are_found_on_new_pictures():
  labelled, held_out = planted(64), planted(32, seed=1)
  head = fit(labelled, epochs=40, learning_rate=0.1)
  mean = np.linalg.norm(labelled.points.mean(0) - held_out.points, axis=-1).mean()
  assert error(head, labelled) < 0.07
  assert error(head, held_out) < 0.12 < 0.5 < mean


def test_fewer_labels_than_a_batch_are_enough():
  labelled = planted(5)
  assert error(fit(labelled, epochs=40, learning_rate=0.1), labelled) < 0.03
  one = jax.tree.map(lambda x: x[3:4], labelled)
  assert error(fit(labelled, [3], epochs=40, learning_rate=0.1), one) < 0.03


@pytest.mark.parametrize(
  ('count', 'size', 'steps'),
  [(5, 0, 1), (32, 0, 1), (70, 0, 3), (50, 1000, 32), (33, 100, 4), (2100, 1000, 32)],
)
def test_an_epoch_holds_every_label_as_often(count, size, steps):
  rows = 100 + np.arange(count)
  drawn, valid = probing.epoch_rows(rows, 4, seed=1, batch_size=32, size=size)
  assert drawn.shape == valid.shape == (steps, 32)
  found, counts = np.unique(drawn[valid], return_counts=True)
  total, fewest = size or count, (size or count) // count
  assert counts.sum() == total
  assert set(counts) <= {fewest, fewest + 1}
  assert len(found) == min(count, total)
  assert set(drawn.flat) <= set(rows)  # also those that fill the last batch
  assert valid[:-1].all()


def test_the_order_follows_from_seed_and_epoch_alone():
  draw = lambda epoch, seed: probing.epoch_rows(  # noqa: E731
    np.arange(64), epoch, seed=seed, batch_size=32, size=0
  )[0]
  np.testing.assert_array_equal(draw(3, 1), draw(3, 1))
  assert (draw(3, 1) != draw(4, 1)).any()
  assert (draw(3, 1) != draw(3, 2)).any()
  np.testing.assert_array_equal(np.sort(draw(3, 1), axis=None), np.arange(64))


def test_labels_beyond_those_that_all_have_are_drawn_anew_in_every_epoch():
  draw = lambda epoch: probing.epoch_rows(  # noqa: E731
    np.arange(2100), epoch, seed=0, batch_size=32, size=1000
  )
  first, second = (set(rows[valid]) for rows, valid in map(draw, (0, 1)))
  assert len(first) == len(second) == 1000
  assert 300 < len(first & second) < 700


def test_the_same_labels_and_seed_give_the_same_head_and_other_seeds_another():
  labelled = planted(40)
  assert_same(fit(labelled), fit(labelled))
  a, b = (fit(labelled, seed=seed, learning_rate=0.0) for seed in (0, 1))
  assert (a.variables['outer'] != b.variables['outer']).all()  # from the start


def test_only_the_chosen_rows_are_learnt_from():
  labelled, rows = planted(40), np.arange(3, 39)
  other = labelled._replace(points=labelled.points.copy())
  other.points[[0, 1, 2, 39]] = np.nan
  assert_same(fit(labelled, rows), fit(other, rows))


def test_a_fit_is_adam_with_the_published_numbers():
  labelled, count, rng = planted(40), 3, jax.random.key(0)
  method = probe.build(landmarks=2, size=12)
  grads_at = jax.jit(jax.grad(lambda p, b: method.loss(p, {}, b, rng, jnp.int32(0))[0]))
  start = fit(labelled, learning_rate=0.0).variables
  params, tree = jax.tree.flatten(start)
  params = [np.asarray(p, np.float64) for p in params]
  first, second = ([np.zeros_like(p) for p in params] for _ in range(2))
  epochs = [
    probing.epoch_rows(np.arange(40), epoch, seed=0, batch_size=32, size=0)
    for epoch in range(count)
  ]
  batches = [rows[valid] for epoch in epochs for rows, valid in zip(*epoch, strict=True)]
  assert [len(rows) for rows in batches] == count * [32, 8]  # the last, partial one counts as well
  for step, rows in enumerate(batches, start=1):
    batch = jax.tree.map(lambda x, rows=rows: x[rows], labelled)
    now = jax.tree.unflatten(tree, [np.asarray(p, np.float32) for p in params])
    rate = 8e-7 + (1e-3 - 8e-7) * (1 + np.cos(np.pi * -(-step // 2) / count)) / 2
    for i, grad in enumerate(jax.tree.leaves(grads_at(now, batch))):
      grad = grad + 5e-4 * params[i]
      first[i] = 0.5 * first[i] + 0.5 * grad
      second[i] = 0.999 * second[i] + 0.001 * grad**2
      mean, power = first[i] / (1 - 0.5**step), second[i] / (1 - 0.999**step)
      params[i] = params[i] - rate * mean / (np.sqrt(power) + 1e-8)
  for found, right in zip(
    jax.tree.leaves(fit(labelled, epochs=count).variables), params, strict=True
  ):
    np.testing.assert_allclose(found, right, atol=2e-5)


def test_a_fit_may_stop_before_its_schedule_ends():
  labelled = planted(32)
  rates = []

  def moved(**options):
    before, after = fit(labelled, **options, stop_epoch=1), fit(labelled, **options, stop_epoch=2)
    return float(jnp.abs(after.variables['outer'] - before.variables['outer']).max())

  rates = [moved(epochs=2), moved(epochs=200)]
  # The second of two epochs has the last rate, the second of 200 nearly the first.
  assert rates[0] < 0.1 * rates[1]
  assert_same(fit(labelled, epochs=3), fit(labelled, epochs=3, stop_epoch=3))


def test_a_long_fit_says_how_far_it_is(monkeypatch):
  monkeypatch.setattr(probing, 'TELL_EVERY', -1)
  lines = []
  fit(planted(32), epochs=3, report=lines.append)
  assert len(lines) == 3
  assert lines[1].startswith('step 2/3  probe loss ')
  assert 'ETA' in lines[1]


schedule = {'epochs': 9, 'learning_rate': 0.1}


def validated(values, **options):
  """A fit whose epochs score `values` in turn; its validation set, what was scored and said."""
  seen, lines, values = [], [], iter(values)

  def score(predictions):
    seen.append(predictions)
    return next(values)

  held_out = planted(37, seed=1)._replace(scale=np.linspace(0.5, 2, 37), index=9 + np.arange(37))
  options = schedule | {'report': lines.append} | options
  head = fit(planted(40), validation=held_out, score=score, **options)
  return head, held_out, seen, lines


def stopped(epoch):
  return fit(planted(40), **schedule, stop_epoch=epoch)


def test_the_epoch_that_is_best_on_validation_decides():
  head, _, seen, lines = validated((3, 1, 2, 1.5), stop_epoch=4)
  assert len(seen) == 4
  assert lines == ['probe: epoch 2 of 4 is the best on validation, 1']
  assert_same(head, stopped(2))
  assert (head.variables['outer'] != stopped(4).variables['outer']).all()


@pytest.mark.parametrize(('values', 'best'), [((2, 1, 1), 2), ((-5, -5, -4), 1), ((3, 2, 1), 3)])
def test_of_equal_epochs_the_first_is_kept(values, best):
  head, *_ = validated(values, stop_epoch=3)
  assert_same(head, stopped(best))


def test_validation_looks_at_the_head_of_its_epoch():
  _, held_out, seen, _ = validated((2, 1), stop_epoch=2)
  for epoch, predictions in enumerate(seen, start=1):
    head = stopped(epoch)
    expected = head.predict(head.variables, held_out.pyramid)
    np.testing.assert_allclose(predictions.points, expected, atol=1e-5)
    for found, given in [('target', 'points'), *((n, n) for n in ('visible', 'scale', 'index'))]:
      np.testing.assert_array_equal(getattr(predictions, found), getattr(held_out, given))
  assert np.abs(seen[0].points - seen[1].points).max() > 0.01


def test_validation_comes_every_so_many_epochs_and_at_the_end():
  head, _, seen, lines = validated((4, 2, 3), stop_epoch=7, validate_every=3)
  assert len(seen) == 3  # after 3, 6 and 7
  assert lines == ['probe: epoch 6 of 7 is the best on validation, 2']
  assert_same(head, stopped(6))
  with pytest.raises(ValueError, match=r'^validate_every=0: expected 1 or more$'):
    validated((), validate_every=0)


def test_unless_told_otherwise_the_least_mean_distance_decides():
  third, held_out = stopped(3), planted(32, seed=1)
  points = np.asarray(third.predict(third.variables, held_out.pyramid))
  held_out = held_out._replace(points=points, scale=np.ones(32), index=np.arange(32))
  assert_same(fit(planted(40), **schedule, stop_epoch=5, validation=held_out), third)


@pytest.mark.parametrize('stop', [0, 3])
def test_an_end_outside_the_schedule_is_an_error(stop):
  with pytest.raises(ValueError, match=f'stop_epoch={stop}: expected 1 to 2, the epochs of the'):
    fit(planted(4), epochs=2, stop_epoch=stop)


def test_no_labels_are_an_error():
  with pytest.raises(ValueError, match='no labelled pictures to learn from'):
    fit(planted(4), np.zeros(0, int))


def test_a_loss_that_is_not_finite_is_an_error():
  labelled = planted(4)
  labelled.points[1] = np.nan
  with pytest.raises(ValueError, match=r"probe's loss is nan.*learning_rate=0.001"):
    fit(labelled)


# As a head of the regression protocol.


def regress(**options):
  def block_means(scale, image, size):
    side, h = image.shape[1], 8
    blocks = jnp.asarray(image, float).reshape(len(image), h, side // h, h, side // h, 3)
    return (scale * blocks.mean((2, 4)) / 255,)

  chosen = {'probe_size': 8, 'probe_epochs': 2, 'labels': 6, 'batch_size': 8} | options
  return regression.run(
    Describer(jnp.float32(0.2), block_means),
    lambda split: open_source('synthetic/faces', count=12, frame=40, split=split),
    random_init={'raw': Describer(jnp.float32(0.1), block_means)},
    margin=4,
    **chosen,
  )


def test_every_row_of_the_protocol_is_fitted_by_the_chosen_head():
  closed, trained = regress(), regress(head='probe')
  other = regress(head='probe', probe_learning_rate=0.1)
  assert closed.keys() == trained.keys() == {'trained/0', 'random_init/0', 'mean_shape/0'}
  for row in ('trained/0', 'random_init/0'):
    for changed in (closed, other):
      assert np.abs(trained[row].points - changed[row].points).max() > 1e-3
  np.testing.assert_array_equal(trained['mean_shape/0'].points, closed['mean_shape/0'].points)
  assert np.isfinite(list(regression.score(trained).values())).all()


def test_an_unknown_head_is_an_error():
  with pytest.raises(ValueError, match="head='prob': choose from ridge, probe"):
    regress(head='prob')

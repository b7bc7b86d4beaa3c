"""PCK against describers whose score is known, on pictures that do not show every part."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data.source import Info
from landmarks_jax.evaluation import pck
from landmarks_jax.geometry import coords

side, margin, spread = 36, 2, 4.0
info = Info(('left', 'right', 'beak'), ((0, 1),), 'frame', (0.5,) * 3, (0.2,) * 3)
counts = {'train': 24, 'validation': 9, 'test': 31}


class Birds:
  """A soft dot, each in its colour, at each of three parts that are visible; two of three are."""

  def __init__(self, split, *, hidden=0.0, names=info.names):
    self.split, self.hidden, self.info = split, hidden, info._replace(names=names)

  def __len__(self):
    return counts[self.split]

  def __getitem__(self, index):
    rng = np.random.default_rng((len(self.split), int(index)))
    centres = np.array([(-0.4, -0.2), (0.4, -0.3), (0.1, 0.4)])
    points = centres + rng.uniform(-0.2, 0.2, (3, 2))
    visible = rng.uniform(size=3) < 0.67
    pixels = coords.to_pixels(points.astype(np.float32), width=side, height=side)
    away = np.arange(side) - np.asarray(pixels)[..., None]
    dots = np.exp(-(away[:, 1, :, None] ** 2 + away[:, 0, None] ** 2) / (2 * spread**2))
    dots = np.where(visible[:, None, None], dots, 0)
    return {
      'image': np.rint(255 * dots).astype(np.uint8).transpose(1, 2, 0),
      'index': np.int32(index),
      'points': np.where(visible[:, None], points, self.hidden).astype(np.float32),
      'visible': visible,
      'scale': np.float32(2),
    }


def planted(variables, image, size):
  """Features that are the parts' own maps."""
  return (jnp.asarray(image, jnp.float32) * variables,)


seeing = Describer(np.float32(1), planted)
blind = Describer(np.float32(0), planted)


def run(describer=seeing, *, open_split=Birds, **options):
  options = {'margin': margin, 'size': 12, 'head': 'ridge', 'batch_size': 8} | options
  return pck.run(describer, open_split, **{'random_init': {'raw': blind}} | options)


def test_features_that_mark_the_parts_score_nearly_all():
  scores = pck.score(run(), flip_pairs=info.flip_pairs)
  assert scores['pck'] > 98
  assert scores['pck_paper'] > 98
  assert scores['left_right_confusion'] == 0
  for chance in ('mean_shape', 'random_init'):
    assert 5 < scores[f'pck_{chance}'] < 40


def test_features_that_see_nothing_score_the_mean_shape():
  scores = pck.score(run(blind))
  assert scores['pck'] == pytest.approx(scores['pck_mean_shape'], abs=5)
  assert scores['pck'] == scores['pck_random_init'] > 5


def test_parts_that_are_not_visible_do_not_count():
  shown = np.stack([Birds('test')[i]['visible'] for i in range(counts['test'])])
  assert 0.5 < shown.mean() < 0.8
  plain, strange = (
    run(open_split=lambda split, hidden=hidden: Birds(split, hidden=hidden)) for hidden in (0, 50)
  )
  assert (plain['trained/0'].target != strange['trained/0'].target).any()
  np.testing.assert_array_equal(plain['trained/0'].visible, shown)
  assert pck.score(plain, flip_pairs=info.flip_pairs) == pytest.approx(
    pck.score(strange, flip_pairs=info.flip_pairs), rel=1e-9
  )


def test_the_epoch_with_the_best_pck_on_validation_decides(capsys):
  options = {'head': 'probe', 'probe_size': 12, 'probe_epochs': 6, 'probe_learning_rate': 0.03}
  options |= {'random_init': {}, 'batch_size': 16, 'seed': 1}
  found = run(**options, probe_validate_every=1)['trained/0']
  said = re.search(r'epoch (\d+) of 6 is the best on validation, ([\d.]+)', capsys.readouterr().out)

  def stopped(epoch, test):
    given = options | {'probe_stop_epoch': epoch, 'test': test, 'validation': None}
    return run(**given)['trained/0']

  shares = [metrics.pck(stopped(epoch, 'validation')) for epoch in range(1, 7)]
  best = 1 + int(np.argmax(shares))
  assert best < 6
  assert (int(said[1]), float(said[2])) == (best, pytest.approx(100 - shares[best - 1], rel=1e-3))
  np.testing.assert_array_equal(found.index, np.arange(counts['test']))
  np.testing.assert_allclose(found.points, stopped(best, 'test').points, atol=1e-4)
  assert np.abs(found.points - stopped(6, 'test').points).max() > 1e-2


def drawn(seed, *, hit=0.5):
  """Predictions of which about `hit` are right, the rest far off; the pair is never seen."""
  r = np.random.default_rng(seed)
  target = r.uniform(-0.5, 0.5, (40, 3, 2)).astype(np.float32)
  far = np.where(r.uniform(size=(40, 3, 1)) < hit, 0, 0.3).astype(np.float32)
  visible = r.uniform(size=(40, 3)) < 0.8
  visible[:, 1] &= ~visible[:, 0]
  return Predictions(target + far, target, visible, np.full(40, 2.0), np.arange(40))


def test_one_draw_has_its_interval_and_several_their_spread():
  one, base, other = drawn(0), drawn(1, hit=0.2), drawn(2, hit=0.7)
  scores = pck.score({'trained/0': one, 'base/0': base}, flip_pairs=info.flip_pairs)
  assert scores['pck'] == metrics.pck(one)
  assert scores['pck_paper_base'] == metrics.pck_paper(base)
  low, high = metrics.bootstrap_interval(metrics.pck_hits(one), by_landmark=True)
  assert (scores['pck_low'], scores['pck_high']) == (100 * low, 100 * high)
  assert scores['pck_low'] < scores['pck'] < scores['pck_high'] < scores['pck_low'] + 35
  assert not any('confusion' in name for name in scores)  # a pair that no picture shows
  several = pck.score({'trained/n10/0': one, 'trained/n10/1': other})
  both = [metrics.pck(one), metrics.pck(other)]
  assert several['pck_n10'] == pytest.approx(np.mean(both))
  assert several['pck_n10_std'] == pytest.approx(np.std(both, ddof=1))
  assert 'pck_n10_low' not in several


def test_more_is_better_and_every_metric_is_scored():
  scores = pck.score({'trained/0': drawn(0)})
  assert all(metric.name in scores and metric.higher_is_better for metric in pck.METRICS)


def test_only_the_probe_needs_a_validation_split():
  def open_split(split):
    assert split != 'validation'
    return Birds(split)

  pck.check(open_split, head='ridge')
  assert run(open_split=open_split).keys() == {'trained/0', 'mean_shape/0', 'random_init/0'}


def test_what_cannot_be_run_is_said():
  def bare(split):
    return Birds(split, names=() if split == 'validation' else info.names)

  for validation in (None, 'test'):
    pck.check(bare, validation=validation)
  for function in (run, pck.check):
    given = {'open_split': bare, 'head': 'probe', 'probe_epochs': 1}
    with pytest.raises(ValueError, match=r"^regression needs landmarks; the split 'validation'"):
      function(**given)
    with pytest.raises(ValueError, match=r"^head='prob': choose from ridge, probe$"):
      function(**given | {'head': 'prob'})

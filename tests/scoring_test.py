"""The names of scores: what a protocol writes, tables read, and nothing is read twice."""

import functools

import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Describer, Predictions
from landmarks_jax.data import face_landmarks
from landmarks_jax.data.source import Info
from landmarks_jax.evaluation import layers, matching, pck, regression, scoring


def predictions(seed):
  rng = np.random.default_rng(seed)
  points, target = rng.uniform(-1, 1, (2, 6, 3, 2)).astype(np.float32)
  visible, scale = np.ones((6, 3), bool), rng.uniform(0.5, 1, 6).astype(np.float32)
  return Predictions(points, target, visible, scale, np.arange(6))


PARTS = {
  'regression': ['mean_shape/0', 'random_init/0', 'base/0', 'trained/0'],
  'few': [
    f'{row}/n{n}/{d}' for row in ('mean_shape', 'base', 'trained') for n in (1, 10) for d in (0, 1)
  ],
  'pck': ['random_init/0', 'trained/0'],
  'matching': [
    f'{row}/{task}'
    for row in ('same_position', 'random_init', 'base', 'trained')
    for task in ('same', 'different', 'same_paper', 'different_paper')
  ],
  'layers': [
    f'{row}/n5/{d}'
    for row in ('trained', 'random_init', 'level_1', 'column_2', 'random_level_1')
    for d in (0, 1)
  ],
}
PROTOCOLS = {'regression': regression, 'few': regression, 'pck': pck, 'matching': matching}
PROTOCOLS |= {'layers': layers}
# Of each: how many lines, and how many cells they have in all.
COUNTS = {
  'regression': (2, 8),
  'few': (4, 12),
  'pck': (3, 6),
  'matching': (6, 22),
  'layers': (6, 10),
}


@pytest.mark.parametrize('name', PARTS)
def test_every_score_of_a_protocol_is_in_a_line(name):
  protocol = PROTOCOLS[name].__name__.split('.')[-1]
  given = {key: predictions(seed) for seed, key in enumerate(PARTS[name])}
  options = {'of': 'regression'} if name == 'layers' else {}
  scores = PROTOCOLS[name].score(given, flip_pairs=[(0, 2)], **options)
  full = {f'{name}/{protocol}/{metric}': value for metric, value in scores.items()}
  found = scoring.lines({name: {'protocol': protocol} | options}, full)
  assert frozenset.union(*(line.names for line in found)) == frozenset(full)
  assert sum(len(line.names) for line in found) == len(full)
  assert (len(found), sum(len(line.scores) for line in found)) == COUNTS[name]
  values = sorted(score.value for line in found for score in line.scores.values())
  assert values == sorted(v for k, v in scores.items() if not k.endswith(scoring.SPREADS))


@pytest.mark.parametrize('row', scoring.ROWS)
@pytest.mark.parametrize('group', ['', 'n10', 'paper'])
@pytest.mark.parametrize('name', ['different', 'same', 'pck', 'pck_paper', 'left_right_confusion'])
def test_a_name_is_read_as_it_was_written(name, group, row):
  known = (*matching.METRICS, *pck.METRICS, scoring.CONFUSION)
  if (name, group) != ('pck', 'paper'):  # that one is called as another metric
    metric = next(metric for metric in known if metric.name == name)
    assert scoring.parse(scoring.score_name(name, row, group), known) == (metric, row, group)


def test_a_layer_is_a_group_of_the_trained_or_the_random_row():
  known = (*regression.METRICS, *matching.METRICS, *layers.METRICS)
  for name, expected in {
    'different_level_3': ('different', 'trained', 'level_3'),
    'different_paper_random_column_2': ('different', 'random_init', 'paper/column_2'),
    'inter_ocular_n10_level_12': ('inter_ocular', 'trained', 'n10/level_12'),
    'equivariance_random_level_1': ('equivariance', 'random_init', 'level_1'),
  }.items():
    metric, row, group = scoring.parse(name, known)
    assert (metric.name, row, group) == expected


def test_a_row_that_would_be_read_as_another_is_refused():
  expected = "^row 'imagenet' of a protocol: expected one of mean_shape, .*, trained$"
  for given in ('imagenet/0', 'imagenet/n10/0'):
    with pytest.raises(ValueError, match=expected):
      pck.score({'trained/0': predictions(0), given: predictions(1)})


RESERVED = *scoring.ROWS, 'std', 'low', 'high', 'level_2', 'random_column_12'


@pytest.mark.parametrize('group', [*RESERVED, *(f'n10_{end}' for end in RESERVED)])
def test_a_group_that_would_be_read_as_a_row_or_a_spread_is_refused(group):
  with pytest.raises(ValueError, match=f"^group '{group}': the name of its score would end in '_"):
    scoring.score_name('pck', 'trained', group)
  with pytest.raises(ValueError, match=f"^group '{group}': "):
    pck.score({f'trained/{group}/0': predictions(0)})


@pytest.mark.parametrize(
  'group', ['Low', 'yellow', 'untrained', 'high_cheekbones', 'level', 'bases']
)
def test_a_group_that_only_resembles_a_row_or_a_spread_is_read_as_it_was_written(group):
  for row in scoring.ROWS:
    name = f'a/pck/{scoring.score_name("pck", row, group)}'
    (line,) = scoring.lines({'a': {'protocol': 'pck'}}, {name: 50.0})
    assert (line.group, list(line.scores)) == (group, [row])


def test_scores_of_nobody_are_in_no_line():
  evals = {'a': {'protocol': 'regression'}, 'b': {'protocol': 'no_such'}, 'c': {}}
  scores = ['a/regression/inter_ocularity', 'a/pck/pck', 'b/no_such/inter_ocular', 'c/None/same']
  scores += ['d/regression/inter_ocular', 'a/regression/inter_ocular_std', 'inter_ocular']
  assert scoring.lines(evals, dict.fromkeys(scores, 1.0)) == []


@pytest.mark.parametrize(
  'protocol', ['<b>', '../cli/train', 'os.path', '', None, 'probing', 'scoring']
)
def test_what_is_no_protocol_has_no_metrics(protocol):
  assert scoring.metrics_of({'protocol': protocol}) == ()
  assert scoring.unit({'protocol': protocol}) == scoring.PERCENT


def test_a_score_keeps_its_spread():
  scores = {'a/pck/pck': 70, 'a/pck/pck_low': 60.5, 'a/pck/pck_high': 80.25, 'a/pck/pck_base': 50}
  scores['a/pck/pck_base_std'] = 1.5
  (line,) = scoring.lines({'a': {'protocol': 'pck'}}, scores)
  assert line.scores == {
    'base': scoring.Score(50, std=1.5),
    'trained': scoring.Score(70, low=60.5, high=80.25),
  }
  assert list(line.scores) == ['base', 'trained']


def test_one_draw_has_an_interval_and_several_have_a_deviation():
  one = {'trained/0': predictions(0)}
  several = {f'base/n5/{draw}': predictions(draw) for draw in (1, 2, 3)}
  options = {'metric': 'error', 'measure': metrics.inter_ocular_error}
  found = scoring.summarise(one | several, interval=scoring.error_interval, **options)
  low, high = metrics.bootstrap_interval(metrics.normalised_distances(one['trained/0']))
  values = [metrics.inter_ocular_error(draw) for draw in several.values()]
  middle = sum(values) / 3
  expected = {
    'error': metrics.inter_ocular_error(one['trained/0']),
    'error_low': 100 * low,
    'error_high': 100 * high,
    'error_n5_base': middle,
    'error_n5_base_std': (sum((value - middle) ** 2 for value in values) / 2) ** 0.5,
  }
  assert found == pytest.approx(expected)
  del expected['error_low'], expected['error_high']
  assert scoring.summarise(one | several, **options) == pytest.approx(expected)


def test_confusion_is_over_the_pairs_that_some_picture_shows():
  given = predictions(0)
  given.visible[:, 1] = False
  given.visible[1:, 2] = False
  hidden = given._replace(visible=given.visible & [True, False, False])
  found = scoring.confusion({'trained/0': given, 'base/0': hidden}, [(0, 1), (0, 2)])
  expected = metrics.left_right_confusion(given, [(0, 2)])
  assert found == {'left_right_confusion': expected}


def test_the_better_untrained_network_is_the_row_and_baselines_are_kept():
  names = 'trained', 'base', 'mean', 'calibrated', 'raw'
  draws = {name: {'0': predictions(i), '1': predictions(9 + i)} for i, name in enumerate(names)}
  errors = {
    name: sum(map(metrics.inter_ocular_error, draws[name].values()))
    for name in ('raw', 'calibrated')
  }
  better = min(errors, key=errors.get)
  assert better == 'calibrated'  # not the first one
  networks = {name: Describer(name, None) for name in ('raw', 'calibrated', 'trained', 'base')}
  compare = functools.partial(
    scoring.compare,
    lambda describer: {'described': describer.variables},
    random_init={name: networks[name] for name in ('raw', 'calibrated')},
    base=networks['base'],
    measure=metrics.inter_ocular_error,
    mean_shape=lambda given: {'trained': draws['mean']}[given['described']],
  )
  found = compare(lambda given: draws[given['described']], networks['trained'], baselines=None)
  rows = {'trained': 'trained', 'mean_shape': 'mean', 'random_init': better, 'base': 'base'}
  expected = {f'{row}/{part}': draws[name][part] for row, name in rows.items() for part in '01'}
  assert found.keys() == expected.keys()
  assert all(found[name] is expected[name] for name in expected)
  again = compare(lambda given: {'0': draws['raw']['1']}, networks['trained'], baselines=found)
  assert again.pop('trained/0') is draws['raw']['1']
  kept = {name: given for name, given in found.items() if not name.startswith('trained')}
  assert again.keys() == kept.keys()
  assert all(again[name] is kept[name] for name in kept)


def test_the_untrained_network_of_best_quality_is_measured():
  measured = functools.partial(
    scoring.measured.__wrapped__, str.upper, '{}!'.format, 'net', quality=len
  )
  variants = {'a': 'raw', 'b': 'calibrated', 'c': 'other'}
  found = measured(random_init=variants, base='below')
  assert found == {'trained': 'NET!', 'random_init': 'CALIBRATED!', 'base': 'BELOW!'}
  assert measured(random_init={}) == {'trained': 'NET!'}
  both = measured(random_init={}, blind={'majority': 'labels of {}'.format})
  assert both == {'trained': 'NET!', 'majority': 'labels of NET'}


def test_settings_are_told_in_words():
  few = {'labels': [1, 10], 'draws': 3}
  assert scoring.setting(few) == '1, 10 labels x 3'
  assert scoring.setting(few, 'n1') == '1 label x 3'
  assert scoring.setting({'labels': 10, 'draws': 1}) == '10 labels'
  assert scoring.setting(few, 'n10/level_2') == 'level 2, 10 labels x 3'
  assert scoring.setting({}) == ''


@pytest.mark.parametrize(
  ('names', 'flip_pairs', 'scale', 'title'),
  [
    ('ab', (), 'frame', 'error / frame'),
    (*face_landmarks.FIVE, 'inter-ocular error'),
    (*face_landmarks.SIXTY_EIGHT, 'inter-ocular error'),
    (['Left eye', 'Right eye', 'tail'], ((1, 0),), (0, 1), 'inter-ocular error'),
    (['Left eye', 'tail'], (), (0, 1), 'error / distance of Left eye and tail'),
    (['eye_1', 'eye_2'], (), (0, 1), 'error / distance of eye_1 and eye_2'),  # perhaps of one eye
    (['eyebrow_l', 'eyebrow_r'], ((0, 1),), (1, 0), 'error / distance of eyebrow_r and eyebrow_l'),
  ],
)
def test_an_error_is_called_by_what_it_is_divided_by(names, flip_pairs, scale, title):
  info = Info(tuple(names), flip_pairs, scale, (0.0,) * 3, (1.0,) * 3)
  assert scoring.error_title(info) == title


def test_evaluations_that_divide_errors_differently_are_in_different_tables():
  evals = {name: {'protocol': 'regression'} for name in ('eyes', 'frame', 'unknown')}
  scores = {f'{name}/regression/inter_ocular': 1.0 for name in evals}
  errors = {'eyes': 'inter-ocular error', 'frame': 'error / frame'}
  found = scoring.tables(evals, scores, errors)
  shown = [(table.metric, [line.evaluation for line in table.lines]) for table in found]
  assert shown == [
    (scoring.Metric('inter_ocular', 'inter-ocular error, %'), ['eyes', 'unknown']),
    (scoring.Metric('inter_ocular', 'error / frame, %'), ['frame']),
  ]

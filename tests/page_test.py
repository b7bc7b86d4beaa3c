"""The report: what was given is on the page, once escaped, and nothing is loaded or run."""

import base64
import json
import re
import xml.etree.ElementTree as xml
from html.parser import HTMLParser

import numpy as np
import pytest

from landmarks_jax import metrics
from landmarks_jax.contracts import Predictions
from landmarks_jax.evaluation import scoring
from landmarks_jax.report import gallery, page, plot, results, trends
from landmarks_jax.report.markup import breakable, element

HOSTILE = '</title></style>"\'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'
CONFIG = {
  'steps': 30,
  'batch_size': 8,
  'method': {'name': 'moco', 'area': [0.4, 1.0], 'queue': 0},
  'data': {'name': 'birds', 'path': None},
  'evals': {
    'few': {'protocol': 'regression', 'labels': 5, 'draws': 2, 'data': {'name': 'birds'}},
    'all': {'protocol': 'regression', 'labels': None, 'draws': 1, 'data': {'name': 'gulls'}},
  },
}


class Tree(HTMLParser):
  """Elements as (name, attributes, text of their own and of those inside), all tags closed."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.open = [], []
    self.feed(text)
    self.close()
    assert not self.open, f'not closed: {self.open}'

  def handle_starttag(self, name, attributes):
    self.elements.append([name, dict(attributes), ''])
    if name not in ('img', 'meta', 'wbr'):
      self.open.append(self.elements[-1])

  def handle_endtag(self, name):
    assert self.open.pop()[0] == name

  def handle_data(self, data):
    for opened in self.open:
      opened[2] += data

  def all(self, name, **attributes):
    wanted = {key.rstrip('_'): value for key, value in attributes.items()}
    return [e for e in self.elements if e[0] == name and wanted.items() <= e[1].items()]

  def texts(self, name, **attributes):
    return [text for _, _, text in self.all(name, **attributes)]


def predictions(seed, count=7, landmarks=3, spread=0.1):
  """Some are invisible, one landmark and one picture wholly."""
  rng = np.random.default_rng(seed)
  target = np.random.default_rng(99).uniform(-1, 1, (count, landmarks, 2)).astype(np.float32)
  visible = np.random.default_rng(98).random((count, landmarks)) < 0.7
  visible[:, 1], visible[2], visible[3] = False, False, [True, False, True]
  points = target + spread * rng.normal(size=target.shape).astype(np.float32)
  scale = np.random.default_rng(97).uniform(0.3, 1.2, count).astype(np.float32)
  return Predictions(points, target, visible, scale, np.arange(count))


def two_draws():
  return {
    'trained/0': predictions(0, spread=0.1),
    'trained/1': predictions(1, spread=0.13),
    'mean_shape/0': predictions(2, spread=0.4),
    'mean_shape/1': predictions(3, spread=0.45),
    'random_init/0': predictions(4, spread=0.3),
    'random_init/1': predictions(5, spread=0.2),
  }


def examples(given):
  images = [np.full((16, 16, 3), 20 * i, np.uint8) for i in range(len(given.points))]
  return {'images': images, **{k: getattr(given, k) for k in ('points', 'target', 'visible')}}


def matches(given):
  """Of pictures as floats, as a warp makes them."""
  images = np.random.default_rng(3).uniform(0, 255, (2, 7, 12, 12, 3)).astype(np.float32)
  points = {'query': -given.points, 'matched': given.points, 'target': given.target}
  return {'sources': images[0], 'targets': images[1], **points, 'visible': given.visible}


SCORES = {
  'few/regression/inter_ocular': 11.234,
  'few/regression/inter_ocular_std': 0.456,
  'few/regression/inter_ocular_mean_shape': 31.5,
  'few/regression/inter_ocular_mean_shape_std': 0.125,
  'few/regression/inter_ocular_random_init': 21.75,
  'few/regression/inter_ocular_random_init_std': 0.875,
  'all/regression/inter_ocular': 9.5,
  'all/regression/inter_ocular_mean_shape': 7.25,
}
LOG = [
  {'step': 10, 'train/rate': 0.25, 'train/loss': 4.5},
  {'step': 20, 'train/rate': 0.125, 'train/loss': 3.5},
  {'step': 30, 'train/rate': 0.0625, 'train/loss': 3.25},
  {'step': 30} | SCORES,
]


def everything():
  given = two_draws()
  return {
    'title': 'run 7',
    'config': CONFIG,
    'step': 30,
    'scores': SCORES,
    'log': LOG,
    'predictions': {'few': given},
    'names': {'few': ['beak', 'left_wing', 'tail']},
    'examples': {'few': examples(given['trained/0'])},
    'pictures': {'views_00000000': b'\x89PNG one', 'landmarks/all_00000030': b'\x89PNG two'},
    'matches': {'few': matches(given['trained/0'])},
    'command': 'python -m landmarks_jax train --config configs/x.py',
    'cost': {'Time': '3 min 7 s'},
    'versions': {'jax': '0.10.2'},
    'files': {'metrics': '../metrics.jsonl'},
  }


def without(*names):
  return {k: v for k, v in everything().items() if k not in names}


def rows(tree, class_):
  """The cells of a table's body, by line."""
  text = ''.join(tree.texts('table', class_=class_))
  assert text, f'no table {class_}'
  cells, inside = [], False
  for name, attributes, text in tree.elements:
    if name == 'table':
      inside = attributes.get('class') == class_
    elif inside and name == 'tr':
      cells.append([])
    elif inside and name in ('td', 'th'):
      cells[-1].append(text)
  return cells


def test_every_score_is_in_its_row_and_column():
  lines = rows(Tree(page.render(**everything())), 'scores')
  assert lines == [
    ['', 'Mean shape', 'Random init', 'Trained', 'Ratio'],
    ['few5 labels x 2', '31.50± 0.12', '21.75± 0.88', '11.23± 0.46', '0.52'],
    ['allall labels', '7.25', '–', '9.50', '1.31'],
  ]


def test_a_ratio_below_one_is_better_whichever_way_a_score_counts():
  evals = {'a': {'protocol': 'pck'}, 'b': {'protocol': 'matching'}}
  scores = {'a/pck/pck': 80.0, 'a/pck/pck_random_init': 40.0, 'a/pck/pck_base': 60.0}
  scores |= {'b/matching/same': 2.0, 'b/matching/same_same_position': 8.0}
  lines = rows(Tree(page.render(title='x', config={'evals': evals}, scores=scores)), 'scores')
  assert lines == [
    ['', 'Random init', 'Base', 'Trained', 'Ratio'],
    ['a', '40.00', '60.00', '80.00', '0.75'],
    ['', 'Same position', 'Trained', 'Ratio'],
    ['b', '8.00', '2.00', '0.25'],
  ]


def test_every_number_of_labels_and_interval_is_shown_under_its_metric():
  evals = {'few': {'protocol': 'regression', 'labels': [1, 10], 'draws': 3}}
  scores = {'few/regression/inter_ocular_n1': 20.0, 'few/regression/inter_ocular_n1_std': 1.5}
  scores |= {'few/regression/inter_ocular_n10': 9.0, 'few/regression/inter_ocular_n10_low': 8.5}
  scores |= {'few/regression/inter_ocular_n10_high': 9.75}
  scores |= {'few/regression/left_right_confusion_n10': 0.125}
  tree = Tree(page.render(title='x', config={'evals': evals}, scores=scores))
  assert rows(tree, 'scores') == [
    ['', 'Trained', 'Ratio'],
    ['few1 label x 3', '20.00± 1.50', '–'],
    ['few10 labels x 3', '9.008.50–9.75', '–'],
    ['', 'Trained', 'Ratio'],
    ['few10 labels x 3', '0.12', '–'],
  ]
  assert tree.texts('h3')[:2] == [
    'Inter-ocular error, %',
    'Landmarks nearer to their mirrored partner, %',
  ]


def test_no_number_is_lost():
  more = {'pairs/matching/same': 1.5, 'few/regression/failures': 12, 'few/regression/x_std': 3}
  more |= {'all/other/inter_ocular': 4}
  tree = Tree(page.render(**without('scores'), scores=SCORES | more))
  listed = [line for line in rows(tree, 'options') if line[0] in {**SCORES, **more}]
  assert listed == [[key, str(value)] for key, value in more.items()]


def test_hostile_names_are_text_wherever_they_appear():
  bad, given = HOSTILE, two_draws()
  text = page.render(
    title=bad,
    config={bad: bad, 'method': {'name': bad}, 'evals': {bad: {'protocol': bad, bad: {bad: 1}}}},
    scores={f'{bad}/{bad}/inter_ocular': 1.0, bad: 2.0},
    log=[{'step': s, bad: s, f'{bad}/{bad}/inter_ocular': s, f'{bad}/{bad}/x': s} for s in (1, 2)],
    predictions={bad: {bad: given['trained/0'], f'{bad}/0': given['trained/1']}},
    names={bad: [bad] * 3},
    examples={bad: examples(given['trained/0'])},
    matches={bad: matches(given['trained/0'])},
    pictures={bad: b'1', f'landmarks/{bad}_00000001': b'2'},
    command=bad,
    cost={bad: bad},
    versions={bad: bad},
    files={bad: f'javascript:alert(1)//{bad}'},
  )
  tree = Tree(text)
  assert (
    len(
      tree.texts(
        'title',
      )
      + tree.texts(
        'h1',
      )
    )
    > 1
  )
  assert tree.texts('h1') == [bad]
  assert text.count('alert(2)') > 30
  assert not tree.all('script')
  for name, attributes, _ in tree.elements:
    assert not [key for key in attributes if key.startswith('on')], name
    for key in ('src', 'href'):
      assert re.match(r'#|data:image/(png|jpeg);base64,|javascript%3A', attributes.get(key, '#'))
  assert len(tree.all('img')) == 2


def test_nothing_is_loaded_from_elsewhere():
  tree = Tree(page.render(**everything()))
  policy = [
    a['content'] for _, a, _ in tree.all('meta') if a.get('http-equiv') == 'Content-Security-Policy'
  ]
  assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
  addresses = [a[k] for _, a, _ in tree.elements for k in ('src', 'href') if k in a]
  assert {a.split(',')[0] for a in addresses if not a.startswith('#')} == {
    'data:image/png;base64',
    'data:image/jpeg;base64',
    '../metrics.jsonl',
  }
  assert not tree.all('link') + tree.all('script') + tree.all('iframe')
  assert not re.search(r'url\(|@import', page.CSS)


def test_links_lead_somewhere_and_anchors_are_unique():
  tree = Tree(page.render(**everything()))
  anchors = [a['id'] for _, a, _ in tree.elements if 'id' in a]
  links = [a['href'][1:] for _, a, _ in tree.all('a') if a['href'].startswith('#')]
  assert len(set(anchors)) == len(anchors) == 6
  assert set(links) == set(anchors)


@pytest.mark.parametrize('missing', [*list(everything())[2:], 'all'])
def test_a_page_is_made_of_what_there_is(missing):
  optional = list(everything())[2:]
  tree = Tree(page.render(**without(*(optional if missing == 'all' else [missing]))))
  assert tree.texts('h1') == ['run 7']
  assert tree.texts('dd')[:2] == ['moco', 'birds']


def test_a_page_of_an_empty_config_is_a_page():
  assert Tree(page.render(title='x', config={})).texts('h1') == ['x']


def test_an_evaluation_whose_predictions_were_not_kept_says_so():
  note = results.WITHOUT_PREDICTIONS
  assert Tree(page.render(**everything())).texts('p').count(note) == 1  # of 'all'
  assert Tree(page.render(**without('predictions'))).texts('p').count(note) == 2
  unscored = Tree(page.render(**without('predictions', 'scores'))).texts('p')
  assert note not in unscored
  assert unscored.count('No scores yet.') == 2


def test_rows_pool_their_draws_as_a_slow_count_does():
  given = two_draws()
  draws = {row: given for (row, _), given in scoring.draws_by_row(given).items()}
  found = results.pooled(draws)
  assert [row.label for row in found] == ['Mean shape', 'Random init', 'Trained']
  for row, name in zip(found, ['mean_shape', 'random_init', 'trained'], strict=True):
    distances, images = [[] for _ in range(3)], []
    for draw in (0, 1):
      p = given[f'{name}/{draw}']
      for i in range(7):
        errors = {
          k: 100 * np.linalg.norm(p.points[i, k] - p.target[i, k]) / p.scale[i]
          for k in range(3)
          if p.visible[i, k]
        }
        for k, error in errors.items():
          distances[k].append(error)
        if errors:
          images.append(np.mean(list(errors.values())))
    np.testing.assert_allclose(row.images, images, rtol=1e-5)
    expected = [np.mean(d) if d else np.nan for d in distances]
    np.testing.assert_allclose(row.landmarks, expected, rtol=1e-5)
    assert np.isnan(row.landmarks[1])


def per_landmark(given):
  """The mean error of each landmark, in percent; nan for one that is never visible."""
  return 100 * metrics.mean_of_known(metrics.normalised_distances(given), axis=0)


def test_landmarks_have_the_error_that_metrics_gives_them():
  given = {'trained': predictions(0), 'same_person': predictions(6, spread=0.3)}
  tree = Tree(page.render(title='x', config={}, predictions={'e': given}, names={'e': 'abc'}))
  errors = [per_landmark(p) for p in given.values()]
  lines = rows(tree, 'landmarks')
  assert lines[0][2:] == ['Trained', 'same_person']
  for name, line, pair in zip('abc', lines[1:], zip(*errors, strict=True), strict=True):
    assert line == [name, '', *('–' if np.isnan(e) else f'{e:.2f}' for e in pair)]


def test_dots_and_circles_of_landmarks_are_to_scale():
  given = {'trained': predictions(0), 'mean_shape': predictions(6, spread=0.3)}
  tree = Tree(page.render(title='x', config={}, predictions={'e': given}, names={'e': 'abc'}))
  p = given['trained']
  errors = {k: per_landmark(given[k]) for k in given}
  most = max(np.nanmax(e) for e in errors.values())
  for row, kind in (('trained', 'trained'), ('mean_shape', 'mean-shape')):
    places = [a['style'] for _, a, _ in tree.all('i', class_=kind)]
    assert places == [f'--at:{100 * errors[row][k] / most:.1f}%' for k in (0, 2)]
    here = tree.elements.index(tree.all('svg', class_=f'map {kind}')[0])
    circles = [a for n, a, _ in tree.elements[here : here + 5] if n == 'circle']
    scale = p.scale[p.visible.any(1)].mean()
    for circle, k in zip(circles, (0, 2), strict=True):
      middle = p.target[p.visible[:, k], k].mean(0)
      expected = [*middle, errors[row][k] / 100 * scale]
      shown = [float(circle[key]) for key in ('cx', 'cy', 'r')]
      np.testing.assert_allclose(shown, expected, atol=6e-4)


def test_landmarks_without_names_are_numbered_and_a_wrong_number_of_names_is_an_error():
  given = {'config': {}, 'title': 'x', 'predictions': {'e': {'trained': predictions(0)}}}
  assert [line[0] for line in rows(Tree(page.render(**given)), 'landmarks')[1:]] == ['0', '1', '2']
  with pytest.raises(ValueError, match='2 names of landmarks, but predictions of 3'):
    page.render(**given, names={'e': ['a', 'b']})


def test_curves_rise_to_the_share_that_the_note_completes():
  draws = {row: given for (row, _), given in scoring.draws_by_row(two_draws()).items()}
  found = results.pooled(draws)
  text = Tree(page.render(**everything())).texts('p', class_='soft')[2]
  limit = float(re.match(r'Beyond the right edge, above ([\d.]+)\xa0%: ', text)[1])
  for what, values in [
    ('landmarks', lambda row: row.distances[~np.isnan(row.distances)]),
    ('images', lambda row: row.images),
  ]:
    said = re.search(rf'of {what} ([^;]+?)[;.]$|of {what} ([^;]+);', text)
    said = dict(re.findall(r'(\w+ ?\w+) ([\d.]+)\xa0%', said[0].removeprefix(f'of {what} ')))
    expected = {row.label: f'{100 * (values(row) > limit).mean():.1f}' for row in found}
    assert said == expected


def test_every_number_of_the_log_has_its_curve_the_loss_first():
  tree = Tree(page.render(**everything()))
  labels = [a['aria-label'] for _, a, _ in tree.all('svg', class_='chart')]
  assert labels[-2:] == ['loss against step: loss', 'rate against step: rate']
  assert len(labels) == 4  # and the two of the evaluation; its score was taken once


def test_scores_taken_more_than_once_are_drawn_over_the_steps():
  earlier = {'step': 15} | {k: v + 5 for k, v in SCORES.items()} | {'few/regression/pck': 0.5}
  later = LOG[3] | {'few/regression/pck': 0.75}
  once = {'step': 30, 'few/regression/once': 1}, {'step': 30, 'few/regression/once': 2}
  tree = Tree(page.render(**without('log'), log=[*LOG[:3], earlier, later, *once]))
  labels = [a['aria-label'] for _, a, _ in tree.all('svg', class_='chart')]
  what = 'inter-ocular error, % against step: '
  assert what + 'Mean shape, Random init, Trained' in labels
  assert what + 'Mean shape, Trained' in labels  # 'all' has no random init
  assert 'pck against step: Trained' in labels
  assert not [label for label in labels if 'once' in label]


def test_errors_are_called_by_what_they_are_divided_by_everywhere():
  earlier = {'step': 15} | {k: v + 5 for k, v in SCORES.items()}
  given = without('log') | {'log': [*LOG[:3], earlier, LOG[3]]}
  tree = Tree(page.render(**given, errors=dict.fromkeys(given['config']['evals'], 'error / frame')))
  assert 'Error / frame, %' in tree.texts('h3')
  said = [*tree.texts('h3'), *(a['aria-label'] for _, a, _ in tree.all('svg', class_='chart'))]
  assert any(one.startswith('error / frame, % against step: ') for one in said)
  assert not [one for one in said if 'inter-ocular' in one.lower()]


def few_shot_scores(counts=(100, 1, 10)):
  """Not in order; of one number of labels the trained row has no spread."""
  scores = {}
  for n in counts:
    for row, factor in (('', 1), ('_mean_shape', 3), ('_base', 2)):
      name = f'few/regression/inter_ocular_n{n}{row}'
      scores |= {name: factor * (5 + 20 / n), f'{name}_std': factor / n}
  del scores['few/regression/inter_ocular_n10_std']
  return scores


def charts_of(text):
  """By label: each chart as XML."""
  found = (xml.fromstring(svg) for svg in re.findall(r'<svg[^>]*class="chart".*?</svg>', text))
  return {svg.get('aria-label'): svg for svg in found}


def test_errors_are_drawn_against_the_number_of_labels():
  evals = {'few': {'protocol': 'regression', 'labels': [1, 10, 100], 'draws': 3}}
  scores = few_shot_scores()
  text = page.render(title='x', config={'evals': evals}, scores=scores)
  label = 'inter-ocular error, % against labels: Mean shape, Base, Trained'
  ((said, svg),) = charts_of(text).items()
  assert said == label
  across, up = {}, []
  for tick in svg.iter('text'):
    if tick.get('text-anchor') == 'middle':
      across[tick.text] = float(tick.get('x'))
    elif tick.get('class') == 'tick':
      up.append((float(tick.text), float(tick.get('y'))))
  assert list(across) == ['1', '10', '100']
  assert across['10'] - across['1'] == pytest.approx(across['100'] - across['10'], abs=2e-3)
  (low, bottom), *_, (high, top) = up

  def value(y):
    return low + (y - bottom) * (high - low) / (top - bottom)

  for row, kind in (('', 'trained'), ('_mean_shape', 'mean-shape'), ('_base', 'base')):
    paths = {
      p.get('class').split()[0]: p.get('d') for p in svg.iter('path') if kind in p.get('class')
    }
    places = [tuple(map(float, pair.split())) for pair in paths['line'][1:].split('L')]
    for (x, y), n in zip(places, (1, 10, 100), strict=True):
      assert x == pytest.approx(across[str(n)], abs=2e-3)
      assert value(y) == pytest.approx(scores[f'few/regression/inter_ocular_n{n}{row}'], abs=1e-2)
    whiskers = re.findall(r'M(\S+) (\S+)V([^M]+)', paths['whisker'])
    expected = [1, 100] if row == '' else [1, 10, 100]
    for (x, first, last), n in zip(whiskers, expected, strict=True):
      name = f'few/regression/inter_ocular_n{n}{row}'
      ends = scores[name] - scores[f'{name}_std'], scores[name] + scores[f'{name}_std']
      assert float(x) == pytest.approx(across[str(n)], abs=2e-3)
      assert sorted((value(float(first)), value(float(last)))) == pytest.approx(ends, abs=1e-2)


def test_one_number_of_labels_is_no_curve():
  evals = {'few': {'protocol': 'regression', 'labels': [10], 'draws': 3}}
  text = page.render(title='x', config={'evals': evals}, scores=few_shot_scores((10,)))
  assert not charts_of(text)


def test_only_the_largest_number_of_labels_has_curves_and_all_have_numbers():
  parts = {
    f'{row}/n{n}/{d}': predictions(n + d)
    for row in ('trained', 'base')
    for n in (2, 10, 9)
    for d in (0, 1)
  }
  evals = {'few': {'protocol': 'regression', 'labels': [2, 10, 9], 'draws': 2}}
  tree = Tree(page.render(title='x', config={'evals': evals}, predictions={'few': parts}))
  assert len(tree.all('svg', class_='map trained')) == len(tree.all('svg', class_='map base')) == 1
  assert tree.texts('h3')[0] == '10 labels x 2'
  found = {line[0]: line[1] for line in rows(tree, 'numbers') if line[0] != 'Error, %'}
  expected = {}
  for row in ('trained', 'base'):
    for n, what in ((10, ''), (2, '2 labels x 2: '), (9, '9 labels x 2: ')):
      errors = np.concatenate([
        100 * metrics.normalised_distances(parts[f'{row}/n{n}/{d}']).ravel() for d in (0, 1)
      ])  # fmt: skip
      expected[what + row.capitalize()] = f'{np.nanmean(errors):.2f}'
  assert found == expected


def matching_parts():
  tasks = ['different', 'same', 'different_paper', 'same_paper']
  return {
    f'{row}/{task}': predictions(10 * i + j)._replace(scale=np.full(7, 2 / 69, np.float32))
    for i, row in enumerate(['same_position', 'trained'])
    for j, task in enumerate(tasks)
  }


def test_matching_counts_in_pixels_and_its_paper_rows_are_numbers_only():
  parts, evals = matching_parts(), {'m': {'protocol': 'matching'}}
  tree = Tree(page.render(title='x', config={'evals': evals}, predictions={'m': parts}))
  assert [text for text in tree.texts('h3') if 'error' in text] == [
    'Matching error on another picture, pixels of a 70-pixel frame',
    'Matching error on the same picture, pixels of a 70-pixel frame',
  ]
  assert len(tree.all('svg', class_='map trained')) == 2
  labels = [a['aria-label'] for _, a, _ in tree.all('svg', class_='chart')]
  assert sum('error at most, pixels of a 70-pixel frame: ' in label for label in labels) == 4
  numbers = [line[:2] for line in rows(tree, 'numbers')]
  for task, what in (('different', ''), ('same_paper', 'same paper: ')):
    value = np.nanmean(metrics.normalised_distances(parts[f'trained/{task}']))
    assert [f'{what}Trained', f'{value:.2f}'] in numbers
  assert numbers.count(['Error, px', 'mean']) == 3
  landmarks = rows(tree, 'landmarks')
  errors = metrics.normalised_distances(parts['trained/different'])
  assert landmarks[1][0] == '0'
  assert landmarks[1][3] == f'{np.nanmean(errors[:, 0]):.2f}'
  heads = [line[1] for line in landmarks if not line[0]]
  assert all(head.endswith('\xa0px') for head in heads)


def layer_scores():
  """Of three levels: alone, in columns, of the trained network and of the random one."""
  scores = {'l/layers/inter_ocular': 5.0, 'l/layers/inter_ocular_mean_shape': 30.0}
  values = {'level_1': 20, 'level_2': 15, 'level_3': 12, 'column_2': 8}
  for name, value in values.items():
    scores[f'l/layers/inter_ocular_{name}'] = value
    scores[f'l/layers/inter_ocular_random_{name}'] = value + 30
  scores['l/layers/inter_ocular_random_init'] = 25
  scores |= {f'l/layers/equivariance_level_{i}': 0.25 * i for i in (1, 2, 3)}
  return scores


def test_layers_are_drawn_alone_and_as_growing_columns():
  evals = {'l': {'protocol': 'layers', 'of': 'regression', 'labels': 50, 'draws': 3}}
  text = page.render(title='x', config={'evals': evals}, scores=layer_scores())
  charts = charts_of(text)
  (columns,) = (svg for label, svg in charts.items() if label.startswith('inter-ocular'))
  (measure,) = (svg for label, svg in charts.items() if label.startswith('equivariance'))
  drawn = {
    p.find('title').text: p.get('d') for p in columns.iter('path') if p.find('title') is not None
  }
  up = [
    (float(t.text), float(t.get('y')))
    for t in columns.iter('text')
    if t.get('text-anchor') == 'end' and t.get('class') == 'tick'
  ]
  (low, bottom), *_, (high, top) = up
  found = {
    label: [
      round(low + (float(pair.split()[1]) - bottom) * (high - low) / (top - bottom))
      for pair in d[1:].split('L')
    ]
    for label, d in drawn.items()
  }
  assert found == {
    'Random init, the level alone': [50, 45, 42],
    'Random init, all levels so far': [50, 38, 25],
    'Trained, the level alone': [20, 15, 12],
    'Trained, all levels so far': [20, 8, 5],
  }
  assert [t.text for t in columns.iter('text') if t.get('text-anchor') == 'middle'] == [
    '1',
    '2',
    '3',
  ]
  assert [p.find('title').text for p in measure.iter('path') if p.find('title') is not None] == [
    'Trained, the level alone'
  ]
  lines = rows(Tree(text), 'scores')
  assert ['llevel 2, 50 labels x 3', '–', '45.00', '15.00', '0.33'] in lines


def test_single_layers_have_numbers_and_the_whole_has_curves():
  parts = {
    f'{row}/0': predictions(i) for i, row in enumerate(['trained', 'level_1', 'random_level_1'])
  }
  evals = {'l': {'protocol': 'layers', 'of': 'matching'}}
  tree = Tree(page.render(title='x', config={'evals': evals}, predictions={'l': parts}))
  assert len(tree.all('svg', class_='map trained')) == 1
  lines = [line[0] for line in rows(tree, 'numbers')]
  assert lines == ['Error, px', 'Trained', 'Error, px', 'level 1: Random init', 'level 1: Trained']


def test_matches_are_drawn_where_they_are():
  given = two_draws()['trained/0']
  text = page.render(title='x', config={}, matches={'m': matches(given)})
  drawn = [xml.fromstring(svg) for svg in re.findall(r'<svg[^>]*class="match".*?</svg>', text)]
  assert len(drawn) == 7
  for i, svg in enumerate(drawn):
    assert len(list(svg.iter('image'))) == 2
    assert len(list(svg.iter('g'))) == given.visible[i].sum()


def test_sheets_of_components_are_explained():
  names = ['hypercolumn_components_00000030', 'hypercolumn_rgb_00000030', 'other']
  tree = Tree(page.render(title='x', config={}, pictures=dict.fromkeys(names, b'1')))
  said = tree.texts('figcaption')
  assert said == [
    f'{gallery.CAPTIONS["hypercolumn_components"]} {names[0]}',
    f'{gallery.CAPTIONS["hypercolumn_rgb"]} {names[1]}',
    ' other',
  ]
  assert tree.texts('h2') == ['Pictures']


def test_numbers_that_are_not_finite_are_said():
  log = [*LOG, {'step': 1040, 'train/loss': 'nan'}, {'step': 1050, 'train/loss': '-inf'}]
  log += [{'step': 1050, 'train/only': 'inf'}]
  notes = Tree(page.render(**without('log'), log=log)).texts('p', class_='soft')
  assert 'loss: 2 of 5 values are not finite, the first at step 1,040. ' in notes
  assert 'only: 1 of 1 values are not finite, the first at step 1,050. ' in notes


def test_every_option_is_listed_under_its_part_of_the_config():
  lines = rows(Tree(page.render(**everything())), 'options')
  found, heading = {}, ''
  for line in lines:
    if len(line) == 1:
      heading = f'{line[0]}.'
    else:
      found[heading + line[0]] = json.loads(line[1])
  assert found == {
    'steps': 30,
    'batch_size': 8,
    'method.name': 'moco',
    'method.area': [0.4, 1.0],
    'method.queue': 0,
    'data.name': 'birds',
    'data.path': None,
    'evals.few.protocol': 'regression',
    'evals.few.labels': 5,
    'evals.few.draws': 2,
    'evals.few.data.name': 'birds',
    'evals.all.protocol': 'regression',
    'evals.all.labels': None,
    'evals.all.draws': 1,
    'evals.all.data.name': 'gulls',
  }
  assert 'The configuration: 15 options' in Tree(page.render(**everything())).texts('summary')


def test_every_picture_is_shown_in_its_section():
  tree = Tree(page.render(**everything()))
  shown = {a['alt']: base64.b64decode(a['src'].partition(',')[2]) for _, a, _ in tree.all('img')}
  assert shown == everything()['pictures']
  assert len(tree.all('svg', class_='photograph')) == 7
  inside, section = {}, None
  for name, attributes, _ in tree.elements:
    section = attributes['id'] if name == 'section' else section
    if name == 'img':
      inside[attributes['alt']] = section
  assert inside == {'landmarks/all_00000030': 'evaluation-2', 'views_00000000': 'pictures'}


def test_pictures_belong_to_the_evaluation_of_exactly_their_name():
  names = ['landmarks/a_00000030', 'landmarks/a', 'landmarks/a_few_00000030', 'landmarks/b', 'a']
  assert list(gallery.pictures_of('a', dict.fromkeys(names, b''))) == names[:2]


def test_the_facts_say_how_far_the_run_came():
  facts = Tree(page.render(**everything())).texts('dd')
  assert facts[:5] == ['moco', 'birds', '30', '8', '3 min 7 s']
  assert '20 of 30' in Tree(page.render(**without('step'), step=20)).texts('dd')


def test_the_command_can_be_copied():
  command = everything()['command']
  assert Tree(page.render(**everything())).texts('pre') == [command]


def test_undecodable_names_can_be_written():
  text = page.render(title='a\udcffb', config={'data': {'path': '\udc80'}})
  assert r'a\udcffb' in text
  text.encode()


def test_breakable_names_keep_their_text():
  for name in ('left_eye', '_a__b.c/d_', '', '<_>'):
    tree = Tree(element('td', breakable(name)))
    assert tree.texts('td') == [name]
  assert len(Tree(element('td', breakable('_a_b.c_'))).all('wbr')) == 3


def test_attributes_and_text_are_escaped():
  made = element('a', HOSTILE, [None, 3, ['x<y']], href=HOSTILE, class_=None, data_x='"')
  (tree,) = [Tree(made)]
  assert tree.elements == [['a', {'href': HOSTILE, 'data-x': '"'}, HOSTILE + '3x<y']]


def test_the_style_sheet_knows_every_row():
  kinds = list(map(trends.kind, trends.ROWS))
  kinds += [f'other-{i}' for i in range(results.OTHER_COLOURS)]
  for kind in kinds:
    for rule in (f'svg .line.{kind} ', f'svg.map.{kind} ', f'.track i.{kind} '):
      assert rule in page.CSS
    assert page.CSS.count(f'--{kind}: #') == 2  # light and dark


def test_the_page_is_small():
  """Curves and points are drawn with few numbers: pictures dominate, not the drawing."""
  rng = np.random.default_rng(0)
  target = rng.uniform(-1, 1, (400, 68, 2)).astype(np.float32)
  points = (target + 0.05 * rng.normal(size=target.shape)).astype(np.float32)
  given = Predictions(
    points, target, np.ones((400, 68), bool), np.ones(400, np.float32), np.arange(400)
  )
  shown = examples(Predictions(*(a[:12] for a in given[:5])))
  text = page.render(
    title='x', config={}, predictions={'e': {'trained': given}}, examples={'e': shown}
  )
  jpegs = sum(len(plot.data_url(plot.jpeg(image), 'image/jpeg')) for image in shown['images'])
  assert len(text) - jpegs < 180_000

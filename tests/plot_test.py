"""Drawings as SVG: lines lie where their axes say, dots where the picture's pixels are."""

import base64
import io
import re
import xml.etree.ElementTree as tree

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.geometry import coords
from landmarks_jax.report import plot
from landmarks_jax.report.stylesheet import CSS


def vertices(path):
  """'M1 2L3 4M5 6h.001' -> [[(1, 2), (3, 4)], [(5, 6)]]."""
  return [
    [tuple(map(float, pair.split())) for pair in part.removesuffix('h.001').split('L')]
    for part in path.split('M')[1:]
  ]


def drawn_lines(svg):
  return [vertices(p.get('d')) for p in svg.iter('path') if p.get('class').startswith('line')]


def read_axes(svg):
  """The (value of x, value of y) at a place of the drawing, found from the labels of its ticks."""
  labels = [
    (float(t.text), float(t.get('x')), float(t.get('y')), t.get('text-anchor'))
    for t in svg.iter('text')
    if t.get('class') == 'tick'
  ]
  across = [(x, value) for value, x, _, anchor in labels if anchor == 'middle']
  up = [(y, value) for value, _, y, anchor in labels if anchor == 'end']
  (x0, a0), *_, (x1, a1) = across
  (y0, b0), *_, (y1, b1) = up
  return lambda x, y: (
    a0 + (x - x0) * (a1 - a0) / (x1 - x0),
    b0 + (y - y0) * (b1 - b0) / (y1 - y0),
  )


def chart(*lines, **options):
  return tree.fromstring(plot.chart(lines, x_label='step', y_label='loss', **options))


@pytest.mark.parametrize('ranges', [{}, {'x_range': (0.0, 40.0), 'y_range': (-4.0, 9.0)}])
def test_a_line_lies_where_its_axes_say(ranges):
  x, y = np.array([3.0, 7.5, 19.0, 31.0]), np.array([8.25, -1.5, 2.0, 6.125])
  svg = chart(plot.Line('a', x, y, 'trained'), plot.Line('b', x[:2], y[:2] / 2, 'x'), **ranges)
  at, (first, second) = read_axes(svg), drawn_lines(svg)
  np.testing.assert_allclose([at(*place) for place in first[0]], np.stack([x, y], 1), atol=2e-3)
  expected = np.stack([x[:2], y[:2] / 2], 1)
  np.testing.assert_allclose([at(*place) for place in second[0]], expected, atol=2e-3)


def test_all_values_are_inside_the_frame():
  y = np.array([0.83, 0.91, 1.42, 1.07])
  svg = chart(plot.Line('a', np.arange(4.0), y, 'trained'))
  for x, y in drawn_lines(svg)[0][0]:
    assert plot.LEFT <= x <= plot.WIDTH - plot.RIGHT
    assert plot.TOP <= y <= plot.HEIGHT - plot.BOTTOM


def test_a_value_that_is_not_finite_is_a_gap_and_one_between_gaps_is_a_dot():
  y = np.array([1.0, 2.0, np.nan, 3.0, np.inf, 4.0, 5.0])
  parts = drawn_lines(chart(plot.Line('a', np.arange(7.0), y, 'trained')))[0]
  assert [len(part) for part in parts] == [2, 1, 2]
  svg = chart(plot.Line('a', np.arange(7.0), y, 'trained'))
  (dots,) = (vertices(p.get('d')) for p in svg.iter('path') if p.get('class')[:5] == 'alone')
  assert dots == [parts[1]]


def ticks(svg):
  """(label, place) of the ticks across, and of those up."""
  found = [t for t in svg.iter('text') if t.get('class') == 'tick']
  across = [(t.text, float(t.get('x'))) for t in found if t.get('text-anchor') == 'middle']
  return across, [(t.text, float(t.get('y'))) for t in found if t.get('text-anchor') == 'end']


@pytest.mark.parametrize('y', [0.0, -3.0, 0.05, 3e-7])
def test_a_single_value_is_a_dot_between_one_tick_each(y):
  other = np.array([np.nan])
  svg = chart(
    plot.Line('a', np.array([455_050.0]), np.array([y]), 'trained'),
    plot.Line('b', np.array([455_050.0]), other, 'base'),
  )
  ((step, x),), ((value, height),) = ticks(svg)
  assert (step, float(value)) == ('455.05k', y)
  (dot,) = (p for p in svg.iter('path') if p.get('class').startswith('alone'))
  assert dot.get('class') == 'alone line trained'
  assert vertices(dot.get('d')) == [[(x, height)]]
  assert plot.LEFT < x < plot.WIDTH - plot.RIGHT
  assert plot.TOP < height < plot.HEIGHT - plot.BOTTOM


def test_equal_values_are_a_line_at_their_tick():
  svg = chart(plot.Line('a', np.array([5.0, 6, 7]), np.full(3, -3.0), 'trained'))
  across, ((value, height),) = ticks(svg)
  assert value == '-3'
  assert [label for label, _ in across] == ['5', '6', '7']
  assert drawn_lines(svg)[0][0] == [(x, height) for _, x in across]
  assert not [p for p in svg.iter('path') if p.get('class').startswith('alone')]


def test_whiskers_reach_from_end_to_end_and_unknown_ones_are_left_out():
  x, y = np.array([1.0, 4.0, 6.0]), np.array([2.0, 3.0, 5.0])
  spread = np.array([[1.5, 2.25], [np.nan, 3.5], [4.0, 9.0]])
  svg = chart(plot.Line('a', x, y, 'trained', spread))
  at = read_axes(svg)
  (whiskers,) = (p.get('d') for p in svg.iter('path') if p.get('class') == 'whisker trained')
  found = [tuple(map(float, w)) for w in re.findall(r'M(\S+) (\S+)V([^M]+)', whiskers)]
  ends = [(*at(place, low), at(place, high)[1]) for place, low, high in found]
  np.testing.assert_allclose(ends, [(1, 1.5, 2.25), (6, 4, 9)], atol=5e-3)
  for _, low, high in found:
    assert plot.TOP <= high <= low <= plot.HEIGHT - plot.BOTTOM


def test_given_ticks_stand_at_their_places():
  line = plot.Line('a', np.array([0.0, 0.5, 2.0]), np.array([3.0, 1.0, 2.0]), 'trained')
  svg = chart(line, x_ticks={0.0: 'one', 0.5: 'three', 2.0: 'many'})
  ticks = [t for t in svg.iter('text') if t.get('text-anchor') == 'middle']
  assert [t.text for t in ticks] == ['one', 'three', 'many']
  places = [float(t.get('x')) for t in ticks]
  np.testing.assert_allclose(places, [x for x, _ in drawn_lines(svg)[0][0]], atol=2e-3)


def test_nothing_finite_is_an_error():
  with pytest.raises(ValueError, match='no value is finite'):
    chart(plot.Line('a', np.arange(3.0), np.full(3, np.nan), 'trained'))


def test_a_long_line_keeps_its_ends_extremes_and_gaps():
  y = np.random.default_rng(0).normal(size=50_001).cumsum()
  y[31_234], y[7_777], y[44_444] = 900, -900, np.nan
  kept = plot.thinned(y)
  assert len(kept) <= 5 * plot.THIN_ABOVE // 4
  assert (np.diff(kept) > 0).all()
  assert {0, 7_777, 31_234, 44_444, 50_000} <= set(kept.tolist())
  np.testing.assert_array_equal(plot.thinned(y[:2000]), np.arange(2000))


def test_ticks_are_few_and_round():
  for low, high in [(0, 1), (0.83, 1.42), (-3e-5, 2e-5), (0, 3000), (17, 212_345), (1e9, 3e9)]:
    step = plot.tick_step(float(low), float(high))
    assert (high - low) / 15 <= step
    assert (high - low) / step <= 6 + 1e-6
    assert f'{step:.0e}'[0] in '125'
    assert float(f'{step:.0e}') == pytest.approx(step)


RANGES = [
  (0.0004015, 0.00040153), (455_000, 455_050), (7600, 11_300), (1, 4), (0, 1e4), (-1, 1), (0, 1),
  (1e6, 1e6 + 7), (-3e-5, 2e-5), (1e9, 3e9), (0.83, 1.42), (9_990, 10_010), (0, 2e-12),
  (17, 212_345)
]  # fmt: skip


@pytest.mark.parametrize(('low', 'high'), RANGES)
@pytest.mark.parametrize('whole', [False, True])
def test_the_ticks_of_an_axis_have_one_unit_and_their_own_values(low, high, whole):
  x = np.linspace(low, high, 5)
  x = np.round(x) if whole and high - low >= 1 else x
  svg = chart(plot.Line('a', x, x, 'trained'))
  for labels in ([label for label, _ in axis] for axis in ticks(svg)):
    assert len(set(labels)) == len(labels) > 1
    units = {re.sub(r'^-?[\d.]+', '', label) for label in labels if label != '0'}
    assert len(units) == 1
    size = {'': 1, 'k': 1e3, 'M': 1e6}
    (unit,) = units
    size = size[unit] if unit in size else float(f'1{unit}')
    values = [float(label.removesuffix(unit)) * size for label in labels]
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(np.diff(values), values[1] - values[0], rtol=1e-3)
  across, up = ticks(svg)
  places = [x for _, x in across]
  wide = max(len(label) for label, _ in across)
  assert min(np.diff(places)) >= 6.6 * wide
  ends = [float(t.get('x')) for t in svg.iter('text') if t.get('text-anchor') == 'end']
  assert min(ends) >= 6.6 * max(len(label) for label, _ in up)


def test_labels_of_axes():
  assert plot.axis_labels([8000.0, 9000.0, 10000.0, 11000.0]) == ['8k', '9k', '10k', '11k']
  assert plot.axis_labels([455000.0, 455010.0, 455020.0]) == ['455.00k', '455.01k', '455.02k']
  assert plot.axis_labels([-0.5, 0.0, 0.5]) == ['-0.5', '0', '0.5']
  assert plot.axis_labels([0.0, 2e6]) == ['0', '2M']
  assert plot.axis_labels([455_050.0]) == ['455.05k']
  assert plot.axis_labels([0.0]) == ['0']


def test_steps_have_whole_ticks():
  x = np.array([1.0, 2, 3, 4])
  across, _ = ticks(chart(plot.Line('a', x, x / 7, 'trained')))
  assert [label for label, _ in across] == ['1', '2', '3', '4']
  across, _ = ticks(chart(plot.Line('a', x / 2, x, 'trained')))
  assert [label for label, _ in across] == ['0.5', '1.0', '1.5', '2.0']


def test_numbers_are_short():
  values = [0, 0.0001, 9999, 12_500, -250_000, 3e6, 1e30]
  assert list(map(plot.number, values)) == [
    '0', '0.0001', '9999', '12.5k', '-250k', '3M', '1e+30'
  ]  # fmt: skip


def test_the_cumulative_share_counts_what_is_at_most_the_threshold():
  values = np.random.default_rng(1).integers(0, 9, 37).astype(float)
  values[[3, 20]] = np.nan
  thresholds = np.array([-1.0, 0, 2.5, 4, 8, 9])
  known = [v for v in values if v == v]
  expected = [100 * sum(v <= t for v in known) / len(known) for t in thresholds]
  np.testing.assert_allclose(plot.cumulative_share(values, thresholds), expected)


def photograph(image, points, target, visible=None):
  points, target = (np.asarray(p, np.float32).reshape(-1, 2) for p in (points, target))
  visible = np.ones(len(points), bool) if visible is None else np.array(visible)
  return tree.fromstring(
    plot.photograph(image, points, target=target, visible=visible, label='a picture')
  )


def marks(svg, name):
  """The places of dots, the ends of lines, or the middles of rings."""
  paths = [p.get('d') for p in svg.iter('path') if p.get('class') == f'{name} fill']
  if name != 'truth':
    return [part for d in paths for part in vertices(d)]
  arcs = (re.findall(r'M(\S+) ([^a]+)a(\S+)', d) for d in paths)
  return [[(float(x), float(y) + float(r))] for path in arcs for x, y, r in path]


def test_a_dot_and_its_point_move_together():
  image = np.zeros((32, 32, 3), np.uint8)
  image[20:22, 5:7] = 255
  middle = coords.to_normalised(np.array([5.5, 20.5], np.float32), width=32, height=32)
  svg = photograph(image, middle, -middle)
  shown = svg.find('image')
  assert [shown.get(key) for key in ('x', 'y', 'width', 'height')] == [None, None, '100', '100']
  data = re.fullmatch(r'data:image/jpeg;base64,(.+)', shown.get('href'))[1]
  pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), float).sum(-1)
  assert pixels.shape == (32, 32)
  rows, columns = np.mgrid[:32, :32] + 0.5  # the middle of pixel 0 is half a pixel from the edge
  weight = np.where(pixels > 200, pixels, 0)
  spot = [(weight * axis).sum() / weight.sum() * 100 / 32 for axis in (columns, rows)]
  np.testing.assert_allclose(marks(svg, 'prediction')[0][0], spot, atol=0.3)
  np.testing.assert_allclose(marks(svg, 'truth')[0][0], 100 - np.array(spot), atol=0.3)


def test_an_invisible_truth_is_left_out_and_its_prediction_kept():
  image = np.zeros((11, 11, 3), np.uint8)
  points, target = [[-1, -1], [0.2, 0.6]], [[np.nan, np.nan], [1, -0.4]]
  svg = photograph(image, points, target, [False, True])
  first, second, true = (
    [((v + 1) * 5 + 0.5) * 100 / 11 for v in xy] for xy in (*points, target[1])
  )
  np.testing.assert_allclose(marks(svg, 'prediction'), [[first], [second]], atol=1e-3)
  np.testing.assert_allclose(marks(svg, 'truth'), [[true]], atol=1e-3)
  np.testing.assert_allclose(marks(svg, 'join'), [[true, second]], atol=1e-3)


@pytest.mark.parametrize('count', [5, plot.MANY + 1])
def test_the_truth_is_a_ring_and_not_a_dot(count):
  points = np.linspace(-0.9, 0.9, 2 * count).reshape(count, 2)
  svg = photograph(np.zeros((8, 8, 3), np.uint8), points, -points)
  (rings,) = (p.get('d') for p in svg.iter('path') if p.get('class') == 'truth fill')
  radii = {float(r) for r in re.findall(r'a(\S+) ', rings)}
  assert len(radii) == 1
  assert len(re.findall('M', rings)) == count
  width = r'photograph%s \.truth\.fill \{ stroke-width: (\S+);' % (r'\.many' if count > 5 else '')
  assert 2 * radii.pop() - float(re.search(width, CSS)[1]) > 2  # its hole, in hundredths


def test_a_picture_without_visible_truth_is_drawn():
  svg = photograph(np.zeros((8, 8, 3), np.uint8), [[0, 0]], [[0, 0]], [False])
  assert not marks(svg, 'truth')
  assert len(marks(svg, 'prediction')) == 1


def test_circles_are_as_large_as_the_errors_and_unknown_ones_are_left_out():
  points = np.array([[0.5, -0.25], [np.nan, 0], [-1, 0.75], [0, 0]])
  radius = np.array([0.125, 0.2, np.nan, 0.375])
  svg = tree.fromstring(
    plot.error_map(points, radius, box=(-1.0, -2.0, 3.0, 4.0), names=list('abcd'), kind='trained')
  )
  shown = [
    (c.find('title').text, *(float(c.get(key)) for key in ('cx', 'cy', 'r')))
    for c in svg.iter('circle')
  ]
  assert shown == [('a', 0.5, -0.25, 0.125), ('d', 0, 0, 0.375)]
  assert svg.get('viewBox') == '-1 -2 3 4'


def match(query, matched, truth, visible):
  images = np.zeros((2, 11, 11, 3), np.uint8)
  images[1] = 200
  points = (np.asarray(p, np.float32) for p in (query, matched, truth))
  return tree.fromstring(plot.match(*images, *points, np.array(visible), label='a pair'))


def test_a_match_is_in_the_right_picture_and_the_truth_has_a_ring():
  query, matched = [[-1, -1], [0.2, 0.6], [0, 0.4]], [[1, 1], [0.4, -0.6], [-0.2, 0]]
  truth = [[0.8, 1], [np.nan, np.nan], [-1, -0.4]]
  svg = match(query, matched, truth, [True, False, True])

  def place(point, left=0):
    x, y = (((v + 1) * 5 + 0.5) * 100 / 11 for v in point)
    return [left + x, y]

  groups = list(svg.iter('g'))
  assert [g.find('title').text for g in groups] == ['0', '2']
  assert len({g.get('stroke') for g in groups}) == 2
  for g, k in zip(groups, (0, 2), strict=True):
    dots = [part[0] for part in vertices(g.find('path').get('d'))]
    np.testing.assert_allclose(dots, [place(query[k]), place(matched[k], 100)], atol=1e-3)
    ring = [float(g.find('circle').get(key)) for key in ('cx', 'cy')]
    np.testing.assert_allclose(ring, place(truth[k], 100), atol=1e-3)
  joins = [vertices(p.get('d')) for p in svg.iter('path') if p.get('class') == 'join fill']
  expected = [[place(truth[k], 100), place(matched[k], 100)] for k in (0, 2)]
  np.testing.assert_allclose(joins[0], expected, atol=1e-3)


def test_the_pictures_of_a_match_stand_side_by_side():
  svg = match([[0, 0]], [[0, 0]], [[0, 0]], [False])
  assert not list(svg.iter('path'))
  assert svg.get('viewBox') == '0 0 200 100'
  brightness = []
  for shown, x in zip(svg.iter('image'), (None, '100'), strict=True):
    assert [shown.get(key) for key in ('x', 'width', 'height')] == [x, '100', '100']
    data = re.fullmatch(r'data:image/jpeg;base64,(.+)', shown.get('href'))[1]
    brightness.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean())
  np.testing.assert_allclose(brightness, [0, 200], atol=2)

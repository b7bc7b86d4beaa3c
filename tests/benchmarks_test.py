"""The benchmark scripts run, tiny, and what they print follows from what they measured.

How fast anything is stays out of here: figures belong to quiet machines and to docs/results.md.
"""

import importlib
import importlib.util
import json
import math
import os
import pathlib
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.geometry import sampling
from landmarks_jax.models import resnet

FOLDER = pathlib.Path(__file__).parents[1] / 'benchmarks'
SCRIPTS = 'train_step', 'probe', 'input_pipeline', 'correlation', 'convolution'
SCRIPTS += 'evaluation', 'scaling'
COUNTS = pathlib.Path(__file__).parent / 'golden' / 'step_counts.json'
STEP = (
  '--depth 10 --width .0625 --frame 40 --margin 4 --batch_size 4 --queue 8 --matrix 32 --steps 3'
)
EVALUATION = (
  '--labelled 12 --test 6 --rendered 3 --depth 10 --width .0625 --side 40 --size 12 --epochs 7 '
  '--batch_size 4 --steps 2 --pairs 3 --grid 20 --dim 6'
)
WITH_TORCH = pytest.mark.skipif(not importlib.util.find_spec('torch'), reason='needs torch')


@pytest.fixture
def script(monkeypatch):
  """script('probe') -> the module; a ResNet-10, and half the time to compile."""
  monkeypatch.syspath_prepend(FOLDER)
  monkeypatch.setitem(resnet.DEPTHS, 10, (resnet.basic_block, (1,) * 4))
  jax.config.update('jax_disable_most_optimizations', True)
  yield importlib.import_module
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def printed(script, capsys, monkeypatch):
  """printed('probe', '--steps 2') -> what it prints if its ways take .3, .6, .9, ... seconds."""

  def take_turns(ways, repetitions):
    jax.block_until_ready([way() for way in ways.values()])
    return {name: np.full(repetitions, 0.3 * i) for i, name in enumerate(ways, 1)}

  monkeypatch.setattr(script('measure'), 'in_turn', take_turns)

  def run(name, options):
    script(name).main(options.split())
    return capsys.readouterr().out

  return run


def tables(text):
  """Every table of a page as {first cell: {column: cell}}."""
  found = []
  for block in re.findall(r'(?:^\|.*\n)+', text, re.M):
    header, _, *rows = ([c.strip() for c in line.split('|')[1:-1]] for line in block.splitlines())
    found.append({row[0]: dict(zip(header, row, strict=True)) for row in rows})
  return found


def median(cell):
  return float(cell.split(' (')[0].replace(',', ''))


@pytest.mark.parametrize('name', SCRIPTS)
def test_every_script_explains_itself_and_its_options(script, name, capsys):
  with pytest.raises(SystemExit) as stop:
    script(name).main(['--help'])
  assert stop.value.code == 0
  out = capsys.readouterr().out
  assert script(name).__doc__.strip() in out
  assert f'python benchmarks/{name}.py' in out
  assert 'of everything, in turn (default: 5)' in out


def test_ways_take_turns_and_every_second_run_counts(script):
  order = []
  measure = script('measure')
  ways = {name: lambda name=name: order.append(name) for name in 'abc'}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(measure.time, 'perf_counter', lambda: len(order) ** 2)
    seconds = measure.in_turn(ways, 2)
  assert ''.join(order) == 'aabbcc' + 'bbccaa'
  ends = {name: [i + 1 for i, n in enumerate(order) if n == name][1::2] for name in 'abc'}
  for name in 'abc':
    assert seconds[name].tolist() == [end**2 - (end - 1) ** 2 for end in ends[name]]


def test_figures_are_medians_with_their_range(script):
  measure = script('measure')
  seconds = np.array([0.5, 4.0, 0.25])
  assert measure.figure(seconds) == '0.5 (0.25 to 4)'
  assert measure.figure(1234.5 * seconds) == '617 (309 to 4,940)'
  assert measure.speed_up(seconds, np.array([1.0, 2.0, 1.0])) == '2 (0.5 to 4)'  # turn by turn
  assert measure.speed_up(seconds, seconds) == '1'


def test_the_step_is_measured_and_pytorch_skipped_where_it_is_not(printed, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  text = printed('train_step', STEP)
  assert text.startswith(f'`python benchmarks/train_step.py {STEP}`\n')
  assert f'jax {jax.__version__}' in text
  (table,) = tables(text)
  counted = float(re.search(r'model GFLOP: ([\d.]+)', text)[1])
  for kind, seconds in {'full step': 0.2, 'without augmentation': 0.3}.items():  # the product: .3
    skipped, ours = (table[f'{who}, {kind}'] for who in ('PyTorch', 'landmarks_jax'))
    assert skipped['pairs/s'] == 'skipped: torch is not installed'
    assert ours['times PyTorch'] == '-'
    assert median(ours['ms']) == 1e3 * seconds
    assert median(ours['pairs/s']) == pytest.approx(4 / seconds, rel=0.01)
    assert median(ours['model GFLOP/s']) == pytest.approx(counted / seconds, rel=0.01)
    share = counted * 1e9 / seconds / (2 * 32**3 / 0.3)
    assert float(ours['share of the product'].split('%')[0]) == pytest.approx(100 * share, rel=0.01)
  full, less = (float(n) for n in re.findall(r'XLA counts ([\d.]+) GFLOP', text))
  assert full > less  # by the augmentation
  assert less == pytest.approx(counted, rel=0.5)


@WITH_TORCH
def test_pytorch_takes_the_same_step(printed):
  text = printed('train_step', STEP)
  (table,) = tables(text)
  ratios = {name: row['times PyTorch'].split(' (')[0] for name, row in table.items()}
  assert ratios == {
    'PyTorch, full step': '1',
    'landmarks_jax, full step': '0.667',
    'PyTorch, without augmentation': '1',
    'landmarks_jax, without augmentation': '0.8',
  }
  numbers = re.search(r'first losses without augmentation: (.*) here, (.*) in PyTorch', text)
  ours, theirs = ([float(n) for n in group.split(', ')] for group in numbers.groups())
  np.testing.assert_allclose(ours, theirs, atol=5e-3)
  assert len(set(ours)) == 3


@WITH_TORCH
def test_pytorch_cuts_the_same_boxes(script):
  import torch

  baseline = script('torch_baseline')
  image = np.random.default_rng(0).random((3, 12, 12, 3), np.float32)
  boxes = np.array([[2, 5, 9, 6], [0, 0, 12, 12], [7, 1, 3, 8]])
  planes = torch.tensor(image).permute(0, 3, 1, 2)
  cut = baseline.crop_resize(planes, torch.tensor(boxes, dtype=torch.float32)).permute(0, 2, 3, 1)
  np.testing.assert_allclose(cut, sampling.crop_resize(image, boxes, size=12), atol=1e-5)


@pytest.mark.parametrize(('depth', 'width', 'side'), [(18, 0.25, 64), (50, 1.0, 70)])
def test_counted_operations_are_those_of_the_convolutions(script, depth, width, side):
  counts = []

  def count(call, args, kwargs, context):
    made = call(*args, **kwargs)
    if isinstance(context.module, nn.Conv | resnet.StemConv):
      products = math.prod(getattr(context.module, 'kernel_size', (7, 7))) * args[0].shape[-1]
      counts.append(2 * products * made.size)
    return made

  network = resnet.ResNet(depth=depth, width=width)
  with nn.intercept_methods(count):
    image = jnp.zeros((1, side, side, 3))
    init = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), image, train=False))
  stem, rest = script('train_step').forward_flops(depth, width, side)
  head = 2 * init[0][0].shape[-1] * 128
  assert (stem, rest) == (counts[0], sum(counts[1:]) + head)


def test_the_probe_gives_the_same_from_pyramids_in_less_memory(printed):
  options = '--depth 10 --width .125 --side 64 --size 16 --landmarks 2 --points 3 --batch_size 2'
  text = printed('probe', f'{options} --steps 3')
  (table,) = tables(text)
  stacked, late, projected = table.values()
  assert list(table) == ['stacked, kept', 'pyramids, stacked in the step', 'pyramids, projected']
  channels = [64, 32, 16, 8]
  assert f'{sum(channels)} channels at 16x16' in text
  assert median(stacked['kB a picture']) == pytest.approx(sum(channels) * 16**2 * 2 / 1e3, rel=0.01)
  sizes = [c * side**2 for c, side in zip(channels, (2, 4, 8, 16), strict=True)]
  for row in (late, projected):
    assert median(row['kB a picture']) == pytest.approx(sum(sizes) * 2 / 1e3, rel=0.01)
  peak = 'peak MB of the step'
  assert median(projected[peak]) < min(median(stacked[peak]), median(late[peak]))
  assert [row['ms a step'].split(' (')[0] for row in table.values()] == ['100', '200', '300']
  assert stacked['times the baseline'] == '1'
  assert median(projected['times the baseline']) == 0.333
  maps, landmarks = (float(n) for n in re.findall(r'\d\.\de[+-]\d\d', text))
  assert 0 <= maps < 1e-5
  assert 0 <= landmarks < 1e-3


def test_readers_and_views_are_measured_and_exact_ones_equal_pillow(printed):
  text = printed(
    'input_pipeline',
    '--faces 2 --photographs 2 --frame 40 --margin 6 --batch_size 3',
  )
  faces, photographs, views = tables(text)
  assert re.search(r'2 JPEGs of quality 90, [\d.]+ kB each', text)
  for table in (faces, photographs):
    apart = {name: row.pop('difference to Pillow, of 255') for name, row in table.items()}
    assert list(apart) == [
      'Pillow loop',
      'folder, with landmarks (exact)',
      'folder, without (scaled decoding)',
      'prepared ArrayRecord',
      'in memory (cache=host)',
    ]
    scaled = apart.pop('folder, without (scaled decoding)')
    assert 0 < float(scaled.split()[1].rstrip(',')) < 5
    assert set(apart.values()) == {'-', 'none'}
    ratios = [row['times Pillow'].split(' (')[0] for row in table.values()]
    assert ratios == ['1', '0.5', '0.333', '0.25', '0.2']
    assert median(table['folder, with landmarks (exact)']['pictures/s']) == 3.33
  cells = {name: [cell.split(' (')[0] for cell in row.values()][1:] for name, row in views.items()}
  assert cells == {
    'Pillow: crop, colour': ['10', '100,000', '1'],
    'on the device: crop, colour': ['5', '200,000', '0.5'],
    'Pillow: JPEG, crop, colour': ['3.33', '300,000', '1'],
    'on the device: JPEG, crop, colour': ['2.5', '400,000', '0.75'],
  }


@pytest.fixture
def evaluation(script, monkeypatch):
  """The script with its ways in this process."""
  monkeypatch.setattr(script('evaluation'), 'in_fresh_process', lambda way, options: way(options))
  return script('evaluation')


def test_the_regression_and_matching_are_measured_and_their_memory_foretold(
  evaluation, printed, script, monkeypatch
):
  monkeypatch.setattr(
    script('measure'), 'number', '{:.9f}'.format
  )  # a ratio of rounded ones is off
  text = printed('evaluation', EVALUATION)
  memory, regression, matched = tables(text)
  terms = {name: median(n) for name, n in re.findall(r'^- (.*): ([\d.,]+) MB$', text, re.M)}
  numbers = sum(side**2 * c for side, c in zip((2, 3, 5, 10), (32, 16, 8, 4), strict=True))
  assert terms['pyramids of labelled pictures'] == pytest.approx(2e-6 * 12 * numbers, rel=0.01)
  assert terms['pyramids of test pictures'] == pytest.approx(2e-6 * 6 * numbers, rel=0.01)
  assert terms['pictures'] == pytest.approx(2 * 3 * 56**2 * 3 / 1e6, rel=0.01)
  assert terms['features of a block, three times'] == pytest.approx(
    3 * 64 * numbers * 4e-6, rel=0.01
  )
  for name, row in memory.items():
    assert (
      median(row['estimated MB']) >= terms['this process: libraries, network, code to describe']
    )
    ratio = median(row['estimated MB']) / median(row['measured MB'])
    assert median(row['estimated / measured']) == pytest.approx(ratio, rel=1e-6)
    assert terms[name] == median(row['estimated MB'])

  stacked, kept, _ = regression.values()
  assert 'extrapolated from 10 batches of 4' in text
  for row, seconds in (stacked, 0.3), (kept, 0.6):  # of two batches; an epoch has three
    assert median(row['ms a batch']) == 1e3 * seconds / 2
    assert median(row['s an epoch']) == pytest.approx(3 * seconds / 2)
  described, fitted = (
    float(re.search(f'{what} ([\\d.]+) s', text)[1]) for what in ('describing', 'closed form')
  )
  totals = [7 * 0.45, described + 7 * 0.9, described + fitted]
  for row, total in zip(regression.values(), totals, strict=True):
    assert median(row['s until fitted']) == pytest.approx(total, rel=0.02)
    assert median(row['times the baseline']) == pytest.approx(totals[0] / total, rel=0.03)
  ours, theirs = re.search(r'head: ([\d.]+) stacked, ([\d.]+) from', text).groups()
  assert float(ours) == pytest.approx(float(theirs), rel=1e-3)

  assert '3 pairs at once, 10 points' in text
  assert list(matched) == [
    f'{features}, {way}'
    for features in ('ResNet-10', 'projection to 6')
    for way in ('stacked and normalised', 'landmarks_jax')
  ]
  speeds = [row['pairs/s'].split(' (')[0] for row in matched.values()]
  assert speeds == ['5', '3.33', '2', '1.67']  # describing took .3 and 1.2
  assert [row['times the baseline'].split(' (')[0] for row in matched.values()] == [
    *('1', '0.667', '1', '0.833')
  ]
  both = [row['times the baseline, described too'].split(' (')[0] for row in matched.values()]
  assert both == ['1', '0.75', '1', '0.9']
  plain, ours, *_ = (median(row['MB a pair']) for row in matched.values())
  assert ours < plain


def test_a_way_of_matching_that_is_not_exact_is_found_out(evaluation, monkeypatch):
  rng = np.random.default_rng(0)
  pyramids = [(rng.normal(size=(2, 5, 5, 7)), rng.normal(size=(2, 10, 10, 3))) for _ in range(3)]
  points = rng.uniform(-1, 1, (2, 4, 2))
  assert '100.00% of the matches are the same' in evaluation.agreement(pyramids, points, 20)
  exact = evaluation.matching.match

  def elsewhere(*given, size):
    found, confidence = exact(*given, size=size)
    return found.at[1, 2, 0].multiply(-1), confidence

  monkeypatch.setattr(evaluation.matching, 'match', elsewhere)
  with pytest.raises(AssertionError, match='behind the best'):
    evaluation.agreement(pyramids, points, 20)


def test_windows_move_a_picture_and_its_points_together(evaluation):
  options = evaluation.argparse.Namespace(side=40, labelled=9, test=1, rendered=2)
  source, frame = evaluation.Faces(options, 'train'), 40 + 2 * evaluation.SHIFT
  assert len(source) == 9
  moves = set()
  for i in range(9):
    shown, whole = source[i], source.rendered[i % 2]
    moved = (whole['points'] + 1) / 2 * (frame - 1) - (shown['points'] + 1) / 2 * (40 - 1)
    x, y = np.round(moved[0]).astype(int)
    np.testing.assert_allclose(moved, np.broadcast_to((x, y), moved.shape), atol=1e-4)
    np.testing.assert_array_equal(shown['image'], whole['image'][y : y + 40, x : x + 40])
    eyes = np.linalg.norm(shown['points'][0] - shown['points'][1])
    assert shown['scale'] == pytest.approx(eyes)
    assert shown['index'] == i
    moves.add((x, y))
  assert len(moves) > 5


def test_a_fresh_process_is_another_one(script):
  parent = script('evaluation').in_fresh_process(eval, "__import__('os').getppid()")
  assert parent == os.getpid()


def test_convolutions_are_measured_by_layer_and_pass(printed, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  (table,) = tables(printed('convolution', '--batch_size 2 --layers 1 --depth'))
  passes = 'forward', 'to pictures', 'to kernels'
  assert list(table) == [f'3x3, 24x24, 64 to 64, {name}' for name in passes]
  work = 2 * 9 * 64 * 64 * 2 * 24**2 / 1e9
  for row in table.values():
    assert median(row['XLA']) == pytest.approx(work / 0.3, rel=0.01)
    assert median(row['landmarks_jax']) == pytest.approx(work / 0.6, rel=0.01)
    assert row['PyTorch'] == 'skipped: torch is not installed'
    assert median(row['times XLA']) == 0.5


@pytest.fixture
def suite(script):
  """The command `python -m benchmarks`, as a module."""
  spec = importlib.util.spec_from_file_location('suite_command', FOLDER / '__main__.py')
  command = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(command)
  return command


def test_the_suite_measures_what_is_named_and_keeps_the_figures(
  suite, script, capsys, monkeypatch, tmp_path
):
  def take_turns(ways, repetitions):
    jax.block_until_ready([way() for way in ways.values()])
    return {name: np.full(repetitions, 0.5 * i) for i, name in enumerate(ways, 1)}

  monkeypatch.setattr(script('measure'), 'in_turn', take_turns)
  file = tmp_path / 'figures.json'
  command = f'correlation checkpoint --smoke --json {file}'
  assert suite.main(command.split()) == 0
  text = capsys.readouterr().out
  assert text.startswith(f'`python -m benchmarks {command}`\n')
  correlated, kept = tables(text)
  plain, blocks = correlated.values()
  assert (plain['times'], median(blocks['times'])) == ('1', 0.5)
  assert list(kept) == ['a training step', 'save, until it is on disk', 'restore']
  record = json.loads(file.read_text())
  assert list(record['cases']) == ['correlation', 'checkpoint']
  found, row = record['cases']['checkpoint']['ways']['restore'], kept['restore']
  assert (found['seconds'], median(row['ms']), row['GFLOP/s']) == ([1.5], 1500, '-')
  found, row = record['cases']['checkpoint']['ways']['a training step'], kept['a training step']
  assert median(row['times/s']) == 2
  assert median(row['GFLOP/s']) == pytest.approx(found['flops'] / 0.5 / 1e9, rel=0.01)
  share = found['flops'] / 0.5 / (2 * 32**3 / 2)  # the product took two seconds
  assert float(row['of the product'].split('%')[0]) == pytest.approx(100 * share, rel=0.01)
  assert median(row['peak MB']) == pytest.approx(found['peak_bytes'] / 1e6, rel=0.01)


def test_the_suite_says_what_it_has(suite, capsys):
  with pytest.raises(SystemExit) as stop:
    suite.main(['step_mocco'])
  assert stop.value.code == 2
  said = capsys.readouterr().err
  assert 'no case step_mocco; there are: step_moco, ' in said


def figures(path, seconds, flops):
  way = {'items': 6, 'seconds': seconds, 'flops': flops, 'bytes': 70, 'peak_bytes': 9}
  record = {'cases': {'probe': {'ways': {'kept': way, 'matrix product': way}}}}
  path.write_text(json.dumps(record))
  return str(path)


def test_a_comparison_fails_where_counts_grow_and_not_where_time_does(suite, capsys, tmp_path):
  before = figures(tmp_path / 'before.json', [2, 3, 9], 1000)
  slower = figures(tmp_path / 'slower.json', [4, 60, 6], 1009)
  assert suite.main(['--compare', before, slower]) == 0
  text = capsys.readouterr().out
  ((cells,),) = [table.values() for table in tables(text)]
  assert [cells[name] for name in ('before.json, /s', 'slower.json, /s')] == ['2', '1']
  assert (cells['times'], cells['flops'], cells['bytes']) == ('0.5', '+0.90%', '+0.00%')
  more = figures(tmp_path / 'more.json', [1, 1, 1], 1011)
  assert suite.main(['--compare', before, more]) == 1
  assert 'probe, kept: flops grew from 1,000 to 1,011' in capsys.readouterr().out
  (tmp_path / 'other.json').write_text('[1]')
  assert suite.main(['--compare', before, str(tmp_path / 'other.json')]) == 2
  assert 'other.json holds no figures' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['moco', 'projection', 'equivariant', 'dve', 'lmdis', 'scrl'])
def test_no_step_does_or_moves_more_than_it_did(script, name):
  """Counts of the smoke steps before compilation; a change that needs more says so in the file."""
  known = json.loads(COUNTS.read_text())
  if jax.__version__ not in known:
    pytest.skip(f'{COUNTS.name} has no counts of jax {jax.__version__}')
  expected = known[jax.__version__][name]
  found = script('cases').counted(script('cases').STEPS[name])
  for count, value in found.items():
    assert value <= 1.001 * expected[count], f'{name} {count}: now {found}'
    assert value >= 0.95 * expected[count], f'much less than {COUNTS.name} says, write: {found}'

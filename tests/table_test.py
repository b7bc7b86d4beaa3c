"""The table that people read last."""

from landmarks_jax.cli import table


def test_rows_stand_in_their_columns_with_their_spread():
  evals = {
    'faces': {'protocol': 'regression', 'labels': 50, 'draws': 3},
    'all_of_them': {'protocol': 'regression', 'labels': None, 'draws': 1},
    'odd': {'protocol': 'other'},
  }
  scores = {
    'faces/regression/inter_ocular': 7.125,
    'faces/regression/inter_ocular_std': 0.456,
    'faces/regression/inter_ocular_mean_shape': 21.5,
    'faces/regression/inter_ocular_mean_shape_std': 1,
    'faces/regression/inter_ocular_random_init': 14.004,
    'all_of_them/regression/inter_ocular': 5.5,
    'all_of_them/regression/inter_ocular_low': 5.25,
    'all_of_them/regression/inter_ocular_high': 6,
    'all_of_them/regression/inter_ocular_mean_shape': 123.456,
    'odd/regression/inter_ocular': 1.0,
  }
  assert table.of_scores(evals, scores).splitlines() == [
    'inter-ocular error, %',
    '                             mean shape  random init            trained',
    'faces (50 labels x 3)     21.50 +- 1.00        14.00       7.12 +- 0.46',
    'all_of_them (all labels)         123.46            -  5.50 [5.25, 6.00]',
  ]


def test_every_metric_and_number_of_labels_has_its_place_and_only_rows_that_exist():
  evals = {
    'pairs': {'protocol': 'matching'},
    'few': {'protocol': 'regression', 'labels': [1, 10], 'draws': 3},
  }
  scores = {
    'few/regression/inter_ocular_n10': 8.0,
    'few/regression/inter_ocular_n1': 20.0,
    'few/regression/inter_ocular_n1_base': 30.0,
    'few/regression/left_right_confusion_n1': 1.5,
    'pairs/matching/same': 1.0,
    'pairs/matching/different': 3.5,
    'pairs/matching/different_same_position': 9.0,
    'pairs/matching/different_paper': 3.75,
  }
  assert table.of_scores(evals, scores).split('\n\n') == [
    'matching error on another picture, pixels of a 70-pixel frame\n'
    '               same position  trained\n'
    'pairs                   9.00     3.50\n'
    'pairs (paper)              -     3.75',
    'matching error on the same picture, pixels of a 70-pixel frame\n'
    '       trained\n'
    'pairs     1.00',
    'inter-ocular error, %\n'
    '                      base  trained\n'
    'few (10 labels x 3)      -     8.00\n'
    'few (1 label x 3)    30.00    20.00',
    'landmarks nearer to their mirrored partner, %\n'
    '                   trained\n'
    'few (1 label x 3)     1.50',
  ]


def test_a_table_of_nothing_is_empty():
  assert table.of_scores({'a': {'protocol': 'regression'}}, {}) == ''

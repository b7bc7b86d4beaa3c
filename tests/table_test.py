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
    'all_of_them/regression/inter_ocular_mean_shape': 123.456,
    'odd/regression/inter_ocular': 1.0,
  }
  lines = table.of_scores(evals, scores).splitlines()
  assert lines == [
    'inter-ocular error, %        mean shape  random init       trained',
    'faces (50 labels x 3)     21.50 +- 1.00        14.00  7.12 +- 0.46',
    'all_of_them (all labels)         123.46            -          5.50',
    'odd (all labels)                      -            -             -',
  ]

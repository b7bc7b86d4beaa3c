"""Floor 5: one file per protocol; each knows a Describer, never a method.

A file here that defines `run` is a protocol, called like the file; the others hold what protocols
share. So is any module that a config names by its import path, such as mylab.swaps. Nothing is
registered: cli/completion.py, cli/experiment.py, cli/pictures.py, layers.py and scoring.py look for
the names below in the module. Those marked optional may be missing.

  METRICS: tuple[scoring.Metric, ...]
      The scores that tables and reports show, in their order, and that `config.select` may name.

  UNIT: scoring.Unit
      Optional: of the distances between points of `run`, divided by their `scale`, in the report's
      curves; without it they are in percent of the scale.

  run(describer, open_split, *, random_init, base=None, baselines=None, margin=0, test='test',
      batch_size=128, spread=ALONE, ...) -> dict[str, Predictions]
      The predictions by 'row/part', each row of scoring.ROWS; their `index` counts pictures of the
      split `test`. {} if the protocol predicts no points.
      open_split(name): the Source of a split. random_init: variants of the untrained network by
      name; the better one is the row. base: the network that the method builds on, if any.
      baselines: what `run` returned before with the same options: only the trained network is new.
      spread: how pictures are spread over processes and devices; batch_size is that of all.
      Every other keyword is an option that a config may set, so it has an annotation and, unless
      it must be given, a default. All protocols have the options margin, test and batch_size, at
      least through EXTENDS, for the callers use them.

  check(open_split, **options) -> None
      Gets all options and raises ValueError for what `run` and `measure` cannot do with them and
      these sets; called before anything is trained or described.

  score(predictions, *, flip_pairs=()) -> dict[str, float]
      Scores by name (`scoring.score_name`) of what `run` returned; {} for {}. flip_pairs: those of
      the test split. A protocol whose `run` has an option `of` gets of=..., too.

  measure(describer, open_split, *, random_init, base, spread, **options) -> dict[str, float]
      Optional: scores that need more than predictions; they are added to those of `score`. Gets
      what `run` does, without baselines; but when the same experiment evaluates other weights,
      random_init is {} and base None, and scores that are not given again stay as they were.

  pictures(open_split, predictions, chosen, *, task, **options) -> dict[str, Any]
      Optional: for protocols that match pairs of pictures, the arguments of `draw.match_sheet`.
      predictions: the trained row's. chosen: which of its pairs. task: 'different'. options: all.

  DISCOVERS: bool
      Optional: True if the protocol judges landmarks that the method finds by itself. It is then
      refused for a method without `landmarks`.

  EXTENDS: Callable
      Optional: the function, such as the `run` of another protocol, whose options this `run` takes
      besides its own, as **others. Where both have a default, that of this `run` counts.

  extends(NAME, ...) -> Callable
      Optional, instead of EXTENDS where that function depends on options: they are its arguments,
      called as in `run`, and it gets their values as text.

An option `of` names the protocol that this one runs (layers.py): pictures and the report's curves
are then that protocol's.
"""

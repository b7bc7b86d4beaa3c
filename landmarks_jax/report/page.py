"""The report of a run as one HTML file: no scripts, nothing loaded, readable on a phone.

Data in, text out. Missing parts are left out, or noted where a reader would look for them.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsFloat
from urllib.parse import quote

from landmarks_jax.contracts import Predictions
from landmarks_jax.evaluation import scoring
from landmarks_jax.report import gallery, results, trends
from landmarks_jax.report.markup import Markup, breakable, element, join
from landmarks_jax.report.stylesheet import CSS

# The page may load nothing from elsewhere, even if a name ever slipped through as HTML.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NONE = MappingProxyType({})
LONG_WORD = 16  # letters, of which the narrowest column of facts shows more only broken


def render(
  *,
  title: str,
  config: Mapping[str, Any],
  step: int | None = None,
  scores: Mapping[str, SupportsFloat] = NONE,
  log: Sequence[Mapping[str, Any]] = (),
  predictions: Mapping[str, Mapping[str, Predictions]] = NONE,
  names: Mapping[str, Sequence[str]] = NONE,
  errors: Mapping[str, str] = NONE,
  examples: Mapping[str, Mapping[str, Any]] = NONE,
  matches: Mapping[str, Mapping[str, Any]] = NONE,
  pictures: Mapping[str, bytes] = NONE,
  command: str | None = None,
  cost: Mapping[str, str] = NONE,
  versions: Mapping[str, str] = NONE,
  files: Mapping[str, str] = NONE,
) -> str:
  """Renders the page as HTML.

  Args:
    config: of the run; its `evals` describe each evaluation.
    step: the number of updates after which the scores were taken.
    scores: by full name, '<eval>/<protocol>/<score>', as in `evaluation.scoring`.
    log: the lines of metrics.jsonl; 'nan', 'inf' and '-inf' become gaps, with a note.
    predictions: by evaluation, then by 'row/part'. An evaluation that was scored before the run
      was resumed may have none: its scores are shown, with a note.
    names: of the landmarks, by evaluation; numbers where absent.
    errors: what to call an error, by evaluation; see `scoring.error_title`.
    examples: by evaluation, arguments of `draw.landmark_sheet`: images, points, target, visible.
    matches: by evaluation, arguments of `draw.match_sheet`.
    pictures: PNG files by name, such as 'views_00000000'; 'landmarks/<eval>_00003000' is shown with
      its evaluation. All are shown, those in `gallery.CAPTIONS` with an explanation.
    command, cost, versions: how it was made, as text.
    files: files beside the page: label -> relative address.
  """
  evals = dict(config.get('evals') or {})
  evals |= {name: {} for name in [*predictions, *examples, *matches] if name not in evals}
  drawn = {name: gallery.pictures_of(name, pictures) for name in evals}
  others = {k: v for k, v in pictures.items() if not any(k in part for part in drawn.values())}
  only_views = all(name.startswith('views') for name in others)
  sections = [('scores', 'Scores', _scores(evals, scores, errors))]
  for number, (name, options) in enumerate(evals.items(), start=1):
    parts = results.section(
      name,
      options,
      predictions=predictions.get(name, NONE),
      names=names.get(name),
      errors=errors,
      examples=examples.get(name),
      matches=matches.get(name),
      pictures=drawn[name],
      log=log,
      scores=scores,
    )
    sections.append((f'evaluation-{number}', name, parts))
  sections += [
    ('pictures', 'What training looks at' if only_views else 'Pictures', gallery.sheets(others)),
    ('training', 'Training', _training(log, evals)),
    ('making', 'How it was made', _making(command, versions, config, files)),
  ]
  return document(title, _facts(config, step, cost), [s for s in sections if join(s[2])])


def document(title: str, facts: Markup, sections: Sequence[tuple[str, str, Any]]) -> str:
  """A whole page. sections: their anchors, headings and contents."""
  links = [element('a', heading, href=f'#{anchor}') for anchor, heading, _ in sections]
  parts = [element('section', element('h2', h), body, id=anchor) for anchor, h, body in sections]
  made = element('p', 'Made by landmarks_jax: one file, no scripts.', class_='soft')
  head = [
    element('meta', charset='utf-8'),
    element('meta', http_equiv='Content-Security-Policy', content=POLICY),
    element('meta', name_='viewport', content='width=device-width, initial-scale=1'),
    element('title', title),
    element('style', Markup(CSS)),
  ]
  main = element(
    'main', element('h1', title), facts, element('nav', links), parts, element('footer', made)
  )
  page = element('html', element('head', head), element('body', main), lang='en')
  return f'<!doctype html>\n{page}\n'


def _facts(config: Mapping[str, Any], step: int | None, cost: Mapping[str, str]) -> Markup:
  """The main facts of the run, in a few words."""
  method, data = (config.get(key) or {} for key in ('method', 'data'))
  facts = {'Method': method.get('name'), 'Data': data.get('name')}
  steps = config.get('steps')
  if steps is not None:
    done = steps if step is None else step
    facts['Steps'] = f'{done:,}' if done == steps else f'{done:,} of {steps:,}'
  facts['Images a step'] = config.get('batch_size')
  return pairs({k: v for k, v in facts.items() if v is not None} | dict(cost))


def pairs(facts: Mapping[str, Any]) -> Markup:
  """Short facts by name, side by side; one with a long word, such as a path, has its own row."""
  entries = []
  for key, value in facts.items():
    words = str(value).split()
    kind = 'long' if max(map(len, words), default=0) > LONG_WORD else None
    pair = element('dt', key), element('dd', breakable(str(value)))
    entries.append(element('div', *pair, class_=kind))
  return element('dl', entries, class_='facts') if entries else Markup()


def _scores(
  evals: Mapping[str, Mapping[str, Any]],
  scores: Mapping[str, SupportsFloat],
  errors: Mapping[str, str],
) -> list[Markup]:
  """A table for every metric of every protocol, and a list of all other numbers."""
  parts, used = [], set()
  for table in scoring.tables(evals, scores, errors):
    used |= {name for line in table.lines for name in line.names}
    what = table.metric.what
    parts.append(element('h3', what[:1].upper() + what[1:]))
    parts.append(element('div', _score_table(table, evals), class_='wide'))
  if parts:
    parts.append(element('p', EXPLAINED, class_='soft'))
  rest = {key: f'{float(value):.6g}' for key, value in scores.items() if key not in used}
  return [*parts, _options({'': rest})] if rest else parts


def _score_table(table: scoring.Table, evals: Mapping[str, Mapping[str, Any]]) -> Markup:
  heads = ['', *(trends.ROWS[row] for row in table.rows), 'Ratio']
  numbers = {name: i for i, name in enumerate(evals, start=1)}
  lines = []
  for line in table.lines:
    anchor = f'#evaluation-{numbers[line.evaluation]}'
    link = element('a', breakable(line.evaluation), href=anchor)
    setting = scoring.setting(evals[line.evaluation], line.group)
    cells = [element('td', _score(line.scores.get(row)), class_=row) for row in table.rows]
    what = element('th', link, element('small', setting) if setting else None, scope='row')
    lines.append([what, *cells, element('td', _ratio(line))])
  return element(
    'table',
    element('thead', element('tr', [element('th', head, scope='col') for head in heads])),
    element('tbody', [element('tr', line) for line in lines]),
    class_='scores',
  )


EXPLAINED = (
  'Errors are distances from predicted to true landmark, averaged over visible landmarks; those in '
  'percent are divided by a scale: for faces, usually the distance between the eyes. x 3 '
  'means three draws of the labels and ± their standard deviation; a range is the 95 % interval '
  'over pictures. Ratio: trained to the better of its baselines, or the inverse where higher is '
  'better; below 1 training helped.'
)


def _score(score: scoring.Score | None) -> list[str | Markup]:
  if score is None:
    return ['–']
  spread = []
  if score.std is not None:
    spread = [element('small', f'± {score.std:.2f}')]
  elif score.low is not None:
    spread = [element('small', f'{score.low:.2f}–{score.high:.2f}')]
  return [f'{score.value:.2f}', *spread]


def _ratio(line: scoring.Line) -> str:
  """The ratio, below 1 where the trained row is better than every other."""
  values = {row: score.value for row, score in line.scores.items()}
  trained = values.pop(scoring.TRAINED, None)
  if trained is None or not values:
    return '–'
  higher = line.metric.higher_is_better
  pair = (max(values.values()), trained) if higher else (trained, min(values.values()))
  return f'{pair[0] / pair[1]:.2f}' if pair[1] > 0 else '–'


def _training(log: Sequence[Mapping[str, Any]], evals: Mapping[str, Any]) -> list[Markup | None]:
  """A curve for every number in the log outside the evaluations, the loss first."""
  keys = dict.fromkeys(key for line in log for key in line if key != 'step')
  keys = [key for key in keys if key.split('/')[0] not in evals]
  keys.sort(key=lambda key: key != 'train/loss')
  charts, notes = [], []
  for key in keys:
    name = key.removeprefix('train/')
    chart, note = trends.history(log, {key: (name, 'trained')}, what=name)
    charts.append(chart)
    notes.append(note)
  return [element('div', charts, class_='charts'), *notes] if keys else []


def _making(
  command: str | None,
  versions: Mapping[str, str],
  config: Mapping[str, Any],
  files: Mapping[str, str],
) -> list[Markup]:
  # Each word is a span, so that lines break between options and not inside '--'.
  words = [item for word in (command or '').split(' ') for item in (' ', element('span', word))][1:]
  parts = [element('pre', words)] if command else []
  parts.append(pairs(versions))
  groups = _groups(config)
  if groups:
    count = sum(len(options) for options in groups.values())
    summary = element('summary', f'The configuration: {count} options')
    parts.append(element('details', summary, _options(groups)))
  if files:
    # Quoted as a whole: an address with a scheme loses its colon and so stays relative.
    links = [element('a', label, href=quote(address)) for label, address in files.items()]
    line = [item for link in links for item in (' · ', link)][1:]
    parts.append(element('p', 'Beside this file: ', line, class_='soft'))
  return parts


def _options(groups: Mapping[str, Mapping[str, Any]]) -> Markup:
  """A table of names and values, in groups with a heading each ('' has none)."""
  bodies = []
  for heading, options in groups.items():
    head = element('th', breakable(heading), colspan=2, class_='mono', scope='rowgroup')
    lines = [element('tr', head)] if heading else []
    for name, value in options.items():
      cells = element('th', breakable(name), scope='row'), element('td', value)
      lines.append(element('tr', cells, class_='mono'))
    bodies.append(element('tbody', lines))
  return element('table', bodies, class_='options')


def _groups(config: Mapping[str, Any], prefix: str = '') -> dict[str, dict[str, str]]:
  """A nested config's plain values as JSON, grouped by the dotted name of their section."""
  nested = {name: part for name, part in config.items() if isinstance(part, Mapping) and part}
  plain = {str(k): json.dumps(v, default=str) for k, v in config.items() if k not in nested}
  groups = {prefix: plain} if plain else {}
  for name, part in nested.items():
    groups |= _groups(part, f'{prefix}.{name}' if prefix else str(name))
  return groups

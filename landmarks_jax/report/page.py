"""The report of a run as one HTML file: no scripts, nothing loaded, readable on a phone.

Data in, text out. What is missing is left out, or said where a reader would look for it.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsFloat
from urllib.parse import quote

from landmarks_jax.contracts import Predictions
from landmarks_jax.report import results
from landmarks_jax.report.markup import Markup, breakable, element, join
from landmarks_jax.report.stylesheet import CSS

# What the page may load from elsewhere, should a name ever slip through as HTML: nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SCORE = 'inter_ocular'
SUFFIXES = {'mean_shape': '_mean_shape', 'random_init': '_random_init', 'trained': ''}
NONE = MappingProxyType({})


def render(
  *,
  title: str,
  config: Mapping[str, Any],
  step: int | None = None,
  scores: Mapping[str, SupportsFloat] = NONE,
  log: Sequence[Mapping[str, Any]] = (),
  predictions: Mapping[str, Mapping[str, Predictions]] = NONE,
  names: Mapping[str, Sequence[str]] = NONE,
  examples: Mapping[str, Mapping[str, Any]] = NONE,
  pictures: Mapping[str, bytes] = NONE,
  command: str | None = None,
  cost: Mapping[str, str] = NONE,
  versions: Mapping[str, str] = NONE,
  files: Mapping[str, str] = NONE,
) -> str:
  """The page.

  Args:
    config: of the run; its `evals` say what each evaluation is.
    step: after how many updates the scores were taken.
    scores: by full name, '<eval>/<protocol>/<metric>[_std]'; inter-ocular errors in percent.
    log: the lines of metrics.jsonl; 'nan', 'inf' and '-inf' are gaps, and said.
    predictions: by evaluation, then by 'row/draw' or 'row'. An evaluation that was scored before
      the run was resumed may have none: its scores are shown, with a note.
    names: of the landmarks, by evaluation; numbers where absent.
    examples: by evaluation, what `draw.landmark_sheet` takes: images, points, target, visible.
    pictures: PNG files by name, such as 'views_00000000'; 'landmarks/<eval>_00003000' stands in its
      evaluation. All are shown.
    command, cost, versions: how it was made, in words.
    files: what lies beside the page: label -> relative address.
  """
  evals = dict(config.get('evals') or {})
  evals |= {name: {} for name in [*predictions, *examples] if name not in evals}
  drawn = {name: results.pictures_of(name, pictures) for name in evals}
  others = {k: v for k, v in pictures.items() if not any(k in part for part in drawn.values())}
  only_views = all(name.startswith('views') for name in others)
  sections = [('scores', 'Scores', _scores(evals, scores))]
  for number, (name, options) in enumerate(evals.items(), start=1):
    parts = results.section(
      name,
      options,
      predictions=predictions.get(name, NONE),
      names=names.get(name),
      examples=examples.get(name),
      pictures=drawn[name],
      log=log,
      scored=any(key.startswith(f'{name}/') for key in scores),
    )
    sections.append((f'evaluation-{number}', name, parts))
  sections += [
    ('pictures', 'What training looks at' if only_views else 'Pictures', results.sheets(others)),
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
  """What and how much, in a few words."""
  method, data = (config.get(key) or {} for key in ('method', 'data'))
  facts = {'Method': method.get('name'), 'Data': data.get('name')}
  steps = config.get('steps')
  if steps is not None:
    done = steps if step is None else step
    facts['Steps'] = f'{done:,}' if done == steps else f'{done:,} of {steps:,}'
  facts['Images a step'] = config.get('batch_size')
  return pairs({k: v for k, v in facts.items() if v is not None} | dict(cost))


def pairs(facts: Mapping[str, Any]) -> Markup:
  """Facts by name, a few words each, side by side."""
  entries = [
    element('div', element('dt', key), element('dd', value)) for key, value in facts.items()
  ]
  return element('dl', entries, class_='facts') if entries else Markup()


def _scores(evals: Mapping[str, Any], scores: Mapping[str, SupportsFloat]) -> list[Markup]:
  """The table of the three rows, and a list of every other number."""
  lines, used = [], set()
  for number, (name, options) in enumerate(evals.items(), start=1):
    prefix = f'{name}/{options.get("protocol")}/{SCORE}'
    keys = {row: prefix + suffix for row, suffix in SUFFIXES.items()}
    if not any(key in scores for key in keys.values()):
      continue
    used |= {key + end for key in keys.values() for end in ('', '_std')}
    link = element('a', breakable(name), href=f'#evaluation-{number}')
    lines.append([
      element('th', link, element('small', results.labels(options)), scope='row'),
      *(element('td', _score(scores, key), class_=row) for row, key in keys.items()),
      element('td', _ratio({row: scores.get(key) for row, key in keys.items()})),
    ])  # fmt: skip
  parts = []
  if lines:
    heads = ['', *results.ROWS.values(), 'Ratio']
    parts.append(
      element(
        'table',
        element('caption', CAPTION),
        element('thead', element('tr', [element('th', head, scope='col') for head in heads])),
        element('tbody', [element('tr', line) for line in lines]),
        class_='scores',
      )
    )
  rest = {key: f'{float(value):.6g}' for key, value in scores.items() if key not in used}
  return [*parts, _options({'': rest})] if rest else parts


CAPTION = (
  'Inter-ocular error in percent, lower is better: the distance from predicted to true landmark, '
  'divided by the scale of the picture (for faces, between the eyes), averaged over visible '
  'landmarks. ± is the standard deviation over draws of the labels. Ratio: trained to the better '
  'of its baselines.'
)


def _score(scores: Mapping[str, SupportsFloat], key: str) -> list[Any]:
  if key not in scores:
    return ['–']
  spread = scores.get(f'{key}_std')
  small = None if spread is None else element('small', f'± {float(spread):.2f}')
  return [f'{float(scores[key]):.2f}', small]


def _ratio(values: Mapping[str, SupportsFloat | None]) -> str:
  trained = values['trained']
  bars = [float(v) for row, v in values.items() if row != 'trained' and v is not None]
  if trained is None or not bars or not min(bars) > 0:
    return '–'
  return f'{float(trained) / min(bars):.2f}'


def _training(log: Sequence[Mapping[str, Any]], evals: Mapping[str, Any]) -> list[Markup | None]:
  """A curve of every number of the log that is no evaluation's, the loss first."""
  keys = dict.fromkeys(key for line in log for key in line if key != 'step')
  keys = [key for key in keys if key.split('/')[0] not in evals]
  keys.sort(key=lambda key: key != 'train/loss')
  charts, notes = [], []
  for key in keys:
    name = key.removeprefix('train/')
    chart, note = results.history(log, {key: (name, 'trained')}, what=name)
    charts.append(chart)
    notes.append(note)
  return [element('div', charts, class_='charts'), *notes] if keys else []


def _making(
  command: str | None,
  versions: Mapping[str, str],
  config: Mapping[str, Any],
  files: Mapping[str, str],
) -> list[Markup]:
  # Each word is one box, so that lines break between options and not inside '--'.
  words = [item for word in (command or '').split(' ') for item in (' ', element('span', word))][1:]
  parts = [element('pre', words)] if command else []
  parts.append(pairs(versions))
  groups = _groups(config)
  if groups:
    count = sum(len(options) for options in groups.values())
    summary = element('summary', f'The configuration: {count} options')
    parts.append(element('details', summary, _options(groups)))
  if files:
    # Quoted whole: an address with a scheme would lose its colon and stay relative.
    links = [element('a', label, href=quote(address)) for label, address in files.items()]
    line = [item for link in links for item in (' · ', link)][1:]
    parts.append(element('p', 'Beside this file: ', line, class_='soft'))
  return parts


def _options(groups: Mapping[str, Mapping[str, Any]]) -> Markup:
  """Names and values, in groups with a heading each ('' has none)."""
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
  """A nested config as the JSON of its plain values, by the dotted name of the part they are in."""
  nested = {name: part for name, part in config.items() if isinstance(part, Mapping) and part}
  plain = {str(k): json.dumps(v, default=str) for k, v in config.items() if k not in nested}
  groups = {prefix: plain} if plain else {}
  for name, part in nested.items():
    groups |= _groups(part, f'{prefix}.{name}' if prefix else str(name))
  return groups

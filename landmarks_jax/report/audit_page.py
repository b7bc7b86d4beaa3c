"""The page of an audit: what was found, with the pictures, as one HTML file without scripts."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from landmarks_jax.data.audit import Finding, Item
from landmarks_jax.report import page, plot, results
from landmarks_jax.report.markup import Markup, breakable, element

GROUPS, MEMBERS, SINGLES = 8, 12, 24  # shown: groups of a finding, pictures of a group, single ones


class Thumbnail(NamedTuple):
  """A picture in a square, and its landmarks, drawn for findings about landmarks."""

  image: UInt8[np.ndarray, 'S S 3']
  points: Float[np.ndarray, 'K 2']  # normalised, all visible


def render(
  *,
  title: str,
  facts: Mapping[str, Any],
  findings: Sequence[Finding],
  sizes: Mapping[str, Sequence[float]],
  thumbnails: Mapping[str, Thumbnail],
  complete: str,
) -> str:
  """Renders the page as HTML.

  Args: sizes: see `audit.sizes`. thumbnails: by file, for the pictures of `shown`; absent for
  pictures that cannot be read. complete: the file beside the page that lists everything.
  """
  named = [finding for finding in findings if finding.groups]
  anchors = {one.name: re.sub(r'\W+', '-', one.name) for one in named}
  sections = [('found', 'What was found', _table(findings, anchors))]
  if sizes:
    sections.append(('sizes', 'Sizes', _sizes(sizes)))
  for one in named:
    heading = one.name[0].upper() + one.name[1:]
    sections.append((anchors[one.name], heading, _finding(one, thumbnails, complete)))
  return page.document(title, page.pairs(facts), sections)


def shown(finding: Finding) -> list[list[Item]]:
  """The groups of a finding that its section shows, each cut to the pictures shown."""
  count = GROUPS if _grouped(finding) else SINGLES
  return [list(group[:MEMBERS]) for group in finding.groups[:count]]


def _grouped(finding: Finding) -> bool:
  return any(len(group) > 1 for group in finding.groups)


def _table(findings: Sequence[Finding], anchors: Mapping[str, str]) -> Markup:
  lines = []
  for one in findings:
    link = element('a', one.name, href=f'#{anchors[one.name]}') if one.groups else one.name
    groups = f'{len(one.groups):,}' if _grouped(one) else ''
    lines.append([link, groups, f'{one.count:,}'])
  return results.table(['', 'groups', 'pictures'], lines, class_='numbers')


def _sizes(sizes: Mapping[str, Sequence[float]]) -> Markup:
  heads = ['', 'least', '5 %', 'median', '95 %', 'largest']
  lines = [[name, *map(_size, itertools.repeat(name), values)] for name, values in sizes.items()]
  return results.table(heads, lines, class_='numbers')


def _size(name: str, value: float) -> str:
  """Whole pixels, and whatever is as large; the aspect has digits."""
  return f'{value:.4g}' if name == 'aspect' and value < 1000 else f'{value:,.0f}'


def _finding(
  finding: Finding, thumbnails: Mapping[str, Thumbnail], complete: str
) -> list[Markup | None]:
  groups, grouped = shown(finding), _grouped(finding)
  rows = groups if grouped else [list(itertools.chain(*groups))]
  parts = [element('p', finding.advice, class_='soft')]
  for whole, row in zip(finding.groups, rows, strict=False):
    figures = [_figure(item, thumbnails.get(item.file), finding.landmarks) for item in row]
    parts.append(element('div', figures, class_='photographs'))
    if grouped:
      parts[-1] = element('div', parts[-1], _rest(len(whole) - len(row), 'picture'), class_='group')
  unit = 'group' if grouped else 'picture'
  return [*parts, _rest(len(finding.groups) - len(groups), unit, f'; all are in {complete}')]


def _rest(count: int, unit: str, where: str = '') -> Markup | None:
  if not count:
    return None
  return element('p', f'and {count:,} more {unit}{"s" * (count > 1)}{where}', class_='soft')


def _figure(item: Item, thumbnail: Thumbnail | None, landmarks: bool) -> Markup:
  if thumbnail is None:
    picture = element('div', class_='missing')
  else:
    points = thumbnail.points if landmarks else thumbnail.points[:0]
    hidden = np.zeros(len(points), bool)
    picture = plot.photograph(
      thumbnail.image, points, target=points, visible=hidden, label=item.file
    )
  note = element('div', item.note) if item.note else None
  return element('figure', picture, element('figcaption', breakable(item.file), note))

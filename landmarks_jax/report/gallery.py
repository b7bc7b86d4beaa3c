"""The pictures of the report: landmarks on photographs, matches between them, and whole sheets."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from landmarks_jax.contracts import Array
from landmarks_jax.report import draw, plot
from landmarks_jax.report.markup import Markup, element

CAPTIONS = {  # by the start of a sheet's name
  'views': 'Each row is one random view of the same pictures.',
  'hypercolumn_components': (
    'Principal components of the hypercolumns of a batch, the largest first: bright is one '
    'end of a component, dark the other, and all pictures share one scale. A component that marks '
    'the same part in every picture is what a linear head can use.'
  ),
  'hypercolumn_rgb': (
    'The first three principal components of the hypercolumns as red, green and blue: places that '
    'look alike to the network have the same colour.'
  ),
  'discovered': (
    'Landmarks that were found without any label: the same colour is the same landmark, and should '
    'be at the same part of every picture.'
  ),
  'painted': 'Above the pictures, below what the method paints from their landmarks alone.',
  'labels': (
    "Each label's direction as a colour, darker where the label is short; where labels have three "
    'dimensions, below them the picture moved to longitude (across) and latitude (up) on their '
    'sphere. The same part should keep its colour and its place.'
  ),
}


def pictures_of(name: str, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
  """The pictures named 'landmarks/<name>' or 'landmarks/<name>_<step>'."""
  pattern = re.compile(rf'landmarks/{re.escape(name)}(_\d{{8,}})?(\.png)?')
  return {key: data for key, data in pictures.items() if pattern.fullmatch(key)}


def sheets(pictures: Mapping[str, bytes]) -> list[Markup]:
  """PNG files at full width; wide ones scroll sideways on a phone."""
  parts = []
  for name, data in pictures.items():
    image = element(
      'img', src=plot.data_url(data, 'image/png'), alt=name, loading='lazy', decoding='async'
    )
    said = (text for start, text in CAPTIONS.items() if name.startswith(start))
    caption = element('figcaption', next(said, ''), ' ', element('span', name, class_='mono'))
    parts.append(element('figure', element('div', image, class_='sheet'), caption))
  return parts


def photographs(
  *,
  images: Sequence[UInt8[np.ndarray, 'S S 3']],
  points: Float[np.ndarray, 'N K 2'],
  target: Float[np.ndarray, 'N K 2'],
  visible: Bool[np.ndarray, 'N K'],
) -> list[Markup]:
  """Pictures with predicted and true landmarks; see `draw.landmark_sheet`."""
  given = zip(images, points, target, visible, strict=True)
  drawn = [
    plot.photograph(image, point, target=true, visible=seen, label=f'test picture {i}')
    for i, (image, point, true, seen) in enumerate(given, start=1)
  ]
  key = [
    element('span', _mark('truth'), 'true'),
    element('span', _mark('prediction'), 'predicted'),
  ]
  return [element('div', key, class_='legend'), element('div', drawn, class_='photographs')]


def _mark(kind: str) -> Markup:
  d = {'truth': 'M15 -.2a4.2 4.2 0 1 1-.01 0z', 'prediction': 'M15 4h.01'}[kind]
  paths = [element('path', class_=f'{kind} {part}', d=d) for part in ('edge', 'fill')]
  return element('svg', *paths, viewBox='0 0 30 8', class_='mark')


def matches(
  *,
  sources: Shaped[Array, 'N S S 3'],
  targets: Shaped[Array, 'N S S 3'],
  query: Float[np.ndarray, 'N K 2'],
  matched: Float[np.ndarray, 'N K 2'],
  target: Float[np.ndarray, 'N K 2'],
  visible: Bool[np.ndarray, 'N K'],
) -> list[Markup]:
  """Pairs of pictures with landmarks of the first found in the second; see `draw.match_sheet`."""
  pictures = draw.to_bytes(sources), draw.to_bytes(targets)
  given = zip(*pictures, query, matched, target, visible, strict=True)
  drawn = [plot.match(*pair, label=f'test pair {i}') for i, pair in enumerate(given, start=1)]
  caption = element('p', MATCH_CAPTION, class_='soft')
  return [caption, element('div', drawn, class_='matches')]


MATCH_CAPTION = (
  'Each landmark of the left picture has its colour. The dot of that colour in the right picture '
  'is where it was found, the ring at the other end of the line where it is.'
)

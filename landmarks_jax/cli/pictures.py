"""The pictures of a run: landmarks and matches on photographs, and what features look like."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from landmarks_jax.cli import completion
from landmarks_jax.cli.experiment import Experiment
from landmarks_jax.contracts import Batch, Describer, Predictions, PyTree
from landmarks_jax.data.source import BadImage, Source, evenly_apart
from landmarks_jax.evaluation import features, scoring
from landmarks_jax.geometry import regions
from landmarks_jax.report import components, draw, labels

DESCRIBED, DRAWN = 32, 8  # from few pictures, components separate pictures, not their parts


def shown(
  parts: Experiment, name: str, predictions: Mapping[str, Predictions]
) -> tuple[str, dict[str, Any]]:
  """Some test pictures of an evaluation, as described: what to draw of its trained row.

  Returns ('landmarks', what `draw.landmark_sheet` takes), or ('matches', what `draw.match_sheet`
  takes) where the protocol shows pairs of pictures.
  """
  protocol, data, options = parts.protocol(name)
  if 'of' in options:  # a study of another protocol
    protocol = completion.find('evaluation', options['of'])
  draws = scoring.draws_by_row(predictions)
  trained = {group: given[0] for (row, group), given in draws.items() if row == scoring.TRAINED}
  most = trained.get('', list(trained.values())[-1])  # labels
  found = trained.get('different', most)
  if hasattr(protocol, 'pictures'):
    chosen = evenly_apart(len(found.index), 6).tolist()

    def open_split(split: str) -> Source:
      return parts.inputs.open(**data, split=split)

    return 'matches', protocol.pictures(open_split, found, chosen, task='different', **options)
  chosen = evenly_apart(len(found.index), 12)
  source = parts.inputs.open(**data, split=options['test'])
  frames = np.stack([source[int(found.index[i])]['image'] for i in chosen])
  return 'landmarks', {
    'images': list(regions.cut_centre(frames, options['margin'])),
    'points': found.points[chosen],
    'target': found.target[chosen],
    'visible': found.visible[chosen],
  }


def sheet(
  parts: Experiment, name: str, predictions: Mapping[str, Predictions]
) -> UInt8[np.ndarray, 'H W 3']:
  """Landmarks on test pictures, or matches between them, as one picture."""
  kind, given = shown(parts, name, predictions)
  if kind == 'matches':
    return draw.match_sheet(**given)
  return draw.landmark_sheet(**given, skeleton=parts.info(name).skeleton)


def of_features(
  parts: Experiment, params: PyTree, aux: PyTree
) -> dict[str, UInt8[np.ndarray, 'H W 3']]:
  """Drawings of the features of test pictures, by name; none without an evaluation."""
  if not parts.config['evals']:
    return {}
  _, data, options = parts.protocol(next(iter(parts.config['evals'])))
  batch = _some(parts.inputs.open(**data, split=options['test']), count=DESCRIBED)
  batch = regions.centre_crop(batch, options['margin'])
  describer = parts.describer(params, aux)
  pyramid = features.compiled(describer.apply)(describer.variables, batch.image)
  found = components.of_pyramid(pyramid)
  drawn = evenly_apart(len(found), DRAWN)
  image, found = batch.image[drawn], found[drawn]
  sheets = {'hypercolumn_components': draw.component_sheet(image, found)}
  if found.shape[-1] >= 3:
    sheets['hypercolumn_rgb'] = draw.rgb_sheet(image, found)
  if len(pyramid) == 1 and pyramid[0].shape[-1] > 1:
    mask = None if batch.flow_valid is None else batch.flow_valid[drawn]
    described = np.asarray(pyramid[0], np.float32)[drawn]
    sheets['labels'] = labels.sheet(image, described, mask=mask, columns=DRAWN)
  return sheets | _of_landmarks(describer, image)


def _of_landmarks(
  describer: Describer, image: UInt8[np.ndarray, 'N S S 3']
) -> dict[str, UInt8[np.ndarray, 'H W 3']]:
  """The landmarks that a method discovers, and the pictures as it paints them, where it can."""
  sheets = {}
  if describer.landmarks is not None:
    points, _ = features.jitted(describer.landmarks)(describer.variables, image)
    sheets['discovered'] = draw.discovered_sheet(image, np.asarray(points), columns=len(image))
  if describer.paint is not None:
    painted = features.jitted(describer.paint)(describer.variables, image, None)
    pairs = np.concatenate([image, draw.to_bytes(painted)])
    sheets['painted'] = draw.enlarged_sheet(pairs, columns=len(image))
  return sheets


def _some(source: Source, *, count: int) -> Batch:
  """Evenly spaced examples; those that cannot be read are left out."""
  examples = []
  for i in evenly_apart(len(source), count).tolist():
    with contextlib.suppress(BadImage):
      examples.append(source[i])
  examples = examples or [features.first_readable(source)]
  return Batch(**{name: np.stack([e[name] for e in examples]) for name in examples[0]})

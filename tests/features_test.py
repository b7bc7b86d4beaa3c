"""Frozen features gathered in batches against describing one picture at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.contracts import Describer
from landmarks_jax.data import pipeline
from landmarks_jax.data.source import BadImage, Info
from landmarks_jax.evaluation import features
from landmarks_jax.evaluation.spread import Spread
from landmarks_jax.runtime import sharding

info = Info(('a', 'b', 'c'), (), (0, 1), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


class Noise:
  """Pictures, points and normalisers at random; those in `bad` cannot be read."""

  info = info

  def __init__(self, count, side=10, bad=()):
    self.count, self.side, self.bad = count, side, bad

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.bad:
      raise BadImage(f'{index}.png', 'is broken')
    rng = np.random.default_rng(index)
    return {
      'image': rng.integers(0, 256, (self.side, self.side, 3), np.uint8),
      'index': np.int32(index),
      'points': rng.uniform(-1, 1, (3, 2)).astype(np.float32),
      'visible': rng.uniform(size=3) < 0.7,
      'scale': np.float32(rng.uniform(1, 2)),
    }


def apply(variables, image, size):
  """Two levels of different size: all of the picture, and each pixel."""
  x = jnp.asarray(image, jnp.float32) / 255
  return x.mean((1, 2), keepdims=True) @ variables['coarse'], x @ variables['fine']


def describer(seed=0):
  rng = np.random.default_rng(seed)
  variables = {'coarse': rng.normal(size=(3, 5)), 'fine': rng.normal(size=(3, 2))}
  return Describer(jax.tree.map(lambda x: x.astype(np.float32), variables), apply)


@pytest.mark.parametrize('margin', [0, 2])
@pytest.mark.parametrize('batch_size', [1, 3, 7, 16])
def test_gathering_is_describing_one_by_one(batch_size, margin):
  source, given = Noise(7), describer()
  batches = pipeline.evaluation_batches(source, batch_size=batch_size)
  found = features.gather(given, batches, margin=margin)
  assert found.image is None
  assert [level.shape for level in found.pyramid] == [
    (7, 1, 1, 5),
    (7, 10 - 2 * margin, 10 - 2 * margin, 2),
  ]
  assert all(level.dtype == jnp.bfloat16 for level in found.pyramid)
  zoom = 9 / (9 - 2 * margin)
  for i in range(7):
    example = source[i]
    image = example['image'][margin : 10 - margin, margin : 10 - margin]
    for level, expected in zip(
      found.pyramid, apply(given.variables, image[None], None), strict=True
    ):
      np.testing.assert_allclose(level[i].astype(np.float32), expected[0], rtol=8e-3, atol=1e-3)
    np.testing.assert_allclose(found.points[i], example['points'] * zoom, rtol=1e-6)
    np.testing.assert_allclose(found.scale[i], example['scale'] * zoom, rtol=1e-6)
    np.testing.assert_array_equal(found.visible[i], example['visible'])
  np.testing.assert_array_equal(found.index, np.arange(7))
  assert found.valid.all()


def test_padding_and_broken_pictures_are_dropped():
  batches = pipeline.evaluation_batches(Noise(7, bad=(0, 4)), batch_size=4)
  found = features.gather(describer(), batches)
  np.testing.assert_array_equal(found.index, [1, 2, 3, 5, 6])
  whole = features.gather(describer(), pipeline.evaluation_batches(Noise(7), batch_size=4))
  for one, all_ in zip(found.pyramid, whole.pyramid, strict=True):
    np.testing.assert_array_equal(one, all_[[1, 2, 3, 5, 6]])


def test_weights_are_arguments_and_compile_once():
  traced = []

  def noted(variables, image, size):
    traced.append(size)
    return apply(variables, image, size)

  found = [
    features.gather(
      describer(seed)._replace(apply=noted),
      pipeline.evaluation_batches(Noise(5), batch_size=5),
    )
    for seed in (0, 1)
  ]
  assert traced == [None]
  assert np.abs(found[0].pyramid[1] - found[1].pyramid[1]).max() > 0.1


def test_eight_devices_gather_what_one_does():
  one, eight = (sharding.mesh(jax.devices()[:n]) for n in (1, 8))
  found = []
  for mesh in (one, eight):
    placed = []

    def place(batch, mesh=mesh, placed=placed):
      placed.append(sharding.to_global(batch, mesh))
      return placed[-1]

    batches = pipeline.evaluation_batches(Noise(11), batch_size=8)
    found.append(features.gather(describer(), batches, margin=1, spread=Spread(place)))
    assert [len(batch.image.devices()) for batch in placed] == [mesh.size] * 2
  for a, b in zip(*(jax.tree.leaves(x) for x in found), strict=True):
    np.testing.assert_array_equal(a, b)


def test_an_example_without_its_index_is_named():
  class Unnumbered(Noise):
    def __getitem__(self, index):
      return {k: v for k, v in super().__getitem__(index).items() if k != 'index'}

  with pytest.raises(ValueError, match=r'^the dataset, example 1: index is absent; expected'):
    features.first_readable(Unnumbered(3, bad=(0,)))


def test_the_first_readable_picture_stands_for_all():
  assert features.first_readable(Noise(4, bad=(0, 1)))['index'] == 2
  with pytest.raises(ValueError, match='none of the 2 pictures can be read'):
    features.first_readable(Noise(2, bad=(0, 1)))


def test_nothing_to_describe_is_an_error():
  blank = next(iter(pipeline.evaluation_batches(Noise(2), batch_size=2)))
  for batches in ([], [blank._replace(valid=np.zeros(2, bool))]):
    with pytest.raises(ValueError, match='there are no readable examples to describe'):
      features.gather(describer(), batches)


class Coco(Noise):
  """The same pictures with COCO's numbers: 0, 1 or 2, of which 1 and 2 are labelled."""

  def __getitem__(self, index):
    example = super().__getitem__(index)
    return example | {'visible': example['visible'] * np.array([1, 2, 2])}


def test_visibility_as_numbers_becomes_true_and_false():
  plain, numbers = (
    features.gather(describer(), pipeline.evaluation_batches(s, batch_size=4))
    for s in (Noise(6), Coco(6))
  )
  assert numbers.visible.dtype == bool
  np.testing.assert_array_equal(numbers.visible, plain.visible)
  plain, numbers = (
    features.gather_warped(describer(), s, np.arange(6), copies=1, warp=WARP)
    for s in (Noise(6), Coco(6))
  )
  np.testing.assert_array_equal(numbers.visible, plain.visible)


# --- warped copies


class Dots:
  """Pictures with one soft dot, whose place is the landmark."""

  info = Info(('dot',), (), 'frame', (0.5,) * 3, (0.2,) * 3)

  def __len__(self):
    return 5

  def __getitem__(self, index):
    points = np.random.default_rng(index).uniform(-0.4, 0.4, (1, 2)).astype(np.float32)
    x, y = (points[0] + 1) / 2 * 39
    away = (np.arange(40) - x) ** 2 + (np.arange(40)[:, None] - y) ** 2
    image = np.repeat(np.rint(255 * np.exp(-away / 18)).astype(np.uint8)[..., None], 3, axis=-1)
    return {
      'image': image,
      'index': np.int32(index),
      'points': points,
      'visible': np.ones(1, bool),
      'scale': np.float32(2),
    }


pixels = Describer((), lambda variables, image, size: (jnp.asarray(image, jnp.float32),))
WARP = {'warp': 5e-4, 'translation': 0.1, 'scale': 0.1, 'rotation': 10.0}


def warped(rows, *, batch_size=4, copies=3, warp=WARP, seed=0):
  return features.gather_warped(
    pixels, Dots(), np.array(rows), copies=copies, warp=warp, margin=2, batch_size=batch_size,
    seed=seed,
  )  # fmt: skip


def test_warped_copies_have_their_points_where_the_dot_is():
  found = warped([3, 0])
  np.testing.assert_array_equal(found.index, [3, 3, 3, 0, 0, 0])
  image = np.asarray(found.pyramid[0][..., 0], np.float64)
  assert image.shape[1:] == (36, 36)
  grid = np.linspace(-1, 1, 36)
  total = image.sum((1, 2))
  centre = np.stack([(image * g).sum((1, 2)) / total for g in (grid, grid[:, None])], -1)
  np.testing.assert_allclose(found.points[:, 0], centre, atol=0.03)  # half a pixel
  assert np.abs(np.diff(found.points[:3, 0], axis=0)).min(0).max() > 0.01  # each its own warp
  np.testing.assert_allclose(found.scale, 2 * 39 / 35, rtol=1e-6)


def test_a_copy_follows_from_the_seed_and_its_numbers_alone():
  one, other = warped([3, 0]), warped([1, 0, 3, 2], batch_size=5)
  for row in (3, 0):
    a, b = (jax.tree.map(lambda x, keep=w.index == row: x[keep], w) for w in (one, other))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      np.testing.assert_allclose(np.asarray(x, float), np.asarray(y, float), atol=1e-4)
  assert np.abs(warped([3], seed=1).points - one.points[:3]).min() > 1e-3


def test_a_warp_without_strength_is_the_picture_itself():
  still = warped([2], warp=dict.fromkeys(WARP, 0.0), copies=1)
  batches = pipeline.evaluation_batches(Dots(), batch_size=5)
  plain = jax.tree.map(lambda x: x[2:3], features.gather(pixels, batches, margin=2))
  np.testing.assert_allclose(still.points, plain.points, atol=1e-5)
  np.testing.assert_allclose(*(np.asarray(b.pyramid[0], float) for b in (still, plain)), atol=1)


def test_features_are_of_the_size_that_is_asked_for():
  def resized(variables, image, size):
    side = 2 if size is None else size
    return tuple(jnp.zeros((len(image), n * side, n * side, 1)) for n in (1, 2))

  for given, levels in (
    (Describer((), resized), (1, 2)),
    (Describer((), features.Levels(resized, 1, 2)), (2,)),
  ):
    for size in (None, 5):
      batches = pipeline.evaluation_batches(Dots(), batch_size=5)
      found = (
        features.gather(given, batches, size=size),
        features.gather_warped(given, Dots(), np.arange(2), copies=1, warp=WARP, size=size),
      )
      for batch in found:
        assert [level.shape[1] for level in batch.pyramid] == [n * (size or 2) for n in levels]


class Sides(Dots):
  """Pictures with a bright dot and, elsewhere, a faint one, which the mirror exchanges."""

  info = Info(('bright', 'faint'), ((0, 1),), 'frame', (0.5,) * 3, (0.2,) * 3)

  def __getitem__(self, index):
    bright, faint = super().__getitem__(index), super().__getitem__(index + 10)
    image = np.maximum(bright['image'], faint['image'] // 2)
    points = np.concatenate([bright['points'], faint['points']])
    return bright | {'image': image, 'points': points, 'visible': np.array([True, False])}


def test_every_second_copy_is_mirrored():
  still = dict.fromkeys(WARP, 0.0)
  found = features.gather_warped(
    pixels, Sides(), np.array([2, 1]), copies=3, warp=still, flip_pairs=[(0, 1)], batch_size=4
  )
  for i, (index, copy) in enumerate(zip(found.index, [0, 1, 2] * 2, strict=True)):
    plain = Sides()[index]
    image, points, visible = plain['image'], plain['points'], plain['visible']
    if copy == 1:
      image, points, visible = image[:, ::-1], points[::-1] * [-1, 1], visible[::-1]
    np.testing.assert_allclose(np.asarray(found.pyramid[0][i], float), image, atol=1)
    np.testing.assert_allclose(found.points[i], points, atol=1e-5)
    np.testing.assert_array_equal(found.visible[i], visible)

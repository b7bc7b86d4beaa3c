import hashlib
import io
import time

import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import duplicates


def groups_by_flooding(prints, distance):
  """Every pair compared, bits counted one by one: what `near` promises."""
  rest, found = set(range(len(prints))), []
  while rest:
    group, edge = set(), {min(rest)}
    while edge:
      group |= edge
      rest -= edge
      edge = {
        b for b in rest for a in edge if bin(int(prints[a]) ^ int(prints[b])).count('1') <= distance
      }
    found.append(sorted(group))
  return [group for group in found if len(group) > 1]


def flipped(rng, value, bits):
  for bit in rng.choice(64, bits, replace=False):
    value ^= 1 << int(bit)
  return value


def family(rng, members, bits):
  """Prints around a random one, each with so many other bits."""
  centre = int(rng.integers(2**64, dtype=np.uint64))
  return [flipped(rng, centre, bits) for _ in range(members)]


@pytest.mark.parametrize('distance', [0, 1, 3, 4, 9, 20])
def test_near_prints_are_those_of_the_slow_comparison(distance):
  rng = np.random.default_rng(distance)
  prints = [p for bits in range(distance + 3) for p in family(rng, 4, bits)]
  chain = [int(rng.integers(2**64, dtype=np.uint64))]
  for _ in range(9):
    chain.append(flipped(rng, chain[-1], distance))
  prints = np.array([*prints, *chain, *prints[:5]], np.uint64)
  prints = prints[rng.permutation(len(prints))]
  expected = groups_by_flooding(prints, distance)
  assert duplicates.near(prints, distance=distance) == expected
  assert 1 < len(expected) < len(prints)
  assert max(map(len, expected)) >= 10


def test_no_pair_within_the_distance_is_missed_wherever_its_bits_are():
  rng = np.random.default_rng(0)
  values = [int(value) for value in rng.integers(2**64, size=300, dtype=np.uint64)]
  for bits, expected in ((4, [[i, i + 300] for i in range(300)]), (5, [])):
    prints = np.array([*values, *(flipped(rng, value, bits) for value in values)], np.uint64)
    assert duplicates.near(prints) == expected


def test_many_prints_of_uneven_bits_take_seconds():
  rng = np.random.default_rng(0)
  bits = rng.random((50_000, 64)) < np.linspace(0.03, 0.5, 64)  # as real pictures': not uniform
  prints = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
  began = time.process_time()
  groups = duplicates.near(prints)
  assert time.process_time() - began < 30  # all pairs would be 1,250 million
  for group in groups[:50]:
    assert groups_by_flooding(prints[group], 4) == [list(range(len(group)))]
  assert groups


def test_equal_files_are_grouped_in_order():
  digests = [hashlib.sha256(text).digest() for text in (b'x', b'y', b'z', b'y', b'x', b'w', b'y')]
  assert duplicates.exact(digests) == [[0, 4], [1, 3, 6]]
  assert duplicates.exact([b'a', b'a\0']) == []
  assert duplicates.exact([]) == []
  assert duplicates.near(np.array([], np.uint64)) == []


def test_a_distance_that_is_none_is_told():
  for distance in (-1, 63):
    with pytest.raises(ValueError, match=f'distance={distance}; expected 0 to 62'):
      duplicates.near(np.zeros(2, np.uint64), distance=distance)


def picture(seed, width=90, height=70):
  """Smooth colours, as photographs have; another one for each seed."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
  return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def recompressed(image, quality):
  data = io.BytesIO()
  Image.fromarray(image).save(data, 'jpeg', quality=quality)
  return np.asarray(Image.open(data))


def apart(a, b):
  return int(np.bitwise_count(duplicates.fingerprint(a) ^ duplicates.fingerprint(b)))


def test_a_picture_saved_again_or_resized_is_near_and_another_one_is_not():
  for seed in range(20):
    image = picture(seed)
    large = np.asarray(Image.fromarray(image).resize((233, 181), Image.Resampling.BICUBIC))
    assert apart(image, recompressed(image, 40)) <= 4
    assert apart(image, recompressed(large, 70)) <= 4
    assert apart(image, picture(seed + 100)) > 10


def test_a_bit_says_that_a_cell_is_brighter_than_the_one_to_its_left():
  levels = np.array([[9, 90, 30, 80, 20, 120, 110, 140, 0]] * 7 + [range(9, 100, 11)], np.uint8)
  image = np.repeat(np.repeat(levels, 5, axis=0), 4, axis=1)[..., None].repeat(3, axis=-1)
  rows = np.unpackbits(np.array([duplicates.fingerprint(image)]).view(np.uint8)).reshape(8, 8)
  np.testing.assert_array_equal(rows, np.diff(levels.astype(int)) > 0)


def plain(colour, *, dot=None, side=64):
  image = np.full((side, side, 3), colour, np.uint8)
  if dot:
    x, y = dot
    image[y : y + 12, x : x + 12] = 200, 30, 30
  return image


def test_pictures_without_detail_are_near_only_to_themselves():
  colours = [(0, 0, 0), (255, 255, 255), (120, 120, 120), (200, 60, 60), (60, 100, 200)]
  different = [plain(c) for c in colours]
  different += [plain((255, 255, 255), dot=(x, y)) for x, y in ((4, 4), (40, 8), (20, 44))]
  prints = np.array([duplicates.fingerprint(image) for image in different])
  assert duplicates.near(prints) == []
  for colour in ((0, 0, 0), (255, 255, 255)):
    assert apart(plain(colour), recompressed(plain(colour, side=150), 50)) == 0
  assert apart(plain((0, 0, 0)), plain((3, 0, 2))) == 0  # as an encoder may change it


def test_tiny_pictures_have_a_print_too():
  image = np.array([[[10, 200, 30], [90, 20, 220]]], np.uint8)
  assert isinstance(duplicates.fingerprint(image), np.uint64)

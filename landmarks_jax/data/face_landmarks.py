"""The two usual sets of landmarks on a face: (names, flip pairs, the eyes that scale errors).

These are the first three fields of `Info`. Left and right are those of the picture.
"""

_parts = {'jaw': 17, 'left_brow': 5, 'right_brow': 5, 'nose_bridge': 4, 'nostrils': 5}
_parts |= {'left_eye': 6, 'right_eye': 6, 'outer_lip': 12, 'inner_lip': 8}
_flips68 = (
  *((i, 16 - i) for i in range(8)),  # jaw
  *((i, 43 - i) for i in range(17, 22)),  # brows
  *((31, 35), (32, 34)),  # nostrils
  *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),  # eyes
  *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58)),  # outer lip
  *((60, 64), (61, 63), (65, 67)),  # inner lip
)

FIVE = ('left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth'), ((0, 1), (3, 4)), (0, 1)
SIXTY_EIGHT = (
  tuple(f'{part}_{i}' for part, count in _parts.items() for i in range(count)),
  _flips68,
  (36, 45),  # the outer corners of the eyes
)

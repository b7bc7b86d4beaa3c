"""Finds what is wrong with a folder of pictures, and with their landmarks.

DIR is any folder of pictures; nothing in it changes. Reported are files that cannot be read, are no
pictures or have several pages, copies and near copies, bursts, odd sizes and kinds, and with
--labels landmarks that are outside their picture, coincide, have left and right exchanged or are
far from where the others have them. The folder --output gets index.html, one page with the
pictures, and findings.csv, the complete list.
"""

import concurrent.futures
import csv
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from landmarks_jax.cli import drafts, paths

REQUIRED = ('DIR',)
PAGE, LIST = 'index.html', 'findings.csv'
CHUNK = 256  # files handed to the threads at once
SIDE = 112  # of a thumbnail in pixels


def define_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Declares the options; returns `argv`."""
  paths.define('DIR', 'Folder of pictures.', values)
  what = 'CSV or COCO JSON file of landmarks, as in data.labels of configs.'
  flags.DEFINE_string('labels', None, what, flag_values=values)
  what = 'Folder that is made; audit_NAME here, for a folder NAME, if absent.'
  paths.define('output', what, values)
  return list(argv)


def run(values: flags.FlagValues) -> int:
  """The command."""
  audit(values.DIR, output=_output(values.DIR, values.output), labels=values.labels)
  return 0


def audit(root: pathlib.Path, *, output: pathlib.Path, labels: str | None = None) -> list[Any]:
  """Writes the page and the list into `output`, prints the table, returns the findings."""
  from landmarks_jax.data import audit as audits  # late: heavy
  from landmarks_jax.data import audit_labels, folder

  files, others = folder.find_kinds(root)
  given = _labels(root, labels)
  looks = list(_looks(root, files))
  findings = [*audits.of_pictures(looks), audits.of_others(others)]
  if given is not None:
    table, flip_pairs = given
    sizes = {one.file: one.size for one in looks if not one.reason}
    unread = {file for files in others.values() for file in files}
    findings += audit_labels.findings(table, sizes, flip_pairs=flip_pairs, others=unread)
    if not flip_pairs and folder.flip_pairs(table.names):  # contradicted, as the warning says
      findings = [one for one in findings if one.name != audit_labels.EXCHANGED]
  with drafts.draft(output) as made:
    _write(made, root, looks, findings, given and given[0])
  print(_table(findings))
  print(f'{len(looks):,} pictures; the page is {output / PAGE}, the whole list {output / LIST}')
  return findings


def _output(root: pathlib.Path, given: pathlib.Path | None) -> pathlib.Path:
  """Where to write: a folder that is new or empty, and inside DIR only if requested."""
  output = given or pathlib.Path(f'audit_{root.resolve().name}')
  if not given and output.resolve().is_relative_to(root.resolve()):
    raise ValueError(f'{output} would be written into {root} itself; say where with --output=DIR')
  drafts.check_new(output)
  return output


def _labels(root: pathlib.Path, labels: str | None) -> tuple[Any, Any] | None:
  """The labels and the flip pairs; a known layout is recognised without --labels."""
  from landmarks_jax.data import folder, youtube_faces_68
  from landmarks_jax.interop.landmark_csv import LabelTable

  if labels is not None:
    table = folder.read_labels(root, labels)
    return table, folder.label_pairs(table)
  if not youtube_faces_68.is_layout(root):
    return None
  known = youtube_faces_68.source(str(root), split='all')
  print('the folder has the layout of youtube_faces_68: its landmarks are looked at too')
  places = dict.fromkeys(known.labels, '*_frames_keypoints.csv')
  return LabelTable(root, known.info.names, known.labels, places), known.info.flip_pairs


def _looks(root: pathlib.Path, files: Sequence[str]) -> Iterator[Any]:
  """Every file's look, in order, read in threads; an interrupt waits for at most a chunk."""
  from landmarks_jax.data import audit as audits
  from landmarks_jax.runtime import logs

  tally = logs.Tally(len(files))
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for start in range(0, len(files), CHUNK):
      chunk = files[start : start + CHUNK]
      yield from pool.map(lambda file: audits.look(root, file), chunk)
      tally(start + len(chunk))


def _write(
  output: pathlib.Path,
  root: pathlib.Path,
  looks: Sequence[Any],
  findings: Sequence[Any],
  labels: Any,
) -> None:
  from landmarks_jax.data import audit as audits
  from landmarks_jax.report import audit_page

  good = {one.file: one for one in looks if not one.reason}
  thumbnails = {}
  for finding in findings:
    for item in (item for group in audit_page.shown(finding) for item in group):
      if item.file in good and item.file not in thumbnails:
        thumbnails[item.file] = _thumbnail(root, good[item.file], labels)
  facts = {'Pictures': f'{len(looks):,}', 'Folder': str(root.resolve())}
  if labels is not None:
    facts |= {'Labelled': f'{len(labels.points):,}', 'Landmarks': len(labels.names)}
  text = audit_page.render(
    title=f'Audit of {root.resolve().name}',
    facts=facts,
    findings=findings,
    sizes=audits.sizes(looks),
    thumbnails=thumbnails,
    complete=LIST,
  )
  output.mkdir()
  with (output / LIST).open('w', newline='', encoding='utf-8', errors='backslashreplace') as file:
    lines = csv.writer(file)
    lines.writerow(['finding', 'group', 'file', 'note'])
    for finding in findings:
      for number, group in enumerate(finding.groups, start=1):
        lines.writerows([finding.name, number, item.file, item.note] for item in group)
  (output / PAGE).write_text(text, encoding='utf-8')


def _thumbnail(root: pathlib.Path, look: Any, labels: Any) -> Any:
  import numpy as np

  from landmarks_jax.data import folder, images
  from landmarks_jax.report import audit_page

  image = images.read(root / look.file, rotate=True, min_side=SIDE)
  square = images.square_frame(image, folder.crop_box('pad', *image.shape[1::-1]), SIDE)
  pixels = np.empty((0, 2))
  if labels is not None and look.file in labels.points:
    pixels = labels.points[look.file]
    pixels = pixels[np.isfinite(pixels).all(axis=-1)]
  points = images.frame_points(pixels, folder.crop_box('pad', *look.size), SIDE)
  return audit_page.Thumbnail(square, points)


def _table(findings: Sequence[Any]) -> str:
  lines = [('', 'groups', 'pictures')]
  for one in findings:
    groups = f'{len(one.groups):,}' if one.count > len(one.groups) else ''
    lines.append((one.name, groups, f'{one.count:,}'))
  return '\n'.join(f'{name:<26}{groups:>8}{count:>10}' for name, groups, count in lines)

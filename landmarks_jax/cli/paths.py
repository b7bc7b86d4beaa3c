"""Options that are paths: `pathlib.Path` in `run`, with ~ as the home folder."""

import os
import pathlib

from absl import flags


def define(name: str, what: str, values: flags.FlagValues) -> None:
  """Declares an option, None unless given. what: its help."""
  flags.DEFINE(_Path(), name, None, what, flag_values=values)


class _Path(flags.ArgumentParser):
  def parse(self, argument: str) -> pathlib.Path:
    if not argument:  # as from a variable of the shell that is not set; it is not the folder '.'
      raise ValueError('expected a path')
    return pathlib.Path(os.path.expanduser(argument))  # leaves an unknown ~NAME as it is

"""`python -m landmarks_jax COMMAND`: see cli/main.py."""

import sys

from landmarks_jax.cli.main import main

if __name__ == '__main__':
  sys.exit(main(sys.argv))

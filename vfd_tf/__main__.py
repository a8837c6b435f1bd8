"""`python -m vfd_tf` is the command line, as `vfd` and `python run.py` are."""

import sys

from vfd_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""Train and evaluate: python run.py --method=hat --vfd_lambda=0.01 (--help for more)."""

import sys

from vfd_tf.command import main

if __name__ == "__main__":
    sys.exit(main())

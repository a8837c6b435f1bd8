"""Train and evaluate: python run.py --method=hat --vfd_lambda=0.01 (--help for more)."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from vfd_tf.command import main

if __name__ == "__main__":
    sys.exit(main())

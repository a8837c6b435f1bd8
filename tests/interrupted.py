"""The command line, to which a signal comes at one moment, as if from outside.

python interrupted.py step 5 SIGTERM FLAGS...         when 5 steps were trained
python interrupted.py checkpoint 2 SIGKILL FLAGS...   the 2nd checkpoint half written
"""

import os
import re
import signal
import sys

import vfd_tf  # noqa: F401, before TensorFlow

# isort: split
import numpy as np

from vfd_tf.cli import main
from vfd_tf.training.devices import dispatch


class Moment:
    """The so-manieth time that something happens."""

    def __init__(self, what, count, signal_name):
        self.what, self.left = what, int(count)
        self.signal = signal.Signals[signal_name]

    def comes(self, what):
        """Notes that something happens; whether it is the moment."""
        self.left -= what == self.what
        return what == self.what and not self.left

    def send(self):
        print(f"{self.signal.name} comes", flush=True)
        os.kill(os.getpid(), self.signal)


def at_steps(moment):
    """Lets the signal come behind a step of training."""
    run = dispatch.Dispatch._run

    def counted(self, data):
        run(self, data)
        if self.one_size and moment.comes("step"):  # an evaluation has any size
            moment.send()

    dispatch.Dispatch._run = counted


def at_checkpoints(moment):
    """Lets the signal come while a checkpoint is written."""
    whole = np.savez

    def half(file, *args, **arrays):
        whole(file, *args, **arrays)
        name = str(getattr(file, "name", ""))
        if re.search(r"\.npz.*\.part$", name) and moment.comes("checkpoint"):
            file.flush()
            os.truncate(name, os.path.getsize(name) // 2)
            moment.send()

    np.savez = half


if __name__ == "__main__":
    moment = Moment(*sys.argv[1:4])
    at_steps(moment)
    at_checkpoints(moment)
    sys.exit(main.main([sys.argv[0], *sys.argv[4:]]))

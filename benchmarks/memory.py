"""Resident memory over many training steps: flat, or growing.

    python -m benchmarks.memory --steps=1000

Trains through `trainer.fit` on the input pipeline of CIFAR, logs the resident set of this
process every so many steps and fits a line through the second half.
"""

import argparse
import os
import pathlib
import resource
import sys

import vfd_tf  # noqa: F401  before TensorFlow

# isort: split
import keras
import numpy as np

from benchmarks import machine, pipeline, step, timing
from vfd_tf.data.datasets import Augmentation
from vfd_tf.models.architectures import ARCHITECTURES

MIB = 1024**2


def resident() -> float:
    """Resident set of this process now, in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def peak() -> float:
    """The largest resident set this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


class ResidentSet(keras.callbacks.Callback):
    """Appends (steps so far, MiB) to `log` every `every` steps."""

    def __init__(self, every):
        super().__init__()
        self.every, self.steps, self.log = every, 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps % self.every == 0:
            self.log.append((self.steps, resident()))


def slope(log) -> float:
    """Least-squares growth in the second half of the log, in MiB per 1,000 steps."""
    steps, mib = np.array(log[len(log) // 2 :]).T
    return 1000 * np.polyfit(steps, mib, 1)[0]


def run(options):
    """The log of one `fit` of `options.steps` steps, in epochs of `options.epoch`."""
    student, teacher = (step.network(options.arch, options.width) for _ in range(2))
    trainer = step.trainer_of(options.pair, options.attack_steps, student, teacher)
    data = pipeline.images(options.images)
    data = data.train_batches(options.batch_size, augmentation=Augmentation(4, True))
    callback = ResidentSet(options.every)
    trainer.fit(
        data,
        steps_per_epoch=min(options.epoch, options.steps),
        epochs=-(-options.steps // options.epoch),
        callbacks=[callback],
        verbose=0,
    )
    return callback.log


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pair", default="trades+vfd")
    parser.add_argument("--arch", default="resnet8", choices=tuple(ARCHITECTURES))
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--attack_steps", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="training steps")
    parser.add_argument("--every", type=int, default=50, help="steps between two readings")
    parser.add_argument("--epoch", type=int, default=250, help="steps in an epoch")
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args(arguments)
    if options.steps < 4 * options.every:
        parser.error("a line through the second half needs --steps of 4 x --every or more")
    return options


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    line = machine.command("memory", arguments)
    print(machine.header(line, machine.tensorflow_facts()))
    log = run(options)
    print(timing.table(("step", "RSS (MiB)"), [(n, f"{mib:.1f}") for n, mib in log]))
    warm = next(entry for entry in log if entry[0] >= options.steps / 10)
    summary = [
        (f"after warm-up (step {warm[0]})", f"{warm[1]:.1f} MiB"),
        (f"at the end (step {log[-1][0]})", f"{log[-1][1]:.1f} MiB"),
        ("growth in the second half", f"{slope(log):+.2f} MiB per 1,000 steps"),
        ("peak", f"{max(peak(), *(mib for _, mib in log)):.1f} MiB"),
    ]
    print("\n" + timing.table(("resident memory", ""), summary), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

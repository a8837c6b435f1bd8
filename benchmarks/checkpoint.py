"""What a checkpoint costs: the steps of a fit that saves, and of the same fit that doesn't.

    python -m benchmarks.checkpoint --arch=resnet18 --batch_size=32

One training with EMA, whose `Checkpoint` writes after every `--every` steps. What counts
is how long the training thread waits for it, and how much longer the steps beside it take.
"""

import argparse
import os
import sys
import tempfile
import time

import vfd_tf  # noqa: F401  before TensorFlow

# isort: split
import keras
import numpy as np

from benchmarks import machine, step, timing
from vfd_tf import AdversarialTrainer, TrainingOptions
from vfd_tf.callbacks import Checkpoint
from vfd_tf.models.architectures import ARCHITECTURES


class Timed(Checkpoint):
    """Notes how long the training thread is held up by each checkpoint."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.waited = []

    def _save(self):
        start = time.perf_counter()
        super()._save()
        self.waited.append(time.perf_counter() - start)


class Steps(keras.callbacks.Callback):
    """Notes the seconds of each step, without what callbacks do."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def fit(options, folder, every):
    """(seconds of each step but the first three, seconds waited at each save)."""
    trainer = AdversarialTrainer(
        step.network(options.arch, options.width),
        "natural",
        options=TrainingOptions(average="ema"),
    )
    trainer.compile()
    count = options.steps * options.batch_size
    x = np.random.default_rng(0).uniform(size=(count, 32, 32, 3)).astype("float32")
    steps, saves = Steps(), Timed(folder, steps=every)
    own = {"batch_size": options.batch_size, "callbacks": [steps, saves], "verbose": 0}
    trainer.fit(x, np.arange(count) % 10, **own)
    return steps.seconds[3:], saves.waited


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="resnet18", choices=sorted(ARCHITECTURES))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10.0)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        alone, _ = fit(options, os.path.join(folder, "none"), 10**9)
        beside, waited = fit(options, os.path.join(folder, "all"), options.every)
        sizes = [entry.stat().st_size for entry in os.scandir(os.path.join(folder, "all"))]
    line = machine.command("checkpoint", sys.argv[1:] if arguments is None else arguments)
    print(machine.header(line, machine.tensorflow_facts()))
    longer = max(0.0, sum(beside) - len(beside) * np.median(alone)) / len(waited)
    cost = np.mean(waited) + longer
    rows = [
        ["size of a checkpoint (MB)", f"{max(sizes) / 1e6:.1f}"],
        ["a step without (ms, median)", f"{np.median(alone) * 1e3:.1f}"],
        ["training waits for one (ms, mean)", f"{np.mean(waited) * 1e3:.1f}"],
        ["training waits for one (ms, largest)", f"{max(waited) * 1e3:.1f}"],
        ["steps beside one take longer (ms, mean)", f"{longer * 1e3:.1f}"],
        ["of the time", f"{cost / (60 * options.minutes):.2%}"],
    ]
    print(f"\n{timing.table(['what', f'every {options.minutes:g} minutes'], rows)}")


if __name__ == "__main__":
    main()

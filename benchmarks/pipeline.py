"""Images a second of the input pipelines, and their share of a training step.

    python -m benchmarks.pipeline --step_ms=9000

Times `Images.train_batches` (crop and flip) and `Images.batches` (evaluation) alone, with
nothing else at work. On a CPU the pipeline takes its time from the step; beside a GPU it
runs while the step does, and only a share above 100% holds the step up.
"""

import argparse
import itertools
import sys

import numpy as np

from benchmarks import machine, timing
from vfd_tf.data.datasets import Augmentation, Images

FILLED = 16  # batches that may lie ready in the buffers while another pipeline is timed


def images(count: int) -> Images:
    """Uniform noise in the form of CIFAR."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (count, 32, 32, 3), dtype="uint8")
    return Images(x, random.integers(0, 10, count).astype("int32"))


def reader(data, count):
    """A function that times the next `count` batches: () -> seconds."""
    iterator = iter(data)

    def read(number):
        for element in itertools.islice(iterator, number):
            last = element[0]
        return last.numpy()

    def seconds():
        read(FILLED)
        return timing.timed(lambda: read(count))()

    return seconds


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=200, help="timed in each repeat")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--step_ms", type=float, help="of a training step of this batch size, for the share"
    )
    return parser.parse_args(arguments)


def rows(seconds, options):
    """One row a pipeline: medians, and the share of a step if one is given."""
    for name, own in seconds.items():
        a_batch = timing.milliseconds(own) / options.batches
        share = f"{a_batch / options.step_ms:.2%}" if options.step_ms else ""
        rate = options.batch_size / a_batch * 1000
        yield name, f"{rate:,.0f}", f"{a_batch:.3f}", f"{timing.spread(own):.1%}", share


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    facts = machine.tensorflow_facts()
    print(machine.header(machine.command("pipeline", arguments), facts))
    data, augmentation = images(options.images), Augmentation(pad=4, flip=True)
    pipelines = {
        "train_batches (crop, flip)": data.train_batches(
            options.batch_size, augmentation=augmentation
        ),
        "batches": data.batches(options.batch_size).repeat(),
    }
    readers = {name: reader(data, options.batches) for name, data in pipelines.items()}
    for read in readers.values():
        read()
    seconds = timing.interleave(readers, options.repeats)
    columns = "pipeline", "images/s", "ms/batch", "spread", "share of the step"
    print(timing.table(columns, rows(seconds, options)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

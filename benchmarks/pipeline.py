"""Images a second of the input pipelines, and their share of a training step.

    python -m benchmarks.pipeline --step_ms=9000
    python -m benchmarks.pipeline --image_size=224 --images=2000 --batch_size=32

Times `Images.train_batches` (crop and flip) and `Images.batches` (evaluation) alone, with
nothing else at work. On a CPU the pipeline takes its time from the step; beside a GPU it
runs while the step does, and only a share above 100% holds the step up.

With an image size, times the crops of that size of photographs of 500x375 pixels: held in
memory, out of JPEG files, and out of array records; beside Keras's reader of the same
files, which resizes without antialiasing and neither crops nor flips.
"""

import argparse
import itertools
import sys
import tempfile
import time

import numpy as np

from benchmarks import machine, photographs, timing
from vfd_tf.data import datasets
from vfd_tf.data.datasets import Augmentation, Images

# isort: split

import keras

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


def fresh_reader(data, count, cpu):
    """As `reader`, with a new iterator each time: nothing reads ahead in between.

    Appends to `cpu` the seconds of all cores, which neighbours disturb less.
    """

    def seconds():
        iterator = iter(data)
        next(iterator)
        before = time.process_time()
        found = timing.timed(lambda: [next(iterator) for _ in range(count)])()
        cpu.append(time.process_time() - before)
        return found

    return seconds


def small(options):
    """The pipelines of small images in memory."""
    data, augmentation = images(options.images), Augmentation(pad=4, flip=True)
    return {
        "train_batches (crop, flip)": data.train_batches(
            options.batch_size, augmentation=augmentation
        ),
        "batches": data.batches(options.batch_size).repeat(),
    }


def large(options, root):
    """The pipelines of photographs, in memory and out of a folder."""
    photographs.folder(f"{root}/files", options.images)
    name = photographs.records(f"{root}/files", root)
    sources = {
        "memory": (f"dir:{root}/files", "memory"),
        "JPEG files": (f"dir:{root}/files", "disk"),
        "array records": (f"tfds:{name}", "disk"),
    }
    pipelines, augmentation = {}, Augmentation(crop=options.image_size, flip=True)
    for title, (source, hold) in sources.items():
        data = datasets.load(source, root, image_size=options.image_size, hold=hold)
        pipelines[f"train_batches, {title}"] = data.train.train_batches(
            options.batch_size, augmentation=augmentation
        )
    theirs = keras.utils.image_dataset_from_directory(
        f"{root}/files/train",
        image_size=(options.image_size,) * 2,
        batch_size=options.batch_size,
        verbose=False,
    )
    return pipelines | {"image_dataset_from_directory": theirs.repeat()}


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, help="of photographs; else 32x32 noise")
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
    with tempfile.TemporaryDirectory() as root:
        pipelines = large(options, root) if options.image_size else small(options)
        measure(pipelines, options)


def measure(pipelines, options):
    """Times the pipelines in turn and prints the table."""
    count, cpu = options.batches, {name: [] for name in pipelines}
    if options.image_size:
        readers = {n: fresh_reader(data, count, cpu[n]) for n, data in pipelines.items()}
    else:
        readers = {name: reader(data, count) for name, data in pipelines.items()}
    for read in readers.values():
        read()
    seconds = timing.interleave(readers, options.repeats)
    columns = ["pipeline", "images/s", "ms/batch", "spread", "share of the step"]
    table = [list(row) for row in rows(seconds, options)]
    if options.image_size:
        columns.append("CPU ms/image")
        for row in table:
            an_image = timing.milliseconds(cpu[row[0]]) / count / options.batch_size
            row.append(f"{an_image:.2f}")
    print(timing.table(columns, table), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

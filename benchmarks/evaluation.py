"""A whole evaluation: what early stopping saves, and what AutoAttack costs an image.

    python -m benchmarks.evaluation --model=runs/NAME/last.keras --attack=pgd20

Without --model: a fresh ResNet-18 of the given width, whose own predictions are taken for
labels, in a ball so small that it stays right on every image.
"""

import argparse
import sys
import time

import vfd_tf  # noqa: F401, before TensorFlow

# isort: split
import keras
import numpy as np

from benchmarks import machine, step, timing, worker
from vfd_tf import datasets
from vfd_tf.evaluation import Engine, protocol
from vfd_tf.models import network


def images(options):
    """The model, images [n, h, w, c] and labels [n]."""
    if options.model:
        data = datasets.load(options.dataset, options.data_dir)
        test = data.test[: options.images]
        return network.load(options.model), test.floats(), test.y
    keras.utils.set_random_seed(0)
    model = network.classifier(step.network("resnet18", options.width))
    levels, _ = worker.batch(options.images)
    x = np.frombuffer(levels, "uint8").reshape(-1, 32, 32, 3) / np.float32(255)
    return model, x, Engine(model, options.batch_size).logits(x).argmax(-1)


def measure(options, model, x, y):
    """Seconds with and without early stop, {name: [seconds]}, and the verdicts."""
    engines = {"early stop": Engine(model, options.batch_size)}
    if not options.alone:
        engines["to the end"] = Engine(model, options.batch_size, early_stop=False)
    if options.craft_precision:
        craft = options.craft_precision
        engines[craft] = Engine(model, options.batch_size, craft=craft)
    epsilon = 8 / 255 if options.model else 1e-6
    attack, verdicts = protocol(options.attack, epsilon), {}

    def run(name):
        start = time.perf_counter()
        verdicts[name] = engines[name].correct((x, y), attack)
        return time.perf_counter() - start

    timers = {name: lambda name=name: run(name) for name in engines}
    for name in timers if options.warm else ():
        run(name)
    return timing.interleave(timers, options.repeats), verdicts


def forward_seconds(options, model, x):
    """Seconds an image takes in a compiled forward of a whole batch."""
    engine, batch = Engine(model, options.batch_size), x[: options.batch_size]
    forward = timing.timed(lambda: engine.logits(batch))
    forward()
    return timing.milliseconds([forward() for _ in range(20)]) / 1000 / len(batch)


def rows(seconds, verdicts, forward):
    """One row a way: seconds, images a minute, forwards an image that stays robust.

    And the ratio of the time, and the verdicts that differ, from those of early stop.
    """
    for name, own in seconds.items():
        whole, verdict = timing.milliseconds(own) / 1000, verdicts[name]
        each = whole / forward / max(verdict.sum(), 1)
        differ = int((verdict != verdicts["early stop"]).sum())
        yield (
            name,
            f"{whole:.1f}",
            f"{60 * len(verdict) / whole:.0f}",
            f"{100 * verdict.mean():.2f}",
            f"{each:,.0f}",
            f"{timing.ratio(own, seconds['early stop']):.2f}",
            differ,
        )


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a .keras file")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data_dir", help="folder of tensorflow-datasets")
    parser.add_argument("--width", type=float, default=0.25, help="without --model")
    parser.add_argument("--attack", default="pgd20", help="a protocol")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="not to the end, too")
    parser.add_argument("--craft_precision", help="craft in it, too: mixed_bfloat16")
    parser.add_argument("--cold", dest="warm", action="store_false", help="with tracing")
    return parser.parse_args(arguments)


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    model, x, y = images(options)
    line = machine.command("evaluation", arguments)
    print(machine.header(line, machine.tensorflow_facts()), flush=True)
    forward = forward_seconds(options, model, x)
    seconds, verdicts = measure(options, model, x, y)
    columns = (
        options.attack,
        "seconds",
        "images/min",
        "robust (%)",
        "forwards / robust image",
    )
    columns += "ratio", "verdicts differ"
    print(timing.table(columns, rows(seconds, verdicts, forward)))
    print(f"\n{len(x)} images, forward {1000 * forward:.3f} ms an image")


if __name__ == "__main__":
    main(sys.argv[1:])

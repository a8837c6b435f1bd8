"""Training step time against its floor: the forwards it can't do without.

    python -m benchmarks.step --pairs=trades,trades+vfd
    python -m benchmarks.step --pairs=trades --precision=float32,mixed_bfloat16

The floor is the number of forward-equivalents of a step (`units`) times the measured time
of one compiled forward of the same batch on the same network, in inference mode and in the
same precision. Steps and forwards are timed in the same process and interleaved.
"""

import argparse
import itertools
import math
import sys

import vfd_tf  # before TensorFlow

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks import machine, timing
from vfd_tf.models.architectures import ARCHITECTURES
from vfd_tf.models.precision import POLICIES
from vfd_tf.training.methods import METHODS
from vfd_tf.training.optimizers import SGD

CLASSES, SHAPE = 10, (32, 32, 3)
TRAINING_PASSES = {"natural": 1, "pgd-at": 1, "alp": 2, "trades": 2, "mart": 2, "hat": 3}
TRAINING_PASSES |= {"gat": 2, "dkl": 2, "ikl": 2, "ar-at": 2}
CLEAN_LOGITS = (
    "trades",
    "hat",
    "gat",
    "dkl",
    "ikl",
)  # the score of their attack reads them
JIT = {"auto": "auto", "on": True, "off": False}


def units(pair: str, steps: int) -> int:
    """The floor of a pair, in forwards of the batch.

    A forward is 1, a backward pass to the inputs 1 and one to the weights 1: an attack
    step costs 2, a training pass 3, a pass of a frozen network 1. What is elementwise,
    the optimizer and the metrics are free. VFD adds the teacher on clean images, and for
    PGD-AT the student on them.
    """
    method, distillation = split(pair)
    attack = 0 if method == "natural" else 2 * steps + (method in CLEAN_LOGITS)
    passes, frozen = TRAINING_PASSES[method], int(method == "hat")
    if distillation == "vfd":
        frozen += 1
        passes += method == "pgd-at"
    return attack + 3 * passes + frozen


def split(pair: str) -> tuple[str, str]:
    """(method, distillation) of "trades" or "trades+vfd"."""
    method, _, distillation = pair.partition("+")
    if method not in METHODS or distillation not in ("", "vfd"):
        raise SystemExit(
            f"Unknown pair {pair!r}: a method ({', '.join(METHODS)}), alone or with +vfd."
        )
    return method, distillation or "none"


def network(arch: str, width: float):
    """A fresh network for images of 32x32x3 and 10 classes."""
    return ARCHITECTURES[arch](SHAPE, CLASSES, width)


def trainer_of(pair, steps, student, teacher, jit_compile="auto", precision="float32"):
    """The compiled trainer of a pair, as a user builds it."""
    method, distillation = split(pair)
    needed = method == "hat" or distillation == "vfd"
    trainer = vfd_tf.AdversarialTrainer(
        student,
        method,
        vfd_tf.attacks.PGD(steps=steps),
        distillation,
        teacher=teacher if needed else None,
        options=vfd_tf.TrainingOptions(precision=precision),
    )
    # A small learning rate: the labels are noise, and the losses are to stay finite.
    trainer.compile(SGD(1e-3, 0.9, weight_decay=2e-4), jit_compile=jit_compile)
    return trainer


def build(options) -> dict:
    """The trainer of every pair and precision, each with a student of its own."""
    teacher = network(options.arch, options.width)
    jit_compile = JIT[options.jit_compile]
    return {
        (pair, precision): trainer_of(
            pair,
            options.steps,
            network(options.arch, options.width),
            teacher,
            jit_compile,
            precision,
        )
        for pair in options.pairs
        for precision in options.precision
    }


def step_of(trainer, x, y):
    """The compiled training step of `fit` without a data pipeline: () -> loss."""
    train, iterator = trainer.make_train_function(), itertools.repeat((x, y))

    def step() -> float:
        # Fetching a result waits for the device.
        loss = float(train(iterator)["loss"].numpy())
        if not math.isfinite(loss):
            raise SystemExit("The loss is no longer finite: its times mean nothing.")
        return loss

    return step


def forward_of(trainer, x):
    """One compiled forward in inference mode: () -> logits."""

    @tf.function(jit_compile=trainer.jit_compile, autograph=False)
    def forward(images):
        with trainer.computing():
            return trainer.network(images, training=False)["logits"]

    return lambda: forward(x).numpy()


def batch(size: int):
    """Uniform noise as images and labels, on the device."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(size, *SHAPE)).astype("float32")
    return tf.constant(x), tf.constant(random.integers(0, CLASSES, size).astype("int32"))


def measure(trainers, options) -> dict[str, list[float]]:
    """Seconds of every repeat of the steps and the forwards of every trainer."""
    (x, y), functions = batch(options.batch_size), {}
    for key, trainer in trainers.items():
        functions["step", *key] = step_of(trainer, x, y)
        functions["forward", *key] = forward_of(trainer, x)
    for function in functions.values():
        for _ in range(2):
            function()
    timers = {name: timing.timed(function) for name, function in functions.items()}
    return timing.interleave(timers, options.repeats)


def rows(seconds, keys, steps):
    """One row a pair and precision: floor, medians, their ratios to what they add to."""
    for pair, precision in keys:
        floor, own = units(pair, steps), seconds["step", pair, precision]
        forward = timing.milliseconds(seconds["forward", pair, precision])
        base, overhead = split(pair)[0], ""
        if base != pair and (base, precision) in keys:
            expected = floor / units(base, steps)
            ratio = timing.ratio(own, seconds["step", base, precision])
            overhead = f"{ratio:.3f} (floor {expected:.3f})"
        full, speed = seconds.get(("step", pair, "float32")), ""
        if full is not None and precision != "float32":
            speed = f"{timing.ratio(full, own):.2f}"
        step = timing.milliseconds(own)
        yield (
            pair,
            precision,
            floor,
            f"{forward:.2f}",
            f"{step:.1f}",
            f"{timing.spread(own):.1%}",
            f"{step / (floor * forward):.2f}",
            overhead,
            speed,
        )


COLUMNS = (
    "pair",
    "precision",
    "floor (forwards)",
    "forward (ms)",
    "step (ms)",
    "spread",
    "step / floor",
    "VFD / base",
    "float32 / own",
)


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = "natural,natural+vfd,pgd-at,pgd-at+vfd,trades,trades+vfd,hat,hat+vfd"
    parser.add_argument("--pairs", default=default, help="comma list, or all")
    parser.add_argument("--arch", default="resnet18", choices=tuple(ARCHITECTURES))
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--jit_compile", default="auto", choices=tuple(JIT), help="XLA")
    precisions = f"comma list of {', '.join(POLICIES)}"
    parser.add_argument("--precision", default="float32", help=precisions)
    options = parser.parse_args(arguments)
    options.precision = options.precision.split(",")
    every = ",".join(f"{method},{method}+vfd" for method in METHODS)
    options.pairs = (every if options.pairs == "all" else options.pairs).split(",")
    for pair in options.pairs:
        split(pair)
    return options


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    tf.get_logger().setLevel("ERROR")  # one trace a pair is taken for retracing
    trainers = build(options)
    compiled = {trainer.jit_compile for trainer in trainers.values()}
    facts = {**machine.tensorflow_facts(), "XLA": "on" if compiled == {True} else "off"}
    print(machine.header(machine.command("step", arguments), facts), flush=True)
    seconds = measure(trainers, options)
    print(timing.table(COLUMNS, rows(seconds, [*trainers], options.steps)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

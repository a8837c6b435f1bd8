"""How large Gamma of eq. 5 is, layer by layer: what a lambda for a layer has to weigh.

    python -m benchmarks.feature_distance --teacher=runs/A/best.keras runs/B runs/C

Means over test images of ||F^k(x) - F_T^k(x)|| and ||F^k(x') - F_T^k(x)|| (PGD-10 on
cross-entropy), for a fresh network and the last student of each run, beside the norm of
the teacher's own features.
"""

import argparse
import pathlib
import sys

import vfd_tf  # noqa: F401, before TensorFlow

# isort: split
import keras
import numpy as np
import tensorflow as tf

from benchmarks import machine
from vfd_tf import architectures, attacks, datasets, losses, noise, text
from vfd_tf.experiments.record import Record
from vfd_tf.models import network

BATCH = 100


def layers_of(model):
    """layer1, layer1_preact, ... and logits, in order."""
    names = [layer.name for layer in model.layers if layer.name.startswith("layer")]
    return [*sorted(names), "logits"]


def distances(student, teacher, x, y, epsilon):
    """{layer: (clean, adversarial, norm of the teacher's features)}, means over images."""
    names = layers_of(teacher)
    ours, theirs = network.tap(student, names), network.tap(teacher, names)
    attack = attacks.PGD(epsilon)

    @tf.function(autograph=False)
    def of_batch(x, y, seeds):
        def logits_fn(images):
            return ours(images, training=False)["logits"]

        x_adv = attack(logits_fn, x, attacks.cross_entropy(y), seeds=seeds)
        clean, adv, vanilla = ours(x), ours(x_adv), theirs(x)
        return {
            k: tf.stack(
                [
                    losses.euclidean(clean[k], vanilla[k]),
                    losses.euclidean(adv[k], vanilla[k]),
                    losses.euclidean(vanilla[k], tf.zeros_like(vanilla[k])),
                ]
            )
            for k in names
        }

    parts = []
    for i in range(0, len(x), BATCH):
        images, labels = x[i : i + BATCH], y[i : i + BATCH]
        seeds = noise.example_seeds(0, 0, i + tf.range(len(images)))
        parts.append(of_batch(images, labels, seeds))
    return {k: np.concatenate([p[k] for p in parts], 1).mean(1) for k in names}


def table(rows):
    """Markdown: one row a layer, one column a student."""
    layers = list(next(iter(rows.values())))
    body = []
    for k in layers:
        cells = [f"{d[k][0]:.2f} / {d[k][1]:.2f}" for d in rows.values()]
        body.append([k, f"{next(iter(rows.values()))[k][2]:.2f}", *cells])
    return text.markdown(["layer", "teacher's norm", *rows], body)


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--teacher", required=True, help="a vanilla .keras file")
    parser.add_argument("--data_dir", help="folder of tensorflow-datasets")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epsilon", type=float, default=8 / 255)
    return parser.parse_args(arguments)


def fresh(run, data):
    """An untrained network of a run's architecture."""
    identity = run.identity
    build = architectures.architecture(identity["arch"])
    known = identity["normalize"]
    mean, variance = (data.mean, data.variance) if known else (0.0, 1.0)
    keras.utils.set_random_seed(0)
    return build(data.input_shape, data.num_classes, identity["width"], mean, variance)


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    line = machine.command("feature_distance", arguments)
    print(machine.header(line, machine.tensorflow_facts()))
    first = Record(options.runs[0])
    data = datasets.load(first.identity["dataset"], options.data_dir)
    test = data.test[: options.images]
    x, y = test.floats(), test.y
    teacher = network.load(options.teacher)
    students = {"fresh": fresh(first, data)}
    for path in options.runs:
        students[pathlib.Path(path).name] = network.load(f"{path}/last.keras")
    rows = {n: distances(s, teacher, x, y, options.epsilon) for n, s in students.items()}
    print(f"{len(x)} test images; each cell: clean / adversarial\n\n{table(rows)}")


if __name__ == "__main__":
    main(sys.argv[1:])

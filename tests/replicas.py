"""Trains small networks on some replicas of some workers and saves what came of it.

    python tests/replicas.py WORKER PORTS REPLICAS OUT.npz CASE...

PORTS are those of all workers on this machine, 0 for a single one. Run in processes of
their own: logical devices are set before TensorFlow starts, and one failing collective
aborts the later ones.
"""

import json
import os
import sys

import vfd_tf
import keras
import numpy as np
import tensorflow as tf
from vfd_tf.cli.strategies import make_strategy
from vfd_tf.training.devices.cluster import Cluster
from vfd_tf.training.optimizers import SGD

BATCH, STEPS = 24, 21
# Case: method, with BatchNorm, options of the step.
CASES = {
    "trades": ("trades", False, {}),
    "ikl": ("ikl", False, {}),
    "ar-at": (vfd_tf.methods.ARAT(beta=0.1), True, {"average": "ema", "awp_gamma": 0.01}),
    "clean batch norm by view": (
        "alp",
        True,
        {"batch_norm": "views", "batch_norm_affine": "shared", "ship_view": "clean"},
    ),
    "hat in parts": ("hat", False, {"accumulate_steps": 2}),
    "hat with batch norm": ("hat", True, {}),
    "trades with options": (
        "trades",
        True,
        {"awp_gamma": 0.01, "clip_norm": 0.5, "average": "ema", "label_smoothing": 0.1},
    ),
}


def ratios():
    """Ratios whose parts have to be added up over replicas before they are divided."""
    return [
        keras.metrics.CategoricalAccuracy("weighted_accuracy"),
        keras.metrics.AUC(multi_label=False, from_logits=True, name="auc"),
        keras.metrics.Precision(top_k=2, name="precision"),
        keras.metrics.F1Score("macro", name="f1"),  # variables come with its first update
    ]


def strategy_of(worker, ports, replicas):
    if replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
        )
    if len(ports) > 1:
        addresses = [f"localhost:{port}" for port in ports]
        task = {"type": "worker", "index": worker}
        cluster = {"cluster": {"worker": addresses}, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
        return make_strategy("auto")
    return make_strategy("mirrored" if replicas > 1 else "one_device")


def network(batch_norm):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="convolution")(inputs)
    if batch_norm:
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU(name="layer1")(x)
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    return keras.Model(inputs, logits)


def data():
    """Images to train on, and to validate on, whose last batch is ragged."""
    random, count = np.random.default_rng(0), BATCH * STEPS
    x = random.uniform(size=(count, 8, 8, 3))
    y = np.eye(10)[random.integers(0, 10, count)]
    # Uneven, so that a mean over replicas is none over images.
    return (x, y, np.where(np.arange(count) % 8 < 4, 0.1, 3.0)), (x[:43], y[:43])


def trained(strategy, case):
    method, batch_norm, options = CASES[case]
    keras.utils.set_random_seed(0)
    with strategy.scope():
        trainer = vfd_tf.AdversarialTrainer(
            network(batch_norm),
            method,
            vfd_tf.attacks.PGD(steps=2),
            "vfd",
            teacher=network(batch_norm),
            seed=3,
            options=vfd_tf.TrainingOptions(**options),
        )
        trainer.compile(
            SGD(0.05, 0.9, weight_decay=5e-4),
            weighted_metrics=ratios(),
            steps_per_execution=4,
            jit_compile=case == "hat with batch norm",
        )
    (x, y, weights), validation = data()
    robust = vfd_tf.RobustAccuracy(validation, "pgd3", epsilon=0.01)
    schedule = vfd_tf.VFDCallback(schedule=lambda epoch: 1 - epoch / 20)
    logs = trainer.fit(
        x,
        y,
        sample_weight=weights,
        batch_size=BATCH,
        validation_data=validation,
        callbacks=[robust, schedule],
        verbose=0,
    ).history
    return trainer, logs


def results(strategy, case):
    """What came of a case: weights, logs, seeds, and how far apart replicas are."""
    trainer, logs = trained(strategy, case)
    x, y = data()[1]
    copies = [
        [part.numpy() for part in strategy.experimental_local_results(v.value)]
        for v in [
            *trainer.student.weights,
            *getattr(trainer.average, "values", []),
            *(v for own in (*trainer.view_norms, *trainer.heads) for v in own.weights),
            *(v for own in trainer.learning.variables for v in own.values()),
        ]
    ]
    robust = vfd_tf.RobustAccuracy((x, y), "pgd3", epsilon=0.01)
    robust.set_model(trainer)
    cluster = Cluster(strategy)
    own = robust.engine.correct(cluster.share((x, y)), robust.attack, seed=0)
    return {
        "weights": np.concatenate([copy[0].ravel() for copy in copies]),
        "apart": max(np.abs(c - copy[0]).max() for copy in copies for c in copy),
        "expected": (trainer.student(x).numpy().argmax(-1) == y.argmax(-1)).mean(),
        "step": trainer.iteration.numpy(),
        "verdicts": cluster.whole(own, len(x)),
        **{f"log/{name}": values for name, values in logs.items()},
    }


def main(worker, ports, replicas, out, *cases):
    strategy = strategy_of(worker, ports, replicas)
    # In float64 no sign of a gradient near zero depends on the shape of the batch.
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        seeding = vfd_tf.AdversarialTrainer(network(False), "pgd-at", "pgd1", seed=3)
    count = BATCH // strategy.num_replicas_in_sync
    seeds = strategy.run(lambda: seeding._seeds(count))
    local = strategy.experimental_local_results(seeds)
    found = {"seeds": np.concatenate([part.numpy() for part in local])}
    for case in cases:
        for name, value in results(strategy, case).items():
            found[f"{case}/{name}"] = value
    np.savez(out, **found)
    Cluster(strategy).sum(np.zeros(1))  # none ends before the others are done


if __name__ == "__main__":
    ports = [int(port) for port in sys.argv[2].split(",")]
    main(int(sys.argv[1]), ports, int(sys.argv[3]), *sys.argv[4:])

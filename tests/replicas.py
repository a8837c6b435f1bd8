"""Trains a small network on some replicas and saves what came of it.

    python tests/replicas.py REPLICAS CASE OUT.npz

Run in a process of its own: logical devices are set before TensorFlow starts, and one
failing collective aborts the later ones.
"""

import sys

import vfd_tf
import keras
import numpy as np
import tensorflow as tf
from vfd_tf.training.optimizers import SGD

# Case: with BatchNorm, options of the step.
CASES = {
    "plain": (False, {}),
    "batch_norm": (True, {}),
    "weighted": (False, {}),
    "options": (
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


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def network(batch_norm):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="convolution")(inputs)
    if batch_norm:
        several = tf.distribute.get_strategy().num_replicas_in_sync > 1
        x = keras.layers.BatchNormalization(momentum=0.9, synchronized=several)(x)
    x = keras.layers.ReLU(name="layer1")(x)
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    return keras.Model(inputs, logits)


def main(replicas, case, out):
    batch_norm, options = CASES[case]
    # In float64 no sign of a gradient near zero depends on the shape of the batch.
    keras.config.set_floatx("float64")
    random = np.random.default_rng(0)
    x = random.uniform(size=(43, 8, 8, 3))
    y = random.integers(0, 10, 43)
    strategy = strategy_of(replicas)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        student, teacher = network(batch_norm), network(batch_norm)
        trainer = vfd_tf.AdversarialTrainer(
            student,
            "trades",
            vfd_tf.attacks.PGD(steps=3),
            "vfd",
            teacher=teacher,
            seed=3,
            options=vfd_tf.TrainingOptions(**options),
        )
        metrics = {"weighted_metrics": ratios()} if case == "weighted" else {}
        trainer.compile(SGD(0.05, 0.9, weight_decay=5e-4), **metrics)
    arrays = [x, y]
    if case == "weighted":  # uneven, so that a mean over replicas is not one over images
        arrays = [x, np.eye(10)[y], np.where(np.arange(43) % 8 < 4, 0.1, 3.0)]
    data = tf.data.Dataset.from_tensor_slices(tuple(arrays)).batch(8)
    seeds = strategy.run(lambda: trainer._seeds(8 // replicas))
    logs = trainer.fit(data, epochs=2, validation_data=data, verbose=0).history
    copies = [
        [part.numpy() for part in strategy.experimental_local_results(v.value)]
        for v in [*student.weights, *getattr(trainer.average, "values", [])]
    ]
    np.savez(
        out,
        seeds=np.concatenate(
            [s.numpy() for s in strategy.experimental_local_results(seeds)]
        ),
        weights=np.concatenate([copy[0].ravel() for copy in copies]),
        apart=max(np.abs(c - copy[0]).max() for copy in copies for c in copy),
        accuracy=logs["val_accuracy"][-1],
        expected=(student(x).numpy().argmax(-1) == y).mean(),
        loss=logs["loss"],
        gradient_norm=logs["gradient_norm"],
        step=trainer.iteration.numpy(),
        **{f"log/{name}": values for name, values in logs.items()},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

"""Averages of the student's weights (EMA, SWA): a second student beside the trained one."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.models.keras_graph import layers_of


class WeightAverage:
    """An average of a model's floating weights, BatchNorm's statistics included.

    Args:
        model: The model that is averaged.
        add_weight: `add_weight` of the trainer that owns the average, so that it is saved
            and restored with everything else the trainer knows.
        decay: EMA's decay; None for a plain mean (SWA).
    """

    def __init__(self, model, add_weight, decay=None):
        self.decay = decay
        self.source = [v for v in model.weights if v.value.dtype.is_floating]
        options = {"trainable": False, "aggregation": "only_first_replica"}
        self.values = [
            add_weight(
                name=f"average_{i}",
                shape=v.shape,
                dtype=v.dtype,
                initializer="zeros",
                **options,
            )
            for i, v in enumerate(self.source)
        ]
        self.count = add_weight(
            name="average_count", shape=(), dtype="int64", initializer="zeros", **options
        )

    @property
    def started(self) -> bool:
        """Whether anything is averaged yet."""
        return int(self.count.numpy()) > 0

    def update(self, when=True):
        """Takes in the weights of now; the first time they are the average.

        Where `when`, a bool or a tensor of one, is false, nothing changes.
        """
        seen = tf.cast(self.count.value, tf.float64)
        if self.decay is None:
            share = tf.cast(1 / (seen + 1), tf.float64)
        else:
            ramp = tf.minimum(tf.cast(self.decay, tf.float64), (1 + seen) / (10 + seen))
            share = tf.where(seen > 0, 1 - ramp, 1.0)
        share = tf.where(when, share, tf.zeros_like(share))
        for average, variable in zip(self.values, self.source, strict=True):
            now, value = variable.value, tf.cast(share, variable.value.dtype)
            average.assign(average.value + value * (now - average.value))
        self.count.assign_add(tf.cast(when, self.count.dtype))

    @contextlib.contextmanager
    def swapped(self):
        """Inside, the model has the averaged weights."""
        trained = [v.numpy() for v in self.source]
        if self.started:
            self._assign(v.numpy() for v in self.values)
        try:
            yield
        finally:
            self._assign(trained)

    def _assign(self, values):
        for variable, value in zip(self.source, values, strict=True):
            variable.assign(value)

    def recompute_statistics(self, model, data, batches, view=lambda x, y: x):
        """Replaces the averaged BatchNorm statistics by those of the averaged weights.

        Their mean over `batches` batches of `data` in training mode, as `view(x, y)` shows
        them: what moving statistics would have become, had the averaged weights been
        trained.
        """
        layers = [
            layer
            for layer in layers_of(model)
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        if not layers:
            return
        with self.swapped():
            means = batch_statistics(model, layers, data, batches, view)
        index = {id(v): i for i, v in enumerate(self.source)}
        for variable, mean in means:
            self.values[index[id(variable)]].assign(mean)


def batch_statistics(model, layers, data, batches, view):
    """[(moving variable, its mean over batches)] of BatchNorm layers; nothing is moved."""
    moving = [
        (v, la.momentum) for la in layers for v in (la.moving_mean, la.moving_variance)
    ]

    @tf.function(autograph=False)  # an attack needs static shapes
    def of_batch(x, y):
        x = view(x, y)
        with keras.StatelessScope() as scope:
            model(x, training=True)
        values = []
        for variable, momentum in moving:
            old, new = variable.value, scope.get_current_value(variable)
            # new = momentum * old + (1 - momentum) * batch; a frozen layer has no new.
            batch = old if new is None else (new - momentum * old) / (1 - momentum)
            values.append(tf.convert_to_tensor(batch))
        return values

    totals, count = [0.0] * len(moving), 0
    for x, y, *_ in data.take(batches):
        for i, value in enumerate(of_batch(x, y)):
            totals[i] = totals[i] + value.numpy().astype("float64")
        count += 1
    return [(v, np.asarray(t / count)) for (v, _), t in zip(moving, totals, strict=True)]

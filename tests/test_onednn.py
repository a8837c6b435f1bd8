"""Gradients on a CPU: oneDNN corrupts those of strided 1x1 convolutions of few channels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import AdversarialTrainer, losses
from vfd_tf.models.architectures import ARCHITECTURES


@tf.function
def gradients(network, x, y):
    with tf.GradientTape() as tape:
        logits = network(x, training=True)["logits"]
        loss = tf.reduce_mean(losses.cross_entropy(y, logits))
    return tape.gradient(loss, network.trainable_variables)


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_weight_gradients_of_narrow_networks_are_those_of_float64(name):
    random = np.random.default_rng(0)
    x, y = random.uniform(size=(64, 8, 8, 3)), random.integers(0, 10, 64)
    build = ARCHITECTURES[name]
    single = build((8, 8, 3), 10, 4 / (16 if name == "resnet8" else 64))
    keras.config.set_floatx("float64")
    try:
        double = build((8, 8, 3), 10, 4 / (16 if name == "resnet8" else 64))
        double.set_weights([w.astype("float64") for w in single.get_weights()])
        wanted = gradients(double, x, y)
    finally:
        keras.config.set_floatx("float32")
    for got, want in zip(gradients(single, x.astype("float32"), y), wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-3 * float(np.abs(want).max()) + 1e-6)


def test_a_users_model_with_such_a_layer_is_warned_of():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 1, 2, name="shortcut")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    with pytest.warns(UserWarning, match="shortcut"):
        AdversarialTrainer(model, "trades")

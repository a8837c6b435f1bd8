"""FGSM and PGD in few steps, and what they attack: a network, a linear classifier."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vfd_tf import noise
from vfd_tf.attacks import FGSM, FGSMRS, PGD

N, SHAPE, CLASSES = 6, (5, 5, 2), 4
EPSILON = {"linf": 0.1, "l2": 0.5}
ATTACKS = {
    f"{kind} {norm}": attack
    for norm, epsilon in EPSILON.items()
    for kind, attack in {
        "fgsm": FGSM(epsilon, norm),
        "fgsm-rs": FGSMRS(epsilon, norm=norm),
        "pgd": PGD(epsilon, steps=4, norm=norm),
        "pgd of big steps": PGD(epsilon, 3 * epsilon, steps=3, norm=norm),
        "pgd with restarts": PGD(epsilon, steps=2, norm=norm, restarts=3),
    }.items()
}
every = pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
norms = pytest.mark.parametrize("norm", EPSILON)


@pytest.fixture(scope="module")
def model():
    """A small network with BatchNorm whose statistics are not the initial ones."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, padding="same")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    logits = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, logits)
    model(np.random.RandomState(2).rand(32, *SHAPE), training=True)
    return model


@pytest.fixture(scope="module")
def images():
    """Images that touch the borders of the box, and labels."""
    x = np.random.RandomState(0).uniform(-0.2, 1.2, (N, *SHAPE)).clip(0, 1)
    return x.astype("float32"), np.arange(N, dtype="int32") % CLASSES


@pytest.fixture
def logits_fn(model):
    return lambda x: model(x, training=False)


def seeds_of(n=N, seed=0):
    return noise.example_seeds(seed, 0, tf.range(n))


def length_of(delta, norm):
    delta = np.reshape(delta, (len(delta), -1)).astype("float64")
    return np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)


def linear_classifier(dtype="float64", seed=3):
    """Two-class logits (0, w.x + b): the margin of label 0 is linear."""
    w = np.random.RandomState(seed).randn(*SHAPE).astype(dtype)

    def logits_fn(x):
        score = tf.reduce_sum(x * w, axis=[1, 2, 3])
        return tf.stack([tf.zeros_like(score), score], axis=-1)

    return w, logits_fn

"""What the tests share: vfd_tf before TensorFlow, and a network and data small enough."""

import os

# Operations of a few thousand numbers: threads would wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import vfd_tf  # noqa: F401

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf


def pytest_collection_modifyitems(items):
    """Tests that mostly wait for processes of their own begin, beside all others."""
    first = "test_replicas", "test_workers"
    items.sort(key=lambda item: item.path.stem not in first)


@pytest.fixture(autouse=True, scope="module")
def forgetful():
    """Graphs of a file's tests end with it; later ones would wait for their collection."""
    yield
    keras.backend.clear_session()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def make_network():
    """A function that builds an 8x8x3, 10-class network with BatchNorm."""

    def build(classes=10, channels=4, batch_norm=True):
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=not batch_norm)(
            inputs
        )
        if batch_norm:
            x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = keras.layers.ReLU(name="layer1")(x)
        pooled = keras.layers.GlobalAveragePooling2D()(x)
        logits = keras.layers.Dense(classes)(pooled)
        return keras.Model(inputs, {"layer1": x, "logits": logits})

    return build


@pytest.fixture
def toy():
    """24 images in [0, 1] and their labels."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(24, 8, 8, 3)).astype("float32")
    return x, random.integers(0, 10, 24).astype("int32")


@pytest.fixture
def batches(toy):
    """The toy images as a tf.data set of batches of 8."""
    return tf.data.Dataset.from_tensor_slices(toy).batch(8)

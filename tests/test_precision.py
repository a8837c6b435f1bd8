"""Precision: verdicts are float32, whatever a model or a process computes in."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from vfd_tf import InputError
from vfd_tf.evaluation import Engine, evaluate, perturb
from vfd_tf.models import network
from vfd_tf.models.precision import in_float32

SHAPE, N = (6, 6, 2), 16


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    yield
    keras.config.set_dtype_policy(before)


def images():
    return np.random.RandomState(0).uniform(0, 1, (N, *SHAPE)).astype("float32")


class Block(L.Layer):
    """A custom layer that makes a layer for itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.Conv2D(4, 3, padding="same")

    def call(self, x):
        return self.inner(x)


def operators():
    inputs = keras.Input(SHAPE)
    h = L.Conv2D(4, 3, padding="same")(inputs)
    h = keras.ops.relu(h + L.Conv2D(4, 3, padding="same")(h)) * 0.7
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(h)))


def custom():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(Block()(inputs))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = L.Flatten(), L.Dense(3)

    def call(self, x):
        return self.dense(self.flatten(x))


def twins(build):
    """The same network in bfloat16 and in float32."""
    with policy("mixed_bfloat16"):
        half = build()
    full = build()
    half(images()), full(images())
    full.set_weights(half.get_weights())
    return half, full


@pytest.mark.parametrize("build", [operators, custom])
@pytest.mark.parametrize("process", ["float32", "mixed_bfloat16"])
def test_a_network_in_16_bits_is_judged_in_32(build, process):
    half, full = twins(build)
    expected = full(images())
    assert np.abs(tf.cast(half(images()), "float32") - expected).max() > 1e-4
    with policy(process):
        exact = in_float32(half)
        np.testing.assert_allclose(exact(images()), expected, 0, 1e-6)
        np.testing.assert_allclose(Engine(exact).logits(images()), expected, 0, 1e-6)


def test_a_file_of_mixed_precision_is_judged_in_32(tmp_path):
    half, full = twins(operators)
    half.save(tmp_path / "half.keras")
    loaded = in_float32(keras.saving.load_model(tmp_path / "half.keras"))
    np.testing.assert_allclose(loaded(images()), full(images()), 0, 1e-6)


def test_what_computes_in_16_bits_is_attacked_in_32():
    """Its own examples, and those made on it as a surrogate, are its float32 twin's."""
    half, full = twins(operators)
    x = images()
    y = full.predict(x, verbose=0).argmax(-1)
    budget = {"epsilon": 0.5, "norm": "l2"}
    own = [perturb(model, x, y, "pgd5", **budget) for model in (half, full)]
    np.testing.assert_allclose(*own, 0, 1e-6)
    judge = {"attacks": ["transfer-pgd5"], "examples": True, **budget}
    found = [evaluate(full, (x, y), surrogate=model, **judge) for model in (half, full)]
    found = [result.examples["transfer-pgd5"] for result in found]
    np.testing.assert_allclose(*found, 0, 1e-6)
    assert np.abs(found[0] - x).max() > 0.01


def test_the_policy_of_the_process_changes_no_verdict():
    model = Subclassed()
    expected = model(images())
    with policy("mixed_bfloat16"):
        found = Engine(in_float32(model)).logits(images())
    np.testing.assert_allclose(found, expected, 0, 1e-6)


def test_what_no_copy_in_32_bits_can_be_made_of_is_refused():
    inputs = keras.Input(SHAPE)
    cast = keras.ops.cast(L.Flatten()(inputs), "bfloat16")
    lambdas = L.Lambda(lambda x: 2 * x, dtype="mixed_bfloat16")(L.Flatten()(inputs))
    half, _ = twins(Subclassed)
    for model in (
        half,
        keras.Model(inputs, L.Dense(3, dtype="float32")(cast)),
        keras.Model(inputs, L.Dense(3, dtype="float32")(lambdas)),
    ):
        with pytest.raises(InputError, match="float32"):
            in_float32(model)


def test_crafting_in_bfloat16_rounds_the_examples_and_not_the_verdicts():
    model, x = operators(), images()
    y = model.predict(x, verbose=0).argmax(-1)
    found = {
        crafted: evaluate(
            model,
            (x, y),
            ["pgd5"],
            epsilon=0.5,
            norm="l2",
            craft_precision=crafted,
            examples=True,
        )
        for crafted in (None, "mixed_bfloat16")
    }
    full, half = (found[crafted].examples["pgd5"] for crafted in found)
    assert 0 < np.abs(full - half).max() < 0.3
    right = model.predict(half, verbose=0).argmax(-1) == y
    np.testing.assert_array_equal(found["mixed_bfloat16"].robust["pgd5"], right)


def test_a_copy_has_weights_of_its_own():
    model, _ = twins(operators)
    copy = in_float32(model)
    before = tf.cast(model(images()), "float32").numpy()
    copy.set_weights([0 * w for w in copy.get_weights()])
    after = tf.cast(model(images()), "float32")
    np.testing.assert_array_equal(after, before)
    assert not network.shares_weights(model, copy)


def test_a_copy_keeps_what_normalization_was_adapted_to():
    norm = L.Normalization()
    norm.adapt(images() * 0.2 + 0.5)

    def build():
        inputs = keras.Input(SHAPE)
        return keras.Model(inputs, L.Dense(3)(L.Flatten()(norm(inputs))))

    half, full = twins(build)
    np.testing.assert_allclose(in_float32(half)(images()), full(images()), 0, 1e-6)

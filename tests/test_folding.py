"""Folding: the same function as the network in inference mode, without its BatchNorm."""

import functools

import numpy as np
import pytest

from vfd_tf.models import folding, network
from vfd_tf.models.architectures import ARCHITECTURES

# isort: split

import keras
import tensorflow as tf
from keras import layers as L

SHAPE = (16, 16, 3)


def _images(n=4):
    return tf.constant(np.random.RandomState(0).rand(n, *SHAPE), tf.float32)


def _shaken(model, seed=0):
    """The model with weights and moving statistics as after a training."""
    random = np.random.RandomState(seed)
    for variable in model.weights:
        value = variable.numpy()
        scale = 1 + 0.5 * random.rand(*value.shape)
        offset = 0 if "variance" in variable.path else 0.2 * random.randn(*value.shape)
        variable.assign(value * scale + offset)
    return model


def _model(*stack):
    """A classifier: the layers, then pooling and Dense."""
    layers = [*stack, L.GlobalAveragePooling2D(), L.Dense(5)]
    return _shaken(keras.Sequential([keras.Input(SHAPE), *layers]))


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of BatchNorm layers."""
    seen, call = [], L.BatchNormalization.call

    @functools.wraps(call)
    def counted(self, *args, **kwargs):
        seen.append(self.name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(L.BatchNormalization, "call", counted)
    return seen


def assert_same(model, x=None, tolerance=1e-5):
    """The folded outputs are the model's, which is their reference; returns them."""
    x = _images() if x is None else x
    wanted, found = model(x, training=False), folding.folded(model)(x)
    keras.tree.assert_same_structure(wanted, found)
    pairs = zip(keras.tree.flatten(wanted), keras.tree.flatten(found), strict=True)
    for one, other in pairs:
        size = np.abs(one).max()
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * max(size, 1))
    return found


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_keeps_all_of_its_outputs(name):
    width = 0.125 if "wide" not in name else 0.0125
    assert_same(_shaken(ARCHITECTURES[name](SHAPE, 5, width=width)), tolerance=1e-4)


def test_a_residual_network_is_left_without_batchnorm(calls):
    model = _shaken(ARCHITECTURES["resnet18"](SHAPE, 5, width=0.125))
    calls.clear()
    folding.folded(model)(_images())
    assert calls == []


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_every_variant_of_the_pair_folds(use_bias, center, scale, calls):
    model = _model(
        L.Conv2D(4, 3, strides=2, use_bias=use_bias),
        L.BatchNormalization(center=center, scale=scale, epsilon=0.1),
        L.ReLU(),
    )
    assert_same(model)
    calls.clear()
    folding.folded(model)(_images())
    assert calls == []


class _Doubled(L.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


@pytest.mark.parametrize(
    "first",
    [
        L.Conv2D(4, 3, activation="relu"),
        _Doubled(4, 3),
        L.DepthwiseConv2D(3),
        L.SeparableConv2D(4, 3),
        L.MaxPooling2D(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_is_no_plain_convolution_is_called_as_it_is(first, calls):
    first = type(first).from_config(first.get_config())
    model = _model(first, L.BatchNormalization())
    assert_same(model)
    calls.clear()
    folding.folded(model)(_images())
    assert len(calls) == 1


def test_a_convolution_that_others_see_too_is_left_alone():
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, name="seen")(inputs)
    y = L.Add()([x, L.BatchNormalization()(x)])
    logits = L.Dense(5)(L.GlobalAveragePooling2D()(y))
    assert_same(_shaken(keras.Model(inputs, logits)))
    tapped = L.BatchNormalization()(x)
    logits = L.Dense(5)(L.GlobalAveragePooling2D()(tapped))
    assert_same(_shaken(keras.Model(inputs, {"logits": logits, "seen": x})))


def test_a_convolution_or_norm_that_is_called_twice_is_left_alone():
    inputs = keras.Input(SHAPE)
    convolution, norm = L.Conv2D(3, 3, padding="same"), L.BatchNormalization()
    x = convolution(L.ReLU()(norm(convolution(inputs))))
    assert_same(_shaken(keras.Model(inputs, L.Dense(5)(L.Flatten()(x)))))
    other = L.Conv2D(3, 3, padding="same")
    x = norm(L.ReLU()(norm(other(inputs))))
    assert_same(_shaken(keras.Model(inputs, L.Dense(5)(L.Flatten()(x)))))


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_a_norm_of_another_axis_is_called_as_it_is(axis):
    assert_same(_model(L.Conv2D(14, 3), L.BatchNormalization(axis=axis)))


def test_nested_models_fold_too(calls):
    inputs = keras.Input((None, None, 3))
    x = L.BatchNormalization()(L.Conv2D(4, 3)(inputs))
    nested = keras.Model(inputs, L.ReLU()(x))
    deeper = keras.Sequential([keras.Input((None, None, 3)), nested])
    model = _model(deeper)
    assert_same(model)
    calls.clear()
    folding.folded(model)(_images())
    assert calls == []


def _part(name=None):
    """A nested model: convolution, BatchNorm, ReLU."""
    inputs = keras.Input(SHAPE, name=name)
    x = L.BatchNormalization()(L.Conv2D(4, 3)(inputs))
    return inputs, L.ReLU()(x)


def _around(nest):
    """A classifier whose feature map is what `nest` makes of its input."""
    inputs = keras.Input(SHAPE)
    x = L.GlobalAveragePooling2D()(nest(inputs))
    return _shaken(keras.Model(inputs, L.Dense(5)(x)))


def test_nested_models_are_called_in_every_way_that_keras_allows():
    inputs, x = _part()
    assert_same(_around(lambda image: keras.Model(inputs, x)([image])))
    inputs, x = _part("image")
    named = keras.Model({"image": inputs}, x)
    assert_same(_around(lambda image: named({"image": image})))
    inputs, x = _part()
    assert_same(_around(lambda image: keras.Model(inputs, [x])(image)[0]))
    inputs, x = _part()
    other = keras.Input(SHAPE)
    both = keras.Model([inputs, other], L.Add()([x, L.Conv2D(4, 3)(other)]))
    assert_same(_around(lambda image: both([image, image])))


def test_layers_may_be_called_by_keyword():
    def nest(image):
        return L.BatchNormalization()(inputs=L.Conv2D(4, 3)(inputs=image))

    assert_same(_around(nest))


def test_images_are_taken_as_keras_takes_them():
    inputs = keras.Input((16, 16))
    x = L.BatchNormalization()(L.Conv2D(4, 3)(keras.ops.expand_dims(inputs, -1)))
    assert_same(
        _shaken(keras.Model(inputs, L.Dense(5)(L.Flatten()(x)))), _images()[..., :1]
    )
    assert_same(
        _model(L.Conv2D(4, 3), L.BatchNormalization()), tf.cast(_images(), tf.float64)
    )


class Part(L.Layer):
    def call(self, x, training=True):
        return 2 * x if training else x


class Whole(L.Layer):
    def __init__(self):
        super().__init__()
        self.part = Part()

    def call(self, x):
        return self.part(x)


def test_sublayers_hear_that_it_is_inference():
    assert_same(_around(lambda image: Whole()(L.Conv2D(4, 3)(image))))


@pytest.mark.parametrize(
    "one, other",
    [
        ("float32", "bfloat16"),
        ("float64", "float32"),
        ("mixed_bfloat16", "float32"),
        ("float32", "float64"),
        ("float32", "mixed_bfloat16"),
    ],
)
def test_the_two_layers_may_have_precisions_of_their_own(one, other):
    def nest(image):
        return L.BatchNormalization(dtype=other)(L.Conv2D(4, 3, dtype=one)(image))

    coarse = "bfloat16" in one + other
    assert_same(_around(nest), tolerance=0.05 if coarse else 1e-5)
    inputs = keras.Input(SHAPE)
    model = _shaken(keras.Model(inputs, nest(inputs)))
    found = assert_same(model, tolerance=0.05 if coarse else 1e-5)
    assert found.dtype == model.output.dtype


def test_random_layers_and_training_flags_of_the_graph_are_in_inference_mode():
    inputs = keras.Input(SHAPE)
    x = L.BatchNormalization()(L.Conv2D(4, 3)(inputs), training=True)
    x = L.GaussianNoise(1.0)(L.Dropout(0.5)(L.BatchNormalization()(x, training=True)))
    model = _shaken(keras.Model(inputs, L.Dense(5)(L.Flatten()(x))))
    assert_same(model)


def test_subclassed_models_are_called_as_they_are():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = _model(L.Conv2D(4, 3), L.BatchNormalization())

        def call(self, x, training=None):
            return -self.inner(x, training=training)

    class Negative(keras.Model):
        """A functional model with a call of its own."""

        def call(self, x, training=None):
            return -super().call(x, training=training)

    inner = _model(L.Conv2D(4, 3), L.BatchNormalization())
    for model in Own(), Negative(inner.inputs[0], inner.outputs[0]):
        assert_same(model)
        found = folding.folded(network.tap(model))(_images())["logits"]
        np.testing.assert_allclose(found, model(_images()), rtol=1e-6, atol=1e-6)


def test_the_input_gradient_is_the_same():
    model, x = _model(L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()), _images()
    gradients = []
    for function in (lambda x: model(x, training=False), folding.folded(model)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_sum(function(x) ** 2)
        gradients.append(tape.gradient(score, x))
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_mixed_precision_keeps_its_dtype():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = _model(L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU())
    finally:
        keras.config.set_dtype_policy("float32")
    assert assert_same(model, tolerance=0.05).dtype == model.outputs[0].dtype


def test_float64_is_exact_to_float64():
    keras.config.set_dtype_policy("float64")
    try:
        model = _model(L.Conv2D(4, 3), L.BatchNormalization())
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same(model, tf.cast(_images(), tf.float64), tolerance=1e-13)


def test_the_weights_are_those_of_the_moment():
    model, x = _model(L.Conv2D(4, 3), L.BatchNormalization()), _images()
    compiled = tf.function(lambda x: folding.folded(model)(x), autograph=False)
    compiled(x)
    _shaken(model, seed=1)
    np.testing.assert_allclose(compiled(x), model(x), rtol=1e-4, atol=1e-5)

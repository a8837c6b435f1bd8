"""Taps of any Keras classifier: its layers by name, shared weights, itself unchanged."""

import keras
import numpy as np
import pytest
from keras import layers as L
from tappable import (
    FLAT,
    NESTED,
    SHAPE,
    features_by_hand,
    find,
    head,
    images,
    small_backbone,
)

from vfd_tf import InputError
from vfd_tf.models import network


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("layer", ["conv1", "bn", "relu1", "conv2", "pool"])
def test_tap_is_the_output_of_the_layer(kind, layer):
    model = FLAT[kind]()
    outputs = network.tap(model, [layer])(images(), training=False)
    assert set(outputs) == {"logits", layer}
    np.testing.assert_array_equal(outputs["logits"], model(images(), training=False))
    if layer != "pool":
        scale = (lambda x: 2 * x - 1) if kind == "functional" else (lambda x: x)
        expected = features_by_hand(model, scale, layer)
        np.testing.assert_allclose(outputs[layer], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", FLAT)
def test_last_is_the_last_feature_map(kind):
    outputs = network.tap(FLAT[kind](), ["last", "conv2"])(images())
    np.testing.assert_array_equal(outputs["last"], outputs["conv2"])


@pytest.mark.parametrize("kind", FLAT)
def test_without_layers_there_are_logits_alone(kind):
    model = FLAT[kind]()
    for layers in ([], ["logits"]):
        outputs = network.tap(model, layers)(images())
        assert set(outputs) == {"logits"}
        np.testing.assert_array_equal(outputs["logits"], model(images()))


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("layer", ["conv1", "bn", "relu1", "conv2"])
def test_layers_of_a_nested_backbone_are_tapped_by_name(kind, layer):
    model = NESTED[kind]()
    outputs = network.tap(model, [layer])(images(), training=False)
    np.testing.assert_allclose(outputs["logits"], model(images()), rtol=1e-5, atol=1e-6)
    expected = features_by_hand(model, lambda x: 2 * x, layer)
    np.testing.assert_allclose(outputs[layer], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NESTED)
def test_last_of_a_nested_backbone_is_its_feature_map(kind):
    model = NESTED[kind]()
    expected = features_by_hand(model, lambda x: 2 * x, "conv2")
    outputs = network.tap(model, ["last"])(images(), training=False)
    np.testing.assert_allclose(outputs["last"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NESTED)
def test_a_backbone_is_tapped_by_its_own_name(kind):
    model = NESTED[kind]()
    expected = features_by_hand(model, lambda x: 2 * x, "conv2")
    outputs = network.tap(model, ["backbone"])(images(), training=False)
    np.testing.assert_allclose(outputs["backbone"], expected, rtol=1e-5, atol=1e-6)


def test_inner_and_outer_layers_are_tapped_together():
    outputs = network.tap(NESTED["functional in functional"](), ["relu1", "pool", "last"])(
        images()
    )
    assert set(outputs) == {"logits", "relu1", "pool", "last"}
    assert outputs["relu1"].shape == (3, 8, 8, 4)
    assert outputs["last"].shape == (3, 6, 6, 6)
    np.testing.assert_allclose(
        outputs["pool"], outputs["last"].numpy().mean((1, 2)), rtol=1e-5, atol=1e-6
    )


def test_layers_that_were_called_before_are_tapped_in_this_model():
    backbone = small_backbone()
    x = inputs = keras.Input(SHAPE)
    for layer in backbone.layers[1:]:
        x = layer(x)
    model = keras.Model(inputs, head(x), name="rewired")
    outputs = network.tap(model, ["relu1"])(images())
    np.testing.assert_allclose(
        outputs["relu1"],
        features_by_hand(model, lambda x: x, "relu1"),
        rtol=1e-5,
        atol=1e-6,
    )


def test_more_layers_are_added_to_a_network():
    model = NESTED["functional in functional"]()
    outputs = network.tap(network.tap(model, ["relu1"]), ["relu1", "conv1", "pool"])(
        images()
    )
    assert {"logits", "relu1", "conv1", "pool"} <= set(outputs)
    flat = network.tap(network.tap(FLAT["functional"](), ["conv1"]), ["relu1"])(images())
    assert {"logits", "conv1", "relu1"} <= set(flat)


def test_numbered_layers_decide_what_last_is():
    x = inputs = keras.Input(SHAPE)
    for name in ("layer2", "layer10", "after"):
        x = L.Conv2D(4, 3, padding="same", name=name)(x)
    model = keras.Model(inputs, head(x))
    outputs = network.tap(model, ["last", "layer10"])(images())
    np.testing.assert_array_equal(outputs["last"], outputs["layer10"])
    assert network.last_layer(["layer2", "layer10", "layer10_preact", "xlayer11"]) == (
        "layer10"
    )
    assert network.last_layer(["conv"]) is None


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_a_training_pass_moves_statistics_once_and_layers_run_once(build):
    model, original = build(), build()
    original.set_weights(model.get_weights())
    network.tap(model, ["relu1"])(images(), training=True)
    original(images(), training=True)
    for got, expected in zip(model.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_weights_are_shared_not_copied(build):
    model = build()
    tapped = network.tap(model, ["relu1"])
    assert {id(v) for v in tapped.weights} == {id(v) for v in model.weights}
    assert len(tapped.trainable_weights) == len(model.trainable_weights)
    assert network.shares_weights(tapped, model)
    assert not network.shares_weights(tapped, build())
    before = tapped(images())["logits"].numpy()
    model.set_weights([w + 0.1 for w in model.get_weights()])
    after = tapped(images())["logits"].numpy()
    np.testing.assert_allclose(after, model(images()), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_the_user_s_model_stays_as_it_was(build):
    model = build()
    find(model, "conv1").trainable = False
    before = model(images()).numpy()
    flags = [layer.trainable for layer in model._flatten_layers()]
    names = [layer.name for layer in model._flatten_layers()]
    inputs, outputs = list(model.inputs), list(model.outputs)
    tapped = network.tap(model, ["relu1"])
    assert len(tapped.trainable_weights) == len(model.trainable_weights)
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    assert [layer.name for layer in model._flatten_layers()] == names
    assert all(a is b for a, b in zip(inputs, model.inputs, strict=True))
    assert all(a is b for a, b in zip(outputs, model.outputs, strict=True))
    np.testing.assert_array_equal(model(images()), before)


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_classifier_is_the_inverse_of_tap(build):
    model = build()
    logits = network.classifier(network.tap(model, ["relu1"]))(images())
    np.testing.assert_allclose(logits, model(images()), rtol=1e-5, atol=1e-6)
    assert network.classifier(model) is model


@pytest.mark.slow
def test_layers_of_a_keras_application_are_tapped_by_name():
    shape = (32, 32, 3)
    options = {"weights": None, "include_top": False, "alpha": 0.35}
    base = keras.applications.MobileNetV2(input_shape=shape, **options)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, head(base(L.Rescaling(2.0, offset=-1.0)(inputs))))
    x, layer = images(2, shape), "block_3_expand_relu"
    outputs = network.tap(model, [layer])(x, training=False)
    probe = keras.Model(base.inputs[0], base.get_layer(layer).output)
    np.testing.assert_allclose(outputs[layer], probe(2 * x - 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], model(x), rtol=1e-4, atol=1e-5)
    last = network.tap(model, ["last"])(x, training=False)["last"]
    np.testing.assert_allclose(last, base(2 * x - 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        L.Rescaling(1 / 0.3, offset=-0.5, name="scale"),
        L.Normalization(mean=(0.1, 0.2, 0.3), variance=(1.0, 4.0, 9.0), name="scale"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_models_may_hold_their_own_normalisation(layer):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, head(L.Conv2D(4, 3)(layer(inputs))))
    outputs = network.tap(model, ["scale"])(images())
    np.testing.assert_array_equal(outputs["scale"], layer(images()))
    np.testing.assert_array_equal(outputs["logits"], model(images()))


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.pool = L.BatchNormalization(), L.GlobalAveragePooling2D()
        self.dense = L.Dense(4)

    def call(self, x, training=None):
        return self.dense(self.pool(self.norm(x, training=training)))


def test_a_subclassed_model_gives_logits_and_follows_training():
    model = Subclassed()
    expected = model(images()).numpy()
    wrapped = network.tap(model)
    outputs = wrapped(images(), training=False)
    assert set(outputs) == {"logits"}
    np.testing.assert_array_equal(outputs["logits"], expected)
    wrapped(images(), training=True)
    assert model.norm.moving_mean.numpy().any()
    assert network.classifier(wrapped) is model
    assert network.shares_weights(wrapped, model)


def test_layers_of_a_subclassed_model_are_refused():
    with pytest.raises(InputError, match="functional"):
        network.tap(Subclassed(), ["norm"])


def test_forward_passes_each_view_once_and_the_same_tensor_once():
    calls = []

    class Model:
        trainable_weights, losses = (), []

        def __call__(self, x, training):
            calls.append(training)
            self.losses = [len(calls)]
            return {"logits": x}

    model = Model()
    x, other = keras.ops.zeros(1), keras.ops.ones(1)
    student = network.Forward(model, {"clean": x, "adv": x, "more": other}, training=True)
    assert student["clean"] is student["adv"]
    assert student["more"]["logits"] is other
    assert student["clean"]["logits"] is x
    assert calls == [True, True] and student.losses == [1, 2]

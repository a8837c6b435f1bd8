"""Networks: taps of any Keras classifier, shared weights, student files, refusals."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from vfd_tf import AdversarialTrainer, InputError
from vfd_tf.models import network, outputs
from vfd_tf.models.architectures import ARCHITECTURES

# isort: split

import keras
from keras import layers as L

SHAPE = (8, 8, 3)


def _images(n=3, shape=SHAPE):
    return np.random.RandomState(0).rand(n, *shape).astype("float32")


def _head(x, classes=5):
    return L.Dense(classes, name="head")(L.GlobalAveragePooling2D(name="pool")(x))


def _functional(name="own", classes=5):
    inputs = keras.Input(SHAPE)
    x = L.Rescaling(2.0, offset=-1.0, name="rescaling")(inputs)
    x = L.Conv2D(4, 3, padding="same", name="conv1")(x)
    x = L.BatchNormalization(name="bn")(x)
    x = L.ReLU(name="relu1")(x)
    x = L.Conv2D(6, 3, name="conv2")(x)
    return keras.Model(inputs, _head(x, classes), name=name)


def _stack():
    return [
        L.Conv2D(4, 3, padding="same", name="conv1"),
        L.BatchNormalization(name="bn"),
        L.ReLU(name="relu1"),
        L.Conv2D(6, 3, name="conv2"),
        L.GlobalAveragePooling2D(name="pool"),
        L.Dense(5, name="head"),
    ]


def _sequential():
    return keras.Sequential([keras.Input(SHAPE), *_stack()], name="own")


def _sequential_by_add():
    model = keras.Sequential(name="own")
    model.add(keras.Input(SHAPE))
    for layer in _stack():
        model.add(layer)
    return model


def _sequential_built_late():
    model = keras.Sequential(_stack(), name="own")
    model.build((None, *SHAPE))
    return model


def _sequential_called():
    model = keras.Sequential(_stack(), name="own")
    model(_images())
    return model


FLAT = {
    "functional": _functional,
    "sequential": _sequential,
    "sequential by add": _sequential_by_add,
    "sequential built late": _sequential_built_late,
    "sequential called": _sequential_called,
}


def _backbone(name="backbone"):
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    x = L.BatchNormalization(name="bn")(x)
    x = L.ReLU(name="relu1")(x)
    x = L.Conv2D(6, 3, name="conv2")(x)
    return keras.Model(inputs, x, name=name)


def _sequential_backbone(name="backbone"):
    return keras.Sequential([keras.Input(SHAPE), *_stack()[:4]], name=name)


def _around(inner, name="outer"):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, _head(inner(L.Rescaling(2.0)(inputs))), name=name)


def _functional_in_functional():
    return _around(_backbone())


def _functional_in_sequential():
    layers = [keras.Input(SHAPE), L.Rescaling(2.0), _backbone(), *_stack()[4:]]
    return keras.Sequential(layers, name="outer")


def _sequential_in_functional():
    return _around(_sequential_backbone())


def _two_levels():
    inputs = keras.Input(SHAPE)
    middle = keras.Model(inputs, _backbone()(inputs), name="middle")
    return _around(middle)


NESTED = {
    "functional in functional": _functional_in_functional,
    "functional in sequential": _functional_in_sequential,
    "sequential in functional": _sequential_in_functional,
    "two levels": _two_levels,
}


def _find(model, name):
    layers = model._flatten_layers(include_self=False)
    return next(layer for layer in layers if layer.name == name)


def _by_hand(model, scale, until):
    """Features of conv1-bn-relu1-conv2, each layer called in turn."""
    x = scale(_images())
    for name in ("conv1", "bn", "relu1", "conv2"):
        x = _find(model, name)(x)
        if name == until:
            return x.numpy()
    raise AssertionError(until)


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("layer", ["conv1", "bn", "relu1", "conv2", "pool"])
def test_tap_is_the_output_of_the_layer(kind, layer):
    model = FLAT[kind]()
    outputs = network.tap(model, [layer])(_images(), training=False)
    assert set(outputs) == {"logits", layer}
    np.testing.assert_array_equal(outputs["logits"], model(_images(), training=False))
    if layer != "pool":
        scale = (lambda x: 2 * x - 1) if kind == "functional" else (lambda x: x)
        expected = _by_hand(model, scale, layer)
        np.testing.assert_allclose(outputs[layer], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", FLAT)
def test_last_is_the_last_feature_map(kind):
    outputs = network.tap(FLAT[kind](), ["last", "conv2"])(_images())
    np.testing.assert_array_equal(outputs["last"], outputs["conv2"])


@pytest.mark.parametrize("kind", FLAT)
def test_without_layers_there_are_logits_alone(kind):
    model = FLAT[kind]()
    for layers in ([], ["logits"]):
        outputs = network.tap(model, layers)(_images())
        assert set(outputs) == {"logits"}
        np.testing.assert_array_equal(outputs["logits"], model(_images()))


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("layer", ["conv1", "bn", "relu1", "conv2"])
def test_layers_of_a_nested_backbone_are_tapped_by_name(kind, layer):
    model = NESTED[kind]()
    outputs = network.tap(model, [layer])(_images(), training=False)
    np.testing.assert_allclose(outputs["logits"], model(_images()), rtol=1e-5, atol=1e-6)
    expected = _by_hand(model, lambda x: 2 * x, layer)
    np.testing.assert_allclose(outputs[layer], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NESTED)
def test_last_of_a_nested_backbone_is_its_feature_map(kind):
    model = NESTED[kind]()
    expected = _by_hand(model, lambda x: 2 * x, "conv2")
    outputs = network.tap(model, ["last"])(_images(), training=False)
    np.testing.assert_allclose(outputs["last"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NESTED)
def test_a_backbone_is_tapped_by_its_own_name(kind):
    model = NESTED[kind]()
    expected = _by_hand(model, lambda x: 2 * x, "conv2")
    outputs = network.tap(model, ["backbone"])(_images(), training=False)
    np.testing.assert_allclose(outputs["backbone"], expected, rtol=1e-5, atol=1e-6)


def test_inner_and_outer_layers_are_tapped_together():
    outputs = network.tap(_functional_in_functional(), ["relu1", "pool", "last"])(_images())
    assert set(outputs) == {"logits", "relu1", "pool", "last"}
    assert outputs["relu1"].shape == (3, 8, 8, 4)
    assert outputs["last"].shape == (3, 6, 6, 6)
    np.testing.assert_allclose(
        outputs["pool"], outputs["last"].numpy().mean((1, 2)), rtol=1e-5, atol=1e-6
    )


def test_layers_that_were_called_before_are_tapped_in_this_model():
    backbone = _backbone()
    x = inputs = keras.Input(SHAPE)
    for layer in backbone.layers[1:]:
        x = layer(x)
    model = keras.Model(inputs, _head(x), name="rewired")
    outputs = network.tap(model, ["relu1"])(_images())
    np.testing.assert_allclose(
        outputs["relu1"], _by_hand(model, lambda x: x, "relu1"), rtol=1e-5, atol=1e-6
    )


def test_more_layers_are_added_to_a_network():
    model = _functional_in_functional()
    outputs = network.tap(network.tap(model, ["relu1"]), ["relu1", "conv1", "pool"])(
        _images()
    )
    assert {"logits", "relu1", "conv1", "pool"} <= set(outputs)
    flat = network.tap(network.tap(_functional(), ["conv1"]), ["relu1"])(_images())
    assert {"logits", "conv1", "relu1"} <= set(flat)


def test_numbered_layers_decide_what_last_is():
    x = inputs = keras.Input(SHAPE)
    for name in ("layer2", "layer10", "after"):
        x = L.Conv2D(4, 3, padding="same", name=name)(x)
    model = keras.Model(inputs, _head(x))
    outputs = network.tap(model, ["last", "layer10"])(_images())
    np.testing.assert_array_equal(outputs["last"], outputs["layer10"])
    assert network.last_layer(["layer2", "layer10", "layer10_preact", "xlayer11"]) == (
        "layer10"
    )
    assert network.last_layer(["conv"]) is None


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_a_training_pass_moves_statistics_once_and_layers_run_once(build):
    model, original = build(), build()
    original.set_weights(model.get_weights())
    network.tap(model, ["relu1"])(_images(), training=True)
    original(_images(), training=True)
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
    before = tapped(_images())["logits"].numpy()
    model.set_weights([w + 0.1 for w in model.get_weights()])
    after = tapped(_images())["logits"].numpy()
    np.testing.assert_allclose(after, model(_images()), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_the_user_s_model_stays_as_it_was(build):
    model = build()
    _find(model, "conv1").trainable = False
    before = model(_images()).numpy()
    flags = [layer.trainable for layer in model._flatten_layers()]
    names = [layer.name for layer in model._flatten_layers()]
    inputs, outputs = list(model.inputs), list(model.outputs)
    tapped = network.tap(model, ["relu1"])
    assert len(tapped.trainable_weights) == len(model.trainable_weights)
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    assert [layer.name for layer in model._flatten_layers()] == names
    assert all(a is b for a, b in zip(inputs, model.inputs, strict=True))
    assert all(a is b for a, b in zip(outputs, model.outputs, strict=True))
    np.testing.assert_array_equal(model(_images()), before)


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_classifier_is_the_inverse_of_tap(build):
    model = build()
    logits = network.classifier(network.tap(model, ["relu1"]))(_images())
    np.testing.assert_allclose(logits, model(_images()), rtol=1e-5, atol=1e-6)
    assert network.classifier(model) is model


@pytest.mark.slow
def test_layers_of_a_keras_application_are_tapped_by_name():
    shape = (32, 32, 3)
    options = {"weights": None, "include_top": False, "alpha": 0.35}
    base = keras.applications.MobileNetV2(input_shape=shape, **options)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, _head(base(L.Rescaling(2.0, offset=-1.0)(inputs))))
    x, layer = _images(2, shape), "block_3_expand_relu"
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
    model = keras.Model(inputs, _head(L.Conv2D(4, 3)(layer(inputs))))
    outputs = network.tap(model, ["scale"])(_images())
    np.testing.assert_array_equal(outputs["scale"], layer(_images()))
    np.testing.assert_array_equal(outputs["logits"], model(_images()))


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
    expected = model(_images()).numpy()
    wrapped = network.tap(model)
    outputs = wrapped(_images(), training=False)
    assert set(outputs) == {"logits"}
    np.testing.assert_array_equal(outputs["logits"], expected)
    wrapped(_images(), training=True)
    assert model.norm.moving_mean.numpy().any()
    assert network.classifier(wrapped) is model
    assert network.shares_weights(wrapped, model)


def test_layers_of_a_subclassed_model_are_refused():
    with pytest.raises(InputError, match="functional"):
        network.tap(Subclassed(), ["norm"])


@pytest.mark.parametrize(
    "augmentation",
    [
        L.RandomFlip("horizontal"),
        L.RandomTranslation(0.1, 0.1),
        L.RandomRotation(0.1),
        L.RandomCrop(8, 8),
        L.RandomContrast(0.2),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("nested", [False, True])
def test_random_augmentation_is_refused_anywhere_in_a_model(augmentation, nested):
    inputs = keras.Input(SHAPE)
    x = augmentation
    if nested:
        inner = keras.Input(SHAPE)
        x = keras.Model(inner, augmentation(inner))
    model = keras.Model(inputs, _head(x(inputs)))
    with pytest.raises(InputError, match=type(augmentation).__name__) as refusal:
        AdversarialTrainer(model, "pgd-at")
    assert "dataset.map" in str(refusal.value)


@pytest.mark.parametrize("build", [*FLAT.values(), *NESTED.values()])
def test_unknown_layer_suggests_the_nearest(build):
    with pytest.raises(InputError, match="Did you mean 'conv2'"):
        network.tap(build(), ["conv22"])


def test_unknown_layer_without_a_near_one_lists_them():
    with pytest.raises(InputError, match="conv1, conv2"):
        network.tap(_functional(), ["zzz"])


def test_last_without_a_feature_map_is_refused():
    inputs = keras.Input(SHAPE)
    hidden = L.Dense(4, name="hidden")(L.Flatten(name="flat")(inputs))
    model = keras.Model(inputs, L.Dense(5, name="head")(hidden))
    with pytest.raises(InputError, match="feature map.*: hidden, logits"):
        network.tap(model, ["last"])


def _two_inputs():
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    return keras.Model([one, two], _head(L.Add()([one, two])))


def _two_outputs():
    inputs = keras.Input(SHAPE)
    pooled = L.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, [L.Dense(5)(pooled), L.Dense(2)(pooled)])


def _dict_without_logits():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, {"scores": _head(inputs)})


def _feature_map_output():
    return _backbone()


@pytest.mark.parametrize(
    "build, hint",
    [
        (_two_inputs, "2 inputs"),
        (_two_outputs, "logits"),
        (_dict_without_logits, "scores.*'logits'"),
        (_feature_map_output, "logits"),
        (lambda: keras.Sequential(_stack()), "keras.Input"),
    ],
)
@pytest.mark.parametrize("layers", [[], ["last"]])
def test_models_that_are_no_classifiers_are_refused(build, hint, layers):
    with pytest.raises(InputError, match=hint):
        network.tap(build(), layers)


@pytest.mark.parametrize(
    "end, probabilities",
    [
        ([L.Dense(3, "softmax")], True),
        ([L.Dense(3), L.Softmax()], True),
        ([L.Dense(3), L.Activation("softmax")], True),
        ([L.Dense(3, "sigmoid")], True),
        ([L.Dense(3)], False),
        ([L.Dense(3, "relu")], False),
        ([L.Dense(3, "softmax"), L.Dense(3)], False),
    ],
)
@pytest.mark.parametrize("kind", ["functional", "nested", "sequential", "tapped"])
def test_probabilities_are_recognised_by_the_last_operation(end, probabilities, kind):
    end = [type(layer).from_config(layer.get_config()) for layer in end]
    x = inputs = keras.Input(SHAPE)
    for layer in [L.Flatten(name="flat"), *end]:
        x = layer(x)
    model = keras.Model(inputs, x)
    if kind == "nested":
        outer = keras.Input(SHAPE)
        model = keras.Model(outer, model(outer))
    if kind == "sequential":
        model = keras.Sequential([keras.Input(SHAPE), L.Flatten(), *end])
    if kind == "tapped":
        model = network.tap(model, ["flat"])
    assert outputs.ends_in_probabilities(model) is probabilities


@pytest.mark.parametrize(
    "name, suffix",
    [("resnet8", "keras"), ("resnet8", "h5"), ("preact_resnet18", "keras")],
)
def test_a_student_file_gives_the_dict_back(name, suffix, tmp_path):
    model = ARCHITECTURES[name](SHAPE, 4, width=0.1, mean=0.4, variance=0.1)
    path = str(tmp_path / f"student.{suffix}")
    network.classifier(model).save(path)
    loaded = network.tap(network.load(path), list(model.output))
    expected, got = model(_images()), loaded(_images())
    assert set(got) == set(expected)
    for key in expected:
        np.testing.assert_allclose(got[key], expected[key], rtol=1e-5, atol=1e-6)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model file"):
        network.load(str(tmp_path / "none.keras"))
    for name, message in (("a.keras", "damaged or cut short"), ("a.h5", "can't be read")):
        broken = tmp_path / name
        broken.write_bytes(b"neither a zip nor HDF5")
        with pytest.raises(InputError, match=message) as refusal:
            network.load(str(broken))
        assert "\n" not in str(refusal.value)


SCRIPT = """
import json, os, sys
os.chdir(sys.argv[1])
import keras
import numpy as np
x, y = np.load("x.npy"), np.load("y.npy")
losses = {}
for name in json.load(open("names.json")):
    model = keras.saving.load_model(name + ".keras")
    np.save(name + ".npy", model.predict(x, verbose=0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    losses[name] = model.evaluate(x, y, verbose=0)
assert "vfd_tf" not in sys.modules
json.dump(losses, open("losses.json", "w"))
"""


@pytest.mark.slow
def test_student_files_work_in_a_process_without_this_package(tmp_path):
    x, y = _images(6), np.array([0, 1, 2, 3, 0, 1])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "names.json").write_text(json.dumps(list(ARCHITECTURES)))
    expected = {}
    for name, build in ARCHITECTURES.items():
        model = build(SHAPE, 4, width=0.05, mean=0.4, variance=0.1)
        network.classifier(model).save(tmp_path / f"{name}.keras")
        expected[name] = model(x, training=False)["logits"].numpy().astype("float64")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        env={**environment, "KERAS_BACKEND": "tensorflow"},
        check=True,
    )
    losses = json.loads((tmp_path / "losses.json").read_text())
    for name, z in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), z, 1e-4, 1e-4)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        assert losses[name][0] == pytest.approx(-log_p[range(6), y].mean(), rel=1e-3)
        assert losses[name][1] == pytest.approx((z.argmax(-1) == y).mean(), abs=1e-6)


def test_forward_passes_each_view_once_and_the_same_tensor_once():
    calls = []

    def model(x, training):
        calls.append(training)
        return {"logits": x}

    x, other = keras.ops.zeros(1), keras.ops.ones(1)
    student = network.Forward(model, {"clean": x, "adv": x, "more": other}, training=True)
    assert student["clean"] is student["adv"]
    assert student["more"]["logits"] is other
    assert student["clean"]["logits"] is x
    assert calls == [True, True]

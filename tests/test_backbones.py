"""Backbones of keras.applications by name: ranges, heads, layers, and what is refused."""

import importlib
import os
import subprocess
import sys

from vfd_tf import InputError
from vfd_tf.models import architectures, backbones, contract, initial, network

# isort: split

import keras
import numpy as np
import pytest

SMALL = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0")
LAST = dict(zip(SMALL, ("out_relu", "activation", "top_activation"), strict=True))


def images(shape, n=2, seed=0):
    return np.random.RandomState(seed).rand(n, *shape).astype("float32")


def build(name, shape=(32, 32, 3), classes=5, **options):
    return architectures.architecture(f"keras:{name}")(shape, classes, **options)


def module_of(name):
    family = getattr(keras.applications, name).__module__.rpartition(".")[2]
    return importlib.import_module(f"keras.applications.{family}")


def shake(model):
    """Random values of the size that each weight has, so that no layer is the identity."""
    random = np.random.RandomState(1)
    values = [v * random.uniform(0.5, 1.5, v.shape) for v in model.get_weights()]
    model.set_weights(values)


def test_every_family_of_keras_has_its_range():
    found = {name for name, f in vars(keras.applications).items() if callable(f)}
    assert found == set(backbones.backbones())
    modules = {
        name for name, m in vars(keras.applications).items() if hasattr(m, "__path__")
    }
    assert modules - {"imagenet_utils", "resnet50"} == set(backbones.RANGES)  # an alias


@pytest.mark.parametrize("family", sorted(backbones.RANGES))
def test_images_become_what_keras_s_preprocessing_makes_of_bytes(family):
    x = images((5, 6, 3))
    inputs = keras.Input((5, 6, 3))
    ours = keras.Model(inputs, backbones.RANGES[family](inputs))
    module = importlib.import_module(f"keras.applications.{family}")
    theirs = module.preprocess_input(255 * x)
    np.testing.assert_allclose(ours(x), theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_features_are_those_of_keras_s_own_model(name):
    model = network.tap(build(name), ["last"])
    theirs = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    shake(theirs)
    own = [v for v in model.weights if not v.path.startswith("logits")]
    for variable, value in zip(own, theirs.get_weights(), strict=True):
        variable.assign(value)
    x = images((32, 32, 3))
    outputs = model(x, training=False)
    features = theirs(module_of(name).preprocess_input(255 * x), training=False).numpy()
    scale = np.abs(features).max()
    np.testing.assert_allclose(outputs["last"], features, atol=1e-4 * scale)
    kernel, bias = model.get_layer("logits").get_weights()
    logits = features.mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4 * scale)
    assert network.last(model).startswith(LAST[name])


@pytest.mark.slow
def test_grey_images_are_three_times_the_same_channel():
    grey, colour = build("MobileNetV2", (32, 32, 1)), build("MobileNetV2")
    colour.set_weights(grey.get_weights())
    x = images((32, 32, 1))
    expected = colour(x.repeat(3, -1), training=False)["logits"]
    np.testing.assert_array_equal(grey(x, training=False)["logits"], expected)


def test_width_is_alpha_and_normalisation_stays_keras_s():
    one = build("MobileNetV2", width=0.35, mean=0.5, variance=0.1)
    theirs = keras.applications.MobileNetV2((32, 32, 3), 0.35, False, None)
    assert one.count_params() == theirs.count_params() + 1280 * 5 + 5
    assert (one.get_layer("bn_Conv1").momentum, one.name) == (0.999, "MobileNetV2")
    with pytest.raises(InputError, match="one width only: leave --width out"):
        build("VGG16", width=0.5)


@pytest.mark.slow
def test_weights_are_drawn_from_the_seed():
    drawn = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        drawn.append(build("MobileNetV2", width=0.35).get_weights())
    pairs = [zip(drawn[0], other, strict=True) for other in drawn[1:]]
    assert [all(np.array_equal(a, b) for a, b in pair) for pair in pairs] == [True, False]


@pytest.mark.slow
def test_a_saved_network_loads_without_this_package(tmp_path):
    model = build("VGG16")  # its channels are turned by an operation, not by a layer
    network.classifier(model).save(tmp_path / "vgg.keras")
    x = images((32, 32, 3))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import keras, numpy, sys\n"
        "model = keras.saving.load_model('vgg.keras')\n"
        "numpy.save('z.npy', model(numpy.load('x.npy'), training=False))\n"
        "assert 'vfd_tf' not in sys.modules"
    )
    hidden = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True, env=hidden)
    logits = model(x, training=False)["logits"]
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), logits, rtol=1e-4, atol=1e-5)


def test_a_named_layer_can_be_tapped():
    model = build("MobileNetV2", width=0.35)
    tapped = network.tap(model, ["block_13_expand_relu"])
    assert tapped.output["block_13_expand_relu"].shape == (None, 2, 2, 6 * 32)
    contract.refuse_probabilities(model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet_v2", "Did you mean 'keras:MobileNetV2'"),
        ("MobilNetV2", "Did you mean 'keras:MobileNetV2'"),
        ("EffcientNetB0", "Did you mean 'keras:EfficientNetB0'"),
        ("preprocess", "Choose one of: keras:ConvNeXtBase, "),
        ("", "Choose one of: keras:ConvNeXtBase, "),
        ("os", "Choose one of: keras:ConvNeXtBase, "),
    ],
)
def test_other_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(InputError, match="keras.applications has no backbone") as found:
        architectures.check(f"keras:{name}")
    assert message in str(found.value)


def test_images_that_a_backbone_does_not_take_are_refused():
    with pytest.raises(InputError, match="at least 75x75 pixels, and these have 32x40"):
        build("InceptionV3", (32, 40, 3))
    with pytest.raises(InputError, match="1 or 3 channels, and these have 4: choose"):
        build("MobileNetV2", (32, 32, 4))


def test_weights_of_imagenet_need_a_network(monkeypatch):
    def get_file(*_, **__):
        raise Exception("URL fetch failure on https://x/y.h5: None -- no name")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(InputError, match=r"can't be downloaded \(no name\): connect"):
        backbones.imagenet("keras:MobileNetV2", (32, 32, 3))
    with pytest.raises(InputError, match="choose another --width"):
        backbones.imagenet("keras:MobileNetV2", (32, 32, 3), width=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_imagenet_weights_is_keras_s_model(name, monkeypatch, tmp_path):
    """Weights take the place of those that would be downloaded."""
    function = getattr(keras.applications, name)
    options = {"include_top": False, "input_shape": (32, 32, 3)}
    stand_in = function(weights=None, **options)
    shake(stand_in)
    path = str(tmp_path / "stand_in.weights.h5")
    stand_in.save_weights(path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: path)
    theirs = function(weights="imagenet", **options)
    model = build(name, (32, 32, 1))
    head = model.get_layer("logits").get_weights()
    initial.start(model, "imagenet", f"keras:{name}")
    x = images((32, 32, 1))
    bytes_ = module_of(name).preprocess_input(255 * x.repeat(3, -1))
    features = theirs(bytes_, training=False).numpy()
    logits = features.mean((1, 2)) @ head[0] + head[1]
    scale = np.abs(features).max()
    outputs = model(x, training=False)
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4 * scale)

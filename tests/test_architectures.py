"""Architectures: weights, shapes, taps, padding, initialisation and normalisation."""

import functools

import numpy as np
import pytest

from vfd_tf.models.architectures import ARCHITECTURES

# isort: split

import keras

NAMES = sorted(ARCHITECTURES)
WIDTH = 0.1
FOUR = {"resnet18", "preact_resnet18"}
STAGES = {name: 3 for name in NAMES} | {name: 4 for name in FOUR} | {"vgg16": 5}
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "preact_resnet18": (64, 128, 256, 512),
    "vgg16": (64, 128, 256, 512, 512),
    "wide_resnet_34_10": (160, 320, 640),
    "wide_resnet_28_10": (160, 320, 640),
    "resnet8": (16, 32, 64),
}
WEIGHTS = {
    "resnet18": 11_173_962,
    "preact_resnet18": 11_172_170,
    "vgg16": 14_728_266,
    "wide_resnet_34_10": 46_160_474,
    "wide_resnet_28_10": 36_479_194,
    "resnet8": 78_042,
}
WIDE = {"wide_resnet_34_10", "wide_resnet_28_10"}
# The wide networks are built of the same blocks as preact_resnet18, only more of them.
BUILT = [pytest.param(n, marks=pytest.mark.slow) if n in WIDE else n for n in NAMES]
STRIDED = [n for n in BUILT if n != "vgg16"]


@functools.cache
def _narrow(name, shape=(8, 8, 3), classes=10, **options):
    return ARCHITECTURES[name](shape, classes, width=WIDTH, **options)


def _images(shape, n=2, seed=0):
    return np.random.RandomState(seed).rand(n, *shape).astype("float32")


def _strided(model):
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
        and layer.strides == (2, 2)
        and layer.kernel_size == (3, 3)
    ]


def _unpadded_input(model, conv):
    """The tensor before the zeros that stand around the input of a convolution."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.ZeroPadding2D) and layer.output is conv.input:
            return layer.input
    return conv.input


def _pytorch_conv(x, kernel, stride, pad):
    """Cross-correlation with `pad` zeros on all four sides: PyTorch's Conv2d."""
    size = kernel.shape[0]
    x = np.pad(x.astype("float64"), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijcd->nhwd", windows, kernel.astype("float64"))


def test_every_architecture_is_in_the_tables():
    assert set(WEIGHTS) == set(CHANNELS) == set(NAMES)


@pytest.mark.parametrize("name", BUILT)
def test_number_of_trainable_weights_is_the_original_s(name):
    model = ARCHITECTURES[name]((32, 32, 3), 10)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_weights) == WEIGHTS[name]
    for stage, channels in enumerate(CHANNELS[name], 1):
        assert model.output[f"layer{stage}"].shape[-1] == channels


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32])
def test_every_stage_after_the_first_halves_the_map(name, size):
    model = _narrow(name, (size, size, 3))
    first = size // 2 if name == "resnet8" else size
    for stage, channels in enumerate(CHANNELS[name], 1):
        side = first >> (stage - 1)
        expected = (None, side, side, round(WIDTH * channels))
        assert model.output[f"layer{stage}"].shape == expected
        assert model.output[f"layer{stage}_preact"].shape == expected
    assert model.output["logits"].shape == (None, 10)


@pytest.mark.parametrize("name", BUILT)
def test_outputs_are_the_logits_and_every_stage_s_taps_and_last(name):
    stages = range(1, STAGES[name] + 1)
    taps = {f"layer{i}{end}" for i in stages for end in ("", "_preact")}
    model = _narrow(name)
    assert set(model.output) == taps | {"logits", "last"}
    assert taps | {"logits"} <= {layer.name for layer in model.layers}


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("training", [False, True])
def test_layer_is_relu_of_its_preactivation_and_last_the_highest(name, training):
    model = _narrow(name)
    outputs = model(_images((8, 8, 3), 4), training=training)
    for stage in range(1, STAGES[name] + 1):
        preact = outputs[f"layer{stage}_preact"].numpy()
        np.testing.assert_array_equal(outputs[f"layer{stage}"], np.maximum(preact, 0))
        assert (preact < 0).any()
    np.testing.assert_array_equal(outputs["last"], outputs[f"layer{STAGES[name]}"])


@pytest.mark.parametrize("name", BUILT)
def test_logits_are_a_dense_layer_of_the_mean_of_the_last_stage(name):
    model = _narrow(name)
    outputs = model(_images((8, 8, 3)), training=False)
    last = outputs["last"].numpy()
    if name == "vgg16":  # pools once more, unless a single pixel is left
        assert last.shape[1:3] == (1, 1)
    kernel, bias = model.get_layer("logits").get_weights()
    expected = last.mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize(
    "shape, classes", [((8, 8, 1), 2), ((9, 11, 3), 7), ((13, 8, 4), 100)]
)
def test_any_image_from_8x8_any_channels_any_classes(name, shape, classes):
    logits = _narrow(name, shape, classes)(_images(shape))["logits"]
    assert logits.shape == (2, classes)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("size", [8, 9])
def test_strided_convolutions_pad_as_pytorch_on_all_sides(name, size):
    model = _narrow(name, (size, size, 3))
    convs = _strided(model)
    assert len(convs) == STAGES[name] - 1
    before = [_unpadded_input(model, conv) for conv in convs]
    probe = keras.Model(model.inputs[0], [before, [conv.output for conv in convs]])
    for conv, x, y in zip(convs, *probe(_images((size, size, 3))), strict=True):
        assert y.shape[1] == -(-x.shape[1] // 2)
        expected = _pytorch_conv(x.numpy(), conv.get_weights()[0], stride=2, pad=1)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", STRIDED)
def test_strided_shortcuts_read_the_even_pixels(name):
    model = _narrow(name, (9, 9, 3))
    shortcuts = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1)
    ][1 - STAGES[name] :]  # a wide network's first stage has one too, of stride 1
    before = [model.output[f"layer{stage}"] for stage in range(1, STAGES[name])]
    probe = keras.Model(model.inputs[0], [before, [conv.output for conv in shortcuts]])
    for conv, x, y in zip(shortcuts, *probe(_images((9, 9, 3))), strict=True):
        assert y.shape[1] == -(-x.shape[1] // 2)
        expected = _pytorch_conv(x.numpy(), conv.get_weights()[0], stride=2, pad=0)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_strided_stem_of_resnet8_pads_on_all_sides():
    model = _narrow("resnet8", (32, 32, 3))
    conv = _strided(model)[0]
    x = _images((32, 32, 3))
    y = keras.Model(model.inputs[0], conv.output)(x)
    expected = _pytorch_conv(x, conv.get_weights()[0], stride=2, pad=1)
    assert y.shape[1:3] == (16, 16)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BUILT)
def test_kernels_are_he_initialised(name):
    keras.utils.set_random_seed(0)
    model = ARCHITECTURES[name]((8, 8, 3), 10, width=0.3 if name not in WIDE else WIDTH)
    checked = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            kernel, *bias = layer.get_weights()
            fan_in = np.prod(kernel.shape[:-1])
            if kernel.size >= 2000:
                tolerance = 5 / np.sqrt(kernel.size)
                assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=tolerance)
                checked += 1
            assert not bias or not bias[0].any()
    assert checked


@pytest.mark.parametrize("name", BUILT)
def test_batch_norm_has_pytorch_s_momentum_and_epsilon(name):
    norms = [
        layer
        for layer in _narrow(name).layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert norms
    assert {(n.momentum, n.epsilon) for n in norms} == {(0.9, 1e-5)}


@pytest.mark.parametrize("name", BUILT)
def test_normalisation_is_the_first_layer(name):
    mean, variance = (0.5, 0.4, 0.3), (0.04, 0.09, 0.16)
    normalised = _narrow(name, mean=mean, variance=variance)
    plain = _narrow.__wrapped__(name)
    plain.set_weights(normalised.get_weights())
    x = _images((8, 8, 3))
    outside = (x - np.float32(mean)) / np.sqrt(np.float32(variance))
    got, expected = normalised(x)["logits"], plain(outside)["logits"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(normalised.layers[1], keras.layers.Normalization)


@pytest.mark.parametrize("name", BUILT)
def test_without_statistics_the_images_go_in_as_they_are(name):
    model = _narrow(name)
    x = _images((8, 8, 3))
    first = keras.Model(model.inputs[0], model.get_layer("normalization").output)
    np.testing.assert_array_equal(first(x), x)

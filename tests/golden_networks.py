"""The golden arrays and the networks they were computed with."""

import functools
from pathlib import Path

import keras
import numpy as np
from keras import layers

FOLDER = Path(__file__).parent / "golden"


@functools.cache
def arrays(name):
    """All arrays of a file: {key: array}."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def part_a(precision):
    """Losses and steps on the tiny network, `precision` float32 or float64."""
    return arrays(f"part_a_seed0_{precision}")


def part_b():
    """FGSM and PGD-20 on the small ResNet."""
    return arrays("part_b_fgsm_pgd20")


def under(values, prefix):
    """The entries below a prefix: {rest of the key: array}."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def named(variables):
    """Variables (or what stands beside them) by the names of the golden arrays."""
    return {variable.path.replace("/", "."): variable for variable in variables}


def load(network, weights):
    """The network with the golden weights of the same names, all of them."""
    variables = named(network.weights)
    assert set(variables) == set(weights)
    for name, variable in variables.items():
        variable.assign(weights[name])
    return network


def tiny(role, precision):
    """Part A's network with the weights of student, vanilla or robust; layer1 is F^k."""
    convolve, normalise, rectify = _layers(precision)
    image = keras.Input((8, 8, 3), dtype=precision)
    x = rectify(normalise("bn1")(convolve("conv1", 8)(image)))
    x = normalise("bn2")(convolve("conv2", 16)(x))
    features = layers.ReLU(dtype=precision, name="layer1")(x)
    pooled = layers.GlobalAveragePooling2D(dtype=precision)(features)
    logits = layers.Dense(10, dtype=precision, name="fc")(pooled)
    network = keras.Model(image, {"layer1": features, "logits": logits}, name=role)
    return load(network, under(part_a(precision), f"weights/{role}/"))


def resnet(net, precision="float64"):
    """Part B's network with the weights called robust or standard: image -> logits."""
    convolve, normalise, rectify = _layers(precision)

    def block(x, name, width, stride):
        main = convolve(f"{name}.conv1", width, stride)(x)
        main = rectify(normalise(f"{name}.bn1")(main))
        main = normalise(f"{name}.bn2")(convolve(f"{name}.conv2", width)(main))
        if stride > 1:
            x = convolve(f"{name}.convs", width, stride, size=1)(x)
            x = normalise(f"{name}.bns")(x)
        return rectify(layers.Add(dtype=precision)([main, x]))

    image = keras.Input((32, 32, 3), dtype=precision)
    x = rectify(normalise("bn0")(convolve("conv0", 16, 2)(image)))
    for index, (width, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
        x = block(x, f"block{index}", width, stride)
    x = layers.GlobalAveragePooling2D(dtype=precision)(x)
    network = keras.Model(image, layers.Dense(10, dtype=precision, name="fc")(x))
    return load(network, under(part_b(), f"weights/{net}/"))


def _layers(precision):
    def convolve(name, width, stride=1, size=3):
        # "same" pads a stride-2 convolution on one side only; PyTorch pads both.
        pad = layers.ZeroPadding2D(size // 2, dtype=precision)
        convolution = layers.Conv2D(
            width, size, stride, use_bias=False, dtype=precision, name=name
        )
        return lambda x: convolution(pad(x))

    def normalise(name):
        return layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, dtype=precision, name=name
        )

    return convolve, normalise, lambda x: layers.ReLU(dtype=precision)(x)

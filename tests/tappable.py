"""Small classifiers to tap: flat ones of all kinds, and backbones nested in others."""

import keras
import numpy as np
from keras import layers as L

SHAPE = (8, 8, 3)


def images(n=3, shape=SHAPE):
    return np.random.RandomState(0).rand(n, *shape).astype("float32")


def head(x, classes=5):
    return L.Dense(classes, name="head")(L.GlobalAveragePooling2D(name="pool")(x))


def _functional(name="own", classes=5):
    inputs = keras.Input(SHAPE)
    x = L.Rescaling(2.0, offset=-1.0, name="rescaling")(inputs)
    x = L.Conv2D(4, 3, padding="same", name="conv1")(x)
    x = L.BatchNormalization(name="bn")(x)
    x = L.ReLU(name="relu1")(x)
    x = L.Conv2D(6, 3, name="conv2")(x)
    return keras.Model(inputs, head(x, classes), name=name)


def stack():
    return [
        L.Conv2D(4, 3, padding="same", name="conv1"),
        L.BatchNormalization(name="bn"),
        L.ReLU(name="relu1"),
        L.Conv2D(6, 3, name="conv2"),
        L.GlobalAveragePooling2D(name="pool"),
        L.Dense(5, name="head"),
    ]


def _sequential():
    return keras.Sequential([keras.Input(SHAPE), *stack()], name="own")


def _sequential_by_add():
    model = keras.Sequential(name="own")
    model.add(keras.Input(SHAPE))
    for layer in stack():
        model.add(layer)
    return model


def _sequential_built_late():
    model = keras.Sequential(stack(), name="own")
    model.build((None, *SHAPE))
    return model


def _sequential_called():
    model = keras.Sequential(stack(), name="own")
    model(images())
    return model


FLAT = {
    "functional": _functional,
    "sequential": _sequential,
    "sequential by add": _sequential_by_add,
    "sequential built late": _sequential_built_late,
    "sequential called": _sequential_called,
}


def small_backbone(name="backbone"):
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    x = L.BatchNormalization(name="bn")(x)
    x = L.ReLU(name="relu1")(x)
    x = L.Conv2D(6, 3, name="conv2")(x)
    return keras.Model(inputs, x, name=name)


def _sequential_backbone(name="backbone"):
    return keras.Sequential([keras.Input(SHAPE), *stack()[:4]], name=name)


def _around(inner, name="outer"):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, head(inner(L.Rescaling(2.0)(inputs))), name=name)


def _functional_in_functional():
    return _around(small_backbone())


def _functional_in_sequential():
    layers = [keras.Input(SHAPE), L.Rescaling(2.0), small_backbone(), *stack()[4:]]
    return keras.Sequential(layers, name="outer")


def _sequential_in_functional():
    return _around(_sequential_backbone())


def _two_levels():
    inputs = keras.Input(SHAPE)
    middle = keras.Model(inputs, small_backbone()(inputs), name="middle")
    return _around(middle)


NESTED = {
    "functional in functional": _functional_in_functional,
    "functional in sequential": _functional_in_sequential,
    "sequential in functional": _sequential_in_functional,
    "two levels": _two_levels,
}


def find(model, name):
    layers = model._flatten_layers(include_self=False)
    return next(layer for layer in layers if layer.name == name)


def features_by_hand(model, scale, until):
    """Features of conv1-bn-relu1-conv2, each layer called in turn."""
    x = scale(images())
    for name in ("conv1", "bn", "relu1", "conv2"):
        x = find(model, name)(x)
        if name == until:
            return x.numpy()
    raise AssertionError(until)

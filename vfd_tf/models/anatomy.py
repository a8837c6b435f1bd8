"""What two networks must have in common for a mean of their weights to make sense."""

import keras
import numpy as np

from vfd_tf.models.keras_graph import calls, functional, has_graph, layers_of

L = keras.layers
# Of a configuration what says nothing about the function of a trained network.
_SILENT = {"name", "dtype", "trainable", "seed", "module", "registered_name"}
_SILENT |= {"build_config", "momentum", "synchronized"}
_ENDINGS = "_initializer", "_regularizer", "_constraint"
_GRAPHS = {"Functional", "Sequential"}  # their layers and calls are compared one by one
_IDLE = L.Dropout, L.AlphaDropout, L.GaussianDropout, L.GaussianNoise  # but in training


def anatomy(model: keras.Model) -> list:
    """Layers, their settings and their connections: equal for one architecture.

    Layers that tell no settings are known by class, activation and shapes of weights.
    """
    layers = layers_of(model)
    nested = [la for la in layers if isinstance(la, keras.Model)]
    nested = [la for la in nested if getattr(la, "inputs", None) and has_graph(la)]
    connections = [_connections(functional(graph)) for graph in (model, *nested)]
    return [*map(_layer, layers), *connections]


def _layer(layer):
    shapes = [list(v.shape) for v in layer.weights]
    activation = _plain(getattr(layer, "activation", None))
    return [_settings(layer), activation, shapes, _constants(layer)]


def _connections(graph):
    """Every call of a functional model, and what it is of."""
    return [
        [number, None if isinstance(op, keras.Layer) else _settings(op), _plain(given)]
        for op, number, given in calls(graph)
    ]


def _settings(operation):
    """Class and configuration of a layer or of an operation such as +."""
    name = type(operation).__name__
    if isinstance(operation, (*_IDLE, keras.Model)):
        return [name]
    try:
        config = operation.get_config()
    except Exception:  # a user's own layer, which is never saved
        return [name]
    if isinstance(operation, L.Normalization):  # a mean may be a number or a list
        config = {k: v for k, v in config.items() if k not in ("mean", "variance")}
    return [name, _plain(config)]


def _constants(layer):
    """Mean and variance of a `Normalization` that are no weights of it."""
    own = isinstance(layer, L.Normalization) and layer.input_mean is not None
    values = (layer.input_mean, layer.input_variance) if own else ()
    return [np.asarray(value, "float32").tolist() for value in values]


def _plain(value):
    """What a setting says, as lists, texts and numbers that can be compared."""
    if isinstance(value, dict):
        if value.get("class_name") in _GRAPHS:
            return [value["class_name"]]
        kept = (k for k in value if k not in _SILENT and not str(k).endswith(_ENDINGS))
        return [[str(k), _plain(value[k])] for k in sorted(kept, key=str)]
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, keras.Operation):
        return _settings(value)
    try:
        return np.asarray(value, "float32").tolist()
    except (TypeError, ValueError):
        return getattr(value, "__name__", type(value).__name__)

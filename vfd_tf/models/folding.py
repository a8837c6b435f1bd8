"""Folding: a network in inference mode, its BatchNorm inside the convolutions before it.

The same function up to rounding, for attacks, which call it thousands of times; verdicts
are given by the network as it is.
"""

import inspect

import keras
import tensorflow as tf

from vfd_tf.models import network
from vfd_tf.models.keras_graph import nodes, run


def folded(model: keras.Model):
    """images -> outputs of a network in inference mode, for use inside one trace.

    W x followed by gamma (. - mean) / sqrt(variance + epsilon) + beta is W' x + b' with

        W' = s W,  b' = beta - s mean,  s = gamma / sqrt(variance + epsilon),

    computed from the weights of the moment where it is called: outside the loop of an
    attack. Pairs of plain `Conv2D` and `BatchNormalization` layers are folded, in nested
    functional models too; everything else is called as it is.
    """
    graph = network.graph_of(model)
    if graph is None:
        return lambda x: model(x, training=False)
    whole = Inference(_folded(graph))
    return lambda x: whole(x, training=False)


class Inference(keras.Layer):
    """A function of images as a layer: hands `training` down to the layers it calls."""

    def __init__(self, function):
        super().__init__(autocast=False)
        self.function, self.built = function, True

    def call(self, x, training=None):
        return self.function(x)


def _folded(graph):
    table = {}
    for convolution, norm in _pairs(graph):
        table[convolution.name] = _convolution(convolution, norm)
        table[norm.name] = _cast(norm.compute_dtype)
    for layer in graph.layers:
        nested = isinstance(layer, keras.Model) and network.graph_of(layer)
        if nested:
            table[layer.name] = _folded(nested)

    # `inputs`, as Keras's layers name it: a graph may have been built by keyword.
    def function(inputs, **_):
        return run(graph, inputs, lambda layer: table.get(layer.name) or _plain(layer))

    return function


def _pairs(graph):
    """(convolution, norm) where the one feeds the other, and nothing else."""
    calls = nodes(graph, inputs=True)
    made = {id(tensor): node for node in calls for tensor in node.output_tensors}
    used = [id(tensor) for node in calls for tensor in node.input_tensors]
    used += [id(tensor) for tensor in graph.outputs]
    names = [node.operation.name for node in calls]
    for node in calls:
        if type(node.operation) is not keras.layers.BatchNormalization:
            continue
        tensor, norm = id(node.input_tensors[0]), node.operation
        convolution = made[tensor].operation
        if (
            type(convolution) is keras.layers.Conv2D
            and convolution.activation is keras.activations.linear
            and convolution.data_format == "channels_last"
            and norm.axis in (-1, 3)
            and used.count(tensor) == 1
            and names.count(convolution.name) == names.count(norm.name) == 1
        ):
            yield convolution, norm


def _convolution(convolution, norm):
    dtype, wide = convolution.compute_dtype, _wider(convolution, norm)
    scale = tf.math.rsqrt(tf.cast(norm.moving_variance, wide) + norm.epsilon)
    if norm.scale:
        scale *= tf.cast(norm.gamma, wide)
    shift = -tf.cast(norm.moving_mean, wide) * scale
    if norm.center:
        shift += tf.cast(norm.beta, wide)
    if convolution.use_bias:
        shift += tf.cast(convolution.bias, wide) * scale
    kernel = tf.cast(tf.cast(convolution.kernel, wide) * scale, dtype)
    bias = tf.cast(shift, dtype)

    def function(inputs, **_):
        x = convolution.convolution_op(tf.cast(inputs, dtype), kernel)
        return tf.nn.bias_add(x, bias)

    return function


def _wider(convolution, norm):
    dtypes = convolution.compute_dtype, norm.compute_dtype
    return "float64" if "float64" in dtypes else "float32"


def _cast(dtype):
    return lambda inputs, **_: tf.cast(inputs, dtype)


def _plain(operation):
    """The operation itself, in inference mode whatever it was called with."""
    layer = isinstance(operation, keras.Layer)
    if layer and "training" in inspect.signature(operation.call).parameters:
        return lambda *args, **kwargs: operation(*args, **{**kwargs, "training": False})
    return operation

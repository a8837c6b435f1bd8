"""The architecture of a file, `--arch=FILE.keras`, with weights drawn anew."""

import functools

import keras

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network
from vfd_tf.models.keras_graph import (
    finalize,
    functional,
    graph_of,
    layer_of,
    layers_of,
    own_weights,
)
from vfd_tf.progress import say_once


def build(
    path: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    width: float = 1.0,
    mean=0.0,
    variance=1.0,
) -> keras.Model:
    """The network of the model in a file, its weights drawn by its initialisers.

    What training can't move stays as the file has it: the weights of frozen layers, and
    the statistics of a `Normalization` that was adapted to data. A last Dense layer for
    another number of classes is made for this one, which is said.

    Args:
        width: 1: the file has its width.
        mean, variance: Not used: normalisation is part of the file.

    Raises:
        InputError: A file that can't be read safely, a model without a graph, or one that
            doesn't take such images.
    """
    if width != 1:
        raise InputError(f"{path} has the width that it has: leave --width out.")
    model = network.classifier(network.load(path))
    if graph_of(model) is None:
        raise InputError(
            f"{path} holds the subclassed model {model.name!r}, which can't be built anew: "
            "write it as a functional model and save it again."
        )
    network.tap(model)  # one input of floats, logits as the only output
    graph = functional(model)
    shape = tuple(graph.inputs[0].shape[1:])
    if not contract.takes(shape if len(shape) == 3 else (*shape, 1), input_shape):
        raise InputError(
            f"{path} takes images {shape}, and the data set has {tuple(input_shape)}: "
            "choose another --arch, or put layers.Resizing first in the model."
        )
    images = keras.Input(input_shape if None in shape else shape, name="images")
    head = _head(path, graph, num_classes)
    copy = functools.partial(_copy, head=head, num_classes=num_classes)
    new = keras.models.clone_model(graph, images, clone_function=copy)
    _keep_unmoved(graph, new)
    return network.tap(new)


def _head(path, graph, num_classes):
    """The layer that makes the logits where it has to be made for other classes."""
    classes, name = graph.outputs[0].shape[-1], layer_of(graph.outputs[0])
    if classes == num_classes:
        return None
    head = graph.get_layer(name)
    if not isinstance(head, keras.layers.Dense):
        raise InputError(
            f"{path} has {classes} classes, the data set {num_classes}, and its last layer "
            f"{name!r} is no Dense layer that could be replaced: save the model with "
            f"{num_classes} classes."
        )
    say_once(
        f"{path} has {classes} classes: its last layer {name!r} is made for {num_classes}"
    )
    return head


def _copy(layer, head, num_classes):
    config = layer.get_config()
    if layer is head:
        config["units"] = num_classes
    return type(layer).from_config(config)


def _keep_unmoved(graph, new):
    for old, layer in zip(layers_of(graph), layers_of(new), strict=True):
        if not old.trainable or isinstance(old, keras.layers.Normalization):
            values, variables = (sum(own_weights(each), []) for each in (old, layer))
            for variable, value in zip(variables, values, strict=True):
                if variable.shape == value.shape:
                    variable.assign(value)
    finalize(new)

"""Which layer k is: the last features of a network that its training can move.

Features are outputs with positions, [n, h, w, d] or [n, tokens, d], that depend on weights
which can be trained. What only passes on or thins out (pooling, dropout, reshaping) is left
to the layer before it; nested models are looked into. A custom layer can't be: where one
that makes a vector of positions has most of a model's weights, there is no default.
"""

import dataclasses
import math

import keras

from vfd_tf.hyperparameters import InputError
from vfd_tf.models.keras_graph import (
    graph_of,
    layer_of,
    layers_of,
    nodes,
    own_weights,
)

_PASSES_ON = ("pooling", "regularization", "reshaping")


def last(model: keras.Model) -> str:
    """Name of the last feature layer of a functional model.

    Raises:
        InputError: It has none: the sentence lists the layers to choose from.
    """
    graph = graph_of(model)
    later = _Later()
    found = _last(graph, _logits(graph).shape[-1], later)
    if found is None or later.hidden > _weights(model) / 2:
        raise InputError(
            f"The model {model.name!r} has no feature map [n, h, w, d] in sight that "
            "depends on most of its trainable weights; choose one of its layers: "
            f"{', '.join([*candidates(model), 'logits'])}."
        )
    return found


def candidates(model: keras.Model) -> list[str]:
    """Names of the layers between input and logits that training can move, in order."""
    graph = graph_of(model)
    end = layer_of(_logits(graph))
    return [name for name in dict.fromkeys(_moved_layers(graph)) if name != end]


def check_moves(model: keras.Model, layers) -> None:
    """Raises `InputError` for a layer that nothing trainable leads to: no loss moves it."""
    moved = _dependent(model, _trains)
    for layer in layers:
        tensor = model.output.get(layer)
        if tensor is not None and id(tensor) not in moved:
            name = layer_of(tensor)
            raise InputError(
                f"The layer {name!r} of the student depends on no trainable weights, so "
                "that pulling its features has no effect: choose a later layer, or set "
                "trainable=True before it."
            )


def _logits(graph):
    output = graph.output
    return output["logits"] if isinstance(output, dict) else graph.outputs[0]


def _moved_layers(graph, before=False):
    """Names of all layers, nested ones instead of their model, that training can move."""
    moved = _dependent(graph, _could_train, before)
    for node in nodes(graph):
        if id(node.output_tensors[0]) in moved:
            if nested := _nested(node.operation):
                yield from _moved_layers(nested, _reached(node, moved))
            else:
                yield node.operation.name


def _reached(node, moved):
    return any(id(tensor) in moved for tensor in node.input_tensors)


@dataclasses.dataclass
class _Later:
    """What follows a layer: whether any weights do, and how many out of sight."""

    weighed: bool = False
    hidden: int = 0


def _last(graph, classes, later, before=False):
    """The name of the last features of a graph, or None.

    Args:
        classes: How many there are: a map of as many channels, of which nothing but
            pooling makes the logits, is logits by position.
        later: What follows the graph; with the layers between it and the features added.
        before: Whether what the graph takes depends on weights that can be trained.
    """
    moved = _dependent(graph, _could_train, before)
    for node in reversed(nodes(graph)):
        operation, output = node.operation, node.output_tensors[0]
        if id(output) not in moved:
            continue
        scores = not later.weighed and output.shape[-1] == classes
        if _is_features(output, classes) and not (scores or _passes_on(operation)):
            return operation.name
        if nested := _nested(operation):
            if found := _last(nested, classes, later, _reached(node, moved)):
                return found
        elif _is_opaque(operation) and any(map(_has_positions, node.input_tensors)):
            later.hidden += _weights(operation)
        later.weighed = later.weighed or bool(_weights(operation))
    return None


def _made_to_train(layer) -> dict:
    """id -> weight that can be trained, of a layer and those inside it, frozen or not."""
    if not isinstance(layer, keras.Layer):
        return {}
    every = layers_of(layer, itself=True)
    return {id(v): v for each in every for v in own_weights(each)[0]}


def _weights(layer) -> int:
    """How many weights of a layer can be trained."""
    return sum(math.prod(v.shape) for v in _made_to_train(layer).values())


def _is_opaque(operation) -> bool:
    """Whether a layer is not Keras's own, or a model without a graph."""
    return not type(operation).__module__.startswith("keras.") or (
        isinstance(operation, keras.Model) and graph_of(operation) is None
    )


def _has_positions(tensor) -> bool:
    return len(getattr(tensor, "shape", ())) in (3, 4)


def _dependent(graph, trains, before=False) -> set[int]:
    """Ids of the tensors of a graph that depend on weights for which `trains(layer)`."""
    found = {id(tensor) for tensor in graph.inputs} if before else set()
    for node in nodes(graph):
        own = isinstance(node.operation, keras.Layer) and trains(node.operation)
        if own or _reached(node, found):
            found |= {id(tensor) for tensor in node.output_tensors}
    return found


def _could_train(layer) -> bool:
    """Whether a layer has weights to train, frozen for the moment or not."""
    return bool(_made_to_train(layer))


def _trains(layer) -> bool:
    return bool(layer.trainable_weights)


def _is_features(tensor, classes) -> bool:
    """Whether a tensor is [n, h, w, d] or [n, tokens, d], and not logits of that rank.

    One channel is a mask, not features.
    """
    shape = tuple(getattr(tensor, "shape", ()))
    single = all(size == 1 for size in shape[1:-1])
    return (
        _has_positions(tensor) and shape[-1] != 1 and not (single and shape[-1] == classes)
    )


def _passes_on(operation) -> bool:
    return any(f".layers.{kind}." in type(operation).__module__ for kind in _PASSES_ON)


def _nested(operation):
    return graph_of(operation) if isinstance(operation, keras.Model) else None

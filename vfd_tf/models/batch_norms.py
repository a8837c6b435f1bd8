"""BatchNorm layers of a network: a second set of them, and those of the last stage."""

from collections.abc import Iterator

import keras

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network
from vfd_tf.models.keras_graph import functional, graph_of, has_graph, layers_of, nodes


def sibling(model: keras.Model, own_affine: bool = True) -> tuple[keras.Model, list]:
    """(network, its BatchNorm layers): the same network with BatchNorm of its own.

    It begins with the same values. BatchNorm that is frozen stays shared.

    Args:
        model: A network, image -> {"logits": ..., layer: ...}.
        own_affine: Whether scale and shift are its own, too, or statistics alone.

    Raises:
        InputError: No BatchNorm that training moves, or one that is out of sight.
    """
    norms = [la for la in layers_of(model) if _moves(la)]
    if not norms:
        name = network.classifier(model).name
        raise InputError(
            f"The model {name!r} has no BatchNormalization that training moves, of which "
            "views could have their own: pass batch_norm='shared' (--batch_norm=shared)."
        )
    made = {}

    def copied(layer):
        if id(layer) not in made:
            made[id(layer)] = _copied(layer, own_affine, copied)
        return made[id(layer)]

    graph = graph_of(model)
    other = graph and keras.models.clone_model(graph, clone_function=copied)
    _refuse_hidden([norm for norm in norms if id(norm) not in made])
    copies = [made[id(norm)] for norm in norms]
    for copy, norm in zip(copies, norms, strict=True):
        for one, value in zip(copy.weights, norm.weights, strict=True):
            one.assign(value)
    return other, copies


def _refuse_hidden(norms):
    """Raises `InputError` for BatchNorm that no graph shows."""
    if norms:
        raise InputError(
            f"The BatchNormalization {norms[0].name!r} is inside a layer or a subclassed "
            "model, where views can't have their own: call it in a functional or "
            "Sequential model, or pass batch_norm='shared' (--batch_norm=shared)."
        )


def _moves(layer):
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable


def _copied(layer, own_affine, copied):
    """The layer itself, or where BatchNorm is in it a copy with BatchNorm of its own."""
    nested = isinstance(layer, keras.Model) and has_graph(layer)
    if nested and any(_moves(each) for each in layers_of(layer)):
        return keras.models.clone_model(functional(layer), clone_function=copied)
    if not _moves(layer):
        return layer
    copy = type(layer).from_config(layer.get_config())
    if own_affine:
        return copy
    own = {"gamma": layer.gamma, "beta": layer.beta}
    make = copy.add_weight

    def add_weight(*args, name=None, **options):
        return own[name] if name in own else make(*args, name=name, **options)

    copy.add_weight = add_weight
    return copy


def last_stage(model: keras.Model) -> tuple[str, ...]:
    """Names of the BatchNorm layers whose maps have the size of the last one's.

    Those on the longest way from the image to the logits: not those of shortcuts. Of
    ResNet-18 the four of layer4; () where there is none, or no graph.
    """
    graph = graph_of(model)
    path = [*_path(graph)] if graph else []
    norms = [
        (node.operation.name, node.output_tensors[0].shape[1:-1])
        for node in reversed(path)
        if isinstance(node.operation, keras.layers.BatchNormalization)
    ]
    found = dict.fromkeys(name for name, size in norms if size == norms[-1][1])
    return tuple(found)


def _path(graph) -> Iterator:
    """The calls on the longest way from input to logits, from its end."""
    calls, made, depth = nodes(graph, inputs=True), {}, {}
    for node in calls:
        before = max((depth[id(tensor)] for tensor in node.input_tensors), default=0)
        made |= {id(tensor): node for tensor in node.output_tensors}
        depth |= {id(tensor): before + 1 for tensor in node.output_tensors}
    output = graph.output
    tensor = output["logits"] if isinstance(output, dict) else graph.outputs[0]
    while tensor is not None:
        node = made[id(tensor)]
        nested = isinstance(node.operation, keras.Model) and graph_of(node.operation)
        yield from _path(nested) if nested else [node]
        tensor = max(node.input_tensors, key=lambda t: depth[id(t)], default=None)

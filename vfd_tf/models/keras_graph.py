"""The graph of a Keras model: layers, nodes, weights; all that Keras keeps private of it.

No other module reads Keras's private graph, nor runs one layer by layer;
`tests/test_keras_graph.py` holds what this one relies on.
"""

from collections.abc import Callable

import keras

from vfd_tf.hyperparameters import InputError


def graph_of(model: keras.Model) -> keras.Model | None:
    """A functional or Sequential model as a functional one, any other as None."""
    return functional(model) if has_graph(model) else None


def functional(model) -> keras.Model:
    """A Sequential model as the functional model of the same layers and tensors."""
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def has_graph(model) -> bool:
    """Whether a model is its graph: functional or Sequential, with no call of its own.

    Raises:
        InputError: A Sequential model without an input shape.
    """
    if isinstance(model, keras.Sequential) and not model.built:
        raise InputError(
            f"The Sequential model {model.name!r} has no input shape yet: start it with "
            "keras.Input(shape=...) or call model.build."
        )
    # A subclass of a functional model with a call of its own is more than its graph.
    plain = type(model).call.__qualname__ in ("Functional.call", "Sequential.call")
    return plain and bool(getattr(model, "inputs", None))


def nodes(model, inputs: bool = False) -> list:
    """The calls of a graph from the input to the output; with `inputs` those, too."""
    by_depth = model._nodes_by_depth
    every = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in every if inputs or node.input_tensors]


def run(model, inputs, function_of: Callable):
    """The outputs of a functional model whose layers are replaced.

    Args:
        function_of: Layer or operation -> the function that is called in its place.
    """
    return model._run_through_graph(
        model._standardize_inputs(inputs), operation_fn=function_of
    )


def calls(model) -> list[tuple]:
    """(operation, its number, arguments) of every call of a functional model, in order.

    Operations are numbered as they are first called, and so are the tensors that they put
    out, which stand among the arguments as "tensor 0", ... Keyword arguments that are None
    or False, as defaults are, are left out.
    """
    numbers, tensors, found = {}, {}, []
    for node in nodes(model, inputs=True):
        own = numbers.setdefault(id(node.operation), len(numbers))
        named = node.arguments.kwargs.items()
        named = {k: v for k, v in named if v is not None and v is not False}
        given = [node.arguments.args, named]
        given = keras.tree.map_structure(lambda v: tensors.get(id(v), v), given)
        found.append((node.operation, own, given))
        for tensor in node.output_tensors:
            tensors[id(tensor)] = f"tensor {len(tensors)}"
    return found


def layers_of(model, itself: bool = False) -> list:
    """All layers of a model, those of nested layers and models included."""
    return list(model._flatten_layers(include_self=itself))


def layer_of(tensor) -> str:
    """The name of the layer or operation that a Keras tensor comes from."""
    return tensor._keras_history.operation.name


def is_symbolic(tensor) -> bool:
    """Whether a tensor stands in a graph of Keras."""
    return hasattr(tensor, "_keras_history")


def origin(tensor):
    """(operation, the node of its call, index of the output) of a Keras tensor."""
    operation, node, index = tensor._keras_history
    return operation, operation._inbound_nodes[node], index


def own_weights(layer) -> tuple[list, list]:
    """(weights made to be trained, other weights) of one layer, frozen or not."""
    trained = getattr(layer, "_trainable_variables", [])
    return list(trained), list(getattr(layer, "_non_trainable_variables", []))


def finalize(model) -> None:
    """After weights were assigned: a `Normalization` computes with a copy of its own."""
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()


def random_states(model) -> list:
    """The states of the generators of a model's layers, such as Dropout's."""
    every = layers_of(model, itself=True)
    found = {id(g): g for each in every for g in getattr(each, "_seed_generators", [])}
    return [generator.state for generator in found.values()]

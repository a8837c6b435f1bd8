"""The graph of a functional Keras model: its nodes, and whether a model has one."""

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


def nodes(model) -> list:
    """The calls of a graph, from the input to the output, without the inputs themselves."""
    by_depth = model._nodes_by_depth
    every = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in every if node.input_tensors]

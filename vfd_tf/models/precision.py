"""Precision: which dtypes a classifier computes in, and copies of it in others."""

import contextlib

import keras

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network
from vfd_tf.models.keras_graph import finalize, layers_of, nodes

_HALF = "float16", "bfloat16"
_EXACT = keras.layers.InputLayer, keras.layers.Normalization, keras.layers.Rescaling


def in_precision(model: keras.Model, policy: str) -> keras.Model:
    """A copy of a functional model that computes in another precision.

    `policy` is a Keras dtype policy: "float32", or "mixed_bfloat16": float32 weights,
    computation in bfloat16, except for normalisation at the input and the last layer.

    Raises:
        InputError: A subclassed model, or layers that Keras can't copy.
    """
    plain = network.graph_of(network.classifier(model))
    if plain is None:
        raise InputError(
            f"The subclassed model {model.name!r} can't be copied in {policy}: write it as "
            "a functional model in float32, and leave craft_precision out."
        )
    last = plain.layers[-1].name

    def copy(layer):
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=copy)
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # else an operation such as +, in any dtype
            keeps = isinstance(layer, _EXACT) or layer.name == last
            config["dtype"] = "float32" if keeps else policy
        return type(layer).from_config(config)

    try:
        with _default(policy):
            other = keras.models.clone_model(plain, clone_function=copy)
        other.set_weights(plain.get_weights())
        finalize(other)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0][:160]
        raise InputError(
            f"The model {model.name!r} can't be copied in {policy} ({reason}): build it "
            "again in float32 with these weights, and leave craft_precision out."
        ) from error
    return other


def in_float32(model: keras.Model) -> keras.Model:
    """The model, or where it computes in 16 bits a copy that computes in float32.

    Raises:
        InputError: It computes in 16 bits, and no copy in float32 can be made.
    """
    if not _computes_in_half(model):
        return model
    if network.graph_of(network.classifier(model)) is None:
        raise InputError(
            f"The subclassed model {model.name!r} computes in 16 bits; verdicts need "
            "float32: call keras.config.set_dtype_policy('float32'), build it again and "
            "give it these weights."
        )
    copy = in_precision(model, "float32")
    if _computes_in_half(copy):
        raise InputError(
            f"The model {model.name!r} computes in 16 bits whatever its policy is; "
            "verdicts need float32: build it without casts to float16 or bfloat16."
        )
    return copy


def dtype_of(model: keras.Model) -> str:
    """ "float64" for a model whose logits are; else "float32"."""
    output = getattr(network.graph_of(model), "output", None)
    return "float64" if getattr(output, "dtype", None) == "float64" else "float32"


def _computes_in_half(model) -> bool:
    graph = network.graph_of(model)
    layers = layers_of(graph or model, itself=True)
    dtypes = [layer.compute_dtype for layer in layers]
    if graph is not None:
        calls = nodes(graph, inputs=True)
        dtypes += [tensor.dtype for node in calls for tensor in node.output_tensors]
    return any(dtype in _HALF for dtype in dtypes)


@contextlib.contextmanager
def _default(policy):
    """Inside, layers that custom layers make for themselves have this policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

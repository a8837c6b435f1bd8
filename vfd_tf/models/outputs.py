"""Whether a classifier returns logits, probabilities or one number, told by its operations.

Layers, `keras.ops`, Lambda layers and subclassed models all end as the same few operations
of TensorFlow.
"""

import keras
import tensorflow as tf

from vfd_tf.models.keras_graph import functional, has_graph, is_symbolic, origin

_SQUASH = ("Softmax", "Sigmoid")
# Operations that move values and leave them as they are, or nearly so.
_MOVES = {"Identity", "Cast", "StopGradient", "Reshape", "Squeeze", "ExpandDims"}
_MOVES |= {"Transpose", "StridedSlice", "Slice", "Pad", "PadV2"}
_MOVES |= {"ClipByValue", "Minimum", "Maximum", "ConcatV2", "Pack"}
_SCALES = {"Mul", "RealDiv", "AddV2", "Sub"}  # with a constant
_CONSTANTS = {"Const", "ZerosLike", "OnesLike", "Fill"}
_CALLS = "PartitionedCall", "StatefulPartitionedCall"


def ends_in_probabilities(model: keras.Model, images=None) -> bool:
    """Whether a model ends in a softmax or a sigmoid, whatever moves or scales it then.

    Args:
        images: Some images; models whose graph can't be seen are traced on their shape.
    """
    if has_graph(model):
        logits = _logits(functional(model).output)
        return is_symbolic(logits) and _squashed(logits)
    if images is None:
        return False

    def function(x):
        return _logits(model(x, training=False))

    spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
    found = _traced(function, spec)
    return found is not None and _all_squashed(found.outputs[0])


def is_single(shape) -> bool:
    """Whether outputs are one number an image, [n] or [n, 1]."""
    rank = getattr(shape, "rank", len(shape) if isinstance(shape, tuple) else None)
    return rank == 1 or (rank == 2 and shape[-1] == 1)


def refusal_of_single(model: keras.Model) -> str:
    """What to do about a model that returns one number an image, in a sentence."""
    what = f"The model {model.name!r} returns one number an image"
    if not has_graph(model):
        return (
            f"{what}: let it return keras.ops.pad(z, [[0, 0], [1, 0]]), the logits of two "
            "classes, where z is the logit [n, 1] before any sigmoid."
        )
    z = "model.outputs[0]"
    if len(_logits(functional(model).output).shape) == 1:
        z = f"keras.ops.reshape({z}, (-1, 1))"
    two = f"keras.Model(model.inputs, keras.ops.pad({z}, [[0, 0], [1, 0]]))"
    if not ends_in_probabilities(model):
        return f"{what}: if it is a logit, pass {two}, whose logits are [0, z]."
    if getattr(model.layers[-1], "activation", None) is keras.activations.sigmoid:
        return (
            f"{what}, a probability: set model.layers[-1].activation = "
            f"keras.activations.linear and pass {two}, whose logits are [0, z]."
        )
    return (
        f"{what}, a probability: build it without its sigmoid, with the same weights, and "
        f"pass {two}."
    )


def bare(outputs):
    """A single output, taken out of the list or dict that holds it alone."""
    if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs, dict) and len(outputs) == 1 and "logits" not in outputs:
        return next(iter(outputs.values()))
    return outputs


def _logits(outputs):
    outputs = bare(outputs)
    return outputs.get("logits") if isinstance(outputs, dict) else outputs


def _squashed(output) -> bool:
    """Whether a Keras tensor is the output of a softmax or a sigmoid, moved or nested."""
    operation, node, index = origin(output)
    if isinstance(operation, keras.Model) and has_graph(operation):
        inner = functional(operation).output
        return _squashed(keras.tree.flatten(inner)[index])
    tensors = node.arguments.keras_tensors
    if not tensors:
        return False

    def call(*values):
        given = {id(k): v for k, v in zip(tensors, values, strict=True)}
        args, kwargs = node.arguments.fill_in(given)
        return keras.tree.flatten(operation(*args, **kwargs))[index]

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
    found = _traced(call, *specs)
    if found is None:
        return False
    before = {given.name: k for given, k in zip(found.inputs, tensors, strict=False)}
    return _all_squashed(found.outputs[0], before)


def _all_squashed(tensor, before=()) -> bool:
    """Whether all that a tensor is made of is squashed; `before`: name -> Keras tensor."""
    sources = [s for s in _sources(tensor) if s.op.type not in _CONSTANTS]
    return bool(sources) and all(
        _squashed(before[s.name]) if s.name in before else s.op.type in _SQUASH
        for s in sources
    )


def _traced(function, *specs):
    """The TensorFlow graph of a function, or None where it can't be traced."""
    try:
        return tf.function(function, autograph=False).get_concrete_function(*specs).graph
    except Exception:  # whatever the user's code raises, it will raise again when it runs
        return None


def _sources(tensor) -> list:
    """The tensors that the values of a tensor come from, as they are."""
    operation = tensor.op
    if operation.type in _SCALES:
        scaled = [t for t in operation.inputs if t.op.type not in _CONSTANTS]
        return _sources(scaled[0]) if len(scaled) == 1 else [tensor]
    if operation.type in _MOVES:
        many = operation.type in ("ConcatV2", "Pack")
        inputs = [t for t in operation.inputs if t.dtype.is_floating]
        return [s for t in (inputs if many else inputs[:1]) for s in _sources(t)]
    if operation.type not in _CALLS:
        return [tensor]
    name = operation.get_attr("f").name
    inner = getattr(operation.graph._get_function(name), "graph", None)
    if inner is None:
        return [tensor]
    outside = dict(zip((t.name for t in inner.inputs), operation.inputs, strict=False))
    found = []
    for source in _sources(inner.outputs[tensor.value_index]):
        given = outside.get(source.name)
        found += [source] if given is None else _sources(given)
    return found

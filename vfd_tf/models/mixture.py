"""Two networks as one classifier: their probabilities mixed, or their weights.

What both give is a plain functional model of Keras's own layers and operations, which
`keras.saving.load_model` reads without this package.
"""

import math
import numbers

import keras
import numpy as np
from keras import ops

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network, precision
from vfd_tf.models.keras_graph import finalize, graph_of, layers_of

_LEAST = -1e30  # log of a probability 0; the gradient of a sum of two of -inf is NaN


def mixture(
    vanilla: keras.Model, robust: keras.Model, weight: float, name: str = "mixture"
) -> keras.Model:
    """The mixture of two classifiers' probabilities, as a classifier.

        both = mixture(vanilla, robust, 0.8)
        vfd_tf.evaluate(both, data, ["pgd20"])

    Its logits are log((1 - weight) softmax(z_vanilla(x)) + weight softmax(z_robust(x))),
    computed as a logsumexp of log-probabilities, so that no probability underflows and
    attacks get the gradient of both. It has copies of the weights, as float32. Layers of
    both may have one name: `model.get_layer("robust")` is a network of its own to tap.

    Args:
        vanilla, robust: Classifiers with logits, functional or Sequential.
        weight: Share of the robust one, 0 to 1; at 0 and at 1 it is the log-softmax of one
            network alone, and the other one is not in it.
        name: Of the model; inside, the networks are called "vanilla" and "robust".

    Raises:
        InputError: Other images or classes than the other network's, probabilities instead
            of logits, a weight outside [0, 1].
    """
    vanilla, robust = _pair(vanilla, robust, weight)
    image = keras.Input(batch_shape=vanilla.inputs[0].shape, dtype="float32", name="image")
    shares = {"vanilla": (vanilla, 1 - weight), "robust": (robust, weight)}
    logs = [
        _log_probabilities(_copy(model, role), image, share)
        for role, (model, share) in shares.items()
        if share
    ]
    # Not logaddexp, whose gradient in TensorFlow is that of one network where both agree.
    logits = ops.logsumexp(ops.stack(logs, 1), 1) if len(logs) > 1 else logs[0]
    return keras.Model(image, logits, name=name)


def interpolation(
    vanilla: keras.Model, robust: keras.Model, weight: float, name: str = "interpolation"
) -> keras.Model:
    """The network whose weights are (1 - weight) of one network's plus weight of another's.

    BatchNorm's means and variances are interpolated too, and not measured anew. Networks
    that were trained apart have nothing between them; those that share a beginning may.

    Args:
        vanilla, robust: Classifiers with logits, of one architecture.
        weight: Share of the robust one, 0 to 1.
        name: Of the model.

    Raises:
        InputError: What `mixture` refuses, and other architectures.
    """
    vanilla, robust = _pair(vanilla, robust, weight)
    if _anatomy(vanilla) != _anatomy(robust):
        raise InputError(
            f"The models {vanilla.name!r} and {robust.name!r} differ in their layers or in "
            "how they normalise images, so that their weights have no mean: mix their "
            "probabilities with mixture(vanilla, robust, weight)."
        )
    model = _copy(vanilla, name)
    pairs = zip(vanilla.get_weights(), robust.get_weights(), strict=True)
    model.set_weights([_between(one, other, weight) for one, other in pairs])
    finalize(model)
    return model


def _pair(vanilla, robust, weight):
    """The two networks as functional models with logits alone, held to the contract."""
    number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= 1:
        raise InputError(
            f"weight is the share of the robust network, a number from 0 to 1; got "
            f"{weight!r}."
        )
    pair = vanilla, robust = _checked(vanilla), _checked(robust)
    for what, shapes in (
        ("images", [tuple(model.inputs[0].shape[1:]) for model in pair]),
        ("batches of a fixed size", [model.inputs[0].shape[0] for model in pair]),
        ("numbers of classes", [model.outputs[0].shape[-1] for model in pair]),
    ):
        if shapes[0] != shapes[1]:
            raise InputError(
                f"The models {vanilla.name!r} and {robust.name!r} have other {what}, "
                f"{shapes[0]} and {shapes[1]}: choose two networks of one data set."
            )
    return pair


def _checked(model):
    if graph_of(model) is None:
        raise InputError(
            f"The subclassed model {model.name!r} can't be copied into another one: write "
            "it as a functional model."
        )
    model = graph_of(network.classifier(network.tap(model)))
    contract.refuse_probabilities(model)
    return precision.in_float32(model)


def _log_probabilities(model, image, share):
    """log(share softmax(z(x))), with a gradient that is finite everywhere."""
    logits = model(image)
    if logits.dtype != "float32":
        logits = ops.cast(logits, "float32")
    return ops.maximum(ops.log_softmax(logits) + math.log(share), _LEAST)


def _copy(model, name):
    """The model under another name, with layers and weights of its own."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    finalize(copy)
    return keras.Model(copy.inputs[0], copy.outputs[0], name=name)


def _anatomy(model) -> list:
    """What two networks must have in common for a mean of their weights to make sense."""
    return [
        (
            type(layer).__name__,
            getattr(layer, "activation", None),
            [tuple(v.shape) for v in layer.weights],
            _constants(layer),
        )
        for layer in layers_of(model)
    ]


def _constants(layer):
    """Mean and variance of a `Normalization` that are no weights of it."""
    own = isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None
    values = (layer.input_mean, layer.input_variance) if own else ()
    return [np.asarray(value, "float32").tolist() for value in values]


def _between(one, other, weight):
    """(1 - weight) one + weight other; whole numbers, such as counts, are those of one."""
    if not np.issubdtype(one.dtype, np.inexact):
        return one
    exact = (1 - weight) * one.astype("float64") + weight * other.astype("float64")
    return exact.astype(one.dtype)

"""What all classifiers made of two networks share: the two, held to one contract."""

import math
import numbers

import keras
from keras import ops

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, network, precision
from vfd_tf.models.keras_graph import finalize, graph_of

# The log of a probability 0; the gradient of a sum of two of -inf is NaN.
LEAST = -1e30


def pair(
    vanilla: keras.Model, robust: keras.Model, weight: float, name: str = "weight"
) -> tuple[keras.Model, keras.Model]:
    """The two networks as functional models with logits alone.

    Raises:
        InputError: Other images or classes than the other network's, probabilities instead
            of logits, a weight outside [0, 1], which is called `name`.
    """
    number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= 1:
        raise InputError(
            f"{name} is the share of the robust network, a number from 0 to 1; got "
            f"{weight!r}."
        )
    both = vanilla, robust = _checked(vanilla), _checked(robust)
    for what, shapes in (
        ("images", [tuple(model.inputs[0].shape[1:]) for model in both]),
        ("batches of a fixed size", [model.inputs[0].shape[0] for model in both]),
        ("numbers of classes", [model.outputs[0].shape[-1] for model in both]),
    ):
        if shapes[0] != shapes[1]:
            raise InputError(
                f"The models {vanilla.name!r} and {robust.name!r} have other {what}, "
                f"{shapes[0]} and {shapes[1]}: choose two networks of one data set."
            )
    return both


def _checked(model):
    if not isinstance(model, keras.Model):
        raise InputError(
            f"{model!r} is no Keras model: load it with keras.saving.load_model(path)."
        )
    if graph_of(model) is None:
        raise InputError(
            f"The subclassed model {model.name!r} can't be copied into another one: write "
            "it as a functional model."
        )
    model = graph_of(network.classifier(network.tap(model)))
    contract.refuse_probabilities(model)
    return precision.in_float32(model)


def copied(model: keras.Model, name: str) -> keras.Model:
    """The model under another name, with layers and weights of its own."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    finalize(copy)
    return keras.Model(copy.inputs[0], copy.outputs[0], name=name)


def image_of(model: keras.Model) -> keras.KerasTensor:
    """The input of a classifier of the same images."""
    return keras.Input(batch_shape=model.inputs[0].shape, dtype="float32", name="image")


def logits_of(model: keras.Model, image: keras.KerasTensor) -> keras.KerasTensor:
    """Logits in float32."""
    logits = model(image)
    return logits if logits.dtype == "float32" else ops.cast(logits, "float32")


def share_of(logs: keras.KerasTensor, share: float) -> keras.KerasTensor:
    """log(share p) of log p, with a gradient that is finite everywhere."""
    return ops.maximum(logs + math.log(share), LEAST)


def joined(logs: list[keras.KerasTensor]) -> keras.KerasTensor:
    """The log of the sum of what these are the logs of."""
    # Not logaddexp, whose gradient in TensorFlow is that of one network where both agree.
    return ops.logsumexp(ops.stack(logs, 1), 1) if len(logs) > 1 else logs[0]

"""The input contract, checked once on the first batch instead of failing in step 400.

Images are float32 in [0, 1]; labels are integers in {0, ..., classes - 1}; models return
logits. Everything else is refused in one sentence that names the fix.
"""

import contextlib
import math
import os
import re
import warnings

import keras
import numpy as np
import tensorflow as tf

from vfd_tf.hyperparameters import InputError
from vfd_tf.models import network, outputs
from vfd_tf.models.keras_graph import layers_of

_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_CHANNELS = {  # (channels of the data, of the model) -> what to do
    (1, 3): "repeat the channel, np.repeat(x, 3, -1)",
    (3, 1): "make them grey, x.mean(-1, keepdims=True)",
    (4, 3): "leave out the fourth channel, x[..., :3]",
}
_ENOUGH = 16  # images that tell a model from chance
_ROUNDING = 1e-4  # a normalised image may leave [0, 1] by float rounding, not by more


def check_images(x, bounds=None) -> None:
    """Raises `InputError` unless `x` is a batch of float images in [0, 1].

    Args:
        bounds: The range of images that was named, where another one could have been.
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        if bounds is not None:
            raise InputError(
                f"The images are {x.dtype}; pass bounds=(0, 255) (--bounds=0,255) for a "
                "model that takes these, as one that begins with Rescaling(1 / 255) does, "
                "and for any other one float32 in [0, 1], for example x / 255."
            )
        raise InputError(
            f"The images are {x.dtype}; pass float32 in [0, 1], for example x / 255."
        )
    if x.size and not np.isfinite(x.max() - x.min()):
        raise InputError("Some images are NaN or infinite: repair them, or leave them out.")
    if x.size and not (x.min() >= -_ROUNDING and x.max() <= 1 + _ROUNDING):
        raise InputError(
            f"The images range from {x.min():.4g} to {x.max():.4g}; attacks need float32 "
            "in [0, 1]: divide by 255 and put any normalisation into the model as its "
            f"first layer{_or_bounds(x, bounds)}."
        )


def _or_bounds(x, bounds):
    """The other way, where the range of images can be named and none was."""
    if bounds != (0.0, 1.0):
        return ""
    own = "-1, 1" if x.min() < 0 else "0, 255"
    flag = own.replace(" ", "")
    return f"; a model that takes such images needs bounds=({own}) (--bounds={flag})"


def labels(y) -> tf.Tensor:
    """Integer labels [n] of [n] or [n, 1]; distributions [n, classes] as floats."""
    y = tf.convert_to_tensor(y)
    if y.shape.rank == 2 and y.shape[-1] != 1:
        return tf.cast(y, keras.config.floatx())
    return tf.cast(tf.reshape(y, [-1]), tf.int32)


def _number(bound):
    """A bound as an array of numbers; NaN, which is no bound, for anything else."""
    try:
        return np.asarray(bound, "float64")
    except (TypeError, ValueError):
        return np.array([0.0, np.nan])


def checked_bounds(bounds) -> tuple[float, float]:
    """The range of images (low, high), or an `InputError`."""
    numbers = isinstance(bounds, (tuple, list, np.ndarray)) and len(bounds) == 2
    ends = [_number(bound) for bound in bounds] if numbers else []
    if not numbers or any(np.min(end) != np.max(end) for end in ends):
        raise InputError(
            "bounds must be two numbers, (low, high): put a normalisation that differs by "
            "channel into the model as its first layer."
        )
    low, high = (float(np.max(end)) for end in ends)
    if not -np.inf < low < high < np.inf:
        raise InputError(f"bounds must rise from low to high; got {low:g} and {high:g}.")
    return low, high


def check_labels(y, num_classes: int, soft: bool = False) -> None:
    """Raises `InputError` unless `y` are integer labels [n] or [n, 1] of `num_classes`.

    With `soft`, distributions over the classes [n, num_classes] will do as well.
    """
    y = np.asarray(y)
    if soft and y.ndim == 2 and y.shape[-1] != 1:
        if (
            y.shape[-1] == num_classes
            and y.min() >= 0
            and np.allclose(y.sum(-1), 1, 0, 1e-3)
        ):
            return
        raise InputError(
            f"The labels have shape {y.shape}: pass class indices [n], or distributions "
            f"[n, {num_classes}] whose rows sum to 1."
        )
    if y.ndim > 1 and y.shape[-1] != 1:
        raise InputError(
            f"The labels have shape {y.shape}; pass integer class indices [n], for example "
            f"y.argmax(-1), or one-hot labels [n, {num_classes}]."
        )
    if y.dtype.kind not in "iufb":
        raise InputError(
            "The labels are text or objects; number the classes from 0 and pass integer "
            "class indices [n]."
        )
    if not np.issubdtype(y.dtype, np.integer) and not np.array_equal(y, np.round(y)):
        raise InputError(f"The labels are {y.dtype}; pass integer class indices [n].")
    if y.size and (y.min() < 0 or y.max() >= num_classes):
        raise InputError(
            f"The labels range from {y.min()} to {y.max()}, but the model has "
            f"{num_classes} classes, 0 to {num_classes - 1}."
        )


def class_indices(y, num_classes: int) -> np.ndarray:
    """Class indices, int32 [n], of labels [n], [n, 1] or one-hot [n, num_classes].

    Raises:
        InputError: Other labels; distributions, too, name no class.
    """
    y = np.asarray(y)
    fits = y.ndim == 2 and y.shape[-1] == num_classes and y.dtype.kind in "iufb"
    if fits and np.isin(y, (0, 1)).all() and (y.sum(-1) == 1).all():
        return y.argmax(-1).astype("int32")
    check_labels(y, num_classes)
    return y.reshape(-1).astype("int32")


def predicts(logits) -> np.ndarray:
    """Which rows name a class: no NaN, no +inf, not -inf throughout: bool [n]."""
    return ~np.isnan(logits).any(-1) & np.isfinite(logits.max(-1))


def is_near_chance(share: float, count: int, classes: int) -> bool:
    """Whether so few of some images are right as by chance, within two standard errors."""
    if count < _ENOUGH:
        return False
    chance = 1 / classes
    return share < chance + 2 * math.sqrt(chance * (1 - chance) / count)


def check_logits(model, logits, images=None) -> None:
    """Raises `InputError` if the model returns probabilities, or infinite or NaN logits.

    -inf is the logit of a masked class.

    Args:
        images: Some images, as the model takes them.
    """
    logits = np.asarray(logits)
    if not predicts(logits).all():
        raise InputError(f"The model {model.name!r} returns logits that are not finite.")
    refuse_probabilities(model, images)
    # Outputs that differ: a constant model may return any logits.
    if not logits.size or logits.min() < 0 or not np.ptp(logits, 0).any():
        return
    if np.abs(logits.sum(-1) - 1).max() < 1e-3:
        raise InputError(
            f"The model {model.name!r} returns probabilities, though not from a final "
            "softmax: of an ensemble, return the mean of its members' logits, or "
            "keras.ops.log of the mean probability; attacks and losses need logits."
        )
    if logits.min() < 0.01 and 0.99 < logits.max() <= 1:
        raise InputError(
            f"The model {model.name!r} returns numbers between 0 and 1, as a sigmoid does: "
            "leave it out, so that the model returns logits; attacks and losses need their "
            "gradients."
        )


def check_range(model, logits) -> None:
    """Raises `InputError` if all outputs that differ are between 0 and 1.

    Probabilities, in whatever way they were computed; the logits of a network that is
    trained are wider.
    """
    logits = np.asarray(logits)[predicts(logits)]
    varied = (
        logits[:, np.ptp(logits, 0) > 0] if len(logits) and logits.min() >= 0 else logits
    )
    if varied.size and varied.min() >= 0 and varied.max() <= 1 + 1e-3:
        raise InputError(
            f"The model {model.name!r} returns numbers between 0 and 1 alone, such as "
            "probabilities: let it return logits, or pass strict=False if these are logits."
        )


def takes(shape, images) -> bool:
    """Whether a model of this input shape takes such images; None stands for any size."""
    return len(shape) == len(images) and all(
        own in (None, other) for own, other in zip(shape, images, strict=True)
    )


def check_shape(model, x) -> None:
    """Raises `InputError` for images of a shape that a model doesn't take."""
    graph = network.graph_of(model)
    if graph is None:
        return
    shapes = tuple(graph.inputs[0].shape[1:]), tuple(x.shape[1:])
    own, given = (shape if len(shape) == 3 else (*shape, 1) for shape in shapes)
    if not takes(own, given) and takes(shapes[0], x.shape):
        raise InputError(
            f"An element of the data is a single image of shape {tuple(x.shape)}: add "
            ".batch(100) to the data set."
        )
    if not takes(own, given):
        remedy = "resize the images, or put layers.Resizing before it"
        if takes((*own[:-1], None), given):
            remedy = _CHANNELS.get((given[-1], own[-1]), remedy)
        raise InputError(
            f"The model {model.name!r} takes images {shapes[0]}, the data has "
            f"{shapes[1]}: {remedy}."
        )


def check_fits(model, what: str, data, exactly: bool = False) -> int | None:
    """Raises `InputError` for a model of other images or fewer classes than a data set's.

    Args:
        what: What the sentence calls the model.
        data: Has `name`, `input_shape` and `num_classes`.
        exactly: Refuses models of any image size, or of more classes, too.

    Returns:
        How many classes the model has, or None for a subclassed one, whose first batch
        will tell.
    """
    graph = network.graph_of(network.classifier(model))
    if graph is None:
        return None
    shape, classes = tuple(graph.inputs[0].shape[1:]), int(graph.outputs[0].shape[-1])
    own, wanted = shape if len(shape) == 3 else (*shape, 1), tuple(data.input_shape)
    if exactly:
        fits = shape == wanted and classes == data.num_classes
    else:
        fits = takes(own, wanted) and classes >= data.num_classes
    if not fits:
        raise InputError(
            f"{what} takes images {shape} of {classes} classes; {data.name} has {wanted} "
            f"and {data.num_classes}: choose another model, or another --dataset."
        )
    return classes


@contextlib.contextmanager
def _kept(model):
    """Inside, a forward may change the state of layers, which is put back."""
    trained = {id(v) for v in model.trainable_variables}
    others = [v for v in model.variables if id(v) not in trained]
    values = [keras.ops.convert_to_numpy(v) for v in others]
    try:
        yield
    finally:
        for variable, value in zip(others, values, strict=True):
            variable.assign(value)


def check_batch(model, x, y, soft=False, weight=None) -> int:
    """Holds one batch, and what the model makes of it, to the contract: its classes."""
    check_images(x)
    check_shape(model, x)
    some = x if network.batch_size_of(model) else x[:16]
    with _kept(model):
        logits = model(tf.convert_to_tensor(some), training=False)
    if isinstance(logits, (dict, list, tuple)):
        raise InputError(
            f"The subclassed model {model.name!r} returns a {type(logits).__name__}: let "
            "its call return the logits alone."
        )
    check_logits(model, logits, tf.convert_to_tensor(some))
    check_labels(y, logits.shape[-1], soft)
    if weight is not None and tuple(weight.shape) not in ((len(x),), (len(x), 1)):
        raise InputError(
            f"sample_weight has shape {tuple(weight.shape)} for {len(x)} images: pass one "
            "weight an image, [n] or [n, 1]."
        )
    return logits.shape[-1]


def classes_of(model) -> int | None:
    """The number of classes of a model, where its graph tells."""
    graph = network.graph_of(model)
    return None if graph is None else graph.outputs[0].shape[-1]


def weights(weight):
    """Weights [n] of [n] or [n, 1]; None stays None."""
    return None if weight is None else tf.reshape(weight, [-1])


def asserted(x, y, classes: int | None):
    """x, once it is known that images are in [0, 1] and labels within the classes.

    For compiled steps: the first batch of a fit is held to the whole contract, this is for
    the later ones. Fails as a `tf.errors.InvalidArgumentError`, see `as_input_errors`.
    """
    low, high = tf.reduce_min(x), tf.reduce_max(x)
    finite = tf.math.is_finite(high - low)
    inside = (low >= -_ROUNDING) & (high <= 1 + _ROUNDING)
    text = f"{_LATER} images from {{}} to {{}}{_RANGE}"
    checks = [
        tf.debugging.Assert(finite, [_BROKEN]),
        tf.debugging.Assert(inside | ~finite, [tf.strings.format(text, (low, high))]),
    ]
    if y.shape.rank == 1 and classes is not None:
        low, high = tf.reduce_min(y), tf.reduce_max(y)
        text = f"{_LATER} labels from {{}} to {{}}: number the {classes} classes from 0."
        inside = (low >= 0) & (high < classes)
        checks.append(tf.debugging.Assert(inside, [tf.strings.format(text, (low, high))]))
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x)


_LATER = "A later batch has"
_BROKEN = f"{_LATER} images that are NaN or infinite: repair them, or leave them out."
_RANGE = ": divide all images by 255, or clip them to the range 0 to 1."


@contextlib.contextmanager
def as_input_errors():
    """Inside, what `asserted` finds is an `InputError` of one sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(_LATER + r"[^\]'\"\n]*\.", str(error))
        if not found:
            raise
        raise InputError(found[0]) from error


def refuse_probabilities(model, images=None) -> None:
    """Raises `InputError` if the model ends in a softmax or a sigmoid.

    Args:
        images: Some images, as the model takes them, for one whose graph can't be seen.
    """
    if outputs.ends_in_probabilities(model, images):
        raise InputError(
            f"The model {model.name!r} returns probabilities; remove its final softmax or "
            "sigmoid (activation=None in its last layer), so that it returns logits: "
            "attacks and losses need their gradients."
        )


def warn_of_onednn(model) -> None:
    """Warns of strided 1x1 convolutions of fewer than 8 channels on a CPU.

    oneDNN's weight gradient of these writes out of bounds, so that results are wrong and
    differ from run to run: https://github.com/uxlfoundation/oneDNN/issues/6035
    """
    if tf.config.list_physical_devices("GPU") or os.environ.get(_ONEDNN) == "0":
        return
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Conv2D) and layer.built:
            channels = layer.kernel.shape[-2]
            if set(layer.kernel_size) == {1} and max(layer.strides) > 1 and channels < 8:
                warnings.warn(
                    f"oneDNN computes wrong gradients for the layer {layer.name!r} (1x1, "
                    f"strided, {channels} input channels): put AveragePooling2D(1, "
                    "strides) before it and stride 1 into it, or set "
                    "TF_ENABLE_ONEDNN_OPTS=0 before TensorFlow is imported.",
                    stacklevel=4,
                )


def check_fit(student, other, role: str, layers) -> None:
    """Raises `InputError` for a network whose layers differ in shape from the student's."""
    if not hasattr(student, "output") or not hasattr(other, "output"):
        return
    for layer in layers:
        ours, theirs = student.output[layer].shape, other.output[layer].shape
        if tuple(ours) != tuple(theirs):
            raise InputError(
                f"The {role} doesn't fit: its {layer!r} has shape {tuple(theirs[1:])}, the "
                f"student's {tuple(ours[1:])}; use the same architecture and classes"
                + ("." if layer == "logits" else ", or VFD(project=True).")
            )

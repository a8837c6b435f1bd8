"""The input contract, checked once on the first batch instead of failing in step 400.

Images are float32 in [0, 1]; labels are integers in {0, ..., classes - 1}; models return
logits. Everything else is refused in one sentence that names the fix.
"""

import importlib.util
import os
import warnings

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import network
from vfd_tf.part import InputError

_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_ROUNDING = 1e-4  # a normalised image may leave [0, 1] by float rounding, not by more


def check_images(x) -> None:
    """Raises `InputError` unless `x` is a batch of float images in [0, 1]."""
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(
            f"The images are {x.dtype}; pass float32 in [0, 1], for example x / 255."
        )
    if x.size and not (x.min() >= -_ROUNDING and x.max() <= 1 + _ROUNDING):
        raise InputError(
            f"The images range from {x.min():.4g} to {x.max():.4g}; attacks need float32 "
            "in [0, 1]: divide by 255 and put any normalisation into the model as its "
            "first layer."
        )


def labels(y) -> tf.Tensor:
    """Integer labels [n] of [n] or [n, 1]; distributions [n, classes] as floats."""
    y = tf.convert_to_tensor(y)
    if y.shape.rank == 2 and y.shape[-1] != 1:
        return tf.cast(y, keras.config.floatx())
    return tf.cast(tf.reshape(y, [-1]), tf.int32)


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
            f"The labels have shape {y.shape}, which looks one-hot; pass integer class "
            "indices [n], for example y.argmax(-1)."
        )
    if not np.issubdtype(y.dtype, np.integer) and not np.array_equal(y, np.round(y)):
        raise InputError(f"The labels are {y.dtype}; pass integer class indices [n].")
    if y.size and (y.min() < 0 or y.max() >= num_classes):
        raise InputError(
            f"The labels range from {y.min()} to {y.max()}, but the model has "
            f"{num_classes} classes, 0 to {num_classes - 1}."
        )


def check_logits(model, logits) -> None:
    """Raises `InputError` if the model returns probabilities, or infinite or NaN logits."""
    logits = np.asarray(logits)
    if not np.isfinite(logits).all():
        raise InputError(f"The model {model.name!r} returns logits that are not finite.")
    sums = np.abs(logits.sum(-1) - 1).max() if logits.size else 1.0
    # Rows that differ: a constant model may return any logits.
    looks = logits.size and logits.min() >= 0 and sums < 1e-3 and np.ptp(logits, 0).any()
    if network.ends_in_probabilities(model) or looks:
        raise InputError(
            f"The model {model.name!r} returns probabilities; remove its final softmax, so "
            "that it returns logits: attacks and losses need their gradients."
        )


def takes(shape, images) -> bool:
    """Whether a model of this input shape takes such images; None stands for any size."""
    return len(shape) == len(images) and all(
        own in (None, other) for own, other in zip(shape, images, strict=True)
    )


def check_shape(model, x) -> None:
    """Raises `InputError` for images [n, h, w, c] of a shape that a model doesn't take."""
    graph = network.graph_of(model)
    if graph is None:
        return
    shape = tuple(graph.inputs[0].shape[1:])
    own = shape if len(shape) == 3 else (*shape, 1)
    if not takes(own, x.shape[1:]):
        raise InputError(
            f"The model {model.name!r} takes images {shape}, the data has "
            f"{tuple(x.shape[1:])}: resize the images, or put layers.Resizing before it."
        )


def check_batch(model, x, y, soft=False) -> None:
    """Holds one batch, and what the model makes of it, to the contract."""
    check_images(x)
    logits = model(tf.convert_to_tensor(x)[:16], training=False)
    check_logits(model, logits)
    check_labels(y, logits.shape[-1], soft)


def refuse_probabilities(model) -> None:
    """Raises `InputError` if the model ends in a softmax or a sigmoid."""
    if network.ends_in_probabilities(model):
        check_logits(model, [])


def warn_of_onednn(model) -> None:
    """Warns of strided 1x1 convolutions of fewer than 8 channels on a CPU.

    oneDNN's weight gradient of these writes out of bounds, so that results are wrong and
    differ from run to run: https://github.com/uxlfoundation/oneDNN/issues/6035
    """
    if tf.config.list_physical_devices("GPU") or os.environ.get(_ONEDNN) == "0":
        return
    for layer in model._flatten_layers(include_self=False):
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
    """Refuses a helper network that shares weights with the student or differs in shape."""
    if network.shares_weights(student, other):
        raise InputError(
            f"The {role} and the student share weights; give the student weights of its "
            "own (a student can't be its own teacher)."
        )
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


def check_callbacks(callbacks) -> None:
    """Raises `InputError` for TensorBoard where tensorboard isn't installed.

    Keras notices only after the first epoch.
    """
    wanted = any(isinstance(c, keras.callbacks.TensorBoard) for c in callbacks or ())
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "The TensorBoard callback needs tensorboard, which isn't installed: "
            "pip install tensorboard, or leave the callback out."
        )


def check_clipping(optimizer, strategy) -> None:
    """Raises `InputError` for Keras's clipping, which acts before the sum over replicas."""
    names = "clipnorm", "clipvalue", "global_clipnorm"
    clips = any(getattr(optimizer, name, None) for name in names)
    if strategy.num_replicas_in_sync > 1 and clips:
        raise InputError(
            "Keras clips each replica's gradient, not their sum: leave out clipnorm, "
            "clipvalue and global_clipnorm and use Options(clip_norm=...) instead."
        )


def split(x, y, weight, share):
    """((x, y, weight) for training, (x, y, weight) for validation) of arrays."""
    if not hasattr(x, "__getitem__"):
        raise InputError("validation_split needs arrays; pass validation_data=... instead.")
    keep = len(x) - int(len(x) * share)
    parts = (x, y, weight)
    train = tuple(part if part is None else part[:keep] for part in parts)
    return train, tuple(part[keep:] for part in parts if part is not None)


def as_dataset(x, y=None, sample_weight=None, batch_size=None, shuffle_seed=None):
    """Batches (x, y[, weight]) of a data set or of arrays; other inputs as they are."""
    if isinstance(x, tf.data.Dataset) and (y is not None or sample_weight is not None):
        raise InputError(
            "With a tf.data set, labels and sample_weight belong into it: (x, y, weight)."
        )
    if isinstance(x, tf.data.Dataset) or y is None:
        return x
    parts = (x, y) if sample_weight is None else (x, y, sample_weight)
    data = tf.data.Dataset.from_tensor_slices(tuple(np.asarray(p) for p in parts))
    if shuffle_seed is not None:
        data = data.shuffle(len(x), seed=shuffle_seed)
    return data.batch(min(batch_size or 32, len(x))).prefetch(2)


def first_batch(data):
    """The first batch of a data set as (x, y, weight) of NumPy arrays."""
    for batch in data.take(1).as_numpy_iterator():
        return keras.utils.unpack_x_y_sample_weight(batch)
    raise InputError("The data set is empty.")


def padded_batches(data):
    """(x, y, weight) with every batch filled up to the size of the first by weight 0."""
    if tf.nest.flatten(data.element_spec)[0].shape[0] is not None:
        return data
    size = len(first_batch(data)[0])

    def pad(x, y, weight=None):
        count = tf.shape(x)[0]
        weight = tf.ones(count) if weight is None else tf.cast(weight, tf.float32)

        def fill(part):
            part = tf.pad(part, [[0, size - count]] + [[0, 0]] * (part.shape.rank - 1))
            return tf.ensure_shape(part, [size, *part.shape[1:]])

        return fill(x), fill(y), fill(weight)

    return data.map(pad)

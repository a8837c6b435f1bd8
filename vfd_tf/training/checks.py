"""What training refuses or warns of before its first step, beside `models.contract`."""

import importlib.util
import warnings

import keras
import numpy as np
import tensorflow as tf

from vfd_tf import losses
from vfd_tf.hyperparameters import InputError
from vfd_tf.models import contract, keras_graph
from vfd_tf.training.saving.checkpoint import Checkpoint
from vfd_tf.training.saving.divergence import StopOnDivergence


def is_cross_entropy_from_logits(loss) -> bool:
    """Whether a Keras loss is the mean cross-entropy from logits and nothing more."""
    kinds = keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy
    if not isinstance(loss, kinds):
        return False
    plain = {"ignore_class": None, "label_smoothing": 0, "axis": -1}
    config = {**plain, **loss.get_config()}
    mean = config.get("reduction") in ("sum_over_batch_size", "mean", None)
    same = all(config[name] == value for name, value in plain.items())
    return mean and same and config["from_logits"] is True


def check_terms(method, distillation) -> None:
    """Raises `InputError` where a method and a distillation have terms of one name."""
    both = sorted(method.weights.keys() & distillation.weights.keys())
    if both:
        names = f"{type(method).__name__} and {type(distillation).__name__}"
        raise InputError(
            f"{names} both have a term {both[0]!r}, of which one would replace the other: "
            "give the distillation's another name."
        )


def check_weights(weights: dict[str, float], *components) -> None:
    """Raises `InputError` where a method and a distillation leave no term to learn from."""
    if not any(weights.values()):
        pair = " with ".join(type(component).__name__ for component in components)
        raise InputError(
            f"{pair} has no term of a weight above 0, and nothing to learn: raise the "
            f"weight of {' or '.join(weights)}."
        )


def inner(optimizer):
    """The user's own optimizer, where float16 training put one that scales around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def check_optimizer(optimizer, strategy) -> None:
    """Raises `InputError` for what Keras's optimizers can't do on several replicas.

    Its clipping acts before the sum over replicas; its accumulation and its averages don't
    run in a replica's context.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    names = "clipnorm", "clipvalue", "global_clipnorm"
    if any(getattr(optimizer, name, None) for name in names):
        raise InputError(
            "Keras clips each replica's gradient, not their sum: leave out clipnorm, "
            "clipvalue and global_clipnorm and use TrainingOptions(clip_norm=...) instead."
        )
    if optimizer.gradient_accumulation_steps:
        raise InputError(
            "Keras accumulates gradients on a single replica alone: leave out "
            "gradient_accumulation_steps and take a larger batch, or train on one device."
        )
    if optimizer.use_ema and optimizer.ema_overwrite_frequency:
        raise InputError(
            "Keras overwrites weights by their averages on a single replica alone: leave "
            "out ema_overwrite_frequency, or use TrainingOptions(average='ema') instead."
        )


def check_clips_nothing(optimizer) -> None:
    """Raises `InputError` where an optimizer clips already, beside `clip_norm`."""
    if optimizer.clipnorm or optimizer.clipvalue:
        raise InputError(
            "The optimizer clips gradients itself: leave out its clipnorm or clipvalue, or "
            "TrainingOptions(clip_norm=...)."
        )


def prepared_callbacks(callbacks, *before) -> list:
    """The callbacks of a `fit` as a list, one alone or none included, after others.

    What monitors an accuracy or a loss and leaves the direction to Keras, which knows no
    metric of another callback, is told it: accuracies rise.

    `StopOnDivergence` comes first and is always there; `Checkpoint` comes last, after all
    that add to the logs.

    Raises:
        InputError: Several `Checkpoint`s; or TensorBoard where tensorboard isn't installed,
            which Keras notices only after the first epoch.
    """
    listed = getattr(callbacks, "callbacks", callbacks)  # of a keras CallbackList
    listed = keras.tree.flatten(listed) if listed is not None else []
    wanted = any(isinstance(c, keras.callbacks.TensorBoard) for c in listed)
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "The TensorBoard callback needs tensorboard, which isn't installed: "
            "pip install tensorboard, or leave the callback out."
        )
    if sum(isinstance(c, Checkpoint) for c in listed) > 1:
        raise InputError("A fit goes on from one folder: pass one Checkpoint.")
    for callback in listed:
        monitor = getattr(callback, "monitor", None)
        if getattr(callback, "mode", None) == "auto" and isinstance(monitor, str):
            if monitor.endswith("accuracy"):
                callback.mode = "max"
            elif monitor.endswith("loss"):
                callback.mode = "min"
    listed = [*before, *listed]
    if not any(isinstance(c, StopOnDivergence) for c in listed):
        listed.append(StopOnDivergence())

    def place(callback):
        return isinstance(callback, Checkpoint) - isinstance(callback, StopOnDivergence)

    return sorted(listed, key=place)


def check_on_nan(on_nan: str, checkpoint: Checkpoint | None) -> None:
    """Raises `InputError` for a training that has nothing to go back to."""
    if on_nan == "rollback" and checkpoint is None:
        raise InputError(
            "on_nan='rollback' goes back to a checkpoint: add "
            "vfd_tf.callbacks.Checkpoint(folder) to the callbacks."
        )


def warn_of_chance(model, role: str, x, y) -> None:
    """Warns of a frozen network that is near chance on a batch of training images."""
    logits = model(x, training=False)["logits"]
    right = tf.argmax(logits, -1, output_type=tf.int32) == losses.hard(contract.labels(y))
    count, classes = len(x), logits.shape[-1]
    share = float(tf.reduce_mean(tf.cast(right, tf.float32)))
    if contract.is_near_chance(share, count, classes):
        warnings.warn(
            f"The {role.replace('_', ' ')} classifies {share:.0%} of the first {count} "
            "training images correctly, near chance: it was trained on other data, or on "
            "other pixel values than [0, 1].",
            stacklevel=2,
        )


def warn_of_rescaling(model) -> None:
    """Warns of a model whose first layer scales images of 0 to 255 down to [0, 1]."""
    graph = keras_graph.graph_of(model)
    for node in keras_graph.nodes(graph) if graph is not None else ():
        layer, first = node.operation, node.input_tensors[0] is graph.inputs[0]
        if first and isinstance(layer, keras.layers.Rescaling) and _is_small(layer.scale):
            warnings.warn(
                f"The model {model.name!r} begins with {layer.name}, times "
                f"{float(np.max(layer.scale)):.2g}, and images are in [0, 1]: leave that "
                "layer out.",
                stacklevel=4,
            )


def _is_small(scale):
    return np.max(np.abs(scale)) < 1 / 100
